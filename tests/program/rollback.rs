//! A member's folder that is put back from a copy, made while the member ran and without a start in between: nothing in it says
//! so, and the count of its starts is the right one. The members to which it has promised more say so, before it votes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::seats::{Seat, cluster_of, ctl_until, status, three};
use crate::support::{Member, RINGSTONE, folder};
use ringstone_core::identity::mend::{Lost, Mend};
use ringstone_core::identity::mended::{MENDS_MAX, Mended, Time};

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn put(port: u16, key: &str) {
    ctl_until(port, &["put", key, key], |text| text.contains("OK"));
}

fn read_all(port: u16, keys: &[String]) {
    for key in keys {
        ctl_until(port, &["get", key, "--print-value-only"], |text| text.trim_end() == key);
    }
}

/// Makes another member lead, so that there are votes after the copy.
fn move_leader(members: &[Member], to: &Member) {
    let wanted = status(to.port, "member_id");
    let id = format!("{:x}", wanted.parse::<u64>().unwrap());
    let everybody = members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect::<Vec<_>>().join(",");
    ctl_until(to.port, &["endpoint", "status"], |_| {
        let words = ["ctl", &format!("--endpoints={everybody}"), "move-leader", &id];
        let _ = Command::new(RINGSTONE).args(words).output().unwrap();
        status(to.port, "leader") == wanted
    });
}

/// Runs on the copy until it ends; what it says.
fn refused(seat: &Seat, folder: &Path, cluster: &str) -> String {
    let mut member = seat.spawn(folder, cluster, &[]);
    assert_eq!(member.wait_for_end(), Some(12), "{}", member.log());
    member.log()
}

/// With new terms and votes behind the copy, or entries alone; the others have it in memory, or from their disks alone.
#[test]
fn a_copy_of_a_running_member_never_takes_part_again_and_nothing_is_lost() {
    for (has_votes, others_restart) in [(false, false), (true, true)] {
        let folder = folder();
        let (seats, mut members) = three(folder.path(), &[]);
        let cluster = cluster_of(&seats);
        let leader = status(members[0].port, "leader");
        let victim = members.iter().position(|member| status(member.port, "member_id") != leader).unwrap();
        let id = format!("{:x}", status(members[victim].port, "member_id").parse::<u64>().unwrap());
        let (own, older) = (folder.path().join(seats[victim].name), folder.path().join("older"));
        let mut keys: Vec<String> = (0..20).map(|number| format!("before{number}")).collect();
        keys.iter().for_each(|key| put(members[victim].port, key));
        copy(&own, &older);
        if has_votes {
            for to in [(victim + 1) % 3, (victim + 2) % 3, (victim + 1) % 3] {
                move_leader(&members, &members[to]);
            }
        }
        let after: Vec<String> = (0..20).map(|number| format!("after{number}")).collect();
        after.iter().for_each(|key| put(members[(victim + 1) % 3].port, key));
        keys.extend(after);
        // Its end comes without a word, and so does that of the folder.
        drop(members.remove(victim));
        let others: Vec<&Seat> = (0..3).filter(|at| *at != victim).map(|at| &seats[at]).collect();
        if others_restart {
            members.drain(..).for_each(Member::stop);
            members = others.iter().map(|seat| seat.spawn(folder.path(), &cluster, &[])).collect();
            members.iter().for_each(Member::wait_until_ready);
        }
        copy(&older, &own);
        let log = refused(&seats[victim], folder.path(), &cluster);
        assert!(log.contains("put back from a copy") && log.contains("member remove"), "{log}");
        // Not by patience either: each start counts, and nobody need be there to say so again.
        let log = refused(&seats[victim], folder.path(), &cluster);
        assert!(log.contains("member add"), "{log}");
        read_all(members[0].port, &keys);
        read_all(members[1].port, &keys);
        assert!(members.iter().any(|member| member.log().contains("older copy of its data folder")));
        // The remedy that it names.
        ctl_until(members[0].port, &["member", "remove", &id], |text| text.contains("removed"));
        fs::remove_dir_all(&own).unwrap();
        let peers = format!("--peer-urls={}", seats[victim].peer);
        ctl_until(members[0].port, &["member", "add", seats[victim].name, &peers], |text| text.contains("added"));
        let again = seats[victim].start(folder.path(), &cluster, "existing");
        read_all(again.port, &keys);
        put(again.port, "whole again");
        members.into_iter().chain([again]).for_each(Member::stop);
    }
}

/// A member that was mended has a shorter log than it has acknowledged, and stands all the same; one whose disk damages again
/// and again is not mended for ever.
#[test]
fn a_member_that_was_damaged_too_often_is_not_mended_once_more() {
    let folder = folder();
    let (seats, mut members) = three(folder.path(), &[]);
    let cluster = cluster_of(&seats);
    put(members[0].port, "kept");
    let own = folder.path().join(seats[2].name);
    let damage = |lost| {
        let mark = Mend { lost, why: "page file: page 7 fails its check".to_owned() };
        mark.write(&own).unwrap();
    };
    for lost in [Lost::State, Lost::Log] {
        members.pop().unwrap().stop();
        damage(lost);
        let member = seats[2].spawn(folder.path(), &cluster, &[]);
        member.wait_for_log("the member is whole again");
        member.wait_until_ready();
        read_all(member.port, &["kept".to_owned()]);
        members.push(member);
    }
    let mut mended = Mended::read(&own).unwrap();
    assert_eq!((mended.count, mended.last.len()), (2, 2));
    let last = mended.last.last().unwrap().clone();
    mended.last.extend((2..MENDS_MAX).map(|_| Time { why: "the log".to_owned(), ..last.clone() }));
    mended.write(&own).unwrap();
    members.pop().unwrap().stop();
    damage(Lost::State);
    for _ in 0..2 {
        let mut member = seats[2].spawn(folder.path(), &cluster, &[]);
        assert_eq!(member.wait_for_end(), Some(13), "{}", member.log());
        let log = member.log();
        assert!(log.contains("2 x page file: page 7") && log.contains("3 x the log"), "{log}");
        assert!(log.contains("Replace it") && log.contains("member remove"), "{log}");
    }
    put(members[0].port, "undisturbed");
    members.into_iter().for_each(Member::stop);
}
