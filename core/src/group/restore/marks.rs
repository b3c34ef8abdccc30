//! A page file that is being made outlives its maker: what has come of an image is gone on with by the next process.
//!
//! ```text
//!  checkpoint   mark number n -> its slot of the marks' file; attributes of the page file: n; then its pages and meta
//!  next start   newest good meta -> n -> that slot -> the reader that was at this place, the pages that it had filled
//! ```
//!
//! Nothing of it is synced in time (behind.rs), so it counts in the same boot of the system alone: what a process has written
//! outlives it, what a system has not synced does not. The last sync, and the sums of the trees, come at the end as ever.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use ringstone_pager::Pager;
use ringstone_pager::api::{Direction, Fault, ReadTrees as _, TreeId, WriteTrees as _};
use ringstone_pager::disk::{Disk as _, StdDisk};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::mapping::Mapping;

use super::behind::{LastSync, WriteBehind};
use super::{DIRTY_BYTES_MAX, Restore, RestoreError};
use crate::group::open::{OpenError, file_options, io_error, tree_specs};
use crate::identity::Identity;
use crate::image::{ImageError, ImageReader, MARK_BYTES};

/// In front of the attributes of a page file that is not whole: no state has such ones.
const MAGIC: [u8; 8] = *b"RSTNMADE";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_ID_BYTES: usize = 36;

/// crc u32 | number u64 | image 16 | boot 36 | mark
const NUMBER: usize = 4;
const IMAGE: usize = NUMBER + 8;
const BOOT: usize = IMAGE + 16;
const MARK: usize = BOOT + BOOT_ID_BYTES;
const SLOT_BYTES: usize = MARK + MARK_BYTES;
/// Where the second slot begins.
const SLOT_DISTANCE: u64 = 4096;
const _: () = assert!(SLOT_BYTES as u64 <= SLOT_DISTANCE);

/// The marks of one page file.
pub(super) struct Marks {
    file: File,
    image: [u8; 16],
    boot: [u8; BOOT_ID_BYTES],
    number: u64,
}

impl Marks {
    fn create(path: &Path, image: [u8; 16]) -> io::Result<Marks> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Marks { file, image, boot: boot_id()?, number: 0 })
    }

    /// The one with this number, as it was written in this boot of the system.
    fn open(path: &Path, image: [u8; 16], number: u64) -> io::Result<Option<(Marks, [u8; MARK_BYTES])>> {
        let (file, boot) = (OpenOptions::new().read(true).write(true).open(path)?, boot_id()?);
        let marks = Marks { file, image, boot, number };
        let mut slot = [0; SLOT_BYTES];
        marks.file.read_exact_at(&mut slot, marks.slot_offset())?;
        let mark = *slot[MARK..].first_chunk().expect("the rest of the slot");
        Ok((slot == marks.slot(&mark)).then_some((marks, mark)))
    }

    fn slot_offset(&self) -> u64 {
        (self.number % 2) * SLOT_DISTANCE
    }

    fn slot(&self, mark: &[u8; MARK_BYTES]) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[NUMBER..IMAGE].copy_from_slice(&self.number.to_le_bytes());
        slot[IMAGE..BOOT].copy_from_slice(&self.image);
        slot[BOOT..MARK].copy_from_slice(&self.boot);
        slot[MARK..].copy_from_slice(mark);
        let crc = crc32fast::hash(&slot[NUMBER..]);
        slot[..NUMBER].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn add(&mut self, mark: &[u8; MARK_BYTES]) -> io::Result<()> {
        self.number += 1;
        self.file.write_all_at(&self.slot(mark), self.slot_offset())
    }
}

fn boot_id() -> io::Result<[u8; BOOT_ID_BYTES]> {
    let text = fs::read(BOOT_ID)?;
    text.first_chunk().copied().ok_or(io::ErrorKind::UnexpectedEof.into())
}

/// 0: no mark.
fn attributes(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn number_of(attributes: &[u8]) -> Option<u64> {
    let number = attributes.strip_prefix(&MAGIC)?.try_into().ok().map(u64::from_le_bytes)?;
    (number > 0).then_some(number)
}

impl Restore {
    /// Keeps marks in this file, so that [`Restore::resume_member`] can go on after this process: of an image with this id.
    ///
    /// # Errors
    /// [`RestoreError::Open`].
    pub fn keep_marks(self, file: &Path, image: [u8; 16]) -> Result<Restore, RestoreError> {
        let marks = Marks::create(file, image).map_err(io_error(file))?;
        Ok(Restore { marks: Some(marks), ..self })
    }

    /// Goes on with the page file of an image of which an earlier process of this boot of the system has kept marks: the reader
    /// goes on at its [`ImageReader::offset`].
    ///
    /// # Errors
    /// [`RestoreError`]: there is nothing to go on with.
    pub fn resume_member(
        page_file: &Path,
        marks_file: &Path,
        identity: &Identity,
        image: [u8; 16],
    ) -> Result<(Restore, ImageReader), RestoreError> {
        let disk = StdDisk::open(page_file).map_err(io_error(page_file))?;
        let file_pages = disk.length()? / PAGE_BYTES as u64;
        let mapping = Arc::new(Mapping::new(disk.file(), file_pages).map_err(io_error(page_file))?);
        let last_sync = LastSync::default();
        let mut disk = WriteBehind::new(disk, last_sync.clone()).map_err(io_error(page_file))?;
        let specs = tree_specs();
        let (pager, _) =
            Pager::open(&mut disk, mapping, &file_options(identity, &specs), 0).map_err(OpenError::from)?;
        let number = number_of(pager.attributes()).ok_or(RestoreError::NoMark)?;
        let opened = Marks::open(marks_file, image, number).map_err(io_error(marks_file))?;
        let (marks, mark) = opened.ok_or(RestoreError::NoMark)?;
        let mut restore = Restore {
            disk: Box::new(disk),
            pager,
            identity: *identity,
            dirty_bytes_max: DIRTY_BYTES_MAX,
            is_member: true,
            last_sync,
            marks: Some(marks),
        };
        let mut reader = ImageReader::of_mark(&mark)?;
        if let Some(tree) = reader.tree_of_last_key() {
            reader.set_last_key(restore.last_key(tree)?);
        }
        Ok((restore, reader))
    }

    fn last_key(&mut self, tree: TreeId) -> Result<Vec<u8>, RestoreError> {
        loop {
            let mut last = Vec::new();
            let all = (Bound::Unbounded, Bound::Unbounded);
            let visited = self.pager.visit(tree, all, Direction::Backward, false, &mut |key, _| {
                last.extend_from_slice(key);
                ControlFlow::Break(())
            });
            match visited {
                Ok(()) => return Ok(last),
                Err(Fault::Absent(run)) => self.bring_in(run)?,
                Err(fault) => return Err(ImageError::Trees(fault).into()),
            }
        }
    }

    /// A checkpoint that can be gone on from, if the reader is anywhere that one can.
    pub(super) fn save(&mut self, reader: &ImageReader) -> Result<(), RestoreError> {
        if let Some(marks) = &mut self.marks {
            let mark = reader.mark();
            let number = mark.map_or(Ok(0), |mark| marks.add(&mark).map(|()| marks.number));
            let number = number.map_err(io_error(Path::new("marks of an image")))?;
            self.pager.set_attributes(&attributes(number));
        }
        self.checkpoint()
    }
}
