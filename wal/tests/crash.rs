//! Stops the log at every step of a history that meets everything it does: first open, appends, batches that do not fit
//! the segment, segment changes, recycling, truncation, closing blocks, clean stops. Whatever of the unsynced writes
//! survives, and if recovery is stopped at each of its steps, too: nothing acknowledged is lost, nothing is
//! invented, the order is kept, and what was cut never comes back.
//!
//! Not checked here: disks that lie about a sync, damage (see damage.rs).

mod common;

use common::{Owned, entry, open, record, small};
use ringstone_wal::disk::Disk;
use ringstone_wal::disk::sim::{Fault, Keep, Random, SimDisk};
use ringstone_wal::{HolderId, Kind, Log, Options, WalError, run_until_idle};
use std::collections::BTreeMap;

/// What the owner of the log knows at the moment of the crash.
#[derive(Default)]
struct Model {
    /// All that was appended, with the batch.
    appended: Vec<(Owned, u64)>,
    synced: u64,
    /// Entries below it are no longer needed.
    released: u64,
    opened: bool,
}

/// Entries and the last record of each other kind: what a replay adds up to.
fn state<'a>(
    records: impl Iterator<Item = &'a Owned>,
    from: u64,
) -> (BTreeMap<u64, &'a Owned>, BTreeMap<Kind, &'a Owned>) {
    let (mut entries, mut last) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        match record.kind {
            Kind::Entry => _ = entries.insert(record.index, record),
            Kind::Truncate => entries.retain(|&index, _| index < record.index),
            kind => _ = last.insert(kind, record),
        }
    }
    entries.retain(|&index, _| index >= from);
    (entries, last)
}

struct History {
    disk: SimDisk,
    model: Model,
    random: Random,
    index: u64,
    clock: u64,
}

impl History {
    fn new(seed: u64) -> History {
        History {
            disk: SimDisk::new(seed),
            model: Model::default(),
            random: Random::new(seed ^ 0xABCD),
            index: 0,
            clock: 0,
        }
    }

    fn open(&mut self) -> Result<(Log, HolderId), WalError> {
        let (mut log, ..) = open(&mut self.disk, small())?;
        self.model.opened = true;
        let meta = log.register_holder("meta", 1, self.model.released);
        Ok((log, meta))
    }

    /// A few steps of the owner's loop: sometimes only submits, sometimes only takes completions.
    fn pump(&mut self, log: &mut Log, steps: u64) -> Result<(), WalError> {
        for _ in 0..steps {
            if self.random.below(2) == 0 {
                if let Some((token, io)) = log.poll_io() {
                    self.disk.submit(token, io);
                }
            } else if let Some(completion) = self.disk.poll_completion() {
                log.completed(completion);
            }
            self.disk.flush()?;
            self.note(log)?;
        }
        Ok(())
    }

    fn note(&mut self, log: &Log) -> Result<(), WalError> {
        self.model.synced = log.synced().0;
        log.failure().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    fn append(&mut self, log: &mut Log, record: Owned) -> Result<(), WalError> {
        let batch = loop {
            match log.append(record.borrow()) {
                Err(WalError::Full) => {
                    self.pump(log, 4)?;
                    // Space that was missing is asked for again.
                    self.clock += 500_000_000;
                    log.quiet(self.clock);
                }
                other => break other?,
            }
        };
        self.model.appended.push((record, batch.0));
        let steps = self.random.below(5);
        self.pump(log, steps)
    }

    fn entry(&mut self, log: &mut Log, bytes: usize) -> Result<(), WalError> {
        self.index += 1;
        self.append(log, entry(self.index, bytes))
    }

    fn idle(&mut self, log: &mut Log) -> Result<(), WalError> {
        let result = run_until_idle(&mut self.disk, log);
        self.note(log)?;
        result
    }

    fn run(&mut self) -> Result<(), WalError> {
        let (mut log, meta) = self.open()?;
        self.append(&mut log, record(Kind::HardState, 0, b"first vote"))?;
        for bytes in [10, 5000, 300, 12_000, 1] {
            self.entry(&mut log, bytes)?;
        }
        self.idle(&mut log)?;
        log.quiet(self.clock);
        self.clock += 1_000_000_000;
        log.quiet(self.clock);
        self.idle(&mut log)?;
        for at in 0..10 {
            self.entry(&mut log, 2500 + at * 700)?;
        }
        self.index = 8;
        self.append(&mut log, record(Kind::Truncate, 9, b""))?;
        self.append(&mut log, record(Kind::HardState, 0, b"second vote"))?;
        for _ in 0..12 {
            self.entry(&mut log, 6000)?;
        }
        self.append(&mut log, record(Kind::Checkpoint, 12, b"generation 2"))?;
        self.idle(&mut log)?;
        self.model.released = 12;
        log.release(meta, 12);
        for _ in 0..14 {
            self.entry(&mut log, 4000)?;
        }
        log.close();
        self.idle(&mut log)?;
        let (mut log, meta) = self.open()?;
        self.model.released = 30;
        log.release(meta, 30);
        for _ in 0..8 {
            self.entry(&mut log, 9000)?;
        }
        self.idle(&mut log)
    }

    /// Replays `records` must be what some batch number between synced and appended left behind.
    fn check(&self, records: &[Owned], last_batch: u64, context: &str) {
        let model = &self.model;
        assert!(
            last_batch >= model.synced,
            "{context}: batch {} was acknowledged, {last_batch} is the last",
            model.synced
        );
        let end = model.appended.partition_point(|(_, batch)| *batch <= last_batch);
        let wanted = model.appended[..end].iter().map(|(record, _)| record);
        let released = model.released;
        let brief = |records: &[Owned]| records.iter().map(|r| (r.kind, r.index, r.payload.len())).collect::<Vec<_>>();
        assert!(
            state(records.iter(), released) == state(wanted, released),
            "{context}: another state, released {released}, last batch {last_batch}, synced {}: {:?} of {:?}",
            model.synced,
            brief(records),
            model.appended[..end].iter().map(|(r, b)| (b, r.kind, r.index)).collect::<Vec<_>>(),
        );
        // Carried records first, then a piece of the history without a gap, to its end.
        let gapless = (0..=3.min(records.len())).any(|carried| {
            let rest = records.len() - carried;
            rest <= end
                && records[carried..].iter().eq(model.appended[end - rest..end].iter().map(|(record, _)| record))
                && records[..carried]
                    .iter()
                    .all(|record| model.appended[..end - rest].iter().any(|(known, _)| known == record))
        });
        assert!(gapless, "{context}: not a piece of the history");
    }

    /// Recovers `disk`, crashing inside recovery as `crashes` says, checks, goes on and checks again.
    fn recover(&self, mut disk: SimDisk, context: &str) {
        let (mut log, recovered, records) = match open(&mut disk, small()) {
            Ok(opened) => opened,
            Err(error) => panic!("{context}: {error}"),
        };
        self.check(&records, recovered.last_batch.0, context);
        let mut more = records;
        more.push(entry(1000, 5000));
        log.append(more[more.len() - 1].borrow()).expect("appends");
        run_until_idle(&mut disk, &mut log).expect("runs");
        let (_, _, again) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens again");
        assert!(again == more, "{context}: something came back, or went, after recovery");
    }
}

fn keeps(step: u64) -> [Keep; 5] {
    [Keep::All, Keep::Nothing, Keep::Random(step), Keep::Torn(step), Keep::Torn(!step)]
}

fn enumerate(seed: u64) {
    let mut whole = History::new(seed);
    whole.run().expect("the history runs");
    let steps = whole.disk.steps();
    assert!(steps > 200, "the history is rich: {steps}");
    whole.recover(whole.disk.after_crash(Keep::Nothing), "after all");
    for step in 0..steps {
        let mut history = History::new(seed);
        history.disk.crash_at(step);
        history.run().expect_err("it crashes before its end");
        // What recovery delivers after a kill must survive the power cut that follows.
        history.recover(history.disk.after_kill(), &format!("seed {seed}, killed at step {step}"));
        for keep in keeps(step) {
            let disk = history.disk.after_crash(keep);
            // Recovery is stopped at each of its own steps, until one more step is all of it.
            for second in 0.. {
                let mut again = disk.after_crash(Keep::All);
                again.crash_at(second);
                let finished = open(&mut again, small()).is_ok();
                let keep_second = keeps(step.wrapping_mul(31) ^ second)[(second % 5) as usize];
                let context =
                    format!("seed {seed}, step {step}, {keep:?}, recovery stopped at {second}, {keep_second:?}");
                history.recover(again.after_crash(keep_second), &context);
                if finished {
                    break;
                }
            }
        }
    }
}

#[test]
fn every_step_of_a_history_may_be_the_last_1() {
    enumerate(1);
}

#[test]
fn every_step_of_a_history_may_be_the_last_2() {
    enumerate(2);
}

#[test]
fn every_operation_may_fail() {
    for fault in [Fault::Errno(libc::EIO), Fault::Failed(libc::EIO), Fault::Errno(libc::ENOSPC)] {
        for submission in 0.. {
            let mut history = History::new(3);
            history.disk.inject(submission, fault);
            let result = history.run();
            history.recover(history.disk.after_kill(), &format!("{fault:?} at submission {submission}, killed"));
            for keep in keeps(submission) {
                let context = format!("{fault:?} at submission {submission}, {keep:?}");
                history.recover(history.disk.after_crash(keep), &context);
            }
            // The last of them come too late to be met.
            if result.is_ok() && submission > 500 {
                break;
            }
        }
    }
}

#[test]
fn short_writes_lose_nothing() {
    for submission in 0..400 {
        for bytes in [0, 512, 4096] {
            let mut history = History::new(4);
            history.disk.inject(submission, Fault::Short(bytes));
            // Recovery's own blocking writes do not try again; everything else does.
            let _ = history.run();
            history.recover(history.disk.after_crash(Keep::Random(submission)), &format!("short write {submission}"));
        }
    }
}

#[test]
fn a_first_open_that_was_cut_short_is_not_a_log() {
    let mut reached = 0;
    for step in 0..200 {
        let mut disk = SimDisk::new(9);
        disk.crash_at(step);
        if open(&mut disk, small()).is_ok() {
            break;
        }
        reached = step;
        for keep in keeps(step) {
            let closed = Options { create: false, ..small() };
            let mut after = disk.after_crash(keep);
            match open(&mut after, closed) {
                Err(WalError::NoLog) => {}
                Ok((_, recovered, records)) => assert_eq!((recovered.last_batch.0, records.len()), (0, 0)),
                Err(error) => panic!("step {step}, {keep:?}: {error}"),
            }
        }
    }
    assert!(reached > 10);
}
