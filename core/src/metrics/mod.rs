//! What is counted: each shard writes its own cells, /metrics adds them up.

mod cells;
mod exposition;

use std::sync::atomic::AtomicU64;

pub use cells::{Counter, Histogram};
pub use exposition::{Exposition, Labels};

/// The kinds of request that etcd tells apart in its latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Range.
    Range,
    /// A transaction of ranges only.
    ReadonlyTxn,
    /// Put.
    Put,
    /// DeleteRange.
    DeleteRange,
    /// A transaction that writes.
    Txn,
    /// Compact.
    Compaction,
    /// LeaseGrant.
    LeaseGrant,
    /// LeaseRevoke, by a client.
    LeaseRevoke,
    /// Alarm.
    Alarm,
}

impl Operation {
    /// All of them.
    pub const ALL: [Operation; 9] = [
        Operation::Range,
        Operation::ReadonlyTxn,
        Operation::Put,
        Operation::DeleteRange,
        Operation::Txn,
        Operation::Compaction,
        Operation::LeaseGrant,
        Operation::LeaseRevoke,
        Operation::Alarm,
    ];

    /// Its label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Range => "Range",
            Operation::ReadonlyTxn => "ReadonlyTxn",
            Operation::Put => "Put",
            Operation::DeleteRange => "DeleteRange",
            Operation::Txn => "Txn",
            Operation::Compaction => "Compaction",
            Operation::LeaseGrant => "LeaseGrant",
            Operation::LeaseRevoke => "LeaseRevoke",
            Operation::Alarm => "Alarm",
        }
    }
}

/// Latencies of one kind of request; the second of each pair is of those that succeeded.
#[derive(Debug)]
pub struct OperationTimes {
    /// From its coming in to its answer.
    pub request: [Histogram; 2],
    /// From its commit to its being visible: the batch that it was applied in.
    pub apply: [Histogram; 2],
}

/// What one shard counts of the store's work.
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
    /// Bytes of keys and values that were put.
    pub put_bytes: Counter,
    /// Leases granted.
    pub leases_granted: Counter,
    /// TTLs granted, in seconds.
    pub lease_ttls: Histogram,
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
    /// Time of one snapshot, as its client sees it.
    pub snapshots: Histogram,
    /// Snapshots under way: roots that stay pinned.
    pub snapshots_open: AtomicU64,
    /// Events that compactions removed.
    pub compacted_events: Counter,
    /// When a compaction was last cleaned up behind, in seconds since 1970; 0: not in this life.
    pub compaction_last_s: AtomicU64,
    /// Time of cleaning up behind one compaction.
    pub compaction: Histogram,
    /// Time of Hash.
    pub hash: Histogram,
    /// Time of HashKV.
    pub hash_kv: Histogram,
    /// Latencies by kind of request.
    pub operations: [OperationTimes; Operation::ALL.len()],
    /// Time of reading for a Range; the second is of those that succeeded.
    pub range: [Histogram; 2],
    /// Requests that were applied, or read, for longer than is expected.
    pub slow_applies: Counter,
    /// Slow requests by the stage that held them up ([`crate::shard::stages::Stage`]).
    pub slow_stages: [Counter; SLOW_STAGES],
    /// Major page faults of its thread.
    pub major_faults: AtomicU64,
    /// Its watches now.
    pub watches: WatchFigures,
}

/// Stages that a slow request can be held up by.
pub const SLOW_STAGES: usize = 9;

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
    /// Bytes of these.
    pub pending_bytes: AtomicU64,
}

fn pair(histogram: impl Fn() -> Histogram) -> [Histogram; 2] {
    [histogram(), histogram()]
}

impl Default for ShardMetrics {
    fn default() -> ShardMetrics {
        ShardMetrics {
            ranges: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            put_bytes: Counter::default(),
            leases_granted: Counter::default(),
            lease_ttls: Histogram::numbers(1.0, 24),
            leases_revoked: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            events: Counter::default(),
            wal_bytes: Counter::default(),
            wal_fsync: Histogram::seconds(0.001, 14),
            backend_commit: Histogram::seconds(0.001, 14),
            snapshots: Histogram::seconds(0.01, 17),
            snapshots_open: AtomicU64::new(0),
            compacted_events: Counter::default(),
            compaction_last_s: AtomicU64::new(0),
            compaction: Histogram::milliseconds(100.0, 14),
            hash: Histogram::seconds(0.01, 15),
            hash_kv: Histogram::seconds(0.01, 15),
            operations: Operation::ALL.map(|_| OperationTimes {
                request: pair(|| Histogram::seconds(0.001, 14)),
                apply: pair(|| Histogram::seconds(0.0001, 20)),
            }),
            range: pair(|| Histogram::seconds(0.0001, 20)),
            slow_applies: Counter::default(),
            slow_stages: std::array::from_fn(|_| Counter::default()),
            major_faults: AtomicU64::new(0),
            watches: WatchFigures::default(),
        }
    }
}
