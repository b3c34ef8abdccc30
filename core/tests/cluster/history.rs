//! What clients asked and were told, and all changes that there were: the input of the checker.

use std::collections::BTreeMap;

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Vec<u8>,
    /// None: deleted.
    pub value: Option<Vec<u8>>,
    pub lease: i64,
    pub create_revision: i64,
    pub version: i64,
}

/// A key as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Values are different in each.
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
        lease: i64,
    },
    /// `range_end` empty: one key.
    Delete {
        key: Vec<u8>,
        range_end: Vec<u8>,
    },
    /// If the key's mod revision is this (0: there is none): put, else get.
    Txn {
        key: Vec<u8>,
        mod_revision: i64,
        value: Vec<u8>,
    },
    Range {
        key: Vec<u8>,
        range_end: Vec<u8>,
        serializable: bool,
    },
    Compact {
        revision: i64,
    },
    Grant {
        id: i64,
    },
    Revoke {
        id: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Put {
        revision: i64,
    },
    Deleted {
        revision: i64,
        deleted: i64,
    },
    Txn {
        revision: i64,
        succeeded: bool,
        seen: Vec<Seen>,
    },
    Range {
        revision: i64,
        seen: Vec<Seen>,
    },
    /// Compaction, grant, revoke.
    Done {
        revision: i64,
    },
    /// A lease that was to be revoked is not there.
    Gone,
    /// Not done, for certain.
    Refused(String),
    /// Done, or not, or not yet.
    Unknown,
}

impl Outcome {
    pub fn revision(&self) -> Option<i64> {
        match self {
            Outcome::Put { revision }
            | Outcome::Deleted { revision, .. }
            | Outcome::Txn { revision, .. }
            | Outcome::Range { revision, .. }
            | Outcome::Done { revision } => Some(*revision),
            Outcome::Gone | Outcome::Refused(_) | Outcome::Unknown => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// In microseconds of the one simulated clock.
    pub called: u64,
    pub returned: u64,
    pub request: Request,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub calls: Vec<Call>,
    /// By main revision. Every member that applied a revision has shown the same changes.
    pub changes: BTreeMap<i64, Vec<Change>>,
}
