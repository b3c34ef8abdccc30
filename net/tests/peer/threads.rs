//! Three members on three executors.

use crate::common::*;
use ringstone_net::peer::*;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

const COUNT: u64 = 1000;

#[test]
fn three_members_on_three_threads() {
    let addresses = Arc::<Mutex<Vec<(u64, SocketAddr)>>>::default();
    // std's barrier would stop the executors; it is passed before there are connections and after all has come.
    let barrier = Arc::new(Barrier::new(3));
    let threads = [1, 2, 3].map(|id| {
        let (addresses, barrier) = (Arc::clone(&addresses), Arc::clone(&barrier));
        std::thread::spawn(move || run(move || one(id, addresses, barrier)))
    });
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

async fn one(id: u64, addresses: Arc<Mutex<Vec<(u64, SocketAddr)>>>, barrier: Arc<Barrier>) {
    let peers = member(id).await;
    addresses.lock().expect("no panic").push((id, peers.local_address()));
    barrier.wait();
    peers.set_members(&membership(&addresses.lock().expect("no panic")));
    let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
    // Dials may cross; while a connection takes over from another one, order holds on each of the two only.
    for other in &others {
        until("connected", || (status_of(&peers, *other).state != LinkState::Connecting).then_some(())).await;
    }
    glommio::timer::sleep(Duration::from_millis(700)).await;
    let begun = Instant::now();
    let mut next = [[0u64; 2]; 4];
    let mut sent = [[0u64; 2]; 4];
    while others.iter().any(|other| next[*other as usize] != [COUNT; 2] || sent[*other as usize] != [COUNT; 2]) {
        assert!(begun.elapsed() < Duration::from_secs(40), "received {next:?}, sent {sent:?}");
        for &other in &others {
            let sent = &mut sent[other as usize];
            let small = text(&format!("{id} to {other}: {}", sent[0]));
            // A few at a time: control frames beyond the queue would be dropped.
            if sent[0] < COUNT
                && status_of(&peers, other).control_waiting.0 < 100
                && peers.send_control(other, id, small).is_ok()
            {
                sent[0] += 1;
            }
            let large = [&sent[1].to_le_bytes()[..], &vec![id as u8; 20_000]].concat();
            if sent[1] < COUNT && peers.send_log(other, id, large.into()).is_ok() {
                sent[1] += 1;
            }
        }
        while let Some(event) = peers.try_next_event() {
            match event {
                PeerEvent::Control { member, group, bytes } => {
                    let next = &mut next[member as usize][0];
                    assert_eq!((group, bytes), (member, text(&format!("{member} to {id}: {next}"))));
                    *next += 1;
                }
                PeerEvent::Log { member, group, bytes } => {
                    let next = &mut next[member as usize][1];
                    assert_eq!((group, &bytes[..8]), (member, &next.to_le_bytes()[..]));
                    assert!(bytes[8..].iter().all(|byte| u64::from(*byte) == member) && bytes.len() == 20_008);
                    *next += 1;
                }
                PeerEvent::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        glommio::timer::sleep(Duration::from_micros(300)).await;
    }
    // What is sent is on its way for as long as the sender lives.
    while others.iter().any(|other| status_of(&peers, *other).log_waiting.0 > 0) {
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    glommio::timer::sleep(Duration::from_secs(1)).await;
    barrier.wait();
    peers.shutdown().await;
}
