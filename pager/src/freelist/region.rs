//! The free pages of one region in memory: runs by size class, both ends of each run by their page, and a bit where one begins.
//!
//! Allocating, freeing and merging with both neighbours are a few look-ups in hash maps, whatever the number of runs.
//! Nothing here iterates a map without sorting, so behaviour does not depend on hashes. The bits are for who can do with runs
//! of any length, a checkpoint: it takes them in the order of the file, and so writes side by side what changed together, however
//! many holes the file has; the kernel has less to look up, and to send, for neighbours than for pages from anywhere.

use ahash::AHashMap;

use super::map::Bits;

/// Runs up to this length have a class of their own; longer ones share four classes for each power of two.
const EXACT_MAX: u32 = 32;
/// Number of size classes.
pub(super) const CLASSES: usize = class_of(crate::layout::REGION_PAGES as u32) + 1;

const _: () = assert!(CLASSES <= 128);

/// The class in which a run of this length stands.
pub(super) const fn class_of(pages: u32) -> usize {
    if pages <= EXACT_MAX {
        return pages as usize;
    }
    let log = pages.ilog2();
    let quarter = (pages >> (log - 2)) & 3;
    (EXACT_MAX + 1 + (log - EXACT_MAX.ilog2()) * 4 + quarter) as usize
}

/// The first class of which every run is at least this long.
pub(super) const fn class_for(pages: u32) -> usize {
    let class = class_of(pages);
    if pages <= EXACT_MAX || class_of(pages - 1) != class { class } else { class + 1 }
}

/// Free runs of a region. Pages are counted from the region's start.
#[derive(Default)]
pub(super) struct FreeRuns {
    /// Forward: start of a run to its length and its place in the list of its class.
    by_start: AHashMap<u32, (u32, u32)>,
    /// Backward: end of a run (the first page behind it) to its start.
    by_end: AHashMap<u32, u32>,
    /// Starts of the runs of each class.
    by_class: AHashMap<usize, Vec<u32>>,
    /// Bit n: class n has a run.
    classes: u128,
    starts: Bits,
    free_pages: u32,
}

impl FreeRuns {
    pub fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// Bit n: class n has a run.
    pub fn classes(&self) -> u128 {
        self.classes
    }

    /// Adds a run of pages that are not free, and merges it with its neighbours.
    pub fn insert(&mut self, start: u32, pages: u32) {
        self.free_pages += pages;
        let (mut start, mut end) = (start, start + pages);
        if let Some(before) = self.by_end.get(&start).copied() {
            self.unlink(before);
            start = before;
        }
        if let Some((after, _)) = self.by_start.get(&end).copied() {
            self.unlink(end);
            end += after;
        }
        self.link(start, end - start);
    }

    /// Takes `pages` from the front of a run that has as many, preferring one that is not much longer.
    pub fn take(&mut self, pages: u32) -> Option<u32> {
        let fitting = self.classes & (u128::MAX << class_for(pages));
        let start = if fitting != 0 {
            *self.by_class.get(&(fitting.trailing_zeros() as usize))?.last()?
        } else {
            // The longest runs share a class with ones that are too short: look at a few of them.
            let near = self.by_class.get(&class_of(pages))?;
            *near
                .iter()
                .rev()
                .take(8)
                .find(|start| self.by_start.get(start).is_some_and(|(length, _)| *length >= pages))?
        };
        self.take_front(start, pages);
        Some(start)
    }

    /// Takes at most `pages_max` from the front of the first run that begins at `from` or behind it.
    pub fn take_next(&mut self, from: u32, pages_max: u32) -> Option<(u32, u32)> {
        let start = self.starts.next_free(from)?;
        let pages = self.by_start.get(&start)?.0.min(pages_max);
        self.take_front(start, pages);
        Some((start, pages))
    }

    /// Takes all runs out, in order.
    pub fn drain(&mut self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = self.by_start.iter().map(|(start, (pages, _))| (*start, *pages)).collect();
        runs.sort_unstable();
        *self = FreeRuns::default();
        runs
    }

    fn take_front(&mut self, start: u32, pages: u32) {
        let length = self.unlink(start);
        self.free_pages -= pages;
        if length > pages {
            self.link(start + pages, length - pages);
        }
    }

    fn link(&mut self, start: u32, pages: u32) {
        let class = class_of(pages);
        let list = self.by_class.entry(class).or_default();
        list.push(start);
        self.by_start.insert(start, (pages, list.len() as u32 - 1));
        self.by_end.insert(start + pages, start);
        self.starts.set(start, 1, true);
        self.classes |= 1 << class;
    }

    /// Returns the run's length.
    fn unlink(&mut self, start: u32) -> u32 {
        let (pages, place) = self.by_start.remove(&start).expect("the maps hold the same runs");
        self.by_end.remove(&(start + pages));
        self.starts.set(start, 1, false);
        let class = class_of(pages);
        let list = self.by_class.get_mut(&class).expect("each run stands in the list of its class");
        list.swap_remove(place as usize);
        if let Some(moved) = list.get(place as usize) {
            self.by_start.get_mut(moved).expect("the maps hold the same runs").1 = place;
        }
        if list.is_empty() {
            self.classes &= !(1 << class);
        }
        pages
    }

    /// Compares all maps with each other, for tests.
    #[cfg(test)]
    pub fn check(&self) {
        assert_eq!(self.by_start.len(), self.by_end.len());
        assert_eq!(self.by_start.len(), self.starts.count() as usize);
        let listed: usize = self.by_class.values().map(Vec::len).sum();
        assert_eq!(listed, self.by_start.len());
        let mut free_pages = 0;
        for (start, (pages, place)) in &self.by_start {
            free_pages += pages;
            assert_eq!(self.by_end.get(&(start + pages)), Some(start));
            assert!(!self.starts.is_used(*start, 1));
            assert!(!self.by_start.contains_key(&(start + pages)), "neighbours are merged");
            assert_eq!(self.by_class[&class_of(*pages)][*place as usize], *start);
            assert!(self.classes & (1 << class_of(*pages)) != 0);
        }
        assert_eq!(free_pages, self.free_pages);
        assert_eq!(self.classes.count_ones() as usize, self.by_class.values().filter(|list| !list.is_empty()).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_ascend_with_the_length_and_fit_the_mask() {
        for pages in 2..=crate::layout::REGION_PAGES as u32 {
            assert!(class_of(pages) >= class_of(pages - 1));
            assert!(class_of(pages) - class_of(pages - 1) <= 1, "no class is empty at {pages}");
            assert!(class_for(pages) == class_of(pages) || class_for(pages) == class_of(pages) + 1);
        }
        assert_eq!((class_of(32), class_of(33), class_of(39), class_of(40)), (32, 33, 33, 34));
        assert_eq!((class_for(32), class_for(33), class_for(34), class_for(40)), (32, 33, 34, 34));
    }

    #[test]
    fn neighbours_merge_and_runs_are_cut_from_the_front() {
        let mut runs = FreeRuns::default();
        runs.insert(10, 5);
        runs.insert(20, 5);
        runs.insert(15, 5);
        runs.check();
        assert_eq!((runs.take(15), runs.free_pages(), runs.classes()), (Some(10), 0, 0));
        runs.insert(100, 40);
        runs.insert(200, 3);
        assert_eq!(runs.take(3), Some(200), "the shortest that fits");
        assert_eq!(runs.take(39), Some(100), "a run of the same class that is long enough");
        runs.insert(60, 20);
        assert_eq!((runs.take_next(70, 50), runs.take_next(60, 8)), (Some((139, 1)), Some((60, 8))));
        runs.insert(50, 4);
        assert_eq!((runs.take_next(68, 50), runs.take_next(80, 50)), (Some((68, 12)), None), "on from there");
        assert_eq!(runs.drain(), [(50, 4)]);
        runs.check();
    }
}
