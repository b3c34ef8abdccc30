//! The network: what members say to each other goes as the bytes that they would send, and is lost, late, double, damaged.
//!
//! A damaged message is not taken, for the connection between members authenticates its bytes: here it is only decoded,
//! which must not fail in another way than by an error. A proposal carries a sum of its own, so a damaged one must be
//! refused by the leader, too.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use ringstone_core::entry::caller_of;
use ringstone_core::said::{self, Caller, Said};
use ringstone_raft::wire::Limits;
use ringstone_raft::{Body, Message, NodeId};

use super::faults::Moment;
use super::node::{self, STRANGER};
use super::world::{Event, World};

/// A group's frame, as bytes.
#[derive(Clone)]
pub struct Frame {
    pub group: u64,
    pub bytes: Bytes,
    pub is_damaged: bool,
}

pub enum Packet {
    Frame(Frame),
    /// Raft's message and the image that it is about, with the index that it covers.
    Image(Frame, u64, Rc<Vec<u8>>),
}

#[derive(Clone, Copy)]
pub struct Weather {
    pub lost: u64,
    pub doubled: u64,
    pub damaged: u64,
    pub delay_us: u64,
}

pub const FAIR: Weather = Weather { lost: 0, doubled: 0, damaged: 0, delay_us: 1500 };

pub struct Network {
    /// From, to; by the fault that cuts them.
    pub cuts: BTreeMap<usize, Vec<(u64, u64)>>,
    pub weather: Weather,
    /// From, to: a delay of its own.
    pub slow: BTreeMap<(u64, u64), u64>,
    limits: Limits,
    scratch: BytesMut,
}

impl Network {
    pub fn new() -> Network {
        let limits = said::limits(1 << 20);
        Network { cuts: BTreeMap::new(), weather: FAIR, slow: BTreeMap::new(), limits, scratch: BytesMut::new() }
    }

    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.values().any(|links| links.contains(&(from, to)))
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
        self.slow.clear();
        self.weather = FAIR;
    }

    pub fn delay(&self, from: u64, to: u64, drawn: u64) -> u64 {
        100 + drawn + self.slow.get(&(from, to)).copied().unwrap_or(0)
    }
}

/// What a message means for those that wait for one like it.
pub fn moment_of(message: &Message) -> Option<Moment> {
    match &message.body {
        Body::VoteResponse { granted: true } => Some(Moment::Grants),
        Body::VoteRequest { .. } => Some(Moment::Campaigns),
        Body::AppendAccepted { .. } => Some(Moment::Accepts),
        Body::Append { entries, .. } if !entries.is_empty() => Some(Moment::Appends),
        Body::TimeoutNow => Some(Moment::HandsOver),
        _ => None,
    }
}

impl World {
    /// On its way from `from` to `to`, whatever becomes of it.
    pub fn say(&mut self, from: u64, to: u64, said: &Said) {
        self.tally.messages += 1;
        let (group, bytes) = said.encode(&mut self.network.scratch);
        if self.quic.is_some() {
            return self.quic_say(from, to, said.lane(), group, bytes);
        }
        let Weather { lost, doubled, damaged, delay_us } = self.network.weather;
        if self.network.is_cut(from, to) || self.random.chance(lost) {
            return;
        }
        // Requests are not repeated: a put would be done twice.
        let may_double = !matches!(said, Said::Proposal(_) | Said::Change(..));
        if may_double && self.random.chance(doubled) {
            // Some of them very late.
            let far = if self.random.chance(200) { 10 } else { 1 };
            let delay = self.network.delay(from, to, self.random.below(delay_us * far));
            let again = Frame { group, bytes: bytes.clone(), is_damaged: false };
            self.after(delay, Event::Deliver { from, to, packet: Packet::Frame(again) });
        }
        let is_damaged = !bytes.is_empty() && self.random.chance(damaged);
        let bytes = if is_damaged { self.damage(&bytes) } else { bytes };
        let delay = self.network.delay(from, to, self.random.below(delay_us));
        let frame = Frame { group, bytes, is_damaged };
        self.after(delay, Event::Deliver { from, to, packet: Packet::Frame(frame) });
    }

    fn damage(&mut self, bytes: &Bytes) -> Bytes {
        self.tally.damaged_messages += 1;
        let mut damaged = bytes.to_vec();
        for _ in 0..self.random.between(1, 3) {
            let at = self.random.below(damaged.len() as u64) as usize;
            damaged[at] ^= 1 << self.random.below(8);
        }
        if damaged == *bytes {
            damaged[0] ^= 1;
        }
        damaged.into()
    }

    /// A message of raft, or the image that it is about.
    pub fn send_raft(&mut self, from: u64, life: u64, to: u64, message: Message) {
        let Body::Snapshot(snapshot) = &message.body else { return self.say(from, to, &Said::Raft(message)) };
        let covers = snapshot.metadata.index.0;
        let Some((index, image)) = self.images.remove(&(from, to)).filter(|(index, _)| *index == covers) else {
            return self.trace(|| format!("{from} has no image up to {covers} for {to}"));
        };
        let (group, bytes) = Said::Raft(message).encode(&mut self.network.scratch);
        let frame = Frame { group, bytes, is_damaged: false };
        if self.quic.is_some() {
            return self.quic_image(from, to, &frame, index, &image);
        }
        let is_lost = self.network.is_cut(from, to) || self.random.chance(self.network.weather.lost);
        let transfer = 20_000 + image.len() as u64 / 50;
        if is_lost {
            self.after(transfer, Event::ImageReport { from, life, to, delivered: false });
        } else {
            self.after(transfer, Event::Deliver { from, to, packet: Packet::Image(frame, index, image) });
        }
    }

    pub fn deliver(&mut self, from: u64, to: u64, packet: Packet) {
        match packet {
            Packet::Frame(frame) => self.deliver_frame(from, to, frame),
            Packet::Image(frame, index, image) => self.deliver_image(from, to, frame, (index, &image)),
        }
    }

    fn deliver_image(&mut self, from: u64, to: u64, frame: Frame, image: (u64, &[u8])) {
        let life = self.nodes.get(&from).map_or(0, |node| node.lives);
        let (index, delivered) = (image.0, self.take_image(from, to, frame, image));
        self.trace(|| format!("the image of {from} up to {index} is at {to}, is taken: {delivered}"));
        self.after(500, Event::ImageReport { from, life, to, delivered });
    }

    /// Raft's message is stepped once the image is there, as the shard does it. False: nobody is there, or takes one now.
    pub fn take_image(&mut self, from: u64, to: u64, frame: Frame, (index, image): (u64, &[u8])) -> bool {
        let Some(node) = self.nodes.get_mut(&to).filter(|node| node.takes_image()) else { return false };
        match node::restore(to, image) {
            Ok(pages) => node.image = Some((index, pages)),
            Err(error) => {
                // A page of its sender's is one that was there before: only whoever reads what refers to it sees that.
                self.trace(|| format!("{to} does not take the state of {from}: {error}"));
                let damage = self.nodes.get(&from).and_then(|node| node.life.as_ref()?.image(from).err());
                let damage = damage.expect("the sender has damage, or the image is whole");
                self.refuse(from, &damage.to_string());
                return false;
            }
        }
        self.deliver_frame(from, to, frame);
        true
    }

    pub fn deliver_frame(&mut self, from: u64, to: u64, frame: Frame) {
        let now = self.time();
        let Some(node) = self.nodes.get_mut(&to).filter(|node| node.life.is_some()) else { return };
        let now = node.boottime(now);
        let life = node.life.as_mut().expect("it is up");
        let said = Said::decode(frame.group, frame.bytes, &self.network.limits);
        if frame.is_damaged {
            if let Ok(Said::Proposal(payload)) = said {
                let taken = life.group.propose_forwarded(now, &payload);
                assert!(taken.is_err(), "{to} takes a damaged proposal of {from}");
            }
            return;
        }
        match said.unwrap_or_else(|error| panic!("{to} does not understand {from}: {error}")) {
            Said::Raft(message) => {
                if let Err(error) = life.group.step(now, NodeId(from), message) {
                    panic!("{to} ends by a message of {from}: {error}");
                }
            }
            Said::Proposal(payload) => {
                if let (Err(error), Some((shard, request_id))) =
                    (life.group.propose_forwarded(now, &payload), caller_of(&payload))
                {
                    return self.say(to, from, &Said::NotTaken(Caller { shard, request_id }, error.told()));
                }
            }
            Said::NotTaken(caller, error) => life.group.forward_refused((caller.shard, caller.request_id), error),
            Said::KeepAlives(items) => {
                for (caller, lease) in items {
                    let number = life.stranger(from, caller);
                    if let Err(error) = life.group.keep_alive(now, STRANGER, number, lease) {
                        return self.failed(to, &error);
                    }
                }
            }
            Said::KeptAlive(items) => {
                for (caller, ttl_s) in items {
                    life.group.told_kept_alive((caller.shard, caller.request_id), ttl_s);
                }
            }
            Said::Sum(sum) => life.group.hear_sum(now, NodeId(from), sum),
            Said::Change(caller, change) => {
                let number = life.stranger(from, caller);
                if let Err(error) = life.group.change_members(now, &change, STRANGER, number) {
                    return self.failed(to, &error);
                }
            }
            Said::Changed(caller, outcome) => life.group.told_changed((caller.shard, caller.request_id), outcome),
            other => panic!("nobody says this here: {other:?}"),
        }
        self.pump(to);
    }

    /// Answers what another member asked for.
    pub fn answer_stranger(&mut self, id: u64, number: u64, said: impl FnOnce(Caller) -> Said) {
        let life = self.nodes.get_mut(&id).and_then(|node| node.life.as_mut());
        if let Some((to, caller)) = life.and_then(|life| life.strangers.remove(&number)) {
            self.say(id, to, &said(caller));
        }
    }
}
