//! Changes of the membership, on the leader: what is refused before it is proposed.
//!
//! A configuration is in force from the moment it is in the log. So what can't be undone is asked before: is the last
//! change finished, does the member exist, will those that have started still be a quorum, has a learner caught up?

use std::time::Duration;

use ringstone_raft::{Configuration, NodeId, ProposeError, Role};

use super::membership::{configuration_of, read_members};
use super::{GROUP, Group, GroupError};
use crate::command::{ArchivedCommand, Command, Member};
use crate::entry::{Draft, Entry, Envelope};
use crate::error::Error;

/// A learner votes once it has this much, in percent, of what the leader has (etcd's figure).
const LEARNER_READY_PERCENT: u64 = 90;
/// Changes that may wait for the page of the members, or for a leader to be ready.
const CHANGES_MAX: usize = 16;
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
    /// Changes who the members are; answered as a proposal is. Only the leader can, once it is ready.
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
        let members = if self.raft.role().role == Role::Leader && (!self.is_ready() || self.removal.is_some()) {
            // What the last leader has left is not applied yet, or the trees hold half of an entry.
            None
        } else {
            let members = read_members(&self.pager);
            self.present(members)?
        };
        let outcome = match members {
            Some(members) => self.propose_change(&members, change, shard, request_id),
            None if self.changes.len() < CHANGES_MAX => {
                self.changes.push((change.clone(), shard, request_id));
                return Ok(());
            }
            None => Err(Error::TooManyRequests),
        };
        match outcome {
            Ok(()) => self.in_flight.begin(now, self.raft.role().term.0, (shard, request_id), 0, None),
            Err(error) => self.change_failed((shard, request_id), error),
        }
        Ok(())
    }

    /// Changes that waited: the page of the members may be here, and the leader ready.
    pub(super) fn retry_changes(&mut self) -> Result<(), GroupError> {
        if self.absent.is_some() {
            return Ok(());
        }
        for (change, shard, request_id) in std::mem::take(&mut self.changes) {
            self.change_members(self.now, &change, shard, request_id)?;
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
        if applied.as_ref() != Some(self.raft.configuration()) {
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
        let strict = self.shared.config.strict_reconfig_check;
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
                if member.is_learner && learners >= self.shared.config.max_learners {
                    return Err(Error::TooManyLearners);
                }
                if strict && !member.is_learner {
                    may_add_voter(members)?;
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
                if strict {
                    may_promote(members)?;
                }
                after[at].is_learner = false;
            }
            MemberChange::Remove(id) => {
                let at = find(*id)?;
                if strict && !members[at].is_learner {
                    may_remove_voter(members, *id, |id| self.is_heard(id))?;
                }
                after.remove(at);
            }
        }
        // Without the check all is allowed but a cluster in which nobody votes.
        configuration_of(&after).ok_or(Error::MemberNotEnoughStarted)
    }

    /// On a leader: a member answers, or is this one. (Who was heard since the last check of the quorum says nothing just after it.)
    fn is_heard(&self, id: u64) -> bool {
        let silence_max = super::open::election_ticks(&self.shared);
        let is_heard = |member: &ringstone_raft::MemberStatus| member.id.0 == id && member.silent_ticks < silence_max;
        id == self.raft.id().0 || self.raft.status().members.iter().any(is_heard)
    }

    fn is_caught_up(&self, id: NodeId) -> bool {
        let status = self.raft.status();
        let has = status.members.iter().find(|member| member.id == id).map_or(0, |member| member.matched.0);
        has * 100 >= status.positions.committed.0.0 * LEARNER_READY_PERCENT
    }
}

fn voters(members: &[Member]) -> impl Iterator<Item = &Member> {
    members.iter().filter(|member| !member.is_learner)
}

/// `--strict-reconfig-check`, as etcd has it: of the voters that there will be, so many of those that have started are a quorum.
fn is_quorum(started: usize, voters: usize) -> Result<(), Error> {
    if started > voters / 2 { Ok(()) } else { Err(Error::MemberNotEnoughStarted) }
}

fn started<'a>(members: impl Iterator<Item = &'a Member>) -> (usize, usize) {
    members.fold((0, 0), |(started, all), member| (started + usize::from(!member.name.is_empty()), all + 1))
}

/// A lone member may get a second one: a quorum of two is both, and there is no other way to three.
fn may_add_voter(members: &[Member]) -> Result<(), Error> {
    let (started, all) = started(voters(members));
    if started == 1 && all == 1 { Ok(()) } else { is_quorum(started, all + 1) }
}

/// Whoever is caught up has started.
fn may_promote(members: &[Member]) -> Result<(), Error> {
    let (started, all) = started(voters(members));
    is_quorum(started + 1, all + 1)
}

/// Those that stay are a quorum, and so are those of them that answer: but a member that doesn't answer is not counted on anyway.
fn may_remove_voter(members: &[Member], id: u64, is_heard: impl Fn(u64) -> bool) -> Result<(), Error> {
    let (started, all) = started(voters(members).filter(|member| member.id != id));
    if all == 0 {
        return Err(Error::MemberNotEnoughStarted);
    }
    is_quorum(started, all)?;
    if !is_heard(id) {
        return Ok(());
    }
    let heard = voters(members).filter(|member| is_heard(member.id)).count();
    // etcd's figures: a quorum of all voters but one, without the one that goes.
    if heard - 1 < 1 + all / 2 { Err(Error::Unhealthy) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter a member: started, New, Learner.
    fn members(letters: &str) -> Vec<Member> {
        let member = |(id, letter): (usize, char)| Member {
            id: id as u64,
            name: if letter == 'n' { String::new() } else { format!("m{id}") },
            peer_urls: vec![format!("http://127.0.0.1:{id}")],
            client_urls: vec![],
            is_learner: letter == 'l',
        };
        letters.chars().enumerate().map(member).collect()
    }

    #[test]
    fn a_voter_is_added_where_a_quorum_has_started() {
        let not_started = Err(Error::MemberNotEnoughStarted);
        for (letters, added, promoted) in [
            ("s", Ok(()), Ok(())),
            ("sl", Ok(()), Ok(())),
            ("ss", Ok(()), Ok(())),
            ("sn", not_started.clone(), Ok(())),
            ("ssn", not_started.clone(), Ok(())),
            ("sss", Ok(()), Ok(())),
            ("ssnn", not_started.clone(), Ok(())),
            ("snn", not_started.clone(), not_started.clone()),
        ] {
            let members = members(letters);
            assert_eq!((may_add_voter(&members), may_promote(&members)), (added, promoted), "{letters}");
        }
    }

    #[test]
    fn a_voter_goes_where_a_quorum_stays() {
        // Who is removed, and who answers.
        let cases = [
            ("s", 0, "0", Err(Error::MemberNotEnoughStarted)),
            ("ss", 1, "01", Ok(())),
            ("ss", 1, "0", Ok(())),
            ("sn", 1, "0", Ok(())),
            ("sn", 0, "0", Err(Error::MemberNotEnoughStarted)),
            ("sss", 2, "012", Ok(())),
            ("sss", 2, "01", Ok(())),
            ("sss", 1, "01", Err(Error::Unhealthy)),
            ("ssn", 1, "01", Err(Error::MemberNotEnoughStarted)),
            ("sssss", 4, "01234", Ok(())),
            ("sssss", 4, "0124", Ok(())),
            ("sssss", 2, "012", Err(Error::Unhealthy)),
        ];
        for (letters, id, heard, wanted) in cases {
            let is_heard = |id: u64| heard.contains(&id.to_string());
            assert_eq!(may_remove_voter(&members(letters), id, is_heard), wanted, "{letters} {id} {heard}");
        }
    }
}
