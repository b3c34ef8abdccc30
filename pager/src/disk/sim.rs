//! A page file in memory that crashes and fails on demand: the storage of crash tests.
//!
//! Requests are executed when they are polled (in order, or shuffled by a seed), so a sync that was submitted too early
//! covers too little, as on a real disk. Writes are kept by 512-byte sector until a sync covers them; a crash keeps any
//! of the versions of each, or tears write by write. It reads like the mapping does ([`PageSource`]), with every page
//! absent until it was brought in. Pages rot, and writes turn out to be lost or elsewhere, when a test says so
//! ([`SimDisk::damage`]). It does *not* model: a sector torn within, and directory entries.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::memory::Medium;
use super::{Completion, Disk, DiskError, DiskErrorKind, DiskResult, Io, IoPurpose, Token};
use crate::api::PageRun;
use crate::layout::PAGE_BYTES;
use crate::mapping::PageSource;

/// What a power cut leaves of the changes that no sync has covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// All of them.
    KeepAll,
    /// None of them.
    KeepNone,
    /// For each sector and the length any of its versions, drawn from this seed.
    Random(u64),
    /// Of each write all, nothing, the first sectors, the last ones or some; of the newest some and never all; in any order.
    Torn(u64),
    /// The first so many of [`SimDisk::unsynced`], in the order in which they were asked for.
    First(usize),
}

/// What shall go wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO. Half of a write is done; a sync's changes never become durable by a later one.
    Failed,
    /// ENOSPC. Nothing is done.
    Full,
    /// Half of a write is done, a read ends early; others fail.
    Short,
}

/// What a disk has done to a page whose write it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// These bits of its bytes are other ones: byte and mask.
    Rot(usize, u8),
    /// It holds what was written to this page.
    Misdirected(u64),
    /// It holds what it held before its last write.
    Lost,
}

/// How many requests were submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// `Io::Write`.
    pub writes: u64,
    /// Bytes in them.
    pub written_bytes: u64,
    /// `Io::Read`.
    pub reads: u64,
    /// `Io::Sync`.
    pub syncs: u64,
    /// `Io::SetLength`.
    pub set_lengths: u64,
    /// `Io::Cut`.
    pub cuts: u64,
}

impl IoCounts {
    /// All that change the file or make it durable: the points at which a crash can differ.
    #[must_use]
    pub fn changing(&self) -> u64 {
        self.writes + self.syncs + self.set_lengths + self.cuts
    }
}

/// A handle of a simulated disk; clones share the disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    snapshots: Snapshots,
}

#[derive(Default)]
struct State {
    medium: Medium,
    under_way: VecDeque<UnderWay>,
    counts: IoCounts,
    /// Requests that change the file and are executed; those submitted later never are.
    changing_max: Option<u64>,
    stopped_at: Option<IoPurpose>,
    faults: HashMap<u64, Fault>,
    /// The file can't grow.
    is_full: bool,
    is_unreadable: bool,
    shuffle: Option<u64>,
    resident: HashSet<u64>,
    /// Where the bytes of a resident page stand among the snapshots.
    snapshot_of: HashMap<u64, usize>,
}

struct UnderWay {
    token: Token,
    io: Io,
    /// Changes that a sync covers: those executed before it was submitted.
    covered: u64,
    fault: Option<Fault>,
    /// Submitted at or after the point where the disk stops.
    stopped: bool,
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty file.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::with(State::default())
    }

    fn with(state: State) -> SimDisk {
        SimDisk { shared: Arc::new(Shared { state: Mutex::new(state), snapshots: Snapshots::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk with the same content, durable and not, and the same requests under way; counts, faults and
    /// residency start afresh.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        let state = self.state();
        let mut medium = state.medium.clone();
        state.under_way.iter().for_each(|request| apply(&mut medium, &request.io));
        SimDisk::with(State { medium, ..State::default() })
    }

    /// The power fails: requests under way are as good as unsynced, residency is lost, and the disk works again.
    pub fn crash(&self, crash: Crash) {
        let mut state = self.state();
        for request in core::mem::take(&mut state.under_way) {
            apply(&mut state.medium, &request.io);
        }
        match crash {
            Crash::KeepAll => state.medium.crash(|choices| choices - 1),
            Crash::KeepNone => state.medium.crash(|_| 0),
            Crash::Torn(mut seed) => {
                state.medium.tear(|bound| random(&mut seed) % bound);
                state.medium.crash(|choices| choices - 1);
            }
            Crash::First(count) => {
                state.medium.keep_first(count);
                state.medium.crash(|choices| choices - 1);
            }
            Crash::Random(mut seed) => state.medium.crash(|choices| (random(&mut seed) % choices as u64) as usize),
        }
        state.resident.clear();
        state.snapshot_of.clear();
        state.changing_max = None;
        state.faults.clear();
    }

    /// The changes that no sync has covered, requests under way among them, in their order: for each sector or length the
    /// number of its write. Its beginnings are what [`Crash::First`] keeps.
    #[must_use]
    pub fn unsynced(&self) -> Vec<u64> {
        let state = self.state();
        let mut medium = state.medium.clone();
        state.under_way.iter().for_each(|request| apply(&mut medium, &request.io));
        medium.unsynced().into_iter().map(|(change, _)| change).collect()
    }

    /// Executes `count` more requests that change the file (reads don't count) and completes all later ones with
    /// [`DiskErrorKind::Gone`]. Then call [`SimDisk::crash`].
    pub fn stop_after(&self, count: u64) {
        let mut state = self.state();
        state.changing_max = Some(state.counts.changing() + count);
    }

    /// Has a request been refused by [`SimDisk::stop_after`]?
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let state = self.state();
        state.changing_max.is_some_and(|most| state.counts.changing() > most)
    }

    /// What the first request that was refused is for.
    #[must_use]
    pub fn stopped_at(&self) -> Option<IoPurpose> {
        self.state().stopped_at
    }

    /// The request that is submitted after `count` others from now on meets this fault. Reads count.
    pub fn inject(&self, count: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.counts.changing() + state.counts.reads + count;
        state.faults.insert(at, fault);
    }

    /// Requests complete in an order drawn from this seed.
    pub fn shuffle(&self, seed: u64) {
        self.state().shuffle = Some(seed);
    }

    /// Requests so far.
    #[must_use]
    pub fn counts(&self) -> IoCounts {
        self.state().counts
    }

    /// The file as a reader of the page cache sees it.
    ///
    /// # Panics
    /// Beyond the end of the file.
    #[must_use]
    pub fn peek(&self, offset: u64, bytes: usize) -> Vec<u8> {
        self.state().medium.read(offset, bytes).expect("the bytes asked for are in the file")
    }

    /// Damages the file durably, behind everybody's back.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        state.medium.write(offset, bytes);
        let changes = state.medium.changes();
        state.medium.sync(changes);
        forget(&mut state, offset, bytes.len());
    }

    /// Damages a durable page, which leaves memory: until then readers would see what was written. False: there is no such
    /// page, or nothing of it changes.
    pub fn damage(&self, page: u64, damage: Damage) -> bool {
        let mut state = self.state();
        let is_done = match damage {
            Damage::Rot(byte, mask) => {
                let bytes = state.medium.durable_page(page);
                bytes.map(|bytes| bytes[byte % PAGE_BYTES] ^= mask).is_some() && mask != 0
            }
            Damage::Misdirected(from) => {
                let content = state.medium.durable_page(from).map(|bytes| bytes.clone());
                match (content, state.medium.durable_page(page)) {
                    (Some(content), Some(bytes)) if *bytes != content => {
                        *bytes = content;
                        true
                    }
                    _ => false,
                }
            }
            Damage::Lost => state.medium.forget_write(page),
        };
        forget(&mut state, page * PAGE_BYTES as u64, PAGE_BYTES);
        state.resident.remove(&page);
        is_done
    }

    /// From now on the file can't grow, or it can again. Not kept by [`SimDisk::fork`].
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// From now on reads fail, or no longer. Not kept by [`SimDisk::fork`].
    pub fn set_unreadable(&self, is_unreadable: bool) {
        self.state().is_unreadable = is_unreadable;
    }

    /// Cuts the file durably, behind everybody's back.
    pub fn truncate(&self, length: u64) {
        self.state().medium.truncate(length);
        self.evict_all();
    }

    /// The kernel drops all pages from memory.
    pub fn evict_all(&self) {
        self.state().resident.clear();
    }
}

/// Puts a request that was never executed among the unsynced changes.
fn apply(medium: &mut Medium, io: &Io) {
    match io {
        Io::Write { offset, buffers, .. } => {
            let mut at = *offset;
            for buffer in buffers {
                medium.write(at, buffer);
                at += buffer.len() as u64;
            }
        }
        Io::SetLength { length, .. } => medium.set_length(*length),
        Io::Cut { length, .. } => medium.cut(*length),
        Io::Read { .. } | Io::Sync { .. } => {}
    }
}

/// The pages have new content: who looks again takes a new snapshot.
fn forget(state: &mut State, offset: u64, bytes: usize) {
    let end = (offset + bytes as u64).div_ceil(PAGE_BYTES as u64);
    for page in offset / PAGE_BYTES as u64..end {
        state.snapshot_of.remove(&page);
    }
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl State {
    fn execute(&mut self, request: &UnderWay) -> DiskResult {
        let fail = |kind, cause: &str| DiskError {
            operation: request.io.name(),
            purpose: request.io.purpose(),
            offset: request.io.offset(),
            kind,
            cause: cause.to_owned(),
        };
        if request.stopped {
            return Err(fail(DiskErrorKind::Gone, "the simulated disk has stopped"));
        }
        if let Some(fault) = request.fault {
            self.execute_badly(request, fault);
            return Err(match fault {
                Fault::Failed => fail(DiskErrorKind::Failed, "injected I/O error"),
                Fault::Full => fail(DiskErrorKind::Full, "injected: no space left on device"),
                Fault::Short => fail(DiskErrorKind::Short, "injected short transfer"),
            });
        }
        match &request.io {
            Io::Read { offset, bytes, .. } => {
                return self
                    .medium
                    .read(*offset, *bytes)
                    .ok_or_else(|| fail(DiskErrorKind::Short, "the file ends before that"));
            }
            Io::Sync { .. } => self.medium.sync(request.covered),
            io => apply(&mut self.medium, io),
        }
        self.forget_written(&request.io);
        Ok(Vec::new())
    }

    fn execute_badly(&mut self, request: &UnderWay, fault: Fault) {
        match (&request.io, fault) {
            (Io::Write { offset, buffers, .. }, Fault::Failed | Fault::Short) => {
                let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
                self.medium.write(*offset, &bytes[..bytes.len() / 2]);
                self.forget_written(&request.io);
            }
            (Io::Sync { .. }, Fault::Failed | Fault::Short) => self.medium.fail_sync(request.covered),
            _ => {}
        }
    }

    fn forget_written(&mut self, io: &Io) {
        if let Io::Write { offset, buffers, .. } = io {
            forget(self, *offset, buffers.iter().map(|buffer| buffer.len()).sum());
        }
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, io: Io) {
        let mut state = self.state();
        let submitted = state.counts.changing() + state.counts.reads;
        let fault = state.faults.remove(&submitted).or(match &io {
            Io::SetLength { .. } if state.is_full => Some(Fault::Full),
            Io::Read { .. } if state.is_unreadable => Some(Fault::Failed),
            _ => None,
        });
        match &io {
            Io::Write { buffers, .. } => {
                state.counts.writes += 1;
                state.counts.written_bytes += buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>();
            }
            Io::Read { .. } => state.counts.reads += 1,
            Io::Sync { .. } => state.counts.syncs += 1,
            Io::SetLength { .. } => state.counts.set_lengths += 1,
            Io::Cut { .. } => state.counts.cuts += 1,
        }
        let stopped = state.changing_max.is_some_and(|most| state.counts.changing() > most);
        if stopped && state.stopped_at.is_none() {
            state.stopped_at = Some(io.purpose());
        }
        let covered = state.medium.changes();
        state.under_way.push_back(UnderWay { token, io, covered, fault, stopped });
    }

    fn poll(&mut self) -> Option<Completion> {
        let mut state = self.state();
        // A request that came after the stop stays among those under way, so that a crash may leave parts of it; its
        // submitter is told once.
        let waiting = state.under_way.iter().filter(|request| request.token != TOLD).count();
        if waiting == 0 {
            return None;
        }
        let skipped = match &mut state.shuffle {
            Some(seed) => (random(seed) % waiting as u64) as usize,
            None => 0,
        };
        let mut open = state.under_way.iter().enumerate().filter(|(_, request)| request.token != TOLD);
        let index = open.nth(skipped).expect("fewer are skipped than wait").0;
        let token = state.under_way[index].token;
        if state.under_way[index].stopped {
            let result = Err(DiskError {
                operation: state.under_way[index].io.name(),
                purpose: state.under_way[index].io.purpose(),
                offset: state.under_way[index].io.offset(),
                kind: DiskErrorKind::Gone,
                cause: "the simulated disk has stopped".to_owned(),
            });
            state.under_way[index].token = TOLD;
            return Some(Completion { token, result });
        }
        let request = state.under_way.remove(index).expect("the index was just found");
        let result = state.execute(&request);
        Some(Completion { token, result })
    }

    fn length(&self) -> Result<u64, DiskError> {
        Ok(self.state().medium.length())
    }
}

/// Marks a stopped request whose submitter knows.
const TOLD: Token = Token(u64::MAX - 1);

impl SimDisk {
    fn snapshot(&self, state: &mut State, run: PageRun) -> Option<&[u8]> {
        let mut pages = run.first..run.first.checked_add(u64::from(run.pages))?;
        let known = state.snapshot_of.get(&run.first).copied().filter(|index| {
            let bytes = run.pages as usize * PAGE_BYTES;
            self.shared.snapshots.get(*index).len() == bytes
                && pages.all(|page| state.snapshot_of.get(&page) == Some(index))
        });
        let index = match known {
            Some(index) => index,
            None => {
                let bytes = state.medium.read(run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES)?;
                let index = self.shared.snapshots.push(&bytes);
                for page in run.first..run.first + u64::from(run.pages) {
                    state.snapshot_of.insert(page, index);
                }
                index
            }
        };
        Some(self.shared.snapshots.get(index))
    }
}

impl PageSource for SimDisk {
    fn page(&self, run: PageRun) -> Option<&[u8]> {
        let mut state = self.state();
        let mut pages = run.first..run.first.checked_add(u64::from(run.pages))?;
        if pages.is_empty() || !pages.all(|page| state.resident.contains(&page)) {
            return None;
        }
        self.snapshot(&mut state, run)
    }

    fn unchecked(&self, run: PageRun) -> Option<&[u8]> {
        self.snapshot(&mut self.state(), run)
    }

    /// Whoever needs a page reads it: an absent one is never taken in on the way.
    fn is_cached(&self, _run: PageRun) -> bool {
        false
    }

    fn grown(&self, _file_pages: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn cut(&self, file_pages: u64) {
        let mut state = self.state();
        state.resident.retain(|page| *page < file_pages);
        state.snapshot_of.retain(|page, _| *page < file_pages);
    }

    fn set_resident(&self, run: PageRun) {
        self.state().resident.extend(run.first..run.first + u64::from(run.pages));
    }

    fn clear_resident(&self, run: PageRun) {
        let mut state = self.state();
        (run.first..run.first + u64::from(run.pages)).for_each(|page| {
            state.resident.remove(&page);
        });
    }
}

/// Bytes that were looked at, where they stay while the disk lives: a page that is written again gets a new place.
struct Snapshots {
    parts: [OnceLock<Box<[OnceLock<Snapshot>]>>; 32],
    count: Mutex<usize>,
}

struct Snapshot {
    memory: Box<[u8]>,
    start: usize,
}

impl Snapshots {
    fn new() -> Snapshots {
        Snapshots { parts: [const { OnceLock::new() }; 32], count: Mutex::new(0) }
    }

    /// Part `n` has room for 2^n.
    fn place(&self, index: usize) -> &OnceLock<Snapshot> {
        let part = (index + 1).ilog2();
        let places = self.parts[part as usize].get_or_init(|| (0..1usize << part).map(|_| OnceLock::new()).collect());
        &places[index + 1 - (1 << part)]
    }

    fn get(&self, index: usize) -> &[u8] {
        let snapshot = self.place(index).get().expect("an index is given out once its place is filled");
        let end = snapshot.memory.len() - PAGE_BYTES + snapshot.start;
        &snapshot.memory[snapshot.start..end]
    }

    /// Copies the bytes to memory that is aligned to pages, like a mapping's.
    fn push(&self, bytes: &[u8]) -> usize {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = vec![0; bytes.len() + PAGE_BYTES].into_boxed_slice();
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        memory[start..start + bytes.len()].copy_from_slice(bytes);
        let index = *count;
        self.place(index).get_or_init(|| Snapshot { memory, start });
        *count += 1;
        index
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
