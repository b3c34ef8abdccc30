//! Do all members have the same state? Asked all the time, at the same place of the log, without reading a page.
//!
//! ```text
//!  leader      a LeaseClock entry, each second while there is progress, and each minute otherwise
//!  each one    applies it: Sum, from what the roots of the trees add up to ──> Outputs::sums ~~> the leader
//!  leader      as many have told theirs as there are members, or enough time has passed:
//!                all equal                         ──> nothing
//!                more than half of them equal      ──> Outputs::verdicts ~~> everybody: those that differ are named
//!                else                              ──> alarm CORRUPT, as etcd has it: nobody knows who is right
//!  named one   GroupError::Diverged: it serves nothing more, hands leadership over, and fetches the state from others
//! ```
//!
//! A member that differs unseen answers wrongly; one that is named for nothing fetches its state for nothing. So the sums
//! hold only what the log alone decides at that entry: keys and values (by a sum of keyed hashes), leases, members, alarms,
//! revisions, the lease clock. What a sweep has got to is each member's own, and events are compared only where nothing is
//! to be swept. Entries that an image stands for are not compared, nor are those that a leader has told nobody of.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringstone_pager::api::{Aggregate, ReadTrees as _, TreeId};
use ringstone_raft::{NodeId, Role};

use super::{Group, GroupError};
use crate::command::Command;
use crate::lease::state::TREE_SPECS as LEASE_TREES;
use crate::mvcc::record::mixed;
use crate::trees::{ALARM, LIVE, LOG, MEMBER};

/// Least time between two comparisons while entries are applied.
const INTERVAL: Duration = Duration::from_secs(1);
/// And where none are: memory and disks may change what is at rest.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// After so long those that have told nothing are not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Comparisons that wait for the others at a time.
const OPEN_MAX: usize = 8;
/// Own sums that are kept for verdicts.
const OWN_MAX: usize = 16;
/// etcd's AlarmType.
const CORRUPT: i32 = 2;

/// What a member's state adds up to at an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Of the entry.
    pub index: u64,
    /// Of its term.
    pub term: u64,
    /// All that is alive, and what counts revisions and time. Never 0.
    pub state: u64,
    /// The events of the window; 0 where something is still to be swept.
    pub events: u64,
}

/// Bytes of a [`Sum`] between members.
pub const SUM_BYTES: usize = 32;

impl Sum {
    /// Little endian.
    #[must_use]
    pub fn encode(&self) -> [u8; SUM_BYTES] {
        let mut bytes = [0; SUM_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip([self.index, self.term, self.state, self.events]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// None: it is of another length. Whose it is, the connection says.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Sum> {
        let bytes: &[u8; SUM_BYTES] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Some(Sum { index: word(0), term: word(8), state: word(16), events: word(24) })
    }
}

/// A member whose state is not that of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who.
    pub member: NodeId,
    /// What it has told.
    pub told: Sum,
    /// What more than half of the members have told of the same entry.
    pub others: Sum,
}

/// Bytes of a [`Verdict`] between members.
pub const VERDICT_BYTES: usize = 8 + 2 * SUM_BYTES;

impl Verdict {
    /// Little endian.
    #[must_use]
    pub fn encode(&self) -> [u8; VERDICT_BYTES] {
        let mut bytes = [0; VERDICT_BYTES];
        bytes[..8].copy_from_slice(&self.member.0.to_le_bytes());
        bytes[8..8 + SUM_BYTES].copy_from_slice(&self.told.encode());
        bytes[8 + SUM_BYTES..].copy_from_slice(&self.others.encode());
        bytes
    }

    /// None: it is of another length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Verdict> {
        let (member, rest) = bytes.split_first_chunk::<8>()?;
        let (told, others) = rest.split_at_checked(SUM_BYTES)?;
        let member = NodeId(u64::from_le_bytes(*member));
        Some(Verdict { member, told: Sum::decode(told)?, others: Sum::decode(others)? })
    }
}

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Equal,
    /// These differ from more than half of the members.
    Odd(Vec<Verdict>),
    /// There are several values, and none that more than half of the members have.
    Split,
}

/// `of` picks what is compared; those for whom it is 0 have no part in it.
fn compare(told: &BTreeMap<NodeId, Sum>, members: usize, of: impl Fn(&Sum) -> u64) -> Outcome {
    let mut values: BTreeMap<u64, (usize, Sum)> = BTreeMap::new();
    for sum in told.values().filter(|sum| of(sum) != 0) {
        values.entry(of(sum)).or_insert((0, *sum)).0 += 1;
    }
    if values.len() <= 1 {
        return Outcome::Equal;
    }
    let Some((value, (_, others))) = values.iter().find(|(_, (count, _))| *count > members / 2) else {
        return Outcome::Split;
    };
    let odd = told.iter().filter(|(_, sum)| of(sum) != 0 && of(sum) != *value);
    Outcome::Odd(odd.map(|(member, told)| Verdict { member: *member, told: *told, others: *others }).collect())
}

#[derive(Debug)]
struct Open {
    told: BTreeMap<NodeId, Sum>,
    since: Duration,
}

/// What a group knows of its own sums and those of others.
#[derive(Debug, Default)]
pub(super) struct Divergence {
    /// The latest, oldest first.
    own: Vec<Sum>,
    /// On a leader, by index.
    open: BTreeMap<u64, Open>,
    /// When the last entry for it was proposed.
    asked: Duration,
    /// When the last one was applied, and its index.
    noted: (Duration, u64),
}

impl Divergence {
    fn keep_own(&mut self, sum: Sum) {
        if self.own.len() == OWN_MAX {
            self.own.remove(0);
        }
        self.own.push(sum);
    }

    fn tell(&mut self, now: Duration, member: NodeId, sum: Sum) {
        if !self.open.contains_key(&sum.index) {
            while self.open.len() >= OPEN_MAX {
                self.open.pop_first();
            }
        }
        let open = self.open.entry(sum.index).or_insert_with(|| Open { told: BTreeMap::new(), since: now });
        // Another term at the same index: one of the two never was.
        let is_other = open.told.values().any(|known| known.term != sum.term);
        if !is_other {
            open.told.insert(member, sum);
        }
    }

    /// Comparisons that are complete, or have waited for long enough.
    fn take_due(&mut self, now: Duration, members: usize) -> Vec<Open> {
        let is_due = |open: &Open| open.told.len() >= members || now.saturating_sub(open.since) >= PATIENCE;
        let due: Vec<u64> = self.open.iter().filter(|(_, open)| is_due(open)).map(|(index, _)| *index).collect();
        due.iter().filter_map(|index| self.open.remove(index)).collect()
    }
}

impl Group {
    /// An entry by which members compare their states was applied.
    pub(super) fn note_sum(&mut self, index: u64, term: u64) {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let words = |sum: Aggregate| [sum.hash, sum.count, sum.bytes];
        // The sum of a whole tree stands beside its root: no page is read.
        let sum = |tree: TreeId| self.pager.aggregate(tree, all).map(words);
        let state = &self.state;
        let mut parts = Vec::with_capacity(32);
        for tree in [LIVE, MEMBER, ALARM].into_iter().chain(LEASE_TREES.map(|spec| spec.id)) {
            let Ok(words) = sum(tree) else { return };
            parts.extend(words);
        }
        let Ok(log) = sum(LOG) else { return };
        parts.extend([
            index,
            term,
            state.revision.cast_unsigned(),
            state.compact_revision.cast_unsigned(),
            state.logical_bytes,
            state.lease_clock,
            state.cluster_id,
            u64::from(state.alarms),
        ]);
        let events = if self.sweep_pending() { 0 } else { mixed(&state.hash_key, &log).max(1) };
        let sum = Sum { index, term, state: mixed(&state.hash_key, &parts).max(1), events };
        self.divergence.keep_own(sum);
        self.divergence.noted = (self.now, index);
        self.shared.sums.fetch_add(1, Ordering::Relaxed);
        self.outputs.sums.push(sum);
        if self.raft.role().role == Role::Leader {
            self.divergence.tell(self.now, self.raft.id(), sum);
        }
    }

    /// Another member says what its state adds up to.
    pub fn hear_sum(&mut self, now: Duration, from: NodeId, sum: Sum) {
        self.now = now;
        let is_member = self.raft.configuration().members().contains(&from);
        if self.raft.role().role == Role::Leader && is_member {
            self.divergence.tell(now, from, sum);
        }
    }

    /// The leader says that a member differs.
    ///
    /// # Errors
    /// [`GroupError::Diverged`]: it is this one, and it has told what the leader says that it has.
    pub fn hear_verdict(&mut self, verdict: Verdict) -> Result<(), GroupError> {
        let Verdict { member, told, others } = verdict;
        self.shared.diverged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            member = format!("{:x}", member.0),
            index = told.index,
            theirs = format!("{:016x}/{:016x}", told.state, told.events),
            others = format!("{:016x}/{:016x}", others.state, others.events),
            "the state of a member differs from that of most members at the same entry of the log: it serves nothing more, \
             and fetches its state from another member by itself. Have its memory and its disk checked"
        );
        if member != self.raft.id() {
            return Ok(());
        }
        if !self.divergence.own.contains(&told) {
            tracing::error!(
                "this member has told nothing of the kind: the verdict is not of its state, and not followed"
            );
            return Ok(());
        }
        Err(GroupError::Diverged { index: told.index, term: told.term })
    }

    /// A tick's part, on a leader: comparisons that are due, and the next one.
    pub(super) fn drive_divergence(&mut self) {
        if self.raft.role().role != Role::Leader || self.is_sole() || !self.is_ready() {
            self.divergence.open.clear();
            return;
        }
        let members = self.raft.configuration().members().len();
        for open in self.divergence.take_due(self.now, members) {
            self.judge(&open.told, members);
        }
        let Divergence { asked, noted, .. } = &self.divergence;
        let since = self.now.saturating_sub(noted.0.max(*asked));
        let is_moved = self.state.applied_index > noted.1;
        if !self.stopping && ((is_moved && since >= INTERVAL) || since >= IDLE_INTERVAL) {
            self.divergence.asked = self.now;
            self.propose_command(&Command::LeaseClock);
        }
    }

    fn judge(&mut self, told: &BTreeMap<NodeId, Sum>, members: usize) {
        let mut outcome = compare(told, members, |sum| sum.state);
        if outcome == Outcome::Equal {
            outcome = compare(told, members, |sum| sum.events);
        }
        match outcome {
            Outcome::Equal => {}
            Outcome::Odd(verdicts) => self.outputs.verdicts.extend(verdicts),
            Outcome::Split => self.raise_corrupt(told),
        }
    }

    fn raise_corrupt(&mut self, told: &BTreeMap<NodeId, Sum>) {
        let list: Vec<String> = told
            .iter()
            .map(|(member, sum)| format!("{:x}: {:016x}/{:016x}", member.0, sum.state, sum.events))
            .collect();
        tracing::error!(
            index = told.values().next().map_or(0, |sum| sum.index),
            told = list.join(", "),
            "the states of the members differ at the same entry of the log, and none of them is that of most members: alarm \
             CORRUPT stops all writes. Find out which one is right (HashKV, a snapshot), replace the others, and disarm the alarm"
        );
        let has_alarm = self.state.alarms & (1 << CORRUPT) != 0;
        if !has_alarm {
            for member in told.keys() {
                self.propose_command(&Command::Alarm { activate: true, member_id: member.0, alarm: CORRUPT });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(state: u64, events: u64) -> Sum {
        Sum { index: 9, term: 2, state, events }
    }

    fn told(sums: &[(u64, u64, u64)]) -> BTreeMap<NodeId, Sum> {
        sums.iter().map(|(member, state, events)| (NodeId(*member), sum(*state, *events))).collect()
    }

    fn odd(outcome: &Outcome) -> Vec<u64> {
        match outcome {
            Outcome::Odd(verdicts) => verdicts.iter().map(|verdict| verdict.member.0).collect(),
            _ => panic!("nobody is odd: {outcome:?}"),
        }
    }

    #[test]
    fn whoever_differs_from_more_than_half_is_odd_and_without_a_half_nobody_is() {
        let state = |sums: &[(u64, u64, u64)], members| compare(&told(sums), members, |sum| sum.state);
        assert_eq!(state(&[(1, 5, 0), (2, 5, 0), (3, 5, 0)], 3), Outcome::Equal);
        assert_eq!(odd(&state(&[(1, 5, 0), (2, 6, 0), (3, 5, 0)], 3)), [2]);
        assert_eq!(odd(&state(&[(1, 6, 0), (2, 5, 0), (3, 5, 0), (4, 7, 0), (5, 5, 0)], 5)), [1, 4]);
        // Two of three have told: what they differ in has no half of three.
        assert_eq!(state(&[(1, 5, 0), (2, 6, 0)], 3), Outcome::Split);
        assert_eq!(state(&[(1, 5, 0), (2, 6, 0), (3, 7, 0)], 3), Outcome::Split);
        assert_eq!(state(&[(1, 5, 0), (2, 5, 0), (3, 6, 0), (4, 6, 0)], 4), Outcome::Split);
        // More than half of those that have told are not more than half of the members.
        assert_eq!(state(&[(1, 5, 0), (2, 5, 0), (3, 6, 0)], 5), Outcome::Split);
    }

    #[test]
    fn events_of_those_that_still_sweep_are_not_compared() {
        let events = |sums: &[(u64, u64, u64)]| compare(&told(sums), 3, |sum| sum.events);
        assert_eq!(events(&[(1, 5, 8), (2, 5, 0), (3, 5, 8)]), Outcome::Equal);
        assert_eq!(odd(&events(&[(1, 5, 8), (2, 5, 7), (3, 5, 8)])), [2]);
        assert_eq!(events(&[(1, 5, 8), (2, 5, 7), (3, 5, 0)]), Outcome::Split);
    }

    #[test]
    fn a_comparison_ends_when_all_have_told_or_have_been_waited_for() {
        let at = Duration::from_secs;
        let mut divergence = Divergence::default();
        divergence.tell(at(1), NodeId(1), sum(5, 0));
        divergence.tell(at(1), NodeId(2), sum(5, 0));
        // Of an entry that never was.
        divergence.tell(at(1), NodeId(3), Sum { term: 1, ..sum(6, 0) });
        assert!(divergence.take_due(at(2), 3).is_empty());
        divergence.tell(at(2), NodeId(3), sum(5, 0));
        assert_eq!(divergence.take_due(at(2), 3).len(), 1);
        divergence.tell(at(3), NodeId(1), sum(5, 0));
        assert!(divergence.take_due(at(3) + PATIENCE - Duration::from_millis(1), 3).is_empty());
        assert_eq!(divergence.take_due(at(3) + PATIENCE, 3)[0].told.len(), 1);
        for index in 0..100 {
            divergence.tell(at(4), NodeId(1), Sum { index, ..sum(5, 0) });
            divergence.keep_own(Sum { index, ..sum(5, 0) });
        }
        assert_eq!((divergence.open.len(), divergence.own.len()), (OPEN_MAX, OWN_MAX));
        assert_eq!(divergence.own.last().map(|sum| sum.index), Some(99));
    }

    #[test]
    fn sums_and_verdicts_come_back_as_they_were() {
        let verdict = Verdict { member: NodeId(7), told: sum(5, 0), others: sum(6, 1) };
        assert_eq!(Sum::decode(&sum(5, 3).encode()), Some(sum(5, 3)));
        assert_eq!(Verdict::decode(&verdict.encode()), Some(verdict));
        for cut in 0..VERDICT_BYTES {
            assert_eq!(Verdict::decode(&verdict.encode()[..cut]), None);
        }
        assert_eq!((Sum::decode(&[0; 31]), Verdict::decode(&[0; VERDICT_BYTES + 1])), (None, None));
    }
}
