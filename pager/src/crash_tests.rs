//! The power fails at every request of a history of checkpoints, and again in the checkpoint after it.
//!
//! What opens is exactly a state whose checkpoint was completed, or the one that was under way, and never less than the
//! last completed; the whole file is sound, nothing is lost or used twice. Sectors of 512 bytes that no sync has covered
//! are kept, lost, torn write by write, or chosen by a seed. Not modelled here: a sector torn within, and devices that lie
//! about a sync.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{Direction, ReadTrees, TreeSpec, WriteTrees};
use crate::check::check;
use crate::checkpoint::CheckpointError;
use crate::checkpoint_tests::{OPTIONS, act, entries, reopen};
use crate::disk::{Crash, Disk, DiskErrorKind, Fault, SimDisk};
use crate::model::ModelTrees;
use crate::open::OpenError;
use crate::pager::Pager;
use crate::tree_tests::{Action, SPECS, TREE};

const TREES: &[TreeSpec] = SPECS;

/// What the owner of a file knows when the power fails.
pub(crate) struct Run {
    /// The states that a checkpoint was begun for, by generation.
    pub begun: BTreeMap<u64, ModelTrees>,
    /// The last one that was reported as done.
    pub done: u64,
}

/// Polls the checkpoint to its end; false where the disk has stopped.
pub(crate) fn finish(pager: &mut Pager, disk: &mut SimDisk, run: &mut Run, many: usize, mut under_way: usize) -> bool {
    loop {
        while under_way < many
            && let Some((token, io)) = pager.poll_io().expect("there is space")
        {
            disk.submit(token, io);
            under_way += 1;
        }
        let Some(completion) = disk.poll() else { return true };
        under_way -= 1;
        match pager.completed(completion.token, completion.result) {
            Ok(Some(done)) => run.done = done.generation,
            Ok(None) => {}
            Err(CheckpointError::Failed(error)) if error.kind == DiskErrorKind::Gone => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
    *seed >> 33
}

/// Some rounds of changes with a checkpoint each, that grow the file, hold large values, and delete much.
fn history(disk: &SimDisk, pager: &mut Pager, model: &mut ModelTrees, seed: u64, rounds: u64) -> Run {
    let mut run = Run { begun: BTreeMap::from([(pager.generation(), model.clone())]), done: pager.generation() };
    let mut seed = seed;
    for round in 0..rounds {
        for _ in 0..40 {
            let key = u16::try_from(random(&mut seed) % 400).expect("small");
            let action = match random(&mut seed) % 40 {
                0..5 => Action::Delete(key),
                5 => Action::DeleteFront(Some(key), None, 20),
                6..14 => Action::Put(key, 9000 + usize::from(key) * 40, 1),
                14..20 => Action::Put(key, 70_000 + usize::from(key) * 100, 2),
                _ => Action::Put(key, usize::from(key) * 3, 3),
            };
            act(pager, model, &action);
        }
        pager.set_attributes(&round.to_le_bytes());
        model.set_attributes(&round.to_le_bytes());
        pager.publish();
        assert!(pager.checkpoint_begin().expect("not failed"));
        run.begun.insert(pager.generation(), model.clone());
        // Writing goes on while the checkpoint does.
        let mut under_way = 0;
        while under_way < usize::try_from(random(&mut seed) % 4).expect("small")
            && let Some((token, io)) = pager.poll_io().expect("there is space")
        {
            disk.clone().submit(token, io);
            under_way += 1;
        }
        act(pager, model, &Action::Put(u16::try_from(round).expect("few"), 5000, 4));
        pager.publish();
        let many = 1 + usize::try_from(random(&mut seed) % 3).expect("small");
        if !finish(pager, &mut disk.clone(), &mut run, many + under_way, under_way) {
            return run;
        }
    }
    run
}

pub(crate) fn create(disk: &SimDisk) -> Pager {
    Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS).expect("the disk is sound")
}

/// Opens what a crash has left, and holds it against what may be there.
pub(crate) fn opens_as_it_must(disk: &SimDisk, run: &Run, told: &str) -> (Pager, ModelTrees) {
    let report = check(&mut disk.clone(), TREES).unwrap_or_else(|error| panic!("{told}: {error}"));
    assert!(report.is_sound(), "{told}: {report}");
    let pager = reopen(disk, run.done);
    let generation = pager.generation();
    let newest = run.begun.last_key_value().expect("there is one").0;
    assert!(generation == run.done || generation == *newest, "{told}: {generation}, done {}", run.done);
    let model = run.begun[&generation].clone();
    let bring_in = |run| pager.bring_in_done(run).expect("the check was sound");
    assert_eq!(entries(&pager, &bring_in), entries(&model, &|_| ()), "{told}");
    assert_eq!(pager.attributes(), model.attributes(), "{told}");
    (pager, model)
}

pub(crate) fn crashes(seed: u64) -> [Crash; 5] {
    [
        Crash::KeepAll,
        Crash::KeepNone,
        Crash::Random(seed),
        Crash::Random(seed.wrapping_mul(31).wrapping_add(7)),
        Crash::Torn(seed),
    ]
}

#[test]
fn the_power_fails_at_every_request() {
    for seed in 0..2_u64 {
        let whole = SimDisk::new();
        let mut pager = create(&whole);
        let before = whole.counts().changing();
        let run = history(&whole, &mut pager, &mut ModelTrees::new(SPECS), seed, 5);
        // Opening makes a request of its own.
        let requests = whole.counts().changing() - before;
        opens_as_it_must(&whole, &run, "without a crash");
        assert!(whole.counts().set_lengths > 1, "the file grows");
        for stop in 0..requests {
            let disk = SimDisk::new();
            let mut pager = create(&disk);
            disk.stop_after(stop);
            let run = history(&disk, &mut pager, &mut ModelTrees::new(SPECS), seed, 5);
            assert!(disk.is_stopped());
            for crash in crashes(seed * 1000 + stop) {
                let fork = disk.fork();
                fork.crash(crash);
                opens_as_it_must(&fork, &run, &format!("seed {seed}, stop {stop}, {crash:?}"));
            }
        }
    }
}

#[test]
fn the_power_fails_again_after_it_has_failed() {
    let seed = 11;
    for stop in (0..60).step_by(4) {
        let disk = SimDisk::new();
        let mut pager = create(&disk);
        disk.stop_after(stop);
        let run = history(&disk, &mut pager, &mut ModelTrees::new(SPECS), seed, 5);
        disk.crash(Crash::Random(stop));
        for again in 0..40 {
            let fork = disk.fork();
            let told = format!("stop {stop}, then {again}");
            let (mut pager, mut model) = opens_as_it_must(&fork, &run, &told);
            fork.stop_after(again);
            let second = history(&fork, &mut pager, &mut model, again, 2);
            let stopped = fork.is_stopped();
            fork.crash(Crash::Random(again));
            let (mut pager, mut model) = opens_as_it_must(&fork, &second, &told);
            if !stopped {
                break;
            }
            let third = history(&fork, &mut pager, &mut model, again, 1);
            fork.crash(Crash::KeepNone);
            opens_as_it_must(&fork, &third, &told);
        }
    }
}

#[test]
fn an_older_copy_of_the_file_is_refused() {
    let disk = SimDisk::new();
    let mut pager = create(&disk);
    let mut model = ModelTrees::new(SPECS);
    let first = history(&disk, &mut pager, &mut model, 1, 1);
    let copy = disk.fork();
    let second = history(&disk, &mut pager, &mut model, 2, 1);
    assert!(second.done > first.done);
    copy.crash(Crash::KeepAll);
    let opened = Pager::open(&mut copy.clone(), Arc::new(copy.clone()), &OPTIONS, second.done);
    let Err(OpenError::WentBack { found, logged }) = opened.map(|_| ()) else { panic!("it must be refused") };
    assert_eq!((found, logged), (first.done, second.done));
}

#[test]
fn a_full_disk_ends_the_attempt_and_nothing_else() {
    let disk = SimDisk::new();
    let mut pager = create(&disk);
    let mut model = ModelTrees::new(SPECS);
    for key in 0..60 {
        act(&mut pager, &mut model, &Action::Put(key, 50_000, 1));
    }
    pager.publish();
    let dirty = pager.dirty_bytes();
    let free = pager.file_bytes() - pager.file_bytes_in_use();
    for attempt in 0..3 {
        assert!(pager.checkpoint_begin().expect("a full disk is no failure"));
        act(&mut pager, &mut model, &Action::Put(attempt, 50_000, 2));
        pager.publish();
        let mut error = None;
        while error.is_none() {
            let (token, io) = pager.poll_io().expect("told by the end of the request").expect("not done yet");
            if matches!(io, crate::disk::Io::SetLength { .. }) {
                disk.inject(0, Fault::Full);
            }
            disk.clone().submit(token, io);
            while let Some(end) = disk.clone().poll() {
                error = error.or(pager.completed(end.token, end.result).err());
            }
        }
        assert!(error.expect("just seen").is_passing());
        assert!(!pager.is_checkpointing());
        assert_eq!(pager.dirty_bytes(), dirty);
        assert_eq!(pager.file_bytes() - pager.file_bytes_in_use(), free, "all pages were given back");
    }
    let mut run = Run { begun: BTreeMap::new(), done: 0 };
    assert!(pager.checkpoint_begin().expect("a full disk is no failure"));
    run.begun.insert(pager.generation(), model);
    assert!(finish(&mut pager, &mut disk.clone(), &mut run, 4, 0));
    assert_ne!(run.done, 0);
    opens_as_it_must(&disk, &run, "after there was space again");
}

#[test]
fn a_failed_request_is_final() {
    for number in 0..12 {
        for fault in [Fault::Failed, Fault::Short] {
            let disk = SimDisk::new();
            let mut pager = create(&disk);
            let mut model = ModelTrees::new(SPECS);
            let first = history(&disk, &mut pager, &mut model, 3, 1);
            act(&mut pager, &mut model, &Action::Put(1, 100_000, 1));
            pager.publish();
            assert!(pager.checkpoint_begin().expect("not failed"));
            disk.inject(number, fault);
            let mut run = Run { begun: first.begun, done: first.done };
            run.begun.insert(pager.generation(), model.clone());
            let failed = loop {
                let Some((token, io)) = pager.poll_io().expect("there is space") else { break false };
                disk.clone().submit(token, io);
                let end = disk.clone().poll().expect("it has one request");
                match pager.completed(end.token, end.result) {
                    Ok(Some(done)) => run.done = done.generation,
                    Ok(None) => {}
                    Err(error) => {
                        assert!(!error.is_passing());
                        break true;
                    }
                }
            };
            if failed {
                assert!(pager.checkpoint_begin().is_err(), "final");
                assert!(pager.poll_io().expect("told once").is_none());
            }
            disk.crash(Crash::KeepNone);
            opens_as_it_must(&disk, &run, &format!("request {number}, {fault:?}"));
        }
    }
}

#[test]
fn a_visit_backward_of_a_reopened_file_brings_in_page_by_page() {
    let disk = SimDisk::new();
    let mut pager = create(&disk);
    let mut model = ModelTrees::new(SPECS);
    let run = history(&disk, &mut pager, &mut model, 5, 3);
    disk.crash(Crash::KeepNone);
    let pager = reopen(&disk, run.done);
    let model = &run.begun[&pager.generation()];
    let reader = pager.reader();
    let pin = reader.pin();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut absent = 0;
    loop {
        let last = seen.last().cloned();
        let high = last.as_deref().map_or(core::ops::Bound::Unbounded, core::ops::Bound::Excluded);
        let mut visitor = |key: &[u8], _: &[u8]| {
            seen.push(key.to_vec());
            core::ops::ControlFlow::Continue(())
        };
        // Resumes behind the last entry, as the contract says.
        match pin.visit(TREE, (core::ops::Bound::Unbounded, high), Direction::Backward, false, &mut visitor) {
            Ok(()) => break,
            Err(crate::api::Fault::Absent(run)) => {
                absent += 1;
                reader.bring_in_done(run).expect("sound");
            }
            Err(fault) => panic!("{fault}"),
        }
    }
    seen.reverse();
    let keys: Vec<Vec<u8>> = entries(model, &|_| ()).into_iter().map(|(key, _)| key).collect();
    assert_eq!(seen, keys);
    assert!(absent > 5, "opening had read nothing");
}

/// The device confirmed a write and never made it: the page still holds the node that stood there before, whole, with its
/// own number and a right checksum. Only the parent knows.
#[test]
fn a_lost_write_is_seen_by_the_generation_alone() {
    use crate::api::{Fault as Access, TreeId};
    use crate::layout::PAGE_BYTES;
    let disk = SimDisk::new();
    let mut pager = create(&disk);
    let mut lost = 0;
    // The pages of the first rounds are used again when the file has no others.
    for round in 0..60_u8 {
        if lost > 20 {
            return;
        }
        let before = disk.fork();
        for number in 0..300_u32 {
            let key = (number * 7 + u32::from(round)) % 500;
            pager.put(TreeId(1), &key.to_be_bytes(), &[&[round; 100]]).expect("in memory");
        }
        pager.publish();
        assert!(pager.checkpoint_begin().expect("not failed"));
        let mut run = Run { begun: BTreeMap::new(), done: 0 };
        assert!(finish(&mut pager, &mut disk.clone(), &mut run, 4, 0));
        pager.publish();
        for page in 5..before.length().expect("known") / PAGE_BYTES as u64 {
            let offset = page * PAGE_BYTES as u64;
            let (old, new) = (before.peek(offset, PAGE_BYTES), disk.peek(offset, PAGE_BYTES));
            // Both are nodes of the same tree and level.
            if old == new || old[..4] != new[..4] || old[..4] != *b"RNod" || old[32..34] != new[32..34] {
                continue;
            }
            let fork = disk.fork();
            fork.poke(offset, &old);
            let what = "its generation is not the one that its parent expects (a lost or misdirected write)";
            let report = check(&mut fork.clone(), TREES).expect("it opens");
            assert!(report.findings.iter().any(|damage| damage.page == page && damage.what == what), "{report}");
            let reopened = reopen(&fork, run.done);
            let seen = loop {
                let range = (core::ops::Bound::Unbounded, core::ops::Bound::Unbounded);
                let mut visitor = |_: &[u8], _: &[u8]| core::ops::ControlFlow::Continue(());
                match reopened.visit(TreeId(1), range, Direction::Forward, false, &mut visitor) {
                    Err(Access::Absent(run)) => reopened.bring_in_done(run).expect("the page itself is sound"),
                    end => break end,
                }
            };
            let Err(Access::Damaged(damage)) = seen else {
                panic!("page {page} of round {round} was served: {seen:?}")
            };
            assert_eq!((damage.page, damage.what), (page, what));
            lost += 1;
        }
    }
    assert!(lost > 20, "pages are used again: {lost}");
}
