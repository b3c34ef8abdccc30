//! What can go wrong, each with what to do about it.

use crate::disk::{DiskError, FileName};
use crate::format::Identity;

/// Every error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// The system refused an operation. On a write or sync of the log this is final.
    #[error("write-ahead log: {0}")]
    Disk(#[from] DiskError),
    /// io_uring can't be used here.
    #[error("write-ahead log: {0}")]
    Ring(#[from] RingError),
    /// A file is damaged, and cutting it could lose acknowledged writes.
    #[error("write-ahead log: {0}")]
    Damaged(Box<Damage>),
    /// There is no log, and none was to be created.
    #[error(
        "write-ahead log: the directory holds no log that was ever started. If this member ran before, its disk is \
         not mounted or was emptied: mount the right one, or remove the member and add it anew"
    )]
    NoLog,
    /// The log belongs to another cluster or member.
    #[error(
        "write-ahead log: {file} belongs to {found}, this member is {expected}. Point the member at its own \
         directory"
    )]
    ForeignSegment {
        /// Which file.
        file: FileName,
        /// Ours.
        expected: Identity,
        /// The file's.
        found: Identity,
    },
    /// Written by a version that this one does not know.
    #[error("write-ahead log: {file} has format version {found}, this program reads {known}. Use a newer program")]
    UnsupportedVersion {
        /// Which file.
        file: FileName,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Uses a feature that this version does not know.
    #[error(
        "write-ahead log: {file} uses unknown features (read-only class {read_only:#x}, refuse class {refuse:#x}). Use \
         a newer program"
    )]
    UnknownFeatures {
        /// Which file.
        file: FileName,
        /// Unknown bits that forbid writing.
        read_only: u32,
        /// Unknown bits that forbid reading.
        refuse: u32,
    },
    /// The batch that fills cannot take this record until the one being synced is on disk. Nothing was appended.
    #[error("write-ahead log: the batch is full, wait until the one before is synced")]
    Full,
    /// The record can never be taken. Nothing was appended.
    #[error("write-ahead log: a record of {bytes} bytes is longer than the {bytes_max} allowed")]
    RecordTooLarge {
        /// Its payload.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The log holds records of as many groups as it can. Nothing was appended.
    #[error("write-ahead log: records of more than {most} groups")]
    TooManyGroups {
        /// The bound.
        most: usize,
    },
    /// Only the log itself writes records of this kind. Nothing was appended.
    #[error("write-ahead log: records of this kind are written by the log itself")]
    ReservedKind,
    /// The log was closed. Nothing was appended.
    #[error("write-ahead log: it is closed")]
    Closed,
    /// An option is out of its range.
    #[error("write-ahead log: option {option} is {value}, it must be between {least} and {most}")]
    Option {
        /// Which.
        option: &'static str,
        /// Its value.
        value: u64,
        /// Lower bound.
        least: u64,
        /// Upper bound.
        most: u64,
    },
    /// A write came back short again and again.
    #[error("write-ahead log: {file} takes only a part of a write at offset {offset}, repeatedly")]
    ShortWrite {
        /// Which file.
        file: FileName,
        /// Where.
        offset: u64,
    },
    /// The disk answered an operation that was never asked for: a defect of the caller.
    #[error("write-ahead log: a completion for an operation that is not under way (token {0})")]
    UnknownToken(u64),
    /// Batch numbers or generations are used up (damage, or 2^64 batches).
    #[error("write-ahead log: numbers are used up at {file}. Rebuild the member from its peers")]
    Exhausted {
        /// The last file.
        file: FileName,
    },
    /// Writing a report failed.
    #[error("write-ahead log: the report could not be written ({0})")]
    Report(std::io::ErrorKind),
}

/// What is damaged, where, and what it means.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} at offset {offset}: {cause}. {}", .cause.remedy())]
pub struct Damage {
    /// Which file.
    pub file: FileName,
    /// Byte offset of the first block concerned.
    pub offset: u64,
    /// What was found.
    pub cause: DamageCause,
}

/// Kinds of damage that recovery never repairs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageCause {
    /// A batch is unreadable although a later one proves that it was synced.
    #[error("batch {batch} is damaged, and batch {proven} was written after it: acknowledged writes are unreadable")]
    BeforeLaterBatch {
        /// The damaged one.
        batch: u64,
        /// The last batch that is proven to have been synced.
        proven: u64,
    },
    /// A good block of this log in a place where it was never written.
    #[error("a good block of batch {batch} stands where batch {expected} belongs: blocks were moved or put back")]
    BrokenChain {
        /// What stands there.
        batch: u64,
        /// What belongs there.
        expected: u64,
    },
    /// Blocks are good but their records are not.
    #[error("the blocks of batch {batch} are good but its records are not: written wrongly")]
    BadRecords {
        /// Which batch.
        batch: u64,
    },
    /// A segment's own header is unreadable.
    #[error("the segment's header is damaged")]
    SegmentHeader,
    /// The start of a segment that was in use is unreadable.
    #[error("the segment's start is damaged although batches follow it")]
    SegmentStart,
    /// The header names another generation than the file's name.
    #[error("the file holds generation {found:#x}: it was renamed or copied over")]
    WrongGeneration {
        /// The header's.
        found: u64,
    },
    /// The file was cut or extended.
    #[error("the file has {found} bytes instead of {expected}")]
    WrongSize {
        /// As it is.
        found: u64,
        /// As its header says.
        expected: u64,
    },
    /// A segment between two others is not there.
    #[error("this segment is missing although later ones exist")]
    MissingSegment,
}

impl DamageCause {
    /// What the operator can do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            DamageCause::MissingSegment => "Put the file back, or rebuild this member from its peers",
            DamageCause::WrongGeneration { .. } | DamageCause::WrongSize { .. } => {
                "Put the right file back, or rebuild this member from its peers"
            }
            _ => "Keep a copy of the directory, check the disk, and rebuild this member from its peers",
        }
    }
}

/// Why io_uring can't be used, with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A seccomp filter forbids the system calls.
    #[error(
        "io_uring is forbidden here by a seccomp filter (container runtimes do that by default). Allow \
         io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Seccomp,
    /// The administrator switched it off.
    #[error("io_uring is switched off (kernel.io_uring_disabled = {0}). Run: sysctl kernel.io_uring_disabled=0")]
    Disabled(u32),
    /// The kernel is older than what is needed.
    #[error("this kernel ({release}) lacks what the log needs of io_uring ({missing}). Use Linux 5.11 or newer")]
    OldKernel {
        /// What `uname` says.
        release: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The limit of locked memory is too low.
    #[error(
        "the limit of locked memory ({limit_bytes} bytes) does not allow an io_uring. Raise it (ulimit -l, \
         LimitMEMLOCK=, --ulimit memlock=), 64 KiB more are enough"
    )]
    LockedMemory {
        /// The limit.
        limit_bytes: u64,
    },
    /// Anything else.
    #[error("io_uring could not be set up: {}", std::io::Error::from_raw_os_error(*.errno))]
    Other {
        /// The system's error number.
        errno: i32,
    },
    /// The directory can't be opened.
    #[error("{path}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Directory {
        /// Its path.
        path: String,
        /// The system's error number.
        errno: i32,
    },
}
