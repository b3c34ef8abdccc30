//! Where things stand in the page file: fixed places, regions, and the little that all pages share.
//!
//! ```text
//!  region 0                                        region 1
//!  | 0 header | 1 meta | 2 meta | 3 map | 4 map | pages ... | 0 map | 1 map | pages ...
//! ```
//! A region is as long as one free map has bits: its first pages hold two places for that map.

use crate::api::PageRun;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// Page of the file header.
pub const HEADER_PAGE: u64 = 0;
/// Pages of the two metas, by slot.
pub const META_PAGES: [u64; 2] = [1, 2];

/// Bytes in front of the bits of a free map.
pub const MAP_HEADER_BYTES: usize = 64;
/// Pages of a region: one bit each in its free map. 126 MiB.
pub const REGION_PAGES: u64 = ((PAGE_BYTES - MAP_HEADER_BYTES) * 8) as u64;
/// Bytes of a meta page in which each region has the bit that says which of its two maps counts.
pub const MAP_SLOTS_BYTES: usize = 496;
/// Most regions of a file.
pub const REGIONS_MAX: u64 = (MAP_SLOTS_BYTES * 8) as u64;
/// Most pages of a file: 488 GiB.
pub const FILE_PAGES_MAX: u64 = REGIONS_MAX * REGION_PAGES;
/// Longest run that an allocation can give: a region without its maps (region 0, which has less, apart).
pub const RUN_PAGES_MAX: u32 = (REGION_PAGES - 2) as u32;

const _: () = assert!(FILE_PAGES_MAX * PAGE_BYTES as u64 / (1 << 30) == 488);

/// The identity of a page file: seeds every checksum in it, so that a page of another file never passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// A CRC32 that starts from this identity.
    #[must_use]
    pub fn crc_seed(self) -> u32 {
        crc32fast::hash(&self.0)
    }
}

impl core::fmt::Display for FileId {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// The CRC32 of `page` as if the four bytes at `crc_at` were not there.
pub(crate) fn crc_without_field(file: FileId, page: &[u8], crc_at: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(file.crc_seed());
    hasher.update(&page[..crc_at]);
    hasher.update(&page[crc_at + 4..]);
    hasher.finalize()
}

/// The region of a page.
#[must_use]
pub fn region_of(page: u64) -> u64 {
    page / REGION_PAGES
}

/// First pages of a region that are never allocated.
#[must_use]
pub fn reserved_pages(region: u64) -> u64 {
    if region == 0 { 5 } else { 2 }
}

/// The page of one of the two places of a region's free map.
#[must_use]
pub fn map_page(region: u64, slot: u8) -> u64 {
    region * REGION_PAGES + reserved_pages(region) - 2 + u64::from(slot & 1)
}

/// Is this a run that an allocation can have given: in one region, behind its fixed pages, inside of the file?
#[must_use]
pub fn is_allocatable(run: PageRun, file_pages: u64) -> bool {
    let Some(end) = run.first.checked_add(u64::from(run.pages)) else { return false };
    run.pages > 0
        && end <= file_pages
        && run.first % REGION_PAGES >= reserved_pages(region_of(run.first))
        && region_of(run.first) == region_of(end - 1)
}

/// Little-endian fields of a page.
pub(crate) fn get<const N: usize>(page: &[u8], at: usize) -> [u8; N] {
    page[at..at + N].try_into().expect("the slice is as long as the array")
}

pub(crate) fn get_u32(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(page, at))
}

pub(crate) fn get_u64(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(page, at))
}

pub(crate) fn set(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_places_do_not_overlap_and_stand_at_the_front_of_their_region() {
        assert_eq!([map_page(0, 0), map_page(0, 1)], [3, 4]);
        assert_eq!([map_page(1, 0), map_page(1, 1)], [REGION_PAGES, REGION_PAGES + 1]);
        assert!(!is_allocatable(PageRun { first: 4, pages: 1 }, 100));
        assert!(is_allocatable(PageRun { first: 5, pages: 1 }, 100));
        assert!(is_allocatable(PageRun { first: 99, pages: 1 }, 100));
        assert!(!is_allocatable(PageRun { first: 99, pages: 2 }, 100));
        assert!(!is_allocatable(PageRun { first: REGION_PAGES - 1, pages: 2 }, 2 * REGION_PAGES));
        assert!(!is_allocatable(PageRun { first: u64::MAX, pages: 2 }, 2 * REGION_PAGES));
        assert!(!is_allocatable(PageRun { first: 9, pages: 0 }, 100));
    }
}
