//! Who leads (thesis 3.4)? Pre-vote (9.6) keeps a member that hears nobody from disturbing a group that works; a leader is defended by those
//! who hear it (4.2.3); a leader that a quorum no longer answers steps down (6.2). All three are needed: with a one-way or partial link
//! any two of them still allow endless elections.

use super::Raft;
use super::lease::Lease;
use crate::progress::Progress;
use crate::sync::Held;
use crate::{Body, Entry, EntryKind, HardState, Index, NodeId, POSITION_MAX, ProposeError, RaftError, Role, Term};
use bytes::Bytes;
use core::cmp::Reverse;

impl Raft {
    /// Hands leadership to a voter (thesis 3.10): proposals are refused until it leads or an election timeout has passed.
    pub fn transfer_leadership(&mut self, to: NodeId) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader { leader: self.leader });
        }
        if !self.log.configuration().is_voter(to) {
            return Err(ProposeError::NotVoter(to));
        }
        if to == self.config.id {
            return Ok(());
        }
        if let Some(to) = self.transferee {
            return Err(ProposeError::Transferring { to });
        }
        self.transferee = Some(to);
        self.election_elapsed = 0;
        self.maybe_finish_transfer(to);
        Ok(())
    }

    /// Gives up handing leadership over: proposals are taken again, and another voter can be chosen. The one that was chosen may
    /// campaign all the same.
    pub fn abandon_transfer(&mut self) {
        self.transferee = None;
    }

    /// On a leader: the voter that can lead soonest, but none of `except`. Of those that were heard within the shortest election
    /// timeout: one that was heard a moment ago before one that was not, the longest log before a shorter one.
    pub fn best_successor(&self, except: &[NodeId]) -> Option<NodeId> {
        let configuration = self.log.configuration();
        let moment = self.config.heartbeat_ticks.saturating_mul(2);
        let is_candidate = |id: &NodeId, progress: &Progress| {
            configuration.is_voter(*id) && !except.contains(id) && progress.silent_ticks < self.config.election_ticks
        };
        let rank =
            |progress: &Progress| (progress.silent_ticks <= moment, progress.matched, Reverse(progress.silent_ticks));
        let candidates = self.progress.iter().filter(|(id, progress)| is_candidate(id, progress));
        candidates.max_by_key(|(_, progress)| rank(progress)).map(|(id, _)| *id)
    }

    /// Stops leading now, whatever is on its way: for a leader whose disk has failed or stalls, or whose process ends. The
    /// [best successor](Raft::best_successor) is asked to campaign, so that the group does not wait for a timeout; where it lacks
    /// entries that are committed it loses, and another one is elected. A sole voter stops too. Nothing where not the leader.
    pub fn resign(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        if let Some(successor) = self.best_successor(&[]) {
            self.send(successor, Body::TimeoutNow);
        }
        self.become_follower(self.hard_state.term, None);
    }

    /// The leader that this member follows has ended, as far as the caller can tell: nobody's vote is refused for its sake any
    /// more. A wrong word costs an election at most, as the leader's next message makes it known again: who leads is
    /// decided by votes, and those are bound to terms. Kept back where a lease may rest on this member's silence.
    pub fn forget_leader(&mut self, leader: NodeId) {
        if self.role == Role::Follower && self.leader == Some(leader) && !self.backs_a_lease() {
            self.leader = None;
        }
    }

    /// The target campaigns once it has every entry. Said again at each of its signs of life: the request may be lost.
    pub(super) fn maybe_finish_transfer(&mut self, from: NodeId) {
        let has_all = self.progress.get(&from).is_some_and(|progress| progress.matched == self.log.last_index());
        if self.transferee == Some(from) && has_all {
            self.lease.bar();
            self.send(from, Body::TimeoutNow);
        }
    }

    pub(super) fn tick_leader(&mut self) {
        self.lease.tick();
        self.progress.values_mut().for_each(|progress| progress.silent_ticks = progress.silent_ticks.saturating_add(1));
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            self.transferee = None;
            if !self.check_quorum() {
                return;
            }
        }
        self.heartbeat_elapsed += 1;
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            if self.config.lease_reads {
                // An answer must tell which heartbeat it is to.
                self.reads.begin_round();
            }
            self.broadcast_heartbeat();
        }
    }

    /// Steps down where no quorum was heard from since the last check.
    fn check_quorum(&mut self) -> bool {
        let own = self.config.id;
        let is_active = |id| id == own || self.progress.get(&id).is_some_and(|progress| progress.is_active);
        let holds = self.log.configuration().is_quorum(is_active);
        self.progress.values_mut().for_each(|progress| progress.is_active = false);
        if !holds {
            self.become_follower(self.hard_state.term, None);
        }
        holds
    }

    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.hard_state.term, "terms never fall");
        if term > self.hard_state.term {
            self.hard_state = HardState { term, vote: None };
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.leave_role();
    }

    /// What every change of role drops.
    fn leave_role(&mut self) {
        self.votes.clear();
        self.progress.clear();
        self.transferee = None;
        self.snapshots_wanted.clear();
        self.reads.reset(&mut self.reads_aborted);
        self.reset_election_timeout();
    }

    pub(super) fn become_pre_candidate(&mut self) {
        if self.hard_state.term.0 >= POSITION_MAX {
            return;
        }
        self.role = Role::PreCandidate;
        self.leader = None;
        self.leave_role();
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        for to in self.other_voters() {
            let body = Body::PreVoteRequest { last_index, last_term };
            // Not `send`: the term is the one that it would campaign in.
            self.send_now.push((to, crate::Message { term: self.hard_state.term.next(), body }));
        }
        // Binds nobody, not even this member: needs no sync.
        self.count_vote(self.config.id, true);
    }

    /// Its requests wait for the sync of the vote *and of the log*: a grant given to a log that a crash then shortens would
    /// elect a leader without committed entries.
    fn become_candidate(&mut self, forced: bool) {
        self.role = Role::Candidate;
        self.leader = None;
        self.leave_role();
        self.hard_state = HardState { term: self.hard_state.term.next(), vote: Some(self.config.id) };
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        for to in self.other_voters() {
            self.hold(to, Body::VoteRequest { last_index, last_term, forced });
        }
        self.sync.hold(Held::OwnVote(self.hard_state.term));
    }

    fn other_voters(&self) -> alloc::vec::Vec<NodeId> {
        let configuration = self.log.configuration();
        let is_other_voter = |id: &NodeId| *id != self.config.id && configuration.is_voter(*id);
        configuration.members().into_iter().filter(is_other_voter).collect()
    }

    pub(super) fn count_own_vote(&mut self, term: Term) {
        if self.role == Role::Candidate && self.hard_state.term == term {
            self.count_vote(self.config.id, true);
        }
    }

    fn count_vote(&mut self, from: NodeId, granted: bool) {
        if self.votes.iter().all(|(voter, _)| *voter != from) {
            self.votes.push((from, granted));
        }
        let votes = &self.votes;
        let answered = |id: NodeId, answer: bool| votes.contains(&(id, answer));
        let configuration = self.log.configuration();
        let is_won = configuration.is_quorum(|id| answered(id, true));
        let is_lost = !configuration.is_quorum(|id| !answered(id, false));
        match self.role {
            Role::PreCandidate if is_won => self.become_candidate(false),
            Role::Candidate if is_won => self.become_leader(),
            Role::PreCandidate | Role::Candidate if is_lost => self.become_follower(self.hard_state.term, None),
            _ => {}
        }
    }

    fn become_leader(&mut self) {
        assert_eq!(self.hard_state.vote, Some(self.config.id), "a leader voted for itself");
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.leave_role();
        self.heartbeat_elapsed = 0;
        self.lease = Lease::default();
        let next = self.log.last_index().next();
        self.uncommitted_bytes = self.log.weight_bytes(self.log.committed(), self.log.last_index());
        // Entries of earlier terms commit only under one of this term, so there must be one (thesis 3.6.2, 6.4). The first of a log is the
        // configuration that the founders were started with: whoever joins later and reads the log from its start learns it.
        let (kind, payload) = match next {
            Index(1) => (EntryKind::Configuration, self.log.configuration().encode(&[])),
            _ => (EntryKind::Normal, Bytes::new()),
        };
        let entry = Entry { term: self.hard_state.term, index: next, kind, payload };
        self.uncommitted_bytes += entry.weight_bytes();
        self.log.append(entry);
        for id in self.log.configuration().members() {
            if id != self.config.id {
                self.progress.insert(id, Progress::new(next, &self.config));
            }
        }
    }

    /// A message of a later term. Returns false where it is to be dropped.
    pub(super) fn maybe_adopt_term(&mut self, from: NodeId, term: Term, body: &Body) -> bool {
        match body {
            Body::PreVoteRequest { .. } => !self.hears_leader() && !self.backs_a_lease(),
            Body::VoteRequest { forced, .. } if !forced && (self.hears_leader() || self.backs_a_lease()) => false,
            // A grant of what this member asked for; the term is adopted when it campaigns.
            Body::PreVoteResponse { granted: true } => true,
            Body::Append { .. } | Body::Commit { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                self.become_follower(term, Some(from));
                true
            }
            _ => {
                self.become_follower(term, None);
                true
            }
        }
    }

    /// Within the shortest election timeout after a word from the leader nobody else is voted for.
    fn hears_leader(&self) -> bool {
        self.role == Role::Leader || (self.leader.is_some() && self.election_elapsed < self.config.election_ticks)
    }

    /// A message of an earlier term. Whoever leads or campaigns there is told, or this member, isolated at a later term,
    /// would never be heard again.
    pub(super) fn answer_old_term(&mut self, from: NodeId, body: &Body) {
        match body {
            Body::PreVoteRequest { .. } => self.send(from, Body::PreVoteResponse { granted: false }),
            Body::VoteRequest { .. } => self.send(from, Body::VoteResponse { granted: false }),
            Body::Append { .. } | Body::Commit { .. } | Body::Heartbeat { .. } | Body::Snapshot(_) => {
                self.send(from, Body::NewerTerm);
            }
            _ => {}
        }
    }

    /// A message that only the leader of this very term sends.
    pub(super) fn follow(&mut self, from: NodeId) -> Result<(), RaftError> {
        if self.role == Role::Leader || self.leader.is_some_and(|leader| leader != from) {
            return Err(RaftError::TwoLeaders { from, term: self.hard_state.term });
        }
        if self.role != Role::Follower || self.leader.is_none() {
            self.become_follower(self.hard_state.term, Some(from));
        }
        self.election_elapsed = 0;
        self.leader_silence = 0;
        Ok(())
    }

    pub(super) fn handle_pre_vote_request(&mut self, from: NodeId, term: Term, last_index: Index, last_term: Term) {
        if term > self.hard_state.term && self.log.is_up_to_date(last_index, last_term) {
            self.send_now.push((from, crate::Message { term, body: Body::PreVoteResponse { granted: true } }));
        } else {
            self.send(from, Body::PreVoteResponse { granted: false });
        }
    }

    pub(super) fn handle_pre_vote_response(&mut self, from: NodeId, term: Term, granted: bool) {
        let is_answer = !granted || term == self.hard_state.term.next();
        if self.role == Role::PreCandidate && is_answer {
            self.count_vote(from, granted);
        }
    }

    /// A learner answers too: it may be a voter already and not know it. A member with an empty log answers as any other.
    pub(super) fn handle_vote_request(&mut self, from: NodeId, last_index: Index, last_term: Term, forced: bool) {
        let may_vote = match self.hard_state.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none() && (forced || !self.backs_a_lease()),
        };
        if may_vote && self.log.is_up_to_date(last_index, last_term) {
            self.hard_state.vote = Some(from);
            self.election_elapsed = 0;
            self.hold(from, Body::VoteResponse { granted: true });
        } else {
            self.send(from, Body::VoteResponse { granted: false });
        }
    }

    pub(super) fn handle_vote_response(&mut self, from: NodeId, granted: bool) {
        if self.role == Role::Candidate {
            self.count_vote(from, granted);
        }
    }

    /// The leader asks for this election, so there is no pre-vote, and voters need not have missed the leader. The
    /// configuration is asked here as everywhere else.
    pub(super) fn handle_timeout_now(&mut self, from: NodeId) {
        if self.leader == Some(from) && self.may_campaign() && self.hard_state.term.0 < POSITION_MAX {
            self.become_candidate(true);
        }
    }
}
