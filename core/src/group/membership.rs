//! Who are the members? One place says so: the tree `MEMBER`, changed in the apply of raft's configuration entries.
//!
//! Raft goes by the latest configuration in its log, so at a restart the configuration at the applied index must be the
//! one that raft had there. It is read from the tree, which is durable with the applied index in one step: a copy in the log
//! could be of an entry that a later leader has cut. An entry of index 1, by which the founders agree, puts them there with
//! their ids alone; the bootstrap entry has the rest.

use std::ops::{Bound, ControlFlow};

use ringstone_pager::api::{Access, Direction, Fault, ReadTrees, WriteTrees as _};
use ringstone_raft::{Configuration, NodeId};

use super::{Answer, Group, Reply, read_member};
use crate::command::{ArchivedCommand, Member};
use crate::config::{InitialMember, ServerConfig};
use crate::entry::{Entry, EntryError};
use crate::error::{ApplyFault, Error};
use crate::identity::member_id;
use crate::lease::state::LeaseTime;
use crate::trees::MEMBER;

/// All members of a state, ascending by id.
///
/// # Errors
/// [`Fault`]: nothing was read.
pub fn read_members(trees: &impl ReadTrees) -> Access<Vec<Member>> {
    let mut members = Vec::new();
    trees.visit(MEMBER, (Bound::Unbounded, Bound::Unbounded), Direction::Forward, false, &mut |_, bytes| {
        members.extend(read_member(bytes));
        ControlFlow::Continue(())
    })?;
    Ok(members)
}

/// Members that entries behind the state add, as their contexts say.
pub(super) fn announced(entries: &[ringstone_raft::Entry]) -> Vec<Member> {
    let added = |entry: &ringstone_raft::Entry| {
        let (_, context) = Configuration::decode(&entry.payload)?;
        match Entry::read(&context).ok()?.command {
            ArchivedCommand::MemberAdd { member } => rkyv::deserialize::<Member, rkyv::rancor::Error>(&**member).ok(),
            _ => None,
        }
    };
    let configurations = entries.iter().filter(|entry| entry.kind == ringstone_raft::EntryKind::Configuration);
    configurations.filter_map(added).collect()
}

/// Who votes and who learns. None where nobody votes: a new member that was told of no others.
#[must_use]
pub fn configuration_of(members: &[Member]) -> Option<Configuration> {
    let ids = |is_learner: bool| {
        members.iter().filter(move |member| member.is_learner == is_learner).map(|member| NodeId(member.id))
    };
    Configuration::new(ids(false), ids(true))
}

/// The members that the settings of a new cluster name, ascending by id.
#[must_use]
pub fn founders(config: &ServerConfig) -> Vec<Member> {
    let member = |founder: &InitialMember| Member {
        peer_urls: founder.peer_urls.clone(),
        ..nameless(member_id(&founder.peer_urls, &config.cluster_token))
    };
    let mut members: Vec<Member> = config.initial_members.iter().map(member).collect();
    members.sort_unstable_by_key(|member| member.id);
    members
}

fn nameless(id: u64) -> Member {
    Member { id, name: String::new(), peer_urls: vec![], client_urls: vec![], is_learner: false }
}

/// Why a configuration can't be applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum MembershipStop {
    #[error("a configuration that is not encoded as one")]
    Undecodable,
    #[error("a joint configuration: no command of this version asks for one")]
    Joint,
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error(transparent)]
    Fault(#[from] ApplyFault),
}

impl Group {
    /// The tree becomes what the configuration says. Called again after a fault it ends in the same state.
    pub(super) fn apply_configuration(&mut self, entry: &ringstone_raft::Entry) -> Result<(), MembershipStop> {
        let (configuration, context) = Configuration::decode(&entry.payload).ok_or(MembershipStop::Undecodable)?;
        if configuration.is_joint() {
            return Err(MembershipStop::Joint);
        }
        let read = if context.is_empty() { None } else { Some(Entry::read(&context)?) };
        let command = read.as_ref().map(|read| read.command);
        self.follow_configuration(&configuration, command).map_err(ApplyFault::before)?;
        let Some(read) = read else { return Ok(()) };
        let clock = LeaseTime(read.envelope.lease_clock_ms.max(self.state.lease_clock));
        self.state.lease_clock = clock.0;
        self.lessor.observed(clock);
        let me = self.shared.identity.member_id;
        if let ArchivedCommand::MemberRemove { id } = read.command
            && id.to_native() == me
        {
            self.outputs.removed = true;
        }
        if read.envelope.proposer == me {
            let (shard, request_id) = (read.envelope.shard, read.envelope.request_id);
            self.in_flight.end((shard, request_id));
            self.outputs.answers.push(Answer { shard, request_id, outcome: Ok(Reply::Done) });
        }
        Ok(())
    }

    fn follow_configuration(
        &mut self,
        configuration: &Configuration,
        command: Option<&ArchivedCommand>,
    ) -> Result<(), Fault> {
        let known = read_members(&self.pager)?;
        let ids = configuration.members();
        for member in &known {
            if ids.binary_search(&NodeId(member.id)).is_err() {
                self.members_changes += 1;
                self.pager.delete(MEMBER, &member.id.to_be_bytes())?;
            }
        }
        for NodeId(id) in ids {
            let before = known.iter().find(|member| member.id == id);
            let mut member = match (before, command) {
                (Some(known), _) => known.clone(),
                (None, Some(ArchivedCommand::MemberAdd { member })) if member.id.to_native() == id => {
                    rkyv::deserialize::<Member, rkyv::rancor::Error>(&**member)
                        .expect("a validated member has no part that can't be copied")
                }
                _ => nameless(id),
            };
            member.is_learner = !configuration.is_voter(NodeId(id));
            if before != Some(&member) {
                self.put_member(&member)?;
            }
        }
        Ok(())
    }

    pub(super) fn apply_member_update(&mut self, id: u64, peer_urls: Vec<String>) -> Result<Reply, MemberRefusal> {
        let known = read_members(&self.pager)?;
        let is_taken = |member: &Member| member.id != id && member.peer_urls.iter().any(|url| peer_urls.contains(url));
        if known.iter().any(is_taken) {
            return Err(MemberRefusal::Refused(Error::PeerUrlsExist));
        }
        let Some(mut member) = known.into_iter().find(|member| member.id == id) else {
            return Err(MemberRefusal::Refused(Error::MemberNotFound));
        };
        member.peer_urls = peer_urls;
        self.put_member(&member)?;
        Ok(Reply::Done)
    }
}

/// Why a member was not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemberRefusal {
    #[error(transparent)]
    Refused(Error),
    #[error(transparent)]
    Fault(#[from] Fault),
}
