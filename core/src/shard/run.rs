//! A shard's life: from its seed, made by the server on the main thread, to the end of its last connection.

use std::cell::Cell;
use std::cell::RefCell;
use std::net::TcpListener as StdListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use glommio::channels::shared_channel::{ConnectedSender, SharedReceiver, SharedSender};
use glommio::io::BufferedFile;
use glommio::net::{AcceptedTcpStream, TcpListener};
use glommio::timer::sleep;
use ringstone_net::glommio_io::{GlommioRuntime, GlommioStream};
use ringstone_net::nap::Nap;
use ringstone_net::{Limits, Server, ShardMemory, serve_connection};
use ringstone_pager::Reader;
use ringstone_wal::disk::ring::RingDisk;

use super::bring_in::PageReads;
use super::group_task::{Driver, Inbox, Remote};
use super::link::{FromGroup, Stamps, ToGroup};
use super::notify::{Broadcast, Notify};
use super::page_io::PageFile;
use super::pending::{Late, Pending};
use super::pulse::Pulse;
use super::{Shard, boottime, compaction, fds};
use crate::api::Api;
use crate::config::REQUEST_OVERHEAD_BYTES;
use crate::error::Error;
use crate::group::{Group, GroupError};
use crate::shared::Shared;
use crate::watch::{Hub, HubLimits, MemberIdentity};

/// How often a shard looks for late requests and for the order to stop.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How long calls in flight are given when the member stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What the group's shard has that others have not.
pub struct GroupSeat {
    /// The group, opened.
    pub group: Group,
    /// Its log's ring.
    pub ring: RingDisk,
    /// Sockets that listen.
    pub listeners: Vec<StdListener>,
    /// Shards 1 and up, in order.
    pub remotes: Vec<RemoteSeat>,
}

/// The group's side of the queues to one shard.
pub struct RemoteSeat {
    /// To the shard.
    pub to_shard: SharedSender<FromGroup>,
    /// From the shard.
    pub from_shard: SharedReceiver<ToGroup>,
    /// Its share of the connections.
    pub sockets: SharedSender<AcceptedTcpStream>,
}

/// A shard's own side of the queues.
pub struct ShardSeat {
    /// To the group.
    pub to_group: SharedSender<ToGroup>,
    /// From the group.
    pub from_group: SharedReceiver<FromGroup>,
    /// Its share of the connections.
    pub sockets: SharedReceiver<AcceptedTcpStream>,
}

/// Where a shard sits.
pub enum Placement {
    /// With the group.
    Group(Box<GroupSeat>),
    /// On a core of its own.
    Shard(ShardSeat),
}

/// Everything that a shard starts from.
pub struct ShardSeed {
    /// Its number.
    pub id: u32,
    /// What all know.
    pub shared: Arc<Shared>,
    /// Its reader slot.
    pub reader: Reader,
    /// The page file.
    pub page_file: PathBuf,
    /// The first request id, far enough from those of other lives; below 2^56.
    pub first_request_id: u64,
    /// What the main thread feels of it.
    pub pulse: Arc<Pulse>,
    /// Where it sits.
    pub placement: Placement,
}

type GrpcServer = Server<Api, GlommioRuntime>;

/// What a shard's tasks share.
struct Running {
    shard: Rc<Shard>,
    pulse: Arc<Pulse>,
    server: Rc<GrpcServer>,
    open: Cell<usize>,
}

/// Runs a shard to its end; that of the group's shard is the member's. Called inside its executor.
pub async fn run_to_end(seed: ShardSeed) {
    let (shared, is_group) = (Arc::clone(&seed.shared), matches!(seed.placement, Placement::Group(_)));
    let result = run(seed).await;
    if is_group {
        shared.ended(result.err());
    }
}

/// Runs a shard to its end. Called inside its executor.
///
/// # Errors
/// [`GroupError`] on the group's shard: the process must end.
pub async fn run(seed: ShardSeed) -> Result<(), GroupError> {
    let ShardSeed { id, shared, reader, page_file, first_request_id, pulse, placement } = seed;
    Arc::clone(&pulse).begin();
    let open = BufferedFile::open(&page_file);
    let file = Rc::new(open.await.map_err(|error| GroupError::PageFile(error.into()))?);
    let hub = Hub::new(hub_limits(&shared), identity(&shared), shared.revision.load(Ordering::Relaxed));
    // Without naps it parks.
    let nap = (shared.config.shards == 1).then(|| Nap::start().ok()).flatten();
    let shard = Rc::new(Shard {
        id,
        hub: RefCell::new(hub),
        pages: PageReads::new(Rc::clone(&file), Arc::clone(&shared), nap.clone()),
        reader,
        pending: Pending::new(first_request_id),
        outbox: RefCell::new(ToGroup::default()),
        outbox_filled: Notify::default(),
        hub_hungry: Notify::default(),
        stream_waits: RefCell::default(),
        shutdown: Broadcast::default(),
        leaderless_since: Cell::default(),
        leader_lost: RefCell::default(),
        nap,
        group_wake: RefCell::new(None),
        shared,
    });
    let memory = ShardMemory::new(Arc::clone(&shard.shared.connection_memory));
    let api = Rc::new(Api::new(Rc::clone(&shard), Rc::clone(&memory)));
    let server = Server::new(api, GlommioRuntime::new(boottime), limits(&shard)).within_memory(memory);
    let extensive = shard.shared.config.extensive_metrics;
    let server = Rc::new(if extensive { server.counting_times() } else { server });
    let running = Rc::new(Running { shard, pulse, server, open: Cell::new(0) });
    Rc::clone(&running.shard).drive_watches();
    match placement {
        Placement::Group(seat) => run_group_shard(running, *seat, page_file).await,
        Placement::Shard(seat) => {
            run_plain_shard(running, seat).await;
            Ok(())
        }
    }
}

/// Of this thread: times that it had to wait for the disk because of a page that the kernel had taken back.
fn major_faults() -> u64 {
    // SAFETY: an all-zero rusage is a valid place for the answer.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a value that lives through the call.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    u64::try_from(usage.ru_majflt).unwrap_or(0)
}

fn hub_limits(shared: &Shared) -> HubLimits {
    let interval = shared.config.watch_progress_interval.as_millis();
    HubLimits {
        fragment_bytes: shared.config.max_request_bytes + REQUEST_OVERHEAD_BYTES,
        progress_interval_ms: u64::try_from(interval).unwrap_or(u64::MAX),
        ..HubLimits::default()
    }
}

/// What answers of this member's watches say of it.
pub(super) fn identity(shared: &Shared) -> MemberIdentity {
    MemberIdentity {
        cluster_id: shared.identity.cluster_id,
        member_id: shared.identity.member_id,
        raft_term: shared.term.load(Ordering::Relaxed),
    }
}

fn limits(shard: &Shard) -> Limits {
    let config = &shard.shared.config;
    let memory_bytes = shard.shared.connection_memory.bytes_max();
    let usual = Limits::default();
    Limits {
        connection_outgoing_bytes_max: usual.connection_outgoing_bytes_max.min(memory_bytes / 2),
        connection_incoming_bytes_max: usual.connection_incoming_bytes_max.min(memory_bytes / 4),
        message_bytes_max: config.max_request_bytes + REQUEST_OVERHEAD_BYTES,
        streams_max: config.max_concurrent_streams,
        keepalive_interval: config.keepalive_interval,
        keepalive_timeout: config.keepalive_timeout,
        shutdown_grace: SHUTDOWN_GRACE,
        ..usual
    }
}

impl Running {
    fn serve(self: &Rc<Self>, socket: AcceptedTcpStream) {
        let (stream, peer) = match GlommioStream::tcp(socket.bind_to_executor(), self.shard.nap.as_ref()) {
            Ok(bound) => bound,
            Err(_) => return self.shard.shared.connection_ended(self.shard.id),
        };
        self.open.set(self.open.get() + 1);
        let running = Rc::clone(self);
        glommio::spawn_local(async move {
            serve_connection(stream, peer, &running.server, running.shard.told_to_stop()).await;
            running.open.set(running.open.get() - 1);
            running.shard.shared.connection_ended(running.shard.id);
        })
        .detach();
    }

    /// What /metrics on any shard shows of this one.
    fn publish_figures(&self) {
        let shared = &self.shard.shared;
        let id = self.shard.id as usize;
        if let Ok(mut wire) = shared.wire[id].lock() {
            *wire = Some(self.server.metrics.snapshot());
        }
        if let Ok(mut clients) = shared.clients[id].lock() {
            *clients = self.server.handler.client_requests();
        }
        shared.metrics[id].major_faults.store(major_faults(), Ordering::Relaxed);
        let stats = self.shard.hub.borrow().stats();
        let watches = &shared.metrics[id].watches;
        watches.streams.store(stats.streams as u64, Ordering::Relaxed);
        watches.watchers.store(stats.watchers as u64, Ordering::Relaxed);
        watches.behind.store(stats.watchers_behind as u64, Ordering::Relaxed);
        watches.pending.store(stats.answers_pending as u64, Ordering::Relaxed);
        watches.pending_bytes.store(stats.answers_pending_bytes as u64, Ordering::Relaxed);
    }

    /// Late requests are answered; returns when the member is told to stop and this shard's connections have ended.
    async fn keep_house(self: Rc<Self>) {
        let timeout = self.shard.shared.config.request_timeout();
        let mut stopping_since = None;
        loop {
            sleep(HOUSEKEEPING).await;
            let now = boottime();
            self.pulse.beat();
            self.publish_figures();
            self.shard.note_leader(now);
            self.shard.pending.expire(now.saturating_sub(timeout), |since, what| {
                let shared = &self.shard.shared;
                let error = match what {
                    Late::Write => shared.late_write(since),
                    Late::OfLeader if shared.leader.load(Ordering::Relaxed) == 0 => Error::NoLeader,
                    Late::OfLeader | Late::Read => Error::Timeout,
                };
                (Err(error), Stamps::default())
            });
            if !self.shard.shared.stopping.load(Ordering::Relaxed) {
                continue;
            }
            self.shard.shutdown.complete();
            let since = *stopping_since.get_or_insert(now);
            if self.open.get() == 0 || now.saturating_sub(since) > SHUTDOWN_GRACE {
                self.shard.shared.shards_stopped.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    }

    /// Sends what collected in the outbox while other tasks ran, in one piece.
    async fn forward(self: Rc<Self>, send: impl AsyncFn(ToGroup)) {
        loop {
            self.shard.outbox_filled.wait().await;
            let batch = self.shard.outbox.take();
            if !batch.is_empty() {
                send(batch).await;
            }
        }
    }
}

async fn run_plain_shard(running: Rc<Running>, seat: ShardSeat) {
    // A connect waits for the other end's: the order is that of the group's side.
    let from_group = seat.from_group.connect().await;
    let to_group = Rc::new(seat.to_group.connect().await);
    let sockets = seat.sockets.connect().await;
    let forward = Rc::clone(&running).forward(async move |batch| {
        // The queue is full only while the group is behind; a closed one means that the process ends.
        let _ = to_group.send(batch).await;
    });
    glommio::spawn_local(forward).detach();
    let receiving = Rc::clone(&running.shard);
    glommio::spawn_local(async move {
        while let Some(from) = from_group.recv().await {
            receiving.receive(from);
        }
    })
    .detach();
    let serving = Rc::clone(&running);
    glommio::spawn_local(async move {
        while let Some(socket) = sockets.recv().await {
            serving.serve(socket);
        }
    })
    .detach();
    running.keep_house().await;
}

async fn run_group_shard(running: Rc<Running>, seat: GroupSeat, page_file: PathBuf) -> Result<(), GroupError> {
    let inbox = Rc::new(Inbox::default());
    *running.shard.group_wake.borrow_mut() = Some(Rc::clone(&inbox));
    let mut remotes = Vec::new();
    let mut socket_senders: Vec<ConnectedSender<AcceptedTcpStream>> = Vec::new();
    for remote in seat.remotes {
        let sender = remote.to_shard.connect().await;
        let from_shard = remote.from_shard.connect().await;
        socket_senders.push(remote.sockets.connect().await);
        let revision = running.shard.shared.revision.load(Ordering::Relaxed);
        remotes.push(Remote { sender, backlog: FromGroup::empty(revision), sent: revision });
        let inbox = Rc::clone(&inbox);
        glommio::spawn_local(async move {
            while let Some(batch) = from_shard.recv().await {
                inbox.push(batch);
            }
        })
        .detach();
    }
    let writable = PageFile::open(&page_file).map_err(GroupError::PageFile)?;
    let (ready, stop) = (Rc::new(Broadcast::default()), Rc::new(Broadcast::default()));
    let driver = Driver::new(
        seat.group,
        seat.ring,
        writable,
        inbox,
        Rc::clone(&running.shard),
        remotes,
        Rc::clone(&ready),
        Rc::clone(&stop),
    );
    let group = glommio::spawn_local(driver.run());
    if let Some(retention) = running.shard.shared.config.auto_compaction {
        glommio::spawn_local(compaction::run(Rc::clone(&running.shard), retention)).detach();
    }
    let accepting = Rc::clone(&running);
    let senders = Rc::new(socket_senders);
    glommio::spawn_local(async move {
        ready.wait().await;
        for listener in seat.listeners {
            announce(&accepting.shard.shared, &listener);
            let listener = fds::listener(listener.into());
            glommio::spawn_local(accept(Rc::clone(&accepting), listener, Rc::clone(&senders))).detach();
        }
    })
    .detach();
    let waiting = Rc::clone(&running);
    glommio::spawn_local(async move {
        Rc::clone(&waiting).keep_house().await;
        let shared = &waiting.shard.shared;
        while shared.shards_stopped.load(Ordering::SeqCst) < shared.config.shards {
            sleep(HOUSEKEEPING / 4).await;
        }
        stop.complete();
        waiting.shard.wake_group();
    })
    .detach();
    group.await
}

/// The lines that etcd's harnesses and people wait for.
fn announce(shared: &Shared, listener: &StdListener) {
    let address = listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
    tracing::info!("ready to serve client requests");
    tracing::info!(
        traffic = "grpc+http",
        address = %address,
        "serving client traffic insecurely; this is strongly discouraged!"
    );
    println!(
        "ringstone {} serves the etcd API on http://{address}, data in {}\n  try:  ringstone ctl --endpoints={address} put hello world\n        etcdctl --endpoints={address} get hello",
        crate::config::RINGSTONE_VERSION,
        shared.config.data_dir.display()
    );
}

/// Hands each new connection to the least loaded shard; the group's own counts twice.
async fn accept(running: Rc<Running>, listener: TcpListener, senders: Rc<Vec<ConnectedSender<AcceptedTcpStream>>>) {
    while !running.shard.shutdown.is_complete() {
        let socket = match listener.shared_accept().await {
            Ok(socket) => socket,
            Err(error) => {
                // Out of descriptors or memory: the connections that there are go on; look again soon.
                tracing::warn!(error = %error, "a connection could not be accepted; it is tried again");
                sleep(HOUSEKEEPING).await;
                continue;
            }
        };
        let shared = &running.shard.shared;
        let shard = shared.least_loaded();
        shared.connection_began(shard);
        match shard.checked_sub(1) {
            None => running.serve(socket),
            Some(remote) => {
                if senders[remote as usize].send(socket).await.is_err() {
                    shared.connection_ended(shard);
                }
            }
        }
    }
}
