//! Mistakes that the hello keeps from raft: each refused, with a text for both sides.

use crate::common::*;
use ringstone_net::peer::close::CloseCode;
use ringstone_net::peer::hello::{Features, Identity};
use ringstone_net::peer::registry::Latest;
use ringstone_net::peer::*;
use std::time::Duration;

/// Member 1 dials member 2 and is refused by it; the event's text, which must name both.
async fn refused(first: Identity, second: Identity, code: CloseCode) -> String {
    let a = start(config(first, generated(), limits())).await;
    let b = start(config(second, generated(), limits())).await;
    let dialled = [(if code == CloseCode::WrongMember { 3 } else { 2 }, b.local_address())];
    a.set_members(&membership(&dialled));
    if code != CloseCode::RemovedMember {
        b.set_members(&membership(&[(1, "127.0.0.1:9".parse().expect("an address"))]));
    } else {
        b.set_members(&Membership { members: vec![], removed: vec![1] });
    }
    let (found, text) = event(&a, "refused", |event| match event {
        PeerEvent::Refused { code, text, .. } => Some((code, text)),
        PeerEvent::Connected { .. } => panic!("connected"),
        _ => None,
    })
    .await;
    assert_eq!(found, code, "{text}");
    assert!(text.contains("member 1") && text.contains("member 2"), "{text}");
    let (count, last) = b.refusals();
    assert!(count > 0 && last.expect("one").code == code);
    // Again and again, but said once.
    glommio::timer::sleep(Duration::from_millis(300)).await;
    while let Some(event) = a.try_next_event() {
        assert!(!matches!(event, PeerEvent::Refused { .. }), "said twice");
    }
    text
}

#[test]
fn mismatches_are_refused_by_name() {
    run(|| async {
        let odd = Features { refuse: 4, ..Features::default() };
        let text = refused(Identity { cluster_id: 0xc2, ..identity(1) }, identity(2), CloseCode::ClusterId).await;
        assert!(text.contains("--initial-cluster"), "{text}");
        let text = refused(identity(1), identity(2), CloseCode::WrongMember).await;
        assert!(text.contains("member 3") && text.contains("member update"), "{text}");
        let text = refused(identity(1), identity(2), CloseCode::RemovedMember).await;
        assert!(text.contains("removed") && text.contains("delete its data folder"), "{text}");
        let text = refused(Identity { features: odd, ..identity(1) }, identity(2), CloseCode::Feature).await;
        assert!(text.contains("upgrade member 2"), "{text}");
    });
}

/// What a process uses may grow while it runs: who is connected stays, who comes later and doesn't know it is refused.
#[test]
fn features_that_come_into_use_later() {
    run(|| async {
        let (a, b) = pair().await;
        a.set_features(Features { refuse: 1, ..Features::default() });
        glommio::timer::sleep(Duration::from_millis(300)).await;
        assert!(a.try_next_event().is_none() && b.try_next_event().is_none(), "they stay connected");
        b.shutdown().await;
        let again = |incarnation, refuse| {
            let known_features = Features { refuse, ..Features::default() };
            start(config(Identity { incarnation, known_features, ..identity(2) }, generated(), limits()))
        };
        let older = again(2, 0).await;
        one_way(&a, &older, older.local_address());
        let text = event(&a, "refused", |event| match event {
            PeerEvent::Refused { code: CloseCode::Feature, text, .. } => Some(text),
            PeerEvent::Connected { .. } => panic!("connected"),
            _ => None,
        });
        assert!(text.await.contains("upgrade member 2"));
        older.shutdown().await;
        let newer = again(3, 1).await;
        one_way(&a, &newer, newer.local_address());
        connected(&a, 2).await;
    });
}

#[test]
fn a_stranger_waits_until_it_is_known() {
    run(|| async {
        let (a, b) = (member(1).await, member(2).await);
        a.set_members(&membership(&[(2, b.local_address())]));
        until("refused", || (b.refusals().0 >= 2).then_some(())).await;
        let refusal = b.refusals().1.expect("one");
        assert_eq!(refusal.code, CloseCode::UnknownMember);
        assert!(refusal.text.contains("member add"), "{refusal}");
        let error = status_of(&a, 2).last_error.expect("one");
        assert!(matches!(&*error, PeerError::RefusedByPeer { code: Some(CloseCode::UnknownMember), .. }), "{error}");
        // A cluster that adds a member tells its members one after the other: nothing to stop for.
        b.set_members(&membership(&[(1, a.local_address())]));
        connected(&a, 2).await;
    });
}

/// A cloned disk: the same incarnation, another process. And one that went back in time.
#[test]
fn a_second_process_of_one_member_is_refused() {
    run(|| async {
        let (a, b) = pair().await;
        for incarnation in [1, 0] {
            let clone = Identity { incarnation, ..identity(2) };
            let clone = start(config(clone, generated(), limits())).await;
            clone.set_members(&membership(&[(1, a.local_address())]));
            let text = event(&clone, "refused", |event| match event {
                PeerEvent::Refused { code: CloseCode::Incarnation, text, .. } => Some(text),
                PeerEvent::Connected { .. } => panic!("the clone is connected"),
                _ => None,
            })
            .await;
            assert!(text.contains("member 1") && text.contains("member 2") && text.contains("stop one"), "{text}");
        }
        // The true one notices nothing.
        a.send_control(2, 1, text("still")).expect("connected");
        let picked = |event| match event {
            PeerEvent::Control { bytes, .. } if &bytes[..] == b"still" => Some(()),
            PeerEvent::Disconnected { reason, .. } => panic!("{reason}"),
            _ => None,
        };
        event(&b, "a message", picked).await;
    });
}

/// A later process takes over, and the one before is told.
#[test]
fn a_later_process_replaces_the_one_before() {
    run(|| async {
        let (a, b) = pair().await;
        let later = start(config(Identity { incarnation: 2, ..identity(2) }, generated(), limits())).await;
        later.set_members(&membership(&[(1, a.local_address())]));
        connected(&later, 1).await;
        connected(&a, 2).await;
        let reason = disconnected(&b, 1).await;
        let told = matches!(&*reason, PeerError::RefusedByPeer { code: Some(CloseCode::Superseded), text } if text.contains("member 2"));
        assert!(told, "{reason}");
        // It goes on dialling and is refused.
        b.set_members(&membership(&[(1, a.local_address())]));
        let refused = |event| matches!(event, PeerEvent::Refused { code: CloseCode::Incarnation, .. }).then_some(());
        event(&b, "refused", refused).await;
        assert_eq!(status_of(&a, 2).incarnation, 2);
    });
}

/// An older one, and another process of the same one: a folder that was put back, or emptied. Whoever of the two dials, it is
/// the older one that is told to stop.
#[test]
fn a_process_that_was_heard_before_the_start_counts() {
    run(|| async {
        let nowhere = "127.0.0.1:9".parse().expect("an address");
        for latest in [Latest { incarnation: 5, process: None }, Latest { incarnation: 1, process: Some(77) }] {
            for older_dials in [true, false] {
                let (a, b) = (member(1).await, member(2).await);
                let mut known = membership(&[(2, if older_dials { nowhere } else { b.local_address() })]);
                known.members[0].latest = Some(latest);
                a.set_members(&known);
                b.set_members(&membership(&[(1, if older_dials { a.local_address() } else { nowhere })]));
                let refused = |event| match event {
                    PeerEvent::Refused { code: CloseCode::Incarnation, text, .. } => Some(text),
                    _ => None,
                };
                let text = event(&b, "refused", refused).await;
                assert!(
                    text.contains("member 1") && text.contains("member 2") && text.contains("add it anew"),
                    "{text}"
                );
                glommio::timer::sleep(Duration::from_millis(100)).await;
                while let Some(event) = a.try_next_event() {
                    assert!(refused(event).is_none(), "it refuses, and is told that it was refused itself");
                }
            }
        }
    });
}
