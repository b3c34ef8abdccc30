//! The writer: the one who changes trees, publishes states and takes checkpoints.
//!
//! Methods, by what they do: `put`, `delete`, `delete_front`, `set_attributes` change the unpublished state; `publish`
//! makes it visible and calls no system; `checkpoint_begin`, `poll_io`, `completed` write a published state to the file,
//! at the caller's pace; `shrink_*` (shrink.rs) give the end of the file back; `bring_in_done` takes note of pages that the caller has read.

use std::sync::Arc;

use crate::api::{
    ATTRIBUTES_BYTES_MAX, Access, Aggregate, Damage, Direction, KeyRange, PageRun, ReadTrees, TreeId, Visitor,
    WriteTrees,
};
use crate::checkpoint::Checkpoints;
use crate::forest::Forest;
use crate::layout::{FileId, PAGE_BYTES};
use crate::limbo::Limbo;
use crate::node::LeafValue;
use crate::pins::Pins;
use crate::reader::Reader;
use crate::root::State;
use crate::shared::Shared;
use crate::shrink::Shrink;
use crate::tree::{self, Visit};

/// Frames and pages that a publish looks at beside as many as it has freed itself: may they be used again?
const RECLAIMED_AT_ONCE: usize = 512;

/// The writer of a page file. One thread; readers of other threads come from [`Pager::reader`].
pub struct Pager {
    pub(crate) file: FileId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) forest: Forest,
    pub(crate) limbo: Limbo,
    /// The owner has changed something since the last publish.
    pub(crate) is_changed: bool,
    pub(crate) pins: Pins,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) shrink: Option<Shrink>,
}

impl Pager {
    /// A pager whose published state is `state`.
    pub(crate) fn assemble(file: FileId, shared: Arc<Shared>, mut state: State, checkpoints: Checkpoints) -> Pager {
        // SAFETY: nobody reads yet, so no record is held; the newest is never free.
        unsafe { shared.published.publish(&state, |_| true) };
        state.generation += 1;
        Pager {
            file,
            forest: Forest::new(Arc::clone(&shared), state),
            shared,
            limbo: Limbo::default(),
            pins: Pins::new(),
            checkpoints,
            is_changed: false,
            shrink: None,
        }
    }

    /// The generation that readers see.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.forest.state.generation - 1
    }

    /// Makes all changes visible to readers in one step, and returns the generation of the new state. Without changes,
    /// the state that readers see already. Nothing becomes durable by it, and no system call is made.
    ///
    /// Also does a slice of what a finished checkpoint has left to do in memory (frames become free by it): where nothing
    /// changes, call it now and then all the same.
    pub fn publish(&mut self) -> u64 {
        if self.is_changed {
            self.settle_roots();
            let held = self.pins.scan(self.generation());
            // SAFETY: we are the writer; neither the newest record nor one that a pin holds counts as free.
            unsafe { self.shared.published.publish(&self.forest.state, |generation| !held.contains(generation)) };
            self.forest.state.generation += 1;
            self.is_changed = false;
        }
        self.step_switch();
        self.reclaim();
        self.generation()
    }

    /// Goes on with what publishes have left to do about frames and pages that were freed. It changes nothing that anybody
    /// could see, and may be called whenever [`Pager::has_leftovers`].
    pub fn settle(&mut self) {
        if !self.is_changed {
            if self.awaits_release() {
                self.release_written();
            }
            self.reclaim();
        }
    }

    /// Does [`Pager::settle`] find something to do?
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        let published = self.generation();
        let limbo = self.limbo.has_leftovers(published);
        !self.is_changed && (self.awaits_release() || limbo || self.checkpoints.freelist.has_leftovers(published))
    }

    /// Has the next checkpoint to do at once what publishes, and [`Pager::settle`], do a slice at a time?
    #[must_use]
    pub fn owes_checkpoint(&self) -> bool {
        self.is_settling() || self.checkpoints.freelist.has_unrecorded(self.generation())
    }

    pub(crate) fn settle_roots(&mut self) {
        for number in 1..self.forest.state.roots.len() {
            let tree = TreeId(u8::try_from(number).expect("fewer than 256 trees"));
            let root = self.forest.root(tree);
            if self.forest.is_own(&root.child) {
                let total = self.forest.settle(tree);
                self.forest.root_mut(tree).child.sum = total;
                self.forest.clear_stale(&root.child);
            }
        }
    }

    /// Puts back into use what nobody holds any more; some of it, where it is much.
    pub(crate) fn reclaim(&mut self) {
        let most = RECLAIMED_AT_ONCE + self.forest.retired.len();
        for retired in self.forest.retired.drain(..) {
            let Some(first) = retired.reference.as_page() else {
                self.limbo.push(retired);
                continue;
            };
            let run = PageRun { first, pages: retired.pages };
            if let Err(damage) = self.checkpoints.freelist.free(run, retired.born, retired.freed) {
                // The page stays in use for ever; what referred to it is told as damage.
                self.checkpoints.note(damage);
            }
        }
        let published = self.generation();
        let pinned = self.pins.scan(published);
        let mut held = pinned.clone();
        if let Some(watched) = &self.forest.watched {
            held.insert(watched.generation);
        }
        let mut freed = Vec::new();
        self.limbo.sift(published, &held, most, |retired| freed.push(retired));
        for retired in freed {
            self.forest.release(&retired);
        }
        self.checkpoints.freelist.record_some(published, most);
        self.checkpoints.freelist.release(&pinned, most);
    }

    /// A reader, for one other thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared), &self.pins)
    }

    /// Bytes of frames that the current state needs and the file does not have: what the next checkpoint would write.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.forest.dirty_bytes
    }

    /// True while a finished checkpoint has something left to do in memory: each [`Pager::publish`] does a slice of it.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.forest.watched.is_some() && !self.is_checkpointing()
    }

    /// Bytes of all frames: dirty ones, and those that pins or a checkpoint hold.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        self.forest.frames.bytes()
    }

    /// Bytes of the page file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.checkpoints.freelist.file_pages() * PAGE_BYTES as u64
    }

    /// Bytes of the page file that can't be given to new nodes now: in use, held for a reader or a meta, or in a region
    /// whose free map was not needed since opening.
    #[must_use]
    pub fn file_bytes_in_use(&self) -> u64 {
        self.file_bytes() - self.checkpoints.freelist.free_pages() * PAGE_BYTES as u64
    }

    /// Bytes of freed pages that a meta or a pin still holds: two checkpoints later the metas do not.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.checkpoints.freelist.pending_pages() * PAGE_BYTES as u64
    }

    /// Regions of the file whose free pages are not known yet.
    #[must_use]
    pub fn unread_regions(&self) -> u64 {
        self.checkpoints.freelist.unread_regions()
    }

    /// Damage that was met where no caller could be told: of free maps, and of pages that were freed. To be reported.
    pub fn take_damage(&mut self) -> Option<Damage> {
        self.checkpoints.damage.pop_front()
    }

    /// The owner has read these pages into memory (or a device error has taken them away: then it does not call).
    /// Verifies them; from now on they are served.
    ///
    /// # Errors
    /// The page is not what was once written there. It stays absent.
    pub fn bring_in_done(&self, run: PageRun) -> Result<(), Damage> {
        self.shared.bring_in_done(run)
    }

    /// As [`Reader::bring_in_cached`].
    ///
    /// # Errors
    /// As [`Pager::bring_in_done`].
    pub fn bring_in_cached(&self, run: PageRun) -> Result<bool, Damage> {
        self.shared.bring_in_cached(run)
    }
}

impl ReadTrees for Pager {
    fn get(&self, tree: TreeId, key: &[u8]) -> Access<Option<&[u8]>> {
        if self.forest.is_behind(tree, key) {
            return Ok(None);
        }
        self.forest.look_up(tree, key)
    }

    fn visit(
        &self,
        tree: TreeId,
        range: KeyRange<'_>,
        direction: Direction,
        skip_uncounted: bool,
        visitor: &mut Visitor<'_>,
    ) -> Access<()> {
        if skip_uncounted {
            self.forest.settle(tree);
        }
        tree::visit(&self.forest, &self.forest.root(tree), range, Visit { tree, direction, skip_uncounted, visitor })
    }

    fn aggregate(&self, tree: TreeId, range: KeyRange<'_>) -> Access<Aggregate> {
        let mut root = self.forest.root(tree);
        root.child.sum = self.forest.settle(tree);
        tree::aggregate(&self.forest, tree, &root, range, self.forest.summarize(tree))
    }

    fn attributes(&self) -> &[u8] {
        &self.forest.state.attributes
    }
}

impl WriteTrees for Pager {
    fn put(&mut self, tree: TreeId, key: &[u8], value: &[&[u8]]) -> Access<()> {
        let _ = self.shared.summarize(tree);
        self.is_changed = true;
        self.forest.put(tree, key, LeafValue::Many(value))
    }

    fn delete(&mut self, tree: TreeId, key: &[u8]) -> Access<bool> {
        self.is_changed = true;
        self.forest.delete(tree, key)
    }

    fn delete_front(&mut self, tree: TreeId, range: KeyRange<'_>, entries_max: usize) -> Access<bool> {
        self.is_changed = true;
        self.forest.delete_front(tree, range, entries_max)
    }

    fn set_attributes(&mut self, attributes: &[u8]) {
        assert!(attributes.len() <= ATTRIBUTES_BYTES_MAX, "attributes fit a root record");
        self.is_changed = true;
        self.forest.state.attributes.clear();
        self.forest.state.attributes.extend_from_slice(attributes);
    }
}
