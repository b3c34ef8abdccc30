//! Put, DeleteRange, Compact and the deletions of a lease, applied to the trees.
//!
//! Each entry point has two halves. The first only reads: it touches every page that the second will need, so an absent
//! page is met while nothing has changed ([`ApplyFault::Absent`]: bring it in, apply again). The second writes, and must
//! not fail: residency is only taken away between commands. If a write fails all the same the writer holds half a
//! command, and [`ApplyFault::HalfApplied`] says so.
//!
//! Nothing here reads a clock, a setting or a random number: equal state and command give equal state and answer.

use core::ops::{Bound, ControlFlow};
use std::collections::BTreeMap;

use bytes::Bytes;
use ringstone_pager::api::{Access, Direction, Fault, ReadTrees, WriteTrees};
use ringstone_proto::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, LeaseRevokeResponse, PutResponse, ResponseHeader,
};
use ringstone_proto::mvccpb::KeyValue;

use super::hash::{folded, hash_kv};
use super::lookup::{key_value_of, revision_keys};
use super::record::{
    Jump, LiveRecord, LogRecord, Meta, Previous, Stored, VALUE_INLINE_BYTES_MAX, event_at, parse_live, record_hash,
    value_bytes, value_of,
};
use super::{Answer, Applied, keys};
use crate::command::{ArchivedDeleteRange, ArchivedPut};
use crate::error::{ApplyFault, Error, ReadFault};
use crate::event::{Event, EventKind, Revision};
use crate::lease::state as lease;
use crate::state::{COMPACTION_HASHES_MAX, CompactionHash, HASH_PENDING, State};
use crate::trees::{BESIDE, LEASE_DEADLINE, LEASE_KEY, LIVE, LOG, VALUE};

/// Keys that a delete reads ahead of its writes, and the bytes of them: bounds its memory.
pub(super) const DELETE_BATCH_KEYS: usize = 512;
const DELETE_BATCH_BYTES: usize = 1 << 20;

/// Versions of a key that share a skip pointer: to make one, an older event is read, a leaf that is in no cache.
const VERSIONS_A_SKIP: i64 = 4;

/// Applies a Put.
///
/// # Errors
/// [`ApplyFault`].
pub fn apply_put<T: WriteTrees>(trees: &mut T, state: &mut State, put: &ArchivedPut) -> Result<Applied, ApplyFault> {
    let lease = put.lease.to_native();
    if lease != 0 && !lease::exists(trees, lease).map_err(ApplyFault::before)? {
        return Ok(Applied::refused(Error::LeaseNotFound));
    }
    let prepared = prepare_put(trees, state, put).map_err(ApplyFault::before)?;
    if (put.ignore_value || put.ignore_lease) && !prepared.replaces_put() {
        return Ok(Applied::refused(Error::KeyNotFound));
    }
    let mut changes = Changes::begin(trees, state);
    let response = changes.put(put, prepared).map_err(ApplyFault::HalfApplied)?;
    Ok(changes.finish(Answer::Put(response)))
}

/// Applies a DeleteRange: all its keys go in one revision.
///
/// # Errors
/// [`ApplyFault`].
pub fn apply_delete_range<T: WriteTrees>(
    trees: &mut T,
    state: &mut State,
    delete: &ArchivedDeleteRange,
) -> Result<Applied, ApplyFault> {
    warm_delete(trees, state, &delete.key, &delete.range_end, false).map_err(ApplyFault::before)?;
    let mut changes = Changes::begin(trees, state);
    let response = changes.delete_range(delete).map_err(ApplyFault::HalfApplied)?;
    Ok(changes.finish(Answer::DeleteRange(response)))
}

/// Applies a Compact: the compacted revision moves at once, [`super::sweep`] cleans up behind it.
///
/// # Errors
/// [`ApplyFault`]; nothing was changed.
pub fn apply_compact<T: WriteTrees>(trees: &mut T, state: &mut State, revision: i64) -> Result<Applied, ApplyFault> {
    if revision <= state.compact_revision {
        return Ok(Applied::refused(Error::Compacted));
    }
    if revision > state.revision {
        return Ok(Applied::refused(Error::FutureRevision));
    }
    let (first, _) = revision_keys(state.compact_revision, 0);
    let (end, _) = revision_keys(revision, 0);
    let leaves =
        trees.aggregate(LOG, (Bound::Included(&first[..]), Bound::Excluded(&end[..]))).map_err(ApplyFault::before)?;
    let hash = hash_at_compaction(&*trees, state, revision)?;
    if state.compaction_hashes.len() == COMPACTION_HASHES_MAX {
        state.compaction_hashes.remove(0);
    }
    state.compaction_hashes.push(hash);
    state.logical_bytes = state.logical_bytes.wrapping_sub(leaves.bytes);
    state.compact_revision = revision;
    let response = CompactionResponse { header: header(state.revision) };
    Ok(Applied { response: Ok(Answer::Compact(response)), events: Vec::new() })
}

/// The hash that HashKV answers for the compaction to `revision` from now on: that of the store as it was before. Where the
/// sweep is not through with the compaction before, it is left to it: to walk what it has not passed may take seconds.
fn hash_at_compaction<T: ReadTrees>(trees: &T, state: &State, revision: i64) -> Result<CompactionHash, ApplyFault> {
    let previous = state.compact_revision;
    if revision <= 0 {
        return Ok(CompactionHash { revision, previous, hash: folded(state, 0) });
    }
    if state.swept_revision < previous && previous > 0 {
        return Ok(CompactionHash { revision, previous, hash: HASH_PENDING });
    }
    let hash = match hash_kv(trees, state, revision) {
        Ok(found) => found.hash,
        Err(ReadFault::Absent(run)) => return Err(ApplyFault::Absent(run)),
        Err(ReadFault::Refused(Error::Damaged(damage))) => return Err(ApplyFault::Damaged(damage)),
        Err(ReadFault::Refused(_)) => unreachable!("the revision was checked against the window"),
    };
    Ok(CompactionHash { revision, previous, hash })
}

/// Applies a LeaseRevoke: removes the lease and, in one revision and in key order, all keys attached to it. An expiry's
/// condition (`lease::state::may_expire`) is the caller's to check first.
///
/// # Errors
/// [`ApplyFault`].
pub fn apply_lease_revoke<T: WriteTrees>(trees: &mut T, state: &mut State, id: i64) -> Result<Applied, ApplyFault> {
    if !lease::exists(trees, id).map_err(ApplyFault::before)? {
        return Ok(Applied::refused(Error::LeaseNotFound));
    }
    warm_lease_revoke(trees, state, id).map_err(ApplyFault::before)?;
    let mut changes = Changes::begin(trees, state);
    changes.revoke(id).map_err(ApplyFault::HalfApplied)?;
    let revision = changes.visible_revision();
    Ok(changes.finish(Answer::LeaseRevoke(LeaseRevokeResponse { header: header(revision) })))
}

/// A header with a revision; the api layer fills in the rest.
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

/// What a write replaces: copied out of the tree, because the write invalidates it there.
#[derive(Clone, Debug)]
pub(crate) struct Old {
    meta: Meta,
    jump: Option<Jump>,
    external: bool,
    /// The whole value, also an external one; empty in a tombstone.
    value: Bytes,
}

impl Old {
    /// The key's record, as far as it still counts: a tombstone that is compacted is nothing, whether or not the sweep
    /// has removed it yet (so that all members write the same next record).
    pub(super) fn load<V: ReadTrees>(view: &V, compact_revision: i64, bytes: &[u8]) -> Access<Option<Old>> {
        let record = parse_live(LIVE, bytes)?;
        let meta = record.meta;
        if meta.tombstone && meta.revision.main <= compact_revision {
            return Ok(None);
        }
        let value = match record.value {
            Stored::Inline([]) => Bytes::new(),
            stored => Bytes::copy_from_slice(value_of(view, meta.revision, stored)?),
        };
        Ok(Some(Old { meta, jump: record.jump, external: record.value.is_external(), value }))
    }

    pub(super) fn is_put(&self) -> bool {
        !self.meta.tombstone
    }

    pub(super) fn lease(&self) -> i64 {
        self.meta.lease
    }

    fn stored(&self) -> Stored<'_> {
        if self.external { Stored::External(self.value.len() as u64) } else { Stored::Inline(&self.value) }
    }

    fn previous(&self) -> Previous {
        Previous {
            revision: self.meta.revision,
            put_hash: (!self.meta.tombstone).then_some(self.meta.hash),
            external: self.external,
        }
    }

    fn key_value(&self, key: &Bytes) -> Option<KeyValue> {
        (!self.meta.tombstone).then(|| key_value_of(&self.meta, key.clone(), self.value.clone()))
    }
}

/// What a write of one key needs to know before it starts.
pub(crate) struct Prepared {
    old: Option<Old>,
    jump: Option<Jump>,
}

impl Prepared {
    /// Whether the key exists now.
    pub(crate) fn replaces_put(&self) -> bool {
        self.old.as_ref().is_some_and(|old| !old.meta.tombstone)
    }

    /// Touches the event that the write will replace: a range at an older revision, later in the same transaction, goes
    /// there instead of to `live`.
    pub(crate) fn touch_replaced<V: ReadTrees>(&self, view: &V, state: &State) -> Access<()> {
        match &self.old {
            Some(old) if old.meta.revision.main >= state.swept_revision => {
                view.get(LOG, &old.meta.revision.to_key()).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn lease(&self) -> i64 {
        self.old.as_ref().map_or(0, |old| old.meta.lease)
    }

    /// What the key had before.
    pub(super) fn replaced(&self, key: &Bytes) -> Option<KeyValue> {
        self.old.as_ref().and_then(|old| old.key_value(key))
    }
}

/// Reads what a put of this key will need and touch.
pub(crate) fn prepare_put<V: ReadTrees>(view: &V, state: &State, put: &ArchivedPut) -> Access<Prepared> {
    let old = match view.get(LIVE, &put.key)? {
        Some(bytes) => Old::load(view, state.compact_revision, bytes)?,
        None => None,
    };
    let prepared = prepare(view, state, old)?;
    let (old_lease, lease) = (prepared.lease(), put.lease.to_native());
    if !put.ignore_lease && old_lease != lease {
        touch_lease(view, old_lease, &put.key)?;
        touch_lease(view, lease, &put.key)?;
    }
    if put.value.len() > VALUE_INLINE_BYTES_MAX || put.ignore_value {
        touch_end(view, state, VALUE)?;
    }
    Ok(prepared)
}

/// The part that puts and deletes share.
pub(super) fn prepare<V: ReadTrees>(view: &V, state: &State, old: Option<Old>) -> Access<Prepared> {
    touch_end(view, state, LOG)?;
    let Some(old) = old else { return Ok(Prepared { old: None, jump: None }) };
    if old.meta.revision.main <= state.compact_revision {
        touch_end(view, state, BESIDE)?;
    }
    let jump = next_jump(view, state.compact_revision, state.revision.saturating_add(1), &old)?;
    Ok(Prepared { old: Some(old), jump })
}

/// Appends go to the last leaf.
fn touch_end<V: ReadTrees>(view: &V, state: &State, tree: ringstone_pager::api::TreeId) -> Access<()> {
    view.get(tree, &Revision { main: state.revision.saturating_add(1), sub: 0 }.to_key()).map(|_| ())
}

pub(super) fn touch_lease<V: ReadTrees>(view: &V, id: i64, key: &[u8]) -> Access<()> {
    if id == 0 {
        return Ok(());
    }
    let row = [&id.to_be_bytes()[..], key].concat();
    view.get(LEASE_KEY, &row).map(|_| ())
}

/// The skip pointer of the event of main revision `main` that follows `old`: a skew-binary list over each
/// [`VERSIONS_A_SKIP`]th version (two neighbouring skips of equal span become one over both), so that any version is
/// O(log versions) steps away; the versions between have the pointer of the one before them, which costs no look at an
/// older event. Where the skip pointer leads out of the window a new list begins: equal on all members, whatever the sweep
/// has removed.
fn next_jump<V: ReadTrees>(view: &V, compact_revision: i64, main: i64, old: &Old) -> Access<Option<Jump>> {
    if old.meta.revision.main == main {
        // Both are one step for readers, who look for main revisions.
        return Ok(old.jump);
    }
    let near = Jump { to: old.meta.revision, span: 1 };
    let Some(jump) = old.jump.filter(|jump| jump.to.main > compact_revision) else { return Ok(Some(near)) };
    if old.meta.version % VERSIONS_A_SKIP != 0 {
        return Ok(Some(jump));
    }
    Ok(Some(match event_at(view, jump.to)?.jump {
        Some(far) if far.span == jump.span => {
            Jump { to: far.to, span: far.span.saturating_add(jump.span).saturating_add(1) }
        }
        _ => near,
    }))
}

/// Touches what a delete of the range will need. `reads_old`: a range of the same transaction names a revision.
pub(crate) fn warm_delete<V: ReadTrees>(
    view: &V,
    state: &State,
    key: &[u8],
    range_end: &[u8],
    reads_old: bool,
) -> Access<()> {
    let mut after: Option<Bytes> = None;
    loop {
        let batch = next_victims(view, state, key, range_end, after.as_deref(), DELETE_BATCH_KEYS)?;
        let Some(last) = batch.last() else { return Ok(()) };
        after = Some(last.0.clone());
        for (key, old) in batch {
            let lease = old.meta.lease;
            let prepared = prepare(view, state, Some(old))?;
            if reads_old {
                prepared.touch_replaced(view, state)?;
            }
            touch_lease(view, lease, &key)?;
        }
    }
}

fn warm_lease_revoke<V: ReadTrees>(view: &V, state: &State, id: i64) -> Access<()> {
    if let Some(record) = lease::get(view, id)? {
        let deadline = [record.deadline.0.to_be_bytes(), id.to_be_bytes()].concat();
        view.get(LEASE_DEADLINE, &deadline)?;
    }
    let mut after: Option<Bytes> = None;
    loop {
        let batch = lease::keys_after(view, id, after.as_deref(), DELETE_BATCH_KEYS)?;
        let Some(last) = batch.last() else { return Ok(()) };
        after = Some(last.clone());
        for key in batch {
            if let Some(bytes) = view.get(LIVE, &key)? {
                let old = Old::load(view, state.compact_revision, bytes)?;
                prepare(view, state, old)?;
            }
        }
    }
}

/// The next live keys of a range, in order: at most `keys_max` of them, and about a megabyte.
pub(super) fn next_victims<V: ReadTrees>(
    view: &V,
    state: &State,
    key: &[u8],
    range_end: &[u8],
    after: Option<&[u8]>,
    keys_max: usize,
) -> Access<Vec<(Bytes, Old)>> {
    let mut victims = Vec::new();
    if keys::is_empty(key, range_end) {
        return Ok(victims);
    }
    if range_end.is_empty() {
        // One key, the common case: no visit, which would settle the sums of what the batch has changed so far.
        if let (Some(bytes), None) = (view.get(LIVE, key)?, after) {
            let old = Old::load(view, state.compact_revision, bytes)?.filter(|old| !old.meta.tombstone);
            victims.extend(old.map(|old| (Bytes::copy_from_slice(key), old)));
        }
        return Ok(victims);
    }
    let (low, high) = keys::bounds(key, range_end);
    let low = after.map_or(low, Bound::Excluded);
    let mut size = 0;
    let mut fault: Option<Fault> = None;
    view.visit(LIVE, (low, high), Direction::Forward, true, &mut |key, bytes| {
        match Old::load(view, state.compact_revision, bytes) {
            Ok(Some(old)) if !old.meta.tombstone => {
                size += key.len() + old.value.len();
                victims.push((Bytes::copy_from_slice(key), old));
            }
            Ok(_) => {}
            Err(met) => {
                fault = Some(met);
                return ControlFlow::Break(());
            }
        }
        let full = victims.len() >= keys_max || size >= DELETE_BATCH_BYTES;
        if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(victims),
    }
}

/// The changes of one command: all have one main revision, and count up its sub revision.
pub(crate) struct Changes<'t, T> {
    pub(crate) trees: &'t mut T,
    pub(crate) state: &'t mut State,
    next: Revision,
    events: Vec<Event>,
    /// Key to its first event, for the first `indexed` events: built when a key changes twice, which is rare.
    first_of: BTreeMap<Bytes, usize>,
    indexed: usize,
}

impl<'t, T: WriteTrees> Changes<'t, T> {
    pub(crate) fn begin(trees: &'t mut T, state: &'t mut State) -> Changes<'t, T> {
        let next = Revision { main: state.revision.saturating_add(1), sub: 0 };
        Changes { trees, state, next, events: Vec::new(), first_of: BTreeMap::new(), indexed: 0 }
    }

    /// Goes on where [`Changes::suspend`] stopped; None: from the beginning. Of deletes only: they change a key once.
    pub(super) fn resume(
        trees: &'t mut T,
        state: &'t mut State,
        next: Option<Revision>,
        events: Vec<Event>,
    ) -> Changes<'t, T> {
        let begun = Changes::begin(trees, state);
        Changes { next: next.unwrap_or(begun.next), events, ..begun }
    }

    /// What [`Changes::resume`] needs.
    pub(super) fn suspend(self) -> (Revision, Vec<Event>) {
        (self.next, self.events)
    }

    /// The revision that a response inside the command shows.
    pub(crate) fn visible_revision(&self) -> i64 {
        if self.events.is_empty() { self.state.revision } else { self.next.main }
    }

    pub(crate) fn finish(self, answer: Answer) -> Applied {
        self.state.revision = self.visible_revision();
        Applied { response: Ok(answer), events: self.events }
    }

    pub(crate) fn put(&mut self, put: &ArchivedPut, prepared: Prepared) -> Access<PutResponse> {
        let old_put = prepared.old.as_ref().filter(|old| !old.meta.tombstone);
        let (key, value) = match old_put {
            Some(old) if put.ignore_value => (Bytes::copy_from_slice(&put.key), old.value.clone()),
            _ => joined(&put.key, &put.value),
        };
        let lease = if put.ignore_lease { prepared.lease() } else { put.lease.to_native() };
        let mut meta = Meta {
            revision: self.next,
            tombstone: false,
            create: old_put.map_or(self.next.main, |old| old.meta.create),
            version: old_put.map_or(1, |old| old.meta.version.saturating_add(1)),
            lease,
            hash: 0,
        };
        meta.hash = record_hash(&self.state.hash_key, &meta, &key, &value);
        let prev_kv = if put.prev_kv { old_put.and_then(|old| old.key_value(&key)) } else { None };
        let old_lease = prepared.lease();
        self.write(&key, &value, meta, prepared)?;
        if old_lease != lease {
            if old_lease != 0 {
                lease::detach(self.trees, old_lease, &key)?;
            }
            if lease != 0 {
                lease::attach(self.trees, lease, &key)?;
            }
        }
        Ok(PutResponse { header: header(self.visible_revision()), prev_kv })
    }

    pub(crate) fn delete_range(&mut self, delete: &ArchivedDeleteRange) -> Access<DeleteRangeResponse> {
        let mut response = DeleteRangeResponse::default();
        // A deleted key no longer counts, but behind it the range goes on: each batch starts after the last.
        let mut after: Option<Bytes> = None;
        loop {
            let (key, range_end) = (&delete.key, &delete.range_end);
            let batch = next_victims(self.trees, self.state, key, range_end, after.as_deref(), DELETE_BATCH_KEYS)?;
            let Some(last) = batch.last() else { break };
            after = Some(last.0.clone());
            for (key, old) in batch {
                if delete.prev_kv {
                    response.prev_kvs.extend(old.key_value(&key));
                }
                response.deleted += 1;
                self.delete_old(key, old)?;
            }
            if delete.range_end.is_empty() {
                break;
            }
        }
        response.header = header(self.visible_revision());
        Ok(response)
    }

    fn revoke(&mut self, id: i64) -> Access<()> {
        let mut after: Option<Bytes> = None;
        loop {
            let batch = lease::keys_after(self.trees, id, after.as_deref(), DELETE_BATCH_KEYS)?;
            let Some(last) = batch.last() else { break };
            after = Some(last.clone());
            for key in batch {
                let old = match self.trees.get(LIVE, &key)? {
                    Some(bytes) => Old::load(self.trees, self.state.compact_revision, bytes)?,
                    None => None,
                };
                if let Some(old) = old.filter(|old| !old.meta.tombstone && old.meta.lease == id) {
                    self.delete_old(key, old)?;
                }
            }
        }
        lease::revoke_record(self.trees, id)
    }

    fn delete_old(&mut self, key: Bytes, old: Old) -> Access<()> {
        let jump = next_jump(self.trees, self.state.compact_revision, self.next.main, &old)?;
        self.delete(key, Prepared { old: Some(old), jump })
    }

    /// Deletes a key that exists.
    pub(super) fn delete(&mut self, key: Bytes, prepared: Prepared) -> Access<()> {
        let lease = prepared.lease();
        let mut meta = Meta { revision: self.next, tombstone: true, ..Meta::default() };
        meta.hash = record_hash(&self.state.hash_key, &meta, &key, &[]);
        self.write(&key, &Bytes::new(), meta, prepared)?;
        if lease != 0 {
            lease::detach(self.trees, lease, &key)?;
        }
        Ok(())
    }

    /// Writes one version to `live` and `log`, keeps what the window still needs of the one before it, and notes the
    /// event.
    fn write(&mut self, key: &Bytes, value: &Bytes, meta: Meta, prepared: Prepared) -> Access<()> {
        let Prepared { old, jump } = prepared;
        let at = meta.revision.to_key();
        let external = value.len() > VALUE_INLINE_BYTES_MAX;
        let stored = if external { Stored::External(value.len() as u64) } else { Stored::Inline(value) };
        let inline: &[u8] = if external { &[] } else { value };
        if external {
            self.trees.put(VALUE, &at, &[value])?;
            self.state.retained_bytes += value_bytes(value.len() as u64);
        }
        let live = LiveRecord { meta, jump, value: stored };
        self.trees.put(LIVE, key, &[&live.header(), inline])?;
        let previous = old.as_ref().map(Old::previous);
        let log = LogRecord { meta, key, previous, jump, value: stored };
        self.trees.put(LOG, &at, &[&log.header(), key, inline])?;
        let mut replaced_bytes = 0;
        if let Some(old) = old.as_ref().filter(|old| !old.meta.tombstone) {
            let record = LiveRecord { meta: old.meta, jump: None, value: old.stored() };
            replaced_bytes = record.live_bytes(key.len());
            if old.meta.revision.main <= self.state.compact_revision {
                self.put_beside(meta.revision, &record)?;
            }
        }
        let added = live.live_bytes(key.len()) + log.log_bytes();
        self.state.logical_bytes = self.state.logical_bytes.wrapping_add(added).wrapping_sub(replaced_bytes);
        self.note(key, value, meta, old);
        Ok(())
    }

    /// Keeps `record` beside the event at `event`.
    fn put_beside(&mut self, event: Revision, record: &LiveRecord<'_>) -> Access<()> {
        put_beside(self.trees, self.state, event, record)
    }

    fn note(&mut self, key: &Bytes, value: &Bytes, meta: Meta, old: Option<Old>) {
        // A watch shows the state one revision earlier, also where one transaction changes a key twice.
        let prev_kv = match old {
            _ if meta.create == meta.revision.main => None,
            Some(old) if old.meta.revision.main == meta.revision.main => self.before_command(key),
            Some(old) => old.key_value(key),
            None => None,
        };
        let (kind, kv) = match meta.tombstone {
            false => (EventKind::Put, key_value_of(&meta, key.clone(), value.clone())),
            true => {
                let kv = KeyValue { key: key.clone(), mod_revision: meta.revision.main, ..KeyValue::default() };
                (EventKind::Delete, kv)
            }
        };
        self.events.push(Event { revision: meta.revision, kind, kv, prev_kv });
        self.next.sub += 1;
    }

    /// What a key that this command has changed already was before it: its first event knows.
    fn before_command(&mut self, key: &Bytes) -> Option<KeyValue> {
        for (index, event) in self.events.iter().enumerate().skip(self.indexed) {
            self.first_of.entry(event.kv.key.clone()).or_insert(index);
        }
        self.indexed = self.events.len();
        let first = *self.first_of.get(key)?;
        self.events[first].prev_kv.clone()
    }
}

/// Keeps `record` beside the event at `event`.
pub(crate) fn put_beside<T: WriteTrees>(
    trees: &mut T,
    state: &mut State,
    event: Revision,
    record: &LiveRecord<'_>,
) -> Access<()> {
    let inline: &[u8] = match record.value {
        Stored::Inline(value) => value,
        Stored::External(_) => &[],
    };
    trees.put(BESIDE, &event.to_key(), &[&record.header(), inline])?;
    state.retained_bytes += record.beside_bytes();
    Ok(())
}

/// Key and value in one allocation.
fn joined(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    let mut both = Vec::with_capacity(key.len() + value.len());
    both.extend_from_slice(key);
    both.extend_from_slice(value);
    let mut key_bytes = Bytes::from(both);
    let value = key_bytes.split_off(key.len());
    (key_bytes, value)
}
