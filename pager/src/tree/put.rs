//! Putting an entry: in place where it fits, else the leaf is dealt out anew and its parents take the new children.

use smallvec::SmallVec;

use super::split::{self, separator};
use crate::api::{Access, Aggregate, TreeId};
use crate::forest::{Edge, Forest, Parts, Path, Step};
use crate::node::{
    Change, Child, Entry, FLAG_STALE, ITEM_BYTES_MAX, LeafValue, NodeEdit, NodeView, branch_cell_bytes,
    leaf_cell_bytes, pages_for,
};
use crate::root::TreeRoot;

impl Forest {
    /// Sets `key` to `value`.
    pub fn put(&mut self, tree: TreeId, key: &[u8], value: LeafValue<'_>) -> Access<()> {
        assert!(key.len() <= ITEM_BYTES_MAX, "a key has at most 16 MiB");
        assert!(value.len() <= ITEM_BYTES_MAX, "a value has at most 16 MiB");
        if self.append(tree, key, value) {
            return Ok(());
        }
        self.edge = self.edge.take().filter(|edge| edge.tree != tree);
        let Some((mut path, found)) = self.descend_again(tree, key)? else {
            let child = self.new_leaf(tree, key, value);
            *self.root_mut(tree) = TreeRoot { level: 0, child };
            return Ok(());
        };
        let leaf = path.len() - 1;
        let Step { child, index } = path[leaf];
        let view = self.view(&child);
        let old_bytes = if found { leaf_cell_bytes(view.key(index).len(), view.value(index).len()) } else { 0 };
        let fits = child.pages == 1 && view.free_bytes() + old_bytes >= leaf_cell_bytes(key.len(), value.len());
        let entry = Entry { index, found, key, value };
        if fits {
            // What is appended to is going to grow.
            let grows = !found && index == view.len() && self.is_at_end(&path[..leaf]);
            self.own_nodes(tree, &mut path[..leaf]);
            self.lower_first_keys(&path[..leaf], key);
            self.put_into(tree, &mut path, entry, grows);
            if !found && self.is_edge(&path) {
                self.edge = Some(Edge { tree, path });
            }
        } else {
            self.own(tree, &mut path[..leaf]);
            self.lower_first_keys(&path[..leaf], key);
            self.put_beside(tree, &path, entry);
        }
        Ok(())
    }

    /// Puts an entry for which there is room into the leaf at the end of a path whose other nodes are the writer's own.
    fn put_into(&mut self, tree: TreeId, path: &mut [Step], entry: Entry<'_>, grows: bool) {
        let leaf = path.len() - 1;
        let old = path[leaf].child;
        let view = self.view(&old);
        let is_settled = view.flags() & FLAG_STALE == 0;
        let before = entry.found.then(|| self.summarize(tree)(view.key(entry.index), view.value(entry.index)));
        let keeps_length = entry.found && view.value(entry.index).len() == entry.value.len();
        let change = Change::Put(entry);
        if !grows && let Some(delta) = self.delta(&old, change) {
            self.set_delta(tree, path, delta);
        } else if self.is_own(&old) || keeps_length {
            // (A delta becomes a whole leaf by this.)
            self.own_nodes(tree, path);
            let mut edit = self.edit(&path[leaf].child);
            if entry.found {
                edit.replace_value(entry.index, entry.key, entry.value);
            } else {
                edit.insert_entry(entry.index, entry.key, entry.value);
            }
        } else {
            let generation = self.state.generation;
            let mut frame = self.take(1);
            NodeEdit::rewrite_leaf(frame.bytes_mut(), self.view(&old), generation, change);
            let new = Child { sum: old.sum, ..self.link(frame) };
            self.set_node(tree, path, leaf, new);
        }
        if is_settled {
            self.note_sum(tree, path, entry.index, before.unwrap_or_default());
        }
    }

    /// Brings the sums above an entry of a settled leaf up to date: it has taken the place of one that added `before`.
    fn note_sum(&mut self, tree: TreeId, path: &[Step], index: usize, before: Aggregate) {
        let (leaf, parents) = path.split_last().expect("a path ends in a leaf");
        let view = self.view(&leaf.child);
        let change = self.summarize(tree)(view.key(index), view.value(index)).minus(before);
        self.add_to_sums(tree, parents, change);
    }

    /// Adds to the sums that the branches above a settled leaf, and the root, know of what is below.
    pub fn add_to_sums(&mut self, tree: TreeId, parents: &[Step], change: Aggregate) {
        for step in parents {
            self.edit(&step.child).add_to_sum(step.index, change);
        }
        let root = self.root_mut(tree);
        root.child.sum = root.child.sum.plus(change);
    }

    /// Puts the entry behind the last one of the tree, where the edge is known and has room; false, and nothing is done, else.
    fn append(&mut self, tree: TreeId, key: &[u8], value: LeafValue<'_>) -> bool {
        if !self.is_behind(tree, key) {
            return false;
        }
        let mut edge = self.edge.take().expect("there is one behind which the key is");
        let leaf = edge.path[edge.path.len() - 1].child;
        let view = self.view(&leaf);
        let fits = view.free_bytes() >= leaf_cell_bytes(key.len(), value.len());
        if fits {
            let (index, is_settled) = (view.len(), view.flags() & FLAG_STALE == 0);
            self.edit(&leaf).insert_entry(index, key, value);
            if is_settled {
                // What was deleted before it has moved the cells.
                let ends: SmallVec<[usize; 8]> =
                    edge.path.iter().map(|step| self.view(&step.child).len() - 1).collect();
                edge.path.iter_mut().zip(ends).for_each(|(step, end)| step.index = end);
                self.note_sum(tree, &edge.path, index, Aggregate::default());
            }
        }
        self.edge = Some(edge);
        fits
    }

    /// Is `key` known to be larger than all keys of the tree? No descent; false says nothing.
    pub fn is_behind(&self, tree: TreeId, key: &[u8]) -> bool {
        let Some(edge) = self.edge.as_ref().filter(|edge| edge.tree == tree) else { return false };
        let leaf = &edge.path[edge.path.len() - 1].child;
        self.is_own(leaf) && {
            let view = self.view(leaf);
            view.key(view.len() - 1) < key
        }
    }

    /// Does the way go through the last children only?
    fn is_at_end(&self, parents: &[Step]) -> bool {
        parents.iter().all(|step| step.index + 1 == self.view(&step.child).len())
    }

    /// Does the path end in the last entry of the last leaf?
    fn is_edge(&self, path: &Path) -> bool {
        self.is_at_end(path)
    }

    /// The first separator of a branch is a lower bound of what is below it: forget it where `key` is below.
    fn lower_first_keys(&mut self, parents: &[Step], key: &[u8]) {
        for step in parents.iter().filter(|step| step.index == 0) {
            let first = self.view(&step.child).key(0);
            if !first.is_empty() && key < first {
                self.edit(&step.child).clear_first_key();
            }
        }
    }

    /// The leaf has no room for the entry, or is a run for one large entry.
    fn put_beside(&mut self, tree: TreeId, path: &Path, entry: Entry<'_>) {
        let Entry { found, key, value, .. } = entry;
        let (leaf, parents) = path.split_last().expect("a path ends in a leaf");
        let view = self.view(&leaf.child);
        let at_end = leaf.index == view.len() && self.is_at_end(parents);
        let is_run = leaf.child.pages > 1;
        let parts = if !found && (at_end || is_run) {
            // The old leaf stays as it is, full, and the entry starts a new one.
            let other = if leaf.index == 0 { view.key(0) } else { view.key(view.len() - 1) };
            let border = if leaf.index == 0 { separator(key, other) } else { separator(other, key) }.to_vec();
            let new = self.new_leaf(tree, key, value);
            if leaf.index == 0 {
                Parts::from_iter([(Vec::new(), new), (border, leaf.child)])
            } else {
                Parts::from_iter([(Vec::new(), leaf.child), (border, new)])
            }
        } else {
            let parts = self.deal_out_leaf(tree, &leaf.child, entry);
            self.retire(&leaf.child);
            parts
        };
        self.replace_child(tree, parents, 0, parts, at_end);
    }

    fn new_leaf(&mut self, tree: TreeId, key: &[u8], value: LeafValue<'_>) -> Child {
        let generation = self.state.generation;
        let pages = pages_for(leaf_cell_bytes(key.len(), value.len()));
        let mut frame = self.take(pages);
        let mut edit = NodeEdit::format(frame.bytes_mut(), tree.0, 0, generation, pages);
        edit.insert_entry(0, key, value);
        edit.set_flags(FLAG_STALE);
        self.link(frame)
    }

    /// New leaves with the cells of an old one and the new entry.
    fn deal_out_leaf(&mut self, tree: TreeId, leaf: &Child, changed: Entry<'_>) -> Parts {
        let generation = self.state.generation;
        let view = self.view(leaf);
        let total = view.len() + usize::from(!changed.found);
        let sizes: Vec<usize> = (0..total)
            .map(|index| {
                let (key, value) = cell_of(changed, view, index);
                leaf_cell_bytes(key.len(), value.len())
            })
            .collect();
        let groups = split::leaf(&sizes);
        let mut parts = Parts::new();
        for group in groups {
            let pages = pages_for(sizes[group.clone()].iter().sum());
            let mut frame = self.take(pages);
            let view = self.view(leaf);
            let border = if group.start == 0 {
                Vec::new()
            } else {
                separator(cell_of(changed, view, group.start - 1).0, cell_of(changed, view, group.start).0).to_vec()
            };
            let mut edit = NodeEdit::format(frame.bytes_mut(), tree.0, 0, generation, pages);
            for (target, index) in group.enumerate() {
                let (key, value) = cell_of(changed, view, index);
                edit.insert_entry(target, key, value);
            }
            edit.set_flags(FLAG_STALE);
            let child = self.link(frame);
            parts.push((border, child));
        }
        parts
    }

    /// Puts `parts`, nodes of `level`, in the place of the child that the path ends above.
    pub fn replace_child(&mut self, tree: TreeId, parents: &[Step], level: u8, parts: Parts, at_end: bool) {
        let Some((parent, above)) = parents.split_last() else {
            return self.replace_root(tree, level, parts, at_end);
        };
        let more: usize = parts[1..].iter().map(|(key, _)| branch_cell_bytes(key.len())).sum();
        if parts.len() == 1 || (parent.child.pages == 1 && self.view(&parent.child).free_bytes() >= more) {
            let mut edit = self.edit(&parent.child);
            edit.set_child(parent.index, &parts[0].1);
            for (offset, (key, child)) in parts.iter().enumerate().skip(1) {
                edit.insert_child(parent.index + offset, key, child);
            }
            return;
        }
        let view = self.view(&parent.child);
        let mut cells: Vec<(Vec<u8>, Child)> =
            (0..view.len()).map(|index| (view.key(index).to_vec(), view.child(index))).collect();
        let kept = core::mem::take(&mut cells[parent.index].0);
        let mut parts = parts;
        parts[0].0 = kept;
        cells.splice(parent.index..=parent.index, parts);
        self.retire(&parent.child);
        let parts = self.deal_out_branch(tree, level + 1, &cells, at_end);
        self.replace_child(tree, above, level + 1, parts, at_end);
    }

    fn replace_root(&mut self, tree: TreeId, mut level: u8, mut parts: Parts, at_end: bool) {
        while parts.len() > 1 {
            level += 1;
            parts[0].0.clear();
            let cells = parts.into_vec();
            parts = self.deal_out_branch(tree, level, &cells, at_end);
        }
        *self.root_mut(tree) = TreeRoot { level, child: parts[0].1 };
    }

    /// New branches of `level` with these cells.
    pub fn deal_out_branch(&mut self, tree: TreeId, level: u8, cells: &[(Vec<u8>, Child)], at_end: bool) -> Parts {
        let generation = self.state.generation;
        let sizes: Vec<usize> = cells.iter().map(|(key, _)| branch_cell_bytes(key.len())).collect();
        let mut parts = Parts::new();
        for group in split::branch(&sizes, at_end) {
            // The first separator moves up, but for the first group's, which is a lower bound.
            let border = if group.start == 0 { &[][..] } else { &cells[group.start].0 };
            let first_key = if group.start == 0 { &cells[0].0[..] } else { &[][..] };
            let bytes: usize =
                branch_cell_bytes(first_key.len()) + sizes[group.start + 1..group.end].iter().sum::<usize>();
            let pages = pages_for(bytes);
            let mut frame = self.take(pages);
            let mut edit = NodeEdit::format(frame.bytes_mut(), tree.0, level, generation, pages);
            for (target, index) in group.enumerate() {
                let key = if target == 0 { first_key } else { &cells[index].0 };
                edit.insert_child(target, key, &cells[index].1);
            }
            edit.set_flags(FLAG_STALE);
            let child = self.link(frame);
            parts.push((border.to_vec(), child));
        }
        parts
    }
}

/// A leaf's cells as they will be.
fn cell_of<'a>(changed: Entry<'a>, view: NodeView<'a>, index: usize) -> (&'a [u8], LeafValue<'a>) {
    if index == changed.index {
        return (changed.key, changed.value);
    }
    let old = if index > changed.index && !changed.found { index - 1 } else { index };
    (view.key(old), LeafValue::One(view.value(old)))
}
