//! The same log on a real disk through io_uring, both ways of syncing.

mod common;

use common::{close, entry, open, record, small, write};
use ringstone_wal::disk::ring::{RingDisk, SyncWay};
use ringstone_wal::disk::{Disk, Io};
use ringstone_wal::{Kind, Options, Outcome, run_until_idle};
use std::io::Read as _;
use std::os::fd::AsRawFd;

fn exercise(path: &std::path::Path, way: Option<SyncWay>) {
    let mut disk = RingDisk::open(path, way).expect("io_uring is there");
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    let meta = log.register_holder("meta", 1, 0);
    write(&mut disk, &mut log, &[record(Kind::HardState, 0, b"vote")]).expect("writes");
    for index in 1..=100 {
        write(&mut disk, &mut log, &[entry(index, 5000)]).expect("writes");
        log.release(meta, index.saturating_sub(10));
    }
    drop((log, disk));
    let mut disk = RingDisk::open(path, way).expect("io_uring is there");
    let (mut log, recovered, records) = open(&mut disk, Options { create: false, ..small() }).expect("opens");
    assert!(matches!(recovered.outcome, Outcome::Zeros | Outcome::OldGhost), "{recovered:?}");
    assert_eq!(records[0], record(Kind::HardState, 0, b"vote"));
    assert!(recovered.segments < 20, "recycled");
    assert_eq!(records.last(), Some(&entry(100, 5000)));
    close(&mut disk, &mut log).expect("closes");
    drop((log, disk));
    let mut disk = RingDisk::open(path, way).expect("io_uring is there");
    assert_eq!(open(&mut disk, small()).expect("opens").1.outcome, Outcome::Closed);
}

#[test]
fn a_real_disk_both_ways() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let direct = RingDisk::open(folder.path(), None).expect("io_uring is there").sync_way();
    for way in [direct, SyncWay::WriteFdatasync] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        exercise(folder.path(), Some(way));
    }
}

#[test]
fn a_memory_file_system_works_whatever_it_supports() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    exercise(folder.path(), None);
}

#[test]
fn the_event_descriptor_tells_of_completions() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut disk = RingDisk::open(folder.path(), None).expect("io_uring is there");
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    run_until_idle(&mut disk, &mut log).expect("runs");
    let mut event = std::fs::File::from(disk.event_fd().try_clone_to_owned().expect("a copy"));
    assert!(told(&mut event) > 0, "earlier completions");
    let mut poll = libc::pollfd { fd: disk.event_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry is passed.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 0) }, 0, "nothing is under way");
    log.append(entry(1, 10).borrow()).expect("appends");
    let (token, io) = log.poll_io().expect("a write");
    disk.submit(token, io);
    disk.flush().expect("submits");
    // SAFETY: as above.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 5000) }, 1);
    assert_eq!(disk.poll_completion().expect("completed").token, token);
}

/// What the event has counted once it is quiet: the kernel tells it a moment after a completion can be seen.
fn told(event: &mut std::fs::File) -> u64 {
    let (mut count, mut sum) = ([0; 8], 0);
    let mut poll = libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry is passed.
    while unsafe { libc::poll(&mut poll, 1, if sum == 0 { 5000 } else { 50 }) } > 0 {
        event.read_exact(&mut count).expect("it is readable");
        sum += u64::from_le_bytes(count);
    }
    sum
}

/// A parked executor is woken once a batch, by the sync: not by the write before it. Of a pair whose write fails, the write's is
/// the only completion.
#[test]
fn a_write_and_its_linked_sync_complete_once() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let way = Some(SyncWay::WriteFdatasync);
    let mut disk = RingDisk::open(folder.path(), way).expect("io_uring is there");
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    run_until_idle(&mut disk, &mut log).expect("runs");
    let mut event = std::fs::File::from(disk.event_fd().try_clone_to_owned().expect("a copy"));
    assert!(told(&mut event) > 0, "earlier completions");
    log.append(entry(1, 10).borrow()).expect("appends");
    let (token, io) = log.poll_io().expect("a write");
    let Io::Write { file, ref buffer, sync: true, .. } = io else { panic!("{io:?}") };
    let bytes = buffer.len() as u64;
    disk.submit(token, io);
    disk.flush().expect("submits");
    disk.wait().expect("ends");
    let completion = disk.poll_completion().expect("completed");
    assert_eq!((completion.token, completion.result.as_ref().ok()), (token, Some(&bytes)));
    assert_eq!(told(&mut event), 1);
    log.completed(completion);

    let path = folder.path().join(file.to_string());
    std::fs::remove_file(&path).expect("it is there");
    std::os::unix::fs::symlink("/dev/full", &path).expect("its place is free");
    let mut full = RingDisk::open(folder.path(), way).expect("io_uring is there");
    log.append(entry(2, 10).borrow()).expect("appends");
    let (token, io) = log.poll_io().expect("a write");
    full.submit(token, io);
    full.flush().expect("submits");
    full.wait().expect("ends");
    let failed = full.poll_completion().expect("completed").result.expect_err("there is no room");
    assert_eq!(failed.errno, libc::ENOSPC);
    assert!(!full.has_ended());
}

#[test]
fn tools_work_on_a_real_folder() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for way in [None, Some(SyncWay::WriteFdatasync)] {
        let probe = ringstone_wal::sync_probe(folder.path(), 20, 4096, way).expect("probes");
        assert_eq!(probe.latencies_nanos.len(), 20);
        assert!(probe.latencies_nanos.iter().all(|&nanos| nanos > 0) && way.is_none_or(|way| way == probe.way));
    }
    let choice = ringstone_wal::choose_way(folder.path()).expect("probes");
    assert!(choice.fdatasync_us.is_some_and(|us| us > 0.0));
    assert_eq!(
        choice.way,
        choice
            .direct_us
            .map_or(SyncWay::WriteFdatasync, |us| ringstone_wal::better(us, choice.fdatasync_us.expect("timed")))
    );
    assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 0, "it cleans up");
    let mut disk = RingDisk::open(folder.path(), None).expect("io_uring is there");
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    write(&mut disk, &mut log, &[entry(1, 10)]).expect("writes");
    close(&mut disk, &mut log).expect("closes");
    drop((log, disk));
    let mut report = Vec::new();
    let summary = ringstone_wal::inspect(folder.path(), &mut report).expect("inspects");
    assert_eq!((summary.batches, summary.records, summary.oddities), (1, 1, 0));
    assert_eq!(summary.verdict.expect("opens").outcome, Outcome::Closed);
    assert!(ringstone_wal::inspect(&folder.path().join("absent"), &mut report).is_err());
}

/// A killed process's lock must outlive its last write: the ring has it as long as anything of the ring is under way.
#[test]
fn a_ring_keeps_the_lock_that_it_holds() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().join("lock");
    let open = || std::fs::File::create(&path).expect("a file");
    let disk = RingDisk::open(folder.path(), None).expect("io_uring is there");
    let first = open();
    first.try_lock().expect("nobody has it");
    disk.hold(std::os::fd::AsFd::as_fd(&first)).expect("registered");
    drop(first);
    let second = open();
    assert!(second.try_lock().is_err(), "the ring has the lock");
    drop(disk);
    let began = std::time::Instant::now();
    while second.try_lock().is_err() {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "the lock goes with the ring");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
