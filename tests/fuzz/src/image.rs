//! The bytes of a snapshot, of an image that another member sends, of a map of one, and of what differs: whatever they are,
//! reading them is an error or gives the records of a whole image, with checksums as they are or made right again.

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, LazyLock};

use ringstone_core::identity::Identity;
use ringstone_core::image::{ImageMap, ImageReader, ImageWriter, MapBuilder, OwnRecords, Step, Wanted};

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
    if flags & 1 != 0 {
        reseal(&mut image);
    }
    let step = if flags & 2 != 0 { 700 } else { usize::MAX };
    let mut reader = match kind {
        FILE => ImageReader::new(),
        STREAM => ImageReader::of_member(),
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
const STREAM: u8 = 1;
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
        written(ImageWriter::streamed(&IDENTITY), &store),
        map.encode().expect("not too long"),
        written(ImageWriter::partial(&IDENTITY, Arc::clone(map), Arc::clone(wanted)), &store),
    ];
    let seed = |flags: u8| [&[flags][..], &kinds[usize::from(flags >> 2)]].concat();
    (0u8..16).map(seed).collect()
}
