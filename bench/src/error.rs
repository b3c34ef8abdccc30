//! What can go wrong with a benchmark.

use std::io;
use std::path::PathBuf;

use ringstone_net::Status;

/// Why there is no report, or only a partial one.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Nobody listens, or it is not an etcd.
    #[error("{endpoint} can't be reached: {cause}. Is the server running there, and is it etcd or ringstone?")]
    Unreachable {
        /// HOST:PORT.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// A call was refused.
    #[error("{call} failed: {} ({:?})", .status.message, .status.code)]
    Call {
        /// Which.
        call: &'static str,
        /// The server's word.
        status: Status,
    },
    /// The server's process can't be looked at.
    #[error("process {pid} can't be looked at (/proc/{pid}): give the pid of the server with --server-pid")]
    Process {
        /// Its pid.
        pid: u32,
    },
    /// The options don't fit together.
    #[error("{0}")]
    Options(&'static str),
    /// Ctrl-C before anything was measured.
    #[error("interrupted before anything was measured; what it put is deleted again")]
    Interrupted,
    /// A server of the comparison.
    #[error("{program} does not serve within {seconds} s: {cause}. The end of its log:\n{log}")]
    Server {
        /// The program.
        program: PathBuf,
        /// How long it was waited for.
        seconds: u64,
        /// What was seen.
        cause: String,
        /// Its last lines.
        log: String,
    },
    /// A file or a process.
    #[error("can't {what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The disk's own figures.
    #[error(transparent)]
    Disk(#[from] ringstone_tuning::ProbeError),
}

impl BenchError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BenchError {
        let path = path.into();
        move |error| BenchError::Io { what, path, error }
    }
}
