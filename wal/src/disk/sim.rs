//! A disk in memory that forgets what was not synced.
//!
//! Every file has durable bytes and, in front of them, writes that no sync has covered. A crash keeps all of these, none,
//! a random subset of their 512-byte sectors, or tears them one by one, applied in random order; file sizes and directory
//! changes likewise. What it does not model: a sector torn within, a sync that lies, bytes that rot by themselves (tests
//! flip those).

use crate::buffer::AlignedBuffer;
use crate::disk::{Completion, Disk, DiskError, FileEntry, FileName, Io, Token};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const SECTOR_BYTES: usize = 512;

/// What survives a crash of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything that was submitted.
    All,
    /// Only what was synced.
    Nothing,
    /// A random subset of sectors and directory changes, in random order.
    Random(u64),
    /// Of each write all, nothing, the first sectors, the last ones or some; of the newest some and never all. Writes in
    /// random order, a random subset of directory changes.
    Torn(u64),
    /// The first so many of [`SimDisk::unsynced`], in the order in which they were asked for.
    First(usize),
}

impl Keep {
    fn seed(self) -> u64 {
        match self {
            Keep::All | Keep::Nothing | Keep::First(_) => 0,
            Keep::Random(seed) | Keep::Torn(seed) => seed,
        }
    }
}

/// A failure to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with this error number and does nothing.
    Errno(i32),
    /// The operation fails with this error number. Of a write half is done; what a failed sync, or a write with one, should
    /// have made durable is in the cache only, and no later sync covers it.
    Failed(i32),
    /// A write stops after this many bytes, unsynced. No fault for what is no longer write.
    Short(usize),
}

/// One sector of a write, or less at its end, that no sync has covered.
#[derive(Clone)]
struct Unsynced {
    offset: usize,
    bytes: Arc<[u8]>,
    /// The write that it is a part of.
    write: u64,
    /// Its sync has failed: no later one will cover it.
    lost: bool,
}

#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    /// What a reader sees: the durable bytes, and over them all that is unsynced.
    current: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

fn store(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8], write: u64) {
        store(&mut self.current, offset, bytes);
        for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let offset = offset + at * SECTOR_BYTES;
            self.unsynced.push(Unsynced { offset, bytes: sector.into(), write, lost: false });
        }
    }

    fn sync(&mut self) {
        self.sync_range(0, usize::MAX);
    }

    /// Makes what was written in this range durable and leaves the rest of the file as it is.
    fn sync_range(&mut self, offset: usize, length: usize) {
        let end = offset.saturating_add(length);
        let mut left: Vec<Unsynced> = Vec::new();
        for sector in core::mem::take(&mut self.unsynced) {
            if sector.lost || sector.offset < offset || sector.offset + sector.bytes.len() > end {
                left.push(sector);
                continue;
            }
            store(&mut self.durable, sector.offset, &sector.bytes);
            // Older bytes of the same place are history.
            left.retain(|other| !other.lost || other.offset != sector.offset);
        }
        self.unsynced = left;
    }

    fn fail_sync(&mut self, offset: usize, length: usize) {
        let end = offset.saturating_add(length);
        let within = |sector: &&mut Unsynced| sector.offset >= offset && sector.offset < end;
        self.unsynced.iter_mut().filter(within).for_each(|sector| sector.lost = true);
    }

    fn crash(&mut self, keep: Keep, random: &mut Random) {
        let mut unsynced = core::mem::take(&mut self.unsynced);
        match keep {
            Keep::All => {}
            Keep::Nothing => unsynced.clear(),
            Keep::Random(_) => {
                random.shuffle(&mut unsynced);
                unsynced.retain(|_| random.below(2) == 0);
            }
            Keep::Torn(_) => unsynced = torn(unsynced, random),
            Keep::First(_) => unreachable!("what is beyond was taken away before"),
        }
        for sector in unsynced {
            store(&mut self.durable, sector.offset, &sector.bytes);
        }
        self.current.clone_from(&self.durable);
    }

    /// The process has ended, the machine has not. What a failed sync has lost is on the medium or it is not: who reads
    /// past the cache sees which.
    fn settle_lost(&mut self, random: &mut Random) {
        if !self.unsynced.iter().any(|sector| sector.lost) {
            return;
        }
        self.current.clone_from(&self.durable);
        for sector in core::mem::take(&mut self.unsynced) {
            if !sector.lost {
                store(&mut self.current, sector.offset, &sector.bytes);
                self.unsynced.push(sector);
            } else if random.below(2) == 0 {
                store(&mut self.durable, sector.offset, &sector.bytes);
                store(&mut self.current, sector.offset, &sector.bytes);
            }
        }
    }
}

/// What is left of each write, the writes in random order.
fn torn(unsynced: Vec<Unsynced>, random: &mut Random) -> Vec<Unsynced> {
    let newest = unsynced.last().map(|sector| sector.write);
    let mut writes: BTreeMap<u64, Vec<Unsynced>> = BTreeMap::new();
    for sector in unsynced {
        writes.entry(sector.write).or_default().push(sector);
    }
    let mut kept: Vec<Vec<Unsynced>> = Vec::new();
    for (write, sectors) in writes {
        let whole = Some(write) != newest && random.below(2) == 0;
        let mut kept_sectors = tear(sectors.len(), whole, random).into_iter();
        kept.push(sectors.into_iter().filter(|_| kept_sectors.next() == Some(true)).collect());
    }
    random.shuffle(&mut kept);
    kept.into_iter().flatten().collect()
}

/// Which of a write's sectors are kept. Whole: all or none; else a beginning, an end, or any but all.
fn tear(sectors: usize, whole: bool, random: &mut Random) -> Vec<bool> {
    let cut = random.below(sectors as u64) as usize;
    let first_kept = random.below(2) == 0;
    match random.below(3) {
        _ if whole => vec![first_kept; sectors],
        0 => (0..sectors).map(|at| at < cut).collect(),
        1 => (0..sectors).map(|at| at > cut).collect(),
        _ => (0..sectors).map(|at| at != cut && random.below(2) == 0).collect(),
    }
}

#[derive(Clone)]
enum DirectoryChange {
    Link(FileName, usize),
    Rename(FileName, FileName),
    Unlink(FileName),
}

fn apply(directory: &mut BTreeMap<FileName, usize>, change: &DirectoryChange) {
    match *change {
        DirectoryChange::Link(name, file) => {
            directory.insert(name, file);
        }
        DirectoryChange::Rename(from, to) => {
            if let Some(file) = directory.remove(&from) {
                directory.insert(to, file);
            }
        }
        DirectoryChange::Unlink(name) => {
            directory.remove(&name);
        }
    }
}

/// A sector or a change of the directory that no sync has covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Which write it is a part of: those of one write follow each other.
    pub write: u64,
    file: usize,
    offset: usize,
}

/// A small generator (splitmix64): a seed replays a test.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound` (at least 1).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

struct Pending {
    token: Token,
    io: Io,
    fault: Option<Fault>,
    /// Why the operation found nothing to work on.
    refused: Option<i32>,
}

/// The simulated disk. Its steps (an operation submitted, an operation completed) are counted, so that a test can stop at
/// every one of them.
pub struct SimDisk {
    /// Shared with the disks that were made from this one, until either changes.
    files: Vec<Arc<File>>,
    directory: BTreeMap<FileName, usize>,
    durable_directory: BTreeMap<FileName, usize>,
    /// With their place among the writes.
    directory_changes: Vec<(u64, DirectoryChange)>,
    pending: VecDeque<Pending>,
    random: Random,
    steps: u64,
    crash_at: Option<u64>,
    submissions: u64,
    faults: BTreeMap<u64, Fault>,
    space_bytes: u64,
    is_unreadable: bool,
    writes: u64,
    /// Writes and changes of the directory: the order of [`SimDisk::unsynced`].
    changes: u64,
}

impl SimDisk {
    /// An empty disk; `seed` decides the order of completions.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            files: Vec::new(),
            directory: BTreeMap::new(),
            durable_directory: BTreeMap::new(),
            directory_changes: Vec::new(),
            pending: VecDeque::new(),
            random: Random(seed),
            steps: 0,
            crash_at: None,
            submissions: 0,
            faults: BTreeMap::new(),
            space_bytes: u64::MAX,
            is_unreadable: false,
            writes: 0,
            changes: 0,
        }
    }

    /// From step `step` on (counted from now) nothing happens any more and every call fails.
    pub fn crash_at(&mut self, step: u64) {
        self.crash_at = Some(self.steps + step);
    }

    /// Whether the step of the crash was reached.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.crash_at.is_some_and(|step| self.steps >= step)
    }

    /// Steps until now.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Writes until now.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Makes the operation that is submitted `submission` submissions from now (0 is the next) fail.
    pub fn inject(&mut self, submission: u64, fault: Fault) {
        self.faults.insert(self.submissions + submission, fault);
    }

    /// Bounds the total size of all files; beyond it creations fail with ENOSPC.
    pub fn set_space_bytes(&mut self, bytes: u64) {
        self.space_bytes = bytes;
    }

    /// From now on reads fail with EIO, or no longer. A disk that is made from this one can be read.
    pub fn set_unreadable(&mut self, is_unreadable: bool) {
        self.is_unreadable = is_unreadable;
    }

    /// The disk after a power cut now.
    #[must_use]
    pub fn after_crash(&self, keep: Keep) -> SimDisk {
        let seed = keep.seed();
        let mut random = Random(seed);
        let mut directory = self.durable_directory.clone();
        let unsynced = if let Keep::First(_) = keep { self.unsynced() } else { Vec::new() };
        let first = if let Keep::First(count) = keep { &unsynced[..count.min(unsynced.len())] } else { &[] };
        for (write, change) in &self.directory_changes {
            let kept = match keep {
                Keep::All => true,
                Keep::Nothing => false,
                Keep::Random(_) | Keep::Torn(_) => random.below(2) == 0,
                Keep::First(_) => first.iter().any(|one| one.write == *write),
            };
            if kept {
                apply(&mut directory, change);
            }
        }
        let mut files = self.files.clone();
        for (at, file) in files.iter_mut().enumerate().filter(|(_, file)| !file.unsynced.is_empty()) {
            let file = Arc::make_mut(file);
            let Keep::First(_) = keep else {
                file.crash(keep, &mut random);
                continue;
            };
            let kept =
                |sector: &Unsynced| first.contains(&Change { write: sector.write, file: at, offset: sector.offset });
            file.unsynced.retain(kept);
            file.crash(Keep::All, &mut random);
        }
        let fresh = SimDisk::new(seed);
        SimDisk { files, durable_directory: directory.clone(), directory, space_bytes: self.space_bytes, ..fresh }
    }

    /// What no sync has covered, a sector or a change of the directory each, in the order in which it was asked for: its
    /// beginnings are what [`Keep::First`] keeps.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Change> {
        let sectors = self.files.iter().enumerate().flat_map(|(at, file)| {
            file.unsynced.iter().map(move |sector| Change { write: sector.write, file: at, offset: sector.offset })
        });
        let changes = self.directory_changes.iter();
        let mut all: Vec<Change> = changes.map(|(write, _)| Change { write: *write, file: 0, offset: 0 }).collect();
        all.extend(sectors);
        all.sort_unstable();
        all
    }

    /// The disk after the process alone was killed: what was submitted is there to read, and a power cut may still take it.
    #[must_use]
    pub fn after_kill(&self) -> SimDisk {
        let (mut files, mut random) = (self.files.clone(), Random(self.steps));
        for file in files.iter_mut().filter(|file| !file.unsynced.is_empty()) {
            Arc::make_mut(file).settle_lost(&mut random);
        }
        SimDisk {
            files,
            directory: self.directory.clone(),
            durable_directory: self.durable_directory.clone(),
            directory_changes: self.directory_changes.clone(),
            changes: self.changes,
            space_bytes: self.space_bytes,
            ..SimDisk::new(self.steps)
        }
    }

    /// The bytes of a file as a reader sees them.
    #[must_use]
    pub fn bytes(&self, name: FileName) -> Option<&[u8]> {
        self.directory.get(&name).map(|&file| self.files[file].current.as_slice())
    }

    /// Changes a file behind the log's back, durably; creates it if it is not there.
    pub fn tamper(&mut self, name: FileName, change: impl FnOnce(&mut Vec<u8>)) {
        let file = *self.directory.entry(name).or_insert_with(|| {
            self.files.push(Arc::default());
            self.files.len() - 1
        });
        self.durable_directory.insert(name, file);
        let file = Arc::make_mut(&mut self.files[file]);
        change(&mut file.current);
        file.durable.clone_from(&file.current);
        file.unsynced.clear();
    }

    /// Changes durable bytes behind the log's back; what is not synced stays as it is. False: there is no such file, or it
    /// is shorter.
    pub fn damage(&mut self, name: FileName, offset: usize, bytes: &[u8]) -> bool {
        let Some(&file) = self.directory.get(&name) else { return false };
        let file = Arc::make_mut(&mut self.files[file]);
        let end = offset + bytes.len();
        if file.durable.len() < end {
            return false;
        }
        store(&mut file.durable, offset, bytes);
        store(&mut file.current, offset, bytes);
        for sector in &file.unsynced {
            store(&mut file.current, sector.offset, &sector.bytes);
        }
        true
    }

    /// Removes a file behind the log's back, durably.
    pub fn tamper_remove(&mut self, name: FileName) {
        self.directory.remove(&name);
        self.durable_directory.remove(&name);
    }

    /// Names of all files.
    #[must_use]
    pub fn names(&self) -> Vec<FileName> {
        self.directory.keys().copied().collect()
    }

    fn step(&mut self) -> bool {
        if self.has_crashed() {
            return false;
        }
        self.steps += 1;
        true
    }

    fn file(&mut self, name: FileName, operation: &'static str) -> Result<&mut File, DiskError> {
        let error = DiskError::plain(operation, Some(name), libc::ENOENT);
        let file = *self.directory.get(&name).ok_or(error)?;
        Ok(Arc::make_mut(&mut self.files[file]))
    }

    /// What the operation does before it completes: everything but its durability. The result is the error number if it
    /// can do nothing.
    fn begin(&mut self, io: &Io, fault: Option<Fault>) -> Option<i32> {
        match (fault, io) {
            (Some(Fault::Errno(errno)), _) => return Some(errno),
            (Some(Fault::Failed(errno)), io) if !matches!(io, Io::Write { .. }) => return Some(errno),
            _ => {}
        }
        match io {
            Io::Write { file, offset, buffer, .. } => {
                let length = match fault {
                    Some(Fault::Short(bytes)) => bytes.min(buffer.len()),
                    Some(Fault::Failed(_)) => buffer.len() / 2,
                    _ => buffer.len(),
                };
                self.writes += 1;
                self.changes += 1;
                let write = self.changes;
                match self.file(*file, "write to") {
                    Ok(file) => file.write(*offset as usize, &buffer[..length], write),
                    Err(error) => return Some(error.errno),
                }
            }
            Io::Rename { from: file, .. } | Io::Delete { file, .. } if !self.directory.contains_key(file) => {
                return Some(libc::ENOENT);
            }
            Io::Rename { from, to, .. } => self.change(DirectoryChange::Rename(*from, *to)),
            Io::Delete { file, .. } => self.change(DirectoryChange::Unlink(*file)),
            Io::Create { file, .. } if self.directory.contains_key(file) => return Some(libc::EEXIST),
            Io::Create { file, bytes, .. } => {
                let used: u64 = self.directory.values().map(|&file| self.files[file].current.len() as u64).sum();
                if used.saturating_add(*bytes) > self.space_bytes {
                    return Some(libc::ENOSPC);
                }
                self.files.push(Arc::default());
                self.change(DirectoryChange::Link(*file, self.files.len() - 1));
            }
            Io::Sync { .. } | Io::SyncDirectory { .. } => {}
        }
        None
    }

    fn change(&mut self, change: DirectoryChange) {
        apply(&mut self.directory, &change);
        self.changes += 1;
        self.directory_changes.push((self.changes, change));
    }

    /// A sync, or a write with one, has failed.
    fn fail_sync(&mut self, io: &Io) {
        let (file, offset, length) = match io {
            Io::Sync { file, .. } => (*file, 0, usize::MAX),
            Io::Write { file, offset, buffer, sync: true, .. } => (*file, *offset as usize, buffer.len()),
            _ => return,
        };
        if let Ok(file) = self.file(file, "sync") {
            file.fail_sync(offset, length);
        }
    }

    fn end(&mut self, io: &Io, fault: Option<Fault>) -> Result<u64, DiskError> {
        if let Some(Fault::Failed(_)) = fault {
            self.fail_sync(io);
        }
        if let Some(Fault::Errno(errno) | Fault::Failed(errno)) = fault {
            return Err(io.error(errno));
        }
        match io {
            Io::Write { file, offset, buffer, sync, .. } => {
                let short = if let Some(Fault::Short(bytes)) = fault { Some(bytes.min(buffer.len())) } else { None };
                let written = self.file(*file, "write to")?;
                if *sync && short.is_none() {
                    written.sync_range(*offset as usize, buffer.len());
                }
                Ok(short.unwrap_or(buffer.len()) as u64)
            }
            Io::Sync { file, .. } => {
                self.file(*file, "sync")?.sync();
                Ok(0)
            }
            Io::SyncDirectory { .. } => {
                self.durable_directory.clone_from(&self.directory);
                self.directory_changes.clear();
                Ok(0)
            }
            Io::Create { .. } | Io::Rename { .. } | Io::Delete { .. } => Ok(0),
        }
    }
}

fn crashed() -> DiskError {
    DiskError::plain("use", None, libc::ESHUTDOWN)
}

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, io: Io) {
        let fault = self.faults.remove(&self.submissions);
        self.submissions += 1;
        let short = |fault: &Fault| match (fault, &io) {
            (Fault::Short(bytes), Io::Write { buffer, .. }) => *bytes < buffer.len(),
            (Fault::Short(_), _) => false,
            (Fault::Errno(_) | Fault::Failed(_), _) => true,
        };
        let fault = fault.filter(short);
        let refused = if self.step() { self.begin(&io, fault) } else { None };
        self.pending.push_back(Pending { token, io, fault, refused });
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.has_crashed() { Err(crashed()) } else { Ok(()) }
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        if self.pending.is_empty() || !self.step() {
            return None;
        }
        let at = self.random.below(self.pending.len() as u64) as usize;
        let Pending { token, io, fault, refused } = self.pending.remove(at).expect("the index is below the length");
        let fault = match fault {
            Some(Fault::Failed(_)) => fault,
            fault => refused.map(Fault::Errno).or(fault),
        };
        let result = self.end(&io, fault);
        let buffer = if let Io::Write { buffer, .. } = io { Some(buffer) } else { None };
        Some(Completion { token, result, buffer })
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        self.flush()
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        self.flush()?;
        let entry =
            |(&name, &file): (&FileName, &usize)| FileEntry { name, bytes: self.files[file].current.len() as u64 };
        Ok(self.directory.iter().map(entry).collect())
    }

    fn read(&mut self, file: FileName, offset: u64, buffer: &mut AlignedBuffer) -> Result<usize, DiskError> {
        self.flush()?;
        if self.is_unreadable {
            return Err(DiskError::plain("read", Some(file), libc::EIO));
        }
        let content = &self.file(file, "read")?.current;
        let start = content.len().min(offset as usize);
        let bytes = buffer.len().min(content.len() - start);
        buffer[..bytes].copy_from_slice(&content[start..start + bytes]);
        Ok(bytes)
    }
}
