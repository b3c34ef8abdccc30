//! HashKV: do members hold the same?
//!
//! The hash of the store at a revision is a sum of per-record hashes: over the keys alive at the compacted revision, and
//! over the events behind it up to the revision asked for. Both are equal on all members with the same compaction,
//! however far their sweeps are: the first is [`State::swept_hash`] (the sweep adds up what passes it), moved on by the
//! events between the swept and the compacted revision; the second is an aggregate of the log. So the cost is O(log n),
//! and O(window) while a sweep is under way: that walk goes in steps, and no apply does it. A sum of keyed hashes must not be
//! shown: what leaves is a keyed digest of it.

use core::ops::Bound;

use ringstone_pager::api::{Access, ReadTrees};

use super::history::visit_log;
use super::lookup::revision_keys;
use super::range::{Budget, Progress};
use super::record::mixed;
use crate::error::{Error, ReadFault};
use crate::event::Revision;
use crate::state::{HASH_PENDING, State};
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

/// A HashKV under way. Holds nothing of a view between two steps.
pub struct HashScan {
    revision: i64,
    walk: Option<Walk>,
}

/// Over the events that the sweep has not passed, while it goes on itself.
struct Walk {
    /// Over the keys alive just before `cursor`.
    sum: u64,
    cursor: Revision,
}

impl HashScan {
    /// For a revision; 0 is the latest.
    #[must_use]
    pub fn new(revision: i64) -> HashScan {
        HashScan { revision, walk: None }
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
        // As etcd: exactly these revisions have a hash of their own, after Compact(0) revision 0 too.
        let kept = state.compaction_hashes.iter().find(|kept| kept.revision == revision);
        let compacted = match kept {
            Some(kept) if kept.hash != HASH_PENDING => {
                return Ok(Some(HashKv { hash: kept.hash, compact_revision: kept.previous, hash_revision: revision }));
            }
            Some(kept) => kept.previous,
            None if revision > 0 && revision < state.compact_revision => return Err(Error::Compacted.into()),
            None => state.compact_revision,
        };
        if revision > state.revision {
            return Err(Error::FutureRevision.into());
        }
        let Some(alive) = self.alive_at(view, state, compacted, budget)? else { return Ok(None) };
        let revision = if revision == 0 { state.revision } else { revision };
        let hash = hash_between(view, state, alive, compacted, revision)?;
        Ok(Some(HashKv { hash, compact_revision: compacted, hash_revision: revision }))
    }

    /// The sum over the keys that were alive at `compacted`.
    fn alive_at<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        state: &State,
        compacted: i64,
        budget: &mut Budget,
    ) -> Access<Option<u64>> {
        let swept = state.swept_revision;
        if swept >= compacted || compacted <= 0 {
            return Ok(Some(state.swept_hash));
        }
        let passed = |cursor: Revision| cursor.main <= swept;
        if self.walk.as_ref().is_none_or(|walk| passed(walk.cursor)) {
            let cursor = Revision { main: swept.saturating_add(1), sub: 0 };
            self.walk = Some(Walk { sum: state.swept_hash, cursor });
        }
        let walk = self.walk.as_mut().expect("begun above");
        Ok(if walk.go_on(view, compacted, budget)? == Progress::Done { Some(walk.sum) } else { None })
    }
}

impl Walk {
    fn go_on<V: ReadTrees + ?Sized>(&mut self, view: &V, to: i64, budget: &mut Budget) -> Access<Progress> {
        let sum = &mut self.sum;
        visit_log(view, &mut self.cursor, to, budget, |_| 0, &mut |record| {
            *sum = sum.wrapping_add(record.live_hash_change());
            Ok(())
        })
    }
}

/// The hash of the store at `revision`, where `alive` is the sum over the keys that were alive at `compacted`.
pub(super) fn hash_between<V: ReadTrees + ?Sized>(
    view: &V,
    state: &State,
    alive: u64,
    compacted: i64,
    revision: i64,
) -> Access<u32> {
    if revision <= compacted || revision <= 0 {
        return Ok(folded(state, alive));
    }
    let (first, last) = revision_keys(compacted.saturating_add(1), revision);
    let events = view.aggregate(LOG, (Bound::Included(&first[..]), Bound::Included(&last[..])))?;
    Ok(folded(state, alive.wrapping_add(events.hash)))
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

    fn store(puts: u8) -> (ModelTrees, State) {
        let mut specs = mvcc::record::SPECS.to_vec();
        specs.extend(lease::TREE_SPECS);
        let (mut trees, mut state) = (ModelTrees::new(&specs), State { hash_key: [3; 16], ..State::default() });
        for number in 0..puts {
            let put = Put { key: vec![b'k', number % 30], value: vec![number], ..Put::default() };
            apply(&mut trees, &mut state, &Command::Put(put));
        }
        (trees, state)
    }

    fn step(scan: &mut HashScan, trees: &ModelTrees, state: &State) -> Option<HashKv> {
        scan.step(trees, state, &mut Budget { records: 10, bytes: usize::MAX }).expect("no faults")
    }

    fn sweep(trees: &mut ModelTrees, state: &mut State, records: usize) {
        while mvcc::compact_slice(trees, state, records).expect("no faults") == Progress::More {}
    }

    /// Behind a compaction that is not swept, in steps and at once; and where a sweep ends between two steps.
    #[test]
    fn a_walk_in_steps_is_the_walk_at_once() {
        let (mut trees, mut state) = store(100);
        apply(&mut trees, &mut state, &Command::Compact { revision: 80 });
        let want = hash_kv(&trees, &state, 0).expect("it is there");
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
        sweep(&mut trees, &mut state, 1000);
        assert_eq!(step(&mut overtaken, &trees, &state), Some(want));
    }

    /// The second of two compactions did the whole walk when it was applied: with 5 million events unswept a server was silent
    /// for minutes, for each page that was not in memory made it begin anew.
    #[test]
    fn a_compaction_behind_one_that_is_not_swept_leaves_its_hash_to_the_sweep() {
        let ((mut trees, mut state), (mut swept_trees, mut swept_state)) = (store(100), store(100));
        for revision in [30, 55, 80] {
            apply(&mut trees, &mut state, &Command::Compact { revision });
            apply(&mut swept_trees, &mut swept_state, &Command::Compact { revision });
            sweep(&mut swept_trees, &mut swept_state, 1000);
        }
        let pending: Vec<i64> =
            state.compaction_hashes.iter().filter(|kept| kept.hash == HASH_PENDING).map(|kept| kept.revision).collect();
        assert_eq!(pending, [55, 80]);
        for revision in [30, 55, 80, 90, 0] {
            let asked = |trees, state: &State| hash_kv(trees, state, revision).expect("it is there");
            assert_eq!(asked(&trees, &state), asked(&swept_trees, &swept_state), "asked for {revision} meanwhile");
        }
        sweep(&mut trees, &mut state, 7);
        assert_eq!(state.compaction_hashes, swept_state.compaction_hashes);
    }
}
