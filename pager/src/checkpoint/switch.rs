//! From frames to pages: after a checkpoint, newer branches still refer to the frames that it has written.
//!
//! The reference in each of them is switched by one atomic store, under readers. This race is benign: the old word leads
//! to the frame, the new one to the page, and both hold the same node of the same generation. A reader that has loaded
//! the old word holds a pin of a generation in which the frame was reachable; the frame is retired at the unpublished
//! generation only after *all* words are switched, so the limbo keeps it until that pin is gone. A reader that loads the
//! new word sees the residency bit of the page, which was set before it (release and acquire). What can be stale is
//! only where the node is read from.

use crate::api::TreeId;
use crate::forest::Forest;
use crate::node::{Child, Reference};
use crate::root::{Published, TREES_MAX};

impl Forest {
    /// The page reference that `child` may be switched to, if it is a frame of the checkpoint of `generation`.
    fn switched(&self, child: &Child, generation: u64) -> Option<Reference> {
        if !child.reference.is_frame() || child.generation > generation {
            return None;
        }
        let page = self.page_of_frame(child.reference, child.pages);
        assert_ne!(page, 0, "a frame of a finished checkpoint has a page");
        Some(Reference::page(page))
    }

    /// Switches the roots, when all branches are.
    pub fn switch_roots(&mut self, published: &Published) {
        let Some(watched) = &mut self.watched else { return };
        let generation = watched.generation;
        watched.is_switched = true;
        self.note_change();
        for number in 0..TREES_MAX {
            let child = self.state.roots[number].child;
            if let Some(page) = self.switched(&child, generation) {
                self.state.roots[number].child.reference = page;
            }
            let tree = TreeId(u8::try_from(number).expect("fewer than 256 trees"));
            let newest = published.newest_root(tree).child;
            if let Some(page) = self.switched(&newest, generation) {
                published.switch(tree, newest.reference, page);
            }
        }
    }

    /// Switches some of the branches that were made since the checkpoint began: `branches` of them, or four times as many as
    /// were made since the last call, so that it comes to an end. The oldest first: of those most were copied again by now, and
    /// are skipped. True when none are left.
    pub fn switch_branches(&mut self, branches: usize) -> bool {
        self.note_change();
        let Some(watched) = &mut self.watched else { return true };
        let generation = watched.generation;
        let branches = branches.max(4 * core::mem::take(&mut watched.made));
        for _ in 0..branches {
            let Some(watched) = &mut self.watched else { return true };
            let Some((reference, pages)) = watched.young_branches.pop() else { break };
            self.switch_branch(reference, pages, generation);
        }
        self.watched.as_ref().is_none_or(|watched| watched.young_branches.is_empty())
    }

    /// A branch in the list may have been released, and its memory be waiting in the pool (then its generation is 0: most are
    /// copied again before they are switched) or serve another node, which is a sound node of ours, or deltas, which
    /// look like a leaf. Switching a word that nobody reads harms nobody.
    fn switch_branch(&self, reference: Reference, pages: u32, generation: u64) {
        let view = self.view(&Child { reference, generation: 0, pages, ..Child::default() });
        if view.is_leaf() || view.generation() <= generation {
            return;
        }
        for index in 0..view.len() {
            if view.child_reference(index).is_frame()
                && let Some(page) = self.switched(&view.child(index), generation)
            {
                self.store(reference, view.reference_offset(index), page.0);
            }
        }
    }
}
