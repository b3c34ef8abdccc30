//! What all shards of a member know of it: settings, ids, and a few figures that one of them writes and all may read.
//!
//! Every figure here is a single atomic that is read on its own: nothing may be concluded from two of them together.
//! What must agree (revision, compaction, applied index) is read from one pinned root instead.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::config::ServerConfig;
use crate::identity::Identity;

/// Shared by all shards of a member.
pub struct Shared {
    /// The settings.
    pub config: ServerConfig,
    /// Cluster, member and file ids.
    pub identity: Identity,
    /// Raft's term.
    pub term: AtomicU64,
    /// The leader's member id, 0 for none.
    pub leader: AtomicU64,
    /// Raft's committed index.
    pub committed: AtomicU64,
    /// Index of the last entry applied and published.
    pub applied: AtomicU64,
    /// The revision last published.
    pub revision: AtomicI64,
    /// True from the first commit of this life on, until the member is told to stop.
    pub ready: AtomicBool,
    /// The member was told to stop.
    pub stopping: AtomicBool,
    /// The file system's free space less the reserve, in bytes; puts are refused at 0.
    pub disk_free: AtomicU64,
    /// Bytes of the page file.
    pub file_bytes: AtomicU64,
    /// Bytes of the page file that hold something.
    pub file_bytes_in_use: AtomicU64,
    /// Bytes of dirty frames in memory.
    pub dirty_bytes: AtomicU64,
    /// Bytes of all frames in memory.
    pub frame_bytes: AtomicU64,
    /// Proposals on their way.
    pub proposals_pending: AtomicU64,
    /// Proposals refused or lost.
    pub proposals_failed: AtomicU64,
    /// Changes of leader seen.
    pub leader_changes: AtomicU64,
}

impl Shared {
    /// A member that has not started yet.
    #[must_use]
    pub fn new(config: ServerConfig, identity: Identity) -> Shared {
        Shared {
            config,
            identity,
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            revision: AtomicI64::new(0),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            disk_free: AtomicU64::new(u64::MAX),
            file_bytes: AtomicU64::new(0),
            file_bytes_in_use: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            frame_bytes: AtomicU64::new(0),
            proposals_pending: AtomicU64::new(0),
            proposals_failed: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
        }
    }

    /// True when this member leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader.load(Ordering::Relaxed) == self.identity.member_id
    }
}
