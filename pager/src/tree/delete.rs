//! Deleting: empty nodes go, underfull ones join a neighbour if that is in memory and there is room; a root with one
//! child gives way to it. Bounded by the height.

use crate::api::{Access, Aggregate, TreeId};
use crate::forest::{Forest, Step};
use crate::node::{
    Change, Child, FLAG_STALE, LeafValue, NodeEdit, NodeView, PAGE_CAPACITY, branch_cell_bytes, leaf_cell_bytes,
};
use crate::root::TreeRoot;
use crate::tree::fetch;

/// A node below this is joined with a neighbour.
const UNDERFULL_BYTES: usize = PAGE_CAPACITY / 4;
/// Two nodes are joined up to this, so that the next put does not part them again.
const JOINED_BYTES_MAX: usize = PAGE_CAPACITY / 4 * 3;

impl Forest {
    /// Removes `key`; false where there was none.
    pub fn delete(&mut self, tree: TreeId, key: &[u8]) -> Access<bool> {
        let Some((mut path, found)) = self.descend(tree, key)? else { return Ok(false) };
        if found && !self.remove_from_page(tree, &mut path) {
            let index = path[path.len() - 1].index;
            self.remove_cells(tree, &mut path, index, 1);
        }
        Ok(found)
    }

    /// Removes an entry of a leaf that stays full enough, where that leaves a delta. False, and nothing is done, else.
    fn remove_from_page(&mut self, tree: TreeId, path: &mut [Step]) -> bool {
        let (leaf, parents) = path.split_last_mut().expect("a path ends in a leaf");
        let Step { child, index } = *leaf;
        let view = self.view(&child);
        let cell_bytes = leaf_cell_bytes(view.key(index).len(), view.value(index).len());
        if view.len() == 1 || child.pages > 1 || view.used_bytes() < UNDERFULL_BYTES + cell_bytes {
            return false;
        }
        let before = self.summarize(tree)(view.key(index), view.value(index));
        let Some(delta) = self.delta(&child, Change::Remove(index)) else { return false };
        self.own_nodes(tree, parents);
        self.set_delta(tree, path, delta);
        self.add_to_sums(tree, &path[..path.len() - 1], Aggregate::default().minus(before));
        true
    }

    /// Removes `count` cells from `first` on of the node that the path ends in. What they refer to is the caller's.
    pub fn remove_cells(&mut self, tree: TreeId, path: &mut [Step], first: usize, count: usize) {
        let Some((last, parents)) = path.split_last_mut() else {
            *self.root_mut(tree) = TreeRoot::default();
            return;
        };
        if self.view(&last.child).len() == count {
            self.own(tree, parents);
            self.retire(&last.child);
            let index = parents.last().map_or(0, |parent| parent.index);
            return self.remove_cells(tree, parents, index, 1);
        }
        self.own(tree, path);
        let mut edit = self.edit(&path[path.len() - 1].child);
        for _ in 0..count {
            edit.remove(first);
        }
        self.rebalance(tree, path);
    }

    /// Looks after the last node of a path that has become smaller.
    pub fn rebalance(&mut self, tree: TreeId, path: &[Step]) {
        let (node, parents) = path.split_last().expect("a node is on its path");
        let Some(parent) = parents.last() else { return self.lower_root(tree) };
        if node.child.pages > 1 || self.view(&node.child).used_bytes() >= UNDERFULL_BYTES {
            return;
        }
        let right_of = |index: usize| if index > 0 { Some(index) } else { None };
        let next = Some(parent.index + 1).filter(|index| *index < self.view(&parent.child).len());
        for right in [right_of(parent.index), next].into_iter().flatten() {
            if self.join(tree, parent, right) {
                return self.rebalance(tree, parents);
            }
        }
    }

    /// Joins the children at `right - 1` and `right`; false where they are too large, or one is not in memory.
    pub fn join(&mut self, tree: TreeId, parent: &Step, right: usize) -> bool {
        let above = self.view(&parent.child);
        let (left_child, right_child) = (above.child(right - 1), above.child(right));
        let level = above.level() - 1;
        let border = above.key(right);
        if left_child.pages > 1 || right_child.pages > 1 {
            return false;
        }
        let (Ok(left), Ok(other)) = (fetch(self, tree, &left_child, level), fetch(self, tree, &right_child, level))
        else {
            return false;
        };
        if level == 0 && left.key(left.len() - 1) >= other.key(0) {
            // Impossible, but for forged pages: don't make a node of them whose keys are out of order.
            return false;
        }
        let border_bytes = if level > 0 { branch_cell_bytes(border.len()) } else { 0 };
        if left.used_bytes() + other.used_bytes() + border_bytes > JOINED_BYTES_MAX {
            return false;
        }
        let border = border.to_vec();
        let generation = self.state.generation;
        let mut frame = self.take(1);
        let mut edit = NodeEdit::format(frame.bytes_mut(), tree.0, level, generation, 1);
        append(&mut edit, self.view(&left_child), None);
        append(&mut edit, self.view(&right_child), Some(&border));
        edit.set_flags(FLAG_STALE);
        let joined = self.link(frame);
        let mut edit = self.edit(&parent.child);
        edit.set_child(right - 1, &joined);
        edit.remove(right);
        self.retire(&left_child);
        self.retire(&right_child);
        true
    }

    /// A root branch with one child gives way to it.
    fn lower_root(&mut self, tree: TreeId) {
        loop {
            let root = self.root(tree);
            let Ok(view) = fetch(self, tree, &root.child, root.level) else { return };
            if view.is_leaf() || view.len() > 1 {
                return;
            }
            let child: Child = view.child(0);
            *self.root_mut(tree) = TreeRoot { level: root.level - 1, child };
            self.retire(&root.child);
        }
    }
}

/// Appends the cells of `from`; `border` replaces the first separator of a branch.
fn append(edit: &mut NodeEdit<'_>, from: NodeView<'_>, border: Option<&[u8]>) {
    for index in 0..from.len() {
        let target = edit.view().len();
        if from.is_leaf() {
            debug_assert!(edit.view().free_bytes() >= leaf_cell_bytes(from.key(index).len(), from.value(index).len()));
            edit.insert_entry(target, from.key(index), LeafValue::One(from.value(index)));
        } else {
            let key = border.filter(|_| index == 0).unwrap_or(from.key(index));
            edit.insert_child(target, key, &from.child(index));
        }
    }
}
