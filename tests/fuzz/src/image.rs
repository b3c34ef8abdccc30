//! The bytes of a snapshot, of a state that another member sends as pages, of a map of one, and of what differs: whatever they are,
//! reading them is an error or gives the records of a whole image, with checksums as they are or made right again.

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, LazyLock};

use ringstone_core::group::tree_specs;
use ringstone_core::identity::Identity;
use ringstone_core::image::{ImageMap, ImageReader, ImageWriter, MapBuilder, OwnRecords, PagesReader, Step, Wanted};
use ringstone_pager::api::{Damage, Direction, Fault, ReadTrees as _, WriteTrees as _};
use ringstone_pager::check::check;
use ringstone_pager::disk::{Disk as _, SimDisk};
use ringstone_pager::layout::{FileId, PAGE_BYTES};
use ringstone_pager::transfer::{Collector, DiskSink, Piece};
use ringstone_pager::{FileOptions, Pager};

use crate::store::Store;

const HEADER_BYTES: usize = 512;
const BLOCK_BYTES: usize = 32 << 10;
const IDENTITY: Identity = Identity { cluster_id: 0xcdf8, member_id: 0x8e9e, file_id: [7; 16] };

pub fn run(data: &[u8]) {
    let Some((&flags, data)) = data.split_first() else { return };
    let mut image = data.to_vec();
    let kind = flags >> 2 & 3;
    if kind == MAP {
        return map(&mut image, flags & 1 != 0);
    }
    if kind == PAGES {
        return pages(&mut image, flags);
    }
    if flags & 1 != 0 {
        reseal(&mut image);
    }
    let step = if flags & 2 != 0 { 700 } else { usize::MAX };
    let mut reader = match kind {
        FILE => ImageReader::new(),
        _ => ImageReader::partial(Arc::clone(&DIFFERENCE.0), Arc::clone(&DIFFERENCE.1)),
    };
    let own = (kind == PARTIAL).then(Store::new);
    let mut records = 0usize;
    for piece in image.chunks(step.min(image.len().max(1))) {
        if reader.push(piece).is_err() {
            return;
        }
        let drained = reader.drain(&mut |_, key, value| {
            records += key.len() + value.len() + 1;
            Ok(())
        });
        if drained.is_err() {
            return;
        }
        assert!(records <= 2 * image.len(), "more records than bytes");
        while let Some(run) = reader.own_run() {
            let own = own.as_ref().expect("only a partial image has records of the receiver's own");
            let after = run.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut good = true;
            OwnRecords::visit(&mut &own.trees, run.tree, (after, Bound::Included(&run.last[..])), &mut |key, value| {
                good &= reader.take_own(key, value, &mut |_, _, _| Ok(())).is_ok();
                if good { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .expect("the model has no faults");
            if !good || reader.end_own().is_err() || reader.drain(&mut |_, _, _| Ok(())).is_err() {
                return;
            }
        }
    }
    let _ = reader.finish();
}

const FILE: u8 = 0;
const PAGES: u8 = 1;
const MAP: u8 = 2;
const PARTIAL: u8 = 3;

/// A map, and every second run of it.
static DIFFERENCE: LazyLock<(Arc<ImageMap>, Arc<Wanted>)> = LazyLock::new(|| {
    let map = map_of(&Store::new());
    let mut wanted = Wanted::none(map.runs.len());
    (0..map.runs.len()).step_by(2).for_each(|run| wanted.add(run));
    (Arc::new(map), Arc::new(wanted))
});

fn map_of(store: &Store) -> ImageMap {
    let mut builder = MapBuilder::new([5; 16], 100);
    while !builder.step(&store.trees).expect("the model has no faults") {}
    builder.finish()
}

/// What is read as a map is written as the same bytes, and can be compared with any store.
fn map(bytes: &mut [u8], seal: bool) {
    if seal && bytes.len() >= 16 {
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let Ok(map) = ImageMap::decode(bytes) else { return };
    assert_eq!(map.encode().as_deref(), Some(&*bytes));
    let store = Store::new();
    let wanted = map.compare(&mut &store.trees);
    assert_eq!(Wanted::of_bytes(wanted.as_bytes(), map.runs.len()), Some(wanted));
}

/// Pages of a state. A file that comes of them opens, is what its check says, and can be read from end to end.
fn pages(image: &mut [u8], flags: u8) {
    if flags & 1 != 0 {
        reseal_pages(image);
    }
    let disk = SimDisk::new();
    let specs = tree_specs();
    let options = FileOptions { file_id: [3; 16], owner_id: [0; 16], trees: &specs };
    let (mut reader, mut sink) = (PagesReader::new(&options, IDENTITY.cluster_id, [1; 16]), DiskSink(disk.clone()));
    let step = if flags & 2 != 0 { 700 } else { usize::MAX };
    for piece in image.chunks(step.min(image.len().max(1))) {
        if reader.push(piece, &mut sink).is_err() {
            return;
        }
    }
    if reader.finish(&mut sink).is_err() {
        return;
    }
    let report = check(&mut disk.clone(), &specs).expect("the disk is sound");
    let is_order = |damage: &Damage| damage.what.contains("looks for elsewhere");
    assert!(report.findings.iter().all(is_order), "{report}");
    let (pager, _) = Pager::open(&mut disk.clone(), Arc::new(disk.clone()), &options, 0).expect("a whole file");
    for spec in &specs {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let mut bytes = 0;
        while let Err(Fault::Absent(run)) = pager.visit(spec.id, all, Direction::Forward, false, &mut |key, value| {
            bytes += key.len() + value.len();
            ControlFlow::Continue(())
        }) {
            bytes = 0;
            pager.bring_in_done(run).expect("it was checked");
        }
        assert!(bytes <= image.len(), "more records than bytes");
    }
}

fn reseal_pages(image: &mut [u8]) {
    let seed = FileId(IDENTITY.file_id).crc_seed();
    let mut at = 0;
    while at + PAGE_BYTES <= image.len() {
        let node = image[at..at + 4] == *b"RNod";
        let pages =
            if node { u32::from_le_bytes(image[at + 24..at + 28].try_into().expect("four")) as usize } else { 1 };
        let end = at + PAGE_BYTES * pages.clamp(1, 16);
        let whole = at + (image.len() - at) / PAGE_BYTES * PAGE_BYTES;
        let page = &mut image[at..end.min(whole)];
        // Header and meta have a magic of eight bytes, the others one of four.
        let field = if at < 2 * PAGE_BYTES { 8 } else { 4 };
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(&page[..field]);
        hasher.update(&page[field + 4..]);
        let crc = hasher.finalize();
        page[field..field + 4].copy_from_slice(&crc.to_le_bytes());
        at += page.len();
    }
}

/// A store as pages, half of them in the file and half in frames.
fn paged(store: &Store) -> Vec<u8> {
    let (disk, specs) = (SimDisk::new(), tree_specs());
    let options = FileOptions { file_id: IDENTITY.file_id, owner_id: IDENTITY.owner_id(), trees: &specs };
    let mut pager = Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &options).expect("a sound disk");
    for (number, spec) in specs.iter().enumerate() {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let mut put = |key: &[u8], value: &[u8]| {
            pager.put(spec.id, key, &[value]).expect("nothing is absent");
            ControlFlow::Continue(())
        };
        store.trees.visit(spec.id, all, Direction::Forward, false, &mut put).expect("the model has no faults");
        if number == specs.len() / 2 {
            pager.publish();
            pager.checkpoint_begin().expect("none is under way");
            while let Some((token, io)) = pager.poll_io().expect("a sound disk") {
                disk.clone().submit(token, io);
                while let Some(end) = disk.clone().poll() {
                    pager.completed(end.token, end.result).expect("a sound disk");
                }
            }
        }
    }
    pager.set_attributes(&store.state.to_attributes());
    pager.publish();
    let reader = pager.reader();
    let pin = reader.pin();
    let mut collector = Collector::new(&pin, IDENTITY.file_id, IDENTITY.owner_id());
    while !collector.step().expect("nothing is absent") {}
    let (image, mut bytes) = (collector.finish().expect("a short file"), Vec::new());
    loop {
        match image.piece(bytes.len() as u64, 16).expect("nothing is absent") {
            Piece::End => return bytes,
            Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
            Piece::Pages(run) => {
                bytes.extend(disk.peek(run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES));
            }
        }
    }
}

fn reseal(image: &mut [u8]) {
    if image.len() < HEADER_BYTES {
        return;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&image[..12]);
    hasher.update(&image[16..HEADER_BYTES]);
    let header_crc = hasher.finalize();
    image[12..16].copy_from_slice(&header_crc.to_le_bytes());
    for block in image[HEADER_BYTES..].chunks_mut(BLOCK_BYTES) {
        if block.len() < 16 {
            return;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header_crc.to_le_bytes());
        hasher.update(&block[4..]);
        let crc = hasher.finalize();
        block[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn written(mut writer: ImageWriter, store: &Store) -> Vec<u8> {
    let mut image = Vec::new();
    loop {
        match writer.step(&store.trees, &store.state).expect("the model has no faults") {
            Step::Counting => {}
            Step::Piece(piece) => image.extend_from_slice(&piece.bytes),
            Step::Done => return image,
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let store = Store::new();
    let (map, wanted) = &*DIFFERENCE;
    let kinds = [
        written(ImageWriter::new(&IDENTITY), &store),
        paged(&store),
        map.encode().expect("not too long"),
        written(ImageWriter::partial(&IDENTITY, Arc::clone(map), Arc::clone(wanted)), &store),
    ];
    let seed = |flags: u8| [&[flags][..], &kinds[usize::from(flags >> 2)]].concat();
    (0u8..16).map(seed).collect()
}
