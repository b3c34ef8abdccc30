//! The free pages of one region in memory: a bit each, for what is taken is looked for in the order of the file.
//!
//! A checkpoint's pages are written where the last ones ended and so lie side by side, however many holes the file has: the
//! kernel has less to look up, and to send, for neighbours than for pages from anywhere.

use super::map::Bits;

/// Free runs of a region. Pages are counted from the region's start.
pub(super) struct FreeRuns {
    bits: Bits,
    free_pages: u32,
    /// No run is longer than this.
    longest_most: u32,
}

impl Default for FreeRuns {
    fn default() -> FreeRuns {
        FreeRuns { bits: Bits::none(), free_pages: 0, longest_most: 0 }
    }
}

impl FreeRuns {
    pub fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// No run is longer; there may be none of this length.
    pub fn longest_most(&self) -> u32 {
        self.longest_most
    }

    /// Adds a run of pages that are not free. It is one with its neighbours.
    pub fn insert(&mut self, start: u32, pages: u32) {
        debug_assert!(self.bits.is_used(start, pages), "what is free is not freed");
        self.free_pages += pages;
        self.bits.set(start, pages, true);
        let joined = self.bits.end_of_run(start) - self.bits.start_of_run(start);
        self.longest_most = self.longest_most.max(joined);
    }

    /// Takes `pages` from the front of the first run that has as many.
    pub fn take(&mut self, pages: u32) -> Option<u32> {
        if pages > self.longest_most {
            return None;
        }
        let (mut from, mut longest) = (0, 0);
        while let Some((start, found)) = self.run_from(from) {
            if found >= pages {
                self.remove(start, pages);
                return Some(start);
            }
            longest = longest.max(found);
            from = start + found;
        }
        self.longest_most = longest;
        None
    }

    /// Takes at most `pages_max` from the front of the first run at or behind `from`.
    pub fn take_next(&mut self, from: u32, pages_max: u32) -> Option<(u32, u32)> {
        let (start, found) = self.run_from(from)?;
        let pages = found.min(pages_max);
        self.remove(start, pages);
        Some((start, pages))
    }

    /// Takes all runs out, in order.
    pub fn drain(&mut self) -> Vec<(u32, u32)> {
        let mut runs = Vec::new();
        self.bits.for_each_run(|start, pages| runs.push((start, pages)));
        *self = FreeRuns::default();
        runs
    }

    fn run_from(&self, from: u32) -> Option<(u32, u32)> {
        let start = self.bits.next_free(from)?;
        Some((start, self.bits.end_of_run(start) - start))
    }

    fn remove(&mut self, start: u32, pages: u32) {
        self.free_pages -= pages;
        self.bits.set(start, pages, false);
    }

    /// Compares what is counted with the bits, for tests.
    #[cfg(test)]
    pub fn check(&self) {
        assert_eq!(self.bits.count(), self.free_pages);
        let mut longest = 0;
        self.bits.for_each_run(|_, pages| longest = pages.max(longest));
        assert!(longest <= self.longest_most, "{longest} pages, more than {}", self.longest_most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run_and_runs_are_cut_from_the_front() {
        let mut runs = FreeRuns::default();
        runs.insert(10, 5);
        runs.insert(20, 5);
        assert_eq!((runs.take(6), runs.longest_most()), (None, 5));
        runs.insert(15, 5);
        runs.check();
        assert_eq!((runs.take(15), runs.free_pages(), runs.take(1)), (Some(10), 0, None));
        runs.insert(60, 80);
        runs.insert(200, 3);
        assert_eq!(runs.take(3), Some(60), "the first that has as many");
        assert_eq!((runs.take_next(70, 40), runs.take_next(110, 40)), (Some((70, 40)), Some((110, 30))));
        assert_eq!((runs.take_next(140, 40), runs.take_next(203, 1)), (Some((200, 3)), None));
        assert_eq!((runs.take(8), runs.longest_most()), (None, 7));
        runs.check();
        assert_eq!((runs.drain(), runs.free_pages()), (vec![(63, 7)], 0));
    }
}
