//! The image of a whole logical store at one revision: what snapshots, restore and the repair of a follower carry.
//!
//! ```text
//! pinned view --ImageWriter::step--> pieces (header, blocks of 32 KiB) ... ImageReader::push, drain --> sorted records
//! ```
//!
//! docs/format-image.md has the bytes; a test ties it to this module. Both sides are sans I/O and hold one block and one
//! record in memory at a time. Nothing here knows how pieces travel or which tree's page is where.
//!
//! Between members an image is *partial*, for a receiver that has a store already: runs of records that both have are left out
//! (map.rs). It is *streamed*, too: nothing is counted before it begins, so that its lengths stand behind what they are of. A
//! receiver that has nothing is sent pages (pages.rs).

mod check;
mod map;
mod pages;
mod reader;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
mod writer;

pub use map::{ImageMap, MAP_BYTES_MAX, MapBuilder, OwnRecords, RUNS_MAX, Wanted, run_bytes_for};
pub use pages::{HEAD_BYTES, PagesError, PagesReader};
pub use reader::{ImageError, ImageReader, ImageSummary, OwnRun, TakeRecord};
pub use writer::{ImageWriter, Piece, Step};

use ringstone_pager::api::{Aggregate, TreeId};

use crate::trees::{ALARM, BESIDE, LEASE, LEASE_DEADLINE, LEASE_KEY, LIVE, LOG, MEMBER, VALUE};

/// First bytes of an image.
pub const MAGIC: &[u8; 8] = b"RSTNIMAG";
/// The format that this version writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The header's length; everything is a multiple of it (etcdctl tells a snapshot with its 32 bytes of SHA-256 by that).
pub const HEADER_BYTES: usize = 512;
/// A block, its own header included: the length of a blob in etcd's snapshot stream.
pub const BLOCK_BYTES: usize = 32 << 10;
/// In front of each block: CRC32, payload length, block number.
pub const BLOCK_HEADER_BYTES: usize = 16;
/// Payload of a full block.
pub const BLOCK_PAYLOAD_BYTES: usize = BLOCK_BYTES - BLOCK_HEADER_BYTES;
/// In front of each section: tree, records, bytes, aggregate.
pub const SECTION_HEADER_BYTES: usize = 48;
/// In front of each record: key length, value length.
pub const RECORD_HEADER_BYTES: usize = 8;
/// Longest record, as in a tree's leaf: what a reader may have to hold.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(HEADER_BYTES));

/// A feature, unknown ones of whose class refuse: lengths and sums stand behind what they are of. Not in files.
pub const FEATURE_STREAMED: u64 = 1;
/// Another one: records that the receiver has already are left out, as it has asked for by a map.
pub const FEATURE_PARTIAL: u64 = 1 << 1;
/// Where a streamed image's header would have a length or count.
const NOT_COUNTED: u64 = u64::MAX;
/// The key length of what stands behind a section's last record: its totals. No record has such a key.
const TRAILER_KEY_LENGTH: u32 = u32::MAX;

/// The section of the root record's attributes stands in front of the trees, with one record of an empty key.
const ATTRIBUTES: TreeId = TreeId(0);

/// All sections in their order.
pub const SECTIONS: [TreeId; 10] =
    [ATTRIBUTES, LIVE, LOG, BESIDE, VALUE, LEASE, LEASE_KEY, LEASE_DEADLINE, MEMBER, ALARM];

/// What a section says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionTotals {
    /// Records.
    pub records: u64,
    /// Their bytes, record headers included.
    pub bytes: u64,
    /// What the tree they came from adds up to.
    pub aggregate: Aggregate,
}

impl SectionTotals {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.bytes += (RECORD_HEADER_BYTES + key.len() + value.len()) as u64;
    }

    fn encode(&self, tree: TreeId) -> [u8; SECTION_HEADER_BYTES] {
        let mut bytes = [0; SECTION_HEADER_BYTES];
        bytes[0] = tree.0;
        let fields = [self.records, self.bytes, self.aggregate.count, self.aggregate.bytes, self.aggregate.hash];
        for (slot, field) in bytes[8..].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// The tree and its totals; absent where reserved bytes are set.
    fn decode(bytes: &[u8; SECTION_HEADER_BYTES]) -> Option<(TreeId, SectionTotals)> {
        let word = |at: usize| word_at(bytes, at);
        let aggregate = Aggregate { count: word(24), bytes: word(32), hash: word(40) };
        let totals = SectionTotals { records: word(8), bytes: word(16), aggregate };
        (bytes[1..8] == [0; 7]).then_some((TreeId(bytes[0]), totals))
    }
}

/// The first 512 bytes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Cluster that it was taken from.
    pub cluster_id: u64,
    /// Member that it was taken from.
    pub member_id: u64,
    /// Revision of the store.
    pub revision: i64,
    /// Its last compaction; -1: never.
    pub compact_revision: i64,
    /// Length of the image in bytes.
    pub total_bytes: u64,
    /// Bytes of sections and records in its blocks.
    pub payload_bytes: u64,
    /// Records of all sections.
    pub records: u64,
    /// Keys alive.
    pub keys: u64,
    /// The raft group that it is of.
    pub group: u32,
    /// [`FEATURE_STREAMED`], [`FEATURE_PARTIAL`].
    pub features: u64,
}

mod at {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const CRC: usize = 12;
    pub const FEATURES_IGNORE: usize = 16;
    pub const FEATURES_REFUSE: usize = 32;
    pub const CLUSTER_ID: usize = FEATURES_REFUSE + 8;
    pub const MEMBER_ID: usize = CLUSTER_ID + 8;
    pub const REVISION: usize = MEMBER_ID + 8;
    pub const COMPACT_REVISION: usize = REVISION + 8;
    pub const TOTAL_BYTES: usize = COMPACT_REVISION + 8;
    pub const PAYLOAD_BYTES: usize = TOTAL_BYTES + 8;
    pub const RECORDS: usize = PAYLOAD_BYTES + 8;
    pub const KEYS: usize = RECORDS + 8;
    pub const GROUP: usize = KEYS + 8;
    pub const END: usize = GROUP + 4;
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[at::MAGIC..8].copy_from_slice(MAGIC);
        bytes[at::VERSION..at::CRC].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let fields = [
            self.cluster_id,
            self.member_id,
            self.revision as u64,
            self.compact_revision as u64,
            self.total_bytes,
            self.payload_bytes,
            self.records,
            self.keys,
        ];
        for (slot, field) in bytes[at::CLUSTER_ID..at::GROUP].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        bytes[at::GROUP..at::END].copy_from_slice(&self.group.to_le_bytes());
        bytes[at::FEATURES_REFUSE..at::CLUSTER_ID].copy_from_slice(&self.features.to_le_bytes());
        let crc = header_checksum(&bytes);
        bytes[at::CRC..at::FEATURES_IGNORE].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `features_known` are those that this reader can do with.
    fn decode(bytes: &[u8; HEADER_BYTES], features_known: u64) -> Result<Header, ImageError> {
        let damaged = |what| ImageError::Damaged { offset: 0, what };
        if bytes[at::MAGIC..8] != MAGIC[..] {
            return Err(ImageError::NotAnImage);
        }
        let version = u32_at(bytes, at::VERSION);
        if version != FORMAT_VERSION {
            return Err(ImageError::Version(version));
        }
        if u32_at(bytes, at::CRC) != header_checksum(bytes) {
            return Err(damaged("the header's checksum is wrong"));
        }
        // An image is never written to, so that the middle class of features asks nothing of its reader.
        let features = word_at(bytes, at::FEATURES_REFUSE);
        if features & !features_known != 0 {
            return Err(ImageError::Features(features));
        }
        let header = Header {
            cluster_id: word_at(bytes, at::CLUSTER_ID),
            member_id: word_at(bytes, at::MEMBER_ID),
            revision: word_at(bytes, at::REVISION) as i64,
            compact_revision: word_at(bytes, at::COMPACT_REVISION) as i64,
            total_bytes: word_at(bytes, at::TOTAL_BYTES),
            payload_bytes: word_at(bytes, at::PAYLOAD_BYTES),
            records: word_at(bytes, at::RECORDS),
            keys: word_at(bytes, at::KEYS),
            group: u32_at(bytes, at::GROUP),
            features,
        };
        let lengths = [header.total_bytes, header.payload_bytes, header.records];
        let fits = match header.is_streamed() {
            true => lengths == [NOT_COUNTED; 3],
            false => features == 0 && image_bytes(header.payload_bytes) == Some(header.total_bytes),
        };
        if fits { Ok(header) } else { Err(damaged("its length does not fit its payload")) }
    }

    /// Its lengths are not known before its end.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.features & FEATURE_STREAMED != 0
    }
}

/// Length of an image with so much payload; absent where no image is that long.
fn image_bytes(payload_bytes: u64) -> Option<u64> {
    let full = payload_bytes / BLOCK_PAYLOAD_BYTES as u64;
    let last = match payload_bytes % BLOCK_PAYLOAD_BYTES as u64 {
        0 => 0,
        rest => (BLOCK_HEADER_BYTES as u64 + rest).next_multiple_of(HEADER_BYTES as u64),
    };
    full.checked_mul(BLOCK_BYTES as u64)?.checked_add(last + HEADER_BYTES as u64)
}

fn header_checksum(bytes: &[u8; HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..at::CRC]);
    hasher.update(&bytes[at::FEATURES_IGNORE..]);
    hasher.finalize()
}

/// CRC of a block, seeded with the image's header, so that blocks of two images can't be mixed.
fn block_checksum(header_crc: u32, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header_crc.to_le_bytes());
    hasher.update(&block[4..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]))
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]))
}
