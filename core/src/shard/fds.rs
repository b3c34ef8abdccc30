//! The one place where descriptors change owners: into glommio's types, which have no safe way in.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use bytes::BytesMut;
use glommio::io::BufferedFile;
use glommio::net::TcpListener;

/// A file of the executor of this thread.
#[must_use]
pub fn buffered_file(fd: OwnedFd) -> BufferedFile {
    // SAFETY: the descriptor is open and owned by nobody else: `OwnedFd` gave it up.
    unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) }
}

/// A listener of the executor of this thread, from a socket that is bound and listens.
#[must_use]
pub fn listener(fd: OwnedFd) -> TcpListener {
    // SAFETY: as above.
    unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) }
}

/// Begins to write what the page cache holds of a file and the disk does not; waits for nothing but the disk's queue. Nothing
/// is durable because of it.
///
/// # Errors
/// The system's. An error of the disk itself is told by the next sync, too.
pub fn begin_writeback(file: &File) -> io::Result<()> {
    // SAFETY: no memory is involved, and the descriptor is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Begins to write what the page cache holds of these bytes of a file; `waits`: and returns when it is written. Nothing is durable
/// because of it.
///
/// # Errors
/// The system's. An error of the disk itself is told by the next sync, too.
pub fn write_out(file: &File, offset: u64, bytes: u64, waits: bool) -> io::Result<()> {
    let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    let before = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if waits { before } else { 0 };
    // SAFETY: no memory is involved, and the descriptor is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Adds so many bytes of a file at an offset to `into`, where the page cache has all of them: true. It waits for no disk.
pub fn read_cached(file: RawFd, offset: u64, bytes: usize, into: &mut BytesMut) -> bool {
    into.reserve(bytes);
    let Ok(offset) = i64::try_from(offset) else { return false };
    let place = libc::iovec { iov_base: into.spare_capacity_mut().as_mut_ptr().cast(), iov_len: bytes };
    // SAFETY: the place has room for `bytes`, just reserved, and nobody else looks at it; a descriptor that was closed is an error.
    let read = unsafe { libc::preadv2(file, &raw const place, 1, offset, libc::RWF_NOWAIT) };
    // A part, or none: the rest, or all, is on the disk; or this file system can't tell.
    let is_whole = usize::try_from(read) == Ok(bytes);
    if is_whole {
        // SAFETY: the system has filled these bytes.
        unsafe { into.set_len(into.len() + bytes) };
    }
    is_whole
}

/// Gives blocks to what a file, which is as long, has none for, where the file system can; blocks the caller.
///
/// # Errors
/// The system's.
pub fn fill_holes(file: &File, bytes: u64) -> io::Result<()> {
    let Ok(length) = i64::try_from(bytes) else { return Err(io::ErrorKind::FileTooLarge.into()) };
    loop {
        // SAFETY: no memory is involved, and the descriptor is open.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if result == 0 => return Ok(()),
            Some(libc::EOPNOTSUPP) => return Ok(()),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// Makes a file `more` bytes longer than `from`, its length now, with blocks behind it where the file system can; blocks the
/// caller.
///
/// # Errors
/// The system's; on a full disk the file is as long as it was.
pub fn reserve(fd: RawFd, from: u64, more: u64) -> io::Result<()> {
    let (Ok(start), Ok(length)) = (i64::try_from(from), i64::try_from(more)) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    loop {
        // SAFETY: no memory is involved; a descriptor that was closed meanwhile is an error.
        let result = unsafe { libc::fallocate(fd, 0, start, length) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if result == 0 => return Ok(()),
            Some(libc::EINTR) => {}
            // A file system that can't: its first writes tell.
            // SAFETY: as above.
            Some(libc::EOPNOTSUPP) if unsafe { libc::ftruncate(fd, start + length) } == 0 => return Ok(()),
            Some(libc::EOPNOTSUPP) => return Err(io::Error::last_os_error()),
            _ => {
                // Some file systems leave a part.
                // SAFETY: as above.
                unsafe { libc::ftruncate(fd, start) };
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_in_memory_is_added_whole_or_not_at_all() {
        let file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..40_000_u32).map(|at| (at % 251) as u8).collect();
        file.write_all_at(&bytes, 0).expect("room");
        let mut into = BytesMut::from(&b"before"[..]);
        assert!(read_cached(file.as_raw_fd(), 4096, 12_288, &mut into), "it was just written");
        assert_eq!(into, [b"before", &bytes[4096..16_384]].concat());
        // Its end comes sooner; there is no such place.
        assert!(!read_cached(file.as_raw_fd(), 36_864, 4096, &mut into) && !read_cached(-1, 0, 10, &mut into));
        assert!(!read_cached(file.as_raw_fd(), u64::MAX, 10, &mut into));
        assert_eq!(into.len(), 6 + 12_288);
    }
}
