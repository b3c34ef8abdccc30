//! The task that drives the group on its shard: inputs in, one turn, I/O out, answers to the shards.
//!
//! ```text
//!  loop:  inbox -> propose, ask, read         tick      page completions     pages brought in
//!         turn -> log I/O submitted, completions looked at (no system call) -> turn
//!         outputs -> shards      checkpoint: one batch at a time, when the log leaves room
//!         nothing left? -> wait until notified (inbox, eventfd of the log's ring, page I/O, ticker); the executor naps or parks
//! ```

mod commits;
mod deliver;
mod disk;
mod inbox;
mod others;
mod pages;
mod trial;

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use glommio::timer::sleep;
use ringstone_raft::NodeId;
use ringstone_wal::disk::Token;
use ringstone_wal::disk::ring::RingDisk;

use crate::command::{Bootstrap, Command};
use crate::group::{Group, GroupError, founders};
use crate::shard::images;
use crate::shard::link::{Asked, Stamps};
use crate::shard::notify::Broadcast;
use crate::shard::page_io::PageFile;
use crate::shard::{Shard, boottime, random_bytes, wall_ms};
use others::Others;

pub use deliver::Remote;
pub use inbox::Inbox;

/// How long a member that was removed tells others of it, and answers who asked for it.
const REMOVED_LINGER: Duration = Duration::from_millis(500);

/// How long what hands leadership over is given to leave, before the process ends.
const HAND_OVER_LINGER: Duration = Duration::from_millis(50);

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
    /// Those that go to it next, together.
    page_batch: Vec<(ringstone_pager::disk::Token, ringstone_pager::disk::Io)>,
    last_page_io: Duration,
    quiet_armed: Rc<Cell<bool>>,
    ready: Rc<Broadcast>,
    /// Completes when the shards have nothing in flight: the group may finish.
    stop: Rc<Broadcast>,
    /// The revision whose events were handed out last.
    delivered: i64,
    stamps: Stamps,
    /// When the batch that is being synced was begun, and that batch's operation.
    log_write: Option<(Token, Duration)>,
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
            page_batch: Vec::new(),
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
        let data_dir = self.local.shared.config.data_dir.clone();
        images::clean(&data_dir, true);
        self.open_links().await?;
        if self.others.links.is_none() {
            images::clean(&data_dir, false);
        }
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
            let has_work = self.group.has_work();
            if has_work && let Some(nap) = &self.local.nap {
                nap.look();
            }
            if busy || has_work || self.lingers() {
                glommio::executor().yield_now().await;
            } else {
                self.inbox.wake.wait().await;
            }
        }
        Ok(())
    }

    /// True if the next step finds something that nobody wakes it for: what others said and asked, and what the log has synced, is done with
    /// by this one.
    fn step(&mut self) -> Result<bool, GroupError> {
        let now = boottime();
        self.hear(now)?;
        let pressed = self.group.is_pressed();
        if pressed {
            self.group.settle_pages();
        }
        let asked = self.inbox.take(self.local.outbox.take(), pressed);
        for (Asked { shard, request_id }, ask) in asked.asks {
            self.group.ask(now, shard, request_id, ask)?;
        }
        for Asked { shard, request_id } in asked.reads {
            self.group.read_index(now, shard, request_id);
        }
        for (asked, to) in asked.transfers {
            self.transfer(asked, NodeId(to));
        }
        self.group.propose(now, asked.proposals);
        if self.inbox.tick_due.take() {
            self.tick(now)?;
        }
        let mut moved = self.take_page_completions()?;
        self.group.turn()?;
        self.log_io()?;
        // Whoever is told that a member was added may start it at once, and that asks who it is.
        self.follow_members();
        self.deliver(now)?;
        self.group.maybe_checkpoint(false)?;
        moved |= self.pages_io(now)?;
        self.bring_in();
        self.arm_quiet(now);
        // The closing block may have become due.
        moved |= self.log_io()?;
        moved |= self.ballot_io()?;
        Ok(moved || (pressed && !self.group.checkpoint_running()))
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
}

/// Randomness for raft's election timeout: spread over members, not secret, so one seed of the kernel's does.
fn fastrand() -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static CALLS: AtomicU64 = AtomicU64::new(0);
    SEED.hash_one(CALLS.fetch_add(1, Ordering::Relaxed))
}
