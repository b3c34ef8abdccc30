//! What a user of the pager sees of its trees: reads that never do I/O, writes that never block.
//!
//! Every operation that meets a page which is not in memory returns [`Fault::Absent`] and has changed nothing; the
//! caller has the page brought in and calls again. Keys are compared bytewise. Both sides of the pager implement these
//! traits (`Pin` reads a published root, `Writer` reads and writes the next one), and so does the test model.

use core::ops::{Bound, ControlFlow};

/// A tree of the file, named in its catalogue by the number that its owner gave it (1 to 63).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeId(pub u8);

/// What a range of a tree adds up to. All three wrap: sums can be subtracted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// Entries that count (the owner's [`Summarize`] decides; tombstones are 0).
    pub count: u64,
    /// Logical bytes.
    pub bytes: u64,
    /// Sum of the owner's per-record hashes.
    pub hash: u64,
}

impl Aggregate {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Aggregate) -> Aggregate {
        Aggregate {
            count: self.count.wrapping_add(other.count),
            bytes: self.bytes.wrapping_add(other.bytes),
            hash: self.hash.wrapping_add(other.hash),
        }
    }

    /// What is left when `other` is taken away.
    #[must_use]
    pub fn minus(self, other: Aggregate) -> Aggregate {
        Aggregate {
            count: self.count.wrapping_sub(other.count),
            bytes: self.bytes.wrapping_sub(other.bytes),
            hash: self.hash.wrapping_sub(other.hash),
        }
    }
}

/// What one entry adds to the aggregates above it: a pure function of the entry.
pub type Summarize = fn(key: &[u8], value: &[u8]) -> Aggregate;

/// A tree that the owner of the file wants to exist.
#[derive(Clone, Copy)]
pub struct TreeSpec {
    /// Its number in the catalogue.
    pub id: TreeId,
    /// Its name, for messages and the inspector.
    pub name: &'static str,
    /// How its entries are summed.
    pub summarize: Summarize,
}

/// Pages of the file that belong together: one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRun {
    /// Number of the first page; its offset in the file is `first * PAGE_SIZE`.
    pub first: u64,
    /// How many pages.
    pub pages: u32,
}

/// Why an operation did not finish. It has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// These pages must be brought into memory first, then the operation called again.
    #[error("pages {}+{} are not in memory", .0.first, .0.pages)]
    Absent(PageRun),
    /// The page is not what its parent says that it is. Never served.
    #[error("{0}")]
    Damaged(Damage),
}

/// A page that failed a check: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {page} (file offset {}) of tree {tree}: {what}", .page * 4096)]
pub struct Damage {
    /// Page number.
    pub page: u64,
    /// Tree that led here; 0 where none did.
    pub tree: u8,
    /// What the check found, in plain words.
    pub what: &'static str,
}

/// The result of an operation on trees.
pub type Access<T> = Result<T, Fault>;

/// Order of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

/// A range of keys.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Called with key and value of each entry; breaks to stop.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reads of one consistent state of all trees.
pub trait ReadTrees {
    /// The value of `key`. The slice lives as long as the view.
    ///
    /// # Errors
    /// [`Fault`]; nothing was read.
    fn get(&self, tree: TreeId, key: &[u8]) -> Access<Option<&[u8]>>;

    /// Calls `visitor(key, value)` for the entries of `range` in order until it breaks. With `skip_uncounted`, subtrees
    /// whose aggregate count is 0 are not entered (single entries of count 0 may still be visited).
    ///
    /// # Errors
    /// [`Fault`] at the first page that can't be read: the visitor has seen all entries before it, and the caller
    /// resumes behind the last of them.
    fn visit(
        &self,
        tree: TreeId,
        range: KeyRange<'_>,
        direction: Direction,
        skip_uncounted: bool,
        visitor: &mut Visitor<'_>,
    ) -> Access<()>;

    /// The sum over `range`, in O(log n).
    ///
    /// # Errors
    /// [`Fault`]; nothing was read.
    fn aggregate(&self, tree: TreeId, range: KeyRange<'_>) -> Access<Aggregate>;

    /// The attributes of the root record: bytes of the owner that change in one step with the trees.
    fn attributes(&self) -> &[u8];
}

/// Most bytes of attributes in a root record.
pub const ATTRIBUTES_BYTES_MAX: usize = 512;

/// Writes to the next state of all trees. Nobody else sees them before they are published.
pub trait WriteTrees: ReadTrees {
    /// Sets `key` to the concatenation of `value`; replaces what was there.
    ///
    /// # Errors
    /// [`Fault`]; nothing was changed.
    fn put(&mut self, tree: TreeId, key: &[u8], value: &[&[u8]]) -> Access<()>;

    /// Removes `key`; false where there was none.
    ///
    /// # Errors
    /// [`Fault`]; nothing was changed.
    fn delete(&mut self, tree: TreeId, key: &[u8]) -> Access<bool>;

    /// Removes the entries of `range` from its low end, whole subtrees at a time, but at most about `entries_max` of
    /// them. True when none are left.
    ///
    /// # Errors
    /// [`Fault`]; what was removed before it stays removed, calling again goes on.
    fn delete_front(&mut self, tree: TreeId, range: KeyRange<'_>, entries_max: usize) -> Access<bool>;

    /// Replaces the attributes.
    ///
    /// # Panics
    /// More than [`ATTRIBUTES_BYTES_MAX`] bytes.
    fn set_attributes(&mut self, attributes: &[u8]);
}
