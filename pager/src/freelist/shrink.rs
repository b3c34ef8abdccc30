//! How does the file become shorter, and when may its end be given back?
//!
//! Too early, and a reader, or the older meta after a crash, looks for a page that is gone; too late costs space only.
//! ```text
//!  set_ceiling     nothing is allocated behind it any more; the owner moves what the trees have there
//!  swept           the current state has nothing there
//!  maps            once all pages behind it are released (no pin, no meta holds one): this meta's file ends at the ceiling
//!  checkpointed    twice: both metas are of the shorter file: what is behind `cut_pages` belongs to nobody
//! ```
//! Where the room below the ceiling does not do, the ceiling goes, before the file grows. What stands behind it and belongs
//! to no tree (a page that could not be read, so that what it refers to was not found; a closed region) raises it.

use super::region::FreeRuns;
use super::{Freelist, Region};
use crate::layout::{REGION_PAGES, region_of, reserved_pages};

/// Where the file is to end.
pub(super) struct Ceiling {
    page: u64,
    /// The newest state has nothing behind it.
    is_swept: bool,
    /// A checkpoint has begun since then: its maps know all that the trees have left there.
    is_recorded: bool,
}

/// Adds a run to those below the ceiling and those behind it.
pub(super) fn insert(runs: &mut FreeRuns, tail: &mut FreeRuns, closed_from: u32, start: u32, pages: u32) {
    let below = closed_from.saturating_sub(start).min(pages);
    if below > 0 {
        runs.insert(start, below);
    }
    if below < pages {
        tail.insert(start + below, pages - below);
    }
}

impl Freelist {
    /// Behind this page nothing is allocated.
    #[must_use]
    pub fn ceiling(&self) -> Option<u64> {
        self.ceiling.as_ref().map(|ceiling| ceiling.page)
    }

    /// Says that nothing is to be allocated from `page` on, or lifts that. Returns the ceiling as it is now: it never
    /// stands among a region's fixed pages, nor behind the end.
    ///
    /// # Panics
    /// A ceiling is set while a checkpoint is under way: pages behind it may be in its hands.
    pub fn set_ceiling(&mut self, page: Option<u64>) -> Option<u64> {
        assert!(page.is_none() || self.checkpoint.is_none(), "a ceiling is set between checkpoints");
        let page = page.map(outside_of_fixed_pages).filter(|page| *page > 0 && *page < self.space.file_pages);
        let old = self.ceiling();
        self.ceiling = page.map(|page| Ceiling { page, is_swept: false, is_recorded: false });
        self.divide(old, page);
        page
    }

    /// Puts the runs of all regions from the lower of two ceilings on where they belong now.
    fn divide(&mut self, old: Option<u64>, new: Option<u64>) {
        let Some(lowest) = old.into_iter().chain(new).min().filter(|_| old != new) else { return };
        for region in region_of(lowest)..self.regions.len() as u64 {
            let closed_from = self.closed_from(region);
            self.change_runs(region, |open| {
                let all = [open.runs.drain(), open.tail.drain()].concat();
                for (start, pages) in all {
                    insert(&mut open.runs, &mut open.tail, closed_from, start, pages);
                }
            });
        }
    }

    /// The page of a region from which on it is behind the ceiling.
    pub(super) fn closed_from(&self, region: u64) -> u32 {
        let ceiling = self.ceiling().unwrap_or(u64::MAX);
        ceiling.saturating_sub(region * REGION_PAGES).min(REGION_PAGES) as u32
    }

    /// The newest published state has nothing behind the ceiling.
    pub fn swept(&mut self) {
        if let Some(ceiling) = &mut self.ceiling {
            ceiling.is_swept = true;
        }
    }

    /// Has the state nothing behind the ceiling? Then checkpoints bring the end of the file nearer.
    #[must_use]
    pub fn is_swept(&self) -> bool {
        self.ceiling.as_ref().is_some_and(|ceiling| ceiling.is_swept)
    }

    /// A checkpoint begins.
    pub(super) fn note_begin(&mut self) {
        if let Some(ceiling) = &mut self.ceiling {
            ceiling.is_recorded = ceiling.is_swept;
        }
    }

    /// Regions whose maps must be known before the file can end.
    pub(super) fn regions_to_cut(&self) -> core::ops::Range<u64> {
        let swept = self.ceiling.as_ref().filter(|ceiling| ceiling.is_recorded);
        swept.map_or(0..0, |ceiling| region_of(ceiling.page)..self.regions.len() as u64)
    }

    /// In the maps that are being made the file ends at the ceiling, if nobody holds anything behind it.
    pub(super) fn cut(&mut self) {
        let Some(ceiling) = self.ceiling.as_ref().filter(|ceiling| ceiling.is_recorded) else { return };
        let (old, used_end) = (ceiling.page, self.used_end(ceiling.page));
        if used_end > old {
            let raised = Some(outside_of_fixed_pages(used_end)).filter(|page| *page < self.space.file_pages);
            let raised = raised.filter(|page| *page >= used_end);
            self.ceiling = raised.map(|page| Ceiling { page, is_swept: true, is_recorded: true });
            self.divide(Some(old), raised);
        }
        let Some(page) = self.ceiling().filter(|page| self.is_released(*page)) else { return };
        let regions = page.div_ceil(REGION_PAGES);
        while self.regions.len() as u64 > regions {
            if let Some(Region::Open(open)) = self.regions.pop() {
                self.space.map_digest = self.space.map_digest.wrapping_sub(open.digest);
                self.free_pages -= open.free_pages();
            }
        }
        let start = page - (regions - 1) * REGION_PAGES;
        if let Some(Region::Open(open)) = self.regions.last_mut()
            && start < REGION_PAGES
        {
            open.bits.set(start as u32, (REGION_PAGES - start) as u32, false);
            self.free_pages -= u64::from(open.tail.free_pages());
            open.tail.drain();
            open.is_changed = true;
        }
        self.space.file_pages = page;
        self.ceiling = None;
    }

    /// Each region from `page` on with the pages that are behind it there.
    fn parts_behind(&self, page: u64) -> impl DoubleEndedIterator<Item = (&Region, u64, u32, u32)> {
        let file_pages = self.space.file_pages;
        (region_of(page) as usize..self.regions.len()).map(move |index| {
            let region = index as u64;
            let first = region * REGION_PAGES;
            let start = page.saturating_sub(first).max(reserved_pages(region)) as u32;
            let end = (file_pages - first).min(REGION_PAGES) as u32;
            (&self.regions[index], region, start, end)
        })
    }

    /// The end of what is in use from `page` on; `page` where nothing is.
    fn used_end(&self, page: u64) -> u64 {
        for (region, index, start, end) in self.parts_behind(page).rev() {
            let last = match region {
                Region::Open(open) => open.bits.last_used(start, end),
                Region::Unread | Region::Closed => end.checked_sub(1).filter(|last| *last >= start),
            };
            if let Some(last) = last {
                return index * REGION_PAGES + u64::from(last) + 1;
            }
        }
        page
    }

    /// Are all pages from `page` on free, and held by nobody?
    fn is_released(&self, page: u64) -> bool {
        self.parts_behind(page).all(|(region, _, start, end)| match region {
            Region::Open(open) => open.tail.free_pages() == end.saturating_sub(start),
            Region::Unread | Region::Closed => false,
        })
    }

    /// Pages of the file that a meta, or the freelist, has a use for: what is behind them may be cut off between two
    /// checkpoints.
    #[must_use]
    pub fn cut_pages(&self) -> u64 {
        self.meta_pages.into_iter().fold(self.space.file_pages, u64::max)
    }

    /// A region whose free pages are not known yet.
    #[must_use]
    pub fn unread_region(&self) -> Option<u64> {
        self.unread.lowest()
    }
}

/// A file may end anywhere but among the places of a region's maps.
fn outside_of_fixed_pages(page: u64) -> u64 {
    let region = region_of(page);
    if page - region * REGION_PAGES <= reserved_pages(region) { region * REGION_PAGES } else { page }
}
