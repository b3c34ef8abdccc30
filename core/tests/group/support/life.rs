//! One life of a member: the synchronous twin of the shard's task, and what is checked of the store it opens.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringstone_core::command::{ArchivedCommand, Bootstrap, Command, Member};
use ringstone_core::entry::{Draft, Envelope};
use ringstone_core::error::{Error, ReadFault};
use ringstone_core::event::{Event, Revision};
use ringstone_core::group::{self, Group, GroupError, OpenError, Proposal, Storage, tree_specs};
use ringstone_core::identity::Identity;
use ringstone_core::lease::state as lease;
use ringstone_core::mvcc::hash::{HashKv, hash_kv};
use ringstone_core::mvcc::history::read_events;
use ringstone_core::mvcc::{self, Budget, Progress, RangeScan};
use ringstone_core::shared::Shared;
use ringstone_core::state::State;
use ringstone_pager::api::{Damage, Fault, PageRun, ReadTrees as _};
use ringstone_pager::check::check;
use ringstone_pager::disk::{Completion, Disk as _, Io, IoPurpose, Token};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::mapping::PageSource as _;
use ringstone_pager::model::ModelTrees;
use ringstone_pager::{Pin, Reader};
use ringstone_proto::etcdserverpb::RangeRequest;
use ringstone_proto::mvccpb::KeyValue;
use ringstone_wal::disk::Disk as _;
use ringstone_wal::disk::sim::Random;

use super::disks::{Disks, Fuse, FusedLog, FusedPages, random};
use super::journal::{Journal, SharedJournal, changes_of};
use super::settings::{TICK, settings};

pub const IDENTITY: Identity = Identity { cluster_id: 0xcdf8, member_id: 0x8e9e, file_id: [7; 16] };
const HASH_KEY: [u8; 16] = *b"sixteen key byte";
/// A checkpoint begins at either: a history of seconds sees dozens.
const DIRTY_BYTES_MAX: u64 = 96 << 10;
const LOG_BYTES_MAX: u64 = 128 << 10;

pub fn member() -> Member {
    Member { id: IDENTITY.member_id, name: "one".into(), peer_urls: vec![], client_urls: vec![], is_learner: false }
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(settings("one".to_owned()), IDENTITY))
}

/// Settings of a log on these disks.
pub fn log_options(disks: &Disks) -> ringstone_wal::Options {
    let mut options = group::log_options(&IDENTITY);
    options.segment_bytes = disks.segment_bytes();
    (options.fill_slice_bytes, options.batch_bytes_max) = (32 << 10, 24 << 10);
    options.spare_segments = 1;
    options
}

/// Makes the files of a new member.
pub fn create(disks: &Disks, fuse: &Fuse) -> Result<(), OpenError> {
    let (mut pages, mut log_disk) = disks.fused(fuse);
    let storage = Storage {
        page_disk: &mut pages,
        pages: Arc::new(disks.pages.clone()),
        log_disk: &mut log_disk,
        log_options: log_options(disks),
    };
    group::create_files_with(storage, &IDENTITY)
}

/// Of a read that brings a page in.
const BRING_IN: Token = Token(u64::MAX - 7);

pub struct Life {
    pub group: Group,
    pub journal: SharedJournal,
    disks: Disks,
    pages: FusedPages,
    log: FusedLog,
    random: Random,
    now: Duration,
    next_tick: Duration,
    pages_under_way: bool,
    bringing_in: Option<PageRun>,
    reader: Reader,
}

/// Opens what is there.
pub fn open(disks: &Disks, fuse: &Fuse, journal: &SharedJournal, seed: u64) -> Result<Life, OpenError> {
    let (mut pages, mut log) = disks.fused(fuse);
    let mut random = random(seed);
    let now = Duration::from_secs(1000);
    let storage = Storage {
        page_disk: &mut pages,
        pages: Arc::new(disks.pages.clone()),
        log_disk: &mut log,
        log_options: log_options(disks),
    };
    let mut group = group::open_with(shared(), storage, random.below(u64::MAX), now)?;
    group.set_checkpoint_bounds(DIRTY_BYTES_MAX, LOG_BYTES_MAX);
    // The file keeps its length, but where a way is about that: else free maps are looked at before anybody needs them.
    group.set_shrink_least(u64::MAX);
    let bootstrap = Bootstrap { cluster_id: IDENTITY.cluster_id, hash_key: HASH_KEY, members: vec![member()] };
    let attributes = Command::MemberAttributes {
        member_id: IDENTITY.member_id,
        name: "one".into(),
        client_urls: vec!["http://localhost".into()],
    };
    group.say_first(Command::Bootstrap(bootstrap), attributes);
    let reader = group.reader();
    let (journal, disks) = (journal.clone(), disks.clone());
    let (pages_under_way, bringing_in) = (false, None);
    Ok(Life { group, journal, disks, pages, log, random, now, next_tick: now, pages_under_way, bringing_in, reader })
}

impl Life {
    /// One turn of the task. True while something is under way.
    pub fn step(&mut self, commands: &[Command]) -> Result<bool, GroupError> {
        self.now += Duration::from_millis(3);
        let proposals = commands.iter().map(|command| propose(command, &mut self.journal.borrow_mut())).collect();
        self.group.propose(self.now, proposals);
        if self.now >= self.next_tick {
            self.next_tick = self.now + TICK;
            self.group.tick(self.now, 0, self.random.below(u64::MAX));
        }
        let mut moved = self.take_page_completions()?;
        self.group.turn()?;
        moved |= self.log_io()?;
        self.journal.borrow_mut().observe(&self.group.take_outputs());
        self.group.maybe_checkpoint(false)?;
        self.pages_io()?;
        self.bring_in();
        let _ = self.group.quiet(self.now);
        moved |= self.log_io()?;
        let pages = self.pages_under_way || self.bringing_in.is_some() || self.group.checkpoint_running();
        Ok(moved || pages || self.group.has_work() || !self.log.is_idle())
    }

    fn take_page_completions(&mut self) -> Result<bool, GroupError> {
        // A request may take several turns.
        if self.random.below(3) == 0 {
            return Ok(false);
        }
        let Some(completion) = self.pages.poll() else { return Ok(false) };
        if completion.token == BRING_IN {
            self.brought_in(completion)?;
        } else {
            self.pages_under_way = false;
            self.group.pages_completed(completion)?;
        }
        Ok(true)
    }

    /// As the shard's `read_run` does it.
    fn bring_in(&mut self) {
        let Some(run) = self.group.absent().filter(|_| self.bringing_in.is_none()) else { return };
        let (offset, bytes) = (run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
        let io = Io::Read { offset, bytes, purpose: IoPurpose::ReadPage };
        self.pages.submit(BRING_IN, io);
        self.bringing_in = Some(run);
    }

    fn brought_in(&mut self, completion: Completion) -> Result<(), GroupError> {
        let run = self.bringing_in.take().expect("it was asked for");
        let what = "the disk can't read this page (I/O error)";
        completion.result.map_err(|_| GroupError::Damaged(Damage { page: run.first, tree: 0, what }))?;
        self.group.brought_in(run)
    }

    fn pages_io(&mut self) -> Result<(), GroupError> {
        if self.pages_under_way {
            return Ok(());
        }
        if let Some((token, io)) = self.group.poll_pages_io()? {
            self.pages.submit(token, io);
            self.pages_under_way = true;
        }
        Ok(())
    }

    fn log_io(&mut self) -> Result<bool, GroupError> {
        let mut moved = false;
        loop {
            while let Some((token, io)) = self.group.poll_log_io() {
                self.log.submit(token, io);
            }
            self.log.flush().map_err(ringstone_wal::WalError::from)?;
            if self.random.below(4) == 0 {
                return Ok(moved);
            }
            let Some(completion) = self.log.poll_completion() else { return Ok(moved) };
            self.group.log_completed(completion)?;
            moved = true;
            self.group.turn()?;
        }
    }

    /// Steps until nothing is under way.
    pub fn settle(&mut self) -> Result<(), GroupError> {
        let mut quiet = 0;
        for _ in 0..100_000 {
            quiet = if self.step(&[])? { 0 } else { quiet + 1 };
            if quiet > 4 && self.journal.borrow().all_answered() {
                return Ok(());
            }
        }
        panic!("the group does not come to rest");
    }

    pub fn until_ready(&mut self) -> Result<(), GroupError> {
        for _ in 0..100_000 {
            if self.group.is_ready() && self.group.is_drained() {
                return Ok(());
            }
            self.step(&[])?;
        }
        panic!("the group does not become ready");
    }

    /// A clean stop: the last checkpoint, then the closing block.
    pub fn stop(&mut self) -> Result<(), GroupError> {
        self.checkpoint()?;
        self.group.stop();
        self.settle()?;
        self.group.close_log();
        for _ in 0..100_000 {
            if self.group.is_closed() {
                return Ok(());
            }
            self.log_io()?;
        }
        panic!("the log does not close");
    }

    pub fn keep_alive(&mut self, lease: i64) -> Result<(), GroupError> {
        let shard = self.journal.borrow().life;
        self.group.keep_alive(self.now, shard, 0, lease)
    }

    pub fn reader(&self) -> Reader {
        self.group.reader()
    }

    pub fn wait(&mut self, time: Duration) -> Result<(), GroupError> {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(40);
            self.step(&[])?;
        }
        Ok(())
    }

    /// Pages leave memory.
    pub fn evict(&mut self) {
        for _ in 0..40 {
            let first = self.random.below(400);
            self.disks.pages.clear_resident(PageRun { first, pages: 1 });
        }
    }

    /// A checkpoint of all there is, and the check of the whole file.
    pub fn checkpoint(&mut self) -> Result<(), GroupError> {
        self.settle()?;
        self.group.maybe_checkpoint(true)?;
        self.settle()
    }

    pub fn check_file(&self) {
        let report = check(&mut self.disks.pages.fork(), &tree_specs()).expect("the file opens");
        assert!(report.is_sound(), "{report}");
    }

    fn read<R>(&self, read: impl FnMut(&Pin<'_>, &State) -> Result<R, Fault>) -> R {
        self.try_read(read).expect("the file is sound")
    }

    /// What a shard would answer: a value, or damage.
    pub fn try_read<R>(&self, mut read: impl FnMut(&Pin<'_>, &State) -> Result<R, Fault>) -> Result<R, Damage> {
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

    fn range(&self, revision: i64) -> Vec<KeyValue> {
        self.try_range(&[0], &[0], revision).expect("the file is sound")
    }

    pub fn try_range(&self, key: &[u8], range_end: &[u8], revision: i64) -> Result<Vec<KeyValue>, Damage> {
        self.try_read(|pin, state| {
            let (key, range_end) = (key.to_vec().into(), range_end.to_vec().into());
            let mut scan = RangeScan::new(&RangeRequest { key, range_end, revision, ..Default::default() });
            loop {
                match scan.step(pin, state, &mut Budget::UNBOUNDED.clone()) {
                    Ok(Progress::Done) => return Ok(scan.finish().kvs),
                    Ok(Progress::More) => {}
                    Err(ReadFault::Absent(run)) => return Err(Fault::Absent(run)),
                    Err(ReadFault::Refused(Error::Damaged(damage))) => return Err(Fault::Damaged(damage)),
                    Err(fault) => panic!("range at {revision}: {fault}"),
                }
            }
        })
    }

    /// All events that a compaction has left, and the state that they lead to.
    pub fn events(&self) -> (Vec<Event>, State) {
        self.try_events().expect("the file is sound")
    }

    pub fn try_events(&self) -> Result<(Vec<Event>, State), Damage> {
        self.try_read(|pin, state| {
            let mut events = Vec::new();
            let from = state.compact_revision.max(1) + 1;
            let mut cursor = Revision { main: from, sub: 0 };
            let mut budget = Budget::UNBOUNDED;
            read_events(pin, state, &mut cursor, state.revision, &mut budget, &mut |event| {
                events.push(event.to_event(false)?);
                Ok(())
            })?;
            Ok((events, state.clone()))
        })
    }

    /// Everything that was answered is there at its revision, and nothing that nobody asked for.
    pub fn verify(&self) {
        let (events, state) = self.events();
        let journal = &mut *self.journal.borrow_mut();
        let groups = changes_of(&events);
        let expected: Vec<i64> = (state.compact_revision.max(1) + 1..=state.revision).collect();
        assert_eq!(groups.keys().copied().collect::<Vec<_>>(), expected, "the window of events has a hole");
        journal.walk(&groups);
        journal.catch_up_with_acks();
        assert_eq!(journal.revision, state.revision, "the revision went back");
        journal.check_compaction(state.compact_revision);
        journal.check_alarms(state.alarms);
        assert_eq!(self.range(0), journal.keys.values().cloned().collect::<Vec<_>>(), "all keys now");
        let low = state.compact_revision.max(1);
        for revision in [low, low + (state.revision - low) / 2] {
            assert_eq!(self.range(revision), journal.at(revision), "all keys at {revision}");
        }
        for kv in journal.keys.values().filter(|kv| kv.lease != 0) {
            assert!(self.read(|pin, _| lease::exists(pin, kv.lease)), "lease {} of a living key", kv.lease);
        }
    }

    /// HashKV is that of a store that was never stopped.
    pub fn verify_hash(&self) {
        assert_eq!(self.try_hash().expect("the file is sound"), self.expected_hash(), "HashKV");
    }

    pub fn try_hash(&self) -> Result<HashKv, Damage> {
        self.try_read(|pin, state| match hash_kv(pin, state, 0) {
            Ok(hash) => Ok(hash),
            Err(ReadFault::Absent(run)) => Err(Fault::Absent(run)),
            Err(ReadFault::Refused(Error::Damaged(damage))) => Err(Fault::Damaged(damage)),
            Err(fault) => panic!("HashKV: {fault}"),
        })
    }

    /// HashKV of a store that has done the same and was never stopped.
    pub fn expected_hash(&self) -> HashKv {
        let compacted = self.read(|_, state| Ok(state.compact_revision));
        let mut trees = ModelTrees::new(&tree_specs());
        let mut state = State { hash_key: HASH_KEY, cluster_id: IDENTITY.cluster_id, ..State::default() };
        for command in &self.journal.borrow().in_order {
            match &**command {
                Command::LeaseGrant { id, ttl_s } => {
                    let granted = lease::grant(&mut trees, lease::LeaseTime(0), *id, *ttl_s).expect("no faults");
                    granted.expect("granted once");
                }
                Command::LeaseRevoke { id, .. } => {
                    let _ = mvcc::apply_lease_revoke(&mut trees, &mut state, *id).expect("no faults");
                }
                Command::Compact { .. } => {}
                command => {
                    let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(command).expect("commands serialize");
                    let command = rkyv::access::<ArchivedCommand, rkyv::rancor::Error>(&bytes).expect("just written");
                    mvcc::apply(&mut trees, &mut state, command).expect("no faults");
                }
            }
        }
        if compacted >= 0 {
            mvcc::apply_compact(&mut trees, &mut state, compacted).expect("no faults").response.expect("compacts");
            state.compaction_hashes.clear();
        }
        hash_kv(&trees, &state, 0).expect("no faults")
    }
}

fn propose(command: &Command, journal: &mut Journal) -> Proposal {
    let request_id = journal.commands.len() as u64;
    journal.commands.push(Rc::new(command.clone()));
    let shard = journal.life;
    let envelope = Envelope { proposer: IDENTITY.member_id, shard, request_id, ..Envelope::default() };
    Proposal { draft: Draft::new(&envelope, command), shard, request_id }
}
