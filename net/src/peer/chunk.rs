//! A snapshot on its own stream: a head, chunks, and an empty chunk as the end.
//!
//! Each chunk's checksum covers the snapshot's id and the chunk's offset: bytes of another snapshot or of another place
//! are not taken, whatever brought them there.

use super::frame::WireError;
use bytes::{Buf, BufMut};

/// Bytes of the head.
pub const HEAD_BYTES: usize = 56;
/// Bytes before each chunk's payload.
pub const CHUNK_HEADER_BYTES: usize = 16;
/// Longest payload of a chunk.
pub const CHUNK_BYTES_MAX: usize = 64 << 10;
/// In the head where the length is not known before the end.
pub const LENGTH_UNKNOWN: u64 = u64::MAX;

const CRC_AT: usize = HEAD_BYTES - 4;

/// What a snapshot's stream begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which of the connection's snapshots; grants name it.
    pub serial: u64,
    /// Whose state it is.
    pub group: u64,
    /// Names the content: the same id is the same bytes.
    pub id: [u8; 16],
    /// All bytes of it, or [`LENGTH_UNKNOWN`].
    pub length: u64,
    /// The lowest offset that its sender can begin at.
    pub offset_min: u64,
}

impl Head {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_u64_le(self.serial);
        rest.put_u64_le(self.group);
        rest.put_slice(&self.id);
        rest.put_u64_le(self.length);
        rest.put_u64_le(self.offset_min);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// If its checksum is wrong.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Head, WireError> {
        if (&bytes[CRC_AT..]).get_u32_le() != crc32fast::hash(&bytes[..CRC_AT]) {
            return Err(WireError::SnapshotHead);
        }
        let mut rest = &bytes[..];
        let (serial, group) = (rest.get_u64_le(), rest.get_u64_le());
        let mut id = [0; 16];
        rest.copy_to_slice(&mut id);
        Ok(Head { serial, group, id, length: rest.get_u64_le(), offset_min: rest.get_u64_le() })
    }
}

/// What stands before a chunk's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Where the payload belongs.
    pub offset: u64,
    /// Its length; 0 at the end.
    pub length: u32,
    /// Of id, offset, length and payload.
    pub crc: u32,
}

fn checksum(id: &[u8; 16], offset: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(id);
    hasher.update(&offset.to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

impl ChunkHeader {
    /// Of a payload of at most [`CHUNK_BYTES_MAX`].
    #[must_use]
    pub fn of(id: &[u8; 16], offset: u64, payload: &[u8]) -> ChunkHeader {
        assert!(payload.len() <= CHUNK_BYTES_MAX, "a chunk of {} bytes", payload.len());
        ChunkHeader { offset, length: payload.len() as u32, crc: checksum(id, offset, payload) }
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; CHUNK_HEADER_BYTES] {
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_u64_le(self.offset);
        rest.put_u32_le(self.length);
        rest.put_u32_le(self.crc);
        bytes
    }

    /// Reads it, where a chunk at `expected` is due.
    ///
    /// # Errors
    /// If it is of another place or too long; nothing is reserved for its payload then.
    pub fn decode(bytes: &[u8; CHUNK_HEADER_BYTES], expected: u64) -> Result<ChunkHeader, WireError> {
        let mut rest = &bytes[..];
        let header = ChunkHeader { offset: rest.get_u64_le(), length: rest.get_u32_le(), crc: rest.get_u32_le() };
        if header.offset != expected {
            return Err(WireError::ChunkOffset { found: header.offset, expected });
        }
        if header.length as usize > CHUNK_BYTES_MAX || header.offset.checked_add(u64::from(header.length)).is_none() {
            return Err(WireError::ChunkLength(header.length));
        }
        Ok(header)
    }

    /// Checks its payload.
    ///
    /// # Errors
    /// If it isn't that.
    pub fn check(&self, id: &[u8; 16], payload: &[u8]) -> Result<(), WireError> {
        if payload.len() != self.length as usize || checksum(id, self.offset, payload) != self.crc {
            return Err(WireError::ChunkChecksum(self.offset));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_chunks_come_back_and_damage_is_seen() {
        let head = Head { serial: 1, group: 2, id: [7; 16], length: 9, offset_min: 3 };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(head));
        for bit in 0..HEAD_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&bytes), Err(WireError::SnapshotHead), "bit {bit}");
        }
        let chunk = ChunkHeader::of(&head.id, 5, b"payload");
        assert_eq!(ChunkHeader::decode(&chunk.encode(), 5), Ok(chunk));
        assert_eq!(chunk.check(&head.id, b"payload"), Ok(()));
        let damaged = Err(WireError::ChunkChecksum(5));
        assert_eq!(chunk.check(&head.id, b"pay1oad"), damaged);
        assert_eq!(chunk.check(&head.id, b"payloa"), damaged);
        assert_eq!(chunk.check(&[8; 16], b"payload"), damaged, "of another snapshot");
        let elsewhere = Err(WireError::ChunkOffset { found: 5, expected: 6 });
        assert_eq!(ChunkHeader::decode(&chunk.encode(), 6), elsewhere);
        let long = ChunkHeader { length: CHUNK_BYTES_MAX as u32 + 1, ..chunk };
        assert_eq!(ChunkHeader::decode(&long.encode(), 5), Err(WireError::ChunkLength(long.length)));
        let end = ChunkHeader { offset: u64::MAX, length: 1, crc: 0 };
        assert_eq!(ChunkHeader::decode(&end.encode(), u64::MAX), Err(WireError::ChunkLength(1)));
    }
}
