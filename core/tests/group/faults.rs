//! A disk fails once, or is full for a while: group, log and page file as they ship, on simulated disks.
//!
//! | trouble | which requests | what must come of it |
//! |---|---|---|
//! | EIO, once, and twice in a row | each read, write, sync, listing, length, rename and removal of either disk | the member ends; its error names file, place, purpose, cause and remedy; that file is not touched again |
//! | EIO, and again in the next start | some requests of the first life, then each third one of the second | the third start has all |
//! | half of a transfer, once, and for ever | each read and write | the log asks again, up to three times; else as EIO |
//! | nothing completes for 10 s | a moment of a life under load | nothing is acknowledged meanwhile, all is afterwards |
//! | ENOSPC, once | each write and sync of a segment in use | the member ends with what becomes status 15 |
//! | ENOSPC, once, and for a while | what makes a segment of the log | puts wait, and are answered once there is space |
//! | ENOSPC, once, and for a while | growth of the page file | the checkpoint is given up, puts go on; it is made up for later |
//!
//! Of a failed write half is done. What a failed sync should have covered is on the medium or it is not, whatever the page
//! cache says, and no later sync covers it. After each member that ended, and out of each one that waits for space, the
//! machine is cut off, or the process killed, in several ways; what opens then passes all checks of `crash`, and so
//! does what opens after another end within that recovery.
//!
//! Not checked: errors that the device keeps to itself, and the reserve of free space below which
//! a server refuses puts before any of this happens (`Shared::check_space`).
//!
//! `RINGSTONE_CRASH_SEEDS=n` runs n histories, each with trouble at every request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::support::disks::{Disks, End, Fuse, Request, Trouble, What};
use super::support::history::{Ended, checkpoint_and_check, created, first_life, recover, recover_and_pick};
use super::support::journal::{Journal, SharedJournal};
use super::support::life::{self, Life};
use ringstone_core::command::{Command, Put};
use ringstone_core::group::GroupError;
use ringstone_pager::disk::IoPurpose;
use ringstone_wal::disk::Purpose;

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
fn points(plan: Plan, could_meet: &[Request]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let is_tried = |(at, request): &(u64, &Request)| seen.insert(request.kind()) || at.is_multiple_of(plan.stride);
    (0..).zip(could_meet).filter(is_tried).map(|(at, _)| at).collect()
}

/// The trouble meets each request, and `count - 1` that follow it; the member must end each time, with an error that says
/// what it met.
fn each_request(plan: Plan, trouble: Trouble, count: u64, rounds: u64) -> Met {
    let start = created();
    let life =
        |journal: &SharedJournal, fuse: &Fuse| first_life(start.after(End::Kill), journal, fuse, plan.seed, rounds);
    let untroubled = Fuse::with_trouble(0, 0, trouble);
    assert!(life(&Journal::new().shared(), &untroubled).ended.is_ok(), "the disks work");
    let mut met = Met::new();
    for at in points(plan, &untroubled.could_meet()) {
        let (journal, fuse) = (Journal::new().shared(), Fuse::with_trouble(at, count, trouble));
        let first = life(&journal, &fuse);
        let hits = fuse.hits();
        let hit = hits.first().expect("the history is the same until then");
        println!("seed {} {trouble:?} at {at}: {hit}", plan.seed);
        match first.ended {
            Err(ended) => is_told(&hits, &ended, trouble),
            // A write of the running log is asked for again.
            Ok(()) => assert!(trouble == Trouble::Short && !hit.is_of_pages(), "{hit} failed, and the member went on"),
        }
        nothing_is_tried_again(&fuse, trouble);
        *met.entry(hit.kind()).or_default() += 1;
        end_in_ways(plan, at, &first.disks, &journal);
    }
    println!("{met:?}");
    met
}

/// The error names file, place, purpose and cause of what failed, and what can be done.
fn is_told(hits: &[Request], ended: &Ended, trouble: Trouble) {
    let told = ended.to_string();
    // A page that apply needs is named by itself.
    let is_page = |hit: &Request| hit.what == Some(What::Pages(IoPurpose::ReadPage)) && told.contains("file offset");
    let is_named = |hit: &Request| {
        let place = hit.offset.is_none_or(|offset| told.contains(&format!("offset {offset}")));
        let purpose = hit.what.is_none_or(|what| match what {
            What::Log(purpose) => told.contains(purpose.name()),
            What::Pages(purpose) => told.contains(purpose.name()),
        });
        is_page(hit) || (told.contains(&hit.file) && place && purpose)
    };
    assert!(hits.iter().any(is_named), "{hits:?} failed, and the error is: {told}");
    let remedies = ["start the member again", "Restore the member", "restore the member"];
    assert!(remedies.iter().any(|remedy| told.contains(remedy)), "what is to be done? {told}");
    assert_eq!(ended.is_out_of_space(), trouble == Trouble::Quota, "{told}");
}

/// After an error nothing more is written to that file, and a failed sync is never followed by another one.
fn nothing_is_tried_again(fuse: &Fuse, trouble: Trouble) {
    let hits = fuse.hits();
    let hit = hits.first().expect("something failed");
    // A page that apply needs is read beside a checkpoint, which goes on until the failure is told.
    if hit.what == Some(What::Pages(IoPurpose::ReadPage)) {
        return;
    }
    let is_change = |request: &&Request| !matches!(request.operation, "read" | "list" | "length");
    let later = fuse.since_hit().into_iter().filter(|request| request.file == hit.file);
    let later: Vec<Request> = later.collect();
    let again: Vec<&Request> = later.iter().filter(is_change).filter(|request| !hits.contains(request)).collect();
    assert!(trouble == Trouble::Short || again.is_empty(), "{hit} failed, and then: {again:?}");
}

#[test]
fn a_failed_request_ends_the_member_and_loses_nothing() {
    let mut met = Met::new();
    for plan in plans(Plan { seed: 2, stride: 53, ends: 2, again: 1 }) {
        met.extend(each_request(plan, Trouble::Failed, 1, 90));
    }
    let log = [Purpose::Batch, Purpose::SegmentStart, Purpose::Closing, Purpose::NextCreate, Purpose::NextFill];
    let log = log.into_iter().chain([Purpose::NextFillSync, Purpose::NextTake, Purpose::NextTakeSync]);
    let log = log.chain([Purpose::NextHeader, Purpose::NextPublish, Purpose::NextPublishSync, Purpose::ReplaySync]);
    let pages =
        [IoPurpose::OpenHead, IoPurpose::OpenMeta, IoPurpose::OpenMetaSync, IoPurpose::Nodes, IoPurpose::Growth];
    let pages = pages.into_iter().chain([IoPurpose::ReadMap, IoPurpose::Map, IoPurpose::NodesSync, IoPurpose::Meta]);
    let pages = pages.chain([IoPurpose::MetaSync, IoPurpose::ReadPage]).map(What::Pages);
    for what in log.map(What::Log).chain(pages) {
        assert!(met.contains_key(&what.to_string()), "{what} never failed: {met:?}");
    }
    for kind in ["list of directory", "read of wal", "length of page file"] {
        assert!(met.contains_key(kind), "{kind} never failed: {met:?}");
    }
}

#[test]
fn a_second_error_behind_the_first_changes_nothing() {
    for plan in plans(Plan { seed: 4, stride: 97, ends: 1, again: 1 }) {
        let met = each_request(plan, Trouble::Failed, 2, 60);
        assert!(met.len() > 15, "{met:?}");
    }
}

#[test]
fn a_short_transfer_is_asked_for_again_or_ends_the_member() {
    for plan in plans(Plan { seed: 5, stride: 61, ends: 1, again: 1 }) {
        let met = each_request(plan, Trouble::Short, 1, 60);
        let pages = [IoPurpose::OpenHead, IoPurpose::Nodes, IoPurpose::Meta, IoPurpose::ReadPage].map(What::Pages);
        for what in pages.into_iter().chain([Purpose::Batch, Purpose::NextFill, Purpose::NextHeader].map(What::Log)) {
            assert!(met.contains_key(&what.to_string()), "{what} never came short: {met:?}");
        }
    }
}

/// The log takes only a part of each write: after some attempts the member gives up.
#[test]
fn a_disk_that_only_takes_parts_of_writes_ends_the_member() {
    let (journal, fuse) = (Journal::new().shared(), Fuse::with_trouble(40, u64::MAX, Trouble::Short));
    let first = first_life(created().after(End::Kill), &journal, &fuse, 6, 30);
    let told = first.ended.expect_err("nothing can be written").to_string();
    assert!(told.contains("takes only a part of a write") || told.contains("page file"), "{told}");
    fuse.relieve();
    recover_and_pick(&first.disks.after(End::Kill), &journal.borrow(), 6, 3, 0);
}

#[test]
fn a_log_that_cannot_be_written_for_want_of_space_ends_the_member() {
    for plan in plans(Plan { seed: 1, stride: 7, ends: 2, again: 1 }) {
        let met = each_request(plan, Trouble::Quota, 1, 40);
        assert!(met.contains_key(&What::Log(Purpose::Batch).to_string()), "{met:?}");
    }
}

/// The member meets an error, is started again, and meets another one in that start: the third start has everything.
#[test]
fn an_error_and_another_one_in_the_next_start() {
    let plan = Plan { seed: 7, stride: 1, ends: 1, again: 0 };
    for at in (5..400).step_by(if std::env::var("RINGSTONE_CRASH_SEEDS").is_ok() { 1 } else { 97 }) {
        let (journal, fuse) = (Journal::new().shared(), Fuse::with_trouble(at, 1, Trouble::Failed));
        let first = first_life(created().after(End::Kill), &journal, &fuse, plan.seed, 60);
        if fuse.hits().is_empty() {
            break;
        }
        assert!(first.ended.is_err());
        for second in (0..).step_by(3) {
            let fuse = Fuse::with_trouble(second, 1, Trouble::Failed);
            let disks = first.disks.after(End::of(second, at));
            let journal = journal.borrow().clone().shared();
            let ended = recover(&disks, &fuse, &journal, at, 2);
            let Some(hit) = fuse.hits().pop() else {
                ended.expect("the disks work");
                break;
            };
            is_told(&[hit], &ended.expect_err("it failed"), Trouble::Failed);
            recover_and_pick(&disks.after(End::of(second + 1, at)), &journal.borrow(), at, 2, 0);
        }
    }
}

/// A disk that answers nothing for seconds: nothing is acknowledged meanwhile, nothing gives up or is asked for twice, and
/// all is answered when it comes back.
#[test]
fn a_disk_that_stalls_for_seconds_delays_and_loses_nothing() {
    for seed in 0..4 {
        let (disks, journal, fuse) = (created().after(End::Kill), Journal::new().shared(), Fuse::whole());
        let mut life = life::open(&disks, &fuse, &journal, seed).expect("the disks work");
        let mut key = 0;
        life.until_ready().expect("the disks work");
        press(&mut life, &mut key, 20 + seed * 3).expect("the disks work");
        fuse.stall(true);
        // What is synced already is still applied and answered.
        press(&mut life, &mut key, 5).expect("it waits");
        let answered = journal.borrow().answered_count();
        for _ in 0..40 {
            press(&mut life, &mut key, 1).expect("it waits");
            life.wait(Duration::from_millis(250)).expect("it waits");
            assert_eq!(journal.borrow().answered_count(), answered, "nothing is on disk, and it was acknowledged");
        }
        // Ended in the middle of it.
        for way in 0..End::WAYS {
            recover_and_pick(&disks.after(End::of(way, seed)), &journal.borrow(), seed, 2, 0);
        }
        fuse.stall(false);
        life.settle().expect("the disk is back");
        assert_eq!(journal.borrow().unanswered(), 0);
        checkpoint_and_check(&mut life).expect("the disk is back");
    }
}

fn is_page_sync(request: &Request) -> bool {
    request.is_of_pages() && request.operation == "sync"
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
        let syncs = (0..).zip(fuse.could_meet()).filter(|(_, request)| is_page_sync(request));
        let syncs: Vec<u64> = syncs.map(|(at, _)| at).collect();
        assert!(syncs.len() > 10, "{syncs:?}");
        // The sync in front of the meta and the one behind it take turns; the first is that of the opening.
        for at in syncs.into_iter().step_by(plan.stride as usize) {
            let (journal, fuse) = (Journal::new().shared(), Fuse::with_trouble(at, 1, Trouble::Failed));
            let first = life(&journal, &fuse);
            assert!(matches!(fuse.hits()[..], [ref hit] if is_page_sync(hit)));
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
fn without_space(plan: Plan, at: u64, count: u64) -> Result<Vec<Request>, Ended> {
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
            hits.iter().for_each(|hit| *met.entry(hit.kind()).or_default() += 1);
        }
    }
    println!("{met:?}");
    let log = [Purpose::NextCreate, Purpose::NextFill, Purpose::NextFillSync, Purpose::NextHeader].map(What::Log);
    for what in log.into_iter().chain([What::Pages(IoPurpose::Growth)]) {
        assert!(met.contains_key(&what.to_string()), "{what} never lacked space: {met:?}");
    }
}
