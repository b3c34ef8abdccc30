//! What travels between a shard and the group: batches, through bounded single-producer queues.

use std::time::Duration;

use crate::error::Error;
use crate::event::EventBatch;
use crate::group::{Ask, Proposal, Reply};

/// A request that waits for an answer of [`Told`], and says no more.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The shard that waits.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
}

/// All that a shard asked since it last sent.
#[derive(Debug, Default)]
pub struct ToGroup {
    /// Linearizable reads.
    pub reads: Vec<Asked>,
    /// Who shall lead.
    pub transfers: Vec<(Asked, u64)>,
    /// What only the leader can do or tell.
    pub asks: Vec<(Asked, Ask)>,
    /// For the log.
    pub proposals: Vec<Proposal>,
}

impl ToGroup {
    /// True when there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.proposals.is_empty() && self.reads.is_empty() && self.transfers.is_empty() && self.asks.is_empty()
    }

    /// Takes over what `other` holds.
    pub fn append(&mut self, mut other: ToGroup) {
        if self.is_empty() {
            *self = other;
            return;
        }
        self.reads.append(&mut other.reads);
        self.transfers.append(&mut other.transfers);
        self.asks.append(&mut other.asks);
        self.proposals.append(&mut other.proposals);
    }
}

/// The answer to one request.
#[derive(Debug)]
pub enum Told {
    /// What apply says.
    Reply(Reply),
    /// The lessor: the TTL granted, in seconds; 0 for a lease that is gone.
    KeptAlive(i64),
    /// The leader's lease clock, in milliseconds.
    Clock(u64),
    /// What is published is new enough for a linearizable read; or the member leads that shall.
    Go,
}

/// When the requests of a batch came how far; CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    /// The write of their batch of the log began.
    pub proposed: Duration,
    /// It is on disk.
    pub synced: Duration,
    /// Known to be committed: they may be applied.
    pub committed: Duration,
    /// Applied and visible.
    pub published: Duration,
}

/// All that the group has for a shard since it last sent. Everything in it is published.
#[derive(Debug)]
pub struct FromGroup {
    /// Answers by request id.
    pub answers: Vec<(u64, Result<Told, Error>)>,
    /// The revision that the events follow. Where it is beyond what the shard has, batches were dropped on the way: its
    /// watchers read the log instead.
    pub previous: i64,
    /// All events behind `previous` up to `revision`.
    pub events: EventBatch,
    /// The published revision.
    pub revision: i64,
    /// Of the batch that the answers come from.
    pub stamps: Stamps,
}

impl FromGroup {
    /// Nothing yet, at `revision`.
    #[must_use]
    pub fn empty(revision: i64) -> FromGroup {
        FromGroup {
            answers: Vec::new(),
            previous: revision,
            events: EventBatch::from([]),
            revision,
            stamps: Stamps::default(),
        }
    }
}
