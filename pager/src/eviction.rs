//! Which pages of the file stay in memory when not all of them can?
//!
//! The kernel would choose well, and tell nobody: a page that it took back is a major fault for the executor that touches it
//! next, and everything that runs there waits for the disk. So the choice is made here before the kernel has to make it:
//! pages of the file that are in use stay within a budget, and what leaves is known to have left. It is a clock without a
//! bit that readers would have to set:
//!
//! ```text
//!  forget    the residency bits of a slice are cleared: who needs a page of it finds it in the page cache, checks it again
//!            (a microsecond) and sets its bit
//!  drop      one turn later, what still has no bit is unmapped and given back
//! ```
//! A reader whose page leaves between its look and its touch waits for the disk once; nothing else is harmed. The turn
//! between the two steps is longer than any reader keeps what it has looked at, so that this is rare.

use std::io;
use std::sync::Arc;

use crate::api::PageRun;
use crate::mapping::{Mapping, PageSource};

/// Pages that are forgotten together: 16 MiB.
const SLICE_PAGES: u64 = 4096;
/// The part of the budget that is left free when it has been exceeded.
const FREED_PART: u64 = 8;

/// Keeps a mapped file within its budget of memory. Its turns block for as long as the kernel needs to give pages back:
/// not for an executor.
pub struct Evictor {
    mapping: Arc<Mapping>,
    budget_pages: u64,
    hand: u64,
    forgotten: Vec<PageRun>,
}

impl Evictor {
    /// An evictor of `mapping`, of which `budget_pages` may be in use.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, budget_pages: u64) -> Evictor {
        Evictor { mapping, budget_pages: budget_pages.max(SLICE_PAGES), hand: 0, forgotten: Vec::new() }
    }

    /// Another budget, from the next turn on.
    pub fn set_budget(&mut self, budget_pages: u64) {
        self.budget_pages = budget_pages.max(SLICE_PAGES);
    }

    /// Drops what the last turn forgot and nobody has needed since, and forgets more where the budget is exceeded. True while
    /// another turn is to follow soon.
    ///
    /// # Errors
    /// The system's; the pages stay in memory.
    pub fn turn(&mut self) -> io::Result<bool> {
        for slice in self.forgotten.drain(..) {
            self.mapping.drop_unneeded(slice)?;
        }
        let mut in_use = self.mapping.resident_pages();
        if in_use <= self.budget_pages {
            return Ok(false);
        }
        let enough = self.budget_pages - self.budget_pages / FREED_PART;
        let file_pages = self.mapping.file_pages();
        for _ in 0..file_pages.div_ceil(SLICE_PAGES) {
            if in_use <= enough {
                break;
            }
            if self.hand >= file_pages {
                self.hand = 0;
            }
            let pages = u32::try_from(SLICE_PAGES.min(file_pages - self.hand)).expect("a slice is short");
            let slice = PageRun { first: self.hand, pages };
            self.mapping.clear_resident(slice);
            self.forgotten.push(slice);
            self.hand += u64::from(pages);
            in_use = self.mapping.resident_pages();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::layout::PAGE_BYTES;

    #[test]
    fn what_nobody_needs_for_a_turn_leaves_and_what_is_needed_stays() {
        let path = std::env::current_dir().expect("a folder");
        // Not on tmpfs, where nothing can leave.
        let file = tempfile::tempfile_in(path).expect("a temporary file");
        let pages = 4 * SLICE_PAGES;
        let bytes = vec![7; PAGE_BYTES * SLICE_PAGES as usize];
        for slice in 0..4 {
            file.write_all_at(&bytes, slice * bytes.len() as u64).expect("written");
        }
        file.sync_all().expect("only what is clean can leave");
        let mapping = Arc::new(Mapping::new(&file, pages).expect("mapped"));
        let run = |first| PageRun { first, pages: 1 };
        (0..pages).for_each(|page| mapping.set_resident(run(page)));
        assert!(mapping.page(run(9)).is_some_and(|bytes| bytes[0] == 7), "touched: it is mapped");
        let mut evictor = Evictor::new(Arc::clone(&mapping), 3 * SLICE_PAGES);
        assert!(evictor.turn().expect("a turn"));
        assert_eq!(mapping.resident_pages(), 2 * SLICE_PAGES, "an eighth below the budget, in whole slices");
        assert!(mapping.page(run(9)).is_none() && mapping.is_cached(run(9)), "forgotten, not gone");
        // Somebody needs it.
        mapping.set_resident(run(9));
        assert!(!evictor.turn().expect("a turn"));
        assert!(mapping.is_cached(run(9)) && mapping.page(run(9)).is_some());
        let left = (0..2 * SLICE_PAGES).filter(|page| mapping.is_cached(run(*page))).count();
        assert!(left < 100, "{left} pages are still there");
        assert!((2 * SLICE_PAGES..pages).all(|page| mapping.is_cached(run(page))));
        assert!(!evictor.turn().expect("a turn"), "it is within its budget");
    }
}
