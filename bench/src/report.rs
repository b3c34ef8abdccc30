//! What a run has found.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::options::Options;
use crate::process::Figures;
use crate::recorder::{Call, Tally};

/// Why a report is not that of the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Partial {
    /// Ctrl-C.
    Interrupted,
    /// The rate that was asked for was not reached.
    RateNotReached,
    /// Nothing but errors came for some seconds.
    ServerGone,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1000.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Latency {
    fn new(latencies: &Histogram<u64>) -> Latency {
        let quantile = |q: f64| latencies.value_at_quantile(q) as f64 / 1e3;
        Latency {
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: latencies.max() as f64 / 1e3,
        }
    }
}

/// The figures of one round, or of all.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Time measured, in seconds.
    pub seconds: f64,
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Operations a second.
    pub rate: f64,
    /// Their latencies.
    #[serde(flatten)]
    pub latency: Latency,
    /// The server process's CPU time an operation, in microseconds; none without its pid.
    pub server_cpu_us: Option<f64>,
    /// The machine's non-idle time less the generator's an operation, in microseconds.
    pub machine_cpu_us: f64,
    /// The part of a core that the generator took: near 1, rates are the generator's, not the server's.
    pub generator_cores: f64,
    /// Resident memory of the server after the round, in bytes.
    pub resident_bytes: Option<u64>,
    /// Of this, anonymous.
    pub anonymous_bytes: Option<u64>,
}

impl Round {
    pub(crate) fn new(elapsed: Duration, tally: &Tally, before: &Figures, after: &Figures) -> Round {
        let each = |us: u64| us as f64 / tally.operations.max(1) as f64;
        let machine = after.machine_cpu_us.saturating_sub(before.machine_cpu_us);
        let own = after.own_cpu_us.saturating_sub(before.own_cpu_us);
        let server = after.server.as_ref().zip(before.server.as_ref());
        let seconds = elapsed.as_secs_f64().max(1e-9);
        Round {
            seconds,
            operations: tally.operations,
            errors: tally.errors,
            rate: tally.operations as f64 / seconds,
            latency: Latency::new(&tally.latencies),
            server_cpu_us: server.map(|(after, before)| each(after.cpu_us.saturating_sub(before.cpu_us))),
            machine_cpu_us: each(machine.saturating_sub(own)),
            generator_cores: own as f64 / 1e6 / seconds,
            resident_bytes: after.server.as_ref().map(|server| server.resident_bytes),
            anonymous_bytes: after.server.as_ref().map(|server| server.anonymous_bytes),
        }
    }

    fn line(&self, name: &str) -> String {
        let mib = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| format!("{}", bytes >> 20));
        let server = self.server_cpu_us.map_or("-".to_owned(), |us| format!("{us:.1}"));
        format!(
            "{name:<18} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>9.0} {:>7} {server:>12} {:>13.1} {:>9.2} {:>8} {:>8}",
            self.rate,
            self.latency.p50_us,
            self.latency.p99_us,
            self.latency.p999_us,
            self.latency.max_us,
            self.errors,
            self.machine_cpu_us,
            self.generator_cores,
            mib(self.resident_bytes),
            mib(self.anonymous_bytes)
        )
    }
}

/// One kind of call over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct CallReport {
    /// Its name.
    pub call: &'static str,
    /// How many.
    pub count: u64,
    /// Their latencies.
    #[serde(flatten)]
    pub latency: Latency,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The workload's name.
    pub workload: &'static str,
    /// The endpoint.
    pub endpoint: String,
    /// Connections.
    pub connections: usize,
    /// Calls under way on each, at most.
    pub in_flight: usize,
    /// Operations a second that were asked for; none: a closed loop.
    pub rate_asked: Option<f64>,
    /// Size of the key space.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Why this is not the whole run, if it is not.
    pub partial: Option<Partial>,
    /// All rounds together.
    pub all: Round,
    /// Each round.
    pub rounds: Vec<Round>,
    /// By call, where the workload has several.
    pub calls: Vec<CallReport>,
}

impl Report {
    pub(crate) fn new(
        options: &Options,
        partial: Option<Partial>,
        all: Round,
        rounds: Vec<Round>,
        calls: &[(Call, Histogram<u64>)],
    ) -> Report {
        let calls = calls.iter().map(|(call, latencies)| CallReport {
            call: call.name(),
            count: latencies.len(),
            latency: Latency::new(latencies),
        });
        Report {
            workload: options.workload.name(),
            endpoint: options.endpoint.clone(),
            connections: options.connections,
            in_flight: options.in_flight,
            rate_asked: options.rate,
            keys: options.keys,
            value_bytes: options.value_bytes,
            partial,
            all,
            rounds,
            calls: calls.collect(),
        }
    }

    /// What must be said beside the figures; one sentence a line.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let rate = self.rate_asked.unwrap_or(0.0);
        match self.partial {
            None => {}
            Some(Partial::Interrupted) => remarks.push("interrupted: the report is of what was done until then".into()),
            Some(Partial::RateNotReached) => remarks.push(format!(
                "the rate was not reached: {:.0} of {rate:.0} operations a second were done. The latencies are those of an \
                 overload; ask for less, or give it more --connections or --inflight",
                self.all.rate
            )),
            Some(Partial::ServerGone) => {
                remarks.push("the server answers no more: the report is of what was done until then".into());
            }
        }
        if self.all.generator_cores > 0.95 {
            remarks.push(format!(
                "this generator was busy {:.0}% of the time on its one thread: the rate is its own limit, not the server's",
                self.all.generator_cores * 100.0
            ));
        }
        remarks
    }

    /// For people: a table of the rounds, and of the calls where there are several kinds.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<18} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>12} {:>13} {:>9} {:>8} {:>8}\n",
            self.workload,
            "ops/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "errors",
            "server us/op",
            "machine us/op",
            "generator",
            "RSS MiB",
            "anon MiB"
        );
        if self.rounds.len() > 1 {
            for (number, round) in self.rounds.iter().enumerate() {
                text += &round.line(&format!("round {}", number + 1));
                text.push('\n');
            }
        }
        text += &self.all.line("all");
        if self.calls.len() > 1 {
            for call in &self.calls {
                let latency = &call.latency;
                let _ = write!(
                    text,
                    "\n  {:<16} {:>9} {:>9.0} {:>9.0} {:>9.0} {:>9.0}",
                    call.call, call.count, latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us
                );
            }
            text += "\n  (calls: how many, not how many a second)";
        }
        text
    }
}
