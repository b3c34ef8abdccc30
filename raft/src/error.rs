//! Why a request is refused, and what ends a member.

use crate::{Index, NodeId, Term};
use thiserror::Error;

/// A request that was refused. Nothing was changed; the caller may ask again or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Only the leader can do this.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// The leader as far as known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; ask the next leader.
    #[error("leadership is being transferred to {to}")]
    Transferring {
        /// The next leader, if all goes well.
        to: NodeId,
    },
    /// Too much is proposed and not yet committed, or too many reads wait.
    #[error("too much is in flight")]
    Busy,
    /// The batch has no payload, or one of its payloads is empty (which marks a leader's first entry).
    #[error("an empty batch or an empty payload cannot be proposed")]
    Empty,
    /// An earlier change of configuration is not yet committed, or the leader has not yet committed in its term.
    #[error("an earlier change of configuration is not finished")]
    ConfigurationPending,
    /// The configuration asked for cannot be: no voter, too many members, a voter that is also a learner, joint.
    #[error("invalid configuration")]
    InvalidConfiguration,
    /// The target of a transfer is not a voter.
    #[error("{0} is not a voter")]
    NotVoter(NodeId),
    /// A context was used before, or is smaller than one used before: an old answer could be taken for a new one.
    #[error("read context {0} is not larger than all before it")]
    ContextReused(u64),
}

/// Input that no correct member or disk produces. After one from `step` with [`RaftError::is_fatal`] the member must
/// stop: its log or a peer's contradicts what was committed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RaftError {
    /// A configuration value out of its bounds.
    #[error("setting {0} is out of bounds")]
    InvalidSetting(&'static str),
    /// What was loaded does not fit together.
    #[error("stored state is inconsistent at index {index}: {what}")]
    InconsistentStable {
        /// Where.
        index: Index,
        /// What does not fit.
        what: &'static str,
    },
    /// A message that cannot be: dropped, nothing was changed.
    #[error("malformed message from {from}: {what}")]
    Malformed {
        /// The sender.
        from: NodeId,
        /// What does not fit.
        what: &'static str,
    },
    /// A leader overwrites what is committed here.
    #[error("leader {from} sends another entry at {index}, which is committed here")]
    CommittedConflict {
        /// The sender.
        from: NodeId,
        /// Where.
        index: Index,
    },
    /// The leader counts on entries that this member does not have: its disk has lost acknowledged entries.
    #[error("leader counts on entries up to {expected}, the log ends at {last}: acknowledged entries are lost")]
    LostEntries {
        /// What the leader counts on.
        expected: Index,
        /// The last entry here.
        last: Index,
    },
    /// A second leader in this member's own term.
    #[error("{from} leads in term {term}, and so does this member")]
    TwoLeaders {
        /// The other one.
        from: NodeId,
        /// The term.
        term: Term,
    },
}

impl RaftError {
    /// Whether safety is gone (as opposed to a message that was dropped).
    pub fn is_fatal(&self) -> bool {
        !matches!(self, RaftError::Malformed { .. })
    }
}
