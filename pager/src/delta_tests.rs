//! Leaves that hold only what differs from their page, over the simulated disk: against the model, beside checkpoints that end,
//! fail for want of space, or are cut off by the power.

use std::collections::{BTreeMap, VecDeque};

use crate::api::{Fault, PageRun, ReadTrees, WriteTrees};
use crate::checkpoint::CheckpointError;
use crate::checkpoint_tests::{drive, entries, reopen, resume};
use crate::crash_tests::{Run, crashes, create, finish, opens_as_it_must};
use crate::disk::{Crash, SimDisk};
use crate::layout::PAGE_BYTES;
use crate::model::ModelTrees;
use crate::node::Child;
use crate::pager::Pager;
use crate::tree_tests::{SPECS, TREE, bound};

const KEYS: u64 = 1200;

fn key(number: u64) -> Vec<u8> {
    format!("/registry/pods/{:03}/{number:09}", number / 50).into_bytes()
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) % bound
    }
}

/// Deltas of the writer's state, by class.
fn deltas(pager: &Pager) -> [usize; 3] {
    fn below(pager: &Pager, child: &Child, counts: &mut [usize; 3]) {
        if let Some(class) = child.reference.delta_class() {
            counts[class] += 1;
        } else if child.reference.is_frame() && !pager.forest.header(child).is_leaf() {
            let view = pager.forest.header(child);
            (0..view.len()).for_each(|index| below(pager, &view.child(index), counts));
        }
    }
    let mut counts = [0; 3];
    below(pager, &pager.forest.root(TREE).child, &mut counts);
    counts
}

/// A store, and what it must hold.
struct Twin {
    disk: SimDisk,
    pager: Pager,
    model: ModelTrees,
}

impl Twin {
    fn new(random: &mut Random) -> Twin {
        let disk = SimDisk::new();
        let mut twin = Twin { pager: create(&disk), disk, model: ModelTrees::new(SPECS) };
        for number in 0..KEYS {
            twin.put(number, 60 + random.below(250), 1);
        }
        twin.checkpoint();
        twin
    }

    fn put(&mut self, number: u64, bytes: u64, fill: u8) {
        let (key, value) = (key(number), vec![fill; bytes as usize]);
        if number.is_multiple_of(2) {
            self.look_up(&key);
        }
        resume(&mut self.pager, |pager| pager.put(TREE, &key, &[&value]));
        self.model.put(TREE, &key, &[&value]).expect("the model");
    }

    fn look_up(&mut self, key: &[u8]) {
        let found = resume(&mut self.pager, |pager| Ok(pager.get(TREE, key)?.map(<[u8]>::to_vec)));
        assert_eq!(found.as_deref(), self.model.get(TREE, key).expect("the model"));
    }

    fn delete(&mut self, number: u64) {
        let key = key(number);
        let removed = resume(&mut self.pager, |pager| pager.delete(TREE, &key));
        assert_eq!(self.model.delete(TREE, &key), Ok(removed));
    }

    fn delete_front(&mut self, low: u64, high: u64) {
        let (low, high) = (key(low), key(high));
        let range = (bound(Some(&low), true), bound(Some(&high), false));
        while !resume(&mut self.pager, |pager| pager.delete_front(TREE, range, 7)) {}
        while !self.model.delete_front(TREE, range, 7).expect("the model") {}
    }

    fn sum(&mut self, low: u64, high: u64) {
        let (low, high) = (key(low), key(high));
        let range = (bound(Some(&low), true), bound(Some(&high), false));
        let sum = resume(&mut self.pager, |pager| pager.aggregate(TREE, range));
        assert_eq!(Ok(sum), self.model.aggregate(TREE, range));
    }

    fn touch(&mut self) {
        let attributes = self.pager.attributes().to_vec();
        self.pager.set_attributes(&attributes);
        self.pager.publish();
    }

    fn drive(&mut self, count: usize) {
        drive(&mut self.pager, &mut self.disk, count).expect("the disk is sound");
    }

    fn checkpoint(&mut self) {
        self.drive(usize::MAX);
        self.touch();
        assert!(self.pager.checkpoint_begin().expect("the disk is sound"));
        self.drive(usize::MAX);
    }

    /// A checkpoint that finds no space, or that needs none.
    fn checkpoint_on_a_full_disk(&mut self) -> bool {
        self.disk.set_full(true);
        let end = drive(&mut self.pager, &mut self.disk, usize::MAX);
        self.disk.set_full(false);
        assert!(!self.pager.is_checkpointing());
        matches!(end, Err(CheckpointError::Full(_)))
    }

    fn shrink(&mut self, steps: u64) {
        for _ in 0..steps {
            for run in self.pager.shrink_step(9).absent {
                self.pager.bring_in_done(run).expect("sound");
            }
        }
    }

    /// All is written; nothing is in memory, and no page is lost or used twice.
    fn ends_well(mut self, told: &str) {
        for _ in 0..3 {
            self.checkpoint();
            while self.pager.is_settling() || self.pager.frame_bytes() > 0 {
                self.touch();
            }
        }
        assert_eq!((self.pager.dirty_bytes(), self.pager.take_damage()), (0, None), "{told}");
        assert!((self.pager.forest.borrowed.len == 0), "{told}");
        // Only what the third one has freed waits for the metas.
        assert!(self.pager.held_bytes() <= 8 * PAGE_BYTES as u64, "{told}: {} bytes", self.pager.held_bytes());
        let report = crate::check::check(&mut self.disk, SPECS).expect("the file opens");
        assert!(report.is_sound(), "{told}: {report}");
        let generation = self.pager.checkpoints.newest_generation;
        drop(self.pager);
        self.disk.crash(Crash::KeepNone);
        let pager = reopen(&self.disk, generation);
        let bring_in = |run: PageRun| pager.bring_in_done(run).expect("sound");
        assert_eq!(entries(&pager, &bring_in), entries(&self.model, &|_| ()), "{told}");
    }
}

#[test]
fn changed_leaves_do_as_the_model_does_beside_checkpoints_of_all_kinds() {
    let (mut classes, mut borrowed, mut full, mut spills, mut shrunk, mut bases) = ([0; 3], 0, 0, 0, 0, 0);
    for seed in 0..12 {
        let mut random = Random(seed * 77 + 5);
        let mut twin = Twin::new(&mut random);
        let reader = twin.pager.reader();
        let mut pins = VecDeque::new();
        let mut hot = 0;
        for step in 0..2500_u64 {
            let number = random.below(KEYS);
            match random.below(60) {
                0..26 => twin.put(number, 60 + random.below(250), 2),
                26..34 => twin.put(hot + random.below(12), 60 + random.below(250), 3),
                34..40 => twin.delete(number),
                40 => twin.delete_front(number, number + random.below(25)),
                41 => twin.put(number, 2000 + random.below(5000), 4),
                42 => hot = number,
                43 | 44 => twin.sum(number, number + random.below(KEYS)),
                45..50 => {
                    twin.touch();
                    deltas(&twin.pager).iter().zip(&mut classes).for_each(|(now, all)| *all += now);
                    borrowed += twin.pager.forest.borrowed.len;
                    if random.below(3) == 0 {
                        pins.push_back((reader.pin(), twin.model.clone()));
                    }
                }
                50 | 51 => drop(twin.pager.checkpoint_begin().expect("the disk is sound")),
                52..56 => twin.drive(1 + random.below(12) as usize),
                56 => {
                    let before = twin.disk.counts().reads;
                    twin.disk.evict_all();
                    twin.drive(usize::MAX);
                    bases += twin.disk.counts().reads - before;
                }
                57 => full += u32::from(twin.checkpoint_on_a_full_disk()),
                58 if twin.pager.spill_begin() => {
                    spills += 1;
                    twin.drive(usize::MAX);
                }
                59 if step.is_multiple_of(3) => {
                    let pages = twin.pager.file_bytes() / PAGE_BYTES as u64;
                    shrunk += u32::from(twin.pager.shrink_begin(pages * 2 / 3));
                    twin.shrink(4);
                }
                _ => twin.shrink(1),
            }
            if pins.len() > 4 {
                let (pin, then) = pins.remove(random.below(pins.len() as u64) as usize).expect("there are so many");
                let bring_in = |run: PageRun| reader.bring_in_done(run).expect("sound");
                assert_eq!(entries(&pin, &bring_in), entries(&then, &|_| ()), "seed {seed}, step {step}");
            }
        }
        drop(pins);
        twin.ends_well(&format!("seed {seed}"));
    }
    let seen = (classes, borrowed, full, spills, shrunk, bases);
    assert!(classes.iter().all(|count| *count > 100) && borrowed > 100, "{seen:?}");
    assert!(full > 3 && spills > 20 && shrunk > 3 && bases > 20, "{seen:?}");
}

#[test]
fn a_delta_takes_an_eighth_of_a_page_and_becomes_whole_when_much_has_changed() {
    let mut random = Random(1);
    let mut twin = Twin::new(&mut random);
    while twin.pager.frame_bytes() > 0 {
        twin.touch();
    }
    twin.put(600, 100, 9);
    let branches = twin.pager.dirty_bytes() - 504;
    assert_eq!((deltas(&twin.pager), branches % PAGE_BYTES as u64), ([1, 0, 0], 0));
    twin.delete(600);
    assert_eq!((deltas(&twin.pager), twin.pager.dirty_bytes()), ([1, 0, 0], branches + 504));
    twin.touch();
    let mut seen = Vec::new();
    for round in 0..9 {
        (598..603).for_each(|number| twin.put(number, 60 + 40 * round, 8));
        seen.push(deltas(&twin.pager));
    }
    assert!(seen.contains(&[0, 1, 0]) && seen.contains(&[0, 0, 1]) && seen.last() == Some(&[0; 3]), "{seen:?}");
    twin.ends_well("whole again");
}

#[test]
fn a_page_below_a_change_is_read_again_or_its_loss_is_told() {
    for is_damaged in [false, true] {
        let mut random = Random(2);
        let mut twin = Twin::new(&mut random);
        twin.touch();
        twin.put(600, 100, 9);
        twin.pager.publish();
        assert_eq!(deltas(&twin.pager).iter().sum::<usize>(), 1);
        twin.disk.evict_all();
        let reader = twin.pager.reader();
        let pin = reader.pin();
        let base = loop {
            let Err(Fault::Absent(run)) = pin.get(TREE, &key(601)) else { panic!("the leaf's page has left memory") };
            if pin.get(TREE, &key(601)) == Err(Fault::Absent(run)) && is_leaf(&twin.disk, run) {
                break run;
            }
            reader.bring_in_done(run).expect("sound");
        };
        drop(pin);
        if is_damaged {
            twin.disk.poke(base.first * PAGE_BYTES as u64 + 2000, &[0xA5; 8]);
        }
        assert!(twin.pager.checkpoint_begin().expect("not failed"));
        let end = drive(&mut twin.pager, &mut twin.disk, usize::MAX);
        if is_damaged {
            assert!(matches!(end, Err(CheckpointError::Damaged(damage)) if damage.page == base.first));
        } else {
            assert!(end.expect("the disk is sound").is_some());
            twin.ends_well("read again");
        }
    }
}

#[test]
fn a_leaf_that_changes_during_each_checkpoint_lets_go_of_its_page() {
    fn base_of(pager: &Pager, number: u64) -> Option<u64> {
        let (path, _) = pager.forest.descend(TREE, &key(number)).expect("in memory").expect("not empty");
        let leaf = path[path.len() - 1].child.reference;
        leaf.is_delta().then(|| pager.forest.base_of(leaf).page)
    }
    let mut twin = Twin::new(&mut Random(3));
    let mut bases = Vec::new();
    for round in 0..9 {
        twin.drive(usize::MAX);
        while twin.pager.is_settling() {
            twin.touch();
        }
        twin.put(600, 100, round);
        twin.touch();
        assert!(twin.pager.checkpoint_begin().expect("the disk is sound"));
        twin.put(600, 100, round + 10);
        bases.push(base_of(&twin.pager, 600));
    }
    let first = bases[0];
    assert!(first.is_some() && !bases[2..].contains(&first), "{bases:?}");
    twin.ends_well("let go of");
}

fn is_leaf(disk: &SimDisk, run: PageRun) -> bool {
    disk.peek(run.first * PAGE_BYTES as u64, PAGE_BYTES)[crate::node::at::LEVEL] == 0
}

/// Rounds of small changes with a checkpoint each, and some to the same leaves while that is written.
fn history(disk: &SimDisk, mut pager: Pager, rounds: u64) -> Run {
    let (mut random, mut model) = (Random(7), ModelTrees::new(SPECS));
    let mut run = Run { begun: BTreeMap::from([(pager.generation(), model.clone())]), done: pager.generation() };
    for round in 0..rounds {
        let (changes, keys) = if round == 0 { (120, 120) } else { (12, 150) };
        let mut change = |pager: &mut Pager, model: &mut ModelTrees, number: u64| {
            let (key, value) = (key(number), vec![round as u8; 80 + random.below(200) as usize]);
            if number % 5 == 4 && round > 0 {
                pager.delete(TREE, &key).expect("in memory");
                model.delete(TREE, &key).expect("the model");
            } else {
                pager.put(TREE, &key, &[&value]).expect("in memory");
                model.put(TREE, &key, &[&value]).expect("the model");
            }
            random.below(keys)
        };
        let mut number = 0;
        for step in 0..changes {
            number = change(&mut pager, &mut model, if round == 0 { step } else { number });
        }
        pager.set_attributes(&round.to_le_bytes());
        model.set_attributes(&round.to_le_bytes());
        pager.publish();
        assert!(round == 0 || deltas(&pager).iter().sum::<usize>() > 1);
        assert!(pager.checkpoint_begin().expect("not failed"));
        run.begun.insert(pager.generation(), model.clone());
        for _ in 0..4 {
            number = change(&mut pager, &mut model, number);
            pager.publish();
        }
        if !finish(&mut pager, &mut disk.clone(), &mut run, 2, 0) {
            return run;
        }
        while pager.is_settling() {
            pager.set_attributes(&round.to_le_bytes());
            pager.publish();
        }
    }
    run
}

#[test]
fn the_power_fails_at_every_request_of_checkpoints_of_changed_leaves() {
    let whole = SimDisk::new();
    let pager = create(&whole);
    let before = whole.counts().changing();
    let run = history(&whole, pager, 6);
    // Opening makes requests of its own.
    let requests = whole.counts().changing() - before;
    opens_as_it_must(&whole, &run, "without a crash");
    for stop in 0..requests {
        let disk = SimDisk::new();
        let pager = create(&disk);
        disk.stop_after(stop);
        let run = history(&disk, pager, 6);
        for crash in crashes(stop) {
            let fork = disk.fork();
            fork.crash(crash);
            opens_as_it_must(&fork, &run, &format!("stop {stop}, {crash:?}"));
        }
    }
}
