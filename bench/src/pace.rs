//! When is the next operation due?
//!
//! Closed loop: as soon as a lane is free. Open loop: at fixed moments, whether or not a lane is free; an operation that
//! waits for a lane is late, and its lateness is part of its latency. So a stall of the server is charged to all
//! operations that fell due in it, not to the few that were under way ("coordinated omission").

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::timer::Timer;

/// Operations that may wait for a lane: more than any run catches up with.
pub(crate) const WAITING_MAX: usize = 1 << 20;
/// Moments that pass before others get their turn on the thread.
const BURST: u64 = 64;

/// Shared by all lanes of a run.
#[derive(Default)]
pub(crate) struct Pace {
    /// Operations a second; none: closed loop.
    rate: Option<f64>,
    /// Moments that have come, of operations that no lane has begun.
    due: RefCell<VecDeque<Instant>>,
    changed: Notify,
    stopped: Cell<bool>,
}

impl Pace {
    pub fn new(rate: Option<f64>) -> Rc<Pace> {
        Rc::new(Pace { rate, ..Pace::default() })
    }

    /// The moment of a lane's next operation; none once the run has ended. It may have passed.
    pub async fn next(&self) -> Option<Instant> {
        loop {
            if self.stopped.get() {
                return None;
            }
            if self.rate.is_none() {
                return Some(Instant::now());
            }
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return Some(due);
            }
            self.changed.notified().await;
        }
    }

    /// Lets operations fall due until [`Pace::stop`]. Returns at once in a closed loop.
    pub async fn drive(self: Rc<Self>, timer: Timer) {
        let Some(rate) = self.rate else { return };
        let began = Instant::now();
        let mut count = 0u64;
        while !self.stopped.get() {
            let next = began + Duration::from_secs_f64(count as f64 / rate);
            let now = Instant::now();
            if next > now {
                // A timer that fails leaves the coarse one.
                if timer.sleep(next - now).await.is_err() {
                    tokio::time::sleep(next - now).await;
                }
                continue;
            }
            if self.waiting() < WAITING_MAX {
                self.due.borrow_mut().push_back(next);
                self.changed.notify_one();
            }
            count += 1;
            if count.is_multiple_of(BURST) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Operations that are due and not begun.
    pub fn waiting(&self) -> usize {
        self.due.borrow().len()
    }

    /// How long the one that waits longest has waited.
    pub fn lag(&self) -> Duration {
        self.due.borrow().front().map_or(Duration::ZERO, Instant::elapsed)
    }

    pub fn stop(&self) {
        self.stopped.set(true);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    #[test]
    fn an_open_loop_keeps_its_moments_whatever_a_lane_takes() {
        local(async {
            let pace = Pace::new(Some(1_000.0));
            let began = Instant::now();
            let driver = tokio::task::spawn_local(Rc::clone(&pace).drive(Timer::new().expect("a timer")));
            let first = pace.next().await.expect("it runs");
            // A lane that is stuck: what falls due meanwhile waits, with its own moment.
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(pace.waiting() >= 40, "{} wait", pace.waiting());
            assert!(pace.lag() >= Duration::from_millis(30));
            let second = pace.next().await.expect("it runs");
            let apart = second - first;
            assert!(apart > Duration::from_micros(999) && apart < Duration::from_micros(1_001), "{apart:?}");
            assert!(second - began < Duration::from_millis(20), "its moment, not the one at which it began");
            pace.stop();
            driver.await.expect("it ends");
            assert!(pace.next().await.is_none());
        });
    }

    #[test]
    fn a_closed_loop_is_due_at_once() {
        local(async {
            let pace = Pace::new(None);
            assert!(pace.next().await.expect("it runs").elapsed() < Duration::from_secs(1));
            pace.stop();
            assert!(pace.next().await.is_none());
        });
    }
}
