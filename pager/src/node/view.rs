//! Reading a node.

use core::cmp::Ordering;
use core::ops::Bound;

use super::delta::IN_BASE;
use super::{Child, HEADER_BYTES, NodeMemory, PAGE_CAPACITY, Reference, SLOT_BYTES, at, branch_at, leaf_at};
use crate::api::Aggregate;

/// A node whose structure was checked, or that we built.
#[derive(Clone, Copy)]
pub(crate) struct NodeView<'a> {
    memory: NodeMemory<'a>,
    /// Of a delta: the page that it differs from.
    base: Option<NodeMemory<'a>>,
}

impl<'a> NodeView<'a> {
    pub fn new(memory: NodeMemory<'a>) -> NodeView<'a> {
        NodeView { memory, base: None }
    }

    /// A delta and the page below it.
    pub fn over(memory: NodeMemory<'a>, base: NodeMemory<'a>) -> NodeView<'a> {
        NodeView { memory, base: Some(base) }
    }

    pub fn memory(self) -> NodeMemory<'a> {
        self.memory
    }

    pub fn page(self) -> u64 {
        self.memory.u64(at::PAGE)
    }

    pub fn generation(self) -> u64 {
        self.memory.u64(at::GENERATION)
    }

    pub fn pages(self) -> u32 {
        self.memory.u32(at::PAGES)
    }

    pub fn tree(self) -> u8 {
        self.memory.u8(at::TREE)
    }

    pub fn level(self) -> u8 {
        self.memory.u8(at::LEVEL)
    }

    pub fn flags(self) -> u8 {
        self.memory.u8(at::FLAGS)
    }

    pub fn is_leaf(self) -> bool {
        self.level() == 0
    }

    /// Number of cells.
    pub fn len(self) -> usize {
        self.memory.u32(at::CELLS) as usize
    }

    fn start(self) -> usize {
        self.memory.u32(at::START) as usize
    }

    /// Bytes free between slots and cells. Not of a delta.
    pub fn gap_bytes(self) -> usize {
        debug_assert!(self.base.is_none());
        self.start() - HEADER_BYTES - self.len() * SLOT_BYTES
    }

    /// Bytes free, holes included.
    pub fn free_bytes(self) -> usize {
        if self.base.is_some() {
            return PAGE_CAPACITY - self.used_bytes();
        }
        self.gap_bytes() + self.memory.u32(at::WASTE) as usize
    }

    /// Bytes of cells and slots.
    pub fn used_bytes(self) -> usize {
        if self.base.is_some() {
            return self.memory.u32(at::WASTE) as usize;
        }
        self.memory.len() - HEADER_BYTES - self.free_bytes()
    }

    pub(super) fn cell(self, index: usize) -> usize {
        assert!(index < self.len(), "a cell's index is below their number");
        self.memory.u32(HEADER_BYTES + index * SLOT_BYTES) as usize
    }

    /// A leaf's cell, and whose memory it stands in.
    fn leaf_place(self, index: usize) -> (NodeMemory<'a>, usize) {
        let cell = self.cell(index);
        match self.base {
            Some(base) if cell & IN_BASE != 0 => (base, cell & !IN_BASE),
            _ => (self.memory, cell),
        }
    }

    /// Does the cell stand in a delta, and not in its base or in a page?
    pub(super) fn differs(self, index: usize) -> bool {
        self.base.is_some() && self.cell(index) & IN_BASE == 0
    }

    pub fn key(self, index: usize) -> &'a [u8] {
        if self.is_leaf() {
            let (memory, cell) = self.leaf_place(index);
            memory.slice(cell + leaf_at::KEY, memory.u32(cell + leaf_at::KEY_BYTES) as usize)
        } else {
            let cell = self.cell(index);
            self.memory.slice(cell + branch_at::KEY, self.memory.u32(cell + branch_at::KEY_BYTES) as usize)
        }
    }

    pub fn value(self, index: usize) -> &'a [u8] {
        debug_assert!(self.is_leaf());
        let (memory, cell) = self.leaf_place(index);
        let key_bytes = memory.u32(cell + leaf_at::KEY_BYTES) as usize;
        memory.slice(cell + leaf_at::KEY + key_bytes, memory.u32(cell + leaf_at::VALUE_BYTES) as usize)
    }

    /// Bytes of a leaf's cell.
    pub fn leaf_cell(self, index: usize) -> &'a [u8] {
        let (memory, cell) = self.leaf_place(index);
        let key_bytes = memory.u32(cell + leaf_at::KEY_BYTES) as usize;
        let value_bytes = memory.u32(cell + leaf_at::VALUE_BYTES) as usize;
        memory.slice(cell, leaf_at::KEY + key_bytes + value_bytes)
    }

    pub fn child(self, index: usize) -> Child {
        debug_assert!(!self.is_leaf());
        let cell = self.cell(index);
        Child {
            reference: Reference(self.memory.word(cell + branch_at::REFERENCE)),
            generation: self.memory.u64(cell + branch_at::GENERATION),
            pages: self.memory.u32(cell + branch_at::PAGES),
            sum: self.child_sum(index),
        }
    }

    /// As in [`NodeView::child`], without the rest.
    pub fn child_sum(self, index: usize) -> Aggregate {
        let cell = self.cell(index);
        Aggregate {
            count: self.memory.u64(cell + branch_at::COUNT),
            bytes: self.memory.u64(cell + branch_at::BYTES),
            hash: self.memory.u64(cell + branch_at::HASH),
        }
    }

    /// As in [`NodeView::child`], without the rest.
    pub fn child_reference(self, index: usize) -> Reference {
        Reference(self.memory.word(self.reference_offset(index)))
    }

    /// As in [`NodeView::child`], without the rest.
    pub fn child_generation(self, index: usize) -> u64 {
        self.memory.u64(self.cell(index) + branch_at::GENERATION)
    }

    /// Offset of the word that refers to the child.
    pub fn reference_offset(self, index: usize) -> usize {
        self.cell(index) + branch_at::REFERENCE
    }

    /// In a leaf: where `key` is (`Ok`) or would be (`Err`).
    pub fn search(self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.key(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// In a branch: the child whose range holds `key`. The first child takes all that is below the second's separator.
    pub fn search_child(self, key: &[u8]) -> usize {
        let (mut low, mut high) = (1, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.key(middle) <= key { low = middle + 1 } else { high = middle }
        }
        low - 1
    }

    /// In a leaf: index of the first entry within a lower bound.
    pub fn lower(self, bound: Bound<&[u8]>) -> usize {
        match bound {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.search(key).unwrap_or_else(|index| index),
            Bound::Excluded(key) => self.search(key).map_or_else(|index| index, |index| index + 1),
        }
    }

    /// In a leaf: index behind the last entry within an upper bound.
    pub fn upper(self, bound: Bound<&[u8]>) -> usize {
        match bound {
            Bound::Unbounded => self.len(),
            Bound::Included(key) => self.search(key).map_or_else(|index| index, |index| index + 1),
            Bound::Excluded(key) => self.search(key).unwrap_or_else(|index| index),
        }
    }

    /// In a branch: the child that holds the low end of a range.
    pub fn lower_child(self, bound: Bound<&[u8]>) -> usize {
        match bound {
            Bound::Unbounded => 0,
            Bound::Included(key) | Bound::Excluded(key) => self.search_child(key),
        }
    }

    /// In a branch: the last child that may hold entries of a range.
    pub fn upper_child(self, bound: Bound<&[u8]>) -> usize {
        match bound {
            Bound::Unbounded => self.len() - 1,
            Bound::Included(key) => self.search_child(key),
            Bound::Excluded(key) => {
                let index = self.search_child(key);
                if index > 0 && self.key(index) == key { index - 1 } else { index }
            }
        }
    }
}
