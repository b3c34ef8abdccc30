//! What raft asks of the world. Durability order is part of the type: see [`AfterSync`].

use crate::{Entry, HardState, Index, Message, NodeId, Snapshot, SyncToken, Term};
use alloc::vec::Vec;

/// What [`Raft::take_actions`](crate::Raft::take_actions) hands out, each thing once.
#[derive(Debug, Default)]
pub struct Actions {
    /// May leave at once: nothing in it promises durability. A leader's appends are here, in parallel with its sync.
    pub send_now: Vec<(NodeId, Message)>,
    /// Must be on disk before [`Raft::persisted`](crate::Raft::persisted) is called with its token.
    pub persist: Option<Persist>,
    /// To be applied in this order; committed, and on this member's disk. Report with
    /// [`Raft::applied`](crate::Raft::applied). Normal entries with an empty payload change nothing.
    pub committed: Vec<Entry>,
    /// Reads that are linearizable once the state has applied `index`.
    pub reads: Vec<ReadState>,
    /// Contexts of reads that will get no answer (leadership changed or none was heard of): ask again, new context.
    pub reads_aborted: Vec<u64>,
    /// Members that need an image: make one, then call [`Raft::send_snapshot`](crate::Raft::send_snapshot).
    pub snapshots_wanted: Vec<NodeId>,
    /// Role, term or leader changed since the last call.
    pub became: Option<RoleChange>,
}

impl Actions {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.send_now.is_empty()
            && self.persist.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.reads_aborted.is_empty()
            && self.snapshots_wanted.is_empty()
            && self.became.is_none()
    }
}

/// One atomic batch for the log. Its parts take effect in the order of the fields. Batches are written in the order in
/// which they were handed out; several may be on their way.
#[derive(Debug, PartialEq, Eq)]
pub struct Persist {
    /// Given back to [`Raft::persisted`](crate::Raft::persisted) when this batch and all before it are synced.
    pub token: SyncToken,
    /// The new term and vote.
    pub hard_state: Option<HardState>,
    /// Install this image: it replaces the state and *every* entry of the log, those behind its index too.
    pub snapshot: Option<Snapshot>,
    /// Entries from here on are void.
    pub truncate_from: Option<Index>,
    /// Consecutive; the first follows what is left.
    pub entries: Vec<Entry>,
}

/// What a finished sync allows. Only [`Raft::persisted`](crate::Raft::persisted) makes one.
#[derive(Debug, Default)]
#[must_use = "these messages are sent by nobody else"]
#[non_exhaustive]
pub struct AfterSync {
    /// Vote requests, vote grants and acknowledgements of appends.
    pub send: Vec<(NodeId, Message)>,
}

/// An answer to [`Raft::read_index`](crate::Raft::read_index).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The caller's.
    pub context: u64,
    /// The state must have applied this.
    pub index: Index,
}

/// What a member is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one. Learners are always this.
    #[default]
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// Role, term and leader after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleChange {
    /// What this member is.
    pub role: Role,
    /// In which term.
    pub term: Term,
    /// Who leads, as far as known.
    pub leader: Option<NodeId>,
}
