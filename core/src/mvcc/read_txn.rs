//! A transaction of ranges only: answered from one revision of the store, without the log.

use bytes::Bytes;
use ringstone_pager::api::{Access, ReadTrees};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseOp, TxnRequest, TxnResponse};

use super::apply::header;
use super::compare::{CompareRef, holds};
use super::keys;
use super::range::{Budget, Progress, RangeScan};
use super::txn::check_range_revision;
use crate::command::Compare;
use crate::error::{Error, ReadFault};
use crate::state::Window;
use crate::trees::LIVE;

impl ComparingAt {
    /// Whether the comparison holds; none: step again.
    fn step<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        window: Window,
        compare: &CompareRef<'_>,
        budget: &mut Budget,
    ) -> Result<Option<bool>, ReadFault> {
        let scan = self.scan.get_or_insert_with(|| {
            let (key, range_end) = compare.keys();
            RangeScan::new(&RangeRequest {
                key: Bytes::copy_from_slice(key),
                range_end: Bytes::copy_from_slice(range_end),
                revision: self.revision,
                keys_only: !compare.wants_values(),
                ..RangeRequest::default()
            })
        });
        let progress = scan.step(view, window, budget)?;
        let given = scan.drain();
        self.any |= !given.is_empty();
        if !given.iter().all(|kv| compare.holds_for_given(Some(kv))) {
            return Ok(Some(false));
        }
        if progress == Progress::More {
            return Ok(None);
        }
        self.scan = None;
        let any = core::mem::take(&mut self.any);
        Ok(Some(any || compare.holds_for_given(None)))
    }
}

/// How often it begins anew because a compaction overtook it.
const RESTARTS_MAX: u32 = 8;

/// What is compared in one step. The caller's budget counts what the answer holds: comparisons leave nothing.
const COMPARED: Budget = Budget { records: 2048, bytes: 1 << 20 };

/// A read-only transaction under way: comparisons, then the start of all ranges, then these one after the other, all at
/// the revision of the first step. Comparisons of few keys are made at once. Holds nothing of a view between two steps.
pub struct ReadTxn {
    request: TxnRequest,
    compare: Vec<Compare>,
    comparing: Option<ComparingAt>,
    started: Option<Started>,
    restarts: u32,
}

/// Comparisons of many keys under way.
struct ComparingAt {
    revision: i64,
    /// Those that hold.
    held: usize,
    /// Of the next one, and whether it has met a key.
    scan: Option<RangeScan>,
    any: bool,
}

struct Started {
    succeeded: bool,
    revision: i64,
    scans: Vec<RangeScan>,
    done: Vec<RangeResponse>,
}

impl ReadTxn {
    /// For a checked request of which [`super::request::is_read_only`] holds.
    #[must_use]
    pub fn new(mut request: TxnRequest) -> ReadTxn {
        let compare = core::mem::take(&mut request.compare).into_iter().map(Compare::from).collect();
        ReadTxn { request, compare, comparing: None, started: None, restarts: 0 }
    }

    /// Goes on by at most `budget` in `view`, whose window is `window`; [`Progress::Done`] means that `finish` may be
    /// called.
    ///
    /// # Errors
    /// [`ReadFault::Absent`]: call again. Else the answer.
    pub fn step<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        window: impl Into<Window>,
        budget: &mut Budget,
    ) -> Result<Progress, ReadFault> {
        let window = window.into();
        loop {
            let result = self.step_once(view, window, budget);
            // Only a range of the latest revision may begin anew; one that names its revision has lost it.
            let has_begun = self.started.is_some() || self.comparing.is_some();
            let overtaken = result == Err(ReadFault::Refused(Error::Compacted)) && has_begun;
            if !overtaken || self.restarts >= RESTARTS_MAX {
                return result;
            }
            self.restarts += 1;
            (self.comparing, self.started) = (None, None);
        }
    }

    fn step_once<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        window: Window,
        budget: &mut Budget,
    ) -> Result<Progress, ReadFault> {
        if self.started.is_none() {
            let Some((succeeded, revision)) = self.compared(view, window)? else { return Ok(Progress::More) };
            self.started = Some(self.start(Window { revision, ..window }, succeeded)?);
            self.comparing = None;
        }
        let started = self.started.as_mut().expect("started above");
        while let Some(scan) = started.scans.last_mut() {
            if scan.step(view, window, budget)? == Progress::More {
                return Ok(Progress::More);
            }
            started.done.extend(started.scans.pop().map(RangeScan::finish));
            if budget.is_spent() && !started.scans.is_empty() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// Whether all comparisons hold, and at which revision; none: step again.
    fn compared<V: ReadTrees + ?Sized>(&mut self, view: &V, window: Window) -> Result<Option<(bool, i64)>, ReadFault> {
        if self.comparing.is_none() {
            if self.compares_few(view)? {
                for compare in &self.compare {
                    if !holds(view, &CompareRef::from(compare))? {
                        return Ok(Some((false, window.revision)));
                    }
                }
                return Ok(Some((true, window.revision)));
            }
            self.comparing = Some(ComparingAt { revision: window.revision, held: 0, scan: None, any: false });
        }
        let comparing = self.comparing.as_mut().expect("begun above");
        let mut budget = COMPARED;
        while let Some(compare) = self.compare.get(comparing.held) {
            match comparing.step(view, window, &CompareRef::from(compare), &mut budget)? {
                None => return Ok(None),
                Some(false) => return Ok(Some((false, comparing.revision))),
                Some(true) => comparing.held += 1,
            }
        }
        Ok(Some((true, comparing.revision)))
    }

    fn compares_few<V: ReadTrees + ?Sized>(&self, view: &V) -> Access<bool> {
        let mut records = 0_u64;
        for compare in &self.compare {
            let few = compare.range_end.is_empty() || keys::is_empty(&compare.key, &compare.range_end);
            if !few {
                let sum = view.aggregate(LIVE, keys::bounds(&compare.key, &compare.range_end))?;
                records = records.saturating_add(sum.count);
            }
        }
        Ok(records <= COMPARED.records as u64)
    }

    fn start(&self, window: Window, succeeded: bool) -> Result<Started, ReadFault> {
        let ops = if succeeded { &self.request.success } else { &self.request.failure };
        let mut scans = Vec::with_capacity(ops.len());
        for op in ops {
            let Some(Request::RequestRange(range)) = &op.request else { return Err(Error::KeyNotFound.into()) };
            check_range_revision(window, range.revision)?;
            let mut range = range.clone();
            if range.revision <= 0 {
                range.revision = window.revision;
            }
            let mut scan = RangeScan::new(&range);
            scan.set_header_revision(window.revision);
            scans.push(scan);
        }
        // They are taken from the end.
        scans.reverse();
        Ok(Started { succeeded, revision: window.revision, scans, done: Vec::new() })
    }

    /// The response.
    ///
    /// # Panics
    /// The last step was not [`Progress::Done`].
    #[must_use]
    pub fn finish(self) -> TxnResponse {
        let started =
            self.started.filter(|started| started.scans.is_empty()).expect("the last step said that it is done");
        let responses = started
            .done
            .into_iter()
            .map(|response| ResponseOp { response: Some(Response::ResponseRange(response)) })
            .collect();
        TxnResponse { header: header(started.revision), succeeded: started.succeeded, responses }
    }
}
