//! The page file's requests: a checkpoint's writes, and the pages that apply waits for.

use std::rc::Rc;
use std::time::Duration;

use ringstone_net::nap::{Hold, Nap};
use ringstone_pager::api::PageRun;

use super::Driver;
use crate::group::GroupError;
use crate::shard::bring_in::read_run;

/// Least time between two requests of a checkpoint that is not late, while the log is busy.
const CHECKPOINT_SPACING: Duration = Duration::from_millis(2);

/// What a batch of a checkpoint's writes holds.
const PAGE_BATCH_BYTES: usize = 256 << 10;
/// Where the checkpoint is late: each batch waits for its turn on the processor, so that fewer are faster.
const LATE_BATCH_BYTES: usize = 1 << 20;
/// What is asked of the pager at once for it: other tasks run in between.
const PAGE_STEP_BYTES: usize = 128 << 10;

/// Pages that are read for the group at a time.
const PAGE_READS_MAX: usize = 64;

impl Driver {
    pub(super) fn take_page_completions(&mut self) -> Result<bool, GroupError> {
        let mut moved = false;
        while let Some(completion) = self.inbox.page_completions.borrow_mut().pop_front() {
            self.page_io_under_way -= 1;
            self.group.pages_completed(completion)?;
            moved = true;
        }
        while let Some((run, result)) = self.inbox.brought_in.borrow_mut().pop_front() {
            self.inbox.bringing_in.borrow_mut().remove(&run.first);
            self.group.prefetched(run, result)?;
            moved = true;
        }
        Ok(moved)
    }

    /// True where the batch is not full, and it goes on after other tasks.
    pub(super) fn pages_io(&mut self, now: Duration) -> Result<bool, GroupError> {
        let spaced = now.saturating_sub(self.last_page_io) >= CHECKPOINT_SPACING;
        if self.page_io_under_way > 0 {
            return Ok(false);
        }
        let hurries = self.group.checkpoint_is_late() || self.group.is_pressed();
        if !spaced && self.group.awaits_log() && !hurries {
            return Ok(false);
        }
        let batch_bytes = if hurries { LATE_BATCH_BYTES } else { PAGE_BATCH_BYTES };
        let mut bytes: usize = self.page_batch.iter().map(|(_, io)| io.written_bytes()).sum();
        let step_end = batch_bytes.min(bytes + PAGE_STEP_BYTES);
        let mut goes_on = true;
        while goes_on && bytes < step_end {
            if let Some((token, io)) = self.group.poll_pages_io()? {
                bytes += io.written_bytes();
                self.page_batch.push((token, io));
            } else {
                goes_on = false;
            }
        }
        if goes_on && bytes < batch_bytes {
            return Ok(true);
        }
        if self.page_batch.is_empty() {
            return Ok(false);
        }
        let batch = std::mem::take(&mut self.page_batch);
        self.page_io_under_way = batch.len();
        self.last_page_io = now;
        let (file, inbox) = (Rc::clone(&self.page_file), Rc::clone(&self.inbox));
        let awake = self.hold_naps();
        glommio::spawn_local(async move {
            let completions = file.execute(batch).await;
            drop(awake);
            inbox.page_completions.borrow_mut().extend(completions);
            inbox.wake.notify();
        })
        .detach();
        Ok(false)
    }

    /// Reads the page that apply waits for, and beside it those that it will need.
    pub(super) fn bring_in(&mut self) {
        if let Some(run) = self.group.absent() {
            self.read_page(run);
        }
        while self.inbox.bringing_in.borrow().len() < PAGE_READS_MAX {
            let Some(run) = self.group.poll_prefetch() else { return };
            self.read_page(run);
        }
    }

    /// What is under way comes by glommio's ring, or from its blocking threads.
    pub(super) fn hold_naps(&self) -> Option<Hold> {
        self.local.nap.as_ref().map(Nap::hold)
    }

    fn read_page(&self, run: PageRun) {
        if !self.inbox.bringing_in.borrow_mut().insert(run.first) {
            return;
        }
        let (file, inbox) = (Rc::clone(&self.page_file), Rc::clone(&self.inbox));
        let awake = self.hold_naps();
        glommio::spawn_local(async move {
            let result = read_run(file.reads(), run).await;
            drop(awake);
            inbox.brought_in.borrow_mut().push_back((run, result));
            inbox.wake.notify();
        })
        .detach();
    }
}
