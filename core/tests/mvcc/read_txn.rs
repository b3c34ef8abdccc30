//! Read-only transactions and ranges that go on while the store changes under them.

use super::support::driver::{Store, pager, request};
use ringstone_core::command::{Command, DeleteRange, Put, Range};
use ringstone_core::error::{Error, ReadFault};
use ringstone_core::mvcc::{Budget, Progress, RangeScan, ReadTxn, compact_slice};
use ringstone_pager::Pager;
use ringstone_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{Compare, RangeResponse, RequestOp, TxnRequest};

const ONE: Budget = Budget { records: 1, bytes: usize::MAX };

fn put(store: &mut Store<Pager>, key: &str, value: &str) {
    let put = Put { key: key.into(), value: value.into(), ..Put::default() };
    assert!(store.apply(&Command::Put(put)).response.is_ok());
}

/// Ten keys a0 to a9 at revisions 2 to 11.
fn ten() -> Store<Pager> {
    let mut store = Store::new(pager());
    (0..10).for_each(|index| put(&mut store, &format!("a{index}"), "old"));
    store
}

fn all(limit: i64, revision: i64) -> Range {
    Range { key: b"a".to_vec(), range_end: b"b".to_vec(), limit, revision, ..Range::default() }
}

fn op(range: &Range) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(request(range))) }
}

fn ranges(txn: ReadTxn) -> (bool, i64, Vec<RangeResponse>) {
    let response = txn.finish();
    let ranges = response.responses.into_iter().map(|op| match op.response {
        Some(Response::ResponseRange(range)) => range,
        other => panic!("{other:?}"),
    });
    (response.succeeded, response.header.expect("a header").revision, ranges.collect())
}

#[test]
fn a_range_keeps_its_revision_while_keys_come_and_go() {
    let mut store = ten();
    let mut scan = RangeScan::new(&request(&all(0, 0)));
    let mut drained = Vec::new();
    let mut step = 0;
    while scan.step(&store.trees, &store.state, &mut ONE.clone()).expect("all pages are there") == Progress::More {
        drained.extend(scan.drain());
        put(&mut store, &format!("a{}", 9 - step), "new");
        put(&mut store, &format!("a{step}5"), "new");
        let gone = DeleteRange { key: b"a7".to_vec(), ..DeleteRange::default() };
        store.apply(&Command::DeleteRange(gone)).response.expect("a delete");
        step += 1;
    }
    let response = scan.finish();
    drained.extend(response.kvs);
    assert_eq!((response.count, response.more), (10, false));
    assert_eq!(response.header.expect("a header").revision, 11);
    let keys: Vec<String> = (0..10).map(|index| format!("a{index}")).collect();
    assert!(drained.iter().map(|kv| &kv.key[..]).eq(keys.iter().map(String::as_bytes)));
    assert!(drained.iter().all(|kv| &kv.value[..] == b"old" && kv.version == 1));
}

#[test]
fn a_compaction_starts_a_range_of_the_latest_revision_anew_and_ends_a_pinned_one() {
    let mut store = ten();
    let mut latest = RangeScan::new(&request(&all(0, 0)));
    let mut pinned = RangeScan::new(&request(&all(0, 11)));
    let mut drained = RangeScan::new(&request(&all(0, 0)));
    for scan in [&mut latest, &mut pinned, &mut drained] {
        assert_eq!(scan.step(&store.trees, &store.state, &mut ONE.clone()), Ok(Progress::More));
    }
    drained.drain();
    put(&mut store, "a3", "new");
    store.apply(&Command::Compact { revision: 12 }).response.expect("a compaction");
    while compact_slice(&mut store.trees, &mut store.state, 100) == Ok(Progress::More) {}
    let compacted = Err(ReadFault::Refused(Error::Compacted));
    assert_eq!(pinned.step(&store.trees, &store.state, &mut ONE.clone()), compacted);
    assert_eq!(drained.step(&store.trees, &store.state, &mut ONE.clone()), compacted);
    assert_eq!(latest.step(&store.trees, &store.state, &mut Budget::UNBOUNDED.clone()), Ok(Progress::Done));
    let response = latest.finish();
    assert_eq!((response.count, response.header.expect("a header").revision), (10, 12));
    assert_eq!(&response.kvs[3].value[..], b"new");
}

#[test]
fn all_ranges_of_a_transaction_see_its_first_revision() {
    let mut store = ten();
    let compare = |version| Compare {
        target: CompareTarget::Version as i32,
        key: "a1".into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Compare::default()
    };
    let txn = |version| TxnRequest {
        compare: vec![compare(version)],
        success: vec![op(&all(3, 0)), op(&all(0, 5)), op(&Range { count_only: true, ..all(0, 0) })],
        failure: vec![],
    };
    let mut read = ReadTxn::new(txn(1));
    while read.step(&store.trees, &store.state, &mut ONE.clone()).expect("all pages are there") == Progress::More {
        put(&mut store, "a1", "new");
        put(&mut store, "aa", "new");
    }
    let (succeeded, revision, responses) = ranges(read);
    assert!(succeeded && revision == 11);
    let shapes: Vec<(usize, bool, i64)> =
        responses.iter().map(|range| (range.kvs.len(), range.more, range.count)).collect();
    assert_eq!(shapes, [(3, true, 10), (4, false, 4), (0, false, 10)]);
    assert!(responses.iter().all(|range| range.header.as_ref().is_some_and(|header| header.revision == 11)));
    assert!(responses[0].kvs.iter().all(|kv| &kv.value[..] == b"old"));
    let mut other = ReadTxn::new(txn(77));
    assert_eq!(other.step(&store.trees, &store.state, &mut ONE.clone()), Ok(Progress::Done));
    assert!(!ranges(other).0);
}

#[test]
fn a_revision_in_a_transaction_is_checked_like_etcd_does() {
    let mut store = ten();
    let step = |store: &Store<Pager>, revision| {
        let txn = TxnRequest { success: vec![op(&all(0, revision))], ..TxnRequest::default() };
        ReadTxn::new(txn).step(&store.trees, &store.state, &mut Budget::UNBOUNDED.clone())
    };
    assert_eq!(step(&store, 12), Err(ReadFault::Refused(Error::FutureRevision)));
    assert_eq!(step(&store, -1), Ok(Progress::Done));
    store.apply(&Command::Compact { revision: 4 }).response.expect("a compaction");
    assert_eq!(step(&store, -1), Err(ReadFault::Refused(Error::Compacted)));
    assert_eq!(step(&store, 3), Err(ReadFault::Refused(Error::Compacted)));
    assert_eq!(step(&store, 4), Ok(Progress::Done));
}

/// What one step compares is bounded; what is compared is one revision.
#[test]
fn comparisons_of_many_keys_see_one_revision() {
    const KEYS: usize = 5000;
    let compare = |target_union| Compare {
        target: match target_union {
            TargetUnion::Value(_) => CompareTarget::Value,
            _ => CompareTarget::Version,
        } as i32,
        key: "a".into(),
        range_end: "b".into(),
        target_union: Some(target_union),
        ..Compare::default()
    };
    let mut store = ten();
    for index in 0..KEYS {
        put(&mut store, &format!("a{index:05}"), "old");
    }
    let revision = store.state.revision;
    let txn = |compares: Vec<Compare>| TxnRequest {
        compare: compares,
        success: vec![op(&all(0, 0))],
        failure: vec![op(&all(1, 0))],
    };
    let both = vec![compare(TargetUnion::Version(1)), compare(TargetUnion::Value("old".into()))];
    let mut read = ReadTxn::new(txn(both.clone()));
    let mut steps = 0;
    while read.step(&store.trees, &store.state, &mut Budget::UNBOUNDED.clone()).expect("all is there") == Progress::More
    {
        put(&mut store, "a9", "new");
        put(&mut store, &format!("a{steps}"), "new");
        put(&mut store, &format!("a9999{steps}"), "new");
        steps += 1;
    }
    assert!(steps >= 2 * KEYS / 2048, "{steps} steps");
    let (succeeded, seen, responses) = ranges(read);
    assert_eq!((succeeded, seen, responses[0].kvs.len()), (true, revision, KEYS + 10));

    // A compaction that overtakes it begins it anew.
    let other = Compare { result: CompareResult::NotEqual as i32, ..compare(TargetUnion::Version(77)) };
    let mut read = ReadTxn::new(txn(vec![other]));
    assert_eq!(read.step(&store.trees, &store.state, &mut Budget::UNBOUNDED.clone()), Ok(Progress::More));
    put(&mut store, "aaa", "new");
    let latest = store.state.revision;
    store.apply(&Command::Compact { revision: latest }).response.expect("a compaction");
    while read.step(&store.trees, &store.state, &mut Budget::UNBOUNDED.clone()).expect("all is there") == Progress::More
    {
    }
    let (succeeded, seen, _) = ranges(read);
    assert_eq!((succeeded, seen), (true, latest));
}
