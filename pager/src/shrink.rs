//! Giving the end of the file back while everything goes on.
//!
//! ```text
//!  shrink_begin(pages)    nothing is written behind that page any more
//!  shrink_step, publish   what the trees have there becomes dirty, some of it a step, until a step says `is_done`
//!  checkpoints            write it where there is room; when nobody holds what was left behind, the file ends there:
//!                         first in one meta, then in both, then on the disk
//! ```
//! The owner decides when to begin, and how fast it goes. Steps change nothing that a reader could tell. A crash at any
//! moment leaves a file of either length, and the next owner may begin anew.

use std::collections::HashSet;

use smallvec::SmallVec;

use crate::api::{Damage, PageRun, TreeId};
use crate::pager::Pager;
use crate::root::TREES_MAX;
use crate::tree::{Bounds, Moved};

/// Where the walk over the trees is.
pub(crate) struct Shrink {
    ceiling: u64,
    tree: u8,
    from: Vec<u8>,
    /// First pages of nodes that can't be read.
    unreadable: HashSet<u64>,
}

/// What a step came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShrinkStep {
    /// Pages of the file whose content is in memory now, and dirty.
    pub moved_pages: u64,
    /// What must be brought in before the next step gets on. (No page here: it can go on at once.)
    pub absent: SmallVec<[PageRun; 8]>,
    /// There is nothing left to be moved, or no shrinking under way.
    pub is_done: bool,
}

impl Pager {
    /// Begins to free what is behind `file_pages` pages. False, and nothing happens, while a checkpoint is under way or
    /// has something left to do in memory, and where the file is not longer than that.
    pub fn shrink_begin(&mut self, file_pages: u64) -> bool {
        if self.is_checkpointing() || self.forest.watched.is_some() {
            return false;
        }
        let ceiling = self.checkpoints.freelist.set_ceiling(Some(file_pages));
        self.shrink = ceiling.map(|ceiling| Shrink { ceiling, tree: 1, from: Vec::new(), unreadable: HashSet::new() });
        ceiling.is_some()
    }

    /// Moves about `pages_max` pages, as a change of the unpublished state. Nothing is read from the file: absent pages are
    /// for the owner to bring in, at leisure.
    pub fn shrink_step(&mut self, pages_max: u64) -> ShrinkStep {
        let mut step = ShrinkStep::default();
        let Some(mut shrink) = self.shrink.take() else { return ShrinkStep { is_done: true, ..step } };
        if self.checkpoints.freelist.ceiling() != Some(shrink.ceiling) {
            // There was no room below it.
            return ShrinkStep { is_done: true, ..step };
        }
        while step.moved_pages < pages_max {
            if usize::from(shrink.tree) == TREES_MAX {
                // Seen by readers with the next publish, and before that no checkpoint begins.
                self.checkpoints.freelist.swept();
                step.is_done = true;
                return step;
            }
            let bounds = Bounds {
                ceiling: shrink.ceiling,
                pages_max: pages_max - step.moved_pages,
                unreadable: &|page| shrink.unreadable.contains(&page),
            };
            match self.forest.relocate(TreeId(shrink.tree), &shrink.from, &bounds) {
                Ok(Moved::To(pages, next)) => {
                    self.is_changed |= pages > 0;
                    step.moved_pages += pages;
                    shrink.tree += u8::from(next.is_none());
                    shrink.from = next.unwrap_or_default();
                }
                Ok(Moved::Needs(runs)) => {
                    step.absent = runs.into_iter().filter(|run| !self.take_in(&mut shrink, *run)).collect();
                    if !step.absent.is_empty() {
                        break;
                    }
                }
                Err(damage) => self.leave(&mut shrink, damage.page, damage),
            }
        }
        self.shrink = Some(shrink);
        step
    }

    /// False: the run must be read first.
    fn take_in(&mut self, shrink: &mut Shrink, run: PageRun) -> bool {
        match self.shared.bring_in_cached(run) {
            Ok(taken) => taken,
            Err(damage) => {
                self.leave(shrink, run.first, damage);
                true
            }
        }
    }

    fn leave(&mut self, shrink: &mut Shrink, first: u64, damage: Damage) {
        if shrink.unreadable.insert(first) {
            self.checkpoints.note(damage);
        }
    }

    /// A run that a step has named can't be read: it stays where it is, and so does all that only it leads to.
    pub fn shrink_unreadable(&mut self, run: PageRun, damage: Damage) {
        if let Some(mut shrink) = self.shrink.take() {
            self.leave(&mut shrink, run.first, damage);
            self.shrink = Some(shrink);
        }
    }

    /// Gives up: the end of the file is used again.
    pub fn shrink_abandon(&mut self) {
        self.shrink = None;
        self.checkpoints.freelist.set_ceiling(None);
    }

    /// The page behind which the file is being emptied.
    #[must_use]
    pub fn shrink_ceiling(&self) -> Option<u64> {
        self.checkpoints.freelist.ceiling()
    }

    /// All is moved, and checkpoints are what brings the end of the file nearer: up to four, should nobody hold what was
    /// moved.
    #[must_use]
    pub fn shrink_awaits_checkpoint(&self) -> bool {
        self.checkpoints.freelist.is_swept() || self.checkpoints.is_longer_than_needed()
    }

    /// The end of the file is being cut off: that takes requests, and no checkpoint.
    #[must_use]
    pub fn shrink_is_cutting(&self) -> bool {
        self.checkpoints.is_cutting()
    }

    /// Bytes of the file itself: longer than [`Pager::file_bytes`] for two checkpoints after it was shrunk.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.checkpoints.length_pages * crate::layout::PAGE_BYTES as u64
    }

    /// Asks for the map of a region whose free pages are not known yet, with [`Pager::poll_io`]'s next request. False where
    /// all are known, or one is asked for already.
    pub fn look_at_region(&mut self) -> bool {
        self.checkpoints.look_at_region()
    }
}
