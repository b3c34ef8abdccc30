//! What all shards of a member know of it: settings, ids, and a few figures that one of them writes and all may read.
//!
//! Every figure here is a single atomic that is read on its own: nothing may be concluded from two of them together.
//! What must agree (revision, compaction, applied index) is read from one pinned root instead.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::command::Member;
use crate::config::ServerConfig;
use crate::error::Error;
use crate::group::GroupError;
use crate::identity::Identity;
use crate::metrics::ShardMetrics;
use crate::state::Admission;
use ringstone_net::{Memory, MetricsSnapshot};
use ringstone_pager::api::Damage;
use ringstone_pager::eviction::Evictor;

/// etcd's alarm types as bits of [`Admission::alarms`].
const ALARM_NOSPACE: u16 = 1 << 1;
const ALARM_CORRUPT: u16 = 1 << 2;

/// What connections may hold of the memory limit: three eighths. Frames may take three quarters of what is beyond 128 MiB
/// (group/open.rs); both at once are within the limit and the allocator's slack.
fn connection_memory_bytes(memory_limit_bytes: u64) -> usize {
    usize::try_from(memory_limit_bytes / 8 * 3).unwrap_or(usize::MAX / 8)
}

/// A check of /livez or /readyz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// /livez: a read of what there is.
    LiveSerializableRead,
    /// /readyz: no CORRUPT alarm.
    DataCorruption,
    /// /readyz: a read of what there is.
    SerializableRead,
    /// /readyz: a read of the newest there is.
    LinearizableRead,
    /// /readyz: it votes.
    NonLearner,
}

impl HealthCheck {
    /// All of them.
    pub const ALL: [HealthCheck; 5] = [
        HealthCheck::LiveSerializableRead,
        HealthCheck::DataCorruption,
        HealthCheck::SerializableRead,
        HealthCheck::LinearizableRead,
        HealthCheck::NonLearner,
    ];

    /// Its name in paths and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HealthCheck::LiveSerializableRead | HealthCheck::SerializableRead => "serializable_read",
            HealthCheck::DataCorruption => "data_corruption",
            HealthCheck::LinearizableRead => "linearizable_read",
            HealthCheck::NonLearner => "non_learner",
        }
    }

    /// Its labels.
    #[must_use]
    pub fn labels(self) -> String {
        let kind = if self == HealthCheck::LiveSerializableRead { "livez" } else { "readyz" };
        format!("type=\"{kind}\",name=\"{}\"", self.name())
    }
}

/// Answers to probes; the first of each pair counts failures.
#[derive(Debug, Default)]
pub struct HealthFigures {
    /// Of /health.
    pub answers: [AtomicU64; 2],
    /// Of each check.
    pub checks: [[AtomicU64; 2]; HealthCheck::ALL.len()],
    /// The last answer of each check.
    pub passed: [AtomicBool; HealthCheck::ALL.len()],
}

impl HealthFigures {
    /// /health was answered.
    pub fn answered(&self, healthy: bool) {
        self.answers[usize::from(healthy)].fetch_add(1, Ordering::Relaxed);
    }

    /// A check was made.
    pub fn checked(&self, check: HealthCheck, passed: bool) {
        self.checks[check as usize][usize::from(passed)].fetch_add(1, Ordering::Relaxed);
        self.passed[check as usize].store(passed, Ordering::Relaxed);
    }
}

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
    /// The members of the cluster that this one joins, as one of them said, and the index at which they became these.
    pub joins: OnceLock<(Vec<Member>, u64)>,
    /// What is wrong with the ways to other members, for `endpoint status`. Locked for a moment, once a second.
    pub peer_complaints: Mutex<Vec<String>>,
    /// This member alone is the cluster: what it has published is linearizable.
    pub is_sole: AtomicBool,
    /// This member is a learner: it answers serializable reads alone.
    pub is_learner: AtomicBool,
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
    /// Bytes that were moved so that the page file can become shorter.
    pub shrink_moved_bytes: AtomicU64,
    /// Bytes that the page file was cut by.
    pub cut_bytes: AtomicU64,
    /// Bytes of dirty frames in memory.
    pub dirty_bytes: AtomicU64,
    /// Keeps the page file within its memory, once it is open.
    pub evictor: OnceLock<Evictor>,
    /// On CLOCK_BOOTTIME, in milliseconds: until then a step needs all pages that it reads, and none is forgotten.
    pub keeps_pages_until_ms: AtomicU64,
    /// Bytes of all frames in memory.
    pub frame_bytes: AtomicU64,
    /// Proposals on their way.
    pub proposals_pending: AtomicU64,
    /// Proposals refused or lost.
    pub proposals_failed: AtomicU64,
    /// Changes of leader seen.
    pub leader_changes: AtomicU64,
    /// Since when that one leads, on CLOCK_BOOTTIME in milliseconds.
    pub leader_since_ms: AtomicU64,
    /// When the leader, or a quorum where this member leads, was last not connected; the same clock.
    pub unconnected_ms: AtomicU64,
    /// Times that the state was summed up, to be compared with that of other members.
    pub sums: AtomicU64,
    /// Times that a member was named whose state differs from that of most members.
    pub diverged: AtomicU64,
    /// A damaged page that a read has met where there are other members: the group ends because of it.
    damage: Mutex<Option<Damage>>,
    /// Times that the disk did not answer for most of an election timeout.
    pub disk_stalls: AtomicU64,
    /// For how long it has not answered now, in milliseconds; 0: it answers.
    pub disk_silent_ms: AtomicU64,
    /// Times that leadership was given away because of that.
    pub leaderships_given_away: AtomicU64,
    /// The lease clock now, in milliseconds.
    pub lease_clock_ms: AtomicU64,
    /// Shards that were woken because they did not beat.
    pub shard_wakes: AtomicU64,
    /// Shards whose connections have ended after the order to stop.
    pub shards_stopped: AtomicUsize,
    ended: AtomicBool,
    failure: Mutex<Option<GroupError>>,
    /// Connections of each shard, those on their way to it included.
    pub connections: Box<[AtomicUsize]>,
    /// What all connections together may hold.
    pub connection_memory: Arc<Memory>,
    /// Counters of each shard.
    pub metrics: Box<[ShardMetrics]>,
    /// What probes were told.
    pub health: HealthFigures,
    /// Calls by the version of their clients, of each shard, as of its last tick.
    #[cfg(feature = "glommio")]
    pub clients: Box<[Mutex<Vec<crate::api::ClientRequests>>]>,
    /// Counters of each shard's wire, as of its last tick. Locked for a moment, never on a request's way.
    pub wire: Box<[Mutex<Option<MetricsSnapshot>>]>,
}

impl Shared {
    /// A member that has not started yet.
    #[must_use]
    pub fn new(config: ServerConfig, identity: Identity) -> Shared {
        let shards = config.shards;
        let connection_memory = Memory::new(connection_memory_bytes(config.memory_limit_bytes), shards);
        Shared {
            config,
            identity,
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            revision: AtomicI64::new(0),
            joins: OnceLock::new(),
            peer_complaints: Mutex::default(),
            is_sole: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            disk_free: AtomicU64::new(u64::MAX),
            file_bytes: AtomicU64::new(0),
            file_bytes_in_use: AtomicU64::new(0),
            shrink_moved_bytes: AtomicU64::new(0),
            cut_bytes: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            evictor: OnceLock::new(),
            keeps_pages_until_ms: AtomicU64::new(0),
            frame_bytes: AtomicU64::new(0),
            proposals_pending: AtomicU64::new(0),
            proposals_failed: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            leader_since_ms: AtomicU64::new(0),
            unconnected_ms: AtomicU64::new(0),
            sums: AtomicU64::new(0),
            diverged: AtomicU64::new(0),
            damage: Mutex::new(None),
            disk_stalls: AtomicU64::new(0),
            disk_silent_ms: AtomicU64::new(0),
            leaderships_given_away: AtomicU64::new(0),
            lease_clock_ms: AtomicU64::new(0),
            shard_wakes: AtomicU64::new(0),
            shards_stopped: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            failure: Mutex::new(None),
            connection_memory,
            connections: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            metrics: (0..shards).map(|_| ShardMetrics::default()).collect(),
            health: HealthFigures::default(),
            #[cfg(feature = "glommio")]
            clients: (0..shards).map(|_| Mutex::default()).collect(),
            wire: (0..shards).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// A read has met a damaged page: what its client is told. Where there are other members, they have the answer, and this
    /// one fetches its state from them.
    pub fn met_damage(&self, damage: Damage) -> Error {
        if self.is_sole.load(Ordering::Relaxed) {
            return Error::Damaged(damage);
        }
        if let Ok(mut place) = self.damage.lock() {
            place.get_or_insert(damage);
        }
        Error::Mending
    }

    /// What a read has met, told once.
    pub fn take_damage(&self) -> Option<Damage> {
        self.damage.lock().ok()?.take()
    }

    /// The group's shard has ended, with this failure if it did not end well.
    pub fn ended(&self, failure: Option<GroupError>) {
        if let Ok(mut place) = self.failure.lock() {
            *place = failure;
        }
        self.ended.store(true, Ordering::Release);
    }

    /// True once the group's shard has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Why it ended, told once.
    #[must_use]
    pub fn failure(&self) -> Option<GroupError> {
        self.failure.lock().ok()?.take()
    }

    /// Clients' connections on all shards.
    pub fn open_connections(&self) -> usize {
        self.connections.iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }

    /// The shard for the next connection: the one with the fewest, where the group's own counts twice.
    #[must_use]
    pub fn least_loaded(&self) -> u32 {
        let load = |shard: &usize| {
            let open = self.connections[*shard].load(Ordering::Relaxed);
            if *shard == 0 { (open + 1) * 2 } else { open + 1 }
        };
        (0..self.connections.len()).rev().min_by_key(load).map_or(0, |shard| u32::try_from(shard).unwrap_or(0))
    }

    /// A connection is on its way to a shard.
    pub fn connection_began(&self, shard: u32) {
        self.connections[shard as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of a shard has ended.
    pub fn connection_ended(&self, shard: u32) {
        self.connections[shard as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// True while puts are refused for want of space: quota or disk.
    #[must_use]
    pub fn is_full(&self, admission: Admission) -> bool {
        self.config.quota_bytes.is_some_and(|quota| admission.quota_bytes >= quota)
            || self.disk_free.load(Ordering::Relaxed) == 0
    }

    /// Refuses a request of this cost (etcd's measure, in bytes) over the quota or on a full disk: before anything else
    /// is checked, as in etcd.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub fn check_space(&self, admission: Admission, cost: u64) -> Result<(), Error> {
        let over = self.config.quota_bytes.is_some_and(|quota| admission.quota_bytes.saturating_add(cost) > quota);
        if cost > 0 && (over || self.disk_free.load(Ordering::Relaxed) == 0) { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// Refuses writes under a CORRUPT alarm, and those that cost space under a NOSPACE alarm: once they are known to be
    /// valid, as in etcd.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NoSpace`].
    pub fn check_alarms(&self, admission: Admission, cost: u64) -> Result<(), Error> {
        if admission.alarms & ALARM_CORRUPT != 0 {
            return Err(Error::Corrupt);
        }
        if cost > 0 && admission.alarms & ALARM_NOSPACE != 0 { Err(Error::NoSpace) } else { Ok(()) }
    }

    /// What a write is told that was asked for at `since` (CLOCK_BOOTTIME) and has not come about in time.
    #[must_use]
    pub fn late_write(&self, since: Duration) -> Error {
        let at = |ms: &AtomicU64| Duration::from_millis(ms.load(Ordering::Relaxed));
        let leads_since = at(&self.leader_since_ms);
        let is_led = self.leader.load(Ordering::Relaxed) != 0;
        let unconnected = is_led.then(|| at(&self.unconnected_ms));
        why_late(since, leads_since, self.config.election_timeout, unconnected)
    }

    /// True when this member leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader.load(Ordering::Relaxed) == self.identity.member_id
    }
}

/// By etcd's rules: the words tell an operator where to look, and are no word on whether the write will come about.
/// `unconnected` is when whoever leads was last not connected; none: nobody leads.
fn why_late(since: Duration, leads_since: Duration, election: Duration, unconnected: Option<Duration>) -> Error {
    let was_lost = leads_since.saturating_sub(2 * election);
    if was_lost < since && since < leads_since {
        Error::TimeoutLeaderFailure
    } else if unconnected.is_some_and(|at| at >= since) {
        Error::TimeoutConnectionLost
    } else {
        Error::Timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_write_is_told_what_happened_since_it_was_asked_for() {
        let at = Duration::from_secs;
        let why = |since, leads_since, unconnected: Option<u64>| {
            why_late(at(since), at(leads_since), at(1), unconnected.map(at))
        };
        assert_eq!(why(100, 50, Some(50)), Error::Timeout);
        assert_eq!(why(100, 50, None), Error::Timeout, "nobody leads");
        assert_eq!(why(100, 101, Some(50)), Error::TimeoutLeaderFailure);
        assert_eq!(why(100, 103, Some(50)), Error::Timeout, "the one before was lost long after it was asked for");
        assert_eq!(why(100, 50, Some(104)), Error::TimeoutConnectionLost);
        assert_eq!(why(100, 101, Some(104)), Error::TimeoutLeaderFailure);
    }
}
