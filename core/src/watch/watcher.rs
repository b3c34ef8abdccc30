//! One watch.

use bytes::Bytes;
use ringstone_proto::etcdserverpb::WatchCreateRequest;
use ringstone_proto::etcdserverpb::watch_create_request::FilterType;

use crate::event::{Event, EventKind};

/// Place of a watcher in the hub's table.
pub(super) type Slot = u32;

/// Where a watch's keys end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SpanEnd {
    /// It is one key.
    Single,
    /// Before this key.
    Before(Bytes),
    /// All keys from the start on.
    Open,
}

/// The keys of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: Bytes,
    pub end: SpanEnd,
}

impl Span {
    /// As etcd reads a request: no key is the key `\0`, the end `\0` is no end. None: the range holds nothing.
    pub fn from_request(request: &WatchCreateRequest) -> Option<Span> {
        // Copies: a slice of the request would keep the whole message in memory as long as the watch lives.
        let start = if request.key.is_empty() {
            Bytes::from_static(b"\0")
        } else {
            Bytes::from(request.key.to_vec().into_boxed_slice())
        };
        let end = match &request.range_end[..] {
            [] => SpanEnd::Single,
            [0] => SpanEnd::Open,
            end if end <= &start[..] => return None,
            end => SpanEnd::Before(Bytes::from(end.to_vec().into_boxed_slice())),
        };
        Some(Span { start, end })
    }

    /// Bytes of its keys.
    pub fn bytes(&self) -> usize {
        let end = if let SpanEnd::Before(end) = &self.end { end.len() } else { 0 };
        self.start.len() + end
    }

    pub fn holds(&self, key: &[u8]) -> bool {
        match &self.end {
            SpanEnd::Single => key == self.start,
            SpanEnd::Before(end) => key >= &self.start[..] && key < &end[..],
            SpanEnd::Open => key >= &self.start[..],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Has been given everything up to the delivered revision.
    Live,
    /// Has been given everything before this revision; it is at or below the delivered one.
    Behind(i64),
    /// Its next event was compacted. Only cancelling is left.
    Dead,
}

/// What kinds of events and answers a watch asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
    pub progress_notify: bool,
}

impl Wishes {
    pub fn from_request(request: &WatchCreateRequest) -> Wishes {
        let filter = |kind: FilterType| request.filters.contains(&(kind as i32));
        Wishes {
            no_put: filter(FilterType::Noput),
            no_delete: filter(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
        }
    }

    pub fn take(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub stream: u32,
    /// Distinguishes it from an earlier watcher of the same slot.
    pub generation: u32,
    pub id: i64,
    pub span: Span,
    /// As asked for; 0: from creation on. Events below it are not for this watcher.
    pub start_revision: i64,
    pub state: State,
    pub wishes: Wishes,
    /// No event was queued since the last progress tick.
    pub quiet: bool,
}

impl Watcher {
    /// True if it takes this event when it is delivered.
    pub fn takes_live(&self, event: &Event) -> bool {
        self.state == State::Live && self.start_revision <= event.revision.main && self.wishes.take(event.kind)
    }

    /// True if a progress answer at `delivered` holds for it. etcd's rule: a watch that starts later holds it back.
    pub fn is_synced(&self, delivered: i64) -> bool {
        self.state == State::Live && self.start_revision <= delivered
    }
}
