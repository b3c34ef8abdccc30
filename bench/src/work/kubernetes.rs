//! What an API server asks of its store.
//!
//! ```text
//!   of 100 requests   55  guarded update: if the mod revision is the one known, put, else get
//!                     20  get
//!                     10  object created with a lease (an event object), the eldest of the lane deleted, in turn
//!                     10  page of a list: a prefix, 500 keys a page, all pages at the first one's revision
//!                      5  renewal of the lane's lease
//! ```
//! Beside them `watchers` watches on prefixes of 4 096 keys, spread over the key space.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use ringstone_net::client::CallOptions;
use ringstone_net::{Code, Method, Status};
use ringstone_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};

use super::lease::{Renewals, grant, revoke};
use super::watch::{block, blocks};
use super::{Done, Lane, kv};
use crate::recorder::Call;
use crate::session::{PREFIX, key};

/// Keys of a page, as the API server asks for them.
const PAGE_KEYS: i64 = 500;
/// Objects that a lane keeps before it deletes its eldest.
const OBJECTS_MAX: usize = 20;
/// Revisions that a lane remembers.
const KNOWN_MAX: usize = 10_000;

/// What a lane remembers.
#[derive(Default)]
pub(super) struct State {
    /// Mod revisions of keys that only this lane updates.
    known: HashMap<u64, i64>,
    /// Objects of the lane, with their revisions, eldest first.
    objects: VecDeque<(Bytes, i64)>,
    created: u64,
    lease: Option<i64>,
    renewals: Renewals,
    list: Option<Pages>,
}

/// A list that is under way.
struct Pages {
    next: Bytes,
    end: Bytes,
    revision: i64,
}

fn guard(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Compare::default()
    }
}

fn operation(request: Request) -> Vec<RequestOp> {
    vec![RequestOp { request: Some(request) }]
}

fn get(key: Bytes) -> Vec<RequestOp> {
    operation(Request::RequestRange(RangeRequest { key, ..RangeRequest::default() }))
}

/// The revision that a transaction has left its key at: its own, or the one that its get found (0: no such key).
fn revision_after(response: &TxnResponse) -> i64 {
    if response.succeeded {
        return response.header.as_ref().map_or(0, |header| header.revision);
    }
    let first = response.responses.first().and_then(|response| response.response.as_ref());
    match first {
        Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.mod_revision),
        _ => 0,
    }
}

async fn transact(lane: &Lane, txn: TxnRequest) -> Result<TxnResponse, Status> {
    lane.client.unary(Method::KvTxn, &txn, &CallOptions::default()).await
}

pub(super) async fn once(lane: &mut Lane, state: &mut State) -> Result<Done, Status> {
    match lane.random.below(100) {
        0..55 => update(lane, state).await,
        55..75 => kv::get(lane, false).await,
        75..85 => object(lane, state).await,
        85..95 => page(lane, state).await,
        _ => {
            let id = lease(lane, state).await?;
            state.renewals.renew(&lane.client, id).await?;
            Ok(Done::now(Call::KeepAlive))
        }
    }
}

/// A guess that is wrong costs one transaction more, as an API server's does after a restart.
async fn update(lane: &mut Lane, state: &mut State) -> Result<Done, Status> {
    let number = lane.own_number();
    let mut known = state.known.get(&number).copied().unwrap_or(0);
    loop {
        let key = key(number);
        let put = PutRequest { key: key.clone(), value: lane.value.clone(), ..PutRequest::default() };
        let txn = TxnRequest {
            compare: vec![guard(key.clone(), known)],
            success: operation(Request::RequestPut(put)),
            failure: get(key),
        };
        let response = transact(lane, txn).await?;
        known = revision_after(&response);
        if response.succeeded {
            break;
        }
    }
    if state.known.len() >= KNOWN_MAX {
        state.known.clear();
    }
    state.known.insert(number, known);
    Ok(Done::now(Call::Update))
}

async fn lease(lane: &Lane, state: &mut State) -> Result<i64, Status> {
    match state.lease {
        Some(id) => Ok(id),
        None => Ok(*state.lease.insert(grant(&lane.client).await?)),
    }
}

async fn object(lane: &mut Lane, state: &mut State) -> Result<Done, Status> {
    if state.objects.len() >= OBJECTS_MAX {
        let (key, revision) = state.objects.pop_front().expect("there are some");
        let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![guard(key.clone(), revision)],
            success: operation(Request::RequestDeleteRange(delete)),
            failure: get(key),
        };
        transact(lane, txn).await?;
        return Ok(Done::now(Call::Delete));
    }
    let id = lease(lane, state).await?;
    let key = Bytes::from(format!("{PREFIX}events/{}-{}", lane.number, state.created));
    state.created += 1;
    let put = PutRequest { key: key.clone(), value: lane.value.clone(), lease: id, ..PutRequest::default() };
    let txn = TxnRequest {
        compare: vec![guard(key.clone(), 0)],
        success: operation(Request::RequestPut(put)),
        failure: get(key.clone()),
    };
    let response = transact(lane, txn).await?;
    state.objects.push_back((key, revision_after(&response)));
    Ok(Done::now(Call::Create))
}

async fn page(lane: &mut Lane, state: &mut State) -> Result<Done, Status> {
    let pages = state.list.take().unwrap_or_else(|| {
        let (next, end) = block(lane.random.below(blocks(lane.keys)));
        Pages { next, end, revision: 0 }
    });
    let range = RangeRequest {
        key: pages.next,
        range_end: pages.end.clone(),
        limit: PAGE_KEYS,
        revision: pages.revision,
        ..RangeRequest::default()
    };
    let answer: Result<RangeResponse, Status> =
        lane.client.unary(Method::KvRange, &range, &CallOptions::default()).await;
    let response = match answer {
        // The list took longer than its revision was kept: an API server begins again.
        Err(status) if status.code == Code::OutOfRange => return Ok(Done::now(Call::List)),
        answer => answer?,
    };
    if let Some(last) = response.kvs.last().filter(|_| response.more) {
        let mut next = last.key.to_vec();
        next.push(0);
        let revision = match pages.revision {
            0 => response.header.as_ref().map_or(0, |header| header.revision),
            revision => revision,
        };
        state.list = Some(Pages { next: next.into(), end: pages.end, revision });
    }
    Ok(Done::now(Call::List))
}

/// The lane's lease goes, and its objects with it.
pub(super) async fn end(lane: &Lane, state: State) {
    if let Some(id) = state.lease {
        // One that can't be revoked ends by its time.
        let _ = revoke(&lane.client, id).await;
    }
}
