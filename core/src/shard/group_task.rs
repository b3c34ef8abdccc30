//! The task that drives the group on its shard: inputs in, one turn, I/O out, answers to the shards.
//!
//! ```text
//!  loop:  inbox -> propose / keep-alives     tick      page completions     pages brought in
//!         turn -> log I/O submitted, completions looked at (no system call) -> turn
//!         outputs -> shards      checkpoint: one batch at a time, when the log leaves room
//!         nothing left? -> park until notified (inbox, eventfd of the log's ring, page I/O, ticker)
//! ```

mod others;
mod trial;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashSet;
use glommio::channels::shared_channel::ConnectedSender;
use glommio::timer::sleep;
use glommio::{GlommioError, ResourceType};
use ringstone_pager::api::PageRun;
use ringstone_pager::disk as pages;
use ringstone_raft::NodeId;
use ringstone_wal::disk::Disk as _;
use ringstone_wal::disk::ring::RingDisk;

use others::{Others, STRANGER};

use crate::command::{Bootstrap, Command};
use crate::error::Error;
use crate::event::EventBatch;
use crate::group::{Group, GroupError, NOBODY, founders};
use crate::identity::ballot::{self, Ballot};
use crate::said::{Caller, Said};
use crate::shard::bring_in::read_run;
use crate::shard::images;
use crate::shard::link::{Asked, FromGroup, Stamps, ToGroup, Told};
use crate::shard::notify::{Broadcast, Notify};
use crate::shard::page_io::PageFile;
use crate::shard::peers::FromPeer;
use crate::shard::{Shard, boottime, fds, random_bytes, wall_ms};
use crate::shared::Shared;

/// Least time between two requests of a checkpoint while the log is busy.
const CHECKPOINT_SPACING: Duration = Duration::from_millis(2);

/// What a batch of a checkpoint's writes holds: what the pager makes ready at once.
const PAGE_BATCH_BYTES: usize = 256 << 10;

/// How long the group looks for the end of a sync before it parks: two of a fast disk's.
const LINGER: Duration = Duration::from_micros(200);
/// How long other tasks of the shard wait for it at most.
const LINGER_SLICE: Duration = Duration::from_micros(25);
/// It does so for a client that is alone: where there are several, it was seen to cost a third more of the core's time a put
/// and to bring nothing.
const LINGER_CONNECTIONS_MAX: usize = 1;

/// How long a member that was removed tells others of it, and answers who asked for it.
const REMOVED_LINGER: Duration = Duration::from_millis(500);

/// How long what hands leadership over is given to leave, before the process ends.
const HAND_OVER_LINGER: Duration = Duration::from_millis(50);

/// Pages that are read for the group at a time.
const PAGE_READS_MAX: usize = 64;

/// What other tasks of the executor hand to the group's.
#[derive(Default)]
pub struct Inbox {
    pub(super) waiting: RefCell<ToGroup>,
    pub(super) wake: Notify,
    page_completions: RefCell<VecDeque<pages::Completion>>,
    brought_in: RefCell<VecDeque<(PageRun, Result<(), ringstone_pager::api::Damage>)>>,
    /// First pages of the runs that are being read.
    bringing_in: RefCell<AHashSet<u64>>,
    tick_due: Cell<bool>,
    /// The ballot that was written last, or why it could not be.
    ballot_written: RefCell<Option<(u64, std::io::Result<()>)>>,
    /// What other members said.
    heard: RefCell<VecDeque<FromPeer>>,
}

impl Inbox {
    /// Takes what another member said.
    pub(super) fn hear(&self, said: FromPeer) {
        self.heard.borrow_mut().push_back(said);
        self.wake.notify();
    }

    /// How much of it waits.
    pub(super) fn unheard(&self) -> usize {
        self.heard.borrow().len()
    }

    /// Requests from a shard.
    pub fn push(&self, batch: ToGroup) {
        self.waiting.borrow_mut().append(batch);
        self.wake.notify();
    }

    /// What waits; where memory is short, proposals wait on.
    fn take(&self, pressed: bool) -> ToGroup {
        if !pressed {
            return self.waiting.take();
        }
        let mut waiting = self.waiting.borrow_mut();
        let proposals = std::mem::take(&mut waiting.proposals);
        let rest = std::mem::replace(&mut *waiting, ToGroup { proposals, ..ToGroup::default() });
        ToGroup { proposals: Vec::new(), ..rest }
    }
}

/// The way to a shard on another thread.
pub struct Remote {
    /// The queue.
    pub sender: ConnectedSender<FromGroup>,
    /// What did not fit into it yet.
    pub backlog: FromGroup,
    /// The revision that was sent last.
    pub sent: i64,
}

/// The group with its I/O.
pub struct Driver {
    group: Group,
    ring: RingDisk,
    page_file: Rc<PageFile>,
    inbox: Rc<Inbox>,
    local: Rc<Shard>,
    /// Shards 1 and up, in order.
    remotes: Vec<Remote>,
    /// Requests of the page file.
    page_io_under_way: usize,
    last_page_io: Duration,
    quiet_armed: Rc<Cell<bool>>,
    ready: Rc<Broadcast>,
    /// Completes when the shards have nothing in flight: the group may finish.
    stop: Rc<Broadcast>,
    /// The revision whose events were handed out last.
    delivered: i64,
    stamps: Stamps,
    /// When the batch that is being synced was begun, and that batch's operation.
    log_write: Option<(ringstone_wal::disk::Token, Duration)>,
    others: Others,
}

impl Driver {
    /// Everything that the group needs, on its executor.
    #[allow(clippy::too_many_arguments, reason = "made in one place")]
    pub fn new(
        group: Group,
        ring: RingDisk,
        page_file: PageFile,
        inbox: Rc<Inbox>,
        local: Rc<Shard>,
        remotes: Vec<Remote>,
        ready: Rc<Broadcast>,
        stop: Rc<Broadcast>,
    ) -> Driver {
        let delivered = group.state().revision;
        Driver {
            group,
            ring,
            page_file: Rc::new(page_file),
            inbox,
            local,
            remotes,
            page_io_under_way: 0,
            last_page_io: Duration::ZERO,
            quiet_armed: Rc::new(Cell::new(false)),
            ready,
            stop,
            delivered,
            stamps: Stamps::default(),
            log_write: None,
            others: Others::default(),
        }
    }

    /// Runs until told to stop, then drains, checkpoints and closes the log. On disk when this returns without an error:
    /// everything, and the next start replays nothing.
    ///
    /// # Errors
    /// [`GroupError`]: the process must end at once; nothing is acknowledged any more.
    pub async fn run(mut self) -> Result<(), GroupError> {
        let ended = self.run_on().await;
        if let Err(error) = &ended
            && error.is_of_state()
            && self.group.has_others()
        {
            // The others need not find out, and clients go where somebody leads.
            self.hand_over();
            sleep(HAND_OVER_LINGER).await;
        }
        ended?;
        if let Some(links) = &self.others.links {
            links.remembered().write().await;
        }
        self.close().await
    }

    /// Until it is told to stop, and all is on disk but the closing block.
    async fn run_on(&mut self) -> Result<(), GroupError> {
        self.watch_ring();
        images::clean(&self.local.shared.config.data_dir);
        self.open_links().await?;
        self.begin_trial();
        self.start_ticker();
        self.say_first();
        let mut stopping = false;
        loop {
            if self.stop.is_complete() && !stopping {
                stopping = true;
                self.group.stop();
            }
            let busy = self.step()?;
            if self.others.links.is_none() && self.group.has_others() {
                self.open_links().await?;
            }
            if stopping && self.group.is_drained() && !self.group.has_work() && !self.group.is_resigning() {
                // On a full disk the next start replays the log instead.
                if self.group.is_checkpointed() || self.group.lacks_space() {
                    break;
                }
                if !self.group.checkpoint_running() {
                    self.group.maybe_checkpoint(true)?;
                    if self.group.checkpoint_running() {
                        continue;
                    }
                }
            }
            if busy || self.group.has_work() || self.lingers() {
                glommio::executor().yield_now().await;
            } else {
                self.inbox.wake.wait().await;
            }
        }
        Ok(())
    }

    /// True if something moved and the next step may find more.
    fn step(&mut self) -> Result<bool, GroupError> {
        let now = boottime();
        let heard = self.hear(now)?;
        let pressed = self.group.is_pressed();
        if pressed {
            self.group.settle_pages();
        }
        let asked = self.inbox.take(pressed);
        let mut moved = heard || !asked.is_empty() || (pressed && !self.group.checkpoint_running());
        self.keep_alive(now, asked.keep_alives)?;
        self.ask_clock(asked.clocks);
        for Asked { shard, request_id } in asked.reads {
            self.group.read_index(now, shard, request_id);
        }
        for (Asked { shard, request_id }, change) in asked.changes {
            match (&self.others.links, self.group.leader_elsewhere()) {
                (Some(links), Some(leader)) => {
                    if !links.say(leader, &Said::Change(Caller { shard, request_id }, change)) {
                        self.tell(shard, request_id, Err(Error::NoLeader));
                    }
                }
                _ => self.group.change_members(now, &change, shard, request_id)?,
            }
        }
        for (asked, to) in asked.transfers {
            self.transfer(asked, NodeId(to));
        }
        self.group.propose(now, asked.proposals);
        if self.inbox.tick_due.take() {
            self.tick(now)?;
        }
        moved |= self.take_page_completions()?;
        self.group.turn()?;
        moved |= self.log_io()?;
        self.deliver()?;
        self.group.maybe_checkpoint(false)?;
        self.pages_io(now)?;
        self.bring_in();
        self.arm_quiet(now);
        // The closing block may have become due.
        moved |= self.log_io()?;
        moved |= self.ballot_io()?;
        Ok(moved)
    }

    /// Looks at the log's ring for a moment instead of parking, and says whether to look again: what a client that is alone
    /// waits for is the way through a park and back, as long as the sync itself. The kernel's worker for the sync, which may
    /// be on this core, comes first.
    fn lingers(&mut self) -> bool {
        let Some((_, began)) = self.log_write else { return false };
        if self.local.shared.open_connections() > LINGER_CONNECTIONS_MAX {
            return false;
        }
        let now = boottime();
        while !self.ring.has_ended() && boottime() - now < LINGER_SLICE {
            std::thread::yield_now();
        }
        now - began < LINGER
    }

    fn log_io(&mut self) -> Result<bool, GroupError> {
        let mut moved = false;
        loop {
            let mut submitted = false;
            while let Some((token, io)) = self.group.poll_log_io() {
                self.note_log_io(token, &io);
                self.ring.submit(token, io);
                submitted = true;
            }
            if submitted {
                self.ring.flush().map_err(ringstone_wal::WalError::from)?;
            }
            let mut completed = false;
            while let Some(completion) = self.ring.poll_completion() {
                self.note_log_completion(completion.token);
                self.group.log_completed(completion)?;
                completed = true;
            }
            if !completed {
                return Ok(moved);
            }
            moved = true;
            // A sole voter's synced entries are committed; the turn applies them.
            self.stamps.committed = boottime();
            self.group.turn()?;
        }
    }

    /// Term and vote, beside the log: on their way at the same time as the log's batch.
    fn ballot_io(&mut self) -> Result<bool, GroupError> {
        let written = self.inbox.ballot_written.take();
        let moved = written.is_some();
        if let Some((count, result)) = written {
            let path = ballot::path(&self.local.shared.config.data_dir);
            result.map_err(|error| GroupError::Ballot { path, error })?;
            self.group.ballot_kept(count);
        }
        if let Some(ballot) = self.group.poll_ballot() {
            let (shared, inbox) = (self.local.shared.clone(), Rc::clone(&self.inbox));
            glommio::spawn_local(async move {
                let result = write_ballot(&shared, &ballot).await;
                inbox.ballot_written.replace(Some((ballot.count, result)));
                inbox.wake.notify();
            })
            .detach();
        }
        Ok(moved)
    }

    fn note_log_io(&mut self, token: ringstone_wal::disk::Token, io: &ringstone_wal::disk::Io) {
        if let ringstone_wal::disk::Io::Write { buffer, sync: true, .. } = io {
            self.log_write = Some((token, boottime()));
            self.local.metrics().wal_bytes.add(buffer.len() as u64);
        }
    }

    fn note_log_completion(&mut self, token: ringstone_wal::disk::Token) {
        if let Some((_, began)) = self.log_write.take_if(|write| write.0 == token) {
            let now = boottime();
            self.stamps = Stamps { proposed: began, synced: now, ..self.stamps };
            self.local.metrics().wal_fsync.record_ns(u64::try_from((now - began).as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn tick(&mut self, now: Duration) -> Result<(), GroupError> {
        self.group.tick(now, wall_ms(), fastrand());
        let shared = &self.local.shared;
        shared.lease_clock_ms.store(self.group.lease_clock_ms(), Ordering::Relaxed);
        if !shared.ready.load(Ordering::Relaxed) && !self.ready.is_complete() && self.group.is_ready() {
            shared.ready.store(true, Ordering::Relaxed);
            self.ready.complete();
        }
        if let Some(damage) = shared.take_damage() {
            return Err(GroupError::Damaged(damage));
        }
        self.maybe_end_trial(now);
        self.note_connections(now);
        self.follow_members();
        self.note_transfers();
        self.show_complaints(now);
        self.note_images(now);
        if self.others.removed_at.is_some_and(|at| now.saturating_sub(at) > REMOVED_LINGER) {
            return Err(GroupError::Removed { by: "the cluster has agreed on it".to_owned() });
        }
        // A leader that stops hands over first: the others need not find out.
        if self.others.links.is_some()
            && self.local.shared.stopping.load(Ordering::Relaxed)
            && !std::mem::replace(&mut self.others.resigned, true)
        {
            self.group.resign();
        }
        Ok(())
    }

    /// A new log begins with what all members must agree on; a member whose name or URLs changed says so.
    fn say_first(&mut self) {
        let shared = self.local.shared.clone();
        let (config, identity) = (&shared.config, &shared.identity);
        let mut members = founders(config);
        if config.force_new_cluster {
            members.retain(|member| member.id == identity.member_id);
        }
        for own in members.iter_mut().filter(|member| member.id == identity.member_id) {
            own.name.clone_from(&config.name);
            own.client_urls.clone_from(&config.advertise_client_urls);
        }
        let bootstrap = Bootstrap { cluster_id: identity.cluster_id, hash_key: random_bytes(), members };
        let attributes = Command::MemberAttributes {
            member_id: identity.member_id,
            name: config.name.clone(),
            client_urls: config.advertise_client_urls.clone(),
        };
        self.group.say_first(Command::Bootstrap(bootstrap), attributes);
    }

    fn take_page_completions(&mut self) -> Result<bool, GroupError> {
        let mut moved = false;
        while let Some(completion) = self.inbox.page_completions.borrow_mut().pop_front() {
            self.page_io_under_way -= 1;
            self.group.pages_completed(completion)?;
            moved = true;
        }
        while let Some((run, result)) = self.inbox.brought_in.borrow_mut().pop_front() {
            self.inbox.bringing_in.borrow_mut().remove(&run.first);
            self.group.prefetched(run, result)?;
            moved = true;
        }
        Ok(moved)
    }

    fn pages_io(&mut self, now: Duration) -> Result<(), GroupError> {
        let spaced = now.saturating_sub(self.last_page_io) >= CHECKPOINT_SPACING;
        if self.page_io_under_way > 0 || (!spaced && self.group.awaits_log() && !self.group.is_pressed()) {
            return Ok(());
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BATCH_BYTES {
            let Some((token, io)) = self.group.poll_pages_io()? else { break };
            bytes += io.written_bytes();
            batch.push((token, io));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.page_io_under_way = batch.len();
        self.last_page_io = now;
        let (file, inbox) = (Rc::clone(&self.page_file), Rc::clone(&self.inbox));
        glommio::spawn_local(async move {
            let completions = file.execute(batch).await;
            inbox.page_completions.borrow_mut().extend(completions);
            inbox.wake.notify();
        })
        .detach();
        Ok(())
    }

    /// Reads the page that apply waits for, and beside it those that it will need.
    fn bring_in(&mut self) {
        if let Some(run) = self.group.absent() {
            self.read_page(run);
        }
        while self.inbox.bringing_in.borrow().len() < PAGE_READS_MAX {
            let Some(run) = self.group.poll_prefetch() else { return };
            self.read_page(run);
        }
    }

    fn read_page(&self, run: PageRun) {
        if !self.inbox.bringing_in.borrow_mut().insert(run.first) {
            return;
        }
        let (file, inbox) = (Rc::clone(&self.page_file), Rc::clone(&self.inbox));
        glommio::spawn_local(async move {
            let result = read_run(file.reads(), run).await;
            inbox.brought_in.borrow_mut().push_back((run, result));
            inbox.wake.notify();
        })
        .detach();
    }

    /// The closing block comes after some quiet: a timer wakes the loop then, one at a time.
    fn arm_quiet(&mut self, now: Duration) {
        let Some(at) = self.group.quiet(now) else { return };
        if self.quiet_armed.replace(true) {
            return;
        }
        let (armed, inbox) = (Rc::clone(&self.quiet_armed), Rc::clone(&self.inbox));
        glommio::spawn_local(async move {
            sleep(at.saturating_sub(now)).await;
            armed.set(false);
            inbox.wake.notify();
        })
        .detach();
    }

    fn watch_ring(&self) {
        let fd: OwnedFd = self.ring.event_fd().try_clone_to_owned().expect("a descriptor can be duplicated");
        let file = fds::buffered_file(fd);
        let inbox = Rc::clone(&self.inbox);
        glommio::spawn_local(async move {
            while file.read_at(0, 8).await.is_ok() {
                inbox.wake.notify();
            }
        })
        .detach();
    }

    fn start_ticker(&self) {
        let inbox = Rc::clone(&self.inbox);
        let interval = self.local.shared.config.heartbeat_interval;
        inbox.tick_due.set(true);
        glommio::spawn_local(async move {
            loop {
                sleep(interval).await;
                inbox.tick_due.set(true);
                inbox.wake.notify();
            }
        })
        .detach();
    }

    /// Gives what is published to the shards. A full queue keeps answers here; of events the last batch is kept, and the
    /// shard reads those before it from the log.
    fn deliver(&mut self) -> Result<(), GroupError> {
        let mut outputs = self.group.take_outputs();
        if outputs.removed {
            self.others.removed_at = Some(boottime());
        }
        if let Some(links) = &self.others.links {
            outputs.send.drain(..).for_each(|(to, message)| links.send(to, message));
        }
        self.forward(std::mem::take(&mut outputs.forward));
        self.compare(std::mem::take(&mut outputs.sums), std::mem::take(&mut outputs.verdicts))?;
        self.send_images(std::mem::take(&mut outputs.images_wanted));
        if outputs.install.is_some() {
            images::install(&self.local.shared.config.data_dir).map_err(GroupError::PageFile)?;
            return Err(GroupError::Installed);
        }
        let revision = self.group.state().revision;
        let previous = std::mem::replace(&mut self.delivered, revision);
        let previous = outputs.skipped_to.map_or(previous, |skipped| skipped.max(previous));
        let moved = outputs.published;
        let events: EventBatch = outputs.events.into();
        if moved {
            self.stamps.published = boottime();
            if let Some(links) = &self.others.links
                && !outputs.answers.is_empty()
            {
                links.note_write(self.stamps.published.saturating_sub(self.stamps.proposed));
            }
        }
        let stamps = self.stamps;
        let mut local = FromGroup { answers: Vec::new(), previous, events: events.clone(), revision, stamps };
        if moved {
            for remote in &mut self.remotes {
                let backlog = &mut remote.backlog;
                backlog.previous = previous;
                backlog.events = events.clone();
                backlog.revision = revision;
                backlog.stamps = stamps;
            }
        }
        for answer in outputs.answers {
            if answer.shard != STRANGER {
                self.told(&mut local, answer.shard, answer.request_id, answer.outcome.map(Told::Reply));
            } else if let Some((from, caller)) = self.others.strangers.remove(&answer.request_id)
                && let Some(links) = &self.others.links
            {
                links.say(from, &Said::Changed(caller, answer.outcome.map(drop)));
            }
        }
        let (strangers, own): (Vec<_>, Vec<_>) =
            outputs.kept_alive.into_iter().partition(|kept| kept.shard == STRANGER);
        for kept in own {
            self.told(&mut local, kept.shard, kept.request_id, kept.outcome.map(Told::KeptAlive));
        }
        self.answer_strangers(strangers.into_iter().map(|kept| (kept.request_id, kept.outcome.ok())).collect());
        for ready in outputs.reads {
            if ready.shard == STRANGER {
                self.proved(ready.request_id, &ready.outcome);
                continue;
            }
            self.told(&mut local, ready.shard, ready.request_id, ready.outcome.map(|()| Told::Go));
        }
        for (shard, request_id, told) in std::mem::take(&mut self.others.early) {
            self.told(&mut local, shard, request_id, told);
        }
        if moved || !local.answers.is_empty() {
            self.local.receive(local);
        }
        for remote in &mut self.remotes {
            let waits = remote.backlog.revision > remote.sent || !remote.backlog.answers.is_empty();
            if !waits {
                continue;
            }
            let batch = std::mem::replace(&mut remote.backlog, FromGroup::empty(revision));
            match remote.sender.try_send(batch) {
                Ok(()) => remote.sent = revision,
                Err(
                    GlommioError::Closed(ResourceType::Channel(back))
                    | GlommioError::WouldBlock(ResourceType::Channel(back)),
                ) => {
                    remote.backlog = back;
                }
                Err(_) => unreachable!("a channel gives back what it does not take"),
            }
        }
        Ok(())
    }

    /// Answers with the next delivery what the group has no part in.
    fn tell(&mut self, shard: u32, request_id: u64, told: Result<Told, Error>) {
        self.others.early.push((shard, request_id, told));
    }

    fn told(&mut self, local: &mut FromGroup, shard: u32, request_id: u64, told: Result<Told, Error>) {
        match shard {
            0 => local.answers.push((request_id, told)),
            NOBODY => {}
            other => {
                if let Some(remote) = self.remotes.get_mut(other as usize - 1) {
                    remote.backlog.answers.push((request_id, told));
                }
            }
        }
    }

    /// The last step of a clean stop: the closing block.
    async fn close(mut self) -> Result<(), GroupError> {
        self.group.close_log();
        loop {
            while let Some((token, io)) = self.group.poll_log_io() {
                self.ring.submit(token, io);
            }
            self.ring.flush().map_err(ringstone_wal::WalError::from)?;
            while let Some(completion) = self.ring.poll_completion() {
                self.group.log_completed(completion)?;
            }
            if self.group.is_closed() {
                return Ok(());
            }
            glommio::executor().yield_now().await;
        }
    }
}

/// On disk when this returns: the ballot.
async fn write_ballot(shared: &Shared, ballot: &Ballot) -> std::io::Result<()> {
    let path = ballot::path(&shared.config.data_dir);
    let file = glommio::io::OpenOptions::new().read(true).write(true).buffered_open(&path).await?;
    let bytes = ballot.encode(&shared.identity);
    let wanted = bytes.len();
    if file.write_at(bytes, ballot.offset()).await? != wanted {
        return Err(std::io::ErrorKind::WriteZero.into());
    }
    file.fdatasync().await?;
    Ok(file.close().await?)
}

/// Randomness for raft's election timeout: spread over members, not secret, so one seed of the kernel's does.
fn fastrand() -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static CALLS: AtomicU64 = AtomicU64::new(0);
    SEED.hash_one(CALLS.fetch_add(1, Ordering::Relaxed))
}
