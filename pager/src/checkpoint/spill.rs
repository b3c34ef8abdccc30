//! Making room in memory in the middle of a change that is larger than memory should be.
//!
//! Leaves that were made since the last publish go to free pages of the file, and their parents, frames that nobody but the
//! writer reaches, refer to the pages from then on. No map, meta or sync is written: the pages belong to a state that is
//! not published, and a crash leaves them as free as they were. The checkpoint of the state that names them syncs them
//! before its meta, like its own. Branches stay in memory: they are one frame in some sixty.
//!
//! What is changed again afterwards is copied into a frame as any page is, and its page waits for the next checkpoint, as
//! one that was born and freed in the same generation: nobody holds it.

use super::*;
use crate::forest::Forest;
use crate::root::TREES_MAX;

impl Pager {
    /// Begins to write the unpublished leaves to the file, with [`Pager::poll_io`] and [`Pager::completed`]. False, and nothing
    /// happens, where a checkpoint is under way or has something left to do in memory, or has failed.
    ///
    /// Until [`Pager::is_checkpointing`] is false again, nothing may be changed or published. Where there is no space, the
    /// end is [`CheckpointError::Full`], and all is as it was.
    pub fn spill_begin(&mut self) -> bool {
        if self.checkpoints.failed.is_some() || self.checkpoints.running.is_some() || self.forest.watched.is_some() {
            return false;
        }
        // An image has no sum that is out of date below it.
        self.settle_roots();
        let state = self.forest.state.clone();
        let walk = Walk::leaves_of(state.generation, state.roots.iter().map(|root| root.child));
        self.checkpoints.running = Some(Running { is_spill: true, ..Running::new(state, walk) });
        true
    }

    /// The leaves are in the page cache: readers of the next state find them there.
    pub(super) fn finish_spill(&mut self) {
        let mut running = self.checkpoints.running.take().expect("a spill is under way");
        self.forest.switch_spilled();
        while let Some(child) = running.placed.pop() {
            let retired = Retired {
                reference: child.reference,
                pages: child.pages,
                born: child.generation,
                freed: child.generation,
            };
            if child.reference.is_delta() {
                self.forest.retire_base(child.reference);
            }
            self.forest.dirty_bytes -= retired.bytes();
            self.forest.release(&retired);
        }
    }
}

impl Forest {
    /// Refers to the pages of all leaves of the unpublished generation that have one.
    fn switch_spilled(&mut self) {
        // It ends in a leaf that is no frame any more.
        self.edge = None;
        self.note_change();
        for number in 1..TREES_MAX {
            let root = self.state.roots[number].child;
            if let Some(page) = self.spilled(&root) {
                self.state.roots[number].child.reference = page;
                continue;
            }
            let mut branches = vec![root];
            while let Some(branch) = branches.pop().filter(|branch| self.is_own(branch)) {
                let view = self.header(&branch);
                if view.is_leaf() {
                    continue;
                }
                for index in 0..view.len() {
                    let below = view.child(index);
                    if let Some(page) = self.spilled(&below) {
                        self.store(branch.reference, view.reference_offset(index), page.0);
                    } else if view.level() > 1 && self.is_own(&below) {
                        branches.push(below);
                    }
                }
            }
        }
    }

    fn spilled(&self, child: &Child) -> Option<Reference> {
        let page = if self.is_own(child) { self.page_of_frame(child.reference, child.pages) } else { 0 };
        (page != 0).then(|| Reference::page(page))
    }
}
