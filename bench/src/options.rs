//! What to run.

use std::time::Duration;

use crate::BenchError;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Puts to random keys.
    Put,
    /// Linearizable gets of random keys.
    Get,
    /// Compare-and-put transactions on random keys: mod revision known, as Kubernetes updates objects.
    Txn,
    /// Ranges of 100 neighbouring keys.
    Range,
    /// Puts that `watchers` watchers of the whole key space see; an operation is an event delivered.
    Watch,
}

impl Workload {
    /// From its name on the command line.
    #[must_use]
    pub fn parse(name: &str) -> Option<Workload> {
        Some(match name {
            "put" => Workload::Put,
            "get" => Workload::Get,
            "txn" => Workload::Txn,
            "range" => Workload::Range,
            "watch" => Workload::Watch,
            _ => return None,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Txn => "txn",
            Workload::Range => "range",
            Workload::Watch => "watch",
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// HOST:PORT of the server.
    pub endpoint: String,
    /// What to do.
    pub workload: Workload,
    /// Connections.
    pub connections: usize,
    /// Calls under way on each.
    pub in_flight: usize,
    /// Size of the key space; all of it is put before the run where `preload` says so.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Put all keys first.
    pub preload: bool,
    /// Not measured, first.
    pub warm_up: Duration,
    /// Measured.
    pub duration: Duration,
    /// Watchers of a watch run.
    pub watchers: usize,
    /// The server, for its CPU and memory.
    pub server_pid: Option<u32>,
    /// Seed of the random keys.
    pub seed: u64,
}

impl Options {
    /// The issue's own setting: 10 connections with 10 calls each, values of 256 bytes.
    #[must_use]
    pub fn new(endpoint: impl Into<String>, workload: Workload) -> Options {
        Options {
            endpoint: endpoint.into(),
            workload,
            connections: 10,
            in_flight: 10,
            keys: 100_000,
            value_bytes: 256,
            preload: true,
            warm_up: Duration::from_secs(2),
            duration: Duration::from_secs(10),
            watchers: 100,
            server_pid: None,
            seed: 1,
        }
    }

    pub(crate) fn check(&self) -> Result<(), BenchError> {
        if self.connections == 0 || self.in_flight == 0 || self.keys == 0 || self.duration.is_zero() {
            return Err(BenchError::Options("connections, calls in flight, keys and duration must be above 0"));
        }
        if self.workload == Workload::Watch && self.watchers == 0 {
            return Err(BenchError::Options("a watch run needs watchers"));
        }
        Ok(())
    }
}
