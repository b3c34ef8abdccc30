//! Sums of what the writer has changed: leaves from their content, branches from their children, when somebody asks or
//! the state is published.

use crate::api::{Aggregate, Summarize, TreeId};
use crate::forest::Forest;
use crate::node::{Child, FLAG_STALE, NodeView, at, branch_at};

impl Forest {
    /// Brings all sums below the root of `tree` up to date, and returns their total. What is not stale is not visited.
    pub fn settle(&self, tree: TreeId) -> Aggregate {
        let root = self.root(tree);
        if !self.is_own(&root.child) {
            return root.child.sum;
        }
        self.settle_node(&root.child, self.summarize(tree), root.child.sum)
    }

    fn settle_node(&self, child: &Child, summarize: Summarize, known: Aggregate) -> Aggregate {
        // (A delta's sum is never out of date, and its base may have left memory.)
        let view = self.header(child);
        if view.flags() & FLAG_STALE == 0 {
            return known;
        }
        let sum =
            if view.is_leaf() { sum_of_leaf(view, summarize) } else { self.settle_branch(child, view, summarize) };
        // The flag of a root stays: its sum has no parent's cell to be kept in before it is published.
        sum
    }

    fn settle_branch(&self, child: &Child, view: NodeView<'_>, summarize: Summarize) -> Aggregate {
        let mut total = Aggregate::default();
        for index in 0..view.len() {
            // Most children are as they were.
            if view.child_generation(index) != self.state.generation {
                total = total.plus(view.child_sum(index));
                continue;
            }
            let below = view.child(index);
            let mut sum = below.sum;
            if self.is_own(&below) {
                sum = self.settle_node(&below, summarize, below.sum);
                if self.header(&below).flags() & FLAG_STALE != 0 {
                    let cell = view.reference_offset(index);
                    self.store(child.reference, cell + branch_at::COUNT, sum.count);
                    self.store(child.reference, cell + branch_at::BYTES, sum.bytes);
                    self.store(child.reference, cell + branch_at::HASH, sum.hash);
                    self.clear_stale(&below);
                }
            }
            total = total.plus(sum);
        }
        total
    }

    /// Says that the sum that the parent (or the root record) has of this node is right.
    pub fn clear_stale(&self, child: &Child) {
        debug_assert!(self.is_own(child));
        let word = at::TREE;
        let shift = (at::FLAGS - word) * 8;
        let value = self.header(child).memory().u64(word) & !(u64::from(FLAG_STALE) << shift);
        self.store(child.reference, word, value);
    }
}

fn sum_of_leaf(view: NodeView<'_>, summarize: Summarize) -> Aggregate {
    (0..view.len()).fold(Aggregate::default(), |sum, index| sum.plus(summarize(view.key(index), view.value(index))))
}
