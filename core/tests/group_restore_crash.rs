//! A member is made, empty or from a snapshot, and the power fails at every I/O of that; or a request fails.
//!
//! Page file and log are those that ship, on simulated disks. A folder that was not finished has another name, and is
//! thrown away; what is checked here is the second wall, for files that were given their name too early: what is there
//! either does not open, or holds the whole snapshot (an empty store, for a new member) and passes all checks of
//! `group_crash`. Once the making has said that it is done, it opens whatever end comes.
//!
//! | stage | stopped at |
//! |---|---|
//! | new member | each I/O of page file and log |
//! | records of the snapshot, in several checkpoints of the page file | each request that changes the file |
//! | last checkpoint, with the state | the same |
//! | empty log | each submission and completion |
//!
//! Elsewhere: the folder, its identity file and its renaming (`identity::tests`), an end within the recovery
//! (`group_paths`), snapshots that are damaged (`image::tests`). Not checked: a revision that is bumped.

mod group_support;

use group_support::disks::{Disks, End, Fuse, Trouble};
use group_support::history::{Ended, recover};
use group_support::journal::Journal;
use group_support::life;
use group_support::snapshot::{restore, snapshot};
use ringstone_pager::disk::Fault as PagesFault;
use ringstone_wal::disk::sim::Fault as LogFault;

#[derive(Debug, Default)]
struct Tally {
    points: u64,
    refused: u64,
    whole: u64,
    done: u64,
}

impl Tally {
    /// What is left in each of the ways: refused, or whole.
    fn end(&mut self, point: u64, disks: &Disks, journal: &Journal, is_done: bool) {
        self.points += 1;
        for end in (0..End::WAYS).map(|way| End::of(way, point)) {
            let journal = journal.clone().shared();
            match recover(&disks.after(end), &Fuse::whole(), &journal, point, 2) {
                Ok(()) => self.whole += 1,
                Err(Ended::Open(error)) => {
                    assert!(!is_done, "point {point} {end:?}: it was said to be on disk: {error}");
                    self.refused += 1;
                }
                Err(Ended::Group(error)) => panic!("point {point} {end:?}: {error}"),
            }
        }
        self.done += u64::from(is_done);
    }
}

#[test]
fn a_new_member_is_whole_or_refused() {
    let mut tally = Tally::default();
    for point in 0.. {
        let disks = Disks::new();
        let made = life::create(&disks, &Fuse::new(point));
        tally.end(point, &disks, &Journal::new(), made.is_ok());
        if made.is_ok() {
            break;
        }
    }
    println!("{tally:?}");
    assert!(tally.points > 20 && tally.refused > 0 && tally.whole > 0 && tally.done == 1, "{tally:?}");
}

#[test]
fn a_restore_stopped_at_any_io_is_refused_or_whole() {
    let (image, journal) = snapshot(5);
    let whole = Disks::new();
    restore(&image, &whole).expect("the disks work");
    let (requests, steps) = (whole.pages.counts().changing(), whole.log().steps());
    assert!(whole.pages.counts().syncs > 8, "several checkpoints");
    let mut tally = Tally::default();
    for point in 0..requests {
        let disks = Disks::new();
        disks.pages.stop_after(point);
        assert!(restore(&image, &disks).is_err(), "request {point} was refused");
        tally.end(point, &disks, &journal, false);
    }
    assert_eq!(tally.whole, 0, "there was no log yet");
    for point in 0..=steps + 1 {
        let disks = Disks::new();
        disks.log_mut().crash_at(point);
        let made = restore(&image, &disks);
        tally.end(point, &disks, &journal, made.is_ok());
    }
    println!("{tally:?} of {requests} requests to the page file and {steps} steps of the log");
    assert!(tally.refused > 0 && tally.whole > 0 && tally.done > 0, "{tally:?}");
}

/// Fails the n-th request of a disk, and is told what the making said.
fn failing(image: &[u8], journal: &Journal, inject: impl Fn(&Disks, u64)) -> u64 {
    let mut tally = Tally::default();
    for number in 0.. {
        let disks = Disks::new();
        inject(&disks, number);
        match restore(image, &disks) {
            Ok(()) => return tally.points,
            Err(error) => {
                let told = error.to_string();
                let names = ["page file", ".wal", ".new", "the directory"];
                assert!(names.iter().any(|name| told.contains(name)), "request {number}: {told}");
                tally.end(number, &disks, journal, false);
            }
        }
    }
    unreachable!("there are not so many requests")
}

#[test]
fn a_restore_whose_disk_fails_says_so_and_is_no_member() {
    let (image, journal) = snapshot(6);
    for fault in [PagesFault::Failed, PagesFault::Full, PagesFault::Short] {
        let points = failing(&image, &journal, |disks, number| disks.pages.inject(number, fault));
        assert!(points > 20, "{fault:?} {points}");
    }
    for fault in [LogFault::Failed(libc::EIO), LogFault::Errno(libc::ENOSPC)] {
        let points = failing(&image, &journal, |disks, number| disks.log_mut().inject(number, fault));
        assert!(points > 5, "{fault:?} {points}");
    }
}

#[test]
fn a_new_member_whose_disk_fails_is_not_made() {
    for trouble in [Trouble::Failed, Trouble::Full] {
        let mut failed = 0;
        for at in 0.. {
            let (disks, fuse) = (Disks::new(), Fuse::with_trouble(at, 1, trouble));
            let made = life::create(&disks, &fuse);
            let Some(hit) = fuse.hits().pop() else {
                assert!(made.is_ok(), "{made:?}");
                break;
            };
            // The second segment is made while there is time. Without space for it, it is tried again later.
            let may_wait = trouble == Trouble::Full && hit.file.ends_with("2.new");
            assert!(made.is_err() || may_wait, "{hit}: {made:?}");
            if made.is_ok() {
                let journal = Journal::new().shared();
                recover(&disks.after(End::of(0, 0)), &Fuse::whole(), &journal, at, 3).expect("it was made");
            }
            failed += u64::from(made.is_err());
        }
        assert!(failed > 5, "{trouble:?} {failed}");
    }
}
