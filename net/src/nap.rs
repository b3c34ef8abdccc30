//! A nap: waiting for sockets without the executor's rings.
//!
//! An executor of glommio that has nothing to run parks: ten calls of `io_uring_enter`, and two timers made and cancelled, to go and
//! to come back. Where one small thing follows the other (a put, its sync, two answers of other members) that is more than
//! what is to be done. So while things follow each other, the executor's last task waits for them in one `epoll_wait`:
//!
//! ```text
//!  a door heard something by its ring -> the nap's task, when all others have run (a task queue of its own, of the least share)
//!    -> epoll_wait: a door's descriptor has something -> its task is woken, and reads directly        -> again
//!    -> a ring has something: its completion interrupts the wait, the preempt timer's does each       -> the doors once more
//!       millisecond                                                                                      (the log's is one); else again,
//!                                                                                                        once the executor has looked
//!    -> nothing for a millisecond: doors go back to their rings, and the executor parks
//! ```
//!
//! What comes by rings alone is looked at a millisecond later at worst: timers, answers of the blocking pool. What would mind
//! holds naps off ([`Nap::hold`]: pages that are read). The nap's task is the last to run: whoever goes on and on (a sweep, bulk to
//! other members) looks at the doors itself ([`Nap::look`]). Messages of other executors are not heard at all while one naps: naps
//! are for members of one shard.
//!
//! glommio parks too early where its thread loses the core at the wrong moment (core's `shard/pulse.rs`). In the middle of a nap
//! no ring waits for the doors then: such a sleep lasts to the next timer, a tenth of a second at most.

mod epoll;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use glommio::{Latency, Shares};

use epoll::{Epoll, Events};

/// How long nothing comes until the executor parks: as long as its preempt timer, which interrupts a nap anyway.
const QUIET: Duration = Duration::from_millis(1);

/// The naps of this thread's executor.
pub struct Nap {
    epoll: Epoll,
    is_on: Cell<bool>,
    wanted: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
    holds: Cell<usize>,
    heard: Cell<u64>,
    doors: RefCell<Vec<Option<Rc<State>>>>,
    /// Doors that wait for a nap, and for no ring.
    waiting: RefCell<Vec<Rc<State>>>,
}

/// A descriptor that is watched in naps.
pub struct Door {
    nap: Rc<Nap>,
    fd: RawFd,
    place: usize,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    /// There may be something to read.
    is_ready: Cell<bool>,
    /// The other side will send no more: from then on it stays readable, and no event says so again.
    has_ended: Cell<bool>,
    is_waiting: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// No nap while it lives.
pub struct Hold(Rc<Nap>);

impl Nap {
    /// Begins to nap where it pays. Called inside of the executor.
    ///
    /// # Errors
    /// Of the system: then there are no naps.
    pub fn start() -> io::Result<Rc<Nap>> {
        let nap = Rc::new(Nap {
            epoll: Epoll::new()?,
            is_on: Cell::new(false),
            wanted: Cell::new(false),
            sleeper: RefCell::default(),
            holds: Cell::new(0),
            heard: Cell::new(0),
            doors: RefCell::default(),
            waiting: RefCell::default(),
        });
        let queue = glommio::executor().create_task_queue(Shares::Static(1), Latency::NotImportant, "nap");
        let task = glommio::spawn_local_into(run(Rc::clone(&nap)), queue);
        task.map_err(|error| io::Error::other(error.to_string()))?.detach();
        Ok(nap)
    }

    /// No nap while the guard lives: something is under way that comes by a ring, and is waited for.
    #[must_use]
    pub fn hold(self: &Rc<Self>) -> Hold {
        self.holds.set(self.holds.get() + 1);
        Hold(Rc::clone(self))
    }

    /// In a nap: hears what the doors have, without waiting. For whoever has much to do, between two pieces of it: the nap's task
    /// does not run meanwhile, and no ring waits for the doors (125 ms were seen, beside a compaction).
    pub fn look(&self) {
        if self.is_on.get() {
            // What can't be heard now is by the nap's task.
            let _ = self.hear(&mut Events::default(), Duration::ZERO);
        }
    }

    /// Watches a descriptor in naps, until the door is dropped: before the descriptor is closed.
    ///
    /// # Errors
    /// Of the system: the descriptor is none that can be waited for, or there are too many.
    pub fn door(self: &Rc<Self>, fd: RawFd) -> io::Result<Door> {
        let mut doors = self.doors.borrow_mut();
        let place = doors.iter().position(Option::is_none).unwrap_or(doors.len());
        self.epoll.add(fd, place as u64)?;
        let state = Rc::new(State::default());
        if place == doors.len() {
            doors.push(None);
        }
        doors[place] = Some(Rc::clone(&state));
        Ok(Door { nap: Rc::clone(self), fd, place, state })
    }

    /// Events that naps have heard.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.heard.get()
    }

    fn want(&self) {
        if !self.is_on.get()
            && self.holds.get() == 0
            && !self.wanted.replace(true)
            && let Some(sleeper) = self.sleeper.take()
        {
            sleeper.wake();
        }
    }

    async fn wanted(&self) {
        poll_fn(|cx| {
            if self.wanted.replace(false) {
                return Poll::Ready(());
            }
            *self.sleeper.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn may(&self) -> bool {
        self.holds.get() == 0
    }

    fn begin(&self) {
        self.is_on.set(true);
    }

    /// Whoever waits for a nap waits for its ring again.
    fn end(&self) {
        self.is_on.set(false);
        for state in self.waiting.take() {
            state.is_waiting.set(false);
            state.wake();
        }
    }

    /// Waits for what the doors have, and wakes their tasks; how many have something.
    fn hear(&self, events: &mut Events, most: Duration) -> io::Result<usize> {
        let count = self.epoll.wait(events, most)?;
        self.deliver(events);
        Ok(count)
    }

    fn deliver(&self, events: &Events) {
        let doors = self.doors.borrow();
        for (place, ended) in events.iter() {
            self.heard.set(self.heard.get() + 1);
            if let Some(Some(state)) = doors.get(place as usize) {
                state.is_ready.set(true);
                state.has_ended.set(ended || state.has_ended.get());
                state.wake();
            }
        }
    }
}

async fn run(nap: Rc<Nap>) {
    let executor = glommio::executor();
    let mut events = Events::default();
    loop {
        nap.wanted().await;
        nap.begin();
        let mut last = Instant::now();
        loop {
            // All others first.
            executor.yield_task_queue_now().await;
            let now = Instant::now();
            if !nap.may() || now - last > QUIET {
                break;
            }
            if !executor.need_preempt() {
                let mut heard = nap.hear(&mut events, QUIET);
                let was_interrupted = heard.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted);
                if was_interrupted {
                    // Most often by a door's own: the log's ring posts what has ended in this thread, and its eventfd says so.
                    heard = nap.hear(&mut events, Duration::ZERO);
                }
                if heard.as_ref().is_ok_and(|count| *count > 0) {
                    last = Instant::now();
                    continue;
                }
                if !was_interrupted {
                    break;
                }
            }
            // A timer comes by way of the rings: the executor has looked at them then.
            glommio::timer::sleep(Duration::from_micros(1)).await;
        }
        nap.end();
    }
}

impl Door {
    /// A nap is on: the door is asked, and no ring.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.nap.is_on.get()
    }

    /// In a nap: ready if there may be something to read.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.is_ready.get() {
            return Poll::Ready(());
        }
        self.note(cx);
        if !self.state.is_waiting.replace(true) {
            self.nap.waiting.borrow_mut().push(Rc::clone(&self.state));
        }
        Poll::Pending
    }

    /// All that was there has been read, or is about to be: the next event says when there is more.
    pub fn emptied(&self) {
        self.state.is_ready.set(self.state.has_ended.get());
    }

    /// Whoever waits by a ring is woken by a nap, too.
    pub fn note(&self, cx: &Context<'_>) {
        let mut waker = self.state.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// Something came by a ring: more may be near.
    pub fn came(&self) {
        self.nap.want();
    }

    /// See [`Nap::look`].
    pub fn look(&self) {
        self.nap.look();
    }

    /// In a nap: reads from the door's socket.
    pub fn poll_receive(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(cx));
            match epoll::receive(self.fd, bytes) {
                Ok(count) => {
                    if count < bytes.len() {
                        self.emptied();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.state.is_ready.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.nap.epoll.remove(self.fd);
        self.nap.doors.borrow_mut()[self.place] = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.set(self.0.holds.get() - 1);
    }
}

impl State {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("fd", &self.fd).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use glommio::LocalExecutorBuilder;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::glommio_io::GlommioStream;

    type Stream = GlommioStream<glommio::net::TcpStream>;

    const ROUNDS: u32 = 300;

    /// Answers each number with the next one, with a pause in the middle, and ends behind the last answer.
    fn echo(mut socket: TcpStream) {
        for round in 0..ROUNDS {
            let mut number = [0; 4];
            socket.read_exact(&mut number).expect("a number");
            if round == ROUNDS / 2 {
                thread::sleep(20 * QUIET);
            }
            socket.write_all(&(u32::from_le_bytes(number) + 1).to_le_bytes()).expect("it listens");
        }
    }

    /// Runs `client` on an executor with naps, with a socket to [`echo`].
    fn with_echo<T: Send + 'static>(client: impl AsyncFnOnce(Rc<Nap>, Stream) -> T + Send + 'static) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || echo(listener.accept().expect("a client").0));
        let executor = LocalExecutorBuilder::default().preempt_timer(Duration::from_millis(1));
        let ended = executor.spawn(move || async move {
            let nap = Nap::start().expect("naps");
            let socket = glommio::net::TcpStream::connect(address).await.expect("a server");
            let (stream, _) = GlommioStream::tcp(socket, Some(&nap)).expect("alive");
            client(nap, stream).await
        });
        let result = ended.expect("an executor").join().expect("it ended");
        server.join().expect("it answered");
        result
    }

    async fn exchange(stream: &mut Stream) {
        for round in 0..ROUNDS {
            stream.write_all(&round.to_le_bytes()).await.expect("written");
            assert_eq!(stream.read_u32_le().await.expect("an answer"), round + 1);
        }
        assert_eq!(stream.read(&mut [0; 8]).await.expect("an end"), 0, "its end is heard, too");
    }

    #[test]
    fn what_follows_closely_is_heard_in_naps_and_what_does_not_by_the_ring() {
        let heard = with_echo(async |nap, mut stream| {
            exchange(&mut stream).await;
            nap.heard()
        });
        assert!(heard > u64::from(ROUNDS) / 4, "{heard}");
    }

    #[test]
    fn a_hold_keeps_naps_off() {
        let heard = with_echo(async |nap, mut stream| {
            let _hold = nap.hold();
            exchange(&mut stream).await;
            nap.heard()
        });
        assert_eq!(heard, 0);
    }

    #[test]
    fn who_has_much_to_do_looks_at_the_doors_of_a_nap() {
        let took = with_echo(async |nap, mut stream| {
            let ended = Rc::new(Cell::new(false));
            let (ends, naps) = (Rc::clone(&ended), Rc::clone(&nap));
            let busy = glommio::spawn_local(async move {
                while !ends.get() {
                    naps.look();
                    glommio::executor().yield_now().await;
                }
            });
            let began = Instant::now();
            exchange(&mut stream).await;
            ended.set(true);
            busy.await;
            began.elapsed()
        });
        assert!(took < ROUNDS * Duration::from_millis(10), "{took:?}");
    }

    #[test]
    fn timers_come_beside_naps() {
        let waits = 10;
        let slept = with_echo(async move |_, mut stream| {
            let sleeper = glommio::spawn_local(async move {
                let began = Instant::now();
                for _ in 0..waits {
                    glommio::timer::sleep(QUIET).await;
                }
                began.elapsed()
            });
            exchange(&mut stream).await;
            sleeper.await
        });
        assert!(slept < 100 * waits * QUIET, "{slept:?}");
    }
}
