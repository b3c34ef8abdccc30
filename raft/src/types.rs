//! The nouns: ids, terms, indexes, entries, and the positions of a log in their order.

use crate::Configuration;
use bytes::Bytes;
use core::fmt;

/// Terms and indexes from outside above this are refused, so that `+ 1` never overflows.
pub const POSITION_MAX: u64 = 1 << 62;

/// What an entry counts beside its payload in every limit given in bytes: term, index, kind, length.
pub const ENTRY_OVERHEAD_BYTES: usize = 32;

/// A member of the group, voter or learner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// An election term; 0 is before the first election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A place in the log; the first entry has 1, and 0 is the place before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl Term {
    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl Index {
    /// The place after this one.
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The place before this one; 0 stays 0.
    pub fn previous(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}", self.0)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// What an entry carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// The caller's bytes. An empty payload is the first entry of a later leader's term: there is nothing to apply.
    Normal,
    /// A [`Configuration`] with the caller's context behind it; [`Configuration::decode`] reads it. The context is empty
    /// in those that raft makes by itself: the first entry of a log, and the one that leaves a joint configuration.
    Configuration,
}

/// One entry of the log. Cloning shares the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: Term,
    /// Its place.
    pub index: Index,
    /// What the payload is.
    pub kind: EntryKind,
    /// Opaque bytes.
    pub payload: Bytes,
}

impl Entry {
    /// What the entry counts in limits given in bytes.
    pub fn weight_bytes(&self) -> usize {
        self.payload.len().saturating_add(ENTRY_OVERHEAD_BYTES)
    }
}

/// What a member must never forget: forgetting it is two leaders in one term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Whom this member voted for in `term`.
    pub vote: Option<NodeId>,
}

/// What stands in place of the log up to and including `index`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMetadata {
    /// The last entry that is covered; 0: none.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// The configuration in force at `index`.
    pub configuration: Configuration,
}

/// An image of the state, by reference: raft never sees its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What it covers.
    pub metadata: SnapshotMetadata,
    /// How the caller finds the image; opaque.
    pub handle: Bytes,
}

/// The last entry in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proposed(pub Index);

/// The last entry that this member's own disk holds for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Persisted(pub Index);

/// The last entry that this member knows to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Committed(pub Index);

/// The last entry that the caller reported as applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied(pub Index);

/// The positions of one member's log. A majority of the others may commit an entry that this member has not yet
/// synced, so `committed` and `persisted` have no order between them; apply follows both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// See [`Proposed`].
    pub proposed: Proposed,
    /// See [`Persisted`].
    pub persisted: Persisted,
    /// See [`Committed`].
    pub committed: Committed,
    /// See [`Applied`].
    pub applied: Applied,
}

impl Positions {
    /// Panics where the order is broken: going on would lose or invent entries.
    pub(crate) fn assert_order(&self) {
        assert!(self.applied.0 <= self.committed.0, "applied past committed: {self:?}");
        assert!(self.applied.0 <= self.persisted.0, "applied past persisted: {self:?}");
        assert!(self.committed.0 <= self.proposed.0, "committed past the log: {self:?}");
        assert!(self.persisted.0 <= self.proposed.0, "persisted past the log: {self:?}");
    }
}
