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
/// Events that one slice of a compaction removes, as the group's.
const SWEPT_AT_ONCE: usize = 256;
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

/// A step that takes longer holds up everything else that its thread does.
const LONG: Duration = Duration::from_micros(250);

/// Processor time of the steps of one kind.
#[derive(Default)]
struct Kind {
    total: Duration,
    longest: Duration,
    long: u64,
}

impl Kind {
    fn on<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = cpu();
        let done = work();
        let took = cpu() - before;
        self.total += took;
        self.longest = self.longest.max(took);
        self.long += u64::from(took > LONG);
        done
    }
}

/// Processor time by what it was for.
#[derive(Default)]
struct Spent {
    puts: Kind,
    publishes: Kind,
    begins: Kind,
    images: Kind,
    ends: Kind,
    sweeps: Kind,
    writes: Kind,
    writeback: Kind,
    syncs: Kind,
}

impl Spent {
    fn kinds(&self) -> [(&'static str, &Kind); 9] {
        [
            ("puts", &self.puts),
            ("publish", &self.publishes),
            ("begin", &self.begins),
            ("images", &self.images),
            ("ends", &self.ends),
            ("sweep", &self.sweeps),
            ("write", &self.writes),
            ("write-back", &self.writeback),
            ("sync", &self.syncs),
        ]
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
        let mut puts = core::mem::take(&mut self.spent.puts);
        puts.on(|| {
            for _ in 0..PUBLISHED_PUTS {
                let number = next(self);
                self.put(number);
            }
        });
        self.spent.puts = puts;
        self.counts.puts += PUBLISHED_PUTS;
        self.spent.publishes.on(|| self.pager.publish());
        let is_busy = self.pager.is_checkpointing() || self.pager.is_settling();
        if !is_busy && self.pager.dirty_bytes() >= self.dirty_bytes {
            assert!(self.spent.begins.on(|| self.pager.checkpoint_begin()).expect("no failure"));
            self.counts.checkpoints += 1;
        }
        self.step_checkpoint();
    }

    /// Cuts what the window no longer needs of the log, some of it a batch, as the sweep does.
    fn compact(&mut self) {
        let end = [(self.revision.saturating_sub(WINDOW_EVENTS)).to_be_bytes(), [0; 8]].concat();
        let range = (Bound::Unbounded, Bound::Excluded(&end[..]));
        while !self.spent.sweeps.on(|| self.pager.delete_front(LOG, range, SWEPT_AT_ONCE).expect("in memory")) {
            self.spent.publishes.on(|| self.pager.publish());
            self.step_checkpoint();
        }
        self.cut = self.revision;
    }

    fn step_checkpoint(&mut self) {
        let (mut batch, mut bytes): (Vec<(Token, Io)>, usize) = (Vec::new(), 0);
        while bytes < BATCH_BYTES {
            let polled = self.spent.images.on(|| self.pager.poll_io().expect("there is space"));
            let Some((token, io)) = polled else { break };
            bytes += io.written_bytes();
            batch.push((token, io));
        }
        let file = self.disk.file();
        for (_, io) in &batch {
            if let Io::Write { offset, buffers, .. } = io {
                self.spent.writes.on(|| write(file, *offset, buffers)).expect("the disk works");
                self.counts.writes += 1;
                self.counts.written_pages += (io.written_bytes() / 4096) as u64;
            }
        }
        if bytes > 0 {
            self.spent.writeback.on(|| begin_writeback(file));
        }
        for (token, io) in batch {
            let result = if matches!(io, Io::Write { .. }) {
                Ok(Vec::new())
            } else {
                self.spent.syncs.on(|| {
                    self.disk.submit(token, io);
                    self.disk.poll().expect("done while submitted").result
                })
            };
            let pager = &mut self.pager;
            self.spent.ends.on(|| pager.completed(token, result)).expect("the disk works");
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
        let kinds = self.spent.kinds();
        let part = |kinds: &[(&str, &Kind)]| kinds.iter().map(|(_, kind)| kind.total).sum::<Duration>();
        let names = kinds.map(|(name, kind)| format!("{name} {:.2}", us(kind.total))).join(", ");
        println!(
            "{:6.2} us/put: {names}; {:.2} pages/put in {:.2} writes, {} checkpoints of {:.0} puts, {:.2} us a page; file {} MiB, \
             in use {} MiB, frames {} MiB",
            us(part(&kinds)),
            self.counts.written_pages as f64 / puts,
            self.counts.writes as f64 / puts,
            self.counts.checkpoints,
            puts / self.counts.checkpoints.max(1) as f64,
            part(&[kinds[3], kinds[4], kinds[6], kinds[7], kinds[8]]).as_secs_f64() * 1e6
                / self.counts.written_pages as f64,
            self.pager.file_bytes() >> 20,
            self.pager.file_bytes_in_use() >> 20,
            self.pager.frame_bytes() >> 20,
        );
        let longest = |(name, kind): (&str, &Kind)| format!("{name} {} ({})", kind.longest.as_micros(), kind.long);
        println!("         longest step, us (how many over {}): {}", LONG.as_micros(), kinds.map(longest).join(", "));
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
