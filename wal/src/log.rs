//! The log as a state machine: records go in, operations come out, completions go back in.
//!
//! ```text
//! append ─► filling batch ──seal──► one write with its sync in flight ──completed──► synced
//!               ▲                        (the next batch fills meanwhile: the disk's pace is the batch window)
//!               └── memory bounded: Full
//! ```
//!
//! Method grammar: `append`, `release`, `quiet`, `close` and `completed` are inputs; `poll_io` is the output; the rest
//! are questions. Time is an argument, monotonic nanoseconds from any origin.
//!
//! Order, asserted in [`Log::append`] and [`Log::completed`]: synced <= sealed < filling.

use crate::batch::{UnitBuffer, blocks_for};
use crate::buffer::AlignedBuffer;
use crate::carry::{Carry, GROUPS_MAX};
use crate::disk::{Completion, DiskError, FileName, Io, Purpose, Token};
use crate::error::WalError;
use crate::format::{BLOCK_BYTES, UnitKind};
use crate::options::Options;
use crate::pace::{BatchNotes, Marks};
use crate::prepare::{Preparation, Released, SHORT_WRITES_MAX};
use crate::record::{Kind, Record};
use crate::segment::{HolderId, Holders, Segment};
use std::collections::VecDeque;

/// Blocks of a new batch buffer; it grows to what the load needs and stays there.
const BUFFER_BLOCKS: usize = 16;

/// Numbers batches from 1 on, in the order in which they reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchNumber(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Start { generation: u64, blocks: u32 },
    Batch { number: u64, blocks: u32 },
    Closing,
}

impl Writing {
    fn purpose(self) -> Purpose {
        match self {
            Writing::Start { .. } => Purpose::SegmentStart,
            Writing::Batch { .. } => Purpose::Batch,
            Writing::Closing => Purpose::Closing,
        }
    }
}

struct InFlight {
    token: Token,
    what: Writing,
    file: FileName,
    offset: u64,
    short_writes: u32,
    /// The buffer of a write that came back short and has to be given out again.
    again: Option<AlignedBuffer>,
}

/// Where recovery left the log.
pub(crate) struct Position {
    /// Segments with records, the active one last; none in a new log.
    pub segments: VecDeque<Segment>,
    /// First free block of the active segment.
    pub next_block: u32,
    /// Number of the last batch.
    pub last_batch: u64,
    /// CRC of its last record.
    pub chain: u32,
    pub carry: Carry,
    pub marks: Marks,
    /// Generation of the segment that is ready, or of the next one to prepare.
    pub generation: u64,
    pub ready: bool,
}

/// The log.
pub struct Log {
    options: Options,
    seed: u32,
    segments: VecDeque<Segment>,
    next_block: u32,
    start_wanted: bool,
    filling: UnitBuffer,
    filling_notes: BatchNotes,
    written_notes: BatchNotes,
    spare: Option<AlignedBuffer>,
    carry: Carry,
    marks: Marks,
    holders: Holders,
    in_flight: Option<InFlight>,
    preparation: Preparation,
    preparation_token: Option<Token>,
    slice_credit: bool,
    synced: u64,
    /// The disk holds proof that the last batch was synced: a closing block or a later segment's start.
    proven: bool,
    closing_wanted: bool,
    ended: bool,
    activity: u64,
    quiet_since: Option<(u64, u64)>,
    token_next: u64,
    failure: Option<WalError>,
}

impl Log {
    pub(crate) fn from_position(options: Options, position: Position) -> Log {
        let filling = UnitBuffer::new(
            UnitKind::Batch,
            position.last_batch + 1,
            position.chain,
            AlignedBuffer::zeroed(BUFFER_BLOCKS),
        );
        let preparation = Preparation::new(
            options.identity,
            options.segment_blocks(),
            options.spare_segments,
            options.fill_slice_bytes,
            position.generation,
            position.ready,
        );
        Log {
            seed: options.identity.seed(),
            start_wanted: position.segments.is_empty(),
            segments: position.segments,
            next_block: position.next_block,
            filling,
            filling_notes: BatchNotes::default(),
            written_notes: BatchNotes::default(),
            spare: None,
            carry: position.carry,
            marks: position.marks,
            holders: Holders::default(),
            in_flight: None,
            preparation,
            preparation_token: None,
            slice_credit: false,
            synced: position.last_batch,
            proven: true,
            closing_wanted: false,
            ended: false,
            activity: 0,
            quiet_since: None,
            token_next: 0,
            failure: None,
            options,
        }
    }

    /// Adds a record to the batch that fills; copies the payload once. Nothing is durable until [`Log::synced`] reaches
    /// the returned number.
    ///
    /// # Errors
    /// [`WalError::Full`] if the batch before must be synced first; [`WalError::RecordTooLarge`],
    /// [`WalError::ReservedKind`], [`WalError::Closed`]; after a failed write or sync that first error, for ever.
    /// Nothing was appended.
    pub fn append(&mut self, record: Record<'_>) -> Result<BatchNumber, WalError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.ended {
            return Err(WalError::Closed);
        }
        self.check_fits(&record)?;
        assert!(self.synced < self.filling.number(), "a synced batch takes no more records");
        self.filling.append(&record);
        self.filling_notes.note(&record);
        self.carry.note(&record);
        self.activity += 1;
        Ok(BatchNumber(self.filling.number()))
    }

    fn check_fits(&self, record: &Record<'_>) -> Result<(), WalError> {
        if record.kind == Kind::Position {
            return Err(WalError::ReservedKind);
        }
        let carried = if record.kind.is_carried() { record.encoded_bytes() } else { 0 };
        let start_blocks = blocks_for(self.carry.encoded_bytes_max() + carried);
        // Header and closing block take one each.
        let blocks_max = (self.options.segment_blocks() as usize).saturating_sub(2 + start_blocks);
        let bytes_max = record.kind.payload_bytes_max();
        let bytes = record.payload.len();
        let alone = blocks_for(record.encoded_bytes());
        if bytes > bytes_max || alone > blocks_max || !self.carry.has_room_for(record.group) {
            let fitting = blocks_max * crate::format::BLOCK_PAYLOAD_BYTES;
            return Err(if self.carry.has_room_for(record.group) {
                WalError::RecordTooLarge { bytes, bytes_max: bytes_max.min(fitting) }
            } else {
                WalError::TooManyGroups { most: GROUPS_MAX }
            });
        }
        let batch_blocks_max = blocks_max.min(self.options.batch_bytes_max / BLOCK_BYTES);
        if !self.filling.is_empty() && self.filling.blocks_with(record.encoded_bytes()) > batch_blocks_max {
            return Err(WalError::Full);
        }
        Ok(())
    }

    /// The next operation for the disk, with the token that its completion must carry. Call until `None`, after every
    /// input.
    pub fn poll_io(&mut self) -> Option<(Token, Io)> {
        if self.failure.is_some() {
            return None;
        }
        self.next_write().or_else(|| self.next_preparation())
    }

    fn next_write(&mut self) -> Option<(Token, Io)> {
        if let Some(in_flight) = &mut self.in_flight {
            let buffer = in_flight.again.take()?;
            let (file, offset, purpose) = (in_flight.file, in_flight.offset, in_flight.what.purpose());
            return Some((in_flight.token, Io::Write { file, offset, buffer, sync: true, purpose }));
        }
        if !self.filling.is_empty() || self.start_wanted {
            if self.fits_active() { Some(self.write_batch(self.filling.blocks() as u32)) } else { self.write_start() }
        } else if (self.closing_wanted || self.ended) && !self.proven {
            Some(self.write_closing())
        } else {
            None
        }
    }

    /// Whether the active segment has room for the batch being filled. Its last block is kept for a closing block.
    fn fits_active(&self) -> bool {
        let needed = self.filling.blocks() as u32;
        self.segments.back().is_some_and(|active| self.next_block + needed < active.blocks)
    }

    fn write_batch(&mut self, blocks: u32) -> (Token, Io) {
        let active = self.segments.back().expect("there is an active segment");
        let (generation, number) = (active.generation, self.filling.number());
        let buffer = self.spare.take().unwrap_or_else(|| AlignedBuffer::zeroed(BUFFER_BLOCKS));
        let next = UnitBuffer::new(UnitKind::Batch, number + 1, self.filling.chain(), buffer);
        let sealed = core::mem::replace(&mut self.filling, next).seal(self.seed, generation, self.next_block);
        self.carry.seal();
        core::mem::swap(&mut self.filling_notes, &mut self.written_notes);
        self.filling_notes.clear();
        self.proven = false;
        self.emit(Writing::Batch { number, blocks }, generation, self.next_block, sealed)
    }

    fn write_start(&mut self) -> Option<(Token, Io)> {
        let generation = self.preparation.take()?;
        let (number, chain) = (self.filling.number() - 1, self.filling.chain_before());
        let mut start = UnitBuffer::new(UnitKind::Start, number, chain, AlignedBuffer::zeroed(1));
        self.carry.records().for_each(|record| start.append(&record));
        let blocks = start.blocks() as u32;
        let sealed = start.seal(self.seed, generation, 1);
        Some(self.emit(Writing::Start { generation, blocks }, generation, 1, sealed))
    }

    fn write_closing(&mut self) -> (Token, Io) {
        let active = self.segments.back().expect("there is an active segment");
        assert!(self.next_block < active.blocks, "a block is kept for closing");
        let (number, chain) = (self.filling.number() - 1, self.filling.chain_before());
        let generation = active.generation;
        let closing = UnitBuffer::new(UnitKind::Closing, number, chain, AlignedBuffer::zeroed(1));
        let sealed = closing.seal(self.seed, generation, self.next_block);
        self.emit(Writing::Closing, generation, self.next_block, sealed)
    }

    fn emit(&mut self, what: Writing, generation: u64, block: u32, buffer: AlignedBuffer) -> (Token, Io) {
        let (file, offset) = (FileName::Segment(generation), u64::from(block) * BLOCK_BYTES as u64);
        let token = self.token();
        self.in_flight = Some(InFlight { token, what, file, offset, short_writes: 0, again: None });
        (token, Io::Write { file, offset, buffer, sync: true, purpose: what.purpose() })
    }

    fn next_preparation(&mut self) -> Option<(Token, Io)> {
        if self.preparation.is_under_way() || (self.ended && self.filling.is_empty()) || !self.may_prepare() {
            return None;
        }
        let released = self.released();
        let (io, taken) = self.preparation.next_io(&released)?;
        if let Some(generation) = taken {
            let gone = self.segments.pop_front().expect("the oldest segment was offered");
            assert_eq!(gone.generation, generation, "segments go in their order");
            self.marks.forget_before(self.segments.front().map_or(u64::MAX, |segment| segment.bytes_before));
        }
        self.slice_credit = false;
        let token = self.token();
        self.preparation_token = Some(token);
        Some((token, io))
    }

    /// One slice goes with each batch, any number when nothing waits or all waits for the next segment, and as many as
    /// possible when the active segment fills faster than the next one.
    fn may_prepare(&self) -> bool {
        let idle = self.in_flight.is_none() && (self.filling.is_empty() || !self.fits_active());
        let used_bytes = u64::from(self.next_block) * BLOCK_BYTES as u64;
        idle || self.slice_credit || self.segments.is_empty() || used_bytes * 2 > self.preparation.filled_bytes()
    }

    fn released(&self) -> Released {
        let active = self.segments.len().saturating_sub(1);
        let allowed = |segment: &&Segment| self.holders.allow(segment);
        let count = self.segments.iter().take(active).take_while(allowed).take(self.options.spare_segments + 1).count();
        let oldest = self.segments.front().filter(|_| count > 0).map(|segment| (segment.generation, segment.blocks));
        Released { oldest, count }
    }

    fn token(&mut self) -> Token {
        self.token_next += 1;
        Token(self.token_next)
    }

    /// Takes the result of an operation. An error of a write or a sync is final: see [`Log::failure`].
    pub fn completed(&mut self, completion: Completion) {
        self.activity += 1;
        if self.preparation_token == Some(completion.token) {
            self.preparation_token = None;
            if let Err(error) = self.preparation.completed(completion) {
                self.fail(error);
            }
            return;
        }
        let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.token == completion.token) else {
            return self.fail(WalError::UnknownToken(completion.token.0));
        };
        match completion.result {
            Err(error) => self.fail(error.into()),
            Ok(written) => self.written(in_flight, written, completion.buffer),
        }
    }

    fn written(&mut self, mut in_flight: InFlight, written: u64, buffer: Option<AlignedBuffer>) {
        let Some(buffer) = buffer.filter(|buffer| !buffer.is_empty()) else {
            return self.fail(WalError::UnknownToken(in_flight.token.0));
        };
        if written != buffer.len() as u64 {
            in_flight.short_writes += 1;
            if in_flight.short_writes > SHORT_WRITES_MAX {
                return self.fail(WalError::ShortWrite { file: in_flight.file, offset: in_flight.offset });
            }
            in_flight.again = Some(buffer);
            self.in_flight = Some(in_flight);
            return;
        }
        match in_flight.what {
            Writing::Start { generation, blocks } => self.started(generation, blocks),
            Writing::Batch { number, blocks } => self.batch_synced(number, blocks, buffer),
            Writing::Closing => {
                self.next_block += 1;
                (self.proven, self.closing_wanted) = (true, false);
            }
        }
    }

    fn started(&mut self, generation: u64, start_blocks: u32) {
        let blocks = self.options.segment_blocks();
        self.segments.push_back(Segment { generation, blocks, bytes_before: self.marks.bytes(), highest: Vec::new() });
        self.next_block = 1 + start_blocks;
        (self.start_wanted, self.proven) = (false, true);
    }

    fn batch_synced(&mut self, number: u64, blocks: u32, buffer: AlignedBuffer) {
        assert_eq!(number, self.synced + 1, "batches are synced one by one");
        self.synced = number;
        self.next_block += blocks;
        self.slice_credit = true;
        self.written_notes.apply(&mut self.segments, &mut self.marks, u64::from(blocks) * BLOCK_BYTES as u64);
        // A buffer that grew for one huge record is not kept.
        if buffer.capacity() <= self.options.batch_bytes_max.saturating_mul(2) {
            self.spare = Some(buffer);
        }
    }

    fn fail(&mut self, error: WalError) {
        self.failure.get_or_insert(error);
    }

    /// All batches up to this one are on disk.
    #[must_use]
    pub fn synced(&self) -> BatchNumber {
        BatchNumber(self.synced)
    }

    /// The batch that the next record goes to.
    #[must_use]
    pub fn filling(&self) -> BatchNumber {
        BatchNumber(self.filling.number())
    }

    /// The first error. The log refuses everything after it: stop acknowledging, hand over, exit.
    #[must_use]
    pub fn failure(&self) -> Option<&WalError> {
        self.failure.as_ref()
    }

    /// Why the next segment could not be made, if space is missing. The active one goes on until it is full; refuse
    /// new writes now. Clears itself.
    #[must_use]
    pub fn space_error(&self) -> Option<&DiskError> {
        self.preparation.space_error()
    }

    /// Bytes that wait in the batch being filled, block heads included. With [`Log::is_full`] for back-pressure.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        if self.filling.is_empty() { 0 } else { self.filling.blocks() * BLOCK_BYTES }
    }

    /// Whether the batch being filled has reached its bound: most records would be refused with [`WalError::Full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.backlog_bytes() + BLOCK_BYTES > self.options.batch_bytes_max
    }

    /// Whether nothing waits and no write of the log is in flight (the next segment may still be prepared).
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.in_flight.is_none() && !self.start_wanted
    }

    /// Whether [`Log::close`] has finished: the last batch is proven on disk and no operation is under way.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ended && self.is_idle() && self.proven && !self.preparation.is_under_way()
    }

    /// Whether the next segment is ready.
    #[must_use]
    pub fn has_next_segment(&self) -> bool {
        self.preparation.is_ready()
    }

    /// Whether the disk holds proof of the last synced batch, so that damage to it is never taken for a torn write.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Segments with records, the active one included.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Registers a holder that needs the entries of `group` from `index` on. Without any holder nothing is released, and a
    /// group without a holder keeps all of its segments.
    pub fn register_holder(&mut self, name: &'static str, group: u32, index: u64) -> HolderId {
        self.holders.register(name, group, index)
    }

    /// The holder needs entries below `index` no more. Segments below the minimum over all holders are recycled in the
    /// background, oldest first.
    pub fn release(&mut self, holder: HolderId, index: u64) {
        self.holders.release(holder, index);
    }

    /// Who holds the log of `group` back most, and from which index on.
    #[must_use]
    pub fn slowest_holder(&self, group: u32) -> Option<(&'static str, u64)> {
        self.holders.slowest(group)
    }

    /// Bytes that a replay from entry `index` of `group` would read, rounded up by less than 64 KiB and one batch: paces
    /// checkpoints.
    #[must_use]
    pub fn log_bytes_since(&self, group: u32, index: u64) -> u64 {
        self.marks.bytes_since(group, index)
    }

    /// Tells the time. After [`Options::quiet_nanos`] without activity a closing block is written, once; then an idle log
    /// writes nothing. Returns when to call again at the latest, if at all; any activity calls for a call, too.
    pub fn quiet(&mut self, now_nanos: u64) -> Option<u64> {
        let retry = self.preparation.wake(now_nanos);
        let busy = !self.is_idle() || self.failure.is_some() || self.ended;
        if busy || self.proven {
            self.quiet_since = None;
            return retry;
        }
        let since = match self.quiet_since {
            Some((activity, since)) if activity == self.activity => since,
            _ => now_nanos,
        };
        self.quiet_since = Some((self.activity, since));
        let due = since.saturating_add(self.options.quiet_nanos);
        if now_nanos >= due {
            self.closing_wanted = true;
            return retry;
        }
        Some(retry.map_or(due, |retry| retry.min(due)))
    }

    /// No more records: what waits is written, then a closing block. [`Log::is_closed`] says when that is on disk.
    pub fn close(&mut self) {
        self.ended = true;
    }

    /// Whether an operation was given out whose completion has not come back.
    #[must_use]
    pub fn awaits_completion(&self) -> bool {
        let writing = self.in_flight.as_ref().is_some_and(|in_flight| in_flight.again.is_none());
        writing || self.preparation.is_under_way()
    }

    pub(crate) fn is_started(&self) -> bool {
        !self.start_wanted && !self.preparation.is_under_way()
    }
}
