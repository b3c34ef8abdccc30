//! Which pages are a pinned state's, and which of its nodes are in frames?
//!
//! Only branches are looked at. A checkpoint beside this may switch a reference from a frame to a page at any moment
//! (checkpoint/switch.rs), so each is read once; what was read stays right as long as the pin: a frame that it led to is
//! not released before.

use std::collections::BTreeMap;

use super::image::{PageImage, Placed};
use super::page_set::PageSet;
use crate::api::{Access, Damage, Fault, PageRun, TreeId};
use crate::layout::{FILE_PAGES_MAX, FileId, PAGE_BYTES, REGION_PAGES, region_of, reserved_pages};
use crate::node::{Change, Child, NodeEdit, Reference};
use crate::reader::Pin;
use crate::root::{TREES_MAX, TreeRoot};
use crate::tree::{Nodes as _, fetch};

/// Branches that one step looks at.
const BRANCHES_AT_ONCE: usize = 16;

/// A node in memory.
struct Frame {
    child: Child,
    /// Of a branch: its references as they were read.
    references: Vec<Reference>,
}

/// Children of a branch that are still to be looked at, at this level of this tree.
struct Below {
    tree: TreeId,
    level: u8,
    children: std::vec::IntoIter<Child>,
}

/// Walks over the branches of a pinned state. `step` until it says true, then `finish`.
pub struct Collector<'p> {
    pin: &'p Pin<'p>,
    file: FileId,
    owner: [u8; 16],
    /// As they were read when this began: a reference is read once.
    roots: Vec<(TreeId, TreeRoot)>,
    stack: Vec<Below>,
    live: PageSet,
    starts: PageSet,
    frames: Vec<Frame>,
}

impl<'p> Collector<'p> {
    /// Of what this pin sees, in the file with this identity and this owner's.
    ///
    /// # Panics
    /// The pin is of another file.
    #[must_use]
    pub fn new(pin: &'p Pin<'p>, file_id: [u8; 16], owner: [u8; 16]) -> Collector<'p> {
        let file = FileId(file_id);
        assert_eq!(file.crc_seed(), pin.shared().seed, "the identity is that of the pin's file");
        let trees = (1..TREES_MAX).map(|number| TreeId(u8::try_from(number).expect("fewer than 256 trees")));
        let roots = trees.map(|tree| (tree, pin.root(tree)));
        let roots: Vec<(TreeId, TreeRoot)> = roots.filter(|(_, root)| !root.child.reference.is_none()).collect();
        let below = |(tree, root): &(TreeId, TreeRoot)| {
            let children = vec![root.child].into_iter();
            Below { tree: *tree, level: root.level, children }
        };
        let stack = roots.iter().map(below).collect();
        let (live, starts) = (PageSet::default(), PageSet::default());
        Collector { pin, file, owner, roots, stack, live, starts, frames: Vec::new() }
    }

    /// Looks at some more branches; true when that were all.
    ///
    /// # Errors
    /// [`Fault::Absent`]: bring the pages in and step again. Damage of a branch.
    pub fn step(&mut self) -> Access<bool> {
        let mut branches = 0;
        while let Some(below) = self.stack.last_mut() {
            let (tree, level) = (below.tree, below.level);
            let Some(child) = below.children.as_slice().first().copied() else {
                self.stack.pop();
                continue;
            };
            if level > 0 && branches == BRANCHES_AT_ONCE {
                return Ok(false);
            }
            let children = if level == 0 { None } else { Some(self.children(tree, &child, level)?) };
            branches += usize::from(level > 0);
            self.stack.last_mut().expect("just seen").children.next();
            self.note(tree, child, children.as_deref().unwrap_or_default())?;
            if let Some(children) = children {
                self.stack.push(Below { tree, level: level - 1, children: children.into_iter() });
            }
        }
        Ok(true)
    }

    fn children(&self, tree: TreeId, child: &Child, level: u8) -> Access<Vec<Child>> {
        let view = fetch(self.pin, tree, child, level)?;
        Ok((0..view.len()).map(|index| view.child(index)).collect())
    }

    fn note(&mut self, tree: TreeId, child: Child, children: &[Child]) -> Access<()> {
        let Some(first) = child.reference.as_page() else {
            let references = children.iter().map(|child| child.reference).collect();
            self.frames.push(Frame { child, references });
            return Ok(());
        };
        self.starts.insert(PageRun { first, pages: 1 });
        if self.live.insert(PageRun { first, pages: child.pages }) {
            return Ok(());
        }
        Err(Fault::Damaged(Damage { page: first, tree: tree.0, what: "two nodes refer to it" }))
    }

    /// The image, with pages for the frames. None: a file can't be so long.
    #[must_use]
    pub fn finish(mut self) -> Option<PageImage<'p>> {
        let mut pages_of: BTreeMap<u64, u64> = BTreeMap::new();
        let mut free = Free { next: 0, gaps_end: self.live.end(), end: self.live.end() };
        for Frame { child, .. } in &self.frames {
            let first = if child.pages == 1 { free.one(&self.live) } else { None };
            let first = first.unwrap_or_else(|| free.behind(child.pages));
            self.live.insert(PageRun { first, pages: child.pages });
            self.starts.insert(PageRun { first, pages: 1 });
            pages_of.insert(child.reference.0, first);
        }
        if self.live.end() > FILE_PAGES_MAX {
            return None;
        }
        let page_of = |reference: Reference| {
            if reference.is_frame() { Reference::page(pages_of[&reference.0]) } else { reference }
        };
        let mut frames = BTreeMap::new();
        for Frame { child, references } in &self.frames {
            let first = pages_of[&child.reference.0];
            let references: Vec<Reference> = references.iter().map(|reference| page_of(*reference)).collect();
            let placed = if references.is_empty() {
                Placed::Leaf(*child)
            } else {
                Placed::Branch(encode(self.pin, child, first, &references).expect("a branch is a whole frame"))
            };
            frames.insert(first, placed);
        }
        for (_, root) in &mut self.roots {
            root.child.reference = page_of(root.child.reference);
        }
        let pages = (self.live, self.starts);
        Some(PageImage::new(self.pin, self.file, self.owner, pages, frames, &self.roots))
    }
}

/// Pages that are not the state's, from the low end on.
struct Free {
    next: u64,
    /// Where the last gap ends.
    gaps_end: u64,
    /// Behind all that was given out.
    end: u64,
}

impl Free {
    fn one(&mut self, live: &PageSet) -> Option<u64> {
        while self.next < self.gaps_end {
            let page = self.next;
            self.next += 1;
            if !live.contains(page) && page % REGION_PAGES >= reserved_pages(region_of(page)) {
                return Some(page);
            }
        }
        None
    }

    fn behind(&mut self, pages: u32) -> u64 {
        let place = |from: u64| {
            let region = region_of(from);
            from.max(region * REGION_PAGES + reserved_pages(region))
        };
        let mut first = place(self.end);
        if region_of(first) != region_of(first + u64::from(pages) - 1) {
            first = place((region_of(first) + 1) * REGION_PAGES);
        }
        self.end = first + u64::from(pages);
        first
    }
}

/// A frame as the page that it is in the image.
///
/// # Errors
/// [`Fault::Absent`], and damage: of the page that a delta differs from.
pub(super) fn encode(pin: &Pin<'_>, child: &Child, first: u64, references: &[Reference]) -> Access<Vec<u8>> {
    let view = pin.load(child)?;
    let memory = view.memory();
    let mut bytes = Vec::with_capacity(child.pages as usize * PAGE_BYTES);
    if child.reference.is_delta() {
        bytes.resize(PAGE_BYTES, 0);
        NodeEdit::rewrite_leaf(&mut bytes, view, child.generation, Change::Nothing);
    } else {
        for offset in (0..memory.len()).step_by(8) {
            bytes.extend_from_slice(&memory.word(offset).to_le_bytes());
        }
    }
    for (index, reference) in references.iter().enumerate() {
        let offset = view.reference_offset(index);
        bytes[offset..offset + 8].copy_from_slice(&reference.0.to_le_bytes());
    }
    NodeEdit::new(&mut bytes).seal(first, pin.shared().seed);
    assert!(bytes.len() == child.pages as usize * PAGE_BYTES, "a frame is as long as its run");
    Ok(bytes)
}
