//! /metrics: etcd's names, types, labels and buckets, for what exists here; tests/metrics holds them against etcd's own.
//! A table a concern; what has labels follows behind its table.

mod disk;
mod process;
mod requests;
mod server;
mod store;
mod wire;

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use ringstone_net::MetricsSnapshot;
use ringstone_pager::api::ReadTrees as _;
use ringstone_proto::etcdserverpb::{AlarmMember, AlarmType};

use super::Api;
use crate::error::{Error, ReadFault};
use crate::lease::state as leases;
use crate::metrics::{Counter, Exposition, Histogram, ShardMetrics};
use crate::shard::state_of;
use crate::shared::Shared;
use crate::state::State;
use crate::trees::LIVE;

/// What one scrape looks at.
struct Look<'a> {
    shared: &'a Shared,
    state: State,
    keys: u64,
    leases: u64,
    alarms: Vec<AlarmMember>,
    wire: Vec<MetricsSnapshot>,
}

impl Look<'_> {
    fn sum(&self, of: fn(&ShardMetrics) -> &Counter) -> f64 {
        self.shared.metrics.iter().map(|shard| of(shard).get()).sum::<u64>() as f64
    }

    fn gauges(&self, of: fn(&ShardMetrics) -> &AtomicU64) -> f64 {
        self.shared.metrics.iter().map(|shard| of(shard).load(Ordering::Relaxed)).sum::<u64>() as f64
    }
}

fn load(figure: &AtomicU64) -> f64 {
    figure.load(Ordering::Relaxed) as f64
}

/// A family of one sample without labels.
struct Single {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Look<'_>) -> f64,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Look<'_>) -> f64) -> Single {
    Single { name, kind: "gauge", help, value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Look<'_>) -> f64) -> Single {
    Single { name, kind: "counter", help, value }
}

/// A histogram without labels.
struct Distribution {
    name: &'static str,
    help: &'static str,
    of: fn(&ShardMetrics) -> &Histogram,
}

const fn distribution(name: &'static str, help: &'static str, of: fn(&ShardMetrics) -> &Histogram) -> Distribution {
    Distribution { name, help, of }
}

fn write_tables(out: &mut Exposition, look: &Look<'_>, singles: &[Single], distributions: &[Distribution]) {
    for single in singles {
        out.single(single.name, single.kind, single.help, (single.value)(look));
    }
    for distribution in distributions {
        out.family(distribution.name, "histogram", distribution.help);
        out.histogram(distribution.name, "", look.shared.metrics.iter().map(distribution.of));
    }
}

impl Api {
    async fn look(&self) -> Result<Look<'_>, Error> {
        let shared = &*self.shard.shared;
        let (state, keys, leases) = self
            .shard
            .read(|pin, _| {
                let keys = pin.aggregate(LIVE, (Bound::Unbounded, Bound::Unbounded)).map_err(ReadFault::from)?.count;
                let leases = leases::count(pin).map_err(ReadFault::from)?;
                Ok(Some((state_of(pin), keys, leases)))
            })
            .await?;
        let alarms = self.alarms(AlarmType::None).await?;
        let wire = shared.wire.iter().filter_map(|wire| wire.lock().ok()?.clone()).collect();
        Ok(Look { shared, state, keys, leases, alarms, wire })
    }

    /// The whole text.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(super) async fn metrics(&self) -> Result<String, Error> {
        let look = self.look().await?;
        let mut out = Exposition::default();
        server::write(&mut out, &look);
        requests::write(&mut out, &look);
        store::write(&mut out, &look);
        disk::write(&mut out, &look);
        wire::write(&mut out, &look);
        process::write(&mut out);
        Ok(out.finish())
    }
}
