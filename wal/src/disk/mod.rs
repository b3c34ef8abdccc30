//! What the log asks of storage, and what it may believe when the answer comes.
//!
//! Completion based: [`Disk::submit`] hands an operation over, [`Disk::poll_completion`] brings its result. Two disks
//! stand behind it: [`ring::RingDisk`] (io_uring) and [`sim::SimDisk`] (a model that crashes); a third one only reads
//! ([`directory::ReadOnlyDirectory`]).

pub mod directory;
pub mod ring;
pub mod sim;

use crate::buffer::AlignedBuffer;

/// Names an operation under way; chosen by the log, unique during its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A file of the log's directory. Nothing else is ever touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileName {
    /// The segment of this generation, complete: `GENERATION.wal`, 16 hexadecimal digits.
    Segment(u64),
    /// The same, not ready for use yet: `GENERATION.new`. Never read.
    Preparing(u64),
}

impl FileName {
    /// The file that a directory entry names, if it is one of the log's.
    #[must_use]
    pub fn parse(name: &str) -> Option<FileName> {
        let (digits, extension) = name.split_once('.')?;
        let lower = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if digits.len() != 16 || !lower {
            return None;
        }
        let generation = u64::from_str_radix(digits, 16).ok()?;
        match extension {
            "wal" => Some(FileName::Segment(generation)),
            "new" => Some(FileName::Preparing(generation)),
            _ => None,
        }
    }
}

impl core::fmt::Display for FileName {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            FileName::Segment(generation) => write!(formatter, "{generation:016x}.wal"),
            FileName::Preparing(generation) => write!(formatter, "{generation:016x}.new"),
        }
    }
}

/// One operation. Each says what is durable once it has completed without an error.
#[derive(Debug)]
pub enum Io {
    /// Writes a whole number of blocks at a block's offset. With `sync` these bytes are durable afterwards; without,
    /// nothing is.
    Write {
        /// Where to.
        file: FileName,
        /// Byte offset, a multiple of the block size.
        offset: u64,
        /// The bytes; comes back with the completion.
        buffer: AlignedBuffer,
        /// Whether the completion waits for the medium.
        sync: bool,
    },
    /// Creates an empty file and reserves `bytes` for it without changing its size. Nothing is durable afterwards. An
    /// existing file of that name is an error.
    Create {
        /// Its name.
        file: FileName,
        /// Space to reserve.
        bytes: u64,
    },
    /// Makes everything that was written to the file durable, its size included; not its name.
    Sync {
        /// Which file.
        file: FileName,
    },
    /// Gives a file another name, replacing what had it. Durable after a `SyncDirectory`.
    Rename {
        /// Old name.
        from: FileName,
        /// New name.
        to: FileName,
    },
    /// Removes a file. Durable after a `SyncDirectory`.
    Delete {
        /// Which file.
        file: FileName,
    },
    /// Makes all creations, renames and deletions that completed before durable.
    SyncDirectory,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// Which one.
    pub token: Token,
    /// For a write the bytes written, which may be fewer than asked for (then nothing of it is durable); else 0.
    pub result: Result<u64, DiskError>,
    /// The buffer of a write.
    pub buffer: Option<AlignedBuffer>,
}

/// An operation that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {}: {}", .file.map_or_else(|| "the directory".to_owned(), |file| file.to_string()), std::io::Error::from_raw_os_error(*.errno))]
pub struct DiskError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file; `None` for the directory.
    pub file: Option<FileName>,
    /// The system's error number.
    pub errno: i32,
}

impl DiskError {
    /// Whether space is what is missing: that may pass.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.errno, libc::ENOSPC | libc::EDQUOT)
    }
}

/// A file of the log as the directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name.
    pub name: FileName,
    /// Its size.
    pub bytes: u64,
}

/// Storage for one log.
pub trait Disk {
    /// Takes an operation. It may start at once or with the next [`Disk::flush`].
    fn submit(&mut self, token: Token, io: Io);

    /// Starts all submitted operations: one system call at most.
    ///
    /// # Errors
    /// [`DiskError`] if the kernel took none; the log must be given up.
    fn flush(&mut self) -> Result<(), DiskError>;

    /// A finished operation, if there is one. Makes no system call unless an operation needs another step.
    fn poll_completion(&mut self) -> Option<Completion>;

    /// Blocks until an operation under way may have finished. Returns at once if there is none.
    ///
    /// # Errors
    /// [`DiskError`]; the log must be given up.
    fn wait(&mut self) -> Result<(), DiskError>;

    /// The log's files in the directory, in any order. Blocks.
    ///
    /// # Errors
    /// [`DiskError`].
    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError>;

    /// Fills `buffer` (a whole number of blocks) from `offset` and returns the bytes read, fewer only at the end of the
    /// file. Blocks. Reads the medium, not a cache, where the file system allows it.
    ///
    /// # Errors
    /// [`DiskError`].
    fn read(&mut self, file: FileName, offset: u64, buffer: &mut AlignedBuffer) -> Result<usize, DiskError>;
}

/// Submits `io` and blocks until it is done, with nothing else under way.
///
/// # Errors
/// [`DiskError`]; a short write counts as EIO.
pub fn run_blocking(disk: &mut dyn Disk, io: Io) -> Result<(), DiskError> {
    let expected = match &io {
        Io::Write { file, buffer, .. } => Some((*file, buffer.len() as u64)),
        _ => None,
    };
    disk.submit(Token(u64::MAX), io);
    disk.flush()?;
    loop {
        if let Some(completion) = disk.poll_completion() {
            assert_eq!(completion.token, Token(u64::MAX), "nothing else is under way");
            let bytes = completion.result?;
            return match expected {
                Some((file, length)) if bytes != length => {
                    Err(DiskError { operation: "write in full", file: Some(file), errno: libc::EIO })
                }
                _ => Ok(()),
            };
        }
        disk.wait()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_round_trip(generation: u64) {
            for name in [FileName::Segment(generation), FileName::Preparing(generation)] {
                prop_assert_eq!(FileName::parse(&name.to_string()), Some(name));
            }
        }

        #[test]
        fn parsing_never_panics(name: String) {
            let _ = FileName::parse(&name);
        }
    }

    #[test]
    fn strangers_are_not_the_logs() {
        for name in [
            "lock",
            "0.wal",
            "000000000000000G.wal",
            "000000000000000A.wal",
            "0000000000000001.wal.bak",
            "+000000000000001.wal",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
