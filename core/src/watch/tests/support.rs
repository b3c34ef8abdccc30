//! A store in memory that can fault, and clients that decode what the hub sends.

use core::cell::Cell;
use core::ops::ControlFlow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use ringstone_pager::api::{Access, Fault, PageRun};
use ringstone_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use ringstone_proto::mvccpb::KeyValue;

use crate::event::{Event, EventBatch, EventKind, Revision};
use crate::watch::{History, Hub, HubLimits, MemberIdentity, Output, StreamId};

/// What one transaction does to one key.
#[derive(Clone, Debug)]
pub enum Change {
    Put(Vec<u8>, usize),
    Delete(Vec<u8>),
}

/// All events ever, by revision; readable from the compacted one on.
pub struct Store {
    pub events: Vec<Event>,
    pub revision: i64,
    pub compacted: i64,
    live: BTreeMap<Vec<u8>, KeyValue>,
    bits: Cell<u64>,
}

impl Store {
    /// A seed of 0 never faults.
    pub fn new(seed: u64) -> Store {
        Store { events: Vec::new(), revision: 1, compacted: 0, live: BTreeMap::new(), bits: Cell::new(seed) }
    }

    /// One transaction; the events of the revision it made, none if it changed nothing.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<Event> {
        let main = self.revision + 1;
        let mut made = Vec::new();
        for change in changes {
            let revision = Revision { main, sub: made.len() as i64 };
            match change {
                Change::Put(key, value_len) => {
                    let prev_kv = self.live.get(key).cloned();
                    let kv = KeyValue {
                        key: Bytes::copy_from_slice(key),
                        create_revision: prev_kv.as_ref().map_or(main, |kv| kv.create_revision),
                        mod_revision: main,
                        version: prev_kv.as_ref().map_or(1, |kv| kv.version + 1),
                        value: Bytes::from(vec![main as u8; *value_len]),
                        lease: 0,
                    };
                    self.live.insert(key.clone(), kv.clone());
                    made.push(Event { revision, kind: EventKind::Put, kv, prev_kv });
                }
                Change::Delete(key) => {
                    let Some(prev) = self.live.remove(key) else { continue };
                    let kv = KeyValue { key: Bytes::copy_from_slice(key), mod_revision: main, ..KeyValue::default() };
                    made.push(Event { revision, kind: EventKind::Delete, kv, prev_kv: Some(prev) });
                }
            }
        }
        if !made.is_empty() {
            self.revision = main;
            self.events.extend(made.iter().cloned());
        }
        made
    }

    pub fn put(&mut self, key: &str) -> Vec<Event> {
        self.apply(&[Change::Put(key.into(), 3)])
    }

    fn faults(&self) -> bool {
        let bits = self.bits.get();
        let next = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.bits.set(if bits == 0 { 0 } else { next.max(1) });
        bits != 0 && next >> 62 == 0
    }
}

impl History for Store {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn visit_events(
        &self,
        from: Revision,
        to: i64,
        prev_kv: bool,
        visitor: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Access<()> {
        assert!(from.main >= self.compacted, "nothing below the compaction revision is asked for");
        assert!(to <= self.revision);
        for event in self.events.iter().filter(|event| event.revision >= from && event.revision.main <= to) {
            if self.faults() {
                return Err(Fault::Absent(PageRun { first: 3, pages: 1 }));
            }
            let mut event = event.clone();
            if !prev_kv {
                event.prev_kv = None;
            }
            if visitor(event).is_break() {
                break;
            }
        }
        Ok(())
    }
}

pub const IDENTITY: MemberIdentity = MemberIdentity { cluster_id: 11, member_id: 22, raft_term: 33 };

/// A hub, its store, and what each stream has received.
pub struct Shard {
    pub hub: Hub,
    pub store: Store,
    received: BTreeMap<StreamId, VecDeque<WatchResponse>>,
}

impl Shard {
    pub fn new(limits: HubLimits, seed: u64) -> Shard {
        Shard { hub: Hub::new(limits, IDENTITY, 1), store: Store::new(seed), received: BTreeMap::new() }
    }

    pub fn open(&mut self) -> StreamId {
        let stream = self.hub.open_stream(0, 0);
        self.received.insert(stream, VecDeque::new());
        stream
    }

    /// Commits one transaction and delivers it.
    pub fn commit(&mut self, changes: &[Change]) {
        let previous = self.store.revision;
        let batch: EventBatch = Arc::from(self.store.apply(changes));
        self.hub.deliver(previous, &batch, self.store.revision);
    }

    pub fn put(&mut self, key: &str) {
        self.commit(&[Change::Put(key.into(), 3)]);
    }

    pub fn delete(&mut self, key: &str) {
        self.commit(&[Change::Delete(key.into())]);
    }

    pub fn create(&mut self, stream: StreamId, request: WatchCreateRequest) {
        self.hub.create(stream, request, self.store.revision, self.store.compacted);
    }

    /// Lets the writer of `stream` send once. False: it had nothing.
    pub fn write_once(&mut self, stream: StreamId, bytes_max: usize) -> bool {
        let Some(output) = self.hub.poll_output(stream, bytes_max) else { return false };
        let responses = decode(&output);
        self.received.get_mut(&stream).expect("an open stream").extend(responses);
        true
    }

    /// Lets `stream` receive until there is nothing more for it, reading the log as needed.
    pub fn drain(&mut self, stream: StreamId) -> Vec<WatchResponse> {
        loop {
            if self.write_once(stream, 1000) {
                continue;
            }
            if !self.hub.needs_catch_up() {
                break;
            }
            // A fault: the page is there at the next call.
            let _ = self.hub.catch_up(&self.store, 7);
        }
        self.received.get_mut(&stream).expect("an open stream").drain(..).collect()
    }

    pub fn take_received(&mut self, stream: StreamId) -> Vec<WatchResponse> {
        self.received.get_mut(&stream).expect("an open stream").drain(..).collect()
    }
}

/// Splits frames and decodes them.
pub fn decode(output: &Output) -> Vec<WatchResponse> {
    let bytes: Vec<u8> = output.pieces.iter().flat_map(|piece| piece.to_vec()).collect();
    let mut rest = &bytes[..];
    let mut responses = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[0], 0, "frames are not compressed");
        let len = u32::from_be_bytes(rest[1..5].try_into().expect("four bytes")) as usize;
        responses.push(WatchResponse::decode(&rest[5..5 + len]).expect("a frame holds a response"));
        rest = &rest[5 + len..];
    }
    assert_eq!(responses.len(), output.frames);
    assert_eq!(bytes.len(), output.len());
    responses
}

pub fn watch(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..WatchCreateRequest::default() }
}

pub fn watch_from(key: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..watch(key) }
}

pub fn watch_all() -> WatchCreateRequest {
    WatchCreateRequest { range_end: Bytes::from_static(b"\0"), ..watch("\0") }
}

/// The key and revision of each event in order.
pub fn keys(responses: &[WatchResponse]) -> Vec<(String, i64)> {
    let events = responses.iter().flat_map(|response| &response.events);
    events
        .map(|event| event.kv.as_ref().expect("an event has a kv"))
        .map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision))
        .collect()
}
