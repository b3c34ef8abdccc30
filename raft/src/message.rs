//! What members say to each other, and the checks that need no state.

use crate::{Configuration, Entry, EntryKind, Index, NodeId, POSITION_MAX, RaftError, Snapshot, Term};
use alloc::vec::Vec;

/// One message; sender and receiver stand beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term; for a pre-vote request and its grant the term that the sender would campaign in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you vote for me? Binds nobody.
    PreVoteRequest {
        /// The sender's last entry.
        last_index: Index,
        /// Its term.
        last_term: Term,
    },
    /// Answer to it.
    PreVoteResponse {
        /// Yes or no.
        granted: bool,
    },
    /// Vote for me in this term. Leaves after the sender's own log and vote are synced.
    VoteRequest {
        /// The sender's last entry.
        last_index: Index,
        /// Its term.
        last_term: Term,
        /// The leader itself asked for this election: hearing a leader is no reason to refuse.
        forced: bool,
    },
    /// Answer to it; a grant leaves after its sync.
    VoteResponse {
        /// Yes or no.
        granted: bool,
    },
    /// Entries that follow `previous_index`; none of them: a probe.
    Append {
        /// The place before the first entry.
        previous_index: Index,
        /// The term there.
        previous_term: Term,
        /// The leader's commit.
        committed: Index,
        /// Consecutive.
        entries: Vec<Entry>,
    },
    /// All up to `matched` is synced here and equal to the leader's.
    AppendAccepted {
        /// The last such place.
        matched: Index,
    },
    /// There was nothing, or another term, at `rejected`.
    AppendRejected {
        /// `previous_index` of the append.
        rejected: Index,
        /// The last place here that may still agree.
        hint_index: Index,
        /// The term there.
        hint_term: Term,
    },
    /// Only news of the commit, for a member that has been sent all entries. Nothing is answered; one that comes before those
    /// entries says nothing.
    Commit {
        /// The last entry that was sent there.
        index: Index,
        /// Its term.
        entry_term: Term,
        /// The leader's commit.
        committed: Index,
    },
    /// I lead.
    Heartbeat {
        /// What the receiver may commit: never past what it acknowledged.
        committed: Index,
        /// Latest round of read confirmation of this term.
        round: u64,
    },
    /// You lead, as far as I know.
    HeartbeatResponse {
        /// The heartbeat's.
        round: u64,
        /// The sender's [`Config::kinds_known`](crate::Config).
        kinds_known: u32,
    },
    /// Your term is over: the sender knows a later one.
    NewerTerm,
    /// Up to where must the sender have applied for a linearizable read?
    ReadRequest {
        /// The sender's [`Config::incarnation`](crate::Config).
        incarnation: u64,
        /// The sender's context.
        context: u64,
    },
    /// Answer to it, after a quorum confirmed the leader.
    ReadResponse {
        /// As asked.
        incarnation: u64,
        /// As asked.
        context: u64,
        /// Up to here.
        index: Index,
    },
    /// Campaign now: the leader hands over.
    TimeoutNow,
    /// An image in place of entries that the leader no longer has. Stepped once the receiver holds the image.
    Snapshot(Snapshot),
}

impl Message {
    /// Checks what needs no state: bounds, order inside the message, configurations that decode.
    pub(crate) fn validate(&self, from: NodeId) -> Result<(), RaftError> {
        let malformed = |what| Err(RaftError::Malformed { from, what });
        if self.term.0 > POSITION_MAX || self.term.0 == 0 {
            return malformed("term out of bounds");
        }
        match &self.body {
            Body::PreVoteRequest { last_index, last_term } | Body::VoteRequest { last_index, last_term, .. } => {
                if last_index.0 > POSITION_MAX || last_term.0 > POSITION_MAX {
                    return malformed("last entry out of bounds");
                }
            }
            Body::Append { previous_index, previous_term, committed, entries } => {
                if previous_index.0 > POSITION_MAX - entries.len() as u64 || committed.0 > POSITION_MAX {
                    return malformed("index out of bounds");
                }
                return validate_entries(from, self.term, *previous_index, *previous_term, entries);
            }
            Body::Commit { index, entry_term, committed } => {
                if index.0 > POSITION_MAX || committed.0 > POSITION_MAX || *entry_term > self.term {
                    return malformed("commit out of bounds");
                }
            }
            Body::AppendAccepted { matched: index }
            | Body::Heartbeat { committed: index, .. }
            | Body::ReadResponse { index, .. } => {
                if index.0 > POSITION_MAX {
                    return malformed("index out of bounds");
                }
            }
            Body::AppendRejected { rejected, hint_index, .. } => {
                if rejected.0 > POSITION_MAX || hint_index > rejected {
                    return malformed("hint out of bounds");
                }
            }
            Body::Snapshot(snapshot) => {
                let metadata = &snapshot.metadata;
                if metadata.index.0 > POSITION_MAX || metadata.index.0 == 0 || metadata.term > self.term {
                    return malformed("snapshot position out of bounds");
                }
                if !metadata.configuration.is_valid() {
                    return malformed("snapshot without a valid configuration");
                }
            }
            Body::PreVoteResponse { .. }
            | Body::VoteResponse { .. }
            | Body::HeartbeatResponse { .. }
            | Body::NewerTerm
            | Body::ReadRequest { .. }
            | Body::TimeoutNow => {}
        }
        Ok(())
    }
}

fn validate_entries(
    from: NodeId,
    term: Term,
    previous_index: Index,
    previous_term: Term,
    entries: &[Entry],
) -> Result<(), RaftError> {
    let mut index = previous_index;
    let mut entry_term = previous_term;
    for entry in entries {
        index = index.next();
        if entry.index != index {
            return Err(RaftError::Malformed { from, what: "entries are not consecutive" });
        }
        if entry.term < entry_term || entry.term > term {
            return Err(RaftError::Malformed { from, what: "terms of entries are not in order" });
        }
        if entry.kind == EntryKind::Configuration && Configuration::decode(&entry.payload).is_none() {
            return Err(RaftError::Malformed { from, what: "configuration entry does not decode" });
        }
        entry_term = entry.term;
    }
    Ok(())
}
