//! The writer's trees: the state that is being made, the frames that it stands in, and what became garbage on the way.

use core::cell::RefCell;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::api::{Access, Summarize, TreeId};
use crate::chunks::Chunks;
use crate::frames::{Frame, Frames, store_word, view_frame};
use crate::node::{Base, Change, Child, DELTA_BYTES, NodeEdit, NodeView, PAGE_BYTES, Reference, at, class_for};
use crate::page_bits::PageBits;
use crate::root::{State, TreeRoot};
use crate::shared::Shared;
use crate::tree::{Nodes, fetch};

/// A node that no newer state refers to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retired {
    pub reference: Reference,
    pub pages: u32,
    /// Generation that it was made in.
    pub born: u64,
    /// The first generation without it.
    pub freed: u64,
}

impl Retired {
    /// Bytes of its memory.
    pub fn bytes(&self) -> u64 {
        self.reference.bytes(self.pages) as u64
    }
}

/// A node on the way down, and the cell of it that the way goes through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub child: Child,
    pub index: usize,
}

/// The way from the root to a leaf.
pub(crate) type Path = SmallVec<[Step; 8]>;

/// Nodes of a level that take the place of one, with their separators (the first one's is not used).
pub(crate) type Parts = SmallVec<[(Vec<u8>, Child); 3]>;

/// The right edge of a tree whose last put was an append: the next one needs no descent.
pub(crate) struct Edge {
    pub tree: TreeId,
    /// To the last leaf. It is the edge for as long as that leaf is of the unpublished generation and no node of it was
    /// retired: `retire` and any other put to the tree forget it.
    pub path: Path,
}

/// The way to a key that was looked up: the put that follows goes the same one, without comparing keys again.
struct Way {
    tree: TreeId,
    key: SmallVec<[u8; 64]>,
    path: Path,
    found: bool,
    /// [`Forest::changes`] at that time.
    changes: u64,
}

/// What the checkpoint under way wants to know of changes.
pub(crate) struct Watched {
    /// Frames born at or before it belong to it.
    pub generation: u64,
    /// Frames of it that were retired since it began.
    pub orphans: Chunks<Retired>,
    /// Bytes of those.
    pub orphan_bytes: u64,
    /// Branches made since it began: they may refer to its frames. The oldest come first.
    pub young_branches: Chunks<(Reference, u32)>,
    /// How many were made since the last step of switching.
    pub made: usize,
    /// No branch refers to its frames any more, nor will one.
    pub is_switched: bool,
    /// It has reached the file: its frames don't count as dirty any more.
    pub is_written: bool,
    /// Pages below deltas of it that were lent by the checkpoint before: see [`Forest::borrowed`].
    pub lent_before: PageBits,
}

impl Watched {
    pub fn new(generation: u64, lent_before: PageBits) -> Watched {
        Watched {
            generation,
            orphans: Chunks::default(),
            orphan_bytes: 0,
            young_branches: Chunks::default(),
            made: 0,
            is_switched: false,
            is_written: false,
            lent_before,
        }
    }
}

/// See the head of this file.
pub(crate) struct Forest {
    pub shared: Arc<Shared>,
    pub frames: Frames,
    pub state: State,
    /// Retired frames and pages, not yet taken over by the limbo.
    pub retired: Vec<Retired>,
    /// Bytes of frames that the current state reaches and no checkpoint has written.
    pub dirty_bytes: u64,
    pub watched: Option<Watched>,
    pub edge: Option<Edge>,
    /// Pages below deltas of the current state that an earlier delta of the checkpoint under way, or of the last one, has as its
    /// base, too: that checkpoint is who lends them, and they are not freed once more.
    pub borrowed: PageBits,
    /// Counts what makes a way to a key worthless: nodes and references that are changed.
    changes: u64,
    /// The last look-ups, of two trees. (The writer's state is of one thread: sums are settled behind a shared borrow, too.)
    ways: RefCell<[Option<Way>; 2]>,
}

impl Nodes for Forest {
    fn load(&self, child: &Child) -> Access<NodeView<'_>> {
        // SAFETY: the state is the writer's own, and edits need `&mut self`.
        unsafe { self.shared.load(child) }
    }
}

impl Forest {
    pub fn new(shared: Arc<Shared>, state: State) -> Forest {
        let frames = Frames::new(Arc::clone(&shared.arena));
        Forest {
            shared,
            frames,
            state,
            retired: Vec::new(),
            dirty_bytes: 0,
            watched: None,
            edge: None,
            borrowed: PageBits::default(),
            changes: 0,
            ways: RefCell::default(),
        }
    }

    pub fn root(&self, tree: TreeId) -> TreeRoot {
        self.state.root(tree)
    }

    pub fn root_mut(&mut self, tree: TreeId) -> &mut TreeRoot {
        self.note_change();
        &mut self.state.roots[usize::from(tree.0)]
    }

    pub fn summarize(&self, tree: TreeId) -> Summarize {
        self.shared.summarize(tree)
    }

    /// Nodes are changed, or references to them: known ways to keys may lead nowhere.
    pub fn note_change(&mut self) {
        self.changes += 1;
    }

    /// The value of `key`; the way to it is kept for [`Forest::descend_again`], and for whoever looks it up once more (a
    /// transaction compares what it then puts).
    pub fn look_up(&self, tree: TreeId, key: &[u8]) -> Access<Option<&[u8]>> {
        let mut ways = self.ways.borrow_mut();
        let kept = &mut ways[usize::from(tree.0 % 2)];
        if !kept.as_ref().is_some_and(|way| self.leads(way, tree, key)) {
            let Some((path, found)) = self.descend(tree, key)? else { return Ok(None) };
            *kept = Some(Way { tree, key: SmallVec::from_slice(key), path, found, changes: self.changes });
        }
        let way = kept.as_ref().expect("it was there, or is now");
        let Step { child, index } = way.path[way.path.len() - 1];
        Ok(way.found.then(|| self.view(&child).value(index)))
    }

    /// Is it the way to this key still? Pages on it may have been forgotten meanwhile.
    fn leads(&self, way: &Way, tree: TreeId, key: &[u8]) -> bool {
        way.changes == self.changes
            && way.tree == tree
            && way.key[..] == *key
            && way.path.iter().all(|step| self.load(&step.child).is_ok())
    }

    /// As [`Forest::descend`]; without a descent where nothing has changed since the key was looked up.
    pub fn descend_again(&mut self, tree: TreeId, key: &[u8]) -> Access<Option<(Path, bool)>> {
        match self.ways.get_mut()[usize::from(tree.0 % 2)].take() {
            Some(way) if self.leads(&way, tree, key) => Ok(Some((way.path, way.found))),
            _ => self.descend(tree, key),
        }
    }

    /// The way to where `key` is or would be, and whether it is there. `None` in an empty tree.
    pub fn descend(&self, tree: TreeId, key: &[u8]) -> Access<Option<(Path, bool)>> {
        let root = self.root(tree);
        let Some(mut view) = crate::tree::root_of(self, tree, &root)? else { return Ok(None) };
        let mut path = Path::new();
        let mut child = root.child;
        while !view.is_leaf() {
            let index = view.search_child(key);
            path.push(Step { child, index });
            child = view.child(index);
            view = fetch(self, tree, &child, view.level() - 1)?;
        }
        let (index, found) = view.search(key).map_or_else(|index| (index, false), |index| (index, true));
        path.push(Step { child, index });
        Ok(Some((path, found)))
    }

    /// A node of the path: it was loaded on the way down.
    pub fn view(&self, child: &Child) -> NodeView<'_> {
        self.load(child).expect("nodes of a path are in memory")
    }

    /// As [`Forest::view`] of a node that may be out of memory: what its header says. A delta's base is not needed for it.
    pub fn header(&self, child: &Child) -> NodeView<'_> {
        if child.reference.is_frame() {
            // SAFETY: the state is the writer's own, and edits need `&mut self`.
            return unsafe { view_frame(child.reference, child.pages) };
        }
        self.view(child)
    }

    pub fn is_own(&self, child: &Child) -> bool {
        child.reference.is_frame() && child.generation == self.state.generation
    }

    /// The bytes of a node of the unpublished generation.
    pub fn edit(&mut self, child: &Child) -> NodeEdit<'_> {
        assert!(self.is_own(child), "only frames of the unpublished generation are edited");
        assert!(!child.reference.is_delta(), "a delta is written anew");
        self.note_change();
        // SAFETY: of the unpublished generation, so no reader has it; `&mut self` ends all views of the writer.
        NodeEdit::new(unsafe { self.frames.bytes_mut(child.reference, child.pages) })
    }

    /// A new frame for a node of `pages` pages; it counts as dirty.
    pub fn take(&mut self, pages: u32) -> Frame {
        self.dirty_bytes += u64::from(pages) * PAGE_BYTES as u64;
        self.frames.take(pages)
    }

    /// Gives a filled frame to the tree.
    pub fn link(&mut self, mut frame: Frame) -> Child {
        let pages = frame.pages();
        let is_leaf = frame.bytes_mut()[at::LEVEL] == 0;
        let child = Child { reference: frame.link(), generation: self.state.generation, pages, ..Child::default() };
        if let Some(watched) = self.watched.as_mut().filter(|watched| !is_leaf && !watched.is_switched) {
            watched.young_branches.push((child.reference, pages));
            watched.made += 1;
        }
        child
    }

    /// Makes the nodes of the path the writer's own, from the root down, and marks their sums as out of date.
    pub fn own(&mut self, tree: TreeId, path: &mut [Step]) {
        self.own_nodes(tree, path);
        for step in path {
            self.edit(&step.child).set_flags(crate::node::FLAG_STALE);
        }
    }

    /// Makes the nodes of the path the writer's own, from the root down; their sums are as right as they were.
    pub fn own_nodes(&mut self, tree: TreeId, path: &mut [Step]) {
        for depth in 0..path.len() {
            let child = path[depth].child;
            if !self.is_own(&child) || child.reference.is_delta() {
                let copy = self.copy(&child);
                self.set_node(tree, path, depth, copy);
            }
        }
    }

    /// Puts `new` in the place of a node of the path, all above which are the writer's own.
    pub fn set_node(&mut self, tree: TreeId, path: &mut [Step], depth: usize, new: Child) {
        let old = self.link_node(tree, path, depth, new);
        self.retire(&old);
    }

    fn link_node(&mut self, tree: TreeId, path: &mut [Step], depth: usize, new: Child) -> Child {
        let old = core::mem::replace(&mut path[depth].child, new);
        match depth.checked_sub(1).map(|above| path[above]) {
            Some(parent) => self.edit(&parent.child).set_child(parent.index, &new),
            None => self.root_mut(tree).child = new,
        }
        old
    }

    /// A copy of a node in a frame of the unpublished generation, with the sum that its parent knows.
    pub fn copy(&mut self, child: &Child) -> Child {
        let generation = self.state.generation;
        let mut frame = self.take(child.pages);
        if child.reference.is_delta() {
            NodeEdit::rewrite_leaf(frame.bytes_mut(), self.view(child), generation, Change::Nothing);
            return Child { sum: child.sum, ..self.link(frame) };
        }
        copy_node(self.view(child), frame.bytes_mut());
        let mut edit = NodeEdit::new(frame.bytes_mut());
        edit.set_generation(generation);
        edit.set_page(0);
        edit.set_crc(0);
        Child { sum: child.sum, ..self.link(frame) }
    }

    /// A leaf with a change as a delta, if that is worth it: one that stands in a page, or differs from one in little. The leaf is
    /// in memory, and fits a page with the change.
    pub fn delta(&mut self, leaf: &Child, change: Change<'_>) -> Option<Child> {
        let base = match leaf.reference.as_page() {
            Some(page) => Base { page, generation: leaf.generation },
            None if leaf.reference.is_delta() => self.base_of(leaf.reference),
            None => return None,
        };
        // A leaf that changes during each checkpoint would keep its page for ever: it is lent for one more at most.
        let is_lent = |watched: &Watched| watched.lent_before.contains(base.page);
        if leaf.pages > 1 || self.watched.as_ref().is_some_and(is_lent) {
            return None;
        }
        let class = class_for(self.view(leaf), change)?;
        if leaf.reference.is_delta() && self.is_watched(leaf) {
            self.borrowed.insert(base.page);
        }
        self.dirty_bytes += DELTA_BYTES[class] as u64;
        let mut frame = self.frames.take_delta(class);
        NodeEdit::write_delta(frame.bytes_mut(), self.view(leaf), base, self.state.generation, change);
        Some(Child { sum: leaf.sum, ..self.link(frame) })
    }

    /// The base of a delta.
    pub fn base_of(&self, delta: Reference) -> Base {
        // SAFETY: callers name live deltas, which are not edited once they are linked.
        Base::of(unsafe { view_frame(delta, 1) }.memory())
    }

    /// Is the frame one of a checkpoint that is not done with its frames?
    fn is_watched(&self, child: &Child) -> bool {
        self.watched.as_ref().is_some_and(|watched| child.generation <= watched.generation)
    }

    /// Puts a delta in the place of the leaf that the path ends in, all above which is the writer's own.
    pub fn set_delta(&mut self, tree: TreeId, path: &mut [Step], new: Child) {
        let leaf = path.len() - 1;
        let old = self.link_node(tree, path, leaf, new);
        self.note_change();
        if old.reference.is_delta() {
            // The base is the new one's.
            self.retire_node(&old);
        }
    }

    /// Frees the page below a delta that is no part of the next state, and not of the checkpoint under way.
    pub fn retire_base(&mut self, delta: Reference) {
        let base = self.base_of(delta);
        if self.borrowed.remove(base.page) {
            // It was lent, or is going to be, and is taken back at the end of the next checkpoint.
            return;
        }
        let (reference, born, freed) = (base.reference(), base.generation, self.state.generation);
        self.retired.push(Retired { reference, pages: 1, born, freed });
    }

    /// The checkpoint under way comes to nothing: pages below its deltas are not lent.
    pub fn unwatch(&mut self) {
        let Some(mut watched) = self.watched.take() else { return };
        let borrowed = core::mem::take(&mut self.borrowed);
        for orphan in watched.orphans.iter().filter(|orphan| orphan.reference.is_delta()) {
            let base = self.base_of(orphan.reference).page;
            if !borrowed.contains(base) && !watched.lent_before.remove(base) {
                self.retire_base(orphan.reference);
            }
        }
        self.borrowed = watched.lent_before;
    }

    /// Says that the next state has no use for a node, nor for the page below it.
    pub fn retire(&mut self, child: &Child) {
        if child.reference.is_delta() && !self.is_watched(child) {
            self.retire_base(child.reference);
        }
        self.retire_node(child);
    }

    fn retire_node(&mut self, child: &Child) {
        self.note_change();
        if self.is_own(child) {
            self.edge = None;
        }
        let retired = Retired {
            reference: child.reference,
            pages: child.pages,
            born: child.generation,
            freed: self.state.generation,
        };
        if child.reference.is_frame() {
            let watched = self.watched.as_mut().filter(|watched| child.generation <= watched.generation);
            if !watched.as_ref().is_some_and(|watched| watched.is_written) {
                self.dirty_bytes -= retired.bytes();
            }
            if let Some(watched) = watched {
                watched.orphan_bytes += retired.bytes();
                watched.orphans.push(retired);
            } else if self.is_own(child) {
                self.release(&retired);
                return;
            }
        }
        self.retired.push(retired);
    }

    /// Gives the memory of a frame back that nobody reaches: one of the unpublished generation, or out of the limbo.
    pub fn release(&mut self, retired: &Retired) {
        self.note_change();
        if retired.pages > 1 && self.watched.is_some() {
            // Memory of long runs goes back to the system: forget that it was a branch.
            // SAFETY: the frame lives until it is released below.
            let is_leaf = unsafe { view_frame(retired.reference, retired.pages) }.is_leaf();
            if let Some(watched) = self.watched.as_mut().filter(|_| !is_leaf) {
                watched.young_branches.retain(|(reference, _)| *reference != retired.reference);
            }
        }
        if self.watched.is_some() && !retired.reference.is_delta() {
            // Should it stand among the young branches, `switch_branch` need not look at its children.
            self.store(retired.reference, at::GENERATION, 0);
        }
        // SAFETY: callers say that nobody reaches it; it is a frame of this pool and leaves all lists here.
        unsafe { self.frames.release(retired.reference, retired.pages) }
    }

    /// Stores a word of a frame: a sum, or a reference that means the same node as before.
    pub fn store(&self, reference: Reference, offset: usize, word: u64) {
        // SAFETY: callers name live frames and words that are only loaded as words.
        unsafe { store_word(reference, offset, word) }
    }

    /// The page that a checkpoint gave to a frame; 0 for none.
    pub fn page_of_frame(&self, reference: Reference, pages: u32) -> u64 {
        // SAFETY: callers name live frames.
        unsafe { view_frame(reference, pages) }.page()
    }

    /// Remembers the page that a checkpoint gives to a frame. Readers never look at this field of a frame.
    pub fn set_page_of_frame(&self, reference: Reference, page: u64) {
        self.store(reference, at::PAGE, page);
    }
}

/// Copies a node. References are loaded as words: another checkpoint may be switching them.
fn copy_node(view: NodeView<'_>, target: &mut [u8]) {
    target.copy_from_slice(view.memory().slice(0, view.memory().len()));
}
