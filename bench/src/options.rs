//! What to run.

use std::time::Duration;

use crate::BenchError;
use crate::recorder::Call;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Puts to random keys.
    Put,
    /// Linearizable gets of random keys.
    Get,
    /// Serializable gets of random keys.
    SerializableGet,
    /// Ranges of 100 neighbouring keys.
    Range,
    /// Ranges of 10 000 neighbouring keys.
    Range10000,
    /// Counts of all keys, now.
    Count,
    /// Counts of all keys as they were 1000 revisions ago.
    CountOld,
    /// Compare-and-put transactions on random keys: mod revision known, as Kubernetes updates objects.
    Txn,
    /// Deletes of keys that are there, each put back at once: an operation is the pair, its latency is the delete's.
    Delete,
    /// Renewals of `leases` leases, each lane over a stream of its own.
    Lease,
    /// Puts that `watchers` watchers of the whole key space see; an operation is an event delivered.
    Watch,
    /// What an API server does: guarded updates by mod revision, gets, paged lists at a revision, objects created with
    /// a lease and deleted, renewals, and `watchers` watches on prefixes. An operation is a request.
    Kubernetes,
}

impl Workload {
    /// All of them with their names, in the order of tables.
    pub const ALL: [(Workload, &'static str); 12] = [
        (Workload::Put, "put"),
        (Workload::Get, "get"),
        (Workload::SerializableGet, "serializable-get"),
        (Workload::Range, "range"),
        (Workload::Range10000, "range-10000"),
        (Workload::Count, "count"),
        (Workload::CountOld, "count-old"),
        (Workload::Txn, "txn"),
        (Workload::Delete, "delete"),
        (Workload::Lease, "lease"),
        (Workload::Watch, "watch"),
        (Workload::Kubernetes, "kubernetes"),
    ];

    /// From its name on the command line.
    #[must_use]
    pub fn parse(name: &str) -> Option<Workload> {
        Self::ALL.into_iter().find(|(_, own)| *own == name).map(|(workload, _)| workload)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(workload, _)| *workload == self).map_or("", |(_, name)| name)
    }

    /// Keys of one range.
    pub(crate) fn range_keys(self) -> u64 {
        if self == Workload::Range10000 { 10_000 } else { 100 }
    }

    /// The calls that are its operations.
    pub(crate) fn counted(self) -> fn(Call) -> bool {
        match self {
            Workload::Watch => |call| call == Call::Event,
            Workload::Kubernetes => |call| call != Call::Event,
            _ => |_| true,
        }
    }

    pub(crate) fn has_watchers(self) -> bool {
        matches!(self, Workload::Watch | Workload::Kubernetes)
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// HOST:PORT of the server; several with commas between them are members of a cluster, over which connections are spread.
    pub endpoint: String,
    /// What to do.
    pub workload: Workload,
    /// Connections.
    pub connections: usize,
    /// Calls under way on each, at most.
    pub in_flight: usize,
    /// Operations a second, at fixed moments; none: each lane begins the next one when the last has ended.
    pub rate: Option<f64>,
    /// Size of the key space; all of it is put before the run where `preload` says so.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Put all keys first.
    pub preload: bool,
    /// Leave the keys that were put.
    pub keep: bool,
    /// Not measured, first.
    pub warm_up: Duration,
    /// Rounds measured, one after the other without a pause.
    pub rounds: usize,
    /// Length of each.
    pub duration: Duration,
    /// Watchers of a watch or kubernetes run.
    pub watchers: usize,
    /// Leases of a lease run.
    pub leases: usize,
    /// How often the history is compacted, up to the revision at the time before; none: never.
    pub compact_every: Option<Duration>,
    /// The server's processes, for their CPU and memory together; none: not looked at.
    pub server_pids: Vec<u32>,
    /// Seed of the random keys.
    pub seed: u64,
}

/// Most connections, and most calls under way on each: descriptors and memory of this process.
const LANES_MAX: usize = 65_536;
/// Longest run, warm-up or pause.
const TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

impl Options {
    /// 10 connections with 10 calls each, 100 000 keys with values of 256 bytes.
    #[must_use]
    pub fn new(endpoint: impl Into<String>, workload: Workload) -> Options {
        Options {
            endpoint: endpoint.into(),
            workload,
            connections: 10,
            in_flight: 10,
            rate: None,
            keys: 100_000,
            value_bytes: 256,
            preload: true,
            keep: false,
            warm_up: Duration::from_secs(2),
            rounds: 1,
            duration: Duration::from_secs(10),
            watchers: 100,
            leases: 1_000,
            compact_every: None,
            server_pids: Vec::new(),
            seed: 1,
        }
    }

    /// The n-th connection's.
    pub(crate) fn endpoint_of(&self, connection: usize) -> &str {
        let count = self.endpoint.split(',').count();
        self.endpoint.split(',').nth(connection % count).unwrap_or_default()
    }

    pub(crate) fn lanes(&self) -> usize {
        self.connections * self.in_flight
    }

    pub(crate) fn check(&self) -> Result<(), BenchError> {
        let refuse = |why| Err(BenchError::Options(why));
        if self.connections == 0 || self.in_flight == 0 || self.keys == 0 || self.duration.is_zero() || self.rounds == 0
        {
            return refuse("connections, calls in flight, keys, rounds and duration must be above 0");
        }
        if self.connections.saturating_mul(self.in_flight) > LANES_MAX || self.watchers > LANES_MAX {
            return refuse("at most 65536 calls in flight over all connections, and as many watchers");
        }
        if self.rounds > 1_000 || self.duration > TIME_MAX || self.warm_up > TIME_MAX {
            return refuse("at most 1000 rounds, and 24 hours each");
        }
        if self.rate.is_some_and(|rate| !(0.001..=1e7).contains(&rate)) {
            return refuse("the rate must be between 0.001 and 10000000 operations a second");
        }
        if self.workload.has_watchers() && self.watchers == 0 {
            return refuse("this run needs watchers");
        }
        if self.workload == Workload::Lease && !(1..=1_000_000).contains(&self.leases) {
            return refuse("a lease run needs 1 to 1000000 leases");
        }
        if self.compact_every.is_some_and(|interval| interval < Duration::from_millis(10)) {
            return refuse("a compaction each 10ms at most");
        }
        if self.value_bytes > 1 << 20 {
            return refuse("values of 1 MiB at most: etcd takes requests of 1.5 MiB");
        }
        Ok(())
    }
}
