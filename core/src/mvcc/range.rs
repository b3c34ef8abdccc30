//! Range, in pieces: a scan copies a bounded number of records from a view, lets go of it, and goes on in a later view
//! at the revision that the first one pinned.
//!
//! ```text
//! start: check the revision; count by the aggregate (latest revision)
//!   -> Count: the count now, corrected by the events behind the revision     (cheaper than a scan of the range)
//!   -> Scan:  collect; and count, where the range has to be walked to its end anyway
//!   -> Sort:  by something else than the keys, in pieces too
//!   -> Give:  what was sorted, piece by piece
//!   -> Done:  cut to the limit
//! ```

use core::cmp::Ordering;
use core::ops::{Bound, ControlFlow};

use bytes::Bytes;
use ringstone_pager::api::{Access, Direction, Fault, KeyRange, ReadTrees};
use ringstone_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse};
use ringstone_proto::mvccpb::KeyValue;

use super::apply::header;
use super::history::visit_log;
use super::keys;
use super::lookup::{Version, at_revision, key_value, key_value_of, revision_keys, version_at};
use super::record::{Meta, parse_live};
use super::sort::{Records, Sorting};
use crate::command::ArchivedRange;
use crate::error::{Error, ReadFault};
use crate::event::Revision;
use crate::state::Window;
use crate::trees::{LIVE, LOG};

/// What one step may cost: records visited, and bytes copied out. A step does at least one record.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Records still to visit.
    pub records: usize,
    /// Bytes still to copy.
    pub bytes: usize,
}

impl Budget {
    /// No bound: for apply, where the answer belongs to one step.
    pub const UNBOUNDED: Budget = Budget { records: usize::MAX, bytes: usize::MAX };

    pub(crate) fn is_spent(&self) -> bool {
        self.records == 0 || self.bytes == 0
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Whether a resumable read has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The budget is spent: call again, with a fresh view if you like.
    More,
    /// All is there.
    Done,
}

/// What is held at once of a range that is only touched.
const TOUCHED_AT_ONCE: Budget = Budget { records: 512, bytes: 1 << 20 };

/// How often a scan of the latest revision begins anew because a compaction overtook it.
const RESTARTS_MAX: u32 = 8;

/// What a range asks for; all checked ([`super::check::check_range`]).
#[derive(Clone, Debug)]
struct Query {
    key: Bytes,
    range_end: Bytes,
    limit: Option<usize>,
    revision: i64,
    order: SortOrder,
    target: SortTarget,
    keys_only: bool,
    count_only: bool,
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

impl Query {
    fn filtered(&self) -> bool {
        self.mod_revision != (0, 0) || self.create_revision != (0, 0)
    }

    fn passes(&self, meta: &Meta) -> bool {
        let within = |(min, max): (i64, i64), revision| (min == 0 || revision >= min) && (max == 0 || revision <= max);
        within(self.mod_revision, meta.revision.main) && within(self.create_revision, meta.create)
    }

    /// Whether the first `limit` records that are met are those that are wanted.
    fn stops_early(&self) -> bool {
        let pushed_down = self.order == SortOrder::None && !self.filtered();
        self.limit.is_some() && (self.target == SortTarget::Key || pushed_down)
    }

    fn direction(&self) -> Direction {
        let backward = self.target == SortTarget::Key && self.order == SortOrder::Descend;
        if backward { Direction::Backward } else { Direction::Forward }
    }

    /// Values are needed to answer, or to sort by.
    fn wants_values(&self) -> bool {
        !self.keys_only || self.target == SortTarget::Value
    }
}

impl From<&RangeRequest> for Query {
    fn from(request: &RangeRequest) -> Query {
        Query {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
            revision: request.revision,
            order: SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None),
            target: SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key),
            keys_only: request.keys_only,
            count_only: request.count_only,
            mod_revision: (request.min_mod_revision, request.max_mod_revision),
            create_revision: (request.min_create_revision, request.max_create_revision),
        }
    }
}

impl From<&ArchivedRange> for Query {
    fn from(range: &ArchivedRange) -> Query {
        Query {
            key: Bytes::copy_from_slice(&range.key),
            range_end: Bytes::copy_from_slice(&range.range_end),
            limit: usize::try_from(range.limit.to_native()).ok().filter(|limit| *limit > 0),
            revision: range.revision.to_native(),
            order: SortOrder::try_from(range.sort_order.to_native()).unwrap_or(SortOrder::None),
            target: SortTarget::try_from(range.sort_target.to_native()).unwrap_or(SortTarget::Key),
            keys_only: range.keys_only,
            count_only: range.count_only,
            mod_revision: (range.min_mod_revision.to_native(), range.max_mod_revision.to_native()),
            create_revision: (range.min_create_revision.to_native(), range.max_create_revision.to_native()),
        }
    }
}

/// A Range under way. Holds copies only: nothing of a view between two steps.
///
/// `step` until [`Progress::Done`], then `finish`; in between `drain` may take what is there, where the order is that of
/// the keys.
#[derive(Debug)]
pub struct RangeScan {
    query: Query,
    /// The revision that headers show; none before the first step.
    current: Option<i64>,
    revision: i64,
    phase: Phase,
    count: i64,
    /// The scan counts what it meets.
    counting: bool,
    /// The scan still takes what it meets.
    collecting: bool,
    position: Position,
    /// The next event to look at while counting.
    counted: Revision,
    kvs: Vec<KeyValue>,
    /// Those that are to be sorted by something else than their keys, all of them.
    unsorted: Records,
    taken: usize,
    more: bool,
    restarts: u32,
    sorting: Option<Sorting>,
    /// Inside a transaction that writes: reads no page that depends on what the transaction has written so far.
    in_txn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    /// Events up to this main revision are still to be looked at.
    Count {
        until: i64,
    },
    Scan,
    Sort,
    Give,
    Done,
}

/// Where a visit stands: behind the last record that was seen, or at one that could not be finished.
#[derive(Debug, Default)]
struct Position {
    key: Vec<u8>,
    kind: PositionKind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PositionKind {
    #[default]
    Fresh,
    At,
    Behind,
}

impl Position {
    fn set(&mut self, key: &[u8], kind: PositionKind) {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.kind = kind;
    }

    /// What is left of `range`; none if that is nothing.
    fn rest<'a>(&'a self, range: KeyRange<'a>, direction: Direction) -> Option<KeyRange<'a>> {
        let bound = match self.kind {
            PositionKind::Fresh => return Some(range),
            PositionKind::At => Bound::Included(&self.key[..]),
            PositionKind::Behind => Bound::Excluded(&self.key[..]),
        };
        let rest = match direction {
            Direction::Forward => (bound, range.1),
            Direction::Backward => (range.0, bound),
        };
        let empty = match rest {
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
            _ => false,
        };
        (!empty).then_some(rest)
    }
}

impl RangeScan {
    /// A scan for a checked request.
    #[must_use]
    pub fn new(request: &RangeRequest) -> RangeScan {
        RangeScan::of(request.into())
    }

    /// A scan for a range of a transaction in the log.
    #[must_use]
    pub fn archived(range: &ArchivedRange) -> RangeScan {
        RangeScan { in_txn: true, ..RangeScan::of(range.into()) }
    }

    /// Touches all pages that [`RangeScan::archived`] of the same range could, whatever the transaction writes before it;
    /// keeps no more than a step's records, and those of a limit.
    pub(crate) fn touch<V: ReadTrees + ?Sized>(
        view: &V,
        window: impl Into<Window>,
        range: &ArchivedRange,
    ) -> Result<(), ReadFault> {
        let (window, scan) = (window.into(), RangeScan::archived(range));
        if scan.query.range_end.is_empty() {
            return scan.run_through(view, window);
        }
        let mut all = scan.query.clone();
        // Which pages, does not depend on the order.
        all.keys_only = !scan.query.wants_values();
        (all.limit, all.target, all.order) = (None, SortTarget::Key, SortOrder::None);
        if scan.query.limit.is_some() {
            // Counted in another way.
            scan.run_through(view, window)?;
        }
        RangeScan { in_txn: true, ..RangeScan::of(all) }.run_through(view, window)
    }

    fn run_through<V: ReadTrees + ?Sized>(mut self, view: &V, window: Window) -> Result<(), ReadFault> {
        while self.step(view, window, &mut TOUCHED_AT_ONCE.clone())? == Progress::More {
            if self.in_key_order() {
                self.drain();
            }
        }
        Ok(())
    }

    fn of(query: Query) -> RangeScan {
        RangeScan {
            query,
            current: None,
            revision: 0,
            phase: Phase::Start,
            count: 0,
            counting: false,
            collecting: true,
            position: Position::default(),
            counted: Revision::default(),
            kvs: Vec::new(),
            unsorted: Records::default(),
            taken: 0,
            more: false,
            restarts: 0,
            sorting: None,
            in_txn: false,
        }
    }

    /// Whether `drain` may be used: the records come in the order of their keys.
    #[must_use]
    pub fn in_key_order(&self) -> bool {
        self.query.target == SortTarget::Key
    }

    /// Whether `drain` may be used now: in the order of their keys, or behind a sort.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_key_order() || matches!(self.phase, Phase::Give | Phase::Done)
    }

    /// Goes on by at most `budget` in `view`, whose window is `window`.
    ///
    /// # Errors
    /// [`ReadFault::Absent`]: call again. [`Error::Compacted`], [`Error::FutureRevision`]: the answer.
    pub fn step<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        window: impl Into<Window>,
        budget: &mut Budget,
    ) -> Result<Progress, ReadFault> {
        let window = window.into();
        self.step_at(view, window, window.revision, budget)
    }

    /// [`RangeScan::step`] where the latest revision is `latest`: inside a transaction it is ahead of the state's.
    pub(crate) fn step_at<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        window: Window,
        latest: i64,
        budget: &mut Budget,
    ) -> Result<Progress, ReadFault> {
        if self.phase == Phase::Start {
            self.start(view, window, latest)?;
        } else if !matches!(self.phase, Phase::Sort | Phase::Give | Phase::Done)
            && self.revision < window.compact_revision
        {
            self.restart()?;
            self.start(view, window, latest)?;
        }
        if let Phase::Count { until } = self.phase {
            if self.count_events(view, until, budget)? == Progress::More {
                return Ok(Progress::More);
            }
            self.phase = if self.query.count_only { Phase::Done } else { Phase::Scan };
        }
        if self.phase == Phase::Scan && self.scan(view, window, latest, budget)? == Progress::Done {
            self.phase = if self.query.target == SortTarget::Key { Phase::Done } else { Phase::Sort };
        }
        if self.phase == Phase::Sort && self.sort(budget) == Progress::Done {
            self.phase = if self.sorting.is_some() { Phase::Give } else { Phase::Done };
        }
        if self.phase == Phase::Give && self.give(budget) == Progress::Done {
            self.phase = Phase::Done;
        }
        Ok(if self.phase == Phase::Done { Progress::Done } else { Progress::More })
    }

    /// The records collected so far and not yet drained, in order. After the last step `finish` has the rest.
    ///
    /// # Panics
    /// The records are not in their order yet ([`RangeScan::is_in_order`]).
    pub fn drain(&mut self) -> Vec<KeyValue> {
        assert!(self.is_in_order(), "only records in their order can be drained");
        // What has been handed out can't be begun anew.
        self.restarts = RESTARTS_MAX;
        core::mem::take(&mut self.kvs)
    }

    /// The response, its header with the revision only.
    #[must_use]
    pub fn finish(mut self) -> RangeResponse {
        if self.query.target != SortTarget::Key && self.sorting.is_none() {
            self.cut_to_limit();
        }
        if self.query.keys_only && self.query.wants_values() {
            self.kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        let current = self.current.unwrap_or_default();
        RangeResponse { header: header(current), kvs: self.kvs, more: self.more, count: self.count }
    }

    /// The revision that the response's header will show, once started.
    #[must_use]
    pub fn header_revision(&self) -> Option<i64> {
        self.current
    }

    /// Makes the header show `revision`: a later range of a read-only transaction pins the first one's.
    pub(crate) fn set_header_revision(&mut self, revision: i64) {
        self.current = Some(revision);
    }

    fn start<V: ReadTrees + ?Sized>(&mut self, view: &V, window: Window, latest: i64) -> Result<(), ReadFault> {
        let asked = self.query.revision;
        if asked > latest {
            return Err(Error::FutureRevision.into());
        }
        let revision = if asked <= 0 { latest } else { asked };
        if revision < window.compact_revision {
            return Err(Error::Compacted.into());
        }
        self.revision = revision;
        self.phase = self.first_phase(view, window, latest)?;
        self.current.get_or_insert(latest);
        Ok(())
    }

    /// Decides how the range is counted.
    fn first_phase<V: ReadTrees + ?Sized>(&mut self, view: &V, window: Window, latest: i64) -> Access<Phase> {
        if keys::is_empty(&self.query.key, &self.query.range_end) {
            return Ok(Phase::Done);
        }
        if self.query.range_end.is_empty() {
            self.single_key(view, window)?;
            return Ok(Phase::Done);
        }
        let range = keys::bounds(&self.query.key, &self.query.range_end);
        let scan = if self.query.count_only { Phase::Done } else { Phase::Scan };
        if !self.query.count_only && !self.query.stops_early() {
            self.counting = true;
            return Ok(scan);
        }
        if self.in_txn && self.query.revision > 0 {
            self.counting = true;
            self.collecting = !self.query.count_only;
            return Ok(Phase::Scan);
        }
        let now = view.aggregate(LIVE, range)?.count;
        self.count = i64::try_from(now).unwrap_or(i64::MAX);
        if self.revision == latest {
            return Ok(scan);
        }
        let (first, last) = revision_keys(self.revision.saturating_add(1), latest);
        let events = view.aggregate(LOG, (Bound::Included(&first[..]), Bound::Included(&last[..])))?.count;
        if events <= now {
            self.counted = Revision { main: self.revision.saturating_add(1), sub: 0 };
            return Ok(Phase::Count { until: latest });
        }
        self.count = 0;
        self.counting = true;
        self.collecting = !self.query.count_only;
        Ok(Phase::Scan)
    }

    fn single_key<V: ReadTrees + ?Sized>(&mut self, view: &V, window: Window) -> Access<()> {
        let key = self.query.key.clone();
        let Some(version) = at_revision(view, window, &key, self.revision)? else { return Ok(()) };
        if !self.query.count_only && self.query.passes(&version.meta) {
            let (meta, value) = self.shown(view, &version)?;
            self.kvs.push(key_value(&meta, &key, value));
        }
        self.count = 1;
        Ok(())
    }

    /// Begins anew at the then latest revision: a compaction has overtaken the scan, and nobody has seen any of it.
    fn restart(&mut self) -> Result<(), ReadFault> {
        if self.query.revision > 0 || self.restarts >= RESTARTS_MAX {
            return Err(Error::Compacted.into());
        }
        *self = RangeScan { restarts: self.restarts + 1, in_txn: self.in_txn, ..RangeScan::of(self.query.clone()) };
        Ok(())
    }

    /// Takes back from the count what the events behind the revision changed.
    fn count_events<V: ReadTrees + ?Sized>(&mut self, view: &V, until: i64, budget: &mut Budget) -> Access<Progress> {
        let (query, count) = (&self.query, &mut self.count);
        visit_log(view, &mut self.counted, until, budget, |_| 0, &mut |record| {
            if keys::contains(&query.key, &query.range_end, record.key) {
                *count -= match (record.meta.tombstone, record.meta.version) {
                    (true, _) => -1,
                    (false, 1) => 1,
                    _ => 0,
                };
            }
            Ok(())
        })
    }

    fn scan<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        window: Window,
        latest: i64,
        budget: &mut Budget,
    ) -> Access<Progress> {
        let query = self.query.clone();
        let direction = query.direction();
        let position = core::mem::take(&mut self.position);
        let range = keys::bounds(&query.key, &query.range_end);
        let Some(rest) = position.rest(range, direction) else { return Ok(Progress::Done) };
        self.position.set(&position.key, position.kind);
        let skip_uncounted = self.revision >= latest && !(self.in_txn && query.revision > 0);
        let mut walk =
            Walk { scan: self, view, window, budget, arena: Arena::default(), fault: None, ended: true, first: true };
        let visited = view.visit(LIVE, rest, direction, skip_uncounted, &mut |key, bytes| walk.visit(key, bytes));
        let Walk { arena, fault, ended, .. } = walk;
        if query.target == SortTarget::Key {
            self.kvs.reserve(arena.records.len());
            arena.each(|kv| self.kvs.push(kv));
        } else {
            arena.each(|kv| self.unsorted.push(kv));
        }
        visited?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        Ok(if ended { Progress::Done } else { Progress::More })
    }

    /// The fields and value that the answer shows.
    fn shown<'a, V: ReadTrees + ?Sized>(&self, view: &'a V, version: &Version<'a>) -> Access<(Meta, &'a [u8])> {
        if self.query.wants_values() {
            return Ok((version.meta, version.value(view)?));
        }
        // etcd answers these from its index, which knows no leases.
        Ok((Meta { lease: 0, ..version.meta }, &[]))
    }

    /// With a limit but an order that needs to see all: never holds more than twice what is wanted.
    fn prune(&mut self) {
        let query = &self.query;
        let Some(limit) = query.limit else { return };
        let kept_max = limit.saturating_mul(2).saturating_add(64);
        if query.target == SortTarget::Key || query.stops_early() || self.kvs.len() < kept_max {
            return;
        }
        self.kvs.select_nth_unstable_by(limit, |left, right| compare(query, left, right));
        self.kvs.truncate(limit);
        self.more = true;
    }

    fn sort(&mut self, budget: &mut Budget) -> Progress {
        let query = &self.query;
        if self.sorting.is_none() {
            if query.limit.is_some() {
                self.kvs.drain(..).for_each(|kv| self.unsorted.push(kv));
            }
            self.sorting = Sorting::begin(self.unsorted.len());
        }
        let Some(sorting) = &mut self.sorting else {
            self.kvs = self.unsorted.take_all();
            self.kvs.sort_unstable_by(|left, right| compare(query, left, right));
            return Progress::Done;
        };
        if budget.is_spent() {
            return Progress::More;
        }
        if !sorting.step(&self.unsorted, budget.records, |left, right| compare(query, left, right)) {
            budget.records = 0;
            return Progress::More;
        }
        self.more |= query.limit.is_some_and(|limit| sorting.truncate(limit));
        Progress::Done
    }

    fn give(&mut self, budget: &mut Budget) -> Progress {
        let sorting = self.sorting.as_mut().expect("it was sorted in steps");
        let blank = self.query.keys_only && self.query.wants_values();
        loop {
            if budget.is_spent() {
                return Progress::More;
            }
            let from = self.kvs.len();
            if sorting.give(&mut self.unsorted, budget.records, &mut self.kvs) {
                return Progress::Done;
            }
            let given = &mut self.kvs[from..];
            if blank {
                given.iter_mut().for_each(|kv| kv.value = Bytes::new());
            }
            budget.records = budget.records.saturating_sub(given.len().max(1));
        }
    }

    fn cut_to_limit(&mut self) {
        if let Some(limit) = self.query.limit
            && self.kvs.len() > limit
        {
            self.kvs.truncate(limit);
            self.more = true;
        }
    }
}

/// One visit of the live tree.
struct Walk<'s, V: ?Sized> {
    scan: &'s mut RangeScan,
    view: &'s V,
    window: Window,
    budget: &'s mut Budget,
    arena: Arena,
    fault: Option<Fault>,
    /// False once the budget stopped the visit.
    ended: bool,
    first: bool,
}

impl<V: ReadTrees + ?Sized> Walk<'_, V> {
    fn visit(&mut self, key: &[u8], bytes: &[u8]) -> ControlFlow<()> {
        if self.budget.is_spent() && !self.first {
            self.ended = false;
            self.scan.position.set(key, PositionKind::At);
            return ControlFlow::Break(());
        }
        self.first = false;
        self.budget.spend(0);
        match self.take(key, bytes) {
            Ok(flow) => {
                self.scan.position.set(key, PositionKind::Behind);
                flow
            }
            Err(fault) => {
                self.fault = Some(fault);
                self.scan.position.set(key, PositionKind::At);
                ControlFlow::Break(())
            }
        }
    }

    fn take(&mut self, key: &[u8], bytes: &[u8]) -> Access<ControlFlow<()>> {
        // The view outlives the visit, but the visitor's slices do not say so: only their copies leave this function.
        let live = parse_live(LIVE, bytes)?;
        let Some(version) = version_at(self.view, self.window, &live, self.scan.revision)? else {
            return Ok(ControlFlow::Continue(()));
        };
        let scan = &mut *self.scan;
        if scan.collecting && scan.query.passes(&version.meta) {
            let limit = scan.query.limit.unwrap_or(usize::MAX);
            let by_key = scan.query.target == SortTarget::Key;
            if by_key && scan.taken == limit {
                scan.more = true;
                scan.collecting = false;
            } else {
                let wants = scan.query.wants_values();
                let meta = if wants { version.meta } else { Meta { lease: 0, ..version.meta } };
                let value = if wants { super::record::value_of(self.view, meta.revision, version.value)? } else { &[] };
                scan.taken += 1;
                self.budget.bytes = self.budget.bytes.saturating_sub(key.len() + value.len());
                if by_key || scan.query.limit.is_none() {
                    self.arena.push(meta, key, value);
                } else {
                    scan.kvs.push(key_value(&meta, key, value));
                    scan.prune();
                    // One more than the limit takes part in the sort, as in etcd.
                    scan.collecting = !(scan.query.stops_early() && scan.taken > limit);
                }
            }
        }
        scan.count += i64::from(scan.counting);
        let go_on = scan.collecting || scan.counting;
        Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }
}

/// Keys and values of one step in one allocation.
#[derive(Default)]
struct Arena {
    bytes: Vec<u8>,
    records: Vec<(Meta, usize, usize)>,
}

impl Arena {
    fn push(&mut self, meta: Meta, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.records.push((meta, key.len(), value.len()));
    }

    fn each(self, mut to: impl FnMut(KeyValue)) {
        let mut bytes = Bytes::from(self.bytes);
        for (meta, key_length, value_length) in self.records {
            let key = bytes.split_to(key_length);
            let value = bytes.split_to(value_length);
            to(key_value_of(&meta, key, value));
        }
    }
}

/// The order that was asked for; ties by key.
fn compare(query: &Query, left: &KeyValue, right: &KeyValue) -> Ordering {
    let order = match query.target {
        SortTarget::Key => left.key.cmp(&right.key),
        SortTarget::Version => left.version.cmp(&right.version),
        SortTarget::Create => left.create_revision.cmp(&right.create_revision),
        SortTarget::Mod => left.mod_revision.cmp(&right.mod_revision),
        SortTarget::Value => left.value.cmp(&right.value),
    };
    let order = if query.order == SortOrder::Descend { order.reverse() } else { order };
    order.then_with(|| left.key.cmp(&right.key))
}
