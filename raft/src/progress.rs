//! What a leader knows about one other member, and how much it may send.

use crate::Index;
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

#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    /// Synced there and equal.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    /// Last index of each append on its way.
    in_flight: VecDeque<Index>,
    in_flight_max: usize,
    /// A probe is on its way.
    paused: bool,
    /// Send an append even without news: a lost one is noticed by its rejection.
    nudge: bool,
    /// The commit that was last sent.
    committed_sent: Index,
    /// Was heard from since the last check of the quorum.
    pub(crate) is_active: bool,
    /// What the image covers that is on its way.
    pub(crate) image: Index,
    /// The last read round it confirmed.
    pub(crate) round: u64,
}

impl Progress {
    pub(crate) fn new(next: Index, in_flight_max: usize) -> Progress {
        Progress {
            phase: Phase::Probe,
            matched: Index(0),
            next,
            in_flight: VecDeque::new(),
            in_flight_max,
            paused: false,
            nudge: false,
            committed_sent: Index(0),
            is_active: false,
            image: Index(0),
            round: 0,
        }
    }

    pub(crate) fn wants_append(&self, last: Index, committed: Index) -> bool {
        match self.phase {
            Phase::Probe => !self.paused,
            Phase::Replicate => {
                let has_entries = self.next <= last && self.in_flight.len() < self.in_flight_max;
                has_entries || self.nudge || self.committed_sent < committed
            }
            Phase::Snapshot => false,
        }
    }

    /// How many entries may go along: with a full window only news.
    pub(crate) fn may_send_entries(&self) -> bool {
        self.phase == Phase::Probe || self.in_flight.len() < self.in_flight_max
    }

    /// An append was sent; `last` is its last entry, if it has any.
    pub(crate) fn sent(&mut self, last: Option<Index>, committed: Index) {
        self.nudge = false;
        self.committed_sent = committed;
        match self.phase {
            Phase::Probe => self.paused = true,
            Phase::Replicate => {
                if let Some(last) = last {
                    self.next = last.next();
                    self.in_flight.push_back(last);
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
            Phase::Replicate => {
                while self.in_flight.front().is_some_and(|last| *last <= matched) {
                    self.in_flight.pop_front();
                }
            }
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

    pub(crate) fn heard(&mut self, last: Index) {
        self.is_active = true;
        self.paused = false;
        if self.phase == Phase::Replicate && self.matched < last {
            self.nudge = true;
            if self.in_flight.len() >= self.in_flight_max {
                self.in_flight.pop_front();
            }
        }
    }

    pub(crate) fn become_probe(&mut self, next: Index) {
        self.phase = Phase::Probe;
        self.next = next;
        self.paused = false;
        self.in_flight.clear();
    }

    /// The image failed: try again when the member is heard from.
    pub(crate) fn become_paused_probe(&mut self) {
        self.become_probe(self.matched.next());
        self.paused = true;
    }

    pub(crate) fn become_snapshot(&mut self) {
        self.phase = Phase::Snapshot;
        self.in_flight.clear();
    }

    fn become_replicate(&mut self) {
        self.phase = Phase::Replicate;
        self.next = self.matched.next();
        self.in_flight.clear();
    }
}
