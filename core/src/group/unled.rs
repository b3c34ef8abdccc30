//! A proposal that finds no leader waits for one, as in etcd, for as long as its caller waits for it.
//!
//! ```text
//!  propose ──> this member leads, or knows who does ──> log, or on its way to the leader (cluster.rs)
//!      ^   └─> nobody leads, or leadership is being handed over ──┐
//!      |       the leader did not take it, or was not reached ────┤  nothing will come of that attempt
//!      |                                                          v
//!      +── who leads has changed, or a tick has passed ──────── waits here, within a bound
//! ```
//!
//! Only a proposal of which it is certain that no leader has it waits here. What is in a log, or on its way to one, is never
//! proposed again: it may come about.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringstone_raft::Role;

use super::{Answer, Group, NOBODY, Proposal};
use crate::error::Error;

/// Proposals that wait, at most: those of an election at a pace that a member can take.
const WAITING_MAX: usize = 16 << 10;
/// Their bytes.
const WAITING_BYTES_MAX: usize = 32 << 20;

#[derive(Debug)]
struct Waiting {
    /// When its caller began to wait.
    since: Duration,
    proposal: Proposal,
}

/// Proposals without a leader, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Unled {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// There may be a leader now.
    is_due: bool,
}

impl Unled {
    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn look_again(&mut self) {
        self.is_due = true;
    }

    /// Takes one in; gives it back where there is no room.
    fn push(&mut self, since: Duration, proposal: Proposal) -> Result<(), Proposal> {
        let bytes = self.bytes + proposal.draft.len();
        if self.waiting.len() >= WAITING_MAX || bytes > WAITING_BYTES_MAX {
            return Err(proposal);
        }
        self.bytes = bytes;
        self.waiting.push_back(Waiting { since, proposal });
        Ok(())
    }

    /// Drops those that have waited since before `limit`; how many.
    fn expire(&mut self, limit: Duration) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.since >= limit);
        self.bytes = self.waiting.iter().map(|waiting| waiting.proposal.draft.len()).sum();
        before - self.waiting.len()
    }

    fn take(&mut self) -> VecDeque<Waiting> {
        (self.bytes, self.is_due) = (0, false);
        std::mem::take(&mut self.waiting)
    }
}

impl Group {
    /// True while this member's log takes proposals.
    pub(super) fn may_propose(&self) -> bool {
        self.raft.role().role == Role::Leader && self.raft.transferee().is_none()
    }

    /// They are proposed once somebody leads. What nobody waits for is proposed anew by whoever has made it.
    pub(super) fn wait_for_leader(&mut self, since: Duration, proposals: Vec<Proposal>) {
        for proposal in proposals.into_iter().filter(|proposal| proposal.shard != NOBODY) {
            if let Err(Proposal { shard, request_id, .. }) = self.unled.push(since, proposal) {
                self.shared.proposals_failed.fetch_add(1, Ordering::Relaxed);
                self.outputs.answers.push(Answer { shard, request_id, outcome: Err(Error::TooManyRequests) });
            }
        }
    }

    /// A turn's part: those that wait, where somebody leads again.
    pub(super) fn propose_unled(&mut self) {
        if !self.unled.is_due || self.unled.waiting.is_empty() {
            return;
        }
        if self.forward_to().is_none() && !self.may_propose() {
            return;
        }
        for Waiting { since, proposal } in self.unled.take() {
            self.propose_since(since, vec![proposal]);
        }
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

    fn proposal(request_id: u64, bytes: usize) -> Proposal {
        let put = Put { key: b"key".to_vec(), value: vec![0; bytes], ..Put::default() };
        Proposal { draft: Draft::new(&Envelope::default(), &Command::Put(put)), shard: 0, request_id }
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
