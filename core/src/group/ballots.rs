//! Term and vote go to a file of their own, too (identity/ballot.rs): what the log's batch promises leaves once both are
//! synced. The two writes are on their way at the same time, and there is one a change of term.

use std::collections::VecDeque;

use ringstone_raft::HardState;

use super::Group;
use crate::identity::ballot::Ballot;

/// The ballots of a group. Kept only where a driver has said that it writes them.
#[derive(Debug, Default)]
pub(super) struct Ballots {
    /// Count of the last one that was made; none: nobody keeps them.
    last: Option<u64>,
    /// Count of the last one that is synced.
    kept: u64,
    waiting: VecDeque<Ballot>,
    is_under_way: bool,
}

impl Ballots {
    /// The ballot that a batch with this hard state has to wait for; 0: none.
    pub(super) fn add(&mut self, state: HardState) -> u64 {
        let Some(last) = &mut self.last else { return 0 };
        *last += 1;
        self.waiting.push_back(Ballot { count: *last, state });
        *last
    }

    pub(super) fn is_kept(&self, count: u64) -> bool {
        count <= self.kept
    }
}

impl Group {
    /// From now on ballots are made, and what they promise waits for [`Group::ballot_kept`]. `count` is that of the last one
    /// in the file, which says what the group was opened with.
    pub fn keep_ballots(&mut self, count: u64) {
        self.ballots = Ballots { last: Some(count), kept: count, ..Ballots::default() };
    }

    /// The next ballot to be written to its slot and synced, one at a time.
    pub fn poll_ballot(&mut self) -> Option<Ballot> {
        if self.ballots.is_under_way {
            return None;
        }
        let ballot = self.ballots.waiting.pop_front()?;
        self.ballots.is_under_way = true;
        Some(ballot)
    }

    /// That ballot is synced. Call [`Group::turn`] after it.
    pub fn ballot_kept(&mut self, count: u64) {
        self.ballots.is_under_way = false;
        self.ballots.kept = count;
        self.release_synced();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballot_is_waited_for_only_where_somebody_keeps_it() {
        let mut ballots = Ballots::default();
        assert!(ballots.add(HardState::default()) == 0 && ballots.is_kept(0));
        let mut ballots = Ballots { last: Some(6), kept: 6, ..Ballots::default() };
        assert_eq!(ballots.add(HardState::default()), 7);
        assert!(!ballots.is_kept(7) && ballots.is_kept(0));
        assert_eq!(ballots.waiting.front().map(|ballot| ballot.count), Some(7));
    }
}
