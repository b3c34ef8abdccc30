//! Requests that have to wait: for a leader, for a page.

use crate::cluster::{Cluster, ELECTION_TICKS};
use ringstone_core::command::Member;
use ringstone_core::group::{MemberChange, Reply};
use ringstone_raft::NodeId;

fn others(first: usize) -> [usize; 2] {
    [(first + 1) % 3, (first + 2) % 3]
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
        let urls = vec!["http://10.0.0.9:2380".to_owned()];
        let learner = Member { id: 9, name: String::new(), peer_urls: urls, client_urls: vec![], is_learner: true };
        cluster.group(first).change_members(now, &MemberChange::Add(learner), 0, 7).expect("nothing is damaged");
        assert!(cluster.group(first).absent().is_some(), "seed {seed}: its page has to come first");
        assert!(cluster.group(first).take_outputs().answers.is_empty(), "seed {seed}");
        cluster.settle();
        assert!(matches!(cluster.answer(7), Some(Ok(Reply::Done))), "seed {seed}: {:?}", cluster.answer(7));
        let members = cluster.group(first).members().expect("they are in memory");
        assert!(members.iter().any(|member| member.id == 9 && member.is_learner), "seed {seed}");
    }
}
