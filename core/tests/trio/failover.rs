//! Leaders that are replaced before an election timeout has passed.

use crate::cluster::{Cluster, ELECTION_TICKS};
use ringstone_core::error::Error;
use ringstone_raft::NodeId;

/// It would lead for ever: its heartbeats need no disk.
#[test]
fn a_leader_whose_disk_is_silent_is_replaced_within_an_election_timeout() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        cluster.silent = Some(first);
        cluster.put(first, 1);
        assert!(cluster.answer(1).is_none(), "seed {seed}: it is not on the disk of the member that answers");
        let moved = |cluster: &mut Cluster| cluster.leader().is_some_and(|leader| leader != first);
        let ticks = cluster.ticks_until(60, moved).unwrap_or_else(|| panic!("seed {seed}: it leads on"));
        assert!(ticks < ELECTION_TICKS, "seed {seed}: {ticks} ticks");
        // The others go on without that disk.
        let second = cluster.leader().expect("one leads");
        cluster.put(second, 2);
        assert!(matches!(cluster.answer(2), Some(Ok(_))), "seed {seed}: {:?}", cluster.answer(2));
        // It answers again: the old leader follows, and tells its client what has come of the put.
        cluster.silent = None;
        cluster.ticks_until(5, |cluster| cluster.answer(1).is_some()).expect("an answer");
        assert!(matches!(cluster.answer(1), Some(Ok(_))), "seed {seed}: {:?}", cluster.answer(1));
        assert_eq!(cluster.leader(), Some(second), "seed {seed}");
    }
}

#[test]
fn a_disk_that_is_silent_for_a_shorter_time_changes_nothing() {
    let mut cluster = Cluster::new(7);
    let first = cluster.leader().expect("ready");
    let term = cluster.group(first).raft().role().term;
    for round in 0..10 {
        cluster.silent = Some(first);
        cluster.put(first, round);
        (0..6).for_each(|_| cluster.tick());
        cluster.silent = None;
        cluster.tick();
        assert!(matches!(cluster.answer(round), Some(Ok(_))));
    }
    assert_eq!((cluster.leader(), cluster.group(first).raft().role().term), (Some(first), term));
}

/// A follower's disk is nobody else's matter; what it is asked for is refused at last, so that clients go elsewhere.
#[test]
fn a_follower_whose_disk_is_silent_refuses_and_the_others_go_on() {
    let mut cluster = Cluster::new(3);
    let first = cluster.leader().expect("ready");
    let follower = (first + 1) % 3;
    cluster.silent = Some(follower);
    cluster.put(follower, 1);
    (0..6 * ELECTION_TICKS).for_each(|_| cluster.tick());
    assert_eq!(cluster.leader(), Some(first));
    cluster.put(follower, 2);
    cluster.read(follower, 3);
    assert_eq!(cluster.answer(2), Some(&Err(Error::Timeout)));
    assert_eq!(cluster.reads, [(3, Err(Error::Timeout))]);
    cluster.put(first, 4);
    assert!(matches!(cluster.answer(4), Some(Ok(_))));
    cluster.silent = None;
    (0..2).for_each(|_| cluster.tick());
    cluster.put(follower, 5);
    assert!(matches!(cluster.answer(1), Some(Ok(_))), "it was on its way to the leader");
    assert!(matches!(cluster.answer(5), Some(Ok(_))), "{:?}", cluster.answer(5));
}

/// Whoever of the two learns of it first.
#[test]
fn a_leader_whose_process_has_ended_is_replaced_within_two_ticks() {
    for seed in 0..40 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        (0..seed % 3).for_each(|_| cluster.tick());
        cluster.ended.insert(first);
        let mut others: Vec<usize> = (0..3).filter(|member| *member != first).collect();
        if seed % 2 == 0 {
            others.reverse();
        }
        for member in others {
            cluster.group(member).report_lost(NodeId(first as u64 + 1));
            cluster.settle();
        }
        let ticks = cluster.ticks_until(60, |cluster| cluster.leader().is_some()).expect("one of the two");
        assert!(ticks <= 2, "seed {seed}: {ticks} ticks");
        let second = cluster.leader().expect("one leads");
        cluster.put(second, 1);
        assert!(matches!(cluster.answer(1), Some(Ok(_))), "seed {seed}: {:?}", cluster.answer(1));
    }
}

/// One follower has lost its connection, the leader lives: the other one does not help, and the leader is known again by its
/// next heartbeat.
#[test]
fn a_leader_that_only_one_follower_has_lost_leads_on() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        let term = cluster.group(first).raft().role().term;
        for _ in 0..5 {
            cluster.group((first + 1) % 3).report_lost(NodeId(first as u64 + 1));
            cluster.settle();
            (0..3).for_each(|_| cluster.tick());
            assert_eq!((cluster.leader(), cluster.group(first).raft().role().term), (Some(first), term), "seed {seed}");
        }
    }
}

/// At any moment between two checks of its quorum: just after one nobody counts as heard, and an end that asks nobody to lead
/// costs an election timeout.
#[test]
fn a_leader_that_ends_hands_over_to_the_follower_that_is_not_behind() {
    for seed in 0..24 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        let (near, far) =
            if seed % 2 == 0 { ((first + 1) % 3, (first + 2) % 3) } else { ((first + 2) % 3, (first + 1) % 3) };
        // One follower hears nothing for a moment, and is behind.
        cluster.ended.insert(far);
        cluster.put(first, 1);
        (0..seed % 12).for_each(|_| cluster.tick());
        if seed % 3 != 0 {
            cluster.ended.clear();
            cluster.silent = Some(far);
            cluster.tick();
            cluster.put(first, 2);
        }
        cluster.group(first).resign();
        cluster.settle();
        let ticks = cluster.ticks_until(20, |cluster| cluster.leader() == Some(near)).expect("it leads");
        assert!(ticks <= 1, "seed {seed}: {ticks} ticks");
        cluster.tick();
        assert!(!cluster.group(first).is_resigning(), "seed {seed}");
    }
}

/// The one that is asked has just stopped answering: the other one is asked in time, and no client is told of any of it.
#[test]
fn a_successor_that_does_not_answer_is_given_up_for_the_next() {
    for seed in 0..24 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        (0..seed % 12).for_each(|_| cluster.tick());
        let best = cluster.group(first).raft().best_successor(&[]).expect("two follow").0 as usize - 1;
        let next = 3 - first - best;
        cluster.ended.insert(best);
        cluster.group(first).resign();
        cluster.put(first, 1);
        assert!(cluster.answer(1).is_none(), "seed {seed}: nothing is proposed while leadership is on its way");
        let ticks = cluster.ticks_until(30, |cluster| cluster.leader() == Some(next)).expect("it leads");
        assert!(ticks <= ELECTION_TICKS / 2 + 1, "seed {seed}: {ticks} ticks");
        cluster.ticks_until(2, |cluster| cluster.answer(1).is_some()).expect("an answer");
        assert!(matches!(cluster.answer(1), Some(Ok(_))), "seed {seed}: {:?}", cluster.answer(1));
        assert!(!cluster.group(first).is_resigning(), "seed {seed}");
    }
}

/// Nobody can take over: it does not take for ever to end.
#[test]
fn a_leader_that_ends_waits_for_two_election_timeouts_at_most() {
    let mut cluster = Cluster::new(5);
    let first = cluster.leader().expect("ready");
    cluster.ended.extend((0..3).filter(|member| *member != first));
    cluster.group(first).resign();
    let resigned = |cluster: &mut Cluster| !cluster.group(first).is_resigning();
    let ticks = cluster.ticks_until(40, resigned).expect("it ends");
    assert!(ticks <= 2 * ELECTION_TICKS, "{ticks} ticks");
}

/// A member that was told to stop followed on, and beside a client of the others it never had applied all that it was told: a
/// process under load did not end within 20 s of SIGTERM.
#[test]
fn a_member_that_stops_has_nothing_left_to_do_while_the_others_go_on() {
    let mut cluster = Cluster::new(7);
    let first = cluster.leader().expect("ready");
    let stopping = (first + 1) % 3;
    cluster.group(stopping).stop();
    let applied = cluster.group(stopping).state().applied_index;
    for number in 1..=200 {
        cluster.put(first, number);
        cluster.tick();
        assert!(cluster.group(stopping).is_drained() && !cluster.group(stopping).has_work());
    }
    assert!((1..=200).all(|number| matches!(cluster.answer(number), Some(Ok(_)))));
    assert_eq!(cluster.group(stopping).state().applied_index, applied);
    assert_eq!(cluster.leader(), Some(first), "nor does it stand for election");
}
