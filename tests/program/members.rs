//! A cluster is grown from one member and changed by `ringstone ctl`, as an operator does it.

use std::process::Command;

use crate::seats::{Seat, ctl, ctl_until, three};
use crate::support::{RINGSTONE, folder};

/// What `member add` says that the new member is to be started with.
fn cluster_with(added: &str) -> String {
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
    let second = one.start(folder.path(), &cluster_with(&added), "existing");
    let list = ctl_until(first.port, &["member", "list"], |text| text.matches("started").count() == 2);
    let (success, refused) = ctl(second.port, &["put", "kept", "not by a learner"]);
    assert!(!success && refused.contains("rpc not supported for learner"), "{refused}");
    assert!(!ctl(second.port, &["get", "kept"]).0, "a learner answers no linearizable read");
    ctl_until(second.port, &["get", "kept", "--consistency=s"], |text| text.contains("all the way"));
    ctl_until(first.port, &["member", "promote", &one.id(&list)], |text| text.contains("promoted in cluster"));

    // Any member takes the order.
    let add = ["member", "add", "m2", &format!("--peer-urls={}", two.peer)];
    let added = ctl_until(second.port, &add, |text| text.contains("added to cluster"));
    let third = two.start(folder.path(), &cluster_with(&added), "existing");
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
    first.wait_for_log("was removed from its cluster");
    ctl_until(second.port, &["put", "kept", "on"], |text| text.contains("OK"));
    assert_eq!(ctl(third.port, &["get", "kept", "--print-value-only"]).1, "on\n");
    second.stop();
    third.stop();
}

/// As etcd's users do it: a second voter is added before it is started, whatever happens to the first one meanwhile.
#[test]
fn a_second_voter_is_added_before_it_starts() {
    let folder = folder();
    let [zero, one] = ["m0", "m1"].map(Seat::new);
    let cluster = format!("m0={}", zero.peer);
    let first = zero.start(folder.path(), &cluster, "new");
    assert!(ctl(first.port, &["put", "kept", "by one"]).0);
    let (success, added) = ctl(first.port, &["member", "add", "m1", &format!("--peer-urls={}", one.peer)]);
    assert!(success && added.contains("added to cluster"), "{added}");
    // Killed: nothing of this is in the page file yet, and the log can't be applied without the second one.
    drop(first);
    let first = zero.spawn(folder.path(), &cluster, &[]);
    let second = one.start(folder.path(), &cluster_with(&added), "existing");
    first.wait_until_ready();
    ctl_until(second.port, &["member", "list"], |text| text.matches("started").count() == 2);
    assert_eq!(ctl(second.port, &["get", "kept", "--print-value-only"]).1, "by one\n");
    second.stop();
}

/// Each is refused with etcd's words, and nothing has changed.
#[test]
fn changes_that_cannot_be() {
    let folder = folder();
    let (seats, members) = three(folder.path(), &["--max-learners=2"]);
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    let list = ctl_until(ports[0], &["member", "list"], |text| text.matches("started").count() == 3);
    let new = ["l0", "l1", "l2", "v0", "v1"].map(Seat::new);
    let urls = |seat: &Seat| format!("--peer-urls={}", seat.peer);
    let refused = |port: u16, words: &[&str], why: &str| {
        let (success, text) = ctl(port, words);
        assert!(!success && text.contains(why), "{words:?}: {text}");
    };
    for port in &ports {
        let own = urls(&seats[1]);
        refused(*port, &["member", "add", "again", &own], "Peer URLs already exists");
        refused(*port, &["member", "add", "odd", "--peer-urls=ftp://a"], "given member URLs are invalid");
        refused(*port, &["member", "remove", "1234"], "member not found");
        refused(*port, &["member", "promote", &seats[0].id(&list)], "can only promote a learner member");
        refused(*port, &["member", "update", "1234", "--peer-urls=http://127.0.0.1:1"], "member not found");
        refused(*port, &["member", "update", &seats[0].id(&list), &own], "Peer URLs already exists");
    }
    // --max-learners: any member takes the order, and the leader counts.
    for (seat, port) in new[..2].iter().zip(&ports) {
        let (success, text) = ctl(*port, &["member", "add", seat.name, &urls(seat), "--learner"]);
        assert!(success, "{text}");
    }
    refused(ports[2], &["member", "add", "l2", &urls(&new[2]), "--learner"], "too many learner members in cluster");
    let learners = ctl(ports[0], &["member", "list"]).1;
    refused(ports[1], &["member", "promote", &new[0].id(&learners)], "in sync with leader");
    // --strict-reconfig-check: three of five could be a quorum, three of six can't.
    for (seat, port) in new[3..].iter().zip(&ports) {
        let words = ["member", "add", seat.name, &urls(seat)];
        ctl_until(*port, &words, |text| text.contains("added to cluster"));
    }
    let sixth = Seat::new("v2");
    refused(ports[0], &["member", "add", "v2", &urls(&sixth)], "not enough started members");
    refused(ports[1], &["member", "remove", &seats[2].id(&list)], "not enough started members");
    assert_eq!(ctl(ports[2], &["member", "list"]).1.lines().count(), 7);
    // One that has not started goes.
    ctl_until(ports[0], &["member", "remove", &new[4].id(&ctl(ports[0], &["member", "list"]).1)], |text| {
        text.contains("removed from cluster")
    });
    members.into_iter().for_each(crate::support::Member::stop);
}

/// Without the check an operator gets what he asks for: of six voters four are a quorum, and three run.
#[test]
fn without_the_strict_check_a_quorum_may_be_given_away() {
    let folder = folder();
    let (_, members) = three(folder.path(), &["--strict-reconfig-check=false"]);
    let add = |name: &str| {
        let url = format!("--peer-urls={}", Seat::new("new").peer);
        ctl(members[0].port, &["member", "add", name, &url])
    };
    for name in ["v0", "v1"] {
        let (success, text) = add(name);
        assert!(success, "{text}");
    }
    let (success, text) = add("v2");
    assert!(!success && (text.contains("timed out") || text.contains("deadline exceeded")), "{text}");
}
