//! Where the processor time of a put goes below the network, over a real file: puts to uniform keys, published in batches, written
//! by checkpoints that run beside them, as the group does it.
//!
//! `cargo run --release -p ringstone-pager --example pager_put_costs [KEYS [SECONDS [FOLDER]]]`

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringstone_pager::api::{Aggregate, ReadTrees, TreeId, TreeSpec, WriteTrees};
use ringstone_pager::disk::{Disk, Io, StdDisk, Token};
use ringstone_pager::mapping::Mapping;
use ringstone_pager::{FileOptions, Pager};

/// Key to record, as `live` of the store; and each put's event, as `log`.
const LIVE: TreeId = TreeId(1);
const LOG: TreeId = TreeId(2);

const VALUE_BYTES: usize = 256;
/// Puts that are published together: what comes in while a batch of the log is synced.
const PUBLISHED_PUTS: u64 = 40;
/// As the group's for a large store; `DIRTY_MIB` sets another.
const DIRTY_MIB: u64 = 32;
const BATCH_BYTES: usize = 256 << 10;
/// Events that a compaction leaves.
const WINDOW_EVENTS: u64 = 100_000;

fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    let hash = value.first_chunk().map_or(9, |head| u64::from_le_bytes(*head));
    Aggregate { count: 1, bytes: (key.len() + value.len()) as u64, hash }
}

const SPECS: &[TreeSpec] =
    &[TreeSpec { id: LIVE, name: "live", summarize }, TreeSpec { id: LOG, name: "log", summarize }];
const OPTIONS: FileOptions<'static> = FileOptions { file_id: [3; 16], owner_id: [4; 16], trees: SPECS };

fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time by what it was for.
#[derive(Default)]
struct Spent {
    puts: Duration,
    publishes: Duration,
    images: Duration,
    writes: Duration,
    writeback: Duration,
    syncs: Duration,
}

impl Spent {
    fn on<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
        let before = cpu();
        let done = work();
        *spent += cpu() - before;
        done
    }
}

#[derive(Default)]
struct Counts {
    puts: u64,
    checkpoints: u64,
    written_pages: u64,
    writes: u64,
}

struct Store {
    pager: Pager,
    disk: StdDisk,
    keys: u64,
    dirty_bytes: u64,
    random: u64,
    revision: u64,
    cut: u64,
    spent: Spent,
    counts: Counts,
}

impl Store {
    fn key(&self, number: u64) -> String {
        // A prime that divides no power of ten: each number has a key of its own.
        let mixed = number % self.keys * 611_953 % self.keys;
        format!("/registry/pods/ns-{:03}/name-{mixed:012}", mixed % 1000)
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// A header whose length changes with the number of the put, as the varints of the store's do.
    fn put(&mut self, number: u64) {
        self.revision += 1;
        let (key, at) = (self.key(number), self.revision.to_be_bytes());
        let header = [self.revision as u8; 32];
        let header = &header[..24 + self.revision.is_multiple_of(3) as usize];
        let old = self.pager.get(LIVE, key.as_bytes()).expect("in memory").map(<[u8]>::len);
        assert!(old.is_none_or(|bytes| bytes > VALUE_BYTES));
        let value = [self.revision as u8; VALUE_BYTES];
        self.pager.put(LIVE, key.as_bytes(), &[header, &value]).expect("in memory");
        self.pager.put(LOG, &[at, [0; 8]].concat(), &[header, key.as_bytes(), &value]).expect("in memory");
    }

    fn batch(&mut self, mut next: impl FnMut(&mut Store) -> u64) {
        let before = cpu();
        for _ in 0..PUBLISHED_PUTS {
            let number = next(self);
            self.put(number);
        }
        self.counts.puts += PUBLISHED_PUTS;
        self.spent.puts += cpu() - before;
        Spent::on(&mut self.spent.publishes, || self.pager.publish());
        if !self.pager.is_checkpointing() && self.pager.dirty_bytes() >= self.dirty_bytes {
            assert!(self.pager.checkpoint_begin().expect("no failure"));
            self.counts.checkpoints += 1;
        }
        self.step_checkpoint();
    }

    /// Cuts what the window no longer needs of the log, some of it a batch, as the sweep does.
    fn compact(&mut self) {
        let end = [(self.revision.saturating_sub(WINDOW_EVENTS)).to_be_bytes(), [0; 8]].concat();
        let range = (Bound::Unbounded, Bound::Excluded(&end[..]));
        while !self.pager.delete_front(LOG, range, 1000).expect("in memory") {
            self.pager.publish();
            self.step_checkpoint();
        }
        self.cut = self.revision;
    }

    fn step_checkpoint(&mut self) {
        let (mut batch, mut bytes): (Vec<(Token, Io)>, usize) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let polled = Spent::on(&mut self.spent.images, || self.pager.poll_io().expect("there is space"));
            let Some((token, io)) = polled else { break };
            bytes += io.written_bytes();
            batch.push((token, io));
        }
        let file = self.disk.file();
        for (_, io) in &batch {
            if let Io::Write { offset, buffers, .. } = io {
                Spent::on(&mut self.spent.writes, || write(file, *offset, buffers)).expect("the disk works");
                self.counts.writes += 1;
                self.counts.written_pages += (io.written_bytes() / 4096) as u64;
            }
        }
        if bytes > 0 {
            Spent::on(&mut self.spent.writeback, || begin_writeback(file));
        }
        for (token, io) in batch {
            let result = if matches!(io, Io::Write { .. }) {
                Ok(Vec::new())
            } else {
                Spent::on(&mut self.spent.syncs, || {
                    self.disk.submit(token, io);
                    self.disk.poll().expect("done while submitted").result
                })
            };
            let pager = &mut self.pager;
            Spent::on(&mut self.spent.images, || pager.completed(token, result)).expect("the disk works");
        }
    }

    fn settle(&mut self) {
        while self.pager.is_checkpointing() || self.pager.is_settling() {
            self.step_checkpoint();
            self.pager.set_attributes(&[]);
            self.pager.publish();
        }
    }

    fn report(&self) {
        let puts = self.counts.puts as f64;
        let us = |spent: Duration| spent.as_secs_f64() * 1e6 / puts;
        let spent = &self.spent;
        let all = [spent.puts, spent.publishes, spent.images, spent.writes, spent.writeback, spent.syncs];
        println!(
            "{:6.2} us/put: puts {:.2}, publish {:.2}, images {:.2}, write {:.2}, write-back {:.2}, sync {:.2}; {:.2} pages/put in \
             {:.2} writes, {} checkpoints of {:.0} puts, {:.2} us of the last four a page; file {} MiB, in use {} MiB, frames {} MiB",
            all.map(us).iter().sum::<f64>(),
            us(spent.puts),
            us(spent.publishes),
            us(spent.images),
            us(spent.writes),
            us(spent.writeback),
            us(spent.syncs),
            self.counts.written_pages as f64 / puts,
            self.counts.writes as f64 / puts,
            self.counts.checkpoints,
            puts / self.counts.checkpoints.max(1) as f64,
            all[2..].iter().sum::<Duration>().as_secs_f64() * 1e6 / self.counts.written_pages as f64,
            self.pager.file_bytes() >> 20,
            self.pager.file_bytes_in_use() >> 20,
            self.pager.frame_bytes() >> 20,
        );
    }
}

fn write(file: &File, offset: u64, buffers: &[ringstone_pager::disk::Buffer]) -> io::Result<()> {
    let mut at = offset;
    let piece = std::env::var("PIECE").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    for buffer in buffers {
        for part in buffer.chunks(piece) {
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
    }
    Ok(())
}

fn begin_writeback(file: &File) {
    // SAFETY: no memory is involved, and the descriptor is open.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let keys: u64 = arguments.next().map_or(1_000_000, |text| text.parse().expect("a number of keys"));
    let seconds: u64 = arguments.next().map_or(20, |text| text.parse().expect("a number of seconds"));
    let place = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let mut disk = StdDisk::create(&folder.path().join("pages")).expect("a new file");
    let mapping = Mapping::new(disk.file(), 0).expect("mapped");
    let pager = Pager::create(&mut disk, Arc::new(mapping), &OPTIONS).expect("the disk works");
    let (spent, counts) = (Spent::default(), Counts::default());
    let dirty_mib = std::env::var("DIRTY_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(DIRTY_MIB);
    let dirty_bytes = dirty_mib << 20;
    let mut store = Store { pager, disk, keys, dirty_bytes, random: 1, revision: 0, cut: 0, spent, counts };
    let mut number = 0;
    while number < keys {
        store.batch(|_| {
            number += 1;
            number
        });
    }
    store.compact();
    store.settle();
    print!("preload  ");
    store.report();
    for _ in 0..3 {
        (store.spent, store.counts) = (Spent::default(), Counts::default());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) / 3 {
            store.batch(Store::next_random);
            if store.revision - store.cut > WINDOW_EVENTS {
                store.compact();
            }
        }
        print!("uniform  ");
        store.report();
    }
}
