//! What the pager asks of the page file's storage, and what it is told.
//!
//! `submit(token, io)` takes an [`Io`], plain data that any driver can execute; later `poll()` gives its [`Completion`].
//! Several may be under way at once and complete in any order. Durability: a completed `Write`, `SetLength` or `Cut` is on disk
//! only when a `Sync` *submitted after its completion* has completed. A failed `Sync` is final for the file.

mod memory;
mod purpose;
mod sim;
mod std_disk;

use std::sync::Arc;

pub use purpose::IoPurpose;
pub use sim::{Crash, Damage as SimDamage, Fault, IoCounts, SimDisk};
pub use std_disk::StdDisk;

/// Ties a completion to its submission. The submitter chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Bytes to be written, shared with whoever made them: a write copies nothing.
#[derive(Clone)]
pub struct Buffer(Arc<Vec<u8>>);

impl Buffer {
    /// The bytes, for who writes them: not copied where nobody else has them.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        Arc::unwrap_or_clone(self.0)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer(Arc::new(bytes))
    }
}

impl core::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "{} bytes", self.len())
    }
}

/// One request to the page file. Offsets and lengths in bytes.
#[derive(Clone, Debug)]
pub enum Io {
    /// Writes the buffers one behind the other from `offset` on.
    Write {
        /// Where the first buffer goes.
        offset: u64,
        /// What is written.
        buffers: Vec<Buffer>,
        /// What for.
        purpose: IoPurpose,
    },
    /// Reads exactly `bytes`; less is the error [`DiskErrorKind::Short`].
    Read {
        /// Where to begin.
        offset: u64,
        /// How much.
        bytes: usize,
        /// What for.
        purpose: IoPurpose,
    },
    /// Makes all that completed before its submission durable, the length included.
    Sync {
        /// What for.
        purpose: IoPurpose,
    },
    /// Makes the file this long, filled with zeros; a file that is longer stays as it is.
    SetLength {
        /// In bytes.
        length: u64,
        /// What for.
        purpose: IoPurpose,
    },
    /// Makes the file this short; one that is shorter stays as it is.
    Cut {
        /// In bytes.
        length: u64,
        /// What for.
        purpose: IoPurpose,
    },
}

impl Io {
    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Io::Write { .. } => "write",
            Io::Read { .. } => "read",
            Io::Sync { .. } => "sync",
            Io::SetLength { .. } => "set length",
            Io::Cut { .. } => "cut",
        }
    }

    /// Where in the file; 0 for a sync.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self {
            Io::Write { offset, .. } | Io::Read { offset, .. } => *offset,
            Io::SetLength { length, .. } | Io::Cut { length, .. } => *length,
            Io::Sync { .. } => 0,
        }
    }

    /// What a write writes; 0 for anything else.
    #[must_use]
    pub fn written_bytes(&self) -> usize {
        match self {
            Io::Write { buffers, .. } => buffers.iter().map(|buffer| buffer.len()).sum(),
            _ => 0,
        }
    }

    /// What it is for.
    #[must_use]
    pub fn purpose(&self) -> IoPurpose {
        match self {
            Io::Write { purpose, .. }
            | Io::Read { purpose, .. }
            | Io::Sync { purpose }
            | Io::SetLength { purpose, .. }
            | Io::Cut { purpose, .. } => *purpose,
        }
    }
}

/// What went wrong, as far as a caller acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskErrorKind {
    /// The medium failed (EIO and all that is not named here).
    Failed,
    /// No space is left on the device, or a quota is used up.
    Full,
    /// The file ended before the read or the write was complete.
    Short,
    /// The storage is gone: nothing more will complete. The simulated disk's word for a power cut.
    Gone,
}

impl DiskErrorKind {
    /// What the operator can do, as the end of a message.
    fn remedy(self) -> &'static str {
        match self {
            DiskErrorKind::Failed => {
                ". The disk or its file system failed (see dmesg): what was acknowledged is in the log; have the disk \
                 checked, and start the member again"
            }
            DiskErrorKind::Full => ". Make room on the disk of the page file",
            DiskErrorKind::Short => {
                ". The file is shorter than it was, or the disk takes only a part of a write: restore the member from a \
                 snapshot, or replace it"
            }
            DiskErrorKind::Gone => "",
        }
    }
}

/// A request that failed. How much of a failed write is on disk is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} of the page file at offset {offset} ({purpose}) failed: {cause}{}", .kind.remedy())]
pub struct DiskError {
    /// What was asked.
    pub operation: &'static str,
    /// What for.
    pub purpose: IoPurpose,
    /// Where, in bytes.
    pub offset: u64,
    /// For the caller's decision.
    pub kind: DiskErrorKind,
    /// The system's words.
    pub cause: String,
}

impl DiskError {
    /// The error of `io` for the system's `error`.
    #[must_use]
    pub fn new(io: &Io, error: &std::io::Error) -> DiskError {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => DiskErrorKind::Full,
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::WriteZero => DiskErrorKind::Short,
            _ => DiskErrorKind::Failed,
        };
        DiskError { operation: io.name(), purpose: io.purpose(), offset: io.offset(), kind, cause: error.to_string() }
    }
}

impl DiskError {
    /// The system does not say how long the file is.
    #[must_use]
    pub fn of_length(error: &std::io::Error) -> DiskError {
        let io = Io::SetLength { length: 0, purpose: IoPurpose::OpenHead };
        DiskError { operation: "length", ..DiskError::new(&io, error) }
    }
}

/// The result of one [`Io`]: the bytes of a read, nothing for the others.
pub type DiskResult = Result<Vec<u8>, DiskError>;

/// The end of a submitted [`Io`].
#[derive(Clone, Debug)]
pub struct Completion {
    /// Of the submission.
    pub token: Token,
    /// Bytes of a read; empty for the others.
    pub result: DiskResult,
}

/// Storage of one page file.
pub trait Disk {
    /// Starts `io`. Never blocks for a medium where the driver is asynchronous.
    fn submit(&mut self, token: Token, io: Io);

    /// A finished request, if there is one.
    fn poll(&mut self) -> Option<Completion>;

    /// Bytes of the file now.
    ///
    /// # Errors
    /// The file can't be asked.
    fn length(&self) -> Result<u64, DiskError>;
}

/// Does `io` and waits for it: for opening and for tools. Nothing else may be under way.
///
/// # Errors
/// The disk's, and [`DiskErrorKind::Gone`] where it holds nothing that could complete.
pub fn run(disk: &mut dyn Disk, io: Io) -> DiskResult {
    let gone = DiskError {
        operation: io.name(),
        purpose: io.purpose(),
        offset: io.offset(),
        kind: DiskErrorKind::Gone,
        cause: "nothing completes".to_owned(),
    };
    disk.submit(Token(u64::MAX), io);
    match disk.poll() {
        Some(completion) => completion.result,
        None => Err(gone),
    }
}
