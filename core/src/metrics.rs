//! Counters and histograms without locks: each shard writes its own, /metrics adds them up.
//!
//! A cell has one writer (its shard's thread), so a plain load and store is enough; readers on other threads may see a
//! value that is a moment old.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it; only from the thread that owns the shard.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// The value, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A Prometheus histogram with buckets `start * factor^n` in seconds, one writer.
#[derive(Debug)]
pub struct Histogram {
    start_s: f64,
    factor: f64,
    buckets: Box<[Counter]>,
    count: Counter,
    sum_ns: Counter,
}

impl Histogram {
    /// `count` buckets and the one above them all.
    #[must_use]
    pub fn new(start_s: f64, factor: f64, count: usize) -> Histogram {
        Histogram {
            start_s,
            factor,
            buckets: (0..count).map(|_| Counter::default()).collect(),
            count: Counter::default(),
            sum_ns: Counter::default(),
        }
    }

    /// Records a duration in nanoseconds; only from the thread that owns the shard.
    pub fn record_ns(&self, ns: u64) {
        self.count.add(1);
        self.sum_ns.add(ns);
        let seconds = ns as f64 / 1e9;
        let mut bound = self.start_s;
        for bucket in &self.buckets {
            if seconds <= bound {
                bucket.add(1);
                return;
            }
            bound *= self.factor;
        }
    }
}

/// What one shard counts of the store's work. Names are those of etcd's metrics.
#[derive(Debug)]
pub struct ShardMetrics {
    /// Ranges.
    pub ranges: Counter,
    /// Puts, those in transactions included.
    pub puts: Counter,
    /// Deletes.
    pub deletes: Counter,
    /// Transactions.
    pub txns: Counter,
    /// Leases granted.
    pub leases_granted: Counter,
    /// Leases revoked by clients.
    pub leases_revoked: Counter,
    /// Keep-alives answered.
    pub leases_renewed: Counter,
    /// Leases that expired.
    pub leases_expired: Counter,
    /// Events applied.
    pub events: Counter,
    /// Bytes written to the log.
    pub wal_bytes: Counter,
    /// Time of one write and sync of the log.
    pub wal_fsync: Histogram,
    /// Time of one checkpoint.
    pub backend_commit: Histogram,
    /// Requests that were applied, or read, for longer than is expected.
    pub slow_applies: Counter,
    /// Its watches now.
    pub watches: WatchFigures,
}

/// Watches of one shard, as they were at its last tick.
#[derive(Debug, Default)]
pub struct WatchFigures {
    /// Open streams.
    pub streams: AtomicU64,
    /// Watches on them.
    pub watchers: AtomicU64,
    /// Of these: behind.
    pub behind: AtomicU64,
    /// Answers that wait for their writers.
    pub pending: AtomicU64,
}

impl Default for ShardMetrics {
    fn default() -> ShardMetrics {
        ShardMetrics {
            ranges: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            leases_granted: Counter::default(),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            events: Counter::default(),
            wal_bytes: Counter::default(),
            wal_fsync: Histogram::new(0.001, 2.0, 14),
            backend_commit: Histogram::new(0.001, 2.0, 14),
            slow_applies: Counter::default(),
            watches: WatchFigures::default(),
        }
    }
}

/// One sample's labels, already in text form: `a="b",c="d"` or nothing.
pub type Labels<'a> = &'a str;

/// The text exposition format 0.0.4, which Prometheus and etcd's tools read.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Starts a family.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        use std::fmt::Write as _;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of the family begun last.
    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        use std::fmt::Write as _;
        let _ = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{labels}}} {value}")
        };
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    /// Samples of one histogram, added up over shards that have the same buckets.
    pub fn histogram<'a>(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        parts: impl Iterator<Item = &'a Histogram> + Clone,
    ) {
        let Some(first) = parts.clone().next() else { return };
        let comma = if labels.is_empty() { "" } else { "," };
        let mut bound = first.start_s;
        let mut cumulative = 0;
        for bucket in 0..first.buckets.len() {
            cumulative += parts.clone().map(|part| part.buckets[bucket].get()).sum::<u64>();
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), cumulative as f64);
            bound *= first.factor;
        }
        let count = parts.clone().map(|part| part.count.get()).sum::<u64>() as f64;
        self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), count);
        let sum_ns = parts.map(|part| part.sum_ns.get()).sum::<u64>();
        self.sample(&format!("{name}_sum"), labels, sum_ns as f64 / 1e9);
        self.sample(&format!("{name}_count"), labels, count);
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_add_up_and_cumulate() {
        let (a, b) = (Histogram::new(0.001, 2.0, 3), Histogram::new(0.001, 2.0, 3));
        a.record_ns(500_000);
        a.record_ns(3_000_000);
        b.record_ns(1_000_000);
        b.record_ns(9_000_000_000);
        let mut exposition = Exposition::default();
        exposition.histogram("x", "", [&a, &b].into_iter());
        let text = exposition.finish();
        let want =
            "x_bucket{le=\"0.001\"} 2\nx_bucket{le=\"0.002\"} 2\nx_bucket{le=\"0.004\"} 3\nx_bucket{le=\"+Inf\"} 4\n";
        assert!(text.starts_with(want), "{text}");
        assert!(text.ends_with("x_sum 9.0045\nx_count 4\n"), "{text}");
    }
}
