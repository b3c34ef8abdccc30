//! What follows a checkpoint that has reached the file: newer branches learn where its nodes are, its frames are released.

use std::sync::Arc;

use super::*;

impl Pager {
    /// The meta is durable: from now on the file opens with this state.
    pub(super) fn finish(&mut self) -> CheckpointDone {
        let running = self.checkpoints.running.take().expect("a checkpoint is under way");
        let watched = self.forest.watched.as_mut().expect("a checkpoint watches what changes");
        watched.is_written = true;
        watched.made = 0;
        self.forest.dirty_bytes -= running.placed_bytes - watched.orphan_bytes;
        self.checkpoints.written = running.placed;
        self.checkpoints.freelist.checkpointed();
        self.checkpoints.newest_generation = running.state.generation;
        self.checkpoints.newest_slot = 1 - self.checkpoints.newest_slot;
        self.ask_cut();
        CheckpointDone {
            generation: running.state.generation,
            attributes: running.state.attributes,
            written_bytes: running.written_bytes,
        }
    }

    /// The file is longer than both metas say: its end is cut off, a piece at a time. Nobody refers to a page there (it was
    /// released before a meta was made without it), so that no reader looks at one; one that still asks for a page that
    /// an older state had there is told that it is gone, by the length that is lowered first.
    pub(super) fn ask_cut(&mut self) {
        let pages = self.checkpoints.freelist.cut_pages();
        let length_pages = self.checkpoints.length_pages;
        if length_pages > pages {
            self.shared.cut(pages);
            let pages = pages.max(length_pages.saturating_sub(CUT_PAGES_MAX));
            self.checkpoints.apart.push_back((
                Purpose::Cut(pages),
                Io::Cut { length: pages * PAGE_BYTES as u64, purpose: IoPurpose::Cut },
            ));
        }
    }

    /// The file could not grow: all is as if the checkpoint had not begun, but for what stands in free pages.
    pub(super) fn abort(&mut self) -> CheckpointError {
        let mut running = self.checkpoints.running.take().expect("a checkpoint is under way");
        let freelist = &mut self.checkpoints.freelist;
        while let Some(child) = running.placed.pop() {
            let first = self.forest.page_of_frame(child.reference, child.pages);
            freelist.give_back(PageRun { first, pages: child.pages });
            self.forest.set_page_of_frame(child.reference, 0);
        }
        if let Some(rest) = running.run.filter(|run| run.pages > 0) {
            freelist.give_back(rest);
        }
        if !running.is_spill {
            freelist.abandon_checkpoint();
            self.forest.unwatch();
        }
        running.no_space.expect("only for want of space is a checkpoint given up")
    }

    /// A slice of what remains to be done in memory after a checkpoint. Called at each publish.
    pub(crate) fn step_switch(&mut self) {
        if self.checkpoints.running.is_some() || self.forest.watched.is_none() {
            return;
        }
        if self.awaits_release() {
            self.release_written();
        } else if self.forest.switch_branches(SWITCHED_AT_ONCE) {
            let shared = Arc::clone(&self.shared);
            self.forest.switch_roots(&shared.published);
            self.release_written();
        }
    }

    /// Is nothing left of it but what needs no publish?
    pub(crate) fn awaits_release(&self) -> bool {
        self.checkpoints.running.is_none() && self.forest.watched.as_ref().is_some_and(|watched| watched.is_switched)
    }

    /// Nothing refers to the frames any more, but for readers of older states.
    pub(crate) fn release_written(&mut self) {
        let freed = self.forest.state.generation;
        if !self.retire_pages_of_orphans() {
            return;
        }
        for _ in 0..RELEASED_AT_ONCE {
            let Some(child) = self.checkpoints.written.pop() else { break };
            if self.forest.page_of_frame(child.reference, child.pages) == 0 {
                // An orphan: it was retired when it was replaced.
                continue;
            }
            self.forest.retired.push(Retired {
                reference: child.reference,
                pages: child.pages,
                born: child.generation,
                freed,
            });
        }
        let freelist = &mut self.checkpoints.freelist;
        if self.checkpoints.written.is_empty()
            && freelist.take_back_lent(freed, &self.forest.borrowed, RELEASED_AT_ONCE)
        {
            self.forest.watched = None;
        }
    }

    /// Frames of the checkpoint that were replaced while it was under way: the pages that they were given are garbage
    /// since then. All of that was published by now, so they count as freed at the published generation: the next
    /// checkpoint's maps have them as free (counted later, a crash behind it would lose them), and the freelist, which
    /// takes `freed` in ascending order, has seen none later. Zero in place of the page marks that this was done. True once it
    /// was for all of them.
    fn retire_pages_of_orphans(&mut self) -> bool {
        assert!(!self.is_changed, "frames are released between a publish and the next change");
        let freed = self.generation();
        for _ in 0..RELEASED_AT_ONCE {
            let watched = self.forest.watched.as_mut().expect("frames of a checkpoint are released");
            let Some(orphan) = watched.orphans.pop() else { return true };
            let page = self.forest.page_of_frame(orphan.reference, orphan.pages);
            assert_ne!(page, 0, "a frame of a finished checkpoint has a page");
            assert!(orphan.freed <= freed, "nothing is retired between a publish and the next change");
            self.forest.retired.push(Retired { reference: Reference::page(page), freed, ..orphan });
            self.forest.set_page_of_frame(orphan.reference, 0);
        }
        false
    }
}
