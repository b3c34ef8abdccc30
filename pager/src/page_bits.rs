//! Pages by their numbers, a bit each, in pieces that come into being with their first page: a set that never takes time to
//! grow.

/// Words of a piece: 32 768 pages.
const WORDS: usize = 512;
const PAGES: u64 = WORDS as u64 * 64;

#[derive(Default)]
pub(crate) struct PageBits {
    pieces: Vec<Option<Box<[u64; WORDS]>>>,
    #[cfg(test)]
    pub len: usize,
}

fn place(page: u64) -> (usize, usize, u64) {
    ((page / PAGES) as usize, (page % PAGES / 64) as usize, 1 << (page % 64))
}

impl PageBits {
    pub fn contains(&self, page: u64) -> bool {
        let (piece, word, bit) = place(page);
        self.pieces.get(piece).and_then(Option::as_ref).is_some_and(|words| words[word] & bit != 0)
    }

    pub fn insert(&mut self, page: u64) {
        let (piece, word, bit) = place(page);
        if piece >= self.pieces.len() {
            self.pieces.resize_with(piece + 1, || None);
        }
        let words = self.pieces[piece].get_or_insert_with(|| Box::new([0; WORDS]));
        #[cfg(test)]
        {
            self.len += usize::from(words[word] & bit == 0);
        }
        words[word] |= bit;
    }

    /// False: it was not there.
    pub fn remove(&mut self, page: u64) -> bool {
        let (piece, word, bit) = place(page);
        let Some(words) = self.pieces.get_mut(piece).and_then(Option::as_mut) else { return false };
        let was_there = words[word] & bit != 0;
        words[word] &= !bit;
        #[cfg(test)]
        {
            self.len -= usize::from(was_there);
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_there_from_insert_to_remove() {
        let mut bits = PageBits::default();
        for page in [5, 64, PAGES - 1, PAGES, 40 * PAGES + 7] {
            assert!(!bits.contains(page) && !bits.remove(page));
            bits.insert(page);
            bits.insert(page);
            assert!(bits.contains(page) && !bits.contains(page + 1));
        }
        assert_eq!(bits.len, 5);
        assert!(bits.remove(64) && !bits.remove(64) && !bits.contains(64) && bits.contains(5));
        assert_eq!(bits.len, 4);
    }
}
