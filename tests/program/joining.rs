//! A member that joins, and whose process ends while the state comes to it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::seats::{Seat, ctl, ctl_until};
use crate::support::{Member, RINGSTONE, folder};

/// Page files that are being made, and their marks, with their lengths.
fn made(data_dir: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(data_dir.join("member")).into_iter().flatten().flatten();
    let made = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        name.starts_with("image-").then(|| (name, entry.metadata().map_or(0, |metadata| metadata.len())))
    });
    made.collect()
}

fn spawn(seat: &Seat, folder: &Path, cluster: &str) -> Member {
    let flags = seat.flags(cluster, "existing");
    Member::spawn(&folder.join(seat.name), &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What had come was thrown away, and all of it was sent again.
#[test]
fn a_member_goes_on_joining_where_its_killed_process_was() {
    let folder = folder();
    let [zero, one] = ["m0", "m1"].map(Seat::new);
    let first = zero.start(folder.path(), &format!("m0={}", zero.peer), "new");
    let endpoint = format!("--endpoint=127.0.0.1:{}", first.port);
    let put =
        ["bench", "put", &endpoint, "--keys=160", "--value-size=1000000", "--warm-up=0s", "--duration=1s", "--keep"];
    assert!(Command::new(RINGSTONE).args(put).stdout(Stdio::null()).status().unwrap().success());
    assert!(ctl(first.port, &["put", "last", "of all"]).0);
    let (success, added) = ctl(first.port, &["member", "add", "m1", &format!("--peer-urls={}", one.peer), "--learner"]);
    assert!(success, "{added}");

    let cluster = format!("m0={},m1={}", zero.peer, one.peer);
    let data_dir = folder.path().join(one.name);
    let second = spawn(&one, folder.path(), &cluster);
    let began = Instant::now();
    // One checkpoint of what comes is behind it, each of 64 MiB.
    while !made(&data_dir).iter().any(|(_, length)| *length > 100 << 20) {
        assert!(began.elapsed() < Duration::from_secs(60), "it comes:\n{}", second.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(second);
    let left = made(&data_dir);
    assert_eq!(left.len(), 2, "{left:?}");

    let second = spawn(&one, folder.path(), &cluster);
    second.wait_for_log("an image that was interrupted goes on");
    first.wait_for_log("was sent the whole state");
    ctl_until(second.port, &["get", "last", "--consistency=s"], |text| text.contains("of all"));
    assert!(made(&data_dir).is_empty(), "nothing is left");
    let list = ctl(first.port, &["member", "list"]).1;
    ctl_until(first.port, &["member", "promote", &one.id(&list)], |text| text.contains("promoted in cluster"));
    let hash = |member: &Member| {
        let sum = ctl_until(member.port, &["endpoint", "hashkv", "-w", "json"], |text| text.contains("hash\""));
        sum.split("\"hash\":").nth(1).unwrap().split([',', '}']).next().unwrap().to_owned()
    };
    assert_eq!(hash(&first), hash(&second));
    second.stop();
    first.stop();
}
