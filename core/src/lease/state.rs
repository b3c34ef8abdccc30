//! The replicated half of leases: records, attached keys and deadlines in the trees `LEASE`, `LEASE_KEY` and
//! `LEASE_DEADLINE`.
//!
//! Everything here is a pure function of the trees and the arguments. Time is the lease clock: milliseconds that a leader
//! put into an entry's envelope, never this machine's. Nothing here decides that a lease ends; `lessor` proposes that and
//! [`may_expire`] checks it again at apply time.
//!
//! A record's deadline is `clock of the last logged renewal + TTL + RENEWAL_SLACK`. The slack is what lets the leader
//! answer a keep-alive without waiting for the log (docs/decisions/0005-lease-time.md).
//!
//! Faults: each function reads the pages that it needs before its first write. If a write faults all the same (a
//! neighbouring page is needed to merge), calling again with the same arguments goes on where it stopped and ends in the
//! same state: records are written last when a lease is made or renewed and removed last when it ends.

use core::ops::{Bound, ControlFlow};

use bytes::Bytes;
use ringstone_pager::api::{Access, Aggregate, Damage, Direction, Fault, ReadTrees, TreeId, TreeSpec, WriteTrees};

use crate::trees::{LEASE, LEASE_DEADLINE, LEASE_KEY};

/// Longest TTL in seconds, as in etcd.
pub const TTL_S_MAX: i64 = 9_000_000_000;

/// How much longer than its TTL a lease lives after a logged renewal, in milliseconds of the lease clock. Keep-alives
/// that arrive within it are covered by the deadline that is already agreed on. Part of the replicated state: changing it
/// needs a new kind of entry.
pub const RENEWAL_SLACK_MS: u64 = 1000;

/// Entries that one slice of [`revoke_record`] removes.
const DETACH_SLICE: usize = 4096;

/// A point on the lease clock, in milliseconds since the cluster began. It stands still while no leader is proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseTime(pub u64);

impl LeaseTime {
    /// Milliseconds from `self` to `later`; 0 if that is earlier.
    #[must_use]
    pub fn ms_until(self, later: LeaseTime) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

/// What is known about one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Granted time to live in seconds, 1 to [`TTL_S_MAX`].
    pub ttl_s: i64,
    /// It does not end before this point.
    pub deadline: LeaseTime,
    /// Counts up with each renewal; an expiry holds only for the number that it was decided on.
    pub renewal: u64,
}

impl LeaseRecord {
    /// Whole seconds left at `clock`, as LeaseTimeToLive shows them: at most the TTL, 0 past the deadline.
    #[must_use]
    pub fn remaining_s(&self, clock: LeaseTime) -> i64 {
        let whole = clock.ms_until(self.deadline) / 1000;
        i64::try_from(whole).map_or(self.ttl_s, |seconds| seconds.min(self.ttl_s))
    }

    /// True if a keep-alive answered at `clock` is already promised by the deadline, with nothing more to log.
    #[must_use]
    pub fn covers(&self, clock: LeaseTime) -> bool {
        self.deadline.0 >= clock.0.saturating_add(ttl_ms(self.ttl_s))
    }

    fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.ttl_s.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.deadline.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.renewal.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Access<LeaseRecord> {
        if bytes.len() != 24 {
            return Err(damaged(LEASE, "a lease record is not 24 bytes long"));
        }
        let ttl_s = i64::from_be_bytes(word(bytes, 0));
        if !(1..=TTL_S_MAX).contains(&ttl_s) {
            return Err(damaged(LEASE, "a lease record has a TTL out of range"));
        }
        Ok(LeaseRecord {
            ttl_s,
            deadline: LeaseTime(u64::from_be_bytes(word(bytes, 8))),
            renewal: u64::from_be_bytes(word(bytes, 16)),
        })
    }
}

/// Why a lease was not granted. The texts are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    /// The id is taken.
    #[error("etcdserver: lease already exists")]
    Exists,
    /// The TTL is above [`TTL_S_MAX`], or below 1 (a proposer never sends that).
    #[error("etcdserver: too large lease TTL")]
    TtlOutOfRange,
}

/// A lease and where it stands in the order of deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadlineEntry {
    /// When it may end.
    pub deadline: LeaseTime,
    /// Lease id.
    pub id: i64,
}

/// A lease past its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Lease id.
    pub id: i64,
    /// The renewal number that this was decided on.
    pub renewal: u64,
}

/// The trees of this module for the catalogue. Their hash is 0: leases are compared by what they do to keys.
pub const TREE_SPECS: [TreeSpec; 3] = [
    TreeSpec { id: LEASE, name: "lease", summarize },
    TreeSpec { id: LEASE_KEY, name: "lease-key", summarize },
    TreeSpec { id: LEASE_DEADLINE, name: "lease-deadline", summarize },
];

fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    Aggregate { count: 1, bytes: key.len().saturating_add(value.len()) as u64, hash: 0 }
}

/// True if the lease exists (also past its deadline, until it is revoked).
///
/// # Errors
/// [`Fault`]; nothing was read.
pub fn exists(trees: &impl ReadTrees, id: i64) -> Access<bool> {
    Ok(trees.get(LEASE, &id.to_be_bytes())?.is_some())
}

/// The lease's record.
///
/// # Errors
/// [`Fault`]; [`Fault::Damaged`] also for a record that cannot be one.
pub fn get(trees: &impl ReadTrees, id: i64) -> Access<Option<LeaseRecord>> {
    trees.get(LEASE, &id.to_be_bytes())?.map(LeaseRecord::from_bytes).transpose()
}

/// How many leases there are.
///
/// # Errors
/// [`Fault`]; nothing was read.
pub fn count(trees: &impl ReadTrees) -> Access<u64> {
    Ok(trees.aggregate(LEASE, (Bound::Unbounded, Bound::Unbounded))?.count)
}

/// Makes a lease that ends `ttl_s` seconds after `clock` (and the slack) unless it is renewed.
///
/// # Errors
/// [`Fault`]: call again with the same arguments.
pub fn grant(trees: &mut impl WriteTrees, clock: LeaseTime, id: i64, ttl_s: i64) -> Access<Result<(), GrantRefusal>> {
    if !(1..=TTL_S_MAX).contains(&ttl_s) {
        return Ok(Err(GrantRefusal::TtlOutOfRange));
    }
    if exists(trees, id)? {
        return Ok(Err(GrantRefusal::Exists));
    }
    let record = LeaseRecord { ttl_s, deadline: deadline_after(clock, ttl_s), renewal: 1 };
    let deadline_key = deadline_key(DeadlineEntry { deadline: record.deadline, id });
    trees.get(LEASE_DEADLINE, &deadline_key)?;
    trees.put(LEASE_DEADLINE, &deadline_key, &[])?;
    trees.put(LEASE, &id.to_be_bytes(), &[&record.to_bytes()])?;
    Ok(Ok(()))
}

/// Renews the leases among `ids` that exist. Answers with the granted TTL of each, in the order of `ids`, 0 where there is
/// no lease. A lease past its deadline that is not yet revoked is renewed too: the revoke that may be under way then no
/// longer applies.
///
/// # Errors
/// [`Fault`]: call again with the same arguments.
pub fn renew(trees: &mut impl WriteTrees, clock: LeaseTime, ids: &[i64]) -> Access<Vec<i64>> {
    let ttls = warm_renew(trees, clock, ids)?;
    for (&id, _) in ids.iter().zip(&ttls).filter(|(_, ttl_s)| **ttl_s != 0) {
        renew_one(trees, clock, id)?;
    }
    Ok(ttls)
}

/// Reads what [`renew`] will touch; the same answer, nothing written.
///
/// # Errors
/// [`Fault`]: call again.
pub fn warm_renew(trees: &impl ReadTrees, clock: LeaseTime, ids: &[i64]) -> Access<Vec<i64>> {
    let mut ttls = Vec::with_capacity(ids.len());
    for &id in ids {
        let record = get(trees, id)?;
        if let Some(record) = record {
            let deadline = deadline_after(clock, record.ttl_s);
            trees.get(LEASE_DEADLINE, &deadline_key(DeadlineEntry { deadline, id }))?;
            trees.get(LEASE_DEADLINE, &deadline_key(DeadlineEntry { deadline: record.deadline, id }))?;
        }
        ttls.push(record.map_or(0, |record| record.ttl_s));
    }
    Ok(ttls)
}

fn renew_one(trees: &mut impl WriteTrees, clock: LeaseTime, id: i64) -> Access<()> {
    let record = get(trees, id)?.expect("the lease was found when its pages were read");
    let deadline = deadline_after(clock, record.ttl_s);
    // Not later: renewed already, by this very entry before a fault, or by one with the same clock. Nothing to add.
    if deadline <= record.deadline {
        return Ok(());
    }
    trees.put(LEASE_DEADLINE, &deadline_key(DeadlineEntry { deadline, id }), &[])?;
    trees.delete(LEASE_DEADLINE, &deadline_key(DeadlineEntry { deadline: record.deadline, id }))?;
    let renewed = LeaseRecord { deadline, renewal: record.renewal.wrapping_add(1), ..record };
    trees.put(LEASE, &id.to_be_bytes(), &[&renewed.to_bytes()])
}

/// Attaches a key. The lease exists and the key is not attached to another one (the caller detaches it first).
///
/// # Errors
/// [`Fault`]; nothing was changed.
pub fn attach(trees: &mut impl WriteTrees, id: i64, key: &[u8]) -> Access<()> {
    let attached = attached_key(id, key);
    if trees.get(LEASE_KEY, &attached)?.is_some() {
        return Ok(());
    }
    trees.put(LEASE_KEY, &attached, &[])
}

/// Takes a key off a lease; nothing where it is not attached.
///
/// # Errors
/// [`Fault`]; nothing was changed.
pub fn detach(trees: &mut impl WriteTrees, id: i64, key: &[u8]) -> Access<()> {
    trees.delete(LEASE_KEY, &attached_key(id, key)).map(|_| ())
}

/// Up to `limit` keys of the lease behind `after`, ascending.
///
/// # Errors
/// [`Fault`]; nothing was read.
pub fn keys_after(trees: &impl ReadTrees, id: i64, after: Option<&[u8]>, limit: usize) -> Access<Vec<Bytes>> {
    let mut keys = Vec::new();
    if limit == 0 {
        return Ok(keys);
    }
    let low = attached_key(id, after.unwrap_or_default());
    let low_bound = if after.is_some() { Bound::Excluded(&low[..]) } else { Bound::Included(&low[..]) };
    let high = attached_end(id);
    let range = (low_bound, high.as_ref().map_or(Bound::Unbounded, |high| Bound::Excluded(&high[..])));
    trees.visit(LEASE_KEY, range, Direction::Forward, false, &mut |attached, _| {
        keys.push(Bytes::copy_from_slice(&attached[8..]));
        if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(keys)
}

/// Removes the lease itself with its deadline and whatever keys are still noted as attached. The keys' own records are
/// the caller's.
///
/// # Errors
/// [`Fault`]: call again with the same arguments.
pub fn revoke_record(trees: &mut impl WriteTrees, id: i64) -> Access<()> {
    let Some(record) = get(trees, id)? else { return Ok(()) };
    let deadline_key = deadline_key(DeadlineEntry { deadline: record.deadline, id });
    trees.get(LEASE_DEADLINE, &deadline_key)?;
    let low = attached_key(id, &[]);
    let high = attached_end(id);
    let range = (Bound::Included(&low[..]), high.as_ref().map_or(Bound::Unbounded, |high| Bound::Excluded(&high[..])));
    while !trees.delete_front(LEASE_KEY, range, DETACH_SLICE)? {}
    trees.delete(LEASE_DEADLINE, &deadline_key)?;
    trees.delete(LEASE, &id.to_be_bytes())?;
    Ok(())
}

/// Apply's check of an expiry: the lease is as it was when that was decided, and its deadline is past at the entry's
/// clock. Otherwise the revoke does nothing. `clock` is the lease clock of the entry's envelope.
///
/// # Errors
/// [`Fault`]; nothing was read.
pub fn may_expire(trees: &impl ReadTrees, clock: LeaseTime, id: i64, renewal: u64) -> Access<bool> {
    Ok(get(trees, id)?.is_some_and(|record| record.renewal == renewal && record.deadline <= clock))
}

/// Up to `limit` leases whose deadline is at or before `clock`, soonest first, without those that `skip` names.
///
/// # Errors
/// [`Fault`]; nothing was read.
pub fn expired(
    trees: &impl ReadTrees,
    clock: LeaseTime,
    limit: usize,
    skip: impl Fn(i64) -> bool,
) -> Access<Vec<Expired>> {
    let mut due: Vec<DeadlineEntry> = Vec::new();
    if limit == 0 {
        return Ok(Vec::new());
    }
    let high = deadline_key(DeadlineEntry { deadline: clock, id: -1 });
    visit_deadlines(trees, (Bound::Unbounded, Bound::Included(&high[..])), &mut |entry| {
        if !skip(entry.id) {
            due.push(entry);
        }
        if due.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    due.iter().map(|entry| expired_entry(trees, *entry)).collect()
}

fn expired_entry(trees: &impl ReadTrees, entry: DeadlineEntry) -> Access<Expired> {
    match get(trees, entry.id)? {
        Some(record) if record.deadline == entry.deadline => Ok(Expired { id: entry.id, renewal: record.renewal }),
        _ => Err(damaged(LEASE_DEADLINE, "a deadline does not belong to its lease")),
    }
}

/// Up to `limit` leases behind `after` by remaining time, soonest first (etcd's LeaseLeases).
///
/// # Errors
/// [`Fault`]; nothing was read.
pub fn list(trees: &impl ReadTrees, after: Option<DeadlineEntry>, limit: usize) -> Access<Vec<DeadlineEntry>> {
    let mut leases = Vec::new();
    if limit == 0 {
        return Ok(leases);
    }
    let low = after.map(deadline_key);
    let range = (low.as_ref().map_or(Bound::Unbounded, |low| Bound::Excluded(&low[..])), Bound::Unbounded);
    visit_deadlines(trees, range, &mut |entry| {
        leases.push(entry);
        if leases.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(leases)
}

fn visit_deadlines(
    trees: &impl ReadTrees,
    range: (Bound<&[u8]>, Bound<&[u8]>),
    visitor: &mut dyn FnMut(DeadlineEntry) -> ControlFlow<()>,
) -> Access<()> {
    let mut malformed = false;
    trees.visit(LEASE_DEADLINE, range, Direction::Forward, false, &mut |key, _| {
        malformed = key.len() != 16;
        if malformed {
            return ControlFlow::Break(());
        }
        let deadline = LeaseTime(u64::from_be_bytes(word(key, 0)));
        visitor(DeadlineEntry { deadline, id: i64::from_be_bytes(word(key, 8)) })
    })?;
    if malformed {
        return Err(damaged(LEASE_DEADLINE, "a deadline key is not 16 bytes long"));
    }
    Ok(())
}

fn ttl_ms(ttl_s: i64) -> u64 {
    ttl_s.unsigned_abs().saturating_mul(1000)
}

pub(super) fn deadline_after(clock: LeaseTime, ttl_s: i64) -> LeaseTime {
    LeaseTime(clock.0.saturating_add(ttl_ms(ttl_s)).saturating_add(RENEWAL_SLACK_MS))
}

fn deadline_key(entry: DeadlineEntry) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&entry.deadline.0.to_be_bytes());
    key[8..].copy_from_slice(&entry.id.to_be_bytes());
    key
}

fn attached_key(id: i64, key: &[u8]) -> Vec<u8> {
    let mut attached = Vec::with_capacity(8 + key.len());
    attached.extend_from_slice(&id.to_be_bytes());
    attached.extend_from_slice(key);
    attached
}

/// The first attached key of the next id in byte order; none behind the last id (-1: all bits set).
fn attached_end(id: i64) -> Option<[u8; 8]> {
    u64::from_be_bytes(id.to_be_bytes()).checked_add(1).map(u64::to_be_bytes)
}

fn word(bytes: &[u8], at: usize) -> [u8; 8] {
    bytes[at..at + 8].try_into().expect("the slice is eight bytes long")
}

fn damaged(tree: TreeId, what: &'static str) -> Fault {
    Fault::Damaged(Damage { page: 0, tree: tree.0, what })
}

#[cfg(test)]
mod tests;
