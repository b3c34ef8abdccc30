//! May a leader answer a read by its clock alone?
//!
//! A wrong yes is a stale read. The argument (thesis 6.4.1): a quorum has answered heartbeats that were sent at tick `s`.
//! Each of its members refuses its vote, its pre-vote and its own campaign for `election_ticks` of *its* ticks after it
//! heard that heartbeat, whatever else it hears and across a restart ([`Raft::backs_a_lease`]). So until then nobody else
//! is elected, and what is committed here is all that is committed. The lease ends well before that: see [`lease_ticks`].
//!
//! What the argument excludes, each closed here: an election that a leader itself asks for passes the refusals, so a term
//! in which `TimeoutNow` was sent has no more leases; a quorum is counted by the configuration in force when the read is
//! answered, not when the heartbeat was; ticks that did not come while the process stood still
//! ([`Raft::clock_gap`], and the age of the last tick as an argument).
//!
//! What this file does not know is the time: rates of two members' clocks that differ by more than the margin break it.

use super::Raft;
use crate::{Configuration, Index, ProposeError, Role};
use alloc::collections::VecDeque;

/// How long a lease lasts in the leader's ticks. A follower's word holds for at least `election_ticks - 1` whole intervals
/// of its clock (the first tick may come right behind the message). A quarter less and one tick less again leaves room for
/// clocks whose rates differ by a third and more: 6 of 9 intervals with the default of 10 ticks. 0 with fewer than 3.
fn lease_ticks(election_ticks: u32) -> u64 {
    u64::from((election_ticks - election_ticks.div_ceil(4)).saturating_sub(1))
}

/// On a leader: when were which rounds sent?
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Ticks since this leadership began.
    now: u64,
    /// Rounds, each with the tick at which it was *first* sent; both ascending. Young ones only.
    sent: VecDeque<(u64, u64)>,
    /// Somebody was asked to campaign in this term: no promise holds against that.
    barred: bool,
}

impl Lease {
    pub(super) fn tick(&mut self) {
        self.now += 1;
    }

    pub(super) fn bar(&mut self) {
        self.barred = true;
    }

    pub(super) fn sent(&mut self, round: u64, election_ticks: u32) {
        let oldest = self.now.saturating_sub(lease_ticks(election_ticks));
        while self.sent.front().is_some_and(|(_, tick)| *tick < oldest) {
            self.sent.pop_front();
        }
        match self.sent.back_mut() {
            Some((last, _)) if *last >= round => {}
            // Several within a tick are as young as the last of them.
            Some((last, tick)) if *tick == self.now => *last = round,
            _ => self.sent.push_back((round, self.now)),
        }
    }

    /// Ticks since the youngest round that is not above `confirmed` was sent.
    fn age_ticks(&self, confirmed: u64) -> Option<u64> {
        let (_, tick) = self.sent.iter().rev().find(|(round, _)| *round <= confirmed)?;
        Some(self.now - tick)
    }
}

impl Raft {
    /// A linearizable read without a message, where a quorum was heard from so lately that nobody else can lead: the index
    /// up to which the state must have applied. `None` where that is not certain, or [`Config::lease_reads`] is off: ask
    /// [`Raft::read_index`].
    ///
    /// `elapsed_ticks`: how many intervals, rounded up, have passed since the last tick was due, by a clock that goes on
    /// while the process or the machine stands still, read *after* the request came in. Every interval must have had its
    /// tick, or [`Raft::clock_gap`].
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`].
    ///
    /// [`Config::lease_reads`]: crate::Config::lease_reads
    pub fn lease_read(&self, elapsed_ticks: u32) -> Result<Option<Index>, ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader { leader: self.leader });
        }
        if !self.config.lease_reads || self.lease.barred || !self.has_committed_in_term() {
            return Ok(None);
        }
        let age = self.lease.age_ticks(self.confirmed_round());
        let holds = age.is_some_and(|age| age + u64::from(elapsed_ticks) <= lease_ticks(self.config.election_ticks));
        Ok(holds.then(|| self.log.committed()))
    }

    /// Intervals have passed of which there was no tick: the process was stopped, or its clock jumped. On a leader, what
    /// was confirmed before proves nothing any more; elsewhere nothing changes, as a member that missed ticks keeps its word
    /// longer.
    pub fn clock_gap(&mut self) {
        self.lease.sent.clear();
    }

    /// Whether a leader may count on this member not to help another one, of whatever term. A group's only voter has nobody
    /// to count on it; but it must have been that for certain, or the leader that removes itself still leads.
    pub(super) fn backs_a_lease(&self) -> bool {
        let is_alone = |configuration: &Configuration| configuration.is_quorum(|id| id == self.config.id);
        self.config.lease_reads
            && self.leader_silence < self.config.election_ticks
            && !self.log.open_configurations().all(is_alone)
    }
}
