//! Before and after a run: connect, see that it is an etcd, put the keys, and take them away again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::{Method, Status, TokioRuntime};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
    TxnResponse,
};
use tokio::net::TcpStream;

use crate::interrupt::Interrupt;
use crate::{BenchError, Options};

/// What all keys of a run begin with.
pub(crate) const PREFIX: &str = "/registry/bench/";
/// Their end.
pub(crate) const PREFIX_END: &[u8] = b"/registry/bench0";
/// For a connection with its handshake, and for the first answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Keys of one transaction of the preload: below etcd's `--max-txn-ops`.
const PRELOAD_KEYS: u64 = 100;
/// Their bytes: below etcd's `--max-request-bytes`.
const PRELOAD_BYTES: usize = 512 << 10;
/// Keys that one request of the clean-up deletes.
const CLEAN_KEYS: u64 = 1_000;
/// For the whole of the clean-up; what is left then is said.
const CLEAN_PATIENCE: Duration = Duration::from_secs(120);

/// The key of a number.
pub(crate) fn key(number: u64) -> Bytes {
    Bytes::from(format!("{PREFIX}{number:016x}"))
}

pub(crate) fn unreachable(endpoint: &str, cause: &dyn std::fmt::Display) -> BenchError {
    BenchError::Unreachable { endpoint: endpoint.to_owned(), cause: cause.to_string() }
}

/// One connection.
///
/// # Errors
/// [`BenchError::Unreachable`].
pub(crate) async fn connect(endpoint: &str) -> Result<Client, BenchError> {
    let connecting = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(endpoint)).await;
    let stream = connecting.map_err(|_| unreachable(endpoint, &"no answer within 5 s"))?;
    let stream = stream.map_err(|error| unreachable(endpoint, &error))?;
    stream.set_nodelay(true).map_err(|error| unreachable(endpoint, &error))?;
    let settings = ClientOptions::new(endpoint);
    let runtime = TokioRuntime::default();
    let client = ringstone_net::client::connect_within(CONNECT_PATIENCE, stream, &settings, &runtime);
    client.await.map_err(|status| unreachable(endpoint, &status.message))
}

/// All connections of a run; the first one to each member is asked for a key, so that a stranger is known before the run.
///
/// # Errors
/// [`BenchError::Unreachable`].
pub(crate) async fn connect_all(options: &Options) -> Result<Vec<Client>, BenchError> {
    let mut clients = Vec::new();
    for number in 0..options.connections {
        let endpoint = options.endpoint_of(number);
        clients.push(connect(endpoint).await?);
        if number < options.endpoint.split(',').count() {
            let bounded = CallOptions { timeout: Some(CONNECT_PATIENCE), ..CallOptions::default() };
            let probe = RangeRequest { key: key(0), ..RangeRequest::default() };
            let answer: Result<RangeResponse, Status> = clients[number].unary(Method::KvRange, &probe, &bounded).await;
            answer.map_err(|status| unreachable(endpoint, &status.message))?;
        }
    }
    Ok(clients)
}

/// Gives each number below `count` in steps to `lanes` tasks; stops at the first failure or an interrupt.
async fn for_all<F>(
    clients: &[Client],
    lanes: usize,
    (count, step): (u64, u64),
    interrupt: &Interrupt,
    make: impl Fn(Client, u64, u64) -> F + Clone + 'static,
) -> Result<(), Status>
where
    F: Future<Output = Result<(), Status>> + 'static,
{
    let next = Rc::new(Cell::new(0u64));
    let failure: Rc<RefCell<Option<Status>>> = Rc::default();
    let mut tasks = Vec::new();
    for client in clients {
        for _ in 0..lanes {
            let (client, next, failure) = (client.clone(), Rc::clone(&next), Rc::clone(&failure));
            let (make, interrupt) = (make.clone(), interrupt.clone());
            tasks.push(tokio::task::spawn_local(async move {
                while next.get() < count && failure.borrow().is_none() && !interrupt.is_set() {
                    let first = next.replace(next.get().saturating_add(step));
                    let result = make(client.clone(), first, count.min(first.saturating_add(step))).await;
                    if let Err(status) = result {
                        *failure.borrow_mut() = Some(status);
                    }
                }
            }));
        }
    }
    for task in tasks {
        let _ = task.await;
    }
    failure.take().map_or(Ok(()), Err)
}

/// Puts all keys.
///
/// # Errors
/// The first call that failed. An interrupt ends it without an error.
pub(crate) async fn preload(options: &Options, clients: &[Client], interrupt: &Interrupt) -> Result<(), BenchError> {
    let value = Bytes::from(vec![b'p'; options.value_bytes]);
    let fit = (PRELOAD_BYTES / (options.value_bytes + 64)) as u64;
    let step = PRELOAD_KEYS.min(fit).max(1);
    let put = move |client: Client, first: u64, end: u64| {
        let value = value.clone();
        async move {
            let put = |number| {
                let put = PutRequest { key: key(number), value: value.clone(), ..PutRequest::default() };
                RequestOp { request: Some(Request::RequestPut(put)) }
            };
            let txn = TxnRequest { success: (first..end).map(put).collect(), ..TxnRequest::default() };
            client.unary::<_, TxnResponse>(Method::KvTxn, &txn, &CallOptions::default()).await.map(drop)
        }
    };
    let loaded = for_all(clients, 4, (options.keys, step), interrupt, put).await;
    loaded.map_err(|status| BenchError::Call { call: "preload", status })
}

/// Deletes all keys of the key space, over a new connection: those of the run may have failed with the server.
///
/// # Errors
/// The keys are still there, some of them at least.
pub(crate) async fn clean(options: &Options) -> Result<(), BenchError> {
    let began = Instant::now();
    let client = connect(options.endpoint_of(0)).await?;
    let delete = move |client: Client, first: u64, end: u64| async move {
        let Some(left) = CLEAN_PATIENCE.checked_sub(began.elapsed()) else { return Err(Status::DEADLINE_EXCEEDED) };
        let request = DeleteRangeRequest { key: key(first), range_end: key(end), ..DeleteRangeRequest::default() };
        let bounded = CallOptions { timeout: Some(left), ..CallOptions::default() };
        client.unary::<_, DeleteRangeResponse>(Method::KvDeleteRange, &request, &bounded).await.map(drop)
    };
    // Ctrl-C does not end the clean-up: it is bounded.
    let cleaned = for_all(&[client], 4, (options.keys, CLEAN_KEYS), &Interrupt::default(), delete).await;
    cleaned.map_err(|status| BenchError::Call { call: "deleting the keys of the run", status })
}
