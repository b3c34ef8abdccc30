//! Spills over the simulated disk: in the middle of changes, before them, cut short by a crash or a full disk.

use std::sync::Arc;

use proptest::prelude::*;

use crate::api::{PageRun, ReadTrees, WriteTrees};
use crate::checkpoint::CheckpointError;
use crate::checkpoint_tests::{OPTIONS, act, entries, reopen};
use crate::disk::{Crash, Disk, Fault, IoPurpose, SimDisk};
use crate::model::ModelTrees;
use crate::pager::Pager;
use crate::tree_tests::{Action, SPECS, TREE, actions};

fn pager(disk: &SimDisk) -> Pager {
    Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS).expect("the disk is sound")
}

/// Does all requests of what is under way; `most` of them at most.
fn drive(pager: &mut Pager, disk: &mut SimDisk, most: usize) -> Result<(), CheckpointError> {
    for _ in 0..most {
        let Some((token, io)) = pager.poll_io()? else { break };
        disk.submit(token, io);
        while let Some(completion) = disk.poll() {
            pager.completed(completion.token, completion.result)?;
        }
    }
    Ok(())
}

fn checkpoint(pager: &mut Pager, disk: &mut SimDisk) {
    pager.publish();
    while !pager.checkpoint_begin().expect("the disk is sound") {
        assert!(pager.generation() != pager.checkpoints.newest_generation, "there is something to write");
        drive(pager, disk, usize::MAX).expect("the disk is sound");
    }
    drive(pager, disk, usize::MAX).expect("the disk is sound");
    // Frames that the checkpoint has written go with the publish after the one that let go of them.
    while pager.is_settling() || pager.frame_bytes() > 0 {
        let attributes = pager.attributes().to_vec();
        pager.set_attributes(&attributes);
        pager.publish();
    }
}

fn all_of(pager: &Pager) -> crate::tree_tests::Entries {
    entries(pager, &|run: PageRun| pager.bring_in_done(run).expect("sound"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn spilled_leaves_are_leaves(history in actions(400), pace in 3..40_usize, publish in 30..200_usize) {
        let mut disk = SimDisk::new();
        let (mut pager, mut model) = (pager(&disk), ModelTrees::new(SPECS));
        let reader = pager.reader();
        let mut spills = 0;
        for (number, action) in history.iter().enumerate() {
            act(&mut pager, &mut model, action);
            if number % publish == publish - 1 {
                pager.set_attributes(&number.to_le_bytes());
                checkpoint(&mut pager, &mut disk);
                let pin = reader.pin();
                let bring_in = |run: PageRun| reader.bring_in_done(run).expect("sound");
                prop_assert_eq!(entries(&pin, &bring_in), entries(&model, &|_| ()));
            } else if number % pace == 0 && pager.spill_begin() {
                spills += 1;
                drive(&mut pager, &mut disk, usize::MAX).expect("the disk is sound");
                prop_assert!(!pager.is_checkpointing());
                if number % 3 == 0 {
                    disk.evict_all();
                }
            }
        }
        prop_assert!(spills >= history.len() / pace / 2, "{} spills", spills);
        prop_assert_eq!(all_of(&pager), entries(&model, &|_| ()));
        pager.set_attributes(b"last");
        checkpoint(&mut pager, &mut disk);
        for _ in 0..200 {
            pager.set_attributes(b"later");
            pager.publish();
        }
        prop_assert_eq!((pager.dirty_bytes(), pager.frame_bytes(), pager.take_damage()), (0, 0, None));
        let generation = pager.checkpoints.newest_generation;
        let report = crate::check::check(&mut disk, SPECS).expect("the file opens");
        prop_assert!(report.is_sound(), "{}", report);
        drop(pager);
        disk.crash(Crash::KeepNone);
        let pager = reopen(&disk, generation);
        prop_assert_eq!(all_of(&pager), entries(&model, &|_| ()));
    }
}

/// A checkpointed store, and a large change of all of it that is not published.
fn amid_a_large_change() -> (SimDisk, Pager, ModelTrees, ModelTrees) {
    let mut disk = SimDisk::new();
    let (mut pager, mut model) = (pager(&disk), ModelTrees::new(SPECS));
    for key in 0..250 {
        act(&mut pager, &mut model, &Action::Put(key, 300 + usize::from(key) % 5 * 900, 1));
    }
    checkpoint(&mut pager, &mut disk);
    let before = model.clone();
    for key in 0..250 {
        act(&mut pager, &mut model, &Action::Put(key, 200 + usize::from(key) % 7 * 700, 2));
    }
    (disk, pager, before, model)
}

#[test]
fn a_spill_leaves_only_branches_in_memory_and_the_next_changes_them_again() {
    let (mut disk, mut pager, _, mut model) = amid_a_large_change();
    let before = pager.frame_bytes();
    assert!(pager.spill_begin());
    drive(&mut pager, &mut disk, usize::MAX).expect("the disk is sound");
    assert!(pager.frame_bytes() * 10 < before, "{} of {before} bytes", pager.frame_bytes());
    assert_eq!(pager.dirty_bytes(), pager.frame_bytes());
    assert!(pager.spill_begin(), "nothing is left to be written, which is no error");
    drive(&mut pager, &mut disk, usize::MAX).expect("the disk is sound");
    assert!(!pager.is_checkpointing());
    for key in (0..250).step_by(3) {
        act(&mut pager, &mut model, &Action::Delete(key));
    }
    assert_eq!(all_of(&pager), entries(&model, &|_| ()));
    checkpoint(&mut pager, &mut disk);
    assert!(crate::check::check(&mut disk, SPECS).expect("the file opens").is_sound());
}

#[test]
fn a_crash_in_a_spill_or_behind_it_leaves_what_was_durable() {
    for requests in [0, 1, 2, 3, 4, 6, 9, usize::MAX] {
        for (number, crash) in [Crash::KeepNone, Crash::KeepAll, Crash::Random(requests as u64)].into_iter().enumerate()
        {
            let (mut disk, mut pager, before, _) = amid_a_large_change();
            assert!(pager.spill_begin());
            drive(&mut pager, &mut disk, requests).expect("the disk is sound");
            let generation = pager.checkpoints.newest_generation;
            drop(pager);
            disk.crash(crash);
            let pager = reopen(&disk, generation);
            assert_eq!(all_of(&pager), entries(&before, &|_| ()), "{requests} requests, crash {number}");
            let report = crate::check::check(&mut disk, SPECS).expect("the file opens");
            assert!(report.is_sound(), "{report}");
        }
    }
}

/// Requests that a spill makes before the file has to grow.
fn requests_before_growth() -> u64 {
    let (mut disk, mut pager, ..) = amid_a_large_change();
    assert!(pager.spill_begin());
    let mut before = 0;
    loop {
        let (token, io) = pager.poll_io().expect("the disk is sound").expect("it grows before its end");
        if io.purpose() == IoPurpose::Growth {
            return before;
        }
        before += 1;
        disk.submit(token, io);
        let end = disk.poll().expect("done while submitted");
        pager.completed(end.token, end.result).expect("the disk is sound");
    }
}

#[test]
fn a_full_disk_ends_a_spill_and_nothing_else() {
    let (mut disk, mut pager, _, mut model) = amid_a_large_change();
    let frames = pager.frame_bytes();
    disk.inject(requests_before_growth(), Fault::Full);
    assert!(pager.spill_begin());
    let end = drive(&mut pager, &mut disk, usize::MAX);
    assert!(matches!(end, Err(CheckpointError::Full(_))), "{end:?}");
    assert!(!pager.is_checkpointing());
    assert_eq!(pager.frame_bytes(), frames);
    act(&mut pager, &mut model, &Action::Put(7, 5000, 3));
    assert!(pager.spill_begin());
    drive(&mut pager, &mut disk, usize::MAX).expect("the disk is sound");
    pager.put(TREE, b"last", &[b"one"]).expect("its leaf is there");
    crate::model::ModelTrees::put(&mut model, TREE, b"last", &[b"one"]).expect("the model");
    assert_eq!(all_of(&pager), entries(&model, &|_| ()));
    checkpoint(&mut pager, &mut disk);
    assert!(crate::check::check(&mut disk, SPECS).expect("the file opens").is_sound());
}
