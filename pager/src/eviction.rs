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
//!  drop      a little later, what still has no bit is unmapped and given back
//! ```
//! Only the writer forgets, between two operations: it reads all pages that an operation needs before it changes the first,
//! and relies on finding them again. Giving back blocks, and is for another thread. A reader whose page leaves between its
//! look and its touch waits for the disk once; nothing else is harmed. The time between the two steps is longer than any
//! reader keeps what it has looked at, so that this is rare.

use core::sync::atomic::{AtomicU64, Ordering};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::PageRun;
use crate::mapping::{Mapping, PageSource};

/// Pages that are forgotten together: 16 MiB.
const SLICE_PAGES: u64 = 4096;
/// The part of the budget that is left free when it has been exceeded.
const FREED_PART: u64 = 4;

/// Keeps a mapped file within its budget of memory.
pub struct Evictor {
    mapping: Arc<Mapping>,
    budget_pages: AtomicU64,
    hand: AtomicU64,
    forgotten: Mutex<Forgotten>,
}

/// Slices by their age.
#[derive(Default)]
struct Forgotten {
    fresh: Vec<PageRun>,
    aged: Vec<PageRun>,
}

impl Evictor {
    /// An evictor of `mapping`, without a limit.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>) -> Evictor {
        let budget_pages = AtomicU64::new(u64::MAX);
        Evictor { mapping, budget_pages, hand: AtomicU64::new(0), forgotten: Mutex::default() }
    }

    /// How many pages of the file may be in use.
    pub fn set_budget(&self, pages: u64) {
        self.budget_pages.store(pages.max(SLICE_PAGES), Ordering::Relaxed);
    }

    /// Forgets slices where the budget is exceeded. Called by the pager's writer, between two operations; no system call.
    pub fn forget(&self) {
        let budget_pages = self.budget_pages.load(Ordering::Relaxed);
        if self.mapping.resident_pages() <= budget_pages {
            return;
        }
        let file_pages = self.mapping.file_pages();
        for _ in 0..file_pages.div_ceil(SLICE_PAGES) {
            if self.mapping.resident_pages() <= budget_pages - budget_pages / FREED_PART {
                return;
            }
            let first = Some(self.hand.load(Ordering::Relaxed)).filter(|hand| *hand < file_pages).unwrap_or(0);
            let pages = u32::try_from(SLICE_PAGES.min(file_pages - first)).expect("a slice is short");
            let slice = PageRun { first, pages };
            self.mapping.clear_resident(slice);
            self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).fresh.push(slice);
            self.hand.store(first + u64::from(pages), Ordering::Relaxed);
        }
    }

    /// Forgets everything, and gives nothing back: the kernel has taken pages by itself, nobody knows which. Called as
    /// [`Evictor::forget`].
    pub fn forget_all(&self) {
        let pages = u32::try_from(self.mapping.file_pages()).unwrap_or(u32::MAX);
        self.mapping.clear_resident(PageRun { first: 0, pages });
    }

    /// Gives back what was forgotten before the last call and that nobody has needed since. Blocks for as long as the kernel
    /// needs. True while there is more to come.
    ///
    /// # Errors
    /// The system's; the pages stay in memory.
    pub fn drop_forgotten(&self) -> io::Result<bool> {
        let (aged, more) = {
            let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = std::mem::take(&mut forgotten.fresh);
            let more = !fresh.is_empty();
            (std::mem::replace(&mut forgotten.aged, fresh), more)
        };
        aged.into_iter().try_for_each(|slice| self.mapping.drop_unneeded(slice))?;
        Ok(more)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::layout::PAGE_BYTES;

    #[test]
    fn what_nobody_needs_for_a_while_leaves_and_what_is_needed_stays() {
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
        let evictor = Evictor::new(Arc::clone(&mapping));
        evictor.forget();
        assert_eq!(mapping.resident_pages(), pages, "there is no limit");
        evictor.set_budget(3 * SLICE_PAGES);
        evictor.forget();
        assert_eq!(mapping.resident_pages(), 2 * SLICE_PAGES, "a quarter below the budget, in whole slices");
        assert!(mapping.page(run(9)).is_none() && mapping.is_cached(run(9)), "forgotten, not gone");
        // Somebody needs it.
        assert!(evictor.drop_forgotten().expect("nothing is old enough"));
        assert!(mapping.is_cached(run(10)));
        mapping.set_resident(run(9));
        assert!(!evictor.drop_forgotten().expect("now it is"));
        assert!(mapping.is_cached(run(9)) && mapping.page(run(9)).is_some());
        let left = (0..2 * SLICE_PAGES).filter(|page| mapping.is_cached(run(*page))).count();
        // The kernel keeps up to 2 MiB together (a large folio), and gives back all or nothing of it.
        assert!(left <= 1024, "{left} pages are still there");
        assert!((2 * SLICE_PAGES..pages).all(|page| mapping.is_cached(run(page))));
        evictor.forget();
        assert_eq!(mapping.resident_pages(), 2 * SLICE_PAGES + 1, "it is within its budget");
        evictor.forget_all();
        assert!(mapping.page(run(9)).is_none() && mapping.is_cached(run(9)));
    }
}
