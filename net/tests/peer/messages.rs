//! Messages, queues and the ends of connections.

use crate::common::*;
use bytes::Bytes;
use ringstone_net::peer::close::CloseCode;
use ringstone_net::peer::*;
use std::time::{Duration, Instant};

#[test]
fn messages_keep_their_order_on_each_stream() {
    run(|| async {
        let (a, b) = pair().await;
        const COUNT: u64 = 500;
        for number in 0..COUNT {
            a.send_control(2, number, text(&format!("vote {number}"))).expect("connected");
            let length = [0, 1, 1000, 70_000][number as usize % 4];
            let mut entries = vec![number as u8; length];
            entries.extend(number.to_le_bytes());
            a.send_log(2, 7, entries.into()).expect("room");
            if number % 50 == 0 {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
        }
        let (mut controls, mut logs) = (0u64, 0u64);
        event(&b, "all messages", |event| {
            match event {
                PeerEvent::Control { member: 1, group, bytes } => {
                    assert_eq!((group, &bytes[..]), (controls, format!("vote {controls}").as_bytes()));
                    controls += 1;
                }
                PeerEvent::Log { member: 1, group: 7, bytes } => {
                    let length = [0, 1, 1000, 70_000][logs as usize % 4];
                    assert_eq!((bytes.len(), &bytes[length..]), (length + 8, &logs.to_le_bytes()[..]));
                    logs += 1;
                }
                other => panic!("{other:?}"),
            }
            (controls == COUNT && logs == COUNT).then_some(())
        })
        .await;
        let received = status_of(&b, 1).received_bytes;
        until("all is counted", || (status_of(&a, 2).sent_bytes == received).then_some(())).await;
        assert!(status_of(&a, 2).rtt.is_some_and(|rtt| rtt < Duration::from_secs(1)));
        assert!(status_of(&b, 1).last_heard.is_some_and(|ago| ago < Duration::from_secs(20)));
    });
}

#[test]
fn what_cannot_be_sent_says_so() {
    run(|| async {
        let (a, b) = pair().await;
        assert!(matches!(a.send_control(9, 0, Bytes::new()), Err(PeerError::UnknownMember(9))));
        let limit = limits().control_frame_bytes_max;
        let long = Bytes::from(vec![0; limit as usize + 1]);
        assert!(
            matches!(a.send_control(2, 0, long.clone()), Err(PeerError::TooLarge { limit: found, .. }) if found == limit)
        );
        a.send_log(2, 0, long).expect("entries may be longer");
        b.shutdown().await;
        drop(b);
        let reason = disconnected(&a, 2).await;
        assert!(
            matches!(&*reason, PeerError::RefusedByPeer { code: Some(CloseCode::Shutdown), text } if text.contains("member 2")),
            "{reason}"
        );
        assert!(matches!(a.send_control(2, 0, Bytes::new()), Err(PeerError::NotConnected(2))));
        assert!(matches!(a.send_log(2, 0, Bytes::new()), Err(PeerError::NotConnected(2))));
        assert_eq!(status_of(&a, 2).sent_failures, 3);
        a.shutdown().await;
        assert!(matches!(a.send_control(2, 0, Bytes::new()), Err(PeerError::ShutDown)));
        assert!(a.next_event().await.is_none());
    });
}

#[test]
fn queues_are_bounded_when_the_other_side_does_not_read() {
    run(|| async {
        let small = || PeerLimits {
            control_queue_frames_max: 50,
            log_queue_frames_max: 40,
            log_queue_bytes_max: 400 << 10,
            inbox_control_events_max: 20,
            inbox_log_frames_max: 20,
            inbox_log_bytes_max: 200 << 10,
            stream_window_bytes: 64 << 10,
            send_window_bytes: 1 << 20,
            ..limits()
        };
        let (a, b) = pair_with(small).await;
        // b takes no events from here on.
        let entry = |number: u32| Bytes::from([&number.to_le_bytes()[..], &[7; 16 << 10]].concat());
        let (mut taken, mut refused) = (0, 0);
        let begun = Instant::now();
        while refused < 100 {
            match a.send_log(2, 1, entry(taken)) {
                Ok(()) => taken += 1,
                Err(PeerError::Busy(2)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            a.send_heartbeat(2, 1, vec![1; 1000].into()).expect("heartbeats are always taken");
            let status = status_of(&a, 2);
            assert!(status.log_waiting.0 <= 40 && status.log_waiting.1 <= 400 << 10, "{status:?}");
            assert!(status.control_waiting.0 <= 50, "{status:?}");
            assert!(begun.elapsed() < Duration::from_secs(20), "the log queue never fills");
            glommio::timer::sleep(Duration::from_micros(200)).await;
        }
        // Queue, one write, QUIC's windows and the inbox hold something; all of it has a bound.
        assert!(taken <= 40 + 9 + 16 + 20 + 10, "{taken} entries of 16 KiB were taken");
        assert!(status_of(&a, 2).control_dropped > 0);
        a.send_control(2, 1, text("vote")).expect("connected");
        let (mut logs, mut vote) = (0, false);
        event(&b, "everything", |event| {
            match event {
                PeerEvent::Log { bytes, .. } => {
                    assert_eq!(bytes[..4], u32::to_le_bytes(logs), "in order, none left out");
                    logs += 1;
                }
                PeerEvent::Control { bytes, .. } => vote |= &bytes[..] == b"vote",
                other => panic!("{other:?}"),
            }
            (logs == taken && vote).then_some(())
        })
        .await;
    });
}

#[test]
fn a_member_that_restarts_is_there_again() {
    run(|| async {
        let (a, b) = pair().await;
        let port = b.local_address();
        b.shutdown().await;
        drop(b);
        // At once, on the same port: the bind is tried again while the kernel still holds the old socket.
        let mut again = config(identity(2), generated(), limits());
        again.identity.incarnation = 2;
        again.listen = port;
        let b = start(again).await;
        assert_eq!(b.local_address(), port);
        b.set_members(&membership(&[(1, a.local_address())]));
        disconnected(&a, 2).await;
        let incarnation = event(&a, "connected again", |event| match event {
            PeerEvent::Connected { member: 2, incarnation, .. } => Some(incarnation),
            _ => None,
        });
        assert_eq!(incarnation.await, 2);
        connected(&b, 1).await;
        a.send_log(2, 3, text("after")).expect("connected");
        let picked = |event| {
            matches!(event, PeerEvent::Log { member: 1, group: 3, bytes } if &bytes[..] == b"after").then_some(())
        };
        event(&b, "a message", picked).await;
    });
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    run(|| async {
        let a = member(1).await;
        let mut second =
            config(identity(2), generated(), PeerLimits { bind_timeout: Duration::from_millis(30), ..limits() });
        second.listen = a.local_address();
        let Err(error) = Peers::new(second, &Membership::default()).await else { panic!("two on one port") };
        assert!(matches!(error, PeerError::Bind { address, .. } if address == a.local_address()), "{error}");
    });
}

#[test]
fn members_come_and_go_with_the_list() {
    run(|| async {
        let (a, b) = pair().await;
        a.set_members(&Membership { members: vec![], removed: vec![2] });
        let reason = disconnected(&b, 1).await;
        let told = matches!(&*reason, PeerError::RefusedByPeer { code: Some(CloseCode::RemovedMember), text } if text.contains("member 2"));
        assert!(told, "{reason}");
        assert!(a.status().is_empty());
        b.set_members(&membership(&[(1, a.local_address())]));
        until("the removed member is refused", || (a.refusals().0 > 0).then_some(())).await;
        assert_eq!(a.refusals().1.expect("one").code, CloseCode::RemovedMember);
        a.set_members(&membership(&[(2, b.local_address())]));
        connected(&a, 2).await;
    });
}
