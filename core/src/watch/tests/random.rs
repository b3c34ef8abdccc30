//! Random creates, cancels, writes, lost batches, stalls, faults and compactions; each watcher must see exactly its
//! filtered history, in order, once, whole revisions at a time, and progress must never be ahead of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use ringstone_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use ringstone_proto::mvccpb;

use super::support::*;
use crate::event::{Event, EventBatch, EventKind};
use crate::watch::{HubLimits, StreamId};

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>),
    /// The batches since the last delivery: delivered together, one by one, or lost (noticed by the next, or by a gap).
    Deliver(u8),
    Create {
        stream: u8,
        key: u8,
        end: u8,
        start_back: i64,
        wishes: u8,
    },
    Cancel {
        stream: u8,
        id: i64,
    },
    Progress {
        stream: u8,
    },
    Tick,
    Write {
        stream: u8,
        bytes_max: usize,
    },
    CatchUp {
        budget: usize,
    },
    Compact {
        back: i64,
    },
    Reopen {
        stream: u8,
    },
}

fn any_change() -> impl Strategy<Value = Change> {
    let key = || (0..6_u8).prop_map(|key| vec![b'a' + key]);
    prop_oneof![
        4 => (key(), prop_oneof![9 => 0..20_usize, 1 => Just(400)]).prop_map(|(key, len)| Change::Put(key, len)),
        1 => key().prop_map(Change::Delete),
    ]
}

fn distinct(changes: Vec<Change>) -> Vec<Change> {
    let mut by_key = BTreeMap::new();
    for change in changes {
        let (Change::Put(key, _) | Change::Delete(key)) = &change;
        by_key.insert(key.clone(), change);
    }
    by_key.into_values().collect()
}

fn any_step() -> impl Strategy<Value = Step> {
    let stream = || 0..3_u8;
    prop_oneof![
        8 => proptest::collection::vec(any_change(), 1..4).prop_map(|changes| Step::Commit(distinct(changes))),
        6 => any::<u8>().prop_map(Step::Deliver),
        4 => (stream(), 0..6_u8, 0..9_u8, -4..20_i64, any::<u8>()).prop_map(
            |(stream, key, end, start_back, wishes)| Step::Create { stream, key, end, start_back, wishes }
        ),
        1 => (stream(), 0..4_i64).prop_map(|(stream, id)| Step::Cancel { stream, id }),
        2 => stream().prop_map(|stream| Step::Progress { stream }),
        1 => Just(Step::Tick),
        8 => (stream(), 1..600_usize).prop_map(|(stream, bytes_max)| Step::Write { stream, bytes_max }),
        6 => (1..12_usize).prop_map(|budget| Step::CatchUp { budget }),
        1 => (0..30_i64).prop_map(|back| Step::Compact { back }),
        1 => stream().prop_map(|stream| Step::Reopen { stream }),
    ]
}

/// What a client knows about one of its watches.
struct Known {
    request: WatchCreateRequest,
    /// All events of its before this revision have come.
    next: i64,
    canceled: bool,
    /// Parts of a response that are not complete yet.
    parts: Vec<mvccpb::Event>,
}

#[derive(Default)]
struct Client {
    /// Requests in the order sent; answered in that order.
    asked: std::collections::VecDeque<WatchCreateRequest>,
    watches: BTreeMap<i64, Known>,
}

fn as_sent(event: &Event, prev_kv: bool) -> mvccpb::Event {
    mvccpb::Event {
        r#type: i32::from(event.kind == EventKind::Delete),
        kv: Some(event.kv.clone()),
        prev_kv: event.prev_kv.clone().filter(|_| prev_kv),
    }
}

fn wanted(request: &WatchCreateRequest, event: &Event) -> bool {
    let key = &event.kv.key;
    let in_range = match &request.range_end[..] {
        [] => *key == request.key,
        [0] => *key >= request.key,
        end => *key >= request.key && &key[..] < end,
    };
    let kind = i32::from(event.kind == EventKind::Delete);
    in_range && !request.filters.contains(&kind) && event.revision.main >= request.start_revision
}

impl Client {
    fn receive(&mut self, store: &Store, response: WatchResponse) {
        let revision = response.header.expect("a response has a header").revision;
        if response.created {
            let request = self.asked.pop_front().expect("an answer for each request, in order");
            if response.canceled {
                assert_eq!(response.watch_id, -1);
                return;
            }
            let next = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
            let known = Known { request, next, canceled: false, parts: Vec::new() };
            assert!(self.watches.insert(response.watch_id, known).is_none(), "an id is given once");
        } else if response.canceled {
            let known = self.watches.get_mut(&response.watch_id).expect("a cancel names a watch");
            assert!(known.parts.is_empty());
            if response.compact_revision == 0 {
                self.watches.remove(&response.watch_id);
                return;
            }
            assert_eq!(revision, 0);
            assert!(!known.canceled);
            assert!(known.next < response.compact_revision, "what it needs was still there");
            known.canceled = true;
        } else if response.events.is_empty() {
            let vouched: Vec<i64> =
                if response.watch_id == -1 { self.watches.keys().copied().collect() } else { vec![response.watch_id] };
            for id in vouched {
                self.check_progress(store, id, revision);
            }
        } else {
            self.receive_events(store, response, revision);
        }
    }

    /// Nothing at or below `revision` is still to come.
    fn check_progress(&mut self, store: &Store, id: i64, revision: i64) {
        let known = self.watches.get_mut(&id).expect("progress is for a watch");
        assert!(!known.canceled, "a dead watch holds progress back");
        assert!(known.parts.is_empty());
        assert!(known.request.start_revision <= revision, "a watch in the future holds progress back");
        let missed = store.events.iter().find(|event| {
            event.revision.main >= known.next && event.revision.main <= revision && wanted(&known.request, event)
        });
        assert!(missed.is_none(), "progress at {revision} overtook {missed:?}");
        known.next = known.next.max(revision + 1);
    }

    fn receive_events(&mut self, store: &Store, response: WatchResponse, revision: i64) {
        let known = self.watches.get_mut(&response.watch_id).expect("events come after created");
        assert!(!known.canceled, "nothing comes behind the cancel");
        known.parts.extend(response.events);
        if response.fragment {
            assert!(known.request.fragment);
            return;
        }
        let got = core::mem::take(&mut known.parts);
        let last = got.last().and_then(|event| event.kv.as_ref()).expect("events have a kv").mod_revision;
        assert!(revision >= last);
        let range = known.next..=last;
        let expected: Vec<mvccpb::Event> = store
            .events
            .iter()
            .filter(|event| range.contains(&event.revision.main) && wanted(&known.request, event))
            .map(|event| as_sent(event, known.request.prev_kv))
            .collect();
        assert_eq!(got, expected, "whole revisions, in order, once");
        known.next = last + 1;
    }
}

struct World {
    shard: Shard,
    streams: Vec<StreamId>,
    clients: Vec<Client>,
    undelivered: Vec<(i64, Vec<Event>)>,
    sent: i64,
    now_ms: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let limits = HubLimits {
            queue_bytes: 700,
            window_bytes: 300,
            window_events: 9,
            recent_bytes: 3000,
            watchers_max: 12,
            requests_max: 4,
            fragment_bytes: 250,
            progress_interval_ms: 1000,
        };
        let mut shard = Shard::new(limits, seed);
        let streams = (0..3).map(|_| shard.open()).collect();
        let clients = (0..3).map(|_| Client::default()).collect();
        World { shard, streams, clients, undelivered: Vec::new(), sent: 1, now_ms: 0 }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit(changes) => {
                let events = self.shard.store.apply(&changes);
                if !events.is_empty() {
                    self.undelivered.push((self.shard.store.revision, events));
                }
            }
            Step::Deliver(how) => self.deliver(how),
            Step::Create { stream, key, end, start_back, wishes } => self.create(stream, key, end, start_back, wishes),
            Step::Cancel { stream, id } => {
                if self.shard.hub.wants_requests(self.streams[stream as usize]) {
                    self.shard.hub.cancel(self.streams[stream as usize], id);
                }
            }
            Step::Progress { stream } => {
                let published = self.shard.store.revision;
                if self.shard.hub.wants_requests(self.streams[stream as usize]) {
                    self.shard.hub.request_progress(self.streams[stream as usize], published);
                }
            }
            Step::Tick => {
                self.now_ms += 500;
                self.shard.hub.tick(self.now_ms);
            }
            Step::Write { stream, bytes_max } => {
                self.shard.write_once(self.streams[stream as usize], bytes_max);
                self.receive(stream as usize);
            }
            Step::CatchUp { budget } => {
                if self.shard.hub.needs_catch_up() {
                    let _ = self.shard.hub.catch_up(&self.shard.store, budget);
                }
            }
            // Compaction never goes beyond what the group has applied, but may well be ahead of this shard.
            Step::Compact { back } => {
                let store = &mut self.shard.store;
                store.compacted = store.compacted.max(store.revision - back);
            }
            Step::Reopen { stream } => {
                self.shard.hub.close_stream(self.streams[stream as usize]);
                self.streams[stream as usize] = self.shard.open();
                self.clients[stream as usize] = Client::default();
            }
        }
        let pending = self.shard.hub.stats().answers_pending_bytes;
        // Per stream: the queue, a window with its overshoot of one revision, and control answers.
        assert!(pending <= 3 * (700 + 600 + 3 * 900 + 20 * 128), "{pending} bytes wait");
    }

    fn create(&mut self, stream: u8, key: u8, end: u8, start_back: i64, wishes: u8) {
        let range_end = match end {
            0..=3 => bytes::Bytes::new(),
            4 => bytes::Bytes::from_static(b"\0"),
            end => bytes::Bytes::from(vec![b'a' + end - 3]),
        };
        let request = WatchCreateRequest {
            key: bytes::Bytes::from(vec![b'a' + key]),
            range_end,
            start_revision: if start_back > 15 { 0 } else { self.shard.store.revision - start_back },
            progress_notify: wishes & 1 != 0,
            filters: if wishes & 6 == 6 { vec![i32::from(wishes & 8 != 0)] } else { Vec::new() },
            prev_kv: wishes & 16 != 0,
            watch_id: if wishes & 96 == 96 { i64::from(wishes & 3) } else { 0 },
            fragment: wishes & 128 != 0,
        };
        if self.shard.hub.wants_requests(self.streams[stream as usize]) {
            self.clients[stream as usize].asked.push_back(request.clone());
            self.shard.create(self.streams[stream as usize], request);
        }
    }

    fn deliver(&mut self, how: u8) {
        let batches = core::mem::take(&mut self.undelivered);
        let Some(&(revision, _)) = batches.last() else { return };
        match how % 8 {
            0 => self.shard.hub.gap(revision),
            1 => {
                // All but the last were lost; the queue had room again for that one.
                let (main, events) = batches.last().expect("it is not empty").clone();
                self.shard.hub.deliver(main - 1, &EventBatch::from(events), main);
            }
            2 => {
                for (main, events) in batches {
                    self.shard.hub.deliver(main - 1, &EventBatch::from(events), main);
                }
            }
            how => {
                // A gap may have skipped a part of what comes then.
                if how == 3 {
                    self.shard.hub.gap(batches[0].0);
                }
                let events: Vec<Event> = batches.into_iter().flat_map(|(_, events)| events).collect();
                self.shard.hub.deliver(self.sent, &Arc::from(events), revision);
            }
        }
        self.sent = revision;
        assert_eq!(self.shard.hub.delivered(), revision);
    }

    fn receive(&mut self, stream: usize) {
        for response in self.shard.take_received(self.streams[stream]) {
            self.clients[stream].receive(&self.shard.store, response);
        }
    }

    /// Everything that is still owed comes once the clients read; then each watch is complete up to the end.
    fn finish(&mut self) {
        self.deliver(3);
        for stream in 0..3 {
            for response in self.shard.drain(self.streams[stream]) {
                self.clients[stream].receive(&self.shard.store, response);
            }
        }
        let store = &self.shard.store;
        for client in &self.clients {
            assert!(client.asked.is_empty(), "every request was answered");
            for known in client.watches.values().filter(|known| !known.canceled) {
                let missed = store
                    .events
                    .iter()
                    .find(|event| event.revision.main >= known.next && wanted(&known.request, event));
                assert!(missed.is_none(), "{missed:?} never came");
            }
        }
        assert_eq!(self.shard.hub.stats().watchers_behind, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_watcher_sees_its_history_once_in_order(
        seed in any::<u64>(),
        steps in proptest::collection::vec(any_step(), 1..150),
    ) {
        let mut world = World::new(seed);
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
