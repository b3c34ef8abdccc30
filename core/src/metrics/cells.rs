//! Counters and histograms without locks.
//!
//! A cell has one writer (its shard's thread), so a plain load and store is enough; readers on other threads may see a
//! value that is a moment old.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

/// A Prometheus histogram, one writer. Values are whole numbers of a small unit: nanoseconds for most.
#[derive(Debug)]
pub struct Histogram {
    pub(super) bounds: Box<[f64]>,
    /// The small unit in which values come, for one of the unit of `bounds`.
    units_per_one: f64,
    pub(super) buckets: Box<[Counter]>,
    count: Counter,
    sum: Counter,
}

/// Bounds `start * factor^n`, computed as Prometheus' client for Go does it: the labels are the same.
fn exponential(start: f64, factor: f64, count: usize) -> Box<[f64]> {
    std::iter::successors(Some(start), |bound| Some(bound * factor)).take(count).collect()
}

impl Histogram {
    fn of(bounds: Box<[f64]>, units_per_one: f64) -> Histogram {
        let buckets = bounds.iter().map(|_| Counter::default()).collect();
        Histogram { bounds, units_per_one, buckets, count: Counter::default(), sum: Counter::default() }
    }

    /// Durations in seconds: `count` buckets that double from `start_s`, and the one above them all.
    #[must_use]
    pub fn seconds(start_s: f64, count: usize) -> Histogram {
        Histogram::of(exponential(start_s, 2.0, count), 1e9)
    }

    /// Durations in milliseconds.
    #[must_use]
    pub fn milliseconds(start_ms: f64, count: usize) -> Histogram {
        Histogram::of(exponential(start_ms, 2.0, count), 1e6)
    }

    /// Plain numbers.
    #[must_use]
    pub fn numbers(start: f64, count: usize) -> Histogram {
        Histogram::of(exponential(start, 2.0, count), 1.0)
    }

    /// Records a duration; only from the thread that owns the shard.
    pub fn record(&self, took: Duration) {
        self.record_ns(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Records a duration in nanoseconds; only from the thread that owns the shard.
    pub fn record_ns(&self, ns: u64) {
        self.record_units(ns);
    }

    /// Records a value in its small unit; only from the thread that owns the shard.
    pub fn record_units(&self, value: u64) {
        self.count.add(1);
        self.sum.add(value);
        let value = value as f64 / self.units_per_one;
        if let Some(bucket) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket].add(1);
        }
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum.get() as f64 / self.units_per_one
    }
}
