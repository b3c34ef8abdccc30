//! Processes that have ended, as TCP tells.

use crate::common::*;
use ringstone_net::peer::*;
use std::time::Duration;

/// Two members of which the first has dialled, and the second one's port on TCP.
async fn pair_with_port() -> (Peers, Peers, glommio::net::TcpListener) {
    let a = member(1).await;
    let (b, listener) = loop {
        let b = member(2).await;
        if let Ok(listener) = glommio::net::TcpListener::bind(b.local_address()) {
            break (b, listener);
        }
        b.shutdown().await;
    };
    one_way(&a, &b, b.local_address());
    connected(&a, 2).await;
    connected(&b, 1).await;
    (a, b, listener)
}

/// A killed process: the kernel closes what it had open and refuses whoever comes.
#[test]
fn a_port_that_refuses_what_it_took_ends_the_connection() {
    run(|| async {
        let (a, _b, listener) = pair_with_port().await;
        let line = within(Duration::from_secs(10), listener.accept()).await.expect("a line is held").expect("a line");
        glommio::timer::sleep(Duration::from_millis(1200)).await;
        assert!(a.try_next_event().is_none(), "nothing has happened");
        let closed = std::time::Instant::now();
        drop((line, listener));
        let reason = disconnected(&a, 2).await;
        assert!(matches!(&*reason, PeerError::Ended(_)), "{reason}");
        assert!(closed.elapsed() < Duration::from_secs(1), "{:?}", closed.elapsed());
        // It was wrong, and costs a connection.
        connected(&a, 2).await;
    });
}

/// A server that closes idle connections, or is short of descriptors, lives.
#[test]
fn a_port_that_takes_the_next_line_has_not_ended() {
    run(|| async {
        let (a, _b, listener) = pair_with_port().await;
        for _ in 0..3 {
            let line = within(Duration::from_secs(10), listener.accept()).await.expect("a line is held");
            glommio::timer::sleep(Duration::from_millis(1100)).await;
            drop(line);
        }
        assert!(a.try_next_event().is_none());
        assert_eq!(status_of(&a, 2).connections, 1);
    });
}

/// Where TCP is blocked nothing can be concluded from it.
#[test]
fn a_port_that_never_took_tcp_tells_nothing() {
    run(|| async {
        let (a, _b) = pair().await;
        glommio::timer::sleep(Duration::from_secs(4)).await;
        assert!(a.try_next_event().is_none());
        assert_eq!(status_of(&a, 2).connections, 1);
    });
}
