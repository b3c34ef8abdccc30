//! A member's disk and state machine, simulated.

use super::random::mix;
use ringstone_raft::{Entry, HardState, Index, Persist, SnapshotMetadata, Term};

/// The state machine: how far it is, and a hash over everything that was applied, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    pub applied: Index,
    pub hash: u64,
}

impl State {
    pub fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.next(), "every entry once, in order");
        self.applied = entry.index;
        let seed =
            entry.payload.iter().fold(entry.index.0 ^ (entry.term.0 << 32), |hash, byte| mix(hash ^ u64::from(*byte)));
        self.hash = mix(self.hash ^ seed);
    }
}

#[derive(Clone, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub base: SnapshotMetadata,
    pub entries: Vec<Entry>,
    pub state: State,
}

impl Disk {
    fn last(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    pub fn holds(&self, index: Index, term: Term) -> bool {
        let Some(offset) = index.0.checked_sub(self.base.index.0 + 1) else { return true };
        self.entries.get(offset as usize).is_some_and(|entry| entry.term == term)
    }

    pub fn write(&mut self, batch: &Persist) {
        if let Some(hard_state) = batch.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the term on disk fell");
            let voted_before = hard_state.term == self.hard_state.term && self.hard_state.vote.is_some();
            assert!(!voted_before || hard_state.vote == self.hard_state.vote, "a second vote in one term");
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &batch.snapshot {
            self.base = snapshot.metadata.clone();
            self.entries.clear();
            let hash = u64::from_le_bytes(snapshot.handle[..].try_into().expect("a hash"));
            self.state = State { applied: snapshot.metadata.index, hash };
        }
        if let Some(first) = batch.truncate_from {
            assert!(first > self.state.applied, "what is applied is never cut");
            self.entries.retain(|entry| entry.index < first);
        }
        for entry in &batch.entries {
            assert_eq!(entry.index, self.last().next(), "batches continue the log");
            self.entries.push(entry.clone());
        }
    }

    /// The state becomes durable, and the log before it is dropped.
    pub fn checkpoint(&mut self, base: SnapshotMetadata, state: State) {
        self.entries.retain(|entry| entry.index > base.index);
        self.base = base;
        self.state = state;
    }
}
