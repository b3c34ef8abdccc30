//! Cutting the front of a range: leaves that lie in it whole are dropped unread, up to a branch of them at a time.

use core::ops::Bound;

use super::read::{is_empty, root_of};
use crate::api::{Access, KeyRange, TreeId};
use crate::forest::{Forest, Path, Step};
use crate::node::{Child, NodeView};
use crate::tree::fetch;

/// What stands at the low end of a range: cells of the node that the path ends in.
struct Front {
    path: Path,
    first: usize,
    count: usize,
    /// Children that go with the cells.
    nodes: Vec<Child>,
    /// About how many entries go.
    entries: usize,
}

/// Keys between which all entries of a node lie, as far as its parents know.
type Fences<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

impl Forest {
    /// Removes entries from the low end of `range`, at most about `entries_max`; true when none are left.
    pub fn delete_front(&mut self, tree: TreeId, range: KeyRange<'_>, entries_max: usize) -> Access<bool> {
        if is_empty(range) {
            return Ok(true);
        }
        let mut removed = 0;
        while removed < entries_max {
            let root = self.root(tree);
            let Some(view) = root_of(self, tree, &root)? else { return Ok(true) };
            let mut path = Path::new();
            let front = self.front(tree, &root.child, view, (None, None), range, entries_max - removed, &mut path)?;
            let Some(mut front) = front else { return Ok(true) };
            for child in &front.nodes {
                self.retire(child);
            }
            self.remove_cells(tree, &mut front.path, front.first, front.count);
            removed += front.entries;
        }
        Ok(false)
    }

    #[expect(clippy::too_many_arguments, reason = "one recursion over a place, its bounds and its budget")]
    fn front(
        &self,
        tree: TreeId,
        child: &Child,
        view: NodeView<'_>,
        fences: Fences<'_>,
        range: KeyRange<'_>,
        entries_max: usize,
        path: &mut Path,
    ) -> Access<Option<Front>> {
        if view.is_leaf() {
            let (first, end) = (view.lower(range.0), view.upper(range.1));
            let count = end.saturating_sub(first).min(entries_max);
            path.push(Step { child: *child, index: first });
            return Ok((count > 0).then(|| Front {
                path: path.clone(),
                first,
                count,
                nodes: Vec::new(),
                entries: count,
            }));
        }
        for index in view.lower_child(range.0)..=view.upper_child(range.1) {
            let below = view.child(index);
            path.truncate(usize::from(self.root(tree).level - view.level()));
            path.push(Step { child: *child, index });
            let fences_below = fences_of(view, index, fences);
            if view.level() == 1 && is_within(fences_below, range) {
                return Ok(Some(leaves(view, index, fences, range, entries_max, path)));
            }
            let node = fetch(self, tree, &below, view.level() - 1)?;
            if view.level() == 2 && is_within(fences_below, range) && weight(node) <= entries_max {
                let mut nodes: Vec<Child> = (0..node.len()).map(|leaf| node.child(leaf)).collect();
                nodes.push(below);
                return Ok(Some(Front { path: path.clone(), first: index, count: 1, nodes, entries: weight(node) }));
            }
            if let Some(front) = self.front(tree, &below, node, fences_below, range, entries_max, path)? {
                return Ok(Some(front));
            }
        }
        Ok(None)
    }
}

/// About how many entries a leaf has: its parent knows only those that count.
fn entries_of(leaf: &Child) -> usize {
    usize::try_from(leaf.sum.count).unwrap_or(usize::MAX).clamp(1, 1 << 12)
}

fn weight(branch: NodeView<'_>) -> usize {
    (0..branch.len()).map(|index| entries_of(&branch.child(index))).sum()
}

/// As many neighbouring leaves as lie in the range whole.
fn leaves(
    view: NodeView<'_>,
    first: usize,
    fences: Fences<'_>,
    range: KeyRange<'_>,
    entries_max: usize,
    path: &Path,
) -> Front {
    let mut front = Front { path: path.clone(), first, count: 0, nodes: Vec::new(), entries: 0 };
    for index in first..view.len() {
        if front.entries >= entries_max || !is_within(fences_of(view, index, fences), range) {
            break;
        }
        let leaf = view.child(index);
        front.nodes.push(leaf);
        front.count += 1;
        front.entries += entries_of(&leaf);
    }
    front
}

fn fences_of<'a>(view: NodeView<'a>, index: usize, outer: Fences<'a>) -> Fences<'a> {
    let low = Some(view.key(index)).filter(|key| !key.is_empty()).or(outer.0);
    let high = if index + 1 < view.len() { Some(view.key(index + 1)) } else { outer.1 };
    (low, high)
}

fn is_within(fences: Fences<'_>, range: KeyRange<'_>) -> bool {
    let low = match (range.0, fences.0) {
        (Bound::Unbounded, _) => true,
        (_, None) => false,
        (Bound::Included(bound), Some(fence)) => fence >= bound,
        (Bound::Excluded(bound), Some(fence)) => fence > bound,
    };
    low && match (range.1, fences.1) {
        (Bound::Unbounded, _) => true,
        (_, None) => false,
        (Bound::Included(bound) | Bound::Excluded(bound), Some(fence)) => fence <= bound,
    }
}
