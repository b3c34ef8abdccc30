//! Where latencies go: by round, and by call over all rounds.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::BenchError;

/// Longest latency that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// The kinds of call that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Call {
    Put,
    Get,
    Range,
    Txn,
    Delete,
    KeepAlive,
    Event,
    List,
    Update,
    Create,
}

impl Call {
    pub const ALL: [Call; 10] = [
        Call::Put,
        Call::Get,
        Call::Range,
        Call::Txn,
        Call::Delete,
        Call::KeepAlive,
        Call::Event,
        Call::List,
        Call::Update,
        Call::Create,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Call::Put => "put",
            Call::Get => "get",
            Call::Range => "range",
            Call::Txn => "txn",
            Call::Delete => "delete",
            Call::KeepAlive => "keep-alive",
            Call::Event => "event",
            Call::List => "list page",
            Call::Update => "guarded update",
            Call::Create => "create with lease",
        }
    }
}

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order")
}

/// One round's latencies and counts.
pub(crate) struct Tally {
    pub latencies: Histogram<u64>,
    pub operations: u64,
    pub errors: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { latencies: histogram(), operations: 0, errors: 0 }
    }
}

/// What the lanes of a run share to write down what they see.
pub(crate) struct Recorder {
    /// The calls that are the workload's operations: others are only listed.
    counted: fn(Call) -> bool,
    round_length: Duration,
    /// None while it warms up.
    began: Cell<Option<Instant>>,
    rounds: RefCell<Vec<Tally>>,
    calls: RefCell<[Option<Box<Histogram<u64>>>; Call::ALL.len()]>,
    failure: RefCell<Option<BenchError>>,
    /// Since when every call has failed.
    failing_since: Cell<Option<Instant>>,
}

impl Recorder {
    pub fn new(rounds: usize, round_length: Duration, counted: fn(Call) -> bool) -> Recorder {
        Recorder {
            counted,
            round_length,
            began: Cell::new(None),
            rounds: RefCell::new((0..rounds).map(|_| Tally::default()).collect()),
            calls: RefCell::default(),
            failure: RefCell::default(),
            failing_since: Cell::default(),
        }
    }

    pub fn begin(&self) {
        self.began.set(Some(Instant::now()));
    }

    /// The round of a moment; none before the first and after the last.
    fn round_of(&self, moment: Instant) -> Option<usize> {
        let since = moment.checked_duration_since(self.began.get()?)?;
        let round = usize::try_from(since.as_nanos() / self.round_length.as_nanos()).ok()?;
        (round < self.rounds.borrow().len()).then_some(round)
    }

    /// An operation from when it was due (`from`) to its end. Its round is that of `moment`.
    fn write(&self, call: Call, moment: Instant, from: Instant, ended: Instant) {
        self.failing_since.set(None);
        let Some(round) = self.round_of(moment) else { return };
        let ns = u64::try_from(ended.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX).max(1);
        let mut calls = self.calls.borrow_mut();
        calls[call as usize].get_or_insert_with(|| Box::new(histogram())).saturating_record(ns);
        if (self.counted)(call) {
            let tally = &mut self.rounds.borrow_mut()[round];
            tally.latencies.saturating_record(ns);
            tally.operations += 1;
        }
    }

    /// A call of a lane. It belongs to the round in which it was due: what an open loop owes is counted there however
    /// late it ends; in a closed loop the two differ by one latency.
    pub fn done(&self, call: Call, due: Instant, ended: Instant) {
        self.write(call, due, due, ended);
    }

    /// Something that arrives by itself, such as an event: it belongs to the round in which it does.
    pub fn arrived(&self, call: Call, sent: Instant) {
        let now = Instant::now();
        self.write(call, now, sent, now);
    }

    pub fn failed(&self, error: BenchError) {
        self.add_errors(1);
        self.failure.borrow_mut().get_or_insert(error);
        if self.failing_since.get().is_none() {
            self.failing_since.set(Some(Instant::now()));
        }
    }

    /// Errors that no lane has seen, such as events that never came. They go to the last round once all have ended.
    pub fn add_errors(&self, count: u64) {
        let round = self.round_of(Instant::now());
        let mut rounds = self.rounds.borrow_mut();
        let last = rounds.len() - 1;
        rounds[round.unwrap_or(last)].errors += count;
    }

    /// How long nothing but errors has been seen.
    pub fn failing_for(&self) -> Duration {
        self.failing_since.get().map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn take_failure(&self) -> Option<BenchError> {
        self.failure.take()
    }

    /// Rounds, and latencies by call.
    pub fn take(&self) -> (Vec<Tally>, Vec<(Call, Histogram<u64>)>) {
        let calls = self.calls.take();
        let calls = Call::ALL.into_iter().zip(calls).filter_map(|(call, histogram)| Some((call, *histogram?)));
        (self.rounds.take(), calls.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_told_apart_and_what_is_outside_of_them_does_not_count() {
        let recorder = Recorder::new(2, Duration::from_millis(100), |call| call == Call::Put);
        let before = Instant::now();
        recorder.done(Call::Put, before, before);
        recorder.begin();
        let began = recorder.began.get().expect("just set");
        let at = |ms| began + Duration::from_millis(ms);
        // Due in the first round, ended in the second: the first one's, with all its lateness.
        recorder.done(Call::Put, at(90), at(150));
        recorder.done(Call::Get, at(110), at(120));
        recorder.done(Call::Put, at(110), at(120));
        recorder.done(Call::Put, at(200), at(210));
        let (rounds, calls) = recorder.take();
        assert_eq!(rounds.iter().map(|round| round.operations).collect::<Vec<_>>(), [1, 1]);
        assert!(rounds[0].latencies.max().abs_diff(60_000_000) < 100_000);
        let calls: Vec<_> = calls.iter().map(|(call, latencies)| (call.name(), latencies.len())).collect();
        assert_eq!(calls, [("put", 2), ("get", 1)]);
    }
}
