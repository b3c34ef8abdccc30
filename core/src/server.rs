//! A member's life: check the machine, open or make the folder, start the shards, wait, stop them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use glommio::GlommioError;
use glommio::channels::shared_channel;
use ringstone_pager::OpenError as PagesError;
use ringstone_pager::disk::{DiskError as PageDiskError, DiskErrorKind};
use ringstone_pager::meta::OpenFailure;
use ringstone_wal::disk::ring::{RingDisk, SyncWay};
use ringstone_wal::{RingError, WalError, choose_way};

use crate::config::ServerConfig;
use crate::eviction;
use crate::group::{self, GroupError, OpenError};
use crate::identity::mend::{Lost, Mend};
use crate::identity::{FolderPaths, Identity, IdentityError, MemberFolder, cluster_id, member_id};
use crate::join::{self, JoinError};
use crate::mending::{self, MendError};
use crate::shard::pulse::FEEL_INTERVAL;
use crate::shard::start::ShardThread;
use crate::shard::{GroupSeat, Placement, RemoteSeat, ShardSeat, ShardSeed, boottime, random_bytes};
use crate::shared::Shared;
use crate::space::Space;
use crate::state::StateError;

/// Batches between the group and a shard that may wait in one direction.
const QUEUE_BATCHES: usize = 1024;
/// How long a shard may take to run its first task, other threads for it included (see [`crate::shard::start`]).
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long a member that joins waits for one of the others to answer.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long an address may be in use at a start.
const LISTEN_PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors that a member needs besides connections: log, pages, rings, events.
const DESCRIPTORS_RESERVED: u64 = 128;

/// What an error says about the world: one exit status each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the exit statuses in src/exit.rs say what each one is")]
pub enum Cause {
    InUse,
    FormatVersion,
    Foreign,
    Damaged,
    Address,
    DiskFull,
    DiskFailed,
    IoUring,
    Limits,
    Entry,
    Access,
    /// Nothing is wrong: the member has to start again.
    Again,
}

/// Why a member can't start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its files.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The group failed while it ran.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The log's ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// An address.
    #[error("{address} can't be listened on: {error}. Is another process using it? See --listen-client-urls")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
    /// `--force-new-cluster` where there is no member.
    #[error(
        "--force-new-cluster: there is no member in {0}, so there is nothing to go on with: use the --data-dir of the member that is to go on, or start without the flag"
    )]
    NoMemberToForce(std::path::PathBuf),
    /// The cluster that is to be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// It has lost what others have, and could not fetch it.
    #[error(transparent)]
    Mend(#[from] MendError),
    /// It has lost what others have.
    #[error("{0}. The member fetches its state from another one")]
    Lost(String),
    /// It has fetched what it had lost.
    #[error("the state of another member has taken the place of what was lost")]
    Mended,
    /// Too few descriptors.
    #[error(
        "only {found} file descriptors are allowed, {needed} are needed at least: raise the limit (ulimit -n, LimitNOFILE=)"
    )]
    Descriptors {
        /// The limit.
        found: u64,
        /// What is needed.
        needed: u64,
    },
    /// An executor has not run anything yet.
    #[error(
        "shard {shard} has not begun to run within {} s: the machine may have far too little CPU for it. Start it again",
        START_PATIENCE.as_secs()
    )]
    Asleep {
        /// Which.
        shard: usize,
    },
    /// An executor could not start.
    #[error(
        "shard {shard} can't start: {error}. It needs io_uring and locked memory: see ulimit -l (LimitMEMLOCK=) and /proc/sys/kernel/io_uring_disabled; containers need a seccomp profile that allows io_uring"
    )]
    Executor {
        /// Which.
        shard: u32,
        /// glommio's reason.
        error: String,
    },
}

impl ServerError {
    /// What it says about the world.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            ServerError::Identity(error) => identity_cause(error),
            ServerError::Open(error) => open_cause(error),
            ServerError::Group(error) => group_cause(error),
            ServerError::Mend(error) => match error {
                MendError::Votes { .. } | MendError::TooOften { .. } => Cause::Damaged,
                MendError::Log(error) => log_cause(error),
                MendError::Identity(error) => identity_cause(error),
                MendError::Group(error) => group_cause(error),
                MendError::Install(error) => io_cause(error),
                MendError::Executor(_) => Cause::IoUring,
            },
            ServerError::Lost(_) | ServerError::Mended => Cause::Again,
            ServerError::Ring(error) => ring_cause(error),
            ServerError::Address { .. } => Cause::Address,
            ServerError::Descriptors { .. } => Cause::Limits,
            ServerError::Join(_) | ServerError::NoMemberToForce(_) => Cause::Foreign,
            ServerError::Executor { error, .. } if error.contains("Cannot allocate memory") => Cause::Limits,
            ServerError::Executor { .. } => Cause::IoUring,
            ServerError::Asleep { .. } => Cause::Limits,
        }
    }
}

fn group_cause(error: &GroupError) -> Cause {
    match error {
        GroupError::Log(error) => log_cause(error),
        GroupError::PageFile(error) | GroupError::Ballot { error, .. } => io_cause(error),
        GroupError::Checkpoint(_) => Cause::DiskFailed,
        GroupError::Damaged(_) | GroupError::Attributes(_) | GroupError::Diverged { .. } => Cause::Damaged,
        GroupError::Entry { .. } | GroupError::Raft(_) => Cause::Entry,
        GroupError::Peers(_) => Cause::Address,
        GroupError::Removed { .. } | GroupError::Refused { .. } => Cause::Foreign,
        GroupError::Installed => Cause::Again,
        GroupError::Identity(error) => identity_cause(error),
    }
}

fn identity_cause(error: &IdentityError) -> Cause {
    match error {
        IdentityError::InUse { .. } => Cause::InUse,
        IdentityError::Damaged { .. } | IdentityError::Missing { .. } => Cause::Damaged,
        IdentityError::Version { .. } | IdentityError::Features { .. } => Cause::FormatVersion,
        IdentityError::Foreign { .. } => Cause::Foreign,
        IdentityError::Io { error, .. } | IdentityError::Change { error, .. } => io_cause(error),
    }
}

fn io_cause(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::DiskFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Cause::Access,
        _ => Cause::DiskFailed,
    }
}

fn ring_cause(error: &RingError) -> Cause {
    match error {
        RingError::LockedMemory { .. } => Cause::Limits,
        RingError::Directory { errno, .. } => io_cause(&io::Error::from_raw_os_error(*errno)),
        RingError::Other { errno: libc::EMFILE | libc::ENFILE } => Cause::Limits,
        _ => Cause::IoUring,
    }
}

fn page_cause(error: &PageDiskError) -> Cause {
    match error.kind {
        DiskErrorKind::Full => Cause::DiskFull,
        DiskErrorKind::Short => Cause::Damaged,
        _ => Cause::DiskFailed,
    }
}

fn log_cause(error: &WalError) -> Cause {
    match error {
        WalError::Disk(error) => io_cause(&io::Error::from_raw_os_error(error.errno)),
        WalError::Ring(error) => ring_cause(error),
        WalError::ForeignSegment { .. } => Cause::Foreign,
        WalError::UnsupportedVersion { .. } | WalError::UnknownFeatures { .. } => Cause::FormatVersion,
        _ => Cause::Damaged,
    }
}

fn open_cause(error: &OpenError) -> Cause {
    match error {
        OpenError::Log(error) => log_cause(error),
        OpenError::Identity(error) => identity_cause(error),
        OpenError::Pages(
            PagesError::ReadOnly
            | PagesError::UnknownTree(_)
            | PagesError::Refused(
                OpenFailure::UnknownVersion { .. }
                | OpenFailure::UnknownFeatures { .. }
                | OpenFailure::OtherPageSize { .. },
            ),
        )
        | OpenError::State(StateError::Format(_))
        | OpenError::Kinds { .. } => Cause::FormatVersion,
        OpenError::NothingToForce => Cause::Foreign,
        OpenError::Pages(PagesError::Disk(error)) => page_cause(error),
        OpenError::Pages(PagesError::Refused(OpenFailure::ForeignFile { .. })) => Cause::Foreign,
        OpenError::Io { error, .. } => io_cause(error),
        _ => Cause::Damaged,
    }
}

/// Cores that this process may use: its affinity mask, capped by the cgroup's CPU quota.
#[must_use]
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The cores of the affinity mask, ascending.
fn allowed_cores() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a cpu_set_t of the size that is passed, which lives through the call.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Vec::new();
    }
    let count = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: CPU_ISSET reads the set that lives on this stack, for a number below its size.
    (0..count).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// A quarter of the memory that the machine, or the cgroup, has, between 256 MiB and 4 GiB.
#[must_use]
pub fn default_memory_limit() -> u64 {
    (eviction::memory_bytes() / 4).clamp(256 << 20, 4 << 30)
}

fn check_descriptors() -> Result<(), ServerError> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to an rlimit that lives through both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        }
    }
    if limit.rlim_cur < DESCRIPTORS_RESERVED {
        return Err(ServerError::Descriptors { found: limit.rlim_cur, needed: DESCRIPTORS_RESERVED });
    }
    Ok(())
}

/// Without SO_REUSEPORT: two processes would silently share the port.
fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let made = || -> io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for connections of its former life.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    let began = boottime();
    loop {
        match made() {
            Ok(listener) => return Ok(listener),
            // A killed process's sockets end a moment after it does: its io_uring requests still hold them.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && boottime() - began < LISTEN_PATIENCE => {
                std::thread::sleep(LISTEN_PATIENCE / 50);
            }
            Err(error) => return Err(ServerError::Address { address, error }),
        }
    }
}

/// A member that has no folder yet can't do without an answer.
fn join_patience(config: &ServerConfig) -> Duration {
    let paths = FolderPaths { data_dir: config.data_dir.clone(), wal_dir: config.wal_dir.clone() };
    if paths.exists() { Duration::ZERO } else { JOIN_PATIENCE }
}

fn open_folder(config: &ServerConfig, joined: Option<&join::Cluster>) -> Result<MemberFolder, ServerError> {
    let paths = FolderPaths { data_dir: config.data_dir.clone(), wal_dir: config.wal_dir.clone() };
    if paths.exists() {
        // As in etcd, what a member was made with counts, not the flags of later starts.
        return Ok(paths.open()?);
    }
    if config.force_new_cluster {
        return Err(ServerError::NoMemberToForce(config.data_dir.clone()));
    }
    let (cluster, member) = match joined {
        Some(joined) => {
            joined.check_kinds(config)?;
            (joined.id, joined.own_id(config)?)
        }
        None if config.joins => return Err(JoinError::nobody(config).into()),
        None => {
            let ids: Vec<u64> = group::founders(config).iter().map(|founder| founder.id).collect();
            (cluster_id(&ids), member_id(&config.advertise_peer_urls, &config.cluster_token))
        }
    };
    let identity = Identity { cluster_id: cluster, member_id: member, file_id: random_bytes() };
    paths.create(identity, |page_file: &Path, wal_dir: &Path| -> Result<(), ServerError> {
        let mut ring = RingDisk::open(wal_dir, None)?;
        Ok(group::create_files(page_file, &mut ring, &identity)?)
    })
}

fn random_u64() -> u64 {
    u64::from_le_bytes(random_bytes())
}

/// Runs a member until SIGTERM or SIGINT. On disk when this returns without an error: everything, checkpointed.
///
/// # Errors
/// [`ServerError`]: at a start nothing was changed on disk; later nothing that was acknowledged is lost.
pub fn run(config: ServerConfig) -> Result<(), ServerError> {
    check_descriptors()?;
    // Signals are for this thread alone: blocked before the shards start, which inherit it.
    let signals = Signals::block();
    let listeners = config.listen_client.iter().map(|&address| listen(address)).collect::<Result<Vec<_>, _>>()?;
    // Asked at each start with this flag: where the others are may have changed, or nothing is known here yet.
    let asks = config.joins && !config.force_new_cluster;
    let joined = if asks { join::ask(&config, join_patience(&config)) } else { None };
    let folder = open_folder(&config, joined.as_ref())?;
    let shared = Arc::new(Shared::new(config, folder.identity));
    if let Some(cluster) = joined {
        let _ = shared.joins.set((cluster.members, cluster.since));
    }
    tracing::info!(
        name = %shared.config.name,
        data_dir = %shared.config.data_dir.display(),
        cluster_id = format!("{:x}", folder.identity.cluster_id),
        member_id = format!("{:x}", folder.identity.member_id),
        shards = shared.config.shards as u64,
        "starting a ringstone member"
    );
    let mut ring = RingDisk::open(&folder.wal_dir, way_to_sync(&folder.wal_dir))?;
    ring.hold(folder.lock())?;
    if let Some(mend) = Mend::read(&shared.config.data_dir)? {
        if mend.lost == Lost::Votes && !shared.config.force_new_cluster {
            return Err(GroupError::Refused { text: mend.why }.into());
        }
        // Nobody is served meanwhile: clients go to other members.
        drop(listeners);
        return make_whole(&shared, &mut ring, mend, &signals);
    }
    let group = match group::open(Arc::clone(&shared), &folder.page_file, &mut ring, random_u64(), boottime()) {
        Ok(group) => group,
        Err(error) => return Err(unless_others_have(&shared, mending::lost_at_open(&error), error.into())),
    };
    let handles = start_shards(&shared, &folder, group, ring, listeners)?;
    eviction::start(Arc::clone(&shared));
    let space = Space::new(&folder.page_file, &folder.wal_dir);
    wait_for_end(&shared, &signals, handles, space).map_err(|error| {
        let lost = matches!(&error, ServerError::Group(error) if error.is_of_state()).then_some(Lost::State);
        if let ServerError::Group(GroupError::Refused { text }) = &error {
            mending::mark_refused(&shared, text);
        }
        unless_others_have(&shared, lost, error)
    })
}

/// Marks a member that has lost something which others may have, so that the next start, at once, fetches it.
fn unless_others_have(shared: &Shared, lost: Option<Lost>, error: ServerError) -> ServerError {
    let Some(lost) = lost else { return error };
    let why = match &error {
        // Its remedy is for a member that is alone.
        ServerError::Group(GroupError::Damaged(damage)) | ServerError::Open(OpenError::Damaged(damage)) => {
            format!("page file: {damage}")
        }
        error => error.to_string(),
    };
    match mending::mark(shared, lost, &why) {
        Ok(true) => ServerError::Lost(why),
        Ok(false) => error,
        Err(failed) => {
            tracing::error!(error = %failed, "the member can't be marked as one that has lost its state");
            error
        }
    }
}

/// The process starts again once the member is whole.
fn make_whole(shared: &Arc<Shared>, ring: &mut RingDisk, mend: Mend, signals: &Signals) -> Result<(), ServerError> {
    match mending::run(shared, ring, mend, |at_most| signals.wait(at_most).is_some()) {
        Ok(true) => return Err(ServerError::Mended),
        Ok(false) => {}
        Err(error) => {
            if let MendError::Group(GroupError::Refused { text }) = &error {
                mending::mark_refused(shared, text);
            }
            return Err(error.into());
        }
    }
    tracing::info!("received signal; shutting down, and the next start goes on fetching the state");
    Ok(())
}

/// Timed at each start: the disk below a folder may be another one today. None: what the file system can.
fn way_to_sync(wal_dir: &Path) -> Option<SyncWay> {
    match choose_way(wal_dir) {
        Ok(choice) => {
            let micros = |us: Option<f64>| us.map_or(0, |us| us as u64);
            tracing::info!(
                way = ?choice.way,
                direct_us = micros(choice.direct_us),
                fdatasync_us = micros(choice.fdatasync_us),
                "chose how the log is synced"
            );
            Some(choice.way)
        }
        Err(error) => {
            tracing::warn!(error = %error, "ways to sync the log could not be timed; taking what the file system can");
            None
        }
    }
}

fn start_shards(
    shared: &Arc<Shared>,
    folder: &MemberFolder,
    group: group::Group,
    ring: RingDisk,
    listeners: Vec<TcpListener>,
) -> Result<Vec<ShardThread>, ServerError> {
    let cores = allowed_cores();
    let mut handles = Vec::new();
    let mut remotes = Vec::new();
    let seed = |id: usize, reader, placement| ShardSeed {
        id: u32::try_from(id).expect("shards are few"),
        shared: Arc::clone(shared),
        reader,
        page_file: folder.page_file.clone(),
        // High bits differ from life to life: entries replayed from the log answer nobody.
        // The highest byte counts attempts (entry.rs).
        first_request_id: (random_u64() >> 40) << 32,
        pulse: Arc::default(),
        placement,
    };
    for id in 1..shared.config.shards {
        let (to_shard, from_group) = shared_channel::new_bounded(QUEUE_BATCHES);
        let (to_group, from_shard) = shared_channel::new_bounded(QUEUE_BATCHES);
        let (sockets, to_serve) = shared_channel::new_bounded(QUEUE_BATCHES);
        remotes.push(RemoteSeat { to_shard, from_shard, sockets });
        let seat = ShardSeat { to_group, from_group, sockets: to_serve };
        handles.push(start_shard(&cores, seed(id, group.reader(), Placement::Shard(seat)))?);
    }
    let reader = group.reader();
    let seat = GroupSeat { group, ring, listeners, remotes };
    handles.push(start_shard(&cores, seed(0, reader, Placement::Group(Box::new(seat))))?);
    Ok(handles)
}

fn start_shard(cores: &[usize], seed: ShardSeed) -> Result<ShardThread, ServerError> {
    let id = seed.id;
    let core = (!cores.is_empty()).then(|| cores[id as usize % cores.len()]);
    ShardThread::start(core, seed, boottime()).map_err(|error| no_executor(id, &error))
}

fn no_executor(shard: u32, error: &GlommioError<()>) -> ServerError {
    ServerError::Executor { shard, error: error.to_string() }
}

/// The main thread's part: signals, free space, and shards that sleep or end.
fn wait_for_end(
    shared: &Shared,
    signals: &Signals,
    mut handles: Vec<ShardThread>,
    mut space: Space,
) -> Result<(), ServerError> {
    let began = boottime();
    while !shared.has_ended() {
        space.look(shared);
        for shard in &mut handles {
            let id = shard.id;
            if shard.start_again(boottime()).map_err(|error| no_executor(id, &error))? {
                tracing::warn!(
                    shard = u64::from(id),
                    "a shard has not begun to run; another thread was started for it"
                );
            }
        }
        if let Some(shard) = handles.iter().position(|shard| !shard.has_begun())
            && boottime() - began > START_PATIENCE
        {
            return Err(ServerError::Asleep { shard });
        }
        let woken = handles.iter().filter(|handle| handle.pulse.feel()).count();
        shared.shard_wakes.fetch_add(woken as u64, Ordering::Relaxed);
        if let Some(signal) = signals.wait(FEEL_INTERVAL) {
            if shared.stopping.swap(true, Ordering::SeqCst) {
                continue;
            }
            // Probes and load balancers see it first.
            shared.ready.store(false, Ordering::SeqCst);
            tracing::info!(signal, "received signal; shutting down");
        }
    }
    // A failed group must not wait for anybody: what is not acknowledged stays so.
    if let Some(error) = shared.failure() {
        return Err(ServerError::Group(error));
    }
    // Everything is on disk and every connection has ended. The executors are not waited for: tearing one down may wait for
    // a request of its ring that never ends (seen once), and the end of the process takes them along.
    drop(handles);
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM and SIGINT, taken by waiting for them.
struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    fn block() -> Signals {
        // SAFETY: an all-zero sigset_t is a valid place for sigemptyset to write to.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set lives on this stack through all calls; the old mask is not asked for. SIGPIPE is ignored so
        // that a closed socket is an error of its write.
        unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        }
        Signals { set }
    }

    fn wait(&self, at_most: Duration) -> Option<i32> {
        let timeout = libc::timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        // SAFETY: both pointers are to values that live through the call; no information is asked for.
        let signal = unsafe { libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), &raw const timeout) };
        (signal > 0).then_some(signal)
    }
}
