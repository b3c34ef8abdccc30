//! Three shipping groups on simulated disks, whose messages arrive at once. Time is ticks of 100 ms, an election timeout ten of
//! them.

use std::collections::BTreeSet;
use std::time::Duration;

use ringstone_core::command::{Command, Put};
use ringstone_core::entry::{Draft, Envelope};
use ringstone_core::error::Error;
use ringstone_core::group::{Group, Proposal, Reply};
use ringstone_raft::{NodeId, Role};

use crate::faults::Plan;
use crate::node::{Node, Submitted, TICK};
use crate::random::Random;

pub const ELECTION_TICKS: usize = 10;

pub struct Cluster {
    pub nodes: Vec<Node>,
    random: Random,
    pub now: Duration,
    /// Whose log's disk does not answer.
    pub silent: Option<usize>,
    /// Who is not there, without a word.
    pub ended: BTreeSet<usize>,
    answers: Vec<(u64, Result<Reply, Error>)>,
    pub reads: Vec<(u64, Result<(), Error>)>,
}

impl Cluster {
    /// Three members, one of which leads and has told all what it has to say first.
    pub fn new(seed: u64) -> Cluster {
        let mut random = Random::new(seed);
        let plan = Plan { drift_percent: 0, ..Plan::of(seed, 0, None) };
        let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, &mut random, &plan)).collect();
        for node in &mut nodes {
            node.start(&[1, 2, 3], plan.retained_bytes, &mut random, Duration::ZERO).expect("the disks work");
        }
        let (answers, reads) = (Vec::new(), Vec::new());
        let mut cluster =
            Cluster { nodes, random, now: Duration::ZERO, silent: None, ended: BTreeSet::new(), answers, reads };
        let ready = |cluster: &mut Cluster| cluster.groups().all(|group| group.is_ready());
        cluster.ticks_until(60, ready).expect("a new cluster comes up");
        cluster
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.nodes.iter().map(|node| &node.life.as_ref().expect("it is up").group)
    }

    pub fn group(&mut self, member: usize) -> &mut Group {
        &mut self.nodes[member].life.as_mut().expect("it is up").group
    }

    pub fn leader(&self) -> Option<usize> {
        let leads = |(member, group): (usize, &Group)| {
            (group.raft().role().role == Role::Leader && !self.ended.contains(&member))
                .then(|| (group.raft().role().term, member))
        };
        self.groups().enumerate().filter_map(leads).max().map(|(_, member)| member)
    }

    pub fn tick(&mut self) {
        self.now += TICK;
        for member in 0..self.nodes.len() {
            if self.ended.contains(&member) {
                continue;
            }
            let now = self.nodes[member].boottime(self.now);
            let random = self.random.next();
            self.group(member).tick(now, 0, random);
            self.settle();
        }
    }

    /// How many ticks it takes.
    pub fn ticks_until(&mut self, most: usize, mut done: impl FnMut(&mut Cluster) -> bool) -> Option<usize> {
        for ticks in 0..=most {
            if done(self) {
                return Some(ticks);
            }
            self.tick();
        }
        None
    }

    /// All that moves without time.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 4 {
            let moved = (0..self.nodes.len()).filter(|member| !self.ended.contains(member)).collect::<Vec<_>>();
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
            // A member that was added has no process.
            if to < self.nodes.len() && !self.ended.contains(&to) {
                let now = self.nodes[to].boottime(self.now);
                self.group(to).step(now, NodeId(member as u64 + 1), message).expect("a good message");
            }
        }
        for forward in outputs.forward {
            moved = true;
            let to = usize::try_from(forward.leader.0).expect("small") - 1;
            let now = self.nodes[to].boottime(self.now);
            let refused = match self.ended.contains(&to) {
                true => Some(Error::NoLeader),
                false => self.group(to).propose_forwarded(now, &forward.payload).err().map(|error| error.told()),
            };
            if let Some(error) = refused {
                self.group(member).forward_refused(forward.whom, error);
            }
        }
        moved
    }

    pub fn put(&mut self, member: usize, request_id: u64) {
        let command = Command::Put(Put { key: b"key".to_vec(), value: b"value".to_vec(), ..Put::default() });
        let envelope = Envelope { proposer: member as u64 + 1, request_id, ..Envelope::default() };
        let now = self.nodes[member].boottime(self.now);
        let proposal = Proposal { draft: Draft::new(&envelope, &command), shard: 0, request_id };
        self.group(member).propose(now, vec![proposal]);
        self.settle();
    }

    /// A linearizable read; what came of it is in `reads`.
    pub fn read(&mut self, member: usize, request_id: u64) {
        let now = self.nodes[member].boottime(self.now);
        self.group(member).read_index(now, 0, request_id);
        self.settle();
    }

    pub fn answer(&self, request_id: u64) -> Option<&Result<Reply, Error>> {
        self.answers.iter().find(|(id, _)| *id == request_id).map(|(_, outcome)| outcome)
    }
}
