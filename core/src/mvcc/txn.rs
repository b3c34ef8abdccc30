//! Transactions that write.
//!
//! ```text
//! compare (all levels, the state before)  ->  the path: which branch of each nested txn runs ([`Comparing`])
//! check the path against the state        ->  the first refusal answers the whole transaction, with no effect
//! touch what the path will need           ->  absent pages are met here
//! execute in order                        ->  later operations see earlier ones
//! ```
//!
//! etcd checks a put that keeps its value or lease against the state before the transaction only, and ends when an
//! earlier delete of the same transaction took the key away. Here such a put is refused like one of a missing key.

use std::collections::BTreeSet;

use ringstone_pager::api::{Fault, ReadTrees, WriteTrees};
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{ResponseHeader, ResponseOp, TxnResponse};

use super::apply::{Changes, header, prepare_put, warm_delete};
use super::compare::Comparing;
use super::intervals::{End, IntervalSet};
use super::lookup::current;
use super::range::{Budget, Progress, RangeScan};
use super::{Answer, Applied, keys};
use crate::command::{ArchivedOp, ArchivedPut, ArchivedTxn};
use crate::error::{ApplyFault, Error, ReadFault};
use crate::lease::state as lease;
use crate::state::{State, Window};
use crate::trees::LIVE;

/// Applies a Txn.
///
/// # Errors
/// [`ApplyFault`].
pub fn apply_txn<T: WriteTrees>(trees: &mut T, state: &mut State, txn: &ArchivedTxn) -> Result<Applied, ApplyFault> {
    let mut comparing = Comparing::default();
    let compared = comparing.step(trees, txn, &mut usize::MAX.clone()).map_err(ApplyFault::before)?;
    assert_eq!(compared, Progress::Done, "nothing bounds it");
    apply_compared(trees, state, txn, &comparing)
}

/// Applies a Txn whose comparisons are done, over a state that has not changed since they began.
///
/// # Errors
/// [`ApplyFault`].
pub fn apply_compared<T: WriteTrees>(
    trees: &mut T,
    state: &mut State,
    txn: &ArchivedTxn,
    comparing: &Comparing,
) -> Result<Applied, ApplyFault> {
    let path = comparing.path();
    match read_half(trees, state, txn, path) {
        Ok(()) => {}
        Err(ReadFault::Absent(run)) => return Err(ApplyFault::Absent(run)),
        Err(ReadFault::Refused(Error::Damaged(damage))) => return Err(ApplyFault::Damaged(damage)),
        Err(ReadFault::Refused(error)) => return Ok(Applied::refused(error)),
    }
    let mut changes = Changes::begin(trees, state);
    let mut response =
        execute(&mut changes, txn, &mut path.iter()).map_err(|fault| ApplyFault::HalfApplied(as_fault(fault)))?;
    response.header = header(changes.visible_revision());
    Ok(changes.finish(Answer::Txn(response)))
}

/// Checks and touches along the path.
fn read_half<T: WriteTrees>(trees: &T, state: &State, txn: &ArchivedTxn, path: &[bool]) -> Result<(), ReadFault> {
    check(trees, state, txn, &mut path.iter())?;
    if has_op(txn, &mut path.iter(), keeps_something) {
        Overlay::default().check(txn, &mut path.iter())?;
    }
    warm(trees, state, txn, &mut path.iter(), has_op(txn, &mut path.iter(), reads_old))
}

/// A refusal behind the point of no return can't be: all was checked. If it is, it is damage.
fn as_fault(fault: ReadFault) -> Fault {
    match fault {
        ReadFault::Absent(run) => Fault::Absent(run),
        ReadFault::Refused(Error::Damaged(damage)) => Fault::Damaged(damage),
        ReadFault::Refused(_) => super::record::damaged(LIVE, "a checked transaction was refused while it ran"),
    }
}

fn taken<'t>(txn: &'t ArchivedTxn, path: &mut core::slice::Iter<'_, bool>) -> (bool, &'t [ArchivedOp]) {
    let succeeded = *path.next().expect("the path has an entry for each transaction on it");
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

/// etcd's check of a range's revision inside a transaction. (Stand-alone, a negative revision is the latest.)
pub(crate) fn check_range_revision(window: impl Into<Window>, revision: i64) -> Result<(), Error> {
    let window = window.into();
    if revision == 0 {
        Ok(())
    } else if revision > window.revision {
        Err(Error::FutureRevision)
    } else if revision < window.compact_revision {
        Err(Error::Compacted)
    } else {
        Ok(())
    }
}

/// etcd's check of a path against the state before the transaction.
fn check<V: ReadTrees>(
    view: &V,
    state: &State,
    txn: &ArchivedTxn,
    path: &mut core::slice::Iter<'_, bool>,
) -> Result<(), ReadFault> {
    let (_, ops) = taken(txn, path);
    for op in ops {
        match op {
            ArchivedOp::Range(range) => check_range_revision(state, range.revision.to_native())?,
            ArchivedOp::Put(put) => check_put(view, put)?,
            ArchivedOp::DeleteRange(_) => {}
            ArchivedOp::Txn(nested) => check(view, state, nested, path)?,
        }
    }
    Ok(())
}

fn check_put<V: ReadTrees>(view: &V, put: &ArchivedPut) -> Result<(), ReadFault> {
    let lease = put.lease.to_native();
    if lease != 0 && !lease::exists(view, lease)? {
        return Err(Error::LeaseNotFound.into());
    }
    if (put.ignore_value || put.ignore_lease) && current(view, &put.key)?.is_none() {
        return Err(Error::KeyNotFound.into());
    }
    Ok(())
}

/// Which keys earlier operations of the transaction made and took away.
#[derive(Default)]
struct Overlay<'t> {
    dead: IntervalSet<'t>,
    alive: BTreeSet<&'t [u8]>,
}

impl<'t> Overlay<'t> {
    /// Follows a path: a put that keeps something of a key that is gone by then is refused.
    fn check(&mut self, txn: &'t ArchivedTxn, path: &mut core::slice::Iter<'_, bool>) -> Result<(), Error> {
        let (_, ops) = taken(txn, path);
        for op in ops {
            match op {
                ArchivedOp::Range(_) => {}
                ArchivedOp::Put(put) => {
                    if (put.ignore_value || put.ignore_lease) && self.is_gone(&put.key) {
                        return Err(Error::KeyNotFound);
                    }
                    self.alive.insert(&put.key);
                }
                ArchivedOp::DeleteRange(delete) => self.delete(&delete.key, &delete.range_end),
                ArchivedOp::Txn(nested) => self.check(nested, path)?,
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &'t [u8], range_end: &'t [u8]) {
        if keys::is_empty(key, range_end) {
            return;
        }
        let end = match range_end {
            [] => End::Behind(key),
            [0] => End::Open,
            _ => End::Before(range_end),
        };
        self.dead.insert(key, end);
        let gone: Vec<&[u8]> = self.alive.range::<[u8], _>(keys::bounds(key, range_end)).copied().collect();
        for key in gone {
            self.alive.remove(key);
        }
    }

    fn is_gone(&self, key: &[u8]) -> bool {
        self.dead.contains(key) && !self.alive.contains(key)
    }
}

/// Whether an operation of that kind stands on the path.
fn has_op(txn: &ArchivedTxn, path: &mut core::slice::Iter<'_, bool>, is_wanted: fn(&ArchivedOp) -> bool) -> bool {
    let (_, ops) = taken(txn, path);
    // No short cut out of the loop: nested ones must take their entries of the path.
    let mut found = false;
    for op in ops {
        found |= match op {
            ArchivedOp::Txn(nested) => has_op(nested, path, is_wanted),
            op => is_wanted(op),
        };
    }
    found
}

/// A put that keeps a value or a lease.
fn keeps_something(op: &ArchivedOp) -> bool {
    matches!(op, ArchivedOp::Put(put) if put.ignore_value || put.ignore_lease)
}

/// A range that names a revision.
fn reads_old(op: &ArchivedOp) -> bool {
    matches!(op, ArchivedOp::Range(range) if range.revision.to_native() != 0)
}

/// Touches what the path will need. While it runs, its reads meet what it wrote before; so they are touched wider here:
/// ranges without their limits, and, where a range names a revision (`reads_old`), the versions that writes will put behind it.
fn warm<V: ReadTrees>(
    view: &V,
    state: &State,
    txn: &ArchivedTxn,
    path: &mut core::slice::Iter<'_, bool>,
    reads_old: bool,
) -> Result<(), ReadFault> {
    let (_, ops) = taken(txn, path);
    for op in ops {
        match op {
            ArchivedOp::Range(range) => RangeScan::touch(view, state, range)?,
            ArchivedOp::Put(put) => {
                let prepared = prepare_put(view, state, put)?;
                if reads_old {
                    prepared.touch_replaced(view, state)?;
                }
            }
            ArchivedOp::DeleteRange(delete) => warm_delete(view, state, &delete.key, &delete.range_end, reads_old)?,
            ArchivedOp::Txn(nested) => warm(view, state, nested, path, reads_old)?,
        }
    }
    Ok(())
}

fn execute<T: WriteTrees>(
    changes: &mut Changes<'_, T>,
    txn: &ArchivedTxn,
    path: &mut core::slice::Iter<'_, bool>,
) -> Result<TxnResponse, ReadFault> {
    let (succeeded, ops) = taken(txn, path);
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match op {
            ArchivedOp::Range(range) => {
                let mut scan = RangeScan::archived(range);
                let latest = changes.visible_revision();
                scan.step_at(&*changes.trees, Window::from(&*changes.state), latest, &mut Budget::UNBOUNDED.clone())?;
                Response::ResponseRange(scan.finish())
            }
            ArchivedOp::Put(put) => {
                let prepared = prepare_put(&*changes.trees, changes.state, put)?;
                Response::ResponsePut(changes.put(put, prepared)?)
            }
            ArchivedOp::DeleteRange(delete) => Response::ResponseDeleteRange(changes.delete_range(delete)?),
            ArchivedOp::Txn(nested) => Response::ResponseTxn(execute(changes, nested, path)?),
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    // A nested header is there and empty; the caller fills the outermost one.
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
}
