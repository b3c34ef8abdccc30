//! Writing a published state to the file, at the caller's pace.
//!
//! ```text
//!  begin -> write: frames, children first, in slices -> maps -> (all written) -> sync -> meta -> sync -> done
//!                                                                                                 |
//!  switch references from frames to pages, a slice at each publish -> release the frames  <-------+
//! ```
//! `checkpoint_begin` fixes the state; `poll_io` gives the next request, `completed` takes its result. The caller decides
//! when it polls: what it does not poll for is not written. No meta is written before a sync, submitted after all writes
//! below it had completed, has completed; none is reported before the sync that followed it. A failed write, sync or meta
//! is final; a disk that is too full for the file to grow only ends the attempt.
//!
//! A *spill* writes leaves of the unpublished state in the same way, without maps, meta or sync: `spill.rs`.
//!
//! Apart from that, between two checkpoints or beside one: the file is cut once both metas are shorter than it, and a
//! region's free map is read because the owner wants to know. The file grows only when no such request is left.

mod finish;
mod spill;
mod steps;
mod switch;
mod walk;

use std::collections::{HashMap, VecDeque};

use crate::api::{Damage, PageRun};
use crate::chunks::Chunks;
use crate::disk::{Buffer, DiskError, DiskErrorKind, DiskResult, Io, IoPurpose, Token};
use crate::forest::{Retired, Watched};
use crate::freelist::{Freelist, Need, Space};
use crate::layout::{META_PAGES, PAGE_BYTES};
use crate::node::{Child, Reference};
use crate::pager::Pager;
use crate::root::State;
use walk::{Walk, write_image};

/// Most bytes of one write, and of the frames that one step makes images of: some 100 us.
const SLICE_BYTES: usize = 128 << 10;
/// Branches whose references are switched at a publish, or four times as many as were made since the last one.
const SWITCHED_AT_ONCE: usize = 64;
/// Frames that are released at a publish, and pages that are taken back.
const RELEASED_AT_ONCE: usize = 1024;
/// Free maps that are made at once.
const MAPS_AT_ONCE: usize = 32;

/// Pages that one request cuts off: a file system that frees gigabytes at once holds up the writes behind it.
const CUT_PAGES_MAX: u64 = 16_384;

/// Damage that waits to be asked for.
const DAMAGE_MAX: usize = 64;

/// What a finished checkpoint has made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointDone {
    /// The generation that the file now opens with, or a later one. The owner logs it: `open` refuses a file that is older.
    pub generation: u64,
    /// The attributes of that state.
    pub attributes: Vec<u8>,
    /// Bytes that were written for it.
    pub written_bytes: u64,
}

/// See [`Pager::checkpoint_progress`]. In bytes of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointProgress {
    /// Of the state that it writes.
    pub own_bytes: u64,
    /// Of those, what has a page by now.
    pub placed_bytes: u64,
    /// Made since it began, by puts beside it.
    pub made_bytes: u64,
}

/// Why a checkpoint did not begin or finish.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot grow. It is as it was, the state in memory too; begin again when there is space.
    #[error("the checkpoint found no space: {0}")]
    Full(DiskError),
    /// The file has reached the most pages that its format knows.
    #[error("the page file is as long as it can be")]
    FileFull,
    /// A write or a sync failed: what the file holds is not known. Stop, and open it anew.
    #[error("the checkpoint failed, and the page file must not be written any more: {0}")]
    Failed(DiskError),
    /// The trees and the free maps contradict each other: the checkpoint must not be finished. Stop.
    #[error("the checkpoint found damage, and the page file must not be written any more: {0}")]
    Damaged(Damage),
}

impl CheckpointError {
    /// True where another attempt may succeed.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, CheckpointError::Full(_) | CheckpointError::FileFull)
    }
}

/// What is asked of the disk now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Frames get pages and are written.
    Write,
    /// The maps of regions in which pages have become free are read.
    Regions,
    /// The changed free maps are made and written; all writes must complete.
    Maps,
    /// The first sync is under way; then the meta.
    Sync,
    /// The meta is under way.
    Meta,
    /// The second sync is under way.
    MetaSync,
    /// A spill's leaves are under way.
    Spilled,
    /// There is no space: what is under way must come back, then the pages are given back.
    Abort,
}

/// What a request was for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Write,
    /// Writes nodes to these pages.
    Nodes(PageRun),
    /// Makes the file so many pages long.
    Growth(u64),
    /// Reads the page below a delta.
    Base(PageRun),
    /// Reads the free map of a region.
    Region(u64),
    /// The same, apart from a checkpoint and only to know.
    Look(u64),
    /// Makes the file so many pages short: no meta needs more.
    Cut(u64),
    Sync,
}

/// A checkpoint that is being written, or a spill.
struct Running {
    phase: Phase,
    is_spill: bool,
    state: State,
    walk: Walk,
    /// A frame that waits for pages.
    waiting: Option<Child>,
    /// Pages that are allocated and not filled yet.
    run: Option<PageRun>,
    /// Bytes that go to the pages from `slice_first` on.
    slice: Vec<u8>,
    slice_first: u64,
    ready: VecDeque<(Purpose, Io)>,
    /// Frames that have pages now, and their bytes.
    placed: Chunks<Child>,
    placed_bytes: u64,
    /// Of dirty frames when it began.
    own_bytes: u64,
    written_bytes: u64,
    space: Option<Space>,
    no_space: Option<CheckpointError>,
}

/// The file's side of the pager.
pub(crate) struct Checkpoints {
    pub freelist: Freelist,
    /// Generation of the newest meta, and where it stands.
    pub newest_generation: u64,
    pub newest_slot: usize,
    /// Damage that was met where nobody could be told.
    pub damage: VecDeque<Damage>,
    running: Option<Running>,
    under_way: HashMap<Token, Purpose>,
    /// What is asked of the disk whether a checkpoint is under way or not.
    apart: VecDeque<(Purpose, Io)>,
    next_token: u64,
    /// Pages of the file itself: more than the metas need after a crash, and until a shorter one is cut.
    pub length_pages: u64,
    /// A look at a region is under way, or one has failed.
    looks_no_more: bool,
    /// Frames that a finished checkpoint has written, to be released.
    written: Chunks<Child>,
    failed: Option<CheckpointError>,
}

impl Checkpoints {
    pub fn new(freelist: Freelist, newest_generation: u64, newest_slot: usize, length_pages: u64) -> Checkpoints {
        Checkpoints {
            freelist,
            newest_generation,
            newest_slot,
            damage: VecDeque::new(),
            running: None,
            under_way: HashMap::new(),
            apart: VecDeque::new(),
            next_token: 0,
            length_pages,
            looks_no_more: false,
            written: Chunks::default(),
            failed: None,
        }
    }

    /// Keeps damage until the owner asks; the first pieces of it, should there be many.
    pub fn note(&mut self, damage: Damage) {
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push_back(damage);
        }
    }

    /// Is the file longer than the newest state needs, and does a checkpoint bring the cut nearer?
    pub fn is_longer_than_needed(&self) -> bool {
        self.length_pages > self.freelist.file_pages() && !self.is_cutting()
    }

    /// Is a cut asked for, or under way?
    pub fn is_cutting(&self) -> bool {
        let asked = self.apart.iter().map(|(purpose, _)| purpose);
        asked.chain(self.under_way.values()).any(|purpose| matches!(purpose, Purpose::Cut(_)))
    }

    /// See [`Pager::look_at_region`].
    pub fn look_at_region(&mut self) -> bool {
        let Some(region) = self.freelist.unread_region().filter(|_| !self.looks_no_more) else { return false };
        self.looks_no_more = true;
        let io = steps::read_maps(region, IoPurpose::LookMap);
        self.apart.push_back((Purpose::Look(region), io));
        true
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("a checkpoint is under way")
    }
}

impl Pager {
    /// Begins to write the published state to the file. False, and nothing happens, where there are unpublished changes,
    /// the file has this state already, or a checkpoint is under way. Writing to the trees goes on meanwhile.
    ///
    /// # Errors
    /// An earlier failure was final.
    pub fn checkpoint_begin(&mut self) -> Result<bool, CheckpointError> {
        if let Some(error) = &self.checkpoints.failed {
            return Err(error.clone());
        }
        let is_old = self.generation() == self.checkpoints.newest_generation;
        if self.is_changed || is_old || self.checkpoints.running.is_some() {
            return Ok(false);
        }
        while self.forest.watched.is_some() {
            // The last one's switching is finished before the next one begins.
            self.step_switch();
        }
        self.reclaim();
        let mut state = self.forest.state.clone();
        state.generation -= 1;
        self.checkpoints.freelist.begin_checkpoint(state.generation);
        self.forest.watched = Some(Watched::new(state.generation, core::mem::take(&mut self.forest.borrowed)));
        let walk = Walk::new(state.roots.iter().map(|root| root.child));
        let own_bytes = self.forest.dirty_bytes;
        self.checkpoints.running = Some(Running { own_bytes, ..Running::new(state, walk) });
        Ok(true)
    }

    /// How far the checkpoint under way has come.
    #[must_use]
    pub fn checkpoint_progress(&self) -> Option<CheckpointProgress> {
        let running = self.checkpoints.running.as_ref().filter(|running| !running.is_spill)?;
        let orphan_bytes = self.forest.watched.as_ref().map_or(0, |watched| watched.orphan_bytes);
        Some(CheckpointProgress {
            own_bytes: running.own_bytes,
            placed_bytes: running.placed_bytes,
            made_bytes: (self.forest.dirty_bytes + orphan_bytes).saturating_sub(running.own_bytes),
        })
    }

    /// Is a checkpoint under way, or a spill?
    #[must_use]
    pub fn is_checkpointing(&self) -> bool {
        self.checkpoints.running.is_some()
    }
}

impl Running {
    fn new(state: State, walk: Walk) -> Running {
        Running {
            phase: Phase::Write,
            is_spill: false,
            walk,
            state,
            waiting: None,
            run: None,
            slice: Vec::new(),
            slice_first: 0,
            ready: VecDeque::new(),
            placed: Chunks::default(),
            placed_bytes: 0,
            own_bytes: 0,
            written_bytes: 0,
            space: None,
            no_space: None,
        }
    }

    fn purpose(&self) -> IoPurpose {
        if self.is_spill { IoPurpose::Spill } else { IoPurpose::Nodes }
    }
}
