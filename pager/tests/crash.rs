//! Power cuts, I/O errors and damage over the whole pager, on the simulated disk.
//!
//! A fixed history of puts, deletes and checkpoints is run again and again, stopped at each request that changes the file.
//! What is found after the crash must be exactly one state that was published, not older than the last checkpoint that
//! was reported; then the history goes on from there, is stopped a second time, and checked again.
//! Not checked here: a sector torn within, a disk that lies about syncs (but for the stale pages below), readers on other threads.

use core::ops::{Bound, ControlFlow};
use std::collections::BTreeMap;
use std::sync::Arc;

use ringstone_pager::api::{Aggregate, Direction, Fault, KeyRange, PageRun, ReadTrees, TreeId, TreeSpec, WriteTrees};
use ringstone_pager::check::check;
use ringstone_pager::disk::{Crash, Disk, Fault as DiskFault, SimDisk};
use ringstone_pager::meta::{self, HEAD_PAGES};
use ringstone_pager::{CheckpointError, FileOptions, Pager};

const TREES: [TreeId; 2] = [TreeId(1), TreeId(63)];
const SPECS: &[TreeSpec] =
    &[TreeSpec { id: TREES[0], name: "first", summarize }, TreeSpec { id: TREES[1], name: "second", summarize }];
const OPTIONS: FileOptions<'static> = FileOptions { file_id: [9; 16], owner_id: [1; 16], trees: SPECS };
const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);
const PAGE_BYTES: u64 = 4096;

fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    Aggregate {
        count: 1,
        bytes: (key.len() + value.len()) as u64,
        hash: value.first().map_or(0, |byte| u64::from(*byte)),
    }
}

/// What the trees hold.
type State = BTreeMap<(TreeId, Vec<u8>), Vec<u8>>;

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The owner of a file: it knows what it has published, and what was reported durable.
#[derive(Clone, Default)]
struct Owner {
    state: State,
    /// By generation; those that a checkpoint may have made durable.
    published: BTreeMap<u64, State>,
    /// Of the last finished checkpoint.
    durable: u64,
    /// Called whenever a request has completed.
    watch: Option<fn(&SimDisk, &Owner)>,
}

fn create(disk: &SimDisk) -> Pager {
    Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS).expect("the disk is sound")
}

/// Repeats an operation until all its pages were brought in.
fn resume<T>(pager: &mut Pager, mut operation: impl FnMut(&mut Pager) -> Result<T, Fault>) -> Result<T, Fault> {
    loop {
        match operation(pager) {
            Err(Fault::Absent(run)) => pager.bring_in_done(run).map_err(Fault::Damaged)?,
            result => return result,
        }
    }
}

/// All that the trees hold, and that the sums above agree with it.
fn read(pager: &Pager) -> Result<State, Fault> {
    let mut state = State::new();
    for tree in TREES {
        let bring_in = |run: PageRun| pager.bring_in_done(run).map_err(Fault::Damaged);
        let mut last: Option<Vec<u8>> = None;
        loop {
            let from = last.clone();
            let low = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut visitor = |key: &[u8], value: &[u8]| {
                state.insert((tree, key.to_vec()), value.to_vec());
                last = Some(key.to_vec());
                ControlFlow::Continue(())
            };
            match pager.visit(tree, (low, Bound::Unbounded), Direction::Forward, false, &mut visitor) {
                Err(Fault::Absent(run)) => bring_in(run)?,
                result => break result?,
            }
        }
        let sum = loop {
            match pager.aggregate(tree, ALL) {
                Err(Fault::Absent(run)) => bring_in(run)?,
                result => break result?,
            }
        };
        let entries = state.iter().filter(|((of, _), _)| *of == tree);
        let naive = entries.fold(Aggregate::default(), |sum, ((_, key), value)| sum.plus(summarize(key, value)));
        assert_eq!(sum, naive, "the sums of tree {} are those of its entries", tree.0);
    }
    Ok(state)
}

impl Owner {
    fn change(&mut self, pager: &mut Pager, seed: &mut u64) {
        let tree = TREES[usize::from(random(seed).is_multiple_of(4))];
        let key = format!("key {:03}", random(seed) % 300).into_bytes();
        if random(seed).is_multiple_of(4) {
            resume(pager, |pager| pager.delete(tree, &key)).expect("the file is sound");
            self.state.remove(&(tree, key));
            return;
        }
        let bytes = match random(seed) % 40 {
            0 => 20_000 + random(seed) % 300_000,
            1..4 => 1000 + random(seed) % 3000,
            _ => random(seed) % 200,
        };
        let value = vec![random(seed) as u8; bytes as usize];
        resume(pager, |pager| pager.put(tree, &key, &[&value])).expect("the file is sound");
        self.state.insert((tree, key), value);
    }

    /// Does rounds of changes with a checkpoint each, until the disk stops or fails.
    fn work(&mut self, pager: &mut Pager, disk: &SimDisk, seed: u64, rounds: u64) -> Result<(), CheckpointError> {
        let mut seed = seed;
        for _ in 0..rounds {
            for _ in 0..1 + random(&mut seed) % 60 {
                self.change(pager, &mut seed);
            }
            let generation = pager.publish();
            if pager.checkpoint_begin()? {
                self.published.insert(generation, self.state.clone());
            }
            self.finish(pager, disk, &mut seed)?;
        }
        Ok(())
    }

    /// Drives the checkpoint under way to its end, with changes and publications meanwhile.
    fn finish(&mut self, pager: &mut Pager, disk: &SimDisk, seed: &mut u64) -> Result<(), CheckpointError> {
        let mut disk = disk.clone();
        while pager.is_checkpointing() {
            while let Some((token, io)) = pager.poll_io()? {
                disk.submit(token, io);
            }
            let completion = disk.poll().expect("a checkpoint under way waits for the disk");
            if let Some(done) = pager.completed(completion.token, completion.result)? {
                assert!(self.published.contains_key(&done.generation) && done.generation > self.durable);
                self.durable = done.generation;
            }
            if let Some(watch) = self.watch {
                watch(&disk, self);
            }
            if random(seed).is_multiple_of(2) {
                self.change(pager, seed);
            }
            if random(seed).is_multiple_of(4) {
                pager.publish();
            }
            if random(seed).is_multiple_of(16) {
                disk.evict_all();
            }
        }
        Ok(())
    }

    /// Opens what a crash has left, and holds it against what was published.
    fn recover(&mut self, disk: &SimDisk, context: &str) -> Pager {
        let opened = Pager::open(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS, self.durable);
        let pager = match opened {
            Ok((pager, _)) => pager,
            Err(error) => panic!("{context}: {error}"),
        };
        let generation = pager.generation();
        let expected = self.published.get(&generation);
        let expected = expected.unwrap_or_else(|| panic!("{context}: generation {generation} was never published"));
        let found = read(&pager).unwrap_or_else(|fault| panic!("{context}: {fault}"));
        assert!(found == *expected, "{context}: generation {generation} is not what was published");
        // What was published behind it is gone, and its generations are used again.
        self.state = found;
        self.durable = generation;
        self.published.retain(|published, _| *published <= generation);
        pager
    }
}

/// The newer meta is lost: the file must still have the whole state of the older one, which nothing has touched yet.
fn check_fallback(disk: &SimDisk, owner: &Owner, context: &str) {
    let disk = disk.fork();
    let head = disk.peek(0, HEAD_PAGES * PAGE_BYTES as usize);
    let opened = meta::open(&head, disk.length().expect("a length"), None).expect("opened just now");
    let Some(older) = opened.older else { return };
    disk.poke((1 + u64::from(opened.slot)) * PAGE_BYTES + 99, &[0xEE; 10]);
    let mut owner = Owner { durable: 0, watch: None, ..owner.clone() };
    let pager = owner.recover(&disk, &format!("{context}, newer meta lost"));
    assert_eq!(pager.generation(), older.generation);
}

/// A file with some checkpoints behind it.
fn prepared() -> (SimDisk, Owner) {
    let disk = SimDisk::new();
    let mut pager = create(&disk);
    let mut owner = Owner::default();
    owner.published.insert(pager.generation(), State::new());
    owner.durable = pager.generation();
    owner.work(&mut pager, &disk, 1, 6).expect("the disk is sound");
    drop(pager);
    disk.crash(Crash::KeepNone);
    (disk, owner)
}

const CRASHES: [Crash; 4] = [Crash::KeepNone, Crash::KeepAll, Crash::Random(1), Crash::Torn(2)];

#[test]
fn every_power_cut_leaves_a_published_state_and_so_does_the_next_one() {
    let (base, owner) = prepared();
    let mut stops = 0;
    loop {
        let (disk, mut owner) = (base.fork(), owner.clone());
        if stops % 2 == 1 {
            disk.shuffle(stops);
        }
        // Opening syncs what it opens: the power fails behind it.
        let mut pager = owner.recover(&disk, "before");
        disk.stop_after(stops);
        let ended = owner.work(&mut pager, &disk, 2, 4);
        drop(pager);
        if !disk.is_stopped() {
            ended.expect("nothing was stopped");
            break;
        }
        for crash in CRASHES {
            let (disk, mut owner) = (disk.fork(), owner.clone());
            disk.crash(crash);
            let context = format!("stopped after {stops}, {crash:?}");
            check_fallback(&disk, &owner, &context);
            let mut pager = owner.recover(&disk, &context);
            // Once more, somewhere in the first two checkpoints.
            let mut seed = stops;
            let again = random(&mut seed) % 12;
            disk.stop_after(again);
            let _ = owner.work(&mut pager, &disk, 3 + stops, 2);
            drop(pager);
            disk.crash(Crash::Random(stops));
            let context = format!("{context}, then after {again}");
            let mut pager = owner.recover(&disk, &context);
            owner.work(&mut pager, &disk, 4 + stops, 2).expect("the disk is sound");
            assert_eq!(pager.take_damage(), None, "{context}");
            assert!(read(&pager) == Ok(owner.state.clone()), "{context}: at its end");
            drop(pager);
            disk.crash(Crash::KeepNone);
            let report = check(&mut disk.clone(), SPECS).expect("the file opens");
            assert!(report.is_sound(), "{context}: {:?}", report.findings);
        }
        stops += 1;
    }
    assert!(stops > 20, "only {stops} points were tried");
}

/// Page after page is used again here: what the older meta needs must not be among them, whenever the newer one is lost.
#[test]
fn the_older_meta_is_whole_at_every_moment() {
    let (disk, mut owner) = prepared();
    owner.watch = Some(|disk, owner| {
        let disk = disk.fork();
        disk.crash(Crash::KeepAll);
        check_fallback(&disk, owner, "while it works");
    });
    for seed in 0..4 {
        let mut pager = owner.recover(&disk, "again");
        owner.work(&mut pager, &disk, 100 + seed, 12).expect("the disk is sound");
        drop(pager);
        disk.crash(Crash::KeepNone);
    }
}

#[test]
fn an_io_error_is_reported_and_nothing_is_acknowledged_after_it() {
    let (base, owner) = prepared();
    let mut requests = 0;
    loop {
        let (disk, mut owner) = (base.fork(), owner.clone());
        let mut pager = owner.recover(&disk, "before");
        let fault = [DiskFault::Failed, DiskFault::Short, DiskFault::Full][(requests % 3) as usize];
        disk.inject(requests, fault);
        let ended = owner.work(&mut pager, &disk, 2, 3);
        let Err(error) = ended else { break };
        if error.is_passing() {
            // The file could not grow: all goes on when it can.
            pager.publish();
            owner.state = read(&pager).expect("memory is sound");
            owner.work(&mut pager, &disk, 5, 2).expect("there is space again");
        } else {
            assert!(pager.checkpoint_begin().is_err(), "a failure is final");
            assert!(matches!(pager.poll_io(), Ok(None)));
        }
        drop(pager);
        disk.crash(Crash::Random(requests));
        owner.recover(&disk, &format!("request {requests} met {fault:?}"));
        requests += 1;
    }
    assert!(requests > 12, "only {requests} requests were tried");
}

/// The sync behind a meta failed, and the process was started again without a power cut. The page cache showed the new meta,
/// the sync of the opening had nothing to write, and the next checkpoint took pages of the state that the disk would open
/// with: after a power cut then, a free map was newer than its meta (`group faults::`, seed 3, sync 175).
#[test]
fn a_meta_that_only_the_page_cache_shows_is_written_again() {
    let (base, owner) = prepared();
    let (disk, mut counting) = (base.fork(), owner.clone());
    let mut pager = counting.recover(&disk, "to count");
    let asked = |disk: &SimDisk| disk.counts().changing() + disk.counts().reads;
    let before = asked(&disk);
    counting.work(&mut pager, &disk, 2, 1).expect("the disk is sound");
    let last_sync = asked(&disk) - before - 1;

    let (disk, mut owner) = (base.fork(), owner);
    let mut pager = owner.recover(&disk, "before");
    disk.inject(last_sync, DiskFault::Failed);
    owner.work(&mut pager, &disk, 2, 1).expect_err("its last sync fails");
    drop(pager);
    for stop in 0..30 {
        let (disk, mut owner) = (disk.fork(), owner.clone());
        let mut pager = owner.recover(&disk, "what the page cache shows");
        disk.stop_after(stop);
        let _ = owner.work(&mut pager, &disk, 3, 2);
        drop(pager);
        disk.crash(Crash::KeepNone);
        let context = format!("then stopped after {stop}");
        drop(owner.recover(&disk, &context));
        let report = check(&mut disk.clone(), SPECS).expect("the file opens");
        assert!(report.is_sound(), "{context}: {:?}", report.findings);
    }
}

/// Opens and reads everything: the state, or what refused to give it.
fn outcome(disk: &SimDisk, logged: u64) -> Result<State, String> {
    let opened = Pager::open(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS, logged);
    let (pager, _) = opened.map_err(|error| error.to_string())?;
    read(&pager).map_err(|fault| fault.to_string())
}

#[test]
fn damage_is_told_and_never_served() {
    let (disk, owner) = prepared();
    let older = disk.fork();
    let mut owner_now = owner.clone();
    let mut pager = owner_now.recover(&disk, "before");
    owner_now.work(&mut pager, &disk, 2, 2).expect("the disk is sound");
    drop(pager);
    disk.crash(Crash::KeepNone);
    let expected = &owner_now.published[&owner_now.durable];
    let pages = disk.length().expect("a length") / PAGE_BYTES;
    let older_pages = older.length().expect("a length") / PAGE_BYTES;
    let mut seed = 7;
    let (mut refused, mut told) = (0, 0);
    for page in 0..pages {
        let sound = disk.peek(page * PAGE_BYTES, PAGE_BYTES as usize);
        let mut flipped = sound.clone();
        flipped[(random(&mut seed) % PAGE_BYTES) as usize] ^= 1 << (random(&mut seed) % 8);
        let mut torn = sound.clone();
        torn[512..1024].fill(0xFF);
        let moved = disk.peek(random(&mut seed) % pages * PAGE_BYTES, PAGE_BYTES as usize);
        let stale = if page < older_pages { older.peek(page * PAGE_BYTES, PAGE_BYTES as usize) } else { sound.clone() };
        for (name, content) in [
            ("flipped", flipped),
            ("torn", torn),
            ("zeros", vec![0; PAGE_BYTES as usize]),
            ("moved", moved),
            ("stale", stale),
        ] {
            let damaged = disk.fork();
            damaged.poke(page * PAGE_BYTES, &content);
            match outcome(&damaged, owner_now.durable) {
                Ok(state) => assert!(state == *expected, "page {page} {name}: another state was served"),
                Err(message) if message.contains("page") => told += 1,
                Err(message) => panic!("page {page} {name}: {message} does not say where"),
            }
            refused += u64::from(page < 3);
        }
    }
    assert!(told > 20 && refused > 0, "the damage was noticed {told} times");
    for cut in [0, 1, 4095, 4096, 12_288, pages * PAGE_BYTES / 2, pages * PAGE_BYTES - 1] {
        let damaged = disk.fork();
        damaged.truncate(cut);
        let message = outcome(&damaged, owner_now.durable).expect_err("a part of the file is missing");
        assert!(message.contains("truncated"), "{message}");
    }
    assert!(outcome(&older, owner_now.durable).expect_err("an old copy").contains("back in time"));
}
