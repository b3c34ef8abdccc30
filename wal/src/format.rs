//! What stands where on disk. `docs/format-wal.md` describes the same; a test compares the two.
//!
//! A segment file is a row of 4 KiB blocks. Block 0 is the segment header, written before the file gets its name and never
//! again. Every other block opens with a [`BlockHeader`] and belongs to a *unit*: a segment's start, a batch, or a
//! closing block. Records run through the payloads of a unit's blocks.

use core::mem::offset_of;

/// Size of a block in bytes: the alignment that O_DIRECT asks for on every device of today.
pub const BLOCK_BYTES: usize = 4096;
/// The first eight bytes of a segment.
pub const MAGIC: [u8; 8] = *b"RINGSWAL";
/// The version that this code writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Feature bits of each class that this code knows: none yet.
pub const FEATURES_KNOWN: Features = Features { ignore: 0, read_only: 0, refuse: 0 };
/// Most bytes of a record's payload.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Most bytes of the payload of a record that is carried from segment to segment (hard state, configuration,
/// checkpoint).
pub const CARRIED_BYTES_MAX: usize = 64 << 10;
/// Largest segment that is believed: bounds what a damaged header can make us read.
pub const SEGMENT_BLOCKS_MAX: u32 = 1 << 20;
/// Smallest segment: header, start, one batch block, closing block, and some room.
pub const SEGMENT_BLOCKS_MIN: u32 = 8;

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C, packed)]
        #[allow(dead_code, missing_docs, reason = "only its offsets and sizes are used")]
        pub struct $name { $(pub(crate) $field: $type),* }
        impl $name {
            /// Name, offset and size in bytes of each field.
            pub const FIELDS: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), offset_of!($name, $field), size_of::<$type>())),*];
            /// Size in bytes.
            pub const BYTES: usize = size_of::<$name>();
        }
    };
}

layout! {
    /// Block 0 of a segment; zeros fill the rest of the block. `crc` is over the whole block without itself.
    SegmentLayout {
        magic: [u8; 8],
        format_version: u32,
        crc: u32,
        identity: [u8; 16],
        features_ignore: u32,
        features_read_only: u32,
        features_refuse: u32,
        block_bytes: u32,
        generation: u64,
        segment_blocks: u32,
    }
}

layout! {
    /// The head of every other block. `crc` is over the rest of the block, seeded with the CRC of the identity.
    BlockLayout {
        crc: u32,
        kind: u8,
        reserved: u8,
        payload_bytes: u16,
        generation: u64,
        number: u64,
        position: u32,
        ordinal: u32,
        count: u32,
        chain: u32,
    }
}

layout! {
    /// The head of a record; its payload follows. `crc` is over the rest of head and payload, seeded with the CRC of
    /// the record before it.
    RecordLayout {
        crc: u32,
        payload_bytes: u32,
        group: u32,
        kind: u8,
        reserved: [u8; 3],
        term: u64,
        index: u64,
    }
}

/// Payload bytes of one block.
pub const BLOCK_PAYLOAD_BYTES: usize = BLOCK_BYTES - BlockLayout::BYTES;

const _: () = assert!(SegmentLayout::BYTES <= 512, "the header lies within one sector: it is never torn");
const _: () = assert!(BLOCK_PAYLOAD_BYTES <= u16::MAX as usize);
const _: () = assert!(PAYLOAD_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(BLOCK_BYTES.is_power_of_two());

/// Whose log this is: 16 bytes that the owner chose (cluster and member), compared, never interpreted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; 16]);

impl Identity {
    /// Where the CRCs of this log's blocks start from: blocks of another log are not good ones.
    #[must_use]
    pub fn seed(self) -> u32 {
        crc32fast::hash(&self.0)
    }
}

impl core::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, formatter)
    }
}

impl core::fmt::Display for Identity {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Feature bits of a file in their three classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Who does not know one of these may ignore it.
    pub ignore: u32,
    /// Who does not know one of these may read, and must not write.
    pub read_only: u32,
    /// Who does not know one of these must not even read.
    pub refuse: u32,
}

/// The content of block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log it is.
    pub identity: Identity,
    /// Feature bits.
    pub features: Features,
    /// Counts up from segment to segment; a block of another generation is not part of this segment.
    pub generation: u64,
    /// Size of the file in blocks.
    pub segment_blocks: u32,
}

/// Why block 0 is no header that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// The magic is not there: no segment, or its first bytes are damaged.
    Magic,
    /// The CRC does not fit.
    Crc,
    /// Another format version, with a good CRC.
    Version(u32),
    /// Sizes that this code does not write, with a good CRC.
    Sizes,
}

impl SegmentHeader {
    /// Writes the header into a block.
    ///
    /// # Panics
    /// If `block` is not a block.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        block.fill(0);
        block[..8].copy_from_slice(&MAGIC);
        put_u32(block, offset_of!(SegmentLayout, format_version), FORMAT_VERSION);
        let identity = offset_of!(SegmentLayout, identity);
        block[identity..identity + 16].copy_from_slice(&self.identity.0);
        put_u32(block, offset_of!(SegmentLayout, features_ignore), self.features.ignore);
        put_u32(block, offset_of!(SegmentLayout, features_read_only), self.features.read_only);
        put_u32(block, offset_of!(SegmentLayout, features_refuse), self.features.refuse);
        put_u32(block, offset_of!(SegmentLayout, block_bytes), BLOCK_BYTES as u32);
        put_u64(block, offset_of!(SegmentLayout, generation), self.generation);
        put_u32(block, offset_of!(SegmentLayout, segment_blocks), self.segment_blocks);
        let crc = Self::crc(block);
        put_u32(block, offset_of!(SegmentLayout, crc), crc);
    }

    /// Reads a header. The identity and the features are the caller's to judge.
    ///
    /// # Errors
    /// [`HeaderFault`].
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if block.len() != BLOCK_BYTES || block[..8] != MAGIC {
            return Err(HeaderFault::Magic);
        }
        if get_u32(block, offset_of!(SegmentLayout, crc)) != Self::crc(block) {
            return Err(HeaderFault::Crc);
        }
        let version = get_u32(block, offset_of!(SegmentLayout, format_version));
        if version != FORMAT_VERSION {
            return Err(HeaderFault::Version(version));
        }
        let segment_blocks = get_u32(block, offset_of!(SegmentLayout, segment_blocks));
        let block_bytes = get_u32(block, offset_of!(SegmentLayout, block_bytes));
        if block_bytes != BLOCK_BYTES as u32 || !(SEGMENT_BLOCKS_MIN..=SEGMENT_BLOCKS_MAX).contains(&segment_blocks) {
            return Err(HeaderFault::Sizes);
        }
        let mut identity = [0; 16];
        identity.copy_from_slice(&block[offset_of!(SegmentLayout, identity)..][..16]);
        Ok(SegmentHeader {
            identity: Identity(identity),
            features: Features {
                ignore: get_u32(block, offset_of!(SegmentLayout, features_ignore)),
                read_only: get_u32(block, offset_of!(SegmentLayout, features_read_only)),
                refuse: get_u32(block, offset_of!(SegmentLayout, features_refuse)),
            },
            generation: get_u64(block, offset_of!(SegmentLayout, generation)),
            segment_blocks,
        })
    }

    fn crc(block: &[u8]) -> u32 {
        let at = offset_of!(SegmentLayout, crc);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&block[..at]);
        hasher.update(&block[at + 4..]);
        hasher.finalize()
    }
}

/// What a unit of blocks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// The start of a segment: records carried over. Its number is that of the last batch before it.
    Start,
    /// A batch of records.
    Batch,
    /// One block that proves the batch of its number and all before it to be synced.
    Closing,
}

impl UnitKind {
    fn code(self) -> u8 {
        match self {
            UnitKind::Start => 1,
            UnitKind::Batch => 2,
            UnitKind::Closing => 3,
        }
    }

    fn from_code(code: u8) -> Option<UnitKind> {
        match code {
            1 => Some(UnitKind::Start),
            2 => Some(UnitKind::Batch),
            3 => Some(UnitKind::Closing),
            _ => None,
        }
    }
}

/// The head of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// What the block's unit is.
    pub kind: UnitKind,
    /// Bytes of records in this block; every block but a unit's last one is full.
    pub payload_bytes: u16,
    /// Generation of the segment that it was written to.
    pub generation: u64,
    /// Number of the batch (or of the last batch before a start or closing block).
    pub number: u64,
    /// Which block of its segment it is: a misdirected write shows.
    pub position: u32,
    /// Which block of its unit it is.
    pub ordinal: u32,
    /// Blocks of its unit.
    pub count: u32,
    /// CRC of the last record before the unit.
    pub chain: u32,
}

impl BlockHeader {
    /// Writes the head and the CRC over the block, whose payload must be in place.
    pub fn seal(&self, seed: u32, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        block[offset_of!(BlockLayout, kind)] = self.kind.code();
        block[offset_of!(BlockLayout, reserved)] = 0;
        put_u16(block, offset_of!(BlockLayout, payload_bytes), self.payload_bytes);
        put_u64(block, offset_of!(BlockLayout, generation), self.generation);
        put_u64(block, offset_of!(BlockLayout, number), self.number);
        put_u32(block, offset_of!(BlockLayout, position), self.position);
        put_u32(block, offset_of!(BlockLayout, ordinal), self.ordinal);
        put_u32(block, offset_of!(BlockLayout, count), self.count);
        put_u32(block, offset_of!(BlockLayout, chain), self.chain);
        let crc = Self::crc(seed, block);
        put_u32(block, offset_of!(BlockLayout, crc), crc);
    }

    /// The head of a block whose CRC is good and whose fields make sense by themselves; `None` otherwise.
    #[must_use]
    pub fn open(seed: u32, block: &[u8]) -> Option<BlockHeader> {
        if block.len() != BLOCK_BYTES || get_u32(block, offset_of!(BlockLayout, crc)) != Self::crc(seed, block) {
            return None;
        }
        let header = BlockHeader {
            kind: UnitKind::from_code(block[offset_of!(BlockLayout, kind)])?,
            payload_bytes: get_u16(block, offset_of!(BlockLayout, payload_bytes)),
            generation: get_u64(block, offset_of!(BlockLayout, generation)),
            number: get_u64(block, offset_of!(BlockLayout, number)),
            position: get_u32(block, offset_of!(BlockLayout, position)),
            ordinal: get_u32(block, offset_of!(BlockLayout, ordinal)),
            count: get_u32(block, offset_of!(BlockLayout, count)),
            chain: get_u32(block, offset_of!(BlockLayout, chain)),
        };
        let full = header.payload_bytes as usize == BLOCK_PAYLOAD_BYTES;
        let last = header.ordinal.checked_add(1) == Some(header.count);
        let sensible = header.ordinal < header.count
            && header.payload_bytes as usize <= BLOCK_PAYLOAD_BYTES
            && (full || last)
            && header.ordinal <= header.position;
        sensible.then_some(header)
    }

    fn crc(seed: u32, block: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        hasher.update(&block[size_of::<u32>()..]);
        hasher.finalize()
    }
}

/// Writes `value` at `at`, little-endian as everything here.
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `at`.
pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `at`.
pub fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Reads the value at `at`.
#[must_use]
pub fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// Reads the value at `at`.
#[must_use]
pub fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads the value at `at`.
#[must_use]
pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_and_every_flipped_bit_shows() {
        let header = SegmentHeader {
            identity: Identity([7; 16]),
            features: Features { ignore: 1, read_only: 2, refuse: 4 },
            generation: 9,
            segment_blocks: 64,
        };
        let mut block = vec![0xAA; BLOCK_BYTES];
        header.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for bit in 0..BLOCK_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn an_unknown_version_is_named_not_called_damage() {
        let header = SegmentHeader {
            identity: Identity([7; 16]),
            features: Features::default(),
            generation: 9,
            segment_blocks: 64,
        };
        let mut block = vec![0; BLOCK_BYTES];
        header.encode(&mut block);
        put_u32(&mut block, offset_of!(SegmentLayout, format_version), 2);
        let crc = SegmentHeader::crc(&block);
        put_u32(&mut block, offset_of!(SegmentLayout, crc), crc);
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Version(2)));
    }

    #[test]
    fn block_round_trips_and_another_identity_does_not_see_it() {
        let header = BlockHeader {
            kind: UnitKind::Batch,
            payload_bytes: 5,
            generation: 3,
            number: 4,
            position: 6,
            ordinal: 0,
            count: 1,
            chain: 77,
        };
        let mut block = vec![0; BLOCK_BYTES];
        let seed = Identity([1; 16]).seed();
        header.seal(seed, &mut block);
        assert_eq!(BlockHeader::open(seed, &block), Some(header));
        assert_eq!(BlockHeader::open(Identity([2; 16]).seed(), &block), None);
        block[4000] ^= 1;
        assert_eq!(BlockHeader::open(seed, &block), None);
    }
}
