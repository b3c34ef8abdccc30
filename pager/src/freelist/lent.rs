//! Pages that the state of a checkpoint does not refer to in the file, though in memory it does: what deltas differ from.
//!
//! A checkpoint writes a delta as a page of its own, so that its maps have the page below as free: should the power fail
//! behind it, nothing else would say so. But the frame reads that page until nobody reads the frame.
//! ```text
//!  lend      all deltas of the checkpoint have pages; its maps come next, with the pages below free in them
//!  (checkpointed, by that one: the older meta refers to them)
//!  take_back the current state refers to no delta above it any more: from now on, a pin of a generation before it may
//!  (checkpointed, by the next one: no meta refers to them)
//!  release   no such pin is left: free
//! ```

use std::collections::HashSet;

use super::Freelist;
use super::pending::{Pending, PendingRuns};
use crate::api::{Damage, PageRun};
use crate::pins::Held;

#[derive(Default)]
pub(super) struct Lent {
    /// Not free in any map yet.
    unrecorded: Vec<Pending>,
    recorded: Vec<Pending>,
    /// Not referred to by the current state.
    taken_back: Vec<Pending>,
    /// Nor by a meta.
    pinned: PendingRuns,
}

impl Lent {
    pub fn pages(&self) -> u64 {
        let lists = [&self.unrecorded, &self.recorded, &self.taken_back];
        let listed: u64 = lists.into_iter().flatten().map(|pending| u64::from(pending.run.pages)).sum();
        listed + self.pinned.pages()
    }

    pub fn unrecorded(&self) -> impl Iterator<Item = &Pending> {
        self.unrecorded.iter()
    }

    /// The meta of a checkpoint is durable: the older of the two is gone.
    pub fn checkpointed(&mut self) {
        for pending in self.taken_back.drain(..) {
            self.pinned.push(pending);
        }
    }

    pub fn release(&mut self, pins: &Held, free: impl FnMut(PageRun)) {
        self.pinned.release(pins, free);
    }
}

impl Freelist {
    /// Frees a run, made in the generation `born`, in the maps of the checkpoint under way, to whose state it belongs. It stays
    /// in use until [`Freelist::take_back_lent`] and another checkpoint.
    ///
    /// # Errors
    /// As [`Freelist::free`].
    ///
    /// # Panics
    /// No checkpoint has begun, or its maps were made.
    pub fn lend(&mut self, run: PageRun, born: u64) -> Result<(), Damage> {
        assert!(self.checkpoint.is_some() && !self.is_mapped, "a checkpoint lends before its maps");
        if self.is_known(run)? {
            self.lent.unrecorded.push(Pending { run, born, freed: u64::MAX });
        }
        Ok(())
    }

    pub(super) fn record_lent(&mut self) -> Result<(), Damage> {
        for pending in core::mem::take(&mut self.lent.unrecorded) {
            if self.record(pending.run)? {
                self.lent.recorded.push(pending);
            }
        }
        Ok(())
    }

    /// The finished checkpoint's frames are no part of the state that is published as `freed`. Those of `borrowed` stay lent:
    /// other frames of that state have them.
    pub fn take_back_lent(&mut self, freed: u64, borrowed: &HashSet<u64>) {
        let (kept, back): (Vec<_>, Vec<_>) = core::mem::take(&mut self.lent.recorded)
            .into_iter()
            .partition(|pending| borrowed.contains(&pending.run.first));
        self.lent.recorded = kept;
        self.lent.taken_back.extend(back.into_iter().map(|pending| Pending { freed, ..pending }));
    }
}
