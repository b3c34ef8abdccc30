//! The watches of one shard, as a state machine.
//!
//! Verbs, as seen by the shard that drives it:
//! - a stream's life: [`Hub::open_stream`], [`Hub::close_stream`]
//! - its requests: [`Hub::create`], [`Hub::refuse`], [`Hub::cancel`], [`Hub::request_progress`], while
//!   [`Hub::wants_requests`]
//! - what the group did: [`Hub::deliver`], [`Hub::gap`]
//! - what was asked for: [`Hub::poll_output`] by the stream's writer, [`Hub::catch_up`] while [`Hub::needs_catch_up`],
//!   [`Hub::tick`]; after any of these the writers in [`Hub::take_ready`] are to be woken
//!
//! Bounds: a stream that nobody reads holds at most `queue_bytes + window_bytes` of answers, whatever it watches; each
//! watch some 300 bytes and its key; recent events `recent_bytes` for the whole shard. A revision that is larger than the
//! queue is taken only by a writer that waits with nothing else to send.

use std::collections::{BTreeSet, VecDeque};

use ringstone_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};

use super::catch_up::Window;
use super::encode::{FrameWriter, MemberIdentity, Output, header};
use super::index::WatchIndex;
use super::recent::Recent;
use super::stream::{Item, Request, Stream};
use super::watcher::{Slot, Span, State, Watcher, Wishes};

/// Bounds of one shard's watches.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Answers that a stream may have waiting, in bytes with their overhead.
    pub queue_bytes: usize,
    /// Events that one look into the log gathers, in encoded bytes; whole revisions, so the last one may go beyond.
    pub window_bytes: usize,
    /// Events that one look into the log visits.
    pub window_events: usize,
    /// Recent events kept for watchers that lag for a moment.
    pub recent_bytes: usize,
    /// Watches on this shard; more are refused.
    pub watchers_max: usize,
    /// Requests of one stream that may wait for the shard to catch up.
    pub requests_max: usize,
    /// Responses of this size are split where a watch asks for it: max-request-bytes + 512 KiB.
    pub fragment_bytes: usize,
    /// How long a watch is idle before it gets a progress answer, in milliseconds; up to 10% are added per stream.
    pub progress_interval_ms: u64,
}

impl Default for HubLimits {
    fn default() -> HubLimits {
        HubLimits {
            queue_bytes: 16 * 1024,
            window_bytes: 16 * 1024,
            window_events: 4096,
            recent_bytes: 1024 * 1024,
            watchers_max: 1 << 20,
            requests_max: 64,
            // etcd's defaults: 1.5 MiB and 512 KiB; ten minutes.
            fragment_bytes: 2 * 1024 * 1024,
            progress_interval_ms: 600_000,
        }
    }
}

/// A watch with its places in the tables, beside its keys, which the index has once more.
const WATCHER_BYTES: usize = 400;
/// A request that waits.
const REQUEST_BYTES: usize = 256;

/// A stream of this hub. It stays invalid once the stream is closed: late calls with it do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    index: u32,
    generation: u32,
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Open streams.
    pub streams: usize,
    /// Watches on them.
    pub watchers: usize,
    /// Of these: behind (etcd calls them slow or unsynced).
    pub watchers_behind: usize,
    /// Answers that wait for their writers.
    pub answers_pending: usize,
    /// Bytes that these are charged for.
    pub answers_pending_bytes: usize,
}

/// See the module.
pub struct Hub {
    pub(super) limits: HubLimits,
    identity: MemberIdentity,
    /// Every event up to this revision has been handed to the watchers that were live.
    pub(super) delivered: i64,
    pub(super) watchers: Vec<Option<Watcher>>,
    free_watchers: Vec<Slot>,
    pub(super) streams: Vec<Option<Stream>>,
    free_streams: Vec<u32>,
    pub(super) index: WatchIndex,
    pub(super) recent: Recent,
    /// Streams with demand and watchers behind, in the order of their turn.
    pub(super) hungry: VecDeque<u32>,
    /// Streams with requests that wait.
    waiting: BTreeSet<u32>,
    ready: Vec<StreamId>,
    pub(super) window: Option<Window>,
    /// Number for the next event that is handled.
    pub(super) next_number: u64,
    generations: u32,
    pub(super) progress_timers: BTreeSet<(u64, u32)>,
    /// As the last tick or opened stream told it.
    pub(super) now_ms: u64,
}

impl Hub {
    /// A hub that has delivered everything up to `delivered`: the published revision when the shard subscribed to the
    /// group's batches.
    #[must_use]
    pub fn new(limits: HubLimits, identity: MemberIdentity, delivered: i64) -> Hub {
        Hub {
            limits,
            identity,
            delivered,
            watchers: Vec::new(),
            free_watchers: Vec::new(),
            streams: Vec::new(),
            free_streams: Vec::new(),
            index: WatchIndex::default(),
            recent: Recent::new(delivered.saturating_add(1), limits.recent_bytes),
            hungry: VecDeque::new(),
            waiting: BTreeSet::new(),
            ready: Vec::new(),
            window: None,
            next_number: 1,
            generations: 0,
            progress_timers: BTreeSet::new(),
            now_ms: 0,
        }
    }

    /// The identity in the headers of answers that are framed from now on (the raft term moves).
    pub fn set_identity(&mut self, identity: MemberIdentity) {
        self.identity = identity;
    }

    /// Everything up to this revision was delivered to the live watchers.
    #[must_use]
    pub fn delivered(&self) -> i64 {
        self.delivered
    }

    /// Opens a stream at `now_ms` (of [`Hub::tick`]'s clock). `jitter` is a random number: it spreads the progress answers
    /// of the streams.
    pub fn open_stream(&mut self, now_ms: u64, jitter: u64) -> StreamId {
        self.now_ms = self.now_ms.max(now_ms);
        let interval = self.limits.progress_interval_ms.max(1);
        let interval = interval.saturating_add(jitter % (interval / 10).max(1));
        let generation = self.next_generation();
        let stream = Some(Stream::new(generation, interval));
        let index = match self.free_streams.pop() {
            Some(index) => {
                self.streams[index as usize] = stream;
                index
            }
            None => {
                self.streams.push(stream);
                u32::try_from(self.streams.len() - 1).expect("streams are limited by descriptors")
            }
        };
        StreamId { index, generation }
    }

    /// Ends a stream with all its watches; what was queued is dropped.
    pub fn close_stream(&mut self, stream: StreamId) {
        let Some(closing) = self.valid(stream) else { return };
        let slots: Vec<Slot> = closing.watchers.values().copied().collect();
        for slot in slots {
            self.remove_watcher(slot);
        }
        let closed = self.streams[stream.index as usize].take().expect("it is valid");
        self.progress_timers.remove(&(closed.progress_at_ms, stream.index));
        self.waiting.remove(&stream.index);
        if closed.is_hungry {
            self.hungry.retain(|&other| other != stream.index);
        }
        self.free_streams.push(stream.index);
    }

    /// True if the shard shall read on in the client's requests: the answers to what it sent so far are bounded.
    #[must_use]
    pub fn wants_requests(&self, stream: StreamId) -> bool {
        self.valid(stream).is_some_and(|stream| {
            stream.requests.len() < self.limits.requests_max && stream.queue_cost() < self.limits.queue_bytes
        })
    }

    /// Bytes of answers that a stream may have waiting, whatever it watches.
    #[must_use]
    pub fn queue_bytes_max(&self) -> usize {
        self.limits.queue_bytes
    }

    /// Bytes that the watches and waiting requests of a stream hold.
    #[must_use]
    pub fn held_bytes(&self, stream: StreamId) -> usize {
        self.valid(stream).map_or(0, |stream| {
            stream.watchers.len() * WATCHER_BYTES + stream.span_bytes + stream.requests.len() * REQUEST_BYTES
        })
    }

    /// A create request, permission already checked. `published` and `compacted` are the store's when it arrived: the
    /// watch begins once everything published then was delivered.
    pub fn create(&mut self, stream: StreamId, request: WatchCreateRequest, published: i64, compacted: i64) {
        self.ask(stream, published, Request::Create { request: Box::new(request), compacted });
    }

    /// Answers a create request that the caller refuses (permissions): `created` and `canceled` with this text.
    pub fn refuse(&mut self, stream: StreamId, reason: &str, published: i64) {
        self.ask(stream, published, Request::Refuse { reason: reason.into() });
    }

    /// A cancel request.
    pub fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        self.ask(stream, self.delivered, Request::Cancel { id: watch_id });
    }

    /// A progress request: answered for a revision that is at least `published`, the store's when it arrived.
    pub fn request_progress(&mut self, stream: StreamId, published: i64) {
        self.ask(stream, published, Request::Progress);
    }

    /// The next answers, at least one whole frame and then about `bytes_max` of them. None: nothing to send; the stream
    /// appears in [`Hub::take_ready`] when that has changed.
    pub fn poll_output(&mut self, stream: StreamId, bytes_max: usize) -> Option<Output> {
        let index = stream.index;
        self.valid(stream)?;
        let (identity, fragment_bytes) = (self.identity, self.limits.fragment_bytes);
        let polled = self.stream_mut(index);
        if polled.queue_is_empty() {
            polled.writer_waits = true;
            self.maybe_hungry(index);
            return None;
        }
        let mut writer = FrameWriter::default();
        while writer.written() < bytes_max
            && let Some(item) = polled.pop()
        {
            write_item(&mut writer, item, identity, fragment_bytes);
        }
        Some(writer.finish())
    }

    /// The streams whose writers waited and have something to send now. Each is named once until it polls again.
    pub fn take_ready(&mut self) -> Vec<StreamId> {
        core::mem::take(&mut self.ready)
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        let mut stats = HubStats::default();
        for stream in self.streams.iter().flatten() {
            stats.streams += 1;
            stats.watchers += stream.watchers.len();
            stats.watchers_behind += stream.behind.len();
            stats.answers_pending += stream.queue_len();
            stats.answers_pending_bytes += stream.queue_cost();
        }
        stats
    }

    fn ask(&mut self, stream: StreamId, delivered_min: i64, request: Request) {
        let delivered = self.delivered;
        let Some(asking) = self.valid_mut(stream) else { return };
        if asking.requests.is_empty() && delivered >= delivered_min {
            return self.answer(stream.index, request);
        }
        asking.requests.push_back((delivered_min, request));
        self.waiting.insert(stream.index);
    }

    /// Answers the requests that waited for the delivered revision. Called whenever that has moved.
    pub(super) fn answer_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        for index in core::mem::take(&mut self.waiting) {
            while let Some((delivered_min, request)) = self.stream_mut(index).requests.pop_front() {
                if delivered_min > self.delivered {
                    self.stream_mut(index).requests.push_front((delivered_min, request));
                    self.waiting.insert(index);
                    break;
                }
                self.answer(index, request);
            }
        }
    }

    fn answer(&mut self, index: u32, request: Request) {
        match request {
            Request::Create { request, compacted } => self.answer_create(index, &request, compacted),
            Request::Refuse { reason } => self.push(index, Item::Refused { reason, revision: self.delivered }),
            Request::Cancel { id } => self.answer_cancel(index, id),
            Request::Progress => self.answer_progress(index),
        }
    }

    fn answer_create(&mut self, index: u32, request: &WatchCreateRequest, compacted: i64) {
        let revision = self.delivered;
        let (id, span) = match self.check_create(index, request) {
            Ok(accepted) => accepted,
            Err(reason) => return self.push(index, Item::Refused { reason: reason.into(), revision }),
        };
        let start_revision = request.start_revision;
        let state = if start_revision == 0 || start_revision > revision {
            State::Live
        } else if start_revision < compacted {
            State::Dead
        } else {
            State::Behind(start_revision)
        };
        let slot = self.add_watcher(index, id, span, start_revision, state, Wishes::from_request(request));
        self.push(index, Item::Created { id, revision });
        match state {
            State::Live => {}
            State::Behind(next) => {
                self.stream_mut(index).behind.insert((next, slot));
                self.maybe_hungry(index);
            }
            State::Dead => {
                self.stream_mut(index).dead += 1;
                self.push(index, Item::Compacted { id, compacted });
            }
        }
    }

    /// The id and span of a new watch, or etcd's text of why there is none.
    fn check_create(&mut self, index: u32, request: &WatchCreateRequest) -> Result<(i64, Span), &'static str> {
        if request.start_revision < 0 {
            return Err("etcdserver: mvcc: required revision has been compacted");
        }
        let span = Span::from_request(request).ok_or("mvcc: watcher range is empty")?;
        if self.watchers.len() - self.free_watchers.len() >= self.limits.watchers_max {
            return Err("etcdserver: too many requests");
        }
        let stream = self.stream_mut(index);
        if request.watch_id != 0 {
            if stream.watchers.contains_key(&request.watch_id) {
                return Err("mvcc: duplicate watch ID provided on the WatchStream");
            }
            return Ok((request.watch_id, span));
        }
        while stream.watchers.contains_key(&stream.next_id) {
            stream.next_id = stream.next_id.wrapping_add(1);
        }
        let id = stream.next_id;
        stream.next_id = id.wrapping_add(1);
        Ok((id, span))
    }

    fn answer_cancel(&mut self, index: u32, id: i64) {
        let Some(&slot) = self.stream_mut(index).watchers.get(&id) else { return };
        self.remove_watcher(slot);
        self.push(index, Item::Canceled { id, revision: self.delivered });
        self.maybe_pay_progress(index);
    }

    fn add_watcher(
        &mut self,
        stream: u32,
        id: i64,
        span: Span,
        start_revision: i64,
        state: State,
        wishes: Wishes,
    ) -> Slot {
        let slot = self.free_watchers.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            u32::try_from(self.watchers.len() - 1).expect("watchers_max is below 2^32")
        });
        self.index.insert(&span, slot);
        let span_bytes = 2 * span.bytes();
        let generation = self.next_generation();
        let watcher = Watcher { stream, generation, id, span, start_revision, state, wishes, quiet: true };
        self.watchers[slot as usize] = Some(watcher);
        let owner = self.stream_mut(stream);
        owner.span_bytes += span_bytes;
        owner.watchers.insert(id, slot);
        owner.progress_watchers += usize::from(wishes.progress_notify);
        if wishes.progress_notify && owner.progress_watchers == 1 {
            self.start_progress_timer(stream);
        }
        slot
    }

    pub(super) fn remove_watcher(&mut self, slot: Slot) {
        let watcher = self.watchers[slot as usize].take().expect("a slot of a stream holds a watcher");
        self.free_watchers.push(slot);
        self.index.remove(&watcher.span, slot);
        let owner = self.stream_mut(watcher.stream);
        owner.span_bytes -= 2 * watcher.span.bytes();
        owner.watchers.remove(&watcher.id);
        match watcher.state {
            State::Live => {}
            State::Behind(next) => assert!(owner.behind.remove(&(next, slot)), "a watcher behind is in the set"),
            State::Dead => owner.dead -= 1,
        }
        owner.progress_watchers -= usize::from(watcher.wishes.progress_notify);
    }

    fn next_generation(&mut self) -> u32 {
        self.generations = self.generations.wrapping_add(1);
        self.generations
    }

    pub(super) fn push(&mut self, index: u32, item: Item) {
        self.stream_mut(index).push(item);
        self.wake(index);
    }

    /// Names the stream as ready if its writer waits.
    pub(super) fn wake(&mut self, index: u32) {
        let stream = self.stream_mut(index);
        if stream.writer_waits && !stream.queue_is_empty() {
            stream.writer_waits = false;
            let generation = stream.generation;
            self.ready.push(StreamId { index, generation });
        }
    }

    /// Gives the stream a turn at the log if it asks for more and has watchers behind.
    pub(super) fn maybe_hungry(&mut self, index: u32) {
        let stream = self.stream_mut(index);
        if stream.has_demand() && !stream.behind.is_empty() && !stream.is_hungry {
            stream.is_hungry = true;
            self.hungry.push_back(index);
        }
    }

    /// Marks a live watcher as behind: it needs everything from `next` on.
    pub(super) fn fall_behind(&mut self, slot: Slot, next: i64) {
        let watcher = self.watchers[slot as usize].as_mut().expect("a live watcher is in the table");
        assert_eq!(watcher.state, State::Live, "only a live watcher can fall behind");
        watcher.state = State::Behind(next);
        let index = watcher.stream;
        self.stream_mut(index).behind.insert((next, slot));
        self.maybe_hungry(index);
    }

    pub(super) fn stream_mut(&mut self, index: u32) -> &mut Stream {
        self.streams[index as usize].as_mut().expect("a watcher's stream is open")
    }

    fn valid(&self, stream: StreamId) -> Option<&Stream> {
        let found = self.streams.get(stream.index as usize)?.as_ref()?;
        (found.generation == stream.generation).then_some(found)
    }

    fn valid_mut(&mut self, stream: StreamId) -> Option<&mut Stream> {
        let found = self.streams.get_mut(stream.index as usize)?.as_mut()?;
        (found.generation == stream.generation).then_some(found)
    }
}

fn write_item(writer: &mut FrameWriter, item: Item, identity: MemberIdentity, fragment_bytes: usize) {
    let mut head = WatchResponse::default();
    let mut revision = 0;
    match item {
        Item::Created { id, revision: at } => (head.watch_id, head.created, revision) = (id, true, at),
        Item::Canceled { id, revision: at } => (head.watch_id, head.canceled, revision) = (id, true, at),
        Item::Progress { id, revision: at } => (head.watch_id, revision) = (id, at),
        Item::Compacted { id, compacted } => {
            (head.watch_id, head.canceled, head.compact_revision) = (id, true, compacted);
        }
        Item::Refused { reason, revision: at } => {
            (head.watch_id, head.created, head.canceled, revision) = (-1, true, true, at);
            head.cancel_reason = reason.into();
        }
        Item::Ended { id, revision: at, reason } => {
            (head.watch_id, head.canceled, revision) = (id, true, at);
            head.cancel_reason = (&*reason).into();
        }
        Item::Events { id, revision, fragment, events } => {
            head.watch_id = id;
            head.header = Some(header(identity, revision));
            return writer.response(&mut head, &events, fragment.then_some(fragment_bytes));
        }
    }
    head.header = Some(header(identity, revision));
    writer.frame(&head, &[]);
}
