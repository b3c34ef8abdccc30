//! How are the page file's requests carried out?
//!
//! ```text
//!  writes   a whole batch on a thread that may block: a system call each
//!  others   io_uring, through glommio
//! ```
//!
//! In a file full of holes a checkpoint is thousands of writes of a page or two. Through io_uring each would wake a worker of
//! the kernel, for ext4 has no buffered write that can't block: twice the processor time, and as many turns of the loop that
//! drives the group (docs/benchmarks.md). What a batch holds is bounded, and it is on its way to the disk at once: where all of
//! a checkpoint was left to the sync at its end, syncs of the log beside that one waited for it.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use glommio::GlommioError;
use glommio::io::BufferedFile;
use ringstone_pager::disk::{Completion, DiskError, DiskResult, Io, Token};

use super::fds;

/// The page file of the group's shard.
pub struct PageFile {
    ring: BufferedFile,
    blocking: Arc<File>,
}

impl PageFile {
    /// Opens it for reading and writing.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<PageFile> {
        let blocking = fs::OpenOptions::new().read(true).write(true).open(path)?;
        let ring = fds::buffered_file(OwnedFd::from(blocking.try_clone()?));
        Ok(PageFile { ring, blocking: Arc::new(blocking) })
    }

    /// For reads through io_uring.
    pub fn reads(&self) -> &BufferedFile {
        &self.ring
    }

    /// Carries out requests that do not wait for each other, as the pager hands them out. On disk when this returns: nothing
    /// that no sync among them stands for.
    pub async fn execute(&self, batch: Vec<(Token, Io)>) -> Vec<Completion> {
        let (writes, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(|(_, io)| matches!(io, Io::Write { .. }));
        let mut ended = Vec::new();
        if !writes.is_empty() {
            let file = Arc::clone(&self.blocking);
            let write_all = move || {
                let ended = writes.iter().map(|(token, io)| completion(*token, write(&file, io))).collect();
                // Where it can't, the sync at the end has more to do.
                let _ = fds::begin_writeback(&file);
                ended
            };
            ended = glommio::executor().spawn_blocking(write_all).await;
        }
        for (token, io) in others {
            ended.push(completion(token, self.execute_other(&io).await));
        }
        ended
    }

    async fn execute_other(&self, io: &Io) -> DiskResult {
        let failed = |error: GlommioError<()>| DiskError::new(io, &io::Error::from(error));
        let file = &self.ring;
        match *io {
            Io::Write { .. } => write(&self.blocking, io),
            Io::Read { offset, bytes, .. } => {
                let read = file.read_at(offset, bytes).await.map_err(failed)?;
                if read.len() == bytes {
                    return Ok(read.to_vec());
                }
                Err(DiskError::new(io, &io::Error::from(io::ErrorKind::UnexpectedEof)))
            }
            Io::Sync { .. } => file.fdatasync().await.map(|()| Vec::new()).map_err(failed),
            Io::Cut { length, .. } => {
                // Frees blocks, which a file system may take its time for.
                let file = Arc::clone(&self.blocking);
                let cut = move || if file.metadata()?.len() > length { file.set_len(length) } else { Ok(()) };
                let cut = glommio::executor().spawn_blocking(cut).await;
                cut.map(|()| Vec::new()).map_err(|error| DiskError::new(io, &error))
            }
            Io::SetLength { length, .. } => {
                // Blocks, not only a length: a disk that is full says so here, where a checkpoint can still be given up.
                let file = Arc::clone(&self.blocking);
                let reserve = move || {
                    let now = file.metadata()?.len();
                    if now < length { fds::reserve(file.as_raw_fd(), now, length - now) } else { Ok(()) }
                };
                let reserved = glommio::executor().spawn_blocking(reserve).await;
                reserved.map(|()| Vec::new()).map_err(|error| DiskError::new(io, &error))
            }
        }
    }
}

fn completion(token: Token, result: DiskResult) -> Completion {
    Completion { token, result }
}

/// Blocks the caller. In the page cache when this returns: the whole write, unless it failed.
fn write(file: &File, io: &Io) -> DiskResult {
    let Io::Write { offset, buffers, .. } = io else { return Ok(Vec::new()) };
    let mut at = *offset;
    for buffer in buffers {
        file.write_all_at(buffer, at).map_err(|error| DiskError::new(io, &error))?;
        at += buffer.len() as u64;
    }
    Ok(Vec::new())
}
