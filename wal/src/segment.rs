//! Which segments may be recycled?
//!
//! Too early, and a write that only the log holds is gone; too late, and the disk fills. One function decides: a
//! segment may go when every entry in it lies below the minimum of its group's holders, and all segments before it are
//! gone (replay follows physical order: a truncation must never go before the entries that it drops). An entry that a
//! synced truncation dropped counts no more.

use crate::disk::FileName;

/// A holder that registered: what it still needs is not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HolderId(u32);

struct Holder {
    name: &'static str,
    group: u32,
    index: u64,
}

/// All that hold segments back.
#[derive(Default)]
pub struct Holders {
    holders: Vec<Holder>,
}

impl Holders {
    /// Adds one that needs entries of `group` from `index` on.
    pub fn register(&mut self, name: &'static str, group: u32, index: u64) -> HolderId {
        self.holders.push(Holder { name, group, index });
        HolderId(u32::try_from(self.holders.len() - 1).expect("fewer than 2^32 holders"))
    }

    /// The holder needs entries below `index` no more. Going back has no effect.
    pub fn release(&mut self, id: HolderId, index: u64) {
        let holder = &mut self.holders[id.0 as usize];
        holder.index = holder.index.max(index);
    }

    /// The holder that holds `group` back most, and from which index on.
    pub fn slowest(&self, group: u32) -> Option<(&'static str, u64)> {
        self.holders
            .iter()
            .filter(|holder| holder.group == group)
            .min_by_key(|holder| holder.index)
            .map(|holder| (holder.name, holder.index))
    }

    /// The one function that releases: see the top of the file.
    pub fn allow(&self, segment: &Segment) -> bool {
        !self.holders.is_empty()
            && segment
                .highest
                .iter()
                .all(|&(group, highest)| self.slowest(group).is_some_and(|(_, index)| highest < index))
    }
}

/// A segment that holds records.
#[derive(Debug)]
pub struct Segment {
    /// Its generation, and so its name.
    pub generation: u64,
    /// Its size.
    pub blocks: u32,
    /// Bytes of batches in the log before it, for pacing.
    pub bytes_before: u64,
    /// Highest index of a live entry for each group.
    pub highest: Vec<(u32, u64)>,
}

impl Segment {
    /// Its file.
    pub fn file(&self) -> FileName {
        FileName::Segment(self.generation)
    }

    /// An entry was written to it.
    pub fn raise(&mut self, group: u32, index: u64) {
        raise(&mut self.highest, group, index);
    }

    /// Entries of the group from `index` on were dropped by a synced truncation.
    pub fn lower(&mut self, group: u32, index: u64) {
        match index.checked_sub(1) {
            Some(last) => self
                .highest
                .iter_mut()
                .filter(|(known, _)| *known == group)
                .for_each(|(_, highest)| *highest = last.min(*highest)),
            None => self.highest.retain(|(known, _)| *known != group),
        }
    }
}

/// Keeps the maximum index of each group.
pub fn raise(highest: &mut Vec<(u32, u64)>, group: u32, index: u64) {
    match highest.iter_mut().find(|(known, _)| *known == group) {
        Some((_, known)) => *known = index.max(*known),
        None => highest.push((group, index)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(highest: &[(u32, u64)]) -> Segment {
        Segment { generation: 1, blocks: 8, bytes_before: 0, highest: highest.to_vec() }
    }

    #[test]
    fn the_slowest_holder_of_each_group_decides() {
        let mut holders = Holders::default();
        assert!(!holders.allow(&segment(&[])), "nobody has said yet what it needs");
        let meta_a = holders.register("meta a", 1, 0);
        let meta_b = holders.register("meta b", 1, 0);
        assert!(holders.allow(&segment(&[])));
        holders.release(meta_a, 10);
        assert!(!holders.allow(&segment(&[(1, 5)])));
        holders.release(meta_b, 6);
        assert!(holders.allow(&segment(&[(1, 5)])));
        assert!(!holders.allow(&segment(&[(1, 6)])));
        assert!(!holders.allow(&segment(&[(1, 5), (2, 1)])), "nobody spoke for group 2");
        holders.release(meta_b, 3);
        assert!(holders.allow(&segment(&[(1, 5)])), "a release is not taken back");
        assert_eq!(holders.slowest(1), Some(("meta b", 6)));
    }

    #[test]
    fn truncated_entries_hold_nothing() {
        let mut entry = segment(&[(1, 100), (2, 100)]);
        entry.lower(1, 50);
        assert_eq!(entry.highest, [(1, 49), (2, 100)]);
        entry.lower(1, 70);
        assert_eq!(entry.highest, [(1, 49), (2, 100)]);
        entry.lower(2, 0);
        assert_eq!(entry.highest, [(1, 49)]);
    }
}
