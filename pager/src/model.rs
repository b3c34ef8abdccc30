//! The trees as maps in memory: the model that tests hold the real ones against, behind the same traits.

use core::ops::Bound;
use std::collections::BTreeMap;

use crate::api::{
    ATTRIBUTES_BYTES_MAX, Access, Aggregate, Direction, KeyRange, ReadTrees, TreeId, TreeSpec, Visitor, WriteTrees,
};

/// Trees in memory. For tests only: no file, no faults, O(n) sums.
#[derive(Clone)]
pub struct ModelTrees {
    specs: Vec<TreeSpec>,
    trees: BTreeMap<TreeId, BTreeMap<Vec<u8>, Vec<u8>>>,
    attributes: Vec<u8>,
}

impl ModelTrees {
    /// Empty trees of these kinds.
    #[must_use]
    pub fn new(specs: &[TreeSpec]) -> ModelTrees {
        ModelTrees {
            specs: specs.to_vec(),
            trees: specs.iter().map(|spec| (spec.id, BTreeMap::new())).collect(),
            attributes: Vec::new(),
        }
    }

    fn tree(&self, tree: TreeId) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        self.trees.get(&tree).expect("the tree is in the catalogue")
    }

    fn tree_mut(&mut self, tree: TreeId) -> &mut BTreeMap<Vec<u8>, Vec<u8>> {
        self.trees.get_mut(&tree).expect("the tree is in the catalogue")
    }
}

fn is_empty(range: KeyRange<'_>) -> bool {
    match range {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high))
        | (Bound::Excluded(low), Bound::Included(high)) => low >= high,
        _ => false,
    }
}

impl ReadTrees for ModelTrees {
    fn get(&self, tree: TreeId, key: &[u8]) -> Access<Option<&[u8]>> {
        Ok(self.tree(tree).get(key).map(Vec::as_slice))
    }

    fn visit(
        &self,
        tree: TreeId,
        range: KeyRange<'_>,
        direction: Direction,
        _skip_uncounted: bool,
        visitor: &mut Visitor<'_>,
    ) -> Access<()> {
        if is_empty(range) {
            return Ok(());
        }
        let mut entries = self.tree(tree).range::<[u8], _>(range);
        while let Some((key, value)) = match direction {
            Direction::Forward => entries.next(),
            Direction::Backward => entries.next_back(),
        } {
            if visitor(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn aggregate(&self, tree: TreeId, range: KeyRange<'_>) -> Access<Aggregate> {
        let spec = self.specs.iter().find(|spec| spec.id == tree).expect("the tree is in the catalogue");
        if is_empty(range) {
            return Ok(Aggregate::default());
        }
        Ok(self
            .tree(tree)
            .range::<[u8], _>(range)
            .fold(Aggregate::default(), |sum, (key, value)| sum.plus((spec.summarize)(key, value))))
    }

    fn attributes(&self) -> &[u8] {
        &self.attributes
    }
}

impl WriteTrees for ModelTrees {
    fn put(&mut self, tree: TreeId, key: &[u8], value: &[&[u8]]) -> Access<()> {
        self.tree_mut(tree).insert(key.to_vec(), value.concat());
        Ok(())
    }

    fn delete(&mut self, tree: TreeId, key: &[u8]) -> Access<bool> {
        Ok(self.tree_mut(tree).remove(key).is_some())
    }

    fn delete_front(&mut self, tree: TreeId, range: KeyRange<'_>, entries_max: usize) -> Access<bool> {
        if is_empty(range) {
            return Ok(true);
        }
        let entries = self.tree_mut(tree);
        let keys: Vec<Vec<u8>> =
            entries.range::<[u8], _>(range).take(entries_max).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            entries.remove(key);
        }
        Ok(keys.len() < entries_max)
    }

    fn set_attributes(&mut self, attributes: &[u8]) {
        assert!(attributes.len() <= ATTRIBUTES_BYTES_MAX, "attributes fit a root record");
        self.attributes = attributes.to_vec();
    }
}
