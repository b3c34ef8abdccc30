//! Moving what stands at the end of the file: nodes become frames, and the next checkpoint writes them where there is room.
//!
//! Trees are walked by key, a branch of leaves at a time: parents say where their children stand, so that nothing is read
//! that stays, and neighbours are written side by side. One walk finds all, whatever is put meanwhile: new nodes are
//! frames, and frames are placed below the ceiling.

use smallvec::SmallVec;

use super::read::root_of;
use crate::api::{Access, Damage, Fault, PageRun, TreeId};
use crate::forest::{Forest, Path, Step};
use crate::node::Child;
use crate::tree::fetch;

/// What one step of the walk came to.
pub(crate) enum Moved {
    /// So many pages became frames; the walk goes on at the key, or the tree is done.
    To(u64, Option<Vec<u8>>),
    /// These pages must be brought in first.
    Needs(SmallVec<[PageRun; 8]>),
}

/// A walk's bounds.
pub(crate) struct Bounds<'a> {
    /// What reaches behind this page is moved.
    pub ceiling: u64,
    /// Pages that a step moves, about.
    pub pages_max: u64,
    /// First pages of nodes that can't be read: they stay, and so does what is below them.
    pub unreadable: &'a dyn Fn(u64) -> bool,
}

impl Bounds<'_> {
    fn is_behind(&self, child: &Child) -> bool {
        child.reference.as_page().is_some_and(|first| first + u64::from(child.pages) > self.ceiling)
    }

    fn skips(&self, child: &Child) -> bool {
        child.reference.as_page().is_some_and(self.unreadable)
    }
}

impl Forest {
    /// Moves nodes of the lowest branch that `from` leads to, and the branches above it.
    ///
    /// # Errors
    /// A node is not what its parent says; nothing was changed.
    pub fn relocate(&mut self, tree: TreeId, from: &[u8], bounds: &Bounds<'_>) -> Result<Moved, Damage> {
        match self.relocate_below(tree, from, bounds) {
            Ok(moved) => Ok(moved),
            Err(Fault::Absent(run)) => Ok(Moved::Needs(SmallVec::from_slice(&[run]))),
            Err(Fault::Damaged(damage)) => Err(damage),
        }
    }

    fn relocate_below(&mut self, tree: TreeId, from: &[u8], bounds: &Bounds<'_>) -> Access<Moved> {
        let root = self.root(tree);
        if bounds.skips(&root.child) {
            return Ok(Moved::To(0, None));
        }
        let Some(mut view) = root_of(self, tree, &root)? else { return Ok(Moved::To(0, None)) };
        let mut path = Path::new();
        let mut child = root.child;
        // Where the branch ends that the path leads to: nowhere at the right edge.
        let mut fence: Option<Vec<u8>> = None;
        while view.level() > 1 {
            let index = view.search_child(from);
            path.push(Step { child, index });
            if index + 1 < view.len() {
                fence = Some(view.key(index + 1).to_vec());
            }
            child = view.child(index);
            if bounds.skips(&child) {
                return Ok(Moved::To(0, fence));
            }
            view = fetch(self, tree, &child, view.level() - 1)?;
        }
        let index = if view.is_leaf() { 0 } else { view.search_child(from) };
        path.push(Step { child, index });
        self.relocate_leaves(tree, &mut path, fence, bounds)
    }

    fn relocate_leaves(
        &mut self,
        tree: TreeId,
        path: &mut Path,
        fence: Option<Vec<u8>>,
        bounds: &Bounds<'_>,
    ) -> Access<Moved> {
        let lowest = *path.last().expect("a path has its root");
        let view = self.view(&lowest.child);
        let leaves = if view.is_leaf() { 0 } else { view.len() };
        let (mut moved, mut pages, mut next) = (SmallVec::<[usize; 64]>::new(), 0, fence);
        let mut needs = SmallVec::new();
        for index in lowest.index..leaves {
            if pages >= bounds.pages_max {
                next = Some(view.key(index).to_vec());
                break;
            }
            let leaf = view.child(index);
            if !bounds.is_behind(&leaf) || bounds.skips(&leaf) {
                continue;
            }
            match fetch(self, tree, &leaf, 0) {
                Ok(_) => moved.push(index),
                Err(Fault::Absent(run)) => needs.push(run),
                Err(fault) => return Err(fault),
            }
            pages += u64::from(leaf.pages);
        }
        if !needs.is_empty() {
            return Ok(Moved::Needs(needs));
        }
        let above = path.iter().filter(|step| bounds.is_behind(&step.child));
        let above: u64 = above.map(|step| u64::from(step.child.pages)).sum();
        if above + pages > 0 {
            self.own(tree, path);
            self.take_leaves(tree, path, &moved);
        }
        Ok(Moved::To(above + pages, next))
    }

    /// Copies leaves to frames, and joins those that have become small with their neighbours.
    fn take_leaves(&mut self, tree: TreeId, path: &Path, leaves: &[usize]) {
        let branch = *path.last().expect("a path has its root");
        for index in leaves {
            let leaf = self.view(&branch.child).child(*index);
            let copy = self.copy(&leaf);
            self.edit(&branch.child).set_child(*index, &copy);
            self.retire(&leaf);
        }
        let mut is_joined = false;
        for index in leaves.iter().rev() {
            // From the right, so that the places of those to come stay as they are.
            for right in [index + 1, *index] {
                if right > 0 && right < self.view(&branch.child).len() {
                    is_joined |= self.join(tree, &branch, right);
                }
            }
        }
        if is_joined {
            self.rebalance(tree, path);
        }
    }
}
