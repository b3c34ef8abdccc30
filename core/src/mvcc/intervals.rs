//! A set of key intervals: asked whether it covers a key, in O(log n), so that checks of large transactions stay cheap.

use core::cmp::Ordering;
use core::ops::Bound;
use std::collections::BTreeMap;

/// The end of an interval, which it does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// This key.
    Before(&'a [u8]),
    /// The first key behind this one: itself and a zero byte.
    Behind(&'a [u8]),
    /// Nothing ends it.
    Open,
}

impl End<'_> {
    /// How the end stands to `key`: greater means that the interval reaches over it.
    fn compare_key(&self, key: &[u8]) -> Ordering {
        match self {
            End::Before(end) => (*end).cmp(key),
            // Nothing lies between a key and itself with a zero byte.
            End::Behind(last) if *last >= key => Ordering::Greater,
            End::Behind(last) => key.strip_prefix(*last).map_or(Ordering::Less, |rest| [0].as_slice().cmp(rest)),
            End::Open => Ordering::Greater,
        }
    }

    fn compare(&self, other: &End<'_>) -> Ordering {
        match (self, other) {
            (End::Open, End::Open) => Ordering::Equal,
            (_, End::Open) => Ordering::Less,
            (End::Behind(mine), End::Behind(theirs)) => mine.cmp(theirs),
            (_, End::Before(key)) => self.compare_key(key),
            (End::Open, _) => Ordering::Greater,
            (End::Before(key), End::Behind(_)) => other.compare_key(key).reverse(),
        }
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

/// Disjoint intervals by their starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct IntervalSet<'a> {
    ends: BTreeMap<&'a [u8], End<'a>>,
}

impl<'a> IntervalSet<'a> {
    /// Adds [start, end); nothing where that is empty.
    pub(crate) fn insert(&mut self, start: &'a [u8], end: End<'a>) {
        if end.compare_key(start) != Ordering::Greater {
            return;
        }
        let (mut start, mut end) = (start, end);
        let reaches = |interval_end: &End<'_>, start: &[u8]| interval_end.compare_key(start) != Ordering::Less;
        if let Some((&before, before_end)) = self.ends.range::<[u8], _>(up_to(start)).next_back()
            && reaches(before_end, start)
        {
            start = before;
        }
        while let Some((&inner, &inner_end)) =
            self.ends.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)).next()
            && reaches(&end, inner)
        {
            self.ends.remove(inner);
            if inner_end.compare(&end) == Ordering::Greater {
                end = inner_end;
            }
        }
        self.ends.insert(start, end);
    }

    /// Whether an interval covers `key`.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let before = self.ends.range::<[u8], _>(up_to(key)).next_back();
        before.is_some_and(|(_, end)| end.compare_key(key) == Ordering::Greater)
    }

    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, mut other: IntervalSet<'a>) {
        if other.ends.len() > self.ends.len() {
            core::mem::swap(self, &mut other);
        }
        other.ends.into_iter().for_each(|(start, end)| self.insert(start, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn covers_what_any_of_its_intervals_covers(
            intervals in proptest::collection::vec((key(), key(), 0..3u8), 0..12),
            probes in proptest::collection::vec(key(), 1..30),
        ) {
            let mut set = IntervalSet::default();
            let end = |key, kind| match kind { 0 => End::Before(key), 1 => End::Behind(key), _ => End::Open };
            for (start, stop, kind) in &intervals {
                set.insert(start, end(stop, *kind));
            }
            for probe in &probes {
                let expected = intervals.iter().any(|(start, stop, kind)| start <= probe && match kind {
                    0 => probe < stop,
                    1 => probe <= stop,
                    _ => true,
                });
                prop_assert_eq!(set.contains(probe), expected, "{:?} in {:?}", probe, set);
            }
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0..3u8, 0..4)
    }
}
