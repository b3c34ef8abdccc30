//! HashKV: do members hold the same?
//!
//! The hash of the store at a revision is a sum of per-record hashes: over the keys alive at the compacted revision, and
//! over the events behind it up to the revision asked for. Both are equal on all members with the same compaction,
//! however far their sweeps are: the first is [`State::swept_hash`] (the sweep adds up what passes it), moved on by the
//! events between the swept and the compacted revision; the second is an aggregate of the log. So the cost is O(log n),
//! and O(window) while a sweep is under way: that walk goes in steps. A sum of keyed hashes must not be shown: what
//! leaves is a keyed digest of it.

use core::ops::Bound;

use ringstone_pager::api::{Access, ReadTrees};

use super::history::visit_log;
use super::lookup::revision_keys;
use super::range::{Budget, Progress};
use super::record::mixed;
use crate::error::{Error, ReadFault};
use crate::event::Revision;
use crate::state::State;
use crate::trees::{LIVE, LOG};

/// The answer to a HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash; never 0.
    pub hash: u32,
    /// The compaction that it starts from, -1 without one.
    pub compact_revision: i64,
    /// The revision that it reaches to.
    pub hash_revision: i64,
}

/// The hash of the store at `revision` at once; 0 is the latest.
///
/// # Errors
/// [`ReadFault::Absent`]; [`Error::Compacted`], [`Error::FutureRevision`].
pub fn hash_kv<V: ReadTrees + ?Sized>(view: &V, state: &State, revision: i64) -> Result<HashKv, ReadFault> {
    let found = HashScan::new(revision).step(view, state, &mut Budget::UNBOUNDED.clone())?;
    Ok(found.expect("a step without a bound goes to the end"))
}

/// How often the walk begins anew because a compaction changed what it is over; then it goes to its end at once.
const RESTARTS_MAX: u32 = 8;

/// A HashKV under way. Holds nothing of a view between two steps.
pub struct HashScan {
    revision: i64,
    walk: Option<Walk>,
    restarts: u32,
}

/// Over the events that the sweep has not passed; good as long as `swept` and `compacted` are those of the state.
struct Walk {
    swept: i64,
    compacted: i64,
    sum: u64,
    cursor: Revision,
}

impl HashScan {
    /// For a revision; 0 is the latest.
    #[must_use]
    pub fn new(revision: i64) -> HashScan {
        HashScan { revision, walk: None, restarts: 0 }
    }

    /// Goes on by at most `budget` in `view`, whose state is `state`. None: call again, with a fresh view if you like.
    ///
    /// # Errors
    /// [`ReadFault::Absent`]: call again; [`Error::Compacted`], [`Error::FutureRevision`].
    pub fn step<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        state: &State,
        budget: &mut Budget,
    ) -> Result<Option<HashKv>, ReadFault> {
        let revision = self.revision;
        if let Some(kept) = state.compaction_hashes.iter().find(|kept| kept.revision == revision) {
            // As etcd: exactly these revisions have a hash of their own, after Compact(0) revision 0 too.
            return Ok(Some(HashKv { hash: kept.hash, compact_revision: kept.previous, hash_revision: revision }));
        }
        if revision > 0 && revision < state.compact_revision {
            return Err(Error::Compacted.into());
        }
        if revision > state.revision {
            return Err(Error::FutureRevision.into());
        }
        let Some(mut sum) = self.alive_at_compaction(view, state, budget)? else { return Ok(None) };
        let revision = if revision == 0 { state.revision } else { revision };
        if revision > state.compact_revision && revision > 0 {
            let (first, last) = revision_keys(state.compact_revision.saturating_add(1), revision);
            let events = view.aggregate(LOG, (Bound::Included(&first[..]), Bound::Included(&last[..])))?;
            sum = sum.wrapping_add(events.hash);
        }
        let (hash, compact_revision) = (folded(state, sum), state.compact_revision);
        Ok(Some(HashKv { hash, compact_revision, hash_revision: revision }))
    }

    fn alive_at_compaction<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        state: &State,
        budget: &mut Budget,
    ) -> Access<Option<u64>> {
        let (swept, compacted) = (state.swept_revision, state.compact_revision);
        if swept >= compacted || compacted <= 0 {
            return Ok(Some(state.swept_hash));
        }
        if self.walk.as_ref().is_none_or(|walk| (walk.swept, walk.compacted) != (swept, compacted)) {
            self.restarts += u32::from(self.walk.is_some());
            let cursor = Revision { main: swept.saturating_add(1), sub: 0 };
            self.walk = Some(Walk { swept, compacted, sum: state.swept_hash, cursor });
        }
        if self.restarts > RESTARTS_MAX {
            *budget = Budget::UNBOUNDED;
        }
        let walk = self.walk.as_mut().expect("begun above");
        Ok(if walk.go_on(view, budget)? == Progress::Done { Some(walk.sum) } else { None })
    }
}

impl Walk {
    fn go_on<V: ReadTrees + ?Sized>(&mut self, view: &V, budget: &mut Budget) -> Access<Progress> {
        let sum = &mut self.sum;
        visit_log(view, &mut self.cursor, self.compacted, budget, |_| 0, &mut |record| {
            *sum = sum.wrapping_add(record.live_hash_change());
            Ok(())
        })
    }
}

/// The hash of Maintenance.Hash: all keys alive now and the whole window. Never 0.
///
/// # Errors
/// `Fault`.
pub fn hash_all<V: ReadTrees + ?Sized>(view: &V, state: &State) -> Access<u32> {
    let live = view.aggregate(LIVE, (Bound::Unbounded, Bound::Unbounded))?;
    let (first, _) = revision_keys(state.compact_revision, 0);
    let log = view.aggregate(LOG, (Bound::Included(&first[..]), Bound::Unbounded))?;
    let positions = [state.revision as u64, state.compact_revision as u64];
    Ok(fold(mixed(&state.hash_key, &[live.hash, live.count, log.hash, log.count, positions[0], positions[1]])))
}

pub(super) fn folded(state: &State, sum: u64) -> u32 {
    fold(mixed(&state.hash_key, &[sum]))
}

/// Clients take 0 for "no hash".
fn fold(hash: u64) -> u32 {
    ((hash >> 32) as u32 ^ hash as u32).max(1)
}

#[cfg(test)]
mod tests {
    use ringstone_pager::model::ModelTrees;

    use super::*;
    use crate::command::{ArchivedCommand, Command, Put};
    use crate::lease::state as lease;
    use crate::mvcc;

    fn apply(trees: &mut ModelTrees, state: &mut State, command: &Command) {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(command).expect("commands serialize");
        let command = rkyv::access::<ArchivedCommand, rkyv::rancor::Error>(&bytes).expect("what was written is valid");
        mvcc::apply(trees, state, command).expect("no faults");
    }

    /// Behind a compaction that is not swept, in steps and at once; and where a sweep ends between two steps.
    #[test]
    fn a_walk_in_steps_is_the_walk_at_once() {
        let mut specs = mvcc::record::SPECS.to_vec();
        specs.extend(lease::TREE_SPECS);
        let (mut trees, mut state) = (ModelTrees::new(&specs), State { hash_key: [3; 16], ..State::default() });
        for number in 0..100u8 {
            let put = Put { key: vec![b'k', number % 30], value: vec![number], ..Put::default() };
            apply(&mut trees, &mut state, &Command::Put(put));
        }
        apply(&mut trees, &mut state, &Command::Compact { revision: 80 });
        let want = hash_kv(&trees, &state, 0).expect("it is there");
        let step = |scan: &mut HashScan, trees: &ModelTrees, state: &State| {
            scan.step(trees, state, &mut Budget { records: 10, bytes: usize::MAX }).expect("no faults")
        };
        let (mut scan, mut steps) = (HashScan::new(0), 1);
        let got = loop {
            match step(&mut scan, &trees, &state) {
                Some(hash) => break hash,
                None => steps += 1,
            }
        };
        assert_eq!((got, steps), (want, 8));
        let mut overtaken = HashScan::new(0);
        assert_eq!(step(&mut overtaken, &trees, &state), None);
        while mvcc::compact_slice(&mut trees, &mut state, 1000).expect("no faults") == Progress::More {}
        assert_eq!(step(&mut overtaken, &trees, &state), Some(want));
    }
}
