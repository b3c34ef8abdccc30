//! Watchers that are behind read the log, or the recent batches where these reach back far enough.
//!
//! One *window* at a time: some revisions, read once for all watchers that need them and whose writers ask for more. A
//! window ends at a whole revision; then each of its members has been given everything up to there, or stays where it
//! was. Streams take turns, so that a watcher with all of history to read does not hold up the others. A fault or a spent
//! budget leaves the window open for the next call.

use core::ops::ControlFlow;
use std::collections::HashMap;
use std::rc::Rc;

use ahash::RandomState;
use bytes::Bytes;
use ringstone_pager::api::Access;
use smallvec::SmallVec;

use super::encode::EncodedEvent;
use super::history::History;
use super::hub::{Hub, HubLimits};
use super::index::WatchIndex;
use super::stream::{EventsHead, Item, NumberedEvent};
use super::watcher::{Slot, State, Watcher};
use crate::event::{Event, Revision};

/// Most watchers of one window.
const MEMBERS_MAX: usize = 512;
/// Most events noted for all members together, unless there is only one.
const REFERENCES_MAX: usize = 1 << 16;
/// Most streams that are asked whether they need a window's revisions.
const STREAMS_LOOKED_AT: usize = 256;
/// Up to this many members, each event is compared with their spans instead of looking it up in the index.
const COMPARED_MEMBERS_MAX: usize = 8;

pub(super) struct Window {
    /// The stream whose turn it is.
    stream: u32,
    stream_generation: u32,
    /// The next event to read. All before it are in `members`.
    position: Revision,
    /// Last revision to read.
    to: i64,
    members: Vec<Member>,
    by_slot: HashMap<Slot, u32, RandomState>,
    prev_kv: bool,
    /// Encoded bytes taken, each event once.
    bytes: usize,
    visited: usize,
    /// Events noted for the members together.
    references: usize,
    /// Number of the event counted last.
    counted: u64,
    found: Vec<Slot>,
}

struct Member {
    slot: Slot,
    generation: u32,
    next: i64,
    taken: SmallVec<[Taken; 1]>,
}

struct Taken {
    main: i64,
    number: u64,
    bytes: Bytes,
}

impl Hub {
    /// True if [`Hub::catch_up`] has something to do.
    #[must_use]
    pub fn needs_catch_up(&self) -> bool {
        self.window.is_some() || !self.hungry.is_empty()
    }

    /// Reads for watchers that are behind, about `events_max` events (a window from recent events is finished
    /// whatever it takes, that is at most `window_events` and one revision). `history` is a view that is at least as new
    /// as [`Hub::delivered`]; publishing comes before delivering, so any fresh pin is.
    ///
    /// # Errors
    /// [`Fault`](ringstone_pager::api::Fault): nothing is lost; call again once the page is there. Where it is damaged,
    /// [`Hub::give_up_window`] is for those who need it.
    pub fn catch_up(&mut self, history: &impl History, events_max: usize) -> Access<()> {
        let mut budget = events_max.max(1);
        while budget > 0 {
            if self.window.is_none() && !self.open_window(history) {
                return Ok(());
            }
            let Some(last) = self.fill(history, &mut budget)? else { return Ok(()) };
            self.close_window(last);
            budget = budget.saturating_sub(1);
        }
        Ok(())
    }

    /// Chooses the stream whose turn it is and everyone who can read along. False: nobody is left.
    fn open_window(&mut self, history: &impl History) -> bool {
        for _ in 0..self.hungry.len() {
            let Some(index) = self.hungry.pop_front() else { return false };
            self.end_compacted(index, history.compacted());
            let recent = self.recent.from();
            let stream = self.stream_mut(index);
            let first = stream.behind.first().map(|&(next, _)| next);
            let (Some(first), true) = (first, stream.has_demand()) else {
                stream.is_hungry = false;
                continue;
            };
            let stream_generation = stream.generation;
            let to = if first >= recent { self.delivered } else { self.delivered.min(history.revision()) };
            if to < first {
                self.hungry.push_back(index);
                continue;
            }
            let mut window = Window {
                stream: index,
                stream_generation,
                position: Revision { main: first, sub: 0 },
                to,
                members: Vec::new(),
                by_slot: HashMap::default(),
                prev_kv: false,
                bytes: 0,
                visited: 0,
                references: 0,
                counted: 0,
                found: Vec::new(),
            };
            self.invite(&mut window, index);
            for &other in self.hungry.iter().take(STREAMS_LOOKED_AT) {
                self.invite(&mut window, other);
            }
            self.window = Some(window);
            return true;
        }
        false
    }

    /// Ends the watches of a stream that need what is gone. What the recent batches still hold is not gone.
    fn end_compacted(&mut self, index: u32, compacted: i64) {
        let readable = compacted.min(self.recent.from());
        while let Some(&(next, slot)) = self.stream_mut(index).behind.first()
            && next < readable
        {
            let stream = self.stream_mut(index);
            stream.behind.pop_first();
            stream.dead += 1;
            // As in etcd, a dead watch loses the stream's progress requests.
            stream.progress_owed = false;
            let watcher = self.watchers[slot as usize].as_mut().expect("a watcher behind is in the table");
            watcher.state = State::Dead;
            let id = watcher.id;
            self.push(index, Item::Compacted { id, compacted });
        }
    }

    /// Adds the watchers of a stream that need revisions of the window.
    fn invite(&self, window: &mut Window, index: u32) {
        let Some(stream) = self.streams[index as usize].as_ref().filter(|stream| stream.has_demand()) else { return };
        let first = window.position.main;
        let span = i64::try_from(self.limits.window_events).unwrap_or(i64::MAX);
        let last = window.to.min(first.saturating_add(span));
        for &(next, slot) in stream.behind.range((first, 0)..=(last, Slot::MAX)) {
            if window.members.len() == MEMBERS_MAX {
                return;
            }
            let watcher = self.watchers[slot as usize].as_ref().expect("a watcher behind is in the table");
            window.prev_kv |= watcher.wishes.prev_kv;
            window.by_slot.insert(slot, window.members.len() as u32);
            let generation = watcher.generation;
            window.members.push(Member { slot, generation, next, taken: SmallVec::new() });
        }
    }

    /// Reads until the window is full. The last whole revision that it has, or None if the budget is spent.
    fn fill(&mut self, history: &impl History, budget: &mut usize) -> Access<Option<i64>> {
        let from = self.window.as_ref().expect("a window is open").position.main;
        if from >= self.recent.from() {
            return Ok(Some(self.fill_from_recent(from, budget)));
        }
        let Hub { window, watchers, index, limits, next_number, .. } = self;
        let window = window.as_mut().expect("a window is open");
        if from < history.compacted() {
            return Ok(Some(window.forget_partial_revision()));
        }
        let mut last = Some(window.to);
        history.visit_events(window.position, window.to, window.prev_kv, &mut |event| {
            if window.ends_before(&event, limits) {
                last = Some(window.position.main);
            } else if *budget == 0 {
                last = None;
            } else {
                *budget -= 1;
                let encoded = EncodedEvent::default();
                window.take(NumberedEvent { event: &event, encoded: &encoded, number: *next_number }, watchers, index);
                *next_number += 1;
                return ControlFlow::Continue(());
            }
            ControlFlow::Break(())
        })?;
        Ok(last)
    }

    /// The recent batches hold everything that is left to read, up to what is delivered.
    fn fill_from_recent(&mut self, from: i64, budget: &mut usize) -> i64 {
        let Hub { window, recent, watchers, index, limits, delivered, .. } = self;
        let window = window.as_mut().expect("a window is open");
        for batch in recent.batches_from(from) {
            for at in batch.position_of(from)..batch.len() {
                let numbered = batch.at(at);
                // The log has shown the front of this revision already.
                if numbered.event.revision < window.position {
                    continue;
                }
                if window.ends_before(numbered.event, limits) {
                    return window.position.main;
                }
                window.take(numbered, watchers, index);
                *budget = budget.saturating_sub(1);
            }
        }
        *delivered
    }

    /// The log is damaged where the open window stands: the watches that need it end, with this reason. All others go on.
    pub fn give_up_window(&mut self, reason: &str) {
        let Some(window) = self.window.take() else { return };
        let (reason, revision): (Rc<str>, i64) = (reason.into(), self.delivered);
        // Those that begin behind it get a window of their own.
        for member in window.members.iter().filter(|member| member.next <= window.position.main) {
            let watcher = self.watchers[member.slot as usize].as_ref();
            let is_same = |watcher: &&Watcher| watcher.generation == member.generation;
            let Some(watcher) = watcher.filter(is_same) else { continue };
            let (index, id) = (watcher.stream, watcher.id);
            self.remove_watcher(member.slot);
            self.push(index, Item::Ended { id, revision, reason: Rc::clone(&reason) });
            self.maybe_pay_progress(index);
        }
        self.let_go(&window);
    }

    /// Gives the members what the window has for them. They now have everything up to revision `last`.
    fn close_window(&mut self, last: i64) {
        let window = self.window.take().expect("a window is open");
        for member in &window.members {
            self.close_member(member, last);
        }
        self.let_go(&window);
    }

    /// The stream whose turn it was may have another one.
    fn let_go(&mut self, window: &Window) {
        let stream = self.streams[window.stream as usize].as_mut();
        if let Some(stream) = stream.filter(|stream| stream.generation == window.stream_generation) {
            stream.is_hungry = false;
            self.maybe_hungry(window.stream);
        }
    }

    fn close_member(&mut self, member: &Member, last: i64) {
        let (delivered, limits) = (self.delivered, self.limits);
        let watcher = self.watchers[member.slot as usize].as_mut();
        let Some(watcher) = watcher.filter(|watcher| watcher.generation == member.generation) else { return };
        if watcher.state != State::Behind(member.next) {
            return;
        }
        let index = watcher.stream;
        let stream = self.streams[index as usize].as_mut().expect("a watcher's stream is open");
        if let Some(newest) = member.taken.last() {
            let fresh = member.taken.iter().filter(|taken| stream.is_fresh(taken.number));
            let fresh_bytes = fresh.map(|taken| taken.bytes.len()).sum();
            let head = EventsHead { id: watcher.id, revision: delivered, fragment: watcher.wishes.fragment };
            let events = member.taken.iter().map(|taken| taken.bytes.clone()).collect();
            // More than for live events, so that these cannot keep it out for ever.
            let cost_max = limits.queue_bytes + 2 * limits.window_bytes;
            if !stream.push_events(head, events, newest.number, fresh_bytes, cost_max) {
                return;
            }
            watcher.quiet = false;
        }
        let next = member.next.max(last.saturating_add(1));
        assert!(stream.behind.remove(&(member.next, member.slot)), "a watcher behind is in the set");
        if next > delivered {
            watcher.state = State::Live;
        } else {
            watcher.state = State::Behind(next);
            stream.behind.insert((next, member.slot));
        }
        self.wake(index);
        self.maybe_pay_progress(index);
    }
}

impl Window {
    /// True if the window has enough and a new revision begins with this event.
    fn ends_before(&self, event: &Event, limits: &HubLimits) -> bool {
        let full = self.bytes >= limits.window_bytes || self.visited >= limits.window_events;
        full && event.revision.main > self.position.main
    }

    fn take(&mut self, numbered: NumberedEvent<'_>, watchers: &[Option<Watcher>], index: &WatchIndex) {
        let event = numbered.event;
        self.visited += 1;
        self.position = Revision { main: event.revision.main, sub: event.revision.sub.saturating_add(1) };
        if self.members.len() <= COMPARED_MEMBERS_MAX {
            for at in 0..self.members.len() {
                self.take_for(at, numbered, watchers, true);
            }
        } else {
            let mut found = core::mem::take(&mut self.found);
            found.clear();
            index.stab(&event.kv.key, &mut found);
            for slot in &found {
                if let Some(&at) = self.by_slot.get(slot) {
                    self.take_for(at as usize, numbered, watchers, false);
                }
            }
            self.found = found;
        }
        self.shrink();
    }

    fn take_for(&mut self, at: usize, numbered: NumberedEvent<'_>, watchers: &[Option<Watcher>], compare: bool) {
        let event = numbered.event;
        let member = &mut self.members[at];
        let watcher = watchers[member.slot as usize].as_ref();
        let Some(watcher) = watcher.filter(|watcher| watcher.generation == member.generation) else { return };
        let wanted = member.next <= event.revision.main && watcher.wishes.take(event.kind);
        if !wanted || (compare && !watcher.span.holds(&event.kv.key)) {
            return;
        }
        let bytes = numbered.encoded.get(event, watcher.wishes.prev_kv).clone();
        if self.counted != numbered.number {
            self.counted = numbered.number;
            self.bytes += bytes.len();
        }
        self.references += 1;
        member.taken.push(Taken { main: event.revision.main, number: numbered.number, bytes });
    }

    /// Sends half of the members away until what is noted for them is bounded. They stay behind and come again.
    fn shrink(&mut self) {
        while self.references > REFERENCES_MAX && self.members.len() > 1 {
            self.members.truncate(self.members.len() / 2);
            let left = self.members.len() as u32;
            self.by_slot.retain(|_, at| *at < left);
            self.references = self.members.iter().map(|member| member.taken.len()).sum();
        }
    }

    /// The rest of the revision at hand was compacted while the window was open: it has only what is before it.
    fn forget_partial_revision(&mut self) -> i64 {
        let partial = self.position.main;
        for member in &mut self.members {
            member.taken.retain(|taken| taken.main < partial);
        }
        partial.saturating_sub(1)
    }
}
