//! Where a reader is, as bytes, for a reader in another process to go on from.
//!
//! It is of a whole, streamed image, behind its state and before its end. What was drained is not drained again: whoever keeps
//! a mark keeps that, too. The stream goes on at the block of the first byte that was not drained.
//!
//! ```text
//! header 512 | payload drained u64 | section u8 | within u8 | 0 u16 | hash u32 | taken 48 | sections 10 x 48 | state
//! ```

use ringstone_pager::api::TreeId;

use super::{
    ATTRIBUTES, BLOCK_BYTES, BLOCK_PAYLOAD_BYTES, FEATURE_STREAMED, HEADER_BYTES, Header, ImageError, ImageReader,
    SECTION_HEADER_BYTES, SECTIONS, SectionTotals, at, u32_at, word_at,
};
use crate::state::{STATE_BYTES, State};

const POSITION: usize = HEADER_BYTES;
const SECTION: usize = POSITION + 8;
const HASH: usize = SECTION + 4;
const TAKEN: usize = HASH + 4;
const TOTALS: usize = TAKEN + SECTION_HEADER_BYTES;
const STATE: usize = TOTALS + SECTIONS.len() * SECTION_HEADER_BYTES;

/// Length of a mark.
pub const MARK_BYTES: usize = STATE + STATE_BYTES;

impl ImageReader {
    /// Bytes of the image that it has; of one that goes on from a mark: where that is.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.checked_bytes + self.input.len() as u64
    }

    /// Where it is now. None where nothing can go on: see the module.
    #[must_use]
    pub fn mark(&self) -> Option<[u8; MARK_BYTES]> {
        let header = self.header.filter(|header| header.features == FEATURE_STREAMED && !self.is_ended)?;
        let (tree, state) = (*SECTIONS.get(self.section)?, self.state.as_ref()?);
        let drained = self.payload_bytes - (self.payload.len() - self.drained) as u64;
        let mut mark = [0; MARK_BYTES];
        mark[..HEADER_BYTES].copy_from_slice(&header.encode());
        mark[POSITION..SECTION].copy_from_slice(&drained.to_le_bytes());
        (mark[SECTION], mark[SECTION + 1]) = (self.section as u8, u8::from(self.in_section));
        mark[HASH..TAKEN].copy_from_slice(&self.hash.clone().finalize().to_le_bytes());
        mark[TAKEN..TOTALS].copy_from_slice(&self.taken.encode(tree));
        let slots = mark[TOTALS..STATE].chunks_exact_mut(SECTION_HEADER_BYTES);
        for ((slot, totals), tree) in slots.zip(&self.sections).zip(SECTIONS) {
            slot.copy_from_slice(&totals.encode(tree));
        }
        mark[STATE..].copy_from_slice(&state.to_attributes());
        Some(mark)
    }

    /// One that goes on from a mark. Where it is within a tree, [`ImageReader::set_last_key`] comes before anything is pushed.
    ///
    /// # Errors
    /// [`ImageError`]: these bytes are no mark.
    pub fn of_mark(mark: &[u8; MARK_BYTES]) -> Result<ImageReader, ImageError> {
        let damaged = |what| ImageError::Damaged { offset: 0, what };
        let head = mark.first_chunk::<HEADER_BYTES>().expect("a mark is longer");
        let header = Header::decode(head, FEATURE_STREAMED)?;
        let totals_at = |from: usize| {
            let bytes = mark[from..].first_chunk::<SECTION_HEADER_BYTES>().expect("a mark is longer");
            SectionTotals::decode(bytes).ok_or(damaged("a mark has no such totals"))
        };
        let section = usize::from(mark[SECTION]);
        if !header.is_streamed() || section >= SECTIONS.len() {
            return Err(damaged("a mark is of no section"));
        }
        let mut sections = [SectionTotals::default(); SECTIONS.len()];
        for (number, totals) in sections.iter_mut().enumerate() {
            *totals = totals_at(TOTALS + number * SECTION_HEADER_BYTES)?.1;
        }
        let drained = word_at(mark, POSITION);
        let blocks = drained / BLOCK_PAYLOAD_BYTES as u64;
        Ok(ImageReader {
            header: Some(header),
            header_crc: u32_at(mark, at::CRC),
            checked_bytes: HEADER_BYTES as u64 + blocks * BLOCK_BYTES as u64,
            blocks,
            payload_bytes: blocks * BLOCK_PAYLOAD_BYTES as u64,
            skip: (drained % BLOCK_PAYLOAD_BYTES as u64) as usize,
            sections,
            section,
            in_section: mark[SECTION + 1] == 1,
            taken: totals_at(TAKEN)?.1,
            state: Some(State::from_attributes(&mark[STATE..])?),
            hash: crc32fast::Hasher::new_with_initial(u32_at(mark, HASH)),
            features_known: FEATURE_STREAMED,
            ..ImageReader::default()
        })
    }

    /// The tree whose last key it must know.
    #[must_use]
    pub fn tree_of_last_key(&self) -> Option<TreeId> {
        let tree = SECTIONS.get(self.section).filter(|tree| self.in_section && **tree != ATTRIBUTES)?;
        (self.taken.records > 0).then_some(*tree)
    }

    /// The key of the record that was drained last before the mark.
    pub fn set_last_key(&mut self, key: Vec<u8>) {
        self.last_key = key;
    }
}
