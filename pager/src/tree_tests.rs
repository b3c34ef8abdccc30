//! The trees against the model, without a file: everything in frames.

use core::ops::{Bound, ControlFlow};
use std::sync::Arc;

use proptest::prelude::*;

use crate::api::{Aggregate, Direction, KeyRange, ReadTrees, TreeId, TreeSpec, WriteTrees};
use crate::disk::SimDisk;
use crate::forest::Forest;
use crate::model::ModelTrees;
use crate::node::{Child, LeafValue};
use crate::root::State;
use crate::shared::Shared;
use crate::tree::{self, Nodes, Visit};

pub(crate) const TREE: TreeId = TreeId(1);

/// Entries whose value begins with 0 don't count.
pub(crate) fn summarize(key: &[u8], value: &[u8]) -> Aggregate {
    let hash = key.iter().chain(value).fold(17_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    Aggregate { count: u64::from(value.first() != Some(&0)), bytes: (key.len() + value.len()) as u64, hash }
}

pub(crate) const SPECS: &[TreeSpec] =
    &[TreeSpec { id: TREE, name: "one", summarize }, TreeSpec { id: TreeId(2), name: "two", summarize }];

fn forest() -> Forest {
    let mut state = State::empty();
    state.generation = 1;
    Forest::new(Arc::new(Shared::new(Arc::new(SimDisk::new()), 0, SPECS)), state)
}

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Put(u16, usize, u8),
    Delete(u16),
    DeleteFront(Option<u16>, Option<u16>, usize),
    Publish,
}

/// Keys of different lengths with common beginnings; now and then one longer than a page.
pub(crate) fn key_of(number: u16) -> Vec<u8> {
    let mut key = format!("/registry/{:03}/{}", number % 97, "x".repeat(usize::from(number % 41))).into_bytes();
    if number.is_multiple_of(61) {
        key.extend(core::iter::repeat_n(b'k', 3000 + usize::from(number % 7) * 1500));
    }
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn value_of(bytes: usize, fill: u8) -> Vec<u8> {
    vec![fill; bytes]
}

pub(crate) fn actions(count: usize) -> impl Strategy<Value = Vec<Action>> {
    let bytes = prop_oneof![8 => 0..200_usize, 3 => 200..2500_usize, 1 => 2500..20_000_usize];
    let one = prop_oneof![
        12 => (0..600_u16, bytes, 0..4_u8).prop_map(|(key, bytes, fill)| Action::Put(key, bytes, fill)),
        5 => (0..600_u16).prop_map(Action::Delete),
        1 => (proptest::option::of(0..600_u16), proptest::option::of(0..600_u16), 1..80_usize)
            .prop_map(|(low, high, most)| Action::DeleteFront(low, high, most)),
        1 => Just(Action::Publish),
    ];
    proptest::collection::vec(one, 1..count)
}

pub(crate) fn bound(key: Option<&[u8]>, included: bool) -> Bound<&[u8]> {
    match key {
        None => Bound::Unbounded,
        Some(key) if included => Bound::Included(key),
        Some(key) => Bound::Excluded(key),
    }
}

pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn entries(trees: &dyn ReadTrees, range: KeyRange<'_>, direction: Direction) -> Entries {
    let mut entries = Entries::new();
    let mut visitor = |key: &[u8], value: &[u8]| {
        entries.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    trees.visit(TREE, range, direction, false, &mut visitor).expect("all is in memory");
    entries
}

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn entries_of(forest: &Forest, range: KeyRange<'_>, direction: Direction, skip_uncounted: bool) -> Entries {
    let mut entries = Entries::new();
    let mut visitor = |key: &[u8], value: &[u8]| {
        entries.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    let visit = Visit { tree: TREE, direction, skip_uncounted, visitor: &mut visitor };
    tree::visit(forest, &forest.root(TREE), range, visit).expect("all is in frames");
    entries
}

/// Every rule that a node must keep, and the sums.
fn check(forest: &Forest, child: &Child, level: u8, low: Option<&[u8]>, high: Option<&[u8]>) -> Aggregate {
    let view = forest.load(child).expect("in frames");
    assert_eq!(view.level(), level);
    assert_eq!(view.generation(), child.generation);
    assert_eq!(view.pages(), child.pages);
    assert!(view.len() > 0, "no empty nodes");
    let mut sum = Aggregate::default();
    for index in 0..view.len() {
        let key = view.key(index);
        assert!(index == 0 || view.key(index - 1) < key, "keys ascend");
        if view.is_leaf() {
            assert!(low.is_none_or(|low| low <= key) && high.is_none_or(|high| key < high), "keys within the fences");
            assert!(view.pages() == 1 || view.len() == 1, "a long leaf has one cell");
            sum = sum.plus(summarize(key, view.value(index)));
        } else {
            let low = if key.is_empty() { low } else { Some(key) };
            let high = if index + 1 < view.len() { Some(view.key(index + 1)) } else { high };
            let below = view.child(index);
            let total = check(forest, &below, level - 1, low, high);
            assert_eq!(total, below.sum, "the parent knows the sum");
            sum = sum.plus(total);
        }
    }
    sum
}

fn publish(forest: &mut Forest) {
    let total = forest.settle(TREE);
    let root = forest.root(TREE);
    if forest.is_own(&root.child) {
        forest.root_mut(TREE).child.sum = total;
        forest.clear_stale(&root.child);
    }
    forest.state.generation += 1;
    for retired in core::mem::take(&mut forest.retired) {
        forest.release(&retired);
    }
}

fn check_all(forest: &Forest, model: &ModelTrees) {
    let total = forest.settle(TREE);
    let root = forest.root(TREE);
    if !root.child.reference.is_none() {
        assert_eq!(check(forest, &root.child, root.level, None, None), total);
    }
    assert_eq!(model.aggregate(TREE, ALL).expect("the model"), total);
    assert_eq!(entries(model, ALL, Direction::Forward), entries_of(forest, ALL, Direction::Forward, false));
}

fn run(history: &[Action]) {
    let (mut forest, mut model) = (forest(), ModelTrees::new(SPECS));
    for action in history {
        match action {
            Action::Put(key, bytes, fill) => {
                let (key, value) = (key_of(*key), value_of(*bytes, *fill));
                let half = value.len() / 2;
                let pieces = [&value[..half], &value[half..]];
                forest.put(TREE, &key, LeafValue::Many(&pieces)).expect("in frames");
                model.put(TREE, &key, &[&value]).expect("the model");
            }
            Action::Delete(key) => {
                let key = key_of(*key);
                assert_eq!(forest.delete(TREE, &key), model.delete(TREE, &key));
            }
            Action::DeleteFront(low, high, most) => {
                let (low, high) = (low.map(key_of), high.map(key_of));
                let range = (bound(low.as_deref(), true), bound(high.as_deref(), false));
                while !forest.delete_front(TREE, range, *most).expect("in frames") {}
                while !model.delete_front(TREE, range, *most).expect("the model") {}
            }
            Action::Publish => {
                publish(&mut forest);
                check_all(&forest, &model);
            }
        }
    }
    check_all(&forest, &model);
    let mut keys: Vec<Vec<u8>> = (0..600).step_by(37).map(key_of).collect();
    keys.sort();
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(tree::get(&forest, TREE, &forest.root(TREE), key), model.get(TREE, key));
        let other = &keys[(index * 7 + 3) % keys.len()];
        for (included, direction) in [(true, Direction::Forward), (false, Direction::Backward)] {
            let range = (bound(Some(key), included), bound(Some(other), !included));
            let expected = entries(&model, range, direction);
            assert_eq!(entries_of(&forest, range, direction, false), expected);
            let counted: Entries = expected.into_iter().filter(|(_, value)| value.first() != Some(&0)).collect();
            let mut seen = entries_of(&forest, range, direction, true);
            seen.retain(|(_, value)| value.first() != Some(&0));
            assert_eq!(seen, counted);
            let root = forest.root(TREE);
            let sum = tree::aggregate(&forest, TREE, &root, range, summarize).expect("in frames");
            assert_eq!(sum, model.aggregate(TREE, range).expect("the model"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn trees_do_as_the_model_does(history in actions(600)) {
        run(&history);
    }
}

#[test]
fn appends_leave_full_pages_behind() {
    let mut forest = forest();
    for number in 0..20_000_u64 {
        forest.put(TREE, &number.to_be_bytes(), LeafValue::One(&[1; 100])).expect("in frames");
    }
    let leaf_cells = crate::node::PAGE_CAPACITY / crate::node::leaf_cell_bytes(8, 100);
    let least = 20_000_usize.div_ceil(leaf_cells);
    let pages = usize::try_from(forest.dirty_bytes).expect("small") / crate::node::PAGE_BYTES;
    assert!(pages <= least + least / 25 + 4, "{pages} pages, {least} leaves at least");
}

#[test]
fn appends_between_other_changes_do_as_the_model_does() {
    for seed in 0..40_u64 {
        let (mut forest, mut model) = (forest(), ModelTrees::new(SPECS));
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let (mut last, mut in_place) = (0_u64, 0);
        let append = |number: u64| [&[0xff; 4][..], &number.to_be_bytes()].concat();
        for _ in 0..400 {
            match next(20) {
                0 => {
                    publish(&mut forest);
                    check_all(&forest, &model);
                }
                // Sums are asked for in the middle of a generation.
                1 => assert_eq!(forest.settle(TREE), model.aggregate(TREE, ALL).expect("the model")),
                2 => {
                    let key = append(last);
                    assert_eq!(forest.delete(TREE, &key), model.delete(TREE, &key));
                }
                3 => {
                    let (low, high) = (append(last.saturating_sub(30)), append(last.saturating_sub(next(30))));
                    let range = (bound(Some(&low), true), bound(Some(&high), false));
                    while !forest.delete_front(TREE, range, 10).expect("in frames") {}
                    while !model.delete_front(TREE, range, 10).expect("the model") {}
                }
                4 => {
                    let (key, value) = (key_of(next(600) as u16), vec![3; next(3000) as usize]);
                    forest.put(TREE, &key, LeafValue::One(&value)).expect("in frames");
                    model.put(TREE, &key, &[&value]).expect("the model");
                }
                // The other tree's edge is not this one's.
                5 => forest.put(TreeId(2), &append(last), LeafValue::One(&[1])).expect("in frames"),
                step => {
                    last += u64::from(step > 6);
                    let (key, value) = (append(last), vec![2; next(700) as usize]);
                    if forest.is_behind(TREE, &key) {
                        in_place += 1;
                        assert_eq!(tree::get(&forest, TREE, &forest.root(TREE), &key), Ok(None));
                    }
                    forest.put(TREE, &key, LeafValue::One(&value)).expect("in frames");
                    model.put(TREE, &key, &[&value]).expect("the model");
                }
            }
        }
        check_all(&forest, &model);
        assert!(in_place > 50, "seed {seed}: the edge was used {in_place} times");
    }
}
