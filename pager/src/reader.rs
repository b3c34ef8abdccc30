//! Reading published states from other threads.

use std::sync::Arc;

use crate::api::{Access, Aggregate, Damage, Direction, KeyRange, PageRun, ReadTrees, TreeId, Visitor};
use crate::node::{Child, NodeView};
use crate::pins::{self, Pinner, Pins};
use crate::root::{PinnedRecord, TreeRoot};
use crate::shared::Shared;
use crate::tree::{self, Nodes, Visit};

/// The reading side of a pager, for one thread at a time. Pins taken from it keep what they see alive; let go of them soon.
pub struct Reader {
    pinner: Pinner,
    shared: Arc<Shared>,
}

// SAFETY: the pinner and its pins share counts that only one thread may touch. A reader owns the only pinner of its slot
// and never gives it away; its pins borrow the reader and are not `Send`. So when a reader moves to another thread, no pin
// of it is left behind (or it was forgotten, and is never touched again).
unsafe impl Send for Reader {}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, pins: &Pins) -> Reader {
        Reader { pinner: Pinner::new(pins.register()), shared }
    }

    /// A reader of the same pager for one more thread.
    #[must_use]
    pub fn another(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared), self.pinner.pins())
    }

    /// Pins the newest published state. No system call, no lock.
    #[must_use]
    pub fn pin(&self) -> Pin<'_> {
        let (guard, record) = self.pinner.pin(|| self.shared.published.newest());
        // SAFETY: the record is the last answer, whose generation `guard` holds for as long as the borrow.
        let record = unsafe { self.shared.published.pinned(record) };
        Pin { record, shared: &self.shared, guard }
    }

    /// The newest published generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.published.newest().0
    }

    /// Says that the caller has read these pages into memory, because a pin that it still holds met [`Fault::Absent`].
    /// Verifies them; from now on they are served. Where the read failed, nothing is to be called.
    ///
    /// # Errors
    /// The page is not what was once written there. It stays absent. (Without the pin, the page may belong to somebody
    /// else by now: pin again and see whether it is still met.)
    ///
    /// [`Fault::Absent`]: crate::api::Fault::Absent
    pub fn bring_in_done(&self, run: PageRun) -> Result<(), Damage> {
        self.shared.bring_in_done(run)
    }

    /// The short way: if the page cache holds these pages, they are verified and served from now on. False: they must be
    /// read first, for a touch would stall the thread.
    ///
    /// # Errors
    /// As [`Reader::bring_in_done`].
    pub fn bring_in_cached(&self, run: PageRun) -> Result<bool, Damage> {
        self.shared.bring_in_cached(run)
    }
}

/// A published state that stays while this lives.
pub struct Pin<'r> {
    record: PinnedRecord<'r>,
    shared: &'r Shared,
    guard: pins::Pin,
}

impl Pin<'_> {
    /// The generation that is seen.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.guard.generation()
    }

    pub(crate) fn root(&self, tree: TreeId) -> TreeRoot {
        self.record.root(tree)
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.shared
    }
}

impl Nodes for Pin<'_> {
    fn load(&self, child: &Child) -> Access<NodeView<'_>> {
        // SAFETY: children come from the pinned state.
        unsafe { self.shared.load(child) }
    }
}

impl ReadTrees for Pin<'_> {
    fn get(&self, tree: TreeId, key: &[u8]) -> Access<Option<&[u8]>> {
        tree::get(self, tree, &self.root(tree), key)
    }

    fn visit(
        &self,
        tree: TreeId,
        range: KeyRange<'_>,
        direction: Direction,
        skip_uncounted: bool,
        visitor: &mut Visitor<'_>,
    ) -> Access<()> {
        tree::visit(self, &self.root(tree), range, Visit { tree, direction, skip_uncounted, visitor })
    }

    fn aggregate(&self, tree: TreeId, range: KeyRange<'_>) -> Access<Aggregate> {
        tree::aggregate(self, tree, &self.root(tree), range, self.shared.summarize(tree))
    }

    fn attributes(&self) -> &[u8] {
        self.record.attributes()
    }
}
