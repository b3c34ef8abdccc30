//! Which reads wait for which proof of leadership?
//!
//! A read is linearizable at commit index `c` if its member led at some moment after the read came in, with `c` its
//! commit then, and had committed an entry of its own term (before that its commit may be behind). The proof is a round:
//! a number that goes out with heartbeats and comes back from a quorum. Rounds are numbered within a term, and a term has
//! one leader once, so an answer from another leadership can never be taken for one to this. A question of another member
//! is such a confirmation itself: it left, in the leader's term, after the read came in; a later leader that had agreed on
//! anything before that would have had the vote of the asker, or of the leader, or of one more where those two are no quorum. Contexts only ever grow,
//! and carry the incarnation of the asking process, so an answer cannot be taken for one to a later question.

use crate::{Index, NodeId};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Reads that wait, local and remote, beyond which they are refused.
pub(crate) const READS_MAX: usize = 4096;

/// Rounds on their way; more reads wait for the next one.
pub(crate) const ROUNDS_MAX: usize = 8;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Local { context: u64 },
    Remote { from: NodeId, incarnation: u64, context: u64 },
}

#[derive(Debug)]
struct Round {
    number: u64,
    index: Index,
    readers: Vec<Reader>,
}

/// A read that was passed on to the leader.
#[derive(Debug)]
struct Forwarded {
    context: u64,
    age_ticks: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The last round that was started in this term of leadership.
    round: u64,
    queued: Vec<Reader>,
    rounds: VecDeque<Round>,
    forwarded: Vec<Forwarded>,
    context_max: Option<u64>,
}

impl Reads {
    /// False where the context is not larger than all before it.
    pub(crate) fn claim_context(&mut self, context: u64) -> bool {
        let is_new = self.context_max.is_none_or(|max| context > max);
        if is_new {
            self.context_max = Some(context);
        }
        is_new
    }

    pub(crate) fn is_full(&self) -> bool {
        let in_rounds: usize = self.rounds.iter().map(|round| round.readers.len()).sum();
        self.queued.len() + in_rounds + self.forwarded.len() >= READS_MAX
    }

    pub(crate) fn queue(&mut self, reader: Reader) {
        self.queued.push(reader);
    }

    pub(crate) fn forward(&mut self, context: u64) {
        self.forwarded.push(Forwarded { context, age_ticks: 0 });
    }

    /// Whether the answer is to a question that still waits.
    pub(crate) fn take_forwarded(&mut self, context: u64) -> bool {
        let position = self.forwarded.iter().position(|read| read.context == context);
        position.map(|position| self.forwarded.swap_remove(position)).is_some()
    }

    /// Ages forwarded reads and gives those up that are `age_ticks_max` old.
    pub(crate) fn tick(&mut self, age_ticks_max: u32, aborted: &mut Vec<u64>) {
        self.forwarded.retain_mut(|read| {
            read.age_ticks += 1;
            let is_old = read.age_ticks >= age_ticks_max;
            if is_old {
                aborted.push(read.context);
            }
            !is_old
        });
    }

    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// A round that nobody reads by, whose confirmation only proves leadership.
    pub(crate) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Starts a round for all that wait, at the commit `index`. Returns whether heartbeats must go out.
    pub(crate) fn maybe_start_round(&mut self, index: Index) -> bool {
        if self.queued.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return false;
        }
        self.round += 1;
        let readers = core::mem::take(&mut self.queued);
        self.rounds.push_back(Round { number: self.round, index, readers });
        true
    }

    pub(crate) fn has_rounds(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// A quorum confirmed all rounds up to `number`.
    pub(crate) fn confirmed(&mut self, number: u64, mut answer: impl FnMut(Reader, Index)) {
        while self.rounds.front().is_some_and(|round| round.number <= number) {
            let round = self.rounds.pop_front().expect("looked at above");
            round.readers.into_iter().for_each(|reader| answer(reader, round.index));
        }
    }

    /// Leadership began, ended or moved: whatever waits is given up.
    pub(crate) fn reset(&mut self, aborted: &mut Vec<u64>) {
        let in_rounds = self.rounds.drain(..).flat_map(|round| round.readers);
        for reader in self.queued.drain(..).chain(in_rounds) {
            if let Reader::Local { context } = reader {
                aborted.push(context);
            }
        }
        aborted.extend(self.forwarded.drain(..).map(|read| read.context));
        self.round = 0;
    }
}
