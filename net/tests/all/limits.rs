//! Clients that want too much of one connection.

use crate::common::*;
use proptest::prelude::*;
use ringstone_net::*;
use ringstone_proto::etcdserverpb::RangeRequest;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

const PING: u8 = 6;
const GO_AWAY: u8 = 7;

async fn read_frame(stream: &mut DuplexStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

/// Reads frames up to a GOAWAY: its error code and text.
async fn go_away(stream: &mut DuplexStream) -> Option<(u32, Vec<u8>)> {
    loop {
        let (kind, _, payload) = read_frame(stream).await?;
        if kind == GO_AWAY {
            let code = u32::from_be_bytes([payload[4], payload[5], payload[6], payload[7]]);
            return Some((code, payload[8..].to_vec()));
        }
    }
}

async fn greet(stream: &mut DuplexStream) {
    stream.write_all(PREFACE).await.expect("sent");
    stream.write_all(&raw_frame(4, 0, 0, b"")).await.expect("sent");
}

#[test]
fn too_many_pings_are_told_so() {
    run(async {
        let (harness, mut stream) = Harness::start(Limits::default());
        greet(&mut stream).await;
        for _ in 0..4 {
            stream.write_all(&raw_frame(PING, 0, 0, b"whatever")).await.expect("sent");
            harness.settle().await;
        }
        assert_eq!(go_away(&mut stream).await, Some((11, b"too_many_pings".to_vec())));
        drop(stream);
        let end = harness.ended.await.expect("no panic");
        assert!(matches!(end, ConnectionEnd::TooManyPings), "{end:?}");
    });
}

#[test]
fn pings_in_their_time_and_after_answers_are_fine() {
    run(async {
        let limits = Limits { keepalive_min_time: Duration::from_millis(5), ..Limits::default() };
        let (harness, stream) = Harness::start(limits);
        let (send, mut connection) = h2::client::handshake(stream).await.expect("handshake");
        let mut pings = connection.ping_pong().expect("asked once");
        let connection = tokio::task::spawn_local(connection);
        let mut client = RawClient { send, connection };
        // Each after an answer: no strike, however fast.
        for _ in 0..20 {
            let answer = client.call(request(RANGE, &[GRPC]), &[&frame(0, &range("k"))]).await;
            assert_eq!(answer.status().0, 0);
            pings.ping(h2::Ping::opaque()).await.expect("answered");
        }
        // With an open call, slower than the minimum.
        let mut send = client.send.clone();
        let (_response, _stream) =
            send.send_request(request("/etcdserverpb.Watch/Watch", &[GRPC]), false).expect("sent");
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(8)).await;
            pings.ping(h2::Ping::opaque()).await.expect("answered");
        }
        assert!(!harness.ended.is_finished());
    });
}

/// A long answer waits for its reader, and the handler hears for how long.
#[test]
fn a_slow_reader_is_told_from_a_slow_handler() {
    run(async {
        let (harness, stream) = Harness::start(Limits::default());
        let mut client = RawClient::connect(stream).await;
        for pause in [Duration::ZERO, Duration::from_millis(50)] {
            let big = prost::Message::encode_to_vec(&RangeRequest {
                key: "big".into(),
                limit: 3_000_000,
                ..Default::default()
            });
            let mut send = client.send.clone().ready().await.expect("open");
            let (response, mut stream) = send.send_request(request(RANGE, &[GRPC]), false).expect("sent");
            stream.send_data(frame(0, &big).into(), true).expect("sent");
            let body = response.await.expect("a response").into_body();
            tokio::time::sleep(pause).await;
            let (data, trailers) = read_all(body).await;
            assert!(data.len() > 3_000_000 && trailers.is_some());
            harness.settle().await;
            let end = harness.handler.ended.borrow_mut().pop().expect("it has ended");
            assert_eq!((end.code, end.response_bytes + 5), (Code::Ok, data.len()));
            assert!(end.client >= pause, "{end:?} with a pause of {pause:?}");
        }
        assert_eq!(client.call(request(RANGE, &[GRPC]), &[&frame(0, &range("k"))]).await.status().0, 0);
        harness.settle().await;
        assert_eq!(harness.handler.ended.borrow()[0].client, Duration::ZERO, "a short answer is taken at once");
    });
}

#[test]
fn a_silent_client_is_pinged_and_then_left() {
    run(async {
        let limits = Limits {
            keepalive_interval: Duration::from_millis(20),
            keepalive_timeout: Duration::from_millis(20),
            ..Limits::default()
        };
        let (harness, mut stream) = Harness::start(limits.clone());
        greet(&mut stream).await;
        let mut pinged = 0;
        while let Some((kind, flags, payload)) = read_frame(&mut stream).await {
            if kind == PING && flags == 0 {
                pinged += 1;
                // The first is answered: it lives on, and is pinged again.
                if pinged == 1 {
                    stream.write_all(&raw_frame(PING, 1, 0, &payload)).await.expect("sent");
                }
            }
        }
        assert_eq!(pinged, 2);
        drop(stream);
        let end = harness.ended.await.expect("no panic");
        assert!(matches!(end, ConnectionEnd::KeepaliveTimeout), "{end:?}");
    });
}

#[test]
fn rapid_resets_end_the_connection() {
    run(async {
        let limits = Limits { rapid_resets_max: 50, ..Limits::default() };
        let (harness, stream) = Harness::start(limits);
        let client = RawClient::connect(stream).await;
        let mut refused = 0;
        for _ in 0..200 {
            let Ok(mut send) = client.send.clone().ready().await else { break };
            let Ok((_response, mut stream)) = send.send_request(request(RANGE, &[GRPC]), false) else { break };
            let _ = stream.send_data(frame(0, &range("wait")).into(), true);
            harness.settle().await;
            stream.send_reset(h2::Reason::CANCEL);
            harness.settle().await;
            refused += 1;
        }
        assert!((50..60).contains(&refused), "{refused} resets");
        drop(client.send);
        let error = client.connection.await.expect("no panic").expect_err("ended");
        assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
        let end = harness.ended.await.expect("no panic");
        assert!(matches!(end, ConnectionEnd::RapidResets), "{end:?}");
        assert_eq!(harness.handler.waiting.get(), 0);
    });
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    run(async {
        let limits = Limits { streams_max: 3, ..Limits::default() };
        let (harness, stream) = Harness::start(limits);
        let client = RawClient::connect(stream).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut send = client.send.clone().ready().await.expect("open");
            open.push(send.send_request(request("/etcdserverpb.Watch/Watch", &[GRPC]), false).expect("sent"));
            harness.settle().await;
        }
        assert_eq!(harness.handler.waiting.get(), 3);
        let mut send = client.send.clone();
        let fourth = send.send_request(request("/etcdserverpb.Watch/Watch", &[GRPC]), false);
        harness.settle().await;
        assert_eq!(harness.handler.waiting.get(), 3, "the fourth waits or is refused");
        drop(fourth);
    });
}

#[test]
fn headers_beyond_the_limit_are_refused() {
    run(async {
        let (harness, stream) = Harness::start(Limits { header_list_bytes_max: 8192, ..Limits::default() });
        let client = RawClient::connect(stream).await;
        let long = "x".repeat(10_000);
        let mut send = client.send.clone().ready().await.expect("open");
        let (response, _) = send.send_request(request(RANGE, &[GRPC, ("x", &long)]), true).expect("sent");
        match response.await {
            Ok(response) => assert_eq!(response.status(), 431),
            Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
        }
        assert_eq!(harness.handler.admitted.borrow().len(), 0);
    });
}

#[test]
fn noise_after_the_preface_ends_the_connection() {
    run(async {
        for noise in [
            raw_frame(0, 0, 0, b"data on stream 0"),
            raw_frame(1, 4, 2, b"\x82"),       // an even stream
            raw_frame(9, 4, 1, b"\x82"),       // CONTINUATION without HEADERS
            raw_frame(8, 0, 0, &[0, 0, 0, 0]), // a window of nothing
            raw_frame(4, 0, 0, b"no settings"),
            raw_frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), // no HPACK
            vec![0xff; 64],
        ] {
            let (harness, mut stream) = Harness::start(Limits::default());
            greet(&mut stream).await;
            stream.write_all(&noise).await.expect("sent");
            let reason = tokio::time::timeout(Duration::from_secs(1), go_away(&mut stream)).await;
            let (code, _) = reason.unwrap_or_else(|_| panic!("no end after {noise:x?}")).expect("a reason");
            assert_ne!(code, 0, "{noise:x?}");
            drop(stream);
            let end = harness.ended.await.expect("no panic");
            assert!(matches!(end, ConnectionEnd::Protocol(_)), "{end:?} after {noise:x?}");
        }
    });
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    (0u8..10, any::<u8>(), 0u32..8, payload)
        .prop_map(|(kind, flags, stream, payload)| raw_frame(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever frames come, the server neither panics nor stays when the client is gone.
    #[test]
    fn any_frames_end_with_the_connection(frames in proptest::collection::vec(any_frame(), 0..20)) {
        run(async move {
            let (harness, mut stream) = Harness::start(Limits::default());
            greet(&mut stream).await;
            for frame in frames {
                if stream.write_all(&frame).await.is_err() {
                    break;
                }
                harness.settle().await;
            }
            drop(stream);
            harness.ended.await.expect("no panic");
            assert_eq!(harness.handler.waiting.get(), 0);
        });
    }

    #[test]
    fn any_bytes_end_with_the_connection(bytes in proptest::collection::vec(any::<u8>(), 0..200), http1: bool) {
        run(async move {
            let (harness, mut stream) = Harness::start(Limits::default());
            let start = if http1 { &b"GET / HTTP/1.1\r\nHost: x\r\n"[..] } else { PREFACE };
            stream.write_all(start).await.expect("sent");
            // It may have ended already.
            let _ = stream.write_all(&bytes).await;
            harness.settle().await;
            drop(stream);
            harness.ended.await.expect("no panic");
        });
    }
}
