//! The pager beside LMDB and redb, and the log beside plain write + fdatasync, in one run on one disk.
//!
//! Every store gets the same keys, values and batches; rounds are interleaved; what is printed is the median of the rounds
//! and, for CPU, user and system time of this process (the kernel's io_uring workers are threads of it, write-back is not).

mod log;
mod stores;
mod table;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use stores::{Durability, Store};

/// Key of an entry: 24 bytes.
fn key_of(number: u64) -> [u8; 24] {
    let mut key = *b"/registry/pods/000000000";
    let mut rest = number;
    for digit in key[15..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// xorshift64*: the same numbers for every store.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[derive(Parser)]
#[command(about = "The pager beside LMDB and redb, the log beside write + fdatasync")]
struct Arguments {
    /// Where the files go; the disk that is measured
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Entries in each store
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Rounds of each workload
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Entries of a batch of writes
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Batches of a round, each synced
    #[arg(long, default_value_t = 200)]
    synced_batches: usize,
    /// Batches of a round without a sync each; one at the end
    #[arg(long, default_value_t = 1_000)]
    batches: usize,
    /// Look-ups of a round
    #[arg(long, default_value_t = 200_000)]
    gets: usize,
    /// Scans of 100 entries of a round
    #[arg(long, default_value_t = 5_000)]
    scans: usize,
    /// Syncs of each size of a batch of the log
    #[arg(long, default_value_t = 500)]
    syncs: usize,
}

/// What one run of a workload took.
#[derive(Clone, Copy)]
pub struct Took {
    pub wall_us: f64,
    pub cpu_us: f64,
}

/// User and system time of this process in microseconds.
pub fn process_cpu_us() -> f64 {
    // SAFETY: an all-zero rusage is a valid place for the answer.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a value that lives through the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let us = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

fn timed(operations: usize, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Took> {
    let (began, cpu) = (Instant::now(), process_cpu_us());
    run()?;
    let operations = operations as f64;
    Ok(Took {
        wall_us: began.elapsed().as_secs_f64() * 1e6 / operations,
        cpu_us: (process_cpu_us() - cpu) / operations,
    })
}

struct Bench {
    arguments: Arguments,
    table: table::Table,
}

impl Bench {
    fn note(&mut self, workload: &'static str, store: &dyn Store, took: Took) {
        self.table.note(workload, store.name(), took);
    }

    fn load(&mut self, store: &mut dyn Store) -> anyhow::Result<()> {
        let (keys, value_bytes) = (self.arguments.keys, self.arguments.value_bytes);
        let took = timed(keys as usize, || {
            let (mut random, mut value) = (Random(1), vec![0; value_bytes]);
            store.load(&mut (0..keys), &mut |number, put| {
                random.fill(&mut value);
                put(&key_of(number), &value)
            })
        })?;
        self.note("bulk load, ascending, an entry", store, took);
        Ok(())
    }

    fn get(&mut self, store: &mut dyn Store, seed: u64) -> anyhow::Result<()> {
        let (keys, value_bytes, gets) = (self.arguments.keys, self.arguments.value_bytes, self.arguments.gets);
        let took = timed(gets, || {
            let mut random = Random(seed);
            for _ in 0..gets / 100 {
                let wanted: Vec<[u8; 24]> = (0..100).map(|_| key_of(random.next() % keys)).collect();
                let bytes = store.gets(&wanted)?;
                anyhow::ensure!(bytes == 100 * value_bytes, "{}: {bytes} bytes were read", store.name());
            }
            Ok(())
        })?;
        self.note("random read", store, took);
        Ok(())
    }

    fn scan(&mut self, store: &mut dyn Store, seed: u64) -> anyhow::Result<()> {
        let (keys, value_bytes, scans) = (self.arguments.keys, self.arguments.value_bytes, self.arguments.scans);
        let took = timed(scans, || {
            let mut random = Random(seed);
            for _ in 0..scans {
                let bytes = store.scan(&key_of(random.next() % (keys - 100)), 100)?;
                anyhow::ensure!(bytes == 100 * (24 + value_bytes), "{}: {bytes} bytes were scanned", store.name());
            }
            Ok(())
        })?;
        self.note("scan of 100", store, took);
        Ok(())
    }

    fn write(&mut self, store: &mut dyn Store, seed: u64, durability: Durability) -> anyhow::Result<()> {
        let (keys, value_bytes, batch) = (self.arguments.keys, self.arguments.value_bytes, self.arguments.batch);
        let (workload, batches) = match durability {
            Durability::EachBatch => ("random write, each batch synced, an entry", self.arguments.synced_batches),
            Durability::AtTheEnd => ("random write, synced at the end, an entry", self.arguments.batches),
        };
        store.reopen(durability)?;
        let took = timed(batches * batch, || {
            let mut random = Random(seed);
            let mut value = vec![0; value_bytes];
            for _ in 0..batches {
                let numbers: Vec<u64> = (0..batch).map(|_| random.next() % keys).collect();
                store.write(&mut |put| {
                    numbers.iter().try_for_each(|number| {
                        random.fill(&mut value);
                        put(&key_of(*number), &value)
                    })
                })?;
            }
            store.sync()
        })?;
        self.note(workload, store, took);
        Ok(())
    }

    fn stores(&mut self) -> anyhow::Result<()> {
        let folder = tempfile::Builder::new().prefix("storage-bench").tempdir_in(&self.arguments.dir)?;
        let mut stores = stores::all(folder.path()).context("the stores can't be made")?;
        for store in &mut stores {
            self.load(store.as_mut())?;
        }
        for round in 1..=self.arguments.rounds {
            for store in &mut stores {
                let store = store.as_mut();
                self.get(store, round * 7 + 1)?;
                self.scan(store, round * 11 + 1)?;
                self.write(store, round * 13 + 1, Durability::EachBatch)?;
                self.write(store, round * 17 + 1, Durability::AtTheEnd)?;
                eprintln!("round {round} {} done", store.name());
            }
        }
        println!(
            "{} keys of 24 bytes, values of {} bytes, batches of {}, {} rounds; medians\n",
            self.arguments.keys, self.arguments.value_bytes, self.arguments.batch, self.arguments.rounds
        );
        self.table.print();
        let entries = self.arguments.keys as f64 * (24 + self.arguments.value_bytes) as f64;
        for store in &stores {
            let bytes = store.file_bytes()?;
            println!("{}: file of {} MiB, {:.2} of key + value", store.name(), bytes >> 20, bytes as f64 / entries);
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(arguments.keys > 100 && arguments.rounds > 0, "--keys must be above 100, --rounds above 0");
    let (dir, syncs) = (arguments.dir.clone(), arguments.syncs);
    let mut bench = Bench { arguments, table: table::Table::default() };
    bench.stores()?;
    println!();
    log::run(&dir, syncs)
}
