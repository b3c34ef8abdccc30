//! Images between members: streamed ones, and partial ones beside a store that has the rest.

use std::sync::Arc;

use proptest::prelude::*;
use ringstone_pager::api::{ReadTrees as _, WriteTrees as _};
use ringstone_pager::model::ModelTrees;

use super::tests::{Action, IDENTITY, Store, action, assert_same, specs};
use super::*;
use crate::trees::{LEASE, LIVE, VALUE};

fn map_of(store: &Store, run_bytes: u64) -> ImageMap {
    let mut builder = MapBuilder::new([3; 16], run_bytes);
    while !builder.step(&store.trees).expect("the model has no faults") {}
    let map = builder.finish();
    let bytes = map.encode().expect("not too long");
    assert_eq!(ImageMap::decode(&bytes), Ok(map.clone()));
    map
}

fn write(mut writer: ImageWriter, store: &Store) -> Vec<u8> {
    let mut image = Vec::new();
    loop {
        match writer.step(&store.trees, &store.state).expect("the model has no faults") {
            Step::Counting => panic!("a streamed image is not counted"),
            Step::Piece(piece) => image.extend_from_slice(&piece.bytes),
            Step::Done => return image,
        }
    }
}

/// What a member makes of it that has `own`.
fn read(mut reader: ImageReader, image: &[u8], piece: usize, own: &Store) -> Result<(Store, u64), ImageError> {
    let mut trees = ModelTrees::new(&specs());
    let mut taken = 0;
    for bytes in image.chunks(piece) {
        reader.push(bytes)?;
        reader.drain_into(&mut trees, |_| true)?;
        while let Some(run) = reader.own_run() {
            let after = run.after.as_deref().map_or(core::ops::Bound::Unbounded, core::ops::Bound::Excluded);
            let until = core::ops::Bound::Included(&run.last[..]);
            let mut outcome = Ok(());
            OwnRecords::visit(&mut &own.trees, run.tree, (after, until), &mut |key, value| {
                taken += 1;
                outcome = reader.take_own(key, value, &mut |tree, key, value| trees.put(tree, key, &[value]));
                if outcome.is_ok() { core::ops::ControlFlow::Continue(()) } else { core::ops::ControlFlow::Break(()) }
            })
            .expect("the model has no faults");
            outcome?;
            reader.end_own()?;
            reader.drain_into(&mut trees, |_| true)?;
        }
    }
    let summary = reader.finish()?;
    summary.check_trees(&trees, |_| true)?;
    trees.set_attributes(&summary.state.to_attributes());
    Ok((Store { trees, state: summary.state }, taken))
}

fn difference(leader: &Store, own: &Store, run_bytes: u64) -> (Arc<ImageMap>, Arc<Wanted>) {
    let map = map_of(leader, run_bytes);
    let wanted = map.compare(&mut &own.trees);
    assert_eq!(Wanted::of_bytes(wanted.as_bytes(), map.runs.len()).as_ref(), Some(&wanted));
    (Arc::new(map), Arc::new(wanted))
}

fn play(store: &mut Store, actions: &[Action]) {
    for action in actions {
        store.play(action);
    }
}

/// A map, and all of it.
fn everything(store: &Store, run_bytes: u64) -> (Arc<ImageMap>, Arc<Wanted>) {
    let map = map_of(store, run_bytes);
    let mut all = Wanted::none(map.runs.len());
    (0..map.runs.len()).for_each(|run| all.add(run));
    (Arc::new(map), Arc::new(all))
}

fn all_of(store: &Store) -> ImageWriter {
    let (map, wanted) = everything(store, 4096);
    ImageWriter::partial(&IDENTITY, map, wanted)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_store_comes_back_from_a_stream(
        actions in proptest::collection::vec(action(), 0..60),
        run_bytes in 1..4000u64,
        piece in 1..70_000usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut store = Store::new();
        play(&mut store, &actions);
        let (map, wanted) = everything(&store, run_bytes);
        let writer = || ImageWriter::partial(&IDENTITY, Arc::clone(&map), Arc::clone(&wanted));
        let image = write(writer(), &store);
        let reader = ImageReader::partial(Arc::clone(&map), Arc::clone(&wanted));
        let (other, taken) = read(reader, &image, piece, &store).expect("an image");
        assert_same(&store, &other);
        prop_assert_eq!(taken, 0);
        // A clone of the writer goes on from the same place with the same bytes.
        let mut half = writer();
        let blocks = image.len() / BLOCK_BYTES + 1;
        let mut at = 0;
        for _ in 0..cut.index(blocks) {
            let Ok(Step::Piece(piece)) = half.step(&store.trees, &store.state) else { break };
            at += piece.bytes.len();
        }
        prop_assert_eq!(&write(half.clone(), &store)[..], &image[at..]);
        // Files are counted.
        prop_assert_eq!(read(ImageReader::new(), &image, piece, &store).err(), Some(ImageError::Features(3)));
    }

    /// A member with an older store, or with that of another history altogether.
    #[test]
    fn what_differs_and_ones_own_make_the_whole(
        common in proptest::collection::vec(action(), 0..40),
        more in proptest::collection::vec(action(), 0..25),
        others in proptest::collection::vec(action(), 0..6),
        run_bytes in 1..4000u64,
        piece in 1..70_000usize,
    ) {
        let (mut leader, mut own) = (Store::new(), Store::new());
        play(&mut leader, &common);
        play(&mut own, &common);
        play(&mut leader, &more);
        play(&mut own, &others);
        let (map, wanted) = difference(&leader, &own, run_bytes);
        let writer = ImageWriter::partial(&IDENTITY, Arc::clone(&map), Arc::clone(&wanted));
        let image = write(writer, &leader);
        let (made, _) = read(ImageReader::partial(map, wanted), &image, piece, &own).expect("an image");
        assert_same(&leader, &made);
    }

    #[test]
    fn any_bytes_are_refused_as_a_map(bytes in proptest::collection::vec(any::<u8>(), 0..1000), ours in any::<bool>()) {
        let mut bytes = bytes;
        if ours && bytes.len() >= 16 {
            bytes[..8].copy_from_slice(b"RSTNIMAP");
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            let crc = crc32fast::hash(&bytes[16..]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        prop_assert!(ImageMap::decode(&bytes).is_err());
    }
}

/// Keys of 20 bytes, values of 500.
fn large(keys: u64) -> Store {
    let mut store = Store::new();
    for key in 0..keys {
        store.put(format!("{key:020}").as_bytes(), 500, 0);
    }
    store
}

#[test]
fn one_change_sends_little() {
    let (mut leader, own) = (large(4000), large(4000));
    leader.put(b"00000000000000000700", 501, 0);
    let whole = write(all_of(&leader), &leader).len();
    let (map, wanted) = difference(&leader, &own, 4096);
    // Its leaf, and the end of the log.
    assert!(wanted.count() <= 3, "{} of {} runs", wanted.count(), map.runs.len());
    let image = write(ImageWriter::partial(&IDENTITY, Arc::clone(&map), Arc::clone(&wanted)), &leader);
    assert!(image.len() < 3 * BLOCK_BYTES && whole > 100 * BLOCK_BYTES, "{} of {whole} bytes", image.len());
    let (made, taken) = read(ImageReader::partial(map, wanted), &image, 1 << 20, &own).expect("an image");
    assert!(taken > 7900, "{taken} of 8001 records of its own");
    assert_same(&leader, &made);
}

/// Whatever is compared as equal and is not, or changes afterwards, is found where it is taken.
#[test]
fn a_wrong_equal_is_not_installed() {
    let leader = large(300);
    type Spoil = fn(&mut ModelTrees);
    let spoil: [(&str, Spoil); 4] = [
        ("a record is gone", |trees| drop(trees.delete(LIVE, b"00000000000000000100"))),
        ("one is there that must not be", |trees| {
            let record = trees.get(LIVE, b"00000000000000000100").expect("no faults").expect("there").to_vec();
            trees.put(LIVE, b"000000000000000001000", &[&record]).expect("no faults");
        }),
        ("a lease is gone, of whose tree no sum has a hash", |trees| {
            let record = trees.get(LEASE, &7i64.to_be_bytes()).expect("no faults").expect("there").to_vec();
            let at = record.len() - 1;
            let other = [&record[..at], &[record[at] ^ 1]].concat();
            trees.put(LEASE, &7i64.to_be_bytes(), &[&other]).expect("no faults");
        }),
        ("a value differs", |trees| {
            let record = trees.get(LIVE, b"00000000000000000100").expect("no faults").expect("there").to_vec();
            let at = record.len() - 1;
            let other = [&record[..at], &[record[at] ^ 1]].concat();
            trees.put(LIVE, b"00000000000000000100", &[&other]).expect("no faults");
        }),
    ];
    for (what, spoil) in spoil {
        let mut own = large(300);
        let (map, wanted) = difference(&leader, &own, 4096);
        assert_eq!(wanted.count(), 0, "the same history");
        spoil(&mut own.trees);
        let image = write(ImageWriter::partial(&IDENTITY, Arc::clone(&map), Arc::clone(&wanted)), &leader);
        let made = read(ImageReader::partial(Arc::clone(&map), wanted), &image, 1 << 20, &own).map(drop);
        assert!(matches!(made, Err(ImageError::Damaged { .. })), "{what}: {made:?}");
        // Compared again, it is one run that differs.
        assert_eq!(map.compare(&mut &own.trees).count(), 1, "{what}");
    }
}

#[test]
fn a_partial_image_must_have_what_was_asked_for_and_no_more() {
    let (mut leader, own) = (large(300), large(300));
    leader.put(b"00000000000000000100", 7, 0);
    let (map, wanted) = difference(&leader, &own, 4096);
    let (_, all) = everything(&leader, 4096);
    let none = Arc::new(Wanted::none(map.runs.len()));
    for sent in [all, none] {
        let image = write(ImageWriter::partial(&IDENTITY, Arc::clone(&map), sent), &leader);
        let reader = ImageReader::partial(Arc::clone(&map), Arc::clone(&wanted));
        let made = read(reader, &image, 1 << 20, &own).map(drop);
        assert!(matches!(made, Err(ImageError::Damaged { .. })), "{made:?}");
    }
    // A whole image where a part was asked for.
    let mut writer = ImageWriter::new(&IDENTITY);
    let mut whole = Vec::new();
    loop {
        match writer.step(&leader.trees, &leader.state).expect("the model has no faults") {
            Step::Counting => {}
            Step::Piece(piece) => whole.extend_from_slice(&piece.bytes),
            Step::Done => break,
        }
    }
    assert!(read(ImageReader::partial(map, wanted), &whole, 1 << 20, &own).is_err());
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_stream_is_found() {
    let mut store = Store::new();
    store.put(b"a", 40_000, 7);
    store.put(b"b", 4, 0);
    let (map, wanted) = everything(&store, 4096);
    let image = write(ImageWriter::partial(&IDENTITY, Arc::clone(&map), Arc::clone(&wanted)), &store);
    let reader = || ImageReader::partial(Arc::clone(&map), Arc::clone(&wanted));
    for cut in (0..image.len()).step_by(97).chain([image.len() - 1]) {
        assert!(read(reader(), &image[..cut], 1 << 20, &store).is_err(), "cut at {cut}");
    }
    for bit in (0..image.len() * 8).step_by(1009) {
        let mut bad = image.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(reader(), &bad, 1 << 20, &store).is_err(), "bit {bit}");
    }
    let longer = [&image[..], &[0; 32]].concat();
    assert!(read(reader(), &longer, 1 << 20, &store).is_err());
}

/// A run that can't be read is one that differs.
#[test]
fn damage_differs() {
    struct Damaged<'a>(&'a Store);
    impl OwnRecords for Damaged<'_> {
        fn visit(
            &mut self,
            tree: TreeId,
            range: ringstone_pager::api::KeyRange<'_>,
            visitor: &mut ringstone_pager::api::Visitor<'_>,
        ) -> ringstone_pager::api::Access<()> {
            if tree == VALUE {
                let damage = ringstone_pager::api::Damage { page: 9, tree: tree.0, what: "planted" };
                return Err(ringstone_pager::api::Fault::Damaged(damage));
            }
            OwnRecords::visit(&mut &self.0.trees, tree, range, visitor)
        }
    }
    let mut store = large(10);
    for key in 0..20u8 {
        store.put(&[key], 50_000, 0);
    }
    let map = map_of(&store, 4096);
    let values = map.runs.iter().filter(|run| run.tree == VALUE).count();
    assert!(values > 10, "{values} runs of large values");
    assert_eq!(map.compare(&mut Damaged(&store)).count(), values);
}
