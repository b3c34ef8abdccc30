//! Changing a node that only the writer sees: all on its bytes, no unsafe. Bytes that no cell uses are zero.

use super::{
    Child, HEADER_BYTES, NODE_MAGIC, NodeMemory, NodeView, SLOT_BYTES, at, branch_at, branch_cell_bytes, leaf_at,
    leaf_cell_bytes,
};
use crate::api::Aggregate;

/// A value to be stored: one piece, or several that stand one behind the other.
#[derive(Clone, Copy)]
pub(crate) enum LeafValue<'a> {
    One(&'a [u8]),
    Many(&'a [&'a [u8]]),
}

impl LeafValue<'_> {
    pub fn len(self) -> usize {
        match self {
            LeafValue::One(bytes) => bytes.len(),
            LeafValue::Many(pieces) => pieces.iter().map(|piece| piece.len()).sum(),
        }
    }

    fn copy_to(self, mut target: &mut [u8]) {
        let mut append = |piece: &[u8]| {
            let (head, tail) = core::mem::take(&mut target).split_at_mut(piece.len());
            head.copy_from_slice(piece);
            target = tail;
        };
        match self {
            LeafValue::One(bytes) => append(bytes),
            LeafValue::Many(pieces) => pieces.iter().for_each(|piece| append(piece)),
        }
    }
}

/// A leaf's entry that takes the place of the one at `index`, or, where none is `found`, a new place before it.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub index: usize,
    pub found: bool,
    pub key: &'a [u8],
    pub value: LeafValue<'a>,
}

/// What a leaf that is written anew has other than before.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    Nothing,
    Put(Entry<'a>),
    /// The cell at the index goes.
    Remove(usize),
}

impl<'a> Change<'a> {
    /// The cells that there will be, of a leaf that has so many: where an old one was, or the new entry.
    pub(super) fn cells(self, old: usize) -> impl Iterator<Item = Result<usize, Entry<'a>>> {
        let cells = match self {
            Change::Nothing => old,
            Change::Put(entry) => old + usize::from(!entry.found),
            Change::Remove(_) => old - 1,
        };
        (0..cells).map(move |target| match self {
            Change::Put(entry) if target == entry.index => Err(entry),
            Change::Put(entry) if target > entry.index && !entry.found => Ok(target - 1),
            Change::Remove(index) if target >= index => Ok(target + 1),
            _ => Ok(target),
        })
    }
}

fn u32_of(bytes: &[u8], offset: usize) -> usize {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes")) as usize
}

/// Bytes of the cell at `offset`, without its slot.
fn cell_bytes(bytes: &[u8], offset: usize) -> usize {
    if bytes[at::LEVEL] == 0 {
        let (key, value) = (u32_of(bytes, offset + leaf_at::KEY_BYTES), u32_of(bytes, offset + leaf_at::VALUE_BYTES));
        leaf_cell_bytes(key, value) - SLOT_BYTES
    } else {
        branch_cell_bytes(u32_of(bytes, offset + branch_at::KEY_BYTES)) - SLOT_BYTES
    }
}

/// The bytes of a node that nobody else sees yet.
pub(crate) struct NodeEdit<'a> {
    bytes: &'a mut [u8],
}

impl<'a> NodeEdit<'a> {
    pub fn new(bytes: &'a mut [u8]) -> NodeEdit<'a> {
        NodeEdit { bytes }
    }

    /// Makes an empty node of it.
    pub fn format(bytes: &'a mut [u8], tree: u8, level: u8, generation: u64, pages: u32) -> NodeEdit<'a> {
        bytes.fill(0);
        let mut edit = NodeEdit { bytes };
        edit.bytes[at::MAGIC..at::MAGIC + 4].copy_from_slice(&NODE_MAGIC);
        edit.set_u64(at::GENERATION, generation);
        edit.set_u32(at::PAGES, pages as usize);
        edit.bytes[at::TREE] = tree;
        edit.bytes[at::LEVEL] = level;
        edit.set_u32(at::START, edit.bytes.len());
        edit
    }

    /// Makes a leaf of it that has the cells of `old`, without holes between them, but for a change: in one pass, where a copy
    /// that is edited has to make room first. Of a delta it makes a whole leaf.
    ///
    /// # Panics
    /// There is not so much room.
    pub fn rewrite_leaf(bytes: &'a mut [u8], old: NodeView<'_>, generation: u64, change: Change<'_>) -> NodeEdit<'a> {
        let mut edit = NodeEdit { bytes };
        edit.bytes[..HEADER_BYTES].copy_from_slice(old.memory().slice(0, HEADER_BYTES));
        edit.set_generation(generation);
        edit.set_page(0);
        edit.set_crc(0);
        let (mut start, mut cells) = (edit.bytes.len(), 0);
        for cell in change.cells(old.len()) {
            match cell {
                Ok(index) => start = edit.copy_cell(start, old.leaf_cell(index)),
                Err(entry) => {
                    start -= leaf_cell_bytes(entry.key.len(), entry.value.len()) - SLOT_BYTES;
                    edit.write_entry(start, entry.key, entry.value);
                }
            }
            edit.set_u32(HEADER_BYTES + cells * SLOT_BYTES, start);
            cells += 1;
        }
        let slots_end = HEADER_BYTES + cells * SLOT_BYTES;
        assert!(slots_end <= start, "callers check the room of a node first");
        edit.bytes[slots_end..start].fill(0);
        edit.set_u32(at::CELLS, cells);
        edit.set_u32(at::START, start);
        edit.set_u32(at::WASTE, 0);
        edit
    }

    /// Copies a cell to where it ends, and returns where it begins.
    pub(super) fn copy_cell(&mut self, end: usize, cell: &[u8]) -> usize {
        let start = end - cell.len();
        self.bytes[start..end].copy_from_slice(cell);
        start
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    pub fn view(&self) -> NodeView<'_> {
        NodeView::new(NodeMemory::of(self.bytes))
    }

    pub(super) fn set_u32(&mut self, offset: usize, value: usize) {
        let value = u32::try_from(value).expect("offsets in a node fit 32 bits");
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(super) fn set_u64(&mut self, offset: usize, value: u64) {
        self.bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn u32(&self, offset: usize) -> usize {
        u32_of(self.bytes, offset)
    }

    fn len(&self) -> usize {
        self.u32(at::CELLS)
    }

    fn cell(&self, index: usize) -> usize {
        self.u32(HEADER_BYTES + index * SLOT_BYTES)
    }

    pub fn set_generation(&mut self, generation: u64) {
        self.set_u64(at::GENERATION, generation);
    }

    pub fn set_page(&mut self, page: u64) {
        self.set_u64(at::PAGE, page);
    }

    /// Makes a page of it that stands here in the file with this seed. All that it refers to has pages by now.
    pub fn seal(&mut self, page: u64, seed: u32) {
        self.set_page(page);
        self.set_flags(0);
        let crc = super::crc_of(seed, self.bytes());
        self.set_crc(crc);
    }

    pub fn set_crc(&mut self, crc: u32) {
        self.bytes[at::CRC..at::CRC + 4].copy_from_slice(&crc.to_le_bytes());
    }

    pub fn set_flags(&mut self, flags: u8) {
        self.bytes[at::FLAGS] = flags;
    }

    /// Makes room for a cell of `bytes` (without slot) at `index`, and returns its offset.
    ///
    /// # Panics
    /// There is not so much room.
    fn open_cell(&mut self, index: usize, bytes: usize) -> usize {
        assert!(self.view().free_bytes() >= bytes + SLOT_BYTES, "callers check the room of a node first");
        if self.view().gap_bytes() < bytes + SLOT_BYTES {
            self.close_holes();
        }
        let cells = self.len();
        let offset = self.u32(at::START) - bytes;
        let slot = HEADER_BYTES + index * SLOT_BYTES;
        self.bytes.copy_within(slot..HEADER_BYTES + cells * SLOT_BYTES, slot + SLOT_BYTES);
        self.set_u32(slot, offset);
        self.set_u32(at::CELLS, cells + 1);
        self.set_u32(at::START, offset);
        offset
    }

    /// Moves the cells together.
    fn close_holes(&mut self) {
        let old = self.bytes.to_vec();
        let cells = self.len();
        let mut start = self.bytes.len();
        self.bytes[HEADER_BYTES + cells * SLOT_BYTES..].fill(0);
        for index in 0..cells {
            let from = self.cell(index);
            let bytes = cell_bytes(&old, from);
            start -= bytes;
            self.bytes[start..start + bytes].copy_from_slice(&old[from..from + bytes]);
            self.set_u32(HEADER_BYTES + index * SLOT_BYTES, start);
        }
        self.set_u32(at::START, start);
        self.set_u32(at::WASTE, 0);
    }

    /// Inserts an entry before `index`; the caller knows that it fits.
    pub fn insert_entry(&mut self, index: usize, key: &[u8], value: LeafValue<'_>) {
        let value_bytes = value.len();
        let cell = self.open_cell(index, leaf_cell_bytes(key.len(), value_bytes) - SLOT_BYTES);
        self.write_entry(cell, key, value);
    }

    pub(super) fn write_entry(&mut self, cell: usize, key: &[u8], value: LeafValue<'_>) {
        let value_bytes = value.len();
        self.set_u32(cell + leaf_at::KEY_BYTES, key.len());
        self.set_u32(cell + leaf_at::VALUE_BYTES, value_bytes);
        let value_at = cell + leaf_at::KEY + key.len();
        self.bytes[cell + leaf_at::KEY..value_at].copy_from_slice(key);
        value.copy_to(&mut self.bytes[value_at..value_at + value_bytes]);
    }

    /// Replaces the value at `index`; the caller knows that it fits.
    pub fn replace_value(&mut self, index: usize, key: &[u8], value: LeafValue<'_>) {
        let cell = self.cell(index);
        let value_bytes = value.len();
        if self.u32(cell + leaf_at::VALUE_BYTES) == value_bytes {
            let value_at = cell + leaf_at::KEY + self.u32(cell + leaf_at::KEY_BYTES);
            value.copy_to(&mut self.bytes[value_at..value_at + value_bytes]);
        } else {
            self.remove(index);
            self.insert_entry(index, key, value);
        }
    }

    /// Inserts a child before `index`; the caller knows that it fits.
    pub fn insert_child(&mut self, index: usize, key: &[u8], child: &Child) {
        let cell = self.open_cell(index, branch_cell_bytes(key.len()) - SLOT_BYTES);
        self.set_u32(cell + branch_at::KEY_BYTES, key.len());
        self.bytes[cell + branch_at::KEY..cell + branch_at::KEY + key.len()].copy_from_slice(key);
        self.write_child(cell, child);
    }

    fn write_child(&mut self, cell: usize, child: &Child) {
        self.set_u64(cell + branch_at::REFERENCE, child.reference.0);
        self.set_u64(cell + branch_at::GENERATION, child.generation);
        self.set_u32(cell + branch_at::PAGES, child.pages as usize);
        self.write_sum(cell, child.sum);
    }

    fn write_sum(&mut self, cell: usize, sum: Aggregate) {
        self.set_u64(cell + branch_at::COUNT, sum.count);
        self.set_u64(cell + branch_at::BYTES, sum.bytes);
        self.set_u64(cell + branch_at::HASH, sum.hash);
    }

    /// Replaces all but the separator.
    pub fn set_child(&mut self, index: usize, child: &Child) {
        let cell = self.cell(index);
        self.write_child(cell, child);
    }

    /// Adds to the sum that a branch knows of a child.
    pub fn add_to_sum(&mut self, index: usize, change: Aggregate) {
        let cell = self.cell(index);
        let sum = self.view().child_sum(index).plus(change);
        self.write_sum(cell, sum);
    }

    /// Forgets the first separator: the child is going to hold smaller keys.
    pub fn clear_first_key(&mut self) {
        let cell = self.cell(0);
        let key_bytes = self.u32(cell + branch_at::KEY_BYTES);
        let padded = key_bytes.next_multiple_of(8);
        self.bytes[cell + branch_at::KEY..cell + branch_at::KEY + padded].fill(0);
        self.set_u32(cell + branch_at::KEY_BYTES, 0);
        self.set_u32(at::WASTE, self.u32(at::WASTE) + padded);
    }

    /// Removes the cell at `index`.
    pub fn remove(&mut self, index: usize) {
        let cells = self.len();
        assert!(index < cells, "a cell's index is below their number");
        let cell = self.cell(index);
        let bytes = cell_bytes(self.bytes, cell);
        self.bytes[cell..cell + bytes].fill(0);
        let slot = HEADER_BYTES + index * SLOT_BYTES;
        let end = HEADER_BYTES + cells * SLOT_BYTES;
        self.bytes.copy_within(slot + SLOT_BYTES..end, slot);
        self.bytes[end - SLOT_BYTES..end].fill(0);
        self.set_u32(at::CELLS, cells - 1);
        if cell == self.u32(at::START) && cells > 1 {
            // The lowest cell leaves no hole, but holes above it may now touch the gap: they stay counted as holes.
            self.set_u32(at::START, cell + bytes);
        } else if cells == 1 {
            self.set_u32(at::START, self.bytes.len());
            self.set_u32(at::WASTE, 0);
        } else {
            self.set_u32(at::WASTE, self.u32(at::WASTE) + bytes);
        }
    }
}
