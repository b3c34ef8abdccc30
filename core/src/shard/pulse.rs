//! Why does the main thread feel the pulse of each shard?
//!
//! glommio 0.9 parks an executor that was preempted before it ran any of its runnable tasks (mended upstream after that
//! release: glommio/glommio#53). Where the thread loses its core for a millisecond at the wrong moment, the executor then
//! sleeps until its next timer, and for ever where the tasks behind all its timers are runnable themselves. Seen here on a
//! machine with more work than cores: a member that answers nothing, not even SIGTERM, at no CPU.
//!
//! So a shard beats, and the main thread wakes a shard that does not: from outside, by the way that any other thread wakes
//! one of its tasks. A shard that is merely busy is woken for nothing. (Beats of their own, each 10 ms, would shorten such a
//! sleep; measured, they cost an idle shard 0.5 % of a core.)

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// How often the main thread feels: some beats, which come each 100 ms.
pub const FEEL_INTERVAL: Duration = Duration::from_millis(250);

/// One shard's, shared with the main thread.
#[derive(Default)]
pub struct Pulse {
    beats: AtomicU64,
    /// The beats when it was felt last.
    felt: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Pulse {
    /// Lets the shard be woken, for as long as its executor lives. Called inside of it.
    pub fn begin(self: Arc<Self>) {
        glommio::spawn_local(async move {
            loop {
                self.woken().await;
            }
        })
        .detach();
    }

    /// The shard has run its housekeeping.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when the main thread has woken the shard. Nothing is to be done then: the executor looks again.
    async fn woken(&self) {
        let mut was_polled = false;
        poll_fn(|context| {
            if std::mem::replace(&mut was_polled, true) {
                return Poll::Ready(());
            }
            *self.waker() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It can be woken; before that only another thread helps ([`super::start`]).
    #[cfg(test)]
    fn can_be_woken(&self) -> bool {
        self.waker().is_some()
    }

    /// Wakes the shard if it has not beaten since the last call, and says so. Called by the main thread, each
    /// [`FEEL_INTERVAL`].
    pub fn feel(&self) -> bool {
        let beats = self.beats.load(Ordering::Relaxed);
        if self.felt.swap(beats, Ordering::Relaxed) != beats {
            return false;
        }
        let waker = self.waker().clone();
        waker.is_some_and(|waker| {
            waker.wake();
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use glommio::LocalExecutorBuilder;

    use super::*;

    /// No timer, no I/O: nothing but the wake from outside ends this sleep.
    #[test]
    fn a_shard_that_does_not_beat_is_woken() {
        let pulse = Arc::new(Pulse::default());
        let sleeping = Arc::clone(&pulse);
        let shard = LocalExecutorBuilder::default().spawn(move || async move { sleeping.woken().await });
        let shard = shard.expect("a thread");
        while !pulse.can_be_woken() {
            thread::yield_now();
        }
        // It has surely parked by then; were it still awake, it would end all the same.
        thread::sleep(FEEL_INTERVAL);
        assert!(pulse.feel(), "it has not beaten");
        shard.join().expect("it has ended");
    }

    #[test]
    fn a_shard_that_beats_is_left_alone() {
        let pulse = Pulse::default();
        *pulse.waker() = Some(Waker::noop().clone());
        for _ in 0..5 {
            pulse.beat();
            assert!(!pulse.feel());
        }
        assert!(pulse.feel());
    }
}
