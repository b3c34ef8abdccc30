//! Three shipping groups on simulated disks, whose messages arrive at once. Time is ticks of 100 ms, an election timeout ten of
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringstone_core::command::{Command, Put};
use ringstone_core::entry::{Draft, Envelope};
use ringstone_core::error::Error;
use ringstone_core::group::{Ask, Call, Forward, Group, Outputs, Proposal, Reply};
use ringstone_raft::{NodeId, Role};

use crate::faults::Plan;
use crate::node::{Node, STRANGER, Submitted, TICK};
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
    /// What a leader says to what other members ask of it does not come there.
    pub answers_are_lost: bool,
    answers: Vec<(u64, Result<Reply, Error>)>,
    pub reads: Vec<(u64, Result<(), Error>)>,
    pub kept_alive: Vec<(u64, Result<i64, Error>)>,
    pub clocks: Vec<(u64, Result<u64, Error>)>,
    /// Who asked, by the request id that the leader has it under.
    strangers: BTreeMap<u64, (usize, (u32, u64))>,
    next_stranger: u64,
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
        let mut cluster = Cluster {
            nodes,
            random,
            now: Duration::ZERO,
            silent: None,
            ended: BTreeSet::new(),
            answers_are_lost: false,
            answers: Vec::new(),
            reads: Vec::new(),
            kept_alive: Vec::new(),
            clocks: Vec::new(),
            strangers: BTreeMap::new(),
            next_stranger: 0,
        };
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
        let mut outputs = group.take_outputs();
        let mut moved = submitted.log + submitted.pages > 0 || outputs.published || !outputs.send.is_empty();
        for (to, message) in std::mem::take(&mut outputs.send) {
            let to = usize::try_from(to.0).expect("small") - 1;
            // A member that was added has no process.
            if to < self.nodes.len() && !self.ended.contains(&to) {
                let now = self.nodes[to].boottime(self.now);
                self.group(to).step(now, NodeId(member as u64 + 1), message).expect("a good message");
            }
        }
        for forward in std::mem::take(&mut outputs.forward) {
            moved = true;
            self.forward(member, forward);
        }
        moved | self.hand_out(outputs)
    }

    fn forward(&mut self, member: usize, forward: Forward) {
        let to = usize::try_from(forward.leader.0).expect("small") - 1;
        let now = self.nodes[to].boottime(self.now);
        if self.ended.contains(&to) {
            return self.group(member).forward_refused(forward.whom, Error::NoLeader);
        }
        self.next_stranger += 1;
        let number = self.next_stranger;
        self.strangers.insert(number, (member, forward.whom));
        let done = match forward.call {
            Call::Proposal(payload) => {
                if let Err(error) = self.group(to).propose_forwarded(now, &payload) {
                    self.group(member).forward_refused(forward.whom, error.told());
                }
                Ok(())
            }
            Call::Ask(Ask::KeepAlive(id)) => self.group(to).keep_alive(now, STRANGER, number, id),
            Call::Ask(Ask::Change(change)) => self.group(to).change_members(now, &change, STRANGER, number),
            Call::Ask(Ask::LeaseClock) => {
                let leads = self.group(to).raft().role().role == Role::Leader;
                let ms = if leads { self.group(to).lease_clock_ms() as i64 } else { -1 };
                self.tell(number, |group, whom| group.told_clock(whom, ms));
                Ok(())
            }
        };
        done.expect("nothing is damaged");
    }

    /// Tells a member what the leader says to what it asked.
    fn tell(&mut self, number: u64, word: impl FnOnce(&mut Group, (u32, u64))) {
        if let Some((member, whom)) = self.strangers.remove(&number)
            && !self.answers_are_lost
        {
            word(self.group(member), whom);
        }
    }

    /// True if a member was told something.
    fn hand_out(&mut self, outputs: Outputs) -> bool {
        let told = self.strangers.len();
        for answer in outputs.answers {
            if answer.shard == STRANGER {
                self.tell(answer.request_id, |group, whom| group.told_changed(whom, answer.outcome.map(drop)));
            } else {
                self.answers.push((answer.request_id, answer.outcome));
            }
        }
        for kept in outputs.kept_alive {
            if kept.shard == STRANGER {
                self.tell(kept.request_id, |group, whom| group.told_kept_alive(whom, kept.outcome.unwrap_or(-1)));
            } else {
                self.kept_alive.push((kept.request_id, kept.outcome));
            }
        }
        self.clocks.extend(outputs.clocks.into_iter().map(|clock| (clock.request_id, clock.outcome)));
        self.reads.extend(outputs.reads.into_iter().map(|read| (read.request_id, read.outcome)));
        told != self.strangers.len()
    }

    pub fn put(&mut self, member: usize, request_id: u64) {
        let put = Put { key: b"key".to_vec(), value: b"value".to_vec(), ..Put::default() };
        self.propose(member, request_id, &Command::Put(put));
    }

    pub fn propose(&mut self, member: usize, request_id: u64, command: &Command) {
        let envelope = Envelope { proposer: member as u64 + 1, request_id, ..Envelope::default() };
        let now = self.nodes[member].boottime(self.now);
        let proposal = Proposal { draft: Draft::new(&envelope, command), shard: 0, request_id };
        self.group(member).propose(now, vec![proposal]);
        self.settle();
    }

    /// A linearizable read; what came of it is in `reads`.
    pub fn read(&mut self, member: usize, request_id: u64) {
        let now = self.nodes[member].boottime(self.now);
        self.group(member).read_index(now, 0, request_id);
        self.settle();
    }

    /// What only the leader can do or tell; what came of it is in `kept_alive`, `clocks`, and for [`Cluster::answer`].
    pub fn ask(&mut self, member: usize, request_id: u64, ask: Ask) {
        let now = self.nodes[member].boottime(self.now);
        self.group(member).ask(now, 0, request_id, ask).expect("nothing is damaged");
        self.settle();
    }

    pub fn answer(&self, request_id: u64) -> Option<&Result<Reply, Error>> {
        self.answers.iter().find(|(id, _)| *id == request_id).map(|(_, outcome)| outcome)
    }
}
