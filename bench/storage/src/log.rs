//! The log's group commit beside what a program does that has no log: write the bytes, fdatasync.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use ringstone_wal::disk::ring::SyncWay;
use ringstone_wal::sync_probe::sync_probe;

use crate::process_cpu_us;
use crate::table::median;

/// Bytes of a record: a put of 256 bytes with its key and envelope.
const RECORD_BYTES: usize = 350;
const BLOCK_BYTES: usize = 4096;
/// A file that is written over and over, as a recycled segment is.
const FILE_BYTES: u64 = 64 << 20;

struct Measured {
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

fn summary(mut nanos: Vec<u64>, cpu_us: f64) -> Measured {
    nanos.sort_unstable();
    let at = |part: f64| nanos[((nanos.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    Measured { p50_us: at(0.5), p99_us: at(0.99), cpu_us: cpu_us / nanos.len() as f64 }
}

fn plain(file: &File, syncs: usize, bytes: usize) -> anyhow::Result<Measured> {
    let buffer = vec![0xA5; bytes];
    let mut nanos = Vec::with_capacity(syncs);
    let cpu = process_cpu_us();
    for index in 0..syncs as u64 {
        let began = Instant::now();
        file.write_all_at(&buffer, index * bytes as u64 % (FILE_BYTES - bytes as u64))?;
        file.sync_data()?;
        nanos.push(began.elapsed().as_nanos() as u64);
    }
    Ok(summary(nanos, process_cpu_us() - cpu))
}

fn log(dir: &Path, syncs: usize, bytes: usize, way: SyncWay) -> anyhow::Result<Option<Measured>> {
    let cpu = process_cpu_us();
    let probe = sync_probe(dir, syncs, bytes, Some(way))?;
    // Making and removing its folder and segments is in it: a few milliseconds of all.
    let cpu = process_cpu_us() - cpu;
    Ok((probe.way == way).then(|| summary(probe.latencies_nanos, cpu)))
}

/// Measures and prints.
pub fn run(dir: &Path, syncs: usize) -> anyhow::Result<()> {
    let path = tempfile::Builder::new().prefix("storage-bench").tempfile_in(dir)?.into_temp_path();
    let file = OpenOptions::new().write(true).open(&path).context("the file to be synced")?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()?;
    println!("| records a batch | write + fdatasync: p50 us, p99, CPU | log, linked fdatasync | log, RWF_DSYNC |");
    println!("|---|---|---|---|");
    for records in [1, 10, 100] {
        let bytes = (records * RECORD_BYTES).next_multiple_of(BLOCK_BYTES);
        let mut rounds: [Vec<Measured>; 3] = Default::default();
        for _ in 0..3 {
            rounds[0].push(plain(&file, syncs, bytes)?);
            rounds[1].extend(log(dir, syncs, bytes, SyncWay::WriteFdatasync)?);
            rounds[2].extend(log(dir, syncs, bytes, SyncWay::DirectDsync)?);
        }
        let cells = rounds.iter().map(|round| {
            if round.is_empty() {
                return "not here".to_owned();
            }
            let of = |figure: fn(&Measured) -> f64| median(round.iter().map(figure).collect());
            format!("{:.0}, {:.0}, {:.0}", of(|m| m.p50_us), of(|m| m.p99_us), of(|m| m.cpu_us))
        });
        println!("| {records} ({bytes} bytes) | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    Ok(())
}
