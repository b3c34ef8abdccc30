//! The thread that makes a page file of what comes, and the bounded queue to it.
//!
//! It may block: it writes, syncs, and reads pages of the member's own store. Dropping the [`Builder`] ends it at the next look
//! at its queue; what it has made is of no use then.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;
use ringstone_pager::api::{Access, Damage, Direction, Fault, KeyRange, PageRun, ReadTrees as _, TreeId, Visitor};
use ringstone_pager::{Pin, Reader};

use super::super::random_bytes;
use super::arrivals::marks;
use super::new_file::NewFile;
use super::{ImageFailure, at, of_restore, remove};
use crate::group::{PageRestore, Restore};
use crate::identity::Identity;
use crate::image::{ImageMap, ImageReader, OwnRecords, Wanted};

/// Bytes that wait for the thread: what a link brings while a checkpoint is written.
const WAITING_BYTES_MAX: usize = 16 << 20;
const PAGE_BYTES: usize = 4096;

/// What the thread made: index and term of the image.
pub(super) type Made<T> = Result<T, ImageFailure>;

struct Queue<T> {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    /// All has come.
    is_ended: bool,
    /// Nobody wants it any more.
    is_dropped: bool,
    made: Option<Made<T>>,
}

struct Meeting<T> {
    queue: Mutex<Queue<T>>,
    filled: Condvar,
}

impl<T> Meeting<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next bytes; None behind the last.
    fn next(&self) -> Result<Option<Bytes>, ImageFailure> {
        let mut queue = self.lock();
        loop {
            if queue.is_dropped {
                return Err(ImageFailure::Replaced);
            }
            if let Some(bytes) = queue.waiting.pop_front() {
                queue.bytes -= bytes.len();
                return Ok(Some(bytes));
            }
            if queue.is_ended {
                return Ok(None);
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The way to the thread. It never blocks.
pub(super) struct Builder<T> {
    meeting: Arc<Meeting<T>>,
}

impl<T: Send + 'static> Builder<T> {
    fn begin(work: impl FnOnce(&dyn Fn() -> Made<Option<Bytes>>) -> Made<T> + Send + 'static) -> Made<Builder<T>> {
        let queue = Queue { waiting: VecDeque::new(), bytes: 0, is_ended: false, is_dropped: false, made: None };
        let meeting = Arc::new(Meeting { queue: Mutex::new(queue), filled: Condvar::new() });
        let of_thread = Arc::clone(&meeting);
        let thread = thread::Builder::new().name("image".to_owned()).spawn(move || {
            let made = work(&|| of_thread.next());
            of_thread.lock().made = Some(made);
        });
        thread.map_err(ImageFailure::Thread)?;
        Ok(Builder { meeting })
    }

    /// Hands bytes over; false: there is no room for them now.
    pub(super) fn push(&self, bytes: &Bytes) -> bool {
        let mut queue = self.meeting.lock();
        // What comes behind a failure is of no use: the failure is told by `made`.
        if queue.made.is_some() {
            return true;
        }
        if queue.bytes > 0 && queue.bytes + bytes.len() > WAITING_BYTES_MAX {
            return false;
        }
        queue.bytes += bytes.len();
        queue.waiting.push_back(bytes.clone());
        self.meeting.filled.notify_one();
        true
    }

    /// All bytes were handed over.
    pub(super) fn end(&self) {
        self.meeting.lock().is_ended = true;
        self.meeting.filled.notify_one();
    }

    /// What came of it, told once; None while it works.
    pub(super) fn made(&self) -> Option<Made<T>> {
        self.meeting.lock().made.take()
    }
}

impl<T> Drop for Builder<T> {
    fn drop(&mut self) {
        self.meeting.lock().is_dropped = true;
        self.meeting.filled.notify_one();
    }
}

/// The member's own store, for the thread.
pub(super) struct OwnStore {
    pub(super) reader: Reader,
    /// Its page file.
    pub(super) path: PathBuf,
}

/// The thread of an image: it makes the file of a state of this index and term.
pub(super) type PageBuilder = Builder<(u64, u64)>;

/// A thread that has something to say first.
pub(super) struct Speaking<T> {
    pub(super) builder: PageBuilder,
    pub(super) said: Receiver<T>,
}

/// The runs of a map that are not in the member's own store.
pub(super) struct Compared {
    pub(super) id: [u8; 16],
    pub(super) runs: usize,
    pub(super) wanted: Arc<Wanted>,
}

/// Makes the page file of a whole state; with its id, one that another process may go on with.
pub(super) fn whole(pages: PathBuf, identity: Identity, image: Option<[u8; 16]>) -> Made<PageBuilder> {
    remove(&pages).map_err(at(&pages))?;
    Builder::begin(move |next| {
        let file = NewFile::create(&pages).map_err(at(&pages))?;
        let restore = PageRestore::new(Box::new(file), &identity, random_bytes());
        let restore = match image {
            Some(image) => restore.keep_marks(&marks(&pages), image)?,
            None => restore,
        };
        make_of_pages(restore, &pages, next)
    })
}

/// Goes on with what an earlier process has made of a state: says from which offset on.
pub(super) fn resumed(pages: PathBuf, identity: Identity, image: [u8; 16]) -> Made<Speaking<u64>> {
    let (say, said) = mpsc::sync_channel(1);
    let builder = Builder::begin(move |next| {
        let (file, sink) = (File::open(&pages).map_err(at(&pages))?, NewFile::open(&pages).map_err(at(&pages))?);
        let restore = PageRestore::resume(Box::new(sink), &file, &marks(&pages), &identity, image)?;
        say.send(restore.offset()).map_err(|_| ImageFailure::Replaced)?;
        make_of_pages(restore, &pages, next)
    })?;
    Ok(Speaking { builder, said })
}

/// On disk when this returns: the file, synced, by a name that no start looks at.
fn make_of_pages(mut restore: PageRestore, pages: &Path, next: &dyn Fn() -> Made<Option<Bytes>>) -> Made<(u64, u64)> {
    let failed = |error| of_restore(pages, error);
    while let Some(bytes) = next()? {
        restore.push(&bytes).map_err(failed)?;
    }
    restore.finish().map_err(failed)
}

/// Compares the member's store with a map, and says what differs; then, when that comes, makes the page file of it and of the
/// store as it was when it was compared.
pub(super) fn partial(pages: PathBuf, identity: Identity, map: Vec<u8>, own: OwnStore) -> Made<Speaking<Compared>> {
    let (say, said) = mpsc::sync_channel(1);
    let builder = Builder::begin(move |next| {
        let map = Arc::new(ImageMap::decode(&map)?);
        let mut own = Own::open(&own)?;
        let wanted = Arc::new(map.compare(&mut own));
        let compared = Compared { id: map.id, runs: map.runs.len(), wanted: Arc::clone(&wanted) };
        say.send(compared).map_err(|_| ImageFailure::Replaced)?;
        // The file is made when there is something to write to it.
        let first = Cell::new(next()?);
        let next = || first.take().map_or_else(next, |bytes| Ok(Some(bytes)));
        let restore = Restore::create_member(&pages, &identity)?;
        make(restore, ImageReader::partial(map, wanted), &mut own, &next)
    })?;
    Ok(Speaking { builder, said })
}

/// On disk when this returns: the file, synced, by a name that no start looks at.
fn make(
    mut restore: Restore,
    mut reader: ImageReader,
    own: &mut dyn OwnRecords,
    next: &dyn Fn() -> Made<Option<Bytes>>,
) -> Made<(u64, u64)> {
    while let Some(bytes) = next()? {
        reader.push(&bytes)?;
        restore.drain_beside(&mut reader, own)?;
    }
    let summary = reader.finish()?;
    let place = (summary.state.applied_index, summary.state.applied_term);
    restore.finish_member(&summary)?;
    Ok(place)
}

/// A pinned state of the member's own store, on a thread that may wait for its pages.
struct Own<'a> {
    reader: &'a Reader,
    pin: Pin<'a>,
    file: File,
    buffer: Vec<u8>,
}

impl<'a> Own<'a> {
    fn open(store: &'a OwnStore) -> Made<Own<'a>> {
        let file = File::open(&store.path).map_err(at(&store.path))?;
        Ok(Own { reader: &store.reader, pin: store.reader.pin(), file, buffer: Vec::new() })
    }

    /// Reads a run into the page cache, and checks it where the mapping shows it.
    fn bring_in(&mut self, run: PageRun) -> Access<()> {
        if self.reader.bring_in_cached(run).map_err(Fault::Damaged)? {
            return Ok(());
        }
        self.buffer.resize(run.pages as usize * PAGE_BYTES, 0);
        let read: io::Result<()> = self.file.read_exact_at(&mut self.buffer, run.first * PAGE_BYTES as u64);
        read.map_err(|_| Damage { page: run.first, tree: 0, what: "the disk can't read this page (I/O error)" })
            .and_then(|()| self.reader.bring_in_done(run))
            .map_err(Fault::Damaged)
    }
}

impl OwnRecords for Own<'_> {
    fn visit(&mut self, tree: TreeId, range: KeyRange<'_>, visitor: &mut Visitor<'_>) -> Access<()> {
        let mut seen: Option<Vec<u8>> = None;
        loop {
            let from = seen.as_deref().map_or(range.0, Bound::Excluded);
            let mut last = None;
            let visited = self.pin.visit(tree, (from, range.1), Direction::Forward, false, &mut |key, value| {
                let last = last.get_or_insert_with(Vec::new);
                last.clear();
                last.extend_from_slice(key);
                visitor(key, value)
            });
            match visited {
                Err(Fault::Absent(run)) => self.bring_in(run)?,
                other => return other,
            }
            seen = last.or(seen);
        }
    }
}

/// One that takes what comes, and makes nothing of it.
#[cfg(test)]
pub(super) fn idle() -> Made<PageBuilder> {
    Builder::begin(|next| {
        while next()?.is_some() {}
        Err(ImageFailure::TooLate)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until<T: Send + 'static>(builder: &Builder<T>) -> Made<T> {
        loop {
            match builder.made() {
                Some(made) => return made,
                None => thread::yield_now(),
            }
        }
    }

    #[test]
    fn the_queue_is_bounded_in_order_and_ends() {
        let builder = Builder::begin(|next| {
            let (mut all, mut pieces) = (Vec::new(), 0u32);
            while let Some(bytes) = next()? {
                all.extend_from_slice(&bytes[..1]);
                pieces += 1;
            }
            Ok((all, pieces))
        })
        .expect("a thread");
        for number in 0..200u8 {
            let bytes = Bytes::from(vec![number; 1 << 20]);
            while !builder.push(&bytes) {
                thread::yield_now();
            }
        }
        builder.end();
        let (all, pieces) = until(&builder).expect("all of it");
        assert_eq!((all, pieces), ((0..200).collect(), 200));
        // One that takes nothing fills up; dropping it ends it.
        let (ended, end) = std::sync::mpsc::channel();
        let slow = Builder::<()>::begin(move |next| {
            while !matches!(next(), Err(ImageFailure::Replaced)) {
                thread::park_timeout(std::time::Duration::from_millis(50));
            }
            ended.send(()).expect("the test waits");
            Err(ImageFailure::Replaced)
        })
        .expect("a thread");
        let piece = Bytes::from(vec![0; 4 << 20]);
        let mut pushed = 0;
        while slow.push(&piece) && pushed < 100 {
            pushed += 1;
        }
        assert!((4..10).contains(&pushed), "{pushed} pieces of 4 MiB");
        drop(slow);
        end.recv_timeout(std::time::Duration::from_secs(10)).expect("it has ended");
    }

    #[test]
    fn a_failure_is_told_and_takes_the_rest() {
        let failed = Builder::<()>::begin(|next| {
            next()?;
            Err(ImageFailure::TooLate)
        })
        .expect("a thread");
        let piece = Bytes::from(vec![0; WAITING_BYTES_MAX]);
        assert!(failed.push(&piece));
        while failed.meeting.lock().made.is_none() {
            thread::yield_now();
        }
        assert!(failed.push(&piece) && failed.push(&piece), "it takes what nobody needs");
        assert!(matches!(until(&failed), Err(ImageFailure::TooLate)));
    }
}
