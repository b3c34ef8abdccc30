//! What a leader knows about one other member, and how much it may send.

use crate::{Config, Index};
use alloc::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Where the logs agree is not known: one append at a time.
    Probe,
    /// Known: appends are sent ahead of their acknowledgements, within the window.
    Replicate,
    /// Waits for an image: no appends.
    Snapshot,
}

/// Appends whose acknowledgement has not come: the last index of each, and what its entries weigh.
#[derive(Debug)]
pub(crate) struct InFlight {
    appends: VecDeque<(Index, usize)>,
    appends_max: usize,
    bytes: usize,
    bytes_max: usize,
}

impl InFlight {
    pub(crate) fn count(&self) -> usize {
        self.appends.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last append may exceed the bytes: it is made before its weight is known.
    fn is_full(&self) -> bool {
        self.appends.len() >= self.appends_max || self.bytes >= self.bytes_max
    }

    fn add(&mut self, last: Index, bytes: usize) {
        self.bytes += bytes;
        self.appends.push_back((last, bytes));
    }

    fn free_to(&mut self, matched: Index) {
        while self.appends.front().is_some_and(|(last, _)| *last <= matched)
            && let Some((_, bytes)) = self.appends.pop_front()
        {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.appends.clear();
        self.bytes = 0;
    }
}

#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    /// Synced there and equal.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    pub(crate) in_flight: InFlight,
    /// A probe is on its way.
    paused: bool,
    /// Send an append even without news: a lost one is noticed by its rejection.
    nudge: bool,
    /// The commit that was last sent.
    committed_sent: Index,
    /// Was heard from since the last check of the quorum.
    pub(crate) is_active: bool,
    /// Ticks since it was heard from.
    pub(crate) silent_ticks: u32,
    /// What the image covers that is on its way; 0: none was sent yet.
    pub(crate) image: Index,
    /// The last read round it confirmed.
    pub(crate) round: u64,
    /// See [`Config::kinds_known`](crate::Config).
    pub(crate) kinds_known: Option<u32>,
    /// What it acknowledged may be gone there: nothing that it says counts for a commit.
    pub(crate) is_forgotten: bool,
    /// It is no member any more since this entry, and is sent the log until it knows that this is committed.
    pub(crate) leaves_at: Option<Index>,
}

impl Progress {
    pub(crate) fn new(next: Index, config: &Config) -> Progress {
        Progress {
            phase: Phase::Probe,
            matched: Index(0),
            next,
            in_flight: InFlight {
                appends: VecDeque::new(),
                appends_max: config.appends_in_flight_max,
                bytes: 0,
                bytes_max: config.bytes_in_flight_max,
            },
            paused: false,
            nudge: false,
            committed_sent: Index(0),
            is_active: false,
            silent_ticks: u32::MAX,
            image: Index(0),
            round: 0,
            kinds_known: None,
            is_forgotten: false,
            leaves_at: None,
        }
    }

    pub(crate) fn wants_append(&self, last: Index, committed: Index) -> bool {
        match self.phase {
            Phase::Probe => !self.paused,
            Phase::Replicate => {
                let has_entries = self.next <= last && !self.in_flight.is_full();
                has_entries || self.nudge || self.committed_sent < committed
            }
            Phase::Snapshot => false,
        }
    }

    /// It has been sent all entries, or as many as may be, and only the commit is news to it.
    pub(crate) fn wants_news_only(&self, last: Index) -> bool {
        self.phase == Phase::Replicate && !self.nudge && (self.next > last || self.in_flight.is_full())
    }

    /// It was told of this commit.
    pub(crate) fn told(&mut self, committed: Index) {
        self.committed_sent = committed;
    }

    /// How many entries may go along: with a full window none.
    pub(crate) fn may_send_entries(&self) -> bool {
        self.phase == Phase::Probe || !self.in_flight.is_full()
    }

    /// An append was sent; `last` is its last entry, if it has any, and `bytes` what its entries weigh.
    pub(crate) fn sent(&mut self, last: Option<Index>, bytes: usize, committed: Index) {
        self.nudge = false;
        self.committed_sent = committed;
        match self.phase {
            Phase::Probe => self.paused = true,
            Phase::Replicate => {
                if let Some(last) = last {
                    self.next = last.next();
                    self.in_flight.add(last, bytes);
                }
            }
            Phase::Snapshot => unreachable!("nothing is appended to a member that waits for an image"),
        }
    }

    /// Returns whether `matched` is news.
    pub(crate) fn accepted(&mut self, matched: Index, first_sendable: Index) -> bool {
        let is_news = matched > self.matched;
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        match self.phase {
            Phase::Probe => self.become_replicate(),
            Phase::Replicate => self.in_flight.free_to(matched),
            // Older acknowledgements may arrive while the image is on its way.
            Phase::Snapshot => {
                if self.matched.next() >= first_sendable {
                    self.become_replicate();
                }
            }
        }
        is_news
    }

    /// `agreed` is the last place where the logs may agree. Old rejections change nothing.
    pub(crate) fn rejected(&mut self, rejected: Index, agreed: Index) {
        match self.phase {
            Phase::Probe if self.next.previous() == rejected => {
                self.next = agreed.next().min(rejected).max(self.matched.next());
                self.paused = false;
            }
            Phase::Replicate if rejected > self.matched => self.become_probe(self.matched.next()),
            Phase::Probe | Phase::Replicate | Phase::Snapshot => {}
        }
    }

    /// It has said something.
    pub(crate) fn lives(&mut self) {
        (self.is_active, self.silent_ticks) = (true, 0);
    }

    pub(crate) fn heard(&mut self, last: Index) {
        self.lives();
        self.paused = false;
        if self.phase == Phase::Replicate && self.matched < last {
            // With a full window it goes without entries: to a member that is slow, more would only wait on the way.
            self.nudge = true;
        }
    }

    pub(crate) fn become_probe(&mut self, next: Index) {
        self.phase = Phase::Probe;
        self.next = next;
        self.paused = false;
        self.in_flight.clear();
    }

    /// What it had acknowledged counts no longer. Where its log ends will be found out, when it is heard from.
    pub(crate) fn forget(&mut self) {
        self.matched = Index(0);
        self.is_forgotten = true;
        self.become_probe(self.next);
        self.paused = true;
    }

    /// The image failed: try again when the member is heard from.
    pub(crate) fn become_paused_probe(&mut self) {
        self.become_probe(self.matched.next());
        self.paused = true;
    }

    pub(crate) fn become_snapshot(&mut self) {
        self.phase = Phase::Snapshot;
        self.image = Index(0);
        self.in_flight.clear();
    }

    /// The entry behind which it still needs the log; none while no image was chosen yet.
    pub(crate) fn wants_log_from(&self) -> Option<Index> {
        match self.phase {
            Phase::Probe | Phase::Replicate => Some(self.matched),
            Phase::Snapshot => (self.image > Index(0)).then_some(self.image),
        }
    }

    /// It was removed, and told so if appends reach it; it is not waited for.
    pub(crate) fn has_left(&self, committed: Index) -> bool {
        let was_told = |at: Index| self.phase != Phase::Replicate || self.committed_sent >= at;
        self.leaves_at.is_some_and(|at| at <= committed && was_told(at))
    }

    fn become_replicate(&mut self) {
        self.phase = Phase::Replicate;
        self.next = self.matched.next();
        self.in_flight.clear();
    }
}
