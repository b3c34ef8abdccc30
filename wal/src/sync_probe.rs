//! How long does a sync take here, and which way is the better one? Measured through the log's own code, so that the
//! answer is the log's latency. What the file system can do is not enough to choose by: without FUA a direct write's flush
//! may take many times what a linked fdatasync takes (docs/decisions/0009-way-to-sync.md).

use crate::disk::Disk;
use crate::disk::ring::{RingDisk, SyncWay};
use crate::drive::run_until_idle;
use crate::error::WalError;
use crate::format::{BLOCK_PAYLOAD_BYTES, Identity, RecordLayout};
use crate::log::Log;
use crate::options::Options;
use crate::record::{Kind, Record};
use std::path::Path;
use std::time::{Duration, Instant};

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
    let bounds = Bounds { iterations, batch_bytes, segment_bytes: SEGMENT_BYTES, time: Duration::MAX };
    in_folder(directory, &bounds, way)
}

/// Segments of a probe: what is measured is the sync, and not how a segment is filled with zeros.
const SEGMENT_BYTES: u64 = 16 << 20;
const SEGMENT_BYTES_SHORT: u64 = 512 << 10;
/// Syncs each way of the probe at start, and the longest time for them: a start on a slow disk is not held up by it.
const CHOICE_SYNCS: usize = 24;
const CHOICE_TIME: Duration = Duration::from_millis(30);
/// How much longer a direct sync may take and still be chosen: it costs a third of the CPU, and a batch that takes longer
/// to sync is a larger one.
const DIRECT_MAY_TAKE: f64 = 1.5;

struct Bounds {
    iterations: usize,
    batch_bytes: usize,
    segment_bytes: u64,
    time: Duration,
}

/// The way to sync for a log, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The way.
    pub way: SyncWay,
    /// Lower quartile in microseconds of a direct write with RWF_DSYNC; none where the file system has no O_DIRECT. A
    /// quartile, not the median: what other work on the machine adds to a sync says nothing of the disk.
    pub direct_us: Option<f64>,
    /// The same of a write with a linked fdatasync; none where nothing was timed.
    pub fdatasync_us: Option<f64>,
}

/// The better of the two ways by their latencies, in any unit.
#[must_use]
pub fn better(direct: f64, fdatasync: f64) -> SyncWay {
    if direct <= fdatasync * DIRECT_MAY_TAKE { SyncWay::DirectDsync } else { SyncWay::WriteFdatasync }
}

/// Times both ways in a log of its own below `directory`, which is removed: up to two dozen syncs each, in about 60 ms at most. Where
/// the file system has no O_DIRECT there is nothing to choose, and nothing is timed.
///
/// # Errors
/// [`WalError`]: the probe could not write, as on a full disk. The log itself may be sound: take what the file system can.
pub fn choose_way(directory: &Path) -> Result<Choice, WalError> {
    let bounds = Bounds {
        iterations: CHOICE_SYNCS,
        batch_bytes: crate::format::BLOCK_BYTES,
        segment_bytes: SEGMENT_BYTES_SHORT,
        time: CHOICE_TIME,
    };
    let direct = in_folder(directory, &bounds, None)?;
    if direct.way == SyncWay::WriteFdatasync {
        return Ok(Choice { way: direct.way, direct_us: None, fdatasync_us: Some(direct.quartile_us()) });
    }
    let linked = in_folder(directory, &bounds, Some(SyncWay::WriteFdatasync))?;
    let (direct_us, fdatasync_us) = (direct.quartile_us(), linked.quartile_us());
    Ok(Choice { way: better(direct_us, fdatasync_us), direct_us: Some(direct_us), fdatasync_us: Some(fdatasync_us) })
}

impl SyncProbe {
    /// A quarter of the latencies is at most this, in microseconds; 0 where nothing was measured.
    #[must_use]
    pub fn quartile_us(&self) -> f64 {
        let mut sorted = self.latencies_nanos.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 4).map_or(0.0, |&nanos| nanos as f64 / 1e3)
    }
}

fn in_folder(directory: &Path, bounds: &Bounds, way: Option<SyncWay>) -> Result<SyncProbe, WalError> {
    let folder = directory.join("sync-probe");
    let fail = |error: std::io::Error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        WalError::from(crate::disk::DiskError::plain("create the probe's folder in", None, errno))
    };
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(fail)?;
    }
    std::fs::create_dir(&folder).map_err(fail)?;
    let measured = measure(&folder, bounds, way);
    let removed = std::fs::remove_dir_all(&folder).map_err(fail);
    let measured = measured?;
    removed.map(|()| measured)
}

fn measure(folder: &Path, bounds: &Bounds, way: Option<SyncWay>) -> Result<SyncProbe, WalError> {
    let mut disk = RingDisk::open(folder, way)?;
    let blocks = bounds.batch_bytes.div_ceil(crate::format::BLOCK_BYTES).max(1);
    let payload = vec![0xA5; blocks * BLOCK_PAYLOAD_BYTES - RecordLayout::BYTES];
    let segment_bytes = bounds.segment_bytes.max((blocks as u64 + 8) * 4096 * 8);
    let options = Options { create: true, segment_bytes, ..Options::new(Identity(*b"sync probe      ")) };
    let (mut log, _) = Log::open(&mut disk, options, &mut |_| {})?;
    let holder = log.register_holder("probe", 0, 0);
    run_until_idle(&mut disk, &mut log)?;
    let mut latencies_nanos = Vec::with_capacity(bounds.iterations);
    let mut thread_cpu_nanos = 0;
    let began = Instant::now();
    for index in 1..=bounds.iterations as u64 {
        if index > 1 && began.elapsed() > bounds.time {
            break;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_sync_wins_unless_it_takes_much_longer() {
        assert_eq!(better(100.0, 100.0), SyncWay::DirectDsync);
        assert_eq!(better(149.0, 100.0), SyncWay::DirectDsync);
        assert_eq!(better(151.0, 100.0), SyncWay::WriteFdatasync);
        assert_eq!(better(f64::NAN, 100.0), SyncWay::WriteFdatasync);
    }
}
