//! How much of the log a replay would read: pairs of position and index, one for some 64 KiB of batches.

use crate::record::{Kind, Record};
use crate::segment::{Segment, raise};
use std::collections::VecDeque;

/// Distance of two marks in bytes: 16 marks a MiB of log, 24 bytes each.
const MARK_DISTANCE_BYTES: u64 = 64 << 10;

struct Mark {
    group: u32,
    index: u64,
    bytes_before: u64,
}

/// Positions in the log, in bytes of batches since it was opened.
#[derive(Default)]
pub(crate) struct Marks {
    marks: VecDeque<Mark>,
    bytes: u64,
    /// Bytes before the first kept segment.
    bytes_gone: u64,
}

impl Marks {
    /// Bytes of batches up to now.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A batch was written whose first entries are `first`.
    pub(crate) fn advance(&mut self, first: &[(u32, u64)], bytes: u64) {
        for &(group, index) in first {
            let last = self.marks.iter().rev().find(|mark| mark.group == group);
            if last.is_none_or(|mark| self.bytes - mark.bytes_before >= MARK_DISTANCE_BYTES) {
                self.marks.push_back(Mark { group, index, bytes_before: self.bytes });
            }
        }
        self.bytes += bytes;
    }

    /// Segments that end at or before this position are gone.
    pub(crate) fn forget_before(&mut self, bytes_before: u64) {
        self.bytes_gone = bytes_before.min(self.bytes);
        while self.marks.front().is_some_and(|mark| mark.bytes_before < self.bytes_gone) {
            self.marks.pop_front();
        }
    }

    /// Entries from `index` on all lie behind the last mark with an index of at most that: what was appended before a
    /// mark and still counts has a lower index than the mark.
    pub(crate) fn bytes_since(&self, group: u32, index: u64) -> u64 {
        let mark = self.marks.iter().rev().find(|mark| mark.group == group && mark.index <= index);
        self.bytes - mark.map_or(self.bytes_gone, |mark| mark.bytes_before)
    }
}

/// What the log must remember of a batch once it is synced.
#[derive(Default)]
pub(crate) struct BatchNotes {
    first: Vec<(u32, u64)>,
    highest: Vec<(u32, u64)>,
    truncated: Vec<(u32, u64)>,
}

impl BatchNotes {
    pub(crate) fn note(&mut self, record: &Record<'_>) {
        match record.kind {
            Kind::Entry | Kind::Config => {
                if !self.first.iter().any(|&(group, _)| group == record.group) {
                    self.first.push((record.group, record.index));
                }
                raise(&mut self.highest, record.group, record.index);
            }
            Kind::Truncate => match self.truncated.iter_mut().find(|(group, _)| *group == record.group) {
                Some((_, index)) => *index = record.index.min(*index),
                None => self.truncated.push((record.group, record.index)),
            },
            _ => {}
        }
    }

    pub(crate) fn clear(&mut self) {
        self.first.clear();
        self.highest.clear();
        self.truncated.clear();
    }

    /// The batch is on disk, in the last of `segments`.
    pub(crate) fn apply(&self, segments: &mut VecDeque<Segment>, marks: &mut Marks, bytes: u64) {
        for &(group, index) in &self.truncated {
            segments.iter_mut().for_each(|segment| segment.lower(group, index));
        }
        let active = segments.back_mut().expect("a batch is in a segment");
        self.highest.iter().for_each(|&(group, index)| active.raise(group, index));
        marks.advance(&self.first, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_since_covers_the_entry_and_is_not_far_off() {
        let mut marks = Marks::default();
        for batch in 0..100u64 {
            marks.advance(&[(1, batch * 10)], 8192);
        }
        assert_eq!(marks.bytes_since(1, 0), 819_200);
        for index in (0..1000).step_by(7) {
            let exact = (100 - index / 10) * 8192;
            let answer = marks.bytes_since(1, index);
            assert!(answer >= exact && answer <= exact + MARK_DISTANCE_BYTES, "{index}: {answer} for {exact}");
        }
        marks.forget_before(400_000);
        assert_eq!(marks.bytes_since(1, 0), 419_200);
        assert_eq!(marks.bytes_since(9, 0), 419_200);
    }
}
