//! A page file whose bytes were changed, with the checksums made right again: opening, reading and checking it give errors or
//! answers, never a panic, and end.

use core::ops::{Bound, ControlFlow};
use std::sync::Arc;

use ringstone_pager::api::{Aggregate, Direction, Fault, ReadTrees as _, TreeId, TreeSpec, WriteTrees as _};
use ringstone_pager::check::check;
use ringstone_pager::disk::{Disk as _, SimDisk};
use ringstone_pager::layout::{FileId, PAGE_BYTES};
use ringstone_pager::{FileOptions, Pager};

use crate::input::Input;

const TREES: [TreeId; 2] = [TreeId(1), TreeId(63)];
const SPECS: &[TreeSpec] =
    &[TreeSpec { id: TREES[0], name: "first", summarize }, TreeSpec { id: TREES[1], name: "second", summarize }];
const OPTIONS: FileOptions<'static> = FileOptions { file_id: [9; 16], owner_id: [1; 16], trees: SPECS };
const ALL: ringstone_pager::api::KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    Aggregate {
        count: 1,
        bytes: (key.len() + value.len()) as u64,
        hash: value.first().map_or(0, |byte| u64::from(*byte)),
    }
}

fn checkpoint(pager: &mut Pager, disk: &mut SimDisk) {
    pager.publish();
    pager.checkpoint_begin().expect("none is under way");
    loop {
        while let Some((token, io)) = pager.poll_io().expect("a sound disk") {
            disk.submit(token, io);
        }
        let completion = disk.poll().expect("a request of the checkpoint is under way");
        if pager.completed(completion.token, completion.result).expect("a sound disk").is_some() {
            break;
        }
    }
}

/// Two trees of three levels and one record of several pages, over several checkpoints.
fn base() -> SimDisk {
    let mut disk = SimDisk::new();
    let mut pager = Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS).expect("a sound disk");
    for round in 0..4u32 {
        for number in 0..300u32 {
            let key = format!("key {:05}", number * 7 + round);
            let value = vec![number as u8; 40 + (number as usize * 13) % 200];
            pager.put(TREES[(number % 2) as usize], key.as_bytes(), &[&value]).expect("nothing is absent");
        }
        pager.put(TREES[0], b"large", &[&vec![7; 9000]]).expect("nothing is absent");
        checkpoint(&mut pager, &mut disk);
    }
    drop(pager);
    disk
}

pub fn run(data: &[u8]) {
    thread_local! {
        static BASE: SimDisk = base();
    }
    let disk = BASE.with(SimDisk::fork);
    let pages = usize::try_from(disk.length().expect("sound")).expect("small") / PAGE_BYTES;
    let mut input = Input(data);
    let flags = input.byte();
    while !input.is_empty() {
        mutate(&disk, pages, &mut input, flags & 1 == 0);
    }
    disk.evict_all();
    let _ = check(&mut disk.clone(), SPECS);
    let opened = Pager::open(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS, 0);
    let Ok((mut pager, _)) = opened else { return };
    let mut records = 0usize;
    for tree in TREES {
        let visited = resume(&mut pager, |pager| {
            records = 0;
            pager.visit(tree, ALL, Direction::Forward, false, &mut |_, _| {
                records += 1;
                if records > 100_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        assert!(records <= 100_000, "a tree of some hundred records does not end");
        let _ = resume(&mut pager, |pager| pager.aggregate(tree, (Bound::Included(b"key 00500"), Bound::Unbounded)));
        let _ = resume(&mut pager, |pager| pager.get(tree, b"key 00707").map(|value| value.map(|value| value.len())));
        if visited.is_err() {
            return;
        }
    }
    // A file that reads well takes changes and a checkpoint.
    for number in 0..20u32 {
        let key = format!("key {:05}", number * 99);
        let put = resume(&mut pager, |pager| pager.put(TREES[(number % 2) as usize], key.as_bytes(), &[b"changed"]));
        if put.is_err() {
            return;
        }
    }
    let _ = resume(&mut pager, |pager| pager.delete(TREES[0], b"large").map(drop));
}

fn resume<T>(pager: &mut Pager, mut operation: impl FnMut(&mut Pager) -> Result<T, Fault>) -> Result<T, Fault> {
    for _ in 0..10_000 {
        match operation(pager) {
            Err(Fault::Absent(run)) => pager.bring_in_done(run).map_err(Fault::Damaged)?,
            result => return result,
        }
    }
    panic!("pages are absent again and again");
}

fn mutate(disk: &SimDisk, pages: usize, input: &mut Input<'_>, seals: bool) {
    let page = input.number::<2>() as usize % pages;
    let mut bytes = disk.peek((page * PAGE_BYTES) as u64, PAGE_BYTES);
    match input.byte() % 6 {
        0 => bytes[input.below(PAGE_BYTES)] ^= 1 << (input.byte() % 8),
        // Heads and slots are where the meaning is.
        1 => overwrite(&mut bytes, input.byte() as usize % 120, input),
        2 => overwrite(&mut bytes, input.below(PAGE_BYTES), input),
        3 => bytes = disk.peek((input.number::<2>() as usize % pages * PAGE_BYTES) as u64, PAGE_BYTES),
        4 => {
            // Another page at this place, made to believe that it belongs here.
            bytes = disk.peek((input.number::<2>() as usize % pages * PAGE_BYTES) as u64, PAGE_BYTES);
            bytes[8..16].copy_from_slice(&(page as u64).to_le_bytes());
        }
        _ => overwrite(&mut bytes, 48 + 4 * (input.byte() as usize), input),
    }
    disk.poke((page * PAGE_BYTES) as u64, &bytes);
    if seals {
        seal(disk, page, pages);
    }
}

fn overwrite(bytes: &mut [u8], at: usize, input: &mut Input<'_>) {
    let length = 1 + input.byte() as usize % 8;
    let new = input.bytes(length);
    let room = bytes.len().saturating_sub(at).min(new.len());
    bytes[at..at + room].copy_from_slice(&new[..room]);
}

/// Makes the checksum of a page, or of the run that begins there, right.
fn seal(disk: &SimDisk, page: usize, pages: usize) {
    let mut bytes = disk.peek((page * PAGE_BYTES) as u64, PAGE_BYTES);
    let crc_at = match &bytes[..4] {
        b"RngP" | b"RngM" => 8,
        b"RNod" => {
            let run = u32::from_le_bytes(bytes[24..28].try_into().expect("4 bytes")) as usize;
            if run > 1 && run <= 16 && page + run <= pages {
                bytes = disk.peek((page * PAGE_BYTES) as u64, run * PAGE_BYTES);
            }
            4
        }
        _ => 4,
    };
    let mut hasher = crc32fast::Hasher::new_with_initial(FileId(OPTIONS.file_id).crc_seed());
    hasher.update(&bytes[..crc_at]);
    hasher.update(&bytes[crc_at + 4..]);
    let crc = hasher.finalize();
    disk.poke((page * PAGE_BYTES + crc_at) as u64, &crc.to_le_bytes());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0]];
    for page in [0u8, 1, 2, 3, 4, 5, 6, 7, 8, 12, 20, 30] {
        seeds.push(vec![0, page, 0, 1, 28, 3, 1, 1, 1, page, 0, 5, 0, 3, 9, 9, 9]);
        seeds.push(vec![0, page, 0, 4, 7, 0, page, 0, 2, 0, 8, 0, 0, 1, 9, 9]);
        seeds.push(vec![1, page, 0, 0, page, 1, 0, 0, 3]);
    }
    seeds
}
