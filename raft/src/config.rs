//! What a member starts with: its settings, and what its disk holds.

use crate::{Configuration, Entry, EntryKind, HardState, Index, NodeId, POSITION_MAX, RaftError, SnapshotMetadata};
use alloc::vec::Vec;

/// Settings of one member. Ticks are the caller's; etcd's defaults are 10 election ticks and 1 heartbeat tick of 100 ms.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member.
    pub id: NodeId,
    /// Different at every start of the process (random, or counted on disk): an answer to a read of an earlier life is not
    /// taken for one of this.
    pub incarnation: u64,
    /// A follower campaigns after this many ticks without a leader, and up to twice as many; a leader without a quorum
    /// steps down after it. More than `heartbeat_ticks`.
    pub election_ticks: u32,
    /// A leader is heard from this often. At least 1.
    pub heartbeat_ticks: u32,
    /// Entries in one append, payload and overhead; one entry always fits.
    pub append_bytes_max: usize,
    /// Appends on their way to one member. At least 1.
    pub appends_in_flight_max: usize,
    /// Entries on their way to one member, payload and overhead; one append always fits. At least 1.
    pub bytes_in_flight_max: usize,
    /// Proposals are refused while more than this is proposed and not committed.
    pub uncommitted_bytes_max: usize,
    /// Entries are not handed out while more than this waits for [`Raft::applied`](crate::Raft::applied).
    pub unapplied_bytes_max: usize,
    /// Whether [`Raft::lease_read`](crate::Raft::lease_read) may answer. The same on every member: it makes followers keep
    /// their word across a restart (no vote within `election_ticks` of a leader's message), on which a lease rests.
    pub lease_reads: bool,
    /// The newest kind of the caller's entries that this member can apply; told to leaders, see
    /// [`Raft::kinds_known_by_all`](crate::Raft::kinds_known_by_all).
    pub kinds_known: u32,
}

impl Config {
    /// Ten election ticks, one heartbeat tick, appends of 1 MiB with 64 and 16 MiB on their way, 64 MiB uncommitted, 16 MiB
    /// unapplied, no lease reads, entries of kind 0.
    pub fn new(id: NodeId, incarnation: u64) -> Config {
        Config {
            id,
            incarnation,
            election_ticks: 10,
            heartbeat_ticks: 1,
            append_bytes_max: 1 << 20,
            appends_in_flight_max: 64,
            bytes_in_flight_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            unapplied_bytes_max: 16 << 20,
            lease_reads: false,
            kinds_known: 0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), RaftError> {
        if self.heartbeat_ticks == 0 {
            return Err(RaftError::InvalidSetting("heartbeat_ticks"));
        }
        if self.election_ticks <= self.heartbeat_ticks || self.election_ticks > 1 << 20 {
            return Err(RaftError::InvalidSetting("election_ticks"));
        }
        if self.appends_in_flight_max == 0 {
            return Err(RaftError::InvalidSetting("appends_in_flight_max"));
        }
        if self.bytes_in_flight_max == 0 {
            return Err(RaftError::InvalidSetting("bytes_in_flight_max"));
        }
        if self.unapplied_bytes_max == 0 {
            return Err(RaftError::InvalidSetting("unapplied_bytes_max"));
        }
        Ok(())
    }
}

/// What the disk holds when a member starts.
#[derive(Clone, Debug, Default)]
pub struct Stable {
    /// Term and vote; the default for a new member.
    pub hard_state: HardState,
    /// The place that the log follows, and the configuration in force there. A new group starts at index 0 with its first
    /// configuration, the same on every member; a member that joins starts with an empty one.
    pub snapshot: SnapshotMetadata,
    /// The log behind it, consecutive.
    pub entries: Vec<Entry>,
    /// What the state has durably applied: at least the snapshot's index. Handing out goes on behind it.
    pub applied: Index,
}

impl Stable {
    pub(crate) fn check(&self) -> Result<(), RaftError> {
        let inconsistent = |index, what| Err(RaftError::InconsistentStable { index, what });
        let mut index = self.snapshot.index;
        let mut term = self.snapshot.term;
        if index.0 > POSITION_MAX || self.hard_state.term.0 > POSITION_MAX {
            return inconsistent(index, "position out of bounds");
        }
        let is_unknown = index == Index(0) && self.snapshot.configuration == Configuration::default();
        if !is_unknown && !self.snapshot.configuration.is_valid() {
            return inconsistent(index, "there is no valid configuration");
        }
        for entry in &self.entries {
            index = index.next();
            if entry.index != index {
                return inconsistent(index, "the log is not consecutive");
            }
            if entry.term < term {
                return inconsistent(index, "terms fall along the log");
            }
            if entry.kind == EntryKind::Configuration && Configuration::decode(&entry.payload).is_none() {
                return inconsistent(index, "configuration entry does not decode");
            }
            term = entry.term;
        }
        if term > self.hard_state.term {
            return inconsistent(index, "the log is ahead of the recorded term: term and vote are lost");
        }
        if self.applied < self.snapshot.index || self.applied > index {
            return inconsistent(self.applied, "the applied index is outside of the log");
        }
        Ok(())
    }
}
