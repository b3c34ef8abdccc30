use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

/// A boxed future of one thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What is asked of an executor: a thread of its own, single-threaded tasks, timers.
pub trait Runtime: Clone + 'static {
    /// Runs a future on this thread, detached.
    fn spawn(&self, future: LocalBoxFuture<'static, ()>);
    /// Completes after `duration`, to a few milliseconds.
    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()>;
    /// Monotonic time since some fixed moment.
    fn now(&self) -> Duration;
}

/// tokio's current-thread runtime; `spawn` needs a `LocalSet` around it.
#[derive(Clone, Copy, Debug)]
pub struct TokioRuntime {
    epoch: Instant,
}

impl Default for TokioRuntime {
    fn default() -> Self {
        TokioRuntime { epoch: Instant::now() }
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, future: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(future);
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

/// `future`, or None if `duration` passes first.
pub(crate) async fn within<T>(
    runtime: &impl Runtime,
    duration: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut sleep = runtime.sleep(duration);
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(cx) {
            return std::task::Poll::Ready(Some(value));
        }
        sleep.as_mut().poll(cx).map(|()| None)
    })
    .await
}
