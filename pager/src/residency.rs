//! Which pages of the file are known to be in memory and checked: one bit each.
//!
//! A bit that is set for a page that the kernel has evicted meanwhile is harmless to correctness: touching it costs a
//! major fault, and what comes in unchecked is bytes that were checked before. `eviction.rs` keeps such bits rare.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::api::PageRun;
use crate::layout::FILE_PAGES_MAX;

/// Words of a chunk: 32 768 pages in 4 KiB.
const CHUNK_WORDS: usize = 512;
const CHUNK_PAGES: u64 = (CHUNK_WORDS * 64) as u64;

/// The bits, in chunks that come into being when a page in them is first set, and never move.
pub(crate) struct Residency {
    chunks: Box<[OnceLock<Box<[AtomicU64; CHUNK_WORDS]>>]>,
    /// Bits that are set; a moment old for who asks.
    pages: AtomicU64,
}

impl Residency {
    pub fn new() -> Residency {
        let chunks = (0..FILE_PAGES_MAX.div_ceil(CHUNK_PAGES)).map(|_| OnceLock::new()).collect();
        Residency { chunks, pages: AtomicU64::new(0) }
    }

    /// How many pages are in.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    fn word(&self, page: u64) -> Option<&AtomicU64> {
        let chunk = self.chunks.get(usize::try_from(page / CHUNK_PAGES).ok()?)?.get()?;
        Some(&chunk[(page % CHUNK_PAGES / 64) as usize])
    }

    /// Are all pages of the run in? Acquire: what was checked before the bits were set is seen.
    pub fn contains(&self, run: PageRun) -> bool {
        parts(run).all(|(page, mask)| self.word(page).is_some_and(|word| word.load(Ordering::Acquire) & mask == mask))
    }

    /// # Panics
    /// Beyond the longest file.
    pub fn set(&self, run: PageRun) {
        for (page, mask) in parts(run) {
            let chunk = &self.chunks[(page / CHUNK_PAGES) as usize];
            let words = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; CHUNK_WORDS]));
            let before = words[(page % CHUNK_PAGES / 64) as usize].fetch_or(mask, Ordering::Release);
            self.pages.fetch_add(u64::from((mask & !before).count_ones()), Ordering::Relaxed);
        }
    }

    pub fn clear(&self, run: PageRun) {
        for (page, mask) in parts(run) {
            if let Some(word) = self.word(page) {
                let before = word.fetch_and(!mask, Ordering::AcqRel);
                self.pages.fetch_sub(u64::from((mask & before).count_ones()), Ordering::Relaxed);
            }
        }
    }
}

impl Residency {
    /// Calls with each run of pages in `run` that are not in, word by word, as the bits are at that moment.
    pub fn for_each_absent<E>(&self, run: PageRun, mut visit: impl FnMut(PageRun) -> Result<(), E>) -> Result<(), E> {
        let mut open: Option<PageRun> = None;
        for (page, mask) in parts(run) {
            let bits = self.word(page).map_or(0, |word| word.load(Ordering::Acquire)) & mask;
            if bits == 0 {
                // All of them: such words are joined.
                let pages = mask.count_ones();
                match &mut open {
                    Some(open) => open.pages += pages,
                    None => open = Some(PageRun { first: page, pages }),
                }
                continue;
            }
            if let Some(open) = open.take() {
                visit(open)?;
            }
            let (base, mut absent) = (page - page % 64, mask & !bits);
            while absent != 0 {
                let start = absent.trailing_zeros();
                let pages = (absent >> start).trailing_ones();
                visit(PageRun { first: base + u64::from(start), pages })?;
                absent &= !((u64::MAX >> (64 - pages)) << start);
            }
        }
        open.map_or(Ok(()), visit)
    }
}

/// The run's words: a page of each, and the bits.
fn parts(run: PageRun) -> impl Iterator<Item = (u64, u64)> {
    let end = run.first.saturating_add(u64::from(run.pages));
    let mut page = run.first;
    core::iter::from_fn(move || {
        let bits = end.checked_sub(page).filter(|left| *left > 0)?.min(64 - page % 64);
        let part = (page, (u64::MAX >> (64 - bits)) << (page % 64));
        page += bits;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_and_cleared_by_run_across_words_and_chunks() {
        let residency = Residency::new();
        let run = |first, pages| PageRun { first, pages };
        for (first, pages) in [(0, 1), (63, 2), (100, 300), (CHUNK_PAGES - 5, 10), (FILE_PAGES_MAX - 64, 64)] {
            assert!(!residency.contains(run(first, pages)));
            residency.set(run(first, pages));
            assert!(residency.contains(run(first, pages)));
            assert!(!residency.contains(run(first, pages + 1)));
            assert!(first == 0 || !residency.contains(run(first - 1, pages)));
            let middle = run(first + u64::from(pages) / 2, 1);
            residency.clear(middle);
            assert!(!residency.contains(middle) && !residency.contains(run(first, pages)));
            residency.clear(run(first, pages));
        }
        assert_eq!(residency.pages(), 0);
        residency.set(run(70, 3));
        residency.set(run(72, 2));
        residency.set(run(127, 1));
        assert_eq!(residency.pages(), 5);
        let mut absent = Vec::new();
        let whole = residency.for_each_absent(run(3, 300), |run| {
            absent.push((run.first, run.pages));
            Ok::<(), ()>(())
        });
        assert_eq!((whole, absent), (Ok(()), vec![(3, 61), (64, 6), (74, 53), (128, 175)]));
        residency.clear(run(u64::MAX - 1, 9));
        assert!(!residency.contains(run(u64::MAX - 1, 9)));
    }
}
