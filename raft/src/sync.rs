//! What waits for which sync (thesis 3.8)?
//!
//! Let a promise out too early and a crash breaks it: two leaders in a term, or a committed entry lost. Everything that
//! promises durability is held here, tied to the last batch that was handed out when the promise was made, and batches
//! are acknowledged in their order. This file does not know what a promise says.

use crate::{Body, Index, Message, NodeId, Term};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Names one [`Persist`](crate::Persist). Not cloneable: a batch is acknowledged once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncToken(u64);

/// A promise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// To another member.
    Send(NodeId, Message),
    /// To oneself: the own vote in this term counts.
    OwnVote(Term),
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub(crate) struct Outstanding {
    number: u64,
    /// The log up to here is durable once this batch is. Lowered when the log is cut in memory: an entry that is cut and
    /// comes back with the same index and term belongs to a later batch.
    pub(crate) durable: Index,
    /// The batch installs an image that covers up to here.
    pub(crate) installed: Option<Index>,
    pub(crate) held: Vec<Held>,
}

#[derive(Debug, Default)]
pub(crate) struct SyncQueue {
    issued: u64,
    outstanding: VecDeque<Outstanding>,
    /// Promises made since the last batch was handed out.
    held: Vec<Held>,
}

impl SyncQueue {
    pub(crate) fn hold(&mut self, promise: Held) {
        add(&mut self.held, promise);
    }

    /// A new batch; it takes every promise made before it.
    pub(crate) fn issue(&mut self, durable: Index, installed: Option<Index>) -> SyncToken {
        self.issued += 1;
        let held = core::mem::take(&mut self.held);
        self.outstanding.push_back(Outstanding { number: self.issued, durable, installed, held });
        SyncToken(self.issued)
    }

    /// No batch is needed: promises wait for the last one on its way. Without any they are due now.
    pub(crate) fn settle(&mut self) -> Vec<Held> {
        match self.outstanding.back_mut() {
            Some(last) => {
                self.held.drain(..).for_each(|promise| add(&mut last.held, promise));
                Vec::new()
            }
            None => core::mem::take(&mut self.held),
        }
    }

    /// The log was cut behind `last`.
    pub(crate) fn cut(&mut self, last: Index) {
        for batch in &mut self.outstanding {
            batch.durable = batch.durable.min(last);
        }
    }

    pub(crate) fn acknowledge(&mut self, token: SyncToken) -> Outstanding {
        let batch = self.outstanding.pop_front().expect("a token names a batch that is on its way");
        assert_eq!(batch.number, token.0, "batches are acknowledged in their order");
        batch
    }
}

/// Of acknowledgements that wait for the same sync the last says all, and nothing is said twice: what waits for a disk that
/// stands still does not grow with what others send.
fn add(held: &mut Vec<Held>, promise: Held) {
    for waiting in held.iter_mut() {
        match (waiting, &promise) {
            (Held::Send(to, message), Held::Send(again, news)) if to == again && message.term == news.term => {
                match (&mut message.body, &news.body) {
                    (Body::AppendAccepted { matched }, Body::AppendAccepted { matched: further }) => {
                        *matched = (*matched).max(*further);
                        return;
                    }
                    (said, news) if said == news => return,
                    _ => {}
                }
            }
            (waiting, promise) if waiting == promise => return,
            _ => {}
        }
    }
    held.push(promise);
}
