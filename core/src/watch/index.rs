//! Which watchers does a key concern?
//!
//! Single keys stand in a hash map. Ranges stand in a treap ordered by (start, end), each node knowing the furthest end
//! below it, so that a stab takes O((k + 1) log n) for k ranges that hold the key. Watchers of the same range share a
//! node. Priorities are a fixed mix of a counter: no seed, and nothing that a client sends has influence on them.

use core::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use ahash::RandomState;
use bytes::Bytes;
use smallvec::SmallVec;

use super::watcher::{Slot, Span, SpanEnd};

#[derive(Default)]
pub(super) struct WatchIndex {
    singles: HashMap<Bytes, Slots, RandomState>,
    ranges: RangeTree,
}

impl WatchIndex {
    pub fn insert(&mut self, span: &Span, slot: Slot) {
        match &span.end {
            SpanEnd::Single => self.singles.entry(span.start.clone()).or_default().push(slot),
            SpanEnd::Before(end) => self.ranges.insert(&span.start, Some(end), slot),
            SpanEnd::Open => self.ranges.insert(&span.start, None, slot),
        }
    }

    pub fn remove(&mut self, span: &Span, slot: Slot) {
        match &span.end {
            SpanEnd::Single => self.remove_single(&span.start, slot),
            SpanEnd::Before(end) => self.ranges.remove(&span.start, Some(end), slot),
            SpanEnd::Open => self.ranges.remove(&span.start, None, slot),
        }
    }

    fn remove_single(&mut self, key: &Bytes, slot: Slot) {
        let slots = self.singles.get_mut(key).expect("a single key that is watched is in the map");
        slots.take_out(slot);
        if slots.is_empty() {
            self.singles.remove(key);
        }
    }

    /// Adds the watchers whose span holds `key`, in no particular but a repeatable order.
    pub fn stab(&self, key: &[u8], found: &mut Vec<Slot>) {
        if let Some(slots) = self.singles.get(key) {
            slots.add_to(found);
        }
        self.ranges.stab(self.ranges.root, key, found);
    }
}

/// Up to so many watchers of one span are looked through one by one.
const FEW_MAX: usize = 32;

/// The watchers of one span: a few, or any number. One client may have a hundred thousand of the same key, and they end
/// together: taking one out must not look through all others.
#[derive(Default)]
struct Slots {
    few: SmallVec<[Slot; 4]>,
    many: Option<BTreeSet<Slot>>,
}

impl Slots {
    fn of(slot: Slot) -> Slots {
        Slots { few: smallvec::smallvec![slot], many: None }
    }

    fn push(&mut self, slot: Slot) {
        match &mut self.many {
            Some(many) => assert!(many.insert(slot), "a watcher stands at its span once"),
            None if self.few.len() < FEW_MAX => self.few.push(slot),
            None => self.many = Some(self.few.drain(..).chain([slot]).collect()),
        }
    }

    fn take_out(&mut self, slot: Slot) {
        match &mut self.many {
            Some(many) => {
                assert!(many.remove(&slot), "a watcher stands at its span");
                if many.len() <= FEW_MAX / 2 {
                    self.few = many.iter().copied().collect();
                    self.many = None;
                }
            }
            None => {
                let at = self.few.iter().position(|&other| other == slot).expect("a watcher stands at its span");
                self.few.swap_remove(at);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_none()
    }

    fn add_to(&self, found: &mut Vec<Slot>) {
        match &self.many {
            Some(many) => found.extend(many.iter()),
            None => found.extend_from_slice(&self.few),
        }
    }
}

const NIL: u32 = u32::MAX;

struct RangeTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
    made: u64,
}

impl Default for RangeTree {
    fn default() -> RangeTree {
        RangeTree { nodes: Vec::new(), free: Vec::new(), root: NIL, made: 0 }
    }
}

struct Node {
    start: Bytes,
    /// None: no end.
    end: Option<Bytes>,
    left: u32,
    right: u32,
    /// The node of this subtree whose end is the furthest.
    furthest: u32,
    priority: u32,
    slots: Slots,
}

fn compare_ends(left: Option<&Bytes>, right: Option<&Bytes>) -> Ordering {
    match (left, right) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => left.cmp(right),
    }
}

/// SplitMix64's finalizer, upper half.
fn mixed(counter: u64) -> u32 {
    let mut bits = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 32) as u32
}

impl RangeTree {
    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn compare(&self, start: &Bytes, end: Option<&Bytes>, at: u32) -> Ordering {
        let node = self.node(at);
        start.cmp(&node.start).then_with(|| compare_ends(end, node.end.as_ref()))
    }

    fn find(&self, start: &Bytes, end: Option<&Bytes>) -> u32 {
        let mut at = self.root;
        while at != NIL {
            at = match self.compare(start, end, at) {
                Ordering::Less => self.node(at).left,
                Ordering::Greater => self.node(at).right,
                Ordering::Equal => return at,
            };
        }
        NIL
    }

    fn insert(&mut self, start: &Bytes, end: Option<&Bytes>, slot: Slot) {
        let found = self.find(start, end);
        if found != NIL {
            self.node_mut(found).slots.push(slot);
            return;
        }
        self.made = self.made.wrapping_add(1);
        let node = Node {
            start: start.clone(),
            end: end.cloned(),
            left: NIL,
            right: NIL,
            furthest: NIL,
            priority: mixed(self.made),
            slots: Slots::of(slot),
        };
        let new = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("the hub's limit keeps slots within u32")
            }
        };
        self.refresh(new);
        self.root = self.insert_below(self.root, new);
    }

    fn insert_below(&mut self, at: u32, new: u32) -> u32 {
        if at == NIL {
            return new;
        }
        let (start, end) = (self.node(new).start.clone(), self.node(new).end.clone());
        if self.compare(&start, end.as_ref(), at) == Ordering::Less {
            let left = self.insert_below(self.node(at).left, new);
            self.node_mut(at).left = left;
            if self.node(left).priority > self.node(at).priority {
                return self.rotate_right(at);
            }
        } else {
            let right = self.insert_below(self.node(at).right, new);
            self.node_mut(at).right = right;
            if self.node(right).priority > self.node(at).priority {
                return self.rotate_left(at);
            }
        }
        self.refresh(at);
        at
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let up = self.node(at).left;
        self.node_mut(at).left = self.node(up).right;
        self.node_mut(up).right = at;
        self.refresh(at);
        self.refresh(up);
        up
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let up = self.node(at).right;
        self.node_mut(at).right = self.node(up).left;
        self.node_mut(up).left = at;
        self.refresh(at);
        self.refresh(up);
        up
    }

    fn remove(&mut self, start: &Bytes, end: Option<&Bytes>, slot: Slot) {
        let found = self.find(start, end);
        assert!(found != NIL, "a range that is watched is in the tree");
        self.node_mut(found).slots.take_out(slot);
        if !self.node(found).slots.is_empty() {
            return;
        }
        self.root = self.remove_below(self.root, found);
        let gone = self.node_mut(found);
        (gone.start, gone.end, gone.slots) = (Bytes::new(), None, Slots::default());
        self.free.push(found);
    }

    fn remove_below(&mut self, at: u32, gone: u32) -> u32 {
        if at == gone {
            return self.merge(self.node(at).left, self.node(at).right);
        }
        let (start, end) = (self.node(gone).start.clone(), self.node(gone).end.clone());
        if self.compare(&start, end.as_ref(), at) == Ordering::Less {
            let left = self.remove_below(self.node(at).left, gone);
            self.node_mut(at).left = left;
        } else {
            let right = self.remove_below(self.node(at).right, gone);
            self.node_mut(at).right = right;
        }
        self.refresh(at);
        at
    }

    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL || right == NIL {
            return left.min(right);
        }
        let top = if self.node(left).priority > self.node(right).priority {
            let below = self.merge(self.node(left).right, right);
            self.node_mut(left).right = below;
            left
        } else {
            let below = self.merge(left, self.node(right).left);
            self.node_mut(right).left = below;
            right
        };
        self.refresh(top);
        top
    }

    fn refresh(&mut self, at: u32) {
        let mut furthest = at;
        for child in [self.node(at).left, self.node(at).right] {
            if child == NIL {
                continue;
            }
            let candidate = self.node(child).furthest;
            if compare_ends(self.node(candidate).end.as_ref(), self.node(furthest).end.as_ref()).is_gt() {
                furthest = candidate;
            }
        }
        self.node_mut(at).furthest = furthest;
    }

    fn stab(&self, at: u32, key: &[u8], found: &mut Vec<Slot>) {
        if at == NIL {
            return;
        }
        let node = self.node(at);
        if self.node(node.furthest).end.as_ref().is_some_and(|end| &end[..] <= key) {
            return;
        }
        self.stab(node.left, key, found);
        if &node.start[..] <= key {
            if node.end.as_ref().is_none_or(|end| key < &end[..]) {
                node.slots.add_to(found);
            }
            self.stab(node.right, key, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_span() -> impl Strategy<Value = Span> {
        let key = || proptest::collection::vec(0..4_u8, 0..3).prop_map(Bytes::from);
        let end = prop_oneof![Just(SpanEnd::Single), Just(SpanEnd::Open), key().prop_map(SpanEnd::Before)];
        (key(), end).prop_map(|(start, end)| Span { start, end })
    }

    proptest! {
        #[test]
        fn a_stab_finds_exactly_the_spans_that_hold_the_key(
            steps in proptest::collection::vec((any_span(), any::<bool>()), 1..80),
            keys in proptest::collection::vec(proptest::collection::vec(0..4_u8, 0..3), 1..10),
        ) {
            let mut index = WatchIndex::default();
            let mut model: Vec<(Slot, Span)> = Vec::new();
            for (number, (span, remove)) in steps.into_iter().enumerate() {
                if remove && !model.is_empty() {
                    let (slot, span) = model.swap_remove(number * 7 % model.len());
                    index.remove(&span, slot);
                } else {
                    index.insert(&span, number as Slot);
                    model.push((number as Slot, span));
                }
                for key in &keys {
                    let mut found = Vec::new();
                    index.stab(key, &mut found);
                    found.sort_unstable();
                    let mut expected: Vec<Slot> =
                        model.iter().filter(|(_, span)| span.holds(key)).map(|(slot, _)| *slot).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }

    /// A hundred thousand watchers of one key used to end in as many walks over all of them: 2 s in which nothing else ran.
    #[test]
    fn many_watchers_of_one_span_come_and_go() {
        let (single, open) = (Bytes::from_static(b"k"), Bytes::from_static(b"a"));
        let spans = [Span { start: single, end: SpanEnd::Single }, Span { start: open, end: SpanEnd::Open }];
        let mut index = WatchIndex::default();
        let mut expected: Vec<Slot> = (0..1000).collect();
        for &slot in &expected {
            index.insert(&spans[slot as usize % 2], slot);
        }
        assert!(index.singles[&spans[0].start].many.is_some(), "as a set, not as a list");
        while let Some(slot) = expected.pop() {
            index.remove(&spans[slot as usize % 2], slot);
            let mut found = Vec::new();
            index.stab(b"k", &mut found);
            found.sort_unstable();
            assert_eq!(found, expected);
        }
        assert!(index.singles.is_empty());
    }

    /// Ascending inserts are what a Kubernetes start looks like; a list instead of a tree would show here.
    #[test]
    fn the_tree_stays_shallow_for_sorted_ranges() {
        let mut tree = RangeTree::default();
        for number in 0..20_000_u32 {
            let start = Bytes::from(number.to_be_bytes().to_vec());
            tree.insert(&start, Some(&Bytes::from((number + 1).to_be_bytes().to_vec())), number);
        }
        fn depth(tree: &RangeTree, at: u32) -> usize {
            if at == NIL { 0 } else { 1 + depth(tree, tree.node(at).left).max(depth(tree, tree.node(at).right)) }
        }
        assert!(depth(&tree, tree.root) < 60, "depth {} of 20000 nodes", depth(&tree, tree.root));
    }
}
