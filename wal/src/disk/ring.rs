//! The disk behind an io_uring of its own.
//!
//! All operations of a running log go through the ring, those on the directory, too: nothing blocks the caller's core.
//! Opening files and reading them (at start, by tools) uses plain calls. Two ways to sync stand behind one seam, see
//! [`SyncWay`].

use crate::buffer::AlignedBuffer;
use crate::disk::directory::{Directory, disk_error};
use crate::disk::{Completion, Disk, DiskError, FileEntry, FileName, Io, Token};
use crate::error::RingError;
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Places in the submission queue. The log has two operations in flight, of two entries at most.
const QUEUE_ENTRIES: u32 = 32;
/// Files that are kept open and registered: the active segment, the one being prepared, and some to spare.
const OPEN_FILES_MAX: usize = 8;
/// The place of what [`RingDisk::hold`] was given, behind those.
const HELD_SLOT: u32 = OPEN_FILES_MAX as u32;

/// How a write becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncWay {
    /// O_DIRECT writes with RWF_DSYNC. Measured at 17 to 19 CPU-us for a batch of 4 KiB.
    DirectDsync,
    /// A buffered write with a linked fdatasync, which runs on a kernel worker: 52 to 57 CPU-us. Works on every file
    /// system.
    WriteFdatasync,
}

/// What an entry of the submission queue was for; the low bits of its user data.
const PART_MAIN: u64 = 0;
const PART_SYNC: u64 = 1;
const PART_RESERVE: u64 = 2;
const PART_BITS: u32 = 2;

enum Kind {
    Write,
    Create { bytes: u64 },
    Rename { to: FileName },
    Delete,
    Sync,
    SyncDirectory,
}

/// An operation under way. What the kernel reads (paths, the buffer) stays here, at a fixed address, until it is done.
struct Operation {
    token: Token,
    kind: Kind,
    file: Option<FileName>,
    buffer: Option<AlignedBuffer>,
    _paths: Vec<CString>,
    entries_left: u8,
    written: u64,
    errno: Option<i32>,
    /// What it comes to if it fails, but for the error number.
    error: DiskError,
}

struct OpenFile {
    name: FileName,
    fd: OwnedFd,
    /// Place in the ring's table of files.
    slot: u32,
}

/// A directory of segments behind io_uring.
pub struct RingDisk {
    ring: IoUring,
    directory: Directory,
    way: SyncWay,
    files: Vec<OpenFile>,
    files_registered: bool,
    /// A write with a linked sync has one completion: the sync's, or that of a write which failed or was short.
    skips_writes: bool,
    operations: Vec<Option<Operation>>,
    waiting: VecDeque<squeue::Entry>,
    ready: VecDeque<Completion>,
    entries_under_way: usize,
    event: OwnedFd,
}

impl RingDisk {
    /// Opens a directory, which must exist. With `None` a probe chooses the way to sync.
    ///
    /// # Errors
    /// [`RingError`] says why io_uring can't be used and what to do.
    pub fn open(path: &Path, way: Option<SyncWay>) -> Result<RingDisk, RingError> {
        let directory = Directory::open(path)?;
        let way = match way {
            Some(way) => way,
            None if supports_direct(path) => SyncWay::DirectDsync,
            None => SyncWay::WriteFdatasync,
        };
        let ring = IoUring::new(QUEUE_ENTRIES).map_err(|error| setup_error(&error))?;
        check_opcodes(&ring)?;
        // SAFETY: no memory is involved; the result is checked.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(setup_error(&std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        ring.submitter().register_eventfd(event.as_raw_fd()).map_err(|error| setup_error(&error))?;
        let files_registered = ring.submitter().register_files_sparse(HELD_SLOT + 1).is_ok();
        let skips_writes = ring.params().is_feature_skip_cqe_on_success();
        Ok(RingDisk {
            ring,
            directory,
            way,
            files: Vec::new(),
            files_registered,
            skips_writes,
            operations: Vec::new(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            entries_under_way: 0,
            event,
        })
    }

    /// Has the kernel keep this open file until the last operation of this ring has ended, however the process ends: a
    /// lock on it then tells the next process that no write of this one can still land in the log (a direct write goes
    /// on while its process is killed). The descriptor itself stays the caller's.
    ///
    /// # Errors
    /// [`RingError`]: the kernel has no table of files for a ring (before 5.19), or refuses.
    pub fn hold(&self, file: BorrowedFd<'_>) -> Result<(), RingError> {
        if !self.files_registered {
            return Err(old_kernel("a table of registered files"));
        }
        let held = self.ring.submitter().register_files_update(HELD_SLOT, &[file.as_raw_fd()]);
        held.map(|_| ()).map_err(|error| setup_error(&error))
    }

    /// How writes are synced.
    #[must_use]
    pub fn sync_way(&self) -> SyncWay {
        self.way
    }

    /// Becomes readable when an operation completes (an eventfd, not blocking): wakes a parked executor, which reads it
    /// and looks at [`Disk::poll_completion`].
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The place of an open file, opening it if need be.
    fn file(&mut self, name: FileName, operation: &'static str) -> Result<usize, DiskError> {
        if let Some(at) = self.files.iter().position(|open| open.name == name) {
            return Ok(at);
        }
        let flags = libc::O_CLOEXEC | self.direct_flag();
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(self.directory.path_of(name));
        let file = opened.map_err(|error| disk_error(operation, Some(name), &error))?;
        self.adopt(name, file.into())
    }

    fn direct_flag(&self) -> i32 {
        if self.way == SyncWay::DirectDsync { libc::O_DIRECT } else { 0 }
    }

    fn adopt(&mut self, name: FileName, fd: OwnedFd) -> Result<usize, DiskError> {
        if self.files.len() == OPEN_FILES_MAX {
            let used =
                |open: &OpenFile| self.operations.iter().flatten().any(|operation| operation.file == Some(open.name));
            let idle = self.files.iter().position(|open| !used(open)).expect("fewer operations than open files");
            self.close_at(idle)?;
        }
        let free = |slot: &u32| self.files.iter().all(|open| open.slot != *slot);
        let slot = (0..OPEN_FILES_MAX as u32).find(free).expect("fewer files than slots");
        self.register(slot, fd.as_raw_fd(), name)?;
        self.files.push(OpenFile { name, fd, slot });
        Ok(self.files.len() - 1)
    }

    fn register(&self, slot: u32, fd: RawFd, name: FileName) -> Result<(), DiskError> {
        if self.files_registered {
            let updated = self.ring.submitter().register_files_update(slot, &[fd]);
            updated.map_err(|error| disk_error("register", Some(name), &error))?;
        }
        Ok(())
    }

    fn close_at(&mut self, at: usize) -> Result<(), DiskError> {
        let closed = self.files.swap_remove(at);
        self.register(closed.slot, -1, closed.name)
    }

    fn build(&mut self, at: usize, io: &Io) -> Result<(), DiskError> {
        let data = (at as u64) << PART_BITS;
        let directory = types::Fd(self.directory.as_fd().as_raw_fd());
        match io {
            Io::Write { file, offset, sync, .. } => {
                let open = self.file(*file, "write to")?;
                self.push_write(open, at, *offset, *sync);
            }
            Io::Sync { file, .. } => {
                let open = self.file(*file, "sync")?;
                let entry = self.fsync(open, types::FsyncFlags::empty());
                self.push(entry.user_data(data | PART_MAIN));
            }
            Io::SyncDirectory { .. } => {
                let entry = opcode::Fsync::new(directory).build();
                self.push(entry.user_data(data | PART_MAIN));
            }
            Io::Create { file, .. } => {
                let path = self.keep_path(at, *file);
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | self.direct_flag();
                let entry = opcode::OpenAt::new(directory, path).flags(flags).mode(0o600).build();
                self.push(entry.user_data(data | PART_MAIN));
            }
            Io::Rename { from, to, .. } => {
                let (from, to) = (self.keep_path(at, *from), self.keep_path(at, *to));
                let entry = opcode::RenameAt::new(directory, from, directory, to).build();
                self.push(entry.user_data(data | PART_MAIN));
            }
            Io::Delete { file, .. } => {
                let path = self.keep_path(at, *file);
                let entry = opcode::UnlinkAt::new(directory, path).build();
                self.push(entry.user_data(data | PART_MAIN));
            }
        }
        Ok(())
    }

    fn keep_path(&mut self, at: usize, file: FileName) -> *const libc::c_char {
        let name = CString::new(std::ffi::OsStr::new(&file.to_string()).as_bytes()).expect("a file name has no NUL");
        let operation = self.operations[at].as_mut().expect("the operation was just made");
        let pointer = name.as_ptr();
        operation._paths.push(name);
        pointer
    }

    fn push_write(&mut self, open: usize, at: usize, offset: u64, sync: bool) {
        let data = (at as u64) << PART_BITS;
        let operation = self.operations[at].as_mut().expect("the operation was just made");
        let buffer = operation.buffer.as_ref().expect("a write has a buffer");
        let length = u32::try_from(buffer.len()).expect("a write is below 4 GiB");
        let (pointer, dsync) = (buffer.as_ptr(), sync && self.way == SyncWay::DirectDsync);
        let linked = sync && !dsync;
        operation.entries_left = if linked && !self.skips_writes { 2 } else { 1 };
        let flags = if dsync { libc::RWF_DSYNC } else { 0 };
        let file = &self.files[open];
        let entry = if self.files_registered {
            opcode::Write::new(types::Fixed(file.slot), pointer, length).offset(offset).rw_flags(flags).build()
        } else {
            opcode::Write::new(types::Fd(file.fd.as_raw_fd()), pointer, length).offset(offset).rw_flags(flags).build()
        };
        if linked {
            let sync = self.fsync(open, types::FsyncFlags::DATASYNC).user_data(data | PART_SYNC);
            // Its completion would wake a parked executor for nothing, just before the sync's.
            let skipped = if self.skips_writes { squeue::Flags::SKIP_SUCCESS } else { squeue::Flags::empty() };
            self.push(entry.flags(squeue::Flags::IO_LINK | skipped).user_data(data | PART_MAIN));
            self.push(sync);
        } else {
            self.push(entry.user_data(data | PART_MAIN));
        }
    }

    fn fsync(&self, open: usize, flags: types::FsyncFlags) -> squeue::Entry {
        let file = &self.files[open];
        if self.files_registered {
            opcode::Fsync::new(types::Fixed(file.slot)).flags(flags).build()
        } else {
            opcode::Fsync::new(types::Fd(file.fd.as_raw_fd())).flags(flags).build()
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.waiting.push_back(entry);
    }

    /// Moves waiting entries to the ring. A link never ends at the queue's edge: entries of one operation move together
    /// because the queue has more places than the log has entries.
    fn fill_queue(&mut self) {
        let mut queue = self.ring.submission();
        while queue.capacity() - queue.len() >= 2 {
            let Some(entry) = self.waiting.pop_front() else { break };
            let linked = entry.get_user_data() & ((1 << PART_BITS) - 1) == PART_MAIN
                && self.waiting.front().is_some_and(|next| next.get_user_data() == entry.get_user_data() | PART_SYNC);
            let second = if linked { self.waiting.pop_front() } else { None };
            for entry in core::iter::once(entry).chain(second) {
                // SAFETY: buffers and paths that the entry points to are owned by `operations` until its completion
                // came in, and the ring is drained before they are dropped.
                unsafe { queue.push(&entry) }.expect("there are two free places");
            }
            self.entries_under_way += if linked && !self.skips_writes { 2 } else { 1 };
        }
    }

    /// Takes what the kernel has completed. No system call.
    fn collect(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            self.entries_under_way -= 1;
            let (at, part) = ((entry.user_data() >> PART_BITS) as usize, entry.user_data() & ((1 << PART_BITS) - 1));
            self.finish_part(at, part, entry.result());
        }
    }

    fn finish_part(&mut self, at: usize, part: u64, result: i32) {
        let operation = self.operations[at].as_mut().expect("completions belong to operations");
        operation.entries_left -= 1;
        if result < 0 {
            // A reservation is only help. A short write cancels its sync: the count tells.
            let length = operation.buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
            let ignored = (part == PART_RESERVE && -result == libc::EOPNOTSUPP)
                || (part == PART_SYNC && -result == libc::ECANCELED && operation.written < length);
            if !ignored && (operation.errno.is_none() || part == PART_MAIN) {
                operation.errno = Some(-result);
            }
        } else if part == PART_MAIN {
            operation.written = if matches!(operation.kind, Kind::Write) { result as u64 } else { 0 };
        } else if part == PART_SYNC && self.skips_writes {
            operation.written = operation.buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
        }
        if part == PART_MAIN && result >= 0 {
            self.after_main(at, result);
        }
        if self.operations[at].as_ref().is_some_and(|operation| operation.entries_left == 0) {
            self.finish(at);
        }
    }

    /// What an operation needs once the kernel has done its main part.
    fn after_main(&mut self, at: usize, result: i32) {
        let operation = self.operations[at].as_ref().expect("completions belong to operations");
        let name = operation.file;
        let outcome = match (&operation.kind, name) {
            (Kind::Create { bytes }, Some(name)) => {
                let bytes = *bytes;
                // SAFETY: the kernel opened this descriptor for this operation; nobody else knows it.
                let fd = unsafe { OwnedFd::from_raw_fd(result) };
                self.adopt(name, fd).map(|open| self.reserve(open, at, bytes))
            }
            (Kind::Rename { to }, Some(name)) => {
                let to = *to;
                self.directory.close(name);
                self.forget(to).map(|()| {
                    self.files.iter_mut().filter(|open| open.name == name).for_each(|open| open.name = to);
                })
            }
            (Kind::Delete, Some(name)) => self.forget(name),
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            self.operations[at].as_mut().expect("it was there above").errno = Some(error.errno);
        }
    }

    /// Reserves the space of a new file without changing its size: missing space shows now, and its blocks lie together.
    fn reserve(&mut self, open: usize, at: usize, bytes: u64) {
        let fd = types::Fd(self.files[open].fd.as_raw_fd());
        let entry = opcode::Fallocate::new(fd, bytes).mode(libc::FALLOC_FL_KEEP_SIZE).build();
        self.push(entry.user_data((at as u64) << PART_BITS | PART_RESERVE));
        self.operations[at].as_mut().expect("it was there before").entries_left += 1;
    }

    fn forget(&mut self, name: FileName) -> Result<(), DiskError> {
        self.directory.close(name);
        match self.files.iter().position(|open| open.name == name) {
            Some(at) => self.close_at(at),
            None => Ok(()),
        }
    }

    fn finish(&mut self, at: usize) {
        let done = self.operations[at].take().expect("the operation is finished once");
        let result = match done.errno {
            Some(errno) => Err(DiskError { errno, ..done.error }),
            None => Ok(done.written),
        };
        self.ready.push_back(Completion { token: done.token, result, buffer: done.buffer });
    }

    /// Takes an operation's place; its index is the user data of its entries.
    fn place(&mut self, operation: Operation) -> usize {
        match self.operations.iter().position(Option::is_none) {
            Some(at) => {
                self.operations[at] = Some(operation);
                at
            }
            None => {
                self.operations.push(Some(operation));
                self.operations.len() - 1
            }
        }
    }

    fn enter(&mut self, want: usize) -> Result<(), DiskError> {
        loop {
            self.fill_queue();
            match self.ring.submitter().submit_and_wait(want) {
                Ok(_) if self.waiting.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel wants completions taken first.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => self.collect(),
                Err(error) => return Err(disk_error("submit to", None, &error)),
            }
        }
    }
}

impl Disk for RingDisk {
    fn submit(&mut self, token: Token, mut io: Io) {
        let kind = match &io {
            Io::Write { .. } => Kind::Write,
            Io::Create { bytes, .. } => Kind::Create { bytes: *bytes },
            Io::Sync { .. } => Kind::Sync,
            Io::Rename { to, .. } => Kind::Rename { to: *to },
            Io::Delete { .. } => Kind::Delete,
            Io::SyncDirectory { .. } => Kind::SyncDirectory,
        };
        let (file, error) = (io.file(), io.error(libc::EIO));
        let buffer = match &mut io {
            Io::Write { buffer, .. } => Some(core::mem::replace(buffer, AlignedBuffer::empty())),
            _ => None,
        };
        let at = self.place(Operation {
            token,
            kind,
            file,
            buffer,
            _paths: Vec::new(),
            entries_left: 1,
            written: 0,
            errno: None,
            error,
        });
        if let Err(error) = self.build(at, &io) {
            self.operations[at].as_mut().expect("it was just placed").errno = Some(error.errno);
            self.finish(at);
        }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        if self.waiting.is_empty() { Ok(()) } else { self.enter(0) }
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        if self.ready.is_empty() {
            self.collect();
            // A created file has its space reserved next.
            if !self.waiting.is_empty()
                && let Err(error) = self.enter(0)
            {
                self.fail_waiting(error.errno);
            }
        }
        self.ready.pop_front()
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        if !self.ready.is_empty() || (self.entries_under_way == 0 && self.waiting.is_empty()) {
            return Ok(());
        }
        self.enter(1)
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        self.directory.list()
    }

    fn read(&mut self, file: FileName, offset: u64, buffer: &mut AlignedBuffer) -> Result<usize, DiskError> {
        self.directory.read(file, offset, buffer)
    }
}

impl RingDisk {
    /// Something has ended that [`Disk::poll_completion`] would look at. No system call.
    pub fn has_ended(&mut self) -> bool {
        !self.ready.is_empty() || !self.ring.completion().is_empty()
    }

    /// The kernel takes no more entries: what waits will never be done.
    fn fail_waiting(&mut self, errno: i32) {
        while let Some(entry) = self.waiting.pop_front() {
            let at = (entry.get_user_data() >> PART_BITS) as usize;
            if let Some(operation) = self.operations[at].as_mut() {
                operation.errno = Some(errno);
                operation.entries_left -= 1;
                if operation.entries_left == 0 {
                    self.finish(at);
                }
            }
        }
    }
}

impl Drop for RingDisk {
    /// Waits for the kernel to let go of the buffers.
    fn drop(&mut self) {
        self.waiting.clear();
        while self.entries_under_way > 0 {
            if self.ring.submitter().submit_and_wait(1).is_err_and(|error| error.raw_os_error() != Some(libc::EINTR)) {
                // The kernel may still use the buffers: leak them rather than free them under its hands.
                core::mem::forget(core::mem::take(&mut self.operations));
                return;
            }
            let taken = self.ring.completion().count();
            self.entries_under_way -= taken.min(self.entries_under_way);
        }
    }
}

/// Whether the file system takes O_DIRECT writes of a block with RWF_DSYNC: tries one.
fn supports_direct(path: &Path) -> bool {
    let probe = path.join("direct.probe");
    let flags = libc::O_DIRECT | libc::O_CLOEXEC;
    let opened = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(&probe);
    let block = AlignedBuffer::zeroed(1);
    let supported = opened.is_ok_and(|file| {
        let vector = libc::iovec { iov_base: block.as_ptr().cast_mut().cast(), iov_len: block.len() };
        // SAFETY: the vector describes `block`, which lives through the call and is only read.
        let written = unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, 0, libc::RWF_DSYNC) };
        written == block.len() as isize
    });
    // Left behind, it would do no harm: it is not one of the log's names.
    let _ = std::fs::remove_file(&probe);
    supported
}

fn check_opcodes(ring: &IoUring) -> Result<(), RingError> {
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|_| old_kernel("the probe of operations"))?;
    let needed = [
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::OpenAt::CODE, "openat"),
        (opcode::Fallocate::CODE, "fallocate"),
        (opcode::RenameAt::CODE, "renameat"),
        (opcode::UnlinkAt::CODE, "unlinkat"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, missing)) => Err(old_kernel(missing)),
        None => Ok(()),
    }
}

fn old_kernel(missing: &'static str) -> RingError {
    RingError::OldKernel { release: kernel_release(), missing }
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Tells apart what all look like EPERM or ENOSYS.
fn setup_error(error: &std::io::Error) -> RingError {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = disabled.ok().and_then(|text| text.trim().parse().ok());
    classify_setup_error(error.raw_os_error().unwrap_or(libc::EIO), disabled, &kernel_release(), memlock_bytes())
}

fn memlock_bytes() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    limit.rlim_cur
}

fn classify_setup_error(errno: i32, disabled: Option<u32>, release: &str, limit_bytes: u64) -> RingError {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match (errno, disabled) {
        (libc::EPERM, Some(value)) if value > 0 => RingError::Disabled(value),
        (libc::ENOSYS | libc::EINVAL, _) if version < (5, 11) => {
            RingError::OldKernel { release: release.to_owned(), missing: "io_uring" }
        }
        (libc::EPERM | libc::EACCES | libc::ENOSYS, _) => RingError::Seccomp,
        (libc::ENOMEM, _) => RingError::LockedMemory { limit_bytes },
        _ => RingError::Other { errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_of_a_failed_setup_are_told_apart() {
        let classify = |errno, disabled, release| classify_setup_error(errno, disabled, release, 65536);
        assert_eq!(classify(libc::EPERM, Some(2), "6.6.1"), RingError::Disabled(2));
        assert_eq!(classify(libc::EPERM, Some(0), "6.6.1"), RingError::Seccomp);
        assert_eq!(classify(libc::ENOSYS, None, "6.1.0-13-amd64"), RingError::Seccomp);
        let old = RingError::OldKernel { release: "4.18.0".to_owned(), missing: "io_uring" };
        assert_eq!(classify(libc::ENOSYS, None, "4.18.0"), old);
        assert_eq!(classify(libc::ENOMEM, None, "5.15.0"), RingError::LockedMemory { limit_bytes: 65536 });
    }
}
