//! From the bytes of an image, which are anybody's, to records that were checked.
//!
//! Methods: `push` takes bytes as they come and checks whole blocks; `drain` gives out the records of what was pushed;
//! `finish` says whether it was a whole image. Whoever drains after each push needs the memory of one block and one record.

use ringstone_pager::api::{Access, Fault, ReadTrees, TreeId, WriteTrees};

use super::{
    ATTRIBUTES, BLOCK_BYTES, BLOCK_HEADER_BYTES, BLOCK_PAYLOAD_BYTES, HEADER_BYTES, Header, RECORD_BYTES_MAX,
    RECORD_HEADER_BYTES, SECTION_HEADER_BYTES, SECTIONS, SectionTotals, at, block_checksum, check, u32_at, word_at,
};
use crate::state::{State, StateError};

/// Called with tree, key and value of each record of an image.
pub type TakeRecord<'a> = dyn FnMut(TreeId, &[u8], &[u8]) -> Access<()> + 'a;

/// Why bytes are no image. What was drained before it must be thrown away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Something else.
    #[error("this is not a ringstone snapshot")]
    NotAnImage,
    /// A later version's.
    #[error("the snapshot has format version {0}, this program knows {ver}: upgrade", ver = super::FORMAT_VERSION)]
    Version(u32),
    /// A later version's, with features that change the meaning.
    #[error("the snapshot has features {0:#x} that this program does not know: upgrade")]
    Features(u64),
    /// A check failed.
    #[error("the snapshot is damaged at offset {offset}: {what}: take another one")]
    Damaged {
        /// Where, in bytes from its start.
        offset: u64,
        /// What the check found.
        what: &'static str,
    },
    /// It ends too early.
    #[error("the snapshot is cut short: {found} of {expected} bytes: copy it again, or take another one")]
    Cut {
        /// Bytes seen.
        found: u64,
        /// Bytes that its header promises, or the header's own length.
        expected: u64,
    },
    /// Its state is of another format.
    #[error("the snapshot's state: {0}")]
    State(#[from] StateError),
    /// The trees that the records go to. [`Fault::Absent`]: bring the pages in and drain again.
    #[error(transparent)]
    Trees(#[from] Fault),
}

/// What a whole image turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Its header.
    pub header: Header,
    /// Its state.
    pub state: State,
    /// CRC32 of the records of all keys and their history, as they stand in the image.
    pub hash: u32,
    /// What each section holds.
    pub sections: [SectionTotals; SECTIONS.len()],
}

impl ImageSummary {
    /// Compares what `trees` add up to with what the image's own trees did.
    ///
    /// # Errors
    /// [`ImageError::Damaged`], [`ImageError::Trees`].
    pub fn check_trees<V: ReadTrees + ?Sized>(
        &self,
        trees: &V,
        mut wanted: impl FnMut(TreeId) -> bool,
    ) -> Result<(), ImageError> {
        let all = (core::ops::Bound::Unbounded, core::ops::Bound::Unbounded);
        for (tree, totals) in SECTIONS.into_iter().zip(&self.sections) {
            if tree != ATTRIBUTES && wanted(tree) && trees.aggregate(tree, all)? != totals.aggregate {
                let what = "a tree made from it does not add up to what the tree that it was taken from did";
                return Err(ImageError::Damaged { offset: 0, what });
            }
        }
        Ok(())
    }
}

/// Reads one image.
#[derive(Default)]
pub struct ImageReader {
    header: Option<Header>,
    header_crc: u32,
    /// Bytes of the block that is not whole yet.
    input: Vec<u8>,
    /// Checked payload, and how much of it was drained.
    payload: Vec<u8>,
    drained: usize,
    /// Bytes of the image in checked blocks, and their number.
    checked_bytes: u64,
    blocks: u64,
    payload_bytes: u64,
    sections: [SectionTotals; SECTIONS.len()],
    section: usize,
    in_section: bool,
    taken: SectionTotals,
    last_key: Vec<u8>,
    state: Option<State>,
    hash: crc32fast::Hasher,
}

impl ImageReader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new() -> ImageReader {
        ImageReader::default()
    }

    /// The header, once it was pushed.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Takes the next bytes of the image, and checks what is whole. Drain before pushing more.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let wanted = self.wanted_bytes();
            if wanted == 0 {
                return Err(self.damaged("bytes follow its end"));
            }
            let (head, rest) = bytes.split_at(bytes.len().min(wanted - self.input.len()));
            self.input.extend_from_slice(head);
            bytes = rest;
            if self.input.len() == wanted {
                match self.header {
                    None => self.take_header()?,
                    Some(header) => self.take_block(&header)?,
                }
                self.checked_bytes += wanted as u64;
                self.input.clear();
            }
        }
        Ok(())
    }

    /// Length of what comes next: the header, a block, or nothing.
    fn wanted_bytes(&self) -> usize {
        let left = self.header.map_or(HEADER_BYTES as u64, |header| header.total_bytes - self.checked_bytes);
        left.min(BLOCK_BYTES as u64) as usize
    }

    fn take_header(&mut self) -> Result<(), ImageError> {
        let bytes: &[u8; HEADER_BYTES] = self.input.as_slice().try_into().expect("a whole header was waited for");
        if bytes[at::END..] != [0; HEADER_BYTES - at::END] {
            return Err(match Header::decode(bytes) {
                Err(error) => error,
                Ok(_) => self.damaged("reserved bytes of the header are set"),
            });
        }
        self.header = Some(Header::decode(bytes)?);
        self.header_crc = u32_at(bytes, at::CRC);
        Ok(())
    }

    fn take_block(&mut self, header: &Header) -> Result<(), ImageError> {
        let block = &self.input;
        if u32_at(block, 0) != block_checksum(self.header_crc, block) {
            return Err(self.damaged("a block's checksum is wrong"));
        }
        let length = (header.payload_bytes - self.payload_bytes).min(BLOCK_PAYLOAD_BYTES as u64) as usize;
        if word_at(block, 8) != self.blocks || u32_at(block, 4) as usize != length {
            return Err(self.damaged("a block is not the one that belongs here"));
        }
        let (payload, padding) = block[BLOCK_HEADER_BYTES..].split_at(length);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(self.damaged("a block's padding is not zero"));
        }
        self.payload.drain(..self.drained);
        self.drained = 0;
        self.payload.extend_from_slice(payload);
        self.payload_bytes += length as u64;
        self.blocks += 1;
        Ok(())
    }

    fn damaged(&self, what: &'static str) -> ImageError {
        ImageError::Damaged { offset: self.checked_bytes, what }
    }

    /// Gives the records that were pushed to `take(tree, key, value)`, in ascending order of tree and key.
    ///
    /// # Errors
    /// [`ImageError`]. One that `take` made leaves its record where it was: drain again when its cause is gone.
    pub fn drain(&mut self, take: &mut TakeRecord<'_>) -> Result<(), ImageError> {
        loop {
            let moved = if self.in_section { self.drain_record(take)? } else { self.open_section()? };
            if !moved {
                return Ok(());
            }
        }
    }

    /// [`ImageReader::drain`] into trees, but only those that are `wanted`. In memory only: the caller publishes, sets the
    /// attributes, and persists.
    ///
    /// # Errors
    /// As for `drain`.
    pub fn drain_into<T: WriteTrees>(
        &mut self,
        trees: &mut T,
        mut wanted: impl FnMut(TreeId) -> bool,
    ) -> Result<(), ImageError> {
        self.drain(&mut |tree, key, value| if wanted(tree) { trees.put(tree, key, &[value]) } else { Ok(()) })
    }

    fn open_section(&mut self) -> Result<bool, ImageError> {
        let Some(&tree) = SECTIONS.get(self.section) else {
            let rest = self.payload.len() - self.drained;
            return if rest == 0 { Ok(false) } else { Err(self.damaged("bytes follow its last section")) };
        };
        let Some(bytes) = self.payload[self.drained..].first_chunk::<SECTION_HEADER_BYTES>() else { return Ok(false) };
        match SectionTotals::decode(bytes) {
            Some((found, totals)) if found == tree => self.sections[self.section] = totals,
            _ => return Err(self.damaged("a section is not the one that belongs here")),
        }
        self.drained += SECTION_HEADER_BYTES;
        self.in_section = true;
        self.taken = SectionTotals::default();
        self.last_key.clear();
        Ok(true)
    }

    fn drain_record(&mut self, take: &mut TakeRecord<'_>) -> Result<bool, ImageError> {
        let (tree, totals) = (SECTIONS[self.section], self.sections[self.section]);
        if self.taken.records == totals.records {
            if self.taken.bytes != totals.bytes || (tree == ATTRIBUTES && self.state.is_none()) {
                return Err(self.damaged("a section is not as long as it says"));
            }
            self.section += 1;
            self.in_section = false;
            return Ok(true);
        }
        let bytes = &self.payload[self.drained..];
        if bytes.len() < RECORD_HEADER_BYTES {
            return Ok(false);
        }
        let (key_length, value_length) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4) as usize);
        if key_length.saturating_add(value_length) > RECORD_BYTES_MAX {
            return Err(self.damaged("a record is longer than any can be"));
        }
        let length = RECORD_HEADER_BYTES + key_length + value_length;
        if bytes.len() < length {
            return Ok(false);
        }
        let (key, value) = bytes[RECORD_HEADER_BYTES..length].split_at(key_length);
        if tree == ATTRIBUTES {
            let state = State::from_attributes(value)?;
            let header = self.header.expect("payload comes after the header");
            if !key.is_empty()
                || value.is_empty()
                || (state.revision, state.compact_revision) != (header.revision, header.compact_revision)
            {
                return Err(self.damaged("its state is not that of its header"));
            }
            self.state = Some(state);
        } else {
            let state = self.state.as_ref().expect("the state's section stands first");
            if self.taken.records > 0 && key <= self.last_key.as_slice() {
                return Err(self.damaged("records are out of order"));
            }
            if let Err(what) = check::record(tree, key, value, state) {
                return Err(self.damaged(what));
            }
            take(tree, key, value)?;
            if tree.0 <= crate::trees::VALUE.0 {
                self.hash.update(&bytes[..length]);
            }
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.taken.add(key, value);
        self.drained += length;
        Ok(true)
    }

    /// Whether all of an image was pushed and drained.
    ///
    /// # Errors
    /// [`ImageError::Cut`], or what else is wrong with it as a whole.
    pub fn finish(self) -> Result<ImageSummary, ImageError> {
        let found = self.checked_bytes + self.input.len() as u64;
        let Some(header) = self.header else {
            // Too short for a header: its first bytes may still tell that it is something else.
            let is_ours = super::MAGIC.starts_with(&self.input[..self.input.len().min(8)]);
            let cut = ImageError::Cut { found, expected: HEADER_BYTES as u64 };
            return Err(if is_ours { cut } else { ImageError::NotAnImage });
        };
        if self.checked_bytes < header.total_bytes {
            return Err(ImageError::Cut { found, expected: header.total_bytes });
        }
        let damaged = |what| ImageError::Damaged { offset: header.total_bytes, what };
        if self.section < SECTIONS.len() || self.drained < self.payload.len() {
            return Err(damaged("a section is missing"));
        }
        let records: u64 = self.sections.iter().map(|section| section.records).fold(0, u64::wrapping_add);
        if records != header.records || self.sections[1].aggregate.count != header.keys {
            return Err(damaged("its header counts other records"));
        }
        let state = self.state.ok_or_else(|| damaged("its state is missing"))?;
        Ok(ImageSummary { header, state, hash: self.hash.finalize(), sections: self.sections })
    }
}
