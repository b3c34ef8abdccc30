//! The leader's side of leases: moves the lease clock, renews, and proposes what has expired.
//!
//! A wrong answer here costs: a lease ended too early is a lock held twice; too late, a lock that nobody can take. What
//! keeps the first from happening, whatever stalls, dies or is cut off:
//! - The lease clock runs only while a quorum has proven this leadership ([`Lessor::proven`]), and by at most
//!   [`STEP_MS_MAX`] between two looks at the time. A leader that was stopped for an hour wakes up at most that much
//!   later, and the keep-alives that piled up meanwhile are read before anything expires.
//! - A keep-alive is answered at once only if the deadline that is already agreed on covers it (the slack of `state`);
//!   else when its renewal was applied. So no answer is lost with a leader.
//! - An expiry is a proposal that names the renewal it was decided on; apply checks that and the deadline again.
//!
//! And the second: the clock is logged at least every [`CLOCK_LOGGED_MS`] while there are leases, so that the next leader
//! (or this one after a restart) goes on from there: a lease outlives its TTL by the outage and these two seconds.
//!
//! The index of deadlines in the trees is the timer wheel: only what is due is ever loaded. Time comes in as
//! CLOCK_BOOTTIME; nothing here does I/O. Verbs: the group calls [`Lessor::leadership`], [`Lessor::caught_up`],
//! [`Lessor::proven`], [`Lessor::observed`], [`Lessor::granted`], [`Lessor::renewed`], [`Lessor::revoked`],
//! [`Lessor::revoke_refused`]; asks for [`Lessor::clock`] and [`Lessor::poll_proposal`]; brings [`Lessor::keep_alive`]
//! and sends [`Lessor::take_answers`] on.

mod expiry;
mod renewals;

use core::time::Duration;

use ringstone_pager::api::{Access, ReadTrees};

use self::expiry::Expiry;
use self::renewals::Renewals;
use super::state::{self, LeaseTime, TTL_S_MAX};
use crate::command::Command;

/// Most that the lease clock moves between two looks at the time. Ticks come every 100 ms; a longer gap was a stall, in
/// which no keep-alive could be heard.
pub const STEP_MS_MAX: u64 = 500;

/// While there are leases, the log learns the lease clock at least this often.
pub const CLOCK_LOGGED_MS: u64 = 1000;

/// For how long a quorum's word proves leadership unless [`Lessor::set_proof_validity`] says otherwise: half of etcd's
/// default election timeout, five of its heartbeats.
const PROOF_VALIDITY: Duration = Duration::from_millis(500);

/// What to tell a client that asked to keep its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// The TTL of the answer in seconds: the granted one, or 0 for a lease that is gone.
    Ttl(i64),
    /// The answer comes with [`Lessor::take_answers`], under the token given.
    Waits,
    /// Another member leads; ask there.
    NotLeader,
    /// Too many keep-alives wait already.
    TooMany,
}

/// Names a keep-alive that waits; the caller's to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeepAliveToken(pub u64);

/// The TTL that a grant is proposed with: raised to `minimum_s`. None: it is above [`TTL_S_MAX`]
/// ("etcdserver: too large lease TTL").
#[must_use]
pub fn effective_ttl_s(requested_s: i64, minimum_s: i64) -> Option<i64> {
    (requested_s <= TTL_S_MAX).then(|| requested_s.max(minimum_s).max(1))
}

/// A lease id for a grant that names none: positive, not 0.
#[must_use]
pub fn id_from_random(random: u64) -> i64 {
    i64::try_from(random >> 1).expect("63 bits fit").max(1)
}

/// See the module.
pub struct Lessor {
    /// The lease clock as far as it is known: of the last entry applied, or this leader's own.
    clock: LeaseTime,
    /// The clock of the newest entry applied.
    logged: LeaseTime,
    looked_at: Duration,
    proof_validity: Duration,
    leading: Option<Leading>,
    answers: Vec<(KeepAliveToken, KeepAlive)>,
}

struct Leading {
    proven_at: Option<Duration>,
    /// The first entry of this term was applied: the trees show all that earlier leaders have answered for.
    caught_up: bool,
    clock_proposed_at: Duration,
    renewals: Renewals,
    expiry: Expiry,
}

impl Lessor {
    /// A member that does not lead, with the lease clock of its state.
    #[must_use]
    pub fn new(clock: LeaseTime, now: Duration) -> Lessor {
        Lessor {
            clock,
            logged: clock,
            looked_at: now,
            proof_validity: PROOF_VALIDITY,
            leading: None,
            answers: Vec::new(),
        }
    }

    /// For how long after a quorum was asked no other member can lead: not above the shortest election timeout.
    pub fn set_proof_validity(&mut self, validity: Duration) {
        self.proof_validity = validity;
    }

    /// This member has begun to lead (a new term each time), or no longer does: then what waits is answered.
    pub fn leadership(&mut self, leads: bool, now: Duration) {
        if let Some(ended) = self.leading.take() {
            let waiting = ended.renewals.into_tokens();
            self.answers.extend(waiting.map(|token| (token, KeepAlive::NotLeader)));
        }
        self.looked_at = now;
        // Not this member's own clock of an earlier term: what it had not logged never was, and leases granted since by
        // another leader stand on a slower clock.
        self.clock = self.logged;
        self.leading = leads.then(|| Leading {
            proven_at: None,
            caught_up: false,
            clock_proposed_at: now,
            renewals: Renewals::new(now),
            expiry: Expiry::default(),
        });
    }

    /// The first entry of the term that this member leads was applied.
    pub fn caught_up(&mut self) {
        if let Some(leading) = &mut self.leading {
            leading.caught_up = true;
        }
    }

    /// A quorum has confirmed this leadership in answer to what was sent at `at`. A sole voter proves itself: it calls
    /// this with each tick's time. Without it the lease clock stands still and nothing ever expires.
    pub fn proven(&mut self, at: Duration) {
        if let Some(leading) = &mut self.leading {
            leading.proven_at = leading.proven_at.max(Some(at));
        }
    }

    /// An entry with this lease clock was applied.
    pub fn observed(&mut self, clock: LeaseTime) {
        self.logged = self.logged.max(clock);
        self.clock = self.clock.max(clock);
    }

    /// The lease clock at `now`, for the envelopes of what is proposed now. Call it at least every 100 ms while leading:
    /// each tick and each batch of proposals.
    pub fn clock(&mut self, now: Duration) -> LeaseTime {
        let elapsed_ms = now.saturating_sub(self.looked_at).as_millis();
        // Whole milliseconds are taken, the rest stays for the next look.
        let step_ms = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
        if step_ms > 0 {
            if self.is_proven(now) {
                self.clock.0 = self.clock.0.saturating_add(step_ms.min(STEP_MS_MAX));
            }
            self.looked_at = self.looked_at.saturating_add(Duration::from_millis(step_ms));
        }
        self.clock
    }

    /// The lease clock when it was last looked at, for LeaseTimeToLive
    /// ([`remaining_s`](state::LeaseRecord::remaining_s)).
    #[must_use]
    pub fn time(&self) -> LeaseTime {
        self.clock
    }

    fn is_proven(&self, now: Duration) -> bool {
        let proven_at = self.leading.as_ref().and_then(|leading| leading.proven_at);
        proven_at.is_some_and(|at| now.saturating_sub(at) < self.proof_validity)
    }

    /// A client keeps its lease alive. `view` holds everything that was committed when the request came. The answer's
    /// header is to be filled before this call.
    ///
    /// # Errors
    /// [`Fault`](ringstone_pager::api::Fault): call again.
    pub fn keep_alive(
        &mut self,
        view: &impl ReadTrees,
        now: Duration,
        token: KeepAliveToken,
        id: i64,
    ) -> Access<KeepAlive> {
        let clock = self.clock(now);
        let proven = self.is_proven(now);
        let Some(leading) = &mut self.leading else { return Ok(KeepAlive::NotLeader) };
        // Until the trees are those of this term, the log decides: a renewal's apply knows whether the lease exists.
        if !leading.caught_up {
            return Ok(leading.renewals.wait(token, id));
        }
        let Some(record) = state::get(view, id)? else { return Ok(KeepAlive::Ttl(0)) };
        if record.deadline <= clock {
            return Ok(leading.renewals.wait_for_end(token, id));
        }
        if proven && record.covers(clock) {
            return Ok(KeepAlive::Ttl(record.ttl_s));
        }
        Ok(leading.renewals.wait(token, id))
    }

    /// Keep-alives that waited, with their answers: a TTL or [`KeepAlive::NotLeader`].
    pub fn take_answers(&mut self) -> Vec<(KeepAliveToken, KeepAlive)> {
        core::mem::take(&mut self.answers)
    }

    /// The next command to propose, to be called until it has none: after each tick, each applied batch and each
    /// keep-alive that waits. What is not applied within three seconds is proposed again.
    ///
    /// # Errors
    /// [`Fault`](ringstone_pager::api::Fault): call again.
    pub fn poll_proposal(&mut self, view: &impl ReadTrees, now: Duration) -> Access<Option<Command>> {
        let clock = self.clock(now);
        let proven = self.is_proven(now);
        let logged = self.logged;
        let Some(leading) = &mut self.leading else { return Ok(None) };
        if let Some(ids) = leading.renewals.poll_batch(now) {
            return Ok(Some(Command::LeaseRenew { ids }));
        }
        if !leading.caught_up || !proven {
            return Ok(None);
        }
        if let Some(due) = leading.expiry.poll(view, clock, now, |id| leading.renewals.is_waiting(id))? {
            return Ok(Some(Command::LeaseRevoke { id: due.id, expired_renewal: Some(due.renewal) }));
        }
        let unlogged_ms = logged.ms_until(clock);
        let since_proposed = now.saturating_sub(leading.clock_proposed_at);
        if unlogged_ms >= CLOCK_LOGGED_MS && since_proposed >= Duration::from_millis(CLOCK_LOGGED_MS) {
            leading.clock_proposed_at = now;
            return Ok(leading.expiry.has_leases(view)?.then_some(Command::LeaseClock));
        }
        Ok(None)
    }

    /// A LeaseGrant was applied at `clock`.
    pub fn granted(&mut self, _id: i64, clock: LeaseTime, ttl_s: i64) {
        if let Some(leading) = &mut self.leading {
            leading.expiry.look_at(state::deadline_after(clock, ttl_s));
        }
    }

    /// A LeaseRenew was applied; `ttls_s` as [`state::renew`] says it. Call [`Lessor::observed`] with its clock before.
    pub fn renewed(&mut self, ids: &[i64], ttls_s: &[i64]) {
        let Some(leading) = &mut self.leading else { return };
        // The shortest TTL there can be: whatever was renewed is not due before.
        leading.expiry.look_at(state::deadline_after(self.logged, 1));
        // A batch of an earlier term renews leases, but its waiting clients were told to ask again.
        if leading.caught_up {
            self.answers.extend(leading.renewals.renewed(ids, ttls_s));
        }
    }

    /// A LeaseRevoke was applied, or found no lease: it is gone.
    pub fn revoked(&mut self, id: i64) {
        if let Some(leading) = &mut self.leading {
            leading.expiry.done(id);
            self.answers.extend(leading.renewals.ended(id));
        }
    }

    /// An expiry was applied and did nothing: the lease was renewed meanwhile.
    pub fn revoke_refused(&mut self, id: i64) {
        if let Some(leading) = &mut self.leading {
            leading.expiry.done(id);
            leading.expiry.look_at(LeaseTime(0));
            leading.renewals.lives_on(id);
        }
    }
}

#[cfg(test)]
mod tests;
