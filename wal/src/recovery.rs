//! Where does the log end, and may what lies behind the end be cut?
//!
//! Cut too much, and an acknowledged write is gone; too little, and the member never starts after an honest power cut, or
//! a torn batch comes back to life after the next one. Blocks of one unsynced batch land in any order; the log has one
//! batch in flight, so whatever proves a later batch proves this one synced. This file does not know what a
//! record means, and repairs nothing but the tail.
//!
//! ```text
//! What the rest of the last segment shows from the first block on that does not continue the chain:
//!   P  a good block there, or in a later segment, proves that the missing batch was synced
//!   S  a good block of this log stands where it was never written
//!   U  unreadable blocks, or pieces of the missing batch
//!   G  the first block is a good one of an older generation
//!   P S U G  outcome
//!   1 - - -  Damaged      stop: acknowledged writes are unreadable
//!   0 1 - -  BrokenChain  stop: blocks were moved or put back
//!   0 0 1 -  TornTail     cut, durably: no acknowledgement can have covered it
//!   0 0 0 1  OldGhost     end of log: the file's former life
//!   0 0 0 0  Zeros        end of log
//! ```
//!
//! Before it gets there, every segment must have a good header of this identity, version and generation, the right size,
//! no gap before it, and its start must continue the segment before: each has an error of its own.

use crate::batch::UnitBuffer;
use crate::buffer::AlignedBuffer;
use crate::carry::Carry;
use crate::disk::{Disk, FileEntry, FileName, Io, Purpose, run_blocking};
use crate::drive::run_until;
use crate::error::{Damage, DamageCause, WalError};
use crate::format::{
    BLOCK_BYTES, BlockHeader, FEATURES_KNOWN, FORMAT_VERSION, HeaderFault, Identity, SegmentHeader, UnitKind,
};
use crate::log::{BatchNumber, Log, Position};
use crate::options::Options;
use crate::pace::{BatchNotes, Marks};
use crate::record::{Kind, Record, Records};
use crate::repair::{Listed, offset_of_block, remove_unfinished, settle_unstarted, zero_blocks};
use crate::scan::{BlockClass, Window, proves};
use crate::segment::Segment;
use std::collections::VecDeque;

/// Batch numbers and generations beyond this are not believed: counting never gets there.
const NUMBER_MAX: u64 = u64::MAX >> 1;

/// How the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none; a new one was begun.
    Created,
    /// With a closing block or a fresh segment: the last batch was proven.
    Closed,
    /// With zeros behind the last batch.
    Zeros,
    /// With blocks of the file's former life behind the last batch.
    OldGhost,
    /// With pieces of a batch that was never acknowledged; they were cut.
    TornTail {
        /// The batch.
        batch: u64,
        /// The file.
        file: FileName,
        /// Offset of its first block.
        offset: u64,
    },
}

/// What recovery found. Everything that it delivered is durable when [`Log::open`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// How the log ended.
    pub outcome: Outcome,
    /// Segments with records, unread ones among them.
    pub segments: usize,
    /// Segments of which nothing was needed.
    pub unread: usize,
    /// Batches that were read.
    pub batches: u64,
    /// Records that were delivered.
    pub records: u64,
    /// The last batch.
    pub last_batch: BatchNumber,
    /// For each group the term (0: not known) and index of its last entry before the first segment that was read: the oldest
    /// entry that was delivered follows it. Groups that began in that segment are not listed.
    pub before_first: Vec<(u32, u64, u64)>,
}

/// Facts of the table above.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    proven: Option<u64>,
    stray: Option<(u32, u64)>,
    unreadable: bool,
    ghost: bool,
    /// One more than the last block that has to be zeroed if the tail is cut.
    dirty_end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TailOutcome {
    Damaged { proven: u64 },
    BrokenChain { position: u32, batch: u64 },
    TornTail,
    OldGhost,
    Zeros,
}

impl Tail {
    fn outcome(&self) -> TailOutcome {
        match (self.proven, self.stray, self.unreadable, self.ghost) {
            (Some(proven), _, _, _) => TailOutcome::Damaged { proven },
            (None, Some((position, batch)), _, _) => TailOutcome::BrokenChain { position, batch },
            (None, None, true, _) => TailOutcome::TornTail,
            (None, None, false, true) => TailOutcome::OldGhost,
            (None, None, false, false) => TailOutcome::Zeros,
        }
    }
}

enum Start {
    Started { number: u64, chain: u32, next_block: u32 },
    Unstarted { dirty_end: u32, proven: u64 },
}

/// Where a scan ended: the last segment with records, and those after it.
struct ScanEnd {
    tail: Listed,
    next_block: u32,
    closed: bool,
    unstarted: Vec<(Listed, u32)>,
    unstarted_proven: u64,
}

impl Log {
    /// Opens the log: reads all of it that is needed ([`Options::needed_from`]) once, in physical order and bounded memory (one
    /// window and one batch), gives each record of a complete batch to `visit`, and makes a cut durable. Blocks. On an error forget all that `visit`
    /// saw. When it returns, everything delivered is on disk and proven; opening again after a crash at any moment
    /// delivers the same.
    ///
    /// Carried records (the last hard state, configuration and checkpoint of each group before the first segment that is
    /// read) come first.
    ///
    /// # Errors
    /// [`WalError`]: each kind of damage has its own, and nothing was repaired.
    pub fn open(
        disk: &mut dyn Disk,
        options: Options,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<(Log, Recovered), WalError> {
        options.check()?;
        let files = disk.list()?;
        let listed = check_headers(disk, options.identity, &files)?;
        let mut scan = Scan::new(disk, options.identity, visit);
        let unread = scan.skip(&listed, &options.needed_from)?;
        let end = scan.run(&listed[unread..])?;
        let Some(end) = end else { return create(scan, options, &listed, &files) };
        let (outcome, tail) = scan.judge(&end)?;
        scan.finish(options, end, tail, outcome, &files)
    }
}

/// Reads the log without writing anything, as [`Log::open`] would.
///
/// # Errors
/// [`WalError`], as [`Log::open`].
pub fn read_only(
    disk: &mut dyn Disk,
    identity: Identity,
    visit: &mut dyn FnMut(Record<'_>),
) -> Result<Recovered, WalError> {
    let files = disk.list()?;
    let listed = check_headers(disk, identity, &files)?;
    let mut scan = Scan::new(disk, identity, visit);
    let end = scan.run(&listed)?.ok_or(WalError::NoLog)?;
    let (outcome, _) = scan.judge(&end)?;
    Ok(scan.recovered(outcome))
}

/// The segments in order; every one has a good header and there is no gap.
fn check_headers(disk: &mut dyn Disk, identity: Identity, files: &[FileEntry]) -> Result<Vec<Listed>, WalError> {
    let mut segments: Vec<(u64, u64)> = files
        .iter()
        .filter_map(|entry| match entry.name {
            FileName::Segment(generation) => Some((generation, entry.bytes)),
            FileName::Preparing(_) => None,
        })
        .collect();
    segments.sort_unstable();
    for pair in segments.windows(2) {
        if pair[0].0 + 1 != pair[1].0 {
            return Err(damaged(FileName::Segment(pair[0].0 + 1), 0, DamageCause::MissingSegment));
        }
    }
    segments.iter().map(|&(generation, bytes)| check_header(disk, identity, generation, bytes)).collect()
}

fn check_header(disk: &mut dyn Disk, identity: Identity, generation: u64, bytes: u64) -> Result<Listed, WalError> {
    let file = FileName::Segment(generation);
    let mut block = AlignedBuffer::zeroed(1);
    let read = disk.read(file, 0, &mut block)?;
    let header = match SegmentHeader::decode(&block[..read]) {
        Ok(header) => header,
        Err(HeaderFault::Version(found)) => {
            return Err(WalError::UnsupportedVersion { file, found, known: FORMAT_VERSION });
        }
        Err(_) => return Err(damaged(file, 0, DamageCause::SegmentHeader)),
    };
    if header.identity != identity {
        return Err(WalError::ForeignSegment { file, expected: identity, found: header.identity });
    }
    let read_only = header.features.read_only & !FEATURES_KNOWN.read_only;
    let refuse = header.features.refuse & !FEATURES_KNOWN.refuse;
    if read_only | refuse != 0 {
        return Err(WalError::UnknownFeatures { file, read_only, refuse });
    }
    if header.generation != generation {
        return Err(damaged(file, 0, DamageCause::WrongGeneration { found: header.generation }));
    }
    if generation > NUMBER_MAX {
        return Err(WalError::Exhausted { file });
    }
    let expected = u64::from(header.segment_blocks) * BLOCK_BYTES as u64;
    if bytes != expected {
        return Err(damaged(file, bytes.min(expected), DamageCause::WrongSize { found: bytes, expected }));
    }
    Ok(Listed { generation, blocks: header.segment_blocks })
}

fn damaged(file: FileName, offset: u64, cause: DamageCause) -> WalError {
    WalError::Damaged(Box::new(Damage { file, offset, cause }))
}

struct Scan<'a> {
    disk: &'a mut dyn Disk,
    seed: u32,
    visit: &'a mut dyn FnMut(Record<'_>),
    window: Window,
    payload: Vec<u8>,
    last_batch: u64,
    chain: u32,
    batches: u64,
    records: u64,
    before_first: Vec<(u32, u64, u64)>,
    segments: VecDeque<Segment>,
    /// How many of them are not read.
    unread: usize,
    carry: Carry,
    marks: Marks,
    notes: BatchNotes,
}

impl<'a> Scan<'a> {
    fn new(disk: &'a mut dyn Disk, identity: Identity, visit: &'a mut dyn FnMut(Record<'_>)) -> Scan<'a> {
        Scan {
            disk,
            seed: identity.seed(),
            visit,
            window: Window::default(),
            payload: Vec::new(),
            last_batch: 0,
            chain: identity.seed(),
            batches: 0,
            records: 0,
            before_first: Vec::new(),
            segments: VecDeque::new(),
            unread: 0,
            carry: Carry::default(),
            marks: Marks::default(),
            notes: BatchNotes::default(),
        }
    }

    /// How many of the first segments end before everything that is needed. They stay the log's until they are released:
    /// each counts as if it held the last entry before the first one that is read.
    fn skip(&mut self, listed: &[Listed], needed_from: &[(u32, u64)]) -> Result<usize, WalError> {
        if needed_from.is_empty() {
            return Ok(0);
        }
        for (unread, segment) in listed.iter().enumerate().rev() {
            let Some(before) = self.positions_before(*segment)? else { continue };
            let is_behind = |&(group, index): &(u32, u64)| before.iter().any(|last| last.0 == group && last.1 < index);
            if !needed_from.iter().all(is_behind) {
                continue;
            }
            for &Listed { generation, blocks } in &listed[..unread] {
                self.segments.push_back(Segment { generation, blocks, bytes_before: 0, highest: before.clone() });
            }
            self.unread = unread;
            return Ok(unread);
        }
        Ok(0)
    }

    /// Group and index of the last entries before a segment, as its start has them. `None`: it has no good start, which is
    /// judged when it is read.
    fn positions_before(&mut self, segment: Listed) -> Result<Option<Vec<(u32, u64)>>, WalError> {
        let mut reader = self.window.reader(self.disk, self.seed, segment.generation, segment.blocks);
        let header = reader.unit(1, &mut self.payload)?;
        let Some(header) = header.filter(|header| header.kind == UnitKind::Start) else { return Ok(None) };
        let mut records = Records::new(&self.payload, header.chain);
        let mut before = Vec::new();
        while let Ok(Some(record)) = records.read() {
            if record.kind == Kind::Position {
                before.push((record.group, record.index));
            }
        }
        Ok(Some(before))
    }

    /// Reads all batches; `None` if no segment was ever started.
    fn run(&mut self, listed: &[Listed]) -> Result<Option<ScanEnd>, WalError> {
        let mut end: Option<ScanEnd> = None;
        let mut unstarted_first: Option<Listed> = None;
        let (mut unstarted, mut unstarted_proven) = (Vec::new(), 0);
        for &segment in listed {
            match self.start(segment)? {
                Start::Unstarted { dirty_end, proven } => {
                    unstarted_first.get_or_insert(segment);
                    unstarted.push((segment, dirty_end));
                    unstarted_proven = proven.max(unstarted_proven);
                }
                Start::Started { number, chain, next_block } => {
                    if let Some(earlier) = unstarted_first {
                        let file = FileName::Segment(earlier.generation);
                        return Err(damaged(file, offset_of_block(1), DamageCause::SegmentStart));
                    }
                    match &end {
                        Some(before) => self.check_joint(before, segment, number, chain)?,
                        None => (self.last_batch, self.chain) = (number, chain),
                    }
                    self.take_start(segment)?;
                    end = Some(self.batches_of(segment, next_block)?);
                }
            }
        }
        Ok(end.map(|end| ScanEnd { unstarted, unstarted_proven, ..end }))
    }

    /// Whether a segment was started. Reads its start into `payload`.
    fn start(&mut self, segment: Listed) -> Result<Start, WalError> {
        let mut reader = self.window.reader(self.disk, self.seed, segment.generation, segment.blocks);
        if let Some(header) = reader.unit(1, &mut self.payload)?
            && header.kind == UnitKind::Start
        {
            if header.number > NUMBER_MAX {
                return Err(WalError::Exhausted { file: reader.file() });
            }
            return Ok(Start::Started { number: header.number, chain: header.chain, next_block: 1 + header.count });
        }
        let (mut dirty_end, mut proven) = (1, 0);
        for position in 1..segment.blocks {
            match reader.class(position)? {
                BlockClass::Zero | BlockClass::Ghost(_) => {}
                BlockClass::Unreadable => dirty_end = position + 1,
                BlockClass::Ours(header) if header.kind == UnitKind::Start && position == 1 + header.ordinal => {
                    dirty_end = position + 1;
                    proven = proves(&header).max(proven);
                }
                BlockClass::Ours(_) => {
                    return Err(damaged(reader.file(), offset_of_block(1), DamageCause::SegmentStart));
                }
                BlockClass::Stray(header) => {
                    let cause = DamageCause::BrokenChain { batch: header.number, expected: 0 };
                    return Err(damaged(reader.file(), offset_of_block(position), cause));
                }
            }
        }
        Ok(Start::Unstarted { dirty_end, proven })
    }

    /// The start of a segment must continue the one before.
    fn check_joint(&self, before: &ScanEnd, segment: Listed, number: u64, chain: u32) -> Result<(), WalError> {
        if number > self.last_batch {
            let cause = DamageCause::BeforeLaterBatch { batch: self.last_batch + 1, proven: number };
            return Err(damaged(FileName::Segment(before.tail.generation), offset_of_block(before.next_block), cause));
        }
        if number < self.last_batch || chain != self.chain {
            let cause = DamageCause::BrokenChain { batch: number, expected: self.last_batch };
            return Err(damaged(FileName::Segment(segment.generation), offset_of_block(1), cause));
        }
        Ok(())
    }

    /// The carried records, which `start` left in `payload`; only those of the first segment say something new.
    fn take_start(&mut self, segment: Listed) -> Result<(), WalError> {
        let first = self.segments.len() == self.unread;
        let mut records = Records::new(&self.payload, self.chain);
        loop {
            let Ok(record) = records.read() else {
                let cause = DamageCause::BadRecords { batch: self.last_batch };
                return Err(damaged(FileName::Segment(segment.generation), offset_of_block(1), cause));
            };
            let Some(record) = record else { break };
            if !first {
                continue;
            }
            if !self.carry.has_room_for(record.group) {
                return Err(WalError::TooManyGroups { most: crate::carry::GROUPS_MAX });
            }
            self.carry.note(&record);
            if record.kind == Kind::Position {
                self.before_first.push((record.group, record.term, record.index));
            } else {
                self.records += 1;
                (self.visit)(record);
            }
        }
        self.carry.seal();
        let Listed { generation, blocks } = segment;
        self.segments.push_back(Segment { generation, blocks, bytes_before: self.marks.bytes(), highest: Vec::new() });
        Ok(())
    }

    /// Reads batches and closing blocks from `position` on, as long as they continue the chain.
    fn batches_of(&mut self, segment: Listed, mut position: u32) -> Result<ScanEnd, WalError> {
        let mut closed = true;
        loop {
            let mut reader = self.window.reader(self.disk, self.seed, segment.generation, segment.blocks);
            let Some(header) = reader.unit(position, &mut self.payload)? else { break };
            let continues = header.chain == self.chain
                && match header.kind {
                    UnitKind::Batch => header.number == self.last_batch + 1,
                    UnitKind::Closing => header.number == self.last_batch && self.payload.is_empty(),
                    UnitKind::Start => false,
                };
            if !continues {
                break;
            }
            closed = header.kind == UnitKind::Closing;
            if !closed {
                self.take_batch(segment, position, &header)?;
            }
            position += header.count;
        }
        Ok(ScanEnd { tail: segment, next_block: position, closed, unstarted: Vec::new(), unstarted_proven: 0 })
    }

    /// Delivers the records of the complete batch in `payload`.
    fn take_batch(&mut self, segment: Listed, position: u32, header: &BlockHeader) -> Result<(), WalError> {
        let file = FileName::Segment(segment.generation);
        if header.number > NUMBER_MAX {
            return Err(WalError::Exhausted { file });
        }
        let bad = || damaged(file, offset_of_block(position), DamageCause::BadRecords { batch: header.number });
        // The last block of a segment is a closing block's.
        if header.count >= segment.blocks - position {
            return Err(bad());
        }
        let mut records = Records::new(&self.payload, self.chain);
        while let Some(record) = records.read().map_err(|_| bad())? {
            if record.kind == Kind::Position || !self.carry.has_room_for(record.group) {
                return Err(bad());
            }
            self.records += 1;
            self.notes.note(&record);
            self.carry.note(&record);
            (self.visit)(record);
        }
        (self.last_batch, self.chain) = (header.number, records.chain());
        self.batches += 1;
        self.carry.seal();
        self.notes.apply(&mut self.segments, &mut self.marks, offset_of_block(header.count));
        self.notes.clear();
        Ok(())
    }

    /// Applies the table to the rest of the last segment.
    fn judge(&mut self, end: &ScanEnd) -> Result<(Outcome, Tail), WalError> {
        let file = FileName::Segment(end.tail.generation);
        let tail = self.tail(end)?;
        let expected = self.last_batch + 1;
        let outcome = match tail.outcome() {
            TailOutcome::Damaged { proven } => {
                let cause = DamageCause::BeforeLaterBatch { batch: expected, proven };
                return Err(damaged(file, offset_of_block(end.next_block), cause));
            }
            TailOutcome::BrokenChain { position, batch } => {
                let cause = DamageCause::BrokenChain { batch, expected };
                return Err(damaged(file, offset_of_block(position), cause));
            }
            TailOutcome::TornTail => {
                Outcome::TornTail { batch: expected, file, offset: offset_of_block(end.next_block) }
            }
            TailOutcome::OldGhost | TailOutcome::Zeros if end.closed => Outcome::Closed,
            TailOutcome::OldGhost => Outcome::OldGhost,
            TailOutcome::Zeros => Outcome::Zeros,
        };
        Ok((outcome, tail))
    }

    fn tail(&mut self, end: &ScanEnd) -> Result<Tail, WalError> {
        let (last, chain, from) = (self.last_batch, self.chain, end.next_block);
        let mut tail = Tail { dirty_end: from, ..Tail::default() };
        tail.proven = Some(end.unstarted_proven).filter(|&proven| proven > last);
        let mut reader = self.window.reader(self.disk, self.seed, end.tail.generation, end.tail.blocks);
        for position in from..end.tail.blocks {
            match reader.class(position)? {
                BlockClass::Zero => {}
                BlockClass::Ghost(_) => tail.ghost |= position == from,
                BlockClass::Unreadable => (tail.unreadable, tail.dirty_end) = (true, position + 1),
                BlockClass::Stray(header) => tail.stray = tail.stray.or(Some((position, header.number))),
                BlockClass::Ours(header) if proves(&header) > last => {
                    tail.proven = tail.proven.max(Some(proves(&header)));
                }
                BlockClass::Ours(header) => {
                    let piece = header.kind == UnitKind::Batch
                        && header.number == last + 1
                        && header.chain == chain
                        && header.ordinal == position - from;
                    if piece {
                        (tail.unreadable, tail.dirty_end) = (true, position + 1);
                    } else {
                        tail.stray = tail.stray.or(Some((position, header.number)));
                    }
                }
            }
        }
        Ok(tail)
    }

    fn recovered(&self, outcome: Outcome) -> Recovered {
        Recovered {
            outcome,
            segments: self.segments.len(),
            unread: self.unread,
            batches: self.batches,
            records: self.records,
            last_batch: BatchNumber(self.last_batch),
            before_first: self.before_first.clone(),
        }
    }

    /// Makes what was read durable and the cut final, then hands over to the log. The order matters: the torn pieces are
    /// gone before anything new is written, so a crash in between only repeats this.
    fn finish(
        self,
        options: Options,
        end: ScanEnd,
        tail: Tail,
        outcome: Outcome,
        files: &[FileEntry],
    ) -> Result<(Log, Recovered), WalError> {
        let recovered = self.recovered(outcome);
        let file = FileName::Segment(end.tail.generation);
        remove_unfinished(self.disk, files)?;
        let ready = settle_unstarted(self.disk, &options, &end.unstarted)?;
        // What is read may still be in a cache only.
        run_blocking(self.disk, Io::Sync { file, purpose: Purpose::ReplaySync })?;
        run_blocking(self.disk, Io::SyncDirectory { purpose: Purpose::ReplaySyncDirectory })?;
        let mut next_block = end.next_block;
        if matches!(outcome, Outcome::TornTail { .. }) {
            let purposes = [Purpose::TornTailClear, Purpose::TornTailClearSync];
            zero_blocks(self.disk, file, end.next_block, tail.dirty_end, purposes)?;
        }
        if !end.closed {
            let closing = UnitBuffer::new(UnitKind::Closing, self.last_batch, self.chain, AlignedBuffer::zeroed(1));
            let buffer = closing.seal(self.seed, end.tail.generation, next_block);
            let (offset, purpose) = (offset_of_block(next_block), Purpose::RecoveryClosing);
            run_blocking(self.disk, Io::Write { file, offset, buffer, sync: true, purpose })?;
            next_block += 1;
        }
        let position = Position {
            segments: self.segments,
            next_block,
            last_batch: self.last_batch,
            chain: self.chain,
            carry: self.carry,
            marks: self.marks,
            generation: end.tail.generation + 1,
            ready,
        };
        Ok((Log::from_position(options, position), recovered))
    }
}

/// Begins a new log. Segments that were made ready but never started (an earlier creation was cut short) are used.
fn create(
    scan: Scan<'_>,
    options: Options,
    listed: &[Listed],
    files: &[FileEntry],
) -> Result<(Log, Recovered), WalError> {
    if !options.create {
        return Err(WalError::NoLog);
    }
    remove_unfinished(scan.disk, files)?;
    let all_dirty: Vec<(Listed, u32)> = listed.iter().map(|&segment| (segment, segment.blocks)).collect();
    let ready = settle_unstarted(scan.disk, &options, &all_dirty)?;
    let recovered = scan.recovered(Outcome::Created);
    let position = Position {
        segments: VecDeque::new(),
        next_block: 0,
        last_batch: 0,
        chain: scan.chain,
        carry: scan.carry,
        marks: scan.marks,
        generation: listed.first().map_or(1, |segment| segment.generation),
        ready,
    };
    let mut log = Log::from_position(options, position);
    run_until(scan.disk, &mut log, Log::is_started)?;
    Ok((log, recovered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_over_all_its_inputs() {
        for bits in 0..16u8 {
            let tail = Tail {
                proven: (bits & 8 != 0).then_some(7),
                stray: (bits & 4 != 0).then_some((3, 9)),
                unreadable: bits & 2 != 0,
                ghost: bits & 1 != 0,
                dirty_end: 0,
            };
            let expected = match bits {
                8..=15 => TailOutcome::Damaged { proven: 7 },
                4..=7 => TailOutcome::BrokenChain { position: 3, batch: 9 },
                2 | 3 => TailOutcome::TornTail,
                1 => TailOutcome::OldGhost,
                _ => TailOutcome::Zeros,
            };
            assert_eq!(tail.outcome(), expected, "{bits:04b}");
        }
    }
}
