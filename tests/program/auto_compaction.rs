//! `--auto-compaction-*` of a member that runs: the history goes, the log says so in etcd's words, and what can't be is refused.
//! When a compaction is due is tested with a clock of its own in core/src/compactor.rs.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::{Member, RINGSTONE, arguments, folder, free_port};

fn ctl(member: &Member, words: &[&str]) -> Output {
    let endpoint = format!("--endpoints=127.0.0.1:{}", member.port);
    Command::new(RINGSTONE).arg("ctl").arg(endpoint).args(words).output().unwrap()
}

#[test]
fn the_history_behind_the_period_goes() {
    let root = folder();
    let data = root.path().join("data");
    let member = Member::start_with(&data, &["--auto-compaction-mode=periodic", "--auto-compaction-retention=300ms"]);
    for value in ["one", "two", "three"] {
        assert!(ctl(&member, &["put", "key", value]).status.success());
    }
    let began = Instant::now();
    loop {
        let old = ctl(&member, &["get", "key", "--rev=2"]);
        if String::from_utf8_lossy(&old.stderr).contains("required revision has been compacted") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it is compacted: {old:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(String::from_utf8_lossy(&ctl(&member, &["get", "key"]).stdout).contains("three"));
    // Nothing more is written: the revision has been compacted to, and stays.
    std::thread::sleep(Duration::from_millis(1_500));
    let log = fs::read_to_string(data.with_extension("log")).unwrap();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    let done = lines("\"completed auto periodic compaction\"");
    assert_eq!(lines("\"starting auto periodic compaction\""), done, "{log}");
    assert!((1..=4).contains(&done), "{log}");
    let last = log.lines().rfind(|line| line.contains("completed auto periodic compaction")).unwrap();
    assert!(last.contains("\"revision\":4") && last.contains("\"compact-period\":\"300ms\""), "{last}");
    member.stop();
}

#[test]
fn without_the_flags_nothing_goes() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    for value in ["one", "two", "three"] {
        assert!(ctl(&member, &["put", "key", value]).status.success());
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(String::from_utf8_lossy(&ctl(&member, &["get", "key", "--rev=2"]).stdout).contains("one"));
    member.stop();
}

#[test]
fn what_can_not_be_is_refused() {
    let root = folder();
    for (flags, named) in [
        (&["--auto-compaction-retention=-1"][..], "negative"),
        (&["--auto-compaction-retention=-1h"], "negative"),
        (&["--auto-compaction-retention=5x"], "CompactionRetention: \"5x\""),
        (&["--auto-compaction-retention=9999999999999"], "ten years"),
        (&["--auto-compaction-mode=hourly"], "unknown auto-compaction-mode \"hourly\""),
        (&["--auto-compaction-mode=revision", "--auto-compaction-retention=-5"], "negative"),
    ] {
        let data = root.path().join("refused");
        let output = Command::new(RINGSTONE).args(arguments(&data, free_port())).args(flags).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {text}");
        assert!(text.contains(named), "{flags:?}: {text}");
        assert!(!data.exists(), "{flags:?}: nothing was made");
    }
}
