//! The frames of a fixed state, children first, a step at a time. The state is pinned by its checkpoint, so what is
//! walked does not change, however long it takes.

use crate::forest::Forest;
use crate::node::{Change, Child, NodeEdit, NodeView, PAGE_BYTES, Reference};

/// Where a walk is.
pub(crate) struct Walk {
    /// Roots to come.
    roots: Vec<Child>,
    /// Branches on the way down, with the cell to look at next.
    stack: Vec<(Child, usize)>,
    /// Of the frames only the leaves of this generation.
    leaves_of: Option<u64>,
}

impl Walk {
    pub fn new(roots: impl Iterator<Item = Child>) -> Walk {
        Walk { roots: roots.filter(|root| root.reference.is_frame()).collect(), stack: Vec::new(), leaves_of: None }
    }

    /// The leaves that were made in one generation, with nothing else.
    pub fn leaves_of(generation: u64, roots: impl Iterator<Item = Child>) -> Walk {
        let leaves_of = Some(generation);
        Walk { leaves_of, ..Walk::new(roots.filter(|root| takes(leaves_of, root))) }
    }

    /// The next frame: all frames below it were given before.
    pub fn next(&mut self, forest: &Forest) -> Option<Child> {
        loop {
            let Some((branch, index)) = self.stack.last_mut() else {
                let root = self.roots.pop()?;
                self.stack.push((root, 0));
                continue;
            };
            let view = forest.header(branch);
            if view.is_leaf() || *index == view.len() {
                let (child, _) = self.stack.pop().expect("just seen");
                if view.is_leaf() || self.leaves_of.is_none() {
                    return Some(child);
                }
                continue;
            }
            // Most children are pages: of those nothing else is looked at.
            let below = view.child_reference(*index).is_frame().then(|| view.child(*index));
            *index += 1;
            if let Some(below) = below.filter(|below| takes(self.leaves_of, below)) {
                self.stack.push((below, 0));
            }
        }
    }
}

fn takes(leaves_of: Option<u64>, child: &Child) -> bool {
    child.reference.is_frame() && leaves_of.is_none_or(|generation| child.generation == generation)
}

/// Appends the node of a frame to `slice`, as the page that it becomes: all its children have pages by now, and a delta's base is
/// in memory.
pub(crate) fn write_image(forest: &Forest, child: &Child, page: u64, seed: u32, slice: &mut Vec<u8>) {
    let view: NodeView<'_> = forest.view(child);
    let start = slice.len();
    if child.reference.is_delta() {
        slice.resize(start + PAGE_BYTES, 0);
        NodeEdit::rewrite_leaf(&mut slice[start..], view, view.generation(), Change::Nothing);
    } else {
        slice.extend_from_slice(view.memory().slice(0, view.memory().len()));
    }
    let target = &mut slice[start..];
    if !view.is_leaf() {
        for index in 0..view.len() {
            if view.child_reference(index).is_frame() {
                let below = view.child(index);
                let page = forest.page_of_frame(below.reference, below.pages);
                assert_ne!(page, 0, "children are placed before their parents");
                let offset = view.reference_offset(index);
                target[offset..offset + 8].copy_from_slice(&Reference::page(page).0.to_le_bytes());
            }
        }
    }
    NodeEdit::new(target).seal(page, seed);
}
