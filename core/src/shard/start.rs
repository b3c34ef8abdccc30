//! Why is a shard started again that has not begun?
//!
//! glommio 0.9 parks an executor that was preempted before it ran any of its runnable tasks (see [`super::pulse`]). Before the
//! first task has run there is nothing that could wake it: no timer, no socket, no waker that another thread could have.
//! Where the thread loses its core for a millisecond between the arming of glommio's first timer and the look at it, the
//! shard sleeps for ever (seen in two of some 1400 starts, with more than 20 threads for two cores).
//!
//! So what a shard starts from lies in a place that its thread takes it from. Where nobody has taken it for a while, another
//! thread is started for the same place; whichever runs first is the shard, and the other one, should it ever run, finds
//! the place empty and ends. A shard that was merely slow loses nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement, PoolPlacement};

use super::ShardSeed;
use super::pulse::Pulse;

/// How long a thread is given to run its first task before another one is started beside it. Each takes memory for its rings;
/// under the loads at which shards were seen to sleep, those that did not began within a second.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// A task is asked to yield after this.
const PREEMPT_TIMER: Duration = Duration::from_millis(1);

/// The threads of one shard, as the main thread sees them.
pub struct ShardThread {
    /// Its number.
    pub id: u32,
    /// What is felt of it.
    pub pulse: Arc<Pulse>,
    core: Option<usize>,
    place: Place<ShardSeed>,
    started: Duration,
    /// Not waited for: tearing an executor down may wait for a request of its ring that never ends (seen once).
    threads: Vec<ExecutorJoinHandle<()>>,
}

impl ShardThread {
    /// Starts a thread for the shard, on this core where there is one; `now` as later in [`ShardThread::start_again`].
    ///
    /// # Errors
    /// The executor can't be made.
    pub fn start(core: Option<usize>, seed: ShardSeed, now: Duration) -> Result<ShardThread, GlommioError<()>> {
        let (id, pulse, place) = (seed.id, Arc::clone(&seed.pulse), Place::new(seed));
        let mut shard = ShardThread { id, pulse, core, place, started: now, threads: Vec::new() };
        shard.spawn()?;
        Ok(shard)
    }

    /// Starts another thread where none has begun for a while, and says so.
    ///
    /// # Errors
    /// The executor can't be made.
    pub fn start_again(&mut self, now: Duration) -> Result<bool, GlommioError<()>> {
        if now.saturating_sub(self.started) < AGAIN_AFTER || self.place.is_taken() {
            return Ok(false);
        }
        self.started = now;
        self.spawn().map(|()| true)
    }

    /// Whether a thread has become the shard.
    pub fn has_begun(&self) -> bool {
        self.place.is_taken()
    }

    fn spawn(&mut self) -> Result<(), GlommioError<()>> {
        let place = self.place.clone();
        let thread = executor(self.core, self.id, PREEMPT_TIMER).spawn(move || async move {
            if let Some(seed) = place.take() {
                super::run::run_to_end(seed).await;
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }
}

/// Threads of a shard that may block: an image that one makes must not keep a checkpoint's writes from the other.
const BLOCKING_THREADS: usize = 2;

fn executor(core: Option<usize>, id: u32, preempt_timer: Duration) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(core.map_or(Placement::Unbound, Placement::Fixed))
        .name(&format!("shard-{id}"))
        .io_memory(64 << 10)
        .ring_depth(256)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
        .preempt_timer(preempt_timer)
}

/// What one of several takes.
struct Place<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        Place(Arc::clone(&self.0))
    }
}

impl<T> Place<T> {
    fn new(value: T) -> Place<T> {
        Place(Arc::new(Mutex::new(Some(value))))
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_taken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A timer of a nanosecond has always gone off by then: glommio parks the first thread before its first task, as loads were
    /// seen to do to it with a millisecond. When this fails because that one has run, glommio is mended, and this module
    /// can go.
    #[test]
    fn a_second_thread_takes_the_place_of_one_that_sleeps() {
        let place = Place::new(7);
        let thread = |preempt_timer| {
            let place = place.clone();
            executor(None, 0, preempt_timer).spawn(move || async move { place.take() }).expect("an executor")
        };
        let asleep = thread(Duration::from_nanos(1));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!place.is_taken(), "it sleeps");
        assert_eq!(thread(PREEMPT_TIMER).join().expect("it ran"), Some(7));
        assert!(place.is_taken());
        // It sleeps on until the process ends.
        drop(asleep);
    }
}
