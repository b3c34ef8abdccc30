//! Which entries does the log add to the page file?
//!
//! ```text
//!  entry behind `applied`    kept if it follows what is kept; one that comes again replaces the tail
//!  entry behind a gap        not kept: it must be void
//!  truncate                  drops the tail, and a gap that begins there or later
//!  the end                   with a gap left: entries are missing, stop
//! ```
//!
//! A gap is nothing wrong by itself. Entries that a later leader has cut hold no segment (wal's segment.rs), those of a
//! leader that was alone for long fill several, and only the last of these stays: together with the truncation in it. So what
//! is read first may be the end of a tail that is void.

use bytes::Bytes;
use ringstone_raft::{Configuration, Entry, EntryKind, HardState, Index, Term};
use ringstone_wal::{Kind, Record};

use super::{GROUP, OpenError, records};

/// What the log says beyond the page file.
#[derive(Debug, Default)]
pub(super) struct Replay {
    applied: u64,
    pub hard_state: HardState,
    /// Generation of the last checkpoint, and its index.
    pub checkpoint: u64,
    pub checkpoint_index: u64,
    /// The one before `checkpoint`, where the log still has it.
    pub checkpoint_before: u64,
    /// They follow `applied`.
    pub entries: Vec<Entry>,
    /// Where `entries` should go on, and the entry that came instead.
    gap: Option<(u64, u64)>,
    fault: Option<OpenError>,
}

impl Replay {
    /// For a page file that has applied so much.
    pub fn behind(applied: u64) -> Replay {
        Replay { applied, ..Replay::default() }
    }

    /// Takes the log's records, in their order.
    pub fn visit(&mut self, record: &Record<'_>) {
        if record.group != GROUP || self.fault.is_some() {
            return;
        }
        let malformed = |kind| Some(OpenError::Record { kind, index: record.index });
        match record.kind {
            Kind::HardState => match records::read_hard_state(record.payload) {
                Some(hard_state) => self.hard_state = hard_state,
                None => self.fault = malformed("hard state"),
            },
            Kind::Checkpoint => match records::read_checkpoint(record.payload) {
                Some(generation) if generation != self.checkpoint => {
                    self.checkpoint_before = if generation == 0 { 0 } else { self.checkpoint };
                    (self.checkpoint, self.checkpoint_index) = (generation, record.index);
                }
                Some(_) => {}
                None => self.fault = malformed("checkpoint"),
            },
            Kind::Truncate => self.truncate(record.index),
            Kind::Entry => self.entry(record, EntryKind::Normal),
            Kind::Config => match Configuration::decode(&Bytes::copy_from_slice(record.payload)) {
                Some(_) => self.entry(record, EntryKind::Configuration),
                None => self.fault = malformed("configuration"),
            },
            Kind::Position => {}
        }
    }

    /// All was read.
    ///
    /// # Errors
    /// [`OpenError`]: a record is malformed, or entries are missing that were not cut.
    pub fn check(&mut self) -> Result<(), OpenError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let what = "an entry is missing in the log";
        self.gap.map_or(Ok(()), |(_, found)| Err(OpenError::Mismatch { what, applied: self.applied, found }))
    }

    fn truncate(&mut self, from: u64) {
        let keep = self.entries.partition_point(|entry| entry.index.0 < from);
        self.entries.truncate(keep);
        self.gap = self.gap.filter(|(missing, _)| from > *missing);
    }

    fn entry(&mut self, record: &Record<'_>, kind: EntryKind) {
        if record.index <= self.applied {
            return;
        }
        self.truncate(record.index);
        let expected = self.entries.last().map_or(self.applied, |entry| entry.index.0) + 1;
        if record.index != expected {
            self.gap.get_or_insert((expected, record.index));
            return;
        }
        self.entries.push(Entry {
            term: Term(record.term),
            index: Index(record.index),
            kind,
            payload: Bytes::copy_from_slice(record.payload),
        });
    }
}

#[cfg(test)]
mod tests {
    use ringstone_wal::disk::FileName;
    use ringstone_wal::disk::sim::{Keep, SimDisk};
    use ringstone_wal::{Log, Options, run_until_idle};

    use super::*;
    use crate::group::repair::{LogNeed, inspect_log};

    fn options() -> Options {
        Options {
            segment_bytes: 64 << 10,
            fill_slice_bytes: 64 << 10,
            spare_segments: 1,
            create: true,
            ..Options::new(ringstone_wal::Identity([3; 16]))
        }
    }

    fn append(disk: &mut SimDisk, log: &mut Log, kind: Kind, term: u64, index: u64) {
        let payload: &[u8] = if kind == Kind::Entry { &[7; 3000] } else { b"" };
        log.append(Record { group: GROUP, kind, term, index, payload }).expect("room");
        run_until_idle(disk, log).expect("the disk works");
    }

    /// A follower that was leader for long, alone: of its tail from entry 16 on nothing counts, and both metas of the page
    /// file have applied 20 when the log lets go of what they are past. With so many entries behind that.
    fn cut_and_released(behind: u64) -> SimDisk {
        let mut disk = SimDisk::new(1);
        let (mut log, _) = Log::open(&mut disk, options(), &mut |_| {}).expect("a log");
        let holder = log.register_holder("page file", GROUP, 0);
        (1..=70).for_each(|index| append(&mut disk, &mut log, Kind::Entry, 1, index));
        append(&mut disk, &mut log, Kind::Truncate, 0, 16);
        (16..=20 + behind).for_each(|index| append(&mut disk, &mut log, Kind::Entry, 2, index));
        log.release(holder, 20);
        run_until_idle(&mut disk, &mut log).expect("the disk works");
        disk.after_crash(Keep::Nothing)
    }

    /// What opens, as term and index, and the entry that is read first.
    fn replayed(disk: &mut SimDisk, applied: u64) -> (Result<Vec<(u64, u64)>, OpenError>, u64) {
        let (mut replay, mut first) = (Replay::behind(applied), 0);
        let needed = Options { needed_from: vec![(GROUP, applied + 1)], ..options() };
        Log::open(disk, needed, &mut |record| {
            first = if first == 0 { record.index } else { first };
            replay.visit(&record);
        })
        .expect("a sound log");
        let checked = replay.check();
        (checked.map(|()| replay.entries.iter().map(|entry| (entry.term.0, entry.index.0)).collect()), first)
    }

    #[test]
    fn the_end_of_a_cut_tail_may_stand_alone() {
        for behind in 0..3 {
            let (entries, first) = replayed(&mut cut_and_released(behind), 20);
            assert!(first > 31, "what is read begins within the cut tail, far behind the page file: {first}");
            let entries = entries.expect("nothing is missing");
            assert_eq!(entries, (21..=20 + behind).map(|index| (2, index)).collect::<Vec<_>>());
            let facts = inspect_log(&mut cut_and_released(behind), &options()).expect("a sound log");
            assert_eq!(
                facts.need(),
                LogNeed::From(15),
                "the state that a member mends itself with need not be of the cut tail"
            );
            assert!(facts.has(20 + behind, 2) && !facts.has(60, 1));
        }
    }

    #[test]
    fn a_segment_that_is_needed_and_gone_is_missed() {
        let mut disk = SimDisk::new(1);
        let (mut log, _) = Log::open(&mut disk, options(), &mut |_| {}).expect("a log");
        (1..=70).for_each(|index| append(&mut disk, &mut log, Kind::Entry, 1, index));
        // What is cut behind the gap does not close it, nor do those that come in the place of that.
        append(&mut disk, &mut log, Kind::Truncate, 0, 69);
        append(&mut disk, &mut log, Kind::Entry, 2, 69);
        let mut disk = disk.after_crash(Keep::Nothing);
        assert_eq!(replayed(&mut disk, 0).0.expect("all is there").len(), 69);
        disk.tamper_remove(FileName::Segment(1));
        let (missed, first) = replayed(&mut disk, 0);
        assert!(matches!(missed, Err(OpenError::Mismatch { applied: 0, found, .. }) if found == first));
        assert!(replayed(&mut disk, first - 1).0.is_ok(), "it begins where this page file ends");
    }
}
