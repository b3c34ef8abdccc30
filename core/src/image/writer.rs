//! From a pinned view to the pieces of an image.
//!
//! All of an image is one state: every step must be given the same pinned root. The length stands in the header, so the
//! trees are read twice, first to count; a streamed image counts while it is written. A writer that is given another state
//! than at first refuses; changes that leave the root record's attributes as they were (a sweep's slice) show in the totals of
//! the second pass, and are refused too.

use core::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use ringstone_pager::api::{Direction, ReadTrees, TreeId};

use super::{
    ATTRIBUTES, BLOCK_BYTES, BLOCK_HEADER_BYTES, BLOCK_PAYLOAD_BYTES, FEATURE_PARTIAL, FEATURE_STREAMED, HEADER_BYTES,
    Header, ImageMap, NOT_COUNTED, RECORD_HEADER_BYTES, SECTION_HEADER_BYTES, SECTIONS, SectionTotals,
    TRAILER_KEY_LENGTH, Wanted, block_checksum, image_bytes, u32_at,
};
use crate::error::{Error, ReadFault};
use crate::identity::Identity;
use crate::state::State;
use crate::trees::LIVE;

/// Records that one counting step looks at: about as long on the core as writing a block.
const COUNT_RECORDS_MAX: usize = 1024;

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Still counting: step again, other work may come between.
    Counting,
    /// The next bytes of the image.
    Piece(Piece),
    /// All pieces were given.
    Done,
}

/// Bytes of an image, at most 32 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub bytes: Bytes,
    /// How many bytes of the image follow; 0 with the last piece, and not known of a streamed image.
    pub remaining_bytes: u64,
}

/// Given the payload, key and value; false to stop behind this record.
type Take<'a> = dyn FnMut(&mut Vec<u8>, &[u8], &[u8]) -> bool + 'a;

#[derive(Clone, Copy)]
enum Phase {
    Counting,
    /// A streamed image's header comes next.
    Beginning,
    Writing,
}

/// What is left out of a partial image.
#[derive(Clone)]
struct Partial {
    map: Arc<ImageMap>,
    wanted: Arc<Wanted>,
    /// The next run.
    run: usize,
}

/// Writes one image. `step` until [`Step::Done`]. A clone goes on from the same place.
#[derive(Clone)]
pub struct ImageWriter {
    identity: Identity,
    phase: Phase,
    /// Those of the state that the image is of.
    attributes: Option<Vec<u8>>,
    totals: [SectionTotals; SECTIONS.len()],
    /// The section that is read, and the last key taken from it.
    section: usize,
    after: Option<Vec<u8>>,
    /// What was taken from it in this pass.
    taken: SectionTotals,
    /// Payload that no block holds yet.
    payload: Vec<u8>,
    header_crc: u32,
    block: u64,
    remaining_bytes: u64,
    features: u64,
    partial: Option<Partial>,
}

impl ImageWriter {
    /// The writer of an image of this member's store.
    #[must_use]
    pub fn new(identity: &Identity) -> ImageWriter {
        ImageWriter {
            identity: *identity,
            phase: Phase::Counting,
            attributes: None,
            totals: Default::default(),
            section: 0,
            after: None,
            taken: SectionTotals::default(),
            payload: Vec::new(),
            header_crc: 0,
            block: 0,
            remaining_bytes: 0,
            features: 0,
            partial: None,
        }
    }

    /// The writer of a streamed image that has, of the runs of `map`, only those that are `wanted`; `map` is of the same
    /// pinned root.
    #[must_use]
    pub fn partial(identity: &Identity, map: Arc<ImageMap>, wanted: Arc<Wanted>) -> ImageWriter {
        let partial = Some(Partial { map, wanted, run: 0 });
        let features = FEATURE_STREAMED | FEATURE_PARTIAL;
        ImageWriter { phase: Phase::Beginning, features, partial, ..ImageWriter::new(identity) }
    }

    /// Bytes that a clone holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Reads on in `view`, which must be the same pinned root in every call; `state` is the state of its attributes.
    /// Nothing is held when this returns.
    ///
    /// # Errors
    /// [`ReadFault::Absent`]: bring the pages in and step again. [`Error::SnapshotMoved`]: `view` is not what it was: the
    /// image can't be finished, begin another one. Damage of a page.
    pub fn step<V: ReadTrees + ?Sized>(&mut self, view: &V, state: &State) -> Result<Step, ReadFault> {
        match &self.attributes {
            None => self.attributes = Some(view.attributes().to_vec()),
            Some(first) if first != view.attributes() => return Err(moved()),
            Some(_) => {}
        }
        match self.phase {
            Phase::Counting => self.step_counting(view, state),
            Phase::Beginning => self.begin_stream(view, state),
            Phase::Writing => self.step_writing(view),
        }
    }

    fn begin_stream<V: ReadTrees + ?Sized>(&mut self, view: &V, state: &State) -> Result<Step, ReadFault> {
        let header = Header {
            total_bytes: NOT_COUNTED,
            payload_bytes: NOT_COUNTED,
            records: NOT_COUNTED,
            keys: view.aggregate(LIVE, (Bound::Unbounded, Bound::Unbounded))?.count,
            ..self.header_of(state)
        };
        self.remaining_bytes = NOT_COUNTED;
        Ok(self.begin(&header))
    }

    /// The header, and the first section's own.
    fn begin(&mut self, header: &Header) -> Step {
        self.phase = Phase::Writing;
        self.section = 0;
        self.payload.extend_from_slice(&self.totals[0].encode(SECTIONS[0]));
        let bytes = header.encode();
        self.header_crc = u32_at(&bytes, super::at::CRC);
        Step::Piece(Piece { bytes: Bytes::copy_from_slice(&bytes), remaining_bytes: self.remaining_bytes })
    }

    fn step_counting<V: ReadTrees + ?Sized>(&mut self, view: &V, state: &State) -> Result<Step, ReadFault> {
        if let Some(&tree) = SECTIONS.get(self.section) {
            let mut left = COUNT_RECORDS_MAX;
            let ended = self.read(view, tree, Bound::Unbounded, &mut |_, _, _| {
                left -= 1;
                left > 0
            })?;
            if ended {
                if tree != ATTRIBUTES {
                    self.taken.aggregate = view.aggregate(tree, (Bound::Unbounded, Bound::Unbounded))?;
                }
                self.totals[self.section] = self.taken;
                self.next_section();
            }
            return Ok(Step::Counting);
        }
        let header = self.counted_header(state);
        self.remaining_bytes = header.total_bytes - HEADER_BYTES as u64;
        Ok(self.begin(&header))
    }

    fn counted_header(&self, state: &State) -> Header {
        let payload_bytes = self.totals.iter().map(|section| SECTION_HEADER_BYTES as u64 + section.bytes).sum::<u64>();
        Header {
            total_bytes: image_bytes(payload_bytes).expect("what was counted on a disk has a length"),
            payload_bytes,
            records: self.totals.iter().map(|section| section.records).sum(),
            keys: self.totals[1].aggregate.count,
            ..self.header_of(state)
        }
    }

    fn header_of(&self, state: &State) -> Header {
        Header {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            revision: state.revision,
            compact_revision: state.compact_revision,
            total_bytes: 0,
            payload_bytes: 0,
            records: 0,
            keys: 0,
            group: 0,
            features: self.features,
        }
    }

    fn is_streamed(&self) -> bool {
        self.features & FEATURE_STREAMED != 0
    }

    fn step_writing<V: ReadTrees + ?Sized>(&mut self, view: &V) -> Result<Step, ReadFault> {
        while self.payload.len() < BLOCK_PAYLOAD_BYTES {
            let Some(&tree) = SECTIONS.get(self.section) else { break };
            let ended = self.read_wanted(view, tree)?;
            if !self.is_streamed() {
                self.compare_totals(ended)?;
            }
            if ended {
                if self.is_streamed() {
                    self.end_section(view, tree)?;
                }
                self.next_section();
                if let Some(&next) = SECTIONS.get(self.section) {
                    self.payload.extend_from_slice(&self.totals[self.section].encode(next));
                }
            }
        }
        if self.payload.is_empty() { Ok(Step::Done) } else { Ok(Step::Piece(self.next_block())) }
    }

    fn compare_totals(&self, ended: bool) -> Result<(), ReadFault> {
        let (taken, totals) = (self.taken, self.totals[self.section]);
        let is_over = taken.records > totals.records || taken.bytes > totals.bytes;
        let is_other = (taken.records, taken.bytes) != (totals.records, totals.bytes);
        if is_over || (ended && is_other) { Err(moved()) } else { Ok(()) }
    }

    /// Reads on, up to a block's worth, and leaves out what is not wanted; true when the section has ended.
    fn read_wanted<V: ReadTrees + ?Sized>(&mut self, view: &V, tree: TreeId) -> Result<bool, ReadFault> {
        loop {
            let mut last = None;
            if let Some(partial) = self.partial.as_mut().filter(|_| tree != ATTRIBUTES) {
                let Some(run) = partial.map.run_of(partial.run, tree) else { return Ok(true) };
                if !partial.wanted.has(partial.run) {
                    self.after = Some(run.last.to_vec());
                    partial.run += 1;
                    continue;
                }
                last = Some((Arc::clone(&partial.map), partial.run));
            }
            let until = last.as_ref().map_or(Bound::Unbounded, |(map, run)| Bound::Included(&*map.runs[*run].last));
            let ended = self.read(view, tree, until, &mut |payload, key, value| {
                payload.extend_from_slice(&(key.len() as u32).to_le_bytes());
                payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
                payload.extend_from_slice(key);
                payload.extend_from_slice(value);
                payload.len() < BLOCK_PAYLOAD_BYTES
            })?;
            match self.partial.as_mut().filter(|_| last.is_some()) {
                Some(partial) if ended => partial.run += 1,
                _ => return Ok(ended),
            }
            if self.payload.len() >= BLOCK_PAYLOAD_BYTES {
                return Ok(false);
            }
        }
    }

    /// What a streamed section comes to, behind its last record.
    fn end_section<V: ReadTrees + ?Sized>(&mut self, view: &V, tree: TreeId) -> Result<(), ReadFault> {
        let mut totals = self.taken;
        if let Some(partial) = self.partial.as_ref().filter(|_| tree != ATTRIBUTES) {
            totals = partial.map.totals[self.section];
        } else if tree != ATTRIBUTES {
            totals.aggregate = view.aggregate(tree, (Bound::Unbounded, Bound::Unbounded))?;
        }
        self.payload.extend_from_slice(&TRAILER_KEY_LENGTH.to_le_bytes());
        self.payload.extend_from_slice(&(SECTION_HEADER_BYTES as u32).to_le_bytes());
        self.payload.extend_from_slice(&totals.encode(tree));
        Ok(())
    }

    fn next_section(&mut self) {
        self.section += 1;
        self.after = None;
        self.taken = SectionTotals::default();
    }

    /// Gives the records behind the cursor to `take` until it says false; true when there are no more up to `until`.
    fn read<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        tree: TreeId,
        until: Bound<&[u8]>,
        take: &mut Take<'_>,
    ) -> Result<bool, ReadFault> {
        let (payload, taken) = (&mut self.payload, &mut self.taken);
        if tree == ATTRIBUTES {
            taken.add(&[], view.attributes());
            take(payload, &[], view.attributes());
            return Ok(true);
        }
        let mut ended = true;
        let mut last: Option<Vec<u8>> = None;
        let from = self.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let visited = view.visit(tree, (from, until), Direction::Forward, false, &mut |key, value| {
            taken.add(key, value);
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            ended = take(payload, key, value);
            if ended { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // What was seen before a fault was taken: the next step goes on behind it.
        if last.is_some() {
            self.after = last;
        }
        visited?;
        Ok(ended)
    }

    fn next_block(&mut self) -> Piece {
        let length = self.payload.len().min(BLOCK_PAYLOAD_BYTES);
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.resize(BLOCK_HEADER_BYTES, 0);
        block[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        block[8..16].copy_from_slice(&self.block.to_le_bytes());
        block.extend_from_slice(&self.payload[..length]);
        self.payload.drain(..length);
        let padded = if self.is_streamed() { BLOCK_BYTES } else { block.len().next_multiple_of(HEADER_BYTES) };
        block.resize(padded, 0);
        let crc = block_checksum(self.header_crc, &block);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        self.block += 1;
        if !self.is_streamed() {
            self.remaining_bytes -= block.len() as u64;
        }
        Piece { bytes: block.into(), remaining_bytes: self.remaining_bytes }
    }
}

const _: () = assert!(RECORD_HEADER_BYTES == 8, "two lengths of four bytes");

fn moved() -> ReadFault {
    ReadFault::Refused(Error::SnapshotMoved)
}
