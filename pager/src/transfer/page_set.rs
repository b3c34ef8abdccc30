//! Pages by their numbers, a bit each.

use crate::api::PageRun;
use crate::layout::REGION_PAGES;

const WORDS_OF_REGION: usize = (REGION_PAGES / 64) as usize;

#[derive(Default)]
pub(super) struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// Adds the pages of a run; false where one of them was there.
    pub fn insert(&mut self, run: PageRun) -> bool {
        let mut is_new = true;
        for page in run.first..run.first + u64::from(run.pages) {
            let (index, bit) = ((page / 64) as usize, 1 << (page % 64));
            if index >= self.words.len() {
                self.words.resize(index + 1, 0);
            }
            is_new &= self.words[index] & bit == 0;
            self.words[index] |= bit;
        }
        is_new
    }

    pub fn contains(&self, page: u64) -> bool {
        self.words.get((page / 64) as usize).is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Behind the last page.
    pub fn end(&self) -> u64 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |index| index as u64 * 64 + 64 - u64::from(self.words[index].leading_zeros()))
    }

    /// The words of a region's pages; those that are missing are zero.
    pub fn words_of(&self, region: u64) -> &[u64] {
        let start = (region as usize * WORDS_OF_REGION).min(self.words.len());
        &self.words[start..(start + WORDS_OF_REGION).min(self.words.len())]
    }

    /// Pages of a region.
    pub fn count(&self, region: u64) -> u64 {
        self.words_of(region).iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The page of a region that so many of it stand before.
    pub fn nth(&self, region: u64, mut before: u64) -> Option<u64> {
        for (index, word) in self.words_of(region).iter().enumerate() {
            let pages = u64::from(word.count_ones());
            if before >= pages {
                before -= pages;
                continue;
            }
            let mut rest = *word;
            for _ in 0..before {
                rest &= rest - 1;
            }
            return Some(region * REGION_PAGES + index as u64 * 64 + u64::from(rest.trailing_zeros()));
        }
        None
    }

    /// How many pages from this one on are there without a gap, at most so many.
    pub fn run_at(&self, first: u64, pages_max: u32) -> u32 {
        (0..pages_max).find(|step| !self.contains(first + u64::from(*step))).unwrap_or(pages_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_by_number_and_by_place() {
        let mut set = PageSet::default();
        assert_eq!((set.end(), set.count(0), set.nth(0, 0)), (0, 0, None));
        assert!(set.insert(PageRun { first: 5, pages: 3 }) && set.insert(PageRun { first: 62, pages: 4 }));
        assert!(!set.insert(PageRun { first: 7, pages: 1 }));
        assert!(set.insert(PageRun { first: REGION_PAGES + 100, pages: 1 }));
        assert_eq!((set.end(), set.count(0), set.count(1), set.count(2)), (REGION_PAGES + 101, 7, 1, 0));
        let all: Vec<_> = (0..8).map_while(|before| set.nth(0, before)).collect();
        assert_eq!(all, [5, 6, 7, 62, 63, 64, 65]);
        assert_eq!((set.nth(1, 0), set.nth(1, 1)), (Some(REGION_PAGES + 100), None));
        assert_eq!((set.run_at(5, 9), set.run_at(6, 1), set.run_at(8, 9), set.run_at(63, 9)), (3, 1, 0, 3));
    }
}
