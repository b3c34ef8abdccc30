//! Cleaning up behind the compacted revision, in slices between other work.
//!
//! ```text
//!            cut          swept               target = compacted                until            now
//!   (gone)    |  to be cut  |  events to forget      |  events of the window      |  ..............
//!
//! Keep   window:           an event whose previous record lies in (swept, target] gets a copy of it beside it
//! Free   swept..=target:   tombstones leave `live`; a value that an event here replaced is freed
//! Drop   ..=target:        records beside events that left the window go
//! Cut    ..target:         the log's front goes, whole subtrees at a time
//! ```
//!
//! Events behind `until` need nothing: `apply` already kept what they replaced, because it saw the new compacted revision.
//! The cost follows the window, never the size of the store. The cursor stands in [`State`] and is published with the
//! trees, so a crash between two slices loses nothing and repeats nothing; what one event needs is idempotent, so a slice
//! that meets an absent page simply goes on at that event.

use core::ops::{Bound, ControlFlow};

use bytes::Bytes;
use ringstone_pager::api::{Access, Direction, Fault, ReadTrees, WriteTrees};

use super::apply::put_beside;
use super::hash::hash_between;
use super::lookup::revision_keys;
use super::range::Progress;
use super::record::{
    LiveRecord, LogRecord, Previous, Stored, damaged, event_at, parse_live, revision_of_key, value_bytes,
};
use crate::event::Revision;
use crate::state::{HASH_PENDING, State, Sweep, SweepPhase};
use crate::trees::{BESIDE, LIVE, LOG, VALUE};

/// Cleans up for at most about `records` events or entries. [`Progress::Done`]: nothing is left to do. The caller
/// publishes `state` together with the trees.
///
/// # Errors
/// `Fault::Absent`: bring the pages in and call again; what was done stands, in `state` too.
pub fn compact_slice<T: WriteTrees>(trees: &mut T, state: &mut State, records: usize) -> Access<Progress> {
    let records = records.max(1);
    let Some(sweep) = state.sweep else {
        if state.cut_revision < state.swept_revision {
            return cut(trees, state, records);
        }
        if state.swept_revision >= state.compact_revision {
            return Ok(Progress::Done);
        }
        state.sweep = Some(Sweep {
            target: state.compact_revision,
            until: state.revision,
            phase: SweepPhase::Keep,
            cursor: Revision::default(),
            hash: state.swept_hash,
        });
        return Ok(Progress::More);
    };
    match sweep.phase {
        SweepPhase::Keep => keep(trees, state, sweep, records)?,
        SweepPhase::Free => free(trees, state, sweep, records)?,
        SweepPhase::Drop => drop_beside(trees, state, sweep, records)?,
    }
    Ok(Progress::More)
}

fn keep<T: WriteTrees>(trees: &mut T, state: &mut State, sweep: Sweep, records: usize) -> Access<()> {
    // Whatever has been compacted since needs nothing kept either.
    let from = sweep.cursor.max(Revision { main: state.compact_revision.saturating_add(1), sub: 0 });
    let mut needy: Vec<(Revision, Revision)> = Vec::new();
    let batch = visit_events(trees, from, sweep.until, records, &mut |event| {
        if let Some(previous) = event.previous
            && previous.put_hash.is_some()
            && previous.revision.main > state.swept_revision
            && previous.revision.main <= sweep.target
        {
            needy.push((event.meta.revision, previous.revision));
        }
    })?;
    for (event, previous) in needy {
        keep_beside(trees, state, event, previous)?;
        set_cursor(state, after(event));
    }
    match batch {
        Batch::More(next) => set_cursor(state, next),
        Batch::End => begin_phase(state, SweepPhase::Free),
    }
    Ok(())
}

fn keep_beside<T: WriteTrees>(trees: &mut T, state: &mut State, event: Revision, previous: Revision) -> Access<()> {
    if trees.get(BESIDE, &event.to_key())?.is_some() {
        return Ok(());
    }
    let record = event_at(trees, previous)?;
    let inline = match record.value {
        Stored::Inline(value) => value.to_vec(),
        Stored::External(_) => Vec::new(),
    };
    let value = match record.value {
        Stored::Inline(_) => Stored::Inline(&inline),
        Stored::External(length) => Stored::External(length),
    };
    let record = LiveRecord { meta: record.meta, jump: None, value };
    put_beside(trees, state, event, &record)
}

/// What one event on its way out of the window leaves to do.
struct Leaving {
    revision: Revision,
    hash_change: u64,
    tombstone_of: Option<Bytes>,
    previous: Option<Previous>,
}

fn free<T: WriteTrees>(trees: &mut T, state: &mut State, sweep: Sweep, records: usize) -> Access<()> {
    let from = sweep.cursor.max(Revision { main: state.swept_revision.max(0), sub: 0 });
    let mut leaving = Vec::new();
    let batch = visit_events(trees, from, sweep.target, records, &mut |event| {
        leaving.push(Leaving {
            revision: event.meta.revision,
            hash_change: event.live_hash_change(),
            tombstone_of: event.meta.tombstone.then(|| Bytes::copy_from_slice(event.key)),
            previous: event.previous.filter(|previous| previous.external),
        });
    })?;
    for event in leaving {
        settle_hashes(trees, state, event.revision.main)?;
        free_event(trees, state, sweep.target, &event)?;
        let newly = event.revision.main > state.swept_revision;
        if let (Some(sweep), true) = (&mut state.sweep, newly) {
            sweep.hash = sweep.hash.wrapping_add(event.hash_change);
        }
        set_cursor(state, after(event.revision));
    }
    match batch {
        Batch::More(next) => set_cursor(state, next),
        Batch::End => {
            settle_hashes(trees, state, sweep.target.saturating_add(1))?;
            begin_phase(state, SweepPhase::Drop);
        }
    }
    Ok(())
}

/// Compactions that came while the sweep was behind the one before them: their hashes are known once it arrives there. The
/// next event that it passes is of revision `next`.
fn settle_hashes<T: ReadTrees>(trees: &T, state: &mut State, next: i64) -> Access<()> {
    let Some(Sweep { hash: alive, .. }) = state.sweep else { return Ok(()) };
    for number in 0..state.compaction_hashes.len() {
        let kept = state.compaction_hashes[number];
        if kept.hash == HASH_PENDING && kept.previous < next {
            let hash = hash_between(trees, state, alive, kept.previous, kept.revision)?;
            state.compaction_hashes[number].hash = hash;
        }
    }
    Ok(())
}

fn free_event<T: WriteTrees>(trees: &mut T, state: &mut State, target: i64, event: &Leaving) -> Access<()> {
    let main = event.revision.main;
    // The events at the swept revision itself were seen by the sweep before, all but what the log still showed of them.
    let newly = main > state.swept_revision;
    if let Some(previous) = event.previous {
        let unseen_now = if previous.revision.main < main { newly } else { main < target };
        if unseen_now {
            free_value(trees, state, previous.revision)?;
        }
    }
    if let (Some(key), true) = (&event.tombstone_of, newly)
        && let Some(bytes) = trees.get(LIVE, key)?
        && parse_live(LIVE, bytes)?.meta.revision == event.revision
    {
        trees.delete(LIVE, key)?;
    }
    Ok(())
}

fn free_value<T: WriteTrees>(trees: &mut T, state: &mut State, revision: Revision) -> Access<()> {
    let at = revision.to_key();
    let Some(length) = trees.get(VALUE, &at)?.map(<[u8]>::len) else { return Ok(()) };
    if trees.delete(VALUE, &at)? {
        state.retained_bytes = state.retained_bytes.saturating_sub(value_bytes(length as u64));
    }
    Ok(())
}

fn drop_beside<T: WriteTrees>(trees: &mut T, state: &mut State, sweep: Sweep, records: usize) -> Access<()> {
    let (_, last) = revision_keys(0, sweep.target);
    let mut doomed: Vec<([u8; 16], u64)> = Vec::new();
    let mut fault: Option<Fault> = None;
    let range = (Bound::Unbounded, Bound::Included(&last[..]));
    trees.visit(BESIDE, range, Direction::Forward, false, &mut |at, bytes| {
        let entry = revision_of_key(BESIDE, at)
            .and_then(|revision| Ok((revision.to_key(), parse_live(BESIDE, bytes)?.beside_bytes())));
        match entry {
            Ok(entry) => doomed.push(entry),
            Err(met) => fault = Some(met),
        }
        if fault.is_some() || doomed.len() >= records { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let all = doomed.len() < records;
    for (at, bytes) in doomed {
        trees.delete(BESIDE, &at)?;
        state.retained_bytes = state.retained_bytes.saturating_sub(bytes);
    }
    if all {
        state.swept_revision = sweep.target;
        state.swept_hash = sweep.hash;
        state.sweep = None;
    }
    Ok(())
}

fn cut<T: WriteTrees>(trees: &mut T, state: &mut State, records: usize) -> Access<Progress> {
    let (end, _) = revision_keys(state.swept_revision, 0);
    if trees.delete_front(LOG, (Bound::Unbounded, Bound::Excluded(&end[..])), records)? {
        state.cut_revision = state.swept_revision;
    }
    Ok(Progress::More)
}

enum Batch {
    /// The range is through.
    End,
    /// It goes on here.
    More(Revision),
}

/// Shows up to `records` events of `from` to the end of main revision `to`.
fn visit_events<T: ReadTrees>(
    trees: &T,
    from: Revision,
    to: i64,
    records: usize,
    on_event: &mut dyn FnMut(&LogRecord<'_>),
) -> Access<Batch> {
    let (low, high) = (from.to_key(), revision_keys(0, to).1);
    if low > high {
        return Ok(Batch::End);
    }
    let mut fault: Option<Fault> = None;
    let mut next = None;
    let mut seen = 0;
    let range = (Bound::Included(&low[..]), Bound::Included(&high[..]));
    trees.visit(LOG, range, Direction::Forward, false, &mut |at, bytes| {
        let event = revision_of_key(LOG, at).and_then(|revision| {
            let event = LogRecord::parse(revision, bytes);
            event.ok_or_else(|| damaged(LOG, "a record can't be read"))
        });
        match event {
            Ok(event) if seen == records => next = Some(event.meta.revision),
            Ok(event) => {
                seen += 1;
                on_event(&event);
                return ControlFlow::Continue(());
            }
            Err(met) => fault = Some(met),
        }
        ControlFlow::Break(())
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(next.map_or(Batch::End, Batch::More)),
    }
}

fn after(revision: Revision) -> Revision {
    Revision { main: revision.main, sub: revision.sub.saturating_add(1) }
}

fn set_cursor(state: &mut State, cursor: Revision) {
    if let Some(sweep) = &mut state.sweep {
        sweep.cursor = cursor;
    }
}

fn begin_phase(state: &mut State, phase: SweepPhase) {
    if let Some(sweep) = &mut state.sweep {
        sweep.phase = phase;
        sweep.cursor = Revision::default();
    }
}
