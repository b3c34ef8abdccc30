//! What a golden folder holds: every kind of request that the log can carry, and every kind of record that follows from them.

use ringstone_net::Method;
use ringstone_net::client::{CallOptions, Client};
use ringstone_proto::Described;
use ringstone_proto::etcdserverpb::alarm_request::AlarmAction;
use ringstone_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest,
    DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse, RequestOp, TxnRequest, TxnResponse,
};
use ringstone_proto::prost::Message;

/// Longer than any test runs: no lease ends by itself.
const TTL_S: i64 = 100_000_000;
/// Above 1024 bytes a value stands in a tree of its own; above a page it has a span of pages.
const LARGE_BYTES: usize = 3_000;
const SPAN_BYTES: usize = 20_000;

async fn call<A: Message + Default + Described>(client: &Client, method: Method, request: &impl Message) -> A {
    client.unary(method, request, &CallOptions::default()).await.unwrap()
}

fn put_of(key: &str, value: Vec<u8>, lease: i64) -> PutRequest {
    PutRequest { key: key.as_bytes().to_vec().into(), value: value.into(), lease, ..PutRequest::default() }
}

async fn put(client: &Client, key: &str, value: impl Into<Vec<u8>>, lease: i64) -> i64 {
    let answer: PutResponse = call(client, Method::KvPut, &put_of(key, value.into(), lease)).await;
    answer.header.unwrap().revision
}

fn delete_of(key: &str, range_end: &str) -> DeleteRangeRequest {
    let (key, range_end) = (key.as_bytes().to_vec().into(), range_end.as_bytes().to_vec().into());
    DeleteRangeRequest { key, range_end, prev_kv: false }
}

async fn delete(client: &Client, key: &str, range_end: &str) {
    let answer: DeleteRangeResponse = call(client, Method::KvDeleteRange, &delete_of(key, range_end)).await;
    assert!(answer.deleted > 0, "{key} was there");
}

/// Text that a packer makes small, no two places alike.
fn text(bytes: usize, seed: usize) -> Vec<u8> {
    (0..).flat_map(|line| format!("line {line} of value {seed}\n").into_bytes()).take(bytes).collect()
}

async fn leases(client: &Client) {
    for id in [11, 12, -13] {
        let grant = LeaseGrantRequest { id, ttl: TTL_S + id };
        call::<LeaseGrantResponse>(client, Method::LeaseGrant, &grant).await;
    }
    for number in 0..20 {
        put(client, &format!("lease/{number:02}"), format!("held {number}"), [11, 12, -13][number % 3]).await;
    }
    let (mut send, mut receive) =
        client.open::<LeaseKeepAliveResponse>(Method::LeaseKeepAlive, &CallOptions::default()).await.unwrap();
    for id in [11, -13] {
        send.send(&LeaseKeepAliveRequest { id }).await.unwrap();
        assert_eq!(receive.next().await.unwrap().unwrap().id, id);
    }
    // Off its lease, and onto another one.
    put(client, "lease/00", "free", 0).await;
    put(client, "lease/01", "moved", 11).await;
    call::<LeaseRevokeResponse>(client, Method::LeaseRevoke, &LeaseRevokeRequest { id: 12 }).await;
}

/// The same keys again and again: versions, and the jumps between them.
async fn versions(client: &Client, round: usize) {
    for number in (0..60).step_by(round + 1) {
        put(client, &format!("version/{number:02}"), format!("round {round}, number {number}"), 0).await;
    }
    for (number, bytes) in [LARGE_BYTES, SPAN_BYTES].into_iter().enumerate() {
        put(client, &format!("large/{number}"), text(bytes, round), 0).await;
    }
}

async fn transactions(client: &Client) {
    let operation = |request| RequestOp { request: Some(request) };
    let compare = |target_union| Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: b"version/00".to_vec().into(),
        target_union: Some(target_union),
        ..Compare::default()
    };
    let nested = TxnRequest {
        compare: vec![compare(TargetUnion::Version(1_000))],
        success: vec![operation(Request::RequestPut(put_of("txn/never", b"x".to_vec(), 0)))],
        failure: vec![operation(Request::RequestPut(put_of("txn/inner", b"nested".to_vec(), 11)))],
    };
    let outer = TxnRequest {
        compare: vec![compare(TargetUnion::Version(1))],
        success: vec![
            operation(Request::RequestPut(put_of("txn/outer", text(LARGE_BYTES, 77), 0))),
            operation(Request::RequestDeleteRange(delete_of("version/50", "version/55"))),
            operation(Request::RequestTxn(nested)),
        ],
        failure: vec![],
    };
    assert!(call::<TxnResponse>(client, Method::KvTxn, &outer).await.succeeded);
}

/// Fills a new member.
pub async fn fill(client: &Client) {
    leases(client).await;
    versions(client, 0).await;
    versions(client, 1).await;
    put(client, "\u{0}binary\u{7f}", vec![0, 255, 128, 10], 0).await;
    put(client, "empty", "", 0).await;
    delete(client, "version/10", "version/20").await;
    put(client, "version/15", "lives again", 0).await;
    transactions(client).await;
    let revision = put(client, "compacted", "up to here", 0).await - 20;
    let compaction = CompactionRequest { revision, physical: true };
    call::<CompactionResponse>(client, Method::KvCompact, &compaction).await;
    versions(client, 2).await;
    delete(client, "large/1", "").await;
    delete(client, "version/30", "version/40").await;
    versions(client, 3).await;
    transactions(client).await;
    let alarm = AlarmRequest { action: AlarmAction::Activate as i32, member_id: 77, alarm: AlarmType::Nospace as i32 };
    call::<AlarmResponse>(client, Method::MaintenanceAlarm, &alarm).await;
    // What the alarm lets through.
    delete(client, "version/01", "").await;
}
