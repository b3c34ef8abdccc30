//! The answer to a write is bounded as that to a read is, and a write that is refused for it has changed nothing.

use crate::support::{Member, folder};
use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::{Code, Method, Status, TokioRuntime};
use ringstone_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse,
};

/// The least that there is; answers may have a quarter of it.
const MEMORY_LIMIT: u64 = 192 << 20;
const LARGE_BYTES: usize = 1 << 20;
/// 60 MiB, and half of it is within the bound.
const LARGE: usize = 60;
/// With 64 bytes each beside key and value, 61 MB.
const SMALL: usize = 280_000;

fn runs<T>(member: &Member, talk: impl AsyncFnOnce(&Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", member.port)).await.unwrap();
        let mut options = ClientOptions::new("large");
        options.message_bytes_max = 1 << 30;
        talk(&Client::connect(stream, &options, &TokioRuntime::default()).await.unwrap()).await
    })
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: String, value: Vec<u8>) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }))
}

fn range(from: &str, end: &str) -> RangeRequest {
    RangeRequest { key: from.to_owned().into(), range_end: end.to_owned().into(), ..RangeRequest::default() }
}

fn delete(from: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: from.to_owned().into(), range_end: end.to_owned().into(), prev_kv: true }
}

async fn txn(client: &Client, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> Result<TxnResponse, Status> {
    let txn = TxnRequest { success, failure, ..TxnRequest::default() };
    client.unary(Method::KvTxn, &txn, &CallOptions::default()).await
}

async fn deletes(client: &Client, from: &str, end: &str) -> Result<DeleteRangeResponse, Status> {
    client.unary(Method::KvDeleteRange, &delete(from, end), &CallOptions::default()).await
}

/// Revision and keys.
async fn state(client: &Client) -> (i64, i64) {
    let all = RangeRequest { count_only: true, ..range("\0", "\0") };
    let answer: RangeResponse = client.unary(Method::KvRange, &all, &CallOptions::default()).await.unwrap();
    (answer.header.unwrap().revision, answer.count)
}

fn refused<T>(answer: Result<T, Status>) {
    let status = answer.err().expect("it is too large");
    assert_eq!(status.code, Code::ResourceExhausted, "{status}");
    assert!(status.message.contains("nothing was changed"), "{status}");
}

fn start(root: &std::path::Path) -> Member {
    let (memory, ops) = (format!("--memory-limit={MEMORY_LIMIT}"), "--max-txn-ops=10000");
    Member::start_with(&root.join("data"), &[&memory, ops, "--max-request-bytes=4194304"])
}

#[test]
fn values_that_are_too_much_for_one_answer() {
    let root = folder();
    let member = start(root.path());
    runs(&member, async |client| {
        for number in 0..LARGE {
            txn(client, vec![put(format!("l{number:02}"), vec![b'v'; LARGE_BYTES])], vec![]).await.unwrap();
        }
        let before = state(client).await;
        refused(deletes(client, "l", "m").await);
        let touch = || put("touched".to_owned(), Vec::new());
        let reads = |range: RangeRequest| op(Request::RequestRange(range));
        let halves = || vec![reads(range("l00", "l30")), reads(range("l30", "m"))];
        refused(txn(client, [vec![touch()], halves()].concat(), vec![]).await);
        refused(txn(client, vec![touch()], halves()).await);
        let nested = TxnRequest { success: halves(), ..TxnRequest::default() };
        refused(txn(client, vec![touch(), op(Request::RequestTxn(nested))], vec![]).await);
        let old = RangeRequest { revision: before.0, ..range("l", "m") };
        refused(txn(client, vec![touch(), reads(old)], vec![]).await);
        let sorted = RangeRequest {
            sort_target: SortTarget::Mod as i32,
            sort_order: SortOrder::Descend as i32,
            ..range("l", "m")
        };
        refused(txn(client, vec![touch(), reads(RangeRequest { limit: 55, ..sorted.clone() })], vec![]).await);
        refused(txn(client, vec![touch(), op(Request::RequestDeleteRange(delete("l", "m")))], vec![]).await);
        assert_eq!(state(client).await, before, "nothing was changed");

        // What is small of them goes: other branches, fewer, without values.
        let [first, second] = halves().try_into().unwrap();
        let done = txn(client, vec![touch(), first], vec![second]).await.unwrap();
        let Some(Response::ResponseRange(answer)) = &done.responses[1].response else { panic!("a range") };
        assert_eq!(answer.kvs.len(), 30);
        for some in [
            RangeRequest { limit: 30, ..range("l", "m") },
            RangeRequest { limit: 30, ..sorted },
            RangeRequest { keys_only: true, ..range("l", "m") },
            RangeRequest { min_mod_revision: before.0 - 5, ..range("l", "m") },
        ] {
            txn(client, vec![touch(), reads(some)], vec![]).await.unwrap();
        }
        let answer = deletes(client, "l00", "l30").await.unwrap();
        assert_eq!((answer.deleted, answer.prev_kvs.len()), (30, 30));
        assert!(answer.prev_kvs.iter().all(|kv| kv.value.len() == LARGE_BYTES));
    });
    member.stop();
}

#[test]
fn keys_that_are_too_many_for_one_answer() {
    let root = folder();
    let member = start(root.path());
    runs(&member, async |client| {
        for first in (0..SMALL).step_by(10_000) {
            let puts = (first..first + 10_000).map(|number| put(format!("s{number:06}"), vec![b'v'; 148])).collect();
            txn(client, puts, vec![]).await.unwrap();
        }
        let before = state(client).await;
        refused(deletes(client, "s", "t").await);
        let reads = op(Request::RequestRange(range("s", "t")));
        refused(txn(client, vec![put("s".to_owned(), Vec::new()), reads], vec![]).await);
        assert_eq!(state(client).await, before, "nothing was changed");
        let answer = deletes(client, "s000000", "s100000").await.unwrap();
        assert_eq!((answer.deleted, answer.prev_kvs.len()), (100_000, 100_000));
        let all = DeleteRangeRequest { prev_kv: false, ..delete("s", "t") };
        let answer: DeleteRangeResponse =
            client.unary(Method::KvDeleteRange, &all, &CallOptions::default()).await.unwrap();
        assert_eq!(answer.deleted, SMALL as i64 - 100_000);
    });
    member.stop();
}
