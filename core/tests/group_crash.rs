//! The power fails, or the process is killed, at every I/O of a member: group, log and page file as they ship, on
//! simulated disks.
//!
//! Both disks stop at the n-th submission or completion of either. What no sync covers is then kept, lost, or drawn by a
//! seed, on each disk for itself; after a kill it is all there, and still not durable. The member is opened again with the
//! code that a server opens it with, and stopped again within that recovery.
//!
//! | path | where |
//! |---|---|
//! | first open of empty files | the first points of each history |
//! | append, batch over a segment's end, recycled segment | 64 KiB segments, 24 KiB batches, requests in flight |
//! | publish; absent pages | each turn; pages evicted at random, in recovery all are absent |
//! | checkpoint, meta flip, file growth | each 96 KiB of dirty frames or 128 KiB of log; values of 20 KB |
//! | large value | values of 1.5 to 20 KiB |
//! | compaction with its sweep, cut and freed values | compactions in `requests` |
//! | lease with keys, and its expiry | leases of 1 or 2 s, and waits |
//! | alarm | NOSPACE on and off |
//!
//! Checked after each recovery: every acknowledged command has its effect at the revision it was told; every event is
//! what a command, in the order of proposal, or an ended lease makes of a plain model; no hole; what was published stays;
//! ranges now and at older revisions; compaction and alarms; HashKV against a store that was never stopped; the whole page
//! file after another checkpoint.
//!
//! Not checked: torn sectors, a device that lies about a sync, EIO and a full disk, the folder and identity file (a crash
//! within their creation), restores, keep-alives, members beyond one, and comparisons in
//! transactions (`mvcc_model` has these).
//!
//! `RINGSTONE_CRASH_SEEDS=n` runs n histories, each stopped at every I/O in every way.

mod group_support;

use std::time::Duration;

use group_support::disks::{Disks, End, Fuse, random};
use group_support::journal::Journal;
use group_support::life::{IDENTITY, Life, open, storage};
use ringstone_core::command::{Command, DeleteRange, Op, Put, Txn};
use ringstone_core::group::{GroupError, create_files_with};
use ringstone_pager::disk::Disk as _;
use ringstone_wal::disk::FileName;
use ringstone_wal::disk::sim::Random;

const FOREVER: u64 = u64::MAX;

fn put(random: &mut Random, lease: i64) -> Command {
    let key = if lease == 0 { format!("key{:02}", random.below(40)) } else { format!("lease{:02}", random.below(10)) };
    let bytes = match random.below(12) {
        0 => 1500 + random.below(4500),
        1 => 6000 + random.below(14_000),
        _ => random.below(80),
    };
    let value = (0..bytes).map(|_| random.below(256) as u8).collect();
    Command::Put(Put { key: key.into_bytes(), value, lease, ..Put::default() })
}

fn delete(random: &mut Random) -> DeleteRange {
    let from = random.below(40);
    let range_end = if random.below(2) == 0 { vec![] } else { format!("key{:02}", from + 3).into_bytes() };
    DeleteRange { key: format!("key{from:02}").into_bytes(), range_end, prev_kv: false }
}

/// Some requests that come together.
fn requests(random: &mut Random, journal: &Journal, fresh_lease: &mut i64) -> Vec<Command> {
    match random.below(16) {
        0 | 1 => vec![Command::DeleteRange(delete(random))],
        2 | 3 => {
            let first = Put { key: b"txn1".to_vec(), value: vec![1; random.below(3000) as usize], ..Put::default() };
            let second = Put { key: b"txn2".to_vec(), value: vec![2], ..Put::default() };
            let success = vec![Op::Put(first), Op::DeleteRange(delete(random)), Op::Put(second)];
            vec![Command::Txn(Txn { success, ..Txn::default() })]
        }
        4 | 5 => {
            let revision = journal.revision - random.below(6) as i64;
            let is_later =
                |command: &Command| matches!(command, Command::Compact { revision: other } if *other >= revision);
            if revision <= journal.compacted().max(1) || journal.commands.iter().any(is_later) {
                return vec![];
            }
            vec![Command::Compact { revision }]
        }
        6 | 7 => {
            *fresh_lease += 1;
            let grant = Command::LeaseGrant { id: *fresh_lease, ttl_s: 1 + random.below(2) as i64 };
            vec![grant, put(random, *fresh_lease), put(random, *fresh_lease)]
        }
        8 => {
            let activate = random.below(2) == 0;
            vec![Command::Alarm { activate, member_id: IDENTITY.member_id, alarm: 1 }]
        }
        9 | 10 => (0..4)
            .map(|_| {
                let key = format!("big{:03}", random.below(200)).into_bytes();
                Command::Put(Put { key, value: vec![7; 20_000], ..Put::default() })
            })
            .collect(),
        _ => (0..1 + random.below(6)).map(|_| put(random, 0)).collect(),
    }
}

fn rounds(life: &mut Life, journal: &mut Journal, seed: u64, count: u64) -> Result<(), GroupError> {
    let mut random = random(seed);
    let mut fresh_lease = 100 * i64::from(journal.life);
    life.until_ready(journal)?;
    for _ in 0..count {
        let commands = requests(&mut random, journal, &mut fresh_lease);
        life.step(&commands, journal)?;
        match random.below(8) {
            0 => life.settle(journal)?,
            1 => life.wait(Duration::from_millis(700), journal)?,
            2 => life.evict(),
            steps => {
                for _ in 3..steps {
                    life.step(&[], journal)?;
                }
            }
        }
    }
    life.settle(journal)
}

fn created() -> Disks {
    let (mut pages, mut log) = Disks::new().fused(&Fuse::new(FOREVER));
    create_files_with(storage(&mut pages, &mut log), &IDENTITY).expect("the disks work");
    Disks { pages: pages.disk, log: log.disk }
}

/// Runs a history until the fuse blows.
fn first_life(start: &Disks, fuse: &Fuse, seed: u64, count: u64) -> (Disks, Journal) {
    let mut journal = Journal::new();
    let disks = start.after(End::Kill);
    match open(disks, fuse, seed) {
        Ok(mut life) => {
            if let Err(error) = rounds(&mut life, &mut journal, seed, count) {
                assert!(fuse.is_blown(), "{error}");
            }
            (life.into_disks(), journal)
        }
        Err(stopped) => {
            assert!(fuse.is_blown(), "{}", stopped.1);
            (stopped.0, journal)
        }
    }
}

/// Opens and drives until ready; then more requests, a checkpoint, and all checks. None where the fuse blew before.
fn recover(disks: Disks, fuse: &Fuse, journal: &mut Journal, seed: u64, more: u64) -> Result<u64, Box<Disks>> {
    journal.life += 1;
    let mut life = match open(disks, fuse, seed) {
        Ok(life) => life,
        Err(stopped) => {
            assert!(fuse.is_blown(), "{}", stopped.1);
            return Err(Box::new(stopped.0));
        }
    };
    let mut go = |life: &mut Life| -> Result<u64, GroupError> {
        life.until_ready(journal)?;
        let spent = fuse.spent();
        life.verify(journal);
        journal.reborn(life.group.state().alarms);
        rounds(life, journal, seed ^ 0xABCD, more)?;
        life.checkpoint(journal)?;
        life.verify(journal);
        life.verify_hash(journal);
        life.check_file();
        Ok(spent)
    };
    match go(&mut life) {
        Ok(spent) => Ok(spent),
        Err(error) => {
            assert!(fuse.is_blown(), "{error}");
            Err(Box::new(life.into_disks()))
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    points: u64,
    first: u64,
    again: u64,
    /// Two a checkpoint.
    page_syncs: u64,
    file_bytes: u64,
    segments: u64,
    compacted: i64,
    expired: u64,
}

struct Plan {
    seed: u64,
    rounds: u64,
    /// Every so many I/Os of the history.
    stride: u64,
    /// Ends tried at each point.
    ends: u64,
    /// Points within each recovery.
    again: u64,
}

fn enumerate(plan: &Plan) -> Tally {
    let start = created();
    let whole = Fuse::new(FOREVER);
    let (disks, journal) = first_life(&start, &whole, plan.seed, plan.rounds);
    let segments = disks.log.names().into_iter().map(|name| match name {
        FileName::Segment(generation) | FileName::Preparing(generation) => generation,
    });
    let mut tally = Tally {
        points: whole.spent(),
        page_syncs: disks.pages.counts().syncs,
        file_bytes: disks.pages.length().expect("a length"),
        segments: segments.max().unwrap_or(0),
        compacted: journal.compacted(),
        expired: journal.expired,
        ..Tally::default()
    };
    for (turn, point) in (1..=whole.spent()).step_by(plan.stride as usize).enumerate() {
        let (disks, journal) = first_life(&start, &Fuse::new(point), plan.seed, plan.rounds);
        for end in 0..plan.ends {
            let end = End::of(turn as u64 + end, point);
            println!("seed {} point {point} {end:?}", plan.seed);
            tally.first += 1;
            let fuse = Fuse::new(FOREVER);
            let spent = recover(disks.after(end), &fuse, &mut journal.clone(), point, 3);
            let spent = spent.unwrap_or_else(|_| unreachable!("this fuse does not blow"));
            let mut chance = random(point);
            for _ in 0..plan.again {
                let at = 1 + chance.below(spent + 60);
                let mut journal = journal.clone();
                let Err(stopped) = recover(disks.after(end), &Fuse::new(at), &mut journal, point, 3) else { continue };
                let second = End::of(chance.below(End::WAYS), at);
                println!("  again at {at} {second:?}");
                tally.again += 1;
                let done = recover(stopped.after(second), &Fuse::new(FOREVER), &mut journal, point + 1, 3);
                assert!(done.is_ok(), "this fuse does not blow");
            }
        }
    }
    println!("{tally:?}");
    tally
}

#[test]
fn a_member_stopped_at_any_io_has_all_it_acknowledged() {
    if let Ok(seeds) = std::env::var("RINGSTONE_CRASH_SEEDS") {
        let seeds: u64 = seeds.parse().expect("RINGSTONE_CRASH_SEEDS is a number");
        for seed in 0..seeds {
            enumerate(&Plan { seed, rounds: 120, stride: 1, ends: End::WAYS, again: 2 });
        }
        return;
    }
    let short = enumerate(&Plan { seed: 1, rounds: 10, stride: 1, ends: 1, again: 1 });
    let long = enumerate(&Plan { seed: 2, rounds: 100, stride: 17, ends: 1, again: 1 });
    assert!(short.first == short.points && short.again > 0, "{short:?}");
    // The long history goes all the ways that the header lists.
    assert!(long.expired > 0 && long.compacted > 1 && long.segments > 5, "{long:?}");
    assert!(long.page_syncs > 10 && long.file_bytes > short.file_bytes, "{long:?}");
}
