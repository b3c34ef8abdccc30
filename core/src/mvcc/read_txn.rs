//! A transaction of ranges only: answered from one revision of the store, without the log.

use ringstone_pager::api::ReadTrees;
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{RangeResponse, ResponseOp, TxnRequest, TxnResponse};

use super::apply::header;
use super::range::{Budget, Progress, RangeScan};
use super::txn::{CompareRef, check_range_revision, holds};
use crate::command::Compare;
use crate::error::{Error, ReadFault};
use crate::state::Window;

/// How often it begins anew because a compaction overtook it.
const RESTARTS_MAX: u32 = 8;

/// A read-only transaction under way: comparisons and the start of all ranges in the first step, then the ranges one
/// after the other, all at the revision of the first step. Holds nothing of a view between two steps.
pub struct ReadTxn {
    request: TxnRequest,
    compare: Vec<Compare>,
    started: Option<Started>,
    restarts: u32,
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
        ReadTxn { request, compare, started: None, restarts: 0 }
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
            let overtaken = result == Err(ReadFault::Refused(Error::Compacted)) && self.started.is_some();
            if !overtaken || self.restarts >= RESTARTS_MAX {
                return result;
            }
            self.restarts += 1;
            self.started = None;
        }
    }

    fn step_once<V: ReadTrees + ?Sized>(
        &mut self,
        view: &V,
        window: Window,
        budget: &mut Budget,
    ) -> Result<Progress, ReadFault> {
        if self.started.is_none() {
            self.started = Some(self.start(view, window)?);
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

    fn start<V: ReadTrees + ?Sized>(&self, view: &V, window: Window) -> Result<Started, ReadFault> {
        let mut succeeded = true;
        for compare in &self.compare {
            if !holds(view, &CompareRef::from(compare))? {
                succeeded = false;
                break;
            }
        }
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
