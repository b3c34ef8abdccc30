//! From an image to the files of a new member.
//!
//! ```text
//! Restore::create -> drain (as often as bytes come) -> finish: sums compared, membership and state replaced, checkpoint
//! ```
//!
//! Only the caller's folder says when the member exists: what is written before that counts for nothing. So no checkpoint but
//! the last need be durable: the page file of a member that catches up is synced behind what is written (restore/behind.rs). Where it
//! takes a whole state, that comes as pages, and is made a file by restore/pages.rs.

mod behind;
mod pages;

use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use ringstone_pager::api::{Fault, PageRun, TreeId, WriteTrees as _};
use ringstone_pager::disk::{self, Disk, Io, IoPurpose, StdDisk};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::mapping::{Mapping, PageSource};
use ringstone_pager::{CheckpointError, Pager};
use ringstone_wal::Options as LogOptions;
use ringstone_wal::disk::Disk as LogDisk;
use rkyv::rancor;

use super::open::{OpenError, create_log, file_options, io_error, log_options, tree_specs};
use crate::command::Member;
use crate::error::ApplyFault;
use crate::identity::Identity;
use crate::image::{ImageError, ImageReader, ImageSummary, OwnRecords, OwnRun, PagesError};
use crate::mvcc;
use crate::trees::{ALARM, MEMBER};
use behind::{LastSync, WriteBehind};

pub use pages::PageRestore;

/// Dirty frames that are written to the file before more are made.
const DIRTY_BYTES_MAX: u64 = 64 << 20;

/// Why an image could not be restored. What was written must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The new files.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A state that came as pages.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// Writing the page file.
    #[error("page file: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Reading back what was written.
    #[error("page file: {0}")]
    Disk(#[from] disk::DiskError),
    /// The compaction at the new revision.
    #[error("marking the revision compacted: {0}")]
    Compact(#[from] ApplyFault),
    /// What an earlier process has left.
    #[error("nothing is left of this image that could be gone on with")]
    NoMark,
    /// There is no revision so high.
    #[error("the revision {revision} can't be bumped by {bump}: it would be out of range")]
    Bump {
        /// The image's.
        revision: i64,
        /// What was asked for.
        bump: u64,
    },
}

/// How the new member differs from the one in the image.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// All members of the new cluster.
    pub members: Vec<Member>,
    /// How far the revision is moved on.
    pub bump_revision: u64,
    /// Compact at the revision that comes of it: watches from before are told so.
    pub mark_compacted: bool,
}

/// A member while it is made.
pub struct Restore {
    disk: Box<dyn Disk + Send>,
    pager: Pager,
    identity: Identity,
    dirty_bytes_max: u64,
    is_member: bool,
    last_sync: LastSync,
}

/// What is taken from the image. Who the members are, and what is wrong with them, is not what a snapshot is taken for; a
/// member that catches up takes all of it.
fn is_wanted(is_member: bool) -> impl Fn(TreeId) -> bool {
    move |tree| is_member || (tree != MEMBER && tree != ALARM)
}

impl Restore {
    /// Makes the empty page file.
    ///
    /// # Errors
    /// [`RestoreError::Open`].
    pub fn create(page_file: &Path, identity: &Identity) -> Result<Restore, RestoreError> {
        let disk = StdDisk::create(page_file).map_err(io_error(page_file))?;
        let mapping = Arc::new(Mapping::new(disk.file(), 0).map_err(io_error(page_file))?);
        Restore::create_with(Box::new(disk), mapping, identity)
    }

    /// [`Restore::create`] on any disk, which is empty; `pages` looks at the same file.
    ///
    /// # Errors
    /// [`RestoreError::Open`].
    pub fn create_with(
        mut disk: Box<dyn Disk + Send>,
        pages: Arc<dyn PageSource>,
        identity: &Identity,
    ) -> Result<Restore, RestoreError> {
        let specs = tree_specs();
        let options = file_options(identity, &specs);
        let pager = Pager::create(&mut *disk, pages, &options).map_err(OpenError::from)?;
        let (dirty_bytes_max, last_sync) = (DIRTY_BYTES_MAX, LastSync::default());
        Ok(Restore { disk, pager, identity: *identity, dirty_bytes_max, is_member: false, last_sync })
    }

    /// Makes the empty page file of a member that catches up: the image is that of the leader of its own cluster, and taken as
    /// it is. Durable once [`Restore::finish_member`] has returned, and not before.
    ///
    /// # Errors
    /// [`RestoreError::Open`].
    pub fn create_member(page_file: &Path, identity: &Identity) -> Result<Restore, RestoreError> {
        let disk = StdDisk::create(page_file).map_err(io_error(page_file))?;
        let mapping = Arc::new(Mapping::new(disk.file(), 0).map_err(io_error(page_file))?);
        let last_sync = LastSync::default();
        let disk = WriteBehind::new(disk, last_sync.clone()).map_err(io_error(page_file))?;
        let restore = Restore::create_with(Box::new(disk), mapping, identity)?;
        Ok(Restore { last_sync, is_member: true, ..restore })
    }

    /// Sets how many dirty bytes are written out before more are made.
    pub fn set_dirty_bytes_max(&mut self, bytes: u64) {
        self.dirty_bytes_max = bytes;
    }

    /// Takes the records that were pushed to `reader`. Writes them out when they become many.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn drain(&mut self, reader: &mut ImageReader) -> Result<(), RestoreError> {
        loop {
            match reader.drain_into(&mut self.pager, is_wanted(self.is_member)) {
                Ok(()) => break,
                Err(ImageError::Trees(Fault::Absent(run))) => self.bring_in(run)?,
                Err(error) => return Err(error.into()),
            }
        }
        if self.pager.dirty_bytes() >= self.dirty_bytes_max { self.checkpoint() } else { Ok(()) }
    }

    /// [`Restore::drain`] of a partial image: `own` has what is left out of it.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn drain_beside(&mut self, reader: &mut ImageReader, own: &mut dyn OwnRecords) -> Result<(), RestoreError> {
        self.drain(reader)?;
        while let Some(run) = reader.own_run() {
            if self.copy_own(reader, &run, own)? {
                reader.end_own()?;
                self.drain(reader)?;
            }
            if self.pager.dirty_bytes() >= self.dirty_bytes_max {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    /// Takes the receiver's own records; false: a page of the new file had to be brought in, the rest comes with another call.
    fn copy_own(
        &mut self,
        reader: &mut ImageReader,
        run: &OwnRun,
        own: &mut dyn OwnRecords,
    ) -> Result<bool, RestoreError> {
        let wanted = is_wanted(self.is_member);
        let pager = &mut self.pager;
        let mut stopped = None;
        let after = run.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let until = Bound::Included(&run.last[..]);
        own.visit(run.tree, (after, until), &mut |key, value| {
            let taken = reader.take_own(key, value, &mut |tree, key, value| {
                if wanted(tree) { pager.put(tree, key, &[value]) } else { Ok(()) }
            });
            match taken {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    stopped = Some(error);
                    ControlFlow::Break(())
                }
            }
        })
        .map_err(ImageError::from)?;
        match stopped {
            None => Ok(true),
            Some(ImageError::Trees(Fault::Absent(run))) => self.bring_in(run).map(|()| false),
            Some(error) => Err(error.into()),
        }
    }

    fn bring_in(&mut self, run: PageRun) -> Result<(), RestoreError> {
        let bytes = run.pages as usize * PAGE_BYTES;
        let offset = run.first * PAGE_BYTES as u64;
        disk::run(&mut *self.disk, Io::Read { offset, bytes, purpose: IoPurpose::ReadPage })?;
        self.pager.bring_in_done(run).map_err(|damage| ImageError::Trees(Fault::Damaged(damage)).into())
    }

    fn checkpoint(&mut self) -> Result<(), RestoreError> {
        self.pager.publish();
        if !self.pager.checkpoint_begin()? {
            return Ok(());
        }
        while let Some((token, io)) = self.pager.poll_io()? {
            self.disk.submit(token, io);
            while let Some(completion) = self.disk.poll() {
                if self.pager.completed(completion.token, completion.result)?.is_some() {
                    return Ok(());
                }
            }
        }
        let stopped = io::Error::other("a checkpoint neither ended nor asked for more");
        Err(OpenError::Io { path: Path::new("pages-0").to_owned(), error: stopped }.into())
    }

    fn check_trees(&mut self, summary: &ImageSummary) -> Result<(), RestoreError> {
        loop {
            match summary.check_trees(&self.pager, is_wanted(self.is_member)) {
                Ok(()) => return Ok(()),
                Err(ImageError::Trees(Fault::Absent(run))) => self.bring_in(run)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the page file of a member that catches up: its state is the image's, applied index and all. On disk when this
    /// returns: the file, synced; its name is the caller's.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish_member(mut self, summary: &ImageSummary) -> Result<(), RestoreError> {
        self.check_trees(summary)?;
        self.last_sync.begin();
        // In both metas: where one of them is damaged the other one counts, and that must not be a state in the making.
        for _ in 0..2 {
            self.pager.set_attributes(&summary.state.to_attributes());
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Ends the member: its trees hold what the image's did, its state is that of a cluster of its own that has applied
    /// nothing yet, the log is empty. On disk when this returns: both files, synced.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish(
        self,
        summary: &ImageSummary,
        options: &RestoreOptions,
        log_disk: &mut dyn LogDisk,
    ) -> Result<(), RestoreError> {
        let log_options = log_options(&self.identity);
        self.finish_with(summary, options, log_disk, log_options)
    }

    /// [`Restore::finish`] with a log of these settings.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish_with(
        mut self,
        summary: &ImageSummary,
        options: &RestoreOptions,
        log_disk: &mut dyn LogDisk,
        log_options: LogOptions,
    ) -> Result<(), RestoreError> {
        self.check_trees(summary)?;
        let mut state = summary.state.clone();
        let bump = i64::try_from(options.bump_revision).ok();
        let too_far = RestoreError::Bump { revision: state.revision, bump: options.bump_revision };
        state.revision = bump.and_then(|bump| state.revision.checked_add(bump)).ok_or(too_far)?;
        (state.applied_index, state.applied_term) = (0, 0);
        (state.cluster_id, state.alarms) = (self.identity.cluster_id, 0);
        if options.mark_compacted {
            let revision = state.revision;
            while let Err(fault) = mvcc::apply_compact(&mut self.pager, &mut state, revision) {
                match fault {
                    ApplyFault::Absent(run) => self.bring_in(run)?,
                    fault => return Err(fault.into()),
                }
            }
        }
        for member in &options.members {
            let bytes = rkyv::to_bytes::<rancor::Error>(member).expect("a member can be encoded");
            while let Err(fault) = self.pager.put(MEMBER, &member.id.to_be_bytes(), &[&bytes]) {
                match fault {
                    Fault::Absent(run) => self.bring_in(run)?,
                    fault => return Err(ImageError::Trees(fault).into()),
                }
            }
        }
        self.pager.set_attributes(&state.to_attributes());
        self.checkpoint()?;
        Ok(create_log(log_disk, log_options)?)
    }
}
