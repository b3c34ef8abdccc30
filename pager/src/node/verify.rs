//! Is this page what we once wrote, in the place where we wrote it?
//!
//! Runs once for each load into memory; after it a page's structure is trusted, so it takes nothing for granted: whoever
//! forges a CRC must not make us leave the page, follow an address as if it were a frame, or loop.

use smallvec::SmallVec;

use super::{
    HEADER_BYTES, NODE_MAGIC, NodeView, SLOT_BYTES, at, branch_at, branch_cell_bytes, leaf_at, leaf_cell_bytes,
};
use crate::api::{Damage, PageRun};
use crate::layout::is_allocatable;
use crate::node::{LEVELS_MAX, NodeMemory, PAGE_BYTES};

/// CRC of a node: all but the CRC itself.
pub(crate) fn crc_of(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&bytes[..at::CRC]);
    hasher.update(&bytes[at::CRC + 4..]);
    hasher.finalize()
}

/// Checks the node that was read from `run`. `file_pages` bounds its references.
pub(crate) fn verify(memory: NodeMemory<'_>, run: PageRun, seed: u32, file_pages: u64) -> Result<(), Damage> {
    let tree = if memory.len() >= HEADER_BYTES { memory.u8(at::TREE) } else { 0 };
    check(memory, run, seed, file_pages).map_err(|what| Damage { page: run.first, tree, what })
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

fn check(memory: NodeMemory<'_>, run: PageRun, seed: u32, file_pages: u64) -> Result<(), &'static str> {
    ensure(memory.len() == run.pages as usize * PAGE_BYTES && run.pages > 0, "the run has no pages")?;
    // A page of the file holds no words that are switched: all of it may be read as bytes.
    let bytes = memory.slice(0, memory.len());
    ensure(bytes[..4] == NODE_MAGIC, "it is not a tree page (first four bytes)")?;
    ensure(memory.u32(at::CRC) == crc_of(seed, bytes), "its CRC does not fit its content")?;
    ensure(memory.u64(at::PAGE) == run.first, "it is another page, written to the wrong place")?;
    ensure(memory.u32(at::PAGES) == run.pages, "its run has another length than its parent says")?;
    ensure((memory.u8(at::LEVEL) as usize) < LEVELS_MAX, "its level is absurd")?;
    ensure(memory.u8(at::FLAGS) == 0, "its flags are unknown")?;
    check_cells(memory, run, file_pages)
}

fn check_cells(memory: NodeMemory<'_>, run: PageRun, file_pages: u64) -> Result<(), &'static str> {
    let cells = memory.u32(at::CELLS) as usize;
    ensure(cells > 0, "it has no cells")?;
    ensure(cells <= memory.len() / SLOT_BYTES, "it has more cells than room")?;
    let slots_end = HEADER_BYTES + cells * SLOT_BYTES;
    let start = memory.u32(at::START) as usize;
    ensure(slots_end <= start && start <= memory.len(), "its slots and cells overlap")?;
    let is_leaf = memory.u8(at::LEVEL) == 0;
    ensure(!is_leaf || run.pages == 1 || cells == 1, "a leaf of several pages has several cells")?;
    let mut total = 0_usize;
    let mut places: SmallVec<[(usize, usize); 128]> = SmallVec::new();
    for index in 0..cells {
        let cell = memory.u32(HEADER_BYTES + index * SLOT_BYTES) as usize;
        ensure(cell >= start, "a cell stands among the slots")?;
        let bytes = if is_leaf { leaf_cell(memory, cell)? } else { branch_cell(memory, cell, run, file_pages)? };
        total += bytes;
        places.push((cell, cell + bytes));
    }
    places.sort_unstable();
    ensure(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "its cells overlap")?;
    let room = memory.len() - start;
    ensure(room.checked_sub(total) == Some(memory.u32(at::WASTE) as usize), "its count of unused bytes is wrong")?;
    let view = NodeView::new(memory);
    // The first separator of a branch is a bound, not a border, and may be empty: it is still below the second.
    for index in 1..cells {
        ensure(view.key(index - 1) < view.key(index), "its keys are out of order")?;
    }
    Ok(())
}

fn leaf_cell(memory: NodeMemory<'_>, cell: usize) -> Result<usize, &'static str> {
    ensure(memory.len() - cell.min(memory.len()) >= leaf_at::KEY, "a cell leaves the page")?;
    let (key, value) =
        (memory.u32(cell + leaf_at::KEY_BYTES) as usize, memory.u32(cell + leaf_at::VALUE_BYTES) as usize);
    let bytes = leaf_cell_bytes(key, value) - SLOT_BYTES;
    ensure(bytes <= memory.len() - cell, "a cell leaves the page")?;
    Ok(bytes)
}

fn branch_cell(memory: NodeMemory<'_>, cell: usize, run: PageRun, file_pages: u64) -> Result<usize, &'static str> {
    ensure(cell.is_multiple_of(8), "a branch's cell is not aligned")?;
    ensure(memory.len() - cell.min(memory.len()) >= branch_at::KEY, "a cell leaves the page")?;
    let bytes = branch_cell_bytes(memory.u32(cell + branch_at::KEY_BYTES) as usize) - SLOT_BYTES;
    ensure(bytes <= memory.len() - cell, "a cell leaves the page")?;
    let reference = super::Reference(memory.word(cell + branch_at::REFERENCE));
    let first = reference.as_page().ok_or("a child's reference is not a page")?;
    let child = PageRun { first, pages: memory.u32(cell + branch_at::PAGES) };
    ensure(is_allocatable(child, file_pages), "a child's pages are outside of the file, or not for trees")?;
    let (end, child_end) = (run.first + u64::from(run.pages), child.first + u64::from(child.pages));
    ensure(child_end <= run.first || child.first >= end, "a child lies inside of its parent")?;
    ensure(memory.u64(cell + branch_at::GENERATION) <= memory.u64(at::GENERATION), "a child is newer than its parent")?;
    Ok(bytes)
}
