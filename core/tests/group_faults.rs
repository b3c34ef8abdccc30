//! A disk fails once, or is full for a while: group, log and page file as they ship, on simulated disks.
//!
//! | trouble | which requests | what must come of it |
//! |---|---|---|
//! | EIO, once | each read, write, sync, listing, rename and removal of either disk | the member ends; its error names the file |
//! | ENOSPC, once | each write and sync of a segment in use | the member ends with what becomes status 15 |
//! | ENOSPC, once, and for a while | what makes a segment of the log | puts wait, and are answered once there is space |
//! | ENOSPC, once, and for a while | growth of the page file | the checkpoint is given up, puts go on; it is made up for later |
//!
//! Of a failed write half is done. What a failed sync should have covered is on the medium or it is not, whatever the page
//! cache says, and no later sync covers it. After each member that ended, and out of each one that waits for space, the
//! machine is cut off, or the process killed, in several ways; what opens then passes all checks of `group_crash`, and so
//! does what opens after another end within that recovery.
//!
//! Not checked: two errors in a row, errors that the device keeps to itself, and the reserve of free space below which
//! a server refuses puts before any of this happens (`Shared::check_space`).
//!
//! `RINGSTONE_CRASH_SEEDS=n` runs n histories, each with trouble at every request.

mod group_support;

use std::collections::{BTreeMap, BTreeSet};

use group_support::disks::{Disks, End, Fuse, Trouble};
use group_support::history::{Ended, checkpoint_and_check, created, first_life, recover_and_pick};
use group_support::journal::{Journal, SharedJournal};
use group_support::life::{self, Life};
use ringstone_core::command::{Command, Put};
use ringstone_core::group::GroupError;

#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    /// Every so many requests.
    stride: u64,
    ends: u64,
    again: usize,
}

/// A sample for the gate, or what `RINGSTONE_CRASH_SEEDS` asks for.
fn plans(sample: Plan) -> Vec<Plan> {
    let Ok(seeds) = std::env::var("RINGSTONE_CRASH_SEEDS") else { return vec![sample] };
    let seeds: u64 = seeds.parse().expect("RINGSTONE_CRASH_SEEDS is a number");
    (0..seeds).map(|seed| Plan { seed, stride: 1, ends: End::WAYS, again: 1 }).collect()
}

/// By the names of the requests: how often trouble met them.
type Met = BTreeMap<String, u64>;

/// `write of 0000000000000003.wal` and `write of 0000000000000004.wal` are the same to a reader of the tally.
fn kind_of(hit: &str) -> String {
    let (what, file) = hit.split_once(" of ").expect("a request has a name and a file");
    let file = file.rsplit_once('.').map_or(file, |(_, extension)| extension);
    format!("{what} of {file}")
}

/// Ends what is left in some of the ways.
fn end_in_ways(plan: Plan, at: u64, disks: &Disks, journal: &SharedJournal) {
    for number in 0..plan.ends {
        let way = (at / plan.stride * plan.ends + number) % End::WAYS;
        println!("  {:?}", End::of(way, at));
        let moments = recover_and_pick(&disks.after(End::of(way, at)), &journal.borrow(), at + number, 4, plan.again);
        for moment in moments {
            println!("    again at {} {:?}", moment.at, End::of(moment.way, moment.at));
            recover_and_pick(&moment.disks, &moment.journal, at + 1, 3, 0);
        }
    }
}

/// The requests to try: every so many, and the first of each kind.
fn points(plan: Plan, could_meet: &[String]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let is_tried = |(at, name): &(u64, &String)| seen.insert(kind_of(name)) || at.is_multiple_of(plan.stride);
    (0..).zip(could_meet).filter(is_tried).map(|(at, _)| at).collect()
}

/// The trouble meets each request once; the member must end each time, with an error that names what it met.
fn each_request_once(plan: Plan, trouble: Trouble, rounds: u64) -> Met {
    let start = created();
    let life =
        |journal: &SharedJournal, fuse: &Fuse| first_life(start.after(End::Kill), journal, fuse, plan.seed, rounds);
    let untroubled = Fuse::with_trouble(0, 0, trouble);
    assert!(life(&Journal::new().shared(), &untroubled).ended.is_ok(), "the disks work");
    let mut met = Met::new();
    for at in points(plan, &untroubled.could_meet()) {
        let (journal, fuse) = (Journal::new().shared(), Fuse::with_trouble(at, 1, trouble));
        let first = life(&journal, &fuse);
        let hit = fuse.hits().pop().expect("the history is the same until then");
        println!("seed {} {trouble:?} at {at}: {hit}", plan.seed);
        let Err(ended) = first.ended else { panic!("{hit} failed, and the member went on") };
        let (_, file) = hit.split_once(" of ").expect("a request has a name and a file");
        assert!(ended.to_string().contains(file.trim_start_matches("the ")), "{hit} failed, and the error is: {ended}");
        assert_eq!(ended.is_out_of_space(), trouble == Trouble::Quota, "{hit}: {ended}");
        *met.entry(kind_of(&hit)).or_default() += 1;
        end_in_ways(plan, at, &first.disks, &journal);
    }
    println!("{met:?}");
    met
}

#[test]
fn a_failed_request_ends_the_member_and_loses_nothing() {
    let mut met = Met::new();
    for plan in plans(Plan { seed: 2, stride: 31, ends: 2, again: 1 }) {
        met.extend(each_request_once(plan, Trouble::Failed, 90));
    }
    let pages = ["read", "write", "sync", "set length"].map(|what| format!("{what} of the page file"));
    let log = ["list of the directory", "sync of the directory", "read of wal", "write of wal", "rename of wal"];
    let next = ["create of new", "write of new", "sync of new", "rename of new"];
    for kind in pages.iter().map(String::as_str).chain(log).chain(next) {
        assert!(met.contains_key(kind), "{kind} never failed: {met:?}");
    }
}

#[test]
fn a_log_that_cannot_be_written_for_want_of_space_ends_the_member() {
    for plan in plans(Plan { seed: 1, stride: 7, ends: 2, again: 1 }) {
        let met = each_request_once(plan, Trouble::Quota, 40);
        assert!(met.contains_key("write of wal"), "{met:?}");
    }
}

/// The disk has lost what a sync of the page file should have made durable, and the page cache still shows it. Who opens
/// the file then, without a power cut in between, must not build on that: at any moment of the next life the power may
/// fail, and bring back what the disk has.
#[test]
fn after_a_failed_sync_the_page_cache_is_not_believed() {
    for plan in plans(Plan { seed: 3, stride: 5, ends: 1, again: 25 }) {
        let fuse = Fuse::with_trouble(0, 0, Trouble::Failed);
        let life = |journal: &SharedJournal, fuse: &Fuse| first_life(created(), journal, fuse, plan.seed, 60);
        assert!(life(&Journal::new().shared(), &fuse).ended.is_ok(), "the disks work");
        let syncs = (0..).zip(fuse.could_meet()).filter(|(_, name)| name == "sync of the page file");
        let syncs: Vec<u64> = syncs.map(|(at, _)| at).collect();
        assert!(syncs.len() > 10, "{syncs:?}");
        // The sync in front of the meta and the one behind it take turns; the first is that of the opening.
        for at in syncs.into_iter().step_by(plan.stride as usize) {
            let (journal, fuse) = (Journal::new().shared(), Fuse::with_trouble(at, 1, Trouble::Failed));
            let first = life(&journal, &fuse);
            assert_eq!(fuse.hits(), ["sync of the page file"]);
            assert!(first.ended.is_err(), "it failed");
            let moments = recover_and_pick(&first.disks.after(End::Kill), &journal.borrow(), at, 6, plan.again.max(25));
            for moment in moments {
                println!("seed {} sync {at}, then {} {:?}", plan.seed, moment.at, End::of(moment.way, moment.at));
                recover_and_pick(&moment.disks, &moment.journal, at, 3, 0);
            }
        }
    }
}

/// Puts, few of them unanswered at a time: where space is missing, they wait.
fn press(life: &mut Life, from: &mut u64, turns: u64) -> Result<(), GroupError> {
    for _ in 0..turns {
        let waiting = life.journal.borrow().unanswered();
        let put = (waiting < 8).then(|| {
            *from += 1;
            Command::Put(Put { key: format!("key{from:05}").into(), value: vec![7; 20_000], ..Put::default() })
        });
        life.step(put.as_slice())?;
    }
    Ok(())
}

/// No space from the n-th request that needs some on, for `count` of them.
fn without_space(plan: Plan, at: u64, count: u64) -> Result<Vec<String>, Ended> {
    let (journal, fuse) = (Journal::new().shared(), Fuse::with_trouble(at, count, Trouble::Full));
    let disks = created().after(End::Kill);
    let mut life = life::open(&disks, &fuse, &journal, plan.seed)?;
    let mut key = 0;
    life.until_ready()?;
    press(&mut life, &mut key, 160)?;
    if count == 0 {
        return Ok(fuse.could_meet());
    }
    let hits = fuse.hits();
    println!("seed {} no space at {at}, {count} times: {hits:?}", plan.seed);
    let unanswered = journal.borrow().unanswered();
    end_in_ways(plan, at, &disks, &journal);
    // A member that is started on the full disk waits as well.
    wait_from_the_start(plan, &disks, &journal)?;
    fuse.relieve();
    life.settle()?;
    assert_eq!(journal.borrow().unanswered(), 0, "{unanswered} were not answered while there was no space");
    press(&mut life, &mut key, 20)?;
    life.settle()?;
    // A checkpoint that found no space waits a second before it is tried again.
    life.wait(std::time::Duration::from_millis(1100))?;
    checkpoint_and_check(&mut life)?;
    assert!(life.group.is_checkpointed(), "there is space again");
    Ok(hits)
}

fn wait_from_the_start(plan: Plan, disks: &Disks, journal: &SharedJournal) -> Result<(), Ended> {
    let fuse = Fuse::with_trouble(0, u64::MAX, Trouble::Full);
    let journal = journal.borrow().clone().shared();
    journal.borrow_mut().life += 1;
    let mut life = life::open(&disks.after(End::Kill), &fuse, &journal, plan.seed)?;
    for _ in 0..200 {
        life.step(&[])?;
    }
    fuse.relieve();
    life.until_ready()?;
    life.verify();
    Ok(())
}

#[test]
fn without_space_for_more_puts_wait_and_checkpoints_are_made_up_for() {
    let mut met = Met::new();
    for plan in plans(Plan { seed: 1, stride: 60, ends: 1, again: 0 }) {
        let all = without_space(plan, 0, 0).expect("there is space");
        for (at, count) in points(plan, &all).into_iter().flat_map(|at| [(at, 1), (at, u64::MAX)]) {
            let hits = without_space(plan, at, count).unwrap_or_else(|ended| panic!("no space at {at}: {ended}"));
            hits.iter().for_each(|hit| *met.entry(kind_of(hit)).or_default() += 1);
        }
    }
    println!("{met:?}");
    for kind in ["set length of the page file", "create of new", "write of new", "sync of new"] {
        assert!(met.contains_key(kind), "{kind} never lacked space: {met:?}");
    }
}
