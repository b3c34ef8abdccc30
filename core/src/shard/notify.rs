//! A wake-up within one executor: any number of notices before the wait count as one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

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
    wakers: RefCell<Vec<Waker>>,
}

impl Broadcast {
    /// Wakes all that wait; later waits return at once.
    pub fn complete(&self) {
        self.completed.set(true);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// True once completed.
    pub fn is_complete(&self) -> bool {
        self.completed.get()
    }

    /// Returns once completed.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.completed.get() {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
