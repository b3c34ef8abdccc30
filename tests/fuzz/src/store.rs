//! A small store in memory, with everything in it that commands act on.

use ringstone_core::command::{ArchivedCommand, Command, Put};
use ringstone_core::entry::{Draft, Envelope};
use ringstone_core::group::tree_specs;
use ringstone_core::lease::state as lease;
use ringstone_core::mvcc;
use ringstone_core::state::State;
use ringstone_pager::api::{ReadTrees as _, WriteTrees as _};
use ringstone_pager::model::ModelTrees;

pub struct Store {
    pub trees: ModelTrees,
    pub state: State,
}

impl Store {
    /// Some keys with versions, a deleted one, two leases, one compaction.
    pub fn new() -> Store {
        let state = State { hash_key: *b"sixteen key byte", cluster_id: 0xcdf8, ..State::default() };
        let mut store = Store { trees: ModelTrees::new(&tree_specs()), state };
        for id in [7, 8] {
            lease::grant(&mut store.trees, lease::LeaseTime(5), id, 60).expect("no faults").expect("granted");
        }
        store.publish();
        for (key, lease) in [("a", 0), ("b", 7), ("c", 8), ("a", 7), ("b", 0), ("dd", 7)] {
            let put = Put { key: key.into(), value: b"value".to_vec(), lease, ..Put::default() };
            store.apply(&Command::Put(put));
        }
        store.apply(&Command::Compact { revision: 3 });
        store
    }

    pub fn publish(&mut self) {
        self.trees.set_attributes(&self.state.to_attributes());
    }

    pub fn apply(&mut self, command: &Command) {
        let bytes = Draft::new(&Envelope::default(), command).seal(6, 7);
        let entry = ringstone_core::entry::Entry::read(&bytes).expect("what was written is valid");
        self.apply_archived(entry.command);
    }

    /// Applies what passed the entry's check. Whatever it says, it may refuse, and must not panic.
    pub fn apply_archived(&mut self, command: &ArchivedCommand) {
        match command {
            ArchivedCommand::LeaseGrant { id, ttl_s } => {
                let (id, ttl_s) = (id.to_native(), ttl_s.to_native());
                let _ = lease::grant(&mut self.trees, lease::LeaseTime(9), id, ttl_s).expect("the model has no faults");
            }
            ArchivedCommand::Put(_)
            | ArchivedCommand::DeleteRange(_)
            | ArchivedCommand::Txn(_)
            | ArchivedCommand::Compact { .. }
            | ArchivedCommand::LeaseRevoke { .. } => {
                let before = self.state.revision;
                let _ = mvcc::apply(&mut self.trees, &mut self.state, command);
                assert!(self.state.revision >= before, "revisions go back");
            }
            // The group's own, which need its log.
            _ => {}
        }
        self.state.applied_index += 1;
        self.publish();
        assert_eq!(self.trees.attributes(), self.state.to_attributes());
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}
