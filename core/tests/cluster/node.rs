//! One member: the shipping group, its watch hub, its two simulated disks. The synchronous twin of the shard's task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringstone_core::command::{Bootstrap, Command, Member};
use ringstone_core::config::ServerConfig;
use ringstone_core::error::{Error, ReadFault};
use ringstone_core::group::{
    self, Group, GroupError, OpenError, PageRestore, Restore, RestoreError, RestoreOptions, Storage,
};
use ringstone_core::identity::Identity;
use ringstone_core::image::{ImageReader, ImageWriter, Step};
use ringstone_core::mvcc::{Budget, Progress, RangeScan};
use ringstone_core::said::Caller;
use ringstone_core::shared::Shared;
use ringstone_core::state::State;
use ringstone_core::watch::{Hub, HubLimits, LogHistory, MemberIdentity};
use ringstone_pager::Reader;
use ringstone_pager::api::{Access, Damage, Fault, PageRun, ReadTrees as _};
use ringstone_pager::disk::{Completion, Crash, Disk as _, Io, IoPurpose, SimDamage, SimDisk as SimPages, Token};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::transfer::{Collector, DiskSink, NodeCheck, Piece};
use ringstone_proto::etcdserverpb::RangeRequest;
use ringstone_proto::mvccpb::KeyValue;
use ringstone_raft::{Configuration, NodeId};
use ringstone_wal::disk::sim::{Keep, SimDisk as SimLog};
use ringstone_wal::disk::{Disk as _, FileName};

pub use super::settings::TICK;

use super::faults::{Harm, Plan};
use super::random::Random;
use super::settings::settings;

pub const CLUSTER: u64 = 0xc1;
/// The one that a snapshot becomes.
const RESTORED_CLUSTER: u64 = 0xc2;
/// A checkpoint begins at either: a history of half a minute sees dozens.
const DIRTY_BYTES_MAX: u64 = 96 << 10;
const LOG_BYTES_MAX: u64 = 128 << 10;
/// The shard of what other members ask for.
pub const STRANGER: u32 = u32::MAX - 1;
const BLOCK_BYTES: usize = 4096;
/// Of a read that brings a page in.
const BRING_IN: Token = Token(u64::MAX - 7);

pub fn member(id: u64) -> Member {
    let urls = |port: u64| vec![format!("http://10.0.0.{id}:{port}")];
    Member { id, name: format!("m{id}"), peer_urls: urls(2380), client_urls: urls(2379), is_learner: false }
}

fn identity(cluster_id: u64, id: u64) -> Identity {
    let mut file_id = [7; 16];
    file_id[..8].copy_from_slice(&id.to_be_bytes());
    Identity { cluster_id, member_id: id, file_id }
}

fn shared(cluster: u64, id: u64) -> Arc<Shared> {
    let Member { name, peer_urls, client_urls, .. } = member(id);
    let config = ServerConfig { advertise_client_urls: client_urls, advertise_peer_urls: peer_urls, ..settings(name) };
    Arc::new(Shared::new(config, identity(cluster, id)))
}

fn log_options(cluster: u64, id: u64) -> ringstone_wal::Options {
    let mut options = group::log_options(&identity(cluster, id));
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
    /// What other members have asked for, by the request id that the group has them under.
    pub strangers: BTreeMap<u64, (u64, Caller)>,
    next_stranger: u64,
    pages_under_way: bool,
    bringing_in: Option<PageRun>,
}

/// A member and what lasts of it.
pub struct Node {
    pub id: u64,
    cluster: u64,
    pub pages: SimPages,
    pub log: SimLog,
    pub life: Option<Life>,
    /// Counts up: what is scheduled for an earlier life does not happen.
    pub lives: u64,
    pub is_paused: bool,
    /// Latency of its disks, times ten.
    pub slowness: u64,
    /// CLOCK_BOOTTIME when the history began.
    clock: Duration,
    /// Microseconds of its clock in a second of time.
    drift_ppm: u64,
    /// Its disks hold other bytes than were written.
    pub is_damaged: bool,
    /// It never starts again.
    pub is_gone: bool,
    is_full: bool,
    is_unreadable: bool,
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
    pub fn new(id: u64, random: &mut Random, plan: &Plan) -> Node {
        let (pages, mut log) = (SimPages::new(), SimLog::new(random.next()));
        let storage = Storage {
            page_disk: &mut pages.clone(),
            pages: Arc::new(pages.clone()),
            log_disk: &mut log,
            log_options: log_options(CLUSTER, id),
        };
        group::create_files_with(storage, &identity(CLUSTER, id)).expect("the disks work");
        Node::with_disks(CLUSTER, id, pages, log, random, plan)
    }

    /// A member of the cluster that a snapshot becomes.
    pub fn restored(id: u64, image: &[u8], options: &RestoreOptions, random: &mut Random, plan: &Plan) -> Node {
        let (pages, mut log) = (SimPages::new(), SimLog::new(random.next()));
        let identity = identity(RESTORED_CLUSTER, id);
        let restored = (|| {
            let mut restore = Restore::create_with(Box::new(pages.clone()), Arc::new(pages.clone()), &identity)?;
            let mut reader = ImageReader::new();
            reader.push(image)?;
            restore.drain(&mut reader)?;
            restore.finish_with(&reader.finish()?, options, &mut log, log_options(RESTORED_CLUSTER, id))
        })();
        restored.unwrap_or_else(|error: RestoreError| panic!("the snapshot can't be restored: {error}"));
        Node::with_disks(RESTORED_CLUSTER, id, pages, log, random, plan)
    }

    fn with_disks(cluster: u64, id: u64, pages: SimPages, log: SimLog, random: &mut Random, plan: &Plan) -> Node {
        let clock = Duration::from_secs(random.between(100, 1_000_000));
        let most = plan.drift_percent * 10_000;
        let drift_ppm = 1_000_000 - most + random.below(2 * most + 1);
        Node {
            id,
            cluster,
            pages,
            log,
            life: None,
            lives: 0,
            is_paused: false,
            slowness: 10,
            clock,
            drift_ppm,
            is_damaged: false,
            is_gone: false,
            is_full: false,
            is_unreadable: false,
            image: None,
        }
    }

    pub fn boottime(&self, now: Duration) -> Duration {
        self.clock + Duration::from_micros(now.as_micros() as u64 * self.drift_ppm / 1_000_000)
    }

    /// How long a while of its clock takes, in simulated microseconds.
    pub fn interval_us(&self, of_clock: Duration) -> u64 {
        of_clock.as_micros() as u64 * 1_000_000 / self.drift_ppm
    }

    /// Its clock goes on, and nothing else does.
    pub fn skip(&mut self, milliseconds: u64) {
        self.clock += Duration::from_millis(milliseconds);
    }

    /// No new segment of the log, no growth of the page file.
    pub fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
        self.tell_disks();
    }

    /// Reads fail.
    pub fn set_unreadable(&mut self, is_unreadable: bool) {
        self.is_unreadable = is_unreadable;
        self.tell_disks();
    }

    /// Its disks refuse requests, for a while.
    pub fn is_in_trouble(&self) -> bool {
        self.is_full || self.is_unreadable
    }

    fn tell_disks(&mut self) {
        self.log.set_space_bytes(if self.is_full { 0 } else { u64::MAX });
        self.log.set_unreadable(self.is_unreadable);
        self.pages.set_full(self.is_full);
        self.pages.set_unreadable(self.is_unreadable);
    }

    pub fn failed_to_start(&mut self) {
        self.lives += 1;
        self.pages = self.pages.fork();
        self.log = self.log.after_kill();
        self.tell_disks();
    }

    /// False: there is nothing to damage. Of the log not its last batches: what nothing comes behind can't be told from a
    /// write that a power cut has torn (docs/format-wal.md), and then its acknowledgement is worth nothing.
    pub fn damage(&mut self, harm: Harm, of_log: bool, random: &mut Random) -> bool {
        let is_done = if of_log { self.damage_log(harm, random) } else { self.damage_pages(harm, random) };
        self.is_damaged |= is_done;
        // What memory has of the file is as it was written: somebody has to look at the disk.
        self.pages.evict_all();
        is_done
    }

    fn damage_pages(&self, harm: Harm, random: &mut Random) -> bool {
        let pages = self.pages.length().expect("it is in memory") / PAGE_BYTES as u64;
        // Some are not in use, or were never written.
        (0..20).any(|_| {
            let page = random.below(pages);
            let damage = match harm {
                Harm::Rot => SimDamage::Rot(random.below(PAGE_BYTES as u64) as usize, 1 << random.below(8)),
                Harm::Misdirected => SimDamage::Misdirected(random.below(pages)),
                Harm::Lost => SimDamage::Lost,
            };
            self.pages.damage(page, damage)
        })
    }

    /// In the first half of a segment that is full: what follows proves that it was written.
    fn damage_log(&mut self, harm: Harm, random: &mut Random) -> bool {
        let mut segments: Vec<FileName> = self.log.names();
        segments.retain(|name| matches!(name, FileName::Segment(_)));
        segments.sort_unstable();
        segments.pop();
        if segments.is_empty() {
            return false;
        }
        let name = segments[random.below(segments.len() as u64) as usize];
        let offset = random.below(8) as usize * BLOCK_BYTES;
        let block = |disk: &SimLog, at: usize| {
            disk.bytes(name).and_then(|bytes| Some(bytes.get(at..at + BLOCK_BYTES)?.to_vec()))
        };
        let Some(before) = block(&self.log, offset) else { return false };
        let mut after = before.clone();
        match harm {
            Harm::Rot => after[random.below(BLOCK_BYTES as u64) as usize] ^= 1 << random.below(8),
            Harm::Misdirected => match block(&self.log, random.below(8) as usize * BLOCK_BYTES) {
                Some(other) => after = other,
                None => return false,
            },
            Harm::Lost => after.fill(0),
        }
        after != before && self.log.damage(name, offset, &after)
    }

    pub fn is_up(&self) -> bool {
        self.life.is_some() && !self.is_paused
    }

    /// Opens what the disks hold.
    pub fn start(
        &mut self,
        founders: &[u64],
        retained_bytes: u64,
        random: &mut Random,
        now: Duration,
    ) -> Result<(), OpenError> {
        let configuration = Configuration::new(founders.iter().map(|id| NodeId(*id)), []).unwrap_or_default();
        let now = self.boottime(now);
        let storage = Storage {
            page_disk: &mut self.pages.clone(),
            pages: Arc::new(self.pages.clone()),
            log_disk: &mut self.log,
            log_options: log_options(self.cluster, self.id),
        };
        let mut group = group::open_member(shared(self.cluster, self.id), storage, configuration, random.next(), now)?;
        group.set_checkpoint_bounds(DIRTY_BYTES_MAX, LOG_BYTES_MAX);
        group.set_shrink_least(u64::MAX);
        group.set_retained_bytes(retained_bytes);
        let mut hash_key = [0; 16];
        hash_key[..8].copy_from_slice(&random.next().to_le_bytes());
        let members = founders.iter().map(|id| Member { name: String::new(), client_urls: vec![], ..member(*id) });
        let bootstrap = Bootstrap { cluster_id: self.cluster, hash_key, members: members.collect() };
        let me = member(self.id);
        let attributes = Command::MemberAttributes { member_id: me.id, name: me.name, client_urls: me.client_urls };
        group.say_first(Command::Bootstrap(bootstrap), attributes);
        let reader = group.reader();
        let delivered = group.state().revision;
        let limits = HubLimits { queue_bytes: 2 << 10, recent_bytes: 4 << 10, ..HubLimits::default() };
        let hub = Hub::new(limits, MemberIdentity::default(), delivered);
        self.life = Some(Life {
            group,
            reader,
            hub,
            delivered,
            strangers: BTreeMap::new(),
            next_stranger: 0,
            pages_under_way: false,
            bringing_in: None,
        });
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
            return self.tell_disks();
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
        self.tell_disks();
    }

    /// The image that the log names stays until the switch.
    pub fn takes_image(&self) -> bool {
        self.life.as_ref().is_some_and(|life| !life.group.has_taken_image())
    }

    /// The image takes the place of the page file; the process goes on with a new group.
    pub fn switch(&mut self, index: u64) {
        let (covers, pages) = self.image.take().expect("its message is stepped once it is there");
        assert_eq!(covers, index, "the image that was announced");
        self.life = None;
        self.lives += 1;
        self.pages = pages;
        self.log = self.log.after_kill();
        self.tell_disks();
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

    /// A number for what another member asks for.
    pub fn stranger(&mut self, from: u64, caller: Caller) -> u64 {
        self.next_stranger += 1;
        self.strangers.insert(self.next_stranger, (from, caller));
        self.next_stranger
    }

    /// What a shard would read. Pages come in at once.
    pub fn read<R>(&self, mut read: impl FnMut(&ringstone_pager::Pin<'_>, &State) -> Access<R>) -> Result<R, Damage> {
        loop {
            let pin = self.reader.pin();
            let state = State::from_attributes(pin.attributes()).expect("a state of this version");
            match read(&pin, &state) {
                Ok(done) => return Ok(done),
                Err(Fault::Absent(run)) => self.reader.bring_in_done(run)?,
                Err(Fault::Damaged(damage)) => return Err(damage),
            }
        }
    }

    /// All keys of a range now, and the revision that they are of.
    pub fn range(&self, key: &[u8], range_end: &[u8]) -> Result<(i64, Vec<KeyValue>), Damage> {
        self.read(|pin, state| {
            let (key, range_end) = (key.to_vec().into(), range_end.to_vec().into());
            let mut scan = RangeScan::new(&RangeRequest { key, range_end, ..Default::default() });
            loop {
                match scan.step(pin, state, &mut Budget::UNBOUNDED.clone()) {
                    Ok(Progress::Done) => return Ok((state.revision, scan.finish().kvs)),
                    Ok(Progress::More) => {}
                    Err(ReadFault::Absent(run)) => return Err(Fault::Absent(run)),
                    Err(ReadFault::Refused(Error::Damaged(damage))) => return Err(Fault::Damaged(damage)),
                    Err(fault) => panic!("range: {fault}"),
                }
            }
        })
    }

    /// Lets watchers that are behind read the log.
    pub fn catch_up_watches(&mut self) -> Result<(), Damage> {
        while self.hub.needs_catch_up() {
            let pin = self.reader.pin();
            let state = State::from_attributes(pin.attributes()).expect("a state of this version");
            let history = LogHistory::new(&pin, (&state).into());
            match self.hub.catch_up(&history, 64) {
                Ok(()) => {}
                Err(Fault::Absent(run)) => self.reader.bring_in_done(run)?,
                Err(Fault::Damaged(damage)) => return Err(damage),
            }
        }
        Ok(())
    }

    /// The whole published state as pages, for another member, with the index that it covers.
    pub fn pages(&self, id: u64, disk: &SimPages) -> Result<(u64, Vec<u8>), Damage> {
        let (pin, identity) = (self.reader.pin(), identity(CLUSTER, id));
        let state = State::from_attributes(pin.attributes()).expect("a state of this version");
        let mut collector = Collector::new(&pin, identity.file_id, identity.owner_id());
        loop {
            match collector.step() {
                Ok(true) => break,
                Ok(false) => {}
                Err(Fault::Absent(run)) => self.reader.bring_in_done(run)?,
                Err(Fault::Damaged(damage)) => return Err(damage),
            }
        }
        let image = collector.finish().expect("a short file");
        let (mut check, mut bytes) = (NodeCheck::default(), Vec::new());
        loop {
            match image.piece(bytes.len() as u64, 16) {
                Piece::End => return Ok((state.applied_index, bytes)),
                Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
                Piece::Pages(run) => {
                    let read = disk.peek(run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
                    check.look(&image, run.first, &read)?;
                    bytes.extend_from_slice(&read);
                }
            }
        }
    }

    /// The whole published state as an image, with the index that it covers.
    pub fn image(&self, id: u64) -> Result<(u64, Vec<u8>), Damage> {
        let (mut writer, mut image) = (ImageWriter::new(&identity(CLUSTER, id)), Vec::new());
        loop {
            let pin = self.reader.pin();
            let state = State::from_attributes(pin.attributes()).expect("a state of this version");
            match writer.step(&pin, &state) {
                Ok(Step::Counting) => {}
                Ok(Step::Piece(piece)) => image.extend_from_slice(&piece.bytes),
                Ok(Step::Done) => return Ok((state.applied_index, image)),
                Err(ReadFault::Absent(run)) => self.reader.bring_in_done(run)?,
                Err(ReadFault::Refused(Error::Damaged(damage))) => return Err(damage),
                Err(ReadFault::Refused(Error::SnapshotMoved)) => writer = ImageWriter::new(&identity(CLUSTER, id)),
                Err(fault) => panic!("{fault}"),
            }
        }
    }
}

/// A page file from pages, on a disk of its own.
pub fn restore(id: u64, image: &[u8]) -> Result<SimPages, RestoreError> {
    let pages = SimPages::new();
    let mut restore = PageRestore::new(Box::new(DiskSink(pages.clone())), &identity(CLUSTER, id), [5; 16]);
    for bytes in image.chunks(10_000) {
        restore.push(bytes)?;
    }
    restore.finish()?;
    Ok(pages)
}
