//! A cluster is grown from one member and changed by `ringstone ctl`, as an operator does it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Member, RINGSTONE, folder, free_port};

fn ctl(port: u16, words: &[&str]) -> (bool, String) {
    let endpoint = format!("--endpoints=127.0.0.1:{port}");
    let done = Command::new(RINGSTONE).arg("ctl").arg(endpoint).args(words).output().unwrap();
    let text = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (done.status.success(), text)
}

/// The words' output, as soon as it is good.
fn ctl_until(port: u16, words: &[&str], is_good: impl Fn(&str) -> bool) -> String {
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

struct Seat {
    name: &'static str,
    peer: String,
}

impl Seat {
    fn new(name: &'static str) -> Seat {
        Seat { name, peer: format!("http://127.0.0.1:{}", free_port()) }
    }

    fn start(&self, folder: &std::path::Path, cluster: &str, state: &str) -> Member {
        let flags = [
            format!("--name={}", self.name),
            format!("--listen-peer-urls={}", self.peer),
            format!("--initial-advertise-peer-urls={}", self.peer),
            format!("--initial-cluster={cluster}"),
            format!("--initial-cluster-state={state}"),
        ];
        Member::start_with(&folder.join(self.name), &flags.each_ref().map(String::as_str))
    }

    /// Its id, from a list of members.
    fn id(&self, list: &str) -> String {
        let line = list.lines().find(|line| line.contains(&self.peer)).expect("it is in the list");
        line.split(',').next().unwrap().to_owned()
    }
}

/// What `member add` says that the new member is to be started with.
fn cluster_of(added: &str) -> String {
    let line = added.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER=")).expect("it is printed");
    line.trim_matches('"').to_owned()
}

#[test]
fn one_member_becomes_three_and_the_first_one_goes() {
    let folder = folder();
    let [zero, one, two] = ["m0", "m1", "m2"].map(Seat::new);
    let first = zero.start(folder.path(), &format!("m0={}", zero.peer), "new");
    assert!(ctl(first.port, &["put", "kept", "all the way"]).0);

    let (success, refused) = ctl(first.port, &["member", "add", "m1", &format!("--peer-urls={}", zero.peer)]);
    assert!(!success && refused.contains("Peer URLs already exists"), "{refused}");
    let (success, added) = ctl(first.port, &["member", "add", "m1", &format!("--peer-urls={}", one.peer), "--learner"]);
    assert!(success && added.contains("added as learner to cluster"), "{added}");
    let second = one.start(folder.path(), &cluster_of(&added), "existing");
    let list = ctl_until(first.port, &["member", "list"], |text| text.matches("started").count() == 2);
    let (success, refused) = ctl(second.port, &["put", "kept", "not by a learner"]);
    assert!(!success && refused.contains("rpc not supported for learner"), "{refused}");
    assert!(!ctl(second.port, &["get", "kept"]).0, "a learner answers no linearizable read");
    ctl_until(second.port, &["get", "kept", "--consistency=s"], |text| text.contains("all the way"));
    ctl_until(first.port, &["member", "promote", &one.id(&list)], |text| text.contains("promoted in cluster"));

    // Any member takes the order.
    let add = ["member", "add", "m2", &format!("--peer-urls={}", two.peer)];
    let added = ctl_until(second.port, &add, |text| text.contains("added to cluster"));
    let third = two.start(folder.path(), &cluster_of(&added), "existing");
    let list = ctl_until(third.port, &["member", "list"], |text| text.matches("started").count() == 3);
    assert_eq!(ctl(third.port, &["get", "kept", "--print-value-only"]).1, "all the way\n");

    let everybody = format!("127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}", first.port, second.port, third.port);
    let moved = Command::new(RINGSTONE)
        .args(["ctl", &format!("--endpoints={everybody}"), "move-leader", &two.id(&list)])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&moved.stdout);
    assert!(text.contains(&format!("to {}", two.id(&list))), "{text}{}", String::from_utf8_lossy(&moved.stderr));

    ctl_until(second.port, &["member", "remove", &zero.id(&list)], |text| text.contains("removed from cluster"));
    let log = folder.path().join("m0.log");
    let began = Instant::now();
    while !std::fs::read_to_string(&log).unwrap().contains("was removed from its cluster") {
        assert!(began.elapsed() < Duration::from_secs(10), "a removed member ends and says why");
        std::thread::sleep(Duration::from_millis(50));
    }
    ctl_until(second.port, &["put", "kept", "on"], |text| text.contains("OK"));
    assert_eq!(ctl(third.port, &["get", "kept", "--print-value-only"]).1, "on\n");
    second.stop();
    third.stop();
}
