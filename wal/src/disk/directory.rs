//! A directory of segments read with plain, blocking calls: at start, and by tools that must not write.

use crate::buffer::AlignedBuffer;
use crate::disk::{Completion, Disk, DiskError, FileEntry, FileName, Io, Token};
use crate::error::RingError;
use crate::format::BLOCK_BYTES;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An open directory and the file that was read last.
pub(crate) struct Directory {
    path: PathBuf,
    directory: File,
    reading: Option<(FileName, File)>,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Directory, RingError> {
        let directory = File::open(path).map_err(|error| RingError::Directory {
            path: path.display().to_string(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        Ok(Directory { path: path.to_owned(), directory, reading: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path_of(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_string())
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The name now means another file, or none.
    pub(crate) fn close(&mut self, name: FileName) {
        self.reading.take_if(|(reading, _)| *reading == name);
    }

    pub(crate) fn list(&self) -> Result<Vec<FileEntry>, DiskError> {
        let fail = |error: std::io::Error| disk_error("list", None, &error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if let Some(name) = entry.file_name().to_str().and_then(FileName::parse) {
                files.push(FileEntry { name, bytes: entry.metadata().map_err(fail)?.len() });
            }
        }
        Ok(files)
    }

    pub(crate) fn read(&mut self, file: FileName, offset: u64, buffer: &mut AlignedBuffer) -> Result<usize, DiskError> {
        let fail = |error: std::io::Error| DiskError { offset: Some(offset), ..disk_error("read", Some(file), &error) };
        if self.reading.as_ref().is_none_or(|(reading, _)| *reading != file) {
            self.reading = Some((file, open_for_reading(&self.path_of(file)).map_err(fail)?));
        }
        let (_, open) = self.reading.as_ref().expect("it was opened above");
        let mut done = 0;
        while done < buffer.len() {
            match open.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fail(error)),
            }
            // Behind a length that is no whole block only the end of the file can be.
            if !done.is_multiple_of(BLOCK_BYTES) {
                break;
            }
        }
        Ok(done)
    }
}

/// Reads go past the page cache where they can: after a failed sync the cache may hold what the disk does not.
fn open_for_reading(path: &Path) -> std::io::Result<File> {
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        other => other,
    }
}

pub(crate) fn disk_error(operation: &'static str, file: Option<FileName>, error: &std::io::Error) -> DiskError {
    DiskError::plain(operation, file, error.raw_os_error().unwrap_or(libc::EIO))
}

/// A disk that answers every operation with EROFS: for tools that look at a log. Needs no io_uring.
pub struct ReadOnlyDirectory {
    directory: Directory,
    refused: VecDeque<Completion>,
}

impl ReadOnlyDirectory {
    /// Opens a directory, which must exist.
    ///
    /// # Errors
    /// [`RingError::Directory`].
    pub fn open(path: &Path) -> Result<ReadOnlyDirectory, RingError> {
        Ok(ReadOnlyDirectory { directory: Directory::open(path)?, refused: VecDeque::new() })
    }
}

impl Disk for ReadOnlyDirectory {
    fn submit(&mut self, token: Token, io: Io) {
        let error = io.error(libc::EROFS);
        let buffer = if let Io::Write { buffer, .. } = io { Some(buffer) } else { None };
        self.refused.push_back(Completion { token, result: Err(error), buffer });
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        self.refused.pop_front()
    }

    fn wait(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        self.directory.list()
    }

    fn read(&mut self, file: FileName, offset: u64, buffer: &mut AlignedBuffer) -> Result<usize, DiskError> {
        self.directory.read(file, offset, buffer)
    }
}
