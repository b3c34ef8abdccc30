//! Reads segments block by block and says what each block is. Decides nothing.

use crate::buffer::AlignedBuffer;
use crate::disk::{Disk, DiskError, FileName};
use crate::format::{BLOCK_BYTES, BlockHeader, BlockLayout, UnitKind};

/// Blocks that are read at once: 1 MiB.
const WINDOW_BLOCKS: u32 = 256;

/// What a block is, seen from the segment that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockClass {
    /// Never written.
    Zero,
    /// Good, of this segment's generation, in its place.
    Ours(BlockHeader),
    /// Good, of an older generation: the file's former life.
    Ghost(BlockHeader),
    /// Good, but written for another place or a later generation.
    Stray(BlockHeader),
    /// The CRC does not fit.
    Unreadable,
}

/// Says what the block at `position` of segment `generation` is.
#[must_use]
pub fn classify(seed: u32, generation: u64, position: u32, block: &[u8]) -> BlockClass {
    match BlockHeader::open(seed, block) {
        Some(header) if header.generation < generation => BlockClass::Ghost(header),
        Some(header) if header.generation == generation && header.position == position => BlockClass::Ours(header),
        Some(header) => BlockClass::Stray(header),
        None if block.iter().all(|&byte| byte == 0) => BlockClass::Zero,
        None => BlockClass::Unreadable,
    }
}

/// The last batch that a good block proves to have been synced before it was written.
#[must_use]
pub fn proves(header: &BlockHeader) -> u64 {
    match header.kind {
        UnitKind::Batch => header.number.saturating_sub(1),
        UnitKind::Start | UnitKind::Closing => header.number,
    }
}

/// The piece of a segment that is in memory.
pub struct Window {
    buffer: AlignedBuffer,
    generation: u64,
    start: u32,
    blocks: u32,
}

impl Default for Window {
    fn default() -> Window {
        Window { buffer: AlignedBuffer::empty(), generation: 0, start: 0, blocks: 0 }
    }
}

impl Window {
    /// A reader of the segment `generation`, `blocks` blocks long. What the window holds of it is not read again.
    pub fn reader<'a>(
        &'a mut self,
        disk: &'a mut dyn Disk,
        seed: u32,
        generation: u64,
        blocks: u32,
    ) -> SegmentReader<'a> {
        if self.generation != generation {
            (self.generation, self.blocks) = (generation, 0);
        }
        SegmentReader { disk, window: self, seed, generation, blocks }
    }
}

/// Reads one segment through a window.
pub struct SegmentReader<'a> {
    disk: &'a mut dyn Disk,
    window: &'a mut Window,
    seed: u32,
    generation: u64,
    blocks: u32,
}

impl SegmentReader<'_> {
    /// Its file.
    #[must_use]
    pub fn file(&self) -> FileName {
        FileName::Segment(self.generation)
    }

    /// The bytes of a block; zeros behind the end of a file that was cut.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn block(&mut self, position: u32) -> Result<&[u8], DiskError> {
        let window = &mut *self.window;
        if position < window.start || position - window.start >= window.blocks {
            let blocks = WINDOW_BLOCKS.min(self.blocks.saturating_sub(position)).max(1);
            window.blocks = 0;
            window.buffer.reserve(WINDOW_BLOCKS.min(self.blocks) as usize);
            window.buffer.set_length(blocks as usize * BLOCK_BYTES);
            let offset = u64::from(position) * BLOCK_BYTES as u64;
            let bytes = self.disk.read(FileName::Segment(self.generation), offset, &mut window.buffer)?;
            window.buffer[bytes..].fill(0);
            (window.start, window.blocks) = (position, blocks);
        }
        let start = (position - window.start) as usize * BLOCK_BYTES;
        Ok(&window.buffer[start..start + BLOCK_BYTES])
    }

    /// What a block is.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn class(&mut self, position: u32) -> Result<BlockClass, DiskError> {
        let (seed, generation) = (self.seed, self.generation);
        Ok(classify(seed, generation, position, self.block(position)?))
    }

    /// Reads the unit whose first block is at `position` into `payload`, if all of its blocks are good, in their places and
    /// agree. The head is that of its first block.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn unit(&mut self, position: u32, payload: &mut Vec<u8>) -> Result<Option<BlockHeader>, DiskError> {
        payload.clear();
        if position >= self.blocks {
            return Ok(None);
        }
        let BlockClass::Ours(first) = self.class(position)? else { return Ok(None) };
        if first.ordinal != 0 || first.count > self.blocks - position {
            return Ok(None);
        }
        for ordinal in 0..first.count {
            let expected = BlockHeader { ordinal, position: position + ordinal, ..first };
            let BlockClass::Ours(header) = self.class(position + ordinal)? else { return Ok(None) };
            if (BlockHeader { payload_bytes: first.payload_bytes, ..header }) != expected {
                return Ok(None);
            }
            let bytes = header.payload_bytes as usize;
            payload.extend_from_slice(&self.block(position + ordinal)?[BlockLayout::BYTES..][..bytes]);
        }
        Ok(Some(first))
    }
}
