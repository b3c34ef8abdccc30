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

/// Bytes a second, with ten milliseconds' worth at once: more would hold up what else the executor has to do.
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
        let burst = Duration::from_millis(10);
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

/// How fast may snapshots go beside writes? As fast as the writes' waits stay near what they were without.
///
/// The waits of each window are compared, by their 99th percentile, with those of the windows in which nothing was sent. Where
/// few writes wait there is nobody to be held up: what begins then has no bound, and another rate doubles until it is none.
///
/// What writes wait for may not depend on the rate: a receiver on the same disk makes each of their syncs longer, however little it
/// writes. So a descent is on trial: where half the rate has not lowered the percentile by a quarter, what was given up comes
/// back, and for a while the waits are compared with those that half of it has cost.
#[derive(Debug)]
pub struct Governor {
    waits: Vec<Duration>,
    began: Duration,
    /// Percentiles of the last windows without a snapshot.
    calm: Recent<16>,
    /// Of those with one.
    busy: Recent<3>,
    bytes_per_second: u64,
    /// It has never gone down since this snapshot began, or since going down was found not to help.
    is_rising: bool,
    descent: Option<Descent>,
    /// What the waits come to at a rate that is slow enough for what depends on it, and until when that is believed.
    plateau: Option<(Duration, Duration)>,
}

/// Where going slower began.
#[derive(Clone, Copy, Debug)]
struct Descent {
    percentile: Duration,
    bytes_per_second: u64,
}

/// The last few values.
#[derive(Debug)]
struct Recent<const N: usize> {
    values: [Duration; N],
    next: usize,
    count: usize,
}

impl<const N: usize> Recent<N> {
    fn new() -> Self {
        Recent { values: [Duration::ZERO; N], next: 0, count: 0 }
    }

    fn push(&mut self, value: Duration) {
        self.values[self.next] = value;
        self.next = (self.next + 1) % N;
        self.count = (self.count + 1).min(N);
    }

    fn median(&self) -> Option<Duration> {
        let mut values = self.values;
        let values = &mut values[..self.count];
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    }
}

impl Governor {
    /// A window is at least so long.
    const WINDOW: Duration = Duration::from_millis(250);
    /// And at most so long, where few waits fall into it.
    const WINDOW_MAX: Duration = Duration::from_secs(1);
    /// Waits whose percentile means something.
    const WAITS_MIN: usize = 20;
    const WAITS_MAX: usize = 4096;
    /// How long a plateau is believed.
    const PLATEAU: Duration = Duration::from_secs(10);
    /// Windows at half a rate that say whether it has helped.
    const TRIAL_WINDOWS: usize = 2;
    /// Less would let the log behind a large image grow for ever: 5 GB take five minutes.
    pub const RATE_MIN: u64 = 16 << 20;
    /// With writes, until their waits have told.
    pub const RATE_FIRST: u64 = 64 << 20;
    /// From here on a bound means nothing.
    pub const RATE_MAX: u64 = 2 << 30;

    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        let (calm, busy) = (Recent::new(), Recent::new());
        Governor {
            waits: Vec::new(),
            began: Duration::ZERO,
            calm,
            busy,
            bytes_per_second: Self::RATE_FIRST,
            is_rising: true,
            descent: None,
            plateau: None,
        }
    }

    /// A write has waited for so long.
    pub fn note(&mut self, wait: Duration) {
        if self.waits.len() < Self::WAITS_MAX {
            self.waits.push(wait);
        }
    }

    /// Bytes a second from now on, 0: no bound. `sends`: a snapshot is under way. To be called several times a second.
    pub fn turn(&mut self, now: Duration, sends: bool) -> u64 {
        let age = now.saturating_sub(self.began);
        let is_full = age >= Self::WINDOW && self.waits.len() >= Self::WAITS_MIN;
        if is_full || age >= Self::WINDOW_MAX {
            let percentile = self.percentile().filter(|_| self.waits.len() >= Self::WAITS_MIN);
            self.end_window(now, percentile, sends);
            self.waits.clear();
            self.began = now;
        }
        if self.bytes_per_second >= Self::RATE_MAX { 0 } else { self.bytes_per_second }
    }

    fn percentile(&mut self) -> Option<Duration> {
        self.waits.sort_unstable();
        self.waits.get(self.waits.len().saturating_sub(1) * 99 / 100).copied()
    }

    fn end_window(&mut self, now: Duration, percentile: Option<Duration>, sends: bool) {
        let Some(percentile) = percentile else {
            self.set(if sends { self.bytes_per_second.saturating_mul(2) } else { Self::RATE_MAX });
            return;
        };
        if !sends {
            self.calm.push(percentile);
            self.busy = Recent::new();
            self.bytes_per_second = Self::RATE_FIRST;
            (self.is_rising, self.descent, self.plateau) = (true, None, None);
            return;
        }
        self.busy.push(percentile);
        let busy = self.busy.median().expect("just pushed");
        // A member that has led for less than a window knows no better.
        let calm = *self.calm.median().get_or_insert(busy);
        if self.calm.count == 0 {
            self.calm.push(busy);
        }
        let plateau = self.plateau.filter(|(_, until)| now < *until).map_or(Duration::ZERO, |(level, _)| level);
        let bearable = calm.max(plateau);
        if busy > bearable.mul_f64(1.6) || percentile > bearable.mul_f64(2.5) {
            self.slow_down(now, busy);
            return;
        }
        self.descent = None;
        if busy.max(percentile) < bearable.mul_f64(1.1) {
            let percent = if self.is_rising { 150 } else { 115 };
            self.set(self.bytes_per_second / 100 * percent);
        } else if busy.max(percentile) < bearable.mul_f64(1.3) {
            self.set(self.bytes_per_second / 100 * 105);
        }
    }

    /// Goes down, unless it has gone down before for nothing.
    fn slow_down(&mut self, now: Duration, busy: Duration) {
        self.is_rising = false;
        let here = Descent { percentile: busy, bytes_per_second: self.bytes_per_second };
        let from = *self.descent.get_or_insert(here);
        if self.bytes_per_second <= (from.bytes_per_second / 2).max(Self::RATE_MIN) {
            if self.busy.count < Self::TRIAL_WINDOWS {
                return;
            }
            if busy > from.percentile.mul_f64(0.75) {
                self.plateau = Some((busy, now + Self::PLATEAU));
                (self.descent, self.busy, self.is_rising) = (None, Recent::new(), true);
                self.set(from.bytes_per_second.max(Self::RATE_FIRST));
                return;
            }
            self.descent = Some(here);
        }
        // What follows is of the lower rate.
        self.busy = Recent::new();
        self.set(self.bytes_per_second / 10 * 7);
    }

    fn set(&mut self, bytes_per_second: u64) {
        self.bytes_per_second = bytes_per_second.clamp(Self::RATE_MIN, Self::RATE_MAX);
    }
}

impl Default for Governor {
    fn default() -> Self {
        Governor::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits as a machine gives that has so many bytes a second to spare.
    fn run(governor: &mut Governor, now: &mut Duration, windows: usize, sends: bool, wait: impl Fn(u64) -> u64) -> u64 {
        let mut rate = governor.turn(*now, sends);
        for _ in 0..windows {
            for _ in 0..100 {
                let rate = if rate == 0 { Governor::RATE_MAX } else { rate };
                governor.note(Duration::from_micros(if sends { wait(rate) } else { wait(0) }));
            }
            *now += Governor::WINDOW;
            rate = governor.turn(*now, sends);
        }
        rate
    }

    #[test]
    fn a_snapshot_goes_as_fast_as_writes_can_bear() {
        let mut governor = Governor::new();
        let mut now = Duration::from_secs(100);
        // Up to 200 MB/s nothing is felt, beyond it waits grow with the rate.
        let wait = |rate: u64| 400 + rate.saturating_sub(200_000_000) / 100_000;
        assert_eq!(run(&mut governor, &mut now, 20, false, wait), Governor::RATE_FIRST);
        let mut rates: Vec<u64> = (0..60).map(|_| run(&mut governor, &mut now, 1, true, wait)).collect();
        rates.drain(..20);
        let waits = rates.iter().map(|rate| wait(if *rate == 0 { Governor::RATE_MAX } else { *rate }));
        assert!(waits.max().expect("some") < 2 * 400, "{rates:?}");
        assert!(rates.iter().all(|rate| *rate > 150_000_000), "{rates:?}");
        // A machine without anything to spare, where all that is sent is felt: it still goes on.
        let rate = (0..60).map(|_| run(&mut governor, &mut now, 1, true, |rate| 400 + rate / 4000)).min();
        assert_eq!(rate, Some(Governor::RATE_MIN));
    }

    /// Puts waited six times as long beside an image that went at the lowest rate: the receiver was on their disk.
    #[test]
    fn where_slower_does_not_help_it_does_not_stay_slow() {
        let mut governor = Governor::new();
        let mut now = Duration::from_secs(100);
        run(&mut governor, &mut now, 20, false, |_| 400);
        // Up to 300 MB/s it is the disk, beyond it the rate.
        let wait = |rate: u64| 2400 + rate.saturating_sub(300_000_000) / 20_000;
        let mut rates: Vec<u64> = (0..240).map(|_| run(&mut governor, &mut now, 1, true, wait)).collect();
        rates.drain(..40);
        let mean = rates.iter().sum::<u64>() / rates.len() as u64;
        assert!(mean > 150_000_000, "{mean}: {rates:?}");
        let waits = rates.iter().map(|rate| wait(if *rate == 0 { Governor::RATE_MAX } else { *rate }));
        assert!(waits.max().expect("some") < 2 * 2400, "{rates:?}");
        // What comes from the rate ends when it does.
        let wait = |rate: u64| if rate > 100_000_000 { 9000 } else { 400 };
        let rates: Vec<u64> = (0..80).map(|_| run(&mut governor, &mut now, 1, true, wait)).collect();
        let late = rates[40..].iter().filter(|rate| **rate > 100_000_000).count();
        assert!(late < 12, "{late} of 40: {rates:?}");
    }

    #[test]
    fn where_nobody_writes_there_is_no_bound() {
        let mut governor = Governor::new();
        let mut rate = 1;
        for second in 1..10 {
            governor.note(Duration::from_secs(1));
            rate = governor.turn(Duration::from_secs(second), true);
        }
        assert_eq!(rate, 0);
        let mut idle = Governor::new();
        idle.turn(Duration::from_secs(2), false);
        assert_eq!(idle.turn(Duration::from_secs(2), true), 0, "from the first byte on");
        // Writes begin in the middle of it, of which nothing is known: they are not held up for ever by what they met first.
        let mut now = Duration::from_secs(10);
        let wait = |rate: u64| if rate > 300_000_000 { 9000 } else { 300 };
        run(&mut governor, &mut now, 20, false, wait);
        let rate = run(&mut governor, &mut now, 40, true, wait);
        assert!((100_000_000..400_000_000).contains(&rate), "{rate}");
    }

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
        assert!((wanted - 0.01 - seconds).abs() < 0.001, "{seconds} s instead of {wanted}");
        // A pause is not saved up beyond the burst.
        now += Duration::from_secs(60);
        assert!(throttle.take(now, 1_010_000) >= Duration::from_millis(999));
        throttle.set(0);
        assert_eq!(throttle.take(now, u64::MAX), Duration::ZERO);
    }
}
