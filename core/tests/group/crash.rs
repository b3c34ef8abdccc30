//! The power fails, or the process is killed, at every I/O of a member: group, log and page file as they ship, on
//! simulated disks.
//!
//! Between any two submissions or completions of either disk a copy is made of both, and an end is put to it. What no sync
//! covers is then kept, lost, drawn sector by sector, or torn write by write at 512 bytes, in any order and on each disk
//! for itself; after a kill it is all there, and still not durable. The member is opened again with the code that a server
//! opens it with, and ended again at moments of that recovery.
//!
//! | path | where | counted as |
//! |---|---|---|
//! | first open of empty files | the first points of each history | `ios` |
//! | append, batch over a segment's end, recycled segment | 64 KiB segments, 24 KiB batches, requests in flight | `segments`, `recycled` |
//! | publish; absent pages | each turn; pages evicted at random and read again, in recovery all are absent | `evictions`, `page_reads` |
//! | checkpoint, meta flip | each 96 KiB of dirty frames or 128 KiB of log | `page_syncs` |
//! | file growth | values of 20 KB | `growths` |
//! | large value | values of 1.5 to 20 KiB | `large` |
//! | compaction with its sweep, cut and freed values | compactions in `requests` | `compactions`, `compacted` |
//! | lease with keys, and its expiry | leases of 1 or 2 s, and waits | `leases`, `expired` |
//! | alarm | NOSPACE on and off | `alarms` |
//! | each way to end | `End::of` | `ways`, `ways_again` |
//!
//! Checked after each recovery: every acknowledged command has its effect at the revision it was told; every event is
//! what a command, in the order of proposal, or an ended lease makes of a plain model; no hole; what was published stays;
//! ranges now and at older revisions; compaction and alarms; HashKV against a store that was never stopped; the whole page
//! file after another checkpoint.
//!
//! Elsewhere: each way of writing by itself in `paths`; EIO and full disks in `faults`; creation and restore in `restore_crash`. A sole voter never cuts
//! its log, raft does that only where another leader's entries differ: `truncate` opens such logs, and
//! `wal/tests/crash.rs` has the record among its histories.
//!
//! Not checked: a sector torn within, a device that lies about a sync, members beyond one, and comparisons in transactions
//! (`mvcc model::` has these).
//!
//! `RINGSTONE_CRASH_SEEDS=n` runs n histories, each ended at every I/O in every way; `RINGSTONE_CRASH_FIRST=s` begins at
//! another seed.

use std::cell::RefCell;
use std::rc::Rc;

use super::support::disks::{Disks, End, Fuse};
use super::support::history::{Moment, Passed, created, first_life, recover_and_pick};
use super::support::journal::Journal;

#[derive(Debug, Default)]
struct Tally {
    passed: Passed,
    first: u64,
    again: u64,
    ways: [u64; End::WAYS as usize],
    ways_again: [u64; End::WAYS as usize],
}

#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    rounds: u64,
    /// Every so many I/Os of the history.
    stride: u64,
    /// Ends tried at each point.
    ends: u64,
    /// Moments within each recovery.
    again: usize,
}

fn enumerate(plan: Plan) -> Tally {
    let tally: Rc<RefCell<Tally>> = Rc::default();
    let disks = created().after(End::Kill);
    let journal = Journal::new().shared();
    let (watched_disks, watched_journal, watched_tally) = (disks.clone(), journal.clone(), Rc::clone(&tally));
    let fuse = Fuse::watched(move |point, _| {
        if point.is_multiple_of(plan.stride) {
            end_at(plan, point, &watched_disks, &watched_journal.borrow(), &mut watched_tally.borrow_mut());
        }
    });
    let first = first_life(disks, &journal, &fuse, plan.seed, plan.rounds);
    assert!(first.ended.is_ok(), "nothing was to end this life: {:?}", first.ended);
    let mut tally = tally.take();
    tally.passed = first.passed;
    println!("seed {}: {tally:?}", plan.seed);
    tally
}

/// Ends the life that has come to this point, and those that follow.
fn end_at(plan: Plan, point: u64, disks: &Disks, journal: &Journal, tally: &mut Tally) {
    for number in 0..plan.ends {
        let way = (point / plan.stride + number) % End::WAYS;
        let end = End::of(way, point);
        println!("seed {} point {point} {end:?}", plan.seed);
        (tally.first, tally.ways[way as usize]) = (tally.first + 1, tally.ways[way as usize] + 1);
        for moment in recover_and_pick(&disks.after(end), journal, point + number, 3, plan.again) {
            let Moment { at, way, disks, journal } = moment;
            println!("  again at {at} {:?}", End::of(way, at));
            (tally.again, tally.ways_again[way as usize]) = (tally.again + 1, tally.ways_again[way as usize] + 1);
            recover_and_pick(&disks, &journal, point + 1, 3, 0);
        }
    }
}

fn all_passed(tally: &Tally) -> bool {
    let (passed, made) = (&tally.passed, &tally.passed.made);
    let counts = [passed.ios, passed.segments, passed.page_reads, passed.page_syncs, passed.growths, passed.expired];
    let requests = [made.puts, made.large, made.deletes, made.txns, made.compactions, made.leases, made.alarms];
    let ways = tally.ways.iter().chain(&tally.ways_again);
    passed.recycled
        && passed.compacted > 1
        && passed.page_syncs > 10
        && counts.iter().chain(&requests).chain(ways).chain([&made.evictions]).all(|count| *count > 0)
}

#[test]
fn a_member_stopped_at_any_io_has_all_it_acknowledged() {
    if let Ok(seeds) = std::env::var("RINGSTONE_CRASH_SEEDS") {
        let seeds: u64 = seeds.parse().expect("RINGSTONE_CRASH_SEEDS is a number");
        let first = std::env::var("RINGSTONE_CRASH_FIRST").map_or(Ok(0), |first| first.parse());
        let first: u64 = first.expect("RINGSTONE_CRASH_FIRST is a number");
        for seed in first..first + seeds {
            let tally = enumerate(Plan { seed, rounds: 120, stride: 1, ends: End::WAYS, again: 2 });
            assert!(all_passed(&tally), "a path of the header was not passed: {tally:?}");
        }
        return;
    }
    let short = enumerate(Plan { seed: 1, rounds: 10, stride: 1, ends: 1, again: 1 });
    assert!(short.first == short.passed.ios && short.again == short.first, "{short:?}");
    let long = enumerate(Plan { seed: 2, rounds: 100, stride: 17, ends: 1, again: 1 });
    assert!(all_passed(&long), "a path of the header was not passed: {long:?}");
}
