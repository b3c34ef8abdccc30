//! States that go from one simulated disk to another.

use std::sync::Arc;

use proptest::prelude::*;

use super::page_set::PageSet;
use super::*;
use crate::api::{Access, Damage, Fault, ReadTrees as _, WriteTrees as _};
use crate::check::check;
use crate::checkpoint_tests::{OPTIONS, act, entries};
use crate::disk::{Crash, Disk as _, SimDisk};
use crate::freelist::map;
use crate::layout::{FileId, META_PAGES, PAGE_BYTES, get};
use crate::meta::Meta;
use crate::model::ModelTrees;
use crate::node::{NODE_MAGIC, crc_of};
use crate::open::FileOptions;
use crate::pager::Pager;
use crate::reader::{Pin, Reader};
use crate::tree_tests::{Action, SPECS, TREE, actions};

const OTHER: FileOptions<'static> = FileOptions { file_id: [4; 16], owner_id: [1; 16], trees: SPECS };
const PAGE: u64 = PAGE_BYTES as u64;

/// Not keyed: nobody forges sums here.
fn digest() -> Digest {
    Box::new(|name| {
        name.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
    })
}

fn pager(disk: &SimDisk) -> Pager {
    Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &OPTIONS).expect("the disk is sound")
}

/// Does a checkpoint's next requests.
fn drive(pager: &mut Pager, disk: &SimDisk, count: usize) {
    for _ in 0..count {
        let Some((token, io)) = pager.poll_io().expect("there is space") else { return };
        disk.clone().submit(token, io);
        while let Some(end) = disk.clone().poll() {
            pager.completed(end.token, end.result).expect("the disk is sound");
        }
    }
}

fn bring_in<T>(reader: &Reader, mut step: impl FnMut() -> Access<T>) -> T {
    loop {
        match step() {
            Ok(done) => return done,
            Err(Fault::Absent(run)) => reader.bring_in_done(run).expect("the page is sound"),
            Err(Fault::Damaged(damage)) => panic!("{damage}"),
        }
    }
}

/// Everything of an image from an offset on, as a sender gives it out, in pieces of at most so many pages.
fn written(
    reader: &Reader,
    image: &PageImage<'_>,
    disk: &SimDisk,
    mut offset: u64,
    pages: u32,
) -> Result<Vec<u8>, Damage> {
    let (mut bytes, mut check) = (Vec::new(), NodeCheck::default());
    loop {
        let piece = match bring_in(reader, || image.piece(offset, pages)) {
            Piece::End => return Ok(bytes),
            Piece::Bytes(piece) => piece,
            Piece::Pages(run) => {
                let piece = disk.peek(run.first * PAGE, run.pages as usize * PAGE_BYTES);
                check.look(image, run.first, &piece)?;
                piece
            }
        };
        assert!(!piece.is_empty() && piece.len().is_multiple_of(PAGE_BYTES), "pieces are of whole pages");
        offset += piece.len() as u64;
        bytes.extend_from_slice(&piece);
    }
}

fn image_of<'p>(reader: &Reader, pin: &'p Pin<'p>) -> PageImage<'p> {
    let mut collector = Collector::new(pin, OPTIONS.file_id, OPTIONS.owner_id);
    while !bring_in(reader, || collector.step()) {}
    collector.finish().expect("a short file")
}

fn push(taker: &mut Taker, bytes: &[u8], disk: &SimDisk) -> Result<(), TransferError> {
    taker.push(bytes, &mut DiskSink(disk.clone()), &mut |_, _, _| Ok(()))
}

fn take_to(disk: &SimDisk, bytes: &[u8], piece: usize) -> Result<(), TransferError> {
    let mut taker = Taker::new(&OTHER, digest());
    for part in bytes.chunks(piece) {
        push(&mut taker, part, disk)?;
    }
    taker.finish(&mut DiskSink(disk.clone()))
}

fn take(bytes: &[u8], piece: usize) -> Result<SimDisk, TransferError> {
    let disk = SimDisk::new();
    take_to(&disk, bytes, piece).map(|()| disk)
}

/// What the file says, which must be sound in all its parts.
fn opened(disk: &SimDisk) -> Pager {
    let report = check(&mut disk.clone(), SPECS).expect("it can be read");
    assert!(report.findings.is_empty(), "{report}");
    let open = Pager::open(&mut disk.clone(), Arc::new(disk.clone()), &OTHER, 0);
    open.expect("a page file").0
}

fn assert_same(pager: &Pager, model: &ModelTrees) {
    let found = entries(pager, &|run| pager.bring_in_done(run).expect("sound"));
    assert_eq!(found, entries(model, &|_| panic!("in memory")));
}

/// A store that was checkpointed, and has frames of its own again.
fn store(history: &[Action], later: &[Action]) -> (SimDisk, Pager, ModelTrees) {
    let disk = SimDisk::new();
    let (mut pager, mut model) = (pager(&disk), ModelTrees::new(SPECS));
    for action in history {
        act(&mut pager, &mut model, action);
    }
    pager.set_attributes(b"attributes");
    pager.publish();
    pager.checkpoint_begin().expect("the disk is sound");
    drive(&mut pager, &disk, usize::MAX);
    for action in later {
        act(&mut pager, &mut model, action);
    }
    pager.publish();
    (disk, pager, model)
}

fn image(disk: &SimDisk, pager: &Pager) -> Vec<u8> {
    let reader = pager.reader();
    let pin = reader.pin();
    written(&reader, &image_of(&reader, &pin), disk, 0, 64).expect("sound")
}

fn some(count: u16) -> Vec<Action> {
    (0..count).map(|key| Action::Put(key, if key % 40 == 7 { 9000 } else { usize::from(key) % 300 }, 3)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Beside it the store changes, and checkpoints switch references to frames that the walk has seen, or has not.
    #[test]
    fn any_state_comes_over_from_any_place_on(
        history in actions(300),
        later in actions(100),
        beside in actions(100),
        pace in 1..20usize,
        pages in 1..40u32,
        piece in 1..70_000usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let (disk, mut pager, model) = store(&history, &later);
        let (reader, mut others) = (pager.reader(), model.clone());
        let pin = reader.pin();
        let mut collector = Collector::new(&pin, OPTIONS.file_id, OPTIONS.owner_id);
        let mut changes = beside.iter();
        let mut change = |pager: &mut Pager| {
            for action in changes.by_ref().take(pace) {
                act(pager, &mut others, action);
            }
            pager.publish();
            pager.checkpoint_begin().expect("the disk is sound");
            drive(pager, &disk, pace);
        };
        while !bring_in(&reader, || collector.step()) {
            change(&mut pager);
        }
        change(&mut pager);
        let image = collector.finish().expect("a short file");
        let half = written(&reader, &image, &disk, 0, pages).expect("sound");
        change(&mut pager);
        let bytes = written(&reader, &image, &disk, 0, pages).expect("sound");
        prop_assert!(half == bytes, "the same bytes each time");
        prop_assert_eq!(image.length(), bytes.len() as u64);
        let cut = cut.index(bytes.len());
        let from = cut / PAGE_BYTES * PAGE_BYTES;
        prop_assert_eq!(&written(&reader, &image, &disk, from as u64, pages).expect("sound")[..], &bytes[from..]);

        let made = take(&bytes, piece).expect("an image");
        let copy = opened(&made);
        assert_same(&copy, &model);
        prop_assert_eq!(copy.attributes(), b"attributes");
        // In two processes.
        let (made, mut first) = (SimDisk::new(), Taker::new(&OTHER, digest()));
        for part in bytes[..cut].chunks(piece) {
            push(&mut first, part, &made).expect("an image");
        }
        if let Some(head) = first.head() {
            let progress = Progress::decode(&first.progress().encode());
            prop_assert_eq!(progress, first.progress());
            let map = Taker::map_of(&progress).map_or_else(Vec::new, |at| made.peek(at, PAGE_BYTES));
            let mut second = Taker::resume(&OTHER, digest(), head, progress, &map).expect("its own");
            let from = usize::try_from(progress.offset).expect("small");
            prop_assert!(from <= cut);
            push(&mut second, &bytes[from..], &made).expect("the rest");
            second.finish(&mut DiskSink(made.clone())).expect("a whole image");
            assert_same(&opened(&made), &model);
        }
    }
}

/// A file that was made goes on as any: what is free in it is used, and its checkpoints end.
#[test]
fn the_file_that_was_made_goes_on() {
    let (disk, pager, mut model) = store(&some(450), &[]);
    let made = take(&image(&disk, &pager), 4096).expect("an image");
    for page in META_PAGES {
        let one_damaged = made.fork();
        one_damaged.poke(page * PAGE, &[0; PAGE_BYTES]);
        assert_same(&opened(&one_damaged), &model);
    }
    let mut copy = opened(&made);
    for round in 0..6u8 {
        for key in 0..300 {
            act(&mut copy, &mut model, &Action::Put(key * 2, 150, round));
        }
        copy.publish();
        assert!(copy.checkpoint_begin().expect("not failed"));
        drive(&mut copy, &made, usize::MAX);
        assert_same(&opened(&made), &model);
    }
}

/// The power fails at each request: what is there does not open, or it is all of it.
#[test]
fn a_file_that_is_being_made_counts_when_it_is_whole() {
    let (disk, pager, model) = store(&some(200), &[]);
    let bytes = image(&disk, &pager);
    let (mut refused, mut whole) = (0, 0);
    for count in 0.. {
        let made = SimDisk::new();
        made.stop_after(count);
        let is_done = take_to(&made, &bytes, 5000).is_ok();
        for crash in [Crash::KeepAll, Crash::KeepNone, Crash::Random(count), Crash::Torn(count)] {
            let left = made.fork();
            left.crash(crash);
            if Pager::open(&mut left.clone(), Arc::new(left.clone()), &OTHER, 0).is_ok() {
                assert_same(&opened(&left), &model);
                whole += 1;
            } else {
                assert!(!is_done, "{crash:?} behind the end");
                refused += 1;
            }
        }
        if is_done {
            break;
        }
    }
    assert!(refused > 15 && whole >= 4, "{refused} {whole}");
}

#[test]
fn an_empty_state_comes_over() {
    let disk = SimDisk::new();
    let made = take(&image(&disk, &pager(&disk)), 100).expect("an image");
    assert_same(&opened(&made), &ModelTrees::new(SPECS));
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    let (disk, pager, _) = store(&some(120), &[]);
    let bytes = image(&disk, &pager);
    for cut in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
        assert!(take(&bytes[..cut], 1 << 20).is_err(), "cut at {cut}");
    }
    assert!(take(&[&bytes[..], &[0; 7]].concat(), 1 << 20).is_err(), "longer");
    for bit in (0..bytes.len() * 8).step_by(4099) {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(take(&bad, 1 << 20).is_err(), "bit {bit}");
    }
}

/// A sink with so much room.
struct Narrow {
    room: u64,
    disk: DiskSink<SimDisk>,
    written: u64,
}

impl PageSink for Narrow {
    fn write(&mut self, offset: u64, pages: &[u8]) -> std::io::Result<()> {
        self.written += pages.len() as u64;
        self.disk.write(offset, pages)
    }

    fn set_length(&mut self, bytes: u64) -> std::io::Result<()> {
        assert!(bytes <= self.room, "it was told");
        self.disk.set_length(bytes)
    }

    fn room(&self) -> std::io::Result<u64> {
        Ok(self.room)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.disk.sync()
    }
}

/// A receiver wrote until its disk was full, again and again, before it said so.
#[test]
fn what_there_is_no_room_for_is_refused_before_anything_is_written() {
    let (disk, pager, _) = store(&some(400), &[]);
    let bytes = image(&disk, &pager);
    let take_with = |room| {
        let (mut taker, mut sink) =
            (Taker::new(&OTHER, digest()), Narrow { room, disk: DiskSink(SimDisk::new()), written: 0 });
        // Without the pages it knows already.
        let head = taker.push(&bytes[..2 * PAGE_BYTES], &mut sink, &mut |_, _, _| Ok(()));
        (head.and_then(|()| taker.push(&bytes[2 * PAGE_BYTES..], &mut sink, &mut |_, _, _| Ok(()))), taker, sink)
    };
    let (refused, _, sink) = take_with(PAGE);
    let Err(TransferError::NoRoom { needed, room: PAGE }) = refused else { panic!("{refused:?}") };
    assert!(sink.written == 0 && needed >= bytes.len() as u64 - 2 * PAGE && needed.is_multiple_of(PAGE), "{needed}");
    let (refused, ..) = take_with(needed - 1);
    assert!(matches!(refused, Err(TransferError::NoRoom { .. })), "{refused:?}");
    let (taken, taker, mut sink) = take_with(needed);
    taken.and_then(|()| taker.finish(&mut sink)).expect("there is room for all of it");
    assert_eq!(sink.disk.0.peek(0, usize::try_from(needed).expect("short")).len() as u64, needed);
}

/// The sender's own disk is the one that is damaged.
#[test]
fn a_sender_finds_what_has_rotted() {
    let (disk, pager, _) = store(&some(450), &[]);
    let reader = pager.reader();
    let pin = reader.pin();
    let image = image_of(&reader, &pin);
    let long = (5..200).find(|page| {
        let head = disk.peek(page * PAGE, 28);
        head[..4] == NODE_MAGIC && head[24] > 1
    });
    let long = long.expect("a node of several pages");
    for page in [long, long + 1] {
        let good = disk.peek(page * PAGE, PAGE_BYTES);
        let mut bad = good.clone();
        bad[3000] ^= 4;
        disk.poke(page * PAGE, &bad);
        assert_eq!(written(&reader, &image, &disk, 0, 3).expect_err("it has rotted").page, long);
        disk.poke(page * PAGE, &good);
    }
    written(&reader, &image, &disk, 0, 3).expect("sound again");
}

/// Bytes of the stream whose checksums are right again: whatever they say, it is an error, or a file that can be used.
#[test]
fn forged_pages_are_refused_or_harmless() {
    let (disk, pager, _) = store(&some(450), &[]);
    let bytes = image(&disk, &pager);
    let (mut seed, mut refused) = (7_u64, 0);
    let mut random = |limit: usize| {
        seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (seed >> 33) as usize % limit
    };
    let numbers = [0, 1, 2, 7, 48, 100, 4095, 4096, 32_767, 1 << 20, u32::MAX - 7, u32::MAX];
    for _ in 0..1500 {
        let mut bad = bytes.clone();
        let page = random(bytes.len() / PAGE_BYTES);
        let at = page * PAGE_BYTES;
        let place = match random(3) {
            0 => 4 + random(60),
            1 => 48 + random(400),
            _ => random(PAGE_BYTES - 4),
        };
        bad[at + place..at + place + 4].copy_from_slice(&numbers[random(numbers.len())].to_le_bytes());
        let seed = FileId(OPTIONS.file_id).crc_seed();
        let run = u32::from_le_bytes(bad[at + 24..at + 28].try_into().expect("four bytes")) as usize;
        // Header and meta have their checksums behind a magic of eight bytes.
        let (field, end) = match page {
            0 | 1 => (8, at + PAGE_BYTES),
            _ if bad[at..at + 4] == NODE_MAGIC => (4, at + run.clamp(1, 100) * PAGE_BYTES),
            _ => (4, at + PAGE_BYTES),
        };
        let end = end.min(bad.len());
        let crc = if field == 4 {
            crc_of(seed, &bad[at..end])
        } else {
            crate::layout::crc_without_field(FileId(OPTIONS.file_id), &bad[at..end], 8)
        };
        bad[at + field..at + field + 4].copy_from_slice(&crc.to_le_bytes());
        match take(&bad, 1 << 20) {
            Err(_) => refused += 1,
            Ok(made) => {
                // Keys out of order between nodes are for the readers of a tree to live with, as on any disk.
                let report = check(&mut made.clone(), SPECS).expect("it can be read");
                let is_order = |damage: &Damage| damage.what.contains("looks for elsewhere");
                assert!(report.findings.iter().all(is_order), "{report}");
            }
        }
    }
    assert!((700..1400).contains(&refused), "{refused}");
}

/// The stream of a file of one region, with some of its nodes left out, added or changed, and its map made to fit.
struct Spoilt {
    /// First page and bytes of each node, in their order.
    nodes: Vec<(u64, Vec<u8>)>,
    header: Vec<u8>,
    meta: Meta,
}

impl Spoilt {
    fn of(bytes: &[u8]) -> Spoilt {
        let meta = Meta::decode(FileId(OPTIONS.file_id), &bytes[PAGE_BYTES..2 * PAGE_BYTES]).expect("a meta");
        let (mut nodes, mut rest) = (Vec::new(), &bytes[3 * PAGE_BYTES..]);
        while !rest.is_empty() {
            let (node, behind) = rest.split_at(u32::from_le_bytes(get(rest, 24)) as usize * PAGE_BYTES);
            nodes.push((u64::from_le_bytes(get(node, 8)), node.to_vec()));
            rest = behind;
        }
        Spoilt { nodes, header: bytes[..PAGE_BYTES].to_vec(), meta }
    }

    fn leaf(&self, nth: usize) -> usize {
        let leaves = self.nodes.iter().enumerate().filter(|(_, (_, node))| node[33] == 0 && node.len() == PAGE_BYTES);
        leaves.map(|(index, _)| index).nth(nth).expect("a leaf of one page")
    }

    fn set(&mut self, index: usize, at: usize, field: u64) {
        let (first, node) = &mut self.nodes[index];
        node[at..at + 8].copy_from_slice(&field.to_le_bytes());
        if at == 8 {
            *first = field;
        }
        let crc = crc_of(FileId(OPTIONS.file_id).crc_seed(), node);
        node[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    fn taken(mut self) -> Result<SimDisk, TransferError> {
        self.nodes.sort();
        let mut live = PageSet::default();
        for (first, node) in &self.nodes {
            live.insert(PageRun { first: *first, pages: (node.len() / PAGE_BYTES) as u32 });
        }
        let bits = map::Bits::of_used(0, self.meta.space.file_pages, live.words_of(0));
        let mut bytes = self.header;
        bytes.extend(self.meta.encode(FileId(OPTIONS.file_id)));
        bytes.extend(map::encode(FileId(OPTIONS.file_id), 0, self.meta.generation, &bits).0);
        self.nodes.iter().for_each(|(_, node)| bytes.extend_from_slice(node));
        take(&bytes, 1 << 20)
    }
}

/// Each of these pages is good by itself.
#[test]
fn nodes_that_are_missing_too_many_or_of_another_state_are_found() {
    let (disk, pager, model) = store(&some(450), &[]);
    let bytes = image(&disk, &pager);
    let spoilt = || Spoilt::of(&bytes);
    assert_same(&opened(&spoilt().taken().expect("nothing is spoilt")), &model);
    let refused = |spoilt: Spoilt| {
        let error = spoilt.taken().map(drop).expect_err("no state");
        assert!(matches!(error, TransferError::Contradiction(_)), "{error}");
    };
    for nth in [0, 3, 9] {
        let mut missing = spoilt();
        missing.nodes.remove(missing.leaf(nth));
        refused(missing);
        let mut older = spoilt();
        let leaf = older.leaf(nth);
        let generation = u64::from_le_bytes(get(&older.nodes[leaf].1, 16));
        older.set(leaf, 16, generation - 1);
        refused(older);
        // One more, behind the others.
        let mut more = spoilt();
        let free = more.meta.space.file_pages;
        more.meta.space.file_pages += 1;
        let copy = more.nodes[more.leaf(nth)].clone();
        more.nodes.push(copy);
        more.set(more.nodes.len() - 1, 8, free);
        refused(more);
    }
    let mut newer = spoilt();
    newer.set(newer.leaf(2), 16, newer.meta.generation + 1);
    assert!(matches!(newer.taken().map(drop), Err(TransferError::Damaged(_))));
    // What an entry says is looked at, too.
    let (mut taker, mut seen) = (Taker::new(&OTHER, digest()), 0);
    let taken = taker.push(&bytes, &mut DiskSink(SimDisk::new()), &mut |tree, key, _| {
        seen += 1;
        if tree == TREE && key.ends_with(&300u16.to_be_bytes()) { Err("not for me") } else { Ok(()) }
    });
    let error = taken.expect_err("one was refused").to_string();
    assert!(error.contains("not for me") && seen > 10, "{error} {seen}");
}
