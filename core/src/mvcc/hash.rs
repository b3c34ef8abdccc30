//! HashKV: do members hold the same?
//!
//! The hash of the store at a revision is a sum of per-record hashes: over the keys alive at the compacted revision, and
//! over the events behind it up to the revision asked for. Both are equal on all members with the same compaction,
//! however far their sweeps are: the first is [`State::swept_hash`] (the sweep adds up what passes it), moved on by the
//! events between the swept and the compacted revision; the second is an aggregate of the log. So the cost is O(log n),
//! and O(window) while a sweep is under way. A sum of keyed hashes must not be shown: what leaves is a keyed digest of it.

use core::ops::{Bound, ControlFlow};

use ringstone_pager::api::{Access, Direction, Fault, ReadTrees};

use super::lookup::revision_keys;
use super::record::{LogRecord, damaged, mixed, revision_of_key};
use crate::error::{Error, ReadFault};
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

/// The hash of the store at `revision`; 0 is the latest.
///
/// # Errors
/// [`ReadFault::Absent`]; [`Error::Compacted`], [`Error::FutureRevision`].
pub fn hash_kv<V: ReadTrees + ?Sized>(view: &V, state: &State, revision: i64) -> Result<HashKv, ReadFault> {
    if let Some(kept) = state.compaction_hashes.iter().find(|kept| kept.revision == revision) {
        // As etcd: exactly these revisions have a hash of their own, after Compact(0) revision 0 too.
        return Ok(HashKv { hash: kept.hash, compact_revision: kept.previous, hash_revision: revision });
    }
    if revision > 0 && revision < state.compact_revision {
        return Err(Error::Compacted.into());
    }
    if revision > state.revision {
        return Err(Error::FutureRevision.into());
    }
    let revision = if revision == 0 { state.revision } else { revision };
    let mut sum = alive_at_compaction(view, state)?;
    if revision > state.compact_revision && revision > 0 {
        let (first, last) = revision_keys(state.compact_revision.saturating_add(1), revision);
        let events = view.aggregate(LOG, (Bound::Included(&first[..]), Bound::Included(&last[..])))?;
        sum = sum.wrapping_add(events.hash);
    }
    Ok(HashKv { hash: folded(state, sum), compact_revision: state.compact_revision, hash_revision: revision })
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

fn alive_at_compaction<V: ReadTrees + ?Sized>(view: &V, state: &State) -> Access<u64> {
    let mut sum = state.swept_hash;
    if state.swept_revision >= state.compact_revision || state.compact_revision <= 0 {
        return Ok(sum);
    }
    let (first, last) = revision_keys(state.swept_revision.saturating_add(1), state.compact_revision);
    let mut fault: Option<Fault> = None;
    let range = (Bound::Included(&first[..]), Bound::Included(&last[..]));
    view.visit(LOG, range, Direction::Forward, false, &mut |at, bytes| {
        let record = revision_of_key(LOG, at).and_then(|revision| {
            LogRecord::parse(revision, bytes).ok_or_else(|| damaged(LOG, "a record can't be read"))
        });
        match record {
            Ok(record) => {
                sum = sum.wrapping_add(record.live_hash_change());
                ControlFlow::Continue(())
            }
            Err(met) => {
                fault = Some(met);
                ControlFlow::Break(())
            }
        }
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(sum),
    }
}

pub(super) fn folded(state: &State, sum: u64) -> u32 {
    fold(mixed(&state.hash_key, &[sum]))
}

/// Clients take 0 for "no hash".
fn fold(hash: u64) -> u32 {
    ((hash >> 32) as u32 ^ hash as u32).max(1)
}
