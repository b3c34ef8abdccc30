//! Does a process that begins still know what the member's earlier processes have promised?
//!
//! A folder that is put back from a copy holds an older vote and a shorter log. Nothing in the folder says so: what was
//! forgotten is known to those alone to whom it was promised. So each member remembers what the others have promised to it,
//! and a process that begins says to each of them what its disk held ([`Standing`]), before anything of raft.
//!
//! ```text
//!  promise            the message that makes it            what the disk of the same member always holds later
//!  a vote             VoteRequest, granted VoteResponse    that term with that vote, or a later term
//!  entries, in a term AppendAccepted                       that term and those entries, or a later term
//! ```
//!
//! A term never falls. Within a term one leader alone cuts a follower's log, and never below what that follower has
//! acknowledged to it; in a later term the log may well be shorter, and then the copy, if it is one, was made after the
//! promise. A member that has mended itself since (mended.rs) may have given entries up with a leader's leave.
//! Why this is enough, and where it is not: docs/decisions/0012-mending.md.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a member has promised to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Promised {
    /// The process that made the last of these promises: it need not be asked.
    pub process: u64,
    /// How often the member had mended itself by then.
    pub mends: u64,
    /// In which term; 0: nothing was ever promised.
    pub term: u64,
    /// Whom it has voted for in that term, as far as it has told this member.
    pub vote: Option<u64>,
    /// Up to which index it has acknowledged the log, in that term and to this member.
    pub index: u64,
}

/// What the disk of a process held when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How often the member has mended itself.
    pub mends: u64,
    /// The last term.
    pub term: u64,
    /// The vote in it.
    pub vote: Option<u64>,
    /// The last entry.
    pub index: u64,
}

impl Standing {
    /// True if a disk that holds this may be that of the member that has promised `promised`.
    #[must_use]
    pub fn keeps(&self, promised: &Promised) -> bool {
        let has_vote = promised.vote.is_none() || self.vote == promised.vote;
        let has_log = self.mends > promised.mends || self.index >= promised.index;
        self.mends >= promised.mends
            && (self.term > promised.term || (self.term == promised.term && has_vote && has_log))
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Standing { mends, term, vote, index } = self;
        write!(f, "term {term} with ")?;
        match vote {
            Some(vote) => write!(f, "a vote for {vote:x}")?,
            None => f.write_str("no vote")?,
        }
        write!(f, ", log entry {index}")?;
        if *mends > 0 { write!(f, ", mended {mends} times") } else { Ok(()) }
    }
}

/// What a message promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// In which term.
    pub term: u64,
    /// A vote for this member of the cluster.
    pub vote: Option<u64>,
    /// The log up to here; 0: nothing of it.
    pub index: u64,
}

impl Promised {
    /// Takes a promise in. True: it is of a new term, or a vote, and is to be durable here before it counts.
    pub fn note(&mut self, promise: Promise, process: u64, mends: u64) -> bool {
        let Promise { term, vote, index } = promise;
        if term < self.term {
            return false;
        }
        if term > self.term {
            *self = Promised { process, mends, term, vote, index };
            return true;
        }
        let is_vote = vote.is_some() && self.vote != vote;
        // What an earlier mending has given up is not asked for again.
        let before = if mends > self.mends { 0 } else { self.index };
        *self = Promised { process, mends, term, vote: vote.or(self.vote), index: before.max(index) };
        is_vote
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISED: Promised = Promised { process: 7, mends: 2, term: 5, vote: Some(3), index: 40 };

    #[test]
    fn a_disk_that_lacks_what_was_promised_is_another_one() {
        let standing = |mends, term, vote, index| Standing { mends, term, vote, index };
        for (kept, standing) in [
            (true, standing(2, 5, Some(3), 40)),
            (true, standing(2, 5, Some(3), 41)),
            // A later leader may have cut the log, and votes are its own.
            (true, standing(2, 6, None, 12)),
            (true, standing(3, 5, Some(3), 39)),
            (false, standing(3, 5, None, 40)),
            (false, standing(2, 5, Some(3), 39)),
            (false, standing(2, 5, Some(4), 40)),
            (false, standing(2, 5, None, 40)),
            (false, standing(2, 4, Some(3), 99)),
            (false, standing(3, 4, Some(3), 99)),
            (false, standing(1, 9, Some(3), 99)),
        ] {
            assert_eq!(standing.keeps(&PROMISED), kept, "{standing:?}");
        }
        assert!(Standing::default().keeps(&Promised::default()), "who has promised nothing has forgotten nothing");
    }

    #[test]
    fn votes_and_terms_are_news_and_indexes_grow() {
        let mut promised = Promised::default();
        let entries = |term, index| Promise { term, vote: None, index };
        assert!(promised.note(entries(4, 10), 7, 0));
        assert!(!promised.note(entries(4, 12), 7, 0) && !promised.note(entries(4, 11), 7, 0));
        assert_eq!(promised, Promised { process: 7, mends: 0, term: 4, vote: None, index: 12 });
        let vote = Promise { term: 5, vote: Some(2), index: 0 };
        assert!(promised.note(vote, 7, 0) && !promised.note(vote, 7, 0));
        assert!(!promised.note(entries(5, 13), 8, 0) && !promised.note(entries(4, 99), 8, 0));
        assert_eq!(promised, Promised { process: 8, mends: 0, term: 5, vote: Some(2), index: 13 });
        assert!(!promised.note(entries(5, 9), 9, 1));
        assert_eq!(promised, Promised { process: 9, mends: 1, term: 5, vote: Some(2), index: 9 });
    }
}
