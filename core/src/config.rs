//! The settings of a member: what the command line decides and the rest of the crate reads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringstone_net::peer::TlsFiles;

use crate::compactor::Retention;

/// The etcd API version that this program speaks, as Status and /version report it: clients decide by it what they use.
pub const API_VERSION: &str = "3.7.3";
/// The cluster version that goes with it.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// This program's own version.
pub const RINGSTONE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// etcd's default for `--quota-backend-bytes 0`.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Room for a request's framing above `--max-request-bytes` (etcd: grpcOverheadBytes).
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// The least `--memory-limit`, in bytes: what a loaded server was measured to hold with the least frames (147 MiB), and some.
pub const MEMORY_LIMIT_LEAST: u64 = 192 << 20;

/// A member that a new cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
}

/// All settings of one member.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Member name.
    pub name: String,
    /// Data folder.
    pub data_dir: PathBuf,
    /// Folder of the log, where it is not in the data folder.
    pub wal_dir: Option<PathBuf>,
    /// Addresses that clients are served on.
    pub listen_client: Vec<SocketAddr>,
    /// Client URLs told to the cluster.
    pub advertise_client_urls: Vec<String>,
    /// Peer URLs of this member; its id follows from them.
    pub advertise_peer_urls: Vec<String>,
    /// Addresses that members are served on: UDP for QUIC, TCP for two pages. Only the first is used.
    pub listen_peer: Vec<SocketAddr>,
    /// The members of a new cluster, this one among them.
    pub initial_members: Vec<InitialMember>,
    /// `--initial-cluster-state=existing`: the cluster is there already, and this member was added to it.
    pub joins: bool,
    /// `--force-new-cluster`: this member becomes a cluster of its own, with all that it has.
    pub force_new_cluster: bool,
    /// `--strict-reconfig-check`: a leader refuses changes of the members that may cost the quorum.
    pub strict_reconfig_check: bool,
    /// `--max-learners`: more are refused by a leader.
    pub max_learners: usize,
    /// The newest kind of entries that this member can apply, [`KIND_MAX`](crate::entry::KIND_MAX): less where a test plays an
    /// older build.
    pub entry_kinds: u16,
    /// Certificates of members.
    pub peer_tls: TlsFiles,
    /// Token that ids follow from.
    pub cluster_token: String,
    /// Executors; at least 1.
    pub shards: usize,
    /// Logical bytes from which on puts are refused; none: no limit.
    pub quota_bytes: Option<u64>,
    /// Largest proposal in bytes.
    pub max_request_bytes: usize,
    /// Most operations in a transaction.
    pub max_txn_ops: usize,
    /// Most streams a connection.
    pub max_concurrent_streams: u32,
    /// Interval of periodic watch progress.
    pub watch_progress_interval: Duration,
    /// Idle time after which a client is pinged.
    pub keepalive_interval: Duration,
    /// Time for a client to answer a ping.
    pub keepalive_timeout: Duration,
    /// Compactions that nobody asks for; none: never.
    pub auto_compaction: Option<Retention>,
    /// Raft heartbeat.
    pub heartbeat_interval: Duration,
    /// Raft election timeout.
    pub election_timeout: Duration,
    /// A slower unary request is logged.
    pub slow_request: Duration,
    /// A request that is applied, or reads, for longer is logged.
    pub slow_apply: Duration,
    /// Anonymous memory to stay within, in bytes.
    pub memory_limit_bytes: u64,
    /// Histograms of handling times on /metrics.
    pub extensive_metrics: bool,
}

impl ServerConfig {
    /// The shortest TTL that a lease is granted, in seconds (etcd: 1.5 election timeouts, rounded up).
    #[must_use]
    pub fn lease_ttl_min_s(&self) -> i64 {
        let ms = self.election_timeout.as_millis() * 3 / 2;
        i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX).max(1)
    }

    /// How long a write may wait for its answer (etcd: 5 s and two election timeouts).
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }
}
