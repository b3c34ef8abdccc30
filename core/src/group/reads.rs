//! Linearizable reads: up to where must this member have applied?
//!
//! One question is on its way at a time; whoever comes meanwhile waits for the next one. A question that a quorum has
//! confirmed also proves leadership, at the time at which it was asked: that is what the lease clock runs on.

use std::time::Duration;

use ringstone_raft::{Index, ProposeError, ReadState, Role};

use super::Group;
use crate::error::Error;

/// What came of [`Group::read_index`].
#[derive(Debug)]
pub struct ReadReady {
    /// The shard that asked.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
    /// The published state is new enough, or why nobody knows: [`Error::NoLeader`], [`Error::LeaderChanged`].
    pub outcome: Result<(), Error>,
}

#[derive(Debug)]
struct Asked {
    context: u64,
    at: Duration,
    who: Vec<(u32, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    next_context: u64,
    waiting: Vec<(u32, u64)>,
    asked: Option<Asked>,
    /// Answered once so much is applied.
    behind: Vec<(Index, Vec<(u32, u64)>)>,
    /// A leader is to prove itself, whether anybody reads or not.
    wants_proof: bool,
}

impl Group {
    /// A shard reads: answered in one of the next [`Group::take_outputs`], once what is published is at least what was
    /// committed when this was called.
    pub fn read_index(&mut self, now: Duration, shard: u32, request_id: u64) {
        self.now = now;
        if self.refuses() {
            return self.tell_readers(&[(shard, request_id)], &Err(Error::Timeout));
        }
        self.reads.waiting.push((shard, request_id));
    }

    /// A leader's tick.
    pub(super) fn prove_leadership(&mut self) {
        self.reads.wants_proof = true;
    }

    pub(super) fn ask_read_index(&mut self) {
        let reads = &mut self.reads;
        if reads.asked.is_some() || (reads.waiting.is_empty() && !reads.wants_proof) {
            return;
        }
        reads.next_context += 1;
        let (context, who) = (reads.next_context, core::mem::take(&mut reads.waiting));
        reads.wants_proof = false;
        match self.raft.read_index(context) {
            Ok(()) => reads.asked = Some(Asked { context, at: self.now, who }),
            Err(error) => {
                let error = match error {
                    ProposeError::NotLeader { .. } => Error::NoLeader,
                    _ => Error::TooManyRequests,
                };
                self.tell_readers(&who, &Err(error));
            }
        }
    }

    pub(super) fn read_confirmed(&mut self, read: ReadState) {
        let Some(asked) = self.reads.asked.take_if(|asked| asked.context == read.context) else { return };
        if self.raft.role().role == Role::Leader {
            self.lessor.proven(asked.at);
        }
        if !asked.who.is_empty() {
            self.reads.behind.push((read.index, asked.who));
        }
    }

    pub(super) fn read_aborted(&mut self, context: u64) {
        if let Some(asked) = self.reads.asked.take_if(|asked| asked.context == context) {
            self.tell_readers(&asked.who, &Err(Error::LeaderChanged));
        }
    }

    /// Answers those whose entries are published.
    pub(super) fn deliver_reads(&mut self) {
        let published = self.raft.positions().applied.0;
        while let Some(position) = self.reads.behind.iter().position(|(index, _)| *index <= published) {
            let (_, who) = self.reads.behind.swap_remove(position);
            self.tell_readers(&who, &Ok(()));
        }
    }

    fn tell_readers(&mut self, who: &[(u32, u64)], outcome: &Result<(), Error>) {
        let ready = |&(shard, request_id): &(u32, u64)| ReadReady { shard, request_id, outcome: outcome.clone() };
        self.outputs.reads.extend(who.iter().map(ready));
    }
}
