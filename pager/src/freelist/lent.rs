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

use std::collections::BTreeMap;

use super::pending::{Pending, PendingRuns};
use super::{Freelist, Region};
use crate::api::{Damage, PageRun};
use crate::chunks::Chunks;
use crate::layout::{REGION_PAGES, region_of};
use crate::page_bits::PageBits;
use crate::pins::Held;

#[derive(Default)]
pub(super) struct Lent {
    /// In regions that were not read: not free in any map yet.
    pub unread: BTreeMap<u64, Vec<Pending>>,
    /// By the checkpoint under way.
    fresh: Chunks<Pending>,
    /// By those before it.
    recorded: Chunks<Pending>,
    /// The same, and looked at: other frames of the current state have them.
    kept: Chunks<Pending>,
    /// Not referred to by the current state.
    taken_back: Chunks<Pending>,
    /// Nor by a meta.
    pinned: PendingRuns,
}

impl Lent {
    /// The meta of a checkpoint is durable: the older of the two is gone.
    pub fn checkpointed(&mut self) {
        self.recorded.append(&mut self.fresh);
        self.pinned.append(&mut self.taken_back);
    }

    pub fn release(&mut self, pins: &Held, runs_max: usize, free: impl FnMut(PageRun)) {
        self.pinned.release(pins, runs_max, free);
    }

    pub fn has_fresh(&self) -> bool {
        self.pinned.has_fresh()
    }
}

impl Freelist {
    /// Frees a run, made in the generation `born`, in the maps of the checkpoint under way, to whose state it belongs. It stays
    /// in use until `take_back_lent` and another checkpoint.
    ///
    /// # Errors
    /// As [`Freelist::free`].
    ///
    /// # Panics
    /// No checkpoint has begun, or its maps were made.
    pub fn lend(&mut self, run: PageRun, born: u64) -> Result<(), Damage> {
        assert!(self.checkpoint.is_some() && !self.is_mapped, "a checkpoint lends before its maps");
        if self.is_known(run)? {
            self.waiting_pages += u64::from(run.pages);
            self.record_lent(Pending { run, born, freed: u64::MAX });
        }
        Ok(())
    }

    /// It is known to be in use.
    pub(super) fn record_lent(&mut self, pending: Pending) {
        let region = region_of(pending.run.first);
        let Region::Open(open) = &mut self.regions[region as usize] else {
            self.lent.unread.entry(region).or_default().push(pending);
            return;
        };
        open.bits.set((pending.run.first % REGION_PAGES) as u32, pending.run.pages, true);
        open.is_changed = true;
        self.lent.fresh.push(pending);
    }

    /// The checkpoint under way comes to nothing: what it has lent is in use as before.
    pub(super) fn unlend(&mut self) {
        for pending in core::mem::take(&mut self.lent.unread).into_values().flatten() {
            self.waiting_pages -= u64::from(pending.run.pages);
        }
        while let Some(Pending { run, .. }) = self.lent.fresh.pop() {
            self.waiting_pages -= u64::from(run.pages);
            if let Region::Open(open) = &mut self.regions[region_of(run.first) as usize] {
                open.bits.set((run.first % REGION_PAGES) as u32, run.pages, false);
            }
        }
    }

    /// The finished checkpoint's frames are no part of the state that is published as `freed`. Those of `borrowed` stay lent:
    /// other frames of that state have them. Looks at up to `runs_max` runs; true once all are through: to be called until then,
    /// before the next checkpoint begins.
    pub(crate) fn take_back_lent(&mut self, freed: u64, borrowed: &PageBits, runs_max: usize) -> bool {
        for _ in 0..runs_max {
            let Some(pending) = self.lent.recorded.pop() else { break };
            if borrowed.contains(pending.run.first) {
                self.lent.kept.push(pending);
            } else {
                self.lent.taken_back.push(Pending { freed, ..pending });
            }
        }
        let is_through = self.lent.recorded.is_empty();
        if is_through {
            core::mem::swap(&mut self.lent.recorded, &mut self.lent.kept);
        }
        is_through
    }
}
