//! One member: the shipping group, its watch hub, its two simulated disks. The synchronous twin of the shard's task.

use std::sync::Arc;
use std::time::Duration;

use ringstone_core::command::{Bootstrap, Command, Member};
use ringstone_core::config::ServerConfig;
use ringstone_core::error::{Error, ReadFault};
use ringstone_core::group::{self, Group, GroupError, OpenError, Restore, RestoreError, Storage};
use ringstone_core::identity::Identity;
use ringstone_core::image::{ImageReader, ImageWriter, Step};
use ringstone_core::mvcc::{Budget, Progress, RangeScan};
use ringstone_core::shared::Shared;
use ringstone_core::state::State;
use ringstone_core::watch::{Hub, HubLimits, LogHistory, MemberIdentity};
use ringstone_pager::Reader;
use ringstone_pager::api::{Fault, PageRun, ReadTrees as _};
use ringstone_pager::disk::{Completion, Crash, Disk as _, Io, IoPurpose, SimDisk as SimPages, Token};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_proto::etcdserverpb::RangeRequest;
use ringstone_proto::mvccpb::KeyValue;
use ringstone_raft::{Configuration, NodeId};
use ringstone_wal::disk::Disk as _;
use ringstone_wal::disk::sim::{Keep, SimDisk as SimLog};

pub use super::settings::TICK;

use super::random::Random;
use super::settings::settings;

pub const CLUSTER: u64 = 0xc1;
/// A checkpoint begins at either: a history of half a minute sees dozens.
const DIRTY_BYTES_MAX: u64 = 96 << 10;
const LOG_BYTES_MAX: u64 = 128 << 10;
/// Of a read that brings a page in.
const BRING_IN: Token = Token(u64::MAX - 7);

pub fn member(id: u64) -> Member {
    let urls = |port: u64| vec![format!("http://10.0.0.{id}:{port}")];
    Member { id, name: format!("m{id}"), peer_urls: urls(2380), client_urls: urls(2379), is_learner: false }
}

fn identity(id: u64) -> Identity {
    let mut file_id = [7; 16];
    file_id[..8].copy_from_slice(&id.to_be_bytes());
    Identity { cluster_id: CLUSTER, member_id: id, file_id }
}

fn shared(id: u64) -> Arc<Shared> {
    let Member { name, peer_urls, client_urls, .. } = member(id);
    let config = ServerConfig { advertise_client_urls: client_urls, advertise_peer_urls: peer_urls, ..settings(name) };
    Arc::new(Shared::new(config, identity(id)))
}

fn log_options(id: u64) -> ringstone_wal::Options {
    let mut options = group::log_options(&identity(id));
    options.segment_bytes = 64 << 10;
    (options.fill_slice_bytes, options.batch_bytes_max) = (32 << 10, 24 << 10);
    options.spare_segments = 1;
    options
}

/// What runs between two crashes.
pub struct Life {
    pub group: Group,
    pub reader: Reader,
    pub hub: Hub,
    pub delivered: i64,
    pages_under_way: bool,
    bringing_in: Option<PageRun>,
}

/// A member and what lasts of it.
pub struct Node {
    pub id: u64,
    pub pages: SimPages,
    pub log: SimLog,
    pub life: Option<Life>,
    /// Counts up: what is scheduled for an earlier life does not happen.
    pub lives: u64,
    pub is_paused: bool,
    /// Latency of its disks, times ten.
    pub slowness: u64,
    /// CLOCK_BOOTTIME less the simulated time.
    clock: Duration,
    /// A page file beside the one in use, made from an image that covers this index.
    pub image: Option<(u64, SimPages)>,
}

/// Requests that were submitted to either disk.
#[derive(Default)]
pub struct Submitted {
    pub log: u64,
    pub pages: u64,
}

impl Node {
    pub fn new(id: u64, random: &mut Random) -> Node {
        let (pages, mut log) = (SimPages::new(), SimLog::new(random.next()));
        let storage = Storage {
            page_disk: &mut pages.clone(),
            pages: Arc::new(pages.clone()),
            log_disk: &mut log,
            log_options: log_options(id),
        };
        group::create_files_with(storage, &identity(id)).expect("the disks work");
        let clock = Duration::from_secs(random.between(100, 1_000_000));
        Node { id, pages, log, life: None, lives: 0, is_paused: false, slowness: 10, clock, image: None }
    }

    pub fn boottime(&self, now: Duration) -> Duration {
        self.clock + now
    }

    pub fn is_up(&self) -> bool {
        self.life.is_some() && !self.is_paused
    }

    /// Opens what the disks hold.
    pub fn start(&mut self, founders: &[u64], random: &mut Random, now: Duration) -> Result<(), OpenError> {
        let configuration = Configuration::new(founders.iter().map(|id| NodeId(*id)), []).unwrap_or_default();
        let now = self.boottime(now);
        let storage = Storage {
            page_disk: &mut self.pages.clone(),
            pages: Arc::new(self.pages.clone()),
            log_disk: &mut self.log,
            log_options: log_options(self.id),
        };
        let mut group = group::open_member(shared(self.id), storage, configuration, random.next(), now)?;
        group.set_checkpoint_bounds(DIRTY_BYTES_MAX, LOG_BYTES_MAX);
        group.set_shrink_least(u64::MAX);
        group.set_retained_bytes(64 << 10);
        let mut hash_key = [0; 16];
        hash_key[..8].copy_from_slice(&random.next().to_le_bytes());
        let members = founders.iter().map(|id| Member { name: String::new(), client_urls: vec![], ..member(*id) });
        let bootstrap = Bootstrap { cluster_id: CLUSTER, hash_key, members: members.collect() };
        let me = member(self.id);
        let attributes = Command::MemberAttributes { member_id: me.id, name: me.name, client_urls: me.client_urls };
        group.say_first(Command::Bootstrap(bootstrap), attributes);
        let reader = group.reader();
        let delivered = group.state().revision;
        let limits = HubLimits { queue_bytes: 2 << 10, recent_bytes: 4 << 10, ..HubLimits::default() };
        let hub = Hub::new(limits, MemberIdentity::default(), delivered);
        self.life = Some(Life { group, reader, hub, delivered, pages_under_way: false, bringing_in: None });
        self.lives += 1;
        Ok(())
    }

    /// The process ends, and with `power` the machine too.
    pub fn crash(&mut self, power: bool, random: &mut Random) {
        self.life = None;
        self.lives += 1;
        self.is_paused = false;
        self.image = None;
        if !power {
            self.pages = self.pages.fork();
            self.log = self.log.after_kill();
            return;
        }
        let seed = random.next();
        let (crash, keep) = match random.below(6) {
            0 => (Crash::KeepNone, Keep::Nothing),
            1 => (Crash::Random(seed), Keep::Random(seed)),
            2 => (Crash::Torn(seed), Keep::Torn(seed)),
            3 => (Crash::KeepAll, Keep::Torn(seed)),
            4 => (Crash::Torn(seed), Keep::Nothing),
            _ => (Crash::KeepAll, Keep::All),
        };
        self.pages.crash(crash);
        self.log = self.log.after_crash(keep);
    }

    /// The image takes the place of the page file; the process goes on with a new group.
    pub fn switch(&mut self, index: u64) {
        let (covers, pages) = self.image.take().expect("its message is stepped once it is there");
        assert_eq!(covers, index, "the image that was announced");
        self.life = None;
        self.lives += 1;
        self.pages = pages;
        self.log = self.log.after_kill();
    }

    /// Hands what the group wants to the disks.
    pub fn submit(&mut self, submitted: &mut Submitted) -> Result<(), GroupError> {
        let Some(life) = &mut self.life else { return Ok(()) };
        while let Some((token, io)) = life.group.poll_log_io() {
            self.log.submit(token, io);
            submitted.log += 1;
        }
        self.log.flush().map_err(ringstone_wal::WalError::from)?;
        if !life.pages_under_way
            && let Some((token, io)) = life.group.poll_pages_io()?
        {
            self.pages.submit(token, io);
            life.pages_under_way = true;
            submitted.pages += 1;
        }
        if let Some(run) = life.group.absent().filter(|_| life.bringing_in.is_none()) {
            let (offset, bytes) = (run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
            self.pages.submit(BRING_IN, Io::Read { offset, bytes, purpose: IoPurpose::ReadPage });
            life.bringing_in = Some(run);
            submitted.pages += 1;
        }
        Ok(())
    }

    pub fn log_done(&mut self) -> Result<(), GroupError> {
        let (Some(life), Some(completion)) = (&mut self.life, self.log.poll_completion()) else { return Ok(()) };
        life.group.log_completed(completion)
    }

    pub fn pages_done(&mut self) -> Result<(), GroupError> {
        let (Some(life), Some(Completion { token, result })) = (&mut self.life, self.pages.poll()) else {
            return Ok(());
        };
        if token == BRING_IN {
            let run = life.bringing_in.take().expect("it was asked for");
            result.map_err(|error| GroupError::PageFile(std::io::Error::other(error)))?;
            return life.group.brought_in(run);
        }
        life.pages_under_way = false;
        life.group.pages_completed(Completion { token, result })
    }
}

impl Life {
    pub fn awaits_pages(&self) -> bool {
        self.pages_under_way || self.bringing_in.is_some()
    }

    /// What a shard would read. Pages come in at once.
    pub fn read<R>(&self, mut read: impl FnMut(&ringstone_pager::Pin<'_>, &State) -> Result<R, Fault>) -> R {
        loop {
            let pin = self.reader.pin();
            let state = State::from_attributes(pin.attributes()).expect("a state of this version");
            match read(&pin, &state) {
                Ok(done) => return done,
                Err(Fault::Absent(run)) => self.reader.bring_in_done(run).expect("nothing is damaged here"),
                Err(Fault::Damaged(damage)) => panic!("{damage}"),
            }
        }
    }

    /// All keys of a range now, and the revision that they are of.
    pub fn range(&self, key: &[u8], range_end: &[u8]) -> (i64, Vec<KeyValue>) {
        self.read(|pin, state| {
            let (key, range_end) = (key.to_vec().into(), range_end.to_vec().into());
            let mut scan = RangeScan::new(&RangeRequest { key, range_end, ..Default::default() });
            loop {
                match scan.step(pin, state, &mut Budget::UNBOUNDED.clone()) {
                    Ok(Progress::Done) => return Ok((state.revision, scan.finish().kvs)),
                    Ok(Progress::More) => {}
                    Err(ReadFault::Absent(run)) => return Err(Fault::Absent(run)),
                    Err(fault) => panic!("range: {fault}"),
                }
            }
        })
    }

    /// Lets watchers that are behind read the log.
    pub fn catch_up_watches(&mut self) {
        while self.hub.needs_catch_up() {
            let pin = self.reader.pin();
            let state = State::from_attributes(pin.attributes()).expect("a state of this version");
            let history = LogHistory::new(&pin, (&state).into());
            match self.hub.catch_up(&history, 64) {
                Ok(()) => {}
                Err(Fault::Absent(run)) => self.reader.bring_in_done(run).expect("nothing is damaged here"),
                Err(Fault::Damaged(damage)) => panic!("{damage}"),
            }
        }
    }

    /// The whole published state as an image, with the index that it covers.
    pub fn image(&self, id: u64) -> (u64, Vec<u8>) {
        let (mut writer, mut image) = (ImageWriter::new(&identity(id)), Vec::new());
        loop {
            let pin = self.reader.pin();
            let state = State::from_attributes(pin.attributes()).expect("a state of this version");
            match writer.step(&pin, &state) {
                Ok(Step::Counting) => {}
                Ok(Step::Piece(piece)) => image.extend_from_slice(&piece.bytes),
                Ok(Step::Done) => return (state.applied_index, image),
                Err(ReadFault::Absent(run)) => self.reader.bring_in_done(run).expect("nothing is damaged here"),
                Err(ReadFault::Refused(Error::SnapshotMoved)) => writer = ImageWriter::new(&identity(id)),
                Err(fault) => panic!("{fault}"),
            }
        }
    }
}

/// A page file from an image, on a disk of its own.
pub fn restore(id: u64, image: &[u8]) -> Result<SimPages, RestoreError> {
    let pages = SimPages::new();
    let mut restore =
        Restore::create_with(Box::new(pages.clone()), Arc::new(pages.clone()), &identity(id))?.of_member();
    restore.set_dirty_bytes_max(64 << 10);
    let mut reader = ImageReader::new();
    for bytes in image.chunks(4096) {
        reader.push(bytes)?;
        restore.drain(&mut reader)?;
    }
    let summary = reader.finish()?;
    restore.finish_member(&summary)?;
    Ok(pages)
}
