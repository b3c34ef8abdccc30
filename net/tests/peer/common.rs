use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement};
use ringstone_net::peer::TlsFiles;
use ringstone_net::peer::hello::{Features, Identity};
use ringstone_net::peer::tls::PeerTls;
use ringstone_net::peer::*;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

pub const CLUSTER: u64 = 0xc1;

/// Runs a test on an executor of its own, with the preempt timer that the shards have.
///
/// glommio 0.9 may park an executor that has work, on a busy machine; the shards' pulse wakes them from outside (core's
/// shard/pulse.rs), and so does this.
pub fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    let waker = Arc::<Mutex<Option<Waker>>>::default();
    let inside = Arc::clone(&waker);
    let builder = LocalExecutorBuilder::new(Placement::Unbound).preempt_timer(Duration::from_millis(1));
    let executor = builder.spawn(move || async move {
        glommio::spawn_local(async move {
            loop {
                let mut polled = false;
                poll_fn(|cx| {
                    *inside.lock().expect("no panic") = Some(cx.waker().clone());
                    if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
        })
        .detach();
        test().await;
    });
    let executor = executor.expect("an executor");
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let pulse = std::thread::spawn(move || {
        while ended.recv_timeout(Duration::from_millis(20)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let waker = waker.lock().expect("no panic").take();
            waker.into_iter().for_each(Waker::wake);
        }
    });
    let result = executor.join();
    drop(done);
    pulse.join().expect("no panic");
    result.expect("no panic in the test");
}

pub fn limits() -> PeerLimits {
    PeerLimits {
        handshake_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(10),
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(200),
        ..PeerLimits::default()
    }
}

pub fn identity(member_id: u64) -> Identity {
    static PROCESS: AtomicU64 = AtomicU64::new(1);
    Identity {
        cluster_id: CLUSTER,
        member_id,
        incarnation: 1,
        process: PROCESS.fetch_add(1, Ordering::Relaxed),
        features: Features::default(),
        known_features: Features::default(),
    }
}

pub fn generated() -> PeerTls {
    PeerTls::load(&TlsFiles::default()).expect("generated certificates")
}

pub fn config(identity: Identity, tls: PeerTls, limits: PeerLimits) -> PeerConfig {
    let mut state = identity.process.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let random = Box::new(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    PeerConfig { identity, listen: "127.0.0.1:0".parse().expect("an address"), tls, limits, random, nap: None }
}

pub async fn start(config: PeerConfig) -> Peers {
    Peers::new(config, &Membership::default()).await.expect("a transport")
}

/// A member that knows nobody yet.
pub async fn member(id: u64) -> Peers {
    start(config(identity(id), generated(), limits())).await
}

pub fn spec(id: u64, address: SocketAddr) -> MemberSpec {
    let address = PeerAddress { host: address.ip().to_string(), port: address.port() };
    MemberSpec { id, addresses: vec![address], latest: None }
}

pub fn membership(members: &[(u64, SocketAddr)]) -> Membership {
    Membership { members: members.iter().map(|(id, address)| spec(*id, *address)).collect(), removed: vec![] }
}

/// Makes members know each other; they are 1, 2, ...
pub fn introduce(members: &[&Peers]) {
    let all: Vec<_> = (1..).zip(members.iter().map(|member| member.local_address())).collect();
    members.iter().for_each(|member| member.set_members(&membership(&all)));
}

/// Two members that are connected. The first one has dialled: nothing crosses.
pub async fn pair() -> (Peers, Peers) {
    pair_with(limits).await
}

pub async fn pair_with(limits: impl Fn() -> PeerLimits) -> (Peers, Peers) {
    let a = start(config(identity(1), generated(), limits())).await;
    let b = start(config(identity(2), generated(), limits())).await;
    one_way(&a, &b, b.local_address());
    connected(&a, 2).await;
    connected(&b, 1).await;
    (a, b)
}

/// The first one dials the second at this address, which waits for it.
pub fn one_way(a: &Peers, b: &Peers, address: SocketAddr) {
    let waits = MemberSpec { id: 1, addresses: vec![], latest: None };
    b.set_members(&Membership { members: vec![waits], removed: vec![] });
    a.set_members(&membership(&[(2, address)]));
}

/// The first event for which `pick` returns something; others are dropped.
pub async fn event<T>(peers: &Peers, what: &str, mut pick: impl FnMut(PeerEvent) -> Option<T>) -> T {
    let found = async {
        loop {
            let event = peers.next_event().await.expect("not shut down");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    };
    within(Duration::from_secs(20), found).await.unwrap_or_else(|| panic!("no event: {what}; {:?}", peers.status()))
}

pub async fn connected(peers: &Peers, other: u64) {
    let picked = |event| matches!(event, PeerEvent::Connected { member, .. } if member == other).then_some(());
    event(peers, "connected", picked).await;
}

pub async fn disconnected(peers: &Peers, other: u64) -> std::rc::Rc<PeerError> {
    event(peers, "disconnected", |event| match event {
        PeerEvent::Disconnected { member, reason } if member == other => Some(reason),
        _ => None,
    })
    .await
}

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "in vain: {what}");
        glommio::timer::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn within<T>(duration: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut timer = pin!(glommio::timer::sleep(duration));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}

pub fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn status_of(peers: &Peers, other: u64) -> PeerStatus {
    peers.status().into_iter().find(|status| status.member == other).expect("a member")
}
