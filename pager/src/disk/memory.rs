//! The simulated medium: what is durable, and what a power cut may still take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::layout::PAGE_BYTES;

/// What a medium writes all or nothing of.
pub(super) const SECTOR_BYTES: usize = 512;
const SECTORS_PER_PAGE: u64 = (PAGE_BYTES / SECTOR_BYTES) as u64;

type Sector = [u8; SECTOR_BYTES];

/// The number of a change that no later sync makes durable (its sync has failed).
const NEVER: u64 = u64::MAX;

/// Stands for the length among sectors.
const LENGTH: u64 = u64::MAX;

/// A file with its unsynced changes. Changes are numbered in the order of their execution.
#[derive(Clone, Default)]
pub(super) struct Medium {
    /// By page; shared with forks until either changes.
    durable: HashMap<u64, Arc<Vec<u8>>>,
    /// What the last sync that changed a page has replaced.
    replaced: HashMap<u64, Arc<Vec<u8>>>,
    durable_length: u64,
    unsynced: BTreeMap<u64, Vec<(u64, Sector)>>,
    lengths: Vec<(u64, u64)>,
    changes: u64,
}

impl Medium {
    /// Number of the next change: a sync that is submitted now covers those below it.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn length(&self) -> u64 {
        self.lengths.last().map_or(self.durable_length, |(_, length)| *length)
    }

    pub fn set_length(&mut self, length: u64) {
        if length > self.length() {
            self.lengths.push((self.changes, length));
            self.changes += 1;
        }
    }

    /// Makes the file shorter, like any other change durable with the next sync. What was behind the end is zeros, should the
    /// file grow again; a power cut may bring it back.
    pub fn cut(&mut self, length: u64) {
        let old = self.length();
        if length >= old {
            return;
        }
        self.lengths.push((self.changes, length));
        let pages = self.durable.keys().flat_map(|page| page * SECTORS_PER_PAGE..(page + 1) * SECTORS_PER_PAGE);
        let known: Vec<u64> = pages.chain(self.unsynced.keys().copied()).collect();
        for sector in known.into_iter().filter(|sector| sector * SECTOR_BYTES as u64 >= length) {
            let versions = self.unsynced.entry(sector).or_default();
            if versions.last().is_none_or(|(change, _)| *change != self.changes) {
                versions.push((self.changes, [0; SECTOR_BYTES]));
            }
        }
        self.changes += 1;
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.set_length(offset + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (sector, within) = (at / SECTOR_BYTES as u64, (at % SECTOR_BYTES as u64) as usize);
            let count = (SECTOR_BYTES - within).min(bytes.len() - done);
            let mut content = self.sector(sector);
            content[within..within + count].copy_from_slice(&bytes[done..done + count]);
            self.unsynced.entry(sector).or_default().push((self.changes, content));
            done += count;
        }
        self.changes += 1;
    }

    /// The bytes as a reader of the page cache sees them; `None` beyond the end.
    pub fn read(&self, offset: u64, bytes: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(bytes as u64).filter(|end| *end <= self.length())?;
        let mut content = Vec::with_capacity(bytes + SECTOR_BYTES);
        let first = offset / SECTOR_BYTES as u64;
        for sector in first..end.div_ceil(SECTOR_BYTES as u64) {
            content.extend_from_slice(&self.sector(sector));
        }
        let skipped = (offset % SECTOR_BYTES as u64) as usize;
        Some(content[skipped..skipped + bytes].to_vec())
    }

    fn sector(&self, sector: u64) -> Sector {
        if let Some((_, content)) = self.unsynced.get(&sector).and_then(|versions| versions.last()) {
            return *content;
        }
        let Some(page) = self.durable.get(&(sector / SECTORS_PER_PAGE)) else { return [0; SECTOR_BYTES] };
        let start = (sector % SECTORS_PER_PAGE) as usize * SECTOR_BYTES;
        page[start..start + SECTOR_BYTES].try_into().expect("a page is made of whole sectors")
    }

    fn store(&mut self, sector: u64, content: &Sector) {
        let page = self.durable.entry(sector / SECTORS_PER_PAGE).or_insert_with(|| Arc::new(vec![0; PAGE_BYTES]));
        let page = Arc::make_mut(page);
        let start = (sector % SECTORS_PER_PAGE) as usize * SECTOR_BYTES;
        page[start..start + SECTOR_BYTES].copy_from_slice(content);
    }

    /// The durable bytes of a page, to be damaged.
    pub fn durable_page(&mut self, page: u64) -> Option<&mut Vec<u8>> {
        self.durable.get_mut(&page).map(Arc::make_mut)
    }

    /// The last write of a page is as good as never done.
    pub fn forget_write(&mut self, page: u64) -> bool {
        let Some(replaced) = self.replaced.remove(&page) else { return false };
        self.durable.insert(page, replaced);
        true
    }

    /// Makes the changes below `covered` durable.
    pub fn sync(&mut self, covered: u64) {
        let mut last_page = None;
        for (sector, mut versions) in core::mem::take(&mut self.unsynced) {
            if let Some(newest) = versions.iter().rposition(|(change, _)| *change < covered) {
                let content = versions[newest].1;
                let page = sector / SECTORS_PER_PAGE;
                if last_page.replace(page) != Some(page) {
                    let before = self.durable.get(&page).cloned();
                    self.replaced.insert(page, before.unwrap_or_else(|| Arc::new(vec![0; PAGE_BYTES])));
                }
                self.store(sector, &content);
                versions.drain(..=newest);
            }
            if !versions.is_empty() {
                self.unsynced.insert(sector, versions);
            }
        }
        if let Some(newest) = self.lengths.iter().rposition(|(change, _)| *change < covered) {
            self.durable_length = self.lengths[newest].1;
            self.lengths.drain(..=newest);
        }
    }

    /// A sync failed: the kernel has marked the pages clean, so that no later sync will write them. The length is not in a
    /// page but in the file system's journal: a later sync has it, or the file system is gone.
    pub fn fail_sync(&mut self, covered: u64) {
        for (change, _) in self.unsynced.values_mut().flatten().filter(|(change, _)| *change < covered) {
            *change = NEVER;
        }
    }

    /// The power fails. `choose(n)` answers 0..n for each sector and for the length: 0 the durable state, n - 1 the newest.
    pub fn crash(&mut self, mut choose: impl FnMut(usize) -> usize) {
        for (sector, versions) in core::mem::take(&mut self.unsynced) {
            if let Some(chosen) = choose(versions.len() + 1).checked_sub(1) {
                self.store(sector, &versions[chosen].1);
            }
        }
        let lengths = core::mem::take(&mut self.lengths);
        if let Some(chosen) = choose(lengths.len() + 1).checked_sub(1) {
            self.durable_length = lengths[chosen].1;
        }
        self.cut_behind_the_end();
    }

    /// What no sync has covered, in the order of execution: change by change, a sector (or, as [`LENGTH`], the length) each.
    pub fn unsynced(&self) -> Vec<(u64, u64)> {
        let sectors = self.unsynced.iter().flat_map(|(sector, all)| all.iter().map(|(change, _)| (*change, *sector)));
        let mut all: Vec<(u64, u64)> =
            self.lengths.iter().map(|(change, _)| (*change, LENGTH)).chain(sectors).collect();
        all.sort_unstable();
        all
    }

    /// Forgets all of [`Medium::unsynced`] but its beginning.
    pub fn keep_first(&mut self, count: usize) {
        let all = self.unsynced();
        let is_kept = |one: (u64, u64)| all[..count.min(all.len())].binary_search(&one).is_ok();
        for (sector, versions) in &mut self.unsynced {
            versions.retain(|(change, _)| is_kept((*change, *sector)));
        }
        self.unsynced.retain(|_, versions| !versions.is_empty());
        self.lengths.retain(|(change, _)| is_kept((*change, LENGTH)));
    }

    /// Tears the writes that a power cut takes: of each all, nothing, the first sectors, the last ones or some; of the
    /// newest some and never all. What is left reaches the medium in any order.
    pub fn tear(&mut self, mut below: impl FnMut(u64) -> u64) {
        let mut writes: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (sector, versions) in &self.unsynced {
            versions.iter().for_each(|(change, _)| writes.entry(*change).or_default().push(*sector));
        }
        let newest = writes.last_key_value().map(|(change, _)| *change);
        for (change, sectors) in writes {
            let whole = Some(change) != newest && below(2) == 0;
            for (sector, kept) in sectors.iter().zip(torn(sectors.len(), whole, &mut below)) {
                if !kept && let Some(versions) = self.unsynced.get_mut(sector) {
                    versions.retain(|(other, _)| *other != change);
                }
            }
        }
        self.unsynced.retain(|_, versions| !versions.is_empty());
        for versions in self.unsynced.values_mut() {
            let last = below(versions.len() as u64) as usize;
            versions.truncate(last + 1);
        }
        self.lengths.retain(|_| below(2) == 0);
    }

    /// Makes the file shorter at once and durably, as an operator's mistake would.
    pub fn truncate(&mut self, length: u64) {
        self.sync(self.changes);
        self.durable_length = self.durable_length.min(length);
        self.cut_behind_the_end();
    }

    fn cut_behind_the_end(&mut self) {
        let length = self.durable_length;
        self.durable.retain(|page, bytes| {
            let kept = length.saturating_sub(page * PAGE_BYTES as u64).min(PAGE_BYTES as u64);
            if kept > 0 && kept < PAGE_BYTES as u64 {
                Arc::make_mut(bytes)[kept as usize..].fill(0);
            }
            kept > 0
        });
    }
}

/// Which of a write's sectors are kept. Whole: all or none; else a beginning, an end, or any but all.
fn torn(sectors: usize, whole: bool, below: &mut impl FnMut(u64) -> u64) -> Vec<bool> {
    let cut = below(sectors as u64) as usize;
    let all = below(2) == 0;
    match below(3) {
        _ if whole => vec![all; sectors],
        0 => (0..sectors).map(|at| at < cut).collect(),
        1 => (0..sectors).map(|at| at > cut).collect(),
        _ => (0..sectors).map(|at| at != cut && below(2) == 0).collect(),
    }
}
