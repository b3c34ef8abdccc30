use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes tasks of this thread that wait for something to become true.
#[derive(Debug, Default)]
pub(super) struct Signal(RefCell<Vec<Waker>>);

impl Signal {
    /// Something may have become true.
    pub(super) fn notify(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    /// What `look` finds; it looks again whenever this is notified.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let mut waiting = self.0.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
