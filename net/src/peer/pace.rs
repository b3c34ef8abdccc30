//! How fast: between two dials, and within a snapshot. Time and chance are arguments.

use std::collections::VecDeque;
use std::time::Duration;

/// Exponential waits with jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first wait is up to `min`, none is longer than `max`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Backoff { min, max, attempts: 0 }
    }

    /// The next wait: between half and all of `min * 2^attempts`, at most `max`. `random` spreads members that lost the
    /// same peer at the same moment.
    pub fn next(&mut self, random: u64) -> Duration {
        let doubled = self.min.saturating_mul(1 << self.attempts.min(20));
        self.attempts = self.attempts.saturating_add(1);
        let whole = doubled.min(self.max);
        whole / 2 + whole.mul_f64(0.5 * (random as f64 / u64::MAX as f64))
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Bytes a second, with a tenth of a second's worth at once.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When everything that was let through is paid for.
    paid_at: Duration,
}

impl Throttle {
    /// `bytes_per_second` 0: no throttle.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Throttle { bytes_per_second, paid_at: Duration::ZERO }
    }

    /// Lets `bytes` through, after the wait that it returns.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let burst = Duration::from_millis(100);
        let start = self.paid_at.max(now.saturating_sub(burst));
        self.paid_at = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.paid_at.saturating_sub(now)
    }

    /// From now on.
    pub fn set(&mut self, bytes_per_second: u64) {
        self.bytes_per_second = bytes_per_second;
    }
}

/// Of what goes wrong again and again: what is new is said at once, what goes on after a minute, then two, four, ... an hour.
#[derive(Debug, Default)]
pub struct Complaints {
    /// The text, when it was said last, and how often.
    said: VecDeque<(String, Duration, u32)>,
}

impl Complaints {
    /// Texts that are remembered; of more the oldest are new again.
    const TEXTS_MAX: usize = 16;
    const INTERVAL_MIN: Duration = Duration::from_secs(60);
    const INTERVAL_MAX: Duration = Duration::from_secs(3600);

    /// Whether to say it now; it then counts as said.
    pub fn is_due(&mut self, now: Duration, text: &str) -> bool {
        if let Some((_, at, times)) = self.said.iter_mut().find(|(said, ..)| said == text) {
            let interval = Complaints::INTERVAL_MIN.saturating_mul(1 << (*times).min(20)).min(Complaints::INTERVAL_MAX);
            if now.saturating_sub(*at) < interval {
                return false;
            }
            (*at, *times) = (now, *times + 1);
            return true;
        }
        if self.said.len() == Complaints::TEXTS_MAX {
            self.said.pop_front();
        }
        self.said.push_back((text.to_owned(), now, 0));
        true
    }

    /// All is well: whatever comes is new.
    pub fn clear(&mut self) {
        self.said.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_jitter_and_bound() {
        let milliseconds = Duration::from_millis;
        let mut backoff = Backoff::new(milliseconds(50), milliseconds(300));
        let shortest: Vec<_> = (0..5).map(|_| backoff.next(0)).collect();
        assert_eq!(shortest, [25, 50, 100, 150, 150].map(milliseconds));
        backoff.reset();
        let longest: Vec<_> = (0..5).map(|_| backoff.next(u64::MAX)).collect();
        assert_eq!(longest, [50, 100, 200, 300, 300].map(milliseconds));
        (0..100).for_each(|_| assert!(backoff.next(u64::MAX) <= milliseconds(300)));
    }

    #[test]
    fn what_goes_on_is_said_ever_less_often() {
        let mut complaints = Complaints::default();
        let hour = Complaints::INTERVAL_MAX;
        let said: Vec<u64> =
            (0..8 * 3600).filter(|second| complaints.is_due(Duration::from_secs(*second), "no answer")).collect();
        let minutes: Vec<u64> = said.iter().map(|second| second / 60).collect();
        assert_eq!(minutes, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363, 423]);
        assert!(complaints.is_due(hour * 8, "another reason") && !complaints.is_due(hour * 8, "another reason"));
        assert!(!complaints.is_due(hour * 8, "no answer"), "two in turn are not new each time");
        complaints.clear();
        assert!(complaints.is_due(hour * 8, "no answer"));
        let texts: Vec<String> = (0..Complaints::TEXTS_MAX).map(|number| number.to_string()).collect();
        texts.iter().for_each(|text| assert!(complaints.is_due(hour * 8, text)));
        assert_eq!(complaints.said.len(), Complaints::TEXTS_MAX);
    }

    #[test]
    fn the_throttle_keeps_its_rate() {
        let mut throttle = Throttle::new(1_000_000);
        let mut now = Duration::from_secs(9);
        for _ in 0..100 {
            now += throttle.take(now, 64 << 10);
        }
        let seconds = (now - Duration::from_secs(9)).as_secs_f64();
        let wanted = 100.0 * f64::from(64 << 10) / 1e6;
        assert!((wanted - 0.1 - seconds).abs() < 0.001, "{seconds} s instead of {wanted}");
        // A pause is not saved up beyond the burst.
        now += Duration::from_secs(60);
        assert!(throttle.take(now, 1_100_000) >= Duration::from_millis(999));
        throttle.set(0);
        assert_eq!(throttle.take(now, u64::MAX), Duration::ZERO);
    }
}
