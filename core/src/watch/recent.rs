//! The last batches, so that a watcher that lags for a moment need not read the log.

use std::collections::VecDeque;
use std::rc::Rc;

use super::encode::EncodedEvent;
use super::stream::NumberedEvent;
use crate::event::{Event, EventBatch};

/// A batch with the encoded form of each event that somebody took.
pub(super) struct SharedBatch {
    events: EventBatch,
    encoded: Box<[EncodedEvent]>,
    first_number: u64,
    cost: usize,
}

impl SharedBatch {
    pub fn new(events: EventBatch, first_number: u64) -> SharedBatch {
        let encoded = events.iter().map(|_| EncodedEvent::default()).collect();
        // Twice: as the batch holds them and encoded.
        let cost = events.iter().map(|event| 2 * event_bytes(event)).sum();
        SharedBatch { events, encoded, first_number, cost }
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn at(&self, index: usize) -> NumberedEvent<'_> {
        NumberedEvent {
            event: &self.events[index],
            encoded: &self.encoded[index],
            number: self.first_number + index as u64,
        }
    }

    /// Index of the first event of revision `main` or later.
    pub fn position_of(&self, main: i64) -> usize {
        self.events.partition_point(|event| event.revision.main < main)
    }

    fn last_main(&self) -> Option<i64> {
        self.events.last().map(|event| event.revision.main)
    }
}

pub(super) fn event_bytes(event: &Event) -> usize {
    let prev = event.prev_kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    size_of::<Event>() + event.kv.key.len() + event.kv.value.len() + prev
}

/// Holds every event from revision `from` to the delivered one.
pub(super) struct Recent {
    batches: VecDeque<Rc<SharedBatch>>,
    from: i64,
    cost: usize,
    cost_max: usize,
}

impl Recent {
    pub fn new(from: i64, cost_max: usize) -> Recent {
        Recent { batches: VecDeque::new(), from, cost: 0, cost_max }
    }

    /// The oldest revision that can be served from here.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// Forgets all; what comes next begins at `from`.
    pub fn restart(&mut self, from: i64) {
        self.batches.clear();
        self.cost = 0;
        self.from = from;
    }

    pub fn push(&mut self, batch: Rc<SharedBatch>) {
        self.cost += batch.cost;
        self.batches.push_back(batch);
        while self.cost > self.cost_max {
            let oldest = self.batches.pop_front().expect("a cost above 0 is that of a batch");
            self.cost -= oldest.cost;
            if let Some(last) = oldest.last_main() {
                self.from = last + 1;
            }
        }
    }

    /// The batches that hold revisions from `main` on.
    pub fn batches_from(&self, main: i64) -> impl Iterator<Item = &Rc<SharedBatch>> {
        let first = self.batches.partition_point(|batch| batch.last_main().is_none_or(|last| last < main));
        self.batches.range(first..)
    }
}
