//! Both sides dial at once: one connection stays, and nothing is silent meanwhile.

use crate::common::*;
use ringstone_net::peer::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const ROUNDS: u32 = 15;

#[test]
fn simultaneous_dials_end_with_one_connection() {
    run(|| async {
        let (mut crossed, mut longest) = (0, 0);
        for _ in 0..ROUNDS {
            let (a, b) = (Rc::new(member(1).await), Rc::new(member(2).await));
            introduce(&[&a, &b]);
            let stop = Rc::new(Cell::new(false));
            // Silence is counted in turns of a millisecond that this executor made: the machine's pauses are not the
            // connection's.
            let least = Rc::new([Cell::new(0), Cell::new(0)]);
            let silences = [(&a, 2u64), (&b, 1)].map(|(own, other)| {
                let (own, stop, least) = (Rc::clone(own), Rc::clone(&stop), Rc::clone(&least));
                glommio::spawn_local(async move {
                    let (mut silent, mut longest, mut events) = (0, 0, Vec::new());
                    let heard = &least[other as usize - 1];
                    while !stop.get() {
                        let _ = own.send_heartbeat(other, 1, text("beat"));
                        silent += 1;
                        while let Some(event) = own.try_next_event() {
                            if let PeerEvent::Control { .. } = event {
                                longest = longest.max(if heard.get() == 0 { 0 } else { silent });
                                silent = 0;
                                heard.set(heard.get() + 1);
                            } else {
                                events.push(event);
                            }
                        }
                        glommio::timer::sleep(Duration::from_millis(1)).await;
                    }
                    assert_eq!(events.len(), 1, "connected once: {events:?}");
                    longest.max(silent)
                })
            });
            glommio::timer::sleep(Duration::from_millis(900)).await;
            until("heartbeats", || least.iter().all(|heard| heard.get() > 50).then_some(())).await;
            stop.set(true);
            for silence in silences {
                longest = longest.max(silence.await);
            }
            let sides = [status_of(&a, 2), status_of(&b, 1)];
            let dialled = sides.each_ref().map(|side| side.state == LinkState::Connected { dialled: true });
            assert_ne!(dialled[0], dialled[1], "the same connection on both sides: {sides:?}");
            if sides.iter().any(|side| side.connections == 2) {
                crossed += 1;
                assert!(dialled[0], "the one that the smaller id dialled: {sides:?}");
            }
        }
        println!("{crossed} of {ROUNDS} dials crossed, longest silence {longest} turns");
        assert!(longest < 100, "{longest} turns of a millisecond without a heartbeat");
    });
}
