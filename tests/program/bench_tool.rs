//! `ringstone bench` itself: small runs against a member, and everything that can't be.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Member, RINGSTONE, folder, free_port};
use serde_json::Value;

fn bench(words: &str) -> Output {
    let output = Command::new(RINGSTONE).arg("bench").args(words.split_whitespace()).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    output
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn keys_left(member: &Member) -> String {
    let endpoint = format!("--endpoints=127.0.0.1:{}", member.port);
    let words = ["ctl", &endpoint, "get", "--prefix", "--count-only", "--write-out=fields", "/registry/bench/"];
    let output = Command::new(RINGSTONE).args(words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find(|line| line.starts_with("\"Count\"")).unwrap().to_owned()
}

const SMALL: &str = "--keys 200 --duration 300ms --warm-up 50ms --connections 2 --inflight 2 --format json";

#[test]
fn each_workload_runs_without_errors_and_leaves_nothing() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let workloads = [
        "put",
        "get",
        "serializable-get",
        "range",
        "range-10000",
        "count",
        "count-old",
        "txn",
        "delete",
        "lease --leases 5",
        "watch --watchers 3",
        "kubernetes --watchers 3 --compact-every 50ms",
    ];
    for workload in workloads {
        let output = bench(&format!("{workload} --endpoint 127.0.0.1:{} {SMALL} --rounds 2", member.port));
        assert!(output.status.success(), "{workload}: {output:?}");
        let report = report(&output);
        assert!(report["all"]["operations"].as_u64().unwrap() > 0, "{workload}: {report}");
        assert_eq!(report["all"]["errors"], 0, "{workload}: {report}");
        assert_eq!(report["rounds"].as_array().unwrap().len(), 2, "{workload}");
        assert_eq!(report["partial"], Value::Null, "{workload}");
        assert_eq!(keys_left(&member), "\"Count\" : 0", "{workload}");
    }
    let kept = bench(&format!("put --endpoint 127.0.0.1:{} {SMALL} --keep", member.port));
    assert!(kept.status.success());
    assert_eq!(keys_left(&member), "\"Count\" : 200");
    // Keys of a run before are used and stay.
    let again = bench(&format!("get --endpoint 127.0.0.1:{} {SMALL} --preload=false", member.port));
    assert!(again.status.success());
    assert_eq!(keys_left(&member), "\"Count\" : 200");
    member.stop();
}

#[test]
fn a_rate_is_kept_or_said_to_be_missed() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let kept = bench(&format!("get --endpoint 127.0.0.1:{} {SMALL} --duration 2s --rate 100", member.port));
    assert!(kept.status.success(), "{kept:?}");
    let operations = report(&kept)["all"]["operations"].as_u64().unwrap();
    assert!((190..=210).contains(&operations), "{operations}");
    let missed = bench(&format!("put --endpoint 127.0.0.1:{} {SMALL} --duration 1s --rate 5000000", member.port));
    assert_eq!(missed.status.code(), Some(1), "{missed:?}");
    assert_eq!(report(&missed)["partial"], "rate_not_reached");
    assert!(String::from_utf8_lossy(&missed.stderr).contains("of 5000000 operations a second were done"), "{missed:?}");
    assert_eq!(keys_left(&member), "\"Count\" : 0");
    member.stop();
}

#[test]
fn ctrl_c_gives_what_there_is_and_leaves_nothing() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let words = format!("put --endpoint 127.0.0.1:{} {SMALL} --duration 60s", member.port);
    let mut command = Command::new(RINGSTONE);
    command.arg("bench").args(words.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let sent = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let began = Instant::now();
    let status = running.wait().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "it ends soon");
    let mut text = String::new();
    running.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(status.code(), Some(130), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["partial"], "interrupted");
    assert!(report["all"]["operations"].as_u64().unwrap() > 0, "{text}");
    assert!(report["all"]["seconds"].as_f64().unwrap() < 10.0, "{text}");
    assert_eq!(keys_left(&member), "\"Count\" : 0");
    member.stop();
}

#[test]
fn a_server_that_goes_away_is_said() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let words = format!("get --endpoint 127.0.0.1:{} {SMALL} --duration 60s", member.port);
    let mut command = Command::new(RINGSTONE);
    command.arg("bench").args(words.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    drop(member);
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(report(&output)["partial"], "server_gone");
    assert!(String::from_utf8_lossy(&output.stderr).contains("may still be there"), "its keys could not be deleted");
}

#[test]
fn who_is_no_etcd_is_named() {
    let nobody = free_port();
    // One that speaks another language, and one that says nothing.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let web_port = web.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    for port in [nobody, web_port, silent_port] {
        let output = bench(&format!("put --endpoint 127.0.0.1:{port} {SMALL}"));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.starts_with(&format!("ringstone bench: 127.0.0.1:{port} can't be reached")), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(output.stdout.is_empty());
    }
    for (words, status, named) in [
        ("put --endpoint nonsense", 1, "can't be reached"),
        ("put --keys 0", 2, "must be above 0"),
        ("put --server-pid 999999999", 1, "process 999999999"),
        ("compare --etcd /no/such/etcd", 1, "/no/such/etcd"),
        ("compare --etcd /bin/true --workloads dance", 2, "--workloads"),
        ("compare --etcd /bin/true --folder /no/such/folder", 1, "/no/such/folder"),
        ("compare --etcd /bin/true --server-core 9999", 1, "9999"),
        ("compare --etcd /bin/true --members 2", 2, "3 or 5 members"),
        ("compare", 2, "--etcd"),
    ] {
        let output = bench(words);
        assert_eq!(output.status.code(), Some(status), "{words}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(named), "{words}: {output:?}");
    }
}

#[test]
fn a_comparison_with_itself_measures_one() {
    let root = folder();
    // "etcd" is this program with etcd's command line: what is compared is not the point here, but that all parts are there.
    let words = format!(
        "compare --etcd {RINGSTONE} --folder {0} --report {0}/report.md --keys 500 --duration 300ms --warm-up 50ms --rounds 2 \
         --workloads put,get --restarts 1 --same-rate 50 --generator-core 0 --connections 2",
        root.path().display()
    );
    let output = bench(&words);
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(root.path().join("report.md")).unwrap();
    for part in [&words[..], "| put |", "| get |", "| put at 50/s |", "one client alone", "SIGKILL", "anonymous MiB"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "only the report is left");
}

#[test]
fn a_comparison_of_clusters() {
    let root = folder();
    let words = format!(
        "compare --etcd {RINGSTONE} --folder {0} --report {0}/report.md --keys 300 --duration 300ms --warm-up 50ms --rounds 1 \
         --workloads put,get --restarts 1 --same-rate 50 --generator-core 0 --connections 3 --inflight 2 --members 3",
        root.path().display()
    );
    let output = bench(&words);
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(root.path().join("report.md")).unwrap();
    for part in
        ["3 members each", "| put |", "| get |", "| put at 50/s |", "one client alone", "SIGKILL", "anonymous MiB"]
    {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!text.contains("calls failed"), "{text}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "only the report is left");
}
