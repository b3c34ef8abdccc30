//! What a watcher that is behind needs of the store.

use core::ops::ControlFlow;

use ringstone_pager::api::Access;

use crate::event::{Event, Revision};

/// The window of events that a view of the store still holds. All of one view: revision, compaction and events belong
/// together and do not move while it is borrowed.
pub trait History {
    /// The newest revision of the view.
    fn revision(&self) -> i64;

    /// The compaction revision: events of this revision and all later ones are there, older ones may not be. 0 or less
    /// where nothing was ever compacted.
    fn compacted(&self) -> i64;

    /// Shows the events from `from` (inclusive, a later `sub` resumes inside a revision) to the end of revision `to`, in
    /// order, until the visitor breaks. `prev_kv` says whether [`Event::prev_kv`] is wanted; without it, it may be left
    /// out. `from.main` is at or above [`History::compacted`], `to` at or below [`History::revision`].
    ///
    /// # Errors
    /// [`Fault`](ringstone_pager::api::Fault) at the first page that can't be read: the visitor has seen all events
    /// before it, and the hub resumes behind the last of them.
    fn visit_events(
        &self,
        from: Revision,
        to: i64,
        prev_kv: bool,
        visitor: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Access<()>;
}
