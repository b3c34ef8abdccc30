//! When is the history compacted by itself, and up to which revision?
//!
//! etcd's two ways, as a machine without a clock of its own:
//!
//! ```text
//!   periodic, period p   the revision is noted each tenth of min(p, 1 h); after p, and then each min(p, 1 h), the note
//!                        of eleven tenths before (of p and a pause) is compacted to
//!   revision, keep n     each 5 minutes the revision less n is compacted to
//!
//!   loop:  note(revision now) -> sleep pause() -> wake(now, revision now) -> Some(revision): propose, compacted() or not
//! ```
//!
//! A compaction that fails is tried again after the next pause. A revision that was compacted to is not compacted to again:
//! an idle store writes nothing.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The longest time between two periodic compactions, and the window that is cut in tenths.
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// Notes in such a window.
const NOTES: u32 = 10;
/// The shortest pause: a period of nanoseconds must not keep a core busy.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Between two looks at the revision.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// The longest period: notes are one each six minutes, so this bounds them at 876 000.
const PERIOD_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// What stays readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The history of this time.
    Periodic(Duration),
    /// This many revisions.
    Revision(i64),
}

/// Why `--auto-compaction-*` can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// etcd's two, and no other.
    #[error("unknown auto-compaction-mode {0:?}: periodic or revision")]
    Mode(String),
    /// No number and no duration.
    #[error("error parsing CompactionRetention: {0:?} is neither a whole number nor a duration such as 30m or 12h")]
    Malformed(String),
    /// etcd 3.7 starts with it, and then compacts without a pause.
    #[error("error parsing CompactionRetention: {0:?} is negative")]
    Negative(String),
    /// More than ten years (etcd: an overflow, then as a negative one).
    #[error("error parsing CompactionRetention: {0:?} is longer than ten years")]
    TooLong(String),
}

impl Retention {
    /// From the two flags: a bare number is hours or revisions. In the revision mode a duration counts in nanoseconds, as
    /// in etcd. None: never.
    ///
    /// # Errors
    /// [`RetentionError`].
    pub fn parse(
        mode: &str,
        retention: &str,
        duration: impl Fn(&str) -> Option<Duration>,
    ) -> Result<Option<Retention>, RetentionError> {
        let by_revision = match mode {
            "periodic" => false,
            "revision" => true,
            other => return Err(RetentionError::Mode(other.to_owned())),
        };
        let text = if retention.is_empty() { "0" } else { retention };
        let too_long = || RetentionError::TooLong(text.to_owned());
        if let Some(positive) = text.strip_prefix('-') {
            let is_one = positive.parse::<u64>().is_ok() || duration(positive).is_some();
            let error = if is_one { RetentionError::Negative } else { RetentionError::Malformed };
            return Err(error(text.to_owned()));
        }
        let kept = match (text.parse::<i64>(), by_revision) {
            (Ok(count), true) => Retention::Revision(count),
            (Ok(hours), false) => {
                let seconds = u64::try_from(hours).ok().and_then(|hours| hours.checked_mul(3_600));
                Retention::Periodic(Duration::from_secs(seconds.ok_or_else(too_long)?))
            }
            (Err(_), _) => {
                let time = duration(text).ok_or_else(|| RetentionError::Malformed(text.to_owned()))?;
                match by_revision {
                    true => Retention::Revision(i64::try_from(time.as_nanos()).map_err(|_| too_long())?),
                    false => Retention::Periodic(time),
                }
            }
        };
        match kept {
            Retention::Revision(0) | Retention::Periodic(Duration::ZERO) => Ok(None),
            Retention::Periodic(period) if period > PERIOD_MAX => Err(too_long()),
            kept => Ok(Some(kept)),
        }
    }
}

/// A duration as Go writes it: `1h0m0s`, `1m30s`, `1.5s`, `100ms`.
#[derive(Clone, Copy, Debug)]
pub struct GoDuration(pub Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        let seconds = self.0.as_secs();
        // f64 holds all parts of a unit exactly enough: the shortest form that reads back is Go's.
        match ns {
            0 => write!(to, "0s"),
            1..1_000 => write!(to, "{ns}ns"),
            1_000..1_000_000 => write!(to, "{}\u{b5}s", ns as f64 / 1e3),
            1_000_000..1_000_000_000 => write!(to, "{}ms", ns as f64 / 1e6),
            _ => {
                if seconds >= 3_600 {
                    write!(to, "{}h", seconds / 3_600)?;
                }
                if seconds >= 60 {
                    write!(to, "{}m", seconds / 60 % 60)?;
                }
                write!(to, "{}s", (seconds % 60) as f64 + f64::from(self.0.subsec_nanos()) / 1e9)
            }
        }
    }
}

/// The machine. Times are those of any clock that does not go back.
#[derive(Debug)]
pub struct Compactor {
    retention: Retention,
    /// Revisions at the last pauses, eldest first.
    notes: VecDeque<i64>,
    notes_max: usize,
    /// Compacted to last.
    last: i64,
    succeeded: Duration,
    /// From a success to the next attempt: the whole period before the first one.
    interval: Duration,
}

impl Compactor {
    /// A member that starts at `now`.
    #[must_use]
    pub fn new(retention: Retention, now: Duration) -> Compactor {
        let mut compactor = Compactor {
            retention,
            notes: VecDeque::new(),
            notes_max: 1,
            last: 0,
            succeeded: now,
            interval: Duration::ZERO,
        };
        if let Retention::Periodic(period) = retention {
            let pauses = period.as_nanos() / compactor.pause().as_nanos();
            compactor.notes_max = usize::try_from(pauses).unwrap_or(usize::MAX).saturating_add(1);
            compactor.interval = period;
        }
        compactor
    }

    /// Time to the next [`Compactor::wake`].
    #[must_use]
    pub fn pause(&self) -> Duration {
        match self.retention {
            Retention::Periodic(period) => (period.min(INTERVAL_MAX) / NOTES).max(PAUSE_MIN),
            Retention::Revision(_) => REVISION_INTERVAL,
        }
    }

    /// The store's revision before a pause.
    pub fn note(&mut self, revision: i64) {
        self.notes.push_back(revision);
        while self.notes.len() > self.notes_max {
            self.notes.pop_front();
        }
    }

    /// After a pause: the revision to compact to, if it is time.
    pub fn wake(&mut self, now: Duration, revision: i64) -> Option<i64> {
        match self.retention {
            Retention::Periodic(period) => {
                let target = *self.notes.front()?;
                if now.saturating_sub(self.succeeded) < self.interval || target == self.last {
                    return None;
                }
                self.interval = period.min(INTERVAL_MAX);
                Some(target)
            }
            Retention::Revision(kept) => {
                let target = revision.saturating_sub(kept);
                (target > 0 && target != self.last).then_some(target)
            }
        }
    }

    /// What [`Compactor::wake`] gave is compacted to, by us or by somebody else.
    pub fn compacted(&mut self, now: Duration, target: i64) {
        self.last = target;
        self.succeeded = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn duration(text: &str) -> Option<Duration> {
        match text {
            "10m" => Some(10 * MINUTE),
            "0h" => Some(Duration::ZERO),
            "1ns" => Some(Duration::from_nanos(1)),
            "100000h" => Some(100_000 * HOUR),
            _ => None,
        }
    }

    fn parse(mode: &str, retention: &str) -> Result<Option<Retention>, RetentionError> {
        Retention::parse(mode, retention, duration)
    }

    #[test]
    fn the_flags_are_etcds() {
        assert_eq!(parse("periodic", "2"), Ok(Some(Retention::Periodic(2 * HOUR))));
        assert_eq!(parse("periodic", "10m"), Ok(Some(Retention::Periodic(10 * MINUTE))));
        assert_eq!(parse("revision", "1000"), Ok(Some(Retention::Revision(1_000))));
        assert_eq!(parse("revision", "10m"), Ok(Some(Retention::Revision(600_000_000_000))));
        for off in ["0", "", "0h"] {
            assert_eq!(parse("periodic", off), Ok(None), "{off}");
            assert_eq!(parse("revision", off), Ok(None), "{off}");
        }
        assert!(matches!(parse("hourly", "0"), Err(RetentionError::Mode(_))));
        assert!(matches!(parse("", "0"), Err(RetentionError::Mode(_))));
        for mode in ["periodic", "revision"] {
            assert!(matches!(parse(mode, "-1"), Err(RetentionError::Negative(_))));
            assert!(matches!(parse(mode, "-10m"), Err(RetentionError::Negative(_))));
            for bad in ["5x", "1.5", "-x", "-", "--1", "99999999999999999999"] {
                assert!(matches!(parse(mode, bad), Err(RetentionError::Malformed(_))), "{mode} {bad}");
            }
        }
        assert!(matches!(parse("periodic", "9999999999999"), Err(RetentionError::TooLong(_))));
        assert!(matches!(parse("periodic", "9223372036854775807"), Err(RetentionError::TooLong(_))));
        assert!(matches!(parse("periodic", "100000h"), Err(RetentionError::TooLong(_))));
    }

    /// Runs the loop with a clock and a store of its own: the store's revision is the number of seconds since the start.
    /// Gives (moment, revision compacted to) of each attempt, in seconds; `fails` says which attempts fail.
    fn run(retention: Retention, until: Duration, fails: impl Fn(usize) -> bool) -> Vec<(u64, i64)> {
        let revision = |now: Duration| i64::try_from(now.as_secs()).expect("short") + 1;
        let mut now = Duration::ZERO;
        let mut compactor = Compactor::new(retention, now);
        let mut attempts = Vec::new();
        loop {
            compactor.note(revision(now));
            now += compactor.pause();
            if now > until {
                return attempts;
            }
            if let Some(target) = compactor.wake(now, revision(now)) {
                if !fails(attempts.len()) {
                    compactor.compacted(now, target);
                }
                attempts.push((now.as_secs(), target));
            }
        }
    }

    // The eldest note is a tenth older than the period, as in etcd: it is taken before the pause.
    #[test]
    fn below_an_hour_each_period_to_the_revision_a_period_ago() {
        let attempts = run(Retention::Periodic(10 * MINUTE), HOUR, |_| false);
        assert_eq!(attempts, [(600, 1), (1_200, 541), (1_800, 1_141), (2_400, 1_741), (3_000, 2_341), (3_600, 2_941)]);
    }

    #[test]
    fn above_an_hour_first_after_the_period_then_each_hour() {
        let attempts = run(Retention::Periodic(3 * HOUR), 6 * HOUR, |_| false);
        assert_eq!(attempts, [(10_800, 1), (14_400, 3_241), (18_000, 6_841), (21_600, 10_441)]);
    }

    #[test]
    fn a_failure_is_tried_again_after_a_tenth() {
        let attempts = run(Retention::Periodic(10 * MINUTE), 25 * MINUTE, |attempt| attempt == 1);
        assert_eq!(attempts, [(600, 1), (1_200, 541), (1_260, 601)]);
        let attempts = run(Retention::Periodic(10 * MINUTE), 12 * MINUTE, |_| true);
        assert_eq!(attempts, [(600, 1), (660, 1), (720, 61)]);
    }

    #[test]
    fn by_revision_each_five_minutes() {
        let attempts = run(Retention::Revision(400), 20 * MINUTE, |_| false);
        assert_eq!(attempts, [(600, 201), (900, 501), (1_200, 801)]);
    }

    #[test]
    fn a_store_that_does_not_move_is_compacted_once() {
        for retention in [Retention::Periodic(10 * MINUTE), Retention::Revision(5)] {
            let (mut now, mut attempts) = (Duration::ZERO, 0);
            let mut compactor = Compactor::new(retention, now);
            for _ in 0..100 {
                compactor.note(7);
                now += compactor.pause();
                if let Some(target) = compactor.wake(now, 7) {
                    compactor.compacted(now, target);
                    attempts += 1;
                }
            }
            assert_eq!(attempts, 1, "{retention:?}");
        }
    }

    #[test]
    fn extremes_neither_spin_nor_overflow() {
        let tiny = Retention::parse("periodic", "1ns", duration).expect("a duration").expect("not zero");
        let mut compactor = Compactor::new(tiny, Duration::ZERO);
        assert_eq!(compactor.pause(), PAUSE_MIN);
        compactor.note(5);
        assert_eq!(compactor.wake(PAUSE_MIN, 6), Some(5));
        let mut compactor = Compactor::new(Retention::Revision(i64::MAX), Duration::ZERO);
        assert_eq!(compactor.wake(HOUR, i64::MAX), None);
        let mut compactor = Compactor::new(Retention::Periodic(PERIOD_MAX), Duration::ZERO);
        for revision in 0..1_000_000 {
            compactor.note(revision);
        }
        assert!(compactor.notes.len() <= 876_001);
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (5_400_000_000_000, "1h30m0s"),
        ] {
            assert_eq!(GoDuration(Duration::from_nanos(ns)).to_string(), text);
        }
    }
}
