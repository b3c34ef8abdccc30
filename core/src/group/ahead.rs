//! Which pages will the entries on their way need?
//!
//! Apply meets absent pages one at a time, and each costs a read: a member that starts again, or a store that is larger
//! than memory, would wait for the disk once an entry. So where pages are absent at all, entries are looked at before
//! their turn: when they go into the log, and behind the one that apply waits with. What the page cache holds is taken
//! in at once; the rest is told to the driver, which reads many together. All of it is a hint: apply looks again.

use std::time::Duration;

use ringstone_pager::api::{Damage, Fault, PageRun, ReadTrees as _};
use ringstone_raft::EntryKind;
use rkyv::vec::ArchivedVec;

use super::{Group, GroupError};
use crate::command::{ArchivedCommand, ArchivedOp};
use crate::entry::Entry;
use crate::trees::LIVE;

/// Entries behind a waiting one that are looked at.
const ENTRIES_AHEAD_MAX: usize = 128;
/// Pages that the driver is told of and has not taken yet.
const WANTED_MAX: usize = 128;
/// Over so long entries and reads are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Entries are looked at when they are logged where there was a read for each so many of them, now or in the window before. A
/// store that is all but in memory does not pay for a second descent of each put.
const ENTRIES_A_READ: u64 = 64;
/// Pages that one turn of apply takes in from the page cache before other tasks run: about a millisecond.
pub(super) const CACHED_PAGES_A_TURN: usize = 512;

/// Reads of a page that is gone each time, before it is touched all the same.
const READS_MAX: u32 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    wanted: Vec<PageRun>,
    /// Reads in a row of the page that apply waits for, which was gone each time.
    reads: u32,
    cold: Cold,
}

/// How many entries need a page that has to be read.
#[derive(Debug, Default)]
struct Cold {
    since: Duration,
    entries: u64,
    reads: u64,
    was_cold: bool,
}

impl Cold {
    fn turn(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since);
        if passed >= WINDOW {
            let was_cold = self.is_cold() && passed < 2 * WINDOW;
            *self = Cold { since: now, was_cold, ..Cold::default() };
        }
    }

    fn is_cold(&self) -> bool {
        self.reads > 0 && self.reads * ENTRIES_A_READ >= self.entries
    }

    fn note_read(&mut self, now: Duration) {
        self.turn(now);
        self.reads += 1;
    }

    /// Is this entry worth a look?
    fn note_entry(&mut self, now: Duration) -> bool {
        self.turn(now);
        self.entries += 1;
        self.was_cold || self.is_cold()
    }
}

impl Group {
    /// Apply waits for `run`: the ones behind it will wait too.
    pub(super) fn look_behind(&mut self, run: PageRun) {
        self.ahead.cold.note_read(self.now);
        self.ahead.wanted.retain(|wanted| wanted.first != run.first);
        let payloads: Vec<_> = self
            .committed
            .iter()
            .skip(1)
            .take(ENTRIES_AHEAD_MAX)
            .filter(|entry| entry.kind == EntryKind::Normal)
            .map(|entry| entry.payload.clone())
            .collect();
        payloads.iter().for_each(|payload| self.look_at(payload));
    }

    /// An entry goes into the log: by the time it is synced its pages are there.
    pub(super) fn look_at_logged(&mut self, payload: &[u8]) {
        if self.ahead.cold.note_entry(self.now) {
            self.look_at(payload);
        }
    }

    fn look_at(&mut self, payload: &[u8]) {
        if self.ahead.wanted.len() >= WANTED_MAX {
            return;
        }
        let Ok(entry) = Entry::read(payload) else { return };
        match entry.command {
            ArchivedCommand::Put(put) => self.want(&put.key),
            ArchivedCommand::DeleteRange(delete) => self.want(&delete.key),
            ArchivedCommand::Txn(txn) => {
                txn.compare.iter().for_each(|compare| self.want(&compare.key));
                [&txn.success, &txn.failure].into_iter().for_each(|ops| self.want_ops(ops));
            }
            _ => {}
        }
    }

    fn want_ops(&mut self, ops: &ArchivedVec<ArchivedOp>) {
        for op in ops.iter() {
            match op {
                ArchivedOp::Put(put) => self.want(&put.key),
                ArchivedOp::DeleteRange(delete) => self.want(&delete.key),
                ArchivedOp::Range(_) | ArchivedOp::Txn(_) => {}
            }
        }
    }

    /// Takes in what the page cache has of the way to a key, and notes the first page that it has not.
    fn want(&mut self, key: &[u8]) {
        while let Err(Fault::Absent(run)) = self.pager.get(LIVE, key) {
            match self.pager.bring_in_cached(run) {
                Ok(true) => {}
                Ok(false) => {
                    if !self.ahead.wanted.iter().any(|wanted| wanted.first == run.first) {
                        self.ahead.wanted.push(run);
                        self.ahead.cold.note_read(self.now);
                    }
                    return;
                }
                // Apply will meet it, and say so.
                Err(_) => return,
            }
        }
    }

    /// A page that will be needed soon: to be read beside others, and told by [`Group::prefetched`].
    pub fn poll_prefetch(&mut self) -> Option<PageRun> {
        self.ahead.wanted.pop().or_else(|| self.poll_shrink_read())
    }

    /// A page that was read ahead is in the page cache. It may have another owner by now, so that a failed check means
    /// nothing: whoever needs it checks it again.
    ///
    /// # Errors
    /// As [`Group::brought_in`], where apply waits for this very page.
    pub fn prefetched(&mut self, run: PageRun, result: Result<(), Damage>) -> Result<(), GroupError> {
        self.shrink_read(run, &result);
        if self.absent == Some(run) {
            result.map_err(GroupError::Damaged)?;
            // It may have left again already: then another read costs less than a touch that waits.
            let is_cached = self.pager.bring_in_cached(run).map_err(GroupError::Damaged)?;
            self.ahead.reads = if is_cached { 0 } else { self.ahead.reads + 1 };
            if !is_cached && run.pages == 1 && self.ahead.reads < READS_MAX {
                return Ok(());
            }
            self.ahead.reads = 0;
            return self.brought_in(run);
        }
        if result.is_ok() {
            // Of a long run the kernel is not asked.
            let _ =
                if run.pages == 1 { self.pager.bring_in_cached(run).map(drop) } else { self.pager.bring_in_done(run) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_looked_at_where_many_of_them_need_a_read() {
        let (mut cold, ms) = (Cold::default(), Duration::from_millis);
        assert!(!cold.note_entry(ms(0)), "nothing was absent");
        cold.note_read(ms(10));
        assert!((0..63).all(|_| cold.note_entry(ms(10))));
        assert!(!cold.note_entry(ms(20)), "one read for more than 64 entries");
        assert!(!cold.note_entry(ms(1100)), "nor was the window before one of reads");
        cold.note_read(ms(1200));
        assert!(cold.note_entry(ms(2000)));
        assert!((0..1000).all(|_| cold.note_entry(ms(2200))), "the window before was");
        assert!(!cold.note_entry(ms(9000)));
    }
}
