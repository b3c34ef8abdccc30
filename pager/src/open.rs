//! Making a page file, and opening one: nothing but its first three pages is read.

use std::sync::Arc;

use crate::api::PageRun;
use crate::api::{TreeId, TreeSpec};
use crate::checkpoint::Checkpoints;
use crate::disk::{self, Disk, DiskError, Io, IoPurpose};
use crate::freelist::{Freelist, Space};
use crate::layout::{FileId, HEADER_PAGE, META_PAGES, PAGE_BYTES};
use crate::mapping::PageSource;
use crate::meta::{self, Features, FileHeader, HEAD_PAGES, Meta, MetaOutcome, MetaRoot, OpenFailure};
use crate::node::{Child, LEVELS_MAX, Reference};
use crate::pager::Pager;
use crate::root::{State, TreeRoot};
use crate::shared::Shared;

/// What a page file is to hold.
#[derive(Clone, Copy)]
pub struct FileOptions<'a> {
    /// The file's identity: it seeds all checksums. Never given to two files. At open, the identity that is expected.
    pub file_id: [u8; 16],
    /// The identity of what the file is part of, for messages and tools.
    pub owner_id: [u8; 16],
    /// Its trees; numbers 1 to 63.
    pub trees: &'a [TreeSpec],
}

/// Why a page file is not opened or made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// By what its first pages say. Nothing was written.
    #[error(transparent)]
    Refused(#[from] OpenFailure),
    /// The disk's error.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file is older than a checkpoint that its owner knows to be finished. Nothing was written.
    #[error(
        "the page file went back in time: its state is of generation {found}, but the checkpoint of generation {logged} was \
         finished; an old copy was put back, or a disk lost writes that it had confirmed. Let the member join anew"
    )]
    WentBack {
        /// Of the meta that counts.
        found: u64,
        /// What the owner has logged.
        logged: u64,
    },
    /// A tree that its owner does not know. Nothing was written.
    #[error("the page file has a tree {0} that this program does not know: use a newer one")]
    UnknownTree(u8),
    /// A root that cannot be. Nothing was written.
    #[error("the meta of the page file says that tree {0} has {1} levels: damaged, or written by a faulty program")]
    AbsurdLevel(u8, u8),
    /// It uses a feature that allows this program only to read it. Nothing was written.
    #[error("the page file uses features that this program may only read: use a newer one")]
    ReadOnly,
}

/// The generation of a new file: its trees are empty.
const FIRST_GENERATION: u64 = 1;

impl Pager {
    /// Makes a page file on an empty disk. When this returns, it is durable, and opens with empty trees. A crash before that
    /// may leave a file that does not open: make it under another name and rename it.
    ///
    /// `pages` is the memory through which the file is read.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(
        disk: &mut dyn Disk,
        pages: Arc<dyn PageSource>,
        options: &FileOptions<'_>,
    ) -> Result<Pager, OpenError> {
        let file = FileId(options.file_id);
        let header = FileHeader { file, owner: options.owner_id, features: Features::default() };
        let mut freelist = Freelist::create(file);
        let mut state = State::empty();
        state.generation = FIRST_GENERATION;
        freelist.begin_checkpoint(FIRST_GENERATION);
        freelist.fix_maps().expect("nothing was freed in a new file");
        let maps = freelist.next_maps(usize::MAX);
        let meta = meta_of(&state, freelist.space());
        let write =
            |page: u64, bytes, purpose| Io::Write { offset: page * PAGE_BYTES as u64, buffers: vec![bytes], purpose };
        let length = freelist.file_pages() * PAGE_BYTES as u64;
        disk::run(disk, Io::SetLength { length, purpose: IoPurpose::CreateLength })?;
        disk::run(disk, write(HEADER_PAGE, header.encode().into(), IoPurpose::CreateHeader))?;
        for (page, bytes) in maps {
            disk::run(disk, write(page, bytes, IoPurpose::CreateMap))?;
        }
        disk::run(disk, Io::Sync { purpose: IoPurpose::CreateSync })?;
        disk::run(disk, write(META_PAGES[0], meta.encode(file).into(), IoPurpose::CreateMeta))?;
        disk::run(disk, Io::Sync { purpose: IoPurpose::CreateMetaSync })?;
        freelist.checkpointed();
        let shared = Shared::new(pages, file.crc_seed(), options.trees);
        shared.grown(freelist.file_pages())?;
        let length_pages = freelist.file_pages();
        let checkpoints = Checkpoints::new(freelist, FIRST_GENERATION, 0, length_pages);
        Ok(Pager::assemble(file, Arc::new(shared), state, checkpoints))
    }

    /// Opens a page file with the state of its last finished checkpoint. Writes nothing new, but makes durable what it opens.
    ///
    /// `logged_generation`: the last [`CheckpointDone`] that the owner has recorded elsewhere; 0 for none.
    ///
    /// # Errors
    /// The disk's, and what the first pages forbid.
    ///
    /// [`CheckpointDone`]: crate::CheckpointDone
    pub fn open(
        disk: &mut dyn Disk,
        pages: Arc<dyn PageSource>,
        options: &FileOptions<'_>,
        logged_generation: u64,
    ) -> Result<(Pager, MetaOutcome), OpenError> {
        let file_bytes = disk.length()?;
        let head_bytes = (HEAD_PAGES * PAGE_BYTES) as u64;
        let bytes = usize::try_from(file_bytes.min(head_bytes)).expect("three pages at most");
        let head = disk::run(disk, Io::Read { offset: 0, bytes, purpose: IoPurpose::OpenHead })?;
        let opened = meta::open(&head, file_bytes, Some(FileId(options.file_id)))?;
        let generation = opened.meta.generation;
        if generation < logged_generation {
            return Err(OpenError::WentBack { found: generation, logged: logged_generation });
        }
        if opened.is_read_only {
            return Err(OpenError::ReadOnly);
        }
        let state = state_of(&opened.meta, options.trees)?;
        make_durable(disk, &head, opened.slot)?;
        let file = opened.header.file;
        let file_pages = opened.meta.space.file_pages;
        let older = opened.older.map(|older| (older.generation, older.space));
        let freelist = Freelist::open(file, (generation, opened.meta.space), older);
        let shared = Shared::new(pages, file.crc_seed(), options.trees);
        shared.grown(file_pages)?;
        let length_pages = file_bytes / PAGE_BYTES as u64;
        let checkpoints = Checkpoints::new(freelist, generation, usize::from(opened.slot), length_pages);
        Ok((Pager::assemble(file, Arc::new(shared), state, checkpoints), opened.outcome))
    }
}

/// After a kill the newest meta may be in the page cache alone. The next checkpoint writes over what only the one before it
/// needs: a power cut must not bring that back. A sync is not enough: where the one that should have made it durable has
/// failed, the kernel takes the page for clean, and the next sync has nothing to write. So the same bytes are written
/// again. What the meta names was synced before it was first written.
fn make_durable(disk: &mut dyn Disk, head: &[u8], slot: u8) -> Result<(), DiskError> {
    let offset = META_PAGES[usize::from(slot)] as usize * PAGE_BYTES;
    let meta = head[offset..offset + PAGE_BYTES].to_vec();
    let (offset, buffers) = (offset as u64, vec![meta.into()]);
    disk::run(disk, Io::Write { offset, buffers, purpose: IoPurpose::OpenMeta })?;
    disk::run(disk, Io::Sync { purpose: IoPurpose::OpenMetaSync })?;
    Ok(())
}

/// The meta of a state whose nodes are all in the file.
pub(crate) fn meta_of(state: &State, space: Space) -> Meta {
    let roots = state.roots.iter().zip(0_u8..).filter(|(root, _)| !root.child.reference.is_none());
    let roots = roots.map(|(root, tree)| MetaRoot {
        tree: TreeId(tree),
        level: root.level,
        run: PageRun {
            first: root.child.reference.as_page().expect("a meta names pages only"),
            pages: root.child.pages,
        },
        generation: root.child.generation,
        sum: root.child.sum,
    });
    Meta { generation: state.generation, roots: roots.collect(), attributes: state.attributes.clone(), space }
}

fn state_of(meta: &Meta, trees: &[TreeSpec]) -> Result<State, OpenError> {
    let mut state = State::empty();
    state.generation = meta.generation;
    state.attributes.clone_from(&meta.attributes);
    for root in &meta.roots {
        if !trees.iter().any(|spec| spec.id == root.tree) {
            return Err(OpenError::UnknownTree(root.tree.0));
        }
        if usize::from(root.level) >= LEVELS_MAX {
            return Err(OpenError::AbsurdLevel(root.tree.0, root.level));
        }
        let child = Child {
            reference: Reference::page(root.run.first),
            generation: root.generation,
            pages: root.run.pages,
            sum: root.sum,
        };
        state.roots[usize::from(root.tree.0)] = TreeRoot { level: root.level, child };
    }
    Ok(state)
}
