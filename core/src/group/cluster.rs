//! The group as one of several members: what it says to the others and hears from them, and what it takes from them.
//!
//! ```text
//!  step(from, message) ──> raft ──> Outputs::send       what promises nothing, at once; what promises durability only from
//!                                                        log_completed: raft's type AfterSync has no other way out
//!  propose(..) on a follower ──> Outputs::forward ~~> propose_forwarded(..) on the leader ──> log ──> answered where it applies
//! ```
//!
//! A proposal that was forwarded, or whose leader lost its office, has an unknown outcome until its entry is applied here. Its
//! caller is told so by its shard after [`request_timeout`](crate::config::ServerConfig::request_timeout), as etcd does, or from
//! here as soon as an entry of a later term is applied: what the old leader had not committed by then is in nobody's log any
//! more, and a client need not wait seconds to ask again. (Unknown all the same: its message may lie with a leader that was
//! stopped.) One that the leader has certainly not taken waits for the next one (unled.rs).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringstone_pager::api::ReadTrees as _;
use ringstone_raft::{Index, Message, NodeId, ProposeError, Raft, Role};

use super::asks::{Call, Whom};
use super::in_flight::{Again, Expired};
use super::leases::SAY_INTERVAL;
use super::{Answer, Group, GroupError, Proposal, read_member};
use crate::command::Command;
use crate::entry::{Draft, EntryError, caller_of};
use crate::error::Error;
use crate::identity::promises::Standing;
use crate::trees::MEMBER;

/// Entries of this weight, in bytes, stay in memory in any case: for members that come back, or for who leads next.
const RETAINED_BYTES: u64 = 16 << 20;
/// Marks within this many bytes are one.
const MARK_BYTES: u64 = 4 << 10;

/// What only the leader can take.
#[derive(Debug)]
pub struct Forward {
    /// Who leads, as far as is known here.
    pub leader: NodeId,
    /// Who waits, and which attempt it is: the shard and the request id as an entry's envelope has it. For the leader's answer.
    pub whom: (u32, u64),
    /// What it is.
    pub call: Call,
}

/// Why a proposal of another member was not taken. It was not proposed: nothing will come of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Its bytes are not those of a proposal.
    #[error("forwarded proposal: {0}")]
    Malformed(#[from] EntryError),
    /// Raft does not take it; it may name the leader.
    #[error("forwarded proposal: {0}")]
    Refused(#[from] ProposeError),
    /// Not all members know what it is.
    #[error("forwarded proposal: not all members know entries of kind {0}")]
    Kind(u16),
}

impl ForwardError {
    /// What its caller is told.
    #[must_use]
    pub fn told(&self) -> Error {
        match self {
            ForwardError::Refused(ProposeError::NotLeader { .. } | ProposeError::Transferring { .. }) => {
                Error::LeaderChanged
            }
            ForwardError::Refused(_) => Error::TooManyRequests,
            ForwardError::Kind(_) | ForwardError::Malformed(EntryError::UnknownKind { .. }) => Error::NotCapable,
            ForwardError::Malformed(_) => Error::Unhealthy,
        }
    }
}

/// Up to where raft's log may be forgotten. A weight of applied entries is kept in any case, and more of them, up to a bound,
/// while a member that answers has not acknowledged them: a busy one is behind for seconds, and an image would end its
/// process and the connections of its clients.
#[derive(Debug)]
pub(super) struct Retained {
    marks: VecDeque<(u64, u64)>,
    bytes: u64,
    /// Applied since the last mark.
    unmarked: u64,
    bytes_kept: u64,
    bytes_max: u64,
}

impl Retained {
    /// `bytes_max` is for members that are behind.
    pub(super) fn new(bytes_max: u64) -> Retained {
        Retained { marks: VecDeque::new(), bytes: 0, unmarked: 0, bytes_kept: RETAINED_BYTES.min(bytes_max), bytes_max }
    }

    pub(super) fn note(&mut self, bytes: usize) {
        self.unmarked += bytes as u64;
    }

    fn clear(&mut self) {
        self.marks.clear();
        (self.bytes, self.unmarked) = (0, 0);
    }

    /// All up to `applied` is applied, members that answer need what is behind `wanted`: what is not needed any more.
    fn publish(&mut self, applied: u64, wanted: Option<u64>) -> Option<u64> {
        let fresh = core::mem::take(&mut self.unmarked);
        self.bytes += fresh;
        match self.marks.back_mut() {
            Some((index, bytes)) if *bytes < MARK_BYTES => (*index, *bytes) = (applied, *bytes + fresh),
            _ => self.marks.push_back((applied, fresh)),
        }
        let mut to = None;
        while self.bytes > self.bytes_kept
            && let Some(&(index, bytes)) = self.marks.front()
            && (self.bytes > self.bytes_max || wanted.is_none_or(|wanted| index <= wanted))
        {
            self.marks.pop_front();
            self.bytes -= bytes;
            to = Some(index);
        }
        to
    }
}

impl Group {
    /// Raft's side, for status and metrics.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// True while this member alone is the group.
    pub(super) fn is_sole(&self) -> bool {
        let configuration = self.raft.configuration();
        configuration.voters() == [self.raft.id()] && configuration.learners().is_empty() && !configuration.is_joint()
    }

    /// Raft neither hears nor says anything. So too in a member that stops and has handed over: what it was told on and on would
    /// never be all applied, and the others need not wait for its word any more.
    pub(super) fn is_deaf(&self) -> bool {
        let has_left = self.stopping && !self.is_resigning() && !self.is_sole();
        self.is_installing() || self.on_trial || has_left
    }

    /// Takes a message from another member. One that can't be is dropped.
    ///
    /// # Errors
    /// [`GroupError::Raft`]: going on would not be safe.
    pub fn step(&mut self, now: Duration, from: NodeId, message: Message) -> Result<(), GroupError> {
        if self.is_deaf() {
            return Ok(());
        }
        self.now = now;
        match self.raft.step(from, message) {
            Ok(()) => Ok(()),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                tracing::warn!(error = %error, "a message of another member is dropped");
                Ok(())
            }
        }
    }

    /// Hands leadership to a voter.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadLeaderTransferee`], [`Error::TooManyRequests`] while it is being handed over already.
    pub fn transfer_leadership(&mut self, to: NodeId) -> Result<(), Error> {
        self.raft.transfer_leadership(to).map_err(|error| match error {
            ProposeError::NotVoter(_) => Error::BadLeaderTransferee,
            ProposeError::NotLeader { .. } => Error::NotLeader,
            _ => Error::TooManyRequests,
        })
    }

    /// For a member that ends at once because of its state: another one is asked to campaign, and what is to be said for that
    /// is returned.
    pub fn hand_over(&mut self) -> Vec<(NodeId, Message)> {
        self.raft.resign();
        self.raft.take_actions().send_now
    }

    /// What the disk held when this process began, but for how often the member has mended itself.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// From now on raft neither hears nor says anything, as if this member were switched off: whether it has kept what it has
    /// promised is not known yet.
    pub fn begin_trial(&mut self) {
        self.on_trial = true;
    }

    /// It is one of the members again.
    pub fn end_trial(&mut self) {
        self.on_trial = false;
    }

    /// A member may have lost what it had acknowledged: [`Raft::forget`].
    pub fn forget(&mut self, member: NodeId) -> bool {
        self.raft.forget(member)
    }

    /// What it acknowledges from now on counts: [`Raft::trust`].
    pub fn trust(&mut self, member: NodeId) {
        self.raft.trust(member);
    }

    /// Sets how many bytes of applied entries are kept in memory for the others, at most.
    pub fn set_retained_bytes(&mut self, bytes: u64) {
        self.retained = Retained::new(bytes);
    }

    /// Takes the proposal of another member: answered there, when it applies the entry.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub fn propose_forwarded(&mut self, now: Duration, payload: &[u8]) -> Result<(), ForwardError> {
        let draft = Draft::of_sealed(payload)?;
        self.check_kind(draft.kind()).map_err(|_| ForwardError::Kind(draft.kind()))?;
        self.now = now;
        let clock = self.lessor.clock(now).0;
        self.raft.propose([draft.seal(clock, self.wall_ms)])?;
        Ok(())
    }

    /// Who leads, where that is another member.
    pub fn leader_elsewhere(&self) -> Option<NodeId> {
        self.forward_to()
    }

    /// There are other members, as far as raft knows.
    pub fn has_others(&self) -> bool {
        !self.is_sole() && !self.raft.configuration().voters().is_empty()
    }

    /// Another one when [`Group::members`] may say something else.
    #[must_use]
    pub fn members_version(&self) -> (u64, Index) {
        (self.members_changes, self.raft.configuration_index())
    }

    /// Members of the published state, and those in force that it does not have yet: founders, and whom the log adds. Without
    /// one of these what makes them members may never be applied.
    ///
    /// # Errors
    /// [`ringstone_pager::api::Fault`]: their page is not in memory, or damaged.
    pub fn members(&self) -> ringstone_pager::api::Access<Vec<crate::command::Member>> {
        let mut members = super::read_members(&self.pager)?;
        let in_force = self.raft.configuration().members();
        let is_known = |id: u64| members.iter().any(|member| member.id == id);
        let founders = super::founders(&self.shared.config);
        let ahead = self.announced.iter().chain(&founders);
        let ahead = ahead.filter(|member| in_force.contains(&NodeId(member.id)) && !is_known(member.id));
        let ahead: Vec<_> = ahead.cloned().collect();
        members.extend(ahead);
        Ok(members)
    }

    /// On a follower: whom the proposals are for.
    pub(super) fn forward_to(&self) -> Option<NodeId> {
        let role = self.raft.role();
        if role.role == Role::Leader || self.is_installing() { None } else { role.leader }
    }

    /// A proposal that nothing will come of.
    pub(super) fn proposal_failed(&mut self, (shard, request_id): Whom, error: Error) {
        self.shared.proposals_failed.fetch_add(1, Ordering::Relaxed);
        self.outputs.answers.push(Answer { shard, request_id, outcome: Err(error) });
    }

    pub(super) fn forward(&mut self, since: Duration, leader: NodeId, proposals: Vec<Proposal>) {
        let (now, term) = (self.now, self.raft.role().term.0);
        for proposal in proposals {
            let (whom, attempt) = ((proposal.shard, proposal.request_id), proposal.draft.attempt());
            let payload = proposal.draft.seal(0, 0);
            let again = Again { since, call: Call::Proposal(payload.clone()) };
            self.in_flight.begin(now, term, whom, attempt, Some(again));
            let whom = caller_of(&payload).expect("it has an envelope");
            self.outputs.forward.push(Forward { leader, whom, call: Call::Proposal(payload) });
        }
    }

    /// A tick's part: who waits for a leader of the past is told that the outcome is unknown, or the next one is asked; who has
    /// waited for too long was told by its shard, and is forgotten.
    pub(super) fn expire_requests(&mut self) {
        let limit = self.now.saturating_sub(self.shared.config.request_timeout());
        let Expired { unled, again, late } = self.in_flight.expire(limit, self.state.applied_term);
        again.into_iter().for_each(|(whom, held)| self.call_refused(whom, held, Error::LeaderChanged));
        self.shared.proposals_failed.fetch_add(unled.len() as u64 + late, Ordering::Relaxed);
        self.outputs.answers.extend(unled.into_iter().map(|(shard, request_id)| Answer {
            shard,
            request_id,
            outcome: Err(Error::TimeoutLeaderFailure),
        }));
        self.expire_unled(limit);
        self.expire_reads(limit);
    }

    /// Forgets entries that nobody needs: a restart reads them from the log's files.
    pub(super) fn compact_raft(&mut self) {
        let applied = self.state.applied_index;
        if self.is_sole() {
            self.retained.clear();
            self.raft.compact(Index(applied));
            return;
        }
        self.images.applied(self.retained.unmarked);
        let wanted = self.raft.wanted_by_others().map(|index| index.0);
        if let Some(to) = self.retained.publish(applied, wanted) {
            // Whoever gets an image needs what comes after it.
            let to = self.images.floor().map_or(to, |floor| to.min(floor));
            self.raft.compact(Index(to));
        }
    }

    /// A follower's tick: its name and URLs, through the leader, until they are known.
    pub(super) fn publish_attributes(&mut self) -> Result<(), GroupError> {
        let Some(leader) = self.forward_to() else { return Ok(()) };
        let is_due = self.said_first.is_none_or(|(_, at)| self.now.saturating_sub(at) >= SAY_INTERVAL);
        if !is_due || self.state.cluster_id == 0 || self.absent.is_some() || self.removal.is_some() {
            return Ok(());
        }
        let Some((bootstrap, attributes)) = self.first.take() else { return Ok(()) };
        if self.is_unknown(&attributes)?.unwrap_or(true) {
            self.said_first = Some((self.raft.role().term.0, self.now));
            let proposal = self.nobodys(&attributes);
            self.forward(self.now, leader, vec![proposal]);
            self.first = Some((bootstrap, attributes));
        }
        Ok(())
    }

    /// Does the member tree have other attributes, or none? None: a page is absent.
    pub(super) fn is_unknown(&mut self, attributes: &Command) -> Result<Option<bool>, GroupError> {
        let Command::MemberAttributes { member_id, name, client_urls } = attributes else { return Ok(Some(false)) };
        let known = self.pager.get(MEMBER, &member_id.to_be_bytes()).map(|found| found.and_then(read_member));
        let known = self.present(known)?;
        Ok(known.map(|known| known.is_none_or(|known| known.name != *name || known.client_urls != *client_urls)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_weight_is_kept() {
        let kept_from = |wanted: fn(u64) -> Option<u64>| {
            let mut retained = Retained { bytes_kept: 10 * MARK_BYTES, ..Retained::new(30 * MARK_BYTES) };
            let publish = |applied| {
                retained.note(MARK_BYTES as usize);
                retained.publish(applied, wanted(applied))
            };
            (1..=100).filter_map(publish).last()
        };
        assert_eq!(kept_from(|_| None), Some(90), "nobody answers");
        assert_eq!(kept_from(Some), Some(90), "nobody is behind");
        assert_eq!(kept_from(|applied| Some(applied.saturating_sub(20))), Some(80), "one is behind");
        assert_eq!(kept_from(|_| Some(1)), Some(70), "by more than is kept");
    }
}
