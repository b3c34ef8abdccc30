//! A set of regions whose lowest member is found in two steps.

use crate::layout::REGIONS_MAX;

const WORDS: usize = REGIONS_MAX.div_ceil(64) as usize;
const _: () = assert!(WORDS <= 64, "one word says which words have members");

#[derive(Clone)]
pub(super) struct RegionSet {
    filled: u64,
    words: [u64; WORDS],
}

impl RegionSet {
    pub fn empty() -> RegionSet {
        RegionSet { filled: 0, words: [0; WORDS] }
    }

    pub fn set(&mut self, region: u64, member: bool) {
        let (word, bit) = ((region / 64) as usize, 1 << (region % 64));
        if member {
            self.words[word] |= bit;
            self.filled |= 1 << word;
        } else {
            self.words[word] &= !bit;
            if self.words[word] == 0 {
                self.filled &= !(1 << word);
            }
        }
    }

    pub fn lowest(&self) -> Option<u64> {
        let word = (self.filled != 0).then(|| self.filled.trailing_zeros())?;
        Some(u64::from(word * 64 + self.words[word as usize].trailing_zeros()))
    }

    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_member_is_found() {
        let mut set = RegionSet::empty();
        assert_eq!(set.lowest(), None);
        for region in [REGIONS_MAX - 1, 700, 64, 63] {
            set.set(region, true);
            assert_eq!(set.lowest(), Some(region));
        }
        assert_eq!(set.len(), 4);
        for region in [63, 64, 700, REGIONS_MAX - 1] {
            assert_eq!(set.lowest(), Some(region));
            set.set(region, false);
        }
        assert_eq!(set.lowest(), None);
    }
}
