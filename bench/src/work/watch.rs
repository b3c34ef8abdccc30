//! Watchers, and puts that carry the moment at which they were due.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringstone_net::client::{CallOptions, Client};
use ringstone_net::{Code, Method, Status};
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;
use ringstone_proto::etcdserverpb::{PutRequest, PutResponse, WatchCreateRequest, WatchRequest, WatchResponse};

use super::{Done, Lane};
use crate::BenchError;
use crate::options::{Options, Workload};
use crate::recorder::{Call, Recorder};
use crate::session::{PREFIX, PREFIX_END, key};

/// How long events may come after the last put.
const LATE: Duration = Duration::from_secs(10);
/// Hex digits of a key that a watcher of a kubernetes run leaves open: 4 096 keys.
const PREFIX_DIGITS: u32 = 3;

thread_local! {
    static EPOCH: Instant = Instant::now();
    /// Puts that succeeded: each watcher of the whole key space must see as many events.
    static PUTS: Cell<u64> = const { Cell::new(0) };
}

/// The prefix that is `block` blocks of 4 096 keys from the first, and its end.
pub(super) fn block(number: u64) -> (Bytes, Bytes) {
    (key(number << (4 * PREFIX_DIGITS)), key((number + 1) << (4 * PREFIX_DIGITS)))
}

/// Blocks of a key space.
pub(super) fn blocks(keys: u64) -> u64 {
    keys.div_ceil(1 << (4 * PREFIX_DIGITS))
}

/// The watchers of a run.
pub(crate) struct Watchers {
    /// Events that each has seen.
    seen: Vec<Rc<Cell<u64>>>,
    /// They see all keys: then none may miss a put.
    of_everything: bool,
    /// Events out of order.
    disordered: Rc<Cell<u64>>,
}

impl Watchers {
    /// Starts them, spread over the connections. Each event that arrives is an operation of a watch run; its latency is
    /// from the moment at which its put was due.
    ///
    /// # Errors
    /// A watch that can't be created.
    pub async fn start(options: &Options, clients: &[Client], recorder: &Rc<Recorder>) -> Result<Watchers, BenchError> {
        PUTS.set(0);
        let of_everything = options.workload == Workload::Watch;
        let mut watchers = Watchers { seen: Vec::new(), of_everything, disordered: Rc::default() };
        for number in 0..options.watchers {
            let (from, to) = if of_everything {
                (Bytes::from_static(PREFIX.as_bytes()), Bytes::from_static(PREFIX_END))
            } else {
                block(number as u64 % blocks(options.keys))
            };
            let started = watchers.watch(&clients[number % clients.len()], from, to, recorder).await;
            started.map_err(|status| BenchError::Call { call: "watch", status })?;
        }
        Ok(watchers)
    }

    async fn watch(&mut self, client: &Client, key: Bytes, end: Bytes, recorder: &Rc<Recorder>) -> Result<(), Status> {
        let (mut requests, mut responses) =
            client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await?;
        let create = WatchCreateRequest { key, range_end: end, ..WatchCreateRequest::default() };
        requests.send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
        responses
            .next()
            .await?
            .filter(|created| created.created && !created.canceled)
            .ok_or(Status::new(Code::Internal, "the watch was not created"))?;
        let seen = Rc::new(Cell::new(0));
        self.seen.push(Rc::clone(&seen));
        let (recorder, disordered) = (Rc::clone(recorder), Rc::clone(&self.disordered));
        tokio::task::spawn_local(async move {
            let _requests = requests;
            let mut revision = 0;
            while let Ok(Some(response)) = responses.next().await {
                for event in &response.events {
                    let Some(kv) = &event.kv else { continue };
                    disordered.set(disordered.get() + u64::from(kv.mod_revision < revision));
                    revision = kv.mod_revision;
                    seen.set(seen.get() + 1);
                    if let Some(sent) = sent(&kv.value) {
                        recorder.arrived(Call::Event, sent);
                    }
                }
            }
        });
        Ok(())
    }

    /// Events that were lost or came out of order, once all have had their time to come.
    pub async fn wrong(&self) -> u64 {
        let began = Instant::now();
        while self.missing() > 0 && began.elapsed() < LATE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.missing() + self.disordered.get()
    }

    fn missing(&self) -> u64 {
        if !self.of_everything {
            return 0;
        }
        let puts = PUTS.get();
        self.seen.iter().map(|seen| puts.saturating_sub(seen.get())).sum()
    }
}

/// The moment that a value of [`stamped_put`] carries.
fn sent(value: &[u8]) -> Option<Instant> {
    let stamp = core::str::from_utf8(value.first_chunk::<16>()?).ok()?;
    let ns = u64::from_str_radix(stamp, 16).ok()?;
    EPOCH.with(|epoch| epoch.checked_add(Duration::from_nanos(ns)))
}

pub(super) async fn stamped_put(lane: &mut Lane, due: Instant) -> Result<Done, Status> {
    let since = EPOCH.with(|epoch| due.saturating_duration_since(*epoch));
    let mut value = format!("{:016x}", u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)).into_bytes();
    value.resize(lane.value.len().max(16), b'v');
    let put = PutRequest { key: lane.random_key(), value: value.into(), ..PutRequest::default() };
    lane.client.unary::<_, PutResponse>(Method::KvPut, &put, &CallOptions::default()).await?;
    PUTS.set(PUTS.get() + 1);
    Ok(Done::now(Call::Put))
}
