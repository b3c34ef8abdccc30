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

use ahash::AHashMap;
use bytes::Bytes;
use ringstone_pager::api::ReadTrees as _;
use ringstone_raft::{Index, Message, NodeId, ProposeError, Raft, Role};

use super::leases::SAY_INTERVAL;
use super::{Answer, Group, GroupError, NOBODY, Proposal, read_member};
use crate::command::Command;
use crate::entry::{Draft, EntryError, caller_of, request_and_attempt};
use crate::error::Error;
use crate::identity::promises::Standing;
use crate::trees::MEMBER;

/// Entries of this weight, in bytes, stay in memory in any case: for members that come back, or for who leads next.
const RETAINED_BYTES: u64 = 16 << 20;
/// Marks within this many bytes are one.
const MARK_BYTES: u64 = 4 << 10;

/// A proposal that only the leader can take.
#[derive(Debug)]
pub struct Forward {
    /// Who leads, as far as is known here.
    pub leader: NodeId,
    /// Who waits: the shard and the request id of the payload's envelope, for [`Group::forward_refused`].
    pub whom: (u32, u64),
    /// For [`Group::propose_forwarded`] there: an entry with a checksum, but without the clocks of its leader.
    pub payload: Bytes,
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

/// Requests of this member's shards that wait for their entry, where there are other members: a sole voter answers all.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    by_age: VecDeque<Begun>,
    waiting: AHashMap<(u32, u64), Held>,
}

#[derive(Debug)]
struct Begun {
    at: Duration,
    term: u64,
    attempt: u8,
    whom: (u32, u64),
}

#[derive(Debug)]
struct Held {
    /// As the entry's envelope has it: one that was not taken is followed by another.
    attempt: u8,
    forwarded: Option<Forwarded>,
}

/// What it takes to forward a proposal again.
#[derive(Debug)]
pub(super) struct Forwarded {
    /// When its caller began to wait.
    since: Duration,
    payload: Bytes,
}

/// Those that wait no longer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expired {
    /// Their leader is one of the past: their callers are told.
    unled: Vec<(u32, u64)>,
    /// So many waited for so long that their shards have told their callers.
    late: u64,
}

impl InFlight {
    /// `whom` has the request's own id.
    pub(super) fn begin(
        &mut self,
        at: Duration,
        term: u64,
        whom: (u32, u64),
        attempt: u8,
        forwarded: Option<Forwarded>,
    ) {
        if whom.0 == NOBODY || self.waiting.contains_key(&whom) {
            return;
        }
        self.waiting.insert(whom, Held { attempt, forwarded });
        self.by_age.push_back(Begun { at, term, attempt, whom });
    }

    /// True if it waited.
    pub(super) fn end(&mut self, whom: (u32, u64)) -> bool {
        !self.waiting.is_empty() && self.waiting.remove(&whom).is_some()
    }

    /// This attempt was not taken. None: it is not the one that is under way, whatever says so comes late.
    fn refuse(&mut self, whom: (u32, u64), attempt: u8) -> Option<Held> {
        self.waiting.get(&whom).filter(|held| held.attempt == attempt)?;
        self.waiting.remove(&whom)
    }

    /// Those that began before `limit`, or in a term before `applied_term`, and still wait.
    fn expire(&mut self, limit: Duration, applied_term: u64) -> Expired {
        let mut expired = Expired::default();
        // Neither terms nor times fall, so the oldest come first in both ways.
        while let Some(Begun { at, term, attempt, whom }) = self.by_age.front() {
            let (is_late, is_unled) = (*at < limit, *term < applied_term);
            if !is_late && !is_unled {
                break;
            }
            if self.waiting.get(whom).is_some_and(|held| held.attempt == *attempt) {
                self.waiting.remove(whom);
                if is_late {
                    expired.late += 1;
                } else {
                    expired.unled.push(*whom);
                }
            }
            self.by_age.pop_front();
        }
        expired
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

    /// The leader has not taken a proposal ([`Forward::whom`]), or it never came there: nothing will come of that attempt. Where
    /// another leader may take it, it waits for that one; else its caller learns so at once.
    pub fn forward_refused(&mut self, whom: (u32, u64), error: Error) {
        let (shard, (request_id, attempt)) = (whom.0, request_and_attempt(whom.1));
        let Some(held) = self.in_flight.refuse((shard, request_id), attempt) else { return };
        let is_unled = matches!(error, Error::NoLeader | Error::NotLeader | Error::LeaderChanged);
        if is_unled
            && let Some(Forwarded { since, payload }) = held.forwarded
            && let Some(draft) = Draft::of_sealed(&payload).ok().and_then(Draft::next_attempt)
        {
            return self.wait_for_leader(since, vec![Proposal { draft, shard, request_id }]);
        }
        self.shared.proposals_failed.fetch_add(1, Ordering::Relaxed);
        self.outputs.answers.push(Answer { shard, request_id, outcome: Err(error) });
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

    pub(super) fn forward(&mut self, since: Duration, leader: NodeId, proposals: Vec<Proposal>) {
        let (now, term) = (self.now, self.raft.role().term.0);
        for proposal in proposals {
            let (whom, attempt) = ((proposal.shard, proposal.request_id), proposal.draft.attempt());
            let payload = proposal.draft.seal(0, 0);
            let forwarded = Forwarded { since, payload: payload.clone() };
            self.in_flight.begin(now, term, whom, attempt, Some(forwarded));
            let whom = caller_of(&payload).expect("it has an envelope");
            self.outputs.forward.push(Forward { leader, whom, payload });
        }
    }

    /// A tick's part: who waits for a leader of the past is told that the outcome is unknown; who has waited for too long was told
    /// by its shard, and is forgotten.
    pub(super) fn expire_requests(&mut self) {
        let limit = self.now.saturating_sub(self.shared.config.request_timeout());
        let Expired { unled, late } = self.in_flight.expire(limit, self.state.applied_term);
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

    fn unled(whom: &[(u32, u64)]) -> Expired {
        Expired { unled: whom.to_vec(), late: 0 }
    }

    #[test]
    fn who_waits_too_long_is_forgotten_once() {
        let at = Duration::from_secs;
        let mut in_flight = InFlight::default();
        in_flight.begin(at(1), 1, (0, 7), 0, None);
        in_flight.begin(at(2), 1, (0, 8), 0, None);
        in_flight.begin(at(9), 2, (0, 9), 0, None);
        in_flight.begin(at(9), 2, (NOBODY, 0), 0, None);
        assert!(in_flight.end((0, 8)) && !in_flight.end((0, 8)));
        assert_eq!(in_flight.expire(at(5), 1), Expired { unled: vec![], late: 1 });
        assert_eq!(in_flight.expire(at(9), 2), Expired::default());
        assert_eq!(in_flight.expire(at(10), 2), Expired { unled: vec![], late: 1 });
        assert!(in_flight.waiting.is_empty());
    }

    #[test]
    fn who_waits_for_a_leader_of_the_past_is_told_at_once() {
        let mut in_flight = InFlight::default();
        in_flight.begin(Duration::ZERO, 4, (0, 7), 0, None);
        in_flight.begin(Duration::ZERO, 5, (0, 8), 0, None);
        assert_eq!(in_flight.expire(Duration::ZERO, 4), unled(&[]));
        assert_eq!(in_flight.expire(Duration::ZERO, 5), unled(&[(0, 7)]));
        // An attempt that was not taken says nothing of the one after it.
        in_flight.begin(Duration::ZERO, 5, (0, 9), 0, None);
        assert!(in_flight.end((0, 9)));
        in_flight.begin(Duration::ZERO, 6, (0, 9), 1, None);
        assert_eq!(in_flight.expire(Duration::ZERO, 6), unled(&[(0, 8)]));
        assert_eq!(in_flight.expire(Duration::ZERO, 7), unled(&[(0, 9)]));
    }

    /// The refusal of the first attempt came twice; the second one was taken for that of the next attempt, which the log had by
    /// then, and a third one was made: the put came about twice (simulator's seed 41764).
    #[test]
    fn a_refusal_counts_for_its_own_attempt() {
        let mut in_flight = InFlight::default();
        let held = || Some(Forwarded { since: Duration::ZERO, payload: Bytes::new() });
        in_flight.begin(Duration::ZERO, 1, (0, 7), 0, held());
        assert!(in_flight.refuse((0, 7), 0).is_some());
        in_flight.begin(Duration::ZERO, 1, (0, 7), 1, held());
        assert!(in_flight.refuse((0, 7), 0).is_none());
        assert!(in_flight.end((0, 7)), "it is still waited for");
        assert!(in_flight.refuse((0, 7), 1).is_none());
        assert_eq!(request_and_attempt(7 | (3 << 56)), (7, 3));
    }

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
