//! Sorting a large answer in pieces: runs first, then merges of neighbours that double them, a bounded number of records a
//! step. Of the records only their numbers move.

use core::cmp::Ordering;

use ringstone_proto::mvccpb::KeyValue;

/// Records of a run that is sorted at once.
const RUN: usize = 512;
/// Records merged a step for each that a scan's step visits: a comparison is that much cheaper than a visit.
const MERGED_PER_VISIT: usize = 16;

/// Records of a piece of [`Records`].
const PIECE: usize = 1024;
/// Pieces that are freed at once.
const FREED: usize = 8;

/// Records in pieces of one size: none moves when more come, as a million of them would for tens of milliseconds.
#[derive(Debug, Default)]
pub(super) struct Records {
    pieces: Vec<Vec<KeyValue>>,
}

impl Records {
    pub fn push(&mut self, record: KeyValue) {
        match self.pieces.last_mut().filter(|piece| piece.len() < PIECE) {
            Some(piece) => piece.push(record),
            None => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(record);
                self.pieces.push(piece);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    /// All of them; for few.
    pub fn take_all(&mut self) -> Vec<KeyValue> {
        core::mem::take(&mut self.pieces).into_iter().flatten().collect()
    }

    fn get(&self, number: u32) -> &KeyValue {
        &self.pieces[number as usize / PIECE][number as usize % PIECE]
    }

    fn take(&mut self, number: u32) -> KeyValue {
        core::mem::take(&mut self.pieces[number as usize / PIECE][number as usize % PIECE])
    }
}

/// A sort under way.
#[derive(Debug)]
pub(super) struct Sorting {
    order: Vec<u32>,
    merged: Vec<u32>,
    /// Length of the runs that are sorted; 0 while the first ones are.
    width: usize,
    /// Behind what of `order` this pass has taken, from the left and the right run of a pair.
    left: usize,
    right: usize,
    /// Of the sorted ones.
    given: usize,
}

impl Sorting {
    /// None: few enough to be sorted at once.
    pub fn begin(records: usize) -> Option<Sorting> {
        let count = u32::try_from(records).ok().filter(|_| records > RUN)?;
        let order = (0..count).collect();
        Some(Sorting { order, merged: Vec::new(), width: 0, left: 0, right: 0, given: 0 })
    }

    /// Goes on; true once the records are in their order, for [`Sorting::give`].
    pub fn step(
        &mut self,
        records: &Records,
        visits: usize,
        compare: impl Fn(&KeyValue, &KeyValue) -> Ordering,
    ) -> bool {
        let mut left = visits.max(1).saturating_mul(MERGED_PER_VISIT);
        let compare = |a: &u32, b: &u32| compare(records.get(*a), records.get(*b));
        while left > 0 && self.width == 0 {
            let end = (self.left + RUN).min(self.order.len());
            self.order[self.left..end].sort_unstable_by(compare);
            left = left.saturating_sub(RUN * MERGED_PER_VISIT);
            self.left = end;
            if end == self.order.len() {
                self.begin_pass(RUN);
            }
        }
        while left > 0 && self.width > 0 && self.width < self.order.len() {
            self.merge_one(&compare);
            left -= 1;
        }
        self.width >= self.order.len()
    }

    /// Leaves out those behind the first `count`; true if there were any.
    pub fn truncate(&mut self, count: usize) -> bool {
        let cuts = self.order.len() > count;
        self.order.truncate(count);
        cuts
    }

    /// Takes the next ones in their order, at most `count`; true once all were, and the memory of all is free.
    pub fn give(&mut self, records: &mut Records, count: usize, to: &mut Vec<KeyValue>) -> bool {
        let next = &self.order[self.given..self.given.saturating_add(count).min(self.order.len())];
        if next.is_empty() {
            let kept = records.pieces.len().saturating_sub(FREED);
            records.pieces.truncate(kept);
            return records.pieces.is_empty();
        }
        // Who keeps them gets room for all of the rest at once: what is there does not move again.
        to.reserve(if to.is_empty() { next.len() } else { self.order.len() - self.given });
        to.extend(next.iter().map(|number| records.take(*number)));
        self.given += next.len();
        false
    }

    fn begin_pass(&mut self, width: usize) {
        self.width = width;
        self.merged.clear();
        self.merged.reserve(self.order.len());
        (self.left, self.right) = (0, width);
    }

    fn merge_one(&mut self, compare: &impl Fn(&u32, &u32) -> Ordering) {
        let pair = self.merged.len() / (2 * self.width) * (2 * self.width);
        let middle = (pair + self.width).min(self.order.len());
        let end = (pair + 2 * self.width).min(self.order.len());
        let take_left = self.left < middle
            && (self.right >= end || compare(&self.order[self.left], &self.order[self.right]).is_le());
        let from = if take_left { &mut self.left } else { &mut self.right };
        self.merged.push(self.order[*from]);
        *from += 1;
        if self.merged.len() == end {
            (self.left, self.right) = (end, end + self.width);
        }
        if self.merged.len() == self.order.len() {
            core::mem::swap(&mut self.order, &mut self.merged);
            self.begin_pass(self.width * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_pieces_is_as_at_once() {
        assert!(Sorting::begin(RUN).is_none(), "few are sorted at once");
        for count in [RUN + 1, 2 * RUN, 2 * RUN + 1, 5 * RUN - 1, 9 * RUN + 7] {
            let record = |number: usize| KeyValue {
                version: (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).cast_signed() >> 40,
                mod_revision: number as i64,
                ..KeyValue::default()
            };
            let compare = |a: &KeyValue, b: &KeyValue| (a.version, a.mod_revision).cmp(&(b.version, b.mod_revision));
            let records: Vec<KeyValue> = (0..count).map(record).collect();
            let mut want = records.clone();
            want.sort_by(compare);
            let mut pieces = Records::default();
            records.into_iter().for_each(|record| pieces.push(record));
            assert_eq!(pieces.len(), count);
            let mut sorting = Sorting::begin(count).expect("many");
            let mut steps = 1;
            while !sorting.step(&pieces, 10, compare) {
                steps += 1;
            }
            assert!(steps >= count / 160, "{count} records in {steps} steps");
            let mut given = Vec::new();
            while !sorting.give(&mut pieces, 100, &mut given) {}
            assert_eq!(given, want, "{count} records");
            assert_eq!(pieces.len(), 0, "nothing is kept");
        }
    }
}
