//! What the writer and its readers share: the mapping, the frames' memory and the published root.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::api::{Access, Damage, Fault, PageRun, Summarize, TreeId, TreeSpec};
use crate::disk::{DiskError, DiskErrorKind, IoPurpose};
use crate::frames::{Arena, view_frame};
use crate::layout::PAGE_BYTES;
use crate::mapping::PageSource;
use crate::node::{Base, Child, NodeMemory, NodeView, at, verify};
use crate::root::{Published, TREES_MAX};

/// See the head of this file. The fields that hold memory are dropped with the last of writer and readers.
pub(crate) struct Shared {
    pub pages: Arc<dyn PageSource>,
    pub published: Published,
    pub arena: Arc<Arena>,
    pub seed: u32,
    /// Pages of the file: what a reference may lead to.
    pub file_pages: AtomicU64,
    summarize: [Option<Summarize>; TREES_MAX],
}

impl Shared {
    pub fn new(pages: Arc<dyn PageSource>, seed: u32, specs: &[TreeSpec]) -> Shared {
        let mut summarize = [None; TREES_MAX];
        for spec in specs {
            let place = summarize.get_mut(usize::from(spec.id.0)).filter(|_| spec.id.0 > 0);
            *place.expect("tree numbers are 1 to 63") = Some(spec.summarize);
        }
        let file_pages = AtomicU64::new(0);
        Shared { pages, published: Published::new(), arena: Arc::default(), seed, file_pages, summarize }
    }

    /// # Panics
    /// The tree is not among those that the file was opened with.
    pub fn summarize(&self, tree: TreeId) -> Summarize {
        self.summarize.get(usize::from(tree.0)).copied().flatten().expect("the tree is in the catalogue")
    }

    /// The memory of a node, in a frame or in the mapping.
    ///
    /// # Safety
    /// `child` comes from a state that stays pinned, or is the writer's own and not edited, while the borrow lasts.
    pub unsafe fn load(&self, child: &Child) -> Access<NodeView<'_>> {
        let Some(first) = child.reference.as_page() else {
            // SAFETY: the frames of such a state live, and but for switched words nobody writes them.
            let view = unsafe { view_frame(child.reference, child.pages) };
            return if child.reference.is_delta() { self.over_its_base(view) } else { Ok(view) };
        };
        let run = PageRun { first, pages: child.pages };
        self.pages.page(run).map(|bytes| NodeView::new(NodeMemory::of(bytes))).ok_or(Fault::Absent(run))
    }

    /// A delta with the page below it, which stays for as long as the delta does.
    fn over_its_base<'a>(&'a self, delta: NodeView<'a>) -> Access<NodeView<'a>> {
        let base = Base::of(delta.memory());
        let memory = NodeMemory::of(self.pages.page(base.run()).ok_or(Fault::Absent(base.run()))?);
        if memory.u64(at::GENERATION) != base.generation || memory.u8(at::TREE) != delta.tree() {
            let what = "it is not the page that was changed (a lost or misdirected write)";
            return Err(Fault::Damaged(Damage { page: base.page, tree: delta.tree(), what }));
        }
        Ok(NodeView::over(delta.memory(), memory))
    }

    /// The file has this length now.
    pub fn grown(&self, pages: u64) -> Result<(), DiskError> {
        self.pages.grown(pages).map_err(|error| DiskError {
            operation: "mapping",
            purpose: IoPurpose::Growth,
            offset: pages * PAGE_BYTES as u64,
            kind: DiskErrorKind::Full,
            cause: error.to_string(),
        })?;
        self.file_pages.store(pages, Ordering::Release);
        Ok(())
    }

    /// The file is going to be cut behind so many pages: whoever looks for one there is told that there is none.
    pub fn cut(&self, pages: u64) {
        self.file_pages.store(pages, Ordering::Release);
        self.pages.cut(pages);
    }

    /// [`Shared::bring_in_done`], if the kernel holds the pages in memory already. False: they must be read first.
    pub fn bring_in_cached(&self, run: PageRun) -> Result<bool, Damage> {
        if !self.pages.hold(run) {
            return Ok(false);
        }
        let taken = if self.pages.is_cached(run) { self.bring_in_done(run).map(|()| true) } else { Ok(false) };
        self.pages.let_go();
        taken
    }

    /// Verifies pages that were just read into memory, and serves them from now on.
    pub fn bring_in_done(&self, run: PageRun) -> Result<(), Damage> {
        let what = "it lies behind the end of the file";
        let bytes = self.pages.unchecked(run).ok_or(Damage { page: run.first, tree: 0, what })?;
        verify(NodeMemory::of(bytes), run, self.seed, self.file_pages.load(Ordering::Acquire))?;
        self.pages.set_resident(run);
        Ok(())
    }
}
