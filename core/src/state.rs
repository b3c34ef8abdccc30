//! The attributes of the root record: what changes in one step with the trees, and is durable with them.

use ringstone_pager::api::ATTRIBUTES_BYTES_MAX;

use crate::entry::KIND_BASE;
use crate::event::Revision;

/// The positions and counters of one group's store. Published with the trees that they describe.
///
/// `cut <= swept <= compact <= revision`: all up to `compact` is compacted as clients see it, up to `swept` the sweep has
/// put beside or freed what had to be, and the log's events below `cut` are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Raft index of the last applied entry.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// The revision that clients see; 1 in a fresh store.
    pub revision: i64,
    /// The last compaction; -1: never.
    pub compact_revision: i64,
    /// How far the sweep has come; -1: never.
    pub swept_revision: i64,
    /// The log holds no event below this; -1: never cut.
    pub cut_revision: i64,
    /// Sum of the record hashes of all keys alive at `swept_revision`.
    pub swept_hash: u64,
    /// The sweep in progress, if there is one.
    pub sweep: Option<Sweep>,
    /// Logical bytes of live records and of the log from the compacted revision on: equal on all members.
    pub logical_bytes: u64,
    /// Bytes of records kept beside and of large values: equal on all members that have swept.
    pub retained_bytes: u64,
    /// The lease clock; its unit is the lease module's.
    pub lease_clock: u64,
    /// Cluster id, 0 before the bootstrap entry.
    pub cluster_id: u64,
    /// Key of the per-record hashes, from the bootstrap entry.
    pub hash_key: [u8; 16],
    /// The hashes of the last compactions, ascending: what HashKV answers for exactly these revisions.
    pub compaction_hashes: Vec<CompactionHash>,
    /// Bit `1 << type` is set while any member has an alarm of that type (etcd's AlarmType).
    pub alarms: u16,
    /// See [`State::kinds`]; 0 where that was never agreed on.
    pub kinds_agreed: u16,
}

/// The revisions that a view can be read at: all that most reads need of a state, so they decode nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// [`State::revision`].
    pub revision: i64,
    /// [`State::compact_revision`].
    pub compact_revision: i64,
    /// [`State::swept_revision`].
    pub swept_revision: i64,
}

/// What a write is let in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// [`State::quota_bytes`].
    pub quota_bytes: u64,
    /// [`State::alarms`].
    pub alarms: u16,
}

// Offsets of attributes, as `to_attributes` writes them; the test ties the two.
const ALARMS_AT: usize = 4;
const REVISION_AT: usize = 24;
const COMPACT_REVISION_AT: usize = 32;
const SWEPT_REVISION_AT: usize = 40;
const LOGICAL_BYTES_AT: usize = 104;
const RETAINED_BYTES_AT: usize = 112;

fn word_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("a published root has the attributes of a whole state"))
}

impl Window {
    /// Of a published root: its attributes were encoded here, or checked when the store was opened.
    ///
    /// # Panics
    /// They are not those of a state.
    #[must_use]
    pub fn of_attributes(bytes: &[u8]) -> Window {
        if bytes.is_empty() {
            return Window::from(&State::default());
        }
        Window {
            revision: word_at(bytes, REVISION_AT).cast_signed(),
            compact_revision: word_at(bytes, COMPACT_REVISION_AT).cast_signed(),
            swept_revision: word_at(bytes, SWEPT_REVISION_AT).cast_signed(),
        }
    }
}

impl From<&State> for Window {
    fn from(state: &State) -> Window {
        let State { revision, compact_revision, swept_revision, .. } = *state;
        Window { revision, compact_revision, swept_revision }
    }
}

impl Admission {
    /// Of a published root, as [`Window::of_attributes`].
    ///
    /// # Panics
    /// Its attributes are not those of a state.
    #[must_use]
    pub fn of_attributes(bytes: &[u8]) -> Admission {
        if bytes.is_empty() {
            return Admission::from(&State::default());
        }
        let alarms = word_at(bytes, ALARMS_AT) as u16;
        let quota_bytes = word_at(bytes, LOGICAL_BYTES_AT).saturating_add(word_at(bytes, RETAINED_BYTES_AT));
        Admission { quota_bytes, alarms }
    }
}

impl From<&State> for Admission {
    fn from(state: &State) -> Admission {
        Admission { quota_bytes: state.quota_bytes(), alarms: state.alarms }
    }
}

/// The hash of the store at a compaction, taken when it was applied (etcd keeps ten of them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionHash {
    /// The revision compacted to.
    pub revision: i64,
    /// The compaction before it, -1 for none.
    pub previous: i64,
    /// HashKV's hash, or [`HASH_PENDING`].
    pub hash: u32,
}

/// A hash that is not known before the sweep has passed the compaction before.
pub const HASH_PENDING: u32 = 0;

/// How many of them are kept.
pub const COMPACTION_HASHES_MAX: usize = 10;

/// A sweep in progress: resumed from here after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The compaction that it cleans up after.
    pub target: i64,
    /// The last revision when it began; later events were kept right as they were written.
    pub until: i64,
    /// What it is doing.
    pub phase: SweepPhase,
    /// The first event that it has not seen in this phase.
    pub cursor: Revision,
    /// The hash of the state at the cursor, while freeing.
    pub hash: u64,
}

/// The parts of a sweep, in their order. Cutting the log needs no cursor: it goes on until nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepPhase {
    /// Puts beside what the window still needs.
    Keep,
    /// Removes tombstones and values that nothing needs.
    Free,
    /// Removes records beside events that left the window.
    Drop,
}

impl Default for State {
    fn default() -> State {
        State {
            applied_index: 0,
            applied_term: 0,
            revision: 1,
            compact_revision: -1,
            swept_revision: -1,
            cut_revision: -1,
            swept_hash: 0,
            sweep: None,
            logical_bytes: 0,
            retained_bytes: 0,
            lease_clock: 0,
            cluster_id: 0,
            hash_key: [0; 16],
            compaction_hashes: Vec::new(),
            alarms: 0,
            kinds_agreed: 0,
        }
    }
}

/// The attributes are not those of a state that this version knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Written by another version.
    #[error("the root record's attributes have format {0}, this version knows {STATE_FORMAT}")]
    Format(u16),
    /// Cut short, or a field that makes no sense.
    #[error("the root record's attributes are damaged: {0}")]
    Damaged(&'static str),
}

/// Format of [`State::to_attributes`].
pub const STATE_FORMAT: u16 = 1;
/// Its length in bytes.
pub const STATE_BYTES: usize = 2 + 2 + 4 + 8 * 16 + 16 + COMPACTION_HASHES_MAX * 20;
const _: () = assert!(STATE_BYTES <= ATTRIBUTES_BYTES_MAX, "the state fits a root record");

impl State {
    /// What the quota is held against, in bytes.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        self.logical_bytes.saturating_add(self.retained_bytes)
    }

    /// The newest kind of entries that may be proposed: all members were known to apply it.
    #[must_use]
    pub fn kinds(&self) -> u16 {
        self.kinds_agreed.max(KIND_BASE)
    }

    /// The attributes of the root record (docs/format-store.md); little endian.
    #[must_use]
    pub fn to_attributes(&self) -> [u8; STATE_BYTES] {
        let sweep = self.sweep.unwrap_or(Sweep {
            target: 0,
            until: 0,
            phase: SweepPhase::Keep,
            cursor: Revision::default(),
            hash: 0,
        });
        let phase: u8 = match self.sweep.map(|sweep| sweep.phase) {
            None => 0,
            Some(SweepPhase::Keep) => 1,
            Some(SweepPhase::Free) => 2,
            Some(SweepPhase::Drop) => 3,
        };
        let mut out = Out { bytes: [0; STATE_BYTES], at: 0 };
        out.put(&STATE_FORMAT.to_le_bytes());
        let hashes = u8::try_from(self.compaction_hashes.len()).expect("ten at most");
        out.put(&[phase, hashes]);
        out.put(&self.alarms.to_le_bytes());
        out.put(&self.kinds_agreed.to_le_bytes());
        let positions = [self.revision, self.compact_revision, self.swept_revision, self.cut_revision];
        out.put(&self.applied_index.to_le_bytes());
        out.put(&self.applied_term.to_le_bytes());
        positions.iter().for_each(|position| out.put(&position.to_le_bytes()));
        out.put(&self.swept_hash.to_le_bytes());
        let sweep_positions = [sweep.target, sweep.until, sweep.cursor.main, sweep.cursor.sub];
        sweep_positions.iter().for_each(|position| out.put(&position.to_le_bytes()));
        out.put(&sweep.hash.to_le_bytes());
        out.put(&self.logical_bytes.to_le_bytes());
        out.put(&self.retained_bytes.to_le_bytes());
        out.put(&self.lease_clock.to_le_bytes());
        out.put(&self.cluster_id.to_le_bytes());
        out.put(&self.hash_key);
        for kept in &self.compaction_hashes {
            out.put(&kept.revision.to_le_bytes());
            out.put(&kept.previous.to_le_bytes());
            out.put(&kept.hash.to_le_bytes());
        }
        out.at += (COMPACTION_HASHES_MAX - self.compaction_hashes.len()) * 20;
        debug_assert_eq!(out.at, STATE_BYTES, "all fields are written");
        out.bytes
    }

    /// Reads what [`State::to_attributes`] wrote. No attributes at all are a fresh store.
    ///
    /// # Errors
    /// Another format, or bytes that are no state.
    pub fn from_attributes(bytes: &[u8]) -> Result<State, StateError> {
        if bytes.is_empty() {
            return Ok(State::default());
        }
        let mut input = In { bytes };
        let format = u16::from_le_bytes(input.take()?);
        if format != STATE_FORMAT {
            return Err(StateError::Format(format));
        }
        let [phase, hashes] = input.take()?;
        let alarms = u16::from_le_bytes(input.take()?);
        let kinds_agreed = u16::from_le_bytes(input.take()?);
        let (applied_index, applied_term) = (input.u64()?, input.u64()?);
        let (revision, compact_revision) = (input.i64()?, input.i64()?);
        let (swept_revision, cut_revision) = (input.i64()?, input.i64()?);
        let swept_hash = input.u64()?;
        let (target, until) = (input.i64()?, input.i64()?);
        let cursor = Revision { main: input.i64()?, sub: input.i64()? };
        let hash = input.u64()?;
        let phase = match phase {
            0 => None,
            1 => Some(SweepPhase::Keep),
            2 => Some(SweepPhase::Free),
            3 => Some(SweepPhase::Drop),
            _ => return Err(StateError::Damaged("unknown phase of the sweep")),
        };
        let (logical_bytes, retained_bytes) = (input.u64()?, input.u64()?);
        let (lease_clock, cluster_id, hash_key) = (input.u64()?, input.u64()?, input.take()?);
        let compaction_hashes = input.compaction_hashes(usize::from(hashes))?;
        let state = State {
            applied_index,
            applied_term,
            revision,
            compact_revision,
            swept_revision,
            cut_revision,
            swept_hash,
            sweep: phase.map(|phase| Sweep { target, until, phase, cursor, hash }),
            logical_bytes,
            retained_bytes,
            lease_clock,
            cluster_id,
            hash_key,
            compaction_hashes,
            alarms,
            kinds_agreed,
        };
        let ordered = state.cut_revision <= state.swept_revision
            && state.swept_revision <= state.compact_revision
            && state.compact_revision <= state.revision;
        if ordered { Ok(state) } else { Err(StateError::Damaged("its revisions are out of order")) }
    }
}

struct Out {
    bytes: [u8; STATE_BYTES],
    at: usize,
}

impl Out {
    fn put(&mut self, part: &[u8]) {
        self.bytes[self.at..self.at + part.len()].copy_from_slice(part);
        self.at += part.len();
    }
}

struct In<'a> {
    bytes: &'a [u8],
}

impl In<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(StateError::Damaged("cut short"))?;
        self.bytes = rest;
        Ok(*head)
    }

    fn compaction_hashes(&mut self, count: usize) -> Result<Vec<CompactionHash>, StateError> {
        if count > COMPACTION_HASHES_MAX {
            return Err(StateError::Damaged("more compaction hashes than are kept"));
        }
        let mut hashes = Vec::with_capacity(COMPACTION_HASHES_MAX);
        for _ in 0..count {
            let (revision, previous) = (self.i64()?, self.i64()?);
            hashes.push(CompactionHash { revision, previous, hash: u32::from_le_bytes(self.take()?) });
        }
        // The places that are not used yet.
        for _ in count..COMPACTION_HASHES_MAX {
            self.take::<20>()?;
        }
        Ok(hashes)
    }

    fn u64(&mut self) -> Result<u64, StateError> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, StateError> {
        self.take().map(i64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_and_refuses_what_it_is_not() {
        let state = State {
            applied_index: 7,
            revision: 40,
            compact_revision: 30,
            swept_revision: 20,
            cut_revision: 10,
            sweep: Some(Sweep {
                target: 30,
                until: 35,
                phase: SweepPhase::Free,
                cursor: Revision { main: 22, sub: 3 },
                hash: 99,
            }),
            hash_key: [9; 16],
            compaction_hashes: vec![CompactionHash { revision: 30, previous: -1, hash: 5 }],
            alarms: 2,
            kinds_agreed: 0x1234,
            logical_bytes: 1 << 40,
            retained_bytes: 5,
            ..State::default()
        };
        let bytes = state.to_attributes();
        assert_eq!(Window::of_attributes(&bytes), Window::from(&state));
        assert_eq!(Admission::of_attributes(&bytes), Admission { quota_bytes: (1 << 40) + 5, alarms: 2 });
        assert_eq!(Window::of_attributes(&[]), Window::from(&State::default()));
        assert_eq!(State::from_attributes(&bytes), Ok(state));
        // The offsets of docs/format-store.md.
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
        assert_eq!((bytes[0], bytes[2], bytes[3], bytes[4], bytes[136], bytes.len()), (1, 2, 1, 2, 9, 352));
        assert_eq!(bytes[6..8], [0x34, 0x12]);
        assert_eq!([8, 24, 32, 40, 48, 64, 72, 80, 88, 96, 152].map(word), [7, 40, 30, 20, 10, 30, 35, 22, 3, 99, 30]);
        assert_eq!(State::from_attributes(&[]), Ok(State::default()));
        for cut in 1..bytes.len() {
            assert!(State::from_attributes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(State::from_attributes(&[2; STATE_BYTES]), Err(StateError::Format(0x0202)));
    }
}
