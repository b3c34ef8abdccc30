//! The log over the simulated disk: what goes in comes out, segments change and are recycled, errors are final.

mod common;

use common::{Owned, close, entry, open, record, small, write};
use ringstone_wal::disk::sim::{Fault, Keep, SimDisk};
use ringstone_wal::disk::{Disk, FileName};
use ringstone_wal::{BatchNumber, Kind, Options, Outcome, WalError, run_until_idle};

#[test]
fn what_was_appended_is_replayed_in_order() {
    let mut disk = SimDisk::new(1);
    let (mut log, recovered, records) = open(&mut disk, small()).expect("opens");
    assert_eq!((recovered.outcome, records.len()), (Outcome::Created, 0));
    let all: Vec<Owned> = vec![
        record(Kind::HardState, 0, b"vote"),
        entry(1, 10),
        entry(2, 5000),
        entry(3, 0),
        record(Kind::Truncate, 2, b""),
        entry(2, 9000),
        record(Kind::Config, 2, b"members"),
        record(Kind::Checkpoint, 1, b"generation 4"),
    ];
    write(&mut disk, &mut log, &all[..3]).expect("writes");
    write(&mut disk, &mut log, &all[3..]).expect("writes");
    assert_eq!(log.synced(), BatchNumber(2));
    let (log, recovered, records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    assert_eq!(records, all);
    assert_eq!((recovered.outcome, log.synced()), (Outcome::Zeros, BatchNumber(2)));
    close(&mut disk, &mut { log }).expect("closes");
}

#[test]
fn a_closed_log_reopens_closed_and_writes_nothing() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    write(&mut disk, &mut log, &[entry(1, 10)]).expect("writes");
    close(&mut disk, &mut log).expect("closes");
    assert!(log.is_closed());
    assert_eq!(log.append(entry(2, 1).borrow()), Err(WalError::Closed));
    let mut disk = disk.after_crash(Keep::Nothing);
    for _ in 0..3 {
        let (_, recovered, records) = open(&mut disk, small()).expect("opens");
        assert_eq!((recovered.outcome, records), (Outcome::Closed, vec![entry(1, 10)]));
    }
    assert_eq!(disk.writes(), 0);
}

#[test]
fn quiet_writes_one_closing_block_and_then_nothing() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    assert_eq!(log.quiet(0), None, "a fresh log is proven");
    write(&mut disk, &mut log, &[entry(1, 10)]).expect("writes");
    assert!(!log.is_proven());
    let due = log.quiet(1_000).expect("waits for quiet");
    assert_eq!(due, 10_001_000);
    let before = disk.writes();
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert_eq!(disk.writes(), before, "not yet");
    log.append(entry(2, 10).borrow()).expect("appends");
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert_eq!(log.quiet(due), Some(due + 10_000_000), "activity starts the quiet anew");
    assert_eq!(log.quiet(due + 10_000_000), None);
    let before = disk.writes();
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert_eq!(disk.writes(), before + 1);
    assert!(log.is_proven());
    for hour in 1..5u64 {
        assert_eq!(log.quiet(hour * 3_600_000_000_000), None);
        run_until_idle(&mut disk, &mut log).expect("runs");
    }
    assert_eq!(disk.writes(), before + 1, "an idle log writes nothing");
    let (_, recovered, records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    assert_eq!((recovered.outcome, records.len()), (Outcome::Closed, 2));
}

#[test]
fn the_next_batch_fills_while_one_is_in_flight_and_memory_is_bounded() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert_eq!(log.append(entry(1, 10).borrow()), Ok(BatchNumber(1)));
    let (token, io) = log.poll_io().expect("a write");
    assert!(log.poll_io().is_none(), "one batch in flight at a time");
    let mut index = 2;
    while log.append(entry(index, 1000).borrow()).map(|batch| assert_eq!(batch, BatchNumber(2))).is_ok() {
        index += 1;
        assert!(log.poll_io().is_none());
    }
    assert_eq!(log.append(entry(index, 1000).borrow()), Err(WalError::Full));
    assert!(log.is_full() && log.backlog_bytes() <= small().batch_bytes_max);
    disk.submit(token, io);
    log.completed(disk.poll_completion().expect("completes"));
    assert_eq!(log.synced(), BatchNumber(1));
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert_eq!((log.synced(), log.backlog_bytes()), (BatchNumber(2), 0));
    let (_, _, records) = open(&mut disk, small()).expect("opens");
    assert_eq!(records.len() as u64, index - 1);
}

#[test]
fn segments_change_are_recycled_and_carry_what_must_last() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    let meta = log.register_holder("meta", 1, 0);
    write(&mut disk, &mut log, &[record(Kind::HardState, 0, b"term 7"), record(Kind::Config, 0, b"three members")])
        .expect("writes");
    for index in 1..=200 {
        write(&mut disk, &mut log, &[entry(index, 3000)]).expect("writes");
        log.release(meta, index.saturating_sub(20));
    }
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert!(log.segment_count() <= 5, "{} segments", log.segment_count());
    assert!(disk.names().len() <= 6, "{:?}", disk.names());
    assert!(disk.names().iter().all(|name| matches!(name, FileName::Segment(generation) if *generation > 10)));
    let (_, recovered, records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    assert_eq!(records[0].payload, b"term 7");
    assert_eq!(records[1].payload, b"three members");
    let indexes: Vec<u64> = records[2..].iter().map(|record| record.index).collect();
    assert_eq!(recovered.before_first[0].2 + 1, indexes[0]);
    assert!(indexes[0] <= 180 && indexes.is_sorted() && *indexes.last().expect("entries") == 200);
    assert!(records[2..].iter().all(|read| *read == entry(read.index, 3000)));
}

#[test]
fn nothing_is_released_before_every_holder_agrees() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    let newer = log.register_holder("newer meta", 1, 0);
    let older = log.register_holder("older meta", 1, 0);
    for index in 1..=60 {
        write(&mut disk, &mut log, &[entry(index, 3000)]).expect("writes");
    }
    let segments = log.segment_count();
    log.release(newer, 61);
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert_eq!(log.segment_count(), segments);
    assert_eq!(log.slowest_holder(1), Some(("older meta", 0)));
    assert_eq!(open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens").2.len(), 60);
    log.release(older, 30);
    run_until_idle(&mut disk, &mut log).expect("runs");
    let (.., records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    assert!(log.segment_count() < segments && records[0].index <= 30);
}

#[test]
fn truncated_entries_do_not_hold_their_segments() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    let meta = log.register_holder("meta", 1, 0);
    for index in 1..=40 {
        write(&mut disk, &mut log, &[entry(index, 3000)]).expect("writes");
    }
    write(&mut disk, &mut log, &[record(Kind::Truncate, 11, b""), entry(11, 100)]).expect("writes");
    for index in 12..=30 {
        write(&mut disk, &mut log, &[entry(index, 3000)]).expect("writes");
    }
    log.release(meta, 11);
    run_until_idle(&mut disk, &mut log).expect("runs");
    let (.., records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    let truncation = records.iter().position(|read| read.kind == Kind::Truncate);
    assert!(truncation.is_none_or(|at| records[..at].len() <= 14), "at most the spare segment's 13 and one");
    assert_eq!(records.iter().rfind(|read| read.kind == Kind::Entry), Some(&entry(30, 3000)));
}

/// Only entries of one kind held their segment: one that had configurations alone was released as soon as it was full, and
/// was not read where it was needed.
#[test]
fn configurations_hold_their_segments_as_entries_do() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    let meta = log.register_holder("meta", 1, 0);
    for index in 1..=60 {
        write(&mut disk, &mut log, &[record(Kind::Config, index, &[3; 3000])]).expect("writes");
    }
    log.release(meta, 30);
    run_until_idle(&mut disk, &mut log).expect("runs");
    for needed in [30, 31, 45, 60] {
        let options = Options { needed_from: vec![(1, needed)], ..small() };
        let (_, recovered, records) = open(&mut disk.after_crash(Keep::Nothing), options).expect("opens");
        let before = recovered.before_first[0].2;
        assert!(0 < before && before < needed, "{before} is before what is read, from {needed} on");
        let indexes: Vec<u64> = records.iter().map(|record| record.index).collect();
        assert_eq!(indexes, (before..=60).collect::<Vec<_>>(), "the one before is carried over");
    }
}

#[test]
fn records_that_can_never_be_taken_are_refused_and_the_largest_is_taken() {
    let mut disk = SimDisk::new(1);
    let options = Options { segment_bytes: 32 << 20, fill_slice_bytes: 1 << 20, ..small() };
    let (mut log, ..) = open(&mut disk, options.clone()).expect("opens");
    let huge = entry(1, 16 << 20);
    write(&mut disk, &mut log, std::slice::from_ref(&huge)).expect("a record of 16 MiB is taken");
    assert!(matches!(log.append(entry(2, (16 << 20) + 1).borrow()), Err(WalError::RecordTooLarge { .. })));
    assert!(matches!(
        log.append(record(Kind::Config, 2, &[0; 70_000]).borrow()),
        Err(WalError::RecordTooLarge { bytes_max: 65536, .. })
    ));
    assert_eq!(log.append(record(Kind::Position, 2, b"").borrow()), Err(WalError::ReservedKind));
    let (.., records) = open(&mut disk, options).expect("opens");
    assert!(records == [huge]);
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    assert!(
        matches!(log.append(entry(1, 60_000).borrow()), Err(WalError::RecordTooLarge { .. })),
        "segments are smaller"
    );
}

#[test]
fn a_failed_write_is_final() {
    for errno in [libc::EIO, libc::ENOSPC, libc::EROFS] {
        let mut disk = SimDisk::new(1);
        let (mut log, ..) = open(&mut disk, small()).expect("opens");
        write(&mut disk, &mut log, &[entry(1, 10)]).expect("writes");
        disk.inject(0, Fault::Errno(errno));
        let error = write(&mut disk, &mut log, &[entry(2, 10)]).expect_err("the write failed");
        assert!(matches!(&error, WalError::Disk(disk_error) if disk_error.errno == errno), "{error}");
        assert_eq!(log.append(entry(3, 10).borrow()), Err(error.clone()));
        assert!(log.poll_io().is_none());
        assert_eq!((log.synced(), log.failure()), (BatchNumber(1), Some(&error)));
        let (.., records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
        assert_eq!(records, [entry(1, 10)]);
    }
}

#[test]
fn a_short_write_is_repeated_in_full() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    run_until_idle(&mut disk, &mut log).expect("runs");
    disk.inject(0, Fault::Short(4096));
    write(&mut disk, &mut log, &[entry(1, 9000)]).expect("writes");
    assert_eq!(log.synced(), BatchNumber(1));
    let (.., records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    assert_eq!(records, [entry(1, 9000)]);
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    run_until_idle(&mut disk, &mut log).expect("runs");
    (0..9).for_each(|submission| disk.inject(submission, Fault::Short(0)));
    assert!(matches!(write(&mut disk, &mut log, &[entry(1, 9000)]), Err(WalError::ShortWrite { .. })));
}

#[test]
fn a_full_disk_stops_no_batch_until_the_segment_ends_and_space_heals_it() {
    let mut disk = SimDisk::new(1);
    disk.set_space_bytes(64 << 10);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    let mut written = 0;
    while write(&mut disk, &mut log, &[entry(written + 1, 3000)]).is_ok() {
        written += 1;
        assert!(log.space_error().is_some_and(|error| error.is_out_of_space()));
    }
    assert_eq!((written, log.failure()), (13, None), "16 blocks less header, start and closing block");
    assert_eq!(log.synced(), BatchNumber(13));
    disk.set_space_bytes(1 << 20);
    let due = log.quiet(0).expect("asks to be called again");
    assert!(log.quiet(due).is_none());
    run_until_idle(&mut disk, &mut log).expect("runs");
    assert_eq!((log.synced(), log.space_error()), (BatchNumber(14), None));
    let (.., records) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    assert_eq!(records.len(), 14);
}

#[test]
fn a_missing_or_foreign_log_is_an_error_with_a_name() {
    let mut disk = SimDisk::new(1);
    let closed = Options { create: false, ..small() };
    assert_eq!(open(&mut disk, closed.clone()).err(), Some(WalError::NoLog));
    open(&mut disk, small()).expect("creates");
    open(&mut disk, closed).expect("is there now");
    let foreign = Options { identity: ringstone_wal::Identity([6; 16]), ..small() };
    assert!(matches!(open(&mut disk, foreign), Err(WalError::ForeignSegment { .. })));
    let absurd = Options { segment_bytes: 1000, ..small() };
    assert!(matches!(open(&mut disk, absurd), Err(WalError::Option { option: "segment_bytes", .. })));
}

#[test]
fn the_segment_size_may_change_between_starts() {
    let mut disk = SimDisk::new(1);
    let (mut index, mut total) = (0, Vec::new());
    for segment_bytes in [64 << 10, 128 << 10, 32 << 10, 96 << 10] {
        let options = Options { segment_bytes, ..small() };
        let (mut log, _, records) = open(&mut disk, options).expect("opens");
        assert_eq!(records, total);
        let meta = log.register_holder("meta", 1, 0);
        log.release(meta, 1);
        for _ in 0..20 {
            index += 1;
            total.push(entry(index, 2000));
            write(&mut disk, &mut log, &total[total.len() - 1..]).expect("writes");
        }
    }
}

#[test]
fn segments_before_what_is_needed_are_not_read() {
    let needed = |index| Options { needed_from: vec![(1, index)], ..small() };
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    write(&mut disk, &mut log, &[record(Kind::HardState, 0, b"term 7"), record(Kind::Config, 0, b"three members")])
        .expect("writes");
    for index in 1..=100 {
        write(&mut disk, &mut log, &[entry(index, 3000)]).expect("writes");
    }
    // A later leader takes the tail back; the next segment's start knows.
    write(&mut disk, &mut log, &[record(Kind::Truncate, 91, b"")]).expect("writes");
    for index in 91..=120 {
        write(&mut disk, &mut log, &[entry(index, 2900)]).expect("writes");
    }
    close(&mut disk, &mut log).expect("closes");
    let (_, whole, all) = open(&mut disk.after_crash(Keep::Nothing), small()).expect("opens");
    assert_eq!(whole.unread, 0);
    for from in [1, 2, 30, 77, 90, 91, 95, 100, 101, 119, 120, 121, 500] {
        let mut disk = disk.after_crash(Keep::Nothing);
        let (mut log, recovered, records) = open(&mut disk, needed(from)).expect("opens");
        assert_eq!((recovered.outcome, recovered.last_batch), (whole.outcome, whole.last_batch));
        assert_eq!(recovered.segments, whole.segments, "unread segments are the log's all the same");
        let is_entry = |record: &&Owned| record.kind == Kind::Entry;
        let got: Vec<&Owned> = records.iter().filter(is_entry).collect();
        let wanted: Vec<&Owned> = all.iter().filter(is_entry).collect();
        assert!(wanted.ends_with(&got), "from {from} on: the end of the log");
        let first = got.first().map_or(121, |record| record.index);
        assert!(from > 120 || first <= from, "{first} is behind {from}");
        // Between two of them lie at most a segment of entries, and the truncation's ten.
        assert!(first + 16 + 10 >= from.min(121), "{first} is far before {from}");
        if recovered.unread > 0 {
            assert_eq!(records[0].payload, b"term 7");
            assert_eq!(records[1].payload, b"three members");
            assert_eq!(recovered.before_first[0].2 + 1, first.min(121));
        }
        // They are released and recycled like the others.
        let meta = log.register_holder("meta", 1, 0);
        write(&mut disk, &mut log, &[entry(121, 10)]).expect("writes");
        assert_eq!(log.segment_count(), whole.segments);
        log.release(meta, 122);
        for index in 122..=180 {
            write(&mut disk, &mut log, &[entry(index, 3000)]).expect("writes");
            log.release(meta, index);
        }
        assert!(log.segment_count() <= small().spare_segments + 3, "{} segments", log.segment_count());
    }
    assert!(open(&mut disk.after_crash(Keep::Nothing), needed(110)).expect("opens").1.unread > 8);
}

/// A record of more than half a segment was appended while the next segment was half filled. It did not fit the active one,
/// and the preparation gave its next slice only after a batch, which waited for the preparation: for ever.
#[test]
fn a_record_that_waits_for_the_next_segment_does_not_stop_its_preparation() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    for _ in 0..5 {
        let (token, io) = log.poll_io().expect("the next segment is prepared");
        disk.submit(token, io);
        log.completed(disk.poll_completion().expect("it works"));
    }
    log.append(entry(1, 16_000).borrow()).expect("appends");
    let (token, io) = log.poll_io().expect("the batch");
    disk.submit(token, io);
    log.append(entry(2, 48_000).borrow()).expect("appends");
    log.completed(disk.poll_completion().expect("it works"));
    run_until_idle(&mut disk, &mut log).expect("it comes to an end");
    assert_eq!(log.synced(), BatchNumber(2));
}
