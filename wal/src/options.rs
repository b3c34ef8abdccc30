//! Settings of a log.

use crate::error::WalError;
use crate::format::{BLOCK_BYTES, Identity, SEGMENT_BLOCKS_MAX, SEGMENT_BLOCKS_MIN};

/// Settings of a log; [`Options::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose log it is. A log of another identity is refused.
    pub identity: Identity,
    /// Whether to begin a log where there is none. Only for a member's first start: later a missing log must be an
    /// error, never an empty one.
    pub create: bool,
    /// Size of a segment: a multiple of 4096, from 32 KiB to 4 GiB. Bounds the largest record, too. May differ from that
    /// of existing segments.
    pub segment_bytes: u64,
    /// Bound of a batch in memory (two exist). A longer record gets a batch of its own. At least 4096.
    pub batch_bytes_max: usize,
    /// Quiet time before a closing block, in nanoseconds.
    pub quiet_nanos: u64,
    /// Released segments that are kept for recycling besides the next one; more are deleted.
    pub spare_segments: usize,
    /// Slice in which a new segment is filled with zeros: a multiple of 4096.
    pub fill_slice_bytes: usize,
    /// For each group the index of the first entry that its owner still needs. At open, segments that end before all of
    /// these are not read beyond their starts: what they carry over stands in the start of the first one that is. Empty: all
    /// is read.
    pub needed_from: Vec<(u32, u64)>,
}

impl Options {
    /// The defaults: segments of 16 MiB (an open reads one that is not filled yet to its end), batches of up to 4 MiB,
    /// closing after 10 ms, four spare segments.
    #[must_use]
    pub fn new(identity: Identity) -> Options {
        Options {
            identity,
            create: false,
            segment_bytes: 16 << 20,
            batch_bytes_max: 4 << 20,
            quiet_nanos: 10_000_000,
            spare_segments: 4,
            fill_slice_bytes: 128 << 10,
            needed_from: Vec::new(),
        }
    }

    /// # Errors
    /// [`WalError::Option`] names the first that is out of its range.
    pub fn check(&self) -> Result<(), WalError> {
        let block = BLOCK_BYTES as u64;
        let (least, most) = (u64::from(SEGMENT_BLOCKS_MIN) * block, u64::from(SEGMENT_BLOCKS_MAX) * block);
        range("segment_bytes", self.segment_bytes, least, most)?;
        range("segment_bytes modulo 4096", self.segment_bytes % block, 0, 0)?;
        range("batch_bytes_max", self.batch_bytes_max as u64, block, 1 << 30)?;
        range("fill_slice_bytes", self.fill_slice_bytes as u64, block, 16 << 20)?;
        range("fill_slice_bytes modulo 4096", self.fill_slice_bytes as u64 % block, 0, 0)
    }

    pub(crate) fn segment_blocks(&self) -> u32 {
        u32::try_from(self.segment_bytes / BLOCK_BYTES as u64).expect("checked by Options::check")
    }
}

fn range(option: &'static str, value: u64, least: u64, most: u64) -> Result<(), WalError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(WalError::Option { option, value, least, most }) }
}
