//! What a run has found.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::options::Options;
use crate::process::Figures;

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The workload's name.
    pub workload: &'static str,
    /// The endpoint.
    pub endpoint: String,
    /// Connections.
    pub connections: usize,
    /// Calls under way on each.
    pub in_flight: usize,
    /// Size of the key space.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Time measured, in seconds.
    pub seconds: f64,
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Operations a second.
    pub rate: f64,
    /// Latency in microseconds: median.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// The server process's CPU time an operation, in microseconds; none without its pid.
    pub server_cpu_us: Option<f64>,
    /// The machine's non-idle time less the generator's an operation, in microseconds.
    pub machine_cpu_us: f64,
    /// Resident memory of the server after the run, in bytes.
    pub resident_bytes: Option<u64>,
    /// Of this, anonymous.
    pub anonymous_bytes: Option<u64>,
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        elapsed: Duration,
        latencies: &Histogram<u64>,
        operations: u64,
        errors: u64,
        (before, after): (Figures, Figures),
    ) -> Report {
        let each = |us: u64| us as f64 / operations.max(1) as f64;
        let quantile = |q: f64| latencies.value_at_quantile(q) as f64 / 1e3;
        let machine = after.machine_cpu_us.saturating_sub(before.machine_cpu_us);
        let own = after.own_cpu_us.saturating_sub(before.own_cpu_us);
        let with_pid = options.server_pid.is_some();
        Report {
            workload: options.workload.name(),
            endpoint: options.endpoint.clone(),
            connections: options.connections,
            in_flight: options.in_flight,
            keys: options.keys,
            value_bytes: options.value_bytes,
            seconds: elapsed.as_secs_f64(),
            operations,
            errors,
            rate: operations as f64 / elapsed.as_secs_f64(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: latencies.max() as f64 / 1e3,
            server_cpu_us: with_pid.then(|| each(after.server_cpu_us.saturating_sub(before.server_cpu_us))),
            machine_cpu_us: each(machine.saturating_sub(own)),
            resident_bytes: with_pid.then_some(after.resident_bytes),
            anonymous_bytes: with_pid.then_some(after.anonymous_bytes),
        }
    }

    /// For people: the header line of [`Report::line`].
    #[must_use]
    pub fn header() -> String {
        format!(
            "{:<6} {:>10} {:>9} {:>9} {:>9} {:>9} {:>12} {:>12} {:>9} {:>9}",
            "what",
            "ops/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "errors",
            "server us/op",
            "machine us/op",
            "RSS MiB",
            "anon MiB"
        )
    }

    /// For people: one line.
    #[must_use]
    pub fn line(&self) -> String {
        let mib = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| format!("{}", bytes >> 20));
        let server = self.server_cpu_us.map_or("-".to_owned(), |us| format!("{us:.1}"));
        format!(
            "{:<6} {:>10.0} {:>9.0} {:>9.0} {:>9.0} {:>9} {:>12} {:>12.1} {:>9} {:>9}",
            self.workload,
            self.rate,
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.errors,
            server,
            self.machine_cpu_us,
            mib(self.resident_bytes),
            mib(self.anonymous_bytes)
        )
    }
}
