//! Does the simulated disk keep its word? All crash tests of the pager rest on it.

use super::*;
use crate::disk::run;

const SYNC: Io = Io::Sync { purpose: IoPurpose::NodesSync };

fn set_length(length: u64) -> Io {
    Io::SetLength { length, purpose: IoPurpose::Growth }
}

fn write(offset: u64, byte: u8, bytes: usize) -> Io {
    Io::Write { offset, buffers: vec![vec![byte; bytes].into()], purpose: IoPurpose::Nodes }
}

fn run_ok(disk: &mut SimDisk, io: Io) {
    run(disk, io).expect("no fault is injected");
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
    let mut disk = SimDisk::new();
    run_ok(&mut disk, write(0, 1, 8192));
    run_ok(&mut disk, SYNC);
    run_ok(&mut disk, write(0, 2, 4096));
    run_ok(&mut disk, write(0, 3, 1024));
    let none = disk.fork();
    none.crash(Crash::KeepNone);
    assert_eq!(none.peek(0, 8192), vec![1; 8192]);
    let all = disk.fork();
    all.crash(Crash::KeepAll);
    assert_eq!(all.peek(0, 4096), [vec![3; 1024], vec![2; 3072]].concat());
    let mut seen = HashSet::new();
    for seed in 0..100 {
        let some = disk.fork();
        some.crash(Crash::Random(seed));
        let content = some.peek(0, 8192);
        assert_eq!(content[4096..], [1; 4096], "synced bytes stay");
        for sector in content.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are not torn");
        }
        seen.insert((content[0], content[1024]));
    }
    assert_eq!(seen.len(), 6, "each version of a sector, each combination: {seen:?}");
}

#[test]
fn a_length_that_no_sync_covered_can_be_lost() {
    let mut disk = SimDisk::new();
    run_ok(&mut disk, set_length(4096));
    run_ok(&mut disk, SYNC);
    run_ok(&mut disk, set_length(16384));
    run_ok(&mut disk, set_length(8192));
    assert_eq!(disk.length(), Ok(16384), "never shorter");
    run_ok(&mut disk, write(12288, 9, 4096));
    disk.crash(Crash::KeepNone);
    assert_eq!(disk.length(), Ok(4096));
    run_ok(&mut disk, set_length(16384));
    assert_eq!(disk.peek(12288, 4096), vec![0; 4096]);
}

#[test]
fn a_sync_covers_only_what_had_completed_before_its_submission() {
    let mut disk = SimDisk::new();
    disk.submit(Token(1), write(0, 7, 512));
    disk.submit(Token(2), SYNC);
    assert_eq!(disk.poll().map(|completion| completion.token), Some(Token(1)));
    assert_eq!(disk.poll().map(|completion| completion.token), Some(Token(2)));
    assert!(disk.poll().is_none());
    disk.crash(Crash::KeepNone);
    assert_eq!(disk.length(), Ok(0));
}

#[test]
fn it_stops_where_it_was_told() {
    let mut disk = SimDisk::new();
    disk.stop_after(2);
    run_ok(&mut disk, write(0, 1, 512));
    run_ok(&mut disk, SYNC);
    assert!(!disk.is_stopped());
    let refused = run(&mut disk, write(0, 2, 512)).expect_err("it has stopped");
    assert_eq!(refused.kind, DiskErrorKind::Gone);
    assert_eq!(run(&mut disk, SYNC).map_err(|error| error.kind), Err(DiskErrorKind::Gone));
    assert!(disk.is_stopped());
    let all = disk.fork();
    all.crash(Crash::KeepAll);
    assert_eq!(all.peek(0, 1), [2], "the refused write was under way");
    disk.crash(Crash::KeepNone);
    assert_eq!(disk.peek(0, 1), [1]);
    run_ok(&mut disk, write(0, 3, 512));
}

#[test]
fn a_failed_sync_is_final_for_what_it_covered() {
    let mut disk = SimDisk::new();
    run_ok(&mut disk, write(0, 1, 512));
    disk.inject(0, Fault::Failed);
    assert_eq!(run(&mut disk, SYNC).map_err(|error| error.kind), Err(DiskErrorKind::Failed));
    run_ok(&mut disk, SYNC);
    assert_eq!(disk.peek(0, 1), [1], "the page cache still shows it");
    disk.crash(Crash::KeepNone);
    assert_eq!(disk.length(), Ok(512), "the length is the file system's");
    assert_eq!(disk.peek(0, 1), [0], "the second sync had nothing to write");
}

/// A torn end keeps sectors as they were written, never all of the newest write, and each kind of a piece at times.
#[test]
fn a_torn_end_keeps_some_of_the_newest_write() {
    let (mut first_only, mut last_only, mut older_whole) = (0, 0, 0);
    for seed in 0..200 {
        let mut disk = SimDisk::new();
        run_ok(&mut disk, set_length(16_384));
        run_ok(&mut disk, SYNC);
        run_ok(&mut disk, write(8192, 1, 4096));
        run_ok(&mut disk, write(0, 2, 4096));
        disk.crash(Crash::Torn(seed));
        let newest: Vec<u8> = disk.peek(0, 4096).chunks(512).map(|sector| sector[0]).collect();
        assert!(disk.peek(0, 4096).chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        assert!(newest.contains(&0), "seed {seed}");
        first_only += u32::from(newest[0] == 2 && newest[7] == 0);
        last_only += u32::from(newest[0] == 0 && newest[7] == 2);
        older_whole += u32::from(disk.peek(8192, 4096) == [1; 4096]);
    }
    assert!(first_only > 20 && last_only > 20 && older_whole > 20, "{first_only} {last_only} {older_whole}");
}

#[test]
fn faults_hit_the_request_that_they_were_meant_for() {
    let mut disk = SimDisk::new();
    disk.inject(1, Fault::Full);
    disk.inject(2, Fault::Short);
    disk.inject(3, Fault::Short);
    run_ok(&mut disk, write(0, 1, 512));
    assert_eq!(run(&mut disk, write(512, 1, 512)).map_err(|error| error.kind), Err(DiskErrorKind::Full));
    assert_eq!(disk.length(), Ok(512));
    assert_eq!(run(&mut disk, write(512, 1, 1024)).map_err(|error| error.kind), Err(DiskErrorKind::Short));
    assert_eq!(disk.length(), Ok(1024));
    let read = Io::Read { offset: 0, bytes: 512, purpose: IoPurpose::ReadPage };
    assert_eq!(run(&mut disk, read.clone()).map_err(|error| error.kind), Err(DiskErrorKind::Short));
    assert_eq!(run(&mut disk, read), Ok(vec![1; 512]));
    let beyond = run(&mut disk, Io::Read { offset: 1000, bytes: 512, purpose: IoPurpose::ReadPage });
    assert_eq!(beyond.map_err(|error| error.kind), Err(DiskErrorKind::Short));
    assert_eq!(disk.counts(), IoCounts { writes: 3, written_bytes: 2048, reads: 3, syncs: 0, set_lengths: 0, cuts: 0 });
}

#[test]
fn pages_are_absent_until_brought_in_and_show_the_newest_content() {
    let mut disk = SimDisk::new();
    run_ok(&mut disk, write(4096, 1, 8192));
    let run_of_two = PageRun { first: 1, pages: 2 };
    let second = PageRun { first: 2, pages: 1 };
    let reader = disk.clone();
    assert!(reader.page(run_of_two).is_none());
    reader.set_resident(second);
    assert!(reader.page(run_of_two).is_none());
    reader.set_resident(run_of_two);
    let old = reader.page(run_of_two).expect("resident");
    assert!(old.as_ptr().cast::<u8>().align_offset(PAGE_BYTES) == 0);
    run_ok(&mut disk, write(8192, 2, 4096));
    assert_eq!(reader.page(second).expect("resident"), [2; 4096]);
    assert_eq!(reader.page(run_of_two).expect("resident"), [[1; 4096], [2; 4096]].concat());
    assert_eq!(old, [1; 8192], "who still looks sees what it was");
    reader.clear_resident(second);
    assert!(reader.page(second).is_none() && reader.page(run_of_two).is_none());
    reader.set_resident(second);
    disk.crash(Crash::KeepAll);
    assert!(reader.page(second).is_none());
}
