//! Requests as their service sees them: decode, check, turn into a command, apply; and reads on what that made.

use bytes::Bytes;
use prost::Message;
use ringstone_core::command::Command;
use ringstone_core::mvcc::{Budget, Progress, RangeScan, ReadTxn, check, request};
use ringstone_core::state::Window;
use ringstone_core::watch::{Hub, HubLimits, MemberIdentity};
use ringstone_pager::api::ReadTrees as _;
use ringstone_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;
use ringstone_proto::etcdserverpb::*;
use ringstone_proto::{Described, decode, decode_within};

use crate::store::Store;

/// Decodes as the server does. What it took is the same when it is encoded and decoded once more.
fn take<M: Message + Default + Described + PartialEq>(data: &[u8]) -> Option<M> {
    let message: M = decode(Bytes::copy_from_slice(data)).ok()?;
    let again: M = decode(message.encode_to_vec().into()).expect("our own encoding is valid");
    assert!(again == message, "decoding is not stable");
    Some(message)
}

pub fn run(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    match kind % 16 {
        0 => take::<RangeRequest>(data).into_iter().for_each(range),
        1 => take::<PutRequest>(data).into_iter().for_each(put),
        2 => take::<DeleteRangeRequest>(data).into_iter().for_each(delete),
        3 => txn(data),
        4 => {
            take::<CompactionRequest>(data).into_iter().for_each(|request| Store::new().apply(&Command::from(request)))
        }
        5 => watches(data),
        6 => drop(take::<LeaseGrantRequest>(data)),
        7 => drop(take::<LeaseRevokeRequest>(data)),
        8 => drop(take::<LeaseTimeToLiveRequest>(data)),
        9 => drop(take::<AlarmRequest>(data)),
        10 => drop(take::<HashKvRequest>(data)),
        11 => drop(take::<MemberAddRequest>(data)),
        12 => drop(take::<SnapshotRequest>(data)),
        13 => drop(take::<AuthenticateRequest>(data)),
        14 => drop(take::<AuthRoleGrantPermissionRequest>(data)),
        _ => drop(take::<StatusRequest>(data)),
    }
}

fn range(request: RangeRequest) {
    let _ = check::check_range_stream(&request);
    if check::check_range(&request).is_err() {
        return;
    }
    let store = Store::new();
    let window = Window::of_attributes(store.trees.attributes());
    // In small steps and at once: the same answer.
    let whole = scan(&store, window, &request, 1000);
    assert!(whole == scan(&store, window, &request, 1), "the answer follows the size of the steps");
}

fn scan(store: &Store, window: Window, request: &RangeRequest, records: usize) -> Option<RangeResponse> {
    let mut scan = RangeScan::new(request);
    for _ in 0..10_000 {
        let mut budget = Budget { records, bytes: 1 << 20 };
        match scan.step(&store.trees, window, &mut budget) {
            Ok(Progress::Done) => return Some(scan.finish()),
            Ok(Progress::More) => {}
            Err(_) => return None,
        }
    }
    panic!("a scan of six keys does not end");
}

fn put(put: PutRequest) {
    let _ = request::put_cost(&put);
    if check::check_put(&put).is_ok() {
        Store::new().apply(&Command::Put(put.into()));
    }
}

fn delete(delete: DeleteRangeRequest) {
    if check::check_delete(&delete).is_ok() {
        Store::new().apply(&Command::DeleteRange(delete.into()));
    }
}

fn txn(data: &[u8]) {
    let Ok(txn) = decode_within::<TxnRequest>(Bytes::copy_from_slice(data), 65_536) else { return };
    let _ = request::txn_cost(&txn);
    if check::check_txn(&txn, 128).is_err() {
        return;
    }
    let mut store = Store::new();
    if request::is_read_only(&txn) {
        let window = Window::of_attributes(store.trees.attributes());
        let mut read = ReadTxn::new(txn.clone());
        for _ in 0..100_000 {
            let mut budget = Budget { records: 3, bytes: 1 << 20 };
            match read.step(&store.trees, window, &mut budget) {
                Ok(Progress::Done) => {
                    let _ = read.finish();
                    break;
                }
                Ok(Progress::More) => {}
                Err(_) => break,
            }
        }
    }
    if let Ok(command) = Command::try_from(txn) {
        store.apply(&command);
    }
}

/// A stream of watch requests, each behind its length, with answers taken now and then.
fn watches(mut data: &[u8]) {
    let identity = MemberIdentity { cluster_id: 1, member_id: 2, raft_term: 3 };
    let mut hub = Hub::new(HubLimits::default(), identity, 10);
    let stream = hub.open_stream(0, 0);
    while let Some((&length, rest)) = data.split_first() {
        let (message, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        let Some(request) = take::<WatchRequest>(message) else { continue };
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => hub.create(stream, create, 10, 3),
            Some(RequestUnion::CancelRequest(cancel)) => hub.cancel(stream, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => hub.request_progress(stream, 11),
            None => drop(hub.poll_output(stream, 1000)),
        }
    }
    while hub.poll_output(stream, 1000).is_some() {}
    let held = hub.held_bytes(stream);
    assert!(hub.stats().watchers == 0 || held > 0);
    hub.close_stream(stream);
    assert_eq!((hub.stats().watchers, hub.stats().streams), (0, 0));
}

pub(crate) fn sample_txns() -> Vec<TxnRequest> {
    let op = |request| RequestOp { request: Some(request) };
    let put = |key: &str, lease| {
        let (key, value) = (key.to_owned().into(), Bytes::from_static(b"txn"));
        op(Request::RequestPut(PutRequest { key, value, lease, prev_kv: true, ..PutRequest::default() }))
    };
    let get = |key: &str, end: &str| {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        op(Request::RequestRange(RangeRequest { key, range_end, limit: 2, ..RangeRequest::default() }))
    };
    let delete = op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"z"),
        prev_kv: true,
    }));
    let compare = |target, union| Compare {
        result: CompareResult::Equal as i32,
        target: target as i32,
        key: Bytes::from_static(b"a"),
        range_end: Bytes::new(),
        target_union: Some(union),
    };
    let inner = TxnRequest { success: vec![put("x", 0), get("x", "")], ..TxnRequest::default() };
    vec![
        TxnRequest {
            compare: vec![compare(CompareTarget::Version, TargetUnion::Version(2))],
            success: vec![put("a", 7), get("a", "z")],
            failure: vec![delete.clone()],
        },
        TxnRequest {
            compare: vec![compare(CompareTarget::Value, TargetUnion::Value(Bytes::from_static(b"value")))],
            success: vec![op(Request::RequestTxn(inner)), put("b", 8)],
            failure: vec![],
        },
        TxnRequest { success: vec![get("a", "z"), get("dd", "")], ..TxnRequest::default() },
        TxnRequest { success: vec![delete], ..TxnRequest::default() },
    ]
}

pub fn seeds() -> Vec<Vec<u8>> {
    let with = |kind: u8, message: Vec<u8>| [&[kind][..], &message].concat();
    let range = RangeRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"z"),
        limit: 2,
        revision: 6,
        sort_order: 1,
        sort_target: 3,
        min_mod_revision: 2,
        ..RangeRequest::default()
    };
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
        start_revision: 4,
        progress_notify: true,
        filters: vec![0, 1],
        prev_kv: true,
        watch_id: 5,
        fragment: true,
    };
    let watch = |union| WatchRequest { request_union: Some(union) }.encode_to_vec();
    let mut stream = vec![5];
    for message in [
        watch(RequestUnion::CreateRequest(create)),
        watch(RequestUnion::ProgressRequest(WatchProgressRequest {})),
        watch(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 5 })),
    ] {
        stream.push(u8::try_from(message.len()).expect("short"));
        stream.extend(message);
    }
    let mut seeds = vec![
        with(0, range.encode_to_vec()),
        with(
            0,
            RangeRequest { key: Bytes::from_static(b"a"), count_only: true, ..RangeRequest::default() }.encode_to_vec(),
        ),
        with(
            1,
            PutRequest { key: Bytes::from_static(b"a"), lease: 7, ignore_value: true, ..PutRequest::default() }
                .encode_to_vec(),
        ),
        with(
            2,
            DeleteRangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), prev_kv: true }
                .encode_to_vec(),
        ),
        with(4, CompactionRequest { revision: 5, physical: true }.encode_to_vec()),
        with(6, LeaseGrantRequest { ttl: 5, id: 77 }.encode_to_vec()),
        with(9, AlarmRequest { action: 1, member_id: 3, alarm: 1 }.encode_to_vec()),
        with(11, MemberAddRequest { peer_urls: vec!["http://x".into()], is_learner: true }.encode_to_vec()),
        with(13, AuthenticateRequest { name: "root".into(), password: "x".into() }.encode_to_vec()),
        stream,
    ];
    seeds.extend(sample_txns().into_iter().map(|txn| with(3, txn.encode_to_vec())));
    seeds
}
