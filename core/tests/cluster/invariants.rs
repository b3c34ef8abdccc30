//! What must hold at every step, whatever goes wrong.

use std::collections::BTreeMap;
use std::ops::Bound;

use ringstone_core::event::{Event, EventKind};
use ringstone_core::group::Sum;
use ringstone_core::state::State;
use ringstone_core::trees::{LIVE, MEMBER};
use ringstone_pager::api::{Aggregate, ReadTrees as _};
use ringstone_raft::{Index, Role};

use super::history::Change;
use super::leases::lease_of;
use super::node::Life;

/// What of a state is equal on all members, sweeps aside.
#[derive(Clone, Debug, PartialEq)]
struct Digest {
    term: u64,
    live: Aggregate,
    members: Aggregate,
    revision: i64,
    compact_revision: i64,
    logical_bytes: u64,
    lease_clock: u64,
}

#[derive(Default)]
pub struct Invariants {
    leaders: BTreeMap<u64, u64>,
    /// Of each index that was published anywhere: its term, and that of the member which first did, so that it was committed by then.
    terms: BTreeMap<u64, (u64, u64)>,
    digests: BTreeMap<u64, (u64, Digest)>,
    /// What members say of their own states, by index.
    sums: BTreeMap<u64, (u64, Sum)>,
    pub summed: u64,
    pub compared: u64,
    /// By revision; and when it was first seen.
    pub changes: BTreeMap<i64, Vec<Change>>,
    pub first_seen: BTreeMap<i64, u64>,
}

impl Invariants {
    pub fn terms_led(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// One leader a term, and it has all that was committed by then. The last vote of a term may come when others have
    /// committed in a later one: that leader lacks it, and can commit nothing any more.
    pub fn check_role(&mut self, id: u64, life: &Life) {
        let role = life.group.raft().role();
        if role.role != Role::Leader || self.leaders.get(&role.term.0) == Some(&id) {
            return;
        }
        if let Some(other) = self.leaders.insert(role.term.0, id) {
            panic!("{id} and {other} lead in term {}", role.term);
        }
        let raft = life.group.raft();
        let compacted = raft.status().compacted.0;
        for (index, (term, _)) in self.terms.range(compacted + 1..).filter(|(_, (_, by))| *by <= role.term.0) {
            let here = raft.metadata_at(Index(*index)).map(|metadata| metadata.term.0);
            assert_eq!(here, Some(*term), "leader {id} of term {} lacks the entry at {index}", role.term);
        }
    }

    /// States at the same index are the same.
    pub fn check_published(&mut self, id: u64, life: &Life) {
        let pin = life.reader.pin();
        let state = State::from_attributes(pin.attributes()).expect("a state of this version");
        let all = (Bound::Unbounded, Bound::Unbounded);
        let (Ok(live), Ok(members)) = (pin.aggregate(LIVE, all), pin.aggregate(MEMBER, all)) else { return };
        let digest = Digest {
            term: state.applied_term,
            live,
            members,
            revision: state.revision,
            compact_revision: state.compact_revision,
            logical_bytes: state.logical_bytes,
            lease_clock: state.lease_clock,
        };
        let now = life.group.raft().role().term.0;
        self.terms.entry(state.applied_index).or_insert((state.applied_term, now));
        match self.digests.get(&state.applied_index) {
            None => {
                self.digests.insert(state.applied_index, (id, digest));
            }
            Some((other, theirs)) => {
                self.compared += 1;
                assert_eq!(&digest, theirs, "states of {id} and {other} at {} differ", state.applied_index);
            }
        }
    }

    /// So members find them in production: at the same entries, from the roots alone.
    pub fn check_sums(&mut self, id: u64, sums: &[Sum]) {
        for sum in sums {
            let (other, theirs) = self.sums.entry(sum.index).or_insert((id, *sum));
            self.summed += u64::from(*other != id);
            let events = if sum.events == 0 || theirs.events == 0 { sum.events } else { theirs.events };
            let expected = Sum { events, ..*theirs };
            assert_eq!(*sum, expected, "sums of {id} and {other} at {} differ", sum.index);
            if theirs.events == 0 {
                theirs.events = sum.events;
            }
        }
    }

    /// What each member tells its watchers of a revision is the same. Leases whose keys were seen to go for the first time.
    pub fn check_events(&mut self, id: u64, events: &[Event], now: u64) -> Vec<i64> {
        let mut ended = Vec::new();
        let mut by_revision: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
        for event in events {
            let kv = &event.kv;
            let is_put = event.kind == EventKind::Put;
            by_revision.entry(event.revision.main).or_default().push(Change {
                key: kv.key.to_vec(),
                value: is_put.then(|| kv.value.to_vec()),
                lease: kv.lease,
                create_revision: kv.create_revision,
                version: kv.version,
            });
        }
        for (revision, changes) in by_revision {
            match self.changes.get(&revision) {
                None => {
                    let gone = changes.iter().filter(|change| change.value.is_none());
                    ended.extend(gone.filter_map(|change| lease_of(&change.key)));
                    self.changes.insert(revision, changes);
                    self.first_seen.insert(revision, now);
                }
                Some(known) => assert_eq!(known, &changes, "revision {revision} at {id}"),
            }
        }
        ended
    }
}
