//! The store's log as watches that are behind read it.

use core::ops::ControlFlow;

use ringstone_pager::api::{Access, ReadTrees};

use super::history::History;
use crate::event::{Event, Revision};
use crate::mvcc::history::read_events;
use crate::mvcc::{Budget, Progress};
use crate::state::Window;

/// Events that are copied before the visitor sees them: a fault behind one that was shown is met on the next call.
const CHUNK_EVENTS: usize = 64;
/// Bytes of them.
const CHUNK_BYTES: usize = 16 << 10;

/// The window of events of one pinned view.
pub struct LogHistory<'a, V> {
    view: &'a V,
    window: Window,
}

impl<'a, V: ReadTrees> LogHistory<'a, V> {
    /// `window` is the view's own.
    pub fn new(view: &'a V, window: Window) -> LogHistory<'a, V> {
        LogHistory { view, window }
    }
}

impl<V: ReadTrees> History for LogHistory<'_, V> {
    fn revision(&self) -> i64 {
        self.window.revision
    }

    fn compacted(&self) -> i64 {
        self.window.compact_revision
    }

    fn visit_events(
        &self,
        from: Revision,
        to: i64,
        prev_kv: bool,
        visitor: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Access<()> {
        let mut cursor = from;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_EVENTS);
            let mut budget = Budget { records: CHUNK_EVENTS, bytes: CHUNK_BYTES };
            let read = read_events(self.view, self.window, &mut cursor, to, &mut budget, &mut |event| {
                chunk.push(event.to_event(prev_kv)?);
                Ok(())
            });
            for event in chunk {
                if visitor(event).is_break() {
                    return Ok(());
                }
            }
            if read? == Progress::Done {
                return Ok(());
            }
        }
    }
}
