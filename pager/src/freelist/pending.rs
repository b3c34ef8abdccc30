//! Pages that were freed and that somebody may still read: readers' pins, one of the metas, the checkpoint under way.
//!
//! Each freed run waits at one of its holders. Only when that one has let go is the run looked at again: a pin that stays
//! for long costs nothing per publish, however much waits for it.

use std::collections::BTreeMap;

use crate::api::PageRun;
use crate::pins::Held;

/// A run that exists in the generations `born..freed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub run: PageRun,
    pub born: u64,
    pub freed: u64,
}

#[derive(Default)]
pub(super) struct PendingRuns {
    /// By one generation that holds them.
    waiting: BTreeMap<u64, Vec<Pending>>,
    /// Held by all from this generation on.
    open: (u64, Vec<Pending>),
    /// Not looked at yet.
    fresh: Vec<Pending>,
    pages: u64,
}

impl PendingRuns {
    pub fn pages(&self) -> u64 {
        self.pages
    }

    pub fn push(&mut self, pending: Pending) {
        self.pages += u64::from(pending.run.pages);
        self.fresh.push(pending);
    }

    /// Gives those to `free` that nobody holds any more.
    pub fn release(&mut self, held: &Held, mut free: impl FnMut(PageRun)) {
        let mut again = core::mem::take(&mut self.fresh);
        while let Some(gone) = self.waiting.keys().find(|holder| !held.is_single(**holder)).copied() {
            again.extend(self.waiting.remove(&gone).expect("the key was just found"));
        }
        if self.open.0 != held.floor() {
            again.append(&mut self.open.1);
            self.open.0 = held.floor();
        }
        for pending in again {
            match held.holder(pending.born, pending.freed) {
                None => {
                    self.pages -= u64::from(pending.run.pages);
                    free(pending.run);
                }
                Some(holder) if holder == held.floor() => self.open.1.push(pending),
                Some(holder) => self.waiting.entry(holder).or_default().push(pending),
            }
        }
    }
}
