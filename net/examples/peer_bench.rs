//! A ping between two members, alone and beside a bulk transfer each of snapshot and log; what the bulk takes.
//!   peer_bench [SECONDS]     a measurement (3)
//! Two executors on two threads of this process, over loopback. CPU is the process's: both members and the reader of the
//! bytes. Ends with `peers: N passed, M failed, 0 skipped`: each p50 beside bulk must be below 2 ms.

use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement};
use ringstone_net::LocalBoxFuture;
use ringstone_net::peer::TlsFiles;
use ringstone_net::peer::hello::{Features, Identity};
use ringstone_net::peer::tls::PeerTls;
use ringstone_net::peer::*;
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PING_P50_MAX: Duration = Duration::from_millis(2);
const PREEMPT_TIMER: Duration = Duration::from_millis(1);

fn config(member_id: u64) -> PeerConfig {
    let features = Features::default();
    let known_features = features;
    PeerConfig {
        identity: Identity { cluster_id: 1, member_id, incarnation: 1, process: member_id, features, known_features },
        listen: "127.0.0.1:0".parse().expect("an address"),
        tls: PeerTls::load(&TlsFiles::default()).expect("certificates"),
        limits: PeerLimits::default(),
        random: Box::new(|| 1 << 63),
        nap: None,
    }
}

fn know(peers: &Peers, id: u64, address: SocketAddr) {
    let addresses = vec![PeerAddress { host: address.ip().to_string(), port: address.port() }];
    peers.set_members(&Membership { members: vec![MemberSpec { id, addresses, latest: None }], removed: vec![] });
}

struct Zeros {
    until: Instant,
    sent: Rc<Cell<u64>>,
    chunk: Bytes,
}

impl SnapshotSource for Zeros {
    fn read(&mut self, _: u64, bytes_max: usize) -> LocalBoxFuture<'_, io::Result<Bytes>> {
        let bytes = if Instant::now() < self.until { self.chunk.slice(..bytes_max) } else { Bytes::new() };
        self.sent.set(self.sent.get() + bytes.len() as u64);
        Box::pin(async move { Ok(bytes) })
    }
}

/// Seconds of CPU of this process, to 10 ms.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    (fields[11].parse::<f64>().expect("a number") + fields[12].parse::<f64>().expect("a number")) / 100.0
}

async fn pings(peers: &Peers, until: Instant, pause: Duration) -> Vec<Duration> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        peers.send_control(2, 1, Bytes::from_static(&[7; 64])).expect("connected");
        loop {
            match peers.next_event().await.expect("not shut down") {
                PeerEvent::Control { .. } => break,
                PeerEvent::Disconnected { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
        times.push(begun.elapsed());
        if !pause.is_zero() {
            glommio::timer::sleep(pause).await;
        }
    }
    times.sort_unstable();
    times
}

fn row(name: &str, times: &[Duration], bytes: u64, took: Duration, cpu: f64) -> bool {
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    let (mib, gib) = (bytes as f64 / f64::from(1 << 20), bytes as f64 / f64::from(1 << 30));
    let rate = if bytes == 0 { "-".into() } else { format!("{:.0}", mib / took.as_secs_f64()) };
    let cost = if bytes == 0 { "-".into() } else { format!("{:.2}", cpu / gib) };
    println!("| {name} | {:.0} | {:.0} | {:.0} | {} | {rate} | {cost} |", at(0.5), at(0.99), at(1.0), times.len());
    bytes == 0 || times[times.len() / 2] < PING_P50_MAX
}

/// Member 2: echoes control frames, takes everything else.
async fn echo(to_first: mpsc::Sender<SocketAddr>, from_first: mpsc::Receiver<SocketAddr>) {
    let peers = Peers::new(config(2), &Membership::default()).await.expect("a transport");
    to_first.send(peers.local_address()).expect("the other thread lives");
    know(&peers, 1, from_first.recv().expect("the other thread lives"));
    while let Some(event) = peers.next_event().await {
        match event {
            PeerEvent::Control { group, bytes, .. } => peers.send_control(1, group, bytes).expect("connected"),
            PeerEvent::Snapshot { mut stream, .. } => {
                glommio::spawn_local(async move { while let Ok(Some(_)) = stream.next().await {} }).detach();
            }
            PeerEvent::Disconnected { .. } => return,
            _ => {}
        }
    }
}

async fn measure(seconds: u64, to_second: mpsc::Sender<SocketAddr>, from_second: mpsc::Receiver<SocketAddr>) -> bool {
    let peers = Rc::new(Peers::new(config(1), &Membership::default()).await.expect("a transport"));
    to_second.send(peers.local_address()).expect("the other thread lives");
    know(&peers, 2, from_second.recv().expect("the other thread lives"));
    while !matches!(peers.next_event().await.expect("not shut down"), PeerEvent::Connected { .. }) {}
    glommio::timer::sleep(Duration::from_secs(1)).await;
    println!("| | ping p50 us | p99 us | longest us | pings | MiB/s | CPU s/GiB |\n|---|---|---|---|---|---|---|");
    let until = || Instant::now() + Duration::from_secs(seconds);
    let times = pings(&peers, until(), Duration::ZERO).await;
    row("alone", &times, 0, Duration::ZERO, 0.0);
    let pause = Duration::from_millis(1);

    let (begun, cpu, end) = (Instant::now(), cpu_s(), until());
    let sent = Rc::new(Cell::new(0));
    let (sender, counter) = (Rc::clone(&peers), Rc::clone(&sent));
    let bulk = glommio::spawn_local(async move {
        let mut source = Zeros { until: end, sent: counter, chunk: vec![0; 64 << 10].into() };
        let offer = SnapshotOffer { group: 1, id: [1; 16], length: None, offset_min: 0 };
        sender.send_snapshot(2, &offer, &mut source).await.expect("a snapshot")
    });
    let times = pings(&peers, end, pause).await;
    bulk.await;
    let good = row("beside a snapshot", &times, sent.get(), begun.elapsed(), cpu_s() - cpu);

    let (begun, cpu, end) = (Instant::now(), cpu_s(), until());
    let before = peers.status()[0].sent_bytes;
    let sender = Rc::clone(&peers);
    let bulk = glommio::spawn_local(async move {
        let entries = Bytes::from(vec![0; 64 << 10]);
        while Instant::now() < end {
            // As a leader does: some messages in flight, not the whole queue.
            while sender.status()[0].log_waiting.0 < 16 {
                sender.send_log(2, 1, entries.clone()).expect("room");
            }
            glommio::timer::sleep(Duration::from_micros(100)).await;
        }
    });
    let times = pings(&peers, end, pause).await;
    bulk.await;
    let bytes = peers.status()[0].sent_bytes - before;
    let also = row("beside entries of 64 KiB", &times, bytes, begun.elapsed(), cpu_s() - cpu);
    peers.shutdown().await;
    good && also
}

fn main() {
    let seconds = std::env::args().nth(1).map_or(3, |seconds| seconds.parse().expect("seconds"));
    // glommio 0.9 may park an executor that has work where the machine is busy (core's shard/pulse.rs): that must end.
    let limit = Duration::from_secs(30 + 10 * seconds);
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        println!("no end within {limit:?}\npeers: 0 passed, 1 failed, 0 skipped");
        std::process::exit(1);
    });
    let (to_first, from_second) = mpsc::channel();
    let (to_second, from_first) = mpsc::channel();
    let executor = || LocalExecutorBuilder::new(Placement::Unbound).preempt_timer(PREEMPT_TIMER);
    let second = executor().spawn(move || echo(to_first, from_first)).expect("an executor");
    let first = executor().spawn(move || measure(seconds, to_second, from_second)).expect("an executor");
    let good = first.join().expect("no panic");
    second.join().expect("no panic");
    println!("peers: {} passed, {} failed, 0 skipped", u8::from(good), u8::from(!good));
    std::process::exit(i32::from(!good));
}
