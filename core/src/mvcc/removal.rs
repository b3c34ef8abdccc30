//! DeleteRange and LeaseRevoke in pieces: however many keys go, the executor is kept for one batch of them at a time.
//!
//! ```text
//!  step:  read a batch and all that its writes will touch   (an absent page is met here: bring it in, step again)
//!         write it                                           -> More: nothing may be published yet
//!  last:  the lease itself                                   -> Done: the answer and all events, one revision
//! ```
//!
//! The events of a very large removal are not kept: watchers read them from the log, as those do that are behind.
//! Between two steps the trees hold half a command, and no other command may be applied. What comes out is what
//! [`super::apply_delete_range`] and [`super::apply_lease_revoke`] give, which do it at once.

use bytes::Bytes;
use ringstone_pager::api::{Access, ReadTrees, WriteTrees};
use ringstone_proto::etcdserverpb::{DeleteRangeResponse, LeaseRevokeResponse};
use ringstone_proto::mvccpb::KeyValue;

use super::apply::{Changes, DELETE_BATCH_KEYS, Old, Prepared, header, next_victims, prepare, touch_lease};
use super::range::Progress;
use super::{Answer, Applied};
use crate::command::ArchivedDeleteRange;
use crate::error::{ApplyFault, Error};
use crate::event::{Event, Revision};
use crate::lease::state as lease;
use crate::state::State;
use crate::trees::{LEASE_DEADLINE, LIVE};

/// Most events that a removal hands out.
const EVENTS_MAX: usize = 16_384;

enum What {
    Range { key: Bytes, range_end: Bytes, prev_kv: bool },
    Lease(i64),
}

/// A removal under way.
pub struct Removal {
    what: What,
    batch_keys: usize,
    events_max: usize,
    /// The last key that was looked at; none before the first write.
    after: Option<Bytes>,
    /// None before the first write.
    next: Option<Revision>,
    /// None: they were too many.
    events: Option<Vec<Event>>,
    deleted: i64,
    prev_kvs: Vec<KeyValue>,
    refused: Option<Error>,
}

/// What one step removes.
struct Batch {
    victims: Vec<(Bytes, Prepared)>,
    /// The last key that was looked at; none: there is nothing left.
    last: Option<Bytes>,
    more: bool,
}

impl Removal {
    /// For a DeleteRange.
    #[must_use]
    pub fn range(delete: &ArchivedDeleteRange) -> Removal {
        let (key, range_end) = (Bytes::copy_from_slice(&delete.key), Bytes::copy_from_slice(&delete.range_end));
        Removal::of(What::Range { key, range_end, prev_kv: delete.prev_kv })
    }

    /// For a LeaseRevoke; an expiry's condition is the caller's to check first.
    #[must_use]
    pub fn lease(id: i64) -> Removal {
        Removal::of(What::Lease(id))
    }

    fn of(what: What) -> Removal {
        Removal {
            what,
            batch_keys: DELETE_BATCH_KEYS,
            events_max: EVENTS_MAX,
            after: None,
            next: None,
            events: Some(Vec::new()),
            deleted: 0,
            prev_kvs: Vec::new(),
            refused: None,
        }
    }

    /// True once a step has written: until [`Progress::Done`] nothing may be published.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.next.is_some()
    }

    /// Removes the next batch. Where all of it is not one batch and `may_begin` is false, nothing is changed and the answer
    /// is [`Progress::More`]: publish what was applied before, and step again.
    ///
    /// # Errors
    /// [`ApplyFault::Absent`]: step again; what was removed stays removed.
    pub fn step<T: WriteTrees>(
        &mut self,
        trees: &mut T,
        state: &mut State,
        may_begin: bool,
    ) -> Result<Progress, ApplyFault> {
        if let What::Lease(id) = self.what
            && !self.has_begun()
            && !lease::exists(trees, id).map_err(ApplyFault::before)?
        {
            self.refused = Some(Error::LeaseNotFound);
            return Ok(Progress::Done);
        }
        let batch = self.read_batch(trees, state).map_err(ApplyFault::before)?;
        if batch.more && !self.has_begun() && !may_begin {
            return Ok(Progress::More);
        }
        if !batch.more {
            self.read_end(trees).map_err(ApplyFault::before)?;
        }
        self.write(trees, state, batch.victims).map_err(ApplyFault::HalfApplied)?;
        self.after = batch.last;
        if batch.more {
            return Ok(Progress::More);
        }
        if let What::Lease(id) = self.what {
            lease::revoke_record(trees, id).map_err(ApplyFault::HalfApplied)?;
        }
        Ok(Progress::Done)
    }

    /// What came of it, after [`Progress::Done`]; and whether its events are all there, or in the log only.
    #[must_use]
    pub fn finish(self, state: &mut State) -> (Applied, bool) {
        if let Some(error) = self.refused {
            return (Applied::refused(error), true);
        }
        if let Some(next) = self.next.filter(|_| self.deleted > 0) {
            state.revision = next.main;
        }
        let complete = self.events.is_some();
        let header = header(state.revision);
        let answer = match self.what {
            What::Range { .. } => {
                Answer::DeleteRange(DeleteRangeResponse { header, deleted: self.deleted, prev_kvs: self.prev_kvs })
            }
            What::Lease(_) => Answer::LeaseRevoke(LeaseRevokeResponse { header }),
        };
        (Applied { response: Ok(answer), events: self.events.unwrap_or_default() }, complete)
    }

    fn read_batch<V: ReadTrees>(&self, view: &V, state: &State) -> Access<Batch> {
        let after = self.after.as_deref();
        let mut victims = Vec::new();
        let (last, more) = match &self.what {
            What::Range { key, range_end, .. } => {
                let found = next_victims(view, state, key, range_end, after, self.batch_keys)?;
                let last = found.last().map(|(key, _)| key.clone());
                let more = match &last {
                    Some(last) if !range_end.is_empty() => {
                        !next_victims(view, state, key, range_end, Some(last), 1)?.is_empty()
                    }
                    _ => false,
                };
                for (key, old) in found {
                    victims.push((key, prepare(view, state, Some(old))?));
                }
                (last, more)
            }
            What::Lease(id) => {
                let keys = lease::keys_after(view, *id, after, self.batch_keys)?;
                let last = keys.last().cloned();
                let more = last.is_some() && !lease::keys_after(view, *id, last.as_deref(), 1)?.is_empty();
                for key in keys {
                    let Some(bytes) = view.get(LIVE, &key)? else { continue };
                    let old = Old::load(view, state.compact_revision, bytes)?;
                    if let Some(old) = old.filter(|old| old.is_put() && old.lease() == *id) {
                        victims.push((key, prepare(view, state, Some(old))?));
                    }
                }
                (last, more)
            }
        };
        for (key, prepared) in &victims {
            touch_lease(view, prepared.lease(), key)?;
        }
        Ok(Batch { victims, last, more })
    }

    /// Touches what the end of a lease needs.
    fn read_end<V: ReadTrees>(&self, view: &V) -> Access<()> {
        let What::Lease(id) = self.what else { return Ok(()) };
        if let Some(record) = lease::get(view, id)? {
            let deadline = [record.deadline.0.to_be_bytes(), id.to_be_bytes()].concat();
            view.get(LEASE_DEADLINE, &deadline)?;
        }
        Ok(())
    }

    fn write<T: WriteTrees>(
        &mut self,
        trees: &mut T,
        state: &mut State,
        victims: Vec<(Bytes, Prepared)>,
    ) -> Access<()> {
        let events = self.events.as_mut().map(core::mem::take);
        let keeps = events.is_some();
        let events = events.unwrap_or_default();
        let mut changes = Changes::resume(trees, state, self.next, events);
        for (key, prepared) in victims {
            if let What::Range { prev_kv: true, .. } = self.what {
                self.prev_kvs.extend(prepared.replaced(&key));
            }
            self.deleted += 1;
            changes.delete(key, prepared)?;
        }
        let (next, events) = changes.suspend();
        self.next = Some(next);
        self.events = Some(events).filter(|events| keeps && events.len() <= self.events_max);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ringstone_pager::api::{Aggregate, TreeSpec};
    use ringstone_pager::model::ModelTrees;

    use super::*;
    use crate::command::{ArchivedCommand, Command, DeleteRange, Put};
    use crate::mvcc::{self, record::SPECS};
    use crate::trees::{ALARM, MEMBER};

    fn with<R>(command: &Command, run: impl FnOnce(&ArchivedCommand) -> R) -> R {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(command).expect("commands serialize");
        run(rkyv::access::<ArchivedCommand, rkyv::rancor::Error>(&bytes).expect("what was written is valid"))
    }

    fn store() -> (ModelTrees, State) {
        let plain = |key: &[u8], value: &[u8]| Aggregate { count: 1, bytes: (key.len() + value.len()) as u64, hash: 0 };
        let mut specs = SPECS.to_vec();
        specs.extend(lease::TREE_SPECS);
        specs.push(TreeSpec { id: MEMBER, name: "member", summarize: plain });
        specs.push(TreeSpec { id: ALARM, name: "alarm", summarize: plain });
        let (mut trees, mut state) = (ModelTrees::new(&specs), State { hash_key: [3; 16], ..State::default() });
        lease::grant(&mut trees, lease::LeaseTime(5), 7, 60).expect("no faults").expect("granted");
        for number in 0..200u32 {
            // Each third key twice, each fourth with the lease, each fifth with a value of its own tree.
            for _ in 0..1 + u32::from(number % 3 == 0) {
                let put = Put {
                    key: format!("k{number:03}").into_bytes(),
                    value: vec![b'v'; if number % 5 == 0 { 5000 } else { 10 }],
                    lease: if number % 4 == 0 { 7 } else { 0 },
                    ..Put::default()
                };
                with(&Command::Put(put), |put| mvcc::apply(&mut trees, &mut state, put)).expect("no faults");
            }
        }
        with(&Command::Compact { revision: 150 }, |compact| mvcc::apply(&mut trees, &mut state, compact))
            .expect("none");
        (trees, state)
    }

    fn in_batches(removal: Removal, batch_keys: usize, trees: &mut ModelTrees, state: &mut State) -> (Applied, usize) {
        let mut removal = Removal { batch_keys, ..removal };
        let mut steps = 1;
        assert_eq!(removal.step(trees, state, false), Ok(Progress::More), "it is more than a batch");
        assert!(!removal.has_begun(), "and may not begin");
        while removal.step(trees, state, true) == Ok(Progress::More) {
            assert!(removal.has_begun());
            steps += 1;
        }
        let (applied, complete) = removal.finish(state);
        assert!(complete, "few events");
        (applied, steps)
    }

    #[test]
    fn a_range_in_batches_is_the_range_at_once() {
        let delete = DeleteRange { key: b"k010".to_vec(), range_end: b"k180".to_vec(), prev_kv: true };
        with(&Command::DeleteRange(delete), |command| {
            let ArchivedCommand::DeleteRange(delete) = command else { unreachable!("it is one") };
            let ((mut once, mut once_state), (mut trees, mut state)) = (store(), store());
            let want = mvcc::apply_delete_range(&mut once, &mut once_state, delete).expect("no faults");
            let (got, steps) = in_batches(Removal::range(delete), 7, &mut trees, &mut state);
            assert_eq!((&got, steps, got.events.len()), (&want, 25, 170));
            assert_eq!(state, once_state);
            assert_eq!(contents(&trees), contents(&once));
        });
    }

    #[test]
    fn a_lease_in_batches_is_the_lease_at_once() {
        let ((mut once, mut once_state), (mut trees, mut state)) = (store(), store());
        let want = mvcc::apply_lease_revoke(&mut once, &mut once_state, 7).expect("no faults");
        let (got, steps) = in_batches(Removal::lease(7), 10, &mut trees, &mut state);
        assert_eq!((&got, steps, got.events.len()), (&want, 5, 50));
        assert_eq!(state, once_state);
        assert_eq!(contents(&trees), contents(&once));
        // It is gone; and what is small needs no step of its own.
        let mut again = Removal::lease(7);
        assert_eq!(again.step(&mut trees, &mut state, false), Ok(Progress::Done));
        assert_eq!(again.finish(&mut state).0.response, Err(Error::LeaseNotFound));
    }

    #[test]
    fn too_many_events_are_left_to_the_log() {
        let ((mut once, mut once_state), (mut trees, mut state)) = (store(), store());
        let want = mvcc::apply_lease_revoke(&mut once, &mut once_state, 7).expect("no faults");
        let mut removal = Removal { batch_keys: 10, events_max: 25, ..Removal::lease(7) };
        while removal.step(&mut trees, &mut state, true) == Ok(Progress::More) {}
        let (applied, complete) = removal.finish(&mut state);
        assert_eq!((applied.response, applied.events.len(), complete), (want.response, 0, false));
        assert_eq!(state, once_state);
        assert_eq!(contents(&trees), contents(&once));
    }

    type Contents = Vec<(Vec<u8>, Vec<u8>)>;

    fn contents(trees: &ModelTrees) -> Vec<Contents> {
        use crate::trees::{BESIDE, LEASE, LEASE_KEY, LOG, VALUE};
        use core::ops::{Bound, ControlFlow};
        use ringstone_pager::api::Direction;
        let tree = |tree| {
            let mut all = Contents::new();
            let everything = (Bound::Unbounded, Bound::Unbounded);
            let visit = trees.visit(tree, everything, Direction::Forward, false, &mut |key, value| {
                all.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            });
            visit.expect("no faults");
            all
        };
        [LIVE, LOG, BESIDE, VALUE, LEASE, LEASE_KEY, LEASE_DEADLINE].map(tree).to_vec()
    }
}
