//! Members of a cluster, and what an operator does with them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Member, RINGSTONE, free_port};

pub fn ctl(port: u16, words: &[&str]) -> (bool, String) {
    let endpoint = format!("--endpoints=127.0.0.1:{port}");
    let done = Command::new(RINGSTONE).arg("ctl").arg(endpoint).args(words).output().unwrap();
    let text = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (done.status.success(), text)
}

/// The words' output, as soon as it is good.
pub fn ctl_until(port: u16, words: &[&str], is_good: impl Fn(&str) -> bool) -> String {
    let began = Instant::now();
    loop {
        let (success, text) = ctl(port, words);
        if success && is_good(&text) {
            return text;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{words:?}: {text}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a member says of itself: a field of `endpoint status -w json`, as it stands there.
pub fn status(port: u16, field: &str) -> String {
    let text = ctl(port, &["endpoint", "status", "-w", "json"]).1;
    let key = format!("\"{field}\":");
    let Some(at) = text.find(&key) else { return String::new() };
    let rest = &text[at + key.len()..];
    let end = if rest.starts_with('[') { rest.find(']').map(|end| end + 1) } else { rest.find([',', '}']) };
    rest[..end.unwrap_or(rest.len())].to_owned()
}

/// A place of a member: its name and its peer URL.
#[derive(Clone)]
pub struct Seat {
    pub name: &'static str,
    pub peer: String,
}

impl Seat {
    pub fn new(name: &'static str) -> Seat {
        Seat { name, peer: format!("http://127.0.0.1:{}", free_port()) }
    }

    pub fn peer_port(&self) -> u16 {
        self.peer.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    pub fn flags(&self, cluster: &str, state: &str) -> Vec<String> {
        vec![
            format!("--name={}", self.name),
            format!("--listen-peer-urls={}", self.peer),
            format!("--initial-advertise-peer-urls={}", self.peer),
            format!("--initial-cluster={cluster}"),
            format!("--initial-cluster-state={state}"),
        ]
    }

    pub fn spawn(&self, folder: &Path, cluster: &str, more: &[&str]) -> Member {
        let flags = self.flags(cluster, "new");
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Member::spawn(&folder.join(self.name), &flags)
    }

    pub fn start(&self, folder: &Path, cluster: &str, state: &str) -> Member {
        let flags = self.flags(cluster, state);
        Member::start_with(&folder.join(self.name), &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Its id, from a list of members.
    pub fn id(&self, list: &str) -> String {
        let line = list.lines().find(|line| line.contains(&self.peer)).expect("it is in the list");
        line.split(',').next().unwrap().to_owned()
    }
}

/// `--initial-cluster` for these.
pub fn cluster_of(seats: &[Seat]) -> String {
    seats.iter().map(|seat| format!("{}={}", seat.name, seat.peer)).collect::<Vec<_>>().join(",")
}

/// Three members of a new cluster, ready.
pub fn three(folder: &Path, more: &[&str]) -> ([Seat; 3], Vec<Member>) {
    let seats = ["m0", "m1", "m2"].map(Seat::new);
    let cluster = cluster_of(&seats);
    let members: Vec<Member> = seats.iter().map(|seat| seat.spawn(folder, &cluster, more)).collect();
    members.iter().for_each(Member::wait_until_ready);
    (seats, members)
}
