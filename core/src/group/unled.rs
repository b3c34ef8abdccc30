//! A proposal, or what else only a leader can do or tell (asks.rs), that finds no leader waits for one, as in etcd, for as long
//! as its caller waits for it.
//!
//! ```text
//!  propose, ask ──> this member leads, or knows who does ──> log, or on its way to the leader (in_flight.rs)
//!      ^   └─> nobody leads, or leadership is being handed over ──┐
//!      |       the leader did not take it, or was not reached ────┤  nothing will come of that attempt
//!      |                                                          v
//!      +── who leads has changed, or a tick has passed ──────── waits here, within a bound
//! ```
//!
//! Of what changes something only that waits here of which it is certain that no leader has it. What is in a log, or on its way
//! to one, is never proposed again: it may come about.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringstone_raft::Role;

use super::asks::Asking;
use super::{Group, GroupError, NOBODY, Proposal};
use crate::error::Error;

/// What waits, at most: the requests of an election at a pace that a member can take.
const WAITING_MAX: usize = 16 << 10;
/// Their bytes.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// What waits for a leader.
#[derive(Debug)]
pub(super) enum Errand {
    Proposal(Proposal),
    Ask(Asking),
}

impl Errand {
    fn len(&self) -> usize {
        match self {
            Errand::Proposal(proposal) => proposal.draft.len(),
            Errand::Ask(asking) => asking.ask.len(),
        }
    }

    fn is_proposal(&self) -> bool {
        matches!(self, Errand::Proposal(_))
    }
}

#[derive(Debug)]
struct Waiting {
    /// When its caller began to wait.
    since: Duration,
    errand: Errand,
}

/// All that waits for a leader, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Unled {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    proposals: usize,
    /// There may be a leader now.
    is_due: bool,
}

impl Unled {
    /// How many proposals wait.
    pub(super) fn proposals(&self) -> usize {
        self.proposals
    }

    pub(super) fn look_again(&mut self) {
        self.is_due = true;
    }

    /// Takes one in; gives it back where there is no room.
    fn push(&mut self, since: Duration, errand: Errand) -> Result<(), Errand> {
        let bytes = self.bytes + errand.len();
        if self.waiting.len() >= WAITING_MAX || bytes > WAITING_BYTES_MAX {
            return Err(errand);
        }
        self.bytes = bytes;
        self.proposals += usize::from(errand.is_proposal());
        self.waiting.push_back(Waiting { since, errand });
        Ok(())
    }

    /// Drops those that have waited since before `limit`; how many proposals.
    fn expire(&mut self, limit: Duration) -> usize {
        let before = self.proposals;
        self.waiting.retain(|waiting| waiting.since >= limit);
        self.bytes = self.waiting.iter().map(|waiting| waiting.errand.len()).sum();
        self.proposals = self.waiting.iter().filter(|waiting| waiting.errand.is_proposal()).count();
        before - self.proposals
    }

    fn take(&mut self) -> VecDeque<Waiting> {
        (self.bytes, self.proposals, self.is_due) = (0, 0, false);
        std::mem::take(&mut self.waiting)
    }
}

impl Group {
    /// True while this member's log takes proposals.
    pub(super) fn may_propose(&self) -> bool {
        self.raft.role().role == Role::Leader && self.raft.transferee().is_none()
    }

    /// It is proposed, or asked for, once somebody leads. What nobody waits for is proposed anew by whoever has made it.
    pub(super) fn wait_for_leader(&mut self, since: Duration, errand: Errand) {
        if let Errand::Proposal(Proposal { shard: NOBODY, .. }) = errand {
            return;
        }
        match self.unled.push(since, errand) {
            Ok(()) => {}
            Err(Errand::Proposal(Proposal { shard, request_id, .. })) => {
                self.proposal_failed((shard, request_id), Error::TooManyRequests);
            }
            Err(Errand::Ask(asking)) => self.ask_failed(asking.whom, &asking.ask, Error::NoLeader),
        }
    }

    /// A turn's part: those that wait, where somebody leads again.
    ///
    /// # Errors
    /// [`GroupError::Damaged`].
    pub(super) fn serve_unled(&mut self) -> Result<(), GroupError> {
        if !self.unled.is_due || self.unled.waiting.is_empty() {
            return Ok(());
        }
        if self.forward_to().is_none() && !self.may_propose() {
            return Ok(());
        }
        for Waiting { since, errand } in self.unled.take() {
            match errand {
                Errand::Proposal(proposal) => self.propose_since(since, vec![proposal]),
                Errand::Ask(asking) => self.ask_since(since, asking)?,
            }
        }
        Ok(())
    }

    /// A tick's part: whoever has waited for too long was told so by its shard, and nothing comes of it any more.
    pub(super) fn expire_unled(&mut self, limit: Duration) {
        self.unled.look_again();
        let expired = self.unled.expire(limit);
        self.shared.proposals_failed.fetch_add(expired as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Put};
    use crate::entry::{Draft, Envelope};

    fn proposal(request_id: u64, bytes: usize) -> Errand {
        let put = Put { key: b"key".to_vec(), value: vec![0; bytes], ..Put::default() };
        Errand::Proposal(Proposal { draft: Draft::new(&Envelope::default(), &Command::Put(put)), shard: 0, request_id })
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let mut unled = Unled::default();
        for id in 0..WAITING_MAX as u64 {
            unled.push(Duration::from_secs(id), proposal(id, 0)).expect("there is room");
        }
        assert!(unled.push(Duration::ZERO, proposal(0, 0)).is_err());
        assert_eq!(unled.expire(Duration::from_secs(16_000)), 16_000);
        assert_eq!(unled.take().front().map(|waiting| waiting.since), Some(Duration::from_secs(16_000)));
        for id in 0..3 {
            unled.push(Duration::ZERO, proposal(id, 10 << 20)).expect("there is room");
        }
        assert!(unled.push(Duration::ZERO, proposal(3, 10 << 20)).is_err());
        unled.push(Duration::ZERO, proposal(3, 1 << 10)).expect("for a small one there is");
    }
}
