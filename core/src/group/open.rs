//! From files to a running group: what the page file holds, and what the log adds to it.
//!
//! ```text
//!  page file: newest good meta -> state at `applied`
//!  log:       carried records, then all in physical order:
//!             hard state       the last one counts
//!             entries          kept if behind `applied`: replay.rs
//!             switch           a page file of this index was about to take the place of the one in use: replay.rs
//!             checkpoint       its generation must not be newer than the page file's: else the disk went back in time
//!                              (where the newer meta is damaged: that of the checkpoint before it; 0: another file follows)
//!             configuration    an entry; who the members are at `applied` stands in the page file
//!  ballot:    term and vote again; the later of the two counts
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringstone_pager::api::{Damage, Fault, ReadTrees as _, TreeSpec};
use ringstone_pager::disk::{self, Disk as PageDisk, Io, IoPurpose, StdDisk};
use ringstone_pager::eviction::Evictor;
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::mapping::{Mapping, PageSource};
use ringstone_pager::meta::MetaOutcome;
use ringstone_pager::sigbus;
use ringstone_pager::{FileOptions, Pager};
use ringstone_raft::{Config, Configuration, HardState, Index, NodeId, Raft, SnapshotMetadata, Stable, Term};
use ringstone_wal::disk::Disk as LogDisk;
use ringstone_wal::{Identity as LogIdentity, Kind, Log, Options, Record, WalError};

use super::cluster::Retained;
use super::membership::{announced, configuration_of, founders, read_members};
use super::replay::Replay;
use super::{CheckpointPace, GROUP, Group, Outputs, force, landing, records};
use crate::identity::promises::Standing;
use crate::identity::{Identity, IdentityError, ballot};
use crate::lease;
use crate::lease::lessor::Lessor;
use crate::mvcc;
use crate::shared::Shared;
use crate::state::{State, StateError};
use crate::trees::{ALARM, MEMBER};

/// Most dirty frames, in bytes, that a checkpoint waits for, however much memory there is. A put to one of a million keys costs
/// 0.81 pages with them, and 0.92 with half as many (docs/profile.md); more bring little, and a longer restart.
const DIRTY_BYTES_MAX: u64 = 128 << 20;
/// Beyond this they take a smaller part of the memory limit.
const DIRTY_BYTES_COMMON: u64 = 64 << 20;
/// Anonymous memory besides frames: buffers of log and connections, requests on their way, entries that are replayed.
/// Measured under load: 72 to 99 MiB.
const BESIDE_FRAMES_BYTES: u64 = 128 << 20;

/// Dirty frames that begin a checkpoint. There are up to three times as many frames; the fourth part is slack.
fn dirty_bytes_max(memory_limit_bytes: u64) -> u64 {
    let common = (memory_limit_bytes.saturating_sub(BESIDE_FRAMES_BYTES) / 4).clamp(8 << 20, DIRTY_BYTES_COMMON);
    common.max((memory_limit_bytes / 32).min(DIRTY_BYTES_MAX))
}

/// Why a member's files can't be opened or made. Nothing in them was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The page file.
    #[error(transparent)]
    Pages(#[from] ringstone_pager::OpenError),
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        error: io::Error,
    },
    /// The page file holds a state that this version does not know.
    #[error("page file: {0}")]
    State(#[from] StateError),
    /// The two do not fit together.
    #[error(
        "log and page file do not fit together: {what} (page file at index {applied}, log {found}). One of them was restored or replaced alone: restore the whole member from a snapshot, or replace it"
    )]
    Mismatch {
        /// What does not fit.
        what: &'static str,
        /// Index of the page file.
        applied: u64,
        /// What the log has.
        found: u64,
    },
    /// Term and vote of the log and those of their copy can't be of one member.
    #[error(
        "the log says that this member voted for {log:x} in term {term}, its copy in {path} that it voted for {kept:x}: one of the two was put back or is another member's. Remove the member from the cluster, empty its folder and add it anew"
    )]
    Ballots {
        /// The term.
        term: u64,
        /// The log's.
        log: u64,
        /// The copy's.
        kept: u64,
        /// The copy.
        path: PathBuf,
    },
    /// The copy of term and vote.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A record of the log can't be what its kind says.
    #[error(
        "log record of kind {kind} at index {index} is malformed: restore the member from a snapshot, or replace it"
    )]
    Record {
        /// The kind's name.
        kind: &'static str,
        /// Index of the record.
        index: u64,
    },
    /// `--initial-cluster` names no members, too many, or one twice.
    #[error("--initial-cluster: no cluster can be made of these members: is one of them there twice?")]
    Founders,
    /// The members can't be read.
    #[error("page file: {0}. Restore the member from a snapshot, or replace it")]
    Damaged(Damage),
    /// `--force-new-cluster` of a member that has nothing yet.
    #[error(
        "--force-new-cluster: this member has no state of a cluster yet, so there is nothing to go on with: use the data folder of a member that was up to date, or start without the flag"
    )]
    NothingToForce,
    /// The cluster uses entries that this program does not know.
    #[error(
        "the cluster of this member has agreed on entries up to kind {agreed}, this program knows kinds up to {known}: run the version of ringstone that its other members run, or a later one"
    )]
    Kinds {
        /// The newest kind that may be in the log.
        agreed: u16,
        /// The newest that can be applied.
        known: u16,
    },
    /// Raft refuses what was loaded.
    #[error("log: {0}")]
    Raft(#[from] ringstone_raft::RaftError),
}

/// All trees of a group's page file.
#[must_use]
pub fn tree_specs() -> Vec<TreeSpec> {
    let plain = |key: &[u8], value: &[u8]| ringstone_pager::api::Aggregate {
        count: 1,
        bytes: (key.len() + value.len()) as u64,
        hash: 0,
    };
    let mut specs = mvcc::record::SPECS.to_vec();
    specs.extend(lease::state::TREE_SPECS);
    specs.push(TreeSpec { id: MEMBER, name: "member", summarize: plain });
    specs.push(TreeSpec { id: ALARM, name: "alarm", summarize: plain });
    specs
}

fn log_identity(identity: &Identity) -> LogIdentity {
    LogIdentity(identity.file_id)
}

/// The storage of a group: two disks, how pages are looked at, and how the log is cut.
pub struct Storage<'a> {
    /// The page file.
    pub page_disk: &'a mut dyn PageDisk,
    /// What looks at the same file without I/O.
    pub pages: Arc<dyn PageSource>,
    /// The log's folder.
    pub log_disk: &'a mut dyn LogDisk,
    /// Settings of the log; [`log_options`] has those of a server.
    pub log_options: Options,
}

/// The settings that a server's log has.
#[must_use]
pub fn log_options(identity: &Identity) -> Options {
    Options::new(log_identity(identity))
}

/// A segment has room for several of the largest requests.
fn segment_bytes(max_request_bytes: usize) -> u64 {
    let least = Options::new(LogIdentity([0; 16])).segment_bytes;
    (4 * max_request_bytes as u64).next_power_of_two().max(least)
}

/// Makes the empty page file and log of a new member. On disk when this returns: both, synced.
///
/// # Errors
/// [`OpenError`].
pub fn create_files(page_file: &Path, log_disk: &mut dyn LogDisk, identity: &Identity) -> Result<(), OpenError> {
    let mut disk = StdDisk::create(page_file).map_err(io_error(page_file))?;
    let pages = Arc::new(Mapping::new(disk.file(), 0).map_err(io_error(page_file))?);
    let log_options = log_options(identity);
    create_files_with(Storage { page_disk: &mut disk, pages, log_disk, log_options }, identity)
}

/// [`create_files`] on any storage, which is empty.
///
/// # Errors
/// [`OpenError`].
pub fn create_files_with(storage: Storage<'_>, identity: &Identity) -> Result<(), OpenError> {
    let specs = tree_specs();
    Pager::create(storage.page_disk, storage.pages, &file_options(identity, &specs))?;
    create_log(storage.log_disk, storage.log_options)
}

/// Makes an empty log. On disk when this returns.
pub(super) fn create_log(log_disk: &mut dyn LogDisk, mut options: Options) -> Result<(), OpenError> {
    options.create = true;
    let (mut log, _) = Log::open(log_disk, options, &mut |_| {})?;
    log.close();
    ringstone_wal::run_until_idle(log_disk, &mut log)?;
    Ok(())
}

pub(super) fn file_options<'a>(identity: &Identity, trees: &'a [TreeSpec]) -> FileOptions<'a> {
    FileOptions { file_id: identity.file_id, owner_id: identity.owner_id(), trees }
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |error| OpenError::Io { path: path.to_owned(), error }
}

/// Opens the group's files and starts raft, with the founders that the settings name where the log is new. `random` seeds
/// raft's incarnation; `now` is CLOCK_BOOTTIME.
///
/// # Errors
/// [`OpenError`]: the files stay as they are.
pub fn open(
    shared: Arc<Shared>,
    page_file: &Path,
    log_disk: &mut dyn LogDisk,
    random: u64,
    now: Duration,
) -> Result<Group, OpenError> {
    let mut disk = StdDisk::open(page_file).map_err(io_error(page_file))?;
    let file_pages = disk.length().map_err(ringstone_pager::OpenError::from)? / PAGE_BYTES as u64;
    let mapping = Arc::new(Mapping::new(disk.file(), file_pages).map_err(io_error(page_file))?);
    sigbus::name(&mapping, disk.file(), page_file).map(std::mem::forget).map_err(io_error(page_file))?;
    let _ = shared.evictor.set(Evictor::new(Arc::clone(&mapping)));
    let log_options = server_log_options(&shared);
    let founders = match shared.config.joins {
        true => Configuration::default(),
        false => configuration_of(&founders(&shared.config)).ok_or(OpenError::Founders)?,
    };
    let storage = Storage { page_disk: &mut disk, pages: mapping, log_disk, log_options };
    let (data_dir, identity) = (shared.config.data_dir.clone(), shared.identity);
    let kept = ballot::read(&data_dir, &identity)?;
    let (mut group, hard_state) = open_kept(shared, storage, founders, kept, random, now)?;
    group.keep_ballots(ballot::settle(&data_dir, &identity, hard_state)?);
    Ok(group)
}

/// The settings of the log of a server with these settings.
#[must_use]
pub fn server_log_options(shared: &Shared) -> Options {
    let segment_bytes = segment_bytes(shared.config.max_request_bytes);
    Options { segment_bytes, ..log_options(&shared.identity) }
}

/// [`open`] on any storage.
///
/// # Errors
/// [`OpenError`]: the files stay as they are.
pub fn open_with(shared: Arc<Shared>, storage: Storage<'_>, random: u64, now: Duration) -> Result<Group, OpenError> {
    let me = NodeId(shared.identity.member_id);
    let alone = Configuration::new([me], []).expect("one voter is a configuration");
    open_member(shared, storage, alone, random, now)
}

/// Members of the applied state. Nothing of the page file is in memory yet: what is needed is read here.
fn configuration_at(pager: &Pager, page_disk: &mut dyn PageDisk) -> Result<Option<Configuration>, OpenError> {
    loop {
        match read_members(pager) {
            Ok(members) => return Ok(configuration_of(&members)),
            Err(Fault::Damaged(damage)) => return Err(OpenError::Damaged(damage)),
            Err(Fault::Absent(run)) => {
                let (offset, bytes) = (run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
                let read = Io::Read { offset, bytes, purpose: IoPurpose::ReadPage };
                disk::run(page_disk, read).map_err(ringstone_pager::OpenError::from)?;
                pager.bring_in_done(run).map_err(OpenError::Damaged)?;
            }
        }
    }
}

/// A member of a cluster, on any storage. `founders` are the members that a new log begins with, the same ones on each of
/// them; nobody, for a member that joins: it learns from the others who they are. A state that has members knows better.
///
/// # Errors
/// [`OpenError`]: the files stay as they are.
pub fn open_member(
    shared: Arc<Shared>,
    storage: Storage<'_>,
    founders: Configuration,
    random: u64,
    now: Duration,
) -> Result<Group, OpenError> {
    open_kept(shared, storage, founders, ballot::Found::Nothing, random, now).map(|(group, _)| group)
}

/// [`open_member`] with the copy of term and vote; returns those that count.
fn open_kept(
    shared: Arc<Shared>,
    storage: Storage<'_>,
    founders: Configuration,
    kept: ballot::Found,
    random: u64,
    now: Duration,
) -> Result<(Group, HardState), OpenError> {
    let identity = shared.identity;
    let specs = tree_specs();
    let (pager, meta) = Pager::open(storage.page_disk, storage.pages, &file_options(&identity, &specs), 0)?;
    let mut state = State::from_attributes(pager.attributes())?;
    // etcd keeps these in memory only: after a restart HashKV speaks of the last compaction again.
    state.compaction_hashes.clear();
    if state.kinds() > shared.config.entry_kinds {
        return Err(OpenError::Kinds { agreed: state.kinds(), known: shared.config.entry_kinds });
    }
    let mut replay = Replay::behind(state.applied_index);
    let log_options = Options { needed_from: vec![(GROUP, state.applied_index + 1)], ..storage.log_options };
    let (mut log, recovered) = Log::open(storage.log_disk, log_options, &mut |record| replay.visit(&record))?;
    replay.check()?;
    // A damaged meta is made up for by the older one, whose pages nothing has touched, and by the log, which is kept for it.
    let least = if meta == MetaOutcome::BothValid { replay.checkpoint } else { replay.checkpoint_before };
    if replay.checkpoint > pager.generation() && least <= pager.generation() {
        tracing::warn!(
            meta = ?meta,
            generation = pager.generation(),
            "the newer meta page is damaged: the older one counts, and the log has what came after it. Have the disk checked"
        );
    }
    if least > pager.generation() {
        return Err(OpenError::Mismatch {
            what: "the log knows a later checkpoint than the page file: the page file went back in time",
            applied: state.applied_index,
            found: replay.checkpoint_index,
        });
    }
    replay.settle(&mut log)?;
    let mut hard_state = later_ballot(&shared, replay.hard_state, kept)?;
    if hard_state != replay.hard_state {
        // Until the log has it, too, the copy is the only one.
        let (payload, term) = (records::hard_state(&hard_state), hard_state.term.0);
        let index = state.applied_index;
        let record = Record { group: GROUP, kind: Kind::HardState, term, index, payload: &payload };
        log.append(record)?;
    }
    tracing::info!(
        outcome = ?recovered.outcome,
        meta = ?meta,
        applied = state.applied_index,
        replayed = replay.entries.len() as u64,
        replayed_bytes = log.log_bytes_since(GROUP, state.applied_index),
        revision = state.revision,
        "log and page file opened"
    );
    let me = NodeId(identity.member_id);
    let configuration = configuration_at(&pager, storage.page_disk)?.unwrap_or(founders);
    let mut is_sole = configuration.voters() == [me] && configuration.learners().is_empty();
    if shared.config.force_new_cluster {
        let applied = (state.applied_index, state.applied_term);
        if applied.0 == 0 && replay.entries.is_empty() && state.cluster_id == 0 {
            return Err(OpenError::NothingToForce);
        }
        let mut logged = force::Logged { hard_state: &mut hard_state, entries: &mut replay.entries, applied };
        force::begin_alone(&mut log, me, &mut logged, &configuration)?;
        is_sole = true;
    }
    let mut config = Config::new(me, random);
    config.kinds_known = u32::from(shared.config.entry_kinds);
    config.heartbeat_ticks = 1;
    config.election_ticks = election_ticks(&shared);
    let announced = announced(&replay.entries);
    let replayed_until = replay.entries.last().map_or(0, |entry| entry.index.0);
    let standing = Standing {
        mends: 0,
        term: hard_state.term.0,
        vote: hard_state.vote.map(|vote| vote.0),
        index: replayed_until.max(state.applied_index),
    };
    let stable = Stable {
        hard_state,
        snapshot: SnapshotMetadata { index: Index(state.applied_index), term: Term(state.applied_term), configuration },
        entries: replay.entries,
        applied: Index(state.applied_index),
    };
    let mut raft = Raft::new(config, stable)?;
    if is_sole {
        raft.campaign();
    }
    // What the older meta needs is not known: the log keeps all it has until the next checkpoint has replaced that one.
    let log_holder = log.register_holder("page file", GROUP, 0);
    let dirty_bytes_max = dirty_bytes_max(shared.config.memory_limit_bytes);
    let pace = CheckpointPace::new(dirty_bytes_max, state.applied_index, state.applied_index, pager.generation());
    shared.revision.store(state.revision, Ordering::Relaxed);
    shared.applied.store(state.applied_index, Ordering::Relaxed);
    let mut lessor = Lessor::new(lease::state::LeaseTime(state.lease_clock), now);
    lessor.set_proof_validity(shared.config.election_timeout / 2);
    let retained = Retained::new(landing::log_bytes_max(shared.config.memory_limit_bytes));
    let group = Group {
        shared,
        raft,
        log,
        pager,
        state,
        lessor,
        unlogged: Default::default(),
        log_is_full: false,
        logged_entries: 0,
        waiting: Default::default(),
        committed: Default::default(),
        absent: None,
        ahead: Default::default(),
        shrinking: Default::default(),
        forgetting: Default::default(),
        absent_in_a_row: 0,
        outputs: Outputs::default(),
        pace,
        log_holder,
        now,
        wall_ms: 0,
        stopping: false,
        replayed_until,
        next_keep_alive: 0,
        keep_alives: Default::default(),
        keep_alives_again: Vec::new(),
        was_caught_up: false,
        first: None,
        comparing: None,
        said_first: None,
        reads: Default::default(),
        kinds: Default::default(),
        changes: Vec::new(),
        announced,
        members_changes: 0,
        standing,
        on_trial: false,
        in_flight: Default::default(),
        unled: Default::default(),
        vacancy: None,
        resigning: None,
        disk_watch: Default::default(),
        retained,
        images: Default::default(),
        installing: None,
        removal: None,
        removal_frames: 0,
        sweep_began: None,
        ballots: Default::default(),
        divergence: Default::default(),
        is_compared: false,
    };
    // Whoever asks before anything is published: etcdctl divides by the size.
    group.show_pages();
    Ok((group, hard_state))
}

/// Where a crash came between the two writes, either may be behind; a log that was put back is behind its copy.
fn later_ballot(shared: &Shared, log: HardState, kept: ballot::Found) -> Result<HardState, OpenError> {
    ballot::later(log, kept).ok_or_else(|| OpenError::Ballots {
        term: log.term.0,
        log: log.vote.map_or(0, |vote| vote.0),
        kept: kept.vote().map_or(0, |vote| vote.0),
        path: ballot::path(&shared.config.data_dir),
    })
}

pub(super) fn election_ticks(shared: &Shared) -> u32 {
    let heartbeat_ms = shared.config.heartbeat_interval.as_millis().max(1);
    u32::try_from(shared.config.election_timeout.as_millis() / heartbeat_ms).unwrap_or(10).max(2)
}
