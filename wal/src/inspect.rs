//! Prints a log's segments and says what is damaged: read-only, works on what [`crate::Log::open`] refuses.
//!
//! Needs no io_uring and no identity: that is taken from the first good header, and what differs from it is reported.

use crate::buffer::AlignedBuffer;
use crate::disk::directory::ReadOnlyDirectory;
use crate::disk::{Disk, DiskError, FileName};
use crate::error::WalError;
use crate::format::{BLOCK_BYTES, BlockHeader, FORMAT_VERSION, HeaderFault, Identity, SegmentHeader, UnitKind};
use crate::record::{Record, Records};
use crate::recovery::{Recovered, read_only};
use crate::scan::{BlockClass, Window};
use std::io::Write;
use std::path::Path;

/// What an inspection found.
#[derive(Clone, Debug)]
pub struct InspectSummary {
    /// Segments, those without records included.
    pub segments: usize,
    /// Complete batches, wherever they stand.
    pub batches: u64,
    /// Records in complete batches.
    pub records: u64,
    /// Pieces of batches, unreadable blocks and blocks out of place; a torn tail counts, too.
    pub oddities: u64,
    /// What opening the log would say.
    pub verdict: Result<Recovered, WalError>,
}

/// Walks the segments in `directory` and writes a line for each header, unit, record and oddity, then a verdict.
///
/// # Errors
/// [`WalError::Ring`] if the directory can't be opened, [`WalError::Disk`] if it can't be listed, [`WalError::Report`]
/// if `out` fails. Damage is no error here: it is in the report and in [`InspectSummary::verdict`].
pub fn inspect(directory: &Path, out: &mut dyn Write) -> Result<InspectSummary, WalError> {
    inspect_disk(&mut ReadOnlyDirectory::open(directory)?, out)
}

/// [`inspect`] for any disk. Writes nothing to it.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_disk(disk: &mut dyn Disk, out: &mut dyn Write) -> Result<InspectSummary, WalError> {
    let mut files = disk.list()?;
    files.sort_unstable_by_key(|entry| entry.name);
    let mut walk =
        Walk { disk, out, identity: None, window: Window::default(), segments: 0, batches: 0, records: 0, oddities: 0 };
    for entry in &files {
        match entry.name {
            FileName::Segment(generation) => walk.segment(generation, entry.bytes)?,
            FileName::Preparing(_) => walk.line(format_args!("{}: being prepared, holds nothing", entry.name))?,
        }
    }
    let verdict = match walk.identity {
        Some(identity) => read_only(walk.disk, identity, &mut |_| {}),
        None => Err(WalError::NoLog),
    };
    match &verdict {
        Ok(recovered) => walk.line(format_args!("verdict: opens, {recovered:?}"))?,
        Err(error) => walk.line(format_args!("verdict: does not open. {error}"))?,
    }
    let Walk { segments, batches, records, oddities, .. } = walk;
    Ok(InspectSummary { segments, batches, records, oddities, verdict })
}

struct Walk<'a> {
    disk: &'a mut dyn Disk,
    out: &'a mut dyn Write,
    identity: Option<Identity>,
    window: Window,
    segments: usize,
    batches: u64,
    records: u64,
    oddities: u64,
}

impl Walk<'_> {
    fn line(&mut self, text: core::fmt::Arguments<'_>) -> Result<(), WalError> {
        writeln!(self.out, "{text}").map_err(|error| WalError::Report(error.kind()))
    }

    fn oddity(&mut self, text: core::fmt::Arguments<'_>) -> Result<(), WalError> {
        self.oddities += 1;
        self.line(text)
    }

    fn segment(&mut self, generation: u64, bytes: u64) -> Result<(), WalError> {
        self.segments += 1;
        let file = FileName::Segment(generation);
        let blocks = u32::try_from(bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
        let mut block = AlignedBuffer::zeroed(1);
        match self.disk.read(file, 0, &mut block) {
            Ok(read) => self.header(file, bytes, SegmentHeader::decode(&block[..read]), generation)?,
            Err(error) => self.oddity(format_args!("{file} offset 0: {error}"))?,
        }
        let Some(identity) = self.identity else {
            return self.line(format_args!("{file}: no good header yet, its blocks can't be told"));
        };
        self.blocks(generation, blocks, identity)
    }

    fn header(
        &mut self,
        file: FileName,
        bytes: u64,
        header: Result<SegmentHeader, HeaderFault>,
        generation: u64,
    ) -> Result<(), WalError> {
        let header = match header {
            Ok(header) => header,
            Err(HeaderFault::Version(version)) => {
                return self
                    .oddity(format_args!("{file} offset 0: format version {version}, known is {FORMAT_VERSION}"));
            }
            Err(fault) => return self.oddity(format_args!("{file} offset 0: DAMAGED header ({fault:?})")),
        };
        let identity = *self.identity.get_or_insert(header.identity);
        self.line(format_args!(
            "{file}: segment {} of {}, {} blocks, features {:?}",
            header.generation, header.identity, header.segment_blocks, header.features
        ))?;
        if header.identity != identity {
            self.oddity(format_args!("{file} offset 0: FOREIGN, the segments before belong to {identity}"))?;
        }
        if header.generation != generation {
            self.oddity(format_args!("{file} offset 0: MISNAMED, holds generation {}", header.generation))?;
        }
        let expected = u64::from(header.segment_blocks) * BLOCK_BYTES as u64;
        if bytes != expected {
            self.oddity(format_args!("{file}: WRONG SIZE, {bytes} bytes instead of {expected}"))?;
        }
        Ok(())
    }

    fn blocks(&mut self, generation: u64, blocks: u32, identity: Identity) -> Result<(), WalError> {
        let file = FileName::Segment(generation);
        let mut payload = Vec::new();
        let mut position = 1;
        while position < blocks {
            let offset = u64::from(position) * BLOCK_BYTES as u64;
            let mut reader = self.window.reader(self.disk, identity.seed(), generation, blocks);
            let read = reader.unit(position, &mut payload).and_then(|unit| match unit {
                Some(header) => Ok((Some(header), BlockClass::Ours(header))),
                None => reader.class(position).map(|class| (None, class)),
            });
            match read {
                Err(error) => self.unreadable(file, offset, &error)?,
                Ok((Some(header), _)) => {
                    self.unit(file, offset, &header, &payload)?;
                    position += header.count;
                    continue;
                }
                Ok((None, class)) => self.class(file, offset, class)?,
            }
            position += 1;
        }
        Ok(())
    }

    fn unreadable(&mut self, file: FileName, offset: u64, error: &DiskError) -> Result<(), WalError> {
        self.oddity(format_args!("{file} offset {offset}: UNREADABLE, {error}"))
    }

    fn class(&mut self, file: FileName, offset: u64, class: BlockClass) -> Result<(), WalError> {
        match class {
            BlockClass::Zero | BlockClass::Ghost(_) => Ok(()),
            BlockClass::Ours(BlockHeader { number, ordinal, count, .. }) => {
                self.oddity(format_args!("{file} offset {offset}: PIECE of batch {number}, block {ordinal} of {count}"))
            }
            BlockClass::Stray(header) => self.oddity(format_args!(
                "{file} offset {offset}: STRAY block of batch {}, written for block {} of generation {}",
                header.number, header.position, header.generation
            )),
            BlockClass::Unreadable => self.oddity(format_args!("{file} offset {offset}: DAMAGED block, bad CRC")),
        }
    }

    fn unit(&mut self, file: FileName, offset: u64, header: &BlockHeader, payload: &[u8]) -> Result<(), WalError> {
        let BlockHeader { number, count, chain, .. } = *header;
        match header.kind {
            UnitKind::Start => {
                self.line(format_args!("{file} offset {offset}: start after batch {number}, chain {chain:08x}"))?
            }
            UnitKind::Closing => {
                return self
                    .line(format_args!("{file} offset {offset}: closed after batch {number}, chain {chain:08x}"));
            }
            UnitKind::Batch => {
                self.batches += 1;
                self.line(format_args!("{file} offset {offset}: batch {number}, {count} blocks, chain {chain:08x}"))?;
            }
        }
        let mut records = Records::new(payload, chain);
        loop {
            match records.read() {
                Ok(None) => return Ok(()),
                Ok(Some(record)) => {
                    self.records += u64::from(header.kind == UnitKind::Batch);
                    self.record(&record)?;
                }
                Err(fault) => {
                    return self
                        .oddity(format_args!("{file} offset {offset}: BAD RECORD in batch {number} ({fault:?})"));
                }
            }
        }
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), WalError> {
        let Record { group, kind, term, index, payload } = record;
        self.line(format_args!("    group {group} {kind:?} term {term} index {index}, {} bytes", payload.len()))
    }
}
