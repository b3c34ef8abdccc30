//! What the log asks of storage, and what it may believe when the answer comes.
//!
//! Completion based: [`Disk::submit`] hands an operation over, [`Disk::poll_completion`] brings its result. Two disks
//! stand behind it: [`ring::RingDisk`] (io_uring) and [`sim::SimDisk`] (a model that crashes); a third one only reads
//! ([`directory::ReadOnlyDirectory`]).

pub mod directory;
mod purpose;
pub mod ring;
pub mod sim;

use crate::buffer::AlignedBuffer;

pub use purpose::Purpose;

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
        /// What for.
        purpose: Purpose,
    },
    /// Creates an empty file and reserves `bytes` for it without changing its size. Nothing is durable afterwards. An
    /// existing file of that name is an error.
    Create {
        /// Its name.
        file: FileName,
        /// Space to reserve.
        bytes: u64,
        /// What for.
        purpose: Purpose,
    },
    /// Makes everything that was written to the file durable, its size included; not its name.
    Sync {
        /// Which file.
        file: FileName,
        /// What for.
        purpose: Purpose,
    },
    /// Gives a file another name, replacing what had it. Durable after a `SyncDirectory`.
    Rename {
        /// Old name.
        from: FileName,
        /// New name.
        to: FileName,
        /// What for.
        purpose: Purpose,
    },
    /// Removes a file. Durable after a `SyncDirectory`.
    Delete {
        /// Which file.
        file: FileName,
        /// What for.
        purpose: Purpose,
    },
    /// Makes all creations, renames and deletions that completed before durable.
    SyncDirectory {
        /// What for.
        purpose: Purpose,
    },
}

impl Io {
    /// What it is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self {
            Io::Write { purpose, .. }
            | Io::Create { purpose, .. }
            | Io::Sync { purpose, .. }
            | Io::Rename { purpose, .. }
            | Io::Delete { purpose, .. }
            | Io::SyncDirectory { purpose } => *purpose,
        }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Io::Write { .. } => "write to",
            Io::Create { .. } => "create",
            Io::Sync { .. } | Io::SyncDirectory { .. } => "sync",
            Io::Rename { .. } => "rename",
            Io::Delete { .. } => "delete",
        }
    }

    /// The file that it is about, by the name that it has before; `None` for the directory.
    #[must_use]
    pub fn file(&self) -> Option<FileName> {
        match self {
            Io::Write { file, .. } | Io::Create { file, .. } | Io::Sync { file, .. } | Io::Delete { file, .. } => {
                Some(*file)
            }
            Io::Rename { from, .. } => Some(*from),
            Io::SyncDirectory { .. } => None,
        }
    }

    /// The error of this operation.
    #[must_use]
    pub fn error(&self, errno: i32) -> DiskError {
        let offset = if let Io::Write { offset, .. } = self { Some(*offset) } else { None };
        DiskError { operation: self.name(), purpose: Some(self.purpose()), file: self.file(), offset, errno }
    }
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
pub struct DiskError {
    /// What was tried.
    pub operation: &'static str,
    /// What for; `None` for what only reads or prepares.
    pub purpose: Option<Purpose>,
    /// On which file; `None` for the directory.
    pub file: Option<FileName>,
    /// Where in the file, in bytes, if it has a place there.
    pub offset: Option<u64>,
    /// The system's error number.
    pub errno: i32,
}

impl core::fmt::Display for DiskError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.file {
            Some(file) => write!(formatter, "{} {file}", self.operation)?,
            None => write!(formatter, "{} the directory", self.operation)?,
        }
        if let Some(offset) = self.offset {
            write!(formatter, " at offset {offset}")?;
        }
        if let Some(purpose) = self.purpose {
            write!(formatter, " ({purpose})")?;
        }
        write!(formatter, ": {}", std::io::Error::from_raw_os_error(self.errno))?;
        match self.errno {
            libc::EIO => formatter.write_str(
                ". The disk or its file system failed (see dmesg): what was acknowledged is in the log; have the disk \
                 checked, and start the member again",
            ),
            libc::ENOSPC | libc::EDQUOT => formatter.write_str(". Make room for the log, and start the member again"),
            libc::EROFS => formatter.write_str(". The file system allows no writes: see dmesg for the cause"),
            _ => Ok(()),
        }
    }
}

impl DiskError {
    /// An error of something that is no [`Io`].
    #[must_use]
    pub fn plain(operation: &'static str, file: Option<FileName>, errno: i32) -> DiskError {
        DiskError { operation, purpose: None, file, offset: None, errno }
    }

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
        Io::Write { buffer, .. } => Some((io.error(libc::EIO), buffer.len() as u64)),
        _ => None,
    };
    disk.submit(Token(u64::MAX), io);
    disk.flush()?;
    loop {
        if let Some(completion) = disk.poll_completion() {
            assert_eq!(completion.token, Token(u64::MAX), "nothing else is under way");
            let bytes = completion.result?;
            return match expected {
                Some((error, length)) if bytes != length => Err(DiskError { operation: "write in full to", ..error }),
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
