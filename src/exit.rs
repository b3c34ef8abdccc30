//! Exit statuses: each names its cause, so that a supervisor can tell a wrong flag from a broken disk.

/// The status that the process ends with. Documented in docs/operations.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Configuration that can't be (etcd: 1).
    Configuration = 1,
    /// The command line can't be parsed (etcd and Go: 2).
    Usage = 2,
    /// The data folder is in use by another process.
    InUse = 10,
    /// The data folder has a format that this version does not know.
    FormatVersion = 11,
    /// The data folder belongs to another member or cluster.
    Foreign = 12,
    /// Stored data is damaged or missing.
    Damaged = 13,
    /// An address to listen on is taken or not ours.
    Address = 14,
    /// The disk is full.
    DiskFull = 15,
    /// The disk failed: nothing acknowledged since.
    DiskFailed = 16,
    /// io_uring can't be used.
    IoUring = 17,
    /// Too little locked memory, file descriptors or threads.
    Limits = 18,
    /// A request in the log can't be applied by this version.
    Entry = 19,
    /// A folder or file may not be written: permissions, or a file system that is mounted read-only.
    Access = 20,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        std::process::ExitCode::from(status as u8)
    }
}
