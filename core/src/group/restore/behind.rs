//! A page file that counts for nothing before its last sync.
//!
//! Syncs go on beside the writes, on a thread of their own, one at a time; the pager is told at once that they are done. That
//! bounds what the page cache holds of the file, and so what a sync of another file of the same disk (the log) may have to wait
//! for, without waiting for the disk at each checkpoint. From [`LastSync::begin`] on a sync is what it says.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use ringstone_pager::disk::{Completion, Disk, DiskError, Io, StdDisk, Token};

/// Bytes that may be written while the sync before them is under way.
const BEHIND_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are worth a sync.
const SYNC_BYTES: u64 = 16 << 20;

/// Says that from now on what is written must be durable.
#[derive(Clone, Debug, Default)]
pub(super) struct LastSync(Arc<AtomicBool>);

impl LastSync {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// See the module.
pub(super) struct WriteBehind {
    disk: StdDisk,
    file: Arc<File>,
    last_sync: LastSync,
    under_way: Option<JoinHandle<io::Result<()>>>,
    /// Since the last sync was begun.
    written_bytes: u64,
    completed: VecDeque<Completion>,
}

impl WriteBehind {
    pub(super) fn new(disk: StdDisk, last_sync: LastSync) -> io::Result<WriteBehind> {
        let file = Arc::new(disk.file().try_clone()?);
        Ok(WriteBehind { disk, file, last_sync, under_way: None, written_bytes: 0, completed: VecDeque::new() })
    }

    /// Waits for the sync under way.
    fn settle(&mut self) -> io::Result<()> {
        self.under_way.take().map_or(Ok(()), |sync| sync.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    }

    fn begin_sync(&mut self) -> io::Result<()> {
        let is_over = self.under_way.as_ref().is_none_or(JoinHandle::is_finished);
        if self.written_bytes < SYNC_BYTES || (!is_over && self.written_bytes < BEHIND_BYTES_MAX) {
            return Ok(());
        }
        self.settle()?;
        self.written_bytes = 0;
        let file = Arc::clone(&self.file);
        let sync = thread::Builder::new().name("image-sync".to_owned()).spawn(move || file.sync_data())?;
        self.under_way = Some(sync);
        Ok(())
    }
}

impl Disk for WriteBehind {
    fn submit(&mut self, token: Token, io: Io) {
        if let Io::Write { buffers, .. } = &io {
            self.written_bytes += buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>();
        }
        let is_last = self.last_sync.0.load(Ordering::Acquire);
        let waited = match (&io, is_last) {
            (Io::Sync { .. }, false) => self.begin_sync(),
            // A sync that failed before is not made good by a later one.
            (Io::Sync { .. }, true) => self.settle(),
            _ => Ok(()),
        };
        match (waited, &io) {
            (Err(error), _) => {
                let result = Err(DiskError::new(&io, &error));
                self.completed.push_back(Completion { token, result });
            }
            (Ok(()), Io::Sync { .. }) if !is_last => {
                self.completed.push_back(Completion { token, result: Ok(Vec::new()) });
            }
            (Ok(()), _) => self.disk.submit(token, io),
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        self.completed.pop_front().or_else(|| self.disk.poll())
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.disk.length()
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        // Given up: nobody minds what came of it, but the thread must not outlive the file's use.
        let _ = self.settle();
    }
}

#[cfg(test)]
mod tests {
    use ringstone_pager::disk::{Buffer, IoPurpose};

    use super::*;

    fn write(disk: &mut WriteBehind, token: u64, offset: u64, bytes: usize) {
        let buffers = vec![Buffer::from(vec![7; bytes])];
        disk.submit(Token(token), Io::Write { offset, buffers, purpose: IoPurpose::ReadPage });
        assert!(disk.poll().expect("done at once").result.is_ok());
    }

    fn sync(disk: &mut WriteBehind) -> Result<(), DiskError> {
        disk.submit(Token(9), Io::Sync { purpose: IoPurpose::ReadPage });
        disk.poll().expect("answered at once").result.map(drop)
    }

    #[test]
    fn only_the_last_sync_is_waited_for_and_what_is_behind_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let last = LastSync::default();
        let file = StdDisk::create(&folder.path().join("pages")).expect("a file");
        let mut disk = WriteBehind::new(file, last.clone()).expect("a descriptor");
        write(&mut disk, 1, 0, 100);
        sync(&mut disk).expect("nothing is done");
        assert!(disk.under_way.is_none() && disk.written_bytes == 100, "not worth a sync");
        write(&mut disk, 2, 100, SYNC_BYTES as usize);
        sync(&mut disk).expect("begun");
        assert!(disk.under_way.is_some() && disk.written_bytes == 0, "on its way");
        // One that failed is told by the next that has to wait.
        disk.settle().expect("a sound disk");
        disk.under_way = Some(thread::spawn(|| Err(io::Error::other("the disk"))));
        last.begin();
        assert!(sync(&mut disk).is_err(), "its failure is told");
        sync(&mut disk).expect("a real one");
        assert!(disk.under_way.is_none());
    }
}
