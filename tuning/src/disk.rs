//! Is this disk fast enough for a log? Syncs are timed through the log's own code, both ways, and beside them the recipe
//! that etcd's hardware page gives (fio: writes of 2 300 bytes with fdatasync behind each).

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringstone_wal::WalError;
use ringstone_wal::disk::ring::SyncWay;
use serde::Serialize;

/// etcd's advice: 99 of 100 syncs below 10 ms.
pub const SYNC_P99_US_MAX: f64 = 10_000.0;
/// Bytes of a write of etcd's recipe (fio --bs=2300).
const ETCD_WRITE_BYTES: usize = 2_300;
/// Bytes of a batch of the log: one block.
const BATCH_BYTES: usize = 4_096;
/// Longest latency that is told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// The recipe's file, removed after.
const RECIPE_FILE: &str = "sync-probe-recipe";

/// Why a disk could not be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The log's way.
    #[error("the log's probe failed in {folder}: {cause}")]
    Log {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        cause: WalError,
    },
    /// etcd's recipe.
    #[error("can't {what} {path}: {cause}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
}

/// How syncs were done, and what they took.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The way, in words.
    pub way: &'static str,
    /// Syncs measured.
    pub syncs: u64,
    /// Latency in microseconds: median.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// Processor time of the calling thread a sync, in microseconds. The kernel's own workers are not in it: a way that
    /// hands its sync to one of them costs more than this.
    pub thread_cpu_us: f64,
}

impl Measured {
    fn new(way: &'static str, latencies_ns: impl IntoIterator<Item = u64>, cpu_ns: u64) -> Measured {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order");
        for latency in latencies_ns {
            histogram.saturating_record(latency.max(1));
        }
        let us = |ns: u64| ns as f64 / 1e3;
        Measured {
            way,
            syncs: histogram.len(),
            p50_us: us(histogram.value_at_quantile(0.5)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            max_us: us(histogram.max()),
            thread_cpu_us: us(cpu_ns) / histogram.len().max(1) as f64,
        }
    }
}

/// All ways on one disk.
#[derive(Clone, Debug, Serialize)]
pub struct DiskReport {
    /// Where.
    pub folder: PathBuf,
    /// The way that `serve` takes here by these figures.
    pub log: Measured,
    /// The log's other way, where the file system has both.
    pub other: Option<Measured>,
    /// etcd's recipe.
    pub recipe: Measured,
}

/// Is the disk good for a member?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// 99 of 100 syncs of the log are below 10 ms.
    Good,
    /// They are not.
    TooSlow,
}

impl DiskReport {
    /// By the way that `serve` takes, and etcd's advice.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        // Not `>=`: a figure that is no number is no proof of a good disk.
        if self.log.p99_us < SYNC_P99_US_MAX { Verdict::Good } else { Verdict::TooSlow }
    }
}

impl fmt::Display for DiskReport {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "sync latency in {}", self.folder.display())?;
        writeln!(
            to,
            "{:<46} {:>6} {:>9} {:>9} {:>9} {:>12}",
            "", "syncs", "p50 us", "p99 us", "max us", "CPU us/sync"
        )?;
        for measured in std::iter::once(&self.log).chain(&self.other).chain([&self.recipe]) {
            writeln!(
                to,
                "{:<46} {:>6} {:>9.0} {:>9.0} {:>9.0} {:>12.1}",
                measured.way, measured.syncs, measured.p50_us, measured.p99_us, measured.max_us, measured.thread_cpu_us
            )?;
        }
        writeln!(to, "CPU is the calling thread's: kernel workers that do a sync for it are not in it.")?;
        let p99_ms = self.log.p99_us / 1e3;
        match self.verdict() {
            Verdict::Good => write!(
                to,
                "Good: serve will sync by \"{}\"; 99 of 100 syncs end within {p99_ms:.2} ms (advice: below 10 ms).",
                self.log.way
            ),
            Verdict::TooSlow => write!(
                to,
                "Too slow: 1 sync of 100 takes longer than {p99_ms:.2} ms, and the advice is below 10 ms. Every write waits \
                 for such a sync, and slow ones cost elections. Use a local SSD, or a disk that nothing else writes to."
            ),
        }
    }
}

fn name(way: SyncWay) -> &'static str {
    match way {
        SyncWay::DirectDsync => "log: O_DIRECT with RWF_DSYNC, 4 KiB",
        SyncWay::WriteFdatasync => "log: write and linked fdatasync, 4 KiB",
    }
}

/// Measures `syncs` syncs each way in `folder`. Blocks for their time. The files that it makes are removed.
///
/// # Errors
/// [`ProbeError`]: the folder can't be written, or io_uring can't be used. A file of the probe may stay then.
pub fn probe(folder: &Path, syncs: usize) -> Result<DiskReport, ProbeError> {
    let (way, first) = log_way(folder, syncs, None)?;
    let (log, other) = match way {
        SyncWay::DirectDsync => {
            let linked = log_way(folder, syncs, Some(SyncWay::WriteFdatasync))?.1;
            match ringstone_wal::better(first.p50_us, linked.p50_us) {
                SyncWay::DirectDsync => (first, Some(linked)),
                SyncWay::WriteFdatasync => (linked, Some(first)),
            }
        }
        // The file system has no O_DIRECT.
        SyncWay::WriteFdatasync => (first, None),
    };
    let recipe = recipe(folder, syncs)?;
    Ok(DiskReport { folder: folder.to_owned(), log, other, recipe })
}

fn log_way(folder: &Path, syncs: usize, way: Option<SyncWay>) -> Result<(SyncWay, Measured), ProbeError> {
    let probed = ringstone_wal::sync_probe(folder, syncs, BATCH_BYTES, way);
    let probed = probed.map_err(|cause| ProbeError::Log { folder: folder.to_owned(), cause })?;
    let measured = Measured::new(name(probed.way), probed.latencies_nanos, probed.thread_cpu_nanos);
    Ok((probed.way, measured))
}

/// Writes of 2 300 bytes to a growing file, with fdatasync behind each.
fn recipe(folder: &Path, syncs: usize) -> Result<Measured, ProbeError> {
    let path = folder.join(RECIPE_FILE);
    let fail = |what| {
        let path = path.clone();
        move |cause| ProbeError::Io { what, path, cause }
    };
    let mut file = File::create(&path).map_err(fail("create"))?;
    let result = write_and_sync(&mut file, syncs).map_err(fail("write to"));
    let removed = std::fs::remove_file(&path).map_err(fail("remove"));
    let measured = result?;
    removed.map(|()| measured)
}

fn write_and_sync(file: &mut File, syncs: usize) -> std::io::Result<Measured> {
    let bytes = [0x5a; ETCD_WRITE_BYTES];
    let mut latencies = Vec::with_capacity(syncs);
    let cpu = thread_cpu();
    for _ in 0..syncs {
        file.write_all(&bytes)?;
        let began = Instant::now();
        // SAFETY: the descriptor is open, and no memory is involved.
        if unsafe { libc::fdatasync(file.as_raw_fd()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        latencies.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let cpu_ns = u64::try_from((thread_cpu() - cpu).as_nanos()).unwrap_or(u64::MAX);
    Ok(Measured::new("etcd's recipe: 2300-byte write, then fdatasync", latencies, cpu_ns))
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(p99_us: f64) -> Measured {
        Measured { way: "a way", syncs: 100, p50_us: 90.0, p99_us, max_us: 99_000.0, thread_cpu_us: 17.25 }
    }

    fn report(p99_us: f64) -> DiskReport {
        DiskReport { folder: "/data".into(), log: measured(p99_us), other: None, recipe: measured(1.0) }
    }

    #[test]
    fn the_logs_own_p99_decides() {
        assert_eq!(report(9_999.9).verdict(), Verdict::Good);
        assert_eq!(report(10_000.0).verdict(), Verdict::TooSlow);
        assert_eq!(report(f64::NAN).verdict(), Verdict::TooSlow);
        // The recipe and the slowest sync do not.
        let mut other = report(500.0);
        other.recipe = measured(50_000.0);
        assert_eq!(other.verdict(), Verdict::Good);
    }

    #[test]
    fn the_text_says_what_was_found_and_what_to_do() {
        let good = report(1_234.0).to_string();
        assert!(good.contains("sync latency in /data") && good.contains("within 1.23 ms"), "{good}");
        assert!(good.contains("17.2") && good.contains("99000"), "{good}");
        let slow = report(25_000.0).to_string();
        assert!(slow.contains("Too slow: 1 sync of 100 takes longer than 25.00 ms"), "{slow}");
        assert!(slow.contains("local SSD"), "{slow}");
    }

    #[test]
    fn quantiles_are_of_the_latencies() {
        let measured = Measured::new("x", (1..=100u64).map(|us| us * 1_000), 300_000);
        assert!((measured.p50_us - 50.0).abs() < 0.1 && (measured.p99_us - 99.0).abs() < 0.1, "{measured:?}");
        assert!((measured.max_us - 100.0).abs() < 0.1 && (measured.thread_cpu_us - 3.0).abs() < 1e-9, "{measured:?}");
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let report = probe(folder.path(), 20).expect("this machine has io_uring");
        assert_eq!((report.log.syncs, report.recipe.syncs), (20, 20));
        assert!(report.log.p50_us > 0.0 && report.recipe.p99_us >= report.recipe.p50_us);
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = probe(Path::new("/nonexistent/folder"), 1).expect_err("no folder");
        assert!(error.to_string().contains("/nonexistent/folder"), "{error}");
    }
}
