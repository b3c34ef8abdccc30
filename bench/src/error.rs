//! What can go wrong with a benchmark.

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
}
