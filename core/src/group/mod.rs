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
mod asks;
mod ballots;
mod change;
mod checkpoint;
mod cluster;
mod divergence;
mod error;
mod failover;
mod force;
mod in_flight;
mod install;
mod kinds;
mod landing;
mod leases;
mod logging;
mod membership;
mod open;
mod reads;
mod records;
mod repair;
mod replay;
mod requests;
mod restore;
mod shrink;
mod unled;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use ringstone_pager::api::{Access, Fault, PageRun, WriteTrees as _};
use ringstone_pager::disk as pages;
use ringstone_pager::{Pager, Reader};
use ringstone_raft::{Index, Persist, Raft, Role, SnapshotMetadata};
use ringstone_wal::{HolderId, Log};

use crate::command::Command;
use crate::error::Error;
use crate::identity::promises::Standing;
use crate::lease::lessor::Lessor;
use crate::metrics::ShardMetrics;
use crate::mvcc::{Comparing, Removal};
use crate::shared::Shared;
use crate::state::State;

pub use apply::read_member;
pub use asks::{Ask, Call, ClockTold};
pub use change::MemberChange;
pub use checkpoint::CheckpointPace;
pub use cluster::{Forward, ForwardError};
pub use divergence::{SUM_BYTES, Sum, VERDICT_BYTES, Verdict};
pub use error::GroupError;
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
pub use requests::{Answer, Outputs, Proposal, Reply};
pub use restore::{PageRestore, Restore, RestoreError, RestoreOptions};

/// Entries that one turn applies before it publishes: bounds how long an answer waits for the ones behind it.
const APPLY_ENTRIES_MAX: usize = 512;
/// Compaction work of one turn, in records visited.
const SWEEP_RECORDS_MAX: usize = 256;
/// The one group so far.
pub const GROUP: u32 = 0;
/// The shard of proposals that nobody waits for.
pub const NOBODY: u32 = u32::MAX;

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
    waiting: VecDeque<logging::Waiting>,
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
    /// Changes of the members that wait for their page, or for this leader to be ready: shard and request id.
    changes: Vec<(MemberChange, u32, u64)>,
    /// Members that the log of this start adds.
    announced: Vec<crate::command::Member>,
    /// How often the tree of the members was changed in this life.
    members_changes: u64,
    /// What the disk held when this process began.
    standing: Standing,
    /// Raft neither hears nor says anything: whether this member has kept its promises is not known yet.
    on_trial: bool,
    in_flight: in_flight::InFlight,
    /// What waits for a leader.
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
        applies || (!self.unlogged.is_empty() && !self.log_is_full) || self.has_leftovers()
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
            let waiting = proposals.into_iter().map(unled::Errand::Proposal);
            return waiting.for_each(|errand| self.wait_for_leader(since, errand));
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
        self.serve_unled()?;
        self.ask_read_index();
        self.take_actions();
        self.fill_log()?;
        if self.is_installing() {
            return Ok(());
        }
        self.apply_committed()?;
        self.publish_attributes()?;
        self.settle_leftovers();
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
        let pending = self.entries_pending() + self.unled.proposals() as u64;
        self.shared.proposals_pending.store(pending, Ordering::Relaxed);
    }

    /// Entries that are proposed and not applied.
    pub fn entries_pending(&self) -> u64 {
        let positions = self.raft.positions();
        positions.proposed.0.0.saturating_sub(positions.applied.0.0)
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
