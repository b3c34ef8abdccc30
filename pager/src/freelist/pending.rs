//! Pages that were freed and that somebody may still read: readers' pins, one of the metas, the checkpoint under way.
//!
//! Each freed run waits at one of its holders. Only when that one has let go is the run looked at again: a pin that stays
//! for long costs nothing per publish, however much waits for it. And where much waits for one holder, a meta, it is looked at
//! some at a time.

use std::collections::BTreeMap;

use crate::api::PageRun;
use crate::chunks::Chunks;
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
    waiting: BTreeMap<u64, Chunks<Pending>>,
    /// Held by all from this generation on.
    open: (u64, Chunks<Pending>),
    /// Not looked at yet, or to be looked at again.
    fresh: Chunks<Pending>,
}

impl PendingRuns {
    pub fn push(&mut self, pending: Pending) {
        self.fresh.push(pending);
    }

    pub fn append(&mut self, pending: &mut Chunks<Pending>) {
        self.fresh.append(pending);
    }

    /// Is there something to be looked at, whoever holds it?
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Looks at up to `runs_max` runs, and gives those to `free` that nobody holds any more.
    pub fn release(&mut self, held: &Held, runs_max: usize, mut free: impl FnMut(PageRun)) {
        while let Some(gone) = self.waiting.keys().find(|holder| !held.is_single(**holder)).copied() {
            self.fresh.append(&mut self.waiting.remove(&gone).expect("the key was just found"));
        }
        if self.open.0 != held.floor() {
            self.fresh.append(&mut self.open.1);
            self.open.0 = held.floor();
        }
        for _ in 0..runs_max {
            let Some(pending) = self.fresh.pop() else { return };
            match held.holder(pending.born, pending.freed) {
                None => free(pending.run),
                Some(holder) if holder == held.floor() => self.open.1.push(pending),
                Some(holder) => self.waiting.entry(holder).or_default().push(pending),
            }
        }
    }
}
