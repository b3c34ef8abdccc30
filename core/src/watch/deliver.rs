//! The group's batches, to the watchers that are live.

use std::rc::Rc;

use smallvec::SmallVec;

use super::hub::Hub;
use super::recent::SharedBatch;
use super::stream::EventsHead;
use super::watcher::{Slot, State};
use crate::event::{Event, EventBatch};

/// Revisions with more events than this (a lease with many keys) are not handed out as they come.
const REVISION_EVENTS_MAX: usize = 128;

impl Hub {
    /// Takes the events of the revisions behind `previous` up to `revision`. What was delivered already is skipped; a
    /// hole in front (batches that a full queue dropped) makes the watchers read the log.
    pub fn deliver(&mut self, previous: i64, batch: &EventBatch, revision: i64) {
        if revision <= self.delivered {
            return;
        }
        self.skip_to(previous);
        if !batch.is_empty() {
            let shared = Rc::new(SharedBatch::new(batch.clone(), self.next_number));
            self.next_number += shared.len() as u64;
            self.deliver_batch(&shared);
            self.recent.push(shared);
        }
        self.delivered = revision;
        self.answer_waiting();
    }

    /// Batches up to `revision` were dropped on their way here (a full queue, a snapshot from the leader): every watcher
    /// reads the log instead. `revision` is published; it is not above what the next batch names as its previous one.
    pub fn gap(&mut self, revision: i64) {
        if revision > self.delivered {
            self.skip_to(revision);
            self.answer_waiting();
        }
    }

    fn skip_to(&mut self, revision: i64) {
        if revision <= self.delivered {
            return;
        }
        let first_missed = self.delivered + 1;
        for slot in 0..self.watchers.len() {
            let Some(watcher) = &self.watchers[slot] else { continue };
            if watcher.state == State::Live && watcher.start_revision <= revision {
                let next = watcher.start_revision.max(first_missed);
                self.fall_behind(slot as Slot, next);
            }
        }
        self.delivered = revision;
        self.recent.restart(revision + 1);
    }

    fn deliver_batch(&mut self, batch: &SharedBatch) {
        let (mut found, mut takers) = (Vec::new(), Vec::new());
        let mut first = batch.position_of(self.delivered + 1);
        while first < batch.len() {
            let main = batch.at(first).event.revision.main;
            let end = batch.position_of(main + 1);
            if end - first > REVISION_EVENTS_MAX {
                self.pass_by(batch, first..end);
                first = end;
                continue;
            }
            takers.clear();
            for at in first..end {
                let event = batch.at(at).event;
                found.clear();
                self.index.stab(&event.kv.key, &mut found);
                takers.extend(found.iter().filter(|&&slot| self.takes_live(slot, event)).map(|&slot| (slot, at)));
            }
            if end - first > 1 {
                takers.sort_unstable();
            }
            for events_of_one in takers.chunk_by(|left, right| left.0 == right.0) {
                self.offer(batch, events_of_one, main);
            }
            first = end;
        }
    }

    /// Leaves a large revision to [`Hub::catch_up`], which notes it for a bounded number of watchers at a time.
    fn pass_by(&mut self, batch: &SharedBatch, revision: core::ops::Range<usize>) {
        let mut found = Vec::new();
        for at in revision {
            let event = batch.at(at).event;
            found.clear();
            self.index.stab(&event.kv.key, &mut found);
            for &slot in &found {
                if self.takes_live(slot, event) {
                    self.fall_behind(slot, event.revision.main);
                }
            }
        }
    }

    fn takes_live(&self, slot: Slot, event: &Event) -> bool {
        self.watchers[slot as usize].as_ref().is_some_and(|watcher| watcher.takes_live(event))
    }

    /// Queues one revision's events for one watcher, or makes it behind.
    fn offer(&mut self, batch: &SharedBatch, taken: &[(Slot, usize)], main: i64) {
        let (slot, last) = *taken.last().expect("a chunk is not empty");
        let watcher = self.watchers[slot as usize].as_mut().expect("it was found in the index");
        let index = watcher.stream;
        let stream = self.streams[index as usize].as_mut().expect("a watcher's stream is open");
        let queue_bytes = self.limits.queue_bytes;
        if stream.queue_cost() >= queue_bytes && !stream.has_demand() {
            return self.fall_behind(slot, main);
        }
        let mut events = SmallVec::with_capacity(taken.len());
        let mut fresh_bytes = 0;
        for &(_, at) in taken {
            let numbered = batch.at(at);
            let bytes = numbered.encoded.get(numbered.event, watcher.wishes.prev_kv);
            fresh_bytes += if stream.is_fresh(numbered.number) { bytes.len() } else { 0 };
            events.push(bytes.clone());
        }
        let head = EventsHead { id: watcher.id, revision: main, fragment: watcher.wishes.fragment };
        if stream.push_events(head, events, batch.at(last).number, fresh_bytes, queue_bytes) {
            watcher.quiet = false;
            self.wake(index);
        } else {
            self.fall_behind(slot, main);
        }
    }
}
