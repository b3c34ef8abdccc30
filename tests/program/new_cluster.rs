//! A cluster that begins anew with the data of another one: three members from one snapshot, or the one that is left.

use std::path::Path;
use std::process::{Command, Output};

use crate::seats::{Seat, cluster_of, ctl, ctl_until, status, three};
use crate::support::{Member, RINGSTONE, folder};

fn restore(snapshot: &Path, data_dir: &Path, seat: &Seat, cluster: &str, more: &[&str]) -> Output {
    Command::new(RINGSTONE)
        .args(["snapshot", "restore"])
        .arg(snapshot)
        .arg(format!("--data-dir={}", data_dir.display()))
        .args(["--name", seat.name, "--initial-cluster", cluster, "--initial-cluster-token=restored"])
        .args(["--initial-advertise-peer-urls", &seat.peer])
        .args(more)
        .output()
        .unwrap()
}

/// The hash that a member says of itself, with the revision that it is of.
fn hash(port: u16) -> String {
    let text = ctl(port, &["endpoint", "hashkv", "-w", "json"]).1;
    let at = text.find("\"hash\":").unwrap_or_else(|| panic!("{text}"));
    text[at..].split('}').next().unwrap().to_owned()
}

#[test]
fn a_snapshot_becomes_a_cluster_of_three() {
    let folder = folder();
    let old = Member::start(&folder.path().join("old"));
    let lease = ctl(old.port, &["lease", "grant", "600"]).1;
    let lease = lease.split(' ').nth(1).unwrap();
    for number in 0..20 {
        assert!(ctl(old.port, &["put", &format!("key{number:02}"), &format!("value{number}")]).0);
    }
    assert!(ctl(old.port, &["put", "leased", "by the old cluster", &format!("--lease={lease}")]).0);
    let revision: i64 = status(old.port, "revision").parse().unwrap();
    let snapshot = folder.path().join("snapshot");
    assert!(ctl(old.port, &["snapshot", "save", snapshot.to_str().unwrap()]).0);
    old.stop();

    let seats = ["m0", "m1", "m2"].map(Seat::new);
    let cluster = cluster_of(&seats);
    // Flags that don't fit make nothing.
    let elsewhere = folder.path().join("elsewhere");
    for (seat, cluster, named) in [
        (&Seat::new("m9"), cluster.as_str(), "does not name this member, \"m9\""),
        (&Seat { peer: seats[1].peer.clone(), ..seats[0].clone() }, &cluster, "they must be the same"),
        (&seats[0], &format!("m0={},m1={}", seats[0].peer, seats[0].peer), "each member needs its own"),
        (&seats[0], &format!("{cluster},m3=nonsense"), "is no peer URL"),
    ] {
        let output = restore(&snapshot, &elsewhere, seat, cluster, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(named), "{text}");
        assert!(!elsewhere.exists(), "nothing was made");
    }

    for seat in &seats {
        let bump = ["--bump-revision=1000", "--mark-compacted"];
        let output = restore(&snapshot, &folder.path().join(seat.name), seat, &cluster, &bump);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let members: Vec<Member> = seats.iter().map(|seat| seat.spawn(folder.path(), &cluster, &[])).collect();
    members.iter().for_each(Member::wait_until_ready);
    for member in &members {
        let port = member.port;
        ctl_until(port, &["member", "list"], |text| text.matches("started").count() == 3);
        assert_eq!(ctl(port, &["get", "key07", "--print-value-only"]).1, "value7\n");
        let now: i64 = status(port, "revision").parse().unwrap();
        assert!(now >= revision + 1000, "{now} is not beyond {revision} and 1000");
        let (_, text) = ctl(port, &["get", "key07", &format!("--rev={revision}")]);
        assert!(text.contains("required revision has been compacted"), "{text}");
    }
    let keys = ctl(members[1].port, &["lease", "timetolive", lease, "--keys"]).1;
    assert!(keys.contains("leased") && keys.contains("granted with TTL(600s)"), "{keys}");
    assert!(ctl(members[2].port, &["put", "new", "in the new cluster"]).0);
    for member in &members {
        assert_eq!(ctl(member.port, &["get", "new", "--print-value-only"]).1, "in the new cluster\n");
    }
    let hashes: Vec<String> = members.iter().map(|member| hash(member.port)).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    members.into_iter().for_each(Member::stop);
}

#[test]
fn the_last_one_of_a_lost_quorum_goes_on_alone() {
    let folder = folder();
    let (seats, mut members) = three(folder.path(), &[]);
    let cluster = cluster_of(&seats);
    let list = ctl_until(members[0].port, &["member", "list"], |text| text.matches("started").count() == 3);
    for number in 0..50 {
        let port = members[number % 3].port;
        assert!(ctl(port, &["put", &format!("key{number:02}"), "before"]).0);
    }
    // Who leads tells the others of a commit some milliseconds after its client: killed before that, it leaves a member that has
    // the entry and does not know.
    ctl_until(members[0].port, &["get", "key49", "--consistency=s"], |text| text.contains("before"));
    // The third member may come back; the second is lost.
    drop(members.remove(2));
    drop(members.remove(1));
    // Not while another process has the folder.
    let mut second = seats[0].spawn(folder.path(), &cluster, &["--force-new-cluster", "--log-outputs=stdout"]);
    assert_eq!(second.wait_for_end(), Some(10), "the folder is in use");
    drop(members.remove(0));

    let alone = seats[0].spawn(folder.path(), &cluster, &["--force-new-cluster"]);
    alone.wait_until_ready();
    assert!(alone.log().contains("this member becomes a cluster of one"), "{}", alone.log());
    let after = ctl(alone.port, &["member", "list"]).1;
    assert_eq!((after.lines().count(), seats[0].id(&after)), (1, seats[0].id(&list)), "one member, of its old id");
    for number in 0..50 {
        let (_, text) = ctl(alone.port, &["get", &format!("key{number:02}"), "--print-value-only"]);
        assert_eq!(text, "before\n", "key{number:02}");
    }
    assert!(ctl(alone.port, &["put", "key00", "alone"]).0);
    alone.stop();

    // Without the flag, and with the old members in the flags: still alone. Of the others one that comes back is not told to
    // end, for with one more it would have been the cluster.
    let alone = seats[0].spawn(folder.path(), &cluster, &[]);
    alone.wait_until_ready();
    let mut other = seats[2].spawn(folder.path(), &cluster, &[]);
    let new = Seat::new("m3");
    let add = ["member", "add", "m3", &format!("--peer-urls={}", new.peer)];
    let added = ctl_until(alone.port, &add, |text| text.contains("added to cluster"));
    assert!(added.contains(&format!("m0={},m3={}", seats[0].peer, new.peer)) || added.contains("m3="), "{added}");
    let grown = new.start(folder.path(), &format!("m0={},m3={}", seats[0].peer, new.peer), "existing");
    ctl_until(grown.port, &["member", "list"], |text| text.matches("started").count() == 2);
    assert_eq!(ctl(grown.port, &["get", "key00", "--print-value-only"]).1, "alone\n");
    other.wait_for_log("does not know member");
    assert!(other.is_running(), "{}", other.log());
    grown.stop();

    // A folder that has nothing is no cluster.
    let mut nothing = Member::spawn(&folder.path().join("m9"), &["--force-new-cluster"]);
    assert_eq!(nothing.wait_for_end(), Some(12));
    assert!(nothing.log().contains("there is no member in"), "{}", nothing.log());
}
