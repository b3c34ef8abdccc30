//! Puts, gets, ranges, transactions, deletes.

use ringstone_net::client::CallOptions;
use ringstone_net::{Method, Status};
use ringstone_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};

use super::{Done, Lane};
use crate::recorder::Call;
use crate::session::key;

pub(super) async fn put(lane: &mut Lane) -> Result<Done, Status> {
    let put = PutRequest { key: lane.random_key(), value: lane.value.clone(), ..PutRequest::default() };
    lane.client.unary::<_, PutResponse>(Method::KvPut, &put, &CallOptions::default()).await?;
    Ok(Done::now(Call::Put))
}

pub(super) async fn get(lane: &mut Lane, serializable: bool) -> Result<Done, Status> {
    let get = RangeRequest { key: lane.random_key(), serializable, ..RangeRequest::default() };
    lane.client.unary::<_, RangeResponse>(Method::KvRange, &get, &CallOptions::default()).await?;
    Ok(Done::now(Call::Get))
}

pub(super) async fn range(lane: &mut Lane, keys: u64) -> Result<Done, Status> {
    let first = lane.random.below(lane.keys.saturating_sub(keys));
    let range = RangeRequest { key: key(first), range_end: key(first + keys), ..RangeRequest::default() };
    lane.client.unary::<_, RangeResponse>(Method::KvRange, &range, &CallOptions::default()).await?;
    Ok(Done::now(Call::Range))
}

/// Counts all keys, and says at which revision the store was.
pub(super) async fn count(lane: &mut Lane, revision: i64) -> Result<(Done, i64), Status> {
    let all =
        RangeRequest { key: key(0), range_end: key(lane.keys), revision, count_only: true, ..RangeRequest::default() };
    let answer: RangeResponse = lane.client.unary(Method::KvRange, &all, &CallOptions::default()).await?;
    Ok((Done::now(Call::Range), answer.header.map_or(0, |header| header.revision)))
}

/// The revision that a lane has seen last; 0: none.
#[derive(Default)]
pub(super) struct Revision(i64);

/// How far back [`count_old`] looks.
const REVISIONS_BACK: i64 = 1000;

/// Counts all keys as they were some revisions ago, or with the first write where there were not so many.
pub(super) async fn count_old(lane: &mut Lane, revision: &mut Revision) -> Result<Done, Status> {
    if revision.0 == 0 {
        revision.0 = count(lane, 0).await?.1;
    }
    let (done, now) = count(lane, (revision.0 - REVISIONS_BACK).max(1)).await?;
    revision.0 = now;
    Ok(done)
}

/// If the key is not newer than any revision there may be: compares, and puts.
pub(super) async fn txn(lane: &mut Lane) -> Result<Done, Status> {
    let key = lane.random_key();
    let compare = Compare {
        result: CompareResult::Less as i32,
        target: CompareTarget::Mod as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(i64::MAX)),
        ..Compare::default()
    };
    let put = PutRequest { key: key.clone(), value: lane.value.clone(), ..PutRequest::default() };
    let get = RangeRequest { key, ..RangeRequest::default() };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
    };
    lane.client.unary::<_, TxnResponse>(Method::KvTxn, &txn, &CallOptions::default()).await?;
    Ok(Done::now(Call::Txn))
}

/// Deletes a key of this lane and puts it back.
pub(super) async fn delete(lane: &mut Lane) -> Result<Done, Status> {
    let key = key(lane.own_number());
    let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    let none = CallOptions::default();
    lane.client.unary::<_, DeleteRangeResponse>(Method::KvDeleteRange, &delete, &none).await?;
    let done = Done::now(Call::Delete);
    let put = PutRequest { key, value: lane.value.clone(), ..PutRequest::default() };
    lane.client.unary::<_, PutResponse>(Method::KvPut, &put, &none).await?;
    Ok(done)
}
