//! etcd's rules for watches, each by itself.

use std::sync::Arc;

use ringstone_proto::etcdserverpb::watch_create_request::FilterType;
use ringstone_proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use ringstone_proto::mvccpb::event::EventType;

use super::support::*;
use crate::event::EventBatch;
use crate::watch::HubLimits;

fn shard() -> Shard {
    Shard::new(HubLimits::default(), 0)
}

fn revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().expect("a response has a header").revision
}

#[test]
fn created_comes_first_and_events_follow_with_their_revision() {
    let mut shard = shard();
    let stream = shard.open();
    shard.put("a");
    shard.create(stream, watch("a"));
    shard.put("a");
    shard.put("b");
    shard.delete("a");
    let answers = shard.drain(stream);
    assert_eq!(answers.len(), 3);
    let header = ResponseHeader { cluster_id: 11, member_id: 22, revision: 2, raft_term: 33 };
    assert_eq!(answers[0], WatchResponse { header: Some(header), created: true, ..WatchResponse::default() });
    assert_eq!((revision(&answers[1]), keys(&answers[1..2])), (3, vec![("a".into(), 3)]));
    assert_eq!((revision(&answers[2]), keys(&answers[2..])), (5, vec![("a".into(), 5)]));
    let deleted = &answers[2].events[0];
    assert_eq!(deleted.r#type(), EventType::Delete);
    assert!(deleted.prev_kv.is_none(), "nobody asked for it");
}

#[test]
fn ids_are_counted_per_stream_and_skip_used_ones() {
    let mut shard = shard();
    let (stream, other) = (shard.open(), shard.open());
    for watch_id in [0, 2, -7, 0, 0, 2] {
        shard.create(stream, WatchCreateRequest { watch_id, ..watch("a") });
    }
    shard.create(other, watch("a"));
    let answers = shard.drain(stream);
    let ids: Vec<i64> = answers.iter().map(|answer| answer.watch_id).collect();
    assert_eq!(ids, [0, 2, -7, 1, 3, -1]);
    assert!(answers.iter().all(|answer| answer.created));
    assert_eq!(answers[5].cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    assert!(answers[5].canceled);
    assert_eq!(shard.drain(other)[0].watch_id, 0);
}

#[test]
fn refused_creations_answer_created_and_canceled_and_leave_the_stream_open() {
    let mut shard = shard();
    let stream = shard.open();
    shard.put("a");
    shard.create(stream, WatchCreateRequest { range_end: "b".into(), ..watch("b") });
    shard.create(stream, watch_from("b", -1));
    shard.hub.refuse(stream, "rpc error: code = PermissionDenied desc = etcdserver: permission denied", 2);
    shard.create(stream, watch("b"));
    let answers = shard.drain(stream);
    let reasons: Vec<&str> = answers.iter().map(|answer| answer.cancel_reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "mvcc: watcher range is empty",
            "etcdserver: mvcc: required revision has been compacted",
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ""
        ]
    );
    for refused in &answers[..3] {
        assert!(refused.created && refused.canceled);
        assert_eq!((refused.watch_id, refused.compact_revision, revision(refused)), (-1, 0, 2));
    }
    assert_eq!((answers[3].created, answers[3].canceled, answers[3].watch_id), (true, false, 0));
}

#[test]
fn ranges_are_read_as_in_etcd() {
    let mut shard = shard();
    let stream = shard.open();
    shard.create(stream, WatchCreateRequest { range_end: "c".into(), ..watch("b") });
    shard.create(stream, WatchCreateRequest { range_end: "\0".into(), ..watch("bb") });
    shard.create(stream, WatchCreateRequest { range_end: "\0".into(), ..watch("") });
    shard.create(stream, watch(""));
    for key in ["\0", "a", "b", "bb", "c"] {
        shard.put(key);
    }
    let answers = shard.drain(stream);
    let seen = |id: i64| -> Vec<String> {
        let of_one: Vec<_> = answers.iter().filter(|answer| answer.watch_id == id).cloned().collect();
        keys(&of_one).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(seen(0), ["b", "bb"]);
    assert_eq!(seen(1), ["bb", "c"]);
    assert_eq!(seen(2), ["\0", "a", "b", "bb", "c"]);
    assert_eq!(seen(3), ["\0"], "no key and no end is the one key \\0");
}

#[test]
fn a_start_in_the_past_replays_merged_with_the_current_revision() {
    let mut shard = shard();
    let stream = shard.open();
    for key in ["a", "b", "a", "a"] {
        shard.put(key);
    }
    shard.create(stream, watch_from("a", 4));
    let answers = shard.drain(stream);
    assert!(answers[0].created && answers[0].events.is_empty());
    assert_eq!(answers.len(), 2);
    assert_eq!(keys(&answers), [("a".into(), 4), ("a".into(), 5)]);
    assert_eq!(revision(&answers[1]), 5);
    shard.put("a");
    assert_eq!(keys(&shard.drain(stream)), [("a".into(), 6)]);
}

#[test]
fn a_start_in_the_future_waits_in_silence() {
    let mut shard = shard();
    let stream = shard.open();
    shard.create(stream, watch_from("a", 4));
    for _ in 0..4 {
        shard.put("a");
    }
    let answers = shard.drain(stream);
    assert!(answers[0].created);
    assert_eq!(keys(&answers), [("a".into(), 4), ("a".into(), 5)]);
}

#[test]
fn below_the_compaction_a_watch_is_created_and_then_canceled_and_its_id_stays_taken() {
    let mut shard = shard();
    let stream = shard.open();
    for _ in 0..4 {
        shard.put("a");
    }
    shard.store.compacted = 4;
    shard.create(stream, watch_from("a", 3));
    let answers = shard.drain(stream);
    assert_eq!((answers.len(), answers[0].created, answers[0].canceled), (2, true, false));
    let identity = ResponseHeader { cluster_id: 11, member_id: 22, revision: 0, raft_term: 33 };
    let canceled =
        WatchResponse { header: Some(identity), canceled: true, compact_revision: 4, ..WatchResponse::default() };
    assert_eq!(answers[1], canceled);
    shard.put("a");
    shard.hub.request_progress(stream, 6);
    shard.create(stream, WatchCreateRequest { watch_id: 5, ..watch("b") });
    shard.hub.request_progress(stream, 6);
    let answers = shard.drain(stream);
    assert_eq!(answers.len(), 1, "progress requests stay unanswered while a dead watch holds its id");
    shard.hub.cancel(stream, 0);
    shard.hub.request_progress(stream, 6);
    let answers = shard.drain(stream);
    assert!(answers[0].canceled && answers[0].compact_revision == 0 && answers[0].watch_id == 0);
    assert_eq!((answers[1].watch_id, revision(&answers[1]), answers.len()), (-1, 6, 2));
}

#[test]
fn the_compaction_revision_itself_can_be_watched_with_its_tombstone() {
    let mut shard = shard();
    let stream = shard.open();
    shard.put("a");
    shard.delete("a");
    shard.put("a");
    shard.store.compacted = 3;
    shard.create(stream, watch_from("a", 3));
    let answers = shard.drain(stream);
    assert_eq!(keys(&answers), [("a".into(), 3), ("a".into(), 4)]);
    assert_eq!(answers[1].events[0].r#type(), EventType::Delete);
}

#[test]
fn filters_and_previous_values() {
    let mut shard = shard();
    let stream = shard.open();
    shard.create(stream, WatchCreateRequest { filters: vec![FilterType::Noput as i32], prev_kv: true, ..watch("a") });
    shard.create(stream, WatchCreateRequest { filters: vec![FilterType::Nodelete as i32, 9], ..watch("a") });
    shard.create(stream, WatchCreateRequest { prev_kv: true, ..watch("a") });
    shard.drain(stream);
    shard.put("a");
    shard.put("a");
    shard.delete("a");
    let answers = shard.drain(stream);
    let of =
        |id: i64| -> Vec<WatchResponse> { answers.iter().filter(|answer| answer.watch_id == id).cloned().collect() };
    assert_eq!(keys(&of(0)), [("a".into(), 4)]);
    assert_eq!(keys(&of(1)), [("a".into(), 2), ("a".into(), 3)]);
    assert!(of(1).iter().all(|answer| answer.events[0].prev_kv.is_none()));
    let previous: Vec<Option<i64>> =
        of(2).iter().map(|answer| answer.events[0].prev_kv.as_ref().map(|kv| kv.mod_revision)).collect();
    assert_eq!(previous, [None, Some(2), Some(3)]);
    let deleted = &of(2)[2].events[0];
    let kv = deleted.kv.as_ref().expect("a delete has a kv");
    assert_eq!((kv.version, kv.create_revision, kv.value.len(), kv.mod_revision), (0, 0, 0, 4));
    assert!(!of(0).is_empty() && of(0)[0].events[0].prev_kv.is_some());
}

#[test]
fn all_events_of_a_revision_come_in_one_response() {
    let mut shard = shard();
    let stream = shard.open();
    shard.create(stream, watch_all());
    shard.drain(stream);
    let changes: Vec<Change> = (0..100).map(|number: u8| Change::Put(vec![b'k', number], 100)).collect();
    shard.commit(&changes);
    let answers = shard.drain(stream);
    assert_eq!((answers.len(), answers[0].events.len(), revision(&answers[0])), (1, 100, 2));
    // Larger than a queue and than a window, so that it has to come from the log, and more than is handed out live.
    let changes: Vec<Change> = (0..=200).map(|number: u8| Change::Put(vec![b'k', number], 5000)).collect();
    shard.commit(&changes);
    let answers = shard.drain(stream);
    assert_eq!((answers.len(), answers[0].events.len(), revision(&answers[0])), (1, 201, 3));
    assert!(!answers[0].fragment);
}

#[test]
fn fragments_are_cut_by_events_and_marked_but_for_the_last() {
    let limits = HubLimits { fragment_bytes: 1000, ..HubLimits::default() };
    let mut shard = Shard::new(limits, 0);
    let stream = shard.open();
    shard.create(stream, WatchCreateRequest { fragment: true, ..watch_all() });
    shard.create(stream, watch_all());
    shard.drain(stream);
    let mut changes: Vec<Change> = (0..9_u8).map(|number| Change::Put(vec![b'k', number], 200)).collect();
    changes.push(Change::Put(b"large".to_vec(), 5000));
    shard.commit(&changes);
    let answers = shard.drain(stream);
    let (parts, whole): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.watch_id == 0);
    assert_eq!((whole.len(), whole[0].events.len(), whole[0].fragment), (1, 10, false));
    let counts: Vec<usize> = parts.iter().map(|part| part.events.len()).collect();
    assert_eq!(counts, [4, 4, 1, 1]);
    assert_eq!(parts.iter().map(|part| part.fragment).collect::<Vec<_>>(), [true, true, true, false]);
    for part in parts.iter().filter(|part| part.events.len() > 1) {
        assert!(prost::Message::encoded_len(part) < 1000);
    }
    assert_eq!(keys(&parts), keys(&whole));
    shard.put("k");
    assert!(shard.drain(stream).iter().all(|answer| !answer.fragment), "what is small is not split");
}

#[test]
fn cancel_answers_once_and_an_unknown_id_not_at_all() {
    let mut shard = shard();
    let stream = shard.open();
    shard.create(stream, watch("a"));
    shard.put("a");
    shard.hub.cancel(stream, 0);
    shard.hub.cancel(stream, 0);
    shard.hub.cancel(stream, 8);
    shard.put("a");
    let answers = shard.drain(stream);
    let canceled = &answers[2];
    assert_eq!(answers.len(), 3);
    assert!(canceled.canceled && !canceled.created && canceled.cancel_reason.is_empty());
    assert_eq!((canceled.watch_id, canceled.compact_revision, revision(canceled)), (0, 0, 2));
    shard.create(stream, WatchCreateRequest { watch_id: 8, ..watch("a") });
    shard.put("a");
    assert_eq!(keys(&shard.drain(stream)), [("a".into(), 4)]);
}

#[test]
fn manual_progress_needs_every_watch_in_step() {
    let mut shard = shard();
    let stream = shard.open();
    shard.hub.request_progress(stream, 1);
    assert!(shard.drain(stream).is_empty(), "a stream without watches gets no answer");
    shard.create(stream, watch("a"));
    shard.create(stream, watch_from("b", 3));
    shard.drain(stream);
    shard.hub.request_progress(stream, 1);
    assert!(shard.drain(stream).is_empty(), "a watch in the future holds it back");
    shard.put("x");
    shard.hub.request_progress(stream, 2);
    assert!(shard.drain(stream).is_empty());
    shard.put("b");
    shard.hub.request_progress(stream, 3);
    let answers = shard.drain(stream);
    assert_eq!(keys(&answers), [("b".into(), 3)]);
    let progress = &answers[1];
    assert_eq!((progress.watch_id, revision(progress), progress.events.len()), (-1, 3, 0));
    assert!(!progress.created && !progress.canceled);
}

/// A watcher that reads the log is not vouched for, also when the request comes while it does.
#[test]
fn manual_progress_is_silent_while_a_watch_reads_the_log() {
    let limits = HubLimits { recent_bytes: 0, ..HubLimits::default() };
    let mut shard = Shard::new(limits, 0);
    let stream = shard.open();
    for _ in 0..5 {
        shard.put("a");
    }
    shard.create(stream, watch_from("a", 2));
    shard.hub.request_progress(stream, 6);
    let answers = shard.drain(stream);
    assert!(answers.iter().all(|answer| answer.watch_id == 0));
    shard.hub.request_progress(stream, 6);
    assert_eq!(shard.drain(stream)[0].watch_id, -1);
}

#[test]
fn manual_progress_waits_for_what_was_published_and_for_a_momentary_lag() {
    let limits = HubLimits { queue_bytes: 200, ..HubLimits::default() };
    let mut shard = Shard::new(limits, 0);
    let stream = shard.open();
    shard.create(stream, watch("a"));
    shard.drain(stream);
    let batch: EventBatch = Arc::from(shard.store.put("a"));
    shard.hub.request_progress(stream, 2);
    assert!(shard.drain(stream).is_empty(), "revision 2 is published but not delivered");
    shard.hub.deliver(1, &batch, 2);
    let answers = shard.drain(stream);
    assert_eq!((keys(&answers), answers[1].watch_id, revision(&answers[1])), (vec![("a".into(), 2)], -1, 2));
    for _ in 0..9 {
        shard.put("a");
    }
    shard.hub.request_progress(stream, 11);
    assert!(shard.hub.stats().watchers_behind == 1, "the queue is full by now");
    let answers = shard.drain(stream);
    assert_eq!(keys(&answers).len(), 9);
    let last = answers.last().expect("there are answers");
    assert_eq!((last.watch_id, revision(last)), (-1, 11), "owed, and paid behind the events");
}

#[test]
fn a_creation_waits_until_the_published_revision_is_delivered() {
    let mut shard = shard();
    let stream = shard.open();
    let batch: EventBatch = Arc::from(shard.store.put("a"));
    shard.create(stream, watch("a"));
    shard.hub.cancel(stream, 0);
    shard.create(stream, watch("a"));
    assert!(shard.drain(stream).is_empty());
    shard.hub.deliver(1, &batch, 2);
    shard.put("a");
    let answers = shard.drain(stream);
    assert_eq!(answers.iter().map(revision).collect::<Vec<_>>(), [2, 2, 2, 3]);
    assert_eq!(keys(&answers), [("a".into(), 3)], "the write before the creation is not shown");
    assert!(answers[0].created && answers[1].canceled && answers[2].created && answers[2].watch_id == 1);
}

#[test]
fn idle_watches_get_progress_at_their_interval() {
    let limits = HubLimits { progress_interval_ms: 1000, ..HubLimits::default() };
    let mut shard = Shard::new(limits, 0);
    let stream = shard.open();
    shard.hub.tick(5000);
    let wanted = |key: &str| WatchCreateRequest { progress_notify: true, ..watch(key) };
    shard.create(stream, wanted("a"));
    shard.create(stream, watch("a"));
    shard.create(stream, wanted("b"));
    shard.create(stream, WatchCreateRequest { start_revision: 9, ..wanted("a") });
    shard.drain(stream);
    shard.hub.tick(5999);
    assert!(shard.drain(stream).is_empty(), "the interval starts with the first watch that wants it");
    shard.put("b");
    shard.drain(stream);
    shard.hub.tick(6000);
    let answers = shard.drain(stream);
    assert_eq!(answers.len(), 1, "b had an event, one watch did not ask, one is in the future");
    assert_eq!((answers[0].watch_id, revision(&answers[0]), answers[0].events.len()), (0, 2, 0));
    shard.hub.tick(7000);
    let ids: Vec<i64> = shard.drain(stream).iter().map(|answer| answer.watch_id).collect();
    assert_eq!(ids, [0, 2]);
    for id in [0, 2, 3] {
        shard.hub.cancel(stream, id);
    }
    shard.hub.tick(9000);
    shard.create(stream, wanted("c"));
    shard.hub.tick(9900);
    assert_eq!(shard.drain(stream).len(), 4, "three cancels, one creation");
    shard.hub.tick(10_000);
    assert_eq!(shard.drain(stream).len(), 1);
}

#[test]
fn progress_ticks_do_not_fill_a_stream_that_nobody_reads() {
    let limits = HubLimits { progress_interval_ms: 100, ..HubLimits::default() };
    let mut shard = Shard::new(limits, 0);
    let stream = shard.open();
    for _ in 0..50 {
        shard.create(stream, WatchCreateRequest { progress_notify: true, ..watch("a") });
    }
    for tick in 1..10_000 {
        shard.hub.tick(tick * 100);
    }
    assert!(shard.hub.stats().answers_pending_bytes <= limits.queue_bytes + 200);
    assert!(!shard.hub.wants_requests(stream));
    shard.drain(stream);
    assert!(shard.hub.wants_requests(stream));
}

#[test]
fn a_stalled_stream_loses_nothing_and_blocks_nobody() {
    let mut shard = shard();
    let (stalled, reading) = (shard.open(), shard.open());
    shard.create(stalled, watch_all());
    shard.create(reading, watch_all());
    shard.drain(reading);
    for number in 0..5000 {
        shard.put(&format!("key{number}"));
        assert_eq!(keys(&shard.drain(reading)).len(), 1, "the other stream is up to date");
    }
    let stats = shard.hub.stats();
    assert!(stats.answers_pending_bytes <= HubLimits::default().queue_bytes);
    assert_eq!(stats.watchers_behind, 1);
    let answers = shard.drain(stalled);
    let revisions: Vec<i64> = keys(&answers).iter().map(|(_, revision)| *revision).collect();
    assert_eq!(revisions, (2..=5001).collect::<Vec<i64>>());
}

#[test]
fn a_slow_watcher_that_compaction_overtakes_is_canceled_with_the_revision() {
    let limits = HubLimits { queue_bytes: 300, recent_bytes: 0, ..HubLimits::default() };
    let mut shard = Shard::new(limits, 0);
    let (stream, idle) = (shard.open(), shard.open());
    shard.create(stream, watch("a"));
    shard.create(idle, watch("z"));
    shard.drain(stream);
    shard.drain(idle);
    for _ in 0..20 {
        shard.put("a");
    }
    shard.store.compacted = 20;
    let answers = shard.drain(stream);
    let last = answers.last().expect("there are answers");
    assert!(last.canceled && last.compact_revision == 20 && revision(last) == 0);
    let seen = keys(&answers);
    assert!(!seen.is_empty() && seen.len() < 20, "what was queued still came: {}", seen.len());
    shard.put("z");
    assert_eq!(keys(&shard.drain(idle)), [("z".into(), 22)], "a watcher without events is not slow");
}

#[test]
fn holes_and_gaps_are_filled_from_the_log() {
    let mut shard = shard();
    let stream = shard.open();
    shard.create(stream, watch("a"));
    shard.create(stream, watch_from("a", 4));
    shard.create(stream, watch_from("a", 9));
    shard.drain(stream);
    shard.store.put("a");
    shard.store.put("a");
    shard.put("a");
    let answers = shard.drain(stream);
    let of = |id: i64| -> Vec<i64> {
        let of_one: Vec<_> = answers.iter().filter(|answer| answer.watch_id == id).cloned().collect();
        keys(&of_one).into_iter().map(|(_, revision)| revision).collect()
    };
    assert_eq!((of(0), of(1)), (vec![2, 3, 4], vec![4]));
    let missed: EventBatch = Arc::from(shard.store.put("a"));
    shard.hub.gap(5);
    shard.hub.deliver(4, &missed, 5);
    assert_eq!(shard.hub.delivered(), 5);
    assert_eq!(keys(&shard.drain(stream)), [("a".into(), 5), ("a".into(), 5)]);
}

#[test]
fn closing_a_stream_leaves_nothing_behind() {
    let mut shard = shard();
    let (stream, other) = (shard.open(), shard.open());
    for id in 1..50 {
        let request = WatchCreateRequest { watch_id: id, progress_notify: true, start_revision: id, ..watch_all() };
        shard.create(stream, request);
    }
    shard.create(other, watch("a"));
    shard.hub.close_stream(stream);
    shard.hub.close_stream(stream);
    assert_eq!(shard.hub.poll_output(stream, 1000), None);
    shard.create(stream, watch("a"));
    shard.hub.tick(10_000_000);
    shard.put("a");
    let reused = shard.open();
    assert!(shard.drain(reused).is_empty());
    assert_eq!(shard.drain(other).len(), 2);
    assert_eq!((shard.hub.stats().streams, shard.hub.stats().watchers), (2, 1));
}

#[test]
fn a_writer_is_woken_once_for_what_it_waits_for() {
    let mut shard = shard();
    let stream = shard.open();
    shard.create(stream, watch("a"));
    assert!(shard.hub.take_ready().is_empty(), "nobody waits yet");
    shard.drain(stream);
    shard.put("b");
    assert!(shard.hub.take_ready().is_empty());
    shard.put("a");
    shard.put("a");
    assert_eq!(shard.hub.take_ready(), [stream]);
    assert!(shard.hub.take_ready().is_empty());
}

#[test]
fn large_values_are_handed_over_without_a_copy() {
    let mut shard = shard();
    let (one, two) = (shard.open(), shard.open());
    for stream in [one, two] {
        shard.create(stream, watch("a"));
        shard.drain(stream);
    }
    shard.commit(&[Change::Put(b"a".to_vec(), 100_000)]);
    let first = shard.hub.poll_output(one, 1000).expect("there is an event");
    let second = shard.hub.poll_output(two, 1000).expect("there is an event");
    assert_eq!(first.pieces.len(), 2);
    assert_eq!(first.pieces[1].as_ptr(), second.pieces[1].as_ptr());
    assert_eq!(keys(&decode(&first)), [("a".into(), 2)]);
}
