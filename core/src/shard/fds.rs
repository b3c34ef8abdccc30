//! The one place where descriptors change owners: into glommio's types, which have no safe way in.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

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
