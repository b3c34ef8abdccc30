//! One client stream: its watches, what is queued for it, and what it has asked for that has to wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use ringstone_proto::etcdserverpb::WatchCreateRequest;
use smallvec::SmallVec;

use super::encode::EncodedEvent;
use super::watcher::Slot;
use crate::event::Event;

/// What an answer costs besides its events, rounded up from the size of an [`Item`] with its place in the queue.
pub(super) const ITEM_COST: usize = 128;

/// What a reference to a shared event costs.
pub(super) const REFERENCE_COST: usize = size_of::<Bytes>();

/// An answer in the order of the stream.
pub(super) enum Item {
    Created {
        id: i64,
        revision: i64,
    },
    Refused {
        reason: Box<str>,
        revision: i64,
    },
    Canceled {
        id: i64,
        revision: i64,
    },
    Compacted {
        id: i64,
        compacted: i64,
    },
    /// What it needs can't be read.
    Ended {
        id: i64,
        revision: i64,
        reason: Rc<str>,
    },
    Progress {
        id: i64,
        revision: i64,
    },
    Events {
        id: i64,
        revision: i64,
        fragment: bool,
        events: SmallVec<[Bytes; 1]>,
    },
}

/// A request that waits until the shard has delivered what was published when it arrived.
pub(super) enum Request {
    Create { request: Box<WatchCreateRequest>, compacted: i64 },
    Refuse { reason: Box<str> },
    Cancel { id: i64 },
    Progress,
}

pub(super) struct Stream {
    pub generation: u32,
    pub watchers: BTreeMap<i64, Slot>,
    /// Of the keys of its watches, as the hub holds them.
    pub span_bytes: usize,
    pub next_id: i64,
    queue: VecDeque<(Item, usize)>,
    queue_cost: usize,
    /// Number of the newest event (see [`NumberedEvent`]) whose bytes the queue was charged for. Later takers share them.
    charged_up_to: u64,
    /// The writer found the queue empty and waits to be woken.
    pub writer_waits: bool,
    /// It stands in the list of streams to read the log for.
    pub is_hungry: bool,
    /// Its watchers that are behind, by the revision that they need.
    pub behind: BTreeSet<(i64, Slot)>,
    pub dead: usize,
    /// A progress request met watchers that are behind for a moment only: answered when they are not.
    pub progress_owed: bool,
    /// Requests with the delivered revision that they wait for.
    pub requests: VecDeque<(i64, Request)>,
    /// The next look for idle watches.
    pub progress_at_ms: u64,
    pub progress_interval_ms: u64,
    /// How many watches asked for progress answers.
    pub progress_watchers: usize,
}

/// An event with its number in the order of all that this hub has handled: how a queue knows that it was charged.
#[derive(Clone, Copy)]
pub(super) struct NumberedEvent<'a> {
    pub event: &'a Event,
    pub encoded: &'a EncodedEvent,
    pub number: u64,
}

impl Stream {
    pub fn new(generation: u32, progress_interval_ms: u64) -> Stream {
        Stream {
            generation,
            watchers: BTreeMap::new(),
            span_bytes: 0,
            next_id: 0,
            queue: VecDeque::new(),
            queue_cost: 0,
            charged_up_to: 0,
            writer_waits: false,
            is_hungry: false,
            behind: BTreeSet::new(),
            dead: 0,
            progress_owed: false,
            requests: VecDeque::new(),
            progress_at_ms: 0,
            progress_interval_ms,
            progress_watchers: 0,
        }
    }

    pub fn queue_is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    pub fn queue_cost(&self) -> usize {
        self.queue_cost
    }

    /// True if the writer has sent all and asks for more: only then the log is read for this stream.
    pub fn has_demand(&self) -> bool {
        self.writer_waits && self.queue.is_empty()
    }

    /// Adds an answer without events.
    pub fn push(&mut self, item: Item) {
        self.queue.push_back((item, ITEM_COST));
        self.queue_cost += ITEM_COST;
    }

    /// Adds events if they fit in `cost_max`, or if the writer waits with nothing in the queue. Events are charged once
    /// however many of this stream's watchers take them.
    pub fn push_events(
        &mut self,
        head: EventsHead,
        events: SmallVec<[Bytes; 1]>,
        last_number: u64,
        fresh_bytes: usize,
        cost_max: usize,
    ) -> bool {
        let cost = ITEM_COST + events.len() * REFERENCE_COST + fresh_bytes;
        if !self.has_demand() && self.queue_cost.saturating_add(cost) > cost_max {
            return false;
        }
        self.charged_up_to = self.charged_up_to.max(last_number);
        let item = Item::Events { id: head.id, revision: head.revision, fragment: head.fragment, events };
        self.queue.push_back((item, cost));
        self.queue_cost += cost;
        true
    }

    /// True if the queue was not yet charged for the event of this number.
    pub fn is_fresh(&self, number: u64) -> bool {
        number > self.charged_up_to
    }

    pub fn pop(&mut self) -> Option<Item> {
        let (item, cost) = self.queue.pop_front()?;
        self.queue_cost -= cost;
        if self.queue.is_empty() {
            // A burst's buffer is not kept for a stream that may stall.
            self.queue.shrink_to(16);
        }
        Some(item)
    }
}

/// What an answer with events says besides them.
#[derive(Clone, Copy)]
pub(super) struct EventsHead {
    pub id: i64,
    pub revision: i64,
    pub fragment: bool,
}
