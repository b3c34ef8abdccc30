//! What a request alone can be refused for, before it is proposed: in etcd's order, with etcd's answers.

use std::collections::HashSet;

use ringstone_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::intervals::{End, IntervalSet};
use crate::error::Error;

/// etcd's `--max-txn-ops`.
pub const TXN_OPS_MAX_DEFAULT: usize = 128;

/// Checks a RangeRequest.
///
/// # Errors
/// Empty key; unknown sort order or target.
pub fn check_range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(Error::InvalidSortOption) }
}

/// Checks a RangeRequest that is to be streamed.
///
/// # Errors
/// As [`check_range`]; an order other than by key, or a filter.
pub fn check_range_stream(request: &RangeRequest) -> Result<(), Error> {
    check_range(request)?;
    let by_key = request.sort_target == SortTarget::Key as i32;
    let ascending = request.sort_order == SortOrder::Ascend as i32;
    if request.sort_order != SortOrder::None as i32 && !(by_key && ascending) {
        return Err(Error::RangeStreamSort);
    }
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if filters != [0; 4] { Err(Error::RangeStreamFilter) } else { Ok(()) }
}

/// Checks a PutRequest.
///
/// # Errors
/// Empty key; a value or a lease where it is to be ignored.
pub fn check_put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a DeleteRangeRequest.
///
/// # Errors
/// Empty key.
pub fn check_delete(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a TxnRequest and all within it. `ops_max` bounds the sum of widths along any path, and so the depth.
///
/// # Errors
/// Too many operations; what the checks of single requests find; an operation without a request; a key that is put
/// twice, or put and deleted.
pub fn check_txn(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    check_txn_ops(request, ops_max)?;
    check_overlaps(&request.success)?;
    check_overlaps(&request.failure)?;
    Ok(())
}

fn check_txn_ops(request: &TxnRequest, ops_max: usize) -> Result<(), Error> {
    let width = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = ops_max.checked_sub(width) else { return Err(Error::TooManyOps) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(Request::RequestTxn(txn)) => check_txn_ops(txn, left)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// What a list of operations, and those within it, put and delete.
#[derive(Default)]
struct Touched<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: IntervalSet<'a>,
}

/// etcd's overlap check, its oddities included: the deletes of a nested txn count against its later siblings and against
/// the level above, not against its earlier siblings; and an end of `\0` is taken literally, so that it overlaps nothing.
fn check_overlaps(ops: &[RequestOp]) -> Result<Touched<'_>, Error> {
    let mut touched = Touched::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let end =
                if delete.range_end.is_empty() { End::Behind(&delete.key) } else { End::Before(&delete.range_end) };
            touched.deletes.insert(&delete.key, end);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            let success = check_overlaps(&txn.success)?;
            let failure = check_overlaps(&txn.failure)?;
            for key in &success.puts {
                touched.check_put(key)?;
            }
            for key in &failure.puts {
                // Only one of the two branches runs.
                touched.check_put(key)?;
            }
            touched.puts.extend(success.puts);
            touched.puts.extend(failure.puts);
            touched.deletes.merge(success.deletes);
            touched.deletes.merge(failure.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            touched.check_put(&put.key)?;
            touched.puts.insert(&put.key);
        }
    }
    Ok(touched)
}

impl Touched<'_> {
    fn check_put(&self, key: &[u8]) -> Result<(), Error> {
        let taken = self.puts.contains(key) || self.deletes.contains(key);
        if taken { Err(Error::DuplicateKey) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringstone_proto::etcdserverpb::Compare;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    fn put(key: &'static str) -> RequestOp {
        op(Request::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() }))
    }

    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        let request = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
        op(Request::RequestDeleteRange(request))
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(Request::RequestTxn(TxnRequest { compare: vec![], success, failure }))
    }

    fn check(success: Vec<RequestOp>) -> Result<(), Error> {
        check_txn(&TxnRequest { success, ..TxnRequest::default() }, 128)
    }

    #[test]
    fn ranges_are_refused_in_the_order_of_etcd() {
        let bad = RangeRequest { sort_order: 7, sort_target: -1, ..RangeRequest::default() };
        assert_eq!(check_range(&bad), Err(Error::EmptyKey));
        let keyed = RangeRequest { key: "k".into(), ..bad };
        assert_eq!(check_range(&keyed), Err(Error::InvalidSortOption));
        assert_eq!(check_range(&RangeRequest { sort_order: 1, sort_target: 4, ..keyed.clone() }), Ok(()));
        let target = RangeRequest { sort_order: 0, sort_target: 5, ..keyed.clone() };
        assert_eq!(check_range(&target), Err(Error::InvalidSortOption));
        let streamed = RangeRequest { sort_order: 0, sort_target: 3, ..keyed };
        assert_eq!(check_range_stream(&streamed), Ok(()));
        let ordered = RangeRequest { sort_order: 1, min_mod_revision: 1, ..streamed.clone() };
        assert_eq!(check_range_stream(&ordered), Err(Error::RangeStreamSort));
        let filtered = RangeRequest { max_create_revision: 1, ..streamed };
        assert_eq!(check_range_stream(&filtered), Err(Error::RangeStreamFilter));
    }

    #[test]
    fn puts_and_deletes_are_refused_in_the_order_of_etcd() {
        let bad =
            PutRequest { value: "v".into(), lease: 1, ignore_value: true, ignore_lease: true, ..PutRequest::default() };
        assert_eq!(check_put(&bad), Err(Error::EmptyKey));
        let keyed = PutRequest { key: "k".into(), ..bad };
        assert_eq!(check_put(&keyed), Err(Error::ValueProvided));
        let valueless = PutRequest { value: "".into(), ..keyed };
        assert_eq!(check_put(&valueless), Err(Error::LeaseProvided));
        assert_eq!(check_put(&PutRequest { lease: 0, ..valueless }), Ok(()));
        assert_eq!(check_delete(&DeleteRangeRequest::default()), Err(Error::EmptyKey));
    }

    #[test]
    fn a_txn_is_refused_for_its_size_first() {
        let request = |count: usize| TxnRequest {
            compare: vec![Compare::default()],
            success: (0..count).map(|_| RequestOp { request: None }).collect(),
            failure: vec![],
        };
        assert_eq!(check_txn(&request(129), 128), Err(Error::TooManyOps));
        assert_eq!(check_txn(&request(128), 128), Err(Error::EmptyKey));
        assert_eq!(check(vec![RequestOp { request: None }]), Err(Error::KeyNotFound));
        assert_eq!(check(vec![put("")]), Err(Error::EmptyKey));
    }

    #[test]
    fn nesting_shares_one_budget() {
        let deep = |levels: usize| (0..levels).fold(vec![put("k")], |ops, _| vec![nested(ops, vec![])]);
        for levels in [49, 50, 51, 127] {
            assert_eq!(check(deep(levels)), Ok(()), "{levels}");
        }
        assert_eq!(check(deep(128)), Err(Error::TooManyOps));
        let wide = |count: usize| vec![nested((0..count).map(|_| delete("a", "")).collect(), vec![])];
        assert_eq!(check(wide(127)), Ok(()));
        assert_eq!(check(wide(128)), Err(Error::TooManyOps));
    }

    #[test]
    fn overlaps_are_those_of_etcd() {
        let duplicate = Err(Error::DuplicateKey);
        assert_eq!(check(vec![put("a"), put("a")]), duplicate);
        assert_eq!(check(vec![put("a"), put("b")]), Ok(()));
        assert_eq!(check(vec![put("a"), delete("a", "")]), duplicate);
        assert_eq!(check(vec![delete("a", ""), put("aa")]), Ok(()));
        assert_eq!(check(vec![delete("a", "c"), put("b")]), duplicate);
        assert_eq!(check(vec![delete("a", "c"), put("c")]), Ok(()));
        assert_eq!(check(vec![delete("a", "c"), delete("b", "d")]), Ok(()));
        // Ends that are taken literally.
        assert_eq!(check(vec![delete("a", "\0"), put("b")]), Ok(()));
        assert_eq!(check(vec![delete("\0", "\0"), put("b")]), Ok(()));
        assert_eq!(check(vec![delete("c", "a"), put("b")]), Ok(()));
        // Both branches of one nested txn may put a key, two nested ones may not.
        assert_eq!(check(vec![nested(vec![put("a")], vec![put("a")])]), Ok(()));
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])]), duplicate);
        assert_eq!(check(vec![put("a"), nested(vec![], vec![put("a")])]), duplicate);
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), delete("a", "")]), duplicate);
        assert_eq!(check(vec![put("a"), nested(vec![delete("a", "b")], vec![])]), duplicate);
        // Siblings: the order counts.
        assert_eq!(check(vec![nested(vec![put("a")], vec![]), nested(vec![delete("a", "")], vec![])]), Ok(()));
        assert_eq!(check(vec![nested(vec![delete("a", "")], vec![]), nested(vec![put("a")], vec![])]), duplicate);
    }
}
