//! In some of the histories what members say goes over QUIC: quinn-proto on simulated UDP and the simulated clock.
//!
//! The network loses, doubles, delays, reorders and damages *datagrams* then, and drops those that are longer than its path
//! takes. A member that starts again is another process, with connections of its own.

mod crypto;
mod host;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes};
use ringstone_core::said::Lane;
use ringstone_raft::NodeId;

use super::network::{Frame, Weather};
use super::node::CLUSTER;
use super::random::Random;
use super::world::{Event, World};
use host::{Heard, Host};

/// The longest datagram of a path, by seed: from the least that QUIC may count on.
const PATH_BYTES: (u64, u64) = (1200, 1500);

pub struct Quic {
    /// The moment that the simulated clock counts from.
    base: Instant,
    hosts: BTreeMap<u64, Host>,
    /// When each host is looked at next.
    armed: BTreeMap<u64, u64>,
    path_bytes: u64,
}

impl Quic {
    pub fn new(random: &mut Random) -> Quic {
        let path_bytes = random.between(PATH_BYTES.0, PATH_BYTES.1);
        Quic { base: Instant::now(), hosts: BTreeMap::new(), armed: BTreeMap::new(), path_bytes }
    }
}

impl World {
    fn instant(&self) -> Instant {
        self.quic.as_ref().map_or_else(Instant::now, |quic| quic.base + Duration::from_micros(self.now))
    }

    fn host(&mut self, id: u64) -> Option<&mut Host> {
        self.quic.as_mut()?.hosts.get_mut(&id)
    }

    /// A process begins.
    pub fn open_host(&mut self, id: u64, life: u64) {
        let secret = self.random.next();
        let Some(quic) = &mut self.quic else { return };
        quic.hosts.insert(id, Host::new(id, CLUSTER, life, secret));
        quic.armed.remove(&id);
        self.after(1000, Event::Dial(id, life));
    }

    /// It has ended.
    pub fn close_host(&mut self, id: u64) {
        if let Some(quic) = &mut self.quic {
            quic.hosts.remove(&id);
            quic.armed.remove(&id);
        }
    }

    /// It looks for members that it is not connected to.
    pub fn dial(&mut self, id: u64, life: u64) {
        if self.nodes.get(&id).is_none_or(|node| node.lives != life) {
            return;
        }
        let now = self.instant();
        let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        let Some(host) = self.host(id) else { return };
        others.into_iter().for_each(|other| host.dial(now, other));
        let again = self.random.between(50_000, 400_000);
        self.after(again, Event::Dial(id, life));
        self.settle(id);
    }

    pub fn quic_say(&mut self, from: u64, to: u64, lane: Lane, group: u64, bytes: Bytes) {
        let now = self.instant();
        if let Some(host) = self.host(from) {
            host.send(now, to, lane, group, bytes);
            self.transmit(from);
        }
    }

    /// Raft's message and the image on one stream: the message counts once all of it is there.
    pub fn quic_image(&mut self, from: u64, to: u64, frame: &Frame, index: u64, image: &[u8]) {
        let now = self.instant();
        let mut bytes = Vec::with_capacity(image.len() + frame.bytes.len() + 20);
        bytes.put_u64_le(frame.group);
        bytes.put_u64_le(index);
        bytes.put_u32_le(frame.bytes.len() as u32);
        bytes.put_slice(&frame.bytes);
        bytes.put_slice(image);
        if let Some(host) = self.host(from) {
            host.send_image(now, to, bytes);
            self.transmit(from);
        }
    }

    pub fn datagram(&mut self, from: u64, to: u64, bytes: &[u8]) {
        let now = self.instant();
        if let Some(host) = self.host(to) {
            host.receive(now, from, bytes);
            self.settle(to);
        }
    }

    pub fn quic_timer(&mut self, id: u64, life: u64) {
        if self.nodes.get(&id).is_none_or(|node| node.lives != life) {
            return;
        }
        let now = self.instant();
        if let Some(quic) = &mut self.quic {
            quic.armed.remove(&id);
        }
        if let Some(host) = self.host(id) {
            host.handle_timeout(now);
            self.settle(id);
        }
    }

    /// What the host wants to send goes out.
    fn transmit(&mut self, id: u64) {
        let Some(host) = self.host(id) else { return };
        let datagrams = std::mem::take(&mut host.datagrams);
        for (to, datagram) in datagrams {
            self.send_datagram(id, to, datagram);
        }
        self.arm(id);
    }

    /// The same, and what it has heard is taken: not while the member is busy with what it says.
    fn settle(&mut self, id: u64) {
        self.transmit(id);
        let life = self.nodes.get(&id).map_or(0, |node| node.lives);
        // A process that ends by what it hears hears no more.
        while self.nodes.get(&id).is_some_and(|node| node.lives == life)
            && let Some(heard) = self.host(id).and_then(|host| host.heard.pop_front())
        {
            self.hear(id, heard);
        }
    }

    fn arm(&mut self, id: u64) {
        let Some(life) = self.nodes.get(&id).map(|node| node.lives) else { return };
        let Some(quic) = &mut self.quic else { return };
        let Some(due) = quic.hosts.get_mut(&id).and_then(Host::timeout) else { return };
        // Rounded up: a timer is never early.
        let at = due.saturating_duration_since(quic.base).as_micros() as u64 + 1;
        if quic.armed.get(&id).is_none_or(|armed| at < *armed) {
            quic.armed.insert(id, at);
            self.at(at, Event::QuicTimer(id, life));
        }
    }

    fn hear(&mut self, id: u64, heard: Heard) {
        match heard {
            Heard::Frame(from, frame) => {
                let frame = Frame { group: frame.group, bytes: frame.payload, is_damaged: false };
                self.deliver_frame(from, id, frame);
            }
            Heard::Image(from, bytes) => {
                let mut bytes = Bytes::from(bytes);
                let (group, index) = (bytes.get_u64_le(), bytes.get_u64_le());
                let length = bytes.get_u32_le() as usize;
                let frame = Frame { group, bytes: bytes.split_to(length), is_damaged: false };
                self.take_image(from, id, frame, (index, &bytes));
            }
            Heard::ImageSent(to, delivered) => {
                self.trace(|| format!("{id} hears that {to} has its image: {delivered}"));
                let life = self.nodes.get(&id).map_or(0, |node| node.lives);
                self.after(0, Event::ImageReport { from: id, life, to, delivered });
            }
            Heard::Lost(other) => {
                self.trace(|| format!("{id} has lost its connection to {other}"));
                if let Some(life) = self.nodes.get_mut(&id).and_then(|node| node.life.as_mut()) {
                    life.group.report_lost(NodeId(other));
                }
                self.pump(id);
            }
        }
    }

    fn send_datagram(&mut self, from: u64, to: u64, mut bytes: Vec<u8>) {
        self.tally.datagrams += 1;
        let Weather { lost, doubled, damaged, delay_us } = self.network.weather;
        let is_long = self.quic.as_ref().is_some_and(|quic| bytes.len() as u64 > quic.path_bytes);
        if is_long || self.network.is_cut(from, to) || self.random.chance(lost) {
            return;
        }
        if self.random.chance(doubled) {
            let delay = self.network.delay(from, to, self.random.below(delay_us * 3));
            self.after(delay, Event::Datagram { from, to, bytes: bytes.clone() });
        }
        if self.random.chance(damaged) {
            self.tally.damaged_messages += 1;
            let at = self.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
        let delay = self.network.delay(from, to, self.random.below(delay_us));
        self.after(delay, Event::Datagram { from, to, bytes });
    }
}
