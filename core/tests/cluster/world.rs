//! Time, the network, and whatever happens to members: one queue of events, in the order of their time.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use ringstone_core::group::{GroupError, Outputs, Sum};
use ringstone_raft::{Body, Message, NodeId, Role};

use super::clients::Clients;
use super::faults::{Fault, Kind, Whom};
use super::invariants::Invariants;
use super::node::{self, Life, Node, Submitted, TICK};
use super::random::Random;

/// The index that it covers, and its bytes.
type Image = (u64, Rc<Vec<u8>>);

pub enum Packet {
    Raft(Message),
    Forward(bytes::Bytes),
    /// Raft's message and the image that it is about.
    Image(Message, u64, Rc<Vec<u8>>),
}

pub enum Event {
    Tick(u64, u64),
    LogDone(u64, u64),
    PagesDone(u64, u64),
    Deliver { from: u64, to: u64, packet: Packet },
    ImageReport { from: u64, life: u64, to: u64, delivered: bool },
    Start(u64),
    Client(usize),
    Timeout(u64),
    Fault(usize),
    FaultEnd(usize),
    PowerFails(u64, u64),
}

impl Event {
    /// The member that has to run for it.
    fn member(&self) -> Option<u64> {
        match self {
            Event::Tick(id, _) | Event::LogDone(id, _) | Event::PagesDone(id, _) => Some(*id),
            Event::Deliver { to, .. } => Some(*to),
            Event::ImageReport { from, .. } => Some(*from),
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
struct Weather {
    lost: u64,
    doubled: u64,
    delay_us: u64,
}

const FAIR: Weather = Weather { lost: 0, doubled: 0, delay_us: 1500 };

#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub faults: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub images: u64,
    pub joined: u64,
    pub removed: u64,
    pub disk_errors: u64,
    pub messages: u64,
}

pub struct World {
    pub random: Random,
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub nodes: BTreeMap<u64, Node>,
    held: BTreeMap<u64, Vec<Event>>,
    cut: BTreeSet<(u64, u64)>,
    weather: Weather,
    faults: Vec<Fault>,
    /// Members that a fault has to give back.
    hit: BTreeMap<usize, u64>,
    /// From, to.
    images: BTreeMap<(u64, u64), Image>,
    founders: Vec<u64>,
    next_id: u64,
    pub invariants: Invariants,
    pub clients: Clients,
    pub tally: Tally,
    is_traced: bool,
    pub is_healed: bool,
}

impl World {
    pub fn new(seed: u64, members: u64, faults: Vec<Fault>) -> World {
        let mut random = Random::new(seed);
        let founders: Vec<u64> = (1..=members).collect();
        let clients = Clients::new(&mut random);
        let mut world = World {
            random,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes: BTreeMap::new(),
            held: BTreeMap::new(),
            cut: BTreeSet::new(),
            weather: FAIR,
            faults,
            hit: BTreeMap::new(),
            images: BTreeMap::new(),
            next_id: members + 1,
            founders: founders.clone(),
            invariants: Invariants::default(),
            clients,
            tally: Tally::default(),
            is_healed: false,
            is_traced: std::env::var("RINGSTONE_SIM_TRACE").is_ok(),
        };
        for id in founders {
            let node = Node::new(id, &mut world.random);
            world.nodes.insert(id, node);
            world.start(id);
        }
        for number in 0..world.faults.len() {
            let at = world.faults[number].at;
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
            Event::Timeout(call) => self.call_timed_out(call),
            Event::Fault(number) => self.fault(number),
            Event::FaultEnd(number) => self.fault_ends(number),
            Event::PowerFails(id, down) => self.power_fails(id, down),
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
        let Some(up) = &mut node.life else { return };
        up.group.tick(now, 0, random);
        up.hub.tick(self.now / 1000);
        self.after(TICK.as_micros() as u64, Event::Tick(id, life));
        self.pump(id);
        self.connect_watches();
    }

    pub fn start(&mut self, id: u64) {
        let founders = if self.founders.contains(&id) { self.founders.clone() } else { vec![] };
        let now = self.time();
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life.is_none()) else { return };
        if let Err(error) = node.start(&founders, &mut self.random, now) {
            panic!("{id} does not open: {error}");
        }
        let life = node.lives;
        self.trace(|| format!("{id} starts"));
        let phase = self.random.below(TICK.as_micros() as u64);
        self.after(phase, Event::Tick(id, life));
        self.pump(id);
    }

    /// The process ends by itself: its disk failed.
    fn failed(&mut self, id: u64, error: &GroupError) {
        self.trace(|| format!("{id} ends: {error}"));
        assert!(
            matches!(error, GroupError::Log(_) | GroupError::PageFile(_) | GroupError::Checkpoint(_))
                && self.tally.disk_errors > 0,
            "{id} ends: {error}"
        );
        self.crash(id, false);
        self.after(300_000, Event::Start(id));
    }

    fn crash(&mut self, id: u64, power: bool) {
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
        self.invariants.check_events(id, &events, self.now);
        self.invariants.check_sums(id, &outputs.sums);
        assert!(outputs.verdicts.is_empty(), "nobody differs");
        if outputs.published {
            let revision = life.group.state().revision;
            let previous = std::mem::replace(&mut life.delivered, revision);
            assert!(previous <= revision, "the revision of {id} went back");
            life.hub.deliver(previous, &events.into(), revision);
            self.invariants.check_published(id, life);
        }
        self.tell_sums(id, &outputs.sums);
        for to in outputs.images_wanted {
            self.make_image(id, to);
        }
        for (to, message) in outputs.send {
            self.send_raft(id, life_number, to.0, message);
        }
        for forward in outputs.forward {
            self.send(id, forward.leader.0, Packet::Forward(forward.payload));
        }
        for answer in outputs.answers {
            self.answered(answer.request_id, answer.outcome);
        }
        for read in outputs.reads {
            self.read_ready(id, read.request_id, read.outcome);
        }
        for kept in outputs.kept_alive {
            self.kept_alive(kept.request_id, kept.outcome);
        }
        self.serve_watches(id, life_number);
        if let Some(metadata) = outputs.install {
            self.trace(|| format!("{id} goes on with the image up to {}", metadata.index));
            self.tally.images += 1;
            // The log has said that the old state is void; the power may fail before the new file has its name, or at once
            // after it has.
            let fails = self.random.below(6);
            if fails == 0 {
                self.crash(id, true);
            } else {
                self.nodes.get_mut(&id).expect("it is up").switch(metadata.index.0);
                self.member_went_down(id);
                if fails == 1 {
                    self.crash(id, true);
                }
            }
            self.start(id);
        }
        if outputs.removed {
            self.trace(|| format!("{id} was removed"));
            self.nodes.remove(&id);
            self.member_went_down(id);
        }
        is_quiet
    }

    /// To whoever leads, at once.
    fn tell_sums(&mut self, id: u64, sums: &[Sum]) {
        let now = self.time();
        let leader = self.leader().filter(|leader| *leader != id && !self.cut.contains(&(id, *leader)));
        let Some(node) = leader.and_then(|leader| self.nodes.get_mut(&leader)).filter(|node| node.is_up()) else {
            return;
        };
        let now = node.boottime(now);
        let Some(life) = &mut node.life else { return };
        sums.iter().for_each(|sum| life.group.hear_sum(now, NodeId(id), *sum));
    }

    fn make_image(&mut self, from: u64, to: NodeId) {
        let Some(life) = self.nodes.get_mut(&from).and_then(|node| node.life.as_mut()) else { return };
        let (index, image) = life.image(from);
        match life.group.image_metadata(index) {
            Some(metadata) => life.group.send_image(to, metadata),
            None => life.group.report_image(to, false),
        }
        self.images.insert((from, to.0), (index, Rc::new(image)));
    }

    fn send_raft(&mut self, from: u64, life: u64, to: u64, message: Message) {
        let Body::Snapshot(snapshot) = &message.body else { return self.send(from, to, Packet::Raft(message)) };
        let covers = snapshot.metadata.index.0;
        let Some((index, image)) = self.images.remove(&(from, to)).filter(|(index, _)| *index == covers) else {
            return;
        };
        let is_lost = self.cut.contains(&(from, to)) || self.random.chance(self.weather.lost);
        let transfer = 20_000 + image.len() as u64 / 50;
        if is_lost {
            self.after(transfer, Event::ImageReport { from, life, to, delivered: false });
        } else {
            self.after(transfer, Event::Deliver { from, to, packet: Packet::Image(message, index, image) });
        }
    }

    fn send(&mut self, from: u64, to: u64, packet: Packet) {
        self.tally.messages += 1;
        let Weather { lost, doubled, delay_us } = self.weather;
        if self.cut.contains(&(from, to)) || self.random.chance(lost) {
            return;
        }
        if self.random.chance(doubled) {
            let again = match &packet {
                Packet::Raft(message) => Some(Packet::Raft(message.clone())),
                // Requests are not repeated: a put would be done twice.
                Packet::Forward(_) | Packet::Image(..) => None,
            };
            if let Some(packet) = again {
                let delay = 100 + self.random.below(delay_us);
                self.after(delay, Event::Deliver { from, to, packet });
            }
        }
        let delay = 100 + self.random.below(delay_us);
        self.after(delay, Event::Deliver { from, to, packet });
    }

    fn deliver(&mut self, from: u64, to: u64, packet: Packet) {
        let sender_life = self.nodes.get(&from).map_or(0, |node| node.lives);
        let now = self.time();
        let node = self.nodes.get_mut(&to).filter(|node| node.life.is_some());
        if let Packet::Image(..) = &packet {
            let delivered = node.is_some();
            self.after(500, Event::ImageReport { from, life: sender_life, to, delivered });
        }
        let Some(node) = self.nodes.get_mut(&to).filter(|node| node.life.is_some()) else { return };
        let now = node.boottime(now);
        let result = match packet {
            Packet::Raft(message) => node.life.as_mut().expect("it is up").group.step(now, NodeId(from), message),
            Packet::Forward(payload) => {
                // Refused: nobody is told, and the caller waits in vain.
                let _ = node.life.as_mut().expect("it is up").group.propose_forwarded(now, &payload);
                Ok(())
            }
            Packet::Image(message, index, image) => {
                let pages = node::restore(to, &image).expect("the image is whole");
                node.image = Some((index, pages));
                node.life.as_mut().expect("it is up").group.step(now, NodeId(from), message)
            }
        };
        match result {
            Ok(()) => self.pump(to),
            Err(error) => panic!("{to} ends by a message of {from}: {error}"),
        }
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

    fn resolve(&self, whom: Whom) -> u64 {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        match whom {
            Whom::Leader => self.leader().unwrap_or(ids[0]),
            Whom::Nth(number) => ids[number as usize % ids.len()],
        }
    }

    fn cut_between(&mut self, ones: &[u64], others: &[u64], both_ways: bool) {
        for one in ones {
            for other in others.iter().filter(|other| *other != one) {
                self.cut.insert((*one, *other));
                if both_ways {
                    self.cut.insert((*other, *one));
                }
            }
        }
        self.tally.partitions += 1;
    }

    fn fault(&mut self, number: usize) {
        let Fault { lasts, kind, .. } = self.faults[number];
        self.trace(|| format!("fault {number}: {kind:?} for {lasts} us"));
        self.tally.faults += 1;
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        match kind {
            Kind::Kill(whom) => {
                let id = self.resolve(whom);
                self.crash(id, false);
                self.after(lasts, Event::Start(id));
            }
            Kind::PowerCut(whom) => {
                let id = self.resolve(whom);
                self.power_fails_soon(&[id], lasts);
            }
            Kind::PowerCutOfAll => self.power_fails_soon(&ids, lasts.min(500_000)),
            Kind::Pause(whom) => {
                let id = self.resolve(whom);
                if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) {
                    node.is_paused = true;
                    self.hit.insert(number, id);
                }
            }
            Kind::SlowDisk(whom, times) => {
                let id = self.resolve(whom);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.slowness = 10 * times;
                    self.hit.insert(number, id);
                }
            }
            Kind::DiskError(whom, of_log) => {
                let id = self.resolve(whom);
                let node = self.nodes.get_mut(&id).expect("a member");
                if node.life.is_some() {
                    self.tally.disk_errors += 1;
                    if of_log {
                        node.log.inject(0, ringstone_wal::disk::sim::Fault::Failed(libc::EIO));
                    } else {
                        node.pages.inject(0, ringstone_pager::disk::Fault::Failed);
                    }
                }
            }
            Kind::Isolate(whom) => self.cut_between(&[self.resolve(whom)], &ids, true),
            Kind::Mute(whom) => self.cut_between(&[self.resolve(whom)], &ids, false),
            Kind::Deaf(whom) => self.cut_between(&ids, &[self.resolve(whom)], false),
            Kind::Bridge(nth) => {
                let mut ids = ids;
                let nth = nth as usize % ids.len();
                ids.rotate_left(nth);
                let (ones, others) = ids[1..].split_at(ids.len() / 2);
                self.cut_between(ones, others, true);
            }
            Kind::Split(nth) => {
                let mut ids = ids;
                let nth = nth as usize % ids.len();
                ids.rotate_left(nth);
                let (ones, others) = ids.split_at(ids.len() / 2);
                self.cut_between(ones, others, true);
            }
            Kind::OneWay(nth) => {
                let (one, other) = (nth as usize % ids.len(), nth as usize / 64 % ids.len());
                self.cut_between(&[ids[one]], &[ids[other]], false);
            }
            Kind::Weather { lost, doubled, delay_ms } => {
                self.weather = Weather { lost, doubled, delay_us: delay_ms * 1000 };
            }
            Kind::Transfer(nth) => {
                let to = ids[nth as usize % ids.len()];
                if let Some(life) = self.leader().and_then(|id| self.nodes.get_mut(&id)?.life.as_mut()) {
                    let _refused_or_not = life.group.transfer_leadership(NodeId(to));
                }
            }
            Kind::Add | Kind::Promote | Kind::Remove(_) => self.change_members(kind),
            Kind::Evict(whom) => {
                let id = self.resolve(whom);
                self.nodes[&id].pages.evict_all();
            }
        }
        self.after(lasts, Event::FaultEnd(number));
    }

    /// Half the time the disks are slow before it: much is on its way to them then, and what was said about it too early
    /// is lost.
    fn power_fails_soon(&mut self, ids: &[u64], down: u64) {
        let slow = if self.random.chance(500) { self.random.between(20_000, 400_000) } else { 0 };
        let times = self.random.between(20, 400);
        for id in ids {
            if let Some(node) = self.nodes.get_mut(id).filter(|_| slow > 0) {
                node.slowness = 10 * times;
            }
            let down = down + self.random.below(200_000);
            self.after(slow, Event::PowerFails(*id, down));
        }
    }

    fn power_fails(&mut self, id: u64, down: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.slowness = 10;
        }
        self.crash(id, true);
        self.after(down, Event::Start(id));
    }

    fn fault_ends(&mut self, number: usize) {
        match self.faults[number].kind {
            Kind::Pause(_) => {
                if let Some(id) = self.hit.remove(&number) {
                    self.resume(id);
                }
            }
            Kind::SlowDisk(..) => {
                let node = self.hit.remove(&number).and_then(|id| self.nodes.get_mut(&id));
                node.into_iter().for_each(|node| node.slowness = 10);
            }
            Kind::Weather { .. } => self.weather = FAIR,
            Kind::Isolate(_) | Kind::Mute(_) | Kind::Deaf(_) | Kind::Bridge(_) | Kind::Split(_) | Kind::OneWay(_) => {
                self.cut.clear();
            }
            _ => {}
        }
    }

    fn resume(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_paused = false;
        }
        for event in self.held.remove(&id).unwrap_or_default() {
            self.after(0, event);
        }
    }

    /// One more fault: whoever leads is gone until another one does.
    pub fn depose(&mut self) {
        if let Some(leader) = self.leader() {
            self.tally.faults += 1;
            self.crash(leader, true);
            self.after(2_500_000, Event::Start(leader));
        }
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.trace(|| "all is well from now on".to_owned());
        self.is_healed = true;
        self.cut.clear();
        self.weather = FAIR;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.resume(id);
            self.nodes.get_mut(&id).expect("a member").slowness = 10;
            self.after(1, Event::Start(id));
        }
    }

    /// A member that joins is started when it is added.
    pub fn new_member(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let node = Node::new(id, &mut self.random);
        self.nodes.insert(id, node);
        self.tally.joined += 1;
        self.start(id);
        id
    }
}
