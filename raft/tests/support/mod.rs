//! A cluster of shipping `Raft`s over a simulated network and simulated disks; one seed is one history.
//!
//! What is modelled: messages are dropped, doubled, delayed and so reordered, links are cut in one direction or both; a
//! disk takes batches in order, late; a crash keeps some of the batches that were on their way (never a later one without
//! an earlier one), and the state as of the last checkpoint; images are sent in place of compacted entries.
//!
//! What is not: torn or damaged batches (the log's business), a disk that lies about a sync, clocks that run at
//! different speeds, messages that are altered, the bytes of messages (there is no encoding here).

mod random;

use bytes::Bytes;
pub use random::{Random, mix};
use ringstone_raft::{
    Body, Config, Configuration, Entry, EntryKind, HardState, Index, Message, NodeId, Persist, Raft, Role, Snapshot,
    SnapshotMetadata, Stable, Term,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How often things go wrong, per thousand: of messages, or of steps.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub drop: u64,
    pub double: u64,
    pub delay_max: u64,
    pub crash: u64,
    pub cut_link: u64,
    pub heal: u64,
    pub disk_stays_busy: u64,
}

/// The state machine: how far it is, and a hash over everything that was applied, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct State {
    applied: Index,
    hash: u64,
}

impl State {
    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.next(), "every entry once, in order");
        self.applied = entry.index;
        let seed =
            entry.payload.iter().fold(entry.index.0 ^ (entry.term.0 << 32), |hash, byte| mix(hash ^ u64::from(*byte)));
        self.hash = mix(self.hash ^ seed);
    }
}

#[derive(Clone, Default)]
struct Disk {
    hard_state: HardState,
    base: SnapshotMetadata,
    entries: Vec<Entry>,
    state: State,
}

impl Disk {
    fn last(&self) -> Index {
        Index(self.base.index.0 + self.entries.len() as u64)
    }

    fn holds(&self, index: Index, term: Term) -> bool {
        index <= self.base.index || self.entries.iter().any(|entry| (entry.index, entry.term) == (index, term))
    }

    fn write(&mut self, batch: &Persist) {
        if let Some(hard_state) = batch.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the term on disk fell");
            let voted_before = hard_state.term == self.hard_state.term && self.hard_state.vote.is_some();
            assert!(!voted_before || hard_state.vote == self.hard_state.vote, "a second vote in one term");
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &batch.snapshot {
            self.base = snapshot.metadata.clone();
            self.entries.clear();
            let hash = u64::from_le_bytes(snapshot.handle[..].try_into().expect("a hash"));
            self.state = State { applied: snapshot.metadata.index, hash };
        }
        if let Some(first) = batch.truncate_from {
            self.entries.retain(|entry| entry.index < first);
        }
        for entry in &batch.entries {
            assert_eq!(entry.index, self.last().next(), "batches continue the log");
            self.entries.push(entry.clone());
        }
    }

    /// The state becomes durable, and the log before it is dropped.
    fn checkpoint(&mut self, base: SnapshotMetadata, state: State) {
        self.entries.retain(|entry| entry.index > base.index);
        self.base = base;
        self.state = state;
    }
}

struct Node {
    raft: Option<Raft>,
    disk: Disk,
    writing: VecDeque<Persist>,
    state: State,
    starts: u64,
    up_at: u64,
}

struct Flight {
    due: u64,
    from: NodeId,
    to: NodeId,
    message: Message,
}

pub struct Cluster {
    pub random: Random,
    pub faults: Faults,
    pub now: u64,
    /// Few: elections come often, and messages are old when they arrive.
    pub steps_a_tick: u64,
    nodes: BTreeMap<NodeId, Node>,
    flights: Vec<Flight>,
    cut: BTreeSet<(NodeId, NodeId)>,
    leaders: BTreeMap<Term, NodeId>,
    /// Everything that any member handed out as committed, with the hash of the state after it.
    history: BTreeMap<Index, (Entry, u64)>,
    /// Reads on their way: the history's end when they were asked.
    reads: BTreeMap<(NodeId, u64), Index>,
    next_context: u64,
    next_payload: u64,
    pub reads_answered: u64,
    pub images_installed: u64,
    pub joint_configurations: u64,
    /// With members that change the quorum of an entry is not known here.
    checks_quorum_on_disk: bool,
}

pub fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

impl Cluster {
    /// Voters 1 to `voters`, and `spares` that know nothing yet.
    pub fn new(seed: u64, voters: u64, spares: u64, faults: Faults) -> Cluster {
        let configuration = Configuration::new(ids(1..=voters), []).expect("valid");
        let mut cluster = Cluster {
            random: Random::new(seed),
            faults,
            now: 0,
            steps_a_tick: 10,
            nodes: BTreeMap::new(),
            flights: Vec::new(),
            cut: BTreeSet::new(),
            leaders: BTreeMap::new(),
            history: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_context: 0,
            next_payload: 0,
            reads_answered: 0,
            images_installed: 0,
            joint_configurations: 0,
            checks_quorum_on_disk: spares == 0,
        };
        for id in ids(1..=voters + spares) {
            let mut disk = Disk::default();
            if id.0 <= voters {
                disk.base.configuration = configuration.clone();
            }
            let node =
                Node { raft: None, disk, writing: VecDeque::new(), state: State::default(), starts: 0, up_at: 0 };
            cluster.nodes.insert(id, node);
            cluster.start(id);
        }
        cluster
    }

    fn start(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a member");
        node.starts += 1;
        let mut config = Config::new(id, node.starts);
        config.append_bytes_max = 200;
        config.appends_in_flight_max = 4;
        config.unapplied_bytes_max = 500;
        let disk = node.disk.clone();
        node.state = disk.state;
        let stable = Stable {
            hard_state: disk.hard_state,
            snapshot: disk.base,
            entries: disk.entries,
            applied: disk.state.applied,
        };
        node.raft = Some(Raft::new(config, stable).expect("what the disk holds fits together"));
    }

    pub fn crash(&mut self, id: NodeId, for_steps: u64) {
        let node = self.nodes.get_mut(&id).expect("a member");
        if node.raft.take().is_none() {
            return;
        }
        let reached = self.random.below(node.writing.len() as u64 + 1);
        for batch in node.writing.drain(..).take(reached as usize) {
            node.disk.write(&batch);
        }
        node.up_at = self.now + for_steps;
        self.reads.retain(|(reader, _), _| *reader != id);
    }

    pub fn cut_link(&mut self, from: u64, to: u64) {
        self.cut.insert((NodeId(from), NodeId(to)));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Members that believe to lead, ascending.
    pub fn leaders(&self) -> Vec<NodeId> {
        let leads = |node: &Node| node.raft.as_ref().is_some_and(|raft| raft.role().role == Role::Leader);
        self.nodes.iter().filter(|(_, node)| leads(node)).map(|(id, _)| *id).collect()
    }

    pub fn raft(&mut self, id: NodeId) -> Option<&mut Raft> {
        self.nodes.get_mut(&id).expect("a member").raft.as_mut()
    }

    pub fn history_end(&self) -> Index {
        self.history.keys().next_back().copied().unwrap_or_default()
    }

    pub fn applied(&self, id: NodeId) -> Index {
        self.nodes[&id].state.applied
    }

    pub fn term_max(&self) -> Term {
        self.leaders.keys().next_back().copied().unwrap_or_default()
    }

    fn any_node(&mut self) -> NodeId {
        NodeId(1 + self.random.below(self.nodes.len() as u64))
    }

    /// One unit of time: ticks, messages, disks, faults.
    pub fn step(&mut self) {
        self.now += 1;
        self.inject_faults();
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            let random = self.random.next();
            let is_tick = (self.now + id.0).is_multiple_of(self.steps_a_tick);
            let node = self.nodes.get_mut(id).expect("a member");
            if node.raft.is_none() && node.up_at <= self.now {
                self.start(*id);
            } else if let (true, Some(raft)) = (is_tick, node.raft.as_mut()) {
                raft.tick(random);
            }
            self.act(*id);
        }
        self.deliver();
        ids.into_iter().for_each(|id| self.write(id));
    }

    fn inject_faults(&mut self) {
        if self.random.chance(self.faults.crash) {
            let (id, steps) = (self.any_node(), 10 + self.random.below(200));
            self.crash(id, steps);
        }
        if self.random.chance(self.faults.cut_link) {
            let (one, other) = (self.any_node(), self.any_node());
            self.cut.insert((one, other));
            if self.random.chance(500) {
                self.cut.insert((other, one));
            }
        }
        if self.random.chance(self.faults.heal) {
            self.heal();
        }
    }

    fn deliver(&mut self) {
        let (due, later) = std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.due <= self.now);
        self.flights = later;
        let due: Vec<Flight> = due;
        for Flight { from, to, message, .. } in due {
            let is_snapshot = matches!(message.body, Body::Snapshot(_));
            let is_up = self.nodes[&to].raft.is_some();
            if is_snapshot && let Some(sender) = self.raft(from) {
                if is_up { sender.report_snapshot_delivered(to) } else { sender.report_snapshot_failed(to) }
            }
            if let Some(raft) = self.raft(to) {
                raft.step(from, message).expect("no message of a correct member is refused");
                self.act(to);
            }
        }
    }

    /// The disk finishes some batches.
    fn write(&mut self, id: NodeId) {
        while !self.random.chance(self.faults.disk_stays_busy) {
            let node = self.nodes.get_mut(&id).expect("a member");
            let Some(batch) = node.writing.pop_front() else { return };
            node.disk.write(&batch);
            if batch.snapshot.is_some() {
                node.state = node.disk.state;
                self.images_installed += 1;
                let (entry_hash, state) = (self.history[&node.state.applied].1, node.state);
                assert_eq!(entry_hash, state.hash, "the image is of the one history");
            }
            let raft = node.raft.as_mut().expect("a crash empties the queue");
            let after = raft.persisted(batch.token);
            after.send.into_iter().for_each(|(to, message)| self.send(id, to, message));
            self.act(id);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let is_snapshot = matches!(message.body, Body::Snapshot(_));
        if self.cut.contains(&(from, to)) || self.random.chance(self.faults.drop) || !self.nodes.contains_key(&to) {
            if is_snapshot && let Some(raft) = self.raft(from) {
                raft.report_snapshot_failed(to);
            }
            return;
        }
        let copies = 1 + u64::from(self.random.chance(self.faults.double));
        for _ in 0..copies {
            let due = self.now + self.random.below(self.faults.delay_max + 1);
            self.flights.push(Flight { due, from, to, message: message.clone() });
        }
    }

    /// Does what a member asks for, and checks it.
    fn act(&mut self, id: NodeId) {
        loop {
            let Some(raft) = self.raft(id) else { return };
            let actions = raft.take_actions();
            if actions.is_empty() {
                return;
            }
            if actions.became.is_some_and(|role| role.role == Role::Leader) {
                self.check_new_leader(id);
            }
            actions.send_now.into_iter().for_each(|(to, message)| self.send(id, to, message));
            for to in actions.snapshots_wanted {
                let disk = &self.nodes[&id].disk;
                let snapshot = Snapshot {
                    metadata: disk.base.clone(),
                    handle: Bytes::copy_from_slice(&disk.state.hash.to_le_bytes()),
                };
                self.raft(id).expect("up").send_snapshot(to, snapshot);
            }
            actions.committed.iter().for_each(|entry| self.apply(id, entry));
            for read in actions.reads {
                let asked_at = self.reads.remove(&(id, read.context)).expect("asked, and answered once");
                assert!(read.index >= asked_at, "stale read at {id}: {} before {asked_at}", read.index);
                self.reads_answered += 1;
            }
            for context in actions.reads_aborted {
                self.reads.remove(&(id, context)).expect("asked, and answered once");
            }
            let node = self.nodes.get_mut(&id).expect("a member");
            node.writing.extend(actions.persist);
        }
    }

    fn apply(&mut self, id: NodeId, entry: &Entry) {
        let node = self.nodes.get_mut(&id).expect("a member");
        node.state.apply(entry);
        assert!(node.disk.holds(entry.index, entry.term), "applied before it was on the own disk");
        let hash = node.state.hash;
        let raft = node.raft.as_mut().expect("up");
        if entry.index.0.is_multiple_of(3) || raft.positions().committed.0 == entry.index {
            raft.applied(entry.index);
        }
        if let Some((agreed, agreed_hash)) = self.history.get(&entry.index) {
            assert_eq!(agreed, entry, "{id} was given another entry");
            assert_eq!(*agreed_hash, hash, "states differ");
            return;
        }
        if self.checks_quorum_on_disk {
            let holders = self.nodes.values().filter(|node| node.disk.holds(entry.index, entry.term)).count();
            assert!(holders > self.nodes.len() / 2, "committed at {} with {holders} copies on disks", entry.index);
        }
        if entry.kind == EntryKind::Configuration {
            let (configuration, _) = Configuration::decode(&entry.payload).expect("ours");
            self.joint_configurations += u64::from(configuration.is_joint());
        }
        self.history.insert(entry.index, (entry.clone(), hash));
    }

    /// One leader a term, and it has everything that was ever committed.
    fn check_new_leader(&mut self, id: NodeId) {
        let raft = self.nodes[&id].raft.as_ref().expect("up");
        let role = raft.role();
        let other = self.leaders.insert(role.term, id);
        assert!(other.is_none_or(|other| other == id), "{id} and {other:?} lead in term {}", role.term);
        let compacted = raft.status().compacted;
        for (index, (entry, _)) in self.history.range(compacted.next()..) {
            let term = raft.metadata_at(*index).map(|metadata| metadata.term);
            assert_eq!(term, Some(entry.term), "leader {id} of term {} lacks the entry at {index}", role.term);
        }
    }

    /// Where two logs have the same term at an index, they are the same up to it.
    pub fn check_logs_match(&self) {
        let rafts: Vec<&Raft> = self.nodes.values().filter_map(|node| node.raft.as_ref()).collect();
        for (position, one) in rafts.iter().enumerate() {
            for other in &rafts[position + 1..] {
                let first = one.status().compacted.max(other.status().compacted);
                let last = one.positions().proposed.0.min(other.positions().proposed.0);
                let term = |raft: &Raft, index| raft.metadata_at(Index(index)).map(|metadata| metadata.term);
                let agree = |index: &u64| term(one, *index) == term(other, *index);
                let Some(top) = (first.0..=last.0).rev().find(agree) else { continue };
                assert!((first.0..=top).all(|index| agree(&index)), "logs agree at {top} and differ below");
            }
        }
    }

    pub fn propose_everywhere(&mut self) {
        for id in self.leaders() {
            let batch: Vec<Bytes> = (0..1 + self.random.below(4)).map(|_| self.payload()).collect();
            let _refused_or_not = self.raft(id).expect("leads").propose(batch);
            self.act(id);
        }
    }

    fn payload(&mut self) -> Bytes {
        self.next_payload += 1;
        Bytes::from(format!("payload {}", self.next_payload))
    }

    pub fn read_somewhere(&mut self) {
        let (id, context) = (self.any_node(), self.next_context);
        self.next_context += 1;
        let asked_at = self.history_end();
        if self.raft(id).is_some_and(|raft| raft.read_index(context).is_ok()) {
            self.reads.insert((id, context), asked_at);
            self.act(id);
        }
    }

    pub fn checkpoint_somewhere(&mut self) {
        let id = self.any_node();
        let node = self.nodes.get_mut(&id).expect("a member");
        let Some(raft) = node.raft.as_mut() else { return };
        let Some(metadata) = raft.metadata_at(node.state.applied) else { return };
        let is_installing = node.writing.iter().any(|batch| batch.snapshot.is_some());
        if metadata.index > node.disk.base.index && !is_installing {
            let index = metadata.index;
            node.disk.checkpoint(metadata, node.state);
            raft.applied(index);
            raft.compact(index);
        }
    }

    pub fn transfer_somewhere(&mut self) {
        let to = self.any_node();
        for id in self.leaders() {
            let _refused_or_not = self.raft(id).expect("leads").transfer_leadership(to);
            self.act(id);
        }
    }

    /// Proposes any three to all of the members as voters, and perhaps one learner.
    pub fn reconfigure(&mut self) {
        let mut members: Vec<NodeId> = self.nodes.keys().copied().collect();
        for position in (1..members.len()).rev() {
            members.swap(position, self.random.below(position as u64 + 1) as usize);
        }
        let voters = 1 + self.random.below(members.len() as u64 - 1) as usize;
        let learners = members[voters..].iter().take(self.random.below(2) as usize).copied().collect::<Vec<_>>();
        let target = Configuration::new(members[..voters].iter().copied(), learners).expect("valid");
        for id in self.leaders() {
            let _refused_or_not = self.raft(id).expect("leads").propose_configuration(&target, b"");
            self.act(id);
        }
    }

    fn outline(&self) -> String {
        let status = |(id, node): (&NodeId, &Node)| match &node.raft {
            Some(raft) => format!("{id}: {:?}\n", raft.status()),
            None => format!("{id}: down\n"),
        };
        self.nodes.iter().map(status).collect()
    }

    /// Ends all faults, and gives the cluster time. Then a new write must reach every voter of the configuration.
    pub fn check_recovers(&mut self) {
        self.faults = Faults { delay_max: 2, ..Faults::default() };
        self.heal();
        (0..1500).for_each(|_| self.step());
        let end = self.history_end();
        self.propose_everywhere();
        (0..300).for_each(|_| self.step());
        let leaders = self.leaders();
        assert_eq!(leaders.len(), 1, "one leader after all faults ended: {}", self.outline());
        let configuration = self.raft(leaders[0]).expect("leads").configuration().clone();
        assert!(!configuration.is_joint(), "a joint configuration was never left");
        assert!(self.history_end() > end, "nothing is committed any more");
        for id in configuration.members() {
            assert_eq!(self.applied(id), self.history_end(), "{id} is behind");
        }
        self.check_logs_match();
    }
}
