//! How cells are dealt out to nodes when they don't fit one.
//!
//! A leaf's cell that is larger than a page stands alone in a run of its own; everything else shares pages. A branch has
//! at least two cells where it can, however long their separators are: so the height of a tree is bounded by its leaves.

use core::ops::Range;

use crate::node::PAGE_CAPACITY;

/// Groups of cells, in order.
pub(crate) type Groups = smallvec::SmallVec<[Range<usize>; 4]>;

/// Deals out leaf cells of these sizes (with slots).
pub(crate) fn leaf(sizes: &[usize]) -> Groups {
    let mut groups = Groups::new();
    let mut start = 0;
    for index in 0..=sizes.len() {
        let is_huge = index < sizes.len() && sizes[index] > PAGE_CAPACITY;
        if index == sizes.len() || is_huge {
            halve(&sizes[start..index], start, &mut groups);
            start = index;
        }
        if is_huge {
            groups.push(index..index + 1);
            start = index + 1;
        }
    }
    groups
}

/// Two halves of about the same bytes where that works, else as many groups as it takes.
fn halve(sizes: &[usize], offset: usize, groups: &mut Groups) {
    let total: usize = sizes.iter().sum();
    if sizes.is_empty() {
        return;
    }
    if total <= PAGE_CAPACITY {
        groups.push(offset..offset + sizes.len());
        return;
    }
    let mut left = 0;
    let mut best: Option<(usize, usize)> = None;
    for (index, size) in sizes.iter().enumerate().take(sizes.len() - 1) {
        left += size;
        let fits = left <= PAGE_CAPACITY && total - left <= PAGE_CAPACITY;
        let distance = left.abs_diff(total - left);
        if fits && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, index + 1));
        }
    }
    if let Some((_, middle)) = best {
        groups.push(offset..offset + middle);
        groups.push(offset + middle..offset + sizes.len());
        return;
    }
    let (mut start, mut bytes) = (0, 0);
    for (index, size) in sizes.iter().enumerate() {
        if bytes + size > PAGE_CAPACITY {
            groups.push(offset + start..offset + index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    groups.push(offset + start..offset + sizes.len());
}

/// Deals out branch cells of these sizes (with slots). `at_end`: they grow at the right edge, so leave a full node behind.
pub(crate) fn branch(sizes: &[usize], at_end: bool) -> Groups {
    let total: usize = sizes.iter().sum();
    let mut groups = Groups::new();
    if total <= PAGE_CAPACITY || sizes.len() <= 2 {
        groups.push(0..sizes.len());
        return groups;
    }
    let target = if at_end { PAGE_CAPACITY } else { PAGE_CAPACITY.min(total / 2 + total / 16) };
    let (mut start, mut bytes) = (0, 0);
    for (index, size) in sizes.iter().enumerate() {
        if bytes + size > target && index - start >= 2 {
            groups.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    groups.push(start..sizes.len());
    groups
}

/// The shortest key that is above `left` and not above `right`.
pub(crate) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    debug_assert!(left < right);
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    &right[..common + 1]
}
