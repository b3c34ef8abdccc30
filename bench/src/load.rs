//! The clients.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::{Method, Status, TokioRuntime};
use ringstone_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;
use ringstone_proto::etcdserverpb::{
    Compare, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use tokio::net::TcpStream;

use crate::BenchError;
use crate::options::{Options, Workload};
use crate::process::{self, Figures};
use crate::report::Report;

/// Keys of one range.
const RANGE_KEYS: u64 = 100;
/// Longest latency that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// A small generator of random numbers (splitmix64): the same seed asks for the same keys.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("/registry/bench/{number:016x}"))
}

struct Shared {
    latencies: RefCell<Histogram<u64>>,
    measuring: Cell<bool>,
    stopping: Cell<bool>,
    operations: Cell<u64>,
    errors: Cell<u64>,
    failure: RefCell<Option<BenchError>>,
}

impl Shared {
    fn record(&self, began: Instant) {
        if !self.measuring.get() {
            return;
        }
        let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latencies.borrow_mut().saturating_record(ns.max(1));
        self.operations.set(self.operations.get() + 1);
    }

    fn failed(&self, call: &'static str, status: Status) {
        self.errors.set(self.errors.get() + 1);
        self.failure.borrow_mut().get_or_insert(BenchError::Call { call, status });
    }
}

/// Runs the workload and waits for its end. Blocks.
///
/// # Errors
/// [`BenchError`]: nothing was measured. Calls that fail during the run are counted, and end it if all do.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    options.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unreachable(options, &error))?;
    tokio::task::LocalSet::new().block_on(&runtime, run_local(options))
}

fn unreachable(options: &Options, cause: &dyn std::fmt::Display) -> BenchError {
    BenchError::Unreachable { endpoint: options.endpoint.clone(), cause: cause.to_string() }
}

async fn connect(options: &Options) -> Result<Client, BenchError> {
    let stream = TcpStream::connect(&options.endpoint).await.map_err(|error| unreachable(options, &error))?;
    stream.set_nodelay(true).map_err(|error| unreachable(options, &error))?;
    let settings = ClientOptions::new(options.endpoint.clone());
    let runtime = TokioRuntime::default();
    let client = ringstone_net::client::connect_within(Duration::from_secs(5), stream, &settings, &runtime);
    client.await.map_err(|status| unreachable(options, &status.message))
}

async fn run_local(options: &Options) -> Result<Report, BenchError> {
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        clients.push(connect(options).await?);
    }
    let none = CallOptions::default();
    let probe = RangeRequest { key: key(0), ..RangeRequest::default() };
    let answer: Result<RangeResponse, Status> = clients[0].unary(Method::KvRange, &probe, &none).await;
    answer.map_err(|status| unreachable(options, &status.message))?;
    if options.preload {
        preload(options, &clients).await?;
    }
    let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order");
    let shared = Rc::new(Shared {
        latencies: RefCell::new(latencies),
        measuring: Cell::new(false),
        stopping: Cell::new(false),
        operations: Cell::new(0),
        errors: Cell::new(0),
        failure: RefCell::new(None),
    });
    if options.workload == Workload::Watch {
        start_watchers(options, &clients, &shared).await?;
    }
    let mut tasks = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        for lane in 0..options.in_flight {
            let seed = options.seed.wrapping_add((number * options.in_flight + lane) as u64).wrapping_mul(0x5851_f42d);
            let worker = Worker {
                client: client.clone(),
                shared: Rc::clone(&shared),
                random: Random(seed),
                keys: options.keys,
                value: Bytes::from(vec![b'v'; options.value_bytes]),
            };
            tasks.push(tokio::task::spawn_local(worker.run(options.workload)));
        }
    }
    let (elapsed, figures) = measure(options, &shared).await?;
    shared.stopping.set(true);
    for task in tasks {
        let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    }
    let (operations, errors) = (shared.operations.get(), shared.errors.get());
    if operations == 0
        && let Some(failure) = shared.failure.take()
    {
        return Err(failure);
    }
    let latencies = shared.latencies.borrow();
    Ok(Report::new(options, elapsed, &latencies, operations, errors, figures))
}

async fn measure(options: &Options, shared: &Shared) -> Result<(Duration, (Figures, Figures)), BenchError> {
    tokio::time::sleep(options.warm_up).await;
    let before = process::look(options.server_pid)?;
    let began = Instant::now();
    shared.measuring.set(true);
    tokio::select! {
        () = tokio::time::sleep(options.duration) => {}
        // What there is so far is still reported.
        _ = tokio::signal::ctrl_c() => {}
    }
    shared.measuring.set(false);
    let elapsed = began.elapsed();
    Ok((elapsed, (before, process::look(options.server_pid)?)))
}

async fn preload(options: &Options, clients: &[Client]) -> Result<(), BenchError> {
    let next = Rc::new(Cell::new(0u64));
    let failure: Rc<RefCell<Option<Status>>> = Rc::default();
    let mut tasks = Vec::new();
    for client in clients {
        for _ in 0..32 {
            let (client, next, failure, keys) = (client.clone(), Rc::clone(&next), Rc::clone(&failure), options.keys);
            let value = Bytes::from(vec![b'p'; options.value_bytes]);
            tasks.push(tokio::task::spawn_local(async move {
                let none = CallOptions::default();
                while next.get() < keys && failure.borrow().is_none() {
                    let index = next.replace(next.get() + 1);
                    let put = PutRequest { key: key(index), value: value.clone(), ..PutRequest::default() };
                    let answer: Result<PutResponse, Status> = client.unary(Method::KvPut, &put, &none).await;
                    if let Err(status) = answer {
                        *failure.borrow_mut() = Some(status);
                    }
                }
            }));
        }
    }
    for task in tasks {
        let _ = task.await;
    }
    match failure.take() {
        None => Ok(()),
        Some(status) => Err(BenchError::Call { call: "preload", status }),
    }
}

/// Watchers of the whole key space; each event that arrives is an operation, its latency is from the put's own time.
async fn start_watchers(options: &Options, clients: &[Client], shared: &Rc<Shared>) -> Result<(), BenchError> {
    let call = |status| BenchError::Call { call: "watch", status };
    for number in 0..options.watchers {
        let client = &clients[number % clients.len()];
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.map_err(call)?;
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"/registry/bench/"),
            range_end: Bytes::from_static(b"/registry/bench0"),
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(&request).await.map_err(call)?;
        responses.next().await.map_err(call)?;
        let shared = Rc::clone(shared);
        tokio::task::spawn_local(async move {
            let _requests = requests;
            while let Ok(Some(response)) = responses.next().await {
                for event in &response.events {
                    let sent = event.kv.as_ref().and_then(|kv| kv.value.first_chunk::<16>().copied());
                    let sent = sent.and_then(|stamp| u64::from_str_radix(core::str::from_utf8(&stamp).ok()?, 16).ok());
                    if let Some(sent) = sent {
                        shared.record(began(sent));
                    }
                }
            }
        });
    }
    Ok(())
}

thread_local! {
    static EPOCH: Instant = Instant::now();
}

/// A moment from its distance to the epoch of this thread.
fn began(since_epoch_ns: u64) -> Instant {
    EPOCH.with(|epoch| *epoch + Duration::from_nanos(since_epoch_ns))
}

fn stamp() -> u64 {
    EPOCH.with(|epoch| u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

struct Worker {
    client: Client,
    shared: Rc<Shared>,
    random: Random,
    keys: u64,
    value: Bytes,
}

impl Worker {
    async fn run(mut self, workload: Workload) {
        while !self.shared.stopping.get() {
            let began = Instant::now();
            let result = match workload {
                Workload::Put => self.put().await,
                Workload::Get => self.get().await,
                Workload::Txn => self.txn().await,
                Workload::Range => self.range().await,
                Workload::Watch => self.stamped_put().await,
            };
            match result {
                // A watch run counts what the watchers see.
                Ok(()) if workload == Workload::Watch => {}
                Ok(()) => self.shared.record(began),
                Err(status) => {
                    self.shared.failed(workload.name(), status);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    fn random_key(&mut self) -> Bytes {
        key(self.random.next() % self.keys)
    }

    async fn put(&mut self) -> Result<(), Status> {
        let put = PutRequest { key: self.random_key(), value: self.value.clone(), ..PutRequest::default() };
        self.client.unary::<_, PutResponse>(Method::KvPut, &put, &CallOptions::default()).await.map(drop)
    }

    async fn stamped_put(&mut self) -> Result<(), Status> {
        let mut value = format!("{:016x}", stamp()).into_bytes();
        value.resize(self.value.len().max(16), b'v');
        let put = PutRequest { key: self.random_key(), value: value.into(), ..PutRequest::default() };
        self.client.unary::<_, PutResponse>(Method::KvPut, &put, &CallOptions::default()).await.map(drop)
    }

    async fn get(&mut self) -> Result<(), Status> {
        let get = RangeRequest { key: self.random_key(), ..RangeRequest::default() };
        self.client.unary::<_, RangeResponse>(Method::KvRange, &get, &CallOptions::default()).await.map(drop)
    }

    async fn range(&mut self) -> Result<(), Status> {
        let first = self.random.next() % self.keys.saturating_sub(RANGE_KEYS).max(1);
        let range = RangeRequest { key: key(first), range_end: key(first + RANGE_KEYS), ..RangeRequest::default() };
        self.client.unary::<_, RangeResponse>(Method::KvRange, &range, &CallOptions::default()).await.map(drop)
    }

    /// If the key is not newer than any revision there may be: compares, and puts.
    async fn txn(&mut self) -> Result<(), Status> {
        let key = self.random_key();
        let compare = Compare {
            result: CompareResult::Less as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(i64::MAX)),
            ..Compare::default()
        };
        let put = PutRequest { key: key.clone(), value: self.value.clone(), ..PutRequest::default() };
        let get = RangeRequest { key, ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(get)) }],
        };
        self.client.unary::<_, TxnResponse>(Method::KvTxn, &txn, &CallOptions::default()).await.map(drop)
    }
}
