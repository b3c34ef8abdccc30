//! Requests that have to wait: for a leader, for a page.

use crate::cluster::{Cluster, ELECTION_TICKS};
use ringstone_core::command::{Command, Member};
use ringstone_core::error::Error;
use ringstone_core::group::{Ask, MemberChange, Reply};
use ringstone_raft::NodeId;

fn others(first: usize) -> [usize; 2] {
    [(first + 1) % 3, (first + 2) % 3]
}

const LEASE: i64 = 77;
const TTL_S: i64 = 60;

fn learner() -> Member {
    let peer_urls = vec!["http://10.0.0.9:2380".to_owned()];
    Member { id: 9, name: String::new(), peer_urls, client_urls: vec![], is_learner: true }
}

/// A cluster with a lease, and who leads.
fn with_lease(seed: u64) -> (Cluster, usize) {
    let mut cluster = Cluster::new(seed);
    let first = cluster.leader().expect("ready");
    cluster.propose(first, 1000, &Command::LeaseGrant { id: LEASE, ttl_s: TTL_S });
    assert!(matches!(cluster.answer(1000), Some(Ok(Reply::LeaseGrant(_)))), "seed {seed}");
    cluster.tick();
    (cluster, first)
}

/// A keep-alive, the clock, and a change: 1, 2 and 3.
fn ask_all(cluster: &mut Cluster, member: usize) {
    cluster.ask(member, 1, Ask::KeepAlive(LEASE));
    cluster.ask(member, 2, Ask::LeaseClock);
    cluster.ask(member, 3, Ask::Change(MemberChange::Add(learner())));
}

fn is_silent(cluster: &Cluster) -> bool {
    cluster.kept_alive.is_empty() && cluster.clocks.is_empty() && cluster.answer(3).is_none()
}

/// One of those that are left leads.
fn elect(cluster: &mut Cluster, ended: usize) -> usize {
    cluster.ended.insert(ended);
    for member in others(ended) {
        cluster.group(member).report_lost(NodeId(ended as u64 + 1));
        cluster.settle();
    }
    cluster.ticks_until(5, |cluster| cluster.leader().is_some()).expect("one of the two");
    cluster.leader().expect("one leads")
}

fn learners(cluster: &mut Cluster, member: usize) -> usize {
    let members = cluster.group(member).members().expect("they are in memory");
    members.iter().filter(|member| member.is_learner).count()
}

/// Who leads is not known, and then it is: nothing is told before that, and all of it comes about once.
#[test]
fn writes_and_reads_wait_for_a_leader_and_come_about_once() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        let revision = cluster.group(first).state().revision;
        let [one, other] = others(first);
        cluster.ended.insert(first);
        // It has lost the leader, and the other one does not vote for it yet.
        cluster.group(one).report_lost(NodeId(first as u64 + 1));
        cluster.settle();
        assert_eq!(cluster.group(one).leader_elsewhere(), None, "seed {seed}");
        for number in 1..=20 {
            cluster.put(one, number);
        }
        cluster.read(one, 21);
        assert!(cluster.answer(1).is_none() && cluster.reads.is_empty(), "seed {seed}");
        cluster.group(other).report_lost(NodeId(first as u64 + 1));
        cluster.ticks_until(3, |cluster| cluster.leader().is_some()).expect("one of the two");
        cluster.ticks_until(2, |cluster| cluster.answer(20).is_some()).expect("answers");
        assert!((1..=20).all(|number| matches!(cluster.answer(number), Some(Ok(_)))), "seed {seed}");
        assert_eq!(cluster.reads, [(21, Ok(()))], "seed {seed}");
        assert_eq!(cluster.group(one).state().revision, revision + 20, "seed {seed}: each of them once");
    }
}

/// Their shards have told the callers so: what a client was told to be late does not come about later.
#[test]
fn what_has_waited_for_too_long_is_not_proposed_any_more() {
    let mut cluster = Cluster::new(4);
    let first = cluster.leader().expect("ready");
    let revision = cluster.group(first).state().revision;
    let [one, other] = others(first);
    cluster.ended.extend([first, other]);
    (0..3 * ELECTION_TICKS).for_each(|_| cluster.tick());
    cluster.put(one, 1);
    cluster.read(one, 2);
    // The request's time-out is 5 s and two election timeouts.
    (0..40).for_each(|_| cluster.tick());
    cluster.put(one, 3);
    (0..31).for_each(|_| cluster.tick());
    assert!(cluster.answer(1).is_none() && cluster.reads.is_empty(), "its shard answers");
    cluster.ended.clear();
    cluster.ticks_until(100, |cluster| cluster.answer(3).is_some()).expect("the later one is answered");
    assert!(matches!(cluster.answer(3), Some(Ok(_))), "{:?}", cluster.answer(3));
    (0..5).for_each(|_| cluster.tick());
    assert!(cluster.answer(1).is_none() && cluster.reads.is_empty());
    assert_eq!(cluster.group(one).state().revision, revision + 1);
}

/// The leader takes no proposals while it hands over, and says so: they are sent again, to whoever leads then.
#[test]
fn what_a_leader_has_not_taken_waits_for_the_next() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        let [one, other] = others(first);
        cluster.ended.insert(one);
        cluster.group(first).transfer_leadership(NodeId(one as u64 + 1)).expect("a voter");
        cluster.put(first, 1);
        cluster.put(other, 2);
        assert!(cluster.answer(1).is_none() && cluster.answer(2).is_none(), "seed {seed}");
        // Raft gives the transfer up after an election timeout.
        cluster.ticks_until(ELECTION_TICKS + 3, |cluster| cluster.answer(2).is_some()).expect("an answer");
        assert!([1, 2].iter().all(|number| matches!(cluster.answer(*number), Some(Ok(_)))), "seed {seed}");
    }
}

/// It was answered with 'too many requests' once.
#[test]
fn a_change_of_the_members_waits_for_their_page() {
    for seed in 0..5 {
        let mut cluster = Cluster::new(seed);
        let first = cluster.leader().expect("ready");
        // What a checkpoint has written is looked for in the file from one of the next publishes on.
        for round in 0..8 {
            cluster.group(first).maybe_checkpoint(true).expect("it begins");
            cluster.put(first, 100 + round);
        }
        cluster.nodes[first].pages.evict_all();
        let now = cluster.nodes[first].boottime(cluster.now);
        cluster.group(first).change_members(now, &MemberChange::Add(learner()), 0, 7).expect("nothing is damaged");
        assert!(cluster.group(first).absent().is_some(), "seed {seed}: its page has to come first");
        assert!(cluster.group(first).take_outputs().answers.is_empty(), "seed {seed}");
        cluster.settle();
        assert!(matches!(cluster.answer(7), Some(Ok(Reply::Done))), "seed {seed}: {:?}", cluster.answer(7));
        let members = cluster.group(first).members().expect("they are in memory");
        assert!(members.iter().any(|member| member.id == 9 && member.is_learner), "seed {seed}");
    }
}

/// Nobody leads, and then somebody does: what only a leader can do or tell is answered then, whoever it is.
#[test]
fn keep_alives_clocks_and_changes_wait_for_a_leader() {
    for seed in 0..20 {
        let (mut cluster, first) = with_lease(seed);
        let [one, other] = others(first);
        cluster.ended.insert(first);
        cluster.group(one).report_lost(NodeId(first as u64 + 1));
        cluster.settle();
        ask_all(&mut cluster, one);
        assert!(is_silent(&cluster), "seed {seed}");
        cluster.group(other).report_lost(NodeId(first as u64 + 1));
        cluster.ticks_until(5, |cluster| cluster.leader().is_some()).expect("one of the two");
        cluster.ticks_until(3, |cluster| cluster.answer(3).is_some()).expect("an answer");
        cluster.tick();
        assert_eq!(cluster.kept_alive, [(1, Ok(TTL_S))], "seed {seed}");
        assert!(matches!(cluster.clocks[..], [(2, Ok(_))]), "seed {seed}: {:?}", cluster.clocks);
        assert_eq!(cluster.answer(3), Some(&Ok(Reply::Done)), "seed {seed}");
        let second = cluster.leader().expect("one leads");
        assert_eq!(learners(&mut cluster, second), 1, "seed {seed}");
    }
}

/// Its shard has told the caller that there is no leader: it does not come about later.
#[test]
fn a_change_that_has_waited_for_too_long_is_not_made_any_more() {
    let (mut cluster, first) = with_lease(4);
    let [one, other] = others(first);
    cluster.ended.extend([first, other]);
    (0..3 * ELECTION_TICKS).for_each(|_| cluster.tick());
    ask_all(&mut cluster, one);
    (0..71).for_each(|_| cluster.tick());
    cluster.ended.clear();
    cluster.ticks_until(100, |cluster| cluster.leader().is_some()).expect("one of them");
    (0..5).for_each(|_| cluster.tick());
    assert!(is_silent(&cluster), "its shard answers: {:?} {:?}", cluster.kept_alive, cluster.clocks);
    assert_eq!(learners(&mut cluster, one), 0);
}

/// The next leader is asked again for what does no harm twice. Of the change nobody knows, and it is made once at most.
#[test]
fn what_a_leader_took_along_with_it() {
    for seed in 0..20 {
        let (mut cluster, first) = with_lease(seed);
        let asker = others(first)[seed as usize % 2];
        cluster.answers_are_lost = true;
        ask_all(&mut cluster, asker);
        assert!(is_silent(&cluster), "seed {seed}");
        cluster.answers_are_lost = false;
        let second = elect(&mut cluster, first);
        cluster.ticks_until(5, |cluster| cluster.kept_alive.len() + cluster.clocks.len() == 2).expect("answers");
        assert_eq!(cluster.kept_alive, [(1, Ok(TTL_S))], "seed {seed}");
        assert!(matches!(cluster.clocks[..], [(2, Ok(_))]), "seed {seed}: {:?}", cluster.clocks);
        assert_eq!(cluster.answer(3), Some(&Err(Error::TimeoutLeaderFailure)), "seed {seed}");
        assert_eq!(learners(&mut cluster, second), 1, "seed {seed}: the old leader had made it");
    }
}

/// A change is refused by a leader that hands over, and by one that leads no more: it waits for the next one.
#[test]
fn a_change_that_a_leader_has_not_taken_waits_for_the_next() {
    for seed in 0..20 {
        let (mut cluster, first) = with_lease(seed);
        let [one, other] = others(first);
        cluster.ended.insert(one);
        cluster.group(first).transfer_leadership(NodeId(one as u64 + 1)).expect("a voter");
        let asked = if seed % 2 == 0 { first } else { other };
        cluster.ask(asked, 3, Ask::Change(MemberChange::Add(learner())));
        assert!(is_silent(&cluster), "seed {seed}");
        // Raft gives the transfer up after an election timeout.
        cluster.ticks_until(ELECTION_TICKS + 3, |cluster| cluster.answer(3).is_some()).expect("an answer");
        assert_eq!(cluster.answer(3), Some(&Ok(Reply::Done)), "seed {seed}");
        assert_eq!(learners(&mut cluster, first), 1, "seed {seed}");
    }
}

/// A leader that is alone steps down, and its own clients' keep-alives are the next one's.
#[test]
fn a_keep_alive_that_its_own_leader_can_not_confirm_is_answered_by_the_next() {
    for seed in 0..10 {
        let (mut cluster, first) = with_lease(seed);
        cluster.ended.extend(others(first));
        cluster.ask(first, 1, Ask::KeepAlive(LEASE));
        let steps_down = |cluster: &mut Cluster| cluster.leader().is_none();
        cluster.ticks_until(3 * ELECTION_TICKS, steps_down).expect("it finds that it is alone");
        assert!(is_silent(&cluster), "seed {seed}");
        cluster.ended.clear();
        cluster.ticks_until(4 * ELECTION_TICKS, |cluster| !cluster.kept_alive.is_empty()).expect("an answer");
        assert_eq!(cluster.kept_alive, [(1, Ok(TTL_S))], "seed {seed}");
    }
}

/// The connection to the leader broke, and the question or the answer with it; the leader is the same.
#[test]
fn what_a_broken_connection_took_along_is_asked_again() {
    let (mut cluster, first) = with_lease(3);
    let one = others(first)[0];
    cluster.answers_are_lost = true;
    ask_all(&mut cluster, one);
    cluster.answers_are_lost = false;
    (0..3).for_each(|_| cluster.tick());
    assert!(is_silent(&cluster));
    cluster.group(one).note_connected(NodeId(first as u64 + 1));
    cluster.settle();
    assert_eq!(cluster.kept_alive, [(1, Ok(TTL_S))]);
    assert!(matches!(cluster.clocks[..], [(2, Ok(_))]), "{:?}", cluster.clocks);
    assert!(cluster.answer(3).is_none(), "it may have come about");
}
