//! Every way in which a member writes, stopped at each of its I/Os, and each of the I/Os of the recovery after that.
//!
//! `support::paths` names the ways. Each is walked once on simulated disks by the code that ships; in front of each
//! I/O of it (submissions and completions of log and page file) the disks are copied, and an end is put to the copy:
//!
//! - all of what no sync covers is lost, all is kept, or the process alone is killed;
//! - on either disk its beginnings are kept: at each boundary of a write, and within the newest write at each 512 bytes;
//! - random subsets of its sectors, and writes torn at 512 bytes in random order.
//!
//! The copy is opened as a server opens it. In front of each I/O of that (where beginnings are kept: of one) it is copied
//! and ended again. Checked after each
//! recovery is what `crash` checks: nothing acknowledged is lost, nothing is invented, revisions do not go back,
//! HashKV is that of a store that was never stopped, and the whole page file is sound after another checkpoint.
//!
//! The list of ways is held against the code: each request of either disk carries a purpose (`Purpose`, `IoPurpose`; there
//! is no request without one), each purpose stands for one place in the code, and a purpose at which no way was stopped
//! fails the test. Reads of tools ([`IoPurpose::Inspect`]) change nothing and are the only exception.
//!
//! Elsewhere: the folder and its identity file (`identity::tests`), tails that a later leader cuts (`truncate`),
//! members made or restored that are refused as long as they are not finished (`restore_crash`), random histories
//! in which all of this is mixed (`crash`). Not checked: a sector torn within, and a device that lies about a sync.
//!
//! `RINGSTONE_CRASH_SEEDS=n` walks all ways, stopped at every I/O in every way; the random ends of n seeds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::support::disks::{Disks, End, Fuse, What};
use super::support::history::{Ended, recover};
use super::support::journal::Journal;
use super::support::paths::{PATHS, Path, Stage};
use super::support::snapshot::{restore, snapshot};
use ringstone_pager::disk::{Crash, IoPurpose};
use ringstone_wal::disk::Purpose;
use ringstone_wal::disk::sim::Keep;

#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    /// Stops at every so many I/Os, and at the first of each purpose.
    stride: u64,
    is_whole: bool,
}

#[derive(Default)]
struct Tally {
    stopped_at: BTreeSet<What>,
    points: u64,
    first: u64,
    again: u64,
}

/// The ends to try at this point.
fn ends(plan: Plan, point: u64, number: u64, disks: &Disks) -> Vec<End> {
    let seed = point ^ plan.seed << 32;
    if !plan.is_whole {
        let (log, pages) = (disks.log().unsynced().len().max(1), disks.pages.unsynced().len().max(1));
        let prefix = End::Cut(Crash::First(point as usize * 7 % pages), Keep::First(point as usize * 5 % log));
        return vec![End::of(number, seed), prefix];
    }
    let mut ends: Vec<End> = (0..End::WAYS).map(|way| End::of(way, seed)).collect();
    let log: Vec<u64> = disks.log().unsynced().iter().map(|change| change.write).collect();
    for (number, count) in beginnings(&log).into_iter().enumerate() {
        ends.push(End::Cut([Crash::KeepAll, Crash::KeepNone][number % 2], Keep::First(count)));
    }
    for (number, count) in beginnings(&disks.pages.unsynced()).into_iter().enumerate() {
        ends.push(End::Cut(Crash::First(count), [Keep::All, Keep::Nothing][number % 2]));
    }
    ends
}

fn is_beginning(end: End) -> bool {
    matches!(end, End::Cut(Crash::First(_), _) | End::Cut(_, Keep::First(_)))
}

/// Of what is not synced, given by the writes: where each write ends, and each 512 bytes of the newest.
fn beginnings(writes: &[u64]) -> Vec<usize> {
    let newest = writes.last();
    (1..writes.len()).filter(|at| writes[*at] != writes[at - 1] || Some(&writes[*at]) == newest).collect()
}

/// Opens what an end has left, with all checks; at each moment of that, or at one, what another end leaves.
fn recover_at_each(at_each: bool, disks: &Disks, journal: &Journal, seed: u64, is_member: bool, again: &mut u64) {
    let journal = journal.clone().shared();
    let counted = Rc::new(Cell::new(0));
    let (watched_disks, watched_journal, watched_counted) = (disks.clone(), journal.clone(), Rc::clone(&counted));
    let chosen = seed % 23;
    let fuse = Fuse::watched(move |point, _| {
        let journal = watched_journal.borrow();
        let is_tried = if at_each { !journal.is_open || point % 16 == chosen % 16 } else { point == chosen };
        if is_tried {
            let end = End::of(seed.wrapping_add(point), seed ^ point);
            let after = (watched_disks.after(end), journal.clone().shared());
            if let Err(ended) = recover(&after.0, &Fuse::whole(), &after.1, seed ^ 1, 1) {
                assert!(!is_member && matches!(ended, Ended::Open(_)), "then at {point} {end:?}: {ended}");
            }
            watched_counted.set(watched_counted.get() + 1);
        }
    });
    if let Err(ended) = recover(disks, &fuse, &journal, seed, 2) {
        assert!(!is_member && matches!(ended, Ended::Open(_)), "{ended}");
    }
    *again += counted.get();
}

fn walk(path: &Path, plan: Plan) -> Tally {
    let (disks, journal) = (path.start)();
    let journal = journal.shared();
    let tally: Rc<RefCell<Tally>> = Rc::default();
    let (is_on, is_member) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(true)));
    let watched = (disks.clone(), journal.clone(), Rc::clone(&tally), Rc::clone(&is_on), Rc::clone(&is_member));
    let name = path.name;
    let first = Cell::new(None);
    let fuse = Fuse::watched(move |number, under_way| {
        let (disks, journal, tally, is_on, is_member) = &watched;
        if !is_on.get() {
            return;
        }
        let point = number - first.get().unwrap_or_else(|| first.replace(Some(number)).unwrap_or(number));
        let tally = &mut *tally.borrow_mut();
        let is_new = under_way.iter().any(|what| !tally.stopped_at.contains(what));
        if !is_new && !point.is_multiple_of(plan.stride) {
            return;
        }
        tally.points += 1;
        tally.stopped_at.extend(under_way);
        for end in ends(plan, point, tally.first / 2, disks) {
            tally.first += 1;
            println!("{name}: point {point} {end:?}");
            let after = disks.after(end);
            recover_at_each(
                plan.is_whole && !is_beginning(end),
                &after,
                &journal.borrow(),
                point + tally.first,
                is_member.get(),
                &mut tally.again,
            );
        }
    });
    let stage = Stage { disks, journal, fuse, is_on, is_member };
    (path.walk)(&stage).unwrap_or_else(|error| panic!("{name}: the disks work: {error}"));
    drop(stage);
    let tally = tally.take();
    for what in path.passes {
        assert!(tally.stopped_at.contains(what), "{name}: never stopped at {what}: {:?}", tally.stopped_at);
    }
    println!("{name}: {} points, ended {} times, and again {} times", tally.points, tally.first, tally.again);
    tally
}

/// A member from a snapshot: as long as it is not finished it is refused or whole, afterwards it opens.
fn walk_restore(plan: Plan) -> Tally {
    let (image, journal) = snapshot(5);
    let whole = Disks::new();
    restore(&image, &whole).expect("the disks work");
    let (requests, steps) = (whole.pages.counts().changing(), whole.log().steps());
    let mut tally = Tally::default();
    let stride = if plan.is_whole { 1 } else { 9 };
    for point in (0..requests).step_by(stride) {
        let disks = Disks::new();
        disks.pages.stop_after(point);
        assert!(restore(&image, &disks).is_err(), "request {point} was refused");
        tally.stopped_at.extend(disks.pages.stopped_at().map(What::Pages));
        end_restore(plan, point, &disks, &journal, false, &mut tally);
    }
    for point in (0..=steps + 1).step_by(stride) {
        let disks = Disks::new();
        disks.log_mut().crash_at(point);
        let is_made = restore(&image, &disks).is_ok();
        end_restore(plan, point, &disks, &journal, is_made, &mut tally);
    }
    println!("restore: {} points, ended {} times, and again {} times", tally.points, tally.first, tally.again);
    tally
}

fn end_restore(plan: Plan, point: u64, disks: &Disks, journal: &Journal, is_made: bool, tally: &mut Tally) {
    tally.points += 1;
    for end in ends(plan, point, tally.first / 2, disks) {
        tally.first += 1;
        println!("restore: point {point} {end:?}");
        recover_at_each(
            plan.is_whole && !is_beginning(end),
            &disks.after(end),
            journal,
            point,
            is_made,
            &mut tally.again,
        );
    }
}

#[test]
fn every_way_of_writing_may_be_stopped_anywhere() {
    let plans: Vec<Plan> = match std::env::var("RINGSTONE_CRASH_SEEDS") {
        Ok(seeds) => {
            let seeds: u64 = seeds.parse().expect("RINGSTONE_CRASH_SEEDS is a number");
            (0..seeds).map(|seed| Plan { seed, stride: 1, is_whole: true }).collect()
        }
        Err(_) => vec![Plan { seed: 0, stride: 13, is_whole: false }],
    };
    let only = std::env::var("RINGSTONE_CRASH_PATH").ok();
    for plan in plans {
        let mut all = walk_restore(plan);
        for path in PATHS.iter().filter(|path| only.as_ref().is_none_or(|only| path.name.contains(only))) {
            let tally = walk(path, plan);
            all.stopped_at.extend(tally.stopped_at);
            (all.points, all.first, all.again) =
                (all.points + tally.points, all.first + tally.first, all.again + tally.again);
        }
        println!(
            "{} ways, {} points, ended {} times, and again {} times",
            PATHS.len() + 1,
            all.points,
            all.first,
            all.again
        );
        if only.is_none() {
            is_complete(&all.stopped_at);
        }
    }
}

fn is_complete(stopped_at: &BTreeSet<What>) {
    let pages = IoPurpose::ALL.iter().copied().filter(|purpose| *purpose != IoPurpose::Inspect).map(What::Pages);
    // A log is given up by a member without a group only: core/src/group/repair.rs stops there.
    let is_of_group = |purpose: &Purpose| !matches!(purpose, Purpose::LostRemove | Purpose::LostRemoveSync);
    let all = Purpose::ALL.iter().copied().filter(is_of_group).map(What::Log).chain(pages);
    let missed: Vec<String> = all.filter(|what| !stopped_at.contains(what)).map(|what| what.to_string()).collect();
    assert!(missed.is_empty(), "no way in support::paths was stopped at: {missed:?}");
    assert!(PATHS.len() >= 25);
}
