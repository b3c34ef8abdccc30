//! Leaders that are replaced before an election timeout has passed: three shipping groups on simulated disks, whose messages
//! arrive at once. Time is ticks of 100 ms, an election timeout ten of them.

#[path = "cluster/faults.rs"]
#[allow(dead_code, reason = "the simulation of clusters needs more of it")]
mod faults;
#[path = "cluster/node.rs"]
#[allow(dead_code, reason = "the simulation of clusters needs more of it")]
mod node;
#[path = "cluster/random.rs"]
#[allow(dead_code, reason = "the same")]
mod random;
#[path = "group_support/settings.rs"]
mod settings;

use std::time::Duration;

use faults::Plan;
use node::{Node, Submitted, TICK};
use random::Random;
use ringstone_core::command::{Command, Put};
use ringstone_core::entry::{Draft, Envelope};
use ringstone_core::error::Error;
use ringstone_core::group::{Group, Proposal, Reply};
use ringstone_raft::{NodeId, Role};

const ELECTION_TICKS: usize = 10;

struct Cluster {
    nodes: Vec<Node>,
    random: Random,
    now: Duration,
    /// Whose log's disk does not answer.
    silent: Option<usize>,
    /// Who is not there.
    ended: Option<usize>,
    answers: Vec<(u64, Result<Reply, Error>)>,
    reads: Vec<(u64, Result<(), Error>)>,
}

impl Cluster {
    /// Three members, one of which leads and has told all what it has to say first.
    fn new(seed: u64) -> Cluster {
        let mut random = Random::new(seed);
        let plan = Plan { drift_percent: 0, ..Plan::of(seed, 0, None) };
        let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, &mut random, &plan)).collect();
        for node in &mut nodes {
            node.start(&[1, 2, 3], plan.retained_bytes, &mut random, Duration::ZERO).expect("the disks work");
        }
        let (answers, reads) = (Vec::new(), Vec::new());
        let mut cluster = Cluster { nodes, random, now: Duration::ZERO, silent: None, ended: None, answers, reads };
        let ready = |cluster: &mut Cluster| cluster.groups().all(|group| group.is_ready());
        cluster.ticks_until(60, ready).expect("a new cluster comes up");
        cluster
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.nodes.iter().map(|node| &node.life.as_ref().expect("it is up").group)
    }

    fn group(&mut self, member: usize) -> &mut Group {
        &mut self.nodes[member].life.as_mut().expect("it is up").group
    }

    fn leader(&self) -> Option<usize> {
        let leads = |(member, group): (usize, &Group)| {
            (group.raft().role().role == Role::Leader && self.ended != Some(member))
                .then(|| (group.raft().role().term, member))
        };
        self.groups().enumerate().filter_map(leads).max().map(|(_, member)| member)
    }

    fn tick(&mut self) {
        self.now += TICK;
        for member in 0..self.nodes.len() {
            if self.ended == Some(member) {
                continue;
            }
            let now = self.nodes[member].boottime(self.now);
            let random = self.random.next();
            self.group(member).tick(now, 0, random);
            self.settle();
        }
    }

    /// How many ticks it takes.
    fn ticks_until(&mut self, most: usize, mut done: impl FnMut(&mut Cluster) -> bool) -> Option<usize> {
        for ticks in 0..=most {
            if done(self) {
                return Some(ticks);
            }
            self.tick();
        }
        None
    }

    /// All that moves without time.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 4 {
            let moved = (0..self.nodes.len()).filter(|member| self.ended != Some(*member)).collect::<Vec<_>>();
            let moved = moved.into_iter().fold(false, |moved, member| self.turn(member) | moved);
            quiet = if moved { 0 } else { quiet + 1 };
        }
    }

    fn turn(&mut self, member: usize) -> bool {
        let is_silent = self.silent == Some(member);
        let node = &mut self.nodes[member];
        let mut submitted = Submitted::default();
        node.life.as_mut().expect("it is up").group.turn().expect("nothing fails");
        node.submit(&mut submitted).expect("nothing fails");
        for _ in 0..8 {
            if !is_silent {
                node.log_done().expect("nothing fails");
            }
            node.pages_done().expect("nothing fails");
        }
        let group = &mut node.life.as_mut().expect("it is up").group;
        let outputs = group.take_outputs();
        let mut moved = submitted.log + submitted.pages > 0 || outputs.published || !outputs.send.is_empty();
        self.answers.extend(outputs.answers.into_iter().map(|answer| (answer.request_id, answer.outcome)));
        self.reads.extend(outputs.reads.into_iter().map(|read| (read.request_id, read.outcome)));
        for (to, message) in outputs.send {
            let to = usize::try_from(to.0).expect("small") - 1;
            if self.ended != Some(to) {
                let now = self.nodes[to].boottime(self.now);
                self.group(to).step(now, NodeId(member as u64 + 1), message).expect("a good message");
            }
        }
        for forward in outputs.forward {
            let to = usize::try_from(forward.leader.0).expect("small") - 1;
            let now = self.nodes[to].boottime(self.now);
            moved |= self.ended != Some(to) && self.group(to).propose_forwarded(now, &forward.payload).is_ok();
        }
        moved
    }

    fn put(&mut self, member: usize, request_id: u64) {
        let command = Command::Put(Put { key: b"key".to_vec(), value: b"value".to_vec(), ..Put::default() });
        let envelope = Envelope { proposer: member as u64 + 1, request_id, ..Envelope::default() };
        let now = self.nodes[member].boottime(self.now);
        let proposal = Proposal { draft: Draft::new(&envelope, &command), shard: 0, request_id };
        self.group(member).propose(now, vec![proposal]);
        self.settle();
    }

    fn answer(&self, request_id: u64) -> Option<&Result<Reply, Error>> {
        self.answers.iter().find(|(id, _)| *id == request_id).map(|(_, outcome)| outcome)
    }
}

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
    let now = cluster.nodes[follower].boottime(cluster.now);
    cluster.group(follower).read_index(now, 0, 3);
    cluster.settle();
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
        cluster.ended = Some(first);
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
