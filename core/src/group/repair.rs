//! A member without a group, that fetches the state from another one: what does its log still say, and how does it go on
//! behind that state?
//!
//! ```text
//!   log     ... | base | base + 1 ......... last |        whole: every entry that this member may have acknowledged is
//!                                                         one of these, or stands behind base in any state from it on
//!   state of another member at `index` of `term`
//!     index < base                              refused: entries between them would be missing
//!     base <= index <= last, of that term       the log goes on behind it: nothing is forgotten       (mark_state)
//!     else                                      what the log has is in the state, or was never agreed on   (void_log)
//!   the log can't be read                       begun anew, with term and vote from elsewhere         (make_log)
//! ```
//!
//! Why that is safe stands in docs/decisions/0012-mending.md. In one line each: a member in this place is as good as one
//! that is switched off; what another member has *applied* is committed; and in the last two cases the caller has taken care
//! that the state is not older than anything that this member may have helped to commit.

use ringstone_raft::{HardState, Index, Term};
use ringstone_wal::disk::Disk as LogDisk;
use ringstone_wal::{Kind, Log, Options, Record, WalError};

use super::records::PageFile;
use super::{GROUP, records};

/// What a whole log says, without the state that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// The last term and vote.
    pub hard_state: HardState,
    /// The entry before `terms`; none: the log stands behind a state whose place it does not know.
    base: Option<Index>,
    /// Of each entry behind `base`.
    terms: Vec<Term>,
}

/// What a state has to be, for a log to go on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogNeed {
    /// It has applied at least this index.
    From(u64),
    /// It is of a leader that has proved itself since it was asked.
    Confirmed,
}

impl LogFacts {
    /// Which states this log can go on behind.
    #[must_use]
    pub fn need(&self) -> LogNeed {
        self.base.map_or(LogNeed::Confirmed, |base| LogNeed::From(base.0))
    }

    /// Whether the log has the entry at which a state was taken, so that what is behind it still counts.
    #[must_use]
    pub fn has(&self, index: u64, term: u64) -> bool {
        let Some(base) = self.base else { return false };
        match index.checked_sub(base.0) {
            Some(0) => true,
            Some(behind) => self.terms.get(behind as usize - 1) == Some(&Term(term)),
            None => false,
        }
    }

    fn last(&self) -> Index {
        Index(self.base.unwrap_or_default().0 + self.terms.len() as u64)
    }

    /// `before` is the last entry before the first segment that there is. A configuration from before it comes first, as a
    /// copy: by itself it says nothing of where the log stands.
    fn settled(mut self, before: Index, is_other_state: bool) -> LogFacts {
        if self.terms.is_empty() || self.last() <= before {
            self.base = if is_other_state { None } else { Some(before) };
            self.terms.clear();
        }
        self
    }

    /// Nothing is known of what it goes on behind.
    fn give_up(&mut self) {
        self.base = None;
        self.terms.clear();
    }

    fn truncate(&mut self, from: u64) {
        let base = self.base.unwrap_or_default().0;
        self.terms.truncate(from.saturating_sub(base + 1) as usize);
    }

    fn entry(&mut self, record: &Record<'_>) {
        self.truncate(record.index);
        if self.base.is_none() || Index(record.index) != self.last().next() {
            // The first one, or the first behind a state that took the place of another.
            self.base = Some(Index(record.index - 1));
            self.terms.clear();
        }
        self.terms.push(Term(record.term));
    }
}

/// Reads a log, and writes nothing.
///
/// # Errors
/// [`WalError`]: it is damaged, or can't be read.
pub fn inspect_log(disk: &mut dyn LogDisk, options: &Options) -> Result<LogFacts, WalError> {
    let mut facts = LogFacts::default();
    let (mut is_void, mut is_other_state, mut is_open, mut cut) = (false, false, false, u64::MAX);
    let recovered = ringstone_wal::read_only(disk, options.identity, &mut |record| {
        if record.group != GROUP {
            return;
        }
        match record.kind {
            Kind::HardState => {
                facts.hard_state = records::read_hard_state(record.payload).unwrap_or(facts.hard_state);
            }
            Kind::Entry | Kind::Config if record.index > 0 => facts.entry(&record),
            Kind::Truncate => {
                facts.truncate(record.index);
                cut = cut.min(record.index.saturating_sub(1));
            }
            // A state of unknown place took that of the old one, and what was behind that is void.
            Kind::Checkpoint => {
                let says = records::read_checkpoint(record.payload);
                is_open = matches!(says, Some(PageFile::Switch(_)));
                is_other_state = says == Some(PageFile::Has(0));
                if is_other_state && is_void {
                    facts.give_up();
                }
            }
            _ => {}
        }
        is_void = record.kind == Kind::Truncate;
    })?;
    if is_open {
        // Which of the two page files it was that is lost, nobody can say any more.
        is_other_state = true;
        facts.give_up();
    }
    let before = recovered.before_first.iter().find(|before| before.0 == GROUP).map_or(0, |before| before.2);
    // The first segment may begin within a tail that is void (replay.rs).
    Ok(facts.settled(Index(before.min(cut)), is_other_state))
}

/// Another state takes the place of the one that the log belongs to; its entries behind that state go on to count. On disk
/// when this returns.
///
/// # Errors
/// [`WalError`].
pub fn mark_state(disk: &mut dyn LogDisk, options: Options) -> Result<(), WalError> {
    let (mut log, _) = Log::open(disk, options, &mut |_| {})?;
    append(&mut log, Kind::Checkpoint, 0, &records::checkpoint(0))?;
    finish(disk, &mut log)
}

/// As [`mark_state`], and no entry of the log counts any more. `term` is that of the state. On disk when this returns.
///
/// # Errors
/// [`WalError`].
pub fn void_log(disk: &mut dyn LogDisk, options: Options, facts: &LogFacts, term: u64) -> Result<(), WalError> {
    let (mut log, _) = Log::open(disk, options, &mut |_| {})?;
    let base = facts.base.unwrap_or_default();
    append(&mut log, Kind::HardState, base.0, &records::hard_state(&not_before(facts.hard_state, term)))?;
    append(&mut log, Kind::Truncate, base.next().0, &[])?;
    append(&mut log, Kind::Checkpoint, base.0, &records::checkpoint(0))?;
    finish(disk, &mut log)
}

/// The log is given up; a new one has term and vote, and no entries; `term` is that of the state. On disk when this returns.
/// After a crash on the way there may be no log, a part of the old one, or the new one: the caller's mark says that none of
/// them is to be believed.
///
/// # Errors
/// [`WalError`].
pub fn make_log(disk: &mut dyn LogDisk, options: Options, hard_state: HardState, term: u64) -> Result<(), WalError> {
    ringstone_wal::give_up(disk)?;
    let (mut log, _) = Log::open(disk, Options { create: true, ..options }, &mut |_| {})?;
    append(&mut log, Kind::HardState, 0, &records::hard_state(&not_before(hard_state, term)))?;
    append(&mut log, Kind::Checkpoint, 0, &records::checkpoint(0))?;
    finish(disk, &mut log)
}

/// A member has seen the term of what it has applied; of one that it had not seen before it has voted for nobody.
fn not_before(hard_state: HardState, term: u64) -> HardState {
    if hard_state.term >= Term(term) { hard_state } else { HardState { term: Term(term), vote: None } }
}

fn append(log: &mut Log, kind: Kind, index: u64, payload: &[u8]) -> Result<(), WalError> {
    log.append(Record { group: GROUP, kind, term: 0, index, payload }).map(drop)
}

fn finish(disk: &mut dyn LogDisk, log: &mut Log) -> Result<(), WalError> {
    log.close();
    ringstone_wal::run_until_idle(disk, log)
}

#[cfg(test)]
mod tests {
    use ringstone_raft::NodeId;
    use ringstone_wal::disk::sim::{Keep, SimDisk};

    use super::*;
    use crate::group::records::Switch;

    fn options() -> Options {
        Options { segment_bytes: 64 << 10, ..Options::new(ringstone_wal::Identity([3; 16])) }
    }

    /// In place of a generation.
    const SWITCH: u64 = u64::MAX;

    /// A log with these records; an entry is (index, term), a truncation (from, 0), (0, 0) another state.
    fn log_of(parts: &[(Kind, u64, u64)]) -> SimDisk {
        let mut disk = SimDisk::new(1);
        let (mut log, _) = Log::open(&mut disk, Options { create: true, ..options() }, &mut |_| {}).expect("a log");
        let vote = records::hard_state(&HardState { term: Term(4), vote: Some(NodeId(2)) });
        append(&mut log, Kind::HardState, 0, &vote).expect("room");
        for (kind, index, term) in parts {
            let (generation, about) = (records::checkpoint(*term), Switch { index: index + 9, generation: 7 });
            let payload = match (*kind, *term) {
                (Kind::Checkpoint, SWITCH) => records::switch(&about).to_vec(),
                (Kind::Checkpoint, _) => generation.to_vec(),
                _ => b"x".to_vec(),
            };
            let payload = payload.as_slice();
            let record = Record { group: GROUP, kind: *kind, term: *term, index: *index, payload };
            log.append(record).expect("room");
        }
        finish(&mut disk, &mut log).expect("the disk works");
        disk
    }

    fn facts(disk: &mut SimDisk) -> LogFacts {
        inspect_log(disk, &options()).expect("a whole log")
    }

    fn entries(from: u64, to: u64, term: u64) -> Vec<(Kind, u64, u64)> {
        (from..=to).map(|index| (Kind::Entry, index, term)).collect()
    }

    #[test]
    fn a_log_says_which_states_it_goes_on_behind() {
        let mut disk = log_of(&[entries(1, 6, 1), vec![(Kind::Truncate, 5, 0)], entries(5, 8, 2)].concat());
        let facts = facts(&mut disk);
        assert_eq!(facts.hard_state, HardState { term: Term(4), vote: Some(NodeId(2)) });
        assert_eq!(facts.need(), LogNeed::From(0));
        assert!(facts.has(0, 0) && facts.has(4, 1) && facts.has(5, 2) && facts.has(8, 2));
        assert!(!facts.has(5, 1), "another entry stood there");
        assert!(!facts.has(9, 2), "behind its end");
    }

    #[test]
    fn behind_another_state_only_what_came_after_it_counts() {
        let void = |last: u64| vec![(Kind::Truncate, last + 1, 0), (Kind::Checkpoint, last, 0)];
        // Nothing came after it: where it stands, the log does not know.
        let mut disk = log_of(&[entries(1, 6, 1), void(6)].concat());
        assert_eq!(facts(&mut disk).need(), LogNeed::Confirmed);
        let mut disk = log_of(&[entries(1, 6, 1), void(6), entries(21, 23, 3)].concat());
        let known = facts(&mut disk);
        assert_eq!(known.need(), LogNeed::From(20));
        assert!(known.has(20, 9) && known.has(22, 3) && !known.has(19, 3));
        // What became of a switch nobody can say, nor what it went on behind.
        let about = (Kind::Checkpoint, 6, SWITCH);
        assert_eq!(facts(&mut log_of(&[entries(1, 6, 1), vec![about]].concat())).need(), LogNeed::Confirmed);
        let not = [entries(1, 6, 1), vec![about, (Kind::Checkpoint, 6, 7)], entries(7, 8, 1)].concat();
        assert_eq!(facts(&mut log_of(&not)).need(), LogNeed::From(0));
        // A checkpoint of the file itself is none.
        let mut disk = log_of(&[entries(1, 6, 1), vec![(Kind::Checkpoint, 6, 7)]].concat());
        assert_eq!(facts(&mut disk).need(), LogNeed::From(0));
    }

    /// The copy of an old configuration in front of a segment is not the log's last entry: a state between the two would lack
    /// what this member has acknowledged.
    #[test]
    fn a_configuration_that_is_carried_over_is_not_where_the_log_stands() {
        let carried = |entries: std::ops::RangeInclusive<u64>| {
            let mut facts = LogFacts::default();
            for index in std::iter::once(1).chain(entries) {
                facts.entry(&Record { group: GROUP, kind: Kind::Config, term: 2, index, payload: b"" });
            }
            facts
        };
        let none = carried(1..=1).settled(Index(46), false);
        assert!(none.need() == LogNeed::From(46) && none.has(46, 2) && !none.has(1, 2));
        assert_eq!(carried(1..=1).settled(Index(46), true).need(), LogNeed::Confirmed);
        let some = carried(47..=49).settled(Index(46), false);
        assert!(some.need() == LogNeed::From(46) && some.has(49, 2) && !some.has(50, 2) && !some.has(45, 2));
    }

    /// Each of the three writes leaves what the next look, and the next start, go by.
    #[test]
    fn what_is_written_is_what_is_read() {
        let whole = [entries(1, 6, 1), entries(7, 9, 2)].concat();
        let mut disk = log_of(&whole);
        let before = facts(&mut disk);
        mark_state(&mut disk, options()).expect("the disk works");
        assert_eq!(facts(&mut disk), before, "nothing is forgotten");
        void_log(&mut disk, options(), &before, 4).expect("the disk works");
        let after = facts(&mut disk);
        assert_eq!((after.need(), after.hard_state), (LogNeed::Confirmed, before.hard_state));
        void_log(&mut disk, options(), &before, 5).expect("the disk works");
        assert_eq!(facts(&mut disk).hard_state, HardState { term: Term(5), vote: None });
        let vote = HardState { term: Term(9), vote: Some(NodeId(1)) };
        make_log(&mut disk, options(), vote, 9).expect("the disk works");
        assert_eq!(facts(&mut disk), LogFacts { hard_state: vote, ..LogFacts::default() });
    }

    /// Stopped at each of its operations, with what was not synced lost, kept and torn: done again, it is done.
    #[test]
    fn a_log_is_begun_anew_whatever_a_crash_has_left_of_that() {
        let whole = [entries(1, 60, 1)].concat();
        let vote = HardState { term: Term(9), vote: Some(NodeId(1)) };
        let mut stopped = 0;
        for fails in 0.. {
            let mut disk = log_of(&whole).after_crash(Keep::All);
            disk.tamper(ringstone_wal::disk::FileName::Segment(1), |bytes| bytes[4096 * 2 + 99] ^= 1);
            assert!(inspect_log(&mut disk, &options()).is_err());
            disk.inject(fails, ringstone_wal::disk::sim::Fault::Failed(libc::EIO));
            let made = make_log(&mut disk, options(), vote, 1);
            for keep in [Keep::Nothing, Keep::All, Keep::Torn(fails), Keep::Random(fails)] {
                let mut disk = disk.after_crash(keep);
                make_log(&mut disk, options(), vote, 1).expect("the disk works again");
                assert_eq!(facts(&mut disk).hard_state, vote);
                assert_eq!(facts(&mut disk).need(), LogNeed::Confirmed);
            }
            if made.is_ok() {
                break;
            }
            stopped += 1;
        }
        assert!(stopped >= 6, "{stopped}");
    }
}
