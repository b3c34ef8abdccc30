//! A region's free map on disk: one page, two places, used in turn.
//!
//! ```text
//!  0        4        8                16               24           28         64
//!  | magic  | crc32  | region         | generation     | free pages | 0        | a bit a page; 1: free ...
//! ```
//! The meta has a bit for each region that says which of the two counts; what stands in the other is never looked at, so
//! what a checkpoint that never finished left there cannot come back under a later meta.

use crate::layout::{
    FileId, MAP_HEADER_BYTES, PAGE_BYTES, REGION_PAGES, crc_without_field, get, get_u32, get_u64, reserved_pages, set,
};

const MAGIC: [u8; 4] = *b"RMap";

pub(crate) mod at {
    pub const MAGIC: usize = 0;
    pub const CRC: usize = MAGIC + 4;
    pub const REGION: usize = CRC + 4;
    pub const GENERATION: usize = REGION + 8;
    pub const FREE_PAGES: usize = GENERATION + 8;
}

const _: () = assert!(at::FREE_PAGES + 4 <= MAP_HEADER_BYTES);

const WORDS: usize = (REGION_PAGES / 64) as usize;
const _: () = assert!(WORDS * 64 == REGION_PAGES as usize);

/// The bits of a region: set where the page is free.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bits(Box<[u64; WORDS]>);

impl Default for Bits {
    fn default() -> Bits {
        Bits::none()
    }
}

impl Bits {
    pub fn none() -> Bits {
        Bits(Box::new([0; WORDS]))
    }

    /// Of a region in a file of this length, whose used pages have a bit in these words; missing ones are zero.
    pub fn of_used(region: u64, file_pages: u64, used: &[u64]) -> Bits {
        let mut bits = Bits::none();
        let behind = file_pages.saturating_sub(region * REGION_PAGES).min(REGION_PAGES) as u32;
        bits.set(0, behind, true);
        bits.set(0, reserved_pages(region) as u32, false);
        bits.0.iter_mut().zip(used).for_each(|(word, used)| *word &= !used);
        bits
    }

    pub fn set(&mut self, start: u32, pages: u32, free: bool) {
        let (mut page, end) = (start, start + pages);
        while page < end {
            let bits = (end - page).min(64 - page % 64);
            let mask = (u64::MAX >> (64 - bits)) << (page % 64);
            let word = &mut self.0[page as usize / 64];
            if free {
                *word |= mask
            } else {
                *word &= !mask
            }
            page += bits;
        }
    }

    /// Are none of these pages free?
    pub fn is_used(&self, start: u32, pages: u32) -> bool {
        (start..start + pages).all(|page| self.0[page as usize / 64] & (1 << (page % 64)) == 0)
    }

    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The last page of `start..end` that is not free.
    pub fn last_used(&self, start: u32, end: u32) -> Option<u32> {
        let mut end = end;
        while end > start {
            let (word, bits) = ((end - 1) / 64, (end - 1) % 64 + 1);
            let used = !self.0[word as usize] & (u64::MAX >> (64 - bits));
            if used != 0 {
                return Some(word * 64 + 63 - used.leading_zeros()).filter(|page| *page >= start);
            }
            end = word * 64;
        }
        None
    }

    /// Free here and free there too; free here only.
    pub fn split(&self, other: &Bits) -> (Bits, Bits) {
        let (mut both, mut here) = (Bits::none(), Bits::none());
        for (index, word) in self.0.iter().enumerate() {
            both.0[index] = word & other.0[index];
            here.0[index] = word & !other.0[index];
        }
        (both, here)
    }

    /// Calls with start and length of each run of free pages, in order.
    pub fn for_each_run(&self, mut visit: impl FnMut(u32, u32)) {
        let mut page = 0u32;
        while let Some(start) = self.next_free(page) {
            let end = self.end_of_run(start);
            visit(start, end - start);
            page = end;
        }
    }

    /// The first free page from `from` on.
    pub fn next_free(&self, from: u32) -> Option<u32> {
        self.next(from, true)
    }

    /// The first page from `from` on that is not free.
    pub fn next_used(&self, from: u32) -> Option<u32> {
        self.next(from, false)
    }

    /// Behind the last of the free pages that `page` is one of.
    fn end_of_run(&self, page: u32) -> u32 {
        self.next(page, false).unwrap_or(REGION_PAGES as u32)
    }

    /// The first page from `from` on that is free, or is not.
    fn next(&self, from: u32, free: bool) -> Option<u32> {
        let mut page = from;
        while u64::from(page) < REGION_PAGES {
            let word = self.0[page as usize / 64];
            let word = (if free { word } else { !word }) >> (page % 64);
            if word != 0 {
                return Some(page + word.trailing_zeros());
            }
            page = (page / 64 + 1) * 64;
        }
        None
    }
}

/// What one of the places holds, checked.
pub(crate) struct MapCopy {
    pub generation: u64,
    pub crc: u32,
    pub bits: Bits,
}

/// The page of a map, and its CRC.
pub(crate) fn encode(file: FileId, region: u64, generation: u64, bits: &Bits) -> (Vec<u8>, u32) {
    let mut page = vec![0; PAGE_BYTES];
    set(&mut page, at::MAGIC, &MAGIC);
    set(&mut page, at::REGION, &region.to_le_bytes());
    set(&mut page, at::GENERATION, &generation.to_le_bytes());
    set(&mut page, at::FREE_PAGES, &bits.count().to_le_bytes());
    for (index, word) in bits.0.iter().enumerate() {
        set(&mut page, MAP_HEADER_BYTES + index * 8, &word.to_le_bytes());
    }
    let crc = crc_without_field(file, &page, at::CRC);
    set(&mut page, at::CRC, &crc.to_le_bytes());
    (page, crc)
}

/// Reads a map of a file of `file_pages` pages; the error says what is wrong with it.
pub(crate) fn decode(file: FileId, region: u64, file_pages: u64, page: &[u8]) -> Result<MapCopy, &'static str> {
    if page.len() != PAGE_BYTES {
        return Err("the free map is not a whole page");
    }
    if get(page, at::MAGIC) != MAGIC {
        return Err(if page.iter().all(|byte| *byte == 0) { "the free map is all zeros" } else { "not a free map" });
    }
    let crc = get_u32(page, at::CRC);
    if crc != crc_without_field(file, page, at::CRC) {
        return Err("the free map does not match its checksum (or belongs to another file)");
    }
    if get_u64(page, at::REGION) != region {
        return Err("the free map is that of another region: a misdirected write");
    }
    let mut bits = Bits::none();
    for (index, word) in bits.0.iter_mut().enumerate() {
        *word = get_u64(page, MAP_HEADER_BYTES + index * 8);
    }
    if bits.count() != get_u32(page, at::FREE_PAGES) {
        return Err("the free map does not have as many free pages as it says");
    }
    let behind = file_pages.saturating_sub(region * REGION_PAGES).min(REGION_PAGES) as u32;
    if !bits.is_used(0, reserved_pages(region) as u32) || !bits.is_used(behind, REGION_PAGES as u32 - behind) {
        return Err("the free map offers pages that are not for use");
    }
    Ok(MapCopy { generation: get_u64(page, at::GENERATION), crc, bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId([7; 16]);

    #[test]
    fn a_map_survives_its_page_and_every_flipped_bit_is_seen() {
        let mut bits = Bits::none();
        bits.set(5, 60, true);
        bits.set(100, 1, true);
        bits.set(900, 100, true);
        bits.set(950, 10, false);
        let (page, crc) = encode(FILE, 0, 42, &bits);
        let read = decode(FILE, 0, 1000, &page).expect("just written");
        assert!(read.bits == bits && (read.generation, read.crc) == (42, crc));
        let mut runs = Vec::new();
        bits.for_each_run(|start, pages| runs.push((start, pages)));
        assert_eq!(runs, [(5, 60), (100, 1), (900, 50), (960, 40)]);
        for (start, end, last) in
            [(0, 65, Some(4)), (5, 65, None), (5, 66, Some(65)), (0, 1000, Some(959)), (960, 1000, None)]
        {
            assert_eq!(bits.last_used(start, end), last, "{start}..{end}");
        }
        for bit in 0..PAGE_BYTES * 8 {
            let mut damaged = page.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(FILE, 0, 1000, &damaged).is_err(), "bit {bit}");
        }
        assert!(decode(FileId([8; 16]), 0, 1000, &page).is_err(), "another file's");
        assert!(decode(FILE, 1, 2 * REGION_PAGES, &page).is_err(), "another region's");
        assert!(decode(FILE, 0, 999, &page).is_err(), "behind the end of the file");
        assert!(decode(FILE, 0, 1000, &page[1..]).is_err());
        assert!(decode(FILE, 0, 1000, &[0; PAGE_BYTES]).is_err());
    }

    #[test]
    fn a_map_that_offers_the_metas_is_refused_though_its_checksum_is_right() {
        let mut bits = Bits::none();
        bits.set(4, 2, true);
        assert!(decode(FILE, 0, 1000, &encode(FILE, 0, 1, &bits).0).is_err());
        let mut all = Bits::none();
        all.set(2, REGION_PAGES as u32 - 2, true);
        let mut runs = Vec::new();
        all.for_each_run(|start, pages| runs.push((start, pages)));
        assert_eq!(runs, [(2, REGION_PAGES as u32 - 2)]);
        assert!(decode(FILE, 1, 2 * REGION_PAGES, &encode(FILE, 1, 1, &all).0).is_ok());
    }
}
