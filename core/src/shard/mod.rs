//! A shard: one core, one glommio executor, its connections, its reads, its watches.
//!
//! ```text
//!   connections -> api -> propose --outbox--> group (on its own shard) --FromGroup--> places, watch hub
//!                   |
//!                   +-> read: pin, step, unpin; absent pages are read in between
//! ```
//!
//! Nothing here is shared with another thread but the group's links, the pager's reader slot and [`Shared`]'s figures.
//! No pin is held across an await.

mod bring_in;
mod compaction;
mod fds;
pub mod group_task;
mod images;
pub mod link;
pub mod mending;
mod notify;
mod page_io;
mod peers;
mod pending;
pub mod pulse;
mod remembered;
mod run;
pub mod stages;
pub mod start;
mod watches;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashMap;
use bytes::BytesMut;
use ringstone_net::nap::Nap;
use ringstone_pager::Reader;
use ringstone_pager::api::{PageRun, ReadTrees as _};

use crate::command::Command;
use crate::entry::{Draft, Envelope};
use crate::error::{Error, ReadFault};
use crate::eviction;
use crate::group::{Ask, GROUP, MemberChange, Proposal, Reply};
use crate::metrics::ShardMetrics;
use crate::mvcc::{Budget, Progress};
use crate::shared::Shared;
use crate::state::{Admission, State, Window};
use crate::watch::{Hub, StreamId};
use bring_in::PageReads;
use link::{Asked, FromGroup, Stamps, ToGroup, Told};
use notify::{Broadcast, Notify};
use pending::{Late, Pending};
use stages::Trace;

pub use images::install_fetched as images_installed;
pub use run::{GroupSeat, Placement, RemoteSeat, ShardSeat, ShardSeed, run};

/// What one step of a read visits and copies before it lets go of its pin.
#[must_use]
pub fn read_budget() -> Budget {
    Budget { records: 512, bytes: 256 << 10 }
}

/// Requests of one shard that wait for the group at the same time.
const PENDING_MAX: usize = 65_536;
/// Keep-alives and their like among them: a flood of these leaves room for whoever reads and writes.
const PENDING_OF_LEADER_MAX: usize = PENDING_MAX / 2;
/// Election timeouts without a leader, after which streams that need one end (etcd's figure).
const LEADERLESS_ELECTIONS_MAX: u32 = 3;
/// Reads of a page that is gone each time, before it is touched all the same.
const READS_MAX: u32 = 4;

/// What a place gets: the group's answer, and how its batch came to it.
type Answered = (Result<Told, Error>, Stamps);

/// One shard. Lives on its executor's thread.
pub struct Shard {
    /// Its number, from 0; the group's is 0.
    pub id: u32,
    /// What all shards know.
    pub shared: Arc<Shared>,
    /// Its watches.
    pub hub: RefCell<Hub>,
    reader: Reader,
    pages: PageReads,
    pending: Rc<Pending<Answered>>,
    outbox: RefCell<ToGroup>,
    outbox_filled: Notify,
    hub_hungry: Notify,
    stream_waits: RefCell<AHashMap<StreamId, watches::StreamWaits>>,
    shutdown: Broadcast,
    /// Since when nobody leads, as this shard has seen it.
    leaderless_since: Cell<Option<Duration>>,
    /// Completes when that was too long; then there is another one.
    leader_lost: RefCell<Rc<Broadcast>>,
    /// Its executor's naps, where it has some: on a member of one shard, which no other one has anything to say to.
    pub(in crate::shard) nap: Option<Rc<Nap>>,
    /// On the group's own shard: wakes the group's task.
    group_wake: RefCell<Option<Rc<group_task::Inbox>>>,
}

/// CLOCK_BOOTTIME: runs on while the machine sleeps, and no one sets it.
#[must_use]
pub fn boottime() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Bytes of the kernel's randomness.
#[must_use]
pub fn random_bytes<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the kernel has randomness once the system is up");
    bytes
}

/// Milliseconds since 1970, as information.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Shard {
    /// Proposes a command and waits until it is applied and published; for a leader, too, where there is none.
    ///
    /// # Errors
    /// What apply says, or one of the time-outs (the outcome is then unknown), [`Error::Stopped`].
    pub async fn propose(&self, command: &Command, trace: &Trace) -> Result<Reply, Error> {
        let place = self.reserve(trace.began(), Late::Write)?;
        trace.proposed();
        let envelope = Envelope {
            group: GROUP,
            proposer: self.shared.identity.member_id,
            shard: self.id,
            request_id: place.id(),
            ..Envelope::default()
        };
        let draft = Draft::new(&envelope, command);
        self.outbox.borrow_mut().proposals.push(Proposal { draft, shard: self.id, request_id: place.id() });
        self.outbox_grew();
        let (told, stamps) = place.await;
        trace.answered(stamps);
        match told? {
            Told::Reply(reply) => Ok(reply),
            // Another member has answered what it was not asked.
            Told::KeptAlive(_) | Told::Clock(_) | Told::Go => Err(Error::Unhealthy),
        }
    }

    /// Keeps a lease alive; its granted TTL in seconds, or 0 if there is none. Without a leader it waits for one.
    ///
    /// # Errors
    /// [`Error::NoLeader`], [`Error::NotPrimaryLessor`], [`Error::TooManyRequests`], [`Error::Timeout`], [`Error::Stopped`].
    pub async fn keep_alive(&self, id: i64) -> Result<i64, Error> {
        match self.ask(boottime(), Late::OfLeader, Ask::KeepAlive(id)).await? {
            Told::KeptAlive(ttl_s) => Ok(ttl_s),
            Told::Reply(_) | Told::Clock(_) | Told::Go => Err(Error::Unhealthy),
        }
    }

    /// The lease clock of whoever leads, in milliseconds: what is left of a lease is counted by it. Without a leader it waits
    /// for one; the call began at `since`.
    ///
    /// # Errors
    /// [`Error::NoLeader`], [`Error::Timeout`], [`Error::Stopped`].
    pub async fn lease_clock_ms(&self, since: Duration) -> Result<u64, Error> {
        if self.shared.is_leader() {
            return Ok(self.shared.lease_clock_ms.load(Ordering::Relaxed));
        }
        match self.ask(since, Late::OfLeader, Ask::LeaseClock).await? {
            Told::Clock(ms) => Ok(ms),
            Told::Reply(_) | Told::KeptAlive(_) | Told::Go => Err(Error::Unhealthy),
        }
    }

    async fn ask(&self, since: Duration, what: Late, ask: Ask) -> Result<Told, Error> {
        let place = self.reserve(since, what)?;
        self.outbox.borrow_mut().asks.push((Asked { shard: self.id, request_id: place.id() }, ask));
        self.outbox_grew();
        place.await.0
    }

    /// Returns once what is published is at least what was committed when this was called. A lone member publishes before
    /// it answers, and asks nobody. Without a leader it waits for one.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::TooManyRequests`], [`Error::Stopped`].
    pub async fn linearizable(&self) -> Result<(), Error> {
        self.linearizable_since(boottime(), Late::Read).await
    }

    /// The same for a call that began at `since`.
    async fn linearizable_since(&self, since: Duration, what: Late) -> Result<(), Error> {
        if self.shared.is_sole.load(Ordering::Relaxed) {
            return Ok(());
        }
        let place = self.reserve(since, what)?;
        self.outbox.borrow_mut().reads.push(Asked { shard: self.id, request_id: place.id() });
        self.outbox_grew();
        place.await.0.map(drop)
    }

    /// As [`Shard::linearizable`], for a call that began at `since` and that etcd's leader answers itself.
    ///
    /// # Errors
    /// The same, and [`Error::NoLeader`] in place of a time-out.
    pub async fn linearizable_by_leader(&self, since: Duration) -> Result<(), Error> {
        self.linearizable_since(since, Late::OfLeader).await
    }

    /// Changes who the members are, and returns once the change is applied by the leader. Without a leader it waits for one.
    ///
    /// # Errors
    /// What the leader says, one of the time-outs (the outcome is then unknown), [`Error::NoLeader`], [`Error::Stopped`].
    pub async fn change_members(&self, change: MemberChange) -> Result<(), Error> {
        // The others are in etcd's log at once.
        let what = if matches!(change, MemberChange::Promote(_)) { Late::OfLeader } else { Late::Write };
        self.ask(boottime(), what, Ask::Change(change)).await.map(drop)
    }

    /// Returns once the member leads.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadLeaderTransferee`], [`Error::TooManyRequests`], [`Error::Timeout`].
    pub async fn move_leader(&self, to: u64) -> Result<(), Error> {
        let place = self.reserve(boottime(), Late::Read)?;
        self.outbox.borrow_mut().transfers.push((Asked { shard: self.id, request_id: place.id() }, to));
        self.outbox_grew();
        place.await.0.map(drop)
    }

    /// This shard's counters. Only its own thread adds to them.
    pub fn metrics(&self) -> &ShardMetrics {
        &self.shared.metrics[self.id as usize]
    }

    /// A place for the answer to what was asked at `since`.
    fn reserve(&self, since: Duration, what: Late) -> Result<pending::Answer<Answered>, Error> {
        if self.shared.stopping.load(Ordering::Relaxed) && !self.shared.ready.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        let has_no_room = self.pending.len() >= PENDING_MAX
            || (what == Late::OfLeader && self.pending.len_of_leader() >= PENDING_OF_LEADER_MAX);
        if has_no_room {
            return Err(Error::TooManyRequests);
        }
        Ok(self.pending.reserve(since, what))
    }

    /// Runs `step` on pinned roots until it gives something. None means: call again, the budget is spent. Between two
    /// calls other tasks run and absent pages come in; no pin is held meanwhile.
    ///
    /// # Errors
    /// What `step` says, and [`Error::Damaged`] for a page that fails its check when it comes in.
    pub async fn read<T>(
        &self,
        mut step: impl FnMut(&ringstone_pager::Pin<'_>, Window) -> Result<Option<T>, ReadFault>,
    ) -> Result<T, Error> {
        let mut just_read = JustRead::default();
        let mut absent_in_a_row = 0;
        loop {
            let pin = self.reader.pin();
            match step(&pin, Window::of_attributes(pin.attributes())) {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {
                    absent_in_a_row = 0;
                    drop(pin);
                    glommio::yield_if_needed().await;
                }
                Err(ReadFault::Refused(error)) => return Err(self.refused(error)),
                Err(ReadFault::Absent(run)) => {
                    absent_in_a_row += 1;
                    if absent_in_a_row % eviction::ABSENT_IN_A_ROW == 0 {
                        eviction::keep_pages(&self.shared, boottime());
                    }
                    // Still pinned: what fails its check now is damage, and nobody else's page.
                    let taken = self.take_in(run, &mut just_read)?;
                    drop(pin);
                    if taken {
                        // A cold scan meets thousands of them in a row.
                        glommio::yield_if_needed().await;
                    } else {
                        just_read.note(run, self.pages.read(run).await?);
                    }
                }
            }
        }
    }

    /// A step gave no answer: what its client is told. Damage is noted.
    pub fn refused(&self, error: Error) -> Error {
        if let Error::Damaged(damage) = error { self.pages.report(damage) } else { error }
    }

    /// Checks a run that the page cache holds, or that was just read. False: it has to be read.
    fn take_in(&self, run: PageRun, just_read: &mut JustRead) -> Result<bool, Error> {
        // It may have left again already: then another read costs less than a touch that waits.
        let taken = self.reader.bring_in_cached(run).map_err(|damage| self.pages.report(damage))?;
        if taken || !just_read.is_enough(run) {
            return Ok(taken);
        }
        self.reader.bring_in_done(run).map(|()| true).map_err(|damage| self.pages.report(damage))
    }

    /// A root that stays as it is while the result lives: its pages are not reused. For answers that must be of one
    /// state and say for how long at most.
    pub fn pin(&self) -> ringstone_pager::Pin<'_> {
        self.reader.pin()
    }

    /// Brings absent pages in. The caller holds the pin that met them.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub async fn bring_in(&self, run: PageRun) -> Result<(), Error> {
        let mut just_read = JustRead::default();
        while !self.take_in(run, &mut just_read)? {
            just_read.note(run, self.pages.read(run).await?);
        }
        Ok(())
    }

    /// The bytes of pages as the file has them, unchecked. The caller holds a pin that they belong to.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the disk can't read them.
    pub async fn read_pages(&self, run: PageRun) -> Result<glommio::io::ReadResult, Error> {
        self.pages.read_bytes(run).await
    }

    /// Adds the bytes of pages that are in memory to `into`, unchecked; false where some are not. The caller holds a pin that
    /// they belong to.
    pub fn read_cached(&self, run: PageRun, into: &mut BytesMut) -> bool {
        self.pages.read_cached(run, into)
    }

    /// Runs a scan to its end, a budget at a time.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub async fn scan(
        &self,
        mut step: impl FnMut(&ringstone_pager::Pin<'_>, Window, &mut Budget) -> Result<Progress, ReadFault>,
    ) -> Result<(), Error> {
        self.read(|pin, window| {
            let progress = step(pin, window, &mut read_budget())?;
            Ok((progress == Progress::Done).then_some(()))
        })
        .await
    }

    /// The revisions that the published state can be read at.
    pub fn window(&self) -> Window {
        Window::of_attributes(self.reader.pin().attributes())
    }

    /// What writes are let in by now.
    pub fn admission(&self) -> Admission {
        Admission::of_attributes(self.reader.pin().attributes())
    }

    /// Takes what the group sent: events first, so that a watch never lags behind the answer to a write.
    pub fn receive(&self, from: FromGroup) {
        self.hub.borrow_mut().deliver(from.previous, &from.events, from.revision);
        self.hub_moved();
        for (request_id, told) in from.answers {
            self.pending.resolve(request_id, (told, from.stamps));
        }
    }

    /// The group takes what its own shard asks for itself; from other shards it is sent.
    fn outbox_grew(&self) {
        match &*self.group_wake.borrow() {
            Some(inbox) => inbox.wake.notify(),
            None => self.outbox_filled.notify(),
        }
    }

    /// Wakes the group's task, on its own shard.
    fn wake_group(&self) {
        if let Some(inbox) = &*self.group_wake.borrow() {
            inbox.wake.notify();
        }
    }

    /// Looks whether somebody leads: each tick of the shard's housekeeping.
    fn note_leader(&self, now: Duration) {
        if self.shared.leader.load(Ordering::Relaxed) != 0 {
            return self.leaderless_since.set(None);
        }
        let since = self.leaderless_since.get().unwrap_or(now);
        self.leaderless_since.set(Some(since));
        if now.saturating_sub(since) >= LEADERLESS_ELECTIONS_MAX * self.shared.config.election_timeout {
            self.leader_lost.take().complete();
        }
    }

    /// Returns once nobody has led for three election timeouts: streams whose clients ask for a leader end then, as in etcd.
    pub async fn leader_is_lost(&self) {
        let lost = Rc::clone(&self.leader_lost.borrow());
        lost.wait().await;
    }

    /// Returns when the member is told to stop: calls that have no end of their own end then.
    pub async fn told_to_stop(&self) {
        self.shutdown.wait().await;
    }
}

/// The run that a reader has read last, and how often in a row.
#[derive(Default)]
struct JustRead {
    run: Option<PageRun>,
    times: u32,
}

impl JustRead {
    fn note(&mut self, run: PageRun, is_read: bool) {
        let again = self.run == Some(run);
        let times = if again { self.times } else { 0 };
        *self = JustRead { run: Some(run), times: times + u32::from(is_read) };
    }

    /// What the kernel does not call cached was read often enough: long runs, of which it is not asked, once.
    fn is_enough(&self, run: PageRun) -> bool {
        self.run == Some(run) && self.times >= if run.pages == 1 { READS_MAX } else { 1 }
    }
}

/// The state of a root.
pub fn state_of(pin: &ringstone_pager::Pin<'_>) -> State {
    State::from_attributes(pin.attributes()).expect("a published root holds a state that was encoded here")
}
