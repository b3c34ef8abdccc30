//! The events of the window in their order: what a watch that has fallen behind reads.

use core::ops::{Bound, ControlFlow};

use ringstone_pager::api::{Access, Direction, Fault, ReadTrees};
use ringstone_proto::mvccpb::KeyValue;

use super::lookup::{key_value, previous_key_value, revision_keys};
use super::range::{Budget, Progress};
use super::record::{LogRecord, damaged, revision_of_key, value_of};
use crate::event::{Event, EventKind, Revision};
use crate::state::Window;
use crate::trees::LOG;

/// One event of the log, read in place: copies are made on demand.
pub struct EventRef<'a> {
    view: &'a dyn ReadTrees,
    window: Window,
    record: LogRecord<'a>,
}

impl EventRef<'_> {
    /// Where it stands in the order.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.record.meta.revision
    }

    /// Put or delete.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        if self.record.meta.tombstone { EventKind::Delete } else { EventKind::Put }
    }

    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.record.key
    }

    /// The key-value after it, as a watch shows it.
    ///
    /// # Errors
    /// `Fault`.
    pub fn key_value(&self) -> Access<KeyValue> {
        let value = value_of(self.view, self.record.meta.revision, self.record.value)?;
        Ok(key_value(&self.record.meta, self.record.key, value))
    }

    /// The key-value before it: none for a creation, and none where that has been compacted.
    ///
    /// # Errors
    /// `Fault`.
    pub fn previous(&self) -> Access<Option<KeyValue>> {
        previous_key_value(self.view, self.window, &self.record)
    }

    /// The whole event, `prev_kv` included if asked for.
    ///
    /// # Errors
    /// `Fault`.
    pub fn to_event(&self, with_previous: bool) -> Access<Event> {
        let prev_kv = if with_previous { self.previous()? } else { None };
        Ok(Event { revision: self.revision(), kind: self.kind(), kv: self.key_value()?, prev_kv })
    }
}

/// Shows the events from `cursor` to the end of main revision `to` in order, at most `budget` of them, and moves the
/// cursor behind each one that `on_event` has taken. A budget may end within one main revision; a step takes at least one
/// event.
///
/// `cursor` lies at or behind `window.compact_revision`: the caller cancels what is older. Events at the compacted revision
/// itself are there, deletes too. Nothing is held when this returns.
///
/// # Errors
/// `Fault`, the callback's too: the cursor stands at the event that could not be shown.
pub fn read_events<V: ReadTrees>(
    view: &V,
    window: impl Into<Window>,
    cursor: &mut Revision,
    to: i64,
    budget: &mut Budget,
    on_event: &mut dyn FnMut(&EventRef<'_>) -> Access<()>,
) -> Access<Progress> {
    let window = window.into();
    visit_log(view, cursor, to, budget, <[u8]>::len, &mut |record| on_event(&EventRef { view, window, record }))
}

/// Visits the records of the log from `cursor` to the end of main revision `to`, and moves the cursor behind each one that
/// `on_record` has taken; each costs the budget as many bytes as `charge` says. A step takes at least one.
///
/// # Errors
/// `Fault`, the callback's too: the cursor stands at the record that was not taken.
pub(super) fn visit_log<V: ReadTrees + ?Sized>(
    view: &V,
    cursor: &mut Revision,
    to: i64,
    budget: &mut Budget,
    charge: impl Fn(&[u8]) -> usize,
    on_record: &mut dyn FnMut(LogRecord<'_>) -> Access<()>,
) -> Access<Progress> {
    let (low, high) = (cursor.to_key(), revision_keys(0, to).1);
    if low > high {
        return Ok(Progress::Done);
    }
    let mut fault: Option<Fault> = None;
    let mut progress = Progress::Done;
    let mut first = true;
    let range = (Bound::Included(&low[..]), Bound::Included(&high[..]));
    view.visit(LOG, range, Direction::Forward, false, &mut |at, bytes| {
        if budget.is_spent() && !first {
            progress = Progress::More;
            return ControlFlow::Break(());
        }
        first = false;
        budget.spend(charge(bytes));
        let taken = revision_of_key(LOG, at).and_then(|revision| {
            let record = LogRecord::parse(revision, bytes);
            on_record(record.ok_or_else(|| damaged(LOG, "a record can't be read"))?)?;
            Ok(Revision { main: revision.main, sub: revision.sub.saturating_add(1) })
        });
        match taken {
            Ok(next) => {
                *cursor = next;
                ControlFlow::Continue(())
            }
            Err(met) => {
                fault = Some(met);
                ControlFlow::Break(())
            }
        }
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(progress),
    }
}
