//! Progress answers: "everything up to this revision was sent". They stand in the stream's queue behind the events that
//! they vouch for, and are made only while every watcher that they speak of is live: so they cannot overtake any.

use super::hub::Hub;
use super::stream::Item;
use super::watcher::State;

/// The watch id of an answer for the whole stream.
const WHOLE_STREAM: i64 = -1;

impl Hub {
    /// Queues progress answers for idle watches that asked for them. `now_ms` is any clock that does not go back; call it
    /// every 100 ms or so.
    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        while let Some(&(due_ms, index)) = self.progress_timers.first()
            && due_ms <= now_ms
        {
            self.progress_timers.pop_first();
            let stream = self.stream_mut(index);
            stream.progress_at_ms = now_ms.saturating_add(stream.progress_interval_ms);
            if stream.progress_watchers == 0 {
                continue;
            }
            let timer = (stream.progress_at_ms, index);
            self.progress_timers.insert(timer);
            self.tick_stream(index);
        }
    }

    /// The stream's first watch that wants progress answers: the interval starts.
    pub(super) fn start_progress_timer(&mut self, index: u32) {
        let now_ms = self.now_ms;
        let stream = self.stream_mut(index);
        let stale = (stream.progress_at_ms, index);
        stream.progress_at_ms = now_ms.saturating_add(stream.progress_interval_ms);
        let timer = (stream.progress_at_ms, index);
        self.progress_timers.remove(&stale);
        self.progress_timers.insert(timer);
    }

    fn tick_stream(&mut self, index: u32) {
        let (delivered, queue_bytes) = (self.delivered, self.limits.queue_bytes);
        let stream = self.streams[index as usize].as_ref().expect("a timer's stream is open");
        let mut due = Vec::new();
        for (&id, &slot) in &stream.watchers {
            let watcher = self.watchers[slot as usize].as_mut().expect("a slot of a stream holds a watcher");
            let was_quiet = core::mem::replace(&mut watcher.quiet, true);
            if !watcher.wishes.progress_notify || !was_quiet || !watcher.is_synced(delivered) {
                continue;
            }
            due.push(id);
        }
        for id in due {
            // A stream that nobody reads is not filled with these: the next tick will do.
            if self.stream_mut(index).queue_cost() < queue_bytes {
                self.push(index, Item::Progress { id, revision: delivered });
            }
        }
    }

    /// A manual request, once everything published when it came was delivered. As in etcd it stays without an answer if
    /// there is no watch, or one that is behind, dead or in the future; but a watcher that lags only by what is at hand
    /// holds the answer back instead of losing it.
    pub(super) fn answer_progress(&mut self, index: u32) {
        let (delivered, recent) = (self.delivered, self.recent.from());
        let stream = self.streams[index as usize].as_ref().expect("a request's stream is open");
        let mut lag = false;
        for &slot in stream.watchers.values() {
            let watcher = self.watchers[slot as usize].as_ref().expect("a slot of a stream holds a watcher");
            match watcher.state {
                State::Behind(next) if next >= recent => lag = true,
                _ if watcher.is_synced(delivered) => {}
                _ => return,
            }
        }
        if stream.watchers.is_empty() {
            return;
        }
        if lag {
            self.stream_mut(index).progress_owed = true;
        } else {
            self.push(index, Item::Progress { id: WHOLE_STREAM, revision: delivered });
        }
    }

    /// Answers a request that was held back, once nobody on the stream is behind any more.
    pub(super) fn maybe_pay_progress(&mut self, index: u32) {
        let stream = self.stream_mut(index);
        if stream.progress_owed && stream.behind.is_empty() {
            stream.progress_owed = false;
            self.answer_progress(index);
        }
    }
}
