//! What the tests share: small logs, owned records, a loop.

#![allow(dead_code, reason = "each test file uses its part")]

use ringstone_wal::disk::Disk;
use ringstone_wal::{Identity, Kind, Log, Options, Outcome, Record, Recovered, WalError, run_until_idle};

pub const IDENTITY: Identity = Identity([5; 16]);

/// A record that owns its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub group: u32,
    pub kind: Kind,
    pub term: u64,
    pub index: u64,
    pub payload: Vec<u8>,
}

impl Owned {
    pub fn borrow(&self) -> Record<'_> {
        Record { group: self.group, kind: self.kind, term: self.term, index: self.index, payload: &self.payload }
    }
}

impl From<Record<'_>> for Owned {
    fn from(record: Record<'_>) -> Owned {
        Owned {
            group: record.group,
            kind: record.kind,
            term: record.term,
            index: record.index,
            payload: record.payload.to_vec(),
        }
    }
}

pub fn entry(index: u64, bytes: usize) -> Owned {
    let payload = (0..bytes).map(|at| (at as u64 ^ index.wrapping_mul(31)) as u8).collect();
    Owned { group: 1, kind: Kind::Entry, term: 1 + index / 10, index, payload }
}

pub fn record(kind: Kind, index: u64, payload: &[u8]) -> Owned {
    Owned { group: 1, kind, term: 1, index, payload: payload.to_vec() }
}

/// Segments of 16 blocks, filled in slices of two.
pub fn small() -> Options {
    Options {
        create: true,
        segment_bytes: 64 << 10,
        batch_bytes_max: 32 << 10,
        fill_slice_bytes: 8 << 10,
        spare_segments: 1,
        ..Options::new(IDENTITY)
    }
}

pub fn open(disk: &mut dyn Disk, options: Options) -> Result<(Log, Recovered, Vec<Owned>), WalError> {
    let mut records = Vec::new();
    let (log, recovered) = Log::open(disk, options, &mut |record| records.push(record.into()))?;
    Ok((log, recovered, records))
}

/// Appends one batch and syncs it.
pub fn write(disk: &mut dyn Disk, log: &mut Log, records: &[Owned]) -> Result<(), WalError> {
    for record in records {
        log.append(record.borrow())?;
    }
    run_until_idle(disk, log)
}

pub fn close(disk: &mut dyn Disk, log: &mut Log) -> Result<(), WalError> {
    log.close();
    run_until_idle(disk, log)
}

pub fn is_torn(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::TornTail { .. })
}
