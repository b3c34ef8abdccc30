//! The group's side of leases: time for the lessor, its proposals into the log, keep-alives and their answers.

use std::time::Duration;

use ringstone_raft::Role;

use super::{GROUP, Group, GroupError, NOBODY, Proposal};
use crate::command::Command;
use crate::entry::{Draft, Envelope};
use crate::error::Error;
use crate::lease::lessor::{KeepAlive, KeepAliveToken};

/// Proposals that the lessor gets into one turn.
const LESSOR_PROPOSALS_MAX: usize = 256;
/// How often a member of a cluster says what it has to say first, until it is applied.
pub(super) const SAY_INTERVAL: Duration = Duration::from_secs(3);

/// A keep-alive that is answered.
#[derive(Debug)]
pub struct KeptAlive {
    /// The shard that waits.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
    /// The TTL granted in seconds, 0 for a lease that is gone.
    pub outcome: Result<i64, Error>,
}

impl Group {
    /// A lease is kept alive by this member, the leader: answered in one of the next [`Group::take_outputs`]. Where there are other members, once a
    /// quorum has confirmed this leader after this call.
    ///
    /// # Errors
    /// [`GroupError::Damaged`].
    pub fn keep_alive(&mut self, now: Duration, shard: u32, request_id: u64, id: i64) -> Result<(), GroupError> {
        if self.is_sole() || self.raft.role().role != Role::Leader {
            return self.keep_alive_now(now, shard, request_id, id);
        }
        self.keep_alive_confirmed(now, shard, request_id, id);
        Ok(())
    }

    /// By the published state.
    pub(super) fn keep_alive_now(
        &mut self,
        now: Duration,
        shard: u32,
        request_id: u64,
        id: i64,
    ) -> Result<(), GroupError> {
        let token = self.next_keep_alive;
        let answer = self.lessor.keep_alive(&self.pager, now, KeepAliveToken(token), id);
        match self.present(answer)? {
            Some(KeepAlive::Waits) => {
                self.next_keep_alive += 1;
                self.keep_alives.insert(token, (shard, request_id));
            }
            Some(answer) => {
                self.kept((shard, request_id), outcome_of(answer));
            }
            None => self.keep_alives_again.push((shard, request_id, id)),
        }
        Ok(())
    }

    /// Looks again at keep-alives whose pages were absent.
    pub(super) fn retry_keep_alives(&mut self) -> Result<(), GroupError> {
        for (shard, request_id, id) in std::mem::take(&mut self.keep_alives_again) {
            self.keep_alive_now(self.now, shard, request_id, id)?;
        }
        Ok(())
    }

    /// The lease clock now, in milliseconds.
    pub fn lease_clock_ms(&self) -> u64 {
        self.lessor.time().0
    }

    /// True once an entry of the term of the leader is applied: it can commit, and all that was before it is known here.
    pub fn is_ready(&self) -> bool {
        let role = self.raft.role();
        role.leader.is_some() && self.state.applied_term == role.term.0 && self.state.cluster_id != 0
    }

    /// Answers that the lessor has, and commands that it wants in the log.
    pub(super) fn drive_lessor(&mut self) -> Result<(), GroupError> {
        for (token, answer) in self.lessor.take_answers() {
            if let Some((shard, request_id)) = self.keep_alives.remove(&token.0) {
                self.kept((shard, request_id), outcome_of(answer));
            }
        }
        if self.raft.role().role != Role::Leader || self.absent.is_some() || self.stopping {
            return Ok(());
        }
        if !self.was_caught_up && self.is_ready() {
            self.was_caught_up = true;
            self.lessor.caught_up();
        }
        self.propose_first()?;
        for _ in 0..LESSOR_PROPOSALS_MAX {
            let proposal = self.lessor.poll_proposal(&self.pager, self.now);
            let Some(Some(command)) = self.present(proposal)? else { break };
            self.propose_command(&command);
        }
        Ok(())
    }

    /// What a leader of a new log, or a member with a new name, has to say: kept until it leads.
    pub fn say_first(&mut self, bootstrap: Command, attributes: Command) {
        self.first = Some((bootstrap, attributes));
    }

    fn propose_first(&mut self) -> Result<(), GroupError> {
        let term = self.raft.role().term.0;
        let is_recent = |(said, at): (u64, Duration)| said == term && self.now.saturating_sub(at) < SAY_INTERVAL;
        if self.first.is_none() || self.said_first.is_some_and(is_recent) {
            return Ok(());
        }
        let Some((bootstrap, attributes)) = self.first.take() else { return Ok(()) };
        if self.state.cluster_id == 0 {
            // Those of a former start that did not get to apply come first; the second bootstrap then does nothing.
            self.propose_command(&bootstrap);
        } else {
            match self.is_unknown(&attributes)? {
                Some(true) => self.propose_command(&attributes),
                Some(false) => return Ok(()),
                None => {
                    self.first = Some((bootstrap, attributes));
                    return Ok(());
                }
            }
        }
        if !self.is_sole() {
            // A later leader may have cut it: it is said until it is known.
            self.said_first = Some((term, self.now));
            self.first = Some((bootstrap, attributes));
        }
        Ok(())
    }

    /// Proposes what nobody on a shard waits for.
    pub(super) fn propose_command(&mut self, command: &Command) {
        let proposal = self.nobodys(command);
        self.propose(self.now, vec![proposal]);
    }

    pub(super) fn nobodys(&self, command: &Command) -> Proposal {
        let proposer = self.shared.identity.member_id;
        let envelope = Envelope { group: GROUP, proposer, shard: NOBODY, ..Envelope::default() };
        Proposal { draft: Draft::new(&envelope, command), shard: NOBODY, request_id: 0 }
    }
}

fn outcome_of(answer: KeepAlive) -> Result<i64, Error> {
    match answer {
        KeepAlive::Ttl(ttl_s) => Ok(ttl_s),
        KeepAlive::Waits | KeepAlive::TooMany => Err(Error::TooManyRequests),
        KeepAlive::NotLeader => Err(Error::NotPrimaryLessor),
    }
}
