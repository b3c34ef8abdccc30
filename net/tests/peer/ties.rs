//! Both sides dial at once: one connection stays, and nothing is silent meanwhile.

use crate::common::*;
use ringstone_net::peer::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[test]
fn simultaneous_dials_end_with_one_connection() {
    run(|| async {
        let (mut crossed, mut longest) = (0, Duration::ZERO);
        for _ in 0..15 {
            let (a, b) = (Rc::new(member(1).await), Rc::new(member(2).await));
            introduce(&[&a, &b]);
            let stop = Rc::new(Cell::new(false));
            let gaps = [(&a, 2u64), (&b, 1)].map(|(own, other)| {
                let (own, stop) = (Rc::clone(own), Rc::clone(&stop));
                glommio::spawn_local(async move {
                    let (mut last, mut gap, mut events) = (None::<Instant>, Duration::ZERO, Vec::new());
                    while !stop.get() {
                        let _ = own.send_heartbeat(other, 1, text("beat"));
                        while let Some(event) = own.try_next_event() {
                            if let PeerEvent::Control { .. } = event {
                                let now = Instant::now();
                                gap = gap.max(last.map_or(Duration::ZERO, |last| now - last));
                                last = Some(now);
                            } else {
                                events.push(event);
                            }
                        }
                        glommio::timer::sleep(Duration::from_millis(1)).await;
                    }
                    assert!(last.is_some_and(|last| last.elapsed() < Duration::from_millis(500)), "silent at the end");
                    assert_eq!(events.len(), 1, "connected once: {events:?}");
                    gap
                })
            });
            glommio::timer::sleep(Duration::from_millis(900)).await;
            stop.set(true);
            for gap in gaps {
                longest = longest.max(gap.await);
            }
            let sides = [status_of(&a, 2), status_of(&b, 1)];
            let dialled = sides.each_ref().map(|side| side.state == LinkState::Connected { dialled: true });
            assert_ne!(dialled[0], dialled[1], "the same connection on both sides: {sides:?}");
            if sides.iter().any(|side| side.connections == 2) {
                crossed += 1;
                assert!(dialled[0], "the one that the smaller id dialled: {sides:?}");
            }
        }
        println!("{crossed} of 15 dials crossed, longest silence {longest:?}");
        // A round trip is some 50 us here; the machine's other load is the rest.
        assert!(longest < Duration::from_millis(300), "{longest:?} without a heartbeat");
    });
}
