//! The log in memory: which entries are where, and how far each position has come?
//!
//! ```text
//!   base ........ applied .... delivered .... min(committed, persisted) .... handed .... last
//!   (compacted)                               may be delivered               given to    proposed
//!                                                                            a Persist
//! ```
//! A wrong answer loses an acknowledged entry or applies one that was never agreed on. This file does not know who leads.

use crate::{
    Applied, Committed, Configuration, Entry, EntryKind, Index, Persisted, Positions, Proposed, SnapshotMetadata, Term,
};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

#[derive(Debug)]
pub(crate) struct Log {
    base_index: Index,
    base_term: Term,
    /// Consecutive from `base_index + 1`.
    entries: VecDeque<Entry>,
    /// Each with the index from which it is in force, ascending; the first is the one in force at the base.
    configurations: Vec<(Index, Configuration)>,
    /// Entries up to here were given to a `Persist`.
    handed: Index,
    /// The lowest cut below `handed` that no `Persist` has carried yet.
    cut_from: Option<Index>,
    /// An image was put in place of the log and is not yet installed: nothing may be delivered.
    is_installing: bool,
    persisted: Persisted,
    committed: Committed,
    delivered: Index,
    applied: Applied,
    /// Weight of the entries in (applied, delivered].
    unapplied_bytes: usize,
}

impl Log {
    /// A log as it was loaded: all of it is on disk. The caller has checked that entries are consecutive from the base and
    /// that configurations decode.
    pub(crate) fn new(base: SnapshotMetadata, entries: Vec<Entry>, applied: Index) -> Log {
        let mut log = Log {
            base_index: base.index,
            base_term: base.term,
            entries: VecDeque::with_capacity(entries.len()),
            configurations: alloc::vec![(base.index, base.configuration)],
            handed: base.index,
            cut_from: None,
            is_installing: false,
            persisted: Persisted(base.index),
            committed: Committed(applied),
            delivered: applied,
            applied: Applied(applied),
            unapplied_bytes: 0,
        };
        entries.into_iter().for_each(|entry| log.append(entry));
        log.handed = log.last_index();
        log.persisted = Persisted(log.last_index());
        log
    }

    pub(crate) fn base_index(&self) -> Index {
        self.base_index
    }

    pub(crate) fn last_index(&self) -> Index {
        Index(self.base_index.0 + self.entries.len() as u64)
    }

    pub(crate) fn last_term(&self) -> Term {
        self.entries.back().map_or(self.base_term, |entry| entry.term)
    }

    pub(crate) fn committed(&self) -> Index {
        self.committed.0
    }

    pub(crate) fn persisted(&self) -> Index {
        self.persisted.0
    }

    pub(crate) fn positions(&self) -> Positions {
        Positions {
            proposed: Proposed(self.last_index()),
            persisted: self.persisted,
            committed: self.committed,
            applied: self.applied,
        }
    }

    /// The term at an index; `None` below the base and behind the end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base_index { Some(self.base_term) } else { self.entry(index).map(|entry| entry.term) }
    }

    fn entry(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.base_index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Entries in (after, to].
    fn range(&self, after: Index, to: Index) -> impl Iterator<Item = &Entry> {
        let start = (after.0 - self.base_index.0) as usize;
        let end = (to.0 - self.base_index.0) as usize;
        self.entries.range(start..end.max(start))
    }

    /// Entries behind `previous`, at least one if there is one, then no more than `bytes_max`.
    pub(crate) fn entries_after(&self, previous: Index, bytes_max: usize) -> Vec<Entry> {
        let mut bytes = 0usize;
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(entry.weight_bytes());
            is_first || bytes <= bytes_max
        };
        self.range(previous, self.last_index()).take_while(fits).cloned().collect()
    }

    /// Weight of the entries in (after, to].
    pub(crate) fn weight_bytes(&self, after: Index, to: Index) -> usize {
        self.range(after, to).map(Entry::weight_bytes).sum()
    }

    /// The last index up to `index` whose term is not above `term`: where two logs may still agree. Never below the base.
    pub(crate) fn agreement_hint(&self, index: Index, term: Term) -> Index {
        // Terms never fall along a log.
        let low = self.entries.partition_point(|entry| entry.term <= term) as u64;
        index.min(Index(self.base_index.0 + low)).max(self.base_index)
    }

    /// Whether the entries behind `after` weigh no more than this. False where some of them are compacted.
    pub(crate) fn weighs_at_most(&self, after: Index, bytes_max: usize) -> bool {
        let mut left = Some(bytes_max);
        after >= self.base_index
            && self.range(after, self.last_index()).all(|entry| {
                left = left.and_then(|left| left.checked_sub(entry.weight_bytes()));
                left.is_some()
            })
    }

    /// The restriction on elections (thesis 3.6.1): is a log that ends so at least as long as this one?
    pub(crate) fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "entries are consecutive");
        assert!(entry.term >= self.last_term(), "terms never fall along a log");
        if entry.kind == EntryKind::Configuration {
            let (configuration, _) = Configuration::decode(&entry.payload).expect("checked where it came in");
            self.configurations.push((entry.index, configuration));
        }
        self.entries.push_back(entry);
    }

    /// Cuts `first` and all behind it.
    pub(crate) fn cut(&mut self, first: Index) {
        assert!(first > self.committed.0, "a committed entry is never cut");
        assert!(first > self.base_index, "the base is committed");
        self.entries.truncate((first.0 - self.base_index.0 - 1) as usize);
        self.configurations.retain(|(index, _)| *index < first);
        if first <= self.handed {
            self.cut_from = Some(self.cut_from.map_or(first, |cut| cut.min(first)));
            self.handed = first.previous();
        }
        self.persisted = Persisted(self.persisted.0.min(first.previous()));
    }

    /// Takes what the next `Persist` must carry: where to cut, and the entries behind.
    pub(crate) fn take_unhanded(&mut self) -> (Option<Index>, Vec<Entry>) {
        let entries = self.range(self.handed, self.last_index()).cloned().collect();
        self.handed = self.last_index();
        (self.cut_from.take(), entries)
    }

    pub(crate) fn has_unhanded(&self) -> bool {
        self.cut_from.is_some() || self.handed < self.last_index()
    }

    pub(crate) fn persisted_to(&mut self, index: Index) {
        self.persisted = Persisted(self.persisted.0.max(index.min(self.last_index())));
    }

    /// Moves the commit forward; never back, never past the end.
    pub(crate) fn commit_to(&mut self, index: Index) -> bool {
        assert!(index <= self.last_index(), "commit past the end of the log");
        let is_news = index > self.committed.0;
        self.committed = Committed(self.committed.0.max(index));
        is_news
    }

    /// Entries to apply, each once: committed and persisted, as long as less than `bytes_max` wait to be applied.
    pub(crate) fn take_deliverable(&mut self, bytes_max: usize) -> Vec<Entry> {
        let to = self.committed.0.min(self.persisted.0);
        if self.is_installing || to <= self.delivered {
            return Vec::new();
        }
        let mut bytes = self.unapplied_bytes;
        let fits = |entry: &&Entry| {
            let is_room = bytes < bytes_max;
            bytes = if is_room { bytes.saturating_add(entry.weight_bytes()) } else { bytes };
            is_room
        };
        let entries: Vec<Entry> = self.range(self.delivered, to).take_while(fits).cloned().collect();
        self.unapplied_bytes = bytes;
        if let Some(last) = entries.last() {
            self.delivered = last.index;
        }
        entries
    }

    pub(crate) fn applied_to(&mut self, index: Index) {
        if index <= self.applied.0 {
            return;
        }
        assert!(index <= self.delivered, "applied what was not handed out");
        // Under an image that is being installed the entries are gone, and the count starts afresh behind it.
        if !self.is_installing {
            self.unapplied_bytes -= self.weight_bytes(self.applied.0, index);
        }
        self.applied = Applied(index);
    }

    /// Drops entries up to `index`, which is applied.
    pub(crate) fn compact(&mut self, index: Index) {
        if index <= self.base_index {
            return;
        }
        assert!(index <= self.applied.0, "only what is applied can be compacted");
        let base_term = self.term_at(index).expect("applied and not compacted");
        self.entries.drain(..(index.0 - self.base_index.0) as usize);
        self.base_index = index;
        self.base_term = base_term;
        let in_force = self.configurations.partition_point(|(from, _)| *from <= index) - 1;
        self.configurations.drain(..in_force);
    }

    /// Puts an image in place of the whole log.
    pub(crate) fn restore(&mut self, metadata: &SnapshotMetadata) {
        assert!(metadata.index > self.committed.0, "an image never replaces what is committed");
        self.persisted = Persisted(self.persisted.0.min(self.committed.0));
        self.entries.clear();
        self.base_index = metadata.index;
        self.base_term = metadata.term;
        self.configurations = alloc::vec![(metadata.index, metadata.configuration.clone())];
        self.handed = metadata.index;
        self.cut_from = None;
        self.is_installing = true;
        self.committed = Committed(metadata.index);
    }

    /// The image up to `index` and its batch are durable.
    pub(crate) fn installed(&mut self, index: Index) {
        self.persisted_to(index);
        // A second image may already stand in the place of this one.
        if index < self.base_index {
            return;
        }
        self.is_installing = false;
        self.delivered = index;
        self.applied = Applied(index);
        self.unapplied_bytes = 0;
    }

    pub(crate) fn is_installing(&self) -> bool {
        self.is_installing
    }

    /// The configuration in force: the latest in the log.
    pub(crate) fn configuration(&self) -> &Configuration {
        &self.configurations.last().expect("the base has one").1
    }

    /// The latest that is known to be committed, and all behind it.
    pub(crate) fn open_configurations(&self) -> impl Iterator<Item = &Configuration> {
        let settled = self.configurations.partition_point(|(from, _)| *from <= self.committed.0).max(1) - 1;
        self.configurations[settled..].iter().map(|(_, configuration)| configuration)
    }

    /// The one that it replaces, while that is known.
    pub(crate) fn configuration_before(&self) -> Option<&Configuration> {
        self.configurations.iter().rev().nth(1).map(|(_, configuration)| configuration)
    }

    /// From which entry on it is in force.
    pub(crate) fn configuration_index(&self) -> Index {
        self.configurations.last().expect("the base has one").0
    }

    pub(crate) fn metadata_at(&self, index: Index) -> Option<SnapshotMetadata> {
        let term = self.term_at(index)?;
        let in_force = self.configurations.partition_point(|(from, _)| *from <= index);
        let (_, configuration) = self.configurations.get(in_force.checked_sub(1)?)?;
        Some(SnapshotMetadata { index, term, configuration: configuration.clone() })
    }
}
