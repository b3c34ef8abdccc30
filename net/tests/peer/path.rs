//! Paths that lose, double, delay and reorder datagrams, that take only short ones, or none.

use crate::common::*;
use crate::proxy::Proxy;
use bytes::Bytes;
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use ringstone_net::HttpResponse;
use ringstone_net::peer::*;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Two members with a proxy between, not yet introduced.
async fn apart(limits: impl Fn() -> PeerLimits) -> (Peers, Peers, Proxy) {
    let a = start(config(identity(1), generated(), limits())).await;
    let b = start(config(identity(2), generated(), limits())).await;
    let proxy = Proxy::between(a.local_address(), b.local_address());
    (a, b, proxy)
}

fn introduce_by(a: &Peers, b: &Peers, proxy: &Proxy) {
    one_way(a, b, proxy.to_second);
}

/// Entries of 2 KiB one way, all of them, in order.
async fn exchange(a: &Peers, b: &Peers, count: u32) {
    let mut sent = 0;
    let mut received = 0;
    let begun = Instant::now();
    while received < count {
        while sent < count && a.send_log(2, 1, Bytes::from([&sent.to_le_bytes()[..], &[1; 2048]].concat())).is_ok() {
            sent += 1;
        }
        while let Some(event) = b.try_next_event() {
            match event {
                PeerEvent::Log { bytes, .. } => {
                    assert_eq!(bytes[..4], u32::to_le_bytes(received));
                    received += 1;
                }
                PeerEvent::Disconnected { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{received} of {count}: {:?}", a.status());
        glommio::timer::sleep(Duration::from_micros(500)).await;
    }
}

#[test]
fn a_path_that_drops_doubles_delays_and_reorders() {
    run(|| async {
        let (a, b, proxy) = apart(limits).await;
        // 5 % of each, from the first packet of the handshake on.
        proxy.path.per_mille.store(50, Relaxed);
        introduce_by(&a, &b, &proxy);
        connected(&a, 2).await;
        connected(&b, 1).await;
        exchange(&a, &b, 2000).await;
        assert!(proxy.path.spoiled.load(Relaxed) > 100);
        let (lost, sent) = status_of(&a, 2).packets_lost;
        assert!(lost > 10, "{lost} of {sent} packets lost");
    });
}

#[test]
fn a_path_that_takes_only_short_datagrams_from_the_start() {
    run(|| async {
        let (a, b, proxy) = apart(limits).await;
        proxy.path.bytes_max.store(1300, Relaxed);
        introduce_by(&a, &b, &proxy);
        connected(&a, 2).await;
        connected(&b, 1).await;
        exchange(&a, &b, 1000).await;
        let path = status_of(&a, 2).path_bytes_max.expect("connected");
        assert!((1200..=1300).contains(&path), "{path}");
        assert!(proxy.path.spoiled.load(Relaxed) > 0, "longer ones were never tried");
    });
}

/// A route changes: what went yesterday is dropped without a word from now on.
#[test]
fn a_path_that_begins_to_drop_long_datagrams() {
    run(|| async {
        let (a, b, proxy) = apart(limits).await;
        introduce_by(&a, &b, &proxy);
        connected(&a, 2).await;
        connected(&b, 1).await;
        exchange(&a, &b, 500).await;
        until("long datagrams", || status_of(&a, 2).path_bytes_max.filter(|bytes| *bytes > 1300)).await;
        proxy.path.bytes_max.store(1300, Relaxed);
        exchange(&a, &b, 500).await;
        let path = status_of(&a, 2).path_bytes_max.expect("connected");
        assert!(path <= 1300, "{path}");
    });
}

#[test]
fn a_path_that_is_cut_for_a_while() {
    run(|| async {
        let brief = || PeerLimits {
            idle_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_millis(200),
            handshake_timeout: Duration::from_millis(500),
            timeouts_before_probe: 100,
            ..limits()
        };
        let (a, b, proxy) = apart(brief).await;
        // Both sides dial.
        a.set_members(&membership(&[(2, proxy.to_second)]));
        b.set_members(&membership(&[(1, proxy.to_first)]));
        connected(&a, 2).await;
        connected(&b, 1).await;
        glommio::timer::sleep(Duration::from_millis(700)).await;
        proxy.path.cut.store(true, Relaxed);
        let reason = disconnected(&a, 2).await;
        assert!(matches!(&*reason, PeerError::Connection(quinn::ConnectionError::TimedOut)), "{reason}");
        disconnected(&b, 1).await;
        proxy.path.cut.store(false, Relaxed);
        connected(&a, 2).await;
        connected(&b, 1).await;
    });
}

fn clock() -> Duration {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    EPOCH.elapsed()
}

async fn finding(a: &Peers) -> Finding {
    let found = event(a, "a finding", |event| match event {
        PeerEvent::Finding { member: 2, finding } => Some(finding),
        _ => None,
    })
    .await;
    assert_eq!(status_of(a, 2).finding, Some(found));
    found
}

/// Operators of etcd open TCP ports.
#[test]
fn what_is_wrong_with_the_way_to_a_member_is_said() {
    run(|| async {
        let brief = || PeerLimits { handshake_timeout: Duration::from_millis(200), ..limits() };
        let a = start(config(identity(1), generated(), brief())).await;
        let b = member(2).await;
        // A port where TCP answers as b does, and UDP swallows everything.
        let (_blocked, listener, address) = std::iter::repeat_with(|| {
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
            let address = udp.local_addr().expect("an address");
            glommio::net::TcpListener::bind(address).ok().map(|tcp| (udp, tcp, address))
        })
        .find_map(|both| both)
        .expect("a port that is free on both");
        b.serve_http(listener, clock, |page| {
            assert_eq!(page, PeerHttp::Version);
            HttpResponse::text(200, "{\"etcdserver\":\"3.7.3\",\"etcdcluster\":\"3.7.0\"}")
        });
        a.set_members(&membership(&[(2, address)]));
        let found = finding(&a).await;
        assert_eq!(found, Finding::UdpBlocked(address));
        let text = found.to_string();
        assert!(text.contains(&format!("open UDP port {}", address.port())), "{text}");
        // Nothing there at all.
        b.shutdown().await;
        let gone = until("the TCP port is closed", || std::net::TcpStream::connect(address).err()).await;
        assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(finding(&a).await, Finding::NothingListens(address));
        // Something else there.
        let other = until("the port is free", || glommio::net::TcpListener::bind(address).ok()).await;
        let answers = glommio::spawn_local(async move {
            let mut stream = other.accept().await.expect("a probe");
            assert_ne!(stream.read(&mut [0; 1024]).await.expect("a request"), 0);
            stream.write_all(b"SSH-2.0-something\r\n").await.expect("sent");
        });
        assert_eq!(finding(&a).await, Finding::NotAPeer(address));
        answers.await;
    });
}
