//! When does the connection's task have to run again?
//!
//! HTTP/2 and the calls wake each other many times within one poll of the task. Each wake-up of the task itself would be
//! another poll of everything, so within a turn wake-ups only set a flag that the turn looks at; outside it they also wake
//! the task. Flags may be set by any thread: the end of a turn first opens the way to the task, then looks at the flags a
//! last time, and a waker first sets its flag, then looks whether a turn is on. One of both sees the other.

use futures_util::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Wake, Waker};

pub(super) struct Turn {
    task: Arc<Task>,
    /// HTTP/2 and the socket.
    pub(super) connection: Side,
    /// The set of calls.
    pub(super) calls: Side,
}

#[derive(Default)]
struct Task {
    waker: AtomicWaker,
    in_turn: AtomicBool,
}

pub(super) struct Side {
    flag: Arc<Flag>,
    waker: Waker,
}

struct Flag {
    set: AtomicBool,
    task: Arc<Task>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set.store(true, SeqCst);
        if !self.task.in_turn.load(SeqCst) {
            self.task.waker.wake();
        }
    }
}

impl Side {
    fn new(task: &Arc<Task>) -> Self {
        let flag = Arc::new(Flag { set: AtomicBool::new(true), task: task.clone() });
        Side { waker: Waker::from(flag.clone()), flag }
    }

    /// True if there was something to do; now it is being done.
    pub(super) fn take(&self) -> bool {
        self.flag.set.swap(false, SeqCst)
    }

    pub(super) fn is_set(&self) -> bool {
        self.flag.set.load(SeqCst)
    }

    pub(super) fn set(&self) {
        self.flag.set.store(true, SeqCst);
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

impl Turn {
    pub(super) fn new() -> Self {
        let task = Arc::<Task>::default();
        Turn { connection: Side::new(&task), calls: Side::new(&task), task }
    }

    pub(super) fn begin(&self, cx: &Context<'_>) {
        self.task.waker.register(cx.waker());
        self.task.in_turn.store(true, SeqCst);
    }

    /// Ends a turn whose connection waits for its next one, whatever there is to do.
    pub(super) fn rest(&self) {
        self.task.in_turn.store(false, SeqCst);
    }

    pub(super) fn end(&self) {
        self.task.in_turn.store(false, SeqCst);
        if self.connection.is_set() || self.calls.is_set() {
            self.task.waker.wake();
        }
    }
}
