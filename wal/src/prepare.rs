//! Keeps the next segment ready, so that no batch ever waits for the file system's journal.
//!
//! ```text
//!              no segment released                               (128 KiB a slice, between batches)
//! Rest ───────────────────────────────► Create ─► Fill ⇄ FillSync ─┐
//!   │  a released one of the right size                            ▼
//!   ├─► TakeOld ─► TakeOldSync ────────────────────────────────► Header ─► Publish ─► PublishSync ─► ready
//!   │  more released ones than are kept, or of another size
//!   └─► Drop ─► DropSync ─► Rest              out of space anywhere: Discard ─► DiscardSync ─► OutOfSpace
//! ```
//!
//! The file has the name `.new` until its header is on disk: whatever carries the name `.wal` has a good header, or is
//! damaged. Each change of the directory is made durable before the next one, so a crash never leaves a gap in the
//! row of segments.

use crate::batch::blocks_for;
use crate::buffer::AlignedBuffer;
use crate::disk::{Completion, DiskError, FileName, Io, Purpose};
use crate::error::WalError;
use crate::format::{BLOCK_BYTES, Features, Identity, SegmentHeader};

/// Slices between two syncs while a new segment is filled: bounds what a sync has to write.
const SLICES_PER_SYNC: u32 = 16;
/// How often a short write is tried again.
pub(crate) const SHORT_WRITES_MAX: u32 = 3;
/// Pause before the disk is asked for space again.
const SPACE_RETRY_NANOS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rest,
    Create,
    Fill,
    FillSync,
    TakeOld { generation: u64 },
    TakeOldSync,
    Header,
    Publish,
    PublishSync,
    Drop { generation: u64 },
    DropSync,
    Discard,
    DiscardSync,
    OutOfSpace { retry_at: Option<u64> },
}

/// What the preparation may take at this moment.
pub(crate) struct Released {
    /// Generation and size of the oldest segment, if it is released.
    pub oldest: Option<(u64, u32)>,
    /// How many are released, counted to one more than are kept.
    pub count: usize,
}

/// The state of the next segment.
pub(crate) struct Preparation {
    identity: Identity,
    segment_blocks: u32,
    spare_segments: usize,
    slice_bytes: usize,
    /// Generation of the segment that is ready or next.
    generation: u64,
    ready: bool,
    step: Step,
    under_way: bool,
    filled_bytes: u64,
    slices_unsynced: u32,
    short_writes: u32,
    buffer: Option<AlignedBuffer>,
    space_error: Option<DiskError>,
}

impl Preparation {
    pub(crate) fn new(
        identity: Identity,
        segment_blocks: u32,
        spare_segments: usize,
        slice_bytes: usize,
        generation: u64,
        ready: bool,
    ) -> Preparation {
        Preparation {
            identity,
            segment_blocks,
            spare_segments,
            slice_bytes,
            generation,
            ready,
            step: Step::Rest,
            under_way: false,
            filled_bytes: 0,
            slices_unsynced: 0,
            short_writes: 0,
            buffer: None,
            space_error: None,
        }
    }

    /// Takes the segment that is ready: its generation.
    pub(crate) fn take(&mut self) -> Option<u64> {
        if !core::mem::take(&mut self.ready) {
            return None;
        }
        self.generation += 1;
        Some(self.generation - 1)
    }

    /// Why there is no next segment yet, if space is what is missing.
    pub(crate) fn space_error(&self) -> Option<&DiskError> {
        self.space_error.as_ref()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Bytes of the file that are filled; as many as the segment has when nothing is left to fill.
    pub(crate) fn filled_bytes(&self) -> u64 {
        if self.ready { self.segment_bytes() } else { self.filled_bytes }
    }

    /// Notes the time; the result is when to call again.
    pub(crate) fn wake(&mut self, now_nanos: u64) -> Option<u64> {
        let Step::OutOfSpace { retry_at } = &mut self.step else { return None };
        let due = *retry_at.get_or_insert(now_nanos.saturating_add(SPACE_RETRY_NANOS));
        if now_nanos < due {
            return Some(due);
        }
        self.step = Step::Rest;
        None
    }

    /// The next operation, if there is one. A segment that `released` offers and that is taken is no longer the log's:
    /// the second value is its generation.
    pub(crate) fn next_io(&mut self, released: &Released) -> Option<(Io, Option<u64>)> {
        if self.under_way {
            return None;
        }
        if matches!(self.step, Step::Rest | Step::OutOfSpace { .. }) {
            self.step = self.choose(released)?;
        }
        self.under_way = true;
        let (preparing, segment) = (FileName::Preparing(self.generation), FileName::Segment(self.generation));
        Some(match self.step {
            Step::Create => {
                let (bytes, purpose) = (self.segment_bytes(), Purpose::NextCreate);
                (Io::Create { file: preparing, bytes, purpose }, None)
            }
            Step::Fill => (self.slice(preparing), None),
            Step::FillSync => (Io::Sync { file: preparing, purpose: Purpose::NextFillSync }, None),
            Step::TakeOld { generation } => {
                let (from, purpose) = (FileName::Segment(generation), Purpose::NextTake);
                (Io::Rename { from, to: preparing, purpose }, Some(generation))
            }
            Step::Header => (self.header(preparing), None),
            Step::Publish => (Io::Rename { from: preparing, to: segment, purpose: Purpose::NextPublish }, None),
            Step::Drop { generation } => {
                (Io::Delete { file: FileName::Segment(generation), purpose: Purpose::Drop }, Some(generation))
            }
            Step::Discard => (Io::Delete { file: preparing, purpose: Purpose::Discard }, None),
            Step::TakeOldSync => (Io::SyncDirectory { purpose: Purpose::NextTakeSync }, None),
            Step::PublishSync => (Io::SyncDirectory { purpose: Purpose::NextPublishSync }, None),
            Step::DropSync => (Io::SyncDirectory { purpose: Purpose::DropSync }, None),
            Step::DiscardSync => (Io::SyncDirectory { purpose: Purpose::DiscardSync }, None),
            Step::Rest | Step::OutOfSpace { .. } => unreachable!("a step was chosen above"),
        })
    }

    fn choose(&self, released: &Released) -> Option<Step> {
        match released.oldest {
            Some((generation, blocks)) if !self.ready && blocks == self.segment_blocks => {
                Some(Step::TakeOld { generation })
            }
            Some((generation, blocks)) if blocks != self.segment_blocks || released.count > self.spare_segments => {
                Some(Step::Drop { generation })
            }
            _ if self.ready || matches!(self.step, Step::OutOfSpace { .. }) => None,
            _ => Some(Step::Create),
        }
    }

    fn slice(&mut self, file: FileName) -> Io {
        let left = self.segment_bytes() - self.filled_bytes;
        let bytes = left.min(self.slice_bytes as u64) as usize;
        let mut buffer =
            self.buffer.take().unwrap_or_else(|| AlignedBuffer::zeroed(self.slice_bytes.div_ceil(BLOCK_BYTES)));
        buffer.set_length(bytes);
        buffer.fill(0);
        Io::Write { file, offset: self.filled_bytes, buffer, sync: false, purpose: Purpose::NextFill }
    }

    fn header(&mut self, file: FileName) -> Io {
        let mut buffer = AlignedBuffer::zeroed(blocks_for(0));
        let header = SegmentHeader {
            identity: self.identity,
            features: Features::default(),
            generation: self.generation,
            segment_blocks: self.segment_blocks,
        };
        header.encode(&mut buffer);
        Io::Write { file, offset: 0, buffer, sync: true, purpose: Purpose::NextHeader }
    }

    fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_blocks) * BLOCK_BYTES as u64
    }

    /// Takes the result of the operation under way.
    ///
    /// # Errors
    /// What the log does not survive: anything but missing space.
    pub(crate) fn completed(&mut self, completion: Completion) -> Result<(), WalError> {
        self.under_way = false;
        let written = match completion.result {
            Ok(written) => written,
            Err(error) if error.is_out_of_space() && self.is_building() => {
                self.space_error = Some(error);
                self.step = Step::Discard;
                return Ok(());
            }
            // It could not even be created.
            Err(error) if error.errno == libc::ENOENT && self.step == Step::Discard => 0,
            Err(error) => return Err(error.into()),
        };
        let expected = completion.buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
        if self.step == Step::Fill {
            self.buffer = completion.buffer;
        }
        if written != expected {
            self.short_writes += 1;
            let file = FileName::Preparing(self.generation);
            let error = WalError::ShortWrite { file, offset: self.filled_bytes };
            return if self.short_writes > SHORT_WRITES_MAX { Err(error) } else { Ok(()) };
        }
        self.short_writes = 0;
        self.step = self.following(expected);
        Ok(())
    }

    fn is_building(&self) -> bool {
        matches!(self.step, Step::Create | Step::Fill | Step::FillSync | Step::Header)
    }

    fn following(&mut self, written: u64) -> Step {
        match self.step {
            Step::Create => {
                (self.filled_bytes, self.slices_unsynced) = (0, 0);
                Step::Fill
            }
            Step::Fill => {
                self.filled_bytes += written;
                self.slices_unsynced += 1;
                let full = self.filled_bytes == self.segment_bytes();
                if full || self.slices_unsynced == SLICES_PER_SYNC { Step::FillSync } else { Step::Fill }
            }
            Step::FillSync => {
                self.slices_unsynced = 0;
                if self.filled_bytes == self.segment_bytes() { Step::Header } else { Step::Fill }
            }
            Step::TakeOld { .. } => Step::TakeOldSync,
            Step::TakeOldSync => Step::Header,
            Step::Header => Step::Publish,
            Step::Publish => Step::PublishSync,
            Step::PublishSync => {
                (self.ready, self.buffer, self.space_error, self.filled_bytes) = (true, None, None, 0);
                Step::Rest
            }
            Step::Drop { .. } => Step::DropSync,
            Step::DropSync => Step::Rest,
            Step::Discard => Step::DiscardSync,
            Step::DiscardSync => {
                self.filled_bytes = 0;
                Step::OutOfSpace { retry_at: None }
            }
            Step::Rest | Step::OutOfSpace { .. } => unreachable!("nothing was under way"),
        }
    }
}
