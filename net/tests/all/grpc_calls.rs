//! Calls from start to end: messages, flow control, deadlines, resets, shutdown.

use crate::common::*;
use ringstone_net::client::CallOptions;
use ringstone_net::*;
use ringstone_proto::etcdserverpb::{
    RangeRequest, RangeResponse, SnapshotRequest, SnapshotResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};
use std::time::Duration;

fn key(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn create(key: &str) -> WatchRequest {
    let create = WatchCreateRequest { key: key.to_owned().into(), ..Default::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

fn timeout(millis: u64) -> CallOptions {
    CallOptions { timeout: Some(Duration::from_millis(millis)), ..Default::default() }
}

#[test]
fn many_calls_at_once_each_get_their_answer() {
    run(async {
        let (harness, client) = Harness::client(Limits::default()).await;
        let calls = (0..200usize).map(|number| {
            let client = client.clone();
            async move {
                let request = RangeRequest { limit: (number * 100) as i64, ..key("big") };
                let response: RangeResponse =
                    client.unary(Method::KvRange, &request, &CallOptions::default()).await.expect("an answer");
                assert_eq!(response.count, (number * 100) as i64);
                let response: RangeResponse =
                    client.unary(Method::KvRange, &key("yield"), &CallOptions::default()).await.expect("an answer");
                assert_eq!(response.count, 1);
            }
        });
        futures_util::future::join_all(calls).await;
        let counters = harness.metrics.snapshot();
        assert_eq!(counters.started[Method::KvRange as usize], 400);
        assert_eq!(counters.handled[Method::KvRange as usize][Code::Ok as usize], 400);
        assert_eq!(counters.connections_opened - counters.connections_closed, 1);
        assert!(counters.sent_bytes > (0..200).map(|number| number * 100).sum());
    });
}

#[test]
fn a_message_with_a_shared_tail() {
    run(async {
        let (_harness, client) = Harness::client(Limits::default()).await;
        for bytes in [10, 5000, 3_000_000] {
            let request = RangeRequest { limit: bytes, ..key("tail") };
            let response: RangeResponse =
                client.unary(Method::KvRange, &request, &CallOptions::default()).await.expect("an answer");
            assert!(response.more);
            assert_eq!((response.count, response.kvs[0].value.len()), (bytes, bytes as usize));
        }
    });
}

#[test]
fn a_server_stream() {
    run(async {
        let (_harness, client) = Harness::client(Limits::default()).await;
        let opened = client.open::<SnapshotResponse>(Method::MaintenanceSnapshot, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        requests.send(&SnapshotRequest {}).await.expect("sent");
        requests.finish();
        for remaining in [2, 1, 0] {
            let response = responses.next().await.expect("no error").expect("a message");
            assert_eq!((response.remaining_bytes, response.blob.len()), (remaining, 100_000));
        }
        assert_eq!(responses.next().await, Ok(None));
    });
}

#[test]
fn a_server_stream_without_a_request() {
    run(async {
        let (_harness, client) = Harness::client(Limits::default()).await;
        let opened = client.open::<SnapshotResponse>(Method::MaintenanceSnapshot, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        requests.finish();
        assert_eq!(responses.next().await, Err(Status::new(Code::Unknown, "EOF")));
    });
}

#[test]
fn a_bidirectional_stream_until_half_close() {
    run(async {
        let (harness, client) = Harness::client(Limits::default()).await;
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        for watch_id in 1..=3 {
            requests.send(&create("k")).await.expect("sent");
            let response = responses.next().await.expect("no error").expect("a message");
            assert_eq!(response.watch_id, watch_id);
        }
        assert_eq!(harness.handler.waiting.get(), 1);
        requests.finish();
        assert_eq!(responses.next().await, Ok(None));
        assert_eq!(harness.handler.waiting.get(), 0);
        assert_eq!(harness.metrics.snapshot().handled[Method::Watch as usize][Code::Ok as usize], 1);
    });
}

#[test]
fn a_stream_that_is_cut_short_ends_with_an_error() {
    run(async {
        let (_harness, stream) = Harness::start(Limits::default());
        let mut client = RawClient::connect(stream).await;
        let answer = client.call(request("/etcdserverpb.Watch/Watch", &[GRPC]), &[&[0, 0, 0, 0, 9, 1]]).await;
        assert_eq!(answer.status(), (13, "unexpected EOF".to_owned()));
    });
}

#[test]
fn a_reset_drops_the_handler() {
    run(async {
        let (harness, client) = Harness::client(Limits::default()).await;
        let waiting = {
            let client = client.clone();
            tokio::task::spawn_local(async move {
                client.unary::<_, RangeResponse>(Method::KvRange, &key("wait"), &CallOptions::default()).await
            })
        };
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        requests.send(&create("k")).await.expect("sent");
        responses.next().await.expect("no error").expect("a message");
        assert_eq!(harness.handler.waiting.get(), 2);

        waiting.abort();
        harness.settle().await;
        assert_eq!(harness.handler.waiting.get(), 1, "the unary handler is gone");
        drop((requests, responses));
        harness.settle().await;
        assert_eq!(harness.handler.waiting.get(), 0, "the stream's handler is gone");
        let handled = harness.metrics.snapshot().handled;
        assert_eq!(handled[Method::KvRange as usize][Code::Canceled as usize], 1);
        assert_eq!(handled[Method::Watch as usize][Code::Canceled as usize], 1);
    });
}

#[test]
fn a_lost_connection_drops_the_handlers() {
    run(async {
        let (harness, stream) = Harness::start(Limits::default());
        let client = RawClient::connect(stream).await;
        let mut send = client.send.clone();
        let (_response, mut stream) = send.send_request(request(RANGE, &[GRPC]), false).expect("sent");
        stream.send_data(frame(0, &range("wait")).into(), true).expect("sent");
        harness.settle().await;
        assert_eq!(harness.handler.waiting.get(), 1);
        client.connection.abort();
        drop((send, stream, client.send));
        harness.settle().await;
        assert_eq!(harness.handler.waiting.get(), 0);
        assert!(harness.ended.is_finished());
        let counters = harness.metrics.snapshot();
        assert_eq!(counters.handled[Method::KvRange as usize][Code::Canceled as usize], 1);
        assert_eq!(counters.connections_closed, 1);
    });
}

#[test]
fn a_deadline_ends_the_call_on_the_server() {
    run(async {
        let (harness, stream) = Harness::start(Limits::default());
        let mut client = RawClient::connect(stream).await;
        for (path, key) in [(RANGE, frame(0, &range("wait"))), ("/etcdserverpb.Watch/Watch", Vec::new())] {
            let started = std::time::Instant::now();
            let mut send = client.send.clone().ready().await.expect("open");
            let (response, mut stream) =
                send.send_request(request(path, &[GRPC, ("grpc-timeout", "50m")]), false).expect("sent");
            stream.send_data(key.into(), false).expect("sent");
            harness.settle().await;
            assert_eq!(harness.handler.waiting.get(), 1);
            let response = response.await.expect("an answer");
            assert!(started.elapsed() >= Duration::from_millis(50));
            assert_eq!(response.headers()["grpc-status"], "4");
            assert_eq!(response.headers()["grpc-message"], "context deadline exceeded");
            assert_eq!(harness.handler.waiting.get(), 0);
        }
        let answer = client.call(request(RANGE, &[GRPC, ("grpc-timeout", "0n")]), &[&frame(0, &range("wait"))]).await;
        assert_eq!(answer.status(), (4, "context deadline exceeded".to_owned()));
        // The deadline also holds while the message is awaited.
        let mut send = client.send.clone().ready().await.expect("open");
        let (response, _stream) =
            send.send_request(request(RANGE, &[GRPC, ("grpc-timeout", "10m")]), false).expect("sent");
        assert_eq!(response.await.expect("an answer").headers()["grpc-status"], "4");
    });
}

#[test]
fn the_client_keeps_its_deadline_too() {
    run(async {
        let (_harness, client) = Harness::client(Limits::default()).await;
        let result = client.unary::<_, RangeResponse>(Method::KvRange, &key("wait"), &timeout(20)).await;
        assert_eq!(result, Err(Status::DEADLINE_EXCEEDED));
        let result = client.unary::<_, RangeResponse>(Method::KvRange, &key("soon"), &timeout(20_000)).await;
        assert_eq!(result.map(|response| response.count), Ok(4));
    });
}

#[test]
fn a_slow_reader_blocks_only_its_own_stream_and_within_bounds() {
    run(async {
        let limits = Limits { sink_bytes_max: 50_000, stream_send_bytes_max: 100_000, ..Limits::default() };
        let (harness, client) = Harness::client(limits).await;
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        requests.send(&create("flood")).await.expect("sent");
        // Another call goes on.
        for _ in 0..100 {
            let response = client.unary::<_, RangeResponse>(Method::KvRange, &key("k"), &CallOptions::default()).await;
            assert_eq!(response.map(|response| response.count), Ok(1));
        }
        harness.settle().await;
        let sent = harness.handler.flood_sent.get();
        // The client's window (1 MiB), what the pipe holds, HTTP/2's share and the sink's.
        let bound = (1 << 20) + (256 << 10) + 100_000 + 50_000 + 20_000;
        assert!(sent * 10_000 < bound, "{sent} messages of 10 000 bytes are buffered");
        assert!(sent * 10_000 > 1 << 20, "{sent} messages of 10 000 bytes are buffered");
        harness.settle().await;
        assert_eq!(harness.handler.flood_sent.get(), sent, "the handler waits");
        // When the client reads, it goes on, and nothing is lost.
        for _ in 0..2 * sent {
            let response = responses.next().await.expect("no error").expect("a message");
            assert_eq!(response.cancel_reason.len(), 10_000);
        }
        assert!(harness.handler.flood_sent.get() >= 2 * sent);
    });
}

#[test]
fn a_sink_in_other_hands_sends_and_ends_with_its_call() {
    run(async {
        let (harness, client) = Harness::client(Limits::default()).await;
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        requests.send(&create("keep")).await.expect("sent");
        responses.next().await.expect("no error").expect("a message");
        let sink = harness.handler.sink.take().expect("kept");
        // Two messages in pieces that know nothing of their bounds.
        let framed = frame(0, &prost::Message::encode_to_vec(&WatchResponse { watch_id: 7, ..Default::default() }));
        let framed = bytes::Bytes::from([&framed[..], &framed[..]].concat());
        let pieces = [framed.slice(..3), framed.slice(3..3), framed.slice(3..8), framed.slice(8..)];
        let pieces = Framed::from_pieces(pieces, 2);
        assert_eq!(pieces.message_bytes(), framed.len() - 10);
        sink.send(pieces).await.expect("open");
        for _ in 0..2 {
            assert_eq!(responses.next().await.expect("no error").expect("a message").watch_id, 7);
        }
        // More than the client's window, without its handler ever being polled.
        let large = WatchResponse { cancel_reason: "l".repeat(700_000), ..Default::default() };
        for _ in 0..3 {
            sink.send(Framed::encode(&large)).await.expect("open");
            let response = responses.next().await.expect("no error").expect("a message");
            assert_eq!(response, large);
        }
        let mut filled = 0;
        while sink.try_send(Framed::encode(&large)).is_ok() {
            filled += 1;
        }
        assert!((1..5).contains(&filled), "{filled} large messages taken");
        assert!(matches!(sink.try_send(Framed::encode(&large)), Err(SinkError::Full(_))));
        for _ in 0..filled {
            assert_eq!(responses.next().await.expect("no error").expect("a message"), large);
        }
        assert!(sink.has_room() && !sink.is_closed());
        requests.finish();
        assert_eq!(responses.next().await, Ok(None));
        assert!(sink.is_closed());
        assert!(matches!(sink.send(Framed::encode(&large)).await, Err(SinkError::Closed)));
    });
}

#[test]
fn unread_responses_of_a_connection_are_bounded() {
    run(async {
        let limits = Limits { connection_outgoing_bytes_max: 3_000_000, ..Limits::default() };
        let (harness, stream) = Harness::start(limits);
        let client = RawClient::connect(stream).await;
        let mut open = Vec::new();
        let big = prost::Message::encode_to_vec(&RangeRequest { limit: 1_000_000, ..key("big") });
        for _ in 0..10 {
            let mut send = client.send.clone().ready().await.expect("open");
            let (response, mut stream) = send.send_request(request(RANGE, &[GRPC]), false).expect("sent");
            stream.send_data(frame(0, &big).into(), true).expect("sent");
            harness.settle().await;
            open.push(response);
        }
        let mut refused = 0;
        let mut bodies = Vec::new();
        for response in open {
            let response = response.await.expect("an answer");
            match response.headers().get("grpc-status") {
                Some(code) => {
                    assert_eq!(code, "8");
                    refused += 1;
                }
                None => bodies.push(response.into_body()),
            }
        }
        assert!((5..8).contains(&refused), "{refused} of 10 refused");
        // Reading frees the room.
        for (data, _) in futures_util::future::join_all(bodies.into_iter().map(read_all)).await {
            assert!(data.len() > 1_000_000);
        }
        let mut client = client;
        assert_eq!(client.call(request(RANGE, &[GRPC]), &[&frame(0, &big)]).await.status().0, 0);
    });
}

#[test]
fn incomplete_requests_of_a_connection_are_bounded() {
    run(async {
        let limits = Limits { connection_incoming_bytes_max: 110_000, ..Limits::default() };
        let (harness, stream) = Harness::start(limits);
        let client = RawClient::connect(stream).await;
        let mut open = Vec::new();
        for _ in 0..4 {
            let mut send = client.send.clone().ready().await.expect("open");
            let (response, mut stream) = send.send_request(request(RANGE, &[GRPC]), false).expect("sent");
            let part = [&[0, 0, 0, 0x75, 0x94][..], &[1; 30_000]].concat(); // of 30 100
            stream.send_data(part.into(), false).expect("sent");
            harness.settle().await;
            open.push((response, stream));
        }
        let (response, _) = open.pop().expect("four");
        assert_eq!(response.await.expect("an answer").headers()["grpc-status"], "8");
        // The others may go on.
        let (response, mut stream) = open.pop().expect("three");
        stream.send_data(vec![1; 100].into(), true).expect("sent");
        assert_eq!(response.await.expect("an answer").headers()["grpc-status"], "13");
    });
}

#[test]
fn a_shutdown_answers_what_is_in_flight() {
    run(async {
        let (mut harness, client) = Harness::client(Limits::default()).await;
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        requests.send(&create("k")).await.expect("sent");
        responses.next().await.expect("no error").expect("a message");
        harness.ask_shutdown();
        harness.settle().await;
        // No new calls.
        let refused = client.unary::<_, RangeResponse>(Method::KvRange, &key("k"), &CallOptions::default()).await;
        assert_eq!(refused.expect_err("going away").code, Code::Unavailable);
        // The open one goes on to its end.
        requests.send(&create("k")).await.expect("sent");
        assert_eq!(responses.next().await.expect("no error").expect("a message").watch_id, 2);
        assert!(!harness.ended.is_finished());
        requests.finish();
        assert_eq!(responses.next().await, Ok(None));
        let end = harness.ended.await.expect("no panic");
        assert!(matches!(end, ConnectionEnd::Closed), "{end:?}");
    });
}

#[test]
fn a_shutdown_does_not_wait_for_ever() {
    run(async {
        let limits = Limits { shutdown_grace: Duration::from_millis(50), ..Limits::default() };
        let (mut harness, client) = Harness::client(limits).await;
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.expect("open");
        requests.send(&create("k")).await.expect("sent");
        responses.next().await.expect("no error").expect("a message");
        harness.ask_shutdown();
        assert_eq!(responses.next().await.expect_err("cut").code, Code::Unavailable);
        let end = harness.ended.await.expect("no panic");
        assert!(matches!(end, ConnectionEnd::ShutdownForced), "{end:?}");
        assert_eq!(harness.handler.waiting.get(), 0);
    });
}
