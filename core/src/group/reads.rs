//! Linearizable reads: up to where must this member have applied?
//!
//! One question is on its way at a time; whoever comes meanwhile waits for the next one, and so does whoever finds no leader, or
//! one that lost its office: nothing can have come of a read. A question that a quorum has
//! confirmed also proves leadership, at the time at which it was asked: that is what the lease clock runs on.
//!
//! A keep-alive in a cluster is such a read, too. Another member may have applied, and told, what the leader has not applied
//! yet; or it leads already. A lease that was granted there is not to be gone here, nor one that ended there alive.

use std::time::Duration;

use ringstone_raft::{Index, ReadState, Role};

use super::{Group, GroupError};
use crate::error::Error;

/// What came of [`Group::read_index`].
#[derive(Debug)]
pub struct ReadReady {
    /// The shard that asked.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
    /// The published state is new enough, or why nobody knows: [`Error::Timeout`], [`Error::TooManyRequests`]; of
    /// [`Group::prove_index`] also [`Error::NoLeader`], [`Error::LeaderChanged`].
    pub outcome: Result<(), Error>,
}

/// A read that waits.
#[derive(Debug)]
struct Reader {
    shard: u32,
    request_id: u64,
    /// When it was asked for.
    since: Duration,
    /// It is asked for again where there is no leader, or another one.
    is_patient: bool,
}

/// Those that a question is for.
#[derive(Debug, Default)]
struct Waiting {
    reads: Vec<Reader>,
    /// Shard, request id, and the lease.
    keep_alives: Vec<(u32, u64, i64)>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.keep_alives.is_empty()
    }

    /// Those that go on waiting, and those that don't.
    fn part(self) -> (Vec<Reader>, Waiting) {
        let (patient, reads) = self.reads.into_iter().partition(|reader| reader.is_patient);
        (patient, Waiting { reads, keep_alives: self.keep_alives })
    }
}

#[derive(Debug)]
struct Asked {
    context: u64,
    at: Duration,
    who: Waiting,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    next_context: u64,
    waiting: Waiting,
    asked: Option<Asked>,
    /// Answered once so much is applied.
    behind: Vec<(Index, Waiting)>,
    /// A leader is to prove itself, whether anybody reads or not.
    wants_proof: bool,
}

impl Group {
    /// A shard reads: answered in one of the next [`Group::take_outputs`], once what is published is at least what was
    /// committed when this was called. Without a leader it waits for one, until
    /// [`request_timeout`](crate::config::ServerConfig::request_timeout) has passed and the shard has told its caller so.
    pub fn read_index(&mut self, now: Duration, shard: u32, request_id: u64) {
        self.read(now, Reader { shard, request_id, since: now, is_patient: true });
    }

    /// This member is to prove that it leads, and has since before this was called: as [`Group::read_index`], but an end of its
    /// leadership is an answer.
    pub fn prove_index(&mut self, now: Duration, shard: u32, request_id: u64) {
        self.read(now, Reader { shard, request_id, since: now, is_patient: false });
    }

    fn read(&mut self, now: Duration, reader: Reader) {
        self.now = now;
        if self.refuses() {
            let who = Waiting { reads: vec![reader], ..Waiting::default() };
            return self.tell_waiting(&who, &Error::Timeout);
        }
        self.reads.waiting.reads.push(reader);
    }

    /// A tick's part: whoever has waited since before `limit` was told so by its shard.
    pub(super) fn expire_reads(&mut self, limit: Duration) {
        self.reads.waiting.reads.retain(|reader| reader.since >= limit);
    }

    /// A keep-alive for this leader of several members.
    pub(super) fn keep_alive_confirmed(&mut self, now: Duration, shard: u32, request_id: u64, id: i64) {
        self.now = now;
        self.reads.waiting.keep_alives.push((shard, request_id, id));
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
        if self.raft.role().leader.is_none() {
            reads.wants_proof = false;
            return self.ask_later(&Error::NoLeader, Waiting::default());
        }
        reads.next_context += 1;
        let (context, who) = (reads.next_context, core::mem::take(&mut reads.waiting));
        reads.wants_proof = false;
        match self.raft.read_index(context) {
            Ok(()) => reads.asked = Some(Asked { context, at: self.now, who }),
            Err(_) => self.tell_waiting(&who, &Error::TooManyRequests),
        }
    }

    /// The patient among them, and among those that wait anyway, wait for the next question; the others are told.
    fn ask_later(&mut self, error: &Error, who: Waiting) {
        let (mut patient, told) = who.part();
        let (waiting, also_told) = core::mem::take(&mut self.reads.waiting).part();
        patient.extend(waiting);
        self.reads.waiting.reads = patient;
        self.tell_waiting(&told, error);
        self.tell_waiting(&also_told, error);
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
            self.ask_later(&Error::LeaderChanged, asked.who);
        }
    }

    /// Answers those whose entries are published.
    ///
    /// # Errors
    /// [`GroupError::Damaged`].
    pub(super) fn deliver_reads(&mut self) -> Result<(), GroupError> {
        let published = self.raft.positions().applied.0;
        while let Some(position) = self.reads.behind.iter().position(|(index, _)| *index <= published) {
            let (_, who) = self.reads.behind.swap_remove(position);
            let ready = |Reader { shard, request_id, .. }| ReadReady { shard, request_id, outcome: Ok(()) };
            self.outputs.reads.extend(who.reads.into_iter().map(ready));
            for (shard, request_id, id) in who.keep_alives {
                self.keep_alive_now(self.now, shard, request_id, id)?;
            }
        }
        Ok(())
    }

    fn tell_waiting(&mut self, who: &Waiting, error: &Error) {
        let ready = |&Reader { shard, request_id, .. }: &Reader| {
            let outcome = Err(error.clone());
            ReadReady { shard, request_id, outcome }
        };
        self.outputs.reads.extend(who.reads.iter().map(ready));
        // Whoever leads then is asked again.
        for &(shard, request_id, _) in &who.keep_alives {
            self.kept((shard, request_id), Err(Error::NotPrimaryLessor));
        }
    }
}
