//! Requests of this member's shards that are on their way where there are other members: in the log, or with the leader.
//!
//! What has become of one is not known until it is answered, or refused. Whoever leads is asked again where that does no
//! harm (asks.rs); else its caller is told that the outcome is unknown.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::AHashMap;

use super::NOBODY;
use super::asks::{Call, Whom};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    by_age: VecDeque<Begun>,
    waiting: AHashMap<Whom, Held>,
}

#[derive(Debug)]
struct Begun {
    at: Duration,
    term: u64,
    attempt: u8,
    whom: Whom,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Held {
    /// As the entry's envelope has it: one that was not taken is followed by another.
    pub(super) attempt: u8,
    pub(super) again: Option<Again>,
}

/// What it takes to ask once more.
#[derive(Debug)]
pub(super) struct Again {
    /// When its caller began to wait.
    pub(super) since: Duration,
    pub(super) call: Call,
}

/// Those that wait no longer.
#[derive(Debug, Default)]
pub(super) struct Expired {
    /// Their leader is one of the past, and nobody knows what has come of them: their callers are told.
    pub(super) unled: Vec<Whom>,
    /// Their leader is one of the past, and the next one may be asked.
    pub(super) again: Vec<(Whom, Held)>,
    /// So many proposals waited for so long that their shards have told their callers.
    pub(super) late: u64,
}

impl Held {
    fn may_be_repeated(&self) -> bool {
        self.again.as_ref().is_some_and(|again| again.call.may_be_repeated())
    }
}

impl InFlight {
    /// `whom` has the request's own id.
    pub(super) fn begin(&mut self, at: Duration, term: u64, whom: Whom, attempt: u8, again: Option<Again>) {
        if whom.0 == NOBODY || self.waiting.contains_key(&whom) {
            return;
        }
        self.waiting.insert(whom, Held { attempt, again });
        self.by_age.push_back(Begun { at, term, attempt, whom });
    }

    /// True if it waited.
    pub(super) fn end(&mut self, whom: Whom) -> bool {
        !self.waiting.is_empty() && self.take(whom).is_some()
    }

    /// It waits no longer.
    pub(super) fn take(&mut self, whom: Whom) -> Option<Held> {
        let held = self.waiting.remove(&whom)?;
        while self.by_age.front().is_some_and(|begun| !self.is_current(begun)) {
            self.by_age.pop_front();
        }
        Some(held)
    }

    /// This attempt was not taken. None: it is not the one that is under way, whatever says so comes late.
    pub(super) fn refuse(&mut self, whom: Whom, attempt: u8) -> Option<Held> {
        self.waiting.get(&whom).filter(|held| held.attempt == attempt)?;
        self.take(whom)
    }

    /// Those that began before `limit`, or in a term before `applied_term`, and still wait.
    pub(super) fn expire(&mut self, limit: Duration, applied_term: u64) -> Expired {
        let mut expired = Expired::default();
        // Neither terms nor times fall, so the oldest come first in both ways.
        while let Some(begun) = self.by_age.front() {
            let (is_late, is_unled) = (begun.at < limit, begun.term < applied_term);
            if !is_late && !is_unled {
                break;
            }
            let (is_current, whom) = (self.is_current(begun), begun.whom);
            self.by_age.pop_front();
            let Some(held) = is_current.then(|| self.waiting.remove(&whom)).flatten() else { continue };
            if is_late {
                expired.late += u64::from(held.again.is_none_or(|again| again.call.is_proposal()));
            } else if held.may_be_repeated() {
                expired.again.push((whom, held));
            } else {
                expired.unled.push(whom);
            }
        }
        expired
    }

    /// All that may be asked again, the oldest first.
    pub(super) fn take_repeatable(&mut self) -> Vec<(Whom, Held)> {
        let mut taken = Vec::new();
        for begun in std::mem::take(&mut self.by_age) {
            match self.waiting.get(&begun.whom).filter(|held| held.attempt == begun.attempt) {
                Some(held) if held.may_be_repeated() => {
                    taken.extend(self.waiting.remove(&begun.whom).map(|held| (begun.whom, held)));
                }
                Some(_) => self.by_age.push_back(begun),
                None => {}
            }
        }
        taken
    }

    /// False: it was answered, or another attempt is under way.
    fn is_current(&self, begun: &Begun) -> bool {
        self.waiting.get(&begun.whom).is_some_and(|held| held.attempt == begun.attempt)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::request_and_attempt;
    use crate::group::{Ask, MemberChange};

    impl InFlight {
        /// Who is told that the outcome is unknown, and how many are late.
        fn expired(&mut self, limit: Duration, applied_term: u64) -> (Vec<Whom>, u64) {
            let expired = self.expire(limit, applied_term);
            assert!(expired.again.is_empty());
            (expired.unled, expired.late)
        }
    }

    fn again(call: Call) -> Option<Again> {
        Some(Again { since: Duration::ZERO, call })
    }

    #[test]
    fn who_waits_too_long_is_forgotten_once() {
        let at = Duration::from_secs;
        let mut in_flight = InFlight::default();
        in_flight.begin(at(1), 1, (0, 7), 0, None);
        in_flight.begin(at(2), 1, (0, 8), 0, None);
        in_flight.begin(at(3), 1, (0, 10), 0, again(Call::Ask(Ask::KeepAlive(5))));
        in_flight.begin(at(9), 2, (0, 9), 0, None);
        in_flight.begin(at(9), 2, (NOBODY, 0), 0, None);
        assert!(in_flight.end((0, 8)) && !in_flight.end((0, 8)));
        assert_eq!(in_flight.expired(at(5), 1), (vec![], 1), "a keep-alive is no proposal");
        assert_eq!(in_flight.expired(at(9), 2), (vec![], 0));
        assert_eq!(in_flight.expired(at(10), 2), (vec![], 1));
        assert!(in_flight.waiting.is_empty() && in_flight.by_age.is_empty());
    }

    #[test]
    fn who_waits_for_a_leader_of_the_past_is_told_at_once() {
        let mut in_flight = InFlight::default();
        in_flight.begin(Duration::ZERO, 4, (0, 7), 0, None);
        in_flight.begin(Duration::ZERO, 5, (0, 8), 0, None);
        assert_eq!(in_flight.expired(Duration::ZERO, 4), (vec![], 0));
        assert_eq!(in_flight.expired(Duration::ZERO, 5), (vec![(0, 7)], 0));
        // An attempt that was not taken says nothing of the one after it.
        in_flight.begin(Duration::ZERO, 5, (0, 9), 0, None);
        assert!(in_flight.end((0, 9)));
        in_flight.begin(Duration::ZERO, 6, (0, 9), 1, None);
        assert_eq!(in_flight.expired(Duration::ZERO, 6), (vec![(0, 8)], 0));
        assert_eq!(in_flight.expired(Duration::ZERO, 7), (vec![(0, 9)], 0));
    }

    /// A change of the members may have come about; a keep-alive does no harm twice.
    #[test]
    fn what_may_be_repeated_is_not_told_to_be_unknown() {
        let mut in_flight = InFlight::default();
        let mut begin = |id, term, ask| in_flight.begin(Duration::ZERO, term, (0, id), 0, again(Call::Ask(ask)));
        begin(1, 4, Ask::KeepAlive(5));
        begin(2, 4, Ask::Change(MemberChange::Remove(9)));
        begin(3, 5, Ask::LeaseClock);
        begin(4, 5, Ask::Change(MemberChange::Remove(9)));
        let Expired { unled, again, late } = in_flight.expire(Duration::ZERO, 5);
        assert_eq!((unled, again.len(), again[0].0, late), (vec![(0, 2)], 1, (0, 1), 0));
        let taken: Vec<Whom> = in_flight.take_repeatable().into_iter().map(|(whom, _)| whom).collect();
        assert_eq!(taken, [(0, 3)]);
        assert_eq!(in_flight.expired(Duration::ZERO, 6), (vec![(0, 4)], 0));
    }

    /// The refusal of the first attempt came twice; the second one was taken for that of the next attempt, which the log had by
    /// then, and a third one was made: the put came about twice (simulator's seed 41764).
    #[test]
    fn a_refusal_counts_for_its_own_attempt() {
        let mut in_flight = InFlight::default();
        let held = || again(Call::Proposal(Bytes::new()));
        in_flight.begin(Duration::ZERO, 1, (0, 7), 0, held());
        assert!(in_flight.refuse((0, 7), 0).is_some());
        in_flight.begin(Duration::ZERO, 1, (0, 7), 1, held());
        assert!(in_flight.refuse((0, 7), 0).is_none());
        assert!(in_flight.end((0, 7)), "it is still waited for");
        assert!(in_flight.refuse((0, 7), 1).is_none());
        assert_eq!(request_and_attempt(7 | (3 << 56)), (7, 3));
    }
}
