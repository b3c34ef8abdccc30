//! Files changed by a fuzzer that makes the checksum right again: no panic, no endless loop, no foreign memory.
//!
//! What is read may be anything that the forged bytes say; only that we stay inside of the file and in one piece is
//! checked, and that the whole-file check finds whatever is not served.

use core::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::api::{Access, Direction, Fault, ReadTrees, WriteTrees};
use crate::check::check;
use crate::checkpoint_tests::{OPTIONS, act};
use crate::disk::{Disk, SimDisk};
use crate::layout::{FileId, PAGE_BYTES};
use crate::model::ModelTrees;
use crate::node::{NODE_MAGIC, crc_of};
use crate::pager::Pager;
use crate::tree_tests::{Action, SPECS, TREE, key_of};

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
    *seed >> 33
}

fn below(seed: &mut u64, limit: usize) -> usize {
    usize::try_from(random(seed)).expect("31 bits") % limit
}

fn file() -> SimDisk {
    let disk = SimDisk::new();
    let mut pager = Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS).expect("the disk is sound");
    let mut model = ModelTrees::new(SPECS);
    for key in 0..450_u16 {
        let bytes = if key % 40 == 7 { 9000 } else { usize::from(key) % 300 };
        act(&mut pager, &mut model, &Action::Put(key, bytes, 3));
    }
    pager.publish();
    assert!(pager.checkpoint_begin().expect("not failed"));
    while let Some((token, io)) = pager.poll_io().expect("there is space") {
        disk.clone().submit(token, io);
        let end = disk.clone().poll().expect("it has one request");
        pager.completed(end.token, end.result).expect("the disk is sound");
    }
    disk
}

/// Changes something in a tree page, and makes its CRC right.
fn forge(disk: &SimDisk, seed: &mut u64) -> bool {
    let pages = usize::try_from(disk.length().expect("known")).expect("small") / PAGE_BYTES;
    let page = 5 + below(seed, pages - 5);
    let offset = (page * PAGE_BYTES) as u64;
    let head = disk.peek(offset, PAGE_BYTES);
    if head[..4] != NODE_MAGIC {
        return false;
    }
    let run = u32::from_le_bytes(head[24..28].try_into().expect("four bytes")) as usize;
    let mut bytes = disk.peek(offset, run * PAGE_BYTES);
    let numbers = [0, 1, 2, 7, 48, 100, 4095, 4096, 32_767, 1 << 20, u32::MAX - 7, u32::MAX];
    let place = |seed: &mut u64| match random(seed) % 3 {
        0 => 8 + below(seed, 40),
        1 => 48 + below(seed, 400),
        _ => below(seed, run * PAGE_BYTES - 8),
    };
    let (to, from) = (place(seed), place(seed));
    match random(seed) % 6 {
        0 => bytes[to] ^= 1 << below(seed, 8),
        1 => bytes[to] = numbers[below(seed, numbers.len())] as u8,
        2 => bytes[to..to + 4].copy_from_slice(&numbers[below(seed, numbers.len())].to_le_bytes()),
        3 => bytes.copy_within(from..from + 8, to),
        4 => {
            let (to, from) = (to / 4 * 4, from / 4 * 4);
            bytes.copy_within(from..from + 4, to);
        }
        _ => {
            // A page of somewhere else in its place.
            let other = disk.peek(((5 + below(seed, pages - 5)) * PAGE_BYTES) as u64, PAGE_BYTES);
            bytes[..PAGE_BYTES].copy_from_slice(&other);
            bytes[8..16].copy_from_slice(&(page as u64).to_le_bytes());
        }
    }
    let crc = crc_of(FileId(OPTIONS.file_id).crc_seed(), &bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    disk.poke(offset, &bytes);
    true
}

/// Goes on with an operation until it ends or meets damage. Every page is brought in once at most.
fn attempt<T>(pager: &mut Pager, mut operation: impl FnMut(&mut Pager) -> Access<T>) -> Option<T> {
    for _ in 0..10_000 {
        match operation(pager) {
            Ok(result) => return Some(result),
            Err(Fault::Absent(run)) => pager.bring_in_done(run).ok()?,
            Err(Fault::Damaged(_)) => return None,
        }
    }
    panic!("it never ends");
}

fn use_it(disk: &SimDisk, seed: &mut u64) -> bool {
    let opened = Pager::open(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS, 0);
    let (mut pager, _) = opened.expect("the first pages are sound");
    let mut served = true;
    for direction in [Direction::Forward, Direction::Backward] {
        let whole = attempt(&mut pager, |pager| {
            let range = (Bound::Unbounded, Bound::Unbounded);
            pager.visit(TREE, range, direction, false, &mut |_, _| ControlFlow::Continue(()))
        });
        served &= whole.is_some();
    }
    for _ in 0..40 {
        let key = key_of(u16::try_from(below(seed, 500)).expect("small"));
        let high = key_of(u16::try_from(below(seed, 500)).expect("small"));
        let range = (Bound::Included(&key[..]), Bound::Excluded(&high[..]));
        attempt(&mut pager, |pager| pager.aggregate(TREE, range));
        match random(seed) % 4 {
            0 => drop(attempt(&mut pager, |pager| pager.put(TREE, &key, &[&[3; 700]]))),
            1 => drop(attempt(&mut pager, |pager| pager.put(TREE, &key, &[&[3; 7000]]))),
            2 => drop(attempt(&mut pager, |pager| pager.delete(TREE, &key))),
            _ => drop(attempt(&mut pager, |pager| pager.delete_front(TREE, range, 10))),
        }
    }
    pager.publish();
    if pager.checkpoint_begin().expect("not failed") {
        while let Ok(Some((token, io))) = pager.poll_io() {
            disk.clone().submit(token, io);
            let end = disk.clone().poll().expect("it has one request");
            if pager.completed(end.token, end.result).is_err() {
                break;
            }
        }
    }
    served
}

#[test]
fn forged_pages_harm_nobody() {
    let sound = file();
    let (mut seed, mut forged, mut refused) = (1, 0, 0);
    while forged < 500 {
        let disk = sound.fork();
        if !forge(&disk, &mut seed) {
            continue;
        }
        forged += 1;
        if seed % 3 == 0 {
            forge(&disk, &mut seed);
        }
        let report = check(&mut disk.clone(), SPECS).expect("the first pages are sound");
        let served = use_it(&disk, &mut seed);
        refused += u32::from(!served);
        assert!(served || !report.is_sound(), "what is not served is a finding");
    }
    assert!(refused > 100, "most changes are seen without the checksum: {refused}");
}
