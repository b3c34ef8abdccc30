use crate::status::Code;
use ringstone_proto::Method;
use std::cell::Cell;
use std::time::Duration;

/// Buckets of `grpc_server_handling_seconds`: the defaults of Prometheus.
pub const HANDLING_BOUNDS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How long the calls of one method took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandlingTimes {
    /// Calls within each of [`HANDLING_BOUNDS_S`] and not within the one before it.
    pub buckets: [u64; HANDLING_BOUNDS_S.len()],
    /// All calls.
    pub count: u64,
    /// Their time together, in nanoseconds.
    pub sum_ns: u64,
}

/// Counters of one shard. One writer, one thread: no locks, no atomics. Another thread gets a [`MetricsSnapshot`].
pub struct WireMetrics {
    started: [Cell<u64>; Method::COUNT],
    handled: [[Cell<u64>; Code::COUNT]; Method::COUNT],
    messages_received: [Cell<u64>; Method::COUNT],
    messages_sent: [Cell<u64>; Method::COUNT],
    handling: Option<Box<[Cell<HandlingTimes>; Method::COUNT]>>,
    sent_bytes: Cell<u64>,
    received_bytes: Cell<u64>,
    connections_opened: Cell<u64>,
    connections_closed: Cell<u64>,
}

/// The counters of a [`WireMetrics`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSnapshot {
    /// `grpc_server_started_total`, by `method as usize`.
    pub started: Vec<u64>,
    /// `grpc_server_handled_total`, by `method as usize` and `code as usize`.
    pub handled: Vec<[u64; Code::COUNT]>,
    /// `grpc_server_msg_received_total`, by `method as usize`.
    pub messages_received: Vec<u64>,
    /// `grpc_server_msg_sent_total`, by `method as usize`.
    pub messages_sent: Vec<u64>,
    /// `grpc_server_handling_seconds`, by `method as usize`; empty where it is not counted.
    pub handling: Vec<HandlingTimes>,
    /// `etcd_network_client_grpc_sent_bytes_total`: bytes of response messages.
    pub sent_bytes: u64,
    /// `etcd_network_client_grpc_received_bytes_total`: bytes of request messages.
    pub received_bytes: u64,
    /// Connections accepted, of HTTP/2 and HTTP/1.1.
    pub connections_opened: u64,
    /// Connections ended.
    pub connections_closed: u64,
}

const NO_TIMES: HandlingTimes = HandlingTimes { buckets: [0; HANDLING_BOUNDS_S.len()], count: 0, sum_ns: 0 };

impl Default for WireMetrics {
    fn default() -> Self {
        WireMetrics {
            started: [const { Cell::new(0) }; Method::COUNT],
            handled: [const { [const { Cell::new(0) }; Code::COUNT] }; Method::COUNT],
            messages_received: [const { Cell::new(0) }; Method::COUNT],
            messages_sent: [const { Cell::new(0) }; Method::COUNT],
            handling: None,
            sent_bytes: Cell::new(0),
            received_bytes: Cell::new(0),
            connections_opened: Cell::new(0),
            connections_closed: Cell::new(0),
        }
    }
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get().wrapping_add(count));
}

impl WireMetrics {
    /// Counters that also count how long calls take.
    pub fn counting_times() -> Self {
        let handling = Some(Box::new([const { Cell::new(NO_TIMES) }; Method::COUNT]));
        WireMetrics { handling, ..WireMetrics::default() }
    }

    /// A copy that may go to another thread.
    pub fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            started: self.started.iter().map(Cell::get).collect(),
            handled: self.handled.iter().map(|codes| codes.each_ref().map(Cell::get)).collect(),
            messages_received: self.messages_received.iter().map(Cell::get).collect(),
            messages_sent: self.messages_sent.iter().map(Cell::get).collect(),
            handling: self.handling.iter().flat_map(|handling| handling.iter().map(Cell::get)).collect(),
            sent_bytes: self.sent_bytes.get(),
            received_bytes: self.received_bytes.get(),
            connections_opened: self.connections_opened.get(),
            connections_closed: self.connections_closed.get(),
        }
    }

    pub(crate) fn call_started(&self, method: Method) {
        add(&self.started[method as usize], 1);
    }

    pub(crate) fn call_handled(&self, method: Method, code: Code) {
        add(&self.handled[method as usize][code as usize], 1);
    }

    pub(crate) fn counts_times(&self) -> bool {
        self.handling.is_some()
    }

    pub(crate) fn call_took(&self, method: Method, took: Duration) {
        let Some(handling) = &self.handling else { return };
        let cell = &handling[method as usize];
        let mut times = cell.get();
        if let Some(bucket) = HANDLING_BOUNDS_S.iter().position(|bound| took.as_secs_f64() <= *bound) {
            times.buckets[bucket] += 1;
        }
        times.count += 1;
        times.sum_ns = times.sum_ns.wrapping_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        cell.set(times);
    }

    pub(crate) fn message_sent(&self, method: Method, bytes: usize) {
        add(&self.messages_sent[method as usize], 1);
        add(&self.sent_bytes, bytes as u64);
    }

    pub(crate) fn message_received(&self, method: Method, bytes: usize) {
        add(&self.messages_received[method as usize], 1);
        add(&self.received_bytes, bytes as u64);
    }

    pub(crate) fn connection_opened(&self) {
        add(&self.connections_opened, 1);
    }

    pub(crate) fn connection_closed(&self) {
        add(&self.connections_closed, 1);
    }
}
