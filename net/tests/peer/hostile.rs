//! Bytes that no member sends: to the port, as a hello, and inside of streams. Whoever sends them is closed with the right
//! code; an honest connection beside it notices nothing.

use crate::common::*;
use quinn::{Connection, ConnectionError, Endpoint, SendStream};
use ringstone_net::peer::close::CloseCode;
use ringstone_net::peer::frame::{FrameKind, encode_header};
use ringstone_net::peer::hello::{HELLO_BYTES, Hello, MAGIC};
use ringstone_net::peer::socket::QuicRuntime;
use ringstone_net::peer::*;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// QUIC without our protocol on it.
struct Raw {
    endpoint: Endpoint,
}

impl Raw {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let endpoint = Endpoint::new(quinn::EndpointConfig::default(), None, socket, Arc::new(QuicRuntime));
        Raw { endpoint: endpoint.expect("an endpoint") }
    }

    async fn connect(&self, address: SocketAddr) -> Connection {
        let config = generated().client_config(&limits());
        self.endpoint.connect_with(config, address, "peer").expect("a dial").await.expect("a connection")
    }

    /// A connection behind a good hello of member 9, and its control stream.
    async fn greeted(&self, address: SocketAddr, sequence: u64) -> (Connection, SendStream) {
        let connection = self.connect(address).await;
        let (mut out, mut input) = connection.open_bi().await.expect("a stream");
        let mut nine = identity(9);
        // One process for all connections of a test.
        nine.process = 999;
        out.write_all(&nine.hello(1, sequence).encode()).await.expect("sent");
        let mut hello = [0; HELLO_BYTES];
        input.read_exact(&mut hello).await.expect("a hello");
        assert_eq!(Hello::decode(&hello).expect("a hello").to, 9);
        // Grants and frames that come are of no interest; the stream stays open.
        glommio::spawn_local(async move { while let Ok(Some(_)) = input.read_chunk(1 << 16, true).await {} }).detach();
        (connection, out)
    }
}

async fn closed(connection: &Connection) -> (CloseCode, String) {
    match within(Duration::from_secs(10), connection.closed()).await.expect("closed") {
        ConnectionError::ApplicationClosed(close) => {
            let text = String::from_utf8_lossy(&close.reason).into_owned();
            (CloseCode::of(close.error_code.into_inner()).expect("a known code"), text)
        }
        other => panic!("{other}"),
    }
}

/// Members 1 and 2 connected, 9 known to 1.
async fn honest() -> (Peers, Peers) {
    let (a, b) = (member(1).await, member(2).await);
    let nowhere = "127.0.0.1:9".parse().expect("an address");
    a.set_members(&membership(&[(2, b.local_address()), (9, nowhere)]));
    b.set_members(&membership(&[(1, a.local_address())]));
    connected(&a, 2).await;
    connected(&b, 1).await;
    (a, b)
}

async fn undisturbed(a: &Peers, b: &Peers) {
    a.send_control(2, 1, text("ping")).expect("connected");
    event(b, "an honest message", |event| match event {
        PeerEvent::Control { bytes, .. } if &bytes[..] == b"ping" => Some(()),
        PeerEvent::Disconnected { reason, .. } => panic!("{reason}"),
        _ => None,
    })
    .await;
}

#[test]
fn datagrams_that_are_not_quic() {
    run(|| async {
        let (a, b) = honest().await;
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let mut state = 1u64;
        for round in 0..300 {
            let length = [0, 1, 20, 1199, 1200, 1201, 1452, 9000, 65_507][round % 9];
            let mut bytes = vec![0; length];
            bytes.iter_mut().for_each(|byte| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            });
            // Every other one with the head of an Initial packet.
            if round % 2 == 0 && length > 30 {
                bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            }
            let _ = socket.send_to(&bytes, a.local_address());
            if round % 20 == 0 {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
        }
        undisturbed(&a, &b).await;
    });
}

#[test]
fn what_comes_instead_of_a_hello() {
    run(|| async {
        let (a, b) = honest().await;
        let raw = Raw::new();
        let good = identity(9).hello(1, 1);
        let mut damaged = good.encode();
        damaged[20] ^= 1;
        let mut long = good.encode();
        long[MAGIC.len()..][..2].copy_from_slice(&2000u16.to_le_bytes());
        let older = Hello { version_min: 0, version_max: 0, ..good }.encode();
        let newer = Hello { version_min: 7, version_max: 8, ..good }.encode();
        let cases = [
            (vec![b'x'; HELLO_BYTES], CloseCode::BadHello),
            (b"GET /version HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nUser-Agent: something that is long enough for it\r\n\r\n".to_vec(), CloseCode::BadHello),
            (damaged.to_vec(), CloseCode::BadHello),
            (long.to_vec(), CloseCode::BadHello),
            (older.to_vec(), CloseCode::Version),
            (newer.to_vec(), CloseCode::Version),
            // A whole hello never comes.
            (good.encode()[..50].to_vec(), CloseCode::HandshakeTimeout),
            (vec![], CloseCode::HandshakeTimeout),
        ];
        for (bytes, code) in cases {
            let connection = raw.connect(a.local_address()).await;
            let (mut out, _input) = connection.open_bi().await.expect("a stream");
            out.write_all(&bytes).await.expect("sent");
            let (found, text) = closed(&connection).await;
            assert_eq!(found, code, "{text}");
            assert!(text.contains("member 1"), "{text}");
            undisturbed(&a, &b).await;
        }
        assert_eq!(status_of(&a, 9).connections, 0);
    });
}

#[test]
fn what_comes_inside_of_streams() {
    run(|| async {
        let (a, b) = honest().await;
        let raw = Raw::new();
        let limits = limits();
        let mut reserved = encode_header(FrameKind::Control, 1, 1);
        reserved[5] = 1;
        let control = [
            (encode_header(FrameKind::Control, 1, limits.control_frame_bytes_max + 1), CloseCode::TooLarge),
            (encode_header(FrameKind::Heartbeat, 1, u32::MAX), CloseCode::TooLarge),
            (encode_header(FrameKind::Log, 1, 1), CloseCode::Protocol),
            (encode_header(FrameKind::Grant, 0, 3), CloseCode::Protocol),
            ([0xff; 16], CloseCode::Protocol),
            (reserved, CloseCode::Protocol),
        ];
        let mut sequence = 0;
        for (bytes, code) in control {
            sequence += 1;
            let (connection, mut out) = raw.greeted(a.local_address(), sequence).await;
            out.write_all(&encode_header(FrameKind::Control, 1, 0)).await.expect("sent");
            out.write_all(&bytes).await.expect("sent");
            let (found, text) = closed(&connection).await;
            assert_eq!(found, code, "{text}");
            assert!(text.contains("member 1") && text.contains("member 9"), "{text}");
            undisturbed(&a, &b).await;
        }
        let log = [&[1][..], &encode_header(FrameKind::Log, 1, limits.log_frame_bytes_max + 1)].concat();
        let log_kind = [&[1][..], &encode_header(FrameKind::Heartbeat, 1, 1)].concat();
        let uni = [
            (vec![0], CloseCode::Protocol),
            (vec![7], CloseCode::Protocol),
            (log, CloseCode::TooLarge),
            (log_kind, CloseCode::Protocol),
            ([&[2][..], &[0xee; 56]].concat(), CloseCode::Protocol),
        ];
        for (bytes, code) in uni {
            sequence += 1;
            let (connection, _out) = raw.greeted(a.local_address(), sequence).await;
            let mut stream = connection.open_uni().await.expect("a stream");
            stream.write_all(&bytes).await.expect("sent");
            let (found, text) = closed(&connection).await;
            assert_eq!(found, code, "{text}");
            undisturbed(&a, &b).await;
        }
        // A second control stream, a second log stream, and a frame cut short by the end of its stream.
        sequence += 1;
        let (connection, _out) = raw.greeted(a.local_address(), sequence).await;
        let (mut second, _input) = connection.open_bi().await.expect("a stream");
        second.write_all(&[0]).await.expect("sent");
        assert_eq!(closed(&connection).await.0, CloseCode::Protocol);
        sequence += 1;
        let (connection, _out) = raw.greeted(a.local_address(), sequence).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            let mut stream = connection.open_uni().await.expect("a stream");
            stream.write_all(&[1]).await.expect("sent");
            streams.push(stream);
        }
        assert_eq!(closed(&connection).await.0, CloseCode::Protocol);
        sequence += 1;
        let (connection, mut out) = raw.greeted(a.local_address(), sequence).await;
        out.write_all(&encode_header(FrameKind::Control, 1, 5)[..9]).await.expect("sent");
        out.finish().expect("open");
        assert_eq!(closed(&connection).await.0, CloseCode::Protocol);
        undisturbed(&a, &b).await;
    });
}

#[test]
fn handshakes_that_stay_open_do_not_keep_members_out() {
    run(|| async {
        let tight = PeerLimits { handshakes_max: 8, handshakes_before_retry: 3, ..limits() };
        let a = start(config(identity(1), generated(), tight)).await;
        let b = member(2).await;
        let raw = Raw::new();
        let mut open = Vec::new();
        for _ in 0..6 {
            // Beyond the third, the address has to prove itself first; QUIC does that by itself.
            open.push(raw.connect(a.local_address()).await);
        }
        introduce(&[&a, &b]);
        connected(&a, 2).await;
        for connection in &open {
            assert_eq!(closed(connection).await.0, CloseCode::HandshakeTimeout);
        }
    });
}
