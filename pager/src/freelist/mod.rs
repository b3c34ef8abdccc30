//! Which pages may be used again now, and where is a long run of them?
//!
//! Too early, and a reader on another core, or the file after a crash, follows a reference into somebody else's page; too
//! late, and the file grows. A page that exists in the generations `born..freed` is held by the pins, the metas and the
//! checkpoint whose generation lies in there, and by all until a checkpoint that knows it as free is durable. This file
//! knows no page's content, no clock, and does no I/O.
//!
//! ```text
//!  allocate -> [ in use ] -> free(born, freed) -> [ unrecorded ] -> maps (a checkpoint at or behind `freed`)
//!      ^                                                                        |
//!      +------------ [ free ] <- release(pins) <- [ pending ] <- checkpointed <-+
//! ```
//!
//! Methods, in the order of a checkpoint: `begin_checkpoint`, `regions_to_load` (each: read [`Freelist::map_run`], then
//! `region_read`), `allocate*` (which may need a region or growth first), `fix_maps`, `next_maps` until there are none, write
//! and sync them with the pages, write and sync the meta with their `space`, `checkpointed`, `release`. A checkpoint whose maps
//! were fixed is finished, or the process ends.
//!
//! A checkpoint, or a compaction, frees a hundred thousand pages: no method but `fix_maps` looks at all of them, and that one
//! only where `record_some` was not called often enough before.
//!
//! Opening reads no map: a region's is read when an allocation or a freed page needs it.
//!
//! What a region's two maps say at its first use, under the newer meta G and the older one H:
//! ```text
//!  slot bits of G and H   counting map (slot of G)   other map             outcome
//!  equal, or no H         good, generation <= H      not looked at         Opened: its free pages are free
//!  different              good, generation == G      good, generation <= H Opened: free in G but used in H waits for H
//!  different              good, generation == G      else (overwritten by  Opened: all its free pages wait for H
//!                                                    a dead checkpoint)
//!  any                    anything else              any                   Closed: never allocated from, told as damage
//! ```
//! (With no H, or a region that H does not have, the generation may be up to G.)
//!
//! How the file becomes shorter: `shrink.rs`. Pages that a checkpoint has no use for and frames still have: `lent.rs`.

mod lent;
pub(crate) mod map;
mod pending;
mod region;
mod region_set;
mod shrink;

use std::collections::BTreeMap;

use crate::api::{Damage, PageRun};
use crate::chunks::Chunks;
use crate::disk::Buffer;
use crate::layout::{
    FILE_PAGES_MAX, FileId, MAP_SLOTS_BYTES, PAGE_BYTES, REGION_PAGES, RUN_PAGES_MAX, is_allocatable, map_page,
    region_of, reserved_pages,
};
use crate::pins::Held;

use lent::Lent;
use map::Bits;
use pending::{Pending, PendingRuns};
use region::{CLASSES, FreeRuns, class_for, class_of};
use region_set::RegionSet;
use shrink::{Ceiling, insert};

/// Pages of a new file: 1 MiB.
const FILE_PAGES_FIRST: u64 = 256;
/// The file grows by a quarter, but at least by 1 MiB and at most by 32 MiB at once (and not beyond its region).
const GROWTH_PAGES: core::ops::RangeInclusive<u64> = 256..=8192;
/// A region with fewer free pages has short runs: before one is begun with, regions are looked at that have not been.
const GOOD_FREE_PAGES: u32 = (REGION_PAGES / 8) as u32;

/// What a meta says about the space of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Pages of the file. It is never shorter than this.
    pub file_pages: u64,
    /// For each region the slot of the map that counts.
    pub map_slots: Box<[u8; MAP_SLOTS_BYTES]>,
    /// Wrapping sum over the maps that count: see [`Freelist::check_digest`].
    pub map_digest: u64,
}

impl Space {
    fn slot(&self, region: u64) -> u8 {
        (self.map_slots[(region / 8) as usize] >> (region % 8)) & 1
    }

    fn flip(&mut self, region: u64) {
        self.map_slots[(region / 8) as usize] ^= 1 << (region % 8);
    }
}

/// What must happen before an allocation can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Read [`Freelist::map_run`] of this region and give it to [`Freelist::region_read`].
    Region(u64),
    /// Make the file so many pages long, then call [`Freelist::grown`].
    Growth(u64),
    /// The file is as long as it can be ([`FILE_PAGES_MAX`]) and has no such run.
    Full,
}

enum Region {
    Unread,
    Open(Box<OpenRegion>),
    Closed,
}

struct OpenRegion {
    runs: FreeRuns,
    /// Runs behind the ceiling: free, and not allocated from.
    tail: FreeRuns,
    /// As the next checkpoint's map will have it: pending pages are free here.
    bits: Bits,
    is_changed: bool,
    /// What this region adds to the digest of the maps; 0 before its first map.
    digest: u64,
}

/// The free pages of a file.
pub struct Freelist {
    file: FileId,
    space: Space,
    regions: Vec<Region>,
    unread: RegionSet,
    /// Regions with a run of the class.
    by_class: Vec<RegionSet>,
    /// Where a checkpoint was given pages last: region, page in it. The next ones are those behind it.
    cursor: (u64, u32),
    /// Freed, and not free yet in any map, in the order of `freed`.
    unrecorded: Chunks<Pending>,
    /// The same, by the region, none of which was read.
    unread_freed: BTreeMap<u64, Vec<Pending>>,
    /// Free in the next maps, or those of the checkpoint under way.
    recorded: Chunks<Pending>,
    pending: PendingRuns,
    lent: Lent,
    /// Pages in all these.
    waiting_pages: u64,
    /// Of all open regions, those behind the ceiling too.
    free_pages: u64,
    /// Found while a freed page was recorded: the next maps are not to be made.
    contradiction: Option<Damage>,
    /// Generations of the metas.
    newer: Option<u64>,
    older: Option<u64>,
    /// The older meta of the time of opening, until it is replaced.
    opened_older: Option<(u64, Space)>,
    checkpoint: Option<u64>,
    is_mapped: bool,
    /// The region whose map comes next, where they are being made.
    next_map: u64,
    ceiling: Option<Ceiling>,
    /// Pages of the file as the metas have it, the newer one first.
    meta_pages: [u64; 2],
    /// Regions that the file has had: their slots are used in turn, also where they come back.
    regions_known: u64,
}

impl Freelist {
    /// The freelist of a new file; [`Freelist::file_pages`] says how long to make it.
    #[must_use]
    pub fn create(file: FileId) -> Freelist {
        let space = Space { file_pages: 0, map_slots: Box::new([0; MAP_SLOTS_BYTES]), map_digest: 0 };
        let mut freelist = Freelist::with(file, space);
        freelist.grown(FILE_PAGES_FIRST);
        freelist
    }

    /// The freelist under the newer meta, with the older one where it is valid: {generation, space}. Reads nothing.
    #[must_use]
    pub fn open(file: FileId, newer: (u64, Space), older: Option<(u64, Space)>) -> Freelist {
        let mut freelist = Freelist::with(file, newer.1);
        freelist.newer = Some(newer.0);
        let older_pages = older.as_ref().map_or(0, |(_, space)| space.file_pages);
        freelist.meta_pages = [freelist.space.file_pages, older_pages];
        freelist.regions_known = freelist.space.file_pages.max(older_pages).div_ceil(REGION_PAGES);
        freelist.older = older.as_ref().map(|(generation, _)| *generation);
        freelist.opened_older = older;
        for region in 0..freelist.space.file_pages.div_ceil(REGION_PAGES) {
            freelist.regions.push(Region::Unread);
            freelist.unread.set(region, true);
        }
        freelist
    }

    fn with(file: FileId, space: Space) -> Freelist {
        Freelist {
            file,
            space,
            regions: Vec::new(),
            unread: RegionSet::empty(),
            by_class: vec![RegionSet::empty(); CLASSES],
            cursor: (0, 0),
            unrecorded: Chunks::default(),
            unread_freed: BTreeMap::new(),
            recorded: Chunks::default(),
            pending: PendingRuns::default(),
            lent: Lent::default(),
            waiting_pages: 0,
            free_pages: 0,
            contradiction: None,
            newer: None,
            older: None,
            opened_older: None,
            checkpoint: None,
            is_mapped: false,
            next_map: 0,
            ceiling: None,
            meta_pages: [0; 2],
            regions_known: 0,
        }
    }

    /// Pages of the file, as far as the freelist uses it.
    #[must_use]
    pub fn file_pages(&self) -> u64 {
        self.space.file_pages
    }

    /// Pages that nobody holds, in the regions that were read; those behind a ceiling too.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// Pages that were freed and can't be allocated yet.
    #[must_use]
    pub fn pending_pages(&self) -> u64 {
        self.waiting_pages
    }

    /// Regions whose map was not needed yet.
    #[must_use]
    pub fn unread_regions(&self) -> u64 {
        self.unread.len()
    }

    /// Regions whose map is damaged: their pages are read, but none is allocated or freed.
    pub fn closed_regions(&self) -> impl Iterator<Item = u64> {
        let regions = self.regions.iter().zip(0..);
        regions.filter(|(region, _)| matches!(region, Region::Closed)).map(|(_, index)| index)
    }

    /// The two pages to read for [`Freelist::region_read`].
    #[must_use]
    pub fn map_run(region: u64) -> PageRun {
        PageRun { first: map_page(region, 0), pages: 2 }
    }

    /// Takes the content of [`Freelist::map_run`]. A region that is open already stays as it is.
    ///
    /// # Errors
    /// The map is damaged; the region is closed from now on, and all else goes on. To be reported.
    ///
    /// # Panics
    /// There is no such region.
    pub fn region_read(&mut self, region: u64, maps: &[u8]) -> Result<(), Damage> {
        if !matches!(self.regions[region as usize], Region::Unread) {
            return Ok(());
        }
        self.unread.set(region, false);
        let opened = match self.open_region(region, maps) {
            Ok(open) => {
                self.free_pages += open.free_pages();
                self.regions[region as usize] = Region::Open(Box::new(open));
                self.reclass(region, 0);
                Ok(())
            }
            Err(what) => {
                self.regions[region as usize] = Region::Closed;
                Err(Damage { page: map_page(region, self.space.slot(region)), tree: 0, what })
            }
        };
        self.unread_freed.remove(&region).into_iter().flatten().for_each(|pending| self.record(pending));
        for pending in self.lent.unread.remove(&region).into_iter().flatten() {
            match self.is_known(pending.run) {
                Ok(true) => self.record_lent(pending),
                Ok(false) => self.waiting_pages -= u64::from(pending.run.pages),
                Err(damage) => self.contradict(pending, damage),
            }
        }
        opened
    }

    fn open_region(&mut self, region: u64, maps: &[u8]) -> Result<OpenRegion, &'static str> {
        if maps.len() != 2 * PAGE_BYTES {
            return Err("the two free maps are not whole pages");
        }
        let newer = self.newer.expect("regions are unread only in a file that was opened");
        let slot = self.space.slot(region);
        let place = |slot: u8| &maps[usize::from(slot) * PAGE_BYTES..][..PAGE_BYTES];
        let counting = map::decode(self.file, region, self.space.file_pages, place(slot))?;
        let older = self.opened_older.as_ref().filter(|(_, space)| region * REGION_PAGES < space.file_pages);
        let closed_from = self.closed_from(region);
        let mut open = OpenRegion {
            runs: FreeRuns::default(),
            tail: FreeRuns::default(),
            bits: counting.bits,
            is_changed: false,
            digest: digest_of(region, counting.generation, counting.crc),
        };
        let waiting = match older {
            Some((older, space)) if space.slot(region) != slot => {
                if counting.generation != newer {
                    return Err("the free map is older than its meta: a write was lost");
                }
                let other = map::decode(self.file, region, space.file_pages, place(1 - slot));
                let other = other.ok().filter(|other| other.generation <= *older);
                let (free, waiting) = open.bits.split(&other.map_or_else(Bits::none, |other| other.bits));
                free.for_each_run(|start, pages| insert(&mut open.runs, &mut open.tail, closed_from, start, pages));
                Some((*older, waiting))
            }
            older => {
                if counting.generation > older.map_or(newer, |(older, _)| *older) {
                    return Err("the free map is newer than its meta");
                }
                let (runs, tail) = (&mut open.runs, &mut open.tail);
                open.bits.for_each_run(|start, pages| insert(runs, tail, closed_from, start, pages));
                None
            }
        };
        if let Some((older, waiting)) = waiting {
            waiting.for_each_run(|start, pages| {
                let run = PageRun { first: region * REGION_PAGES + u64::from(start), pages };
                self.waiting_pages += u64::from(pages);
                self.pending.push(Pending { run, born: older, freed: newer });
            });
        }
        Ok(open)
    }

    /// The file has become longer, as [`Need::Growth`] asked. It need not be durable yet: the sync before the next meta is.
    ///
    /// # Panics
    /// More than [`FILE_PAGES_MAX`]; or the last region is incomplete and unread.
    pub fn grown(&mut self, file_pages: u64) {
        assert!(file_pages <= FILE_PAGES_MAX, "the file's length has a bound");
        self.set_ceiling(None);
        while self.space.file_pages < file_pages {
            let region = region_of(self.space.file_pages);
            if region as usize == self.regions.len() {
                self.regions.push(Region::Open(Box::new(OpenRegion {
                    runs: FreeRuns::default(),
                    tail: FreeRuns::default(),
                    bits: Bits::none(),
                    is_changed: true,
                    digest: 0,
                })));
                if region >= self.regions_known {
                    self.regions_known = region + 1;
                    // The first map goes to slot 0. (A region that was cut off and comes back goes on with the other slot:
                    // the older meta may still have the map of its former life.)
                    if self.space.slot(region) == 0 {
                        self.space.flip(region);
                    }
                }
            }
            assert!(!matches!(self.regions[region as usize], Region::Unread), "Need::Growth asks for the region first");
            let start = (self.space.file_pages - region * REGION_PAGES).max(reserved_pages(region));
            self.space.file_pages = file_pages.min((region + 1) * REGION_PAGES);
            let end = self.space.file_pages - region * REGION_PAGES;
            if start < end {
                self.change_runs(region, |open| {
                    open.is_changed = true;
                    open.bits.set(start as u32, (end - start) as u32, true);
                    open.runs.insert(start as u32, (end - start) as u32);
                });
            }
        }
    }

    /// One run of `pages` pages, towards the low end of the file.
    ///
    /// # Errors
    /// What must happen first; then call again.
    ///
    /// # Panics
    /// 0 pages or more than [`RUN_PAGES_MAX`].
    pub fn allocate(&mut self, pages: u32) -> Result<PageRun, Need> {
        assert!((1..=RUN_PAGES_MAX).contains(&pages), "a run has 1 to {RUN_PAGES_MAX} pages, not {pages}");
        match self.take_run(pages) {
            Err(Need::Growth(_) | Need::Full) if self.ceiling.is_some() => {
                // There is room in the file: what is behind the ceiling.
                self.set_ceiling(None);
                self.take_run(pages)
            }
            result => result,
        }
    }

    fn take_run(&mut self, pages: u32) -> Result<PageRun, Need> {
        let fitting = self.by_class[class_for(pages)..].iter().filter_map(RegionSet::lowest).min();
        // Else a region whose longest run shares the class with shorter ones may have it.
        for region in fitting.into_iter().chain(self.by_class[class_of(pages)].lowest()) {
            if let Some(start) = self.change_runs(region, |open| open.take(pages)).flatten() {
                return Ok(PageRun { first: region * REGION_PAGES + u64::from(start), pages });
            }
        }
        Err(self.need(pages))
    }

    /// One run of at most `pages_max` pages, the next one behind those that were given out last: for a checkpoint that can divide
    /// it. Behind the last run of a region it goes on with the region that has the most free pages.
    ///
    /// # Errors
    /// What must happen first; then call again.
    ///
    /// # Panics
    /// 0 pages.
    pub fn allocate_up_to(&mut self, pages_max: u32) -> Result<PageRun, Need> {
        assert!(pages_max > 0, "a run has at least one page");
        match self.take_up_to(pages_max) {
            Err(Need::Growth(_) | Need::Full) if self.ceiling.is_some() => {
                self.set_ceiling(None);
                self.take_up_to(pages_max)
            }
            result => result,
        }
    }

    fn take_up_to(&mut self, pages_max: u32) -> Result<PageRun, Need> {
        let pages_max = pages_max.min(RUN_PAGES_MAX);
        let (region, from) = self.cursor;
        if let Some(run) = self.take_next(region, from, pages_max) {
            return Ok(run);
        }
        let free_pages = |region: &Region| if let Region::Open(open) = region { open.runs.free_pages() } else { 0 };
        let most = self.regions.iter().map(free_pages).max().unwrap_or(0);
        if most == 0 || (most < GOOD_FREE_PAGES && self.unread.lowest().is_some()) {
            return Err(self.need(1));
        }
        let emptiest = self.regions.iter().position(|region| free_pages(region) == most).expect("one has the most");
        Ok(self.take_next(emptiest as u64, 0, pages_max).expect("the region has free pages"))
    }

    fn take_next(&mut self, region: u64, from: u32, pages_max: u32) -> Option<PageRun> {
        if region as usize >= self.regions.len() {
            return None;
        }
        let (start, pages) = self.change_runs(region, |open| open.take_next(from, pages_max)).flatten()?;
        self.cursor = (region, start + pages);
        Some(PageRun { first: region * REGION_PAGES + u64::from(start), pages })
    }

    /// Gives back a run that was allocated for the checkpoint under way and was not used.
    ///
    /// # Panics
    /// It is not in use.
    pub fn give_back(&mut self, run: PageRun) {
        let region = region_of(run.first);
        let start = (run.first - region * REGION_PAGES) as u32;
        let closed_from = self.closed_from(region);
        if self.cursor == (region, start + run.pages) {
            self.cursor.1 = start;
        }
        self.change_runs(region, |open| {
            open.is_changed = true;
            assert!(open.bits.is_used(start, run.pages), "only what was allocated is given back");
            open.bits.set(start, run.pages, true);
            insert(&mut open.runs, &mut open.tail, closed_from, start, run.pages);
        });
    }

    fn need(&self, pages: u32) -> Need {
        if let Some(region) = self.unread.lowest() {
            return Need::Region(region);
        }
        let old = self.space.file_pages;
        let step = (old / 4).clamp(*GROWTH_PAGES.start(), *GROWTH_PAGES.end()).max(u64::from(pages));
        // A run stands in one region: what the last one can't take begins in the next.
        let region_end = old.next_multiple_of(REGION_PAGES).max(REGION_PAGES);
        let is_closed = matches!(self.regions.last(), Some(Region::Closed));
        let fits = old + u64::from(pages) <= region_end && !(is_closed && old < region_end);
        let new = if old == region_end || !fits {
            region_end + (reserved_pages(1) + step).min(REGION_PAGES)
        } else {
            (old + step).min(region_end)
        };
        if new > FILE_PAGES_MAX { Need::Full } else { Need::Growth(new) }
    }

    /// A run that exists in the generations `born..freed` is no longer part of the tree that is being written. `freed` is
    /// the generation that will be published next, and never descends.
    ///
    /// # Errors
    /// No allocation can have given this run, or it is free already: who refers to it is damaged. Nothing was changed.
    pub fn free(&mut self, run: PageRun, born: u64, freed: u64) -> Result<(), Damage> {
        if self.unrecorded.back().is_some_and(|last| last.freed > freed) {
            let what = "a run was freed in a generation before the last one";
            return Err(Damage { page: run.first, tree: 0, what });
        }
        if self.is_known(run)? {
            self.waiting_pages += u64::from(run.pages);
            self.unrecorded.push(Pending { run, born, freed });
        }
        Ok(())
    }

    /// Can the run be in use? False in a region of which nothing is known.
    fn is_known(&self, run: PageRun) -> Result<bool, Damage> {
        let damage = |what| Damage { page: run.first, tree: 0, what };
        if !is_allocatable(run, self.space.file_pages) {
            return Err(damage("a freed run lies outside of the pages for use"));
        }
        match &self.regions[region_of(run.first) as usize] {
            Region::Open(open) if !open.bits.is_used((run.first % REGION_PAGES) as u32, run.pages) => {
                Err(damage("a page was freed that is free already"))
            }
            Region::Closed => Ok(false),
            Region::Open(_) | Region::Unread => Ok(true),
        }
    }

    /// A checkpoint of the state of this generation begins: what that state refers to is held from now on.
    ///
    /// # Panics
    /// Another one is under way, or the generation is not newer than that of the last.
    pub fn begin_checkpoint(&mut self, generation: u64) {
        assert!(self.checkpoint.is_none(), "one checkpoint at a time");
        assert!(self.newer.is_none_or(|newer| newer < generation), "checkpoints ascend");
        self.checkpoint = Some(generation);
        self.note_begin();
    }

    /// The checkpoint is given up; its runs were given back.
    ///
    /// # Panics
    /// No checkpoint has begun, or its maps were made.
    pub fn abandon_checkpoint(&mut self) {
        assert!(!self.is_mapped, "a checkpoint whose maps were made is finished");
        self.checkpoint.take().expect("a checkpoint has begun");
        // What was freed is free in the next one's maps as well.
        self.unlend();
    }

    /// Makes up to `runs_max` runs free in the next maps: of those that were freed at or before the generation that is
    /// published and, while a checkpoint is under way, that its state has no use for. For after each publish.
    pub fn record_some(&mut self, published: u64, runs_max: usize) {
        for _ in 0..runs_max {
            if !self.has_unrecorded(published) {
                return;
            }
            let pending = self.unrecorded.pop().expect("just looked at");
            self.record(pending);
        }
    }

    /// Has [`Freelist::record_some`] more to do?
    #[must_use]
    pub fn has_unrecorded(&self, published: u64) -> bool {
        let until = self.checkpoint.map_or(published, |generation| generation.min(published));
        !self.is_mapped && self.unrecorded.front().is_some_and(|pending| pending.freed <= until)
    }

    /// Has [`Freelist::record_some`], or [`Freelist::release`], more to do?
    #[must_use]
    pub fn has_leftovers(&self, published: u64) -> bool {
        self.has_unrecorded(published) || self.pending.has_fresh() || self.lent.has_fresh()
    }

    /// Regions to be read before [`Freelist::fix_maps`], because pages of theirs have become free. They can be read any time
    /// between `begin_checkpoint` and that.
    #[must_use]
    pub fn regions_to_load(&mut self) -> Vec<u64> {
        self.record_some(self.checkpoint.expect("a checkpoint has begun"), usize::MAX);
        let freed = self.unread_freed.keys().chain(self.lent.unread.keys()).copied();
        let mut regions: Vec<u64> = freed
            .chain(self.regions_to_cut())
            .filter(|region| matches!(self.regions[*region as usize], Region::Unread))
            .collect();
        regions.sort_unstable();
        regions.dedup();
        regions
    }

    /// What the checkpoint's maps say is fixed. From here on it is finished, or the process ends.
    ///
    /// # Errors
    /// A page was freed twice: the trees are damaged. The checkpoint must not be finished.
    ///
    /// # Panics
    /// No checkpoint has begun, or a region of [`Freelist::regions_to_load`] was not read.
    pub fn fix_maps(&mut self) -> Result<(), Damage> {
        assert!(!self.is_mapped, "the maps of a checkpoint are made once");
        self.record_some(self.checkpoint.expect("a checkpoint has begun"), usize::MAX);
        assert!(self.unread_freed.is_empty() && self.lent.unread.is_empty(), "regions_to_load were read");
        if let Some(damage) = self.contradiction.take() {
            return Err(damage);
        }
        self.cut();
        self.is_mapped = true;
        self.next_map = 0;
        self.meta_pages = [self.space.file_pages, self.meta_pages[0]];
        Ok(())
    }

    /// The next of the maps that the checkpoint writes, with their pages: up to `maps_max` of those that have changed. None
    /// are left where it is empty: then [`Freelist::space`] is the meta's.
    ///
    /// # Panics
    /// They were not fixed.
    pub fn next_maps(&mut self, maps_max: usize) -> Vec<(u64, Buffer)> {
        let generation = self.checkpoint.filter(|_| self.is_mapped).expect("the maps were fixed");
        let mut writes = Vec::new();
        while writes.len() < maps_max && self.next_map < self.regions.len() as u64 {
            let region = self.next_map;
            self.next_map += 1;
            let Region::Open(open) = &mut self.regions[region as usize] else { continue };
            if !core::mem::take(&mut open.is_changed) {
                continue;
            }
            self.space.flip(region);
            let (page, crc) = map::encode(self.file, region, generation, &open.bits);
            let digest = digest_of(region, generation, crc);
            self.space.map_digest = self.space.map_digest.wrapping_sub(open.digest).wrapping_add(digest);
            open.digest = digest;
            writes.push((map_page(region, self.space.slot(region)), page.into()));
        }
        writes
    }

    /// What the meta of the checkpoint says, when its maps were made.
    #[must_use]
    pub fn space(&self) -> Space {
        self.space.clone()
    }

    /// Makes a freed run free in the next maps.
    fn record(&mut self, pending: Pending) {
        let start = (pending.run.first % REGION_PAGES) as u32;
        let region = region_of(pending.run.first);
        match &mut self.regions[region as usize] {
            Region::Unread => self.unread_freed.entry(region).or_default().push(pending),
            // Nothing more is known about its pages.
            Region::Closed => self.waiting_pages -= u64::from(pending.run.pages),
            Region::Open(open) if !open.bits.is_used(start, pending.run.pages) => {
                let what = "a page was freed twice";
                self.contradict(pending, Damage { page: pending.run.first, tree: 0, what });
            }
            Region::Open(open) => {
                open.bits.set(start, pending.run.pages, true);
                open.is_changed = true;
                self.recorded.push(pending);
            }
        }
    }

    fn contradict(&mut self, pending: Pending, damage: Damage) {
        self.waiting_pages -= u64::from(pending.run.pages);
        self.contradiction.get_or_insert(damage);
    }

    /// The meta of the checkpoint is durable.
    ///
    /// # Panics
    /// Its maps were not made.
    pub fn checkpointed(&mut self) {
        let generation = self.checkpoint.take().expect("a checkpoint has begun");
        assert!(core::mem::take(&mut self.is_mapped), "the maps are durable before the meta");
        self.older = self.newer.replace(generation);
        self.opened_older = None;
        self.pending.append(&mut self.recorded);
        self.lent.checkpointed();
    }

    /// Makes free what neither the pins nor the metas nor the checkpoint hold any more; looks at up to `runs_max` runs of each
    /// kind.
    pub fn release(&mut self, pins: &Held, runs_max: usize) {
        let mut held = pins.clone();
        for generation in [self.newer, self.older, self.checkpoint].into_iter().flatten() {
            held.insert(generation);
        }
        let mut pending = core::mem::take(&mut self.pending);
        pending.release(&held, runs_max, |run| self.make_free(run));
        self.pending = pending;
        let mut lent = core::mem::take(&mut self.lent);
        lent.release(pins, runs_max, |run| self.make_free(run));
        self.lent = lent;
    }

    fn make_free(&mut self, run: PageRun) {
        let start = (run.first % REGION_PAGES) as u32;
        let closed_from = self.closed_from(region_of(run.first));
        self.waiting_pages -= u64::from(run.pages);
        self.change_runs(region_of(run.first), |open| {
            insert(&mut open.runs, &mut open.tail, closed_from, start, run.pages);
        });
    }

    /// Do all maps together match the meta? That shows a map whose write the device has lost. `None` while a region is
    /// unread, closed, or changed since the last checkpoint.
    #[must_use]
    pub fn check_digest(&self) -> Option<bool> {
        let mut sum = 0u64;
        for region in &self.regions {
            match region {
                Region::Open(open) if !open.is_changed => sum = sum.wrapping_add(open.digest),
                _ => return None,
            }
        }
        Some(sum == self.space.map_digest)
    }

    /// Is the page free, as the last maps have it? `None` where its region was not read. For the whole-file check.
    #[must_use]
    pub fn is_free(&self, page: u64) -> Option<bool> {
        match self.regions.get(region_of(page) as usize)? {
            Region::Open(open) => Some(!open.bits.is_used((page % REGION_PAGES) as u32, 1)),
            Region::Unread | Region::Closed => None,
        }
    }

    fn change_runs<T>(&mut self, region: u64, change: impl FnOnce(&mut OpenRegion) -> T) -> Option<T> {
        let Region::Open(open) = &mut self.regions[region as usize] else { return None };
        let (before, free_pages) = (open.runs.classes(), open.free_pages());
        let result = change(open);
        self.free_pages = self.free_pages - free_pages + open.free_pages();
        self.reclass(region, before);
        Some(result)
    }

    fn reclass(&mut self, region: u64, before: u128) {
        let Region::Open(open) = &self.regions[region as usize] else { return };
        let now = open.runs.classes();
        let mut different = before ^ now;
        while different != 0 {
            let class = different.trailing_zeros() as usize;
            self.by_class[class].set(region, now & (1 << class) != 0);
            different &= different - 1;
        }
    }
}

impl OpenRegion {
    fn free_pages(&self) -> u64 {
        u64::from(self.runs.free_pages() + self.tail.free_pages())
    }

    fn take(&mut self, pages: u32) -> Option<u32> {
        let start = self.runs.take(pages)?;
        self.is_changed = true;
        self.bits.set(start, pages, false);
        Some(start)
    }

    fn take_next(&mut self, from: u32, pages_max: u32) -> Option<(u32, u32)> {
        let (start, pages) = self.runs.take_next(from, pages_max)?;
        self.is_changed = true;
        self.bits.set(start, pages, false);
        Some((start, pages))
    }
}

/// What one map adds to the digest: sums of these are compared, so all bits must matter.
pub(crate) fn digest_of(region: u64, generation: u64, crc: u32) -> u64 {
    let mut digest = region.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ generation.rotate_left(32) ^ u64::from(crc);
    digest = (digest ^ (digest >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    digest = (digest ^ (digest >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    digest ^ (digest >> 31)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
