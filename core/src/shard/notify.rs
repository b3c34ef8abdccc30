//! A wake-up within one executor: any number of notices before the wait count as one.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ahash::AHashMap;

/// Waited on by one task, notified by any task of the same thread.
#[derive(Default)]
pub struct Notify {
    notified: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Notify {
    /// Wakes the waiting task, or lets its next wait return at once.
    pub fn notify(&self) {
        self.notified.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Returns once notified since the last return.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.notified.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Completes once, for any number of tasks of the same thread.
#[derive(Default)]
pub struct Broadcast {
    completed: Cell<bool>,
    /// One for each wait that was polled and has not ended: a connection waits for the same end over all of its turns.
    wakers: RefCell<AHashMap<u64, Waker>>,
    waits: Cell<u64>,
}

impl Broadcast {
    /// Wakes all that wait; later waits return at once.
    pub fn complete(&self) {
        self.completed.set(true);
        for (_, waker) in self.wakers.take() {
            waker.wake();
        }
    }

    /// True once completed.
    pub fn is_complete(&self) -> bool {
        self.completed.get()
    }

    /// Returns once completed.
    pub async fn wait(&self) {
        let number = self.waits.get();
        self.waits.set(number + 1);
        Wait { broadcast: self, number }.await;
    }
}

struct Wait<'a> {
    broadcast: &'a Broadcast,
    number: u64,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.broadcast.completed.get() {
            return Poll::Ready(());
        }
        let mut wakers = self.broadcast.wakers.borrow_mut();
        match wakers.get_mut(&self.number) {
            Some(waker) => waker.clone_from(context.waker()),
            None => drop(wakers.insert(self.number, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.broadcast.wakers.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::task::noop_waker_ref;

    use super::*;

    /// A connection polls its wait at every turn, and ends before the broadcast does: nothing may collect.
    #[test]
    fn a_wait_has_one_place_while_it_lives() {
        let broadcast = Broadcast::default();
        let mut context = Context::from_waker(noop_waker_ref());
        {
            let mut wait = pin!(broadcast.wait());
            for _ in 0..100 {
                assert!(wait.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!(broadcast.wakers.borrow().len(), 1);
        }
        assert_eq!(broadcast.wakers.borrow().len(), 0);
        let mut wait = pin!(broadcast.wait());
        assert!(wait.as_mut().poll(&mut context).is_pending());
        broadcast.complete();
        assert!(wait.as_mut().poll(&mut context).is_ready());
    }
}
