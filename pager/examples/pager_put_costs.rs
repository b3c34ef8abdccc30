//! What a checkpoint, a put and a get cost over a real file with a million keys:
//! `cargo run --release -p ringstone-pager --example pager_put_costs`.

use std::sync::Arc;
use std::time::Instant;

use ringstone_pager::api::{Aggregate, ReadTrees, TreeId, TreeSpec, WriteTrees};
use ringstone_pager::disk::{Disk, Io, StdDisk, Token};
use ringstone_pager::mapping::Mapping;
use ringstone_pager::{CheckpointDone, FileOptions, Pager};

const TREE: TreeId = TreeId(1);

fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    Aggregate {
        count: 1,
        bytes: (key.len() + value.len()) as u64,
        hash: u64::from(value.first().copied().unwrap_or(9)),
    }
}

const SPECS: &[TreeSpec] = &[TreeSpec { id: TREE, name: "live", summarize }];
const OPTIONS: FileOptions<'static> = FileOptions { file_id: [3; 16], owner_id: [4; 16], trees: SPECS };

fn checkpoint(pager: &mut Pager, disk: &mut StdDisk) -> CheckpointDone {
    assert!(pager.checkpoint_begin().expect("no failure"));
    loop {
        let (token, io): (Token, Io) = pager.poll_io().expect("there is space").expect("nothing is under way");
        disk.submit(token, io);
        let end = disk.poll().expect("done while submitted");
        if let Some(done) = pager.completed(end.token, end.result).expect("the disk works") {
            return done;
        }
    }
}

fn main() {
    let cpu_ns = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut disk = StdDisk::create(&folder.path().join("pages")).expect("a new file");
    let mapping = Mapping::new(disk.file(), 0).expect("mapped");
    let mut pager = Pager::create(&mut disk, Arc::new(mapping), &OPTIONS).expect("the disk works");
    let key = |number: u64| {
        let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1_000_000;
        format!("/registry/pods/ns-{:03}/name-{mixed:012}", mixed % 1000)
    };
    for number in 0..1_000_000_u64 {
        pager.put(TREE, key(number).as_bytes(), &[&[1; 256]]).expect("in frames");
    }
    pager.publish();
    let (start, cpu) = (Instant::now(), cpu_ns());
    let done = checkpoint(&mut pager, &mut disk);
    println!(
        "checkpoint of {} MiB: {:?}, {} CPU-us a page",
        done.written_bytes >> 20,
        start.elapsed(),
        (cpu_ns() - cpu) as f64 / 1000.0 / (done.written_bytes / 4096) as f64
    );
    for _ in 0..2000 {
        pager.set_attributes(&[]);
        pager.publish();
    }
    println!("frames after it: {} MiB", pager.frame_bytes() >> 20);
    for clean in [true, false] {
        let (mut puts, mut in_publish) = (0, 0);
        let start = cpu_ns();
        for batch in 0..3000_u64 {
            for number in 0..30 {
                let number = (batch * 30 + number).wrapping_mul(7919) % 1_000_000;
                pager.put(TREE, key(number).as_bytes(), &[&[2; 256]]).expect("in memory");
                puts += 1;
            }
            let before = cpu_ns();
            pager.publish();
            in_publish += cpu_ns() - before;
        }
        println!(
            "{} CPU-ns a put, of them {} in publish ({} pages first)",
            (cpu_ns() - start) / puts,
            in_publish / puts,
            if clean { "clean" } else { "partly dirty" }
        );
    }
    let reader = pager.reader();
    let start = cpu_ns();
    let mut hits = 0;
    for number in 0..300_000_u64 {
        let pin = reader.pin();
        hits += u64::from(pin.get(TREE, key(number.wrapping_mul(104_729)).as_bytes()).expect("in memory").is_some());
    }
    println!("{} CPU-ns a get with its pin, {hits} hits", (cpu_ns() - start) / 300_000);
}
