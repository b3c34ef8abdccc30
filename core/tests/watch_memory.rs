//! 10 000 stalled watchers on 100 streams cost at most 16 MiB, whatever is written meanwhile: counted at the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ringstone_core::event::{Event, EventBatch, EventKind, Revision};
use ringstone_core::watch::{Hub, HubLimits, MemberIdentity, Output, StreamId};
use ringstone_proto::etcdserverpb::WatchCreateRequest;
use ringstone_proto::mvccpb::KeyValue;

const STREAMS: usize = 100;
const WATCHERS_EACH: usize = 100;
const BOUND_BYTES: usize = 16 << 20;

/// Counts what is allocated. One test in this file: nothing else runs beside it.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let live = LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK_BYTES.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator with the caller's own arguments; counting touches only atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `pointer` and `layout` is passed on as it is.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn key(stream: usize, watcher: usize) -> Bytes {
    Bytes::from(format!("/registry/pods/namespace-{stream:03}/some-deployment-{watcher:05}"))
}

/// A third each of single keys, prefixes and everything.
fn request(stream: usize, watcher: usize) -> WatchCreateRequest {
    let mut request = WatchCreateRequest { key: key(stream, watcher), prev_kv: true, ..WatchCreateRequest::default() };
    match watcher % 3 {
        0 => {}
        1 => request.range_end = Bytes::from(format!("/registry/pods/namespace-{stream:03}/t")),
        _ => (request.key, request.range_end) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
    }
    request
}

fn batch(first: i64, events: usize, value_bytes: usize) -> EventBatch {
    (0..events)
        .map(|number| {
            let main = first + number as i64;
            let key = key(main as usize % STREAMS, main as usize / STREAMS % WATCHERS_EACH);
            let value = Bytes::from(vec![b'v'; value_bytes]);
            let kv = KeyValue { key, value, mod_revision: main, create_revision: 2, version: main, lease: 0 };
            let prev_kv = Some(KeyValue { mod_revision: main - 1, ..kv.clone() });
            Event { revision: Revision { main, sub: 0 }, kind: EventKind::Put, kv, prev_kv }
        })
        .collect::<Vec<Event>>()
        .into()
}

#[test]
fn ten_thousand_stalled_watchers_fit_in_16_mib() {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let mut hub = Hub::new(HubLimits::default(), MemberIdentity::default(), 1);
    let streams: Vec<StreamId> = (0..STREAMS).map(|_| hub.open_stream(0, 0)).collect();
    for (number, &stream) in streams.iter().enumerate() {
        for watcher in 0..WATCHERS_EACH {
            hub.create(stream, request(number, watcher), 1, 0);
            // A client that reads the answers to its requests, up to here.
            while hub.poll_output(stream, 16 << 10).is_some() {}
        }
    }
    let idle = LIVE_BYTES.load(Ordering::Relaxed) - before;
    PEAK_BYTES.store(LIVE_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);

    // From here on each writer sends once more and is then stuck with what it took.
    let mut stuck: Vec<Option<Output>> = vec![None; STREAMS];
    let mut revision = 1;
    for round in 0..400 {
        let value_bytes = [100, 1000, 8000, 60_000][round % 4];
        let events = 25;
        let batch: EventBatch = Arc::clone(&batch(revision + 1, events, value_bytes));
        hub.deliver(revision, &batch, revision + events as i64);
        revision += events as i64;
        for (writer, &stream) in stuck.iter_mut().zip(&streams) {
            if writer.is_none() {
                *writer = hub.poll_output(stream, 16 << 10);
            }
        }
    }
    let stats = hub.stats();
    let stalled = LIVE_BYTES.load(Ordering::Relaxed) - before;
    let peak = PEAK_BYTES.load(Ordering::Relaxed) - before;
    println!("idle {idle} bytes, stalled {stalled}, peak with the batches {peak}; {stats:?}");
    assert_eq!((stats.streams, stats.watchers), (STREAMS, STREAMS * WATCHERS_EACH));
    assert!(stats.watchers_behind > STREAMS * WATCHERS_EACH * 9 / 10, "they are stalled: {stats:?}");
    assert!(peak <= BOUND_BYTES, "{peak} bytes");
}
