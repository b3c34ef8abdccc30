//! A file that becomes shorter while it is written: under power cuts at every request, pins, damage, growth and restarts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{Direction, PageRun, ReadTrees, WriteTrees};
use crate::check::check;
use crate::checkpoint_tests::{OPTIONS, act, entries, reopen};
use crate::crash_tests::{Run, crashes, create, finish, opens_as_it_must};
use crate::disk::{Crash, Disk, SimDisk};
use crate::layout::{META_PAGES, PAGE_BYTES};
use crate::meta::MetaOutcome;
use crate::model::ModelTrees;
use crate::pager::Pager;
use crate::tree_tests::{Action, SPECS, TREE, key_of};

/// Keys of the store before most of them are deleted.
const KEYS: u16 = 600;

fn pages_of(disk: &SimDisk) -> u64 {
    disk.length().expect("a length") / PAGE_BYTES as u64
}

/// One checkpoint of what there is; false where the disk has stopped.
fn checkpoint(disk: &SimDisk, pager: &mut Pager, model: &ModelTrees, run: &mut Run) -> bool {
    pager.set_attributes(model.attributes());
    pager.publish();
    while pager.is_settling() {
        pager.publish();
    }
    assert!(pager.checkpoint_begin().expect("not failed"));
    run.begun.insert(pager.generation(), model.clone());
    finish(pager, &mut disk.clone(), run, 3, 0)
}

/// A store of which four fifths were deleted, all over the file.
fn sparse(disk: &SimDisk) -> (Pager, ModelTrees, Run) {
    let (mut pager, mut model) = (create(disk), ModelTrees::new(SPECS));
    let mut run = Run { begun: BTreeMap::from([(pager.generation(), model.clone())]), done: pager.generation() };
    for part in 0..4 {
        for key in (0..KEYS).filter(|key| key % 4 == part) {
            let bytes = if key % 50 == 7 { 9000 } else { 1500 };
            act(&mut pager, &mut model, &Action::Put(key, bytes, 1));
        }
        assert!(checkpoint(disk, &mut pager, &model, &mut run));
    }
    for key in (0..KEYS).filter(|key| key % 5 != 0) {
        act(&mut pager, &mut model, &Action::Delete(key));
    }
    for _ in 0..3 {
        assert!(checkpoint(disk, &mut pager, &model, &mut run));
    }
    (pager, model, run)
}

/// Pages that the state needs, and some room.
fn target(pager: &Pager) -> u64 {
    (pager.file_bytes_in_use() - pager.held_bytes()) / PAGE_BYTES as u64 * 5 / 4 + 16
}

fn settle(pager: &mut Pager) {
    pager.publish();
    while pager.is_settling() {
        pager.publish();
    }
}

/// Moves some pages; true when all are moved.
fn step(pager: &mut Pager, pages: u64) -> bool {
    let step = pager.shrink_step(pages);
    for run in &step.absent {
        pager.bring_in_done(*run).expect("the file is sound");
    }
    step.is_done
}

/// Shrinks with a put and a checkpoint behind each step, and grows again at its end; false where the disk has stopped.
fn shrink(disk: &SimDisk, pager: &mut Pager, model: &mut ModelTrees, run: &mut Run, grows: bool) -> bool {
    settle(pager);
    let target = target(pager);
    assert!(pager.shrink_begin(target), "the file is longer than that");
    let mut key = 0;
    while pager.shrink_ceiling().is_some() || pager.shrink_awaits_checkpoint() {
        for _ in 0..4 {
            step(pager, 12);
        }
        key += 5;
        act(pager, model, &Action::Put(key, 700, 2));
        if !checkpoint(disk, pager, model, run) {
            return false;
        }
        assert!(key < 300, "it comes to an end");
    }
    for key in (0..KEYS).filter(|key| grows && key % 5 == 1) {
        act(pager, model, &Action::Put(key, 3000, 3));
    }
    checkpoint(disk, pager, model, run)
}

#[test]
fn the_file_becomes_as_short_as_asked_and_grows_again() {
    let disk = SimDisk::new();
    let (mut pager, mut model, mut run) = sparse(&disk);
    let long = pages_of(&disk);
    settle(&mut pager);
    let wanted = target(&pager);
    assert!(shrink(&disk, &mut pager, &mut model, &mut run, false));
    assert_eq!((pages_of(&disk), pager.file_bytes()), (wanted, wanted * PAGE_BYTES as u64));
    assert!(wanted * 2 < long, "{wanted} of {long}");
    opens_as_it_must(&disk, &run, "shrunk");
    assert!(!pager.shrink_begin(wanted), "it is that short");
    for key in 0..KEYS {
        act(&mut pager, &mut model, &Action::Put(key, 2500, 3));
    }
    assert!(checkpoint(&disk, &mut pager, &model, &mut run));
    assert!(pages_of(&disk) > wanted);
    opens_as_it_must(&disk, &run, "grown");
    assert_eq!(pager.take_damage(), None);
}

#[test]
fn the_power_fails_at_every_request_of_a_shrink_and_of_the_growth_behind_it() {
    let base = SimDisk::new();
    let (pager, model, run) = sparse(&base);
    drop(pager);
    base.crash(Crash::KeepAll);
    let mut stop = 0;
    let mut cuts = 0;
    loop {
        let disk = base.fork();
        let (mut pager, mut model) = (reopen(&disk, run.done), model.clone());
        let mut run = Run { begun: run.begun.clone(), done: run.done };
        // What is free is known only when the maps are read.
        while pager.look_at_region() {
            assert!(finish(&mut pager, &mut disk.clone(), &mut run, 1, 0));
        }
        let before = disk.counts();
        disk.stop_after(stop);
        let ended = shrink(&disk, &mut pager, &mut model, &mut run, true);
        cuts = cuts.max(disk.counts().cuts - before.cuts);
        drop(pager);
        if !disk.is_stopped() {
            assert!(ended);
            break;
        }
        for crash in crashes(stop) {
            let told = format!("stop {stop}, {crash:?}");
            let fork = disk.fork();
            fork.crash(crash);
            falls_back(&fork, &run, &told);
            let (mut pager, mut model) = opens_as_it_must(&fork, &run, &told);
            let mut again =
                Run { begun: BTreeMap::from([(pager.generation(), model.clone())]), done: pager.generation() };
            while pager.look_at_region() {
                assert!(finish(&mut pager, &mut fork.clone(), &mut again, 1, 0));
            }
            // The next life brings it to an end: none of the pages is lost by what the first has left.
            settle(&mut pager);
            if pager.shrink_begin(target(&pager)) {
                pager.shrink_abandon();
                assert!(shrink(&fork, &mut pager, &mut model, &mut again, false), "{told}");
            } else {
                assert!(checkpoint(&fork, &mut pager, &model, &mut again), "{told}");
            }
            assert_eq!(
                pages_of(&fork) * PAGE_BYTES as u64,
                pager.file_bytes(),
                "{told}: what it does not need is cut off"
            );
            assert_eq!(pager.take_damage(), None, "{told}");
            opens_as_it_must(&fork, &again, &told);
        }
        stop += 1;
    }
    assert!(stop > 40 && cuts > 0, "{stop} stops, {cuts} cuts");
}

/// The newer meta is damaged: the file must be whole under the older one, its end included.
fn falls_back(disk: &SimDisk, run: &Run, told: &str) {
    let fork = disk.fork();
    let report = check(&mut fork.clone(), SPECS).unwrap_or_else(|error| panic!("{told}: {error}"));
    let generation_at = |page: u64| {
        let bytes = fork.peek(page * PAGE_BYTES as u64 + 16, 8);
        u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
    };
    if report.outcome != MetaOutcome::BothValid {
        return;
    }
    let Some(newer) = META_PAGES.into_iter().find(|page| generation_at(*page) == report.generation) else { return };
    fork.poke(newer * PAGE_BYTES as u64 + 99, &[0xEE; 10]);
    let Ok(report) = check(&mut fork.clone(), SPECS) else { panic!("{told}: it does not open with the older meta") };
    // A checkpoint that has died in its maps has written over those of the older meta alone: no tree is touched by that.
    let trees = report.findings.iter().filter(|damage| damage.tree != 0);
    assert_eq!(trees.count(), 0, "{told}: {report}");
    let pager = reopen(&fork, 0);
    let model = &run.begun[&pager.generation()];
    let bring_in = |run| pager.bring_in_done(run).expect("the check was sound");
    assert_eq!(entries(&pager, &bring_in), entries(model, &|_| ()), "{told}");
}

#[test]
fn a_pin_keeps_the_end_of_the_file_until_it_is_gone() {
    let disk = SimDisk::new();
    let (mut pager, model, mut run) = sparse(&disk);
    let long = pages_of(&disk);
    let reader = pager.reader();
    let pin = reader.pin();
    settle(&mut pager);
    let wanted = target(&pager);
    assert!(pager.shrink_begin(wanted));
    while !step(&mut pager, 50) {}
    for _ in 0..6 {
        assert!(checkpoint(&disk, &mut pager, &model, &mut run));
    }
    assert_eq!(pages_of(&disk), long);
    disk.evict_all();
    let bring_in = |run: PageRun| reader.bring_in_done(run).expect("the pin holds it");
    assert_eq!(entries(&pin, &bring_in), entries(&model, &|_| ()));
    drop(pin);
    for _ in 0..3 {
        assert!(checkpoint(&disk, &mut pager, &model, &mut run));
    }
    assert_eq!(pages_of(&disk), wanted);
    let bring_in = |run: PageRun| reader.bring_in_done(run).expect("sound");
    assert_eq!(entries(&reader.pin(), &bring_in), entries(&model, &|_| ()));
}

/// A read that an older state asked for comes back when its page is gone: it is told so, and nothing is served.
#[test]
fn a_page_that_was_cut_off_is_not_looked_at() {
    let disk = SimDisk::new();
    let (mut pager, mut model, mut run) = sparse(&disk);
    let last = PageRun { first: pages_of(&disk) - 1, pages: 1 };
    assert!(shrink(&disk, &mut pager, &mut model, &mut run, false));
    assert!(pager.bring_in_done(last).is_err());
    assert!(disk.clone().length().expect("a length") <= last.first * PAGE_BYTES as u64);
}

/// What can't be read stays, keeps its place, and is told once; the file is cut behind it.
#[test]
fn a_damaged_page_stays_and_the_file_ends_behind_it() {
    let disk = SimDisk::new();
    let (mut pager, model, mut run) = sparse(&disk);
    drop(pager);
    disk.crash(Crash::KeepAll);
    pager = reopen(&disk, run.done);
    while pager.look_at_region() {
        assert!(finish(&mut pager, &mut disk.clone(), &mut run, 1, 0));
    }
    let wanted = target(&pager);
    // The last leaf of the file that is in use.
    let is_leaf = |page: u64| {
        let head = disk.peek(page * PAGE_BYTES as u64, 64);
        head[..4] == *b"RNod" && head[32] == TREE.0 && head[33] == 0 && head[24] == 1
    };
    let in_use = |page: &u64| pager.checkpoints.freelist.is_free(*page) == Some(false);
    // In the middle of what goes.
    let behind = wanted + 20..pages_of(&disk) - 20;
    let damaged = behind.rev().filter(in_use).find(|page| is_leaf(*page)).expect("there is one");
    disk.poke(damaged * PAGE_BYTES as u64 + 100, &[0xEE; 8]);
    assert!(pager.shrink_begin(wanted));
    loop {
        let step = pager.shrink_step(50);
        for run in &step.absent {
            if let Err(damage) = pager.bring_in_done(*run) {
                pager.shrink_unreadable(*run, damage);
            }
        }
        if step.is_done {
            break;
        }
    }
    for _ in 0..5 {
        assert!(checkpoint(&disk, &mut pager, &model, &mut run));
    }
    assert_eq!(pages_of(&disk), damaged + 1);
    assert_eq!(pager.take_damage().map(|damage| damage.page), Some(damaged));
    assert_eq!(pager.take_damage(), None, "told once");
    let mut damages = 0;
    for key in (0..KEYS).step_by(5) {
        let key = key_of(key);
        let found = loop {
            match pager.get(TREE, &key) {
                Err(crate::api::Fault::Absent(run)) => match pager.bring_in_done(run) {
                    Ok(()) => {}
                    Err(damage) => break Err(damage),
                },
                other => break other.map(|value| value.map(<[u8]>::len)).map_err(|fault| panic!("{fault}")),
            }
        };
        match found {
            Ok(value) => assert!(value.is_some()),
            Err(damage) => {
                assert_eq!(damage.page, damaged);
                damages += 1;
            }
        }
    }
    assert!((1..20).contains(&damages), "only the keys of that leaf: {damages}");
}

/// After a crash in a growth the file is longer than either meta says: the next checkpoint cuts it.
#[test]
fn what_a_crash_has_left_behind_the_end_is_cut_off() {
    let disk = SimDisk::new();
    let (pager, model, mut run) = sparse(&disk);
    drop(pager);
    disk.crash(Crash::KeepAll);
    let pages = pages_of(&disk);
    disk.poke((pages + 900) * PAGE_BYTES as u64, &[1; 100]);
    let mut pager = reopen(&disk, run.done);
    assert!(pager.shrink_awaits_checkpoint());
    assert!(checkpoint(&disk, &mut pager, &model, &mut run));
    assert_eq!(pages_of(&disk), pages);
    assert!(!pager.shrink_awaits_checkpoint());
    opens_as_it_must(&disk, &run, "cut");
}

/// The mapping itself: a page that is gone is `None`, not a signal, and what grows there later is checked anew.
#[test]
fn a_mapped_file_forgets_what_was_cut_off() {
    use crate::mapping::{Mapping, PageSource};
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().expect("a temporary file");
    file.write_all_at(&[1; 8 * PAGE_BYTES], 0).expect("written");
    let mapping = Arc::new(Mapping::new(&file, 8).expect("mapped"));
    let run = |first| PageRun { first, pages: 1 };
    (0..8).for_each(|page| mapping.set_resident(run(page)));
    mapping.cut(5);
    file.set_len(5 * PAGE_BYTES as u64).expect("cut");
    assert!(mapping.page(run(4)).is_some() && mapping.page(run(5)).is_none() && mapping.unchecked(run(7)).is_none());
    assert!(!mapping.is_cached(run(7)));
    file.write_all_at(&[2; PAGE_BYTES], 7 * PAGE_BYTES as u64).expect("grown");
    mapping.grown(8).expect("in the address space");
    assert!(mapping.page(run(7)).is_none(), "not known to be checked");
    mapping.set_resident(run(7));
    assert_eq!(mapping.page(run(7)), Some(&[2; PAGE_BYTES][..]));
}

/// A backward visit that was begun on an older root and goes on at a new pin finds everything at its new place.
#[test]
fn a_reader_that_looks_again_at_a_new_pin_finds_all() {
    let disk = SimDisk::new();
    let (mut pager, mut model, mut run) = sparse(&disk);
    let reader = pager.reader();
    let all = (core::ops::Bound::Unbounded, core::ops::Bound::Unbounded);
    disk.evict_all();
    let asked = match reader
        .pin()
        .visit(TREE, all, Direction::Backward, false, &mut |_, _| core::ops::ControlFlow::Continue(()))
    {
        Err(crate::api::Fault::Absent(run)) => run,
        other => panic!("{other:?}"),
    };
    assert!(shrink(&disk, &mut pager, &mut model, &mut run, false));
    let _ = reader.bring_in_done(asked);
    let bring_in = |run: PageRun| reader.bring_in_done(run).expect("sound");
    assert_eq!(entries(&reader.pin(), &bring_in), entries(&model, &|_| ()));
    let _ = OPTIONS;
}
