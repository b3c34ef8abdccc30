//! Clients: what they ask for, of whom, and what they make of the answers.

use std::collections::BTreeMap;

use ringstone_core::command::{Command, Compare, DeleteRange, Op, Operand, Put, Range, Txn};
use ringstone_core::entry::{Draft, Envelope};
use ringstone_core::error::Error;
use ringstone_core::group::{Proposal, Reply};
use ringstone_core::mvcc::Answer;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::mvccpb::KeyValue;

use super::faults::{Plan, Theme};
use super::history::{Call, History, Outcome, Request, Seen};
use super::leases::{LEASED, Lease};
use super::operator::ADMIN;
use super::random::Random;
use super::watches::Watch;
use super::world::{Event, World};

const CLIENTS: usize = 12;
const TIMEOUT_US: u64 = 2_000_000;
/// Asks much at once, and does nothing with the answers.
const FLOODER: usize = usize::MAX;

pub struct Pending {
    pub client: usize,
    pub member: u64,
    pub called: u64,
    pub request: Request,
    /// A keep-alive of this lease.
    pub keeps: Option<i64>,
}

pub struct Clients {
    pub next_call: u64,
    pub pending: BTreeMap<u64, Pending>,
    pub at: Vec<u64>,
    seen: BTreeMap<Vec<u8>, i64>,
    pub leases: BTreeMap<i64, Lease>,
    /// When clocks jumped ahead.
    pub gaps: Vec<u64>,
    think_us: u64,
    large_per_mille: u64,
    more_revokes_per_mille: u64,
    pub history: History,
    pub watches: Vec<Watch>,
    pub kept_alive: u64,
    pub is_stopped: bool,
}

impl Clients {
    pub fn new(random: &mut Random, plan: &Plan) -> Clients {
        let watch = |key: &[u8], range_end: &[u8]| Watch::new(key, range_end);
        Clients {
            next_call: 1,
            pending: BTreeMap::new(),
            at: (0..CLIENTS as u64).map(|client| 1 + client % 3).collect(),
            seen: BTreeMap::new(),
            leases: BTreeMap::new(),
            gaps: Vec::new(),
            large_per_mille: plan.large_per_mille,
            more_revokes_per_mille: if plan.theme == Theme::Leases { 50 } else { 0 },
            think_us: random.between(80_000, 160_000),
            history: History::default(),
            watches: vec![watch(b"k", b"l"), watch(b"k3", b"k4"), watch(b"a", b"z"), watch(LEASED, b"lease0")],
            kept_alive: 0,
            is_stopped: false,
        }
    }

    pub fn count(&self) -> usize {
        CLIENTS
    }

    pub fn calls(&self) -> u64 {
        self.history.calls.len() as u64
    }

    pub fn answered(&self) -> usize {
        self.history.calls.iter().filter(|call| call.outcome.revision().is_some()).count()
    }

    fn next_request(&mut self, random: &mut Random) -> Request {
        let key = format!("k{}", random.below(8)).into_bytes();
        let mut value = format!("v{}", self.next_call).into_bytes();
        if random.chance(self.large_per_mille) {
            value.resize(value.len() + random.between(2 << 10, 12 << 10) as usize, b'.');
        }
        if random.chance(self.more_revokes_per_mille)
            && let Some(id) = self.any_lease(random)
        {
            return Request::Revoke { id };
        }
        match random.below(100) {
            0..30 => Request::Put { key, value, lease: 0 },
            30..50 => Request::Range { key, range_end: vec![], serializable: false },
            50..58 => Request::Range { key, range_end: vec![], serializable: true },
            58..64 => Request::Range { key: b"k".to_vec(), range_end: b"l".to_vec(), serializable: random.chance(300) },
            64..82 => {
                let mod_revision = self.seen.get(&key).copied().unwrap_or(0);
                Request::Txn { key, mod_revision, value }
            }
            82..87 => Request::Delete { key, range_end: vec![] },
            87..89 => Request::Delete { key: b"k5".to_vec(), range_end: b"k8".to_vec() },
            89..91 => {
                let newest = self.history.calls.iter().rev().find_map(|call| call.outcome.revision()).unwrap_or(2);
                Request::Compact { revision: newest - random.between(0, 60) as i64 }
            }
            91..95 => Request::Grant { id: self.next_call as i64 },
            95..96 => match self.any_lease(random) {
                Some(id) => Request::Revoke { id },
                None => Request::Put { key, value, lease: 0 },
            },
            _ => match self.any_lease(random) {
                Some(lease) => Request::Put { key: [LEASED, lease.to_string().as_bytes()].concat(), value, lease },
                None => Request::Put { key, value, lease: 0 },
            },
        }
    }

    fn command(request: &Request, ttl_s: i64) -> Option<Command> {
        Some(match request.clone() {
            Request::Put { key, value, lease } => Command::Put(Put { key, value, lease, ..Put::default() }),
            Request::Delete { key, range_end } => {
                Command::DeleteRange(DeleteRange { key, range_end, ..DeleteRange::default() })
            }
            Request::Txn { key, mod_revision, value } => Command::Txn(Txn {
                compare: vec![Compare {
                    result: 0,
                    key: key.clone(),
                    range_end: vec![],
                    operand: Operand::Mod(mod_revision),
                }],
                success: vec![Op::Put(Put { key: key.clone(), value, ..Put::default() })],
                failure: vec![Op::Range(Range { key, ..Range::default() })],
            }),
            Request::Compact { revision } => Command::Compact { revision },
            Request::Grant { id } => Command::LeaseGrant { id, ttl_s },
            Request::Revoke { id } => Command::LeaseRevoke { id, expired_renewal: None },
            Request::Range { .. } => return None,
        })
    }
}

fn seen(kv: &KeyValue) -> Seen {
    Seen {
        key: kv.key.to_vec(),
        value: kv.value.to_vec(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// Errors that apply gives are answers; others say whether the request can still come about.
fn outcome_of(answer: Result<Reply, Error>, is_revoke: bool) -> Outcome {
    let revision = |header: &Option<ringstone_proto::etcdserverpb::ResponseHeader>| {
        header.as_ref().expect("an answer has a header").revision
    };
    match answer {
        Ok(Reply::Store(Answer::Put(put))) => Outcome::Put { revision: revision(&put.header) },
        Ok(Reply::Store(Answer::DeleteRange(delete))) => {
            Outcome::Deleted { revision: revision(&delete.header), deleted: delete.deleted }
        }
        Ok(Reply::Store(Answer::Txn(txn))) => {
            let found = txn.responses.iter().filter_map(|op| match &op.response {
                Some(Response::ResponseRange(range)) => Some(range.kvs.iter().map(seen).collect::<Vec<_>>()),
                _ => None,
            });
            Outcome::Txn { revision: revision(&txn.header), succeeded: txn.succeeded, seen: found.flatten().collect() }
        }
        Ok(Reply::Store(Answer::Compact(compact))) => Outcome::Done { revision: revision(&compact.header) },
        Ok(Reply::Store(Answer::LeaseRevoke(revoke))) => Outcome::Done { revision: revision(&revoke.header) },
        // It is gone, whoever has ended it.
        Err(Error::LeaseNotFound) if is_revoke => Outcome::Gone,
        Ok(Reply::LeaseGrant(grant)) => Outcome::Done { revision: revision(&grant.header) },
        Ok(Reply::Alarm(_) | Reply::Done) => Outcome::Refused("an answer to something else".to_owned()),
        Err(Error::Timeout | Error::TimeoutLeaderFailure) => Outcome::Unknown,
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

impl World {
    pub fn client_acts(&mut self, client: usize) {
        if self.clients.is_stopped {
            return;
        }
        let member = self.clients.at[client];
        if self.nodes.get(&member).is_none_or(|node| node.life.is_none()) {
            self.go_elsewhere(client);
            return self.after(20_000, Event::Client(client));
        }
        let call = self.clients.next_call;
        self.clients.next_call += 1;
        let request = self.clients.next_request(&mut self.random);
        let pending = Pending { client, member, called: self.now, request: request.clone(), keeps: None };
        self.clients.pending.insert(call, pending);
        self.after(TIMEOUT_US, Event::Timeout(call));
        if !self.nodes[&member].is_paused {
            self.ask(call, member, &request);
        }
    }

    fn ask(&mut self, call: u64, member: u64, request: &Request) {
        let ttl_s = self.random.between(2, 4) as i64;
        let now = self.time();
        let node = self.nodes.get_mut(&member).expect("it is up");
        let now = node.boottime(now);
        let life = node.life.as_mut().expect("it is up");
        match request {
            Request::Range { serializable: true, .. } => return self.complete_read(member, call),
            Request::Range { .. } => life.group.read_index(now, 0, call),
            Request::Grant { id } => {
                let (ttl_us, held_since) = (ttl_s as u64 * 1_000_000, self.now);
                let lease = Lease::new(ttl_us, held_since, self.random.below(25));
                self.clients.leases.insert(*id, lease);
            }
            Request::Revoke { id } => {
                self.clients.leases.get_mut(id).into_iter().for_each(|lease| lease.may_be_revoked = true);
            }
            _ => {}
        }
        if let Some(command) = Clients::command(request, ttl_s) {
            let life = self.nodes.get_mut(&member).and_then(|node| node.life.as_mut()).expect("it is up");
            let envelope = Envelope { proposer: member, request_id: call, ..Envelope::default() };
            let draft = Draft::new(&envelope, &command);
            life.group.propose(now, vec![Proposal { draft, shard: 0, request_id: call }]);
        }
        self.pump(member);
    }

    fn complete_read(&mut self, member: u64, call: u64) {
        let Some(life) = self.nodes.get(&member).and_then(|node| node.life.as_ref()) else { return };
        let Some(Request::Range { key, range_end, .. }) = self.clients.pending.get(&call).map(|call| &call.request)
        else {
            return;
        };
        match life.range(key, range_end) {
            Ok((revision, kvs)) => {
                self.complete(call, Outcome::Range { revision, seen: kvs.iter().map(seen).collect() });
            }
            Err(damage) => self.refuse(member, &damage.to_string()),
        }
    }

    pub fn read_ready(&mut self, member: u64, call: u64, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => self.complete_read(member, call),
            Err(error) => self.complete(call, Outcome::Refused(error.to_string())),
        }
    }

    pub fn answered(&mut self, call: u64, answer: Result<Reply, Error>) {
        if call >= ADMIN {
            return self.changed(call, &answer.map(drop));
        }
        let is_revoke = |call: &Pending| matches!(call.request, Request::Revoke { .. });
        let is_revoke = self.clients.pending.get(&call).is_some_and(is_revoke);
        self.complete(call, outcome_of(answer, is_revoke));
    }

    /// So many puts at once, of which it is not waited for the end.
    pub fn flood(&mut self, member: u64, puts: u64) {
        for _ in 0..puts {
            let call = self.clients.next_call;
            self.clients.next_call += 1;
            let key = format!("k{}", self.random.below(8)).into_bytes();
            let request = Request::Put { key, value: format!("v{}", self.clients.next_call).into_bytes(), lease: 0 };
            let pending = Pending { client: FLOODER, member, called: self.now, request: request.clone(), keeps: None };
            self.clients.pending.insert(call, pending);
            self.after(TIMEOUT_US, Event::Timeout(call));
            if self.nodes.get(&member).is_some_and(|node| node.is_up()) {
                self.ask(call, member, &request);
            }
        }
    }

    fn go_elsewhere(&mut self, client: usize) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        self.clients.at[client] = ids[self.random.below(ids.len() as u64) as usize];
    }

    pub fn call_timed_out(&mut self, call: u64) {
        if self.clients.pending.contains_key(&call) {
            self.complete(call, Outcome::Unknown);
        }
    }

    fn complete(&mut self, call: u64, outcome: Outcome) {
        let Some(Pending { client, called, request, keeps, .. }) = self.clients.pending.remove(&call) else { return };
        if keeps.is_some() {
            return;
        }
        match (&request, &outcome) {
            (Request::Grant { id }, Outcome::Done { .. }) => {
                self.clients.leases.get_mut(id).expect("asked for").is_granted = true;
                self.keep_alive(client, *id);
            }
            (Request::Revoke { id }, Outcome::Done { .. } | Outcome::Gone) => {
                self.clients.leases.get_mut(id).into_iter().for_each(|lease| lease.is_gone(self.now));
            }
            _ => {}
        }
        match (&request, &outcome) {
            (Request::Put { key, .. }, Outcome::Put { revision })
            | (Request::Txn { key, .. }, Outcome::Txn { revision, succeeded: true, .. }) => {
                self.clients.seen.insert(key.clone(), *revision);
            }
            (_, Outcome::Range { seen, .. } | Outcome::Txn { seen, .. }) => {
                self.clients.seen.extend(seen.iter().map(|seen| (seen.key.clone(), seen.mod_revision)));
            }
            _ => {}
        }
        let is_trouble = matches!(outcome, Outcome::Unknown | Outcome::Refused(_));
        self.clients.history.calls.push(Call { called, returned: self.now, request, outcome });
        if client == FLOODER {
            return;
        }
        if is_trouble && self.random.chance(500) {
            self.go_elsewhere(client);
        }
        let think = self.random.below(2 * self.clients.think_us) + if is_trouble { 50_000 } else { 0 };
        self.after(think, Event::Client(client));
    }

    /// The process that clients talked to is gone.
    pub fn member_went_down(&mut self, id: u64) {
        self.close_host(id);
        let lost: Vec<u64> =
            self.clients.pending.iter().filter(|(_, call)| call.member == id).map(|(call, _)| *call).collect();
        lost.into_iter().for_each(|call| self.complete(call, Outcome::Unknown));
        let watches = self.clients.watches.iter_mut().filter(|watch| watch.at.is_some_and(|(at, _)| at == id));
        watches.for_each(|watch| watch.at = None);
    }

    pub fn connect_watches(&mut self) {
        if self.clients.watches.iter().all(|watch| watch.at.is_some_and(|(id, _)| !self.is_gone(id))) {
            return;
        }
        let ids = self.reachable();
        if ids.is_empty() {
            return;
        }
        for watch in &mut self.clients.watches {
            watch.at.take_if(|(id, _)| !ids.contains(id));
        }
        for watch in self.clients.watches.iter_mut().filter(|watch| watch.at.is_none()) {
            let id = ids[self.random.below(ids.len() as u64) as usize];
            let node = self.nodes.get_mut(&id).expect("it is up");
            let number = node.lives;
            watch.connect(id, number, node.life.as_mut().expect("it is up"), self.now / 1000);
        }
    }

    /// No member any more: it may not know, and tells nothing new.
    fn is_gone(&self, id: u64) -> bool {
        self.is_healed && !self.configured().contains(&id)
    }

    pub fn serve_watches(&mut self, id: u64, life_number: u64) {
        let Some(life) = self.nodes.get_mut(&id).and_then(|node| node.life.as_mut()) else { return };
        for watch in self.clients.watches.iter_mut().filter(|watch| watch.at == Some((id, life_number))) {
            if let Err(damage) = watch.take(life) {
                return self.refuse(id, &damage.to_string());
            }
        }
    }
}
