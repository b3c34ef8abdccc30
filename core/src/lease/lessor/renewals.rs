//! Keep-alives on their way into the log, in batches.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::expiry::RETRY_AFTER;
use super::{KeepAlive, KeepAliveToken};

/// Shortest time between two batches. Together with the slack (a lease needs the log once a second at most) this bounds
/// what keep-alives cost the log to ten entries a second, and what they wait to this and a sync.
const BATCH_PACE: Duration = Duration::from_millis(100);

/// Ids of one batch: 32 KiB of entry.
const BATCH_IDS_MAX: usize = 4096;

/// Keep-alives that may wait at once; about 5 MiB.
const WAITING_MAX: usize = 1 << 16;

type Tokens = SmallVec<[KeepAliveToken; 1]>;

struct Batch {
    ids: Vec<i64>,
    tokens: Vec<Tokens>,
    proposed_at: Duration,
}

pub(super) struct Renewals {
    /// For the next batch.
    next: BTreeMap<i64, Tokens>,
    /// Proposed, in order.
    under_way: VecDeque<Batch>,
    /// Past the deadline: for the end of the lease, or for its renewal by an earlier keep-alive.
    ending: BTreeMap<i64, Tokens>,
    waiting: usize,
    next_batch_at: Duration,
}

impl Renewals {
    pub fn new(now: Duration) -> Renewals {
        let (next, under_way, ending) = Default::default();
        Renewals { next, under_way, ending, waiting: 0, next_batch_at: now }
    }

    /// Waits for the next batch.
    pub fn wait(&mut self, token: KeepAliveToken, id: i64) -> KeepAlive {
        if self.waiting >= WAITING_MAX {
            return KeepAlive::TooMany;
        }
        self.waiting += 1;
        self.next.entry(id).or_default().push(token);
        KeepAlive::Waits
    }

    /// Waits for the end of a lease past its deadline; with the renewal if one waits already.
    pub fn wait_for_end(&mut self, token: KeepAliveToken, id: i64) -> KeepAlive {
        if self.next.contains_key(&id) {
            return self.wait(token, id);
        }
        if self.waiting >= WAITING_MAX {
            return KeepAlive::TooMany;
        }
        self.waiting += 1;
        self.ending.entry(id).or_default().push(token);
        KeepAlive::Waits
    }

    /// True if a renewal of this lease is still to be proposed.
    pub fn is_waiting(&self, id: i64) -> bool {
        self.next.contains_key(&id)
    }

    /// The ids of a batch, if it is time for one.
    pub fn poll_batch(&mut self, now: Duration) -> Option<Vec<i64>> {
        self.retry(now);
        if self.next.is_empty() || now < self.next_batch_at {
            return None;
        }
        let rest = match self.next.keys().nth(BATCH_IDS_MAX).copied() {
            Some(id) => self.next.split_off(&id),
            None => BTreeMap::new(),
        };
        // A full batch is followed at once.
        self.next_batch_at = if rest.is_empty() { now.saturating_add(BATCH_PACE) } else { now };
        let batch = core::mem::replace(&mut self.next, rest);
        let (ids, tokens): (Vec<i64>, Vec<Tokens>) = batch.into_iter().unzip();
        self.under_way.push_back(Batch { ids: ids.clone(), tokens, proposed_at: now });
        Some(ids)
    }

    /// What was proposed and did not come back is proposed again: renewing twice does no harm.
    fn retry(&mut self, now: Duration) {
        while let Some(oldest) = self.under_way.front()
            && now.saturating_sub(oldest.proposed_at) >= RETRY_AFTER
        {
            let lost = self.under_way.pop_front().expect("it has a front");
            for (id, tokens) in lost.ids.into_iter().zip(lost.tokens) {
                self.next.entry(id).or_default().extend(tokens);
            }
        }
    }

    /// A batch was applied: the answers to those who waited for it. Not ours, or given up: none.
    pub fn renewed(&mut self, ids: &[i64], ttls_s: &[i64]) -> Vec<(KeepAliveToken, KeepAlive)> {
        for (&id, _) in ids.iter().zip(ttls_s).filter(|(_, ttl_s)| **ttl_s != 0) {
            self.lives_on(id);
        }
        let Some(at) = self.under_way.iter().position(|batch| batch.ids == ids) else { return Vec::new() };
        let batch = self.under_way.remove(at).expect("its position was found");
        let mut answers = Vec::new();
        for (tokens, &ttl_s) in batch.tokens.into_iter().zip(ttls_s) {
            answers.extend(tokens.into_iter().map(|token| (token, KeepAlive::Ttl(ttl_s))));
        }
        self.waiting -= answers.len();
        answers
    }

    /// A lease that was past its deadline was renewed after all: whoever waited for its end renews it too.
    pub fn lives_on(&mut self, id: i64) {
        if let Some(tokens) = self.ending.remove(&id) {
            self.next.entry(id).or_default().extend(tokens);
        }
    }

    /// A lease is gone: the answers to those who waited for that.
    pub fn ended(&mut self, id: i64) -> Vec<(KeepAliveToken, KeepAlive)> {
        let tokens = self.ending.remove(&id).unwrap_or_default();
        self.waiting -= tokens.len();
        tokens.into_iter().map(|token| (token, KeepAlive::Ttl(0))).collect()
    }

    /// Everyone who waits.
    pub fn into_tokens(self) -> impl Iterator<Item = KeepAliveToken> {
        let under_way = self.under_way.into_iter().flat_map(|batch| batch.tokens);
        let maps = self.next.into_values().chain(self.ending.into_values());
        maps.chain(under_way).flatten()
    }
}
