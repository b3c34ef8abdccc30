//! Checkpoints over the simulated disk.

use core::ops::Bound;
use std::sync::Arc;

use proptest::prelude::*;

use crate::api::{Access, Direction, Fault, KeyRange, PageRun, ReadTrees, WriteTrees};
use crate::checkpoint::{CheckpointDone, CheckpointError};
use crate::disk::{Crash, Disk, SimDisk};
use crate::model::ModelTrees;
use crate::open::FileOptions;
use crate::pager::Pager;
use crate::tree_tests::{Action, Entries, SPECS, TREE, actions, bound, key_of, value_of};

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

pub(crate) const OPTIONS: FileOptions<'static> = FileOptions { file_id: [9; 16], owner_id: [0; 16], trees: SPECS };

fn pager(disk: &SimDisk) -> Pager {
    Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS).expect("the disk is sound")
}

pub(crate) fn reopen(disk: &SimDisk, logged: u64) -> Pager {
    Pager::open(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS, logged).expect("the file is sound").0
}

/// Does the checkpoint's next `count` requests.
pub(crate) fn drive(
    pager: &mut Pager,
    disk: &mut SimDisk,
    count: usize,
) -> Result<Option<CheckpointDone>, CheckpointError> {
    for _ in 0..count {
        let Some((token, io)) = pager.poll_io()? else { break };
        disk.submit(token, io);
        while let Some(completion) = disk.poll() {
            if let Some(done) = pager.completed(completion.token, completion.result)? {
                return Ok(Some(done));
            }
        }
    }
    Ok(None)
}

/// Repeats an operation until all its pages were brought in.
pub(crate) fn resume<T>(pager: &mut Pager, mut operation: impl FnMut(&mut Pager) -> Access<T>) -> T {
    loop {
        match operation(pager) {
            Ok(result) => return result,
            Err(Fault::Absent(run)) => pager.bring_in_done(run).expect("the page is sound"),
            Err(Fault::Damaged(damage)) => panic!("{damage}"),
        }
    }
}

pub(crate) fn entries(trees: &dyn ReadTrees, bring_in: &dyn Fn(PageRun)) -> Entries {
    loop {
        let mut entries = Entries::new();
        let mut visitor = |key: &[u8], value: &[u8]| {
            entries.push((key.to_vec(), value.to_vec()));
            core::ops::ControlFlow::Continue(())
        };
        match trees.visit(TREE, ALL, Direction::Forward, false, &mut visitor) {
            Ok(()) => return entries,
            Err(Fault::Absent(run)) => bring_in(run),
            Err(Fault::Damaged(damage)) => panic!("{damage}"),
        }
    }
}

pub(crate) fn act(pager: &mut Pager, model: &mut ModelTrees, action: &Action) {
    match action {
        Action::Put(key, bytes, fill) => {
            let (key, value) = (key_of(*key), value_of(*bytes, *fill));
            resume(pager, |pager| pager.put(TREE, &key, &[&value]));
            model.put(TREE, &key, &[&value]).expect("the model");
        }
        Action::Delete(key) => {
            let key = key_of(*key);
            let removed = resume(pager, |pager| pager.delete(TREE, &key));
            assert_eq!(model.delete(TREE, &key), Ok(removed));
        }
        Action::DeleteFront(low, high, most) => {
            let (low, high) = (low.map(key_of), high.map(key_of));
            let range = (bound(low.as_deref(), true), bound(high.as_deref(), false));
            while !resume(pager, |pager| pager.delete_front(TREE, range, *most)) {}
            while !model.delete_front(TREE, range, *most).expect("the model") {}
        }
        Action::Publish => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn trees_survive_checkpoints_and_eviction(history in actions(500), pace in 1..12_usize) {
        let mut disk = SimDisk::new();
        let (mut pager, mut model) = (pager(&disk), ModelTrees::new(SPECS));
        let reader = pager.reader();
        let mut pins = std::collections::VecDeque::new();
        let mut done = 0;
        for (number, action) in history.iter().enumerate() {
            act(&mut pager, &mut model, action);
            // A look-up whose put comes next, or later, when the way to it may be another.
            if let Some(Action::Put(key, ..)) = history.get(number + 1 + number % 3) {
                let key = key_of(*key);
                let found = resume(&mut pager, |pager| Ok(pager.get(TREE, &key)?.map(<[u8]>::to_vec)));
                prop_assert_eq!(found.as_deref(), model.get(TREE, &key).expect("the model"));
            }
            if number % 4 == 0 {
                pager.publish();
                if number % 3 == 0 {
                    pins.push_back((reader.pin(), model.clone()));
                }
                pager.checkpoint_begin().expect("the disk is sound");
            }
            if number % pace == 0 {
                done += u32::from(drive(&mut pager, &mut disk, 1 + number % 3).expect("the disk is sound").is_some());
            }
            if number % 50 == 49 {
                disk.evict_all();
            }
            if pins.len() > 5 {
                let (pin, then) = pins.remove(number % pins.len()).expect("there are that many");
                let bring_in = |run: PageRun| reader.bring_in_done(run).expect("sound");
                prop_assert_eq!(entries(&pin, &bring_in), entries(&then, &|_| ()));
            }
        }
        let _ = done;
        let bring_in = |run: PageRun| pager.bring_in_done(run).expect("sound");
        prop_assert_eq!(entries(&pager, &bring_in), entries(&model, &|_| ()));
        drop(pins);
        pager.set_attributes(b"last");
        pager.publish();
        while !pager.checkpoint_begin().expect("the disk is sound") {
            drive(&mut pager, &mut disk, usize::MAX).expect("the disk is sound");
        }
        drive(&mut pager, &mut disk, usize::MAX).expect("the disk is sound");
        for _ in 0..200 {
            pager.set_attributes(b"later");
            pager.publish();
        }
        prop_assert_eq!(pager.dirty_bytes(), 0);
        prop_assert_eq!(pager.frame_bytes(), 0);
        prop_assert_eq!(pager.take_damage(), None);
        let generation = pager.checkpoints.newest_generation;
        let report = crate::check::check(&mut disk, SPECS).expect("the file opens");
        prop_assert!(report.is_sound(), "{}", report);
        drop(pager);
        disk.crash(Crash::KeepNone);
        let pager = reopen(&disk, generation);
        let bring_in = |run: PageRun| pager.bring_in_done(run).expect("sound");
        prop_assert_eq!(entries(&pager, &bring_in), entries(&model, &|_| ()));
        prop_assert_eq!(pager.attributes(), b"last");
    }
}

#[test]
fn a_checkpoint_tells_what_it_has_written_and_what_was_made_beside_it() {
    let mut disk = SimDisk::new();
    let mut pager = pager(&disk);
    let put_all = |pager: &mut Pager| {
        for key in 0..200_u16 {
            resume(pager, |pager| pager.put(TREE, &key.to_be_bytes(), &[&[7; 1000]]));
        }
        pager.publish();
    };
    put_all(&mut pager);
    assert_eq!(pager.checkpoint_progress(), None);
    let own_bytes = pager.dirty_bytes();
    assert!(pager.checkpoint_begin().expect("the disk is sound"));
    let progress = |pager: &Pager| pager.checkpoint_progress().expect("one is under way");
    let begun = progress(&pager);
    assert_eq!((begun.own_bytes, begun.placed_bytes, begun.made_bytes), (own_bytes, 0, 0));
    // In place of all frames that it writes: these are not dirty twice.
    put_all(&mut pager);
    let made = progress(&pager).made_bytes;
    assert!(made >= own_bytes, "{made} of {own_bytes}");
    let mut placed = 0;
    while pager.is_checkpointing() {
        placed = progress(&pager).placed_bytes;
        drive(&mut pager, &mut disk, 1).expect("the disk is sound");
    }
    assert_eq!((placed, pager.dirty_bytes()), (own_bytes, made));
    assert_eq!(pager.checkpoint_progress(), None);
}
