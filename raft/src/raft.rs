//! The state machine: what it is told, and what it asks for.

mod election;
mod lease;
mod membership;
mod reading;
mod replication;

use self::lease::Lease;
use crate::log::Log;
use crate::progress::Progress;
use crate::reads::Reads;
use crate::sync::{Held, SyncQueue};
use crate::{
    Actions, AfterSync, Body, Config, Configuration, Entry, EntryKind, HardState, Index, Message, NodeId, Persist,
    Positions, ProposeError, RaftError, ReadState, Role, RoleChange, Snapshot, SnapshotMetadata, Stable, SyncToken,
    Term,
};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// One member of one group.
///
/// Method grammar: inputs are `tick`, `campaign`, `step`, `propose*`, `read_index`, `transfer_leadership`,
/// `abandon_transfer`, `resign`, `forget_leader`, `send_snapshot`, `report_*`, and the past participles
/// `persisted`, `applied` that say what the caller has done;
/// `take_actions` is the only output, to be called after any inputs and after `persisted`. Inside, `become_*` changes the
/// role, `handle_*` takes one kind of message, `maybe_*` may do nothing, `send` is for messages that promise nothing and
/// `hold` for those that wait for a sync. No method blocks, reads a clock or allocates per entry.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) log: Log,
    hard_state: HardState,
    hard_state_handed: HardState,
    role: Role,
    leader: Option<NodeId>,
    reported: RoleChange,
    /// Mixed from the arguments of `tick`.
    random: u64,
    /// Ticks since a leader was heard; on a leader, since the last check of its quorum.
    election_elapsed: u32,
    election_timeout: u32,
    heartbeat_elapsed: u32,
    /// Answers to the campaign that is running.
    votes: Vec<(NodeId, bool)>,
    /// On a leader: every other member.
    pub(crate) progress: BTreeMap<NodeId, Progress>,
    /// On a leader: who is to lead next.
    pub(crate) transferee: Option<NodeId>,
    /// On a leader: weight of the entries behind the commit.
    uncommitted_bytes: usize,
    /// An image that the next `Persist` must carry.
    install: Option<Snapshot>,
    reads: Reads,
    lease: Lease,
    /// Ticks since a leader's message, of whatever term: what a lease rests on.
    leader_silence: u32,
    sync: SyncQueue,
    send_now: Vec<(NodeId, Message)>,
    reads_ready: Vec<ReadState>,
    reads_aborted: Vec<u64>,
    snapshots_wanted: Vec<NodeId>,
}

impl Raft {
    /// A member as it starts: a follower that waits. Refuses settings out of bounds and a log that does not fit together.
    pub fn new(config: Config, stable: Stable) -> Result<Raft, RaftError> {
        config.check()?;
        stable.check()?;
        let mut raft = Raft {
            random: config.id.0,
            log: Log::new(stable.snapshot, stable.entries, stable.applied),
            hard_state: stable.hard_state,
            hard_state_handed: stable.hard_state,
            role: Role::Follower,
            leader: None,
            reported: RoleChange { role: Role::Follower, term: stable.hard_state.term, leader: None },
            election_elapsed: 0,
            election_timeout: config.election_ticks,
            heartbeat_elapsed: 0,
            votes: Vec::new(),
            progress: BTreeMap::new(),
            transferee: None,
            uncommitted_bytes: 0,
            install: None,
            reads: Reads::default(),
            lease: Lease::default(),
            // Before the restart it may have heard a leader that now has a lease.
            leader_silence: if stable.hard_state.term == Term(0) { u32::MAX } else { 0 },
            sync: SyncQueue::default(),
            send_now: Vec::new(),
            reads_ready: Vec::new(),
            reads_aborted: Vec::new(),
            snapshots_wanted: Vec::new(),
            config,
        };
        raft.reset_election_timeout();
        Ok(raft)
    }

    /// One tick of the caller's clock. `random` is any number that differs between members; elections are spread by it.
    pub fn tick(&mut self, random: u64) {
        self.random = mix(self.random ^ random);
        self.reads.tick(self.config.election_ticks, &mut self.reads_aborted);
        self.leader_silence = self.leader_silence.saturating_add(1);
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.role == Role::Leader {
            self.tick_leader();
        } else if self.election_elapsed >= self.election_timeout {
            self.leader = None;
            self.campaign();
        }
    }

    /// Starts an election now, with a pre-vote, where this member is a voter and does not lead. A sole voter calls it at
    /// start and leads as soon as its new term is persisted. Does nothing while the vote of its last campaign is on its way
    /// to the disk (on a disk slower than the election timeout it would campaign for ever), and, with
    /// [`Config::lease_reads`], while a leader may count on it.
    pub fn campaign(&mut self) {
        let awaits_own_vote = self.role == Role::Candidate && !self.votes.contains(&(self.config.id, true));
        if self.role != Role::Leader && self.may_campaign() && !awaits_own_vote && !self.backs_a_lease() {
            self.become_pre_candidate();
        }
    }

    /// Takes a message from another member. An error that [is fatal](RaftError::is_fatal) must stop the member; any other
    /// means that the message was dropped.
    pub fn step(&mut self, from: NodeId, message: Message) -> Result<(), RaftError> {
        message.validate(from)?;
        if from == self.config.id {
            return Err(RaftError::Malformed { from, what: "sent by this member itself" });
        }
        let term = message.term;
        if term < self.hard_state.term {
            self.answer_old_term(from, &message.body);
            return Ok(());
        }
        if term > self.hard_state.term && !self.maybe_adopt_term(from, term, &message.body) {
            return Ok(());
        }
        let outcome = self.dispatch(from, term, message.body);
        self.log.positions().assert_order();
        outcome
    }

    fn dispatch(&mut self, from: NodeId, term: Term, body: Body) -> Result<(), RaftError> {
        match body {
            Body::PreVoteRequest { last_index, last_term } => {
                self.handle_pre_vote_request(from, term, last_index, last_term);
            }
            Body::PreVoteResponse { granted } => self.handle_pre_vote_response(from, term, granted),
            Body::VoteRequest { last_index, last_term, forced } => {
                self.handle_vote_request(from, last_index, last_term, forced);
            }
            Body::VoteResponse { granted } => self.handle_vote_response(from, granted),
            Body::Append { previous_index, previous_term, committed, entries } => {
                self.follow(from)?;
                self.handle_append(from, previous_index, previous_term, committed, entries)?;
            }
            Body::AppendAccepted { matched } => self.handle_append_accepted(from, matched)?,
            Body::AppendRejected { rejected, hint_index, hint_term } => {
                self.handle_append_rejected(from, rejected, hint_index, hint_term);
            }
            Body::Commit { index, entry_term, committed } => {
                self.follow(from)?;
                self.handle_commit(index, entry_term, committed);
            }
            Body::Heartbeat { committed, round } => {
                self.follow(from)?;
                self.handle_heartbeat(from, committed, round)?;
            }
            Body::HeartbeatResponse { round, kinds_known } => {
                self.handle_heartbeat_response(from, round, kinds_known);
            }
            Body::NewerTerm => {}
            Body::ReadRequest { incarnation, context } => self.handle_read_request(from, incarnation, context),
            Body::ReadResponse { incarnation, context, index } => {
                self.handle_read_response(incarnation, context, index);
            }
            Body::TimeoutNow => self.handle_timeout_now(from),
            Body::Snapshot(snapshot) => {
                self.follow(from)?;
                self.handle_snapshot(from, snapshot);
            }
        }
        Ok(())
    }

    /// Appends a batch: every payload becomes an entry, in order, or none does. Returns the index of the first. Nothing is
    /// on disk and nothing is agreed when this returns: an entry counts when it comes back in [`Actions::committed`] with
    /// the same index *and term*.
    pub fn propose(&mut self, payloads: impl IntoIterator<Item = Bytes>) -> Result<Index, ProposeError> {
        self.check_may_propose()?;
        let first = self.log.last_index().next();
        for payload in payloads {
            if payload.is_empty() {
                self.log.cut(first);
                return Err(ProposeError::Empty);
            }
            let index = self.log.last_index().next();
            self.log.append(Entry { term: self.hard_state.term, index, kind: EntryKind::Normal, payload });
        }
        if self.log.last_index() < first {
            return Err(ProposeError::Empty);
        }
        self.uncommitted_bytes += self.log.weight_bytes(first.previous(), self.log.last_index());
        Ok(first)
    }

    fn check_may_propose(&self) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader { leader: self.leader });
        }
        if let Some(to) = self.transferee {
            return Err(ProposeError::Transferring { to });
        }
        if self.uncommitted_bytes >= self.config.uncommitted_bytes_max {
            return Err(ProposeError::Busy);
        }
        Ok(())
    }

    /// The batch of `token`, and every batch before it, is on disk: returns what may now be sent. Tokens come back in the
    /// order in which they were handed out. Call `take_actions` after it.
    pub fn persisted(&mut self, token: SyncToken) -> AfterSync {
        let batch = self.sync.acknowledge(token);
        self.log.persisted_to(batch.durable);
        if let Some(index) = batch.installed {
            self.log.installed(index);
        }
        let mut after = AfterSync::default();
        for promise in batch.held {
            match promise {
                Held::Send(to, message) => after.send.push((to, message)),
                Held::OwnVote(term) => self.count_own_vote(term),
            }
        }
        if self.role == Role::Leader {
            self.maybe_commit();
        }
        self.log.positions().assert_order();
        after
    }

    /// The state has applied everything up to `index`. Bounds what is handed out; needs no durability.
    pub fn applied(&mut self, index: Index) {
        self.log.applied_to(index);
    }

    /// Forgets entries up to `index`, which must be applied and *durably* covered by the caller's state. Followers that
    /// need them get an image instead.
    pub fn compact(&mut self, index: Index) {
        self.log.compact(index);
    }

    /// Term and configuration at an index: what a checkpoint of the state at `index` must record. `None` where the log no
    /// longer or not yet reaches.
    pub fn metadata_at(&self, index: Index) -> Option<SnapshotMetadata> {
        self.log.metadata_at(index)
    }

    /// Everything there is to do since the last call. Bounded by the limits of [`Config`]; where entries wait for
    /// [`Raft::applied`], they come with a later call.
    pub fn take_actions(&mut self) -> Actions {
        self.maybe_start_read_round();
        self.replicate();
        if self.role == Role::Leader {
            self.maybe_leave_office();
        }
        let persist = self.take_persist();
        let committed = self.log.take_deliverable(self.config.unapplied_bytes_max);
        self.log.positions().assert_order();
        Actions {
            send_now: core::mem::take(&mut self.send_now),
            persist,
            committed,
            reads: core::mem::take(&mut self.reads_ready),
            reads_aborted: core::mem::take(&mut self.reads_aborted),
            snapshots_wanted: core::mem::take(&mut self.snapshots_wanted),
            became: self.take_role_change(),
        }
    }

    fn take_persist(&mut self) -> Option<Persist> {
        let hard_state = (self.hard_state != self.hard_state_handed).then_some(self.hard_state);
        if hard_state.is_none() && self.install.is_none() && !self.log.has_unhanded() {
            for promise in self.sync.settle() {
                match promise {
                    Held::Send(to, message) => self.send_now.push((to, message)),
                    Held::OwnVote(_) => unreachable!("a vote for oneself changes the hard state"),
                }
            }
            return None;
        }
        let snapshot = self.install.take();
        let (truncate_from, entries) = self.log.take_unhanded();
        self.hard_state_handed = self.hard_state;
        let installed = snapshot.as_ref().map(|snapshot| snapshot.metadata.index);
        let token = self.sync.issue(self.log.last_index(), installed);
        Some(Persist { token, hard_state, snapshot, truncate_from, entries })
    }

    fn take_role_change(&mut self) -> Option<RoleChange> {
        let now = self.role_now();
        let is_news = now != self.reported;
        self.reported = now;
        is_news.then_some(now)
    }

    fn role_now(&self) -> RoleChange {
        RoleChange { role: self.role, term: self.hard_state.term, leader: self.leader }
    }

    /// This member.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Role, term and leader.
    pub fn role(&self) -> RoleChange {
        self.role_now()
    }

    /// On a leader: whom leadership is being handed to. No proposal is taken meanwhile.
    pub fn transferee(&self) -> Option<NodeId> {
        self.transferee
    }

    /// The log's positions.
    pub fn positions(&self) -> Positions {
        self.log.positions()
    }

    /// An image was taken in place of the log, and [`Raft::persisted`] has not said yet that it is installed.
    pub fn is_installing(&self) -> bool {
        self.log.is_installing()
    }

    /// Where the configuration in force stands: another one when it has changed.
    pub fn configuration_index(&self) -> Index {
        self.log.configuration_index()
    }

    /// The configuration in force: the latest in the log, committed or not.
    pub fn configuration(&self) -> &Configuration {
        self.log.configuration()
    }

    fn is_voter(&self) -> bool {
        self.log.configuration().is_voter(self.config.id)
    }

    /// A voter of the configuration in force may campaign, and, until that is known to be committed, one of those that it
    /// replaces: the removed leader may be the only one that has the entry, and the others then wait for its vote while it
    /// would refuse theirs. Its votes are counted by the configuration in force all the same, so it does not count itself.
    fn may_campaign(&self) -> bool {
        self.log.open_configurations().any(|configuration| configuration.is_voter(self.config.id))
    }

    fn send(&mut self, to: NodeId, body: Body) {
        self.send_now.push((to, Message { term: self.hard_state.term, body }));
    }

    /// For messages that promise durability: they leave when all that was handed out so far, and what the next `Persist`
    /// carries, is synced.
    fn hold(&mut self, to: NodeId, body: Body) {
        self.sync.hold(Held::Send(to, Message { term: self.hard_state.term, body }));
    }

    fn reset_election_timeout(&mut self) {
        self.random = mix(self.random);
        self.election_elapsed = 0;
        let spread = self.random % u64::from(self.config.election_ticks);
        self.election_timeout = self.config.election_ticks + spread as u32;
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014): spreads whatever the caller's numbers are.
fn mix(seed: u64) -> u64 {
    let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}
