//! A cluster of shipping `Raft`s over a simulated network, simulated disks and simulated clocks; one seed is one history.
//!
//! What is modelled: messages are encoded and decoded, dropped, doubled, delayed and so reordered; links are cut in one
//! direction or both, members are isolated, split, or left with a bridge; members stand still and go on; clocks run at
//! speeds that differ by up to a fifth. A disk takes batches in order, late; a crash keeps some of the batches that were
//! on their way (never a later one without an earlier one), and the state as of the last checkpoint; images are sent in
//! place of compacted entries, and fail.
//!
//! What is not: torn or damaged batches (the log's business), a disk that lies about a sync, messages that are altered,
//! clocks whose speeds differ by more than a lease allows for.

mod checks;
mod disk;
mod load;
mod random;

use bytes::{Bytes, BytesMut};
use disk::{Disk, State};
pub use random::Random;
use ringstone_raft::wire::{self, Limits};
use ringstone_raft::{
    Body, Config, Configuration, Entry, Index, Message, NodeId, Persist, Raft, Role, Snapshot, Stable, Term,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How often things go wrong, per thousand: of messages, or of steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub drop: u64,
    pub double: u64,
    pub delay_max: u64,
    pub crash: u64,
    pub pause: u64,
    pub cut_link: u64,
    pub partition: u64,
    pub heal: u64,
    pub disk_stays_busy: u64,
}

/// What was reached: a history in which nothing happened proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub committed: u64,
    pub terms: u64,
    pub leaders: u64,
    pub reads: u64,
    pub lease_reads: u64,
    pub images: u64,
    pub joint: u64,
    pub crashes: u64,
    pub batches_lost: u64,
    pub pauses: u64,
    pub cuts: u64,
    pub transfers: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Totals) {
        self.committed += other.committed;
        self.terms += other.terms;
        self.leaders += other.leaders;
        self.reads += other.reads;
        self.lease_reads += other.lease_reads;
        self.images += other.images;
        self.joint += other.joint;
        self.crashes += other.crashes;
        self.batches_lost += other.batches_lost;
        self.pauses += other.pauses;
        self.cuts += other.cuts;
        self.transfers += other.transfers;
    }
}

struct Node {
    raft: Option<Raft>,
    disk: Disk,
    writing: VecDeque<Persist>,
    state: State,
    starts: u64,
    up_at: u64,
    /// The last vote, own vote and acknowledgement that left, each with to whom.
    promised: Vec<(NodeId, Message)>,
    /// Stands still until then; messages wait.
    paused_until: u64,
    /// Steps between two ticks of its clock.
    period: u64,
    next_tick: u64,
}

struct Agreed {
    entry: Entry,
    /// Of the state after it.
    hash: u64,
    /// It was committed in this term or an earlier one.
    term: Term,
}

struct Flight {
    from: NodeId,
    to: NodeId,
    message: Message,
}

pub struct Cluster {
    pub random: Random,
    pub faults: Faults,
    pub now: u64,
    pub totals: Totals,
    lease_reads: bool,
    /// At every batch, not now and then.
    pub checks_restarts: bool,
    /// Member 1 is the first.
    nodes: Vec<Node>,
    /// By the step at which they are due, and in the order in which they were sent.
    flights: BTreeMap<(u64, u64), Flight>,
    sent: u64,
    cut: BTreeSet<(NodeId, NodeId)>,
    leaders: BTreeMap<Term, NodeId>,
    /// Everything that any member handed out as committed.
    history: BTreeMap<Index, Agreed>,
    /// Every configuration that was ever in a log.
    configurations: Vec<(Index, Configuration)>,
    /// Reads on their way: the history's end when they were asked.
    reads: BTreeMap<(NodeId, u64), Index>,
    next_context: u64,
    next_payload: u64,
}

pub fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

fn at(id: NodeId) -> usize {
    id.0 as usize - 1
}

impl Cluster {
    /// Voters 1 to `voters`, and `spares` that know nothing yet. Few steps a tick: elections come often, and messages are
    /// old when they arrive.
    pub fn new(seed: u64, voters: u64, spares: u64, steps_a_tick: u64, faults: Faults) -> Cluster {
        let configuration = Configuration::new(ids(1..=voters), []).expect("valid");
        let mut cluster = Cluster {
            random: Random::new(seed),
            faults,
            now: 0,
            totals: Totals::default(),
            lease_reads: seed.is_multiple_of(2),
            checks_restarts: false,
            nodes: Vec::new(),
            flights: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            leaders: BTreeMap::new(),
            history: BTreeMap::new(),
            configurations: Vec::new(),
            reads: BTreeMap::new(),
            next_context: 0,
            next_payload: 0,
        };
        for id in ids(1..=voters + spares) {
            let mut disk = Disk::default();
            if id.0 <= voters {
                disk.base.configuration = configuration.clone();
            }
            // With ten steps a tick 9 to 11: a lease allows for one in two.
            let spread = steps_a_tick / 10;
            let node = Node {
                raft: None,
                disk,
                writing: VecDeque::new(),
                state: State::default(),
                starts: 0,
                up_at: 0,
                promised: Vec::new(),
                paused_until: 0,
                period: steps_a_tick - spread + cluster.random.below(2 * spread + 1),
                next_tick: cluster.random.below(steps_a_tick),
            };
            cluster.nodes.push(node);
            cluster.start(id);
        }
        cluster
    }

    fn start(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node(id);
        node.starts += 1;
        node.next_tick = node.next_tick.max(now + node.period);
        node.state = node.disk.state;
        self.node(id).raft = Some(self.restarted(id));
    }

    /// A member as it would start from what its disk holds now.
    fn restarted(&self, id: NodeId) -> Raft {
        let node = &self.nodes[at(id)];
        let mut config = Config::new(id, node.starts);
        config.append_bytes_max = 200;
        config.appends_in_flight_max = 4;
        config.bytes_in_flight_max = 500;
        config.unapplied_bytes_max = 500;
        config.lease_reads = self.lease_reads;
        let disk = node.disk.clone();
        let stable = Stable {
            hard_state: disk.hard_state,
            snapshot: disk.base,
            entries: disk.entries,
            applied: disk.state.applied,
        };
        Raft::new(config, stable).expect("what the disk holds fits together")
    }

    fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.nodes.len() as u64).map(NodeId)
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[at(id)]
    }

    pub fn crash(&mut self, id: NodeId, for_steps: u64) {
        let up_at = self.now + for_steps;
        let waiting = self.node(id).writing.len() as u64;
        let reached = self.random.below(waiting + 1);
        let node = self.node(id);
        if node.raft.take().is_none() {
            return;
        }
        for batch in node.writing.drain(..).take(reached as usize) {
            node.disk.write(&batch);
        }
        node.up_at = up_at;
        node.paused_until = 0;
        self.reads.retain(|(reader, _), _| *reader != id);
        self.totals.crashes += 1;
        self.totals.batches_lost += waiting - reached;
    }

    pub fn cut_link(&mut self, from: u64, to: u64) {
        self.cut.insert((NodeId(from), NodeId(to)));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    fn is_paused(&self, id: NodeId) -> bool {
        self.nodes[at(id)].paused_until > self.now
    }

    /// Members that believe to lead and do not stand still, ascending.
    pub fn leaders(&self) -> Vec<NodeId> {
        let leads = |node: &Node| node.raft.as_ref().is_some_and(|raft| raft.role().role == Role::Leader);
        self.ids().filter(|id| leads(&self.nodes[at(*id)]) && !self.is_paused(*id)).collect()
    }

    /// A member that is up and does not stand still.
    pub fn raft(&mut self, id: NodeId) -> Option<&mut Raft> {
        let is_paused = self.is_paused(id);
        self.node(id).raft.as_mut().filter(|_| !is_paused)
    }

    fn any_node(&mut self) -> NodeId {
        NodeId(1 + self.random.below(self.nodes.len() as u64))
    }

    /// One unit of time: ticks, messages, disks, faults.
    pub fn step(&mut self) {
        self.now += 1;
        self.inject_faults();
        let ids: Vec<NodeId> = self.ids().collect();
        for id in &ids {
            if self.nodes[at(*id)].raft.is_none() && self.nodes[at(*id)].up_at <= self.now {
                self.start(*id);
                self.act(*id);
            }
            self.tick(*id);
        }
        self.deliver();
        ids.into_iter().for_each(|id| self.write(id));
    }

    /// Every interval has its tick, late ones too; or the clock's gap is told.
    fn tick(&mut self, id: NodeId) {
        let (now, random) = (self.now, self.random.next());
        if self.raft(id).is_none() || self.nodes[at(id)].next_tick > now {
            return;
        }
        let node = self.node(id);
        let missed = (now - node.next_tick) / node.period;
        node.next_tick += (missed + 1) * node.period;
        let raft = node.raft.as_mut().expect("up");
        if missed > 0 && random % 2 == 0 {
            raft.clock_gap();
        } else {
            (0..missed).for_each(|turn| raft.tick(random ^ turn));
        }
        raft.tick(random);
        self.act(id);
    }

    /// How many intervals have passed since the last tick was due, rounded up.
    fn elapsed_ticks(&self, id: NodeId) -> u32 {
        let node = &self.nodes[at(id)];
        let last_due = (node.next_tick - node.period).min(self.now);
        (self.now - last_due).div_ceil(node.period) as u32
    }

    fn inject_faults(&mut self) {
        if self.random.chance(self.faults.crash) {
            let (id, steps) = (self.any_node(), 1 + self.random.below(150));
            self.crash(id, steps);
        }
        if self.random.chance(self.faults.pause) {
            let (id, until) = (self.any_node(), self.now + 1 + self.random.below(150));
            self.node(id).paused_until = until;
            self.totals.pauses += 1;
        }
        if self.random.chance(self.faults.cut_link) {
            let (one, other) = (self.any_node(), self.any_node());
            self.cut.insert((one, other));
            if self.random.chance(500) {
                self.cut.insert((other, one));
            }
            self.totals.cuts += 1;
        }
        if self.random.chance(self.faults.partition) {
            self.partition();
            self.totals.cuts += 1;
        }
        if self.random.chance(self.faults.heal) {
            self.heal();
        }
    }

    /// One is alone; or two sides; or two sides and one that both hear, a bridge.
    fn partition(&mut self) {
        let shape = self.random.below(3);
        let chosen = self.any_node();
        let sides = self.random.next();
        let side = |id: NodeId| match shape {
            0 => u64::from(id == chosen),
            _ => (sides >> id.0) & 1,
        };
        let is_bridge = |id: NodeId| shape == 2 && id == chosen;
        let ids: Vec<NodeId> = self.ids().collect();
        for (from, to) in ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to))) {
            if side(from) != side(to) && !is_bridge(from) && !is_bridge(to) {
                self.cut.insert((from, to));
            }
        }
    }

    fn deliver(&mut self) {
        let later = self.flights.split_off(&(self.now + 1, 0));
        let due = std::mem::replace(&mut self.flights, later);
        for ((_, number), Flight { from, to, message }) in due {
            if self.is_paused(to) {
                let due = self.nodes[at(to)].paused_until;
                self.flights.insert((due, number), Flight { from, to, message });
                continue;
            }
            let is_snapshot = matches!(message.body, Body::Snapshot(_));
            let is_up = self.nodes[at(to)].raft.is_some();
            // One that stands still finds the report when it goes on.
            if is_snapshot && let Some(sender) = self.node(from).raft.as_mut() {
                if is_up { sender.report_snapshot_delivered(to) } else { sender.report_snapshot_failed(to) }
            }
            if let Some(raft) = self.raft(to) {
                raft.step(from, message).expect("no message of a correct member is refused");
                self.act(to);
            }
        }
    }

    /// The disk finishes some batches. What a member that stands still has written it learns later.
    fn write(&mut self, id: NodeId) {
        while !self.is_paused(id) && !self.nodes[at(id)].writing.is_empty() {
            if self.random.chance(self.faults.disk_stays_busy) {
                return;
            }
            let node = self.node(id);
            let batch = node.writing.pop_front().expect("looked at");
            node.disk.write(&batch);
            if batch.snapshot.is_some() {
                node.state = node.disk.state;
                self.check_image(id);
            }
            let raft = self.raft(id).expect("a crash empties the queue");
            let after = raft.persisted(batch.token);
            self.note_promises(id, &after.send);
            if self.checks_restarts || self.now.is_multiple_of(50) {
                self.check_restart(id);
            }
            after.send.into_iter().for_each(|(to, message)| self.send(id, to, message));
            self.act(id);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let is_snapshot = matches!(message.body, Body::Snapshot(_));
        if self.cut.contains(&(from, to)) || self.random.chance(self.faults.drop) || at(to) >= self.nodes.len() {
            let is_noticed = self.random.chance(100);
            let raft = self.raft(from).expect("it sends");
            if is_snapshot {
                raft.report_snapshot_failed(to);
            } else if is_noticed {
                raft.report_unreachable(to);
            }
            return;
        }
        let message = over_the_wire(from.0, message);
        let copies = 1 + u64::from(self.random.chance(self.faults.double));
        for _ in 0..copies {
            let due = self.now + self.random.below(self.faults.delay_max + 1);
            self.sent += 1;
            self.flights.insert((due, self.sent), Flight { from, to, message: message.clone() });
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
                let disk = &self.nodes[at(id)].disk;
                let snapshot = Snapshot {
                    metadata: disk.base.clone(),
                    handle: Bytes::copy_from_slice(&disk.state.hash.to_le_bytes()),
                };
                self.raft(id).expect("up").send_snapshot(to, snapshot);
            }
            actions.committed.iter().for_each(|entry| self.apply(id, entry));
            for read in actions.reads {
                self.check_read(id, read);
            }
            for context in actions.reads_aborted {
                self.reads.remove(&(id, context)).expect("asked, and answered once");
            }
            self.note_configurations(actions.persist.as_ref());
            self.node(id).writing.extend(actions.persist);
        }
    }
}

/// What comes out at the other end.
fn over_the_wire(group: u64, message: Message) -> Message {
    let mut bytes = BytesMut::new();
    wire::encode(group, &message, &mut bytes);
    let limits = Limits::new(200, 200, 8);
    let (decoded_group, decoded) = wire::decode(&bytes.freeze(), &limits).expect("what was encoded decodes");
    assert_eq!((decoded_group, &decoded), (group, &message));
    decoded
}
