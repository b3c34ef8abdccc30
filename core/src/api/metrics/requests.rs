//! Requests: how many, how long, what held them up.

use super::{Look, Single, counter, write_tables};
use crate::metrics::{Exposition, Histogram, Operation, ShardMetrics};
use crate::shard::stages::Stage;

const SINGLES: &[Single] = &[counter(
    "etcd_server_slow_apply_total",
    "The total number of slow apply requests (likely overloaded from slow disk).",
    |look| look.sum(|shard| &shard.slow_applies),
)];

pub(super) fn write(out: &mut Exposition, look: &Look<'_>) {
    write_tables(out, look, SINGLES, &[]);
    let name = "ringstone_slow_requests_total";
    out.family(name, "counter", "Slow unary requests by the stage that held them up.");
    for stage in Stage::ALL {
        let count = look.shared.metrics.iter().map(|shard| shard.slow_stages[stage as usize].get()).sum::<u64>();
        out.sample(name, &format!("stage=\"{}\"", stage.name()), count as f64);
    }
    client_requests(out, look);
    operations(out, look);
}

fn client_requests(out: &mut Exposition, look: &Look<'_>) {
    let mut counted: Vec<(String, &str, u64)> = Vec::new();
    for clients in look.shared.clients.iter().filter_map(|clients| clients.lock().ok()) {
        for client in clients.iter() {
            for (kind, more) in [("unary", client.unary), ("stream", client.streams)] {
                let version = client.version();
                match counted.iter_mut().find(|known| known.0 == version && known.1 == kind) {
                    Some(known) => known.2 += more,
                    None => counted.push((version, kind, more)),
                }
            }
        }
    }
    counted.retain(|counted| counted.2 > 0);
    if counted.is_empty() {
        return;
    }
    let name = "etcd_server_client_requests_total";
    out.family(name, "counter", "The total number of client requests per client version.");
    for (version, kind, count) in counted {
        out.sample(name, &format!("client_api_version=\"{version}\",type=\"{kind}\""), count as f64);
    }
}

/// Families with a label each for the kind of request and for its success; those that never were are not there.
fn operations(out: &mut Exposition, look: &Look<'_>) {
    let shards = &look.shared.metrics;
    let mut family = Family { out, shards, begun: false };
    let (name, help) =
        ("etcd_server_request_duration_seconds", "Response latency distribution in seconds for each type.");
    for operation in Operation::ALL {
        let labels = format!("type=\"{}\",", operation.name());
        family.pair(name, help, &labels, &|shard, kind| &shard.operations[operation as usize].request[kind]);
    }
    let mut family = Family { out: family.out, shards, begun: false };
    let (name, help) =
        ("etcd_server_apply_duration_seconds", "The latency distributions of v2 apply called by backend.");
    for operation in Operation::ALL {
        let labels = format!("version=\"v3\",op=\"{}\",", operation.name());
        family.pair(name, help, &labels, &|shard, kind| &shard.operations[operation as usize].apply[kind]);
    }
    let mut family = Family { out: family.out, shards, begun: false };
    let (name, help) = ("etcd_server_range_duration_seconds", "The latency distributions of txn.Range");
    family.pair(name, help, "", &|shard, kind| &shard.range[kind]);
}

struct Family<'a> {
    out: &'a mut Exposition,
    shards: &'a [ShardMetrics],
    begun: bool,
}

impl Family<'_> {
    fn pair(&mut self, name: &str, help: &str, labels: &str, of: &dyn Fn(&ShardMetrics, usize) -> &Histogram) {
        for (kind, success) in [(0, "false"), (1, "true")] {
            let parts = self.shards.iter().map(|shard| of(shard, kind));
            if parts.clone().all(|part| part.count() == 0) {
                continue;
            }
            if !std::mem::replace(&mut self.begun, true) {
                self.out.family(name, "histogram", help);
            }
            self.out.histogram(name, &format!("{labels}success=\"{success}\""), parts);
        }
    }
}
