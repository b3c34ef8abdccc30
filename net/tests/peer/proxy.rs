//! A path between two members that the test can spoil: it forwards datagrams, and drops, doubles, delays or reorders some.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What happens to datagrams.
#[derive(Default)]
pub struct Path {
    /// Of a thousand, this many are dropped, this many doubled, and this many come up to 20 ms late (and so reordered).
    pub per_mille: AtomicUsize,
    /// Longer ones are dropped; 0: none.
    pub bytes_max: AtomicUsize,
    /// None passes.
    pub cut: AtomicBool,
    pub spoiled: AtomicU64,
    stop: AtomicBool,
}

/// Ends its thread when it is dropped.
pub struct Proxy {
    pub path: Arc<Path>,
    /// Where the first member's datagrams to the second go, and the other way round.
    pub to_second: SocketAddr,
    pub to_first: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    pub fn between(first: SocketAddr, second: SocketAddr) -> Self {
        let path = Arc::new(Path::default());
        let open = || UdpSocket::bind("127.0.0.1:0").expect("a port");
        let (near_first, near_second) = (open(), open());
        let address = |socket: &UdpSocket| socket.local_addr().expect("an address");
        let (to_second, to_first) = (address(&near_first), address(&near_second));
        for socket in [&near_first, &near_second] {
            socket.set_nonblocking(true).expect("a socket");
        }
        let own = Arc::clone(&path);
        let thread = std::thread::spawn(move || forward(&own, [(near_first, first), (near_second, second)]));
        Proxy { path, to_second, to_first, thread: Some(thread) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.path.stop.store(true, Relaxed);
        self.thread.take().expect("joined once").join().expect("no panic");
    }
}

/// Two ends; what comes in at one leaves from the other.
fn forward(path: &Path, ends: [(UdpSocket, SocketAddr); 2]) {
    let mut late: Vec<(Instant, usize, Vec<u8>)> = Vec::new();
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut buffer = vec![0; 65_536];
    while !path.stop.load(Relaxed) {
        let mut idle = true;
        for from in [0, 1] {
            let Ok((length, _)) = ends[from].0.recv_from(&mut buffer) else { continue };
            idle = false;
            let to = 1 - from;
            let send = |bytes: &[u8]| {
                let _ = ends[to].0.send_to(bytes, ends[to].1);
            };
            let max = path.bytes_max.load(Relaxed);
            if path.cut.load(Relaxed) || (max != 0 && length > max) {
                path.spoiled.fetch_add(1, Relaxed);
                continue;
            }
            let (chance, spoils) = (random() % 1000, path.per_mille.load(Relaxed));
            if chance < 3 * spoils {
                path.spoiled.fetch_add(1, Relaxed);
            }
            if chance < spoils {
                continue;
            } else if chance < 2 * spoils {
                send(&buffer[..length]);
                send(&buffer[..length]);
            } else if chance < 3 * spoils {
                let at = Instant::now() + Duration::from_micros(random() as u64 % 20_000);
                late.push((at, to, buffer[..length].to_vec()));
            } else {
                send(&buffer[..length]);
            }
        }
        let now = Instant::now();
        late.retain(|(at, to, bytes)| {
            if *at <= now {
                let _ = ends[*to].0.send_to(bytes, ends[*to].1);
            }
            *at > now
        });
        if idle {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
