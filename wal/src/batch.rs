//! A unit of blocks in memory: records are copied in once, heads and block CRCs are filled in when it is sealed.

use crate::buffer::AlignedBuffer;
use crate::format::{BLOCK_BYTES, BLOCK_PAYLOAD_BYTES, BlockHeader, BlockLayout, UnitKind};
use crate::record::Record;

/// Blocks that `payload_bytes` bytes of records take; a unit has at least one.
#[must_use]
pub fn blocks_for(payload_bytes: usize) -> usize {
    payload_bytes.div_ceil(BLOCK_PAYLOAD_BYTES).max(1)
}

/// A unit being filled.
pub struct UnitBuffer {
    kind: UnitKind,
    number: u64,
    chain_before: u32,
    chain: u32,
    payload_bytes: usize,
    buffer: AlignedBuffer,
}

impl UnitBuffer {
    /// An empty unit in `buffer`, after a record whose CRC is `chain`.
    #[must_use]
    pub fn new(kind: UnitKind, number: u64, chain: u32, buffer: AlignedBuffer) -> UnitBuffer {
        UnitBuffer { kind, number, chain_before: chain, chain, payload_bytes: 0, buffer }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// CRC of its last record.
    #[must_use]
    pub fn chain(&self) -> u32 {
        self.chain
    }

    /// CRC of the last record before it.
    #[must_use]
    pub fn chain_before(&self) -> u32 {
        self.chain_before
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload_bytes == 0
    }

    /// Blocks that it takes now.
    #[must_use]
    pub fn blocks(&self) -> usize {
        blocks_for(self.payload_bytes)
    }

    /// Blocks that it would take with `bytes` more.
    #[must_use]
    pub fn blocks_with(&self, bytes: usize) -> usize {
        blocks_for(self.payload_bytes + bytes)
    }

    /// Copies a record in.
    pub fn append(&mut self, record: &Record<'_>) {
        self.buffer.reserve(self.blocks_with(record.encoded_bytes()));
        self.buffer.set_length(self.buffer.capacity());
        let (head, chain) = record.encode_head(self.chain);
        self.copy_in(&head);
        self.copy_in(record.payload);
        self.chain = chain;
    }

    fn copy_in(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (block, within) = (self.payload_bytes / BLOCK_PAYLOAD_BYTES, self.payload_bytes % BLOCK_PAYLOAD_BYTES);
            let piece = bytes.len().min(BLOCK_PAYLOAD_BYTES - within);
            let start = block * BLOCK_BYTES + BlockLayout::BYTES + within;
            self.buffer[start..start + piece].copy_from_slice(&bytes[..piece]);
            self.payload_bytes += piece;
            bytes = &bytes[piece..];
        }
    }

    /// Fills in the heads for block `position` of segment `generation`; the result is what goes to disk.
    #[must_use]
    pub fn seal(mut self, seed: u32, generation: u64, position: u32) -> AlignedBuffer {
        let count = self.blocks();
        self.buffer.set_length(count * BLOCK_BYTES);
        for (ordinal, block) in self.buffer.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let payload_bytes = (self.payload_bytes - ordinal * BLOCK_PAYLOAD_BYTES).min(BLOCK_PAYLOAD_BYTES);
            block[BlockLayout::BYTES + payload_bytes..].fill(0);
            let header = BlockHeader {
                kind: self.kind,
                payload_bytes: payload_bytes as u16,
                generation,
                number: self.number,
                position: position + ordinal as u32,
                ordinal: ordinal as u32,
                count: count as u32,
                chain: self.chain_before,
            };
            header.seal(seed, block);
        }
        self.buffer
    }
}
