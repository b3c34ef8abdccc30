//! What a change looks like to a watcher.

use std::sync::Arc;

use ringstone_proto::mvccpb::KeyValue;

/// A position in the order of all changes. One applied command has one `main`; its changes count up `sub` from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The revision that clients see.
    pub main: i64,
    /// Order within it.
    pub sub: i64,
}

impl Revision {
    /// The key of this revision in the `log` tree: both halves big endian, so that bytes order as revisions do.
    #[must_use]
    pub fn to_key(self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    /// The revision of such a key; absent for bytes that are none.
    #[must_use]
    pub fn from_key(key: &[u8]) -> Option<Revision> {
        let key: &[u8; 16] = key.try_into().ok()?;
        let half = |at: usize| i64::from_be_bytes(core::array::from_fn(|byte| key[at + byte]));
        Some(Revision { main: half(0), sub: half(8) }).filter(|revision| revision.main >= 0 && revision.sub >= 0)
    }
}

/// Put or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key has a new value.
    Put,
    /// The key is gone: `kv` has only key and mod revision.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Where it stands in the order.
    pub revision: Revision,
    /// Put or delete.
    pub kind: EventKind,
    /// The key-value after it, as etcd's watch shows it.
    pub kv: KeyValue,
    /// The key-value before it; absent for a creation.
    pub prev_kv: Option<KeyValue>,
}

/// The changes of one or more whole revisions, in order, shared by all shards.
pub type EventBatch = Arc<[Event]>;
