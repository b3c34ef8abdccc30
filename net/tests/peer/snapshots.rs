//! Snapshots: whole, resumed, refused, slowed, and beside other streams.

use crate::common::*;
use bytes::Bytes;
use ringstone_net::LocalBoxFuture;
use ringstone_net::peer::*;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes that their offset tells.
pub struct Source {
    length: u64,
    fails_at: Option<u64>,
    pub first: Option<u64>,
}

impl Source {
    pub fn new(length: u64) -> Self {
        Source { length, fails_at: None, first: None }
    }
}

fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl SnapshotSource for Source {
    fn read(&mut self, offset: u64, bytes_max: usize) -> LocalBoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            self.first.get_or_insert(offset);
            if self.fails_at.is_some_and(|at| offset >= at) {
                return Err(io::Error::other("the disk"));
            }
            // Pieces of odd lengths.
            let end = self.length.min(offset + bytes_max as u64 - offset % 1000);
            Ok((offset..end).map(byte_at).collect())
        })
    }
}

fn offer(length: u64) -> SnapshotOffer {
    SnapshotOffer { group: 4, id: [9; 16], length: Some(length), offset_min: 0 }
}

async fn offered(peers: &Peers) -> SnapshotReceiver {
    event(peers, "a snapshot", |event| match event {
        PeerEvent::Snapshot { stream, .. } => Some(stream),
        _ => None,
    })
    .await
}

/// Takes up to `count` bytes and checks each.
async fn take(stream: &mut SnapshotReceiver, count: u64) -> Result<bool, PeerError> {
    let begin = stream.offset();
    while stream.offset() < begin + count {
        let at = stream.offset();
        match stream.next().await? {
            None => return Ok(true),
            Some(bytes) => assert!((at..).zip(&bytes).all(|(at, byte)| *byte == byte_at(at)), "at {at}"),
        }
    }
    Ok(false)
}

#[test]
fn a_snapshot_comes_whole_whatever_its_length() {
    run(|| async {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        for (length, known) in [(0, true), (1, false), (64 << 10, true), (3_000_001, false), (3_000_001, true)] {
            let offer = SnapshotOffer { length: known.then_some(length), ..offer(length) };
            let sender = Rc::clone(&a);
            let sent =
                glommio::spawn_local(async move { sender.send_snapshot(2, &offer, &mut Source::new(length)).await });
            let mut stream = offered(&b).await;
            assert_eq!(stream.offer(), offer);
            assert!(take(&mut stream, u64::MAX / 2).await.expect("a snapshot"));
            assert_eq!(stream.offset(), length);
            assert_eq!(sent.await.expect("sent"), 0);
        }
        let bytes = status_of(&b, 1).snapshot_received_bytes;
        assert_eq!((bytes, status_of(&a, 2).snapshot_sent_bytes), (6_000_003 + (64 << 10), bytes));
    });
}

/// The connection breaks in the middle; the next one goes on where the receiver is.
#[test]
fn a_snapshot_goes_on_after_a_lost_connection() {
    run(|| async {
        const LENGTH: u64 = 4_000_000;
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let start = || {
            let sender = Rc::clone(&a);
            glommio::spawn_local(async move {
                let mut source = Source::new(LENGTH);
                (sender.send_snapshot(2, &offer(LENGTH), &mut source).await, source.first)
            })
        };
        let sent = start();
        let mut stream = offered(&b).await;
        assert!(!take(&mut stream, 1_500_000).await.expect("a part"));
        let reached = stream.offset();
        // b restarts its list: the connection is gone.
        b.set_members(&Membership::default());
        let (result, _) = sent.await;
        assert!(matches!(result, Err(PeerError::RefusedByPeer { .. })), "{result:?}");
        let mut more = 0;
        while let Ok(false) = take(&mut stream, 1).await {
            more += 1;
        }
        assert!(more < 100, "{more} chunks after the end");
        let reached = reached.max(stream.offset());
        drop(stream);
        disconnected(&a, 2).await;
        one_way(&a, &b, b.local_address());
        connected(&a, 2).await;
        let sent = start();
        let mut stream = offered(&b).await;
        assert_eq!(stream.offer().id, [9; 16]);
        stream.accept(reached).expect("within the offer");
        assert!(take(&mut stream, u64::MAX / 2).await.expect("the rest"));
        assert_eq!(stream.offset(), LENGTH);
        let (result, first) = sent.await;
        assert_eq!((result.expect("sent"), first), (reached, Some(reached)), "nothing goes twice");
    });
}

/// The receiver makes something of what has come before its sender hears of it; a connection that breaks then costs nothing.
#[test]
fn a_sender_waits_until_its_receiver_is_done() {
    run(|| async {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let start = || {
            let sender = Rc::clone(&a);
            glommio::spawn_local(async move {
                let offer = SnapshotOffer { length: None, ..offer(100_000) };
                sender.send_snapshot(2, &offer, &mut Source::new(100_000)).await
            })
        };
        let sent = start();
        let mut stream = offered(&b).await;
        while stream.next_unconfirmed().await.expect("a snapshot").is_some() {}
        assert_eq!(stream.offset(), 100_000);
        let late = Duration::from_millis(200);
        assert!(glommio::timer::timeout(late, async { Ok::<_, glommio::GlommioError<()>>(sent.await) }).await.is_err());
        // It was not told, and offers again: nothing is left to come.
        drop(stream);
        let sent = start();
        let mut stream = offered(&b).await;
        stream.accept(100_000).expect("its end");
        assert_eq!(stream.next_unconfirmed().await.expect("the end"), None);
        stream.confirm();
        stream.confirm();
        assert_eq!(sent.await.expect("sent"), 100_000);
    });
}

#[test]
fn either_side_may_give_a_snapshot_up() {
    run(|| async {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let send = |fails_at| {
            let sender = Rc::clone(&a);
            glommio::spawn_local(async move {
                let mut source = Source { fails_at, ..Source::new(5_000_000) };
                sender.send_snapshot(2, &offer(5_000_000), &mut source).await
            })
        };
        let sent = send(None);
        drop(offered(&b).await);
        assert!(matches!(sent.await, Err(PeerError::SnapshotRefused)));
        let sent = send(None);
        let mut stream = offered(&b).await;
        take(&mut stream, 1_000_000).await.expect("a part");
        drop(stream);
        assert!(matches!(sent.await, Err(PeerError::SnapshotRefused)));
        let sent = send(Some(2_000_000));
        let mut stream = offered(&b).await;
        assert!(matches!(take(&mut stream, u64::MAX / 2).await, Err(PeerError::SnapshotAborted)));
        assert!(matches!(sent.await, Err(PeerError::SnapshotSource(_))));
        let sent = send(None);
        let mut stream = offered(&b).await;
        take(&mut stream, 1_000_000).await.expect("a part");
        drop(sent);
        assert!(matches!(take(&mut stream, u64::MAX / 2).await, Err(PeerError::SnapshotAborted)));
        // Offsets outside of the offer.
        let sender = Rc::clone(&a);
        let sent = glommio::spawn_local(async move {
            let offer = SnapshotOffer { offset_min: 100, ..offer(1000) };
            sender.send_snapshot(2, &offer, &mut Source::new(1000)).await
        });
        let mut stream = offered(&b).await;
        assert!(matches!(stream.accept(99), Err(PeerError::SnapshotOffset { found: 99, lowest: 100 })));
        assert!(matches!(stream.accept(1001), Err(PeerError::SnapshotOffset { found: 1001, .. })));
        stream.accept(1000).expect("its end");
        assert!(take(&mut stream, 1).await.expect("nothing more"));
        assert_eq!(sent.await.expect("sent"), 1000);
        assert_eq!(status_of(&a, 2).connections, 1, "the connection was never lost");
    });
}

/// A receiver that stops reading holds its credit and no more; messages pass by.
#[test]
fn a_stalled_snapshot_holds_its_credit_only() {
    run(|| async {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let sender = Rc::clone(&a);
        let sent = glommio::spawn_local(async move {
            sender.send_snapshot(2, &offer(50_000_000), &mut Source::new(50_000_000)).await
        });
        let mut stream = offered(&b).await;
        take(&mut stream, 1).await.expect("a part");
        glommio::timer::sleep(Duration::from_millis(300)).await;
        let went = status_of(&a, 2).snapshot_sent_bytes;
        assert!(went <= limits().snapshot_credit_bytes + (64 << 10), "{went} bytes went");
        a.send_log(2, 1, text("entries")).expect("room");
        let picked = |event| matches!(event, PeerEvent::Log { .. }).then_some(());
        event(&b, "entries", picked).await;
        drop(stream);
        assert!(sent.await.is_err());
    });
}

#[test]
fn the_throttle_holds_a_snapshot_to_its_rate() {
    run(|| async {
        let (a, b) = pair().await;
        a.set_snapshot_rate(4_000_000);
        let a = Rc::new(a);
        let sender = Rc::clone(&a);
        let sent = glommio::spawn_local(async move {
            sender.send_snapshot(2, &offer(3_000_000), &mut Source::new(3_000_000)).await
        });
        let mut stream = offered(&b).await;
        let begun = Instant::now();
        assert!(take(&mut stream, u64::MAX / 2).await.expect("a snapshot"));
        let took = begun.elapsed();
        // A tenth of a second's worth goes at once.
        assert!(took >= Duration::from_millis(630), "{took:?} for 750 ms' worth of bytes");
        sent.await.expect("sent");
    });
}
