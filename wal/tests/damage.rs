//! Damage: each kind has its name, and after a closing block no single damaged block is ever served or silently cut.

mod common;

use common::{IDENTITY, Owned, close, entry, is_torn, open, record, small, write};
use proptest::prelude::*;
use ringstone_wal::disk::FileName;
use ringstone_wal::disk::sim::{Keep, Random, SimDisk};
use ringstone_wal::format::{BLOCK_BYTES, BlockHeader, Features, SegmentHeader, UnitKind, put_u32};
use ringstone_wal::{Damage, DamageCause, Identity, Kind, Options, Outcome, WalError};

/// A log of several segments with ghosts of recycled ones in the last, and all its records.
fn history(closed: bool) -> (SimDisk, Vec<Owned>) {
    let mut disk = SimDisk::new(7);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    let meta = log.register_holder("meta", 1, 0);
    write(&mut disk, &mut log, &[record(Kind::HardState, 0, b"vote")]).expect("writes");
    for index in 1..=55 {
        write(&mut disk, &mut log, &[entry(index, 2500), entry(index + 1, (index as usize * 97) % 9000)])
            .expect("writes");
        write(&mut disk, &mut log, &[record(Kind::Truncate, index + 1, b"")]).expect("writes");
        log.release(meta, index.saturating_sub(8));
    }
    if closed {
        close(&mut disk, &mut log).expect("closes");
    }
    let mut disk = disk.after_crash(Keep::All);
    let (_, recovered, records) = open(&mut disk.after_crash(Keep::All), small()).expect("opens");
    assert!(recovered.segments >= 2);
    assert_eq!(recovered.outcome == Outcome::Closed, closed);
    disk.set_space_bytes(u64::MAX);
    (disk, records)
}

fn segments(disk: &SimDisk) -> Vec<FileName> {
    disk.names().into_iter().filter(|name| matches!(name, FileName::Segment(_))).collect()
}

fn blocks(disk: &SimDisk, name: FileName) -> usize {
    disk.bytes(name).expect("the file is there").len() / BLOCK_BYTES
}

fn copy(disk: &SimDisk) -> SimDisk {
    disk.after_crash(Keep::All)
}

fn damage(disk: &SimDisk) -> Damage {
    match open(&mut copy(disk), small()).map(|(_, recovered, _)| recovered) {
        Err(WalError::Damaged(damage)) => *damage,
        other => panic!("not damaged: {other:?}"),
    }
}

/// Opens a tampered copy: an error, or exactly these records.
fn never_silently_wrong(disk: &SimDisk, records: &[Owned], what: &str) -> bool {
    match open(&mut copy(disk), small()) {
        Ok((_, _, read)) => {
            assert!(read == records, "{what}: silently wrong, {} of {} records", read.len(), records.len());
            true
        }
        Err(_) => false,
    }
}

#[test]
fn a_flipped_bit_after_a_closing_block_is_found_or_harmless() {
    let (disk, records) = history(true);
    let mut random = Random::new(1);
    let (mut found, mut harmless) = (0, 0);
    for name in segments(&disk) {
        for block in 0..blocks(&disk, name) {
            // Every byte of the heads, and some of the rest.
            let bytes = (0..48usize).chain((0..12).map(|_| random.below(BLOCK_BYTES as u64) as usize));
            for byte in bytes.collect::<Vec<_>>() {
                let mut tampered = copy(&disk);
                let bit = 1u8 << random.below(8);
                tampered.tamper(name, |content| content[block * BLOCK_BYTES + byte] ^= bit);
                let what = format!("{name} block {block} byte {byte} bit {bit}");
                *if never_silently_wrong(&tampered, &records, &what) { &mut harmless } else { &mut found } += 1;
            }
        }
    }
    assert!(found > 1000 && harmless > 100, "{found} found, {harmless} harmless");
}

#[test]
fn a_flipped_bit_before_a_closing_block_costs_at_most_the_last_batch() {
    let (disk, records) = history(false);
    let last = records.len() - 1;
    let (mut cut, mut found) = (0, 0);
    let mut random = Random::new(2);
    for name in segments(&disk) {
        for block in 0..blocks(&disk, name) {
            for _ in 0..30 {
                let mut tampered = copy(&disk);
                let (byte, bit) = (random.below(BLOCK_BYTES as u64) as usize, 1u8 << random.below(8));
                tampered.tamper(name, |content| content[block * BLOCK_BYTES + byte] ^= bit);
                match open(&mut tampered, small()) {
                    Ok((_, recovered, read)) if read.len() == last => {
                        assert!(is_torn(recovered.outcome) && read == records[..last]);
                        cut += 1;
                    }
                    Ok((_, _, read)) => assert!(read == records, "{name} block {block}"),
                    Err(_) => found += 1,
                }
            }
        }
    }
    assert!(cut > 0 && found > 100, "{cut} cut, {found} found");
}

#[test]
fn no_block_can_be_zeroed_swapped_copied_or_put_back_unseen() {
    let (disk, records) = history(true);
    let names = segments(&disk);
    let all: Vec<(FileName, usize)> =
        names.iter().flat_map(|&name| (0..blocks(&disk, name)).map(move |block| (name, block))).collect();
    let content = |(name, block): (FileName, usize)| {
        disk.bytes(name).expect("the file is there")[block * BLOCK_BYTES..][..BLOCK_BYTES].to_vec()
    };
    let put = |tampered: &mut SimDisk, (name, block): (FileName, usize), bytes: &[u8]| {
        tampered.tamper(name, |content| content[block * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(bytes));
    };
    let mut random = Random::new(3);
    let mut found = 0;
    for &target in &all {
        for fill in [0x00, 0xFF] {
            let mut tampered = copy(&disk);
            put(&mut tampered, target, &[fill; BLOCK_BYTES]);
            found += u32::from(!never_silently_wrong(&tampered, &records, &format!("{target:?} filled with {fill}")));
        }
        for _ in 0..12 {
            let source = all[random.below(all.len() as u64) as usize];
            let mut tampered = copy(&disk);
            put(&mut tampered, target, &content(source));
            found += u32::from(!never_silently_wrong(&tampered, &records, &format!("{source:?} copied to {target:?}")));
            put(&mut tampered, source, &content(target));
            found +=
                u32::from(!never_silently_wrong(&tampered, &records, &format!("{source:?} swapped with {target:?}")));
        }
    }
    assert!(found > 500, "{found}");
}

#[test]
fn a_file_that_was_cut_extended_copied_or_removed_is_named() {
    let (disk, records) = history(true);
    let names = segments(&disk);
    let is = |disk: &SimDisk, file: FileName, wanted: fn(&DamageCause) -> bool| {
        let damage = damage(disk);
        assert!(damage.file == file && wanted(&damage.cause), "{damage}");
    };
    for &name in &names {
        for sectors in [1, 7, 8, 9, 64, 100, 127, 129] {
            let mut tampered = copy(&disk);
            tampered.tamper(name, |content| content.resize(sectors * 512, 0));
            match sectors {
                1 | 7 => is(&tampered, name, |cause| *cause == DamageCause::SegmentHeader),
                _ => is(&tampered, name, |cause| matches!(cause, DamageCause::WrongSize { .. })),
            }
        }
        for &other in names.iter().filter(|&&other| other != name) {
            let mut tampered = copy(&disk);
            let bytes = disk.bytes(other).expect("the file is there").to_vec();
            tampered.tamper(name, |content| *content = bytes);
            is(&tampered, name, |cause| matches!(cause, DamageCause::WrongGeneration { .. }));
        }
    }
    for &name in &names[1..names.len() - 1] {
        let mut tampered = copy(&disk);
        tampered.tamper_remove(name);
        is(&tampered, name, |cause| *cause == DamageCause::MissingSegment);
    }
    let mut tampered = copy(&disk);
    tampered.tamper_remove(*names.last().expect("segments"));
    assert!(never_silently_wrong(&tampered, &records, "the prepared segment holds nothing"));
    let mut tampered = copy(&disk);
    tampered.tamper_remove(names[0]);
    let (_, recovered, read) = open(&mut tampered, small()).expect("opens without its first segment");
    let first = read.iter().find(|record| record.kind == Kind::Entry).expect("entries");
    assert_eq!(recovered.before_first[0].2 + 1, first.index, "the owner sees where the log begins now");
}

#[test]
fn headers_of_others_are_told_apart() {
    let (disk, _) = history(true);
    let name = segments(&disk)[0];
    let FileName::Segment(generation) = name else { unreachable!("a segment") };
    let good = SegmentHeader { identity: IDENTITY, features: Features::default(), generation, segment_blocks: 16 };
    let with = |change: &dyn Fn(&mut SegmentHeader)| {
        let mut header = good;
        change(&mut header);
        let mut tampered = copy(&disk);
        tampered.tamper(name, |content| header.encode(&mut content[..BLOCK_BYTES]));
        open(&mut tampered, small()).err()
    };
    assert_eq!(with(&|_| {}), None);
    assert_eq!(with(&|header| header.features.ignore = 8), None);
    assert!(matches!(
        with(&|header| header.features.read_only = 8),
        Some(WalError::UnknownFeatures { read_only: 8, .. })
    ));
    assert!(matches!(with(&|header| header.features.refuse = 1), Some(WalError::UnknownFeatures { refuse: 1, .. })));
    assert!(matches!(with(&|header| header.identity = Identity([1; 16])), Some(WalError::ForeignSegment { .. })));
    assert!(matches!(with(&|header| header.generation = u64::MAX), Some(WalError::Damaged(_))));
    assert!(matches!(with(&|header| header.segment_blocks = 17), Some(WalError::Damaged(_))));
    assert!(matches!(with(&|header| header.segment_blocks = u32::MAX), Some(WalError::Damaged(_))));
}

/// Changes the head of a block and seals it again, as an adversary who knows the format would.
fn forge(disk: &mut SimDisk, name: FileName, block: usize, change: impl FnOnce(&mut BlockHeader, &mut [u8])) {
    disk.tamper(name, |content| {
        let bytes = &mut content[block * BLOCK_BYTES..][..BLOCK_BYTES];
        if let Some(mut header) = BlockHeader::open(IDENTITY.seed(), bytes) {
            change(&mut header, bytes);
            header.seal(IDENTITY.seed(), bytes);
        }
    });
}

#[test]
fn damage_in_front_of_a_later_batch_is_never_cut() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    (1..=4).for_each(|index| write(&mut disk, &mut log, &[entry(index, 100)]).expect("writes"));
    let name = FileName::Segment(1);
    // Header, start, then a block a batch.
    for (block, expected) in [(2, 1), (3, 2), (4, 3)] {
        let mut tampered = copy(&disk);
        tampered.tamper(name, |content| content[block * BLOCK_BYTES + 600] ^= 1);
        let damage = damage(&tampered);
        assert_eq!((damage.file, damage.offset), (name, block as u64 * 4096));
        assert_eq!(damage.cause, DamageCause::BeforeLaterBatch { batch: expected, proven: 3 });
    }
    let mut torn = copy(&disk);
    torn.tamper(name, |content| content[5 * BLOCK_BYTES + 600] ^= 1);
    let (_, recovered, read) = open(&mut torn, small()).expect("the last one may be torn");
    assert_eq!(recovered.outcome, Outcome::TornTail { batch: 4, file: name, offset: 5 * 4096 });
    assert_eq!(read.len(), 3);
    let mut start = copy(&disk);
    start.tamper(name, |content| content[BLOCK_BYTES + 600] ^= 1);
    assert_eq!(damage(&start).cause, DamageCause::SegmentStart);
}

#[test]
fn good_blocks_in_wrong_places_and_bad_records_are_named() {
    let mut disk = SimDisk::new(1);
    let (mut log, ..) = open(&mut disk, small()).expect("opens");
    (1..=4).for_each(|index| write(&mut disk, &mut log, &[entry(index, 100)]).expect("writes"));
    let name = FileName::Segment(1);
    let mut moved = copy(&disk);
    moved.tamper(name, |content| content.copy_within(3 * BLOCK_BYTES..4 * BLOCK_BYTES, 9 * BLOCK_BYTES));
    assert_eq!(damage(&moved).cause, DamageCause::BrokenChain { batch: 2, expected: 5 });
    let mut forged = copy(&disk);
    forge(&mut forged, name, 5, |header, _| header.chain ^= 1);
    assert_eq!(damage(&forged).cause, DamageCause::BrokenChain { batch: 4, expected: 4 });
    let mut forged = copy(&disk);
    forge(&mut forged, name, 3, |_, block| block[100] ^= 1);
    assert_eq!(damage(&forged).cause, DamageCause::BadRecords { batch: 2 });
    let mut forged = copy(&disk);
    forge(&mut forged, name, 5, |header, _| header.kind = UnitKind::Start);
    assert!(matches!(damage(&forged).cause, DamageCause::BeforeLaterBatch { .. } | DamageCause::BrokenChain { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Several blocks mutated, CRCs made right again: never a panic, and nothing is delivered that was not written.
    #[test]
    fn forged_blocks_never_panic(seed: u64, count in 1usize..5) {
        let (mut disk, records) = history(seed % 2 == 0);
        let mut random = Random::new(seed);
        let names = segments(&disk);
        for _ in 0..count {
            let name = names[random.below(names.len() as u64) as usize];
            let block = random.below(blocks(&disk, name) as u64) as usize;
            let value = [0, 1, random.below(100), u64::from(u32::MAX), u64::MAX, u64::MAX - 1, random.below(u64::MAX)][random.below(7) as usize];
            let field = random.below(9);
            forge(&mut disk, name, block, |header, bytes| match field {
                0 => header.number = value,
                1 => header.generation = value,
                2 => header.position = value as u32,
                3 => header.ordinal = value as u32,
                4 => header.count = value as u32,
                5 => header.chain = value as u32,
                6 => header.payload_bytes = value as u16,
                7 => header.kind = [UnitKind::Start, UnitKind::Batch, UnitKind::Closing][(value % 3) as usize],
                _ => put_u32(bytes, 40 + random.below(1000) as usize, value as u32),
            });
        }
        let mut report = Vec::new();
        ringstone_wal::inspect::inspect_disk(&mut copy(&disk), &mut report).expect("inspects");
        if let Ok((_, _, read)) = open(&mut disk, small()) {
            prop_assert!(read.iter().all(|record| records.contains(record)));
        }
    }

    /// Segments of random bytes with a good header.
    #[test]
    fn arbitrary_blocks_never_panic(seed: u64) {
        let mut random = Random::new(seed);
        let mut disk = SimDisk::new(1);
        let header = SegmentHeader { identity: IDENTITY, features: Features::default(), generation: 1, segment_blocks: 16 };
        let mut bytes: Vec<u8> = (0..16 * BLOCK_BYTES).map(|_| random.below(256) as u8).collect();
        header.encode(&mut bytes[..BLOCK_BYTES]);
        disk.tamper(FileName::Segment(1), |content| *content = bytes);
        let closed = Options { create: false, ..small() };
        prop_assert_eq!(open(&mut disk, closed).err(), Some(WalError::NoLog));
    }
}

#[test]
fn the_inspector_prints_records_and_says_what_is_damaged() {
    let (disk, records) = history(true);
    let text = |disk: &SimDisk| {
        let mut report = Vec::new();
        let summary = ringstone_wal::inspect::inspect_disk(&mut copy(disk), &mut report).expect("inspects");
        (summary, String::from_utf8(report).expect("text"))
    };
    let (summary, report) = text(&disk);
    let carried = u64::from(records[0].kind == Kind::HardState);
    assert_eq!((summary.records + carried, summary.oddities), (records.len() as u64, 0), "{report}");
    assert!(summary.verdict.is_ok() && report.contains("group 1 Entry term 6 index 55, 2500 bytes"), "{report}");
    let name = segments(&disk)[1];
    let mut tampered = copy(&disk);
    tampered.tamper(name, |content| content[3 * BLOCK_BYTES + 100] ^= 1);
    let (summary, report) = text(&tampered);
    assert!(summary.oddities >= 1 && report.contains(&format!("{name} offset 12288: DAMAGED block")), "{report}");
    assert!(matches!(summary.verdict, Err(WalError::Damaged(_))) && report.contains("rebuild this member"), "{report}");
}
