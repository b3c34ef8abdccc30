//! Requests that wait for the group's answer. A caller that goes away takes its place with it; an answer without a
//! place (a caller gone, or a request of this member's former life replayed from the log) is dropped.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ahash::AHashMap;

struct Place<T> {
    answer: Option<T>,
    waker: Option<Waker>,
    since: Duration,
    what: Late,
}

/// What an answer that does not come in time is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// A read.
    Read,
    /// A write: its outcome is unknown.
    Write,
    /// What etcd asks its leader for itself, instead of its log.
    OfLeader,
}

/// The places of one shard.
pub struct Pending<T> {
    next: Cell<u64>,
    places: RefCell<AHashMap<u64, Place<T>>>,
    /// Those of [`Late::OfLeader`].
    of_leader: Cell<usize>,
}

/// One place: resolves to the answer.
pub struct Answer<T> {
    id: u64,
    pending: Rc<Pending<T>>,
}

impl<T> Pending<T> {
    /// Ids start at `first`: random at each start, so that ids of a former life do not meet those of this one.
    pub fn new(first: u64) -> Rc<Pending<T>> {
        Rc::new(Pending { next: Cell::new(first), places: RefCell::default(), of_leader: Cell::new(0) })
    }

    /// Reserves a place for an answer that is waited for since `now`: any clock, for [`Pending::expire`] alone.
    pub fn reserve(self: &Rc<Self>, now: Duration, what: Late) -> Answer<T> {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        self.places.borrow_mut().insert(id, Place { answer: None, waker: None, since: now, what });
        self.of_leader.set(self.of_leader.get() + usize::from(what == Late::OfLeader));
        Answer { id, pending: Rc::clone(self) }
    }

    /// Gives the answer to whoever waits for it; false where nobody does.
    pub fn resolve(&self, id: u64, answer: T) -> bool {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(&id) else { return false };
        place.answer = Some(answer);
        let waker = place.waker.take();
        drop(places);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Answers all that wait since before `limit` with what `answer` makes of when they began, and of what they wait for. There
    /// is no other end to a wait whose answer does not come.
    pub fn expire(&self, limit: Duration, mut answer: impl FnMut(Duration, Late) -> T) {
        let late: Vec<(u64, Duration, Late)> = self
            .places
            .borrow()
            .iter()
            .filter(|(_, place)| place.since < limit && place.answer.is_none())
            .map(|(&id, place)| (id, place.since, place.what))
            .collect();
        for (id, since, what) in late {
            self.resolve(id, answer(since, what));
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.borrow().len()
    }

    /// How many of them wait for what is the leader's own.
    pub fn len_of_leader(&self) -> usize {
        self.of_leader.get()
    }
}

impl<T> Answer<T> {
    /// The id that the proposal carries.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl<T> Future for Answer<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut places = self.pending.places.borrow_mut();
        let place = places.get_mut(&self.id).expect("the place stays until its owner is dropped");
        match place.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                place.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let place =
            self.pending.places.borrow_mut().remove(&self.id).expect("the place stays until its owner is dropped");
        self.pending.of_leader.set(self.pending.of_leader.get() - usize::from(place.what == Late::OfLeader));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<T>(answer: &mut Answer<T>) -> Poll<T> {
        Pin::new(answer).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_finds_its_place_once() {
        let pending = Pending::new(7);
        let mut first = pending.reserve(Duration::ZERO, Late::Write);
        let second = pending.reserve(Duration::ZERO, Late::Write);
        assert!(poll(&mut first).is_pending());
        assert!(pending.resolve(first.id(), 1) && pending.resolve(second.id(), 2));
        assert_eq!(poll(&mut first), Poll::Ready(1));
        let of_leader = pending.reserve(Duration::ZERO, Late::OfLeader);
        assert_eq!((pending.len(), pending.len_of_leader()), (3, 1));
        drop((first, second, of_leader));
        assert_eq!((pending.len(), pending.len_of_leader()), (0, 0));
        assert!(!pending.resolve(7, 3));
    }

    #[test]
    fn only_the_late_expire() {
        let pending = Pending::new(0);
        let mut old = pending.reserve(Duration::from_secs(1), Late::Read);
        let mut new = pending.reserve(Duration::from_secs(9), Late::Write);
        pending.expire(Duration::from_secs(5), |since, what| (since, what));
        assert_eq!(poll(&mut old), Poll::Ready((Duration::from_secs(1), Late::Read)));
        assert!(poll(&mut new).is_pending());
    }
}
