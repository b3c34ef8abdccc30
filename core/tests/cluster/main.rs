//! Whole clusters: the shipping group, log, page file and watch hub of each member on simulated disks, a simulated network
//! and clock; one seed is one history, replayable. docs/simulation.md has what is checked and what is not.
//!
//! `RINGSTONE_SIM_SEEDS=n`: so many seeds instead of the gate's sample; `RINGSTONE_SIM_FIRST=s`: from this one on.
//! `RINGSTONE_SIM_TRACE=1`: what happens, on stderr.

mod checker;
mod clients;
mod faults;
mod history;
mod invariants;
mod node;
mod random;
#[path = "../group_support/settings.rs"]
mod settings;
mod watches;
mod world;

use std::fmt::{Display, Formatter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use faults::Fault;
use random::Random;
use ringstone_core::mvcc::hash::hash_kv;
use ringstone_pager::api::Fault as PageFault;
use world::World;

/// What a history must have seen to count.
const CALLS_LEAST: u64 = 2000;
const FAULTS_LEAST: u64 = 20;
const LEADERS_LEAST: u64 = 4;
/// Simulated microseconds.
const FAULTS_UNTIL: u64 = 18_000_000;
const CALLS_UNTIL: u64 = 120_000_000;
const RECOVERS_WITHIN: u64 = 30_000_000;

struct Covered {
    seconds: f64,
    calls: u64,
    answered: usize,
    terms: u64,
    compared: u64,
    watched: usize,
    resumed: u64,
    kept_alive: u64,
    tally: world::Tally,
}

impl Display for Covered {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let Covered { seconds, calls, answered, terms, compared, watched, resumed, kept_alive, tally } = self;
        write!(
            out,
            "{seconds:.1} s, {calls} calls ({answered} answered), {kept_alive} keep-alives, {watched} events "
        )?;
        write!(out, "to watches ({resumed} times connected), {terms} leaders, {compared} states compared; ")?;
        let world::Tally { faults, crashes, partitions, images, joined, removed, disk_errors, messages } = tally;
        write!(out, "{messages} messages; {faults} faults: {crashes} ends of members, {partitions} partitions, ")?;
        write!(out, "{disk_errors} disk errors; {images} images, {joined} joined, {removed} removed")
    }
}

fn plan(seed: u64) -> (u64, Vec<Fault>) {
    let mut random = Random::new(seed ^ 0xfa17);
    let members = if seed.is_multiple_of(4) { 5 } else { 3 };
    (members, faults::draw(&mut random, FAULTS_UNTIL))
}

/// One history. Panics where anything is wrong.
fn run(seed: u64, members: u64, faults: Vec<Fault>) -> Covered {
    let last = faults.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or(0);
    let mut world = World::new(seed, members, faults);
    world.run_until(last + 1_000_000);
    while world.invariants.terms_led() < LEADERS_LEAST && world.now < CALLS_UNTIL {
        world.depose();
        world.run_until(world.now + 4_000_000);
    }
    world.heal();
    while world.clients.calls() < CALLS_LEAST && world.now < CALLS_UNTIL {
        world.run_until(world.now + 500_000);
    }
    world.clients.is_stopped = true;
    check_recovers(&mut world);
    world.clients.history.changes = std::mem::take(&mut world.invariants.changes);
    let history = &world.clients.history;
    if let Err(what) = checker::check(history) {
        panic!("not linearizable: {what}");
    }
    let revision = history.changes.keys().next_back().copied().unwrap_or(1);
    world.clients.watches.iter().for_each(|watch| watch.check(history, revision));
    let watches = &world.clients.watches;
    assert!(world.invariants.summed > 0, "members have compared their sums");
    Covered {
        seconds: world.now as f64 / 1e6,
        calls: world.clients.calls(),
        answered: world.clients.answered(),
        terms: world.invariants.terms_led(),
        compared: world.invariants.compared,
        watched: watches.iter().map(|watch| watch.seen()).sum(),
        resumed: watches.iter().map(|watch| watch.resumed).sum(),
        kept_alive: world.clients.kept_alive,
        tally: world.tally,
    }
}

/// After the last fault: one leader, everybody has applied the same, and leases end.
fn check_recovers(world: &mut World) {
    let until = world.now + RECOVERS_WITHIN;
    while !is_at_rest(world) {
        assert!(world.now < until, "no rest {RECOVERS_WITHIN} us after the last fault: {}", outline(world));
        world.run_until(world.now + 200_000);
    }
    world.check_leases();
    let leader = world.leader().expect("at rest");
    let state = |id: u64| {
        let life = world.nodes[&id].life.as_ref().expect("at rest");
        life.read(|pin, state| match hash_kv(pin, state, 0) {
            Ok(hash) => Ok((hash, ringstone_core::group::read_members(pin)?)),
            Err(ringstone_core::error::ReadFault::Absent(run)) => Err(PageFault::Absent(run)),
            Err(fault) => panic!("{fault}"),
        })
    };
    let expected = state(leader);
    for id in world.configured() {
        assert_eq!(state(id), expected, "{id} and {leader} differ at the end");
    }
}

fn is_at_rest(world: &World) -> bool {
    let Some(leader) = world.leader() else { return false };
    let applied = |id: u64| {
        let life = world.nodes.get(&id).and_then(|node| node.life.as_ref())?;
        let positions = life.group.raft().positions();
        (positions.applied.0 == positions.committed.0).then_some(positions.applied.0)
    };
    let expected = applied(leader);
    expected.is_some()
        && world.configured().into_iter().all(|id| applied(id) == expected)
        && world.leases_alive(leader).is_empty()
        && world.clients.watches.iter().all(|watch| watch.at.is_some_and(|(id, _)| world.configured().contains(&id)))
}

fn outline(world: &World) -> String {
    let one = |(id, node): (&u64, &node::Node)| match &node.life {
        Some(life) => format!("{id}: {:?}\n", life.group.raft().status()),
        None => format!("{id}: down\n"),
    };
    let leases = world.leader().map(|id| world.leases_alive(id));
    format!(
        "{}leases {leases:?}, due {:?}",
        world.nodes.iter().map(one).collect::<String>(),
        world.clients.leases_due(world.now)
    )
}

/// Leaves out one fault after the other while it still fails.
fn shrink(seed: u64, members: u64, mut faults: Vec<Fault>) -> Vec<Fault> {
    let until = Instant::now() + std::time::Duration::from_secs(60);
    let mut at = 0;
    while at < faults.len() && Instant::now() < until {
        let mut fewer = faults.clone();
        fewer.remove(at);
        match catch_unwind(AssertUnwindSafe(|| run(seed, members, fewer.clone()))) {
            Err(_) => faults = fewer,
            Ok(_) => at += 1,
        }
    }
    faults
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn clusters_keep_their_promises_whatever_fails() {
    let (first, seeds) = (number("RINGSTONE_SIM_FIRST").unwrap_or(0), number("RINGSTONE_SIM_SEEDS").unwrap_or(8));
    let mut failed = Vec::new();
    for seed in first..first + seeds {
        let (members, faults) = plan(seed);
        let began = cpu_seconds();
        match catch_unwind(AssertUnwindSafe(|| run(seed, members, faults.clone()))) {
            Ok(covered) => {
                let took = cpu_seconds() - began;
                println!("seed {seed}: {:.0} times real time, {covered}", covered.seconds / took);
                assert!(
                    covered.calls >= CALLS_LEAST && covered.tally.faults >= FAULTS_LEAST,
                    "seed {seed}: too little"
                );
                assert!(covered.terms >= LEADERS_LEAST, "seed {seed}: too few changes of leader");
            }
            Err(_) => {
                println!("seed {seed} failed; with RINGSTONE_SIM_FIRST={seed} RINGSTONE_SIM_SEEDS=1 it does again");
                if number("RINGSTONE_SIM_SHRINK") != Some(0) {
                    for fault in shrink(seed, members, faults) {
                        println!("  needs {fault:?}");
                    }
                }
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} of commit {}", commit());
}

/// Of this thread: others share the machine.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to the one struct that it is given.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every thread has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Of the tree that is tested, where git knows it.
fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
