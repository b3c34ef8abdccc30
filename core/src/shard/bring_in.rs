//! Brings absent pages into memory: read through io_uring into the page cache, then checked by whoever needs them, where
//! the mapping shows them. An I/O error is an answer here, never a SIGBUS.

use std::cell::RefCell;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ahash::{AHashMap, AHashSet};
use bytes::BytesMut;
use glommio::io::{BufferedFile, ReadResult};
use ringstone_net::nap::Nap;
use ringstone_pager::api::{Damage, PageRun};

use crate::error::Error;
use crate::shard::fds;
use crate::shard::notify::Broadcast;
use crate::shared::Shared;

const PAGE_BYTES: u64 = 4096;
/// Damaged pages that the log tells of: more of them say nothing new.
const REPORTED_MAX: usize = 256;

/// The page file for reading, and the reads under way: several that wait for one page share its read.
pub struct PageReads {
    file: Rc<BufferedFile>,
    shared: Arc<Shared>,
    nap: Option<Rc<Nap>>,
    under_way: RefCell<AHashMap<u64, Rc<Broadcast>>>,
    reported: RefCell<AHashSet<u64>>,
}

impl PageReads {
    /// Reads through `file`, whose length `shared` tells.
    pub fn new(file: Rc<BufferedFile>, shared: Arc<Shared>, nap: Option<Rc<Nap>>) -> PageReads {
        PageReads { file, shared, nap, under_way: RefCell::default(), reported: RefCell::default() }
    }

    /// Returns when the page cache holds the run, unchecked: that takes a pin, for without one the run may have another
    /// owner by now. False: another task read it meanwhile, and whatever came of that is not known; or it was cut off with
    /// the end of the file, so that the newest state has it elsewhere. In both cases: look again.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the disk can't read it.
    pub async fn read(&self, run: PageRun) -> Result<bool, Error> {
        let waiting = self.under_way.borrow().get(&run.first).map(Rc::clone);
        if let Some(waiting) = waiting {
            waiting.wait().await;
            return Ok(false);
        }
        let _awake = self.nap.as_ref().map(Nap::hold);
        let done = Rc::new(Broadcast::default());
        self.under_way.borrow_mut().insert(run.first, Rc::clone(&done));
        let mut result = read_run(&self.file, run).await;
        let is_gone = result.is_err() && self.is_behind_the_end(run);
        if result.is_err() && !is_gone {
            // It may have been gone for a moment: the file has grown again since.
            result = read_run(&self.file, run).await;
        }
        self.under_way.borrow_mut().remove(&run.first);
        done.complete();
        if is_gone { Ok(false) } else { result.map(|()| true).map_err(|damage| self.report(damage)) }
    }

    /// The bytes of pages that a pin of the caller's holds, unchecked.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the disk can't read them.
    pub async fn read_bytes(&self, run: PageRun) -> Result<ReadResult, Error> {
        let bytes = run.pages as usize * PAGE_BYTES as usize;
        let _awake = self.nap.as_ref().map(Nap::hold);
        let read = self.file.read_at(run.first * PAGE_BYTES, bytes).await;
        let read = read.ok().filter(|read| read.len() == bytes);
        let what = "the disk can't read this page, or one of those behind it (I/O error)";
        read.ok_or_else(|| self.report(Damage { page: run.first, tree: 0, what }))
    }

    /// Adds the bytes of pages that a pin of the caller's holds to `into`, unchecked. False: not all of them are in memory, and
    /// nothing was added.
    pub fn read_cached(&self, run: PageRun, into: &mut BytesMut) -> bool {
        let bytes = run.pages as usize * PAGE_BYTES as usize;
        fds::read_cached(self.file.as_raw_fd(), run.first * PAGE_BYTES, bytes, into)
    }

    /// The length is told before the file is cut, and after it has grown.
    fn is_behind_the_end(&self, run: PageRun) -> bool {
        (run.first + u64::from(run.pages)) * PAGE_BYTES > self.shared.file_bytes.load(Ordering::Acquire)
    }

    /// The client is told each time that its read meets the page; the log once.
    pub fn report(&self, damage: Damage) -> Error {
        let (page, text) = (damage.page, Error::Damaged(damage.clone()).to_string());
        let told = self.shared.met_damage(damage);
        let mut reported = self.reported.borrow_mut();
        if reported.len() < REPORTED_MAX && reported.insert(page) {
            match told {
                Error::Damaged(_) => tracing::error!(
                    error = text,
                    "a read met a damaged page: what needs it is refused, all else goes on"
                ),
                _ => {
                    tracing::error!(error = text, "a read met a damaged page: the state is fetched from another member")
                }
            }
        }
        told
    }
}

/// Reads a run so that the page cache holds it.
pub async fn read_run(file: &BufferedFile, run: PageRun) -> Result<(), Damage> {
    let unreadable = |what| Damage { page: run.first, tree: 0, what };
    let bytes = run.pages as usize * PAGE_BYTES as usize;
    match file.read_at(run.first * PAGE_BYTES, bytes).await {
        Ok(read) if read.len() == bytes => Ok(()),
        Ok(_) => Err(unreadable("the page file ends before this page does")),
        Err(_) => Err(unreadable("the disk can't read this page (I/O error)")),
    }
}
