//! The root record: where all trees begin at one generation, and the owner's attributes. How one is published.
//!
//! Records are never unmapped while a reader exists, only used again when no pin holds their generation: so a reader may
//! look at the generation of a record that it has not pinned yet, and its pin tells whether it looked at the right one.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::api::{ATTRIBUTES_BYTES_MAX, Aggregate, TreeId};
use crate::node::{Child, Reference};

/// The root of one tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TreeRoot {
    /// Level of the root node: 0 is a leaf.
    pub level: u8,
    /// The root node; its reference is `NONE` where the tree is empty.
    pub child: Child,
}

/// Most trees of a file: numbers 1 to 63.
pub(crate) const TREES_MAX: usize = 64;

/// One consistent state. Indexed by tree number.
#[derive(Clone)]
pub(crate) struct State {
    pub generation: u64,
    pub roots: Box<[TreeRoot; TREES_MAX]>,
    pub attributes: Vec<u8>,
}

impl State {
    pub fn empty() -> State {
        State { generation: 0, roots: Box::new([TreeRoot::default(); TREES_MAX]), attributes: Vec::new() }
    }

    pub fn root(&self, tree: TreeId) -> TreeRoot {
        self.roots.get(usize::from(tree.0)).copied().unwrap_or_default()
    }
}

/// A published state.
pub(crate) struct RootRecord {
    generation: AtomicU64,
    /// References are switched to pages under readers; the copy in `content` may still name the frame.
    references: [AtomicU64; TREES_MAX],
    content: UnsafeCell<Content>,
}

struct Content {
    roots: [TreeRoot; TREES_MAX],
    attributes: [u8; ATTRIBUTES_BYTES_MAX],
    attributes_bytes: usize,
}

// SAFETY: `content` is written only by `Published::publish`, into a record that is not published and that no pin holds.
unsafe impl Sync for RootRecord {}

impl RootRecord {
    fn new() -> RootRecord {
        RootRecord {
            generation: AtomicU64::new(0),
            references: [const { AtomicU64::new(0) }; TREES_MAX],
            content: UnsafeCell::new(Content {
                roots: [TreeRoot {
                    level: 0,
                    child: Child { reference: Reference::NONE, generation: 0, pages: 0, sum: ZERO },
                }; TREES_MAX],
                attributes: [0; ATTRIBUTES_BYTES_MAX],
                attributes_bytes: 0,
            }),
        }
    }

    /// # Safety
    /// The record is pinned, or the caller is the writer.
    unsafe fn content(&self) -> &Content {
        // SAFETY: nobody writes a record that is pinned; the writer writes only while it publishes.
        unsafe { &*self.content.get() }
    }
}

const ZERO: Aggregate = Aggregate { count: 0, bytes: 0, hash: 0 };

/// The place where readers find the newest record.
pub(crate) struct Published {
    newest: AtomicPtr<RootRecord>,
    all: Mutex<Vec<Box<RootRecord>>>,
}

/// A record that the reader has pinned: reading it is safe.
#[derive(Clone, Copy)]
pub(crate) struct PinnedRecord<'a>(&'a RootRecord);

impl<'a> PinnedRecord<'a> {
    pub fn root(self, tree: TreeId) -> TreeRoot {
        let Some(reference) = self.0.references.get(usize::from(tree.0)) else { return TreeRoot::default() };
        // SAFETY: pinned, by construction.
        let mut root = unsafe { self.0.content() }.roots[usize::from(tree.0)];
        root.child.reference = Reference(reference.load(Ordering::Acquire));
        root
    }

    pub fn attributes(self) -> &'a [u8] {
        // SAFETY: pinned, by construction.
        let content = unsafe { self.0.content() };
        &content.attributes[..content.attributes_bytes]
    }
}

impl Published {
    pub fn new() -> Published {
        let first = Box::new(RootRecord::new());
        let newest = AtomicPtr::new(ptr::from_ref(&*first).cast_mut());
        Published { newest, all: Mutex::new(vec![first]) }
    }

    /// The newest generation, and the record that it was read from: valid only if a pin of that generation follows and
    /// this, asked again behind the pin's fence, still gives the same answer.
    pub fn newest(&self) -> (u64, *const RootRecord) {
        let record = self.newest.load(Ordering::Acquire);
        // SAFETY: records live as long as `self`; the generation is atomic.
        (unsafe { &*record }.generation.load(Ordering::Acquire), record)
    }

    /// # Safety
    /// `record` came from [`Published::newest`] and its generation is pinned for `'a`.
    pub unsafe fn pinned<'a>(&'a self, record: *const RootRecord) -> PinnedRecord<'a> {
        // SAFETY: records live as long as `self`.
        PinnedRecord(unsafe { &*record })
    }

    /// Publishes a state: no system call, one pointer store.
    ///
    /// # Safety
    /// Called by the writer alone; no pin holds the generation of any record whose generation `is_free` accepts.
    pub unsafe fn publish(&self, state: &State, is_free: impl Fn(u64) -> bool) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest.load(Ordering::Relaxed).cast_const();
        let free = all.iter().position(|record| {
            !ptr::eq(&raw const **record, newest) && is_free(record.generation.load(Ordering::Relaxed))
        });
        let index = free.unwrap_or_else(|| {
            all.push(Box::new(RootRecord::new()));
            all.len() - 1
        });
        let record = &all[index];
        // SAFETY: not the newest, and no pin holds it: no reader reads its content.
        let content = unsafe { &mut *record.content.get() };
        content.roots = *state.roots;
        content.attributes[..state.attributes.len()].copy_from_slice(&state.attributes);
        content.attributes_bytes = state.attributes.len();
        for (reference, root) in record.references.iter().zip(state.roots.iter()) {
            reference.store(root.child.reference.0, Ordering::Relaxed);
        }
        record.generation.store(state.generation, Ordering::Release);
        self.newest.store(ptr::from_ref(&**record).cast_mut(), Ordering::Release);
    }

    /// The newest root of a tree. For the writer.
    pub fn newest_root(&self, tree: TreeId) -> TreeRoot {
        let record = self.newest.load(Ordering::Relaxed);
        // SAFETY: records live as long as `self`, and only the writer, who asks, replaces the newest.
        PinnedRecord(unsafe { &*record }).root(tree)
    }

    /// Switches the reference of a tree's root in the newest record.
    pub fn switch(&self, tree: TreeId, from: Reference, to: Reference) {
        let record = self.newest.load(Ordering::Relaxed);
        // SAFETY: records live as long as `self`.
        let word = &unsafe { &*record }.references[usize::from(tree.0)];
        if word.load(Ordering::Relaxed) == from.0 {
            word.store(to.0, Ordering::Release);
        }
    }
}
