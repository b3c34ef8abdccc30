//! When a checkpoint begins, how fast it goes, and what it lets go of.
//!
//! A checkpoint begins when the log since the last one, or the dirty frames in memory, reach their bound: both are what a
//! restart and the memory limit pay for. The driver polls for its requests at leisure while the log has something in flight, so
//! that a put never waits behind a slice for long, and faster where the checkpoint is late: frames are made meanwhile, and no
//! more of them than it keeps pace with, so that proposals wait a little all along instead of long at its end. Memory is
//! bounded by that, not by hope. The log is released up to the *older* of the two states that the page file can open with.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ringstone_pager::{CheckpointDone, CheckpointError, CheckpointProgress};
use ringstone_wal::Kind;

use super::{GROUP, Group, GroupError, pages, records};
use crate::state::State;

/// Log bytes since the last checkpoint that begin the next. While that one runs, proposals wait from twice this on; what was
/// under way comes on top: a restart replays at most three times this (tests/size asserts it; 52.5 MiB seen).
pub const CHECKPOINT_LOG_BYTES: u64 = 32 << 20;

/// After so long without a new entry, this much log is worth a checkpoint: a quiet member starts again at once.
const QUIET: Duration = Duration::from_millis(500);
const QUIET_LOG_BYTES: u64 = 1 << 20;

/// Frames that there may be beside the dirty ones that begin a checkpoint, to the most that begin one: those that replace them
/// or come new meanwhile, and those that it has written and not released yet.
const FRAMES_BESIDE: u64 = 2;

/// A store is large from this many times the dirty frames on: 2 GiB where there is memory enough.
const LARGE_STORE_TO_DIRTY: u64 = 32;
/// What counts of the dirty frames' bound in a large store, at most.
const LARGE_DIRTY_BYTES_MAX: u64 = 64 << 20;

/// Checkpoints without a new entry in between that only make room: two let both metas leave the pages that were freed, and
/// the third's publish hands them out.
const ROOM_CHECKPOINTS_MAX: u32 = 3;

/// How long a checkpoint that found no space waits before it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What paces checkpoints.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPace {
    /// Dirty frames, in bytes, that begin a checkpoint of a small store; of a large one a quarter (`dirty_bound`).
    pub dirty_bytes_max: u64,
    /// Log bytes that begin a checkpoint.
    pub log_bytes_max: u64,
    /// Applied index of the newest completed checkpoint.
    newest: u64,
    /// Applied index of the one before it.
    older: u64,
    /// The newest generation that the page file has.
    pub(super) generation: u64,
    running: bool,
    /// When the one that runs, or ran last, was begun.
    began: Duration,
    /// A record of a completed checkpoint waits for room in the log: its generation.
    unlogged: Option<u64>,
    /// After one that found no space.
    not_before: Duration,
    /// The applied index that a tick saw, and the first one that did.
    seen: (u64, Duration),
    /// Checkpoints since then that only made room.
    for_room: u32,
}

impl CheckpointPace {
    /// Both metas hold `applied`, or less: nothing before it is needed. `generation` is the newest one's.
    #[must_use]
    pub fn new(dirty_bytes_max: u64, newest: u64, older: u64, generation: u64) -> CheckpointPace {
        CheckpointPace {
            dirty_bytes_max,
            log_bytes_max: CHECKPOINT_LOG_BYTES,
            newest,
            older,
            generation,
            running: false,
            began: Duration::ZERO,
            unlogged: None,
            not_before: Duration::ZERO,
            seen: (0, Duration::ZERO),
            for_room: 0,
        }
    }

    /// Dirty frames, in bytes, that begin a checkpoint of a store of so many bytes, and how many there may be in all. Puts find
    /// their leaves dirty already, and the longer they gather, the fewer pages each costs (docs/profile.md: 1.22 pages with
    /// 32 MiB, 0.92 with 64, 0.81 with 128, a million keys). In a large store each put dirties a leaf and a branch of its own:
    /// waiting saves little then, and costs memory and the time of a restart, which reads all those leaves.
    fn frame_bounds(&self, store_bytes: u64) -> (u64, u64) {
        let most = self.dirty_bytes_max.min(LARGE_DIRTY_BYTES_MAX);
        let (dirty, most) = if store_bytes / LARGE_STORE_TO_DIRTY < most {
            (self.dirty_bytes_max, self.dirty_bytes_max)
        } else {
            (most / 4, most)
        };
        (dirty, dirty + FRAMES_BESIDE * most)
    }
}

impl CheckpointPace {
    /// When a tick has seen the last entry.
    pub(super) fn last_entry(&self) -> Duration {
        self.seen.1
    }

    /// When the last checkpoint was begun.
    pub(super) fn last_begin(&self) -> Duration {
        self.began
    }
}

impl Group {
    /// Sets what begins a checkpoint: dirty frames, and the log since the last one, both in bytes.
    pub fn set_checkpoint_bounds(&mut self, dirty_bytes_max: u64, log_bytes_max: u64) {
        (self.pace.dirty_bytes_max, self.pace.log_bytes_max) = (dirty_bytes_max, log_bytes_max);
    }

    /// Begins a checkpoint if one is due. With `now`, if anything at all has changed since the last one.
    ///
    /// # Errors
    /// [`GroupError::Checkpoint`]: an earlier failure of the page file is final.
    pub fn maybe_checkpoint(&mut self, now: bool) -> Result<(), GroupError> {
        self.shrink_some();
        self.forgetting.turn(&self.shared, self.now);
        if self.pace.running || self.pace.unlogged.is_some() || self.lacks_space() || self.is_installing() {
            return Ok(());
        }
        if !now && self.pager.owes_checkpoint() {
            return Ok(());
        }
        let changed = self.state.applied_index > self.pace.newest;
        let log_bytes = self.log.log_bytes_since(GROUP, self.pace.newest);
        let is_quiet = self.is_quiet();
        let has_time = !self.has_work() && self.removal.is_none() && self.absent.is_none();
        let cuts = has_time && self.forces_checkpoint(is_quiet);
        let makes_room = cuts || (has_time && is_quiet && self.wants_room());
        if makes_room {
            if cuts {
                self.note_forced();
            } else {
                self.pace.for_room += 1;
            }
            // A generation that the file does not have yet.
            self.publish();
        }
        let is_quiet = is_quiet && log_bytes >= QUIET_LOG_BYTES;
        let due = self.pager.dirty_bytes() >= self.dirty_bound() || log_bytes >= self.pace.log_bytes_max || is_quiet;
        if makes_room || (changed && (due || now)) || (due && self.pager.dirty_bytes() > 0) {
            match self.pager.checkpoint_begin() {
                Ok(began) => {
                    self.pace.running = began;
                    self.pace.began = self.now;
                    let (dirty_bytes, frame_bytes) = (self.pager.dirty_bytes(), self.pager.frame_bytes());
                    tracing::debug!(applied = self.state.applied_index, dirty_bytes, frame_bytes, "checkpoint begins");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Dirty frames, in bytes, that begin a checkpoint now.
    pub(super) fn dirty_bound(&self) -> u64 {
        self.frame_bounds().0
    }

    fn frame_bounds(&self) -> (u64, u64) {
        self.pace.frame_bounds(self.pager.file_bytes_in_use())
    }

    /// The disk is full, and pages that were freed are held by the metas alone. Puts are refused, so that nothing else would
    /// bring the checkpoints about that let go of them.
    fn wants_room(&self) -> bool {
        self.shared.disk_free.load(Ordering::Relaxed) == 0
            && self.pager.held_bytes() > 0
            && self.pace.for_room < ROOM_CHECKPOINTS_MAX
    }

    /// A tick's part of the pace.
    pub(super) fn note_activity(&mut self) {
        if self.pace.seen.0 != self.state.applied_index {
            self.pace.for_room = 0;
            self.pace.seen = (self.state.applied_index, self.now);
        }
        self.tick_shrink();
    }

    /// True for a while after a checkpoint that found no space.
    pub fn lacks_space(&self) -> bool {
        self.now < self.pace.not_before
    }

    /// True while proposals must wait: frames are made, or the log grows, faster than the checkpoint under way is written.
    /// That is what bounds memory, and what a restart replays.
    pub fn is_pressed(&self) -> bool {
        let goes_on = self.pace.running || self.pager.is_settling();
        let (dirty, frames_max) = self.frame_bounds();
        let log = || self.log.log_bytes_since(GROUP, self.pace.newest) > 2 * self.pace.log_bytes_max;
        goes_on && (self.outrun_by(dirty / 4, 2 * dirty) || log() || self.pager.frame_bytes() > frames_max)
    }

    /// Are frames made faster than the checkpoint under way writes those that there were? It should be through before the next
    /// one is due: then each finds as much as the last, and proposals never wait.
    pub fn checkpoint_is_late(&self) -> bool {
        self.outrun_by(0, self.dirty_bound() / 4 * 3)
    }

    fn outrun_by(&self, start: u64, whole: u64) -> bool {
        self.pager.checkpoint_progress().is_some_and(|progress| outruns(&progress, start, whole))
    }

    /// Has a checkpoint, or what was freed, left something to do in memory? Where nothing else is done for a while, all of it
    /// is done, a slice a turn. (Beside a load, references are switched by publishes alone: most branches that await it are
    /// replaced before.)
    pub(super) fn has_leftovers(&self) -> bool {
        let is_held = self.absent.is_some() || self.removal.is_some() || self.is_installing();
        !is_held && (self.pager.has_leftovers() || (self.pager.is_settling() && self.is_quiet()))
    }

    /// A slice of that.
    pub(super) fn settle_leftovers(&mut self) {
        if !self.has_leftovers() {
            return;
        }
        if self.is_quiet() {
            self.pager.publish();
        } else {
            self.pager.settle();
        }
        self.show_pages();
    }

    /// No entry for a while.
    fn is_quiet(&self) -> bool {
        self.now.saturating_sub(self.pace.seen.1) >= QUIET
    }

    /// Where nothing is published, the frames of a finished checkpoint are released all the same, a slice a call. An entry
    /// that waits for a page may have changed the trees already: nothing of it may be published.
    pub fn settle_pages(&mut self) {
        let has_frames = self.pager.frame_bytes() > self.pager.dirty_bytes() || self.pager.is_settling();
        if self.absent.is_none() && self.removal.is_none() && has_frames && !self.is_installing() {
            self.pager.publish();
            self.show_pages();
        }
    }

    /// True while a checkpoint is written.
    pub fn checkpoint_running(&self) -> bool {
        self.pace.running || self.pace.unlogged.is_some()
    }

    /// True when the newest checkpoint holds everything that is applied.
    pub fn is_checkpointed(&self) -> bool {
        self.pace.newest == self.state.applied_index && !self.checkpoint_running()
    }

    /// The page file's next request.
    ///
    /// # Errors
    /// As [`Group::pages_completed`].
    pub fn poll_pages_io(&mut self) -> Result<Option<(pages::Token, pages::Io)>, GroupError> {
        match self.pager.poll_io() {
            Ok(request) => Ok(request),
            Err(error) => self.checkpoint_failed(error).map(|()| None),
        }
    }

    /// A full disk only ends the attempt; anything else ends the member.
    fn checkpoint_failed(&mut self, error: CheckpointError) -> Result<(), GroupError> {
        match error {
            CheckpointError::Full(_) | CheckpointError::FileFull => {
                tracing::warn!(error = %error, "no space for a checkpoint: the log is kept, and it is tried again");
                self.pace.running = false;
                self.pace.not_before = self.now + RETRY_INTERVAL;
                Ok(())
            }
            CheckpointError::Failed(_) => Err(error.into()),
            CheckpointError::Damaged(damage) => Err(GroupError::Damaged(damage)),
        }
    }

    /// A request of the page file has finished.
    ///
    /// # Errors
    /// [`GroupError::Checkpoint`]: a failed write or sync of the page file is final. A full disk only ends the attempt.
    pub fn pages_completed(&mut self, completion: pages::Completion) -> Result<(), GroupError> {
        match self.pager.completed(completion.token, completion.result) {
            Ok(None) => Ok(()),
            Ok(Some(done)) => self.checkpoint_done(&done),
            Err(error) => self.checkpoint_failed(error),
        }
    }

    fn checkpoint_done(&mut self, done: &CheckpointDone) -> Result<(), GroupError> {
        let state = State::from_attributes(&done.attributes)?;
        self.pace.running = false;
        self.pace.older = self.pace.newest;
        self.pace.newest = state.applied_index;
        self.pace.generation = done.generation;
        self.pace.unlogged = Some(done.generation);
        let took = self.now.saturating_sub(self.pace.began);
        self.metrics().backend_commit.record_ns(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        tracing::debug!(
            generation = done.generation,
            applied = state.applied_index,
            took = format!("{took:?}"),
            written_bytes = done.written_bytes,
            dirty_bytes = self.pager.dirty_bytes(),
            frame_bytes = self.pager.frame_bytes(),
            "checkpoint"
        );
        self.log_checkpoint()
    }

    /// Puts the record of a completed checkpoint into the log, and lets go of what both metas are past.
    pub(super) fn log_checkpoint(&mut self) -> Result<(), GroupError> {
        let Some(generation) = self.pace.unlogged else { return Ok(()) };
        if self.is_installing() {
            // It is of the file that goes.
            return Ok(());
        }
        let payload = records::checkpoint(generation);
        if self.append(Kind::Checkpoint, self.state.applied_term, self.pace.newest, &payload)?.is_some() {
            self.pace.unlogged = None;
            self.log.release(self.log_holder, self.pace.older);
        }
        Ok(())
    }
}

/// Were more bytes of frames made since the checkpoint began than `start`, and of `whole` the part that it has written of its
/// own?
fn outruns(progress: &CheckpointProgress, start: u64, whole: u64) -> bool {
    let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
    let beyond = progress.made_bytes.saturating_sub(start);
    product(beyond, progress.own_bytes) > product(progress.placed_bytes, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_store_gathers_fewer_frames_whatever_memory_there_is() {
        let bounds = |dirty: u64, store: u64| {
            let (dirty, frames) = CheckpointPace::new(dirty << 20, 0, 0, 1).frame_bounds(store << 20);
            (dirty >> 20, frames >> 20)
        };
        assert_eq!([bounds(128, 1024), bounds(64, 1024), bounds(8, 128)], [(128, 384), (64, 192), (8, 24)]);
        assert_eq!([bounds(128, 2048), bounds(64, 2048), bounds(8, 256)], [(16, 144), (16, 144), (2, 18)]);
    }

    #[test]
    fn what_may_be_made_grows_with_what_is_written() {
        let most = |placed_bytes| {
            let made = |made_bytes| CheckpointProgress { own_bytes: 40 << 20, placed_bytes, made_bytes };
            (0..200).rev().map(|mib| mib << 20).find(|bytes| !outruns(&made(*bytes), 4 << 20, 32 << 20))
        };
        let mib = |mib: u64| Some(mib << 20);
        assert_eq!([0, 10 << 20, 20 << 20, 40 << 20].map(most), [mib(4), mib(12), mib(20), mib(36)]);
    }
}
