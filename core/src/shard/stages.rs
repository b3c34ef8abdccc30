//! Where does a request's time go? A stamp at the end of each stage, on CLOCK_BOOTTIME.
//!
//! ```text
//!  write:  began -queue-> proposed -wal-> synced -commit-> committed -apply-> published -answer-> worked
//!  read:   began -read---------------------------------------------------------------------------> worked
//!  both:   worked -encode-> encoded -client-> the connection has taken the whole answer
//! ```
//!
//! This costs a request two looks at the clock: it began with its connection's turn, which had looked already, and the
//! group looks once a batch. Nothing is allocated.

use std::cell::Cell;
use std::time::Duration;

use super::boottime;
use super::link::Stamps;
use crate::metrics::SLOW_STAGES;

/// What a request is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Decoding, checks, and the log's batches before its own.
    Queue,
    /// The write and sync of its batch.
    Wal,
    /// The quorum.
    Commit,
    /// Applying its batch, absent pages included, until it is visible.
    Apply,
    /// A write: from there to the shard that asked.
    Answer,
    /// A read: all of it, absent pages included.
    Read,
    /// Encoding the answer.
    Encode,
    /// The client's reading of it.
    Client,
    /// A write that was given up before its answer came: how far it got is not known.
    Unanswered,
}

const _: () = assert!(Stage::ALL.len() == SLOW_STAGES, "each stage has its counter");

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 9] = [
        Stage::Queue,
        Stage::Wal,
        Stage::Commit,
        Stage::Apply,
        Stage::Answer,
        Stage::Read,
        Stage::Encode,
        Stage::Client,
        Stage::Unanswered,
    ];

    /// Its name in log lines and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Wal => "wal",
            Stage::Commit => "commit",
            Stage::Apply => "apply",
            Stage::Answer => "answer",
            Stage::Read => "read",
            Stage::Encode => "encode",
            Stage::Client => "client",
            Stage::Unanswered => "unanswered",
        }
    }
}

/// The notes of one unary call.
#[derive(Debug, Default)]
pub struct Trace {
    began: Cell<Duration>,
    proposes: Cell<bool>,
    group: Cell<Option<Stamps>>,
    worked: Cell<Option<Duration>>,
    encoded: Cell<Option<Duration>>,
    sizes: Cell<Sizes>,
}

/// What a log line tells of a request's content: sizes only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the request's message.
    pub request_bytes: usize,
    /// Bytes of its key.
    pub key_bytes: usize,
    /// Bytes of its range end.
    pub range_end_bytes: usize,
}

impl Trace {
    /// The call has come in.
    pub fn begin(&self, at: Duration, request_bytes: usize) {
        self.began.set(at);
        self.sizes.set(Sizes { request_bytes, ..Sizes::default() });
    }

    /// When it came in.
    pub fn began(&self) -> Duration {
        self.began.get()
    }

    /// Whether it is a write.
    pub fn proposes(&self) -> bool {
        self.proposes.get()
    }

    /// Whether the group has answered it.
    pub fn is_answered(&self) -> bool {
        self.group.get().is_some()
    }

    /// What it is about.
    pub fn about(&self, key: &[u8], range_end: &[u8]) {
        let (key_bytes, range_end_bytes) = (key.len(), range_end.len());
        self.sizes.set(Sizes { key_bytes, range_end_bytes, ..self.sizes.get() });
    }

    /// How much it is about.
    pub fn sizes(&self) -> Sizes {
        self.sizes.get()
    }

    /// It goes to the group.
    pub(super) fn proposed(&self) {
        self.proposes.set(true);
    }

    /// The group has answered, in a batch with these stamps.
    pub(super) fn answered(&self, stamps: Stamps) {
        self.group.set(Some(stamps));
    }

    /// Only encoding is left.
    pub fn worked(&self) {
        self.worked.set(Some(boottime()));
    }

    /// The answer is ready for the connection.
    pub fn encoded(&self) {
        self.encoded.set(Some(boottime()));
    }

    /// All stages of a call that ends now, or ended when its answer was encoded; `client` is what followed.
    #[must_use]
    pub fn stages(&self, client: Duration) -> Stages {
        let began = self.began.get();
        let encoded = self.encoded.get().unwrap_or_else(boottime);
        // An error is not encoded.
        let worked = self.worked.get().unwrap_or(encoded);
        let mut stages = Stages::default();
        let mut at = began;
        let mut until = |stage: Stage, end: Duration| {
            stages.took[stage as usize] = end.saturating_sub(at);
            at = at.max(end);
        };
        match (self.proposes.get(), self.group.get()) {
            (true, Some(stamps)) => {
                until(Stage::Queue, stamps.proposed);
                until(Stage::Wal, stamps.synced);
                until(Stage::Commit, stamps.committed);
                until(Stage::Apply, stamps.published);
                until(Stage::Answer, worked);
            }
            (true, None) => until(Stage::Unanswered, worked),
            (false, _) => until(Stage::Read, worked),
        }
        until(Stage::Encode, encoded);
        stages.took[Stage::Client as usize] = client;
        stages
    }
}

/// What each stage of a call took; those that it did not have took nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    took: [Duration; Stage::ALL.len()],
}

impl Stages {
    /// One stage.
    #[must_use]
    pub fn of(&self, stage: Stage) -> Duration {
        self.took[stage as usize]
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.took.iter().sum()
    }

    /// The longest.
    #[must_use]
    pub fn slowest(&self) -> Stage {
        Stage::ALL.into_iter().max_by_key(|stage| self.of(*stage)).expect("there are stages")
    }

    /// Each stage that took something, in order: `queue=0.1ms wal=320.5ms`.
    #[must_use]
    pub fn listed(&self) -> String {
        let took = Stage::ALL.into_iter().map(|stage| (stage, self.of(stage))).filter(|(_, took)| !took.is_zero());
        let listed: Vec<String> =
            took.map(|(stage, took)| format!("{}={:.1}ms", stage.name(), took.as_secs_f64() * 1e3)).collect();
        listed.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Stamps as a group with a slow disk sends them, and one that waits for a page while it applies.
    #[test]
    fn a_write_names_the_stage_that_held_it_up() {
        let now = boottime();
        let at = |ms_ago: u64| now - ms(ms_ago);
        let trace = Trace::default();
        trace.begin(at(1000), 10);
        trace.proposed();
        assert_eq!(trace.stages(Duration::ZERO).slowest(), Stage::Unanswered);
        trace.answered(Stamps { proposed: at(990), synced: at(400), committed: at(399), published: at(390) });
        trace.worked();
        trace.encoded();
        let slow_disk = trace.stages(Duration::ZERO);
        assert_eq!(slow_disk.slowest(), Stage::Wal);
        let of = [Stage::Queue, Stage::Wal, Stage::Commit, Stage::Apply].map(|stage| slow_disk.of(stage));
        assert_eq!(of, [ms(10), ms(590), ms(1), ms(9)]);
        assert!(
            slow_disk.total() >= ms(1000) && slow_disk.listed().starts_with("queue=10.0ms wal=590.0ms commit=1.0ms")
        );
        trace.answered(Stamps { proposed: at(990), synced: at(985), committed: at(985), published: at(5) });
        assert_eq!(trace.stages(Duration::ZERO).slowest(), Stage::Apply);
        assert_eq!(trace.stages(ms(2000)).slowest(), Stage::Client);
    }

    #[test]
    fn a_read_has_no_stage_of_a_write() {
        let trace = Trace::default();
        trace.begin(boottime() - ms(50), 10);
        trace.about(b"abc", b"d");
        trace.worked();
        trace.encoded();
        let stages = trace.stages(Duration::ZERO);
        assert_eq!(stages.slowest(), Stage::Read);
        assert!(stages.of(Stage::Read) >= ms(50) && stages.of(Stage::Queue).is_zero(), "{stages:?}");
        assert_eq!(trace.sizes(), Sizes { request_bytes: 10, key_bytes: 3, range_end_bytes: 1 });
    }
}
