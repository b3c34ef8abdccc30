//! Which leases are due, and which of them were proposed already.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use ringstone_pager::api::{Access, ReadTrees};

use crate::lease::state::{self, DeadlineEntry, Expired, LeaseTime};

/// Expiries read from the trees at once.
const SLICE: usize = 256;

/// Expiries under way at once. With 0.2 ms a batch of the log and 30 us to apply one, 100 000 leases that end together
/// are gone in 3 s, and a client's write waits behind 15 ms of them.
const UNDER_WAY_MAX: usize = 512;

/// A proposal that was not applied by then is made again (etcd's figure).
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(3);

/// How often it is looked for such proposals: a tick. Every three seconds would make six of the three for some.
const RETRY_LOOK: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Expiry {
    due: VecDeque<Expired>,
    under_way: HashMap<i64, Duration, RandomState>,
    /// No lease that is not under way is due before this.
    next: LeaseTime,
    retried_at: Duration,
}

impl Expiry {
    /// The next lease to propose the end of.
    pub fn poll(
        &mut self,
        view: &impl ReadTrees,
        clock: LeaseTime,
        now: Duration,
        renews: impl Fn(i64) -> bool,
    ) -> Access<Option<Expired>> {
        self.retry(now);
        if self.due.is_empty() {
            self.load(view, clock, &renews)?;
        }
        while self.under_way.len() < UNDER_WAY_MAX
            && let Some(due) = self.due.pop_front()
        {
            // It may have been renewed since it was loaded; apply would see that, a waiting renewal only we do.
            if !renews(due.id) {
                self.under_way.insert(due.id, now);
                return Ok(Some(due));
            }
            self.next = LeaseTime(0);
        }
        Ok(None)
    }

    fn load(&mut self, view: &impl ReadTrees, clock: LeaseTime, renews: &impl Fn(i64) -> bool) -> Access<()> {
        if clock < self.next || self.under_way.len() >= UNDER_WAY_MAX {
            return Ok(());
        }
        let mut postponed = core::cell::Cell::new(false);
        let due = state::expired(view, clock, SLICE, |id| {
            let waits = renews(id);
            postponed.set(postponed.get() || waits);
            waits || self.under_way.contains_key(&id)
        })?;
        if due.len() < SLICE && !*postponed.get_mut() {
            let behind = DeadlineEntry { deadline: clock, id: -1 };
            let next = state::list(view, Some(behind), 1)?;
            self.next = next.first().map_or(LeaseTime(u64::MAX), |entry| entry.deadline);
        }
        self.due.extend(due);
        Ok(())
    }

    fn retry(&mut self, now: Duration) {
        if now.saturating_sub(self.retried_at) < RETRY_LOOK {
            return;
        }
        self.retried_at = now;
        let before = self.under_way.len();
        self.under_way.retain(|_, proposed_at| now.saturating_sub(*proposed_at) < RETRY_AFTER);
        if self.under_way.len() < before {
            self.next = LeaseTime(0);
        }
    }

    /// A lease may be due at this point that was not known to be.
    pub fn look_at(&mut self, deadline: LeaseTime) {
        self.next = self.next.min(deadline);
    }

    /// The proposal about this lease was applied.
    pub fn done(&mut self, id: i64) {
        self.under_way.remove(&id);
    }

    pub fn has_leases(&self, view: &impl ReadTrees) -> Access<bool> {
        Ok(!state::list(view, None, 1)?.is_empty())
    }
}
