//! Holders of leases: what they are promised, and that it is kept.
//!
//! A holder asks the member that it is connected to, whatever that member believes to be; a follower passes it on. So a
//! leader that nobody follows any more is asked, too: nothing that is over may be kept alive by it.

use ringstone_core::error::Error;
use ringstone_core::group::Ask;

use super::clients::{Clients, Pending};
use super::faults::DRIFT_PERCENT_MAX;
use super::history::Request;
use super::random::Random;
use super::world::{Event, World};

/// What is never deleted but by its lease.
pub const LEASED: &[u8] = b"lease/";

/// A lease clock counts a jump of its machine's clock for that much at most (`lease::lessor::STEP_MS_MAX`).
const GAP_US_MAX: u64 = 500_000;

pub struct Lease {
    ttl_us: u64,
    /// When its holder last asked for what was then granted.
    held_since: u64,
    pub is_granted: bool,
    pub may_be_revoked: bool,
    keep_alives_left: u64,
    /// When somebody was told, or could see, that it is no more.
    gone_since: Option<u64>,
}

impl Lease {
    pub fn new(ttl_us: u64, held_since: u64, keep_alives_left: u64) -> Lease {
        Lease { ttl_us, held_since, is_granted: false, may_be_revoked: false, keep_alives_left, gone_since: None }
    }

    pub fn is_gone(&mut self, now: u64) {
        self.is_granted = false;
        self.gone_since.get_or_insert(now);
    }
}

impl Clients {
    /// Leases whose holders are gone, and that have not ended.
    pub fn leases_due(&self, now: u64) -> Vec<i64> {
        let is_due = |lease: &Lease| lease.is_granted && lease.held_since + lease.ttl_us < now;
        self.leases.iter().filter(|(_, lease)| is_due(lease)).map(|(id, _)| *id).collect()
    }

    pub fn any_lease(&self, random: &mut Random) -> Option<i64> {
        let alive: Vec<i64> = self.leases.iter().filter(|(_, lease)| lease.is_granted).map(|(id, _)| *id).collect();
        let recent = &alive[alive.len().saturating_sub(6)..];
        (!recent.is_empty()).then(|| recent[random.below(recent.len() as u64) as usize])
    }
}

impl World {
    /// A holder that keeps its lease for a while.
    pub fn keep_alive(&mut self, client: usize, lease: i64) {
        if self.clients.is_stopped {
            return;
        }
        let member = self.clients.at[client];
        let Some(state) = self.clients.leases.get_mut(&lease).filter(|state| state.keep_alives_left > 0) else {
            return;
        };
        state.keep_alives_left -= 1;
        let call = self.clients.next_call;
        self.clients.next_call += 1;
        let now = self.time();
        let Some(node) = self.nodes.get_mut(&member).filter(|node| node.is_up()) else {
            return self.after(100_000, Event::Keep(client, lease));
        };
        let request = Request::Grant { id: lease };
        let pending = Pending { client, member, called: self.now, request, keeps: Some(lease) };
        self.clients.pending.insert(call, pending);
        let now = node.boottime(now);
        let life = node.life.as_mut().expect("it is up");
        if let Err(error) = life.group.ask(now, 0, call, Ask::KeepAlive(lease)) {
            return self.failed(member, &error);
        }
        self.pump(member);
        // Whatever becomes of this one.
        let delay = self.random.between(20_000, 900_000);
        self.after(delay, Event::Keep(client, lease));
    }

    pub fn kept_alive(&mut self, call: u64, outcome: Result<i64, Error>) {
        let Some(Pending { called, keeps: Some(id), .. }) = self.clients.pending.remove(&call) else { return };
        let lease = self.clients.leases.get_mut(&id).expect("granted");
        match outcome {
            Ok(0) => lease.is_gone(self.now),
            Ok(_) => {
                let gone = lease.gone_since.filter(|gone| *gone < called);
                assert_eq!(gone, None, "lease {id} was gone, and kept alive by a request of {called} us");
                lease.held_since = lease.held_since.max(called);
                self.clients.kept_alive += 1;
            }
            Err(_) => {}
        }
    }

    /// A key of a lease was deleted: that can be seen from now on.
    pub fn note_ended(&mut self, id: i64) {
        self.clients.leases.get_mut(&id).into_iter().for_each(|lease| lease.is_gone(self.now));
    }

    /// Nothing that its lease holds goes before the lease may end.
    pub fn check_leases(&self) {
        for (revision, changes) in &self.invariants.changes {
            for id in changes.iter().filter(|change| change.value.is_none()).filter_map(|change| lease_of(&change.key))
            {
                let lease = &self.clients.leases[&id];
                let ended = self.invariants.first_seen[revision];
                let within = |at: &&u64| (lease.held_since..=ended).contains(*at);
                let jumped = self.clients.gaps.iter().filter(within).count() as u64 * GAP_US_MAX;
                let shortest = lease.ttl_us * 100 / (100 + DRIFT_PERCENT_MAX);
                let least = (lease.held_since + shortest).saturating_sub(jumped);
                assert!(
                    lease.may_be_revoked || ended >= least,
                    "lease {id} was held until {least} us and ended at {ended} us, revision {revision}"
                );
            }
        }
    }

    pub fn leases_alive(&self, member: u64) -> Vec<i64> {
        let Some(life) = &self.nodes[&member].life else { return vec![] };
        let is_alive = |id: &i64| life.read(|pin, _| ringstone_core::lease::state::exists(pin, *id)).unwrap_or(false);
        self.clients.leases.keys().copied().filter(is_alive).collect()
    }
}

/// The lease that a key is named after.
pub fn lease_of(key: &[u8]) -> Option<i64> {
    String::from_utf8_lossy(key.strip_prefix(LEASED)?).parse().ok()
}
