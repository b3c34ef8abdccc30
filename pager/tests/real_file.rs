//! The pager over a real file and its mapping, by its public interface alone.

use std::fs::File;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use ringstone_pager::api::{
    Access, Aggregate, Direction, Fault, KeyRange, PageRun, ReadTrees, TreeId, TreeSpec, WriteTrees,
};
use ringstone_pager::disk::{Disk, Io, IoPurpose, StdDisk, Token, run};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::mapping::Mapping;
use ringstone_pager::{CheckpointDone, FileOptions, Pager, inspect};

const TREE: TreeId = TreeId(1);
const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    Aggregate {
        count: 1,
        bytes: (key.len() + value.len()) as u64,
        hash: u64::from(value.first().copied().unwrap_or(9)),
    }
}

const SPECS: &[TreeSpec] = &[TreeSpec { id: TREE, name: "live", summarize }];
const OPTIONS: FileOptions<'static> = FileOptions { file_id: [3; 16], owner_id: [4; 16], trees: SPECS };

fn create(path: &Path) -> (Pager, StdDisk) {
    let mut disk = StdDisk::create(path).expect("a new file");
    let mapping = Mapping::new(disk.file(), 0).expect("mapped");
    (Pager::create(&mut disk, Arc::new(mapping), &OPTIONS).expect("the disk works"), disk)
}

fn open(path: &Path, logged: u64) -> (Pager, StdDisk) {
    let mut disk = StdDisk::open(path).expect("the file is there");
    let mapping = Mapping::new(disk.file(), 0).expect("mapped");
    (Pager::open(&mut disk, Arc::new(mapping), &OPTIONS, logged).expect("sound").0, disk)
}

fn checkpoint(pager: &mut Pager, disk: &mut StdDisk) -> CheckpointDone {
    assert!(pager.checkpoint_begin().expect("no failure"));
    loop {
        let (token, io): (Token, Io) = pager.poll_io().expect("there is space").expect("nothing is under way");
        disk.submit(token, io);
        let end = disk.poll().expect("done while submitted");
        if let Some(done) = pager.completed(end.token, end.result).expect("the disk works") {
            return done;
        }
    }
}

/// Reads the pages, as the owner does through its ring.
fn bring_in(disk: &mut StdDisk, pages: PageRun) {
    let (offset, bytes) = (pages.first * PAGE_BYTES as u64, pages.pages as usize * PAGE_BYTES);
    run(disk, Io::Read { offset, bytes, purpose: IoPurpose::ReadPage }).expect("the disk works");
}

fn resume<T>(pager: &mut Pager, disk: &mut StdDisk, mut operation: impl FnMut(&mut Pager) -> Access<T>) -> T {
    loop {
        match operation(pager) {
            Ok(result) => return result,
            Err(Fault::Absent(pages)) => {
                bring_in(disk, pages);
                pager.bring_in_done(pages).expect("sound");
            }
            Err(Fault::Damaged(damage)) => panic!("{damage}"),
        }
    }
}

fn count(trees: &dyn ReadTrees) -> Access<usize> {
    let mut count = 0;
    let mut visitor = |_: &[u8], _: &[u8]| {
        count += 1;
        ControlFlow::Continue(())
    };
    trees.visit(TREE, ALL, Direction::Forward, false, &mut visitor).map(|()| count)
}

#[test]
fn a_store_survives_its_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pages");
    let (mut pager, mut disk) = create(&path);
    let long = vec![7; 3 << 20];
    let mut logged = 0;
    for round in 0..4_u32 {
        for number in 0..3000_u32 {
            let key = number.wrapping_mul(2_654_435_761) % 10_000;
            let value = [round as u8; 200];
            resume(&mut pager, &mut disk, |pager| pager.put(TREE, &key.to_be_bytes(), &[&value]));
        }
        resume(&mut pager, &mut disk, |pager| pager.put(TREE, b"long", &[&long, &round.to_le_bytes()]));
        pager.set_attributes(&round.to_le_bytes());
        pager.publish();
        let done = checkpoint(&mut pager, &mut disk);
        assert!(done.generation > logged);
        assert_eq!(done.attributes, round.to_le_bytes());
        logged = done.generation;
        if round == 1 {
            drop(pager);
            (pager, disk) = open(&path, logged);
            assert_eq!(pager.attributes(), round.to_le_bytes());
        }
    }
    let expected = resume(&mut pager, &mut disk, |pager| count(pager));
    drop((pager, disk));

    let (mut pager, mut disk) = open(&path, logged);
    assert_eq!(resume(&mut pager, &mut disk, |pager| count(pager)), expected);
    let total = pager.aggregate(TREE, ALL).expect("the meta knows it");
    assert_eq!(total.count, expected as u64);
    let tail = resume(&mut pager, &mut disk, |pager| pager.get(TREE, b"long").map(|value| value.map(<[u8]>::to_vec)));
    assert_eq!(tail.expect("it is there")[3 << 20..], 3_u32.to_le_bytes());

    let mut out = Vec::new();
    let report = inspect(&path, SPECS, &mut out).expect("inspected");
    let out = String::from_utf8(out).expect("text");
    assert!(report.is_sound(), "{out}");
    assert!(out.contains("tree 1 is \"live\"") && out.contains("check: sound"), "{out}");
    assert!(report.trees[0].long_nodes == 1, "{out}");
}

#[test]
fn a_flipped_bit_is_found_and_named_wherever_it_is() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pages");
    let (mut pager, mut disk) = create(&path);
    for number in 0..2000_u32 {
        pager.put(TREE, &number.to_be_bytes(), &[&[1; 100]]).expect("in frames");
    }
    pager.publish();
    checkpoint(&mut pager, &mut disk);
    drop((pager, disk));
    let file = File::options().read(true).write(true).open(&path).expect("the file is there");
    let pages = file.metadata().expect("the file is there").len() / PAGE_BYTES as u64;
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    for page in 0..pages {
        let offset = page * PAGE_BYTES as u64 + (page * 977) % PAGE_BYTES as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("in the file");
        file.write_all_at(&[byte[0] ^ 4], offset).expect("written");
        match inspect(&path, SPECS, &mut std::io::sink()) {
            Err(_) => refused += 1,
            Ok(report) if report.findings.iter().any(|damage| damage.page == page) => found += 1,
            Ok(report) => {
                assert!(report.is_sound(), "page {page}: {report}");
                harmless += 1;
            }
        }
        file.write_all_at(&byte, offset).expect("written");
    }
    let report = inspect(&path, SPECS, &mut std::io::sink()).expect("whole again");
    assert!(report.is_sound());
    assert_eq!(found, report.used_pages + 1, "each page of a tree, and the free map that counts");
    // The header stops the opening. A damaged meta leaves the other one; free pages and the other map hold nothing.
    assert_eq!(refused, 1);
    assert_eq!(harmless, report.free_pages + 3);
}
