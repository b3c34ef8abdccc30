//! Reading a tree: the same code for pinned roots and for the writer's own.

use core::ops::{Bound, ControlFlow};

use crate::api::{Access, Aggregate, Damage, Direction, Fault, KeyRange, Summarize, TreeId, Visitor};
use crate::node::{Child, LEVELS_MAX, NodeView};
use crate::root::TreeRoot;

/// Where nodes come from.
pub(crate) trait Nodes {
    /// The node that `child` refers to, if it is in memory. Its structure is sound; whether it is the right one is checked
    /// by [`fetch`].
    fn load(&self, child: &Child) -> Access<NodeView<'_>>;

    /// The page that a damage report names.
    fn page_of(&self, child: &Child) -> u64 {
        child.reference.as_page().unwrap_or(0)
    }
}

/// The node below, checked to be the one that its parent means.
pub(crate) fn fetch<'a, N: Nodes>(nodes: &'a N, tree: TreeId, child: &Child, level: u8) -> Access<NodeView<'a>> {
    let view = nodes.load(child)?;
    let what = if view.generation() != child.generation {
        "its generation is not the one that its parent expects (a lost or misdirected write)"
    } else if view.tree() != tree.0 {
        "it belongs to another tree"
    } else if view.level() != level {
        "its level is not one below its parent's"
    } else if view.pages() != child.pages {
        "its run has another length than its parent says"
    } else {
        return Ok(view);
    };
    Err(Fault::Damaged(Damage { page: nodes.page_of(child), tree: tree.0, what }))
}

/// Checks a root before its descent.
pub(crate) fn root_of<'a, N: Nodes>(nodes: &'a N, tree: TreeId, root: &TreeRoot) -> Access<Option<NodeView<'a>>> {
    if root.child.reference.is_none() {
        return Ok(None);
    }
    if usize::from(root.level) >= LEVELS_MAX {
        let what = "its level is absurd";
        return Err(Fault::Damaged(Damage { page: nodes.page_of(&root.child), tree: tree.0, what }));
    }
    fetch(nodes, tree, &root.child, root.level).map(Some)
}

pub(crate) fn get<'a, N: Nodes>(nodes: &'a N, tree: TreeId, root: &TreeRoot, key: &[u8]) -> Access<Option<&'a [u8]>> {
    let Some(mut view) = root_of(nodes, tree, root)? else { return Ok(None) };
    while !view.is_leaf() {
        let child = view.child(view.search_child(key));
        view = fetch(nodes, tree, &child, view.level() - 1)?;
    }
    Ok(view.search(key).ok().map(|index| view.value(index)))
}

/// True where no key can be in `range`.
pub(crate) fn is_empty(range: KeyRange<'_>) -> bool {
    match range {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high))
        | (Bound::Excluded(low), Bound::Included(high)) => low >= high,
        _ => false,
    }
}

/// The visit of a range.
pub(crate) struct Visit<'v> {
    pub tree: TreeId,
    pub direction: Direction,
    pub skip_uncounted: bool,
    pub visitor: &'v mut Visitor<'v>,
}

pub(crate) fn visit<N: Nodes>(nodes: &N, root: &TreeRoot, range: KeyRange<'_>, mut visit: Visit<'_>) -> Access<()> {
    if is_empty(range) {
        return Ok(());
    }
    let Some(view) = root_of(nodes, visit.tree, root)? else { return Ok(()) };
    visit.node(nodes, view, range).map(|_| ())
}

impl Visit<'_> {
    fn node<N: Nodes>(&mut self, nodes: &N, view: NodeView<'_>, range: KeyRange<'_>) -> Access<ControlFlow<()>> {
        if view.is_leaf() {
            return Ok(self.leaf(view, range));
        }
        let (low, high) = (view.lower_child(range.0), view.upper_child(range.1));
        let mut step = 0;
        while low + step <= high {
            let index = if self.direction == Direction::Forward { low + step } else { high - step };
            step += 1;
            let child = view.child(index);
            if self.skip_uncounted && child.sum.count == 0 {
                continue;
            }
            // Bounds matter only at the ends.
            let below = (
                if index == low { range.0 } else { Bound::Unbounded },
                if index == high { range.1 } else { Bound::Unbounded },
            );
            let node = fetch(nodes, self.tree, &child, view.level() - 1)?;
            if self.node(nodes, node, below)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn leaf(&mut self, view: NodeView<'_>, range: KeyRange<'_>) -> ControlFlow<()> {
        let (low, high) = (view.lower(range.0), view.upper(range.1));
        let mut indices = low..high;
        while let Some(index) = match self.direction {
            Direction::Forward => indices.next(),
            Direction::Backward => indices.next_back(),
        } {
            (self.visitor)(view.key(index), view.value(index))?;
        }
        ControlFlow::Continue(())
    }
}

/// The sum over `range`: whole subtrees by what their parents know, two paths by looking.
pub(crate) fn aggregate<N: Nodes>(
    nodes: &N,
    tree: TreeId,
    root: &TreeRoot,
    range: KeyRange<'_>,
    summarize: Summarize,
) -> Access<Aggregate> {
    if is_empty(range) {
        return Ok(Aggregate::default());
    }
    if matches!(range, (Bound::Unbounded, Bound::Unbounded)) {
        return Ok(root.child.sum);
    }
    let Some(view) = root_of(nodes, tree, root)? else { return Ok(Aggregate::default()) };
    sum_node(nodes, tree, view, range, summarize)
}

fn sum_node<N: Nodes>(
    nodes: &N,
    tree: TreeId,
    view: NodeView<'_>,
    range: KeyRange<'_>,
    summarize: Summarize,
) -> Access<Aggregate> {
    let mut sum = Aggregate::default();
    if view.is_leaf() {
        for index in view.lower(range.0)..view.upper(range.1) {
            sum = sum.plus(summarize(view.key(index), view.value(index)));
        }
        return Ok(sum);
    }
    let (low, high) = (view.lower_child(range.0), view.upper_child(range.1));
    for index in low..=high {
        let child = view.child(index);
        let below = (
            if index == low { range.0 } else { Bound::Unbounded },
            if index == high { range.1 } else { Bound::Unbounded },
        );
        sum = sum.plus(if matches!(below, (Bound::Unbounded, Bound::Unbounded)) {
            child.sum
        } else {
            sum_node(nodes, tree, fetch(nodes, tree, &child, view.level() - 1)?, below, summarize)?
        });
    }
    Ok(sum)
}
