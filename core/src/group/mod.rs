//! A group: one raft log, its WAL, its page file and its revision counter. A state machine without I/O.
//!
//! ```text
//!  propose(now, proposals)    log_completed(..)   pages_completed(..)   brought_in(run)   tick(now, random)
//!            |                      |                    |                   |                |
//!            +----------------------+------- Group ------+-------------------+----------------+
//!  turn(now): raft -> log records -> (synced) -> committed -> apply -> publish -> Outputs
//!            |                      |                    |
//!        poll_log_io()        poll_pages_io()      take_outputs(): answers, events, absent page
//! ```
//!
//! Order that every answer has behind it: proposed, submitted, synced, committed, applied, published. An answer leaves
//! with the publish of its batch, never before: that is what makes a read of the published root linearizable on a sole
//! voter. Applied entries and their index become visible and durable in one step, with the root record.

mod ahead;
mod apply;
mod ballots;
mod change;
mod checkpoint;
mod cluster;
mod divergence;
mod failover;
mod force;
mod install;
mod kinds;
mod landing;
mod leases;
mod membership;
mod open;
mod reads;
mod records;
mod repair;
mod replay;
mod restore;
mod shrink;
mod unled;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use ringstone_pager::api::{Access, Fault, PageRun, WriteTrees as _};
use ringstone_pager::disk as pages;
use ringstone_pager::{CheckpointError, Pager, Reader};
use ringstone_proto::etcdserverpb::{AlarmMember, LeaseGrantResponse};
use ringstone_raft::{EntryKind, Index, Message, NodeId, Persist, Raft, RaftError, Role, SnapshotMetadata, SyncToken};
use ringstone_wal::{BatchNumber, HolderId, Kind, Log, Record, WalError};

use crate::command::Command;
use crate::entry::Draft;
use crate::error::Error;
use crate::event::Event;
use crate::identity::promises::Standing;
use crate::lease::lessor::Lessor;
use crate::metrics::ShardMetrics;
use crate::mvcc::{self, Comparing, Removal};
use crate::shared::Shared;
use crate::state::{State, StateError};

pub use apply::read_member;
pub use change::MemberChange;
pub use checkpoint::CheckpointPace;
pub use cluster::{Forward, ForwardError};
pub use divergence::{SUM_BYTES, Sum, VERDICT_BYTES, Verdict};
pub use kinds::features_of_kinds;
pub use landing::ImageCosts;
pub use leases::KeptAlive;
pub use membership::{configuration_of, founders, read_members};
pub use open::{
    OpenError, Storage, create_files, create_files_with, log_options, open, open_member, open_with, server_log_options,
    tree_specs,
};
pub use reads::ReadReady;
pub use repair::{LogFacts, LogNeed, inspect_log, make_log, mark_state, void_log};
pub use restore::{PageRestore, Restore, RestoreError, RestoreOptions};

/// Entries that one turn applies before it publishes: bounds how long an answer waits for the ones behind it.
const APPLY_ENTRIES_MAX: usize = 512;
/// Compaction work of one turn, in records visited.
const SWEEP_RECORDS_MAX: usize = 256;
/// The one group so far.
pub const GROUP: u32 = 0;
/// The shard of proposals that nobody waits for.
pub const NOBODY: u32 = u32::MAX;

/// A request on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    /// The entry, but for what only the group knows.
    pub draft: Draft,
    /// The shard that waits.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
}

/// What came of a proposal.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A command of the store.
    Store(mvcc::Answer),
    /// LeaseGrant.
    LeaseGrant(LeaseGrantResponse),
    /// Alarm: the alarms touched.
    Alarm(Vec<AlarmMember>),
    /// Nothing to tell but that it is applied.
    Done,
}

/// An answer and whom it is for.
#[derive(Debug)]
pub struct Answer {
    /// The shard.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
    /// What it gets.
    pub outcome: Result<Reply, Error>,
}

/// What a turn gives to the world. All of it is published.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Answers to requests.
    pub answers: Vec<Answer>,
    /// Answers to keep-alives.
    pub kept_alive: Vec<KeptAlive>,
    /// The batch's events, in order, of whole revisions.
    pub events: Vec<Event>,
    /// Events up to this revision stand in the log only: they were too many to hand out.
    pub skipped_to: Option<i64>,
    /// A new root was published.
    pub published: bool,
    /// Messages for other members. What promises durability is here only once it is on disk.
    pub send: Vec<(NodeId, Message)>,
    /// Proposals that only the leader can take.
    pub forward: Vec<Forward>,
    /// Answers to [`Group::read_index`].
    pub reads: Vec<ReadReady>,
    /// Members that need an image: [`Group::send_image`].
    pub images_wanted: Vec<NodeId>,
    /// What this member's state adds up to, for the leader to compare.
    pub sums: Vec<Sum>,
    /// On a leader: members whose state differs, for all of them to be told, this one as well ([`Group::hear_verdict`]).
    pub verdicts: Vec<Verdict>,
    /// The image whose message was stepped takes the place of the page file now, and the group is opened anew.
    pub install: Option<SnapshotMetadata>,
    /// This member was removed from the cluster.
    pub removed: bool,
}

/// What ends a group, and with it the process.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The log failed. Nothing is acknowledged any more.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The page file can't be opened for the group's I/O.
    #[error("page file: {0}")]
    PageFile(#[source] io::Error),
    /// A checkpoint can't begin, or a write or sync of the page file failed.
    #[error("page file: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The state that a checkpoint has made durable can't be read back.
    #[error("page file: the checkpoint's own attributes: {0}")]
    Attributes(#[from] StateError),
    /// A page is damaged where the member can't go on without it.
    #[error("page file: {0}. Restore the member from a snapshot, or replace it")]
    Damaged(ringstone_pager::api::Damage),
    /// The state of this member is not that of most members.
    #[error("the state of this member differs from that of most members at log entry {index} of term {term}")]
    Diverged {
        /// Where it was compared.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// Term and vote can't be kept.
    #[error("{path}: {error}")]
    Ballot {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A command could not be finished.
    #[error("log entry {index} of term {term}: {what}")]
    Entry {
        /// Where.
        index: u64,
        /// Its term.
        term: u64,
        /// Why.
        what: String,
    },
    /// Members can't be reached or heard.
    #[cfg(feature = "glommio")]
    #[error("peers: {0}")]
    Peers(#[from] ringstone_net::peer::PeerError),
    /// The state of another member has taken the place of this one's: the process begins anew with it.
    #[error("the state was replaced by that of the leader")]
    Installed,
    /// The folder's count of starts.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// This member has no place in the cluster any more.
    #[error("this member was removed from its cluster ({by}): stop it for good and delete its data folder")]
    Removed {
        /// Who says so.
        by: String,
    },
    /// Another process runs, or ran later, as this member: the text has the remedy.
    #[error("another member refuses this process: {text}")]
    Refused {
        /// The other member's words.
        text: String,
    },
    /// A message that contradicts what is agreed on.
    #[error("raft: {0}. Stop the cluster's member that is named, and have the disks of both checked")]
    Raft(#[from] RaftError),
}

impl GroupError {
    /// The state can't be gone on with, and the log can: other members have the same one.
    #[must_use]
    pub fn is_of_state(&self) -> bool {
        matches!(self, GroupError::Damaged(_) | GroupError::Attributes(_) | GroupError::Diverged { .. })
    }
}

struct Waiting {
    batch: BatchNumber,
    token: SyncToken,
    /// The ballot that has to be kept as well; 0: none.
    ballot: u64,
    /// It is followed by the switch to an image.
    installs: bool,
}

/// See the module.
pub struct Group {
    shared: Arc<Shared>,
    raft: Raft,
    log: Log,
    pager: Pager,
    state: State,
    lessor: Lessor,
    unlogged: VecDeque<Persist>,
    /// It waits for the end of a request of the log: looking again brings nothing.
    log_is_full: bool,
    /// Entries of the first of `unlogged` that the log has already.
    logged_entries: usize,
    waiting: VecDeque<Waiting>,
    committed: VecDeque<ringstone_raft::Entry>,
    absent: Option<PageRun>,
    ahead: ahead::Ahead,
    shrinking: shrink::Shrinking,
    forgetting: crate::eviction::Forgetting,
    /// Absent pages that the entry at the front has met.
    absent_in_a_row: u32,
    outputs: Outputs,
    pace: CheckpointPace,
    log_holder: HolderId,
    now: Duration,
    wall_ms: u64,
    stopping: bool,
    /// The last entry that was in the log when the member started.
    replayed_until: u64,
    next_keep_alive: u64,
    keep_alives: AHashMap<u64, (u32, u64)>,
    keep_alives_again: Vec<(u32, u64, i64)>,
    was_caught_up: bool,
    first: Option<(Command, Command)>,
    /// The comparisons of the transaction in front of `committed`, where they go on over several turns.
    comparing: Option<Comparing>,
    /// In which term it was last said, and when.
    said_first: Option<(u64, Duration)>,
    reads: reads::Reads,
    kinds: kinds::Kinds,
    /// Changes of the members that wait for their page: shard and request id.
    changes: Vec<(MemberChange, u32, u64)>,
    /// Members that the log of this start adds.
    announced: Vec<crate::command::Member>,
    /// How often the tree of the members was changed in this life.
    members_changes: u64,
    /// What the disk held when this process began.
    standing: Standing,
    /// Raft neither hears nor says anything: whether this member has kept its promises is not known yet.
    on_trial: bool,
    in_flight: cluster::InFlight,
    /// Proposals that wait for a leader.
    unled: unled::Unled,
    vacancy: Option<failover::Vacancy>,
    resigning: Option<failover::Resigning>,
    disk_watch: failover::DiskWatch,
    retained: cluster::Retained,
    /// Images on their way, and the log behind them.
    images: landing::Landings,
    /// The image that replaces this state.
    installing: Option<SnapshotMetadata>,
    /// A removal that goes on over several turns: its entry stands in front of `committed`, the trees hold half of it.
    removal: Option<Removal>,
    /// Bytes of frames when it began, or when its leaves were last written to the file.
    removal_frames: u64,
    /// When the sweep under way began, or went on after a restart.
    sweep_began: Option<Duration>,
    ballots: ballots::Ballots,
    divergence: divergence::Divergence,
    /// The entry that was just applied is one by which members compare their states.
    is_compared: bool,
}

impl Group {
    /// A reader for a shard.
    pub fn reader(&self) -> Reader {
        self.pager.reader()
    }

    /// The counters of the shard that the group lives on, whose thread this is.
    fn metrics(&self) -> &ShardMetrics {
        &self.shared.metrics[0]
    }

    /// The published state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// True while a checkpoint, a compaction or an apply has work left that needs no input.
    pub fn has_work(&self) -> bool {
        let is_held = self.absent.is_some() || self.is_spilling();
        let applies = !is_held && !self.is_installing() && (!self.committed.is_empty() || self.sweep_pending());
        applies || (!self.unlogged.is_empty() && !self.log_is_full)
    }

    fn sweep_pending(&self) -> bool {
        let state = &self.state;
        state.sweep.is_some()
            || state.swept_revision < state.compact_revision
            || state.cut_revision < state.swept_revision
    }

    /// Time passes: the lease clock and raft's. `wall_ms` is told to entries as information.
    pub fn tick(&mut self, now: Duration, wall_ms: u64, random: u64) {
        self.now = now;
        self.wall_ms = wall_ms;
        if self.is_deaf() {
            return;
        }
        self.raft.tick(random);
        self.take_turn();
        self.watch_disk();
        self.drive_resignation();
        if self.raft.role().role == Role::Leader {
            // A sole voter is its own quorum.
            if self.is_sole() {
                self.lessor.proven(now);
            } else {
                self.prove_leadership();
            }
            self.lessor.clock(now);
        }
        self.agree_on_kinds();
        self.expire_requests();
        self.drive_divergence();
        self.settle_landings();
        self.shared.is_sole.store(self.is_sole(), Ordering::Relaxed);
        let is_learner = self.raft.configuration().learners().contains(&self.raft.id());
        self.shared.is_learner.store(is_learner, Ordering::Relaxed);
        self.note_activity();
        self.settle_pages();
    }

    /// Puts requests into the log's next batch, or sends them on their way to the leader. Those that can't be proposed are
    /// answered; without a leader they wait for one, until [`request_timeout`](crate::config::ServerConfig::request_timeout)
    /// has passed and their shard has told their caller so.
    pub fn propose(&mut self, now: Duration, proposals: Vec<Proposal>) {
        self.now = now;
        self.propose_since(now, proposals);
    }

    /// `since` is when the callers began to wait.
    fn propose_since(&mut self, since: Duration, proposals: Vec<Proposal>) {
        if self.refuses() {
            return self.refuse(proposals);
        }
        if let Some(leader) = self.forward_to() {
            return self.forward(since, leader, proposals);
        }
        if !self.may_propose() {
            return self.wait_for_leader(since, proposals);
        }
        let clock = self.lessor.clock(self.now).0;
        let mut whom = Vec::with_capacity(proposals.len());
        let mut payloads: Vec<Bytes> = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            let (shard, request_id) = (proposal.shard, proposal.request_id);
            if let Err(error) = self.check_kind(proposal.draft.kind()) {
                self.outputs.answers.push(Answer { shard, request_id, outcome: Err(error) });
                continue;
            }
            whom.push(((shard, request_id), proposal.draft.attempt()));
            payloads.push(proposal.draft.seal(clock, self.wall_ms));
        }
        if whom.is_empty() {
            return;
        }
        let proposed = self.raft.propose(payloads);
        if proposed.is_ok() && !self.is_sole() {
            let (now, term) = (self.now, self.raft.role().term.0);
            // It may have been refused elsewhere before.
            whom.into_iter().for_each(|(whom, attempt)| self.in_flight.begin(now, term, whom, attempt, None));
        } else if proposed.is_err() {
            // It leads and hands nothing over: too much waits to be agreed on.
            self.shared.proposals_failed.fetch_add(whom.len() as u64, Ordering::Relaxed);
            self.outputs.answers.extend(whom.into_iter().map(|((shard, request_id), _)| Answer {
                shard,
                request_id,
                outcome: Err(Error::TooManyRequests),
            }));
        }
    }

    /// Moves everything on as far as it goes without I/O.
    ///
    /// # Errors
    /// [`GroupError`]: the process must end; nothing unacknowledged was acknowledged.
    pub fn turn(&mut self) -> Result<(), GroupError> {
        if self.is_installing() {
            return self.fill_log();
        }
        self.propose_unled();
        self.ask_read_index();
        self.take_actions();
        self.fill_log()?;
        if self.is_installing() {
            return Ok(());
        }
        self.apply_committed()?;
        self.publish_attributes()?;
        self.retry_changes()?;
        // Before the lessor: a keep-alive may want a renewal.
        self.deliver_reads()?;
        self.drive_lessor()?;
        self.take_actions();
        self.deliver_reads()?;
        self.report_damage();
        self.fill_log()
    }

    /// Damage that no request has met: of free maps, and of pages that were freed. Those pages stay out of use.
    fn report_damage(&mut self) {
        while let Some(damage) = self.pager.take_damage() {
            tracing::error!(
                damage = %damage,
                "the page file is damaged where nothing is read: writes go on, and its free space there is not used. Take \
                 a snapshot, have the disk checked, and make the member anew"
            );
        }
    }

    fn take_actions(&mut self) {
        let actions = self.raft.take_actions();
        self.outputs.send.extend(actions.send_now);
        self.outputs.images_wanted.extend(actions.snapshots_wanted);
        self.unlogged.extend(actions.persist);
        self.committed.extend(actions.committed);
        actions.reads.into_iter().for_each(|read| self.read_confirmed(read));
        actions.reads_aborted.into_iter().for_each(|context| self.read_aborted(context));
        if let Some(change) = actions.became {
            let leader = change.leader.map_or(0, |leader| leader.0);
            self.shared.term.store(change.term.0, Ordering::Relaxed);
            if self.shared.leader.swap(leader, Ordering::Relaxed) != leader && leader != 0 {
                self.shared.leader_changes.fetch_add(1, Ordering::Relaxed);
                let now_ms = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
                self.shared.leader_since_ms.store(now_ms, Ordering::Relaxed);
            }
            self.was_caught_up = false;
            self.unled.look_again();
            self.images.clear();
            self.lessor.leadership(change.role == Role::Leader, self.now);
        }
        self.shared.committed.store(self.raft.positions().committed.0.0, Ordering::Relaxed);
        let pending = self.entries_pending() + self.unled.count() as u64;
        self.shared.proposals_pending.store(pending, Ordering::Relaxed);
    }

    /// Appends what raft wants on disk, as far as the batch that fills has room.
    fn fill_log(&mut self) -> Result<(), GroupError> {
        self.log_checkpoint()?;
        self.log_is_full = false;
        while let Some(persist) = self.unlogged.pop_front() {
            let Some(batch) = self.log_persist(&persist)? else {
                self.unlogged.push_front(persist);
                self.log_is_full = true;
                return Ok(());
            };
            let installs = persist.snapshot.is_some();
            self.logged_entries = 0;
            let ballot = persist.hard_state.map_or(0, |state| self.ballots.add(state));
            self.waiting.push_back(Waiting { batch, token: persist.token, ballot, installs });
            if installs {
                // The image replaces whatever comes behind it in this life.
                self.unlogged.clear();
            }
        }
        Ok(())
    }

    /// The batch that holds the last of it. None: the batch is full, the rest waits for the next.
    fn log_persist(&mut self, persist: &Persist) -> Result<Option<BatchNumber>, GroupError> {
        let mut last = self.log.filling();
        if self.logged_entries == 0 {
            if let Some(hard_state) = &persist.hard_state {
                let payload = records::hard_state(hard_state);
                let index = self.state.applied_index;
                let Some(batch) = self.append(Kind::HardState, hard_state.term.0, index, &payload)? else {
                    return Ok(None);
                };
                last = batch;
            }
            if let Some(image) = &persist.snapshot {
                return Ok(self.log_install(&image.metadata)?.then(|| self.log.filling()));
            }
            if let Some(from) = persist.truncate_from {
                let Some(batch) = self.append(Kind::Truncate, 0, from.0, &[])? else { return Ok(None) };
                last = batch;
            }
        }
        for entry in &persist.entries[self.logged_entries..] {
            let kind = match entry.kind {
                EntryKind::Normal => Kind::Entry,
                EntryKind::Configuration => Kind::Config,
            };
            let Some(batch) = self.append(kind, entry.term.0, entry.index.0, &entry.payload)? else { return Ok(None) };
            last = batch;
            self.look_at_logged(&entry.payload);
            self.logged_entries += 1;
        }
        Ok(Some(last))
    }

    /// None: the batch is full, the rest waits for the next.
    fn append(&mut self, kind: Kind, term: u64, index: u64, payload: &[u8]) -> Result<Option<BatchNumber>, GroupError> {
        match self.log.append(Record { group: GROUP, kind, term, index, payload }) {
            Ok(batch) => Ok(Some(batch)),
            Err(WalError::Full) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The log's next operation for its disk.
    pub fn poll_log_io(&mut self) -> Option<(ringstone_wal::disk::Token, ringstone_wal::disk::Io)> {
        self.log.poll_io()
    }

    /// An operation of the log has finished: what it proves is acknowledged to raft.
    ///
    /// # Errors
    /// [`GroupError::Log`]: the first failure of a write or sync, final.
    pub fn log_completed(&mut self, completion: ringstone_wal::disk::Completion) -> Result<(), GroupError> {
        self.log.completed(completion);
        self.disk_watch.log_moved();
        if let Some(error) = self.log.failure() {
            return Err(error.clone().into());
        }
        self.release_synced();
        Ok(())
    }

    /// Acknowledges to raft what is on disk, in its order.
    fn release_synced(&mut self) {
        let (log, ballots) = (&self.log, &self.ballots);
        let synced = log.synced();
        let is_on_disk = |waiting: &Waiting| waiting.batch <= synced && ballots.is_kept(waiting.ballot);
        let count = self.waiting.iter().take_while(|waiting| is_on_disk(waiting)).count();
        for _ in 0..count {
            let Some(waiting) = self.waiting.pop_front() else { return };
            if waiting.installs {
                // Nothing more is promised by this life.
                self.waiting.clear();
                self.outputs.install = self.installing.clone();
                return;
            }
            let after_sync = self.raft.persisted(waiting.token);
            self.outputs.send.extend(after_sync.send);
        }
    }

    /// Entries that are proposed and not applied.
    pub fn entries_pending(&self) -> u64 {
        let positions = self.raft.positions();
        positions.proposed.0.0.saturating_sub(positions.applied.0.0)
    }

    /// True while the log waits for its disk.
    pub fn awaits_log(&self) -> bool {
        self.log.awaits_completion()
    }

    /// After some quiet the log is closed for now; returns when to ask again, in nanoseconds of the same clock.
    pub fn quiet(&mut self, now: Duration) -> Option<Duration> {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.log.quiet(now_ns).map(Duration::from_nanos)
    }

    /// The page that apply or the sweep needs: bring it in and call [`Group::brought_in`].
    pub fn absent(&self) -> Option<PageRun> {
        self.absent
    }

    /// The page is in the page cache; it is checked here.
    ///
    /// # Errors
    /// [`GroupError::Damaged`].
    pub fn brought_in(&mut self, run: PageRun) -> Result<(), GroupError> {
        self.pager.bring_in_done(run).map_err(GroupError::Damaged)?;
        self.absent = None;
        self.retry_keep_alives()
    }

    /// What the last turns have published.
    pub fn take_outputs(&mut self) -> Outputs {
        std::mem::take(&mut self.outputs)
    }

    /// Writes the closing block: the last word of a clean stop.
    pub fn close_log(&mut self) {
        self.log.close();
    }

    /// True once the closing block is on disk.
    pub fn is_closed(&self) -> bool {
        self.log.is_closed() && self.log.is_idle()
    }

    /// From now on only what is in flight is finished.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// True once nothing is on its way any more.
    pub fn is_drained(&self) -> bool {
        self.unlogged.is_empty()
            && self.waiting.is_empty()
            && self.committed.is_empty()
            && self.raft.positions().applied.0 == self.raft.positions().committed.0
    }

    /// What was read; None where a page has to be brought in first, then it is read again.
    fn present<T>(&mut self, read: Access<T>) -> Result<Option<T>, GroupError> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Fault::Absent(run)) => {
                self.absent.get_or_insert(run);
                Ok(None)
            }
            Err(Fault::Damaged(damage)) => Err(GroupError::Damaged(damage)),
        }
    }

    fn publish(&mut self) {
        assert!(self.removal.is_none(), "half a command is not published");
        self.pager.set_attributes(&self.state.to_attributes());
        self.pager.publish();
        self.raft.applied(Index(self.state.applied_index));
        self.compact_raft();
        self.shared.applied.store(self.state.applied_index, Ordering::Relaxed);
        self.shared.revision.store(self.state.revision, Ordering::Relaxed);
        self.show_pages();
        self.outputs.published = true;
    }

    fn show_pages(&self) {
        self.shared.dirty_bytes.store(self.pager.dirty_bytes(), Ordering::Relaxed);
        self.shared.frame_bytes.store(self.pager.frame_bytes(), Ordering::Relaxed);
        self.shared.file_bytes.store(self.pager.file_bytes(), Ordering::Relaxed);
        self.shared.file_bytes_in_use.store(self.pager.file_bytes_in_use(), Ordering::Relaxed);
    }
}
