//! Which entries does the log add to the page file?
//!
//! ```text
//!  entry behind `applied`    kept if it follows what is kept; one that comes again replaces the tail
//!  entry behind a gap        not kept: it must be void
//!  truncate                  drops the tail, and a gap that begins there or later
//!  switch                    a page file of this index was about to take the place of the one in use. If this one is at that
//!                            index, it has: the tail is void, and generations begin anew. Else nothing has happened
//!  the end                   with a gap left: entries are missing, stop
//! ```
//!
//! A gap is nothing wrong by itself. Entries that a later leader has cut hold no segment (wal's segment.rs), those of a
//! leader that was alone for long fill several, and only the last of these stays: together with the truncation in it. So what
//! is read first may be the end of a tail that is void.

use bytes::Bytes;
use ringstone_raft::{Configuration, Entry, EntryKind, HardState, Index, Term};
use ringstone_wal::{Kind, Log, Record, WalError};

use super::records::{self, PageFile, Switch};
use super::{GROUP, OpenError};

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
    /// The last word was that of a switch: what became of it the log does not say yet.
    switch: Option<Settle>,
    fault: Option<OpenError>,
}

/// What became of a switch, and the index of the old page file.
#[derive(Debug)]
struct Settle {
    index: u64,
    is_done: bool,
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
                Some(PageFile::Has(generation)) => {
                    self.switch = None;
                    self.checkpoint(generation, record.index);
                }
                Some(PageFile::Switch(switch)) => self.switch(switch, record.index),
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

    fn checkpoint(&mut self, generation: u64, index: u64) {
        if generation != self.checkpoint {
            self.checkpoint_before = if generation == 0 { 0 } else { self.checkpoint };
            (self.checkpoint, self.checkpoint_index) = (generation, index);
        }
    }

    /// A later state of the old file reaches the index, too, and what stood behind that before this record is as void then:
    /// the entry at that index was not that of the log, and replaced it.
    fn switch(&mut self, switch: Switch, index: u64) {
        let is_done = self.applied >= switch.index;
        if is_done {
            self.entries.clear();
            self.gap = None;
            self.checkpoint(0, index);
        } else if switch.generation > self.checkpoint {
            self.checkpoint(switch.generation, index);
        }
        self.switch = Some(Settle { index, is_done });
    }

    /// Says in the log what became of a switch, so that it is not asked again when the page file has moved on.
    pub(super) fn settle(&self, log: &mut Log) -> Result<(), WalError> {
        let Some(Settle { index, is_done }) = self.switch else { return Ok(()) };
        if is_done {
            let truncate = Record { group: GROUP, kind: Kind::Truncate, term: 0, index: index + 1, payload: &[] };
            log.append(truncate)?;
        }
        let payload = records::checkpoint(self.checkpoint);
        log.append(Record { group: GROUP, kind: Kind::Checkpoint, term: 0, index, payload: &payload })?;
        if !is_done {
            tracing::info!(
                "this member ended before the state of another took the place of its own: it goes on with that"
            );
        }
        Ok(())
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
    use ringstone_wal::{Options, run_until_idle};

    use super::*;
    use crate::group::repair::{LogNeed, inspect_log};

    fn of_records(applied: u64, records: &[(Kind, u64, Vec<u8>)]) -> Replay {
        let mut replay = Replay::behind(applied);
        for (kind, index, payload) in records {
            replay.visit(&Record { group: GROUP, kind: *kind, term: 1, index: *index, payload });
        }
        replay.check().expect("nothing is missing");
        replay
    }

    fn entries(from: u64, to: u64) -> Vec<(Kind, u64, Vec<u8>)> {
        (from..=to).map(|index| (Kind::Entry, index, b"x".to_vec())).collect()
    }

    fn switch(index: u64, generation: u64) -> Vec<(Kind, u64, Vec<u8>)> {
        vec![(Kind::Checkpoint, 4, records::switch(&Switch { index, generation }).to_vec())]
    }

    fn checkpoint(generation: u64) -> Vec<(Kind, u64, Vec<u8>)> {
        vec![(Kind::Checkpoint, 4, records::checkpoint(generation).to_vec())]
    }

    fn kept(replay: &Replay) -> Vec<u64> {
        replay.entries.iter().map(|entry| entry.index.0).collect()
    }

    /// A member that had acknowledged entries 5 to 8 ended within the switch to an image of index 10. It had cut its log there,
    /// and its leader, which went on counting on them, stopped it (seed 7209).
    #[test]
    fn a_switch_counts_where_the_page_file_is_the_new_one() {
        let about = [checkpoint(3), entries(5, 8), switch(10, 3)].concat();
        let old = of_records(4, &about);
        assert_eq!((kept(&old), old.checkpoint), (vec![5, 6, 7, 8], 3), "nothing has happened");
        assert!(old.switch.as_ref().is_some_and(|settle| !settle.is_done));
        let new = of_records(10, &about);
        assert_eq!((kept(&new), new.checkpoint), (vec![], 0));
        assert!(new.switch.as_ref().is_some_and(|settle| settle.is_done));
        // The tail of another leader, behind the index as well.
        let tail = [entries(5, 14), switch(10, 3)].concat();
        assert!(kept(&of_records(10, &tail)).is_empty());
        assert_eq!(kept(&of_records(4, &tail)).len(), 10);
        // The record of the last checkpoint went with its segment.
        assert_eq!(of_records(4, &switch(10, 3)).checkpoint, 3);
    }

    #[test]
    fn what_became_of_a_switch_is_asked_once() {
        let truncate = vec![(Kind::Truncate, 5, vec![])];
        let done = [entries(5, 14), switch(10, 3), truncate, checkpoint(0), entries(11, 12)].concat();
        let new = of_records(10, &done);
        assert_eq!((kept(&new), new.checkpoint, new.switch.is_some()), (vec![11, 12], 0, false));
        // It did not happen. The page file has passed its index since, by entries that came again.
        let not = [checkpoint(3), entries(5, 8), switch(10, 3), checkpoint(3), entries(9, 13), checkpoint(4)].concat();
        let later = of_records(11, &not);
        assert_eq!((kept(&later), later.checkpoint, later.switch.is_some()), (vec![12, 13], 4, false));
        assert_eq!(kept(&of_records(4, &not)), (5..=13).collect::<Vec<_>>());
    }

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
