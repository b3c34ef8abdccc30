//! A node: a run of contiguous pages that holds the sorted cells of one place in a tree.
//!
//! ```text
//!  0        4        8                16               24       28       32 33 34 35 36       40       44       48
//!  | magic  | crc32  | page number    | generation     | pages  | cells  |t |l |f |0 | start  | waste  | 0      | slots ...
//! ```
//! `t` tree, `l` level (0: leaf), `f` flags (in memory only). A slot is the offset of a cell, 4 bytes, in key order. Cells
//! stand at the end of the run and grow downwards: `start` is the lowest, `waste` counts the bytes of holes between them.
//! A frame has the same bytes as the page that it becomes, but for the page number, the CRC and child references. Or it is
//! a delta, which holds of a leaf only what differs from its page: `delta.rs`.

mod delta;
mod edit;
mod memory;
mod verify;
mod view;

pub(crate) use delta::{Base, DELTA_BYTES, class_for};
pub(crate) use edit::{Change, Entry, LeafValue, NodeEdit};
pub(crate) use memory::NodeMemory;
pub(crate) use verify::{crc_of, verify};
pub(crate) use view::NodeView;

use crate::api::Aggregate;
pub(crate) use crate::layout::PAGE_BYTES;

/// First bytes of every node.
pub const NODE_MAGIC: [u8; 4] = *b"RNod";

/// Offsets of the header's fields.
pub(crate) mod at {
    pub const MAGIC: usize = 0;
    pub const CRC: usize = MAGIC + 4;
    pub const PAGE: usize = CRC + 4;
    pub const GENERATION: usize = PAGE + 8;
    pub const PAGES: usize = GENERATION + 8;
    pub const CELLS: usize = PAGES + 4;
    pub const TREE: usize = CELLS + 4;
    pub const LEVEL: usize = TREE + 1;
    pub const FLAGS: usize = LEVEL + 1;
    pub const RESERVED: usize = FLAGS + 1;
    pub const START: usize = RESERVED + 1;
    pub const WASTE: usize = START + 4;
    pub const RESERVED_2: usize = WASTE + 4;
    pub const SLOTS: usize = RESERVED_2 + 4;
}

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = at::SLOTS;
/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 4;
/// Bytes for slots and cells in a node of one page.
pub(crate) const PAGE_CAPACITY: usize = PAGE_BYTES - HEADER_BYTES;

/// Offsets in a leaf's cell: key length, value length, key, value.
pub(crate) mod leaf_at {
    pub const KEY_BYTES: usize = 0;
    pub const VALUE_BYTES: usize = KEY_BYTES + 4;
    pub const KEY: usize = VALUE_BYTES + 4;
}

/// Offsets in a branch's cell. The cell starts at a multiple of 8 and is padded to one.
pub(crate) mod branch_at {
    pub const REFERENCE: usize = 0;
    pub const GENERATION: usize = REFERENCE + 8;
    pub const COUNT: usize = GENERATION + 8;
    pub const BYTES: usize = COUNT + 8;
    pub const HASH: usize = BYTES + 8;
    pub const PAGES: usize = HASH + 8;
    pub const KEY_BYTES: usize = PAGES + 4;
    pub const KEY: usize = KEY_BYTES + 4;
}

/// Sums of the children below are out of date. In frames of the unpublished generation only.
pub(crate) const FLAG_STALE: u8 = 1;

/// Most levels of a tree: a height that no file reaches (2^63 leaves), so more is damage.
pub(crate) const LEVELS_MAX: usize = 64;
/// Most bytes of a key or a value.
pub const ITEM_BYTES_MAX: usize = 16 << 20;

// The longest nodes, a leaf of one cell and a branch of three (`tree/split.rs`), fit a run.
pub(crate) const NODE_PAGES_MAX: u32 = (3 * (ITEM_BYTES_MAX / PAGE_BYTES) + 2) as u32;
const _: () = assert!(NODE_PAGES_MAX < crate::layout::RUN_PAGES_MAX);

/// Where a node is: a page of the file (odd) or a frame (its address, even). 0 is nowhere. Frames stand at multiples of 8:
/// the two bits above the lowest say how large one is that is a delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub(crate) struct Reference(pub u64);

impl Reference {
    pub const NONE: Reference = Reference(0);

    pub fn page(page: u64) -> Reference {
        Reference((page << 1) | 1)
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub fn as_page(self) -> Option<u64> {
        (self.0 & 1 == 1).then_some(self.0 >> 1)
    }

    pub fn is_frame(self) -> bool {
        self.0 & 1 == 0 && self.0 != 0
    }

    /// A frame at this address; a delta of a class, or a whole node.
    pub fn frame(address: u64, class: Option<usize>) -> Reference {
        debug_assert!(address.is_multiple_of(8));
        Reference(address | class.map_or(0, |class| (class as u64 + 1) << 1))
    }

    /// Place in [`DELTA_BYTES`] of a frame that is a delta.
    pub fn delta_class(self) -> Option<usize> {
        if self.is_frame() { (((self.0 >> 1) & 3) as usize).checked_sub(1) } else { None }
    }

    pub fn is_delta(self) -> bool {
        self.delta_class().is_some()
    }

    /// A frame's address.
    pub fn address(self) -> u64 {
        debug_assert!(self.is_frame());
        self.0 & !7
    }

    /// Bytes of a node's memory; `pages` are those of its run in the file.
    pub fn bytes(self, pages: u32) -> usize {
        self.delta_class().map_or(pages as usize * PAGE_BYTES, |class| DELTA_BYTES[class])
    }
}

/// What a parent knows of its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Child {
    pub reference: Reference,
    /// The generation that its header must show.
    pub generation: u64,
    /// Pages of its run.
    pub pages: u32,
    /// Sum of the entries below it.
    pub sum: Aggregate,
}

/// Bytes of a leaf's cell with its slot.
pub(crate) fn leaf_cell_bytes(key_bytes: usize, value_bytes: usize) -> usize {
    SLOT_BYTES + leaf_at::KEY + key_bytes + value_bytes
}

/// Bytes of a branch's cell with its slot.
pub(crate) fn branch_cell_bytes(key_bytes: usize) -> usize {
    SLOT_BYTES + branch_at::KEY + key_bytes.next_multiple_of(8)
}

/// Pages of a node that holds cells and slots of so many bytes.
pub(crate) fn pages_for(cell_bytes: usize) -> u32 {
    u32::try_from((HEADER_BYTES + cell_bytes).div_ceil(PAGE_BYTES)).expect("keys and values are bounded")
}
