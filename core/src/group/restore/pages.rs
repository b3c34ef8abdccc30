//! The page file of a member that takes a whole state, made of pages as they come (image/pages.rs).
//!
//! Its maker may end, and the next process goes on: every 64 MiB a mark says how far the file is.
//! ```text
//!  marks   head of the image, 8192 bytes | slot 0 | slot 1, 4096 bytes each, written in turn
//!  start   the newer good slot -> how far -> the free map of that region, out of the file -> the next page of the stream
//! ```
//! Nothing is synced before the end, so a mark counts in the same boot of the system alone: what a process has written outlives
//! it, what a system has not synced does not. The file has no header and no meta before that end: no start takes it for a state.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::transfer::{PageSink, Progress, Taker};

use super::RestoreError;
use crate::group::open::{file_options, io_error, tree_specs};
use crate::identity::Identity;
use crate::image::{HEAD_BYTES, PagesReader};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_ID_BYTES: usize = 36;
/// Between two marks: what is sent again at most.
const MARK_BYTES: u64 = 64 << 20;

/// crc u32 | 0 u32 | number u64 | image 16 | boot 36 | 0 u32 | key 16 | progress 64
const NUMBER: usize = 8;
const IMAGE: usize = NUMBER + 8;
const BOOT: usize = IMAGE + 16;
const KEY: usize = BOOT + BOOT_ID_BYTES + 4;
const PROGRESS: usize = KEY + 16;
const SLOT_BYTES: usize = PROGRESS + Progress::BYTES;
/// Of the second slot from the first.
const SLOT_DISTANCE: u64 = 4096;
const _: () = assert!(SLOT_BYTES as u64 <= SLOT_DISTANCE);

/// The marks of one page file.
struct Marks {
    file: File,
    image: [u8; 16],
    boot: [u8; BOOT_ID_BYTES],
    key: [u8; 16],
    number: u64,
    has_head: bool,
}

impl Marks {
    fn slot(&self, number: u64, progress: &Progress) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        slot[NUMBER..IMAGE].copy_from_slice(&number.to_le_bytes());
        slot[IMAGE..BOOT].copy_from_slice(&self.image);
        slot[BOOT..BOOT + BOOT_ID_BYTES].copy_from_slice(&self.boot);
        slot[KEY..PROGRESS].copy_from_slice(&self.key);
        slot[PROGRESS..].copy_from_slice(&progress.encode());
        let crc = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    fn add(&mut self, head: &[u8], progress: &Progress) -> io::Result<()> {
        if !self.has_head {
            self.file.write_all_at(head, 0)?;
            self.has_head = true;
        }
        self.number += 1;
        let slot = self.slot(self.number, progress);
        self.file.write_all_at(&slot, HEAD_BYTES as u64 + (self.number % 2) * SLOT_DISTANCE)
    }

    /// The newer one of those that were written in this boot of the system, for this image.
    fn open(path: &Path, image: [u8; 16]) -> io::Result<Option<(Marks, Progress)>> {
        let (file, boot) = (OpenOptions::new().read(true).write(true).open(path)?, boot_id()?);
        let mut marks = Marks { file, image, boot, key: [0; 16], number: 0, has_head: true };
        let mut newest = None;
        for place in 0..2 {
            let mut slot = [0; SLOT_BYTES];
            if marks.file.read_exact_at(&mut slot, HEAD_BYTES as u64 + place * SLOT_DISTANCE).is_err() {
                continue;
            }
            let number = u64::from_le_bytes(*slot[NUMBER..].first_chunk().expect("a slot is longer"));
            let progress = Progress::decode(slot[PROGRESS..].first_chunk().expect("the rest of the slot"));
            marks.key = *slot[KEY..].first_chunk().expect("a slot is longer");
            if slot == marks.slot(number, &progress) && number % 2 == place && number > marks.number {
                (marks.number, newest) = (number, Some((marks.key, progress)));
            }
        }
        let Some((key, progress)) = newest else { return Ok(None) };
        marks.key = key;
        Ok(Some((marks, progress)))
    }
}

fn boot_id() -> io::Result<[u8; BOOT_ID_BYTES]> {
    let text = fs::read(BOOT_ID)?;
    text.first_chunk().copied().ok_or(io::ErrorKind::UnexpectedEof.into())
}

/// A page file while it is made of pages.
pub struct PageRestore {
    sink: Box<dyn PageSink + Send>,
    reader: PagesReader,
    key: [u8; 16],
    marks: Option<Marks>,
    marked_bytes: u64,
    mark_bytes: u64,
}

impl PageRestore {
    /// Makes the file of an empty sink. `key` is random.
    #[must_use]
    pub fn new(sink: Box<dyn PageSink + Send>, identity: &Identity, key: [u8; 16]) -> PageRestore {
        let specs = tree_specs();
        let reader = PagesReader::new(&file_options(identity, &specs), identity.cluster_id, key);
        PageRestore { sink, reader, key, marks: None, marked_bytes: 0, mark_bytes: MARK_BYTES }
    }

    /// Keeps marks in this file, so that [`PageRestore::resume`] can go on after this process: of an image with this id.
    ///
    /// # Errors
    /// [`RestoreError::Open`].
    pub fn keep_marks(self, path: &Path, image: [u8; 16]) -> Result<PageRestore, RestoreError> {
        let made = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
            Ok(Marks { file, image, boot: boot_id()?, key: self.key, number: 0, has_head: false })
        };
        let marks = made().map_err(io_error(path))?;
        Ok(PageRestore { marks: Some(marks), ..self })
    }

    /// Goes on with the page file of an image of which an earlier process of this boot of the system has kept marks; `file` is
    /// that file, for reading, and `sink` writes to it. It goes on at [`PageRestore::offset`].
    ///
    /// # Errors
    /// [`RestoreError`]: there is nothing to go on with.
    pub fn resume(
        sink: Box<dyn PageSink + Send>,
        file: &File,
        marks_path: &Path,
        identity: &Identity,
        image: [u8; 16],
    ) -> Result<PageRestore, RestoreError> {
        let opened = Marks::open(marks_path, image).map_err(io_error(marks_path))?;
        let (marks, progress) = opened.ok_or(RestoreError::NoMark)?;
        let (mut head, mut map) = (vec![0; HEAD_BYTES], Vec::new());
        marks.file.read_exact_at(&mut head, 0).map_err(io_error(marks_path))?;
        if let Some(offset) = Taker::map_of(&progress) {
            map.resize(PAGE_BYTES, 0);
            file.read_exact_at(&mut map, offset).map_err(io_error(marks_path))?;
        }
        let (specs, key) = (tree_specs(), marks.key);
        let options = file_options(identity, &specs);
        let reader = PagesReader::resume(&options, identity.cluster_id, key, &head, progress, &map)?;
        let marked_bytes = progress.offset;
        Ok(PageRestore { sink, reader, key, marks: Some(marks), marked_bytes, mark_bytes: MARK_BYTES })
    }

    /// Sets how many bytes come between two marks.
    pub fn set_mark_bytes(&mut self, bytes: u64) {
        self.mark_bytes = bytes;
    }

    /// Bytes of the image that are in the file: the next ones are those behind them.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.reader.progress().offset
    }

    /// Takes the next bytes of the image.
    ///
    /// # Errors
    /// [`RestoreError`]: what was written must be thrown away.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.reader.push(bytes, &mut *self.sink)?;
        let progress = self.reader.progress();
        if let (Some(marks), Some(head)) = (&mut self.marks, self.reader.head())
            && progress.offset >= self.marked_bytes + self.mark_bytes
        {
            marks.add(head, &progress).map_err(io_error(Path::new("marks of an image")))?;
            self.marked_bytes = progress.offset;
        }
        Ok(())
    }

    /// Ends the page file: index and term of its state. On disk when this returns: the file, synced; its name is the caller's.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish(mut self) -> Result<(u64, u64), RestoreError> {
        let state = self.reader.finish(&mut *self.sink)?;
        Ok((state.applied_index, state.applied_term))
    }
}
