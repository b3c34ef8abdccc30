//! Which frames may be used again now?
//!
//! Too early, and a reader on another core follows a reference into somebody else's node; too late, and memory grows while
//! a snapshot is taken. What was born at `b` and freed at `f` is held by the pins in [b, f), and by the checkpoint under
//! way if its generation lies there. (Pages of the file wait in the freelist, by the same rule and both metas.) This file
//! does not know what a node contains, and no clock.

use std::collections::BTreeMap;

use crate::chunks::Chunks;
use crate::forest::Retired;
use crate::pins::Held;

/// Retired frames.
#[derive(Default)]
pub(crate) struct Limbo {
    /// In the order of `freed`; not looked at yet.
    fresh: Chunks<Retired>,
    /// Their holder is gone: to be looked at again.
    again: Chunks<Retired>,
    /// By a generation that is known to hold them.
    held: BTreeMap<u64, Chunks<Retired>>,
    pages: u64,
}

impl Limbo {
    /// Takes a node over. Nodes come in the order of their `freed`.
    pub fn push(&mut self, retired: Retired) {
        debug_assert!(retired.born <= retired.freed);
        self.pages += u64::from(retired.pages);
        self.fresh.push(retired);
    }

    /// Pages held.
    #[cfg(test)]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Calls `free` for the nodes that nobody holds: freed at or before `published`, and not held in [born, freed). Looks at
    /// each node once, and again only when its holder is gone; at up to `nodes_max` now.
    pub fn sift(&mut self, published: u64, held: &Held, nodes_max: usize, mut free: impl FnMut(Retired)) {
        while let Some(gone) = self.held.keys().find(|holder| !held.contains(**holder)).copied() {
            self.again.append(&mut self.held.remove(&gone).expect("the key was just found"));
        }
        for _ in 0..nodes_max {
            let is_due = |retired: &&Retired| retired.freed <= published;
            let next = match self.fresh.front().filter(is_due) {
                Some(_) => self.fresh.pop(),
                None => self.again.pop(),
            };
            let Some(retired) = next else { return };
            self.settle(retired, held, &mut free);
        }
    }

    /// Is there something to be looked at, whoever holds it?
    pub fn has_leftovers(&self, published: u64) -> bool {
        !self.again.is_empty() || self.fresh.front().is_some_and(|retired| retired.freed <= published)
    }

    fn settle(&mut self, retired: Retired, held: &Held, free: &mut impl FnMut(Retired)) {
        match held.holder(retired.born, retired.freed) {
            Some(holder) => self.held.entry(holder).or_default().push(retired),
            None => {
                self.pages -= u64::from(retired.pages);
                free(retired);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Reference;

    fn node(page: u64, born: u64, freed: u64) -> Retired {
        Retired { reference: Reference::page(page), pages: 1, born, freed }
    }

    fn sift(limbo: &mut Limbo, published: u64, holders: &[u64]) -> Vec<u64> {
        let mut freed = Vec::new();
        let mut held = Held::only(published);
        holders.iter().for_each(|holder| held.insert(*holder));
        limbo.sift(published, &held, usize::MAX, |retired| freed.push(retired.reference.as_page().expect("a page")));
        freed
    }

    #[test]
    fn a_pin_holds_what_it_sees_and_nothing_else() {
        let mut limbo = Limbo::default();
        limbo.push(node(1, 3, 5)); // seen by the pin at 4
        limbo.push(node(2, 5, 6)); // born after it
        limbo.push(node(3, 1, 9)); // not published yet
        assert_eq!(sift(&mut limbo, 6, &[4]), [2]);
        assert_eq!(limbo.pages(), 2);
        assert_eq!(sift(&mut limbo, 9, &[4]), [0_u64; 0]);
        assert_eq!(sift(&mut limbo, 9, &[2]), [1], "the pin at 2 still sees page 3");
        assert_eq!(sift(&mut limbo, 9, &[9]), [3], "a pin at 9 sees neither");
        assert_eq!(limbo.pages(), 0);
    }

    #[test]
    fn a_node_passes_from_holder_to_holder() {
        let mut limbo = Limbo::default();
        limbo.push(node(1, 3, 8));
        assert_eq!(sift(&mut limbo, 8, &[3, 7]), [0_u64; 0]);
        assert_eq!(sift(&mut limbo, 8, &[3]), [0_u64; 0]);
        assert_eq!(sift(&mut limbo, 8, &[]), [1]);
    }
}
