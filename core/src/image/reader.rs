//! From the bytes of an image, which are anybody's, to records that were checked.
//!
//! Methods: `push` takes bytes as they come and checks whole blocks; `drain` gives out the records of what was pushed;
//! `finish` says whether it was a whole image. Whoever drains after each push needs the memory of one block and one record.
//! Of a partial image `own_run` says which records of the receiver's own store come before what was pushed last.

use std::sync::Arc;

use ringstone_pager::api::{Access, Fault, ReadTrees, TreeId, WriteTrees};

use super::map::RunDigest;
use super::{
    ATTRIBUTES, BLOCK_BYTES, BLOCK_HEADER_BYTES, BLOCK_PAYLOAD_BYTES, FEATURE_PARTIAL, FEATURE_STREAMED, HEADER_BYTES,
    Header, ImageMap, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, SECTION_HEADER_BYTES, SECTIONS, SectionTotals,
    TRAILER_KEY_LENGTH, Wanted, at, block_checksum, check, u32_at, word_at,
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
    features_known: u64,
    /// The last block of a streamed image has come.
    is_ended: bool,
    partial: Option<Partial>,
}

/// What is not in a partial image.
struct Partial {
    map: Arc<ImageMap>,
    wanted: Arc<Wanted>,
    /// The run that records are of now.
    run: usize,
    digest: RunDigest,
    /// The last key before it, or the last of its own that was taken; none where the section begins.
    after: Option<Vec<u8>>,
    /// Its records are the receiver's own, and next.
    is_own: bool,
}

/// Records of the receiver's own store that come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRun {
    /// Their tree.
    pub tree: TreeId,
    /// They begin behind this key, or with the first of the tree.
    pub after: Option<Vec<u8>>,
    /// They end with this key.
    pub last: Vec<u8>,
}

/// What became of one step.
#[derive(PartialEq, Eq)]
enum Drained {
    /// Something was taken.
    On,
    /// More bytes are needed.
    Short,
    /// Records of the receiver's own come first.
    Own,
}

impl ImageReader {
    /// A reader of an image in a file, that has seen nothing.
    #[must_use]
    pub fn new() -> ImageReader {
        ImageReader::default()
    }

    /// The reader of an image that has only what is `wanted` of `map`.
    #[must_use]
    pub fn partial(map: Arc<ImageMap>, wanted: Arc<Wanted>) -> ImageReader {
        let digest = RunDigest::new(&map.id);
        ImageReader {
            features_known: FEATURE_STREAMED | FEATURE_PARTIAL,
            partial: Some(Partial { map, wanted, run: 0, digest, after: None, is_own: false }),
            ..ImageReader::default()
        }
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
        if self.is_streamed() {
            return if self.is_ended { 0 } else { BLOCK_BYTES };
        }
        let left = self.header.map_or(HEADER_BYTES as u64, |header| header.total_bytes - self.checked_bytes);
        left.min(BLOCK_BYTES as u64) as usize
    }

    fn is_streamed(&self) -> bool {
        self.header.is_some_and(|header| header.is_streamed())
    }

    fn take_header(&mut self) -> Result<(), ImageError> {
        let bytes: &[u8; HEADER_BYTES] = self.input.as_slice().try_into().expect("a whole header was waited for");
        if bytes[at::END..] != [0; HEADER_BYTES - at::END] {
            return Err(match Header::decode(bytes, self.features_known) {
                Err(error) => error,
                Ok(_) => self.damaged("reserved bytes of the header are set"),
            });
        }
        let header = Header::decode(bytes, self.features_known)?;
        if (header.features & FEATURE_PARTIAL != 0) != self.partial.is_some() {
            return Err(self.damaged("it is not as partial as was asked for"));
        }
        self.header = Some(header);
        self.header_crc = u32_at(bytes, at::CRC);
        Ok(())
    }

    fn take_block(&mut self, header: &Header) -> Result<(), ImageError> {
        let block = &self.input;
        if u32_at(block, 0) != block_checksum(self.header_crc, block) {
            return Err(self.damaged("a block's checksum is wrong"));
        }
        let length = if header.is_streamed() {
            // Padded to a whole block, each of them; one that is not full is the last.
            let length = u32_at(block, 4) as usize;
            if length == 0 || length > BLOCK_PAYLOAD_BYTES {
                return Err(self.damaged("a block is longer than any, or empty"));
            }
            self.is_ended = length < BLOCK_PAYLOAD_BYTES;
            length
        } else {
            (header.payload_bytes - self.payload_bytes).min(BLOCK_PAYLOAD_BYTES as u64) as usize
        };
        let block = &self.input;
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
            let drained = if self.in_section { self.drain_record(take)? } else { self.open_section()? };
            if drained != Drained::On {
                return Ok(());
            }
        }
    }

    /// After a drain of a partial image: the records of the receiver's own store that must be taken before draining goes on,
    /// each by [`ImageReader::take_own`], and then [`ImageReader::end_own`].
    #[must_use]
    pub fn own_run(&self) -> Option<OwnRun> {
        let partial = self.partial.as_ref().filter(|partial| partial.is_own)?;
        let run = &partial.map.runs[partial.run];
        Some(OwnRun { tree: run.tree, after: partial.after.clone(), last: run.last.to_vec() })
    }

    /// Takes a record of the receiver's own store, the next one of [`ImageReader::own_run`].
    ///
    /// # Errors
    /// As for `drain`.
    pub fn take_own(&mut self, key: &[u8], value: &[u8], take: &mut TakeRecord<'_>) -> Result<(), ImageError> {
        let tree = SECTIONS[self.section];
        self.check_record(tree, key, value)?;
        take(tree, key, value)?;
        self.note_record(tree, key, value);
        let partial = self.partial.as_mut().expect("records of one's own are taken for a partial image");
        let after = partial.after.get_or_insert_default();
        after.clear();
        after.extend_from_slice(key);
        Ok(())
    }

    /// All records of [`ImageReader::own_run`] were taken.
    ///
    /// # Errors
    /// [`ImageError::Damaged`]: they are not what they were when they were compared.
    pub fn end_own(&mut self) -> Result<(), ImageError> {
        self.end_run()?;
        self.partial.as_mut().expect("a partial image").is_own = false;
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), ImageError> {
        let partial = self.partial.as_mut().expect("a partial image");
        let run = &partial.map.runs[partial.run];
        if partial.digest.finish() != run.digest {
            return Err(self.damaged("a run of records is not what its map says"));
        }
        partial.after = Some(run.last.to_vec());
        partial.digest = RunDigest::new(&partial.map.id);
        partial.run += 1;
        Ok(())
    }

    /// The record with this key comes next in the stream, or none of this section: do records of the receiver's own store
    /// stand before it?
    fn own_comes_first(&mut self, key: Option<&[u8]>) -> Result<bool, ImageError> {
        let tree = SECTIONS[self.section];
        loop {
            let Some(partial) = self.partial.as_mut().filter(|_| tree != ATTRIBUTES) else { return Ok(false) };
            let Some(run) = partial.map.run_of(partial.run, tree) else {
                return if key.is_none() {
                    Ok(false)
                } else {
                    Err(self.damaged("a record that its map does not have"))
                };
            };
            let is_within = key.is_some_and(|key| *key <= *run.last);
            match (partial.wanted.has(partial.run), is_within) {
                (true, true) => return Ok(false),
                (true, false) => self.end_run()?,
                (false, true) => return Err(self.damaged("a record that was not asked for")),
                (false, false) => {
                    partial.is_own = true;
                    return Ok(true);
                }
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

    fn open_section(&mut self) -> Result<Drained, ImageError> {
        let Some(&tree) = SECTIONS.get(self.section) else {
            let rest = self.payload.len() - self.drained;
            return if rest == 0 { Ok(Drained::Short) } else { Err(self.damaged("bytes follow its last section")) };
        };
        let Some(bytes) = self.payload[self.drained..].first_chunk::<SECTION_HEADER_BYTES>() else {
            return Ok(Drained::Short);
        };
        match SectionTotals::decode(bytes) {
            Some((found, totals)) if found == tree => {
                if self.is_streamed() && totals != SectionTotals::default() {
                    return Err(self.damaged("a streamed section knows its length before its end"));
                }
                self.sections[self.section] = totals;
            }
            _ => return Err(self.damaged("a section is not the one that belongs here")),
        }
        self.drained += SECTION_HEADER_BYTES;
        self.in_section = true;
        self.taken = SectionTotals::default();
        self.last_key.clear();
        if let Some(partial) = &mut self.partial {
            partial.after = None;
        }
        Ok(Drained::On)
    }

    /// The section has all its records.
    fn end_section(&mut self, totals: &SectionTotals) -> Result<(), ImageError> {
        let is_all = (self.taken.records, self.taken.bytes) == (totals.records, totals.bytes);
        if !is_all || (SECTIONS[self.section] == ATTRIBUTES && self.state.is_none()) {
            return Err(self.damaged("a section is not as long as it says"));
        }
        self.section += 1;
        self.in_section = false;
        Ok(())
    }

    /// What stands behind the last record of a streamed section.
    fn drain_trailer(&mut self) -> Result<Drained, ImageError> {
        let bytes = &self.payload[self.drained..];
        if u32_at(bytes, 4) as usize != SECTION_HEADER_BYTES {
            return Err(self.damaged("a section does not end as it must"));
        }
        let Some(totals) = bytes[RECORD_HEADER_BYTES..].first_chunk::<SECTION_HEADER_BYTES>() else {
            return Ok(Drained::Short);
        };
        let totals = match SectionTotals::decode(totals) {
            Some((found, totals)) if found == SECTIONS[self.section] => totals,
            _ => return Err(self.damaged("a section does not end as it must")),
        };
        if self.own_comes_first(None)? {
            return Ok(Drained::Own);
        }
        self.end_section(&totals)?;
        self.sections[self.section - 1] = totals;
        self.drained += RECORD_HEADER_BYTES + SECTION_HEADER_BYTES;
        Ok(Drained::On)
    }

    fn drain_record(&mut self, take: &mut TakeRecord<'_>) -> Result<Drained, ImageError> {
        let (tree, totals) = (SECTIONS[self.section], self.sections[self.section]);
        if !self.is_streamed() && self.taken.records == totals.records {
            return self.end_section(&totals).map(|()| Drained::On);
        }
        let bytes = &self.payload[self.drained..];
        if bytes.len() < RECORD_HEADER_BYTES {
            return Ok(Drained::Short);
        }
        if self.is_streamed() && u32_at(bytes, 0) == TRAILER_KEY_LENGTH {
            return self.drain_trailer();
        }
        let (key_length, value_length) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4) as usize);
        if key_length.saturating_add(value_length) > RECORD_BYTES_MAX {
            return Err(self.damaged("a record is longer than any can be"));
        }
        let length = RECORD_HEADER_BYTES + key_length + value_length;
        if bytes.len() < length {
            return Ok(Drained::Short);
        }
        // Out of `self` while it is looked at: the checks below need all of it.
        let payload = core::mem::take(&mut self.payload);
        let (key, value) = payload[self.drained + RECORD_HEADER_BYTES..self.drained + length].split_at(key_length);
        let drained = self.drain_checked(tree, key, value, take);
        self.payload = payload;
        if drained? == Drained::Own {
            return Ok(Drained::Own);
        }
        self.drained += length;
        Ok(Drained::On)
    }

    fn drain_checked(
        &mut self,
        tree: TreeId,
        key: &[u8],
        value: &[u8],
        take: &mut TakeRecord<'_>,
    ) -> Result<Drained, ImageError> {
        if tree == ATTRIBUTES {
            let state = State::from_attributes(value)?;
            let header = self.header.expect("payload comes after the header");
            if !key.is_empty()
                || value.is_empty()
                || self.state.is_some()
                || (state.revision, state.compact_revision) != (header.revision, header.compact_revision)
            {
                return Err(self.damaged("its state is not that of its header"));
            }
            self.state = Some(state);
        } else {
            if self.own_comes_first(Some(key))? {
                return Ok(Drained::Own);
            }
            self.check_record(tree, key, value)?;
            take(tree, key, value)?;
        }
        self.note_record(tree, key, value);
        Ok(Drained::On)
    }

    fn check_record(&self, tree: TreeId, key: &[u8], value: &[u8]) -> Result<(), ImageError> {
        let state = self.state.as_ref().ok_or_else(|| self.damaged("its state is missing"))?;
        if self.taken.records > 0 && key <= self.last_key.as_slice() {
            return Err(self.damaged("records are out of order"));
        }
        check::record(tree, key, value, state).map_err(|what| self.damaged(what))
    }

    fn note_record(&mut self, tree: TreeId, key: &[u8], value: &[u8]) {
        if tree != ATTRIBUTES {
            if tree.0 <= crate::trees::VALUE.0 {
                for part in [&(key.len() as u32).to_le_bytes()[..], &(value.len() as u32).to_le_bytes(), key, value] {
                    self.hash.update(part);
                }
            }
            if let Some(partial) = &mut self.partial {
                partial.digest.add(key, value);
            }
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.taken.add(key, value);
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
        if !header.is_streamed() && self.checked_bytes < header.total_bytes {
            return Err(ImageError::Cut { found, expected: header.total_bytes });
        }
        if !self.input.is_empty() {
            return Err(ImageError::Cut { found, expected: self.checked_bytes + BLOCK_BYTES as u64 });
        }
        let damaged = |what| ImageError::Damaged { offset: self.checked_bytes, what };
        if self.section < SECTIONS.len() || self.drained < self.payload.len() {
            return Err(damaged("a section is missing"));
        }
        let records: u64 = self.sections.iter().map(|section| section.records).fold(0, u64::wrapping_add);
        if (!header.is_streamed() && records != header.records) || self.sections[1].aggregate.count != header.keys {
            return Err(damaged("its header counts other records"));
        }
        let state = self.state.ok_or_else(|| damaged("its state is missing"))?;
        Ok(ImageSummary { header, state, hash: self.hash.finalize(), sections: self.sections })
    }
}
