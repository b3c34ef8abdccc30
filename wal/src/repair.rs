//! The writes of recovery. Each may be the last before a crash; doing them again is always right.

use crate::buffer::AlignedBuffer;
use crate::disk::{Disk, DiskError, FileEntry, FileName, Io, Purpose, run_blocking};
use crate::format::BLOCK_BYTES;
use crate::options::Options;

/// Zeros are written in slices of this many blocks when a tail is cut.
const CUT_SLICE_BLOCKS: u32 = 64;

/// A segment whose own header is good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub generation: u64,
    pub blocks: u32,
}

/// Byte offset of a block.
pub(crate) fn offset_of_block(position: u32) -> u64 {
    u64::from(position) * BLOCK_BYTES as u64
}

/// Gives a log up: for a member that may promise nothing before it has made up, with what others hold, for all that the log
/// may have held. When this returns, no file of it is left, durably; after an error or a crash some may be, and what they
/// would say is not to be believed: do it again.
///
/// # Errors
/// [`DiskError`].
pub fn give_up(disk: &mut dyn Disk) -> Result<(), DiskError> {
    for entry in disk.list()? {
        run_blocking(disk, Io::Delete { file: entry.name, purpose: Purpose::LostRemove })?;
    }
    run_blocking(disk, Io::SyncDirectory { purpose: Purpose::LostRemoveSync })
}

/// Removes files that were being prepared when the process ended.
pub(crate) fn remove_unfinished(disk: &mut dyn Disk, files: &[FileEntry]) -> Result<(), DiskError> {
    for entry in files.iter().filter(|entry| matches!(entry.name, FileName::Preparing(_))) {
        run_blocking(disk, Io::Delete { file: entry.name, purpose: Purpose::UnfinishedRemove })?;
        run_blocking(disk, Io::SyncDirectory { purpose: Purpose::UnfinishedRemoveSync })?;
    }
    Ok(())
}

/// Of the segments without a start, keeps the first as the one that is ready if it fits, and removes the others, last one
/// first: never a gap.
pub(crate) fn settle_unstarted(
    disk: &mut dyn Disk,
    options: &Options,
    unstarted: &[(Listed, u32)],
) -> Result<bool, DiskError> {
    for (at, (segment, dirty_end)) in unstarted.iter().enumerate().rev() {
        let file = FileName::Segment(segment.generation);
        if at == 0 && segment.blocks == options.segment_blocks() {
            zero_blocks(disk, file, 1, *dirty_end, [Purpose::UnstartedClear, Purpose::UnstartedClearSync])?;
            return Ok(true);
        }
        run_blocking(disk, Io::Delete { file, purpose: Purpose::UnstartedRemove })?;
        run_blocking(disk, Io::SyncDirectory { purpose: Purpose::UnstartedRemoveSync })?;
    }
    Ok(false)
}

/// Zeroes the blocks [from, to), durably. The purposes are those of the writes and of the sync.
pub(crate) fn zero_blocks(
    disk: &mut dyn Disk,
    file: FileName,
    from: u32,
    to: u32,
    [purpose, sync_purpose]: [Purpose; 2],
) -> Result<(), DiskError> {
    if from >= to {
        return Ok(());
    }
    let mut position = from;
    while position < to {
        let blocks = CUT_SLICE_BLOCKS.min(to - position);
        let buffer = AlignedBuffer::zeroed(blocks as usize);
        let offset = offset_of_block(position);
        run_blocking(disk, Io::Write { file, offset, buffer, sync: false, purpose })?;
        position += blocks;
    }
    run_blocking(disk, Io::Sync { file, purpose: sync_purpose })
}
