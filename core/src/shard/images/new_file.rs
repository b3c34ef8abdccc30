//! The page file that a state is taken into: written once, in the order of the file, and read by nobody before it is whole.
//!
//! So it goes past the page cache where the file system lets it: what waits there for the disk would go along with the next sync of
//! anybody, the log's of this member's leader among them. Where it does not, what was written is sent on its way in pieces, and the
//! writer waits for those before.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ringstone_pager::transfer::PageSink;

use super::super::fds;
use crate::space::{LOG_LEAST, free_bytes};

/// Bytes that are sent on their way at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces that may be on their way.
const PIECES_MAX: usize = 4;

/// See the module.
pub(super) struct NewFile {
    path: PathBuf,
    file: File,
    is_direct: bool,
    /// In the page cache, and not on its way: where, and how much.
    waiting: (u64, u64),
    under_way: VecDeque<(u64, u64)>,
}

impl NewFile {
    /// Makes a file that is not there.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn create(path: &Path) -> io::Result<NewFile> {
        NewFile::with(path, OpenOptions::new().create_new(true).mode(0o600), true)
    }

    /// Opens one to go on with it.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(path: &Path) -> io::Result<NewFile> {
        NewFile::with(path, &mut OpenOptions::new(), true)
    }

    fn with(path: &Path, options: &mut OpenOptions, is_direct: bool) -> io::Result<NewFile> {
        let options = options.read(true).write(true);
        let direct = if is_direct {
            options.clone().custom_flags(libc::O_DIRECT).open(path)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        };
        let (file, is_direct) = match direct {
            Ok(file) => (file, true),
            // The file may have been made before it was found that it can't be opened so.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                (options.create_new(false).create(true).open(path)?, false)
            }
            Err(error) => return Err(error),
        };
        Ok(NewFile { path: path.to_owned(), file, is_direct, waiting: (0, 0), under_way: VecDeque::new() })
    }

    /// The same, always by the page cache.
    #[cfg(test)]
    fn cached(path: &Path) -> io::Result<NewFile> {
        NewFile::with(path, &mut OpenOptions::new(), false)
    }

    fn send_on(&mut self) -> io::Result<()> {
        let (offset, bytes) = std::mem::take(&mut self.waiting);
        fds::write_out(&self.file, offset, bytes, false)?;
        self.under_way.push_back((offset, bytes));
        if self.under_way.len() > PIECES_MAX
            && let Some((offset, bytes)) = self.under_way.pop_front()
        {
            fds::write_out(&self.file, offset, bytes, true)?;
        }
        Ok(())
    }
}

impl PageSink for NewFile {
    fn write(&mut self, offset: u64, pages: &[u8]) -> io::Result<()> {
        self.file.write_all_at(pages, offset)?;
        if !self.is_direct {
            // Holes and free maps between are little: they go along.
            let end = offset + pages.len() as u64;
            self.waiting = match self.waiting {
                (_, 0) => (offset, pages.len() as u64),
                (start, bytes) => (start.min(offset), end.max(start + bytes) - start.min(offset)),
            };
            if self.waiting.1 >= PIECE_BYTES {
                self.send_on()?;
            }
        }
        Ok(())
    }

    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        let now = self.file.metadata()?.len();
        if now < bytes {
            fds::reserve(self.file.as_raw_fd(), now, bytes - now)?;
        }
        // Holes, too: a checkpoint that writes there must not find the disk full.
        fds::fill_holes(&self.file, bytes)
    }

    /// The log on that disk goes on meanwhile.
    fn room(&self) -> io::Result<u64> {
        // A block of stat(2) has 512 bytes.
        let has = self.file.metadata()?.blocks() * 512;
        Ok(free_bytes(&self.path).saturating_sub(LOG_LEAST).saturating_add(has))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_there_by_either_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut memory = vec![0; 1 << 20];
        let start = memory.as_ptr().align_offset(4096);
        for (way, path) in [("direct", folder.path().join("one")), ("cached", folder.path().join("two"))] {
            let mut file = if way == "direct" { NewFile::create(&path) } else { NewFile::cached(&path) }.expect("made");
            for piece in 0..32u64 {
                memory[start..start + 131_072].fill(piece as u8 + 1);
                // A hole behind every second one.
                file.write((piece + piece / 2) * 131_072, &memory[start..start + 131_072]).expect("written");
            }
            file.set_length(100 << 20).expect("room");
            file.sync().expect("synced");
            let mut file = NewFile::open(&path).expect("it is there");
            memory[start..start + 4096].fill(99);
            file.write(131_072, &memory[start..start + 4096]).expect("written");
            file.sync().expect("synced");
            let found = std::fs::read(&path).expect("it is there");
            assert_eq!(found.len(), 100 << 20, "{way}");
            let at = |piece: usize| found[piece * 131_072 + 5000];
            assert_eq!((found[131_072], at(0), at(1), at(2), at(3)), (99, 1, 2, 0, 3), "{way}");
            assert_eq!((at(46), at(47)), (32, 0), "{way}");
            assert!(NewFile::create(&path).is_err(), "{way}: it is there");
        }
    }
}
