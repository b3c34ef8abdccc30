//! What members say that do not lead, and what one says that has no leader.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::seats::{Seat, cluster_of, ctl, ctl_until, status, three};
use crate::support::{Member, RINGSTONE, folder};
use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::{Method, TokioRuntime};
use ringstone_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
};

/// Status and body of a page.
fn page(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn page_until(port: u16, path: &str, wanted: u16, words: &str) -> String {
    let began = Instant::now();
    loop {
        let (found, body) = page(port, path);
        if found == wanted && body.contains(words) {
            return body;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{path}: {found} {body}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What is left of a lease, as a member says it.
fn remaining(port: u16, lease: &str) -> i64 {
    let text = ctl(port, &["lease", "timetolive", lease]).1;
    let at = text.find("remaining(").unwrap_or_else(|| panic!("{text}"));
    text[at + 10..].split('s').next().unwrap().parse().unwrap()
}

#[test]
fn every_member_answers_for_leases_and_of_itself() {
    let folder = folder();
    let (_, members) = three(folder.path(), &[]);
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    let granted = ctl(ports[1], &["lease", "grant", "30"]).1;
    let lease = granted.split(' ').nth(1).unwrap().to_owned();
    assert!(ctl(ports[2], &["put", "leased", "key", &format!("--lease={lease}")]).0);
    std::thread::sleep(Duration::from_secs(3));
    let told: Vec<i64> = ports.iter().map(|port| remaining(*port, &lease)).collect();
    assert!(told.iter().all(|left| (20..=29).contains(left)), "time passes everywhere: {told:?}");
    assert!(told.iter().max().unwrap() - told.iter().min().unwrap() <= 2, "all count by the leader's clock: {told:?}");
    for port in &ports {
        let (success, text) = ctl(*port, &["lease", "keep-alive", "--once", &lease]);
        assert!(success && text.contains("keepalived with TTL(30)"), "{text}");
        let left = remaining(*port, &lease);
        assert!((28..=30).contains(&left), "kept alive a moment ago: {left}");
        assert!(ctl(*port, &["lease", "list"]).1.contains(&lease));
        let keys = ctl(*port, &["lease", "timetolive", &lease, "--keys"]).1;
        assert!(keys.contains("leased"), "{keys}");
    }
    // Each says the same of the cluster, and its own of itself.
    let leaders: Vec<String> = ports.iter().map(|port| status(*port, "leader")).collect();
    assert!(leaders[0] != "0" && leaders.iter().all(|leader| *leader == leaders[0]), "{leaders:?}");
    for field in ["raftTerm", "raftIndex", "raftAppliedIndex", "dbSize", "dbSizeInUse"] {
        for port in &ports {
            let value = status(*port, field);
            assert!(value.parse::<u64>().is_ok_and(|value| value > 0), "{field} of {port}: {value}");
        }
    }
    for port in &ports {
        assert!(ctl(*port, &["alarm", "list"]).0 && ctl(*port, &["defrag"]).0);
        assert!(ctl(*port, &["endpoint", "health"]).1.contains("is healthy"));
        for (path, wanted) in [("/health", 200), ("/readyz", 200), ("/livez", 200)] {
            let (found, body) = page(*port, path);
            assert_eq!(found, wanted, "{path}: {body}");
        }
    }
    assert!(ctl(ports[0], &["lease", "revoke", &lease]).0);
    for port in &ports {
        assert!(ctl(*port, &["lease", "timetolive", &lease]).1.contains("already expired"));
        assert_eq!(ctl(*port, &["get", "leased"]).1, "");
    }
    members.into_iter().for_each(Member::stop);
}

type Told = std::thread::JoinHandle<(bool, String)>;

/// `ctl` beside this test, for a member that may have no leader.
fn ask(port: u16, words: &[&str]) -> Told {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    std::thread::spawn(move || {
        let words: Vec<&str> = ["--command-timeout=15s"].into_iter().chain(words.iter().map(String::as_str)).collect();
        ctl(port, &words)
    })
}

/// What each of them says; all have come about.
fn succeed<const N: usize>(waiting: [Told; N]) -> [String; N] {
    let told = waiting.map(|told| told.join().unwrap());
    assert!(told.iter().all(|(success, _)| *success), "{told:?}");
    told.map(|(_, text)| text)
}

/// A leader's end is a wait for those whose requests no leader has; so is a leader that is not there yet.
#[test]
fn requests_wait_for_the_next_leader() {
    let folder = folder();
    let (seats, mut members) = three(folder.path(), &[]);
    let cluster = cluster_of(&seats);
    let granted = ctl(members[0].port, &["lease", "grant", "60"]).1;
    let lease = granted.split(' ').nth(1).unwrap().to_owned();
    assert!(ctl(members[0].port, &["put", "before", "1"]).0);
    let list = ctl(members[0].port, &["member", "list"]).1;

    // Killed: the others elect, and who asks one of them meanwhile need not know.
    let leader = status(members[0].port, "leader");
    let first = members.iter().position(|member| status(member.port, "member_id") == leader).unwrap();
    drop(members.remove(first));
    let port = members[0].port;
    let killed = seats[first].id(&list);
    let learner = format!("--peer-urls={}", Seat::new("l0").peer);
    let moved = format!("--peer-urls={}", Seat::new("moved").peer);
    // (What changes something may have gone to the one that was killed, and is told that its outcome is unknown, as by etcd.)
    let waiting = [
        ask(port, &["lease", "keep-alive", "--once", &lease]),
        ask(port, &["lease", "timetolive", &lease]),
        ask(port, &["member", "list"]),
    ];
    succeed(waiting);
    assert!(ctl(port, &["member", "add", "l0", &learner, "--learner"]).0);
    assert!(ctl(port, &["member", "update", &killed, &moved]).0);
    let list = ctl(port, &["member", "list"]).1;
    assert!(list.contains(moved.trim_start_matches("--peer-urls=")) && list.lines().count() == 4, "{list}");
    let learner = list.lines().find(|line| line.ends_with("true")).unwrap().split(',').next().unwrap();

    // Nobody leads now, whoever did before.
    let other = (0..3).rfind(|seat| *seat != first).unwrap();
    members.drain(1..).for_each(Member::stop);
    page_until(port, "/health", 503, "RAFT NO LEADER");
    let waiting = [
        ask(port, &["put", "after", "2"]),
        ask(port, &["get", "before"]),
        ask(port, &["member", "remove", learner]),
        ask(port, &["lease", "keep-alive", "--once", &lease]),
        ask(port, &["lease", "timetolive", &lease]),
        ask(port, &["member", "list"]),
    ];
    std::thread::sleep(Duration::from_millis(500));
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    let again = seats[other].spawn(folder.path(), &cluster, &[]);
    let told = succeed(waiting);
    assert!(told[3].contains("keepalived with TTL(60)"), "{told:?}");
    again.wait_until_ready();
    let revision = ctl(again.port, &["get", "after", "-w", "json"]).1;
    assert!(revision.contains("\"version\":1"), "it came about once: {revision}");
    assert_eq!(ctl(again.port, &["member", "list"]).1.lines().count(), 3);
    again.stop();
}

#[test]
fn a_member_without_a_leader_says_so() {
    let folder = folder();
    let (_, mut members) = three(folder.path(), &[]);
    let port = members[0].port;
    assert!(ctl(port, &["put", "kept", "here"]).0);
    let granted = ctl(port, &["lease", "grant", "60"]).1;
    let lease = granted.split(' ').nth(1).unwrap();
    let own = status(port, "member_id").parse::<u64>().map(|id| format!("{id:x}")).unwrap();
    ctl_until(port, &["get", "kept", "--consistency=s"], |text| text.contains("here"));
    // ctl's watches ask for a leader, as etcdctl's do.
    let watch = Command::new(RINGSTONE)
        .args(["ctl", &format!("--endpoints=127.0.0.1:{port}"), "watch", "kept"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    drop(members.split_off(1));
    page_until(port, "/health", 503, "RAFT NO LEADER");
    let body = page_until(port, "/readyz", 503, "no leader");
    assert!(body.contains("[-]linearizable_read failed"), "{body}");
    assert_eq!(page(port, "/livez").0, 200);
    assert_eq!(page(port, "/health?serializable=true").0, 200);
    assert!(ctl(port, &["get", "kept", "--consistency=s"]).1.contains("here"));
    // As in etcd: 5 s and two election timeouts; what its leader does itself is told that there is none.
    let began = Instant::now();
    let waiting = [
        (&["put", "kept", "nowhere"][..], "etcdserver: request timed out"),
        (&["get", "kept"], "etcdserver: request timed out"),
        (&["member", "list"], "etcdserver: request timed out"),
        (&["member", "remove", &own], "etcdserver: request timed out"),
        (&["member", "promote", &own], "etcdserver: no leader"),
        (&["lease", "keep-alive", "--once", lease], "etcdserver: no leader"),
        (&["lease", "timetolive", lease], "etcdserver: no leader"),
    ];
    for (words, why, told) in waiting.map(|(words, why)| (words, why, ask(port, words))) {
        let (success, text) = told.join().unwrap();
        assert!(!success && text.contains(why), "{words:?}: {text}");
        assert!((6..12).contains(&began.elapsed().as_secs()), "{words:?}: {:?}", began.elapsed());
    }
    let began = Instant::now();
    let mut errors = String::new();
    while !(errors.contains("no leader") && errors.matches("is not connected").count() == 2) {
        assert!(began.elapsed() < Duration::from_secs(20), "{errors}");
        std::thread::sleep(Duration::from_millis(200));
        errors = status(port, "errors");
    }
    assert_eq!(status(port, "leader"), "");
    let ended = watch.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(text.contains("no leader"), "{text}");
}

/// A client keeps all its leases alive on one stream, and reads what it was sent later.
#[test]
fn thousands_of_keep_alives_through_a_follower() {
    const LEASES: i64 = 200;
    const ROUNDS: i64 = 20;
    let folder = folder();
    let (_, members) = three(folder.path(), &[]);
    let leader = status(members[0].port, "leader");
    let follower = members.iter().find(|member| status(member.port, "member_id") != leader).unwrap();
    let address = format!("127.0.0.1:{}", follower.port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let client = Client::connect(stream, &ClientOptions::new(address), &TokioRuntime::default()).await.unwrap();
        for id in 1..=LEASES {
            let request = LeaseGrantRequest { id, ttl: 60 };
            let granted: LeaseGrantResponse =
                client.unary(Method::LeaseGrant, &request, &CallOptions::default()).await.unwrap();
            assert_eq!(granted.ttl, 60);
        }
        let opened = client.open::<LeaseKeepAliveResponse>(Method::LeaseKeepAlive, &CallOptions::default()).await;
        let (mut requests, mut responses) = opened.unwrap();
        let ids = || (0..ROUNDS).flat_map(|_| 1..=LEASES);
        let asking = async {
            for id in ids() {
                requests.send(&LeaseKeepAliveRequest { id }).await.unwrap();
            }
        };
        let hearing = async {
            for id in ids() {
                let answer = responses.next().await.unwrap().expect("one for each");
                assert_eq!((answer.id, answer.ttl), (id, 60));
            }
        };
        let began = Instant::now();
        tokio::join!(asking, hearing);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{} keep-alives took {took:?}", LEASES * ROUNDS);
    });
    members.into_iter().for_each(Member::stop);
}
