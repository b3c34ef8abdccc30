//! What must outlive the segments that it was written to.
//!
//! The last hard state, checkpoint and configuration of each group, and the position of its last entry (a configuration is
//! one), are copied to the start of each new segment; a configuration that a truncation has dropped is not. So a segment may be released however old they are, and a log without its first
//! segments still says where it begins. Kept twice: as of the last sealed batch (that is what a start may hold: it
//! stands before the batch being filled) and what the batch being filled will change.

use crate::record::{Kind, Record};

/// Most groups in one log. Bounds the size of a segment's start.
pub const GROUPS_MAX: usize = 64;

#[derive(Default)]
struct Carried {
    term: u64,
    index: u64,
    payload: Vec<u8>,
    present: bool,
    /// A truncation dropped it; the one before it is not known any more.
    dropped: bool,
}

impl Carried {
    fn set(&mut self, record: &Record<'_>) {
        (self.term, self.index, self.present, self.dropped) = (record.term, record.index, true, false);
        self.payload.clear();
        self.payload.extend_from_slice(record.payload);
    }
}

#[derive(Default)]
struct Slot {
    sealed: Carried,
    filling: Carried,
}

impl Slot {
    fn seal(&mut self) {
        if self.filling.present {
            core::mem::swap(&mut self.sealed, &mut self.filling);
            self.filling.present = false;
        }
    }

    fn latest(&self) -> &Carried {
        if self.filling.present { &self.filling } else { &self.sealed }
    }
}

struct Group {
    group: u32,
    slots: [Slot; SLOTS.len()],
}

const SLOTS: [Kind; 4] = [Kind::Position, Kind::HardState, Kind::Config, Kind::Checkpoint];

fn slot_of(kind: Kind) -> usize {
    SLOTS.iter().position(|&slot| slot == kind).expect("only kinds with a slot are carried")
}

/// The carried records of all groups.
#[derive(Default)]
pub struct Carry {
    groups: Vec<Group>,
    dirty: bool,
}

impl Carry {
    /// Whether a record of this group can be taken.
    #[must_use]
    pub fn has_room_for(&self, group: u32) -> bool {
        self.groups.len() < GROUPS_MAX || self.groups.iter().any(|known| known.group == group)
    }

    /// Notes a record of the batch being filled.
    pub fn note(&mut self, record: &Record<'_>) {
        let slots = self.slots(record.group);
        match record.kind {
            Kind::Entry | Kind::Config | Kind::Position => {
                slots[slot_of(Kind::Position)].filling.set(&Record { payload: &[], ..*record });
                if record.kind == Kind::Config {
                    slots[slot_of(Kind::Config)].filling.set(record);
                }
            }
            Kind::Truncate => {
                let slot = &mut slots[slot_of(Kind::Config)];
                if slot.latest().present && slot.latest().index >= record.index {
                    (slot.filling.present, slot.filling.dropped) = (true, true);
                }
                let slot = &mut slots[slot_of(Kind::Position)];
                let (last, present) = (slot.latest().index, slot.latest().present);
                if present && last >= record.index {
                    // The term of what is now the last entry is not known here: 0.
                    let before = Record {
                        kind: Kind::Position,
                        term: 0,
                        index: record.index.saturating_sub(1),
                        payload: &[],
                        ..*record
                    };
                    slot.filling.set(&before);
                }
            }
            kind => slots[slot_of(kind)].filling.set(record),
        }
        self.dirty = true;
    }

    /// The batch being filled was sealed: what it changed counts from now on.
    pub fn seal(&mut self) {
        if core::mem::take(&mut self.dirty) {
            self.groups.iter_mut().flat_map(|group| &mut group.slots).for_each(Slot::seal);
        }
    }

    /// The records that a segment's start holds now.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.groups.iter().flat_map(|group| {
            let stands = |(slot, _): &(&Slot, Kind)| slot.sealed.present && !slot.sealed.dropped;
            group.slots.iter().zip(SLOTS).filter(stands).map(|(slot, kind)| Record {
                group: group.group,
                kind,
                term: slot.sealed.term,
                index: slot.sealed.index,
                payload: &slot.sealed.payload,
            })
        })
    }

    /// Bytes that [`Carry::records`] would take if each slot held the longer of its two values.
    #[must_use]
    pub fn encoded_bytes_max(&self) -> usize {
        let longest = |slot: &Slot| {
            let bytes = |carried: &Carried| if carried.present { carried.payload.len() } else { 0 };
            bytes(&slot.sealed).max(bytes(&slot.filling)) + crate::format::RecordLayout::BYTES
        };
        self.groups.iter().flat_map(|group| &group.slots).map(longest).sum()
    }

    fn slots(&mut self, group: u32) -> &mut [Slot; SLOTS.len()] {
        let at = self.groups.iter().position(|known| known.group == group).unwrap_or_else(|| {
            self.groups.push(Group { group, slots: Default::default() });
            self.groups.len() - 1
        });
        &mut self.groups[at].slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, index: u64, payload: &[u8]) -> Record<'_> {
        Record { group: 1, kind, term: 2, index, payload }
    }

    #[test]
    fn a_start_sees_what_was_sealed_and_nothing_of_the_batch_being_filled() {
        let mut carry = Carry::default();
        carry.note(&record(Kind::HardState, 0, b"one"));
        carry.note(&record(Kind::Entry, 5, b"big"));
        assert_eq!(carry.records().count(), 0);
        carry.seal();
        carry.note(&record(Kind::HardState, 0, b"two"));
        let kinds: Vec<_> = carry.records().map(|r| (r.kind, r.index, r.payload.to_vec())).collect();
        assert_eq!(kinds, [(Kind::Position, 5, vec![]), (Kind::HardState, 0, b"one".to_vec())]);
        carry.seal();
        assert!(carry.records().any(|r| r.payload == b"two"));
    }

    #[test]
    fn truncation_takes_the_position_back() {
        let mut carry = Carry::default();
        carry.note(&record(Kind::Entry, 9, b""));
        carry.note(&record(Kind::Truncate, 4, b""));
        carry.seal();
        assert_eq!(carry.records().next().expect("a position").index, 3);
        carry.note(&record(Kind::Truncate, 8, b""));
        carry.seal();
        assert_eq!(carry.records().next().expect("a position").index, 3);
    }

    #[test]
    fn a_configuration_is_an_entry_and_goes_with_a_truncation() {
        let carried = |carry: &Carry| carry.records().map(|r| (r.kind, r.index)).collect::<Vec<_>>();
        let mut carry = Carry::default();
        carry.note(&record(Kind::Entry, 4, b""));
        carry.note(&record(Kind::Config, 5, b"three"));
        carry.seal();
        assert_eq!(carried(&carry), [(Kind::Position, 5), (Kind::Config, 5)]);
        carry.note(&record(Kind::Truncate, 6, b""));
        carry.seal();
        assert_eq!(carried(&carry), [(Kind::Position, 5), (Kind::Config, 5)], "it stands before what was cut");
        carry.note(&record(Kind::Truncate, 5, b""));
        assert_eq!(carried(&carry), [(Kind::Position, 5), (Kind::Config, 5)], "the batch is not sealed");
        carry.seal();
        assert_eq!(carried(&carry), [(Kind::Position, 4)]);
        carry.note(&record(Kind::Config, 5, b"four"));
        carry.note(&record(Kind::Truncate, 5, b""));
        carry.note(&record(Kind::Config, 5, b"five"));
        carry.seal();
        assert_eq!(carried(&carry), [(Kind::Position, 5), (Kind::Config, 5)]);
    }
}
