use crate::status::Code;
use ringstone_proto::Method;
use std::cell::Cell;

/// Counters of one shard. One writer, one thread: no locks, no atomics. Another thread gets a [`MetricsSnapshot`].
pub struct WireMetrics {
    started: [Cell<u64>; Method::COUNT],
    handled: [[Cell<u64>; Code::COUNT]; Method::COUNT],
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
    /// `etcd_network_client_grpc_sent_bytes_total`: bytes of response messages.
    pub sent_bytes: u64,
    /// `etcd_network_client_grpc_received_bytes_total`: bytes of request messages.
    pub received_bytes: u64,
    /// Connections accepted, of HTTP/2 and HTTP/1.1.
    pub connections_opened: u64,
    /// Connections ended.
    pub connections_closed: u64,
}

impl Default for WireMetrics {
    fn default() -> Self {
        WireMetrics {
            started: [const { Cell::new(0) }; Method::COUNT],
            handled: [const { [const { Cell::new(0) }; Code::COUNT] }; Method::COUNT],
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
    /// A copy that may go to another thread.
    pub fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            started: self.started.iter().map(Cell::get).collect(),
            handled: self.handled.iter().map(|codes| codes.each_ref().map(Cell::get)).collect(),
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

    pub(crate) fn message_sent(&self, bytes: usize) {
        add(&self.sent_bytes, bytes as u64);
    }

    pub(crate) fn message_received(&self, bytes: usize) {
        add(&self.received_bytes, bytes as u64);
    }

    pub(crate) fn connection_opened(&self) {
        add(&self.connections_opened, 1);
    }

    pub(crate) fn connection_closed(&self) {
        add(&self.connections_closed, 1);
    }
}
