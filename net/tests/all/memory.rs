//! What connections hold: charged, bounded for all together, and given back.

use crate::common::*;
use bytes::Bytes;
use h2::Reason;
use ringstone_net::*;
use ringstone_proto::etcdserverpb::{RangeRequest, WatchCreateRequest, WatchRequest, watch_request::RequestUnion};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::spawn_local;

const WATCH: &str = "/etcdserverpb.Watch/Watch";

fn memory(bytes_max: usize) -> Rc<ShardMemory> {
    ShardMemory::new(Memory::new(bytes_max, 1))
}

/// A client that lets no answer through.
async fn narrow(stream: DuplexStream) -> RawClient {
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake(stream);
    let (send, connection) = handshake.await.expect("handshake");
    RawClient { send, connection: spawn_local(connection) }
}

fn big(bytes: i64) -> Vec<u8> {
    let request = RangeRequest { key: Bytes::from_static(b"big"), limit: bytes, ..RangeRequest::default() };
    frame(0, &prost::Message::encode_to_vec(&request))
}

#[test]
fn who_holds_the_most_is_ended_and_others_go_on() {
    run(async {
        let memory = memory(2 << 20);
        let (modest, stream) = Harness::start_within(Limits::default(), &memory);
        let mut modest_client = RawClient::connect(stream).await;
        let (_unread, stream) = Harness::start_within(Limits::default(), &memory);
        let mut holder = narrow(stream).await;
        let mut answers = Vec::new();
        let mut send = |client: &mut RawClient, bytes| {
            let (answer, mut body) = client.send.send_request(request(RANGE, &[GRPC]), false).expect("sent");
            body.send_data(big(bytes).into(), true).expect("open");
            answers.push(answer);
        };
        for _ in 0..2 {
            send(&mut holder, 700_000);
        }
        modest.settle().await;
        assert!(memory.held_bytes() > 1_400_000, "{}", memory.held_bytes());
        // More than three quarters are held: who has more than its share is refused, others are not.
        let refused = holder.call(request(RANGE, &[GRPC]), &[&big(1)]).await.status();
        assert_eq!((refused.0, &refused.1[..30]), (8, "grpc: this connection holds mo"));
        let answer = modest_client.call(request(RANGE, &[GRPC]), &[&frame(0, &range("k"))]).await;
        assert_eq!(answer.status().0, 0);
        // And above the bound, who holds the most goes.
        let (_other, stream) = Harness::start_within(Limits::default(), &memory);
        let mut other = narrow(stream).await;
        send(&mut other, 900_000);
        let error = holder.connection.await.expect("no panic").expect_err("ended");
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
        modest.settle().await;
        assert!(memory.held_bytes() < 1_200_000, "{}", memory.held_bytes());
        let answer = modest_client.call(request(RANGE, &[GRPC]), &[&frame(0, &range("k"))]).await;
        assert_eq!(answer.status().0, 0);
        drop((other, modest_client, answers));
        for ended in [modest.ended, _unread.ended, _other.ended] {
            ended.await.expect("no panic");
        }
        assert_eq!(memory.held_bytes(), 0);
    });
}

#[test]
fn a_server_that_is_full_takes_no_connection() {
    run(async {
        let memory = memory(200_000);
        let mut open = Vec::new();
        let refused = loop {
            let (harness, stream) = Harness::start_within(Limits::default(), &memory);
            let mut client = match h2::client::handshake(stream).await {
                Ok((send, connection)) => RawClient { send, connection: spawn_local(connection) },
                Err(_) => break harness.ended.await.expect("no panic"),
            };
            harness.settle().await;
            if harness.ended.is_finished() {
                break harness.ended.await.expect("no panic");
            }
            let answer = client.call(request(RANGE, &[GRPC]), &[&frame(0, &range("k"))]).await;
            assert_eq!(answer.status().0, 0);
            open.push((harness, client));
            assert!(open.len() < 20);
        };
        assert!(matches!(refused, ConnectionEnd::OutOfMemory), "{refused:?}");
        assert!(open.len() > 2, "{}", open.len());
        // Those that there are go on.
        for (_, client) in &mut open {
            let answer = client.call(request(RANGE, &[GRPC]), &[&frame(0, &range("k"))]).await;
            assert_eq!(answer.status().0, 0);
        }
    });
}

/// What a handler didn't ask for used to lie in HTTP/2's buffers: within each connection's windows, and beside every bound
/// of the process.
#[test]
fn requests_that_nobody_asks_for_are_charged() {
    run(async {
        let memory = memory(64 << 20);
        let (harness, stream) = Harness::start_within(Limits::default(), &memory);
        let client = narrow(stream).await;
        let (_answer, mut body) = client.send.clone().send_request(request(WATCH, &[GRPC]), false).expect("sent");
        let flood = prost::Message::encode_to_vec(&WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: Bytes::from_static(b"flood"),
                ..WatchCreateRequest::default()
            })),
        });
        body.send_data(frame(0, &flood).into(), false).expect("open");
        harness.settle().await;
        let before = memory.held_bytes();
        body.send_data(vec![0; 100_000].into(), false).expect("open");
        harness.settle().await;
        assert!(memory.held_bytes() >= before + 90_000, "{} then {}", before, memory.held_bytes());
        body.send_reset(Reason::CANCEL);
        harness.settle().await;
        assert!(memory.held_bytes() < before, "{} then {}", before, memory.held_bytes());
    });
}

/// HEADERS without an end used to be waited for as long as the client liked.
#[test]
fn a_head_that_does_not_end_is_charged_and_left() {
    run(async {
        let memory = memory(64 << 20);
        let limits = Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() };
        let (harness, mut stream) = Harness::start_within(limits, &memory);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
        harness.settle().await;
        let before = memory.held_bytes();
        // 8000 bytes of HEADERS for stream 1, without END_HEADERS.
        stream.write_all(&[0, 0x1f, 0x40, 1, 0, 0, 0, 0, 1]).await.expect("sent");
        // A field whose value has 20 000 bytes: there is no fault in what is there.
        let mut block = vec![b'y'; 8000];
        block[..7].copy_from_slice(&[0, 1, b'x', 0x7f, 0xa1, 0x9b, 0x01]);
        stream.write_all(&block).await.expect("sent");
        harness.settle().await;
        assert!(memory.held_bytes() >= before + 8000);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        drop(stream);
        let end = harness.ended.await.expect("no panic");
        assert!(matches!(end, ConnectionEnd::HandshakeTimeout), "{end:?}");
        assert_eq!(memory.held_bytes(), 0);
    });
}

#[test]
fn http1_bodies_are_charged_and_give_way() {
    run(async {
        let memory = memory(1 << 20);
        let (harness, mut stream) = Harness::start_within(Limits::default(), &memory);
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        let piece = vec![b'x'; 100_000];
        for _ in 0..15 {
            if stream.write_all(&piece).await.is_err() {
                break;
            }
            harness.settle().await;
        }
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&answer));
        drop(stream);
        harness.ended.await.expect("no panic");
        assert_eq!(memory.held_bytes(), 0);
    });
}
