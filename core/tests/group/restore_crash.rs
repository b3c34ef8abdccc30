//! A member is made, empty or from a snapshot, and the power fails at every I/O of that; or a request fails.
//!
//! Page file and log are those that ship, on simulated disks. A folder that was not finished has another name, and is
//! thrown away; what is checked here is the second wall, for files that were given their name too early: what is there
//! either does not open, or holds the whole snapshot (an empty store, for a new member) and passes all checks of
//! `crash`. Once the making has said that it is done, it opens whatever end comes.
//!
//! | stage | stopped at |
//! |---|---|
//! | new member | each I/O of page file and log |
//! | records of the snapshot, in several checkpoints of the page file | each request that changes the file |
//! | last checkpoint, with the state | the same |
//! | empty log | each submission and completion |
//!
//! Elsewhere: the folder, its identity file and its renaming (`identity::tests`), an end within the recovery
//! (`paths`), snapshots that are damaged (`image::tests`). Not checked: a revision that is bumped.

use std::fs::File;

use super::support::disks::{Disks, End, Fuse, Trouble};
use super::support::history::{Ended, Made, recover, rounds};
use super::support::journal::Journal;
use super::support::life;
use super::support::snapshot::{self, restore, snapshot};
use ringstone_core::group::{PageRestore, RestoreError};
use ringstone_core::identity::Identity;
use ringstone_pager::disk::{Fault as PagesFault, SimDisk, StdDisk};
use ringstone_pager::transfer::DiskSink;
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

/// The process ends behind any mark, and behind so many of its bytes more: the next one goes on there.
#[test]
fn what_a_process_has_made_of_a_state_is_gone_on_with() {
    let (disks, journal) = (Disks::new(), Journal::new().shared());
    life::create(&disks, &Fuse::whole()).expect("the disks work");
    let mut life = life::open(&disks, &Fuse::whole(), &journal, 5).expect("the disks work");
    rounds(&mut life, 5, 60, &mut Made::default()).expect("the disks work");
    let (sent, image) = (snapshot::pages_of(&life, &disks), snapshot::image_of(&life));
    let folder = tempfile::tempdir().expect("a folder");
    let (pages, marks, id) = (folder.path().join("pages"), folder.path().join("marks"), [3; 16]);
    let begin = || {
        let sink = DiskSink(StdDisk::create(&pages).expect("a folder"));
        let mut restore =
            PageRestore::new(Box::new(sink), &life::IDENTITY, [8; 16]).keep_marks(&marks, id).expect("the disk works");
        restore.set_mark_bytes(32 << 10);
        restore
    };
    let fill = |restore: &mut PageRestore, bytes: &[u8]| {
        bytes.chunks(4000).for_each(|bytes| restore.push(bytes).expect("a good image"));
    };
    let resume = |id| {
        let sink = DiskSink(StdDisk::open(&pages).expect("it is there"));
        let file = File::open(&pages).expect("it is there");
        PageRestore::resume(Box::new(sink), &file, &marks, &life::IDENTITY, id)
    };
    let mut offsets = Vec::new();
    for part in 1..8 {
        fill(&mut begin(), &sent[..sent.len() / 8 * part]);
        assert!(matches!(resume([4; 16]).map(drop), Err(RestoreError::NoMark)), "it is of another image");
        if let Ok(mut restore) = resume(id) {
            let from = usize::try_from(restore.offset()).expect("small");
            assert!(from <= sent.len() / 8 * part);
            fill(&mut restore, &sent[from..]);
            restore.finish().expect("the disk works");
            assert_eq!(snapshot::image_in(&pages), image);
            offsets.push(from);
        }
        std::fs::remove_file(&pages).expect("it is there");
    }
    assert!(offsets.len() >= 5 && offsets.last() > offsets.first(), "{offsets:?}");
    // Another boot of the system, or a bit that rots: what is there counts for nothing.
    fill(&mut begin(), &sent[..sent.len() / 2]);
    resume(id).map(drop).expect("there is a mark");
    let kept = std::fs::read(&marks).expect("it is there");
    for at in [4, 20, 40, 100] {
        let mut other = kept.clone();
        for slot in [8192, 12288] {
            other[slot + at] ^= 1;
        }
        std::fs::write(&marks, other).expect("room");
        assert!(matches!(resume(id).map(drop), Err(RestoreError::NoMark)), "byte {at}");
    }
    // Of another cluster.
    let stranger = Identity { cluster_id: life::IDENTITY.cluster_id + 1, ..life::IDENTITY };
    let mut restore = PageRestore::new(Box::new(DiskSink(SimDisk::new())), &stranger, [8; 16]);
    let error = restore.push(&sent).expect_err("of another cluster").to_string();
    assert!(error.contains("is of cluster"), "{error}");
}
