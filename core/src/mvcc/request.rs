//! From etcd's requests to commands of the log. The requests have passed [`super::check`].

use ringstone_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{self as pb, RequestOp};

use crate::command::{Command, Compare, DeleteRange, Op, Operand, Put, Range, Txn};
use crate::error::Error;

impl From<pb::PutRequest> for Put {
    fn from(request: pb::PutRequest) -> Put {
        Put {
            key: request.key.into(),
            value: request.value.into(),
            lease: request.lease,
            prev_kv: request.prev_kv,
            ignore_value: request.ignore_value,
            ignore_lease: request.ignore_lease,
        }
    }
}

impl From<pb::DeleteRangeRequest> for DeleteRange {
    fn from(request: pb::DeleteRangeRequest) -> DeleteRange {
        DeleteRange { key: request.key.into(), range_end: request.range_end.into(), prev_kv: request.prev_kv }
    }
}

impl From<pb::RangeRequest> for Range {
    fn from(request: pb::RangeRequest) -> Range {
        Range {
            key: request.key.into(),
            range_end: request.range_end.into(),
            limit: request.limit,
            revision: request.revision,
            sort_order: request.sort_order,
            sort_target: request.sort_target,
            serializable: request.serializable,
            keys_only: request.keys_only,
            count_only: request.count_only,
            min_mod_revision: request.min_mod_revision,
            max_mod_revision: request.max_mod_revision,
            min_create_revision: request.min_create_revision,
            max_create_revision: request.max_create_revision,
        }
    }
}

impl From<pb::Compare> for Compare {
    fn from(compare: pb::Compare) -> Compare {
        let operand = operand(&compare);
        Compare { result: compare.result, key: compare.key.into(), range_end: compare.range_end.into(), operand }
    }
}

/// What a comparison compares with. A union that is unset, or set for another target, is 0 or empty.
fn operand(compare: &pb::Compare) -> Operand {
    let union = compare.target_union.as_ref();
    match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => {
            Operand::Version(if let Some(TargetUnion::Version(given)) = union { *given } else { 0 })
        }
        Ok(CompareTarget::Create) => {
            Operand::Create(if let Some(TargetUnion::CreateRevision(given)) = union { *given } else { 0 })
        }
        Ok(CompareTarget::Mod) => {
            Operand::Mod(if let Some(TargetUnion::ModRevision(given)) = union { *given } else { 0 })
        }
        Ok(CompareTarget::Value) => {
            Operand::Value(if let Some(TargetUnion::Value(given)) = union { given.to_vec() } else { Vec::new() })
        }
        Ok(CompareTarget::Lease) => {
            Operand::Lease(if let Some(TargetUnion::Lease(given)) = union { *given } else { 0 })
        }
        Err(_) => Operand::Unknown(compare.target),
    }
}

impl TryFrom<pb::TxnRequest> for Txn {
    type Error = Error;

    /// Fails on an operation without a request, which [`super::check::check_txn`] refuses the same way.
    fn try_from(request: pb::TxnRequest) -> Result<Txn, Error> {
        let ops = |ops: Vec<RequestOp>| ops.into_iter().map(Op::try_from).collect::<Result<Vec<Op>, Error>>();
        Ok(Txn {
            compare: request.compare.into_iter().map(Compare::from).collect(),
            success: ops(request.success)?,
            failure: ops(request.failure)?,
        })
    }
}

impl TryFrom<RequestOp> for Op {
    type Error = Error;

    fn try_from(op: RequestOp) -> Result<Op, Error> {
        Ok(match op.request {
            Some(Request::RequestRange(range)) => Op::Range(range.into()),
            Some(Request::RequestPut(put)) => Op::Put(put.into()),
            Some(Request::RequestDeleteRange(delete)) => Op::DeleteRange(delete.into()),
            Some(Request::RequestTxn(txn)) => Op::Txn(txn.try_into()?),
            None => return Err(Error::KeyNotFound),
        })
    }
}

impl From<pb::PutRequest> for Command {
    fn from(request: pb::PutRequest) -> Command {
        Command::Put(request.into())
    }
}

impl From<pb::DeleteRangeRequest> for Command {
    fn from(request: pb::DeleteRangeRequest) -> Command {
        Command::DeleteRange(request.into())
    }
}

impl TryFrom<pb::TxnRequest> for Command {
    type Error = Error;

    fn try_from(request: pb::TxnRequest) -> Result<Command, Error> {
        request.try_into().map(Command::Txn)
    }
}

impl From<pb::CompactionRequest> for Command {
    fn from(request: pb::CompactionRequest) -> Command {
        Command::Compact { revision: request.revision }
    }
}

/// Whether a transaction is answered by a read: all operations of both branches are ranges. A nested transaction makes it
/// a write whatever stands in it.
#[must_use]
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from local state: all its ranges are serializable (or there are none).
#[must_use]
pub fn is_serializable(request: &pb::TxnRequest) -> bool {
    let serializable = |op: &RequestOp| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable);
    request.success.iter().chain(&request.failure).all(serializable)
}

/// What etcd's quota charges a put: key, value and 256 bytes. In bytes.
#[must_use]
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    256 + request.key.len() as u64 + request.value.len() as u64
}

/// What etcd's quota charges a transaction: the dearer of its branches. 0 where it puts nothing. In bytes.
#[must_use]
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .fold(0, u64::saturating_add)
    };
    branch(&request.success).max(branch(&request.failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_for_another_target_counts_as_unset() {
        let compare = |target, union| pb::Compare { target, target_union: union, ..pb::Compare::default() };
        let value = || Some(TargetUnion::Value("v".into()));
        assert_eq!(operand(&compare(0, value())), Operand::Version(0));
        assert_eq!(operand(&compare(3, value())), Operand::Value(b"v".to_vec()));
        assert_eq!(operand(&compare(3, None)), Operand::Value(vec![]));
        assert_eq!(operand(&compare(4, Some(TargetUnion::Lease(9)))), Operand::Lease(9));
        assert_eq!(operand(&compare(9, value())), Operand::Unknown(9));
    }

    #[test]
    fn a_nested_txn_makes_a_write() {
        let range = |serializable| RequestOp {
            request: Some(Request::RequestRange(pb::RangeRequest { serializable, ..pb::RangeRequest::default() })),
        };
        let nested = RequestOp { request: Some(Request::RequestTxn(pb::TxnRequest::default())) };
        let txn = |success| pb::TxnRequest { success, ..pb::TxnRequest::default() };
        assert!(is_read_only(&txn(vec![range(false)])) && !is_serializable(&txn(vec![range(true), range(false)])));
        assert!(!is_read_only(&txn(vec![range(false), nested])));
        assert!(is_read_only(&txn(vec![])) && is_serializable(&txn(vec![])));
    }

    #[test]
    fn the_dearer_branch_is_charged() {
        let put = |bytes: usize| RequestOp {
            request: Some(Request::RequestPut(pb::PutRequest { value: vec![0; bytes].into(), ..Default::default() })),
        };
        let txn = pb::TxnRequest { success: vec![put(10), put(20)], failure: vec![put(500)], ..Default::default() };
        assert_eq!(txn_cost(&txn), 756);
        assert_eq!(txn_cost(&pb::TxnRequest::default()), 0);
    }
}
