//! Changes of the membership, on the leader: what is refused before it is proposed.
//!
//! A configuration is in force from the moment it is in the log. So what can't be undone is asked before: is the last
//! change finished, does the member exist, will those that have started still be a quorum, has a learner caught up?

use std::time::Duration;

use ringstone_raft::{Configuration, NodeId, ProposeError, Role};

use super::membership::{configuration_of, read_members};
use super::{Answer, GROUP, Group, GroupError};
use crate::command::{ArchivedCommand, Command, Member};
use crate::entry::{Draft, Entry, Envelope};
use crate::error::Error;

/// A learner votes once it has this much, in percent, of what the leader has (etcd's figure).
const LEARNER_READY_PERCENT: u64 = 90;
/// etcd's `--max-learners`.
const LEARNERS_MAX: usize = 1;
/// Most bytes of a member's URLs and name: a configuration is copied to each new segment of the log.
const MEMBER_BYTES_MAX: usize = 16 << 10;

/// What shall change.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberChange {
    /// A new member, voter or learner. Its id was never used before.
    Add(Member),
    /// A learner votes from now on.
    Promote(u64),
    /// A member goes.
    Remove(u64),
}

impl MemberChange {
    fn command(&self) -> Command {
        match self.clone() {
            MemberChange::Add(member) => Command::MemberAdd { member: Box::new(member) },
            MemberChange::Promote(id) => Command::MemberPromote { id },
            MemberChange::Remove(id) => Command::MemberRemove { id },
        }
    }

    /// For the leader, by way of another member.
    #[must_use]
    pub fn encode(&self) -> bytes::Bytes {
        Draft::new(&Envelope { group: GROUP, ..Envelope::default() }, &self.command()).seal(0, 0)
    }

    /// None: it is no change; any bytes are safe to pass.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<MemberChange> {
        match Entry::read(bytes).ok()?.command {
            ArchivedCommand::MemberAdd { member } => {
                rkyv::deserialize::<Member, rkyv::rancor::Error>(&**member).ok().map(MemberChange::Add)
            }
            ArchivedCommand::MemberPromote { id } => Some(MemberChange::Promote(id.to_native())),
            ArchivedCommand::MemberRemove { id } => Some(MemberChange::Remove(id.to_native())),
            _ => None,
        }
    }
}

impl Group {
    /// Changes who the members are; answered as a proposal is. Only the leader can.
    ///
    /// # Errors
    /// [`GroupError::Damaged`].
    pub fn change_members(
        &mut self,
        now: Duration,
        change: &MemberChange,
        shard: u32,
        request_id: u64,
    ) -> Result<(), GroupError> {
        self.now = now;
        let members = read_members(&self.pager);
        let outcome = match self.present(members)? {
            Some(members) => self.propose_change(&members, change, shard, request_id),
            None => Err(Error::TooManyRequests),
        };
        match outcome {
            Ok(()) => self.in_flight.begin(now, self.raft.role().term.0, (shard, request_id)),
            Err(error) => self.outputs.answers.push(Answer { shard, request_id, outcome: Err(error) }),
        }
        Ok(())
    }

    fn propose_change(
        &mut self,
        members: &[Member],
        change: &MemberChange,
        shard: u32,
        request_id: u64,
    ) -> Result<(), Error> {
        if self.raft.role().role != Role::Leader {
            return Err(Error::NotLeader);
        }
        let applied = configuration_of(members);
        if !self.is_ready() || self.removal.is_some() || applied.as_ref() != Some(self.raft.configuration()) {
            return Err(Error::Unhealthy);
        }
        let target = self.target(members, change)?;
        let command = change.command();
        let proposer = self.shared.identity.member_id;
        let envelope = Envelope { group: GROUP, proposer, shard, request_id, ..Envelope::default() };
        let context = Draft::new(&envelope, &command).seal(self.lessor.clock(self.now).0, self.wall_ms);
        self.raft.propose_configuration(&target, &context).map(drop).map_err(|error| match error {
            ProposeError::NotLeader { .. } => Error::NotLeader,
            ProposeError::Transferring { .. } => Error::LeaderChanged,
            ProposeError::InvalidConfiguration => Error::MemberNotEnoughStarted,
            _ => Error::Unhealthy,
        })
    }

    fn target(&self, members: &[Member], change: &MemberChange) -> Result<Configuration, Error> {
        let mut after = members.to_vec();
        let find = |id: u64| members.iter().position(|member| member.id == id).ok_or(Error::MemberNotFound);
        match change {
            MemberChange::Add(member) => {
                let urls: usize = member.peer_urls.iter().chain(&member.client_urls).map(String::len).sum();
                if members.iter().any(|known| known.id == member.id) {
                    return Err(Error::MemberExists);
                }
                if members.iter().any(|known| known.peer_urls.iter().any(|url| member.peer_urls.contains(url))) {
                    return Err(Error::PeerUrlsExist);
                }
                if urls + member.name.len() > MEMBER_BYTES_MAX {
                    return Err(Error::MemberBadUrls);
                }
                let learners = members.iter().filter(|known| known.is_learner).count();
                if member.is_learner && learners >= LEARNERS_MAX {
                    return Err(Error::TooManyLearners);
                }
                after.push(member.clone());
            }
            MemberChange::Promote(id) => {
                let at = find(*id)?;
                if !members[at].is_learner {
                    return Err(Error::MemberNotLearner);
                }
                if !self.is_caught_up(NodeId(*id)) {
                    return Err(Error::LearnerNotReady);
                }
                after[at].is_learner = false;
            }
            MemberChange::Remove(id) => {
                after.remove(find(*id)?);
            }
        }
        // `--strict-reconfig-check`: those that have started must be a quorum of what comes of it.
        let voters = after.iter().filter(|member| !member.is_learner);
        let (started, all) =
            voters.fold((0, 0), |(started, all), member| (started + usize::from(!member.name.is_empty()), all + 1));
        let keeps_quorum = started > all / 2 || (all <= 2 && started == 1 && members.len() == 1);
        if !keeps_quorum || all == 0 {
            return Err(Error::MemberNotEnoughStarted);
        }
        configuration_of(&after).ok_or(Error::MemberNotEnoughStarted)
    }

    fn is_caught_up(&self, id: NodeId) -> bool {
        let status = self.raft.status();
        let has = status.members.iter().find(|member| member.id == id).map_or(0, |member| member.matched.0);
        has * 100 >= status.positions.committed.0.0 * LEARNER_READY_PERCENT
    }
}
