//! How much may be put before a disk is full?
//!
//! Too much, and the log or a checkpoint fails in the middle, which ends the member; too little, and a disk that has room
//! refuses puts. What is free inside of the page file counts: after a compaction the room is there, before the file is cut and
//! behind it. Deletes, compactions and leases pass in any case: what is kept back here is for them, too.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::shared::Shared;

/// What a checkpoint writes besides what is dirty: pages on the way to it.
const CHECKPOINT_RESERVE: u64 = 64 << 20;
/// What puts leave to the log on the page file's disk, which is mostly its own: what it grows by while a checkpoint lags.
const LOG_RESERVE: u64 = 128 << 20;
/// The least that the log's disk has free while puts are taken: its next segments. They are recycled, so that this much
/// goes only while a checkpoint lags.
pub(crate) const LOG_LEAST: u64 = 64 << 20;

/// The file systems of a member.
pub(crate) struct Space {
    page_file: PathBuf,
    wal_dir: PathBuf,
    refusing: bool,
}

/// The figures of one look.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Free on the page file's disk.
    pages_disk: u64,
    /// Free pages inside of the page file.
    inside: u64,
    /// Frames that the next checkpoint writes.
    dirty: u64,
    /// Free on the log's disk.
    log_disk: u64,
}

impl Look {
    /// Bytes that may be put; 0: puts are refused.
    fn room(self) -> u64 {
        let reserve = CHECKPOINT_RESERVE + LOG_RESERVE + self.dirty;
        let pages = self.pages_disk.saturating_add(self.inside).saturating_sub(reserve);
        pages.min(self.log_disk.saturating_sub(LOG_LEAST))
    }
}

impl Space {
    pub(crate) fn new(page_file: &Path, wal_dir: &Path) -> Space {
        Space { page_file: page_file.to_owned(), wal_dir: wal_dir.to_owned(), refusing: false }
    }

    /// Looks, tells the shards, and tells the operator when puts begin or cease to be refused.
    pub(crate) fn look(&mut self, shared: &Shared) {
        let load = |figure: &std::sync::atomic::AtomicU64| figure.load(Ordering::Relaxed);
        let look = Look {
            pages_disk: free_bytes(&self.page_file),
            inside: load(&shared.file_bytes).saturating_sub(load(&shared.file_bytes_in_use)),
            dirty: load(&shared.dirty_bytes),
            log_disk: free_bytes(&self.wal_dir),
        };
        let room = look.room();
        shared.disk_free.store(room, Ordering::Relaxed);
        let refusing = room == 0;
        if refusing == self.refusing {
            return;
        }
        self.refusing = refusing;
        if refusing {
            tracing::warn!(
                page_file = %self.page_file.display(),
                page_disk_free_bytes = look.pages_disk,
                page_file_free_bytes = look.inside,
                wal_dir = %self.wal_dir.display(),
                wal_disk_free_bytes = look.log_disk,
                "the disk is nearly full: puts are refused (mvcc: database space exceeded) until there is room. Delete keys and compact, or make the file system larger"
            );
        } else {
            tracing::info!(room_bytes = room, "the disk has room again: puts are taken");
        }
    }
}

/// What the file system of a path can still take. It says nothing: no limit.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return u64::MAX };
    // SAFETY: an all-zero statvfs is a valid place for the answer.
    let mut figures: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live through the call; the path ends with a zero byte.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut figures) } != 0 {
        return u64::MAX;
    }
    figures.f_bavail.saturating_mul(figures.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_inside_of_the_page_file_is_room() {
        let full = Look { pages_disk: 190 * MIB, inside: MIB, dirty: 10 * MIB, log_disk: 190 * MIB };
        assert_eq!(full.room(), 0);
        let compacted = Look { inside: 300 * MIB, dirty: 0, ..full };
        assert_eq!(compacted.room(), 126 * MIB, "the log's disk is the nearer limit");
    }

    #[test]
    fn the_logs_disk_is_a_limit_of_its_own() {
        let look = Look { pages_disk: 1 << 40, inside: 0, dirty: 0, log_disk: 64 * MIB };
        assert_eq!(look.room(), 0);
        assert_eq!(Look { log_disk: u64::MAX, ..look }.room(), (1 << 40) - 192 * MIB);
    }
}
