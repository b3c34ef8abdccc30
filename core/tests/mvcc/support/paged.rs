//! Trees whose pages come and go: the model trees, but each "page" must be brought in before it can be used.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use ringstone_core::trees::{BESIDE, LOG, VALUE};
use ringstone_pager::api::{
    Access, Aggregate, Direction, Fault, KeyRange, PageRun, ReadTrees, TreeId, Visitor, WriteTrees,
};
use ringstone_pager::model::ModelTrees;

pub struct PagedTrees {
    pub inner: ModelTrees,
    resident: RefCell<BTreeSet<u64>>,
}

/// Neighbouring keys share a page: four main revisions, or all keys with one first byte.
fn page(tree: TreeId, key: &[u8]) -> u64 {
    let bucket = match tree {
        LOG | BESIDE | VALUE if key.len() == 16 => u64::from_be_bytes(key[..8].try_into().expect("eight bytes")) / 4,
        _ => u64::from(key.first().copied().unwrap_or(0)),
    };
    u64::from(tree.0) << 48 | bucket
}

impl PagedTrees {
    pub fn new(inner: ModelTrees) -> PagedTrees {
        PagedTrees { inner, resident: RefCell::default() }
    }

    pub fn bring_in(&self, run: PageRun) {
        assert!(self.resident.borrow_mut().insert(run.first), "a page that is there was asked for");
    }

    pub fn evict(&self) {
        self.resident.borrow_mut().clear();
    }

    fn touch(&self, tree: TreeId, key: &[u8]) -> Access<()> {
        let page = page(tree, key);
        let there = self.resident.borrow().contains(&page);
        if there { Ok(()) } else { Err(Fault::Absent(PageRun { first: page, pages: 1 })) }
    }
}

impl ReadTrees for PagedTrees {
    fn get(&self, tree: TreeId, key: &[u8]) -> Access<Option<&[u8]>> {
        self.touch(tree, key)?;
        self.inner.get(tree, key)
    }

    fn visit(
        &self,
        tree: TreeId,
        range: KeyRange<'_>,
        direction: Direction,
        skip_uncounted: bool,
        visitor: &mut Visitor<'_>,
    ) -> Access<()> {
        let mut fault = None;
        self.inner.visit(tree, range, direction, skip_uncounted, &mut |key, value| match self.touch(tree, key) {
            Ok(()) => visitor(key, value),
            Err(absent) => {
                fault = Some(absent);
                ControlFlow::Break(())
            }
        })?;
        fault.map_or(Ok(()), Err)
    }

    fn aggregate(&self, tree: TreeId, range: KeyRange<'_>) -> Access<Aggregate> {
        self.inner.aggregate(tree, range)
    }

    fn attributes(&self) -> &[u8] {
        self.inner.attributes()
    }
}

impl WriteTrees for PagedTrees {
    fn put(&mut self, tree: TreeId, key: &[u8], value: &[&[u8]]) -> Access<()> {
        self.touch(tree, key)?;
        self.inner.put(tree, key, value)
    }

    fn delete(&mut self, tree: TreeId, key: &[u8]) -> Access<bool> {
        self.touch(tree, key)?;
        self.inner.delete(tree, key)
    }

    fn delete_front(&mut self, tree: TreeId, range: KeyRange<'_>, entries_max: usize) -> Access<bool> {
        self.inner.delete_front(tree, range, entries_max)
    }

    fn set_attributes(&mut self, attributes: &[u8]) {
        self.inner.set_attributes(attributes);
    }
}
