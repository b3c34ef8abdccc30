//! How long does a sync take here? Measured through the log's own code, so that the answer is the log's latency.

use crate::disk::Disk;
use crate::disk::ring::{RingDisk, SyncWay};
use crate::drive::run_until_idle;
use crate::error::WalError;
use crate::format::{BLOCK_PAYLOAD_BYTES, Identity, RecordLayout};
use crate::log::Log;
use crate::options::Options;
use crate::record::{Kind, Record};
use std::path::Path;
use std::time::Instant;

/// What was measured.
#[derive(Clone, Debug)]
pub struct SyncProbe {
    /// How writes were synced.
    pub way: SyncWay,
    /// Nanoseconds from the last append to the proof of the sync, one for each batch, in order.
    pub latencies_nanos: Vec<u64>,
    /// Processor time of the calling thread, system time included, for all batches; the kernel's workers are not in it.
    pub thread_cpu_nanos: u64,
}

/// Writes `iterations` batches of about `batch_bytes` bytes (4096 gives exactly one block) one after the other into a
/// log of its own below `directory`, and removes it. `None` measures the way that the log would choose.
///
/// # Errors
/// [`WalError`], as for a log. What could not be removed stays in `directory`/`sync-probe`.
pub fn sync_probe(
    directory: &Path,
    iterations: usize,
    batch_bytes: usize,
    way: Option<SyncWay>,
) -> Result<SyncProbe, WalError> {
    let folder = directory.join("sync-probe");
    let fail = |error: std::io::Error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        WalError::from(crate::disk::DiskError { operation: "create the probe's folder in", file: None, errno })
    };
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(fail)?;
    }
    std::fs::create_dir(&folder).map_err(fail)?;
    let measured = measure(&folder, iterations, batch_bytes, way);
    let removed = std::fs::remove_dir_all(&folder).map_err(fail);
    let measured = measured?;
    removed.map(|()| measured)
}

fn measure(folder: &Path, iterations: usize, batch_bytes: usize, way: Option<SyncWay>) -> Result<SyncProbe, WalError> {
    let mut disk = RingDisk::open(folder, way)?;
    let blocks = batch_bytes.div_ceil(crate::format::BLOCK_BYTES).max(1);
    let payload = vec![0xA5; blocks * BLOCK_PAYLOAD_BYTES - RecordLayout::BYTES];
    let segment_bytes = (16 << 20).max((blocks as u64 + 8) * 4096 * 8);
    let options = Options { create: true, segment_bytes, ..Options::new(Identity(*b"sync probe      ")) };
    let (mut log, _) = Log::open(&mut disk, options, &mut |_| {})?;
    let holder = log.register_holder("probe", 0, 0);
    run_until_idle(&mut disk, &mut log)?;
    let mut latencies_nanos = Vec::with_capacity(iterations);
    let mut thread_cpu_nanos = 0;
    for index in 1..=iterations as u64 {
        let (start, cpu) = (Instant::now(), thread_cpu());
        let batch = log.append(Record { group: 0, kind: Kind::Entry, term: 0, index, payload: &payload })?;
        while log.synced() < batch {
            step(&mut disk, &mut log)?;
        }
        latencies_nanos.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        thread_cpu_nanos += thread_cpu() - cpu;
        log.release(holder, index);
        // The next segment is prepared between measurements, not within.
        run_until_idle(&mut disk, &mut log)?;
    }
    Ok(SyncProbe { way: disk.sync_way(), latencies_nanos, thread_cpu_nanos })
}

fn step(disk: &mut RingDisk, log: &mut Log) -> Result<(), WalError> {
    while let Some((token, io)) = log.poll_io() {
        disk.submit(token, io);
    }
    // Submits, too: one system call for both.
    disk.wait()?;
    while let Some(completion) = disk.poll_completion() {
        log.completed(completion);
    }
    log.failure().map_or(Ok(()), |failure| Err(failure.clone()))
}

fn thread_cpu() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
