//! Time, and whatever happens to members: one queue of events, in the order of their time.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ringstone_core::group::{GroupError, Outputs};
use ringstone_core::said::Said;
use ringstone_raft::{NodeId, Role};

use super::clients::Clients;
use super::faults::{Plan, Whom};
use super::invariants::Invariants;
use super::network::{Network, Packet, moment_of};
use super::node::{Life, Node, STRANGER, Submitted, TICK};
use super::quic::Quic;
use super::random::Random;
use super::trouble::Armed;

/// The index that it covers, and its bytes.
type Image = (u64, Rc<Vec<u8>>);

pub enum Event {
    Tick(u64, u64),
    LogDone(u64, u64),
    PagesDone(u64, u64),
    Deliver {
        from: u64,
        to: u64,
        packet: Packet,
    },
    ImageReport {
        from: u64,
        life: u64,
        to: u64,
        delivered: bool,
    },
    Start(u64),
    Client(usize),
    /// The holder of a lease asks to keep it.
    Keep(usize, i64),
    Timeout(u64),
    Fault(usize),
    FaultEnd(usize),
    PowerFails(u64, u64),
    /// Somebody sees to members that are gone.
    Operator,
    Datagram {
        from: u64,
        to: u64,
        bytes: Vec<u8>,
    },
    QuicTimer(u64, u64),
    Dial(u64, u64),
}

impl Event {
    /// The member that has to run for it.
    fn member(&self) -> Option<u64> {
        match self {
            Event::Tick(id, _) | Event::LogDone(id, _) | Event::PagesDone(id, _) => Some(*id),
            Event::QuicTimer(id, _) | Event::Dial(id, _) => Some(*id),
            Event::Deliver { to, .. } | Event::Datagram { to, .. } => Some(*to),
            Event::ImageReport { from, .. } => Some(*from),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub faults: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub images: u64,
    pub joined: u64,
    pub removed: u64,
    /// Requests of disks that failed, for good or for a while.
    pub disk_errors: u64,
    pub messages: u64,
    pub damaged_messages: u64,
    /// Places where a disk has other bytes than were written.
    pub damages: u64,
    /// Members that found such a place, and stopped.
    pub refusals: u64,
    pub replaced: u64,
    pub clock_gaps: u64,
    pub moments: u64,
    pub datagrams: u64,
}

pub struct World {
    pub random: Random,
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub nodes: BTreeMap<u64, Node>,
    held: BTreeMap<u64, Vec<Event>>,
    pub network: Network,
    /// What messages go over, in place of the network's own ways.
    pub quic: Option<Quic>,
    pub plan: Plan,
    /// Members that a fault has to give back.
    pub hit: BTreeMap<usize, u64>,
    pub armed: Vec<Armed>,
    /// From, to.
    pub images: BTreeMap<(u64, u64), Image>,
    founders: Vec<u64>,
    next_id: u64,
    pub invariants: Invariants,
    pub clients: Clients,
    pub tally: Tally,
    is_traced: bool,
    pub is_healed: bool,
    pub operator_is_due: bool,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let mut random = Random::new(seed);
        let nodes = (1..=plan.members).map(|id| Node::new(id, &mut random, &plan)).collect();
        World::of(random, plan, nodes)
    }

    /// With members whose disks may hold something already.
    pub fn of(mut random: Random, plan: Plan, nodes: Vec<Node>) -> World {
        let founders: Vec<u64> = nodes.iter().map(|node| node.id).collect();
        let clients = Clients::new(&mut random, &plan);
        let quic = plan.is_quic.then(|| Quic::new(&mut random));
        let mut world = World {
            random,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes: BTreeMap::new(),
            held: BTreeMap::new(),
            network: Network::new(),
            quic,
            next_id: plan.members + 1,
            plan,
            hit: BTreeMap::new(),
            armed: Vec::new(),
            images: BTreeMap::new(),
            founders: founders.clone(),
            invariants: Invariants::default(),
            clients,
            tally: Tally::default(),
            is_healed: false,
            operator_is_due: false,
            is_traced: std::env::var("RINGSTONE_SIM_TRACE").is_ok(),
        };
        for node in nodes {
            world.nodes.insert(node.id, node);
        }
        founders.into_iter().for_each(|id| world.start(id));
        for number in 0..world.plan.faults.len() {
            let at = world.plan.faults[number].at;
            world.at(at, Event::Fault(number));
        }
        for client in 0..world.clients.count() {
            world.after(500_000 + client as u64 * 1000, Event::Client(client));
        }
        world
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), event);
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    pub fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_traced {
            eprintln!("{:>9.3} {}", self.now as f64 / 1e6, what());
        }
    }

    pub fn run_until(&mut self, time: u64) {
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= time) {
            self.now = next.key().0;
            let event = next.remove();
            self.handle(event);
        }
        self.now = time;
    }

    fn handle(&mut self, event: Event) {
        if let Some(id) = event.member()
            && self.nodes.get(&id).is_some_and(|node| node.is_paused)
        {
            self.held.entry(id).or_default().push(event);
            return;
        }
        match event {
            Event::Tick(id, life) => self.tick(id, life),
            Event::LogDone(id, life) => self.with_life(id, life, Node::log_done),
            Event::PagesDone(id, life) => self.with_life(id, life, Node::pages_done),
            Event::Deliver { from, to, packet } => self.deliver(from, to, packet),
            Event::ImageReport { from, life, to, delivered } => self.with_life(from, life, |node| {
                node.life.as_mut().expect("it is up").group.report_image(NodeId(to), delivered);
                Ok(())
            }),
            Event::Start(id) => self.start(id),
            Event::Client(client) => self.client_acts(client),
            Event::Keep(client, lease) => self.keep_alive(client, lease),
            Event::Timeout(call) => self.call_timed_out(call),
            Event::Fault(number) => self.fault(number),
            Event::FaultEnd(number) => self.fault_ends(number),
            Event::PowerFails(id, down) => self.power_fails(id, down),
            Event::Operator => self.operate(),
            Event::Datagram { from, to, bytes } => self.datagram(from, to, &bytes),
            Event::QuicTimer(id, life) => self.quic_timer(id, life),
            Event::Dial(id, life) => self.dial(id, life),
        }
    }

    /// Something happens to a member in this life, and it goes on.
    fn with_life(&mut self, id: u64, life: u64, does: impl FnOnce(&mut Node) -> Result<(), GroupError>) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.lives == life && node.is_up()) else { return };
        match does(node) {
            Ok(()) => self.pump(id),
            Err(error) => self.failed(id, &error),
        }
    }

    fn tick(&mut self, id: u64, life: u64) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.lives == life) else { return };
        let now = node.boottime(Duration::from_micros(self.now));
        let random = self.random.next();
        let interval = node.interval_us(TICK);
        let Some(up) = &mut node.life else { return };
        up.group.tick(now, 0, random);
        up.hub.tick(self.now / 1000);
        self.after(interval, Event::Tick(id, life));
        self.pump(id);
        self.connect_watches();
    }

    pub fn start(&mut self, id: u64) {
        let founders = if self.founders.contains(&id) { self.founders.clone() } else { vec![] };
        let now = self.time();
        let is_startable = |node: &&mut Node| node.life.is_none() && !node.is_gone;
        let Some(node) = self.nodes.get_mut(&id).filter(is_startable) else { return };
        if let Err(error) = node.start(&founders, self.plan.retained_bytes, &mut self.random, now) {
            let in_trouble = node.is_in_trouble();
            node.failed_to_start();
            if in_trouble {
                self.trace(|| format!("{id} does not open for now: {error}"));
                return self.after(300_000, Event::Start(id));
            }
            return self.refuse(id, &error.to_string());
        }
        let life = node.lives;
        self.trace(|| format!("{id} starts"));
        self.open_host(id, life);
        let phase = self.random.below(TICK.as_micros() as u64);
        self.after(phase, Event::Tick(id, life));
        self.pump(id);
    }

    /// The process ends by itself: its disk failed, or has other bytes than were written.
    pub fn failed(&mut self, id: u64, error: &GroupError) {
        self.trace(|| format!("{id} ends: {error}"));
        let of_disks = matches!(error, GroupError::Log(_) | GroupError::PageFile(_) | GroupError::Checkpoint(_));
        let Some(node) = self.nodes.get(&id) else { return };
        if of_disks && (node.is_in_trouble() || self.tally.disk_errors > 0) && !node.is_damaged {
            self.crash(id, false);
            return self.after(300_000, Event::Start(id));
        }
        assert!(of_disks || matches!(error, GroupError::Damaged(_) | GroupError::Attributes(_)), "{id} ends: {error}");
        self.refuse(id, &error.to_string());
    }

    pub fn crash(&mut self, id: u64, power: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.crash(power, &mut self.random);
        self.held.remove(&id);
        self.tally.crashes += 1;
        self.member_went_down(id);
    }

    /// Moves a member on as far as it goes at this moment.
    pub fn pump(&mut self, id: u64) {
        let mut idle = 0;
        for round in 0.. {
            assert!(round < 10_000, "{id} does not come to rest");
            let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) else { return };
            let mut submitted = Submitted::default();
            let now = node.boottime(Duration::from_micros(self.now));
            let moved = (|| {
                node.life.as_mut().expect("it is up").group.turn()?;
                node.submit(&mut submitted)?;
                let life = node.life.as_mut().expect("it is up");
                let outputs = life.group.take_outputs();
                life.group.maybe_checkpoint(false)?;
                let _ = life.group.quiet(now);
                node.submit(&mut submitted)?;
                let life = node.life.as_mut().expect("it is up");
                while life.group.poll_prefetch().is_some() {}
                let moved = submitted.log + submitted.pages > 0 || outputs.published;
                idle = if moved { 0 } else { idle + 1 };
                // A disk that has something to do goes on with it.
                let waits = idle > 3 && (life.group.awaits_log() || life.awaits_pages());
                Ok((outputs, life.group.has_work() && !waits))
            })();
            let (life, slowness) = (node.lives, node.slowness);
            self.schedule_disks(id, life, slowness, &submitted);
            match moved {
                Ok((outputs, has_work)) => {
                    let is_quiet = self.outputs(id, life, outputs);
                    if is_quiet && !has_work {
                        return;
                    }
                }
                Err(error) => return self.failed(id, &error),
            }
        }
    }

    fn schedule_disks(&mut self, id: u64, life: u64, slowness: u64, submitted: &Submitted) {
        for _ in 0..submitted.log {
            let latency = self.random.between(80, 400) * slowness / 10;
            self.after(latency, Event::LogDone(id, life));
        }
        for _ in 0..submitted.pages {
            let latency = self.random.between(200, 2000) * slowness / 10;
            self.after(latency, Event::PagesDone(id, life));
        }
    }

    /// True if nothing came of it that the member itself has to go on with.
    fn outputs(&mut self, id: u64, life_number: u64, outputs: Outputs) -> bool {
        let Some(life) = self.nodes.get_mut(&id).and_then(|node| node.life.as_mut()) else { return true };
        self.invariants.check_role(id, life);
        let (is_quiet, events) = (outputs.images_wanted.is_empty(), outputs.events);
        assert!(outputs.skipped_to.is_none(), "no change here has so many keys");
        let ended = self.invariants.check_events(id, &events, self.now);
        self.invariants.check_sums(id, &outputs.sums);
        assert!(outputs.verdicts.is_empty(), "nobody differs");
        if outputs.published {
            let revision = life.group.state().revision;
            let previous = std::mem::replace(&mut life.delivered, revision);
            assert!(previous <= revision, "the revision of {id} went back");
            life.hub.deliver(previous, &events.into(), revision);
            self.invariants.check_published(id, life);
        }
        if let Some(leader) = outputs.sums.first().and_then(|_| self.leader()).filter(|leader| *leader != id) {
            outputs.sums.iter().for_each(|sum| self.say(id, leader, &Said::Sum(*sum)));
        }
        ended.into_iter().for_each(|lease| self.note_ended(lease));
        for to in outputs.images_wanted {
            self.make_image(id, to);
        }
        let mut moments = Vec::new();
        for (to, message) in outputs.send {
            moments.extend(moment_of(&message));
            self.send_raft(id, life_number, to.0, message);
        }
        for forward in outputs.forward {
            self.say(id, forward.leader.0, &forward.into());
        }
        for answer in outputs.answers {
            if answer.shard == STRANGER {
                self.answer_stranger(id, answer.request_id, |caller| Said::Changed(caller, answer.outcome.map(drop)));
            } else {
                self.answered(answer.request_id, answer.outcome);
            }
        }
        for read in outputs.reads {
            self.read_ready(id, read.request_id, read.outcome);
        }
        for kept in outputs.kept_alive {
            if kept.shard == STRANGER {
                self.answer_stranger(id, kept.request_id, |caller| {
                    Said::KeptAlive(vec![(caller, kept.outcome.unwrap_or(-1))])
                });
            } else {
                self.kept_alive(kept.request_id, kept.outcome);
            }
        }
        self.serve_watches(id, life_number);
        if let Some(metadata) = outputs.install {
            self.install(id, life_number, metadata.index.0);
        }
        if outputs.removed {
            self.trace(|| format!("{id} was removed"));
            self.nodes.remove(&id);
            self.member_went_down(id);
        }
        self.strike(id, &moments);
        is_quiet
    }

    /// The member goes on with an image in place of its page file.
    fn install(&mut self, id: u64, life: u64, index: u64) {
        if self.nodes.get(&id).is_none_or(|node| node.lives != life) {
            return;
        }
        self.trace(|| format!("{id} goes on with the image up to {index}"));
        self.tally.images += 1;
        // The log has said what is to come; the power may fail before the new file has its name, or at once after it has.
        let fails = self.random.below(6);
        if fails == 0 {
            self.crash(id, true);
        } else {
            self.nodes.get_mut(&id).expect("it is up").switch(index);
            self.member_went_down(id);
            if fails == 1 {
                self.crash(id, true);
            }
        }
        self.start(id);
    }

    fn make_image(&mut self, from: u64, to: NodeId) {
        let Some(node) = self.nodes.get_mut(&from) else { return };
        let Some(life) = node.life.as_mut() else { return };
        let (index, image) = match life.pages(from, &node.pages) {
            Ok(image) => image,
            Err(damage) => {
                life.group.report_image(to, false);
                return self.refuse(from, &damage.to_string());
            }
        };
        let metadata = life.group.image_metadata(index);
        let is_sent = metadata.is_some();
        match metadata {
            Some(metadata) => life.group.send_image(to, metadata),
            None => life.group.report_image(to, false),
        }
        self.trace(|| format!("{from} has an image up to {index} for {}, sends it: {is_sent}", to.0));
        self.images.insert((from, to.0), (index, Rc::new(image)));
    }

    /// Members of the leader's configuration.
    pub fn configured(&self) -> Vec<u64> {
        let leader = self.leader().and_then(|id| self.nodes[&id].life.as_ref());
        let members = leader.map(|life| life.group.raft().configuration().members()).unwrap_or_default();
        members.into_iter().map(|id| id.0).collect()
    }

    /// Where a client may go: anywhere, and in the end to those that are members.
    pub fn reachable(&self) -> Vec<u64> {
        let all = self.nodes.iter().filter(|(_, node)| node.is_up()).map(|(id, _)| *id);
        if !self.is_healed {
            return all.collect();
        }
        let configured = self.configured();
        all.filter(|id| configured.contains(id)).collect()
    }

    /// Whoever leads in the latest term.
    pub fn leader(&self) -> Option<u64> {
        let leads = |life: &Life| {
            let role = life.group.raft().role();
            (role.role == Role::Leader).then_some(role.term.0)
        };
        let terms = self.nodes.iter().filter_map(|(id, node)| Some((leads(node.life.as_ref()?)?, *id)));
        terms.max().map(|(_, id)| id)
    }

    pub fn resolve(&self, whom: Whom) -> u64 {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        match whom {
            Whom::Leader => self.leader().unwrap_or(ids[0]),
            Whom::Nth(number) => ids[number as usize % ids.len()],
        }
    }

    pub fn resume(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_paused = false;
        }
        for event in self.held.remove(&id).unwrap_or_default() {
            self.after(0, event);
        }
    }

    /// The process that held these is gone.
    pub fn forget_held(&mut self, id: u64) {
        self.held.remove(&id);
    }

    /// A member that joins is started when it is added.
    pub fn new_member(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let node = Node::new(id, &mut self.random, &self.plan);
        self.nodes.insert(id, node);
        self.tally.joined += 1;
        self.start(id);
        id
    }
}
