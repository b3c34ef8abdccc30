//! The wire: calls, messages, bytes, connections.

use ringstone_net::{Code, HANDLING_BOUNDS_S, HandlingTimes, Method, MetricsSnapshot};

use super::{Look, Single, counter, gauge, write_tables};
use crate::metrics::Exposition;

fn sum(look: &Look<'_>, of: fn(&MetricsSnapshot) -> u64) -> f64 {
    look.wire.iter().map(of).sum::<u64>() as f64
}

const SINGLES: &[Single] = &[
    counter("etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients.", |look| {
        sum(look, |wire| wire.sent_bytes)
    }),
    counter(
        "etcd_network_client_grpc_received_bytes_total",
        "The total number of bytes received from grpc clients.",
        |look| sum(look, |wire| wire.received_bytes),
    ),
    gauge("ringstone_connections", "Open connections of clients.", |look| look.shared.open_connections() as f64),
    counter("ringstone_connections_total", "Connections that clients have opened.", |look| {
        sum(look, |wire| wire.connections_opened)
    }),
];

fn labels(method: Method) -> String {
    let (kind, service, name) = (method.kind().label(), method.service(), method.name());
    format!("grpc_type=\"{kind}\",grpc_service=\"{service}\",grpc_method=\"{name}\"")
}

/// etcd registers the methods of these at its start, and others with their first call.
fn is_registered(method: Method) -> bool {
    matches!(method.service().split_once('.'), Some(("etcdserverpb" | "grpc", _)))
}

pub(super) fn write(out: &mut Exposition, look: &Look<'_>) {
    write_tables(out, look, SINGLES, &[]);
    let count = |of: &dyn Fn(&MetricsSnapshot) -> u64| look.wire.iter().map(of).sum::<u64>();
    let methods: Vec<(usize, Method)> = Method::ALL
        .into_iter()
        .enumerate()
        .filter(|(index, method)| is_registered(*method) || count(&|wire| wire.started[*index]) > 0)
        .collect();
    type Counts = fn(&MetricsSnapshot) -> &[u64];
    let by_method: [(&str, &str, Counts); 3] = [
        ("grpc_server_started_total", "Total number of RPCs started on the server.", |wire| &wire.started),
        ("grpc_server_msg_received_total", "Total number of RPC stream messages received on the server.", |wire| {
            &wire.messages_received
        }),
        ("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server.", |wire| {
            &wire.messages_sent
        }),
    ];
    for (name, help, of) in by_method {
        out.family(name, "counter", help);
        for &(index, method) in &methods {
            out.sample(name, &labels(method), count(&|wire| of(wire)[index]) as f64);
        }
    }
    let name = "grpc_server_handled_total";
    out.family(name, "counter", "Total number of RPCs completed on the server, regardless of success or failure.");
    for &(index, method) in &methods {
        for (place, code) in Code::ALL.iter().enumerate() {
            let labels = format!("{},grpc_code=\"{}\"", labels(method), code.label());
            out.sample(name, &labels, count(&|wire| wire.handled[index][place]) as f64);
        }
    }
    if look.shared.config.extensive_metrics {
        handling_times(out, look, &methods);
    }
}

fn handling_times(out: &mut Exposition, look: &Look<'_>, methods: &[(usize, Method)]) {
    let name = "grpc_server_handling_seconds";
    let help = "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.";
    out.family(name, "histogram", help);
    for &(index, method) in methods {
        let mut all = HandlingTimes::default();
        for part in look.wire.iter().filter_map(|wire| wire.handling.get(index)) {
            all.buckets.iter_mut().zip(part.buckets).for_each(|(sum, more)| *sum += more);
            all.count += part.count;
            all.sum_ns += part.sum_ns;
        }
        let buckets = HANDLING_BOUNDS_S.into_iter().zip(all.buckets);
        out.buckets(name, &labels(method), buckets, all.count, all.sum_ns as f64 / 1e9);
    }
}
