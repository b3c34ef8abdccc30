//! The page file through the standard library: requests are done while they are submitted. For tools and tests.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::{Completion, Disk, DiskError, Io, Token};

/// A page file whose requests block the caller.
#[derive(Debug)]
pub struct StdDisk {
    file: File,
    completed: VecDeque<Completion>,
}

impl StdDisk {
    /// Makes a new file, readable and writable by its owner only. Its directory entry is durable when this returns.
    ///
    /// # Errors
    /// The system's; among them that the file exists.
    pub fn create(path: &Path) -> io::Result<StdDisk> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(StdDisk::from_file(file))
    }

    /// Opens a file that exists, for reading and writing.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<StdDisk> {
        Ok(StdDisk::from_file(OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// Takes an open file.
    #[must_use]
    pub fn from_file(file: File) -> StdDisk {
        StdDisk { file, completed: VecDeque::new() }
    }

    /// The file, to be mapped.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    fn execute(&self, io: &Io) -> io::Result<Vec<u8>> {
        match io {
            Io::Write { offset, buffers, .. } => {
                let mut offset = *offset;
                for buffer in buffers {
                    self.file.write_all_at(buffer, offset)?;
                    offset += buffer.len() as u64;
                }
            }
            Io::Read { offset, bytes, .. } => {
                let mut buffer = vec![0; *bytes];
                self.file.read_exact_at(&mut buffer, *offset)?;
                return Ok(buffer);
            }
            Io::Sync { .. } => self.file.sync_data()?,
            Io::Cut { length, .. } => {
                if self.file.metadata()?.len() > *length {
                    self.file.set_len(*length)?;
                }
            }
            Io::SetLength { length, .. } => {
                if self.file.metadata()?.len() < *length {
                    self.file.set_len(*length)?;
                }
            }
        }
        Ok(Vec::new())
    }
}

impl Disk for StdDisk {
    fn submit(&mut self, token: Token, io: Io) {
        let result = self.execute(&io).map_err(|error| DiskError::new(&io, &error));
        self.completed.push_back(Completion { token, result });
    }

    fn poll(&mut self) -> Option<Completion> {
        self.completed.pop_front()
    }

    fn length(&self) -> Result<u64, DiskError> {
        let length = self.file.metadata().map(|metadata| metadata.len());
        length.map_err(|error| DiskError::of_length(&error))
    }
}
