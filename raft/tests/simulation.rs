//! Whole clusters under faults, one seed a history. What is modelled and what is not: `support/mod.rs`.
//!
//! Checked at every step: one leader a term; a new leader has every committed entry; every member is given the same
//! entries in the same order; an entry is on a quorum of *disks* when it is first handed out, and on the own disk of whoever
//! applies it; a read, by a round or by a lease, is never older than what was committed when it was asked; no vote on disk
//! changes within a term; a member that starts from its disk keeps what it promised; every message is the same behind its encoding. Now and then: logs match. At the end, when all
//! faults are over: the cluster recovers.
//!
//! `RAFT_SEEDS=first..end cargo test --release -p ringstone-raft --test simulation histories -- --nocapture` runs other seeds than the
//! usual ones, on all cores, and prints what they covered.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use support::{Cluster, Faults, Random, Totals};

/// Seeds that are always run.
const USUAL: std::ops::Range<u64> = 0..300;

fn seeds() -> std::ops::Range<u64> {
    let Ok(given) = std::env::var("RAFT_SEEDS") else { return USUAL };
    let (first, end) = given.split_once("..").expect("first..end");
    first.parse().expect("a number")..end.parse().expect("a number")
}

/// Each seed draws its own mix: some faults not at all, some seldom, some often.
fn draw_faults(random: &mut Random, voters: u64) -> Faults {
    let mut rate = |seldom: u64, often: u64| match random.below(3) {
        0 => 0,
        1 => seldom,
        _ => often,
    };
    let faults = Faults {
        drop: rate(30, 150),
        double: rate(20, 60),
        delay_max: rate(6, 40),
        crash: rate(3, 15),
        pause: rate(3, 10),
        cut_link: rate(5, 30),
        partition: rate(3, 10),
        heal: 8,
        disk_stays_busy: rate(300, 850),
    };
    // A group of one has nobody to lose.
    if voters == 1 { Faults { crash: faults.crash.max(5), disk_stays_busy: 600, ..faults } } else { faults }
}

/// Of 20 groups, one has a sole voter; the others two to five, and up to two that can be added.
fn draw_cluster(seed: u64) -> Cluster {
    let mut random = Random::new(!seed);
    let voters = [1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 5, 5][random.below(20) as usize];
    let spares = if voters > 1 { random.below(3) } else { 0 };
    let steps_a_tick = [2, 4, 10][random.below(3) as usize];
    let faults = draw_faults(&mut random, voters);
    Cluster::new(seed, voters, spares, steps_a_tick, faults)
}

fn run(seed: u64) -> Totals {
    let mut cluster = draw_cluster(seed);
    let is_changing = cluster.random.chance(600);
    for step in 0..1200 {
        cluster.step();
        if cluster.random.chance(300) {
            cluster.propose_everywhere();
        }
        if cluster.random.chance(100) {
            cluster.read_somewhere();
        }
        cluster.read_by_lease();
        if cluster.random.chance(10) {
            cluster.checkpoint_somewhere();
        }
        if cluster.random.chance(5) {
            cluster.transfer_somewhere();
        }
        if cluster.random.chance(10) {
            cluster.forget_somewhere();
        }
        if is_changing && cluster.random.chance(12) {
            cluster.reconfigure();
        }
        if step % 200 == 0 {
            cluster.check_logs_match();
        }
    }
    cluster.check_recovers();
    cluster.totals
}

#[test]
fn histories() {
    let seeds = seeds();
    let start = std::time::Instant::now();
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut sum = Totals::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return sum;
            }
            let outcome = std::panic::catch_unwind(|| run(seed));
            sum.add(&outcome.unwrap_or_else(|_| panic!("seed {seed}: see above")));
            if seed.is_multiple_of(10_000) {
                println!("seed {seed}, {} s", start.elapsed().as_secs());
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut sum = Totals::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| sum.add(&worker.join().expect("no seed failed")));
    });
    let count = seeds.end - seeds.start;
    println!("{count} seeds, {:.0} a second: {sum:?}", count as f64 / start.elapsed().as_secs_f64());
    let Totals { committed, terms, leaders, reads, lease_reads, images, joint, .. } = sum;
    let Totals { crashes, batches_lost, pauses, cuts, transfers, .. } = sum;
    let reached =
        [committed, terms, leaders, reads, lease_reads, images, joint, crashes, batches_lost, pauses, cuts, transfers];
    assert!(count < 100 || reached.iter().all(|count| *count > 0), "something never happened: {sum:?}");
}

/// A leader with a fresh lease is cut off again and again, and the others are restarted and told to campaign at once: none
/// of them may lead while the lease lasts.
#[test]
fn leases_are_kept_whatever_the_others_are_told() {
    let mut totals = Totals::default();
    for seed in 0..12 {
        let faults = Faults { delay_max: 3, ..Faults::default() };
        let mut cluster = Cluster::new(2 * seed, 3, 0, 10, faults);
        for step in 0..3600 {
            cluster.step();
            match step % 600 {
                300 => cluster.tempt_leases(),
                // The lease lasts for some 60 steps, what the others have promised for 100.
                301..480 if cluster.random.chance(60) => cluster.campaign_somewhere(),
                500 => cluster.heal(),
                _ => {}
            }
            if cluster.random.chance(300) {
                cluster.propose_everywhere();
            }
            cluster.read_by_lease();
        }
        cluster.check_recovers();
        totals.add(&cluster.totals);
    }
    assert!(totals.lease_reads > 5000 && totals.leaders > 40, "nothing to break: {totals:?}");
}

/// At each batch that reaches a disk: a member that starts from it fits together and keeps every promise that was let out.
#[test]
fn a_member_starts_from_every_prefix_of_its_batches() {
    for seed in 5000..5040 {
        let mut cluster = draw_cluster(seed);
        cluster.checks_restarts = true;
        for _ in 0..600 {
            cluster.step();
            cluster.propose_everywhere();
            if cluster.random.chance(20) {
                cluster.checkpoint_somewhere();
            }
        }
    }
}

/// Nothing is shared between groups of one process: histories that go on side by side are those that they are alone.
#[test]
fn groups_side_by_side_are_as_alone() {
    let faults = Faults { drop: 50, delay_max: 10, crash: 5, disk_stays_busy: 500, ..Faults::default() };
    let advance = |cluster: &mut Cluster| {
        cluster.step();
        cluster.propose_everywhere();
    };
    let alone = |seed| {
        let mut cluster = Cluster::new(seed, 3, 0, 4, faults);
        (0..1000).for_each(|_| advance(&mut cluster));
        (cluster.totals, cluster.history_end(), cluster.term_max())
    };
    let mut beside: Vec<Cluster> = (0..4).map(|seed| Cluster::new(seed, 3, 0, 4, faults)).collect();
    (0..1000).for_each(|_| beside.iter_mut().for_each(advance));
    for (seed, cluster) in beside.iter().enumerate() {
        assert_eq!((cluster.totals, cluster.history_end(), cluster.term_max()), alone(seed as u64));
    }
}

#[test]
fn a_seed_replays() {
    assert_eq!(run(8), run(8));
}

/// Row 21 (Cloudflare, 2020-11-02): with some links down there were endless elections. With a leader that a majority
/// hears and that hears a majority, the term must stand still, and writes go on.
#[test]
fn links_that_are_down_cause_no_elections_while_a_quorum_holds() {
    // Leader is whoever leads at first; `others` are the rest in order.
    type Cut = fn(leader: u64, others: &[u64]) -> Vec<(u64, u64)>;
    let cuts: [(&str, Cut); 4] = [
        ("one member cannot hear the leader", |leader, others| vec![(leader, others[0])]),
        ("the leader cannot hear one member", |leader, others| vec![(others[0], leader)]),
        ("a bridge: one sees the leader only through the other", |leader, others| {
            vec![(leader, others[0]), (others[0], leader)]
        }),
        ("one is cut off altogether", |leader, others| {
            vec![(leader, others[0]), (others[0], leader), (others[0], others[1]), (others[1], others[0])]
        }),
    ];
    for (what, cut) in cuts {
        let mut cluster = Cluster::new(1, 3, 0, 10, Faults { delay_max: 2, ..Faults::default() });
        (0..1000).for_each(|_| cluster.step());
        let leader = cluster.leaders()[0];
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader.0).collect();
        cut(leader.0, &others).into_iter().for_each(|(from, to)| cluster.cut_link(from, to));
        let (term, end) = (cluster.term_max(), cluster.history_end());
        for _ in 0..5000 {
            cluster.step();
            cluster.propose_everywhere();
        }
        assert_eq!(cluster.leaders(), [leader], "{what}");
        assert_eq!(cluster.term_max(), term, "{what}");
        assert!(cluster.history_end().0 > end.0 + 1000, "{what}");
        cluster.heal();
        (0..1000).for_each(|_| cluster.step());
        assert_eq!(cluster.term_max(), term, "{what}: healing is no reason either");
    }
}

/// The other half of row 21: a leader that nobody can answer must give up, and one that hears a majority take over.
#[test]
fn a_leader_that_hears_nobody_is_replaced() {
    let mut cluster = Cluster::new(2, 3, 0, 10, Faults { delay_max: 2, ..Faults::default() });
    (0..1000).for_each(|_| cluster.step());
    let leader = cluster.leaders()[0];
    for other in (1..=3).filter(|id| *id != leader.0) {
        cluster.cut_link(other, leader.0);
    }
    let end = cluster.history_end();
    for _ in 0..2000 {
        cluster.step();
        cluster.propose_everywhere();
    }
    assert!(!cluster.leaders().contains(&leader));
    assert!(cluster.history_end() > end, "the other two are a majority");
}
