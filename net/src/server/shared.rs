use crate::context::Peer;
use crate::limits::Limits;
use crate::memory::{Budget, Charge, ENDED_CALL_BYTES, HTTP2_BYTES, Kind};
use crate::metrics::WireMetrics;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// A connection that worked longer in one turn waits until all others had theirs. Some hundred small calls take less.
const TURN_TIME_MAX: Duration = Duration::from_micros(500);

/// What the calls of one connection share with its driver.
pub(super) struct Shared {
    pub(super) limits: Rc<Limits>,
    pub(super) metrics: Rc<WireMetrics>,
    pub(super) peer: Peer,
    pub(super) budget: Rc<Budget>,
    /// The runtime's clock at the start of this turn.
    pub(super) now: Cell<Duration>,
    /// The connection itself with its buffers; and of its ended calls, those whose last frames may wait in HTTP/2.
    base: RefCell<Charge>,
    ended_calls: Cell<usize>,
    /// Unary calls that their handlers work on.
    pub(super) working: Cell<usize>,
    /// Calls that the client reset at their start, less those that it let complete.
    pub(super) rapid_resets: Cell<u32>,
    clock: Box<dyn Fn() -> Duration>,
    /// When this turn began to work; it is late once it has taken too long.
    work_began: Cell<Duration>,
    late: Cell<bool>,
    deadlines: RefCell<BTreeMap<(Duration, u64), Waker>>,
    deadlines_registered: Cell<u64>,
}

impl Shared {
    pub(super) fn new(
        limits: Rc<Limits>,
        metrics: Rc<WireMetrics>,
        peer: Peer,
        clock: Box<dyn Fn() -> Duration>,
        budget: Rc<Budget>,
    ) -> Self {
        let now = clock();
        Shared {
            limits,
            metrics,
            peer,
            base: RefCell::new(Charge::new(&budget, Kind::Other, HTTP2_BYTES)),
            budget,
            ended_calls: Cell::new(0),
            working: Cell::new(0),
            now: Cell::new(now),
            rapid_resets: Cell::new(0),
            clock,
            work_began: Cell::new(now),
            late: Cell::new(false),
            deadlines: RefCell::default(),
            deadlines_registered: Cell::new(0),
        }
    }

    pub(super) fn begin_work(&self, now: Duration) {
        self.work_began.set(now);
        self.late.set(false);
    }

    /// True if this turn has taken too long: others wait.
    pub(super) fn note_work(&self) -> bool {
        let late = (self.clock)().saturating_sub(self.work_began.get()) > TURN_TIME_MAX;
        self.late.set(self.late.get() || late);
        late
    }

    pub(super) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// A call has ended, and HTTP/2 has its last frame.
    pub(super) fn call_ended(&self) {
        self.ended_calls.set(self.ended_calls.get() + 1);
    }

    /// At the end of a turn: what the connection holds beside its calls, whether HTTP/2 could write all that it may.
    pub(super) fn settle(&self, buffered_bytes: usize, all_written: bool) {
        if all_written {
            self.ended_calls.set(0);
        }
        let ended_bytes = self.ended_calls.get() * ENDED_CALL_BYTES;
        self.base.borrow_mut().set(HTTP2_BYTES + buffered_bytes + ended_bytes);
        self.budget.memory().relieve();
    }

    /// The next moment at which a waiting call gives up.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes the calls whose deadline has passed.
    pub(super) fn wake_expired(&self, now: Duration) {
        let mut deadlines = self.deadlines.borrow_mut();
        while let Some(entry) = deadlines.first_entry()
            && entry.key().0 <= now
        {
            entry.remove().wake();
        }
    }
}

/// A call's place among those that wait for their deadline; it is taken away with the call.
pub(super) struct DeadlineWait {
    shared: Rc<Shared>,
    key: Option<(Duration, u64)>,
}

impl DeadlineWait {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        DeadlineWait { shared, key: None }
    }

    /// Has `waker` woken at `deadline`. Only the first call counts: the set of calls keeps one waker a call.
    pub(super) fn register(&mut self, deadline: Duration, waker: &Waker) {
        if self.key.is_none() {
            let number = self.shared.deadlines_registered.get();
            self.shared.deadlines_registered.set(number + 1);
            self.shared.deadlines.borrow_mut().insert((deadline, number), waker.clone());
            self.key = Some((deadline, number));
        }
    }
}

impl Drop for DeadlineWait {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.shared.deadlines.borrow_mut().remove(&key);
        }
    }
}
