use proptest::prelude::*;
use ringstone_pager::api::{Access, Aggregate, TreeId, TreeSpec, WriteTrees as _};
use ringstone_pager::model::ModelTrees;

use super::*;
use crate::command::{ArchivedCommand, Command, DeleteRange, Member, Put};
use crate::error::{Error, ReadFault};
use crate::event::{Event, Revision};
use crate::identity::Identity;
use crate::lease::state as lease;
use crate::mvcc;
use crate::state::State;

pub(super) const IDENTITY: Identity = Identity { cluster_id: 0xcdf8, member_id: 0x8e9e, file_id: [7; 16] };

pub(super) fn specs() -> Vec<TreeSpec> {
    let plain = |key: &[u8], value: &[u8]| Aggregate { count: 1, bytes: (key.len() + value.len()) as u64, hash: 0 };
    let mut specs = mvcc::record::SPECS.to_vec();
    specs.extend(lease::TREE_SPECS);
    specs.push(TreeSpec { id: MEMBER, name: "member", summarize: plain });
    specs.push(TreeSpec { id: ALARM, name: "alarm", summarize: plain });
    specs
}

pub(super) struct Store {
    pub(super) trees: ModelTrees,
    pub(super) state: State,
}

impl Store {
    pub(super) fn new() -> Store {
        let state = State { hash_key: *b"sixteen key byte", cluster_id: 0xcdf8, ..State::default() };
        let mut store = Store { trees: ModelTrees::new(&specs()), state };
        let member = Member {
            id: 0x8e9e,
            name: "one".to_owned(),
            peer_urls: vec!["http://localhost:2380".to_owned()],
            client_urls: vec![],
            is_learner: false,
        };
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&member).expect("a member can be encoded");
        store.trees.put(MEMBER, &member.id.to_be_bytes(), &[&bytes]).expect("the model has no faults");
        let alarm = [&member.id.to_be_bytes()[..], &1u32.to_be_bytes()].concat();
        store.trees.put(ALARM, &alarm, &[]).expect("the model has no faults");
        lease::grant(&mut store.trees, lease::LeaseTime(5), 7, 60).expect("no faults").expect("granted");
        store.publish();
        store
    }

    fn publish(&mut self) {
        self.trees.set_attributes(&self.state.to_attributes());
    }

    fn apply(&mut self, command: &Command) {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(command).expect("commands serialize");
        let command = rkyv::access::<ArchivedCommand, rkyv::rancor::Error>(&bytes).expect("what was written is valid");
        mvcc::apply(&mut self.trees, &mut self.state, command).expect("the model has no faults");
        self.state.applied_index += 1;
        self.publish();
    }

    pub(super) fn put(&mut self, key: &[u8], length: usize, lease: i64) {
        let put = Put { key: key.to_vec(), value: vec![b'v'; length], lease, ..Put::default() };
        self.apply(&Command::Put(put));
    }

    pub(super) fn play(&mut self, action: &Action) {
        match action {
            Action::Put(key, length, lease) => self.put(&[b'k', *key], *length, *lease),
            Action::Delete(from, to) => self.apply(&Command::DeleteRange(DeleteRange {
                key: vec![b'k', *from],
                range_end: vec![b'k', *to],
                prev_kv: false,
            })),
            Action::Compact(revision) => self.apply(&Command::Compact { revision: *revision }),
            Action::Sweep(records) => {
                mvcc::compact_slice(&mut self.trees, &mut self.state, *records).expect("the model has no faults");
                self.publish();
            }
        }
    }

    fn image(&self) -> Vec<u8> {
        let mut writer = ImageWriter::new(&IDENTITY);
        let mut image: Vec<u8> = Vec::new();
        let mut left = None;
        loop {
            match writer.step(&self.trees, &self.state).expect("the model has no faults") {
                Step::Counting => assert!(image.is_empty(), "counting comes first"),
                Step::Piece(piece) => {
                    let length = piece.bytes.len() as u64;
                    assert!(length as usize <= BLOCK_BYTES && length > 0);
                    let before = left.unwrap_or(piece.remaining_bytes + length);
                    assert_eq!(before, piece.remaining_bytes + length, "remaining bytes count down");
                    left = Some(piece.remaining_bytes);
                    image.extend_from_slice(&piece.bytes);
                }
                Step::Done => break,
            }
        }
        assert_eq!(left, Some(0));
        assert!(image.len().is_multiple_of(HEADER_BYTES));
        image
    }

    fn history(&self, from: i64) -> Vec<Event> {
        let mut cursor = Revision { main: from, sub: 0 };
        let mut events = Vec::new();
        let mut budget = mvcc::Budget { records: 1_000_000, bytes: 1 << 30 };
        let to = self.state.revision;
        mvcc::history::read_events(&self.trees, &self.state, &mut cursor, to, &mut budget, &mut |event| {
            events.push(event.to_event(true)?);
            Ok(())
        })
        .expect("the model has no faults");
        events
    }
}

fn read(image: &[u8], piece: usize) -> Result<(Store, ImageSummary), ImageError> {
    let mut trees = ModelTrees::new(&specs());
    let mut reader = ImageReader::new();
    for bytes in image.chunks(piece) {
        reader.push(bytes)?;
        reader.drain_into(&mut trees, |_| true)?;
    }
    let summary = reader.finish()?;
    summary.check_trees(&trees, |_| true)?;
    trees.set_attributes(&summary.state.to_attributes());
    Ok((Store { trees, state: summary.state.clone() }, summary))
}

pub(super) fn assert_same(one: &Store, other: &Store) {
    assert_eq!(one.state, other.state);
    for revision in 0..one.state.revision + 2 {
        let hashes = [one, other].map(|store| mvcc::hash::hash_kv(&store.trees, &store.state, revision));
        assert_eq!(hashes[0], hashes[1], "HashKV at {revision}");
    }
    let from = one.state.compact_revision.max(0);
    assert_eq!(one.history(from), other.history(from), "what a watch sees");
    assert_eq!(one.image(), other.image(), "every record");
}

#[derive(Clone, Debug)]
pub(super) enum Action {
    Put(u8, usize, i64),
    Delete(u8, u8),
    Compact(i64),
    Sweep(usize),
}

pub(super) fn action() -> impl Strategy<Value = Action> {
    let length = prop_oneof![5 => 0..40usize, 2 => 1000..3000usize, 1 => 30_000..100_000usize];
    prop_oneof![
        8 => (0..12u8, length, prop_oneof![Just(0i64), Just(7)]).prop_map(|(key, length, lease)| Action::Put(key, length, lease)),
        2 => (0..12u8, 0..12u8).prop_map(|(from, to)| Action::Delete(from, to)),
        1 => (0..60i64).prop_map(Action::Compact),
        3 => (1..6usize).prop_map(Action::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_store_comes_back_as_it_was(actions in proptest::collection::vec(action(), 0..60), piece in 1..70_000usize) {
        let mut store = Store::new();
        actions.iter().for_each(|action| store.play(action));
        let (restored, summary) = read(&store.image(), piece.max(64)).expect("an image");
        assert_same(&store, &restored);
        prop_assert_eq!(summary.header.revision, store.state.revision);
        // And goes on as the other does.
        let (mut one, mut other) = (store, restored);
        for store in [&mut one, &mut other] {
            store.put(b"k\x03", 2000, 0);
            let revision = store.state.revision;
            store.apply(&Command::Compact { revision });
            while mvcc::compact_slice(&mut store.trees, &mut store.state, 3).expect("no faults") == mvcc::Progress::More {}
            store.publish();
        }
        assert_same(&one, &other);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), ours in any::<bool>()) {
        let mut bytes = bytes;
        if ours && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(MAGIC);
        }
        prop_assert!(read(&bytes, 100).is_err());
    }
}

fn small() -> Store {
    let mut store = Store::new();
    store.put(b"a", 3, 7);
    store.put(b"a", 1100, 0);
    store.put(b"b", 4, 0);
    store
}

#[test]
fn every_flipped_bit_is_found() {
    let image = small().image();
    for bit in 0..image.len() * 8 {
        let mut bad = image.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // The one class of bits that a reader must not mind: features that it may ignore. Their checksum still finds it.
        assert!(read(&bad, 1 << 20).is_err(), "bit {bit}");
    }
}

#[test]
fn every_cut_and_every_tail_is_found() {
    let image = small().image();
    for cut in 0..image.len() {
        assert!(read(&image[..cut], 1 << 20).is_err(), "cut at {cut}");
    }
    let longer = [&image[..], &[0; 32]].concat();
    assert!(matches!(read(&longer, 1 << 20), Err(ImageError::Damaged { .. })));
    assert_eq!(read(&image[..600], 100).map(|_| ()), Err(ImageError::Cut { found: 600, expected: image.len() as u64 }));
}

/// Fields that a forger sets, with all checksums made right again.
#[test]
fn a_consistent_forgery_is_refused_by_what_its_records_say() {
    let mut store = small();
    store.trees.put(LEASE, b"short", &[b"not a lease"]).expect("the model has no faults");
    let refused = read(&store.image(), 1 << 20).map(|_| ());
    assert!(
        matches!(refused, Err(ImageError::Damaged { what: "a lease's id is not 8 bytes long", .. })),
        "{refused:?}"
    );
    let mut store = small();
    store.trees.put(LIVE, b"k", &[b"\xff\xff"]).expect("the model has no faults");
    assert!(read(&store.image(), 1 << 20).is_err());
}

#[test]
fn a_view_that_moves_ends_the_writer() {
    let mut store = small();
    let mut writer = ImageWriter::new(&IDENTITY);
    assert_eq!(writer.step(&store.trees, &store.state), Ok(Step::Counting));
    store.put(b"c", 1, 0);
    assert_eq!(writer.step(&store.trees, &store.state), Err(ReadFault::Refused(Error::SnapshotMoved)));
}

/// A change that leaves the attributes alone, as a sweep's slice may.
#[test]
fn a_tree_that_moves_alone_ends_the_writer() {
    let mut store = small();
    let mut writer = ImageWriter::new(&IDENTITY);
    while writer.step(&store.trees, &store.state) == Ok(Step::Counting) {}
    store.trees.delete(VALUE, &Revision { main: 3, sub: 0 }.to_key()).expect("the model has no faults");
    assert_eq!(writer.step(&store.trees, &store.state), Err(ReadFault::Refused(Error::SnapshotMoved)));
}

#[test]
fn a_drain_that_met_an_absent_page_goes_on() {
    let store = small();
    let mut reader = ImageReader::new();
    reader.push(&store.image()).expect("an image");
    let absent = ringstone_pager::api::Fault::Absent(ringstone_pager::api::PageRun { first: 9, pages: 1 });
    let (mut calls, mut trees) = (0, ModelTrees::new(&specs()));
    loop {
        let drained = reader.drain(&mut |tree, key, value| -> Access<()> {
            calls += 1;
            if calls % 2 == 0 { Err(absent.clone()) } else { trees.put(tree, key, &[value]) }
        });
        match drained {
            Ok(()) => break,
            Err(error) => assert_eq!(error, ImageError::Trees(absent.clone())),
        }
    }
    reader.finish().expect("a whole image").check_trees(&trees, |_| true).expect("all records");
}

/// The diagrams of docs/format-image.md, byte for byte.
#[test]
fn the_bytes_are_those_of_the_format_document() {
    let store = small();
    let image = store.image();
    assert_eq!(&image[..8], b"RSTNIMAG");
    assert_eq!(u32_at(&image, 8), 1);
    assert_eq!(image[16..40], [0; 24], "features");
    assert_eq!((word_at(&image, 40), word_at(&image, 48)), (0xcdf8, 0x8e9e));
    assert_eq!((word_at(&image, 56), word_at(&image, 64) as i64), (4, -1));
    assert_eq!(word_at(&image, 72), image.len() as u64);
    assert_eq!((word_at(&image, 96), u32_at(&image, 104)), (2, 0), "keys, group");
    assert_eq!(image[108..512], [0; 404]);
    // The first block, its first section, and the one record of that.
    assert_eq!(u32_at(&image, 516) as u64, word_at(&image, 80), "payload");
    assert_eq!(word_at(&image, 520), 0, "block number");
    let attributes = store.state.to_attributes();
    assert_eq!(image[528..536], [0; 8], "tree 0");
    assert_eq!((word_at(&image, 536), word_at(&image, 544)), (1, 8 + attributes.len() as u64));
    assert_eq!((u32_at(&image, 576), u32_at(&image, 580) as usize), (0, attributes.len()));
    assert_eq!(image[584..584 + attributes.len()], attributes);
    // The next section is the live tree.
    let live = 584 + attributes.len();
    assert_eq!((image[live], word_at(&image, live + 8), word_at(&image, live + 24)), (1, 2, 2));
    let document = include_str!("../../../docs/format-image.md");
    for (name, value) in [
        ("HEADER_BYTES", HEADER_BYTES),
        ("BLOCK_BYTES", BLOCK_BYTES),
        ("BLOCK_HEADER_BYTES", BLOCK_HEADER_BYTES),
        ("SECTION_HEADER_BYTES", SECTION_HEADER_BYTES),
        ("RECORD_HEADER_BYTES", RECORD_HEADER_BYTES),
        ("RECORD_BYTES_MAX", RECORD_BYTES_MAX),
    ] {
        assert!(document.contains(&format!("`{name}` {value}")), "{name} is {value} in the document");
    }
    for (section, tree) in SECTIONS.into_iter().enumerate() {
        let name = specs().iter().find(|spec| spec.id == tree).map_or("state", |spec| spec.name);
        assert!(document.contains(&format!("| {section} | {} | {name} |", tree.0)), "{name} in the document");
    }
    assert_eq!(TreeId(0), SECTIONS[0]);
}
