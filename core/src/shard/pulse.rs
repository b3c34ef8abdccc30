//! Why does the main thread feel the pulse of each shard?
//!
//! glommio 0.9 parks an executor that was preempted before it ran any of its runnable tasks (mended upstream after that
//! release: glommio/glommio#53). Where the thread loses its core for a millisecond at the wrong moment, the executor then
//! sleeps until its next timer, and for ever where the tasks behind all its timers are runnable themselves. Seen here on a
//! machine with more work than cores: a member that answers nothing, not even SIGTERM, at no CPU.
//!
//! So a shard beats, and the main thread wakes a shard that does not: from outside, by the way that any other thread wakes
//! one of its tasks. The beat's own timer bounds the usual case. A shard that is merely busy is woken for nothing.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use glommio::timer::sleep;

/// Between two beats: how long the usual wrong sleep lasts. An idle shard pays 0.1 % of a core for it.
const BEAT_INTERVAL: Duration = Duration::from_millis(10);
/// How often the main thread feels. Longer than a few beats.
pub const FEEL_INTERVAL: Duration = Duration::from_millis(50);

/// One shard's, shared with the main thread.
#[derive(Default)]
pub struct Pulse {
    beats: AtomicU64,
    /// The beats when it was felt last.
    felt: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Pulse {
    /// Begins to beat, for as long as the executor lives. Called inside of it.
    pub fn begin(self: Arc<Self>) {
        let pulse = Arc::clone(&self);
        glommio::spawn_local(async move {
            loop {
                sleep(BEAT_INTERVAL).await;
                pulse.beats.fetch_add(1, Ordering::Relaxed);
            }
        })
        .detach();
        // Never ends, and does nothing: being woken is its use.
        glommio::spawn_local(poll_fn(move |context| {
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            Poll::<()>::Pending
        }))
        .detach();
    }

    /// Wakes the shard if it has not beaten since the last call, and says so. Called by the main thread, each
    /// [`FEEL_INTERVAL`].
    pub fn feel(&self) -> bool {
        let beats = self.beats.load(Ordering::Relaxed);
        if self.felt.swap(beats, Ordering::Relaxed) != beats {
            return false;
        }
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waker.is_some_and(|waker| {
            waker.wake();
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;

    /// An executor whose only task has spun past its preempt timer sleeps with the task runnable; the story is above. Here
    /// threads that spin on the same core take it away again and again.
    #[test]
    fn a_shard_that_sleeps_with_work_to_do_is_woken() {
        let hogs_end = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let hogs: Vec<_> = (0..3)
            .map(|_| {
                let end = Arc::clone(&hogs_end);
                LocalExecutorBuilder::new(Placement::Fixed(0))
                    .spawn(move || async move {
                        while !end.load(Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                    })
                    .expect("a thread")
            })
            .collect();
        let pulse = Arc::new(Pulse::default());
        let (tell, told) = mpsc::channel();
        let beating = Arc::clone(&pulse);
        let shard = LocalExecutorBuilder::new(Placement::Fixed(0))
            .preempt_timer(Duration::from_micros(20))
            .spawn(move || async move {
                beating.begin();
                for _ in 0..300 {
                    sleep(Duration::from_millis(1)).await;
                }
                let _ = tell.send(());
            })
            .expect("a thread");
        let mut woken = 0;
        let done = (0..1200).any(|_| {
            thread::sleep(FEEL_INTERVAL);
            woken += u32::from(pulse.feel());
            told.try_recv().is_ok()
        });
        hogs_end.store(true, Ordering::Relaxed);
        println!("woken {woken} times");
        assert!(done, "the shard sleeps on, woken {woken} times");
        shard.join().expect("ends");
        hogs.into_iter().for_each(|hog| hog.join().expect("ends"));
    }
}
