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
/// So long after the last absent page entries are looked at when they are logged. A store that is all in memory does not
/// pay for a second descent.
const COLD: Duration = Duration::from_secs(1);
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
    /// When apply last met a page that had to be read.
    met_absent: Option<Duration>,
}

impl Group {
    /// Apply waits for `run`: the ones behind it will wait too.
    pub(super) fn look_behind(&mut self, run: PageRun) {
        self.ahead.met_absent = Some(self.now);
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
        if self.ahead.met_absent.is_some_and(|met| self.now.saturating_sub(met) < COLD) {
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
