//! A leaf that differs from its page in a few cells, as a frame that holds these only.
//!
//! ```text
//!  0            48                         start                          end - 16
//!  | header     | slots of ALL cells ...   | gap | the cells that differ  | base's page | base's generation |
//! ```
//! A slot with its highest bit set is the offset of a cell in the page below, the *base*; one without leads to a cell of
//! the delta's own. So a delta is read as any leaf is, each slot one step further; what was deleted has no slot. It has no holes:
//! each change writes it anew. `waste` counts the bytes of all cells and slots, as in the page that it becomes: a delta always
//! fits that, for what does not is a whole frame.
//!
//! A delta never stands in the file. While it is part of the writer's state its base is neither free nor freed; who takes
//! the delta out of the state frees both, and a checkpoint that writes it, its base (`Freelist::lend`).

use super::{
    Change, HEADER_BYTES, NODE_MAGIC, NodeEdit, NodeMemory, NodeView, Reference, SLOT_BYTES, at, leaf_cell_bytes,
};
use crate::api::PageRun;
use crate::layout::PAGE_BYTES;

/// In a slot: the cell stands in the base.
pub(super) const IN_BASE: usize = 1 << 31;

/// Sizes of deltas: eight, four and two of them stand in the memory of a page (`frames/slabs.rs`). Larger ones are not worth it.
pub(crate) const DELTA_BYTES: [usize; 3] = [504, 1008, 2016];

/// Bytes behind the cells.
const BASE_BYTES: usize = 16;

/// The page that a delta differs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub page: u64,
    /// That its header shows.
    pub generation: u64,
}

impl Base {
    /// As the delta in this memory has it.
    pub fn of(delta: NodeMemory<'_>) -> Base {
        let at = delta.len() - BASE_BYTES;
        Base { page: delta.u64(at), generation: delta.u64(at + 8) }
    }

    pub fn run(self) -> PageRun {
        PageRun { first: self.page, pages: 1 }
    }

    pub fn reference(self) -> Reference {
        Reference::page(self.page)
    }
}

/// Place in [`DELTA_BYTES`] of a delta with the content of `old`, a page or a delta, and a change. `None`: it would be too large.
pub(crate) fn class_for(old: NodeView<'_>, change: Change<'_>) -> Option<usize> {
    let mut bytes = HEADER_BYTES + BASE_BYTES;
    for cell in change.cells(old.len()) {
        bytes += match cell {
            Ok(index) if old.differs(index) => SLOT_BYTES + old.leaf_cell(index).len(),
            Ok(_) => SLOT_BYTES,
            Err(entry) => leaf_cell_bytes(entry.key.len(), entry.value.len()),
        };
        if bytes > DELTA_BYTES[DELTA_BYTES.len() - 1] {
            return None;
        }
    }
    DELTA_BYTES.iter().position(|size| bytes <= *size)
}

impl<'a> NodeEdit<'a> {
    /// Makes a delta of it, of the class that [`class_for`] says, which fits a page: `old` on `base`, with a change.
    ///
    /// # Panics
    /// There is not so much room.
    pub fn write_delta(bytes: &'a mut [u8], old: NodeView<'_>, base: Base, generation: u64, change: Change<'_>) {
        let end = bytes.len() - BASE_BYTES;
        bytes[..HEADER_BYTES].fill(0);
        bytes[at::MAGIC..at::MAGIC + 4].copy_from_slice(&NODE_MAGIC);
        bytes[at::TREE] = old.tree();
        let mut edit = NodeEdit::new(bytes);
        edit.set_generation(generation);
        edit.set_u32(at::PAGES, 1);
        edit.set_u64(end, base.page);
        edit.set_u64(end + 8, base.generation);
        let (mut start, mut cells) = (end, 0);
        let mut used = old.used_bytes();
        for cell in change.cells(old.len()) {
            let slot = match cell {
                Ok(index) if !old.differs(index) => old.cell(index) | IN_BASE,
                Ok(index) => {
                    start = edit.copy_cell(start, old.leaf_cell(index));
                    start
                }
                Err(entry) => {
                    let bytes = leaf_cell_bytes(entry.key.len(), entry.value.len());
                    start -= bytes - SLOT_BYTES;
                    edit.write_entry(start, entry.key, entry.value);
                    used += bytes;
                    if entry.found {
                        used -= SLOT_BYTES + old.leaf_cell(entry.index).len();
                    }
                    start
                }
            };
            edit.set_u32(HEADER_BYTES + cells * SLOT_BYTES, slot);
            cells += 1;
        }
        if let Change::Remove(index) = change {
            used -= SLOT_BYTES + old.leaf_cell(index).len();
        }
        assert!(HEADER_BYTES + cells * SLOT_BYTES <= start, "the class was chosen by what it holds");
        assert!(HEADER_BYTES + used <= PAGE_BYTES, "what does not fit a page is no delta");
        edit.set_u32(at::CELLS, cells);
        edit.set_u32(at::START, start);
        edit.set_u32(at::WASTE, used);
    }
}
