//! What `ringstone ctl` does with several calls: locks, elections, mirrors, checks; and what it leaves when a signal ends it.
//! That both print the same is tests/clients' to show.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Member, RINGSTONE, folder};

fn command(member: &Member, words: &[&str]) -> Command {
    let mut command = Command::new(RINGSTONE);
    command.arg("ctl").arg(format!("--endpoints=127.0.0.1:{}", member.port)).args(words);
    command
}

fn ctl(member: &Member, words: &[&str]) -> Output {
    command(member, words).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A command that goes on until it is told to end; killed with the value.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(member: &Member, words: &[&str]) -> Running {
        let mut child = command(member, words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn interrupt(mut self) -> Option<i32> {
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn keys(member: &Member, prefix: &str) -> usize {
    text(&ctl(member, &["get", "--prefix", "--keys-only", prefix])).lines().filter(|line| !line.is_empty()).count()
}

#[test]
fn a_lock_is_held_by_one_and_passed_on() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let done = ctl(&member, &["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV; exit 3"]);
    assert_eq!(done.status.code(), Some(3));
    assert!(text(&done).starts_with("l/") && text(&done).trim_end().ends_with(" 2"), "{done:?}");
    assert_eq!(keys(&member, "l/"), 0, "unlocked");

    let mut first = Running::start(&member, &["lock", "l"]);
    let held = first.line();
    assert!(held.starts_with("l/"), "{held}");
    let mut second = Running::start(&member, &["lock", "l", "--ttl=5"]);
    until("the second one waits", || keys(&member, "l/") == 2);
    assert_eq!(first.interrupt(), Some(0));
    let passed = second.line();
    assert!(passed.starts_with("l/") && passed != held, "{passed}");
    // Killed: the lock is free once the lease has ended.
    drop(second);
    until("the lease ends", || keys(&member, "l/") == 0);
    assert_eq!(ctl(&member, &["lock"]).status.code(), Some(128));
    member.stop();
}

#[test]
fn an_election_has_one_leader_and_an_observer_sees_each() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let mut observer = Running::start(&member, &["elect", "e", "-l"]);
    let mut first = Running::start(&member, &["elect", "e", "one"]);
    assert!(first.line().starts_with("e/"));
    assert_eq!(first.line(), "one");
    let mut second = Running::start(&member, &["elect", "e", "two"]);
    until("the second one stands", || keys(&member, "e/") == 2);
    assert_eq!(first.interrupt(), Some(0));
    assert!(second.line().starts_with("e/"));
    assert_eq!(second.line(), "two");
    let seen: Vec<String> = (0..4).map(|_| observer.line()).collect();
    assert_eq!((seen[1].as_str(), seen[3].as_str()), ("one", "two"));
    assert_eq!(second.interrupt(), Some(0));
    assert_eq!(observer.interrupt(), Some(0));
    assert_eq!(keys(&member, "e/"), 0);
    for words in [&["elect", "e"][..], &["elect", "e", "x", "-l"], &["elect"]] {
        assert_eq!(ctl(&member, words).status.code(), Some(128), "{words:?}");
    }
    member.stop();
}

#[test]
fn a_mirror_has_what_is_there_and_what_comes() {
    let root = folder();
    let (from, to) = (Member::start(&root.path().join("from")), Member::start(&root.path().join("to")));
    let destination = format!("127.0.0.1:{}", to.port);
    for (key, value) in [("m/a", "1"), ("m/b", "2"), ("other", "3")] {
        assert!(ctl(&from, &["put", key, value]).status.success());
    }
    let mirror = Running::start(&from, &["make-mirror", "--prefix=m/", "--dest-prefix=copy/", &destination]);
    until("the copy", || keys(&to, "") == 2);
    assert!(ctl(&from, &["put", "m/c", "4"]).status.success());
    assert!(ctl(&from, &["del", "m/a"]).status.success());
    let expected = "copy/b\n2\ncopy/c\n4\n";
    until("the changes", || text(&ctl(&to, &["get", "--prefix", ""])) == expected);
    assert_eq!(mirror.interrupt(), Some(5));
    let both = ["make-mirror", "--dest-prefix=x", "--no-dest-prefix", &destination];
    assert_eq!(ctl(&from, &both).status.code(), Some(128));
    assert_eq!(ctl(&from, &["make-mirror"]).status.code(), Some(128));
    to.stop();
    from.stop();
}

#[test]
fn a_check_says_what_it_found_and_deletes_its_keys() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let checked = ctl(&member, &["check", "perf", "--duration=2s", "--auto-compact", "--auto-defrag"]);
    // Whether it passes is the machine's to say.
    let said = text(&checked);
    let last = said.lines().last().unwrap();
    assert_eq!(
        (last, checked.status.code()),
        if last == "PASS" { ("PASS", Some(0)) } else { ("FAIL", Some(1)) },
        "{said}"
    );
    assert!(said.contains("Throughput") && said.contains("Slowest request") && said.contains("Stddev"), "{said}");
    assert!(said.contains("Compacted with revision") && said.contains("Finished defragmenting"), "{said}");
    assert_eq!(keys(&member, "/etcdctl-check-perf/"), 0);

    let running = Running::start(&member, &["check", "perf"]);
    until("it puts", || keys(&member, "/etcdctl-check-perf/") > 10);
    let ended = running.interrupt();
    assert!(matches!(ended, Some(1 | 5)), "{ended:?}");
    assert_eq!(keys(&member, "/etcdctl-check-perf/"), 0, "after Ctrl-C");

    assert!(ctl(&member, &["put", "mine/1", "x"]).status.success());
    let refused = ctl(&member, &["check", "perf", "--prefix=mine/"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(keys(&member, "mine/"), 1);
    assert_eq!(ctl(&member, &["check", "perf", "--load=huge"]).status.code(), Some(4));

    let scale = ctl(&member, &["check", "datascale"]);
    assert!(text(&scale).contains("PASS: Approximate system memory used : "), "{scale:?}");
    assert_eq!(keys(&member, "/etcdctl-check-datascale/"), 0);
    member.stop();
}
