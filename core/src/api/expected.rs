//! How large will the answer to a write be?
//!
//! Apply builds it in one piece, and may not look at a setting; so what a delete with `prev_kv` or a transaction reads is
//! added up before it is proposed, and a request that asks for too much is refused while nothing has changed. Most are let
//! through without a look at the store: few records, or a store that is smaller than any answer may be. Then the
//! aggregates of a range decide; where they can't (they do not know values in trees of their own, limits or old
//! revisions), the range is walked in steps. What writes in front of this one add before it is applied is only seen in its
//! answer ([`Expected::check`]): that one is not given, and says that the request was applied.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;

use ringstone_net::{Claim, Code, Status};
use ringstone_pager::api::ReadTrees as _;
use ringstone_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
};
use ringstone_proto::prost::Message;

use super::Api;
use super::kv::RECORD_BYTES;
use crate::error::{Error, ReadFault};
use crate::mvcc::{Progress, RangeScan, keys};
use crate::shard::read_budget;
use crate::trees::{LIVE, VALUE};

/// Answers from this many bytes on are taken from the memory that all answers share.
const CLAIMED_BYTES_MIN: usize = 64 << 10;

/// A write's answer is within its bound, as far as can be told before the write.
pub(super) struct Expected {
    bytes_max: usize,
    /// None where nothing, or only so little is read that it can't be too large.
    claim: Option<Claim>,
}

impl Expected {
    /// For an answer that was made, of a write that is in the store; `header` has its revision.
    ///
    /// # Errors
    /// It is too large to be given.
    pub fn check(&self, answer: &impl Message, header: Option<&ResponseHeader>) -> Result<(), Status> {
        if self.claim.is_some() && answer.encoded_len() > self.bytes_max {
            let (bytes_max, revision) = (self.bytes_max, header.map_or(0, |header| header.revision));
            let text = format!(
                "ringstone: the request was applied and is in the store at revision {revision}, but its answer has more than {bytes_max} bytes, a quarter of what the server may use: other writes made it that large. Read what it wrote"
            );
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }
}

fn too_large(bytes_max: usize) -> Status {
    let text = format!(
        "ringstone: the answer would have more than {bytes_max} bytes, a quarter of what the server may use, and nothing was changed: ask for fewer keys at a time, or without prev_kv"
    );
    Status::new(Code::ResourceExhausted, text)
}

/// Most records that both branches of a transaction are answered with, where each of its parts says how many.
fn records_of(txn: &TxnRequest) -> Option<usize> {
    txn.success.iter().chain(&txn.failure).try_fold(0_usize, |sum, op| {
        let records = match &op.request {
            Some(Request::RequestRange(range)) => records_max(range)?,
            Some(Request::RequestPut(put)) => usize::from(put.prev_kv),
            Some(Request::RequestDeleteRange(delete)) if !delete.prev_kv => 0,
            Some(Request::RequestDeleteRange(delete)) => delete.range_end.is_empty().then_some(1)?,
            Some(Request::RequestTxn(nested)) => records_of(nested)?,
            None => 0,
        };
        sum.checked_add(records)
    })
}

/// The records that the parts of a request are answered with, in the order of [`bytes_of`].
#[derive(Default)]
struct Reads {
    ranges: Vec<RangeRequest>,
}

impl Reads {
    fn of_delete(&mut self, delete: &DeleteRangeRequest) {
        if delete.prev_kv {
            let (key, range_end) = (delete.key.clone(), delete.range_end.clone());
            self.ranges.push(RangeRequest { key, range_end, ..RangeRequest::default() });
        }
    }

    fn of_put(&mut self, put: &PutRequest) {
        if put.prev_kv {
            self.ranges.push(RangeRequest { key: put.key.clone(), ..RangeRequest::default() });
        }
    }

    fn of_ops(&mut self, ops: &[RequestOp]) {
        for op in ops {
            match &op.request {
                Some(Request::RequestRange(range)) => self.ranges.push(range.clone()),
                Some(Request::RequestPut(put)) => self.of_put(put),
                Some(Request::RequestDeleteRange(delete)) => self.of_delete(delete),
                Some(Request::RequestTxn(txn)) => self.of_txn(txn),
                None => {}
            }
        }
    }

    fn of_txn(&mut self, txn: &TxnRequest) {
        self.of_ops(&txn.success);
        self.of_ops(&txn.failure);
    }
}

/// Of each transaction the larger branch counts; `sizes` are those of its [`Reads`], in their order.
fn bytes_of(txn: &TxnRequest, sizes: &mut std::vec::IntoIter<usize>) -> usize {
    let mut branch = |ops: &[RequestOp]| {
        let mut bytes = 0_usize;
        for op in ops {
            bytes = bytes.saturating_add(match &op.request {
                Some(Request::RequestRange(_)) => sizes.next().unwrap_or(0),
                Some(Request::RequestPut(put)) if put.prev_kv => sizes.next().unwrap_or(0),
                Some(Request::RequestDeleteRange(delete)) if delete.prev_kv => sizes.next().unwrap_or(0),
                Some(Request::RequestTxn(nested)) => bytes_of(nested, sizes),
                _ => 0,
            });
        }
        bytes
    };
    let success = branch(&txn.success);
    success.max(branch(&txn.failure))
}

/// Most records that a range gives; none: as many as there are.
fn records_max(range: &RangeRequest) -> Option<usize> {
    if range.count_only {
        return Some(0);
    }
    if range.range_end.is_empty() {
        return Some(1);
    }
    usize::try_from(range.limit).ok().filter(|limit| *limit > 0)
}

/// What the aggregates say of a range.
enum Told {
    Bytes(usize),
    /// It has to be walked.
    Unknown,
}

impl Api {
    /// For a DeleteRange.
    ///
    /// # Errors
    /// Its answer would be too large; [`Error::Damaged`].
    pub(super) async fn expect_delete(&self, delete: &DeleteRangeRequest) -> Result<Expected, Status> {
        if !delete.prev_kv || delete.range_end.is_empty() {
            return Ok(self.few());
        }
        let mut reads = Reads::default();
        reads.of_delete(delete);
        let sizes = self.sizes(&reads.ranges).await?;
        self.expect(sizes.iter().sum())
    }

    /// For a Txn that writes.
    ///
    /// # Errors
    /// As [`Api::expect_delete`].
    pub(super) async fn expect_txn(&self, txn: &TxnRequest) -> Result<Expected, Status> {
        if records_of(txn).is_some_and(|records| self.are_few(records)) {
            return Ok(self.few());
        }
        let mut reads = Reads::default();
        reads.of_txn(txn);
        let sizes = self.sizes(&reads.ranges).await?;
        self.expect(bytes_of(txn, &mut sizes.into_iter()))
    }

    /// Whether so many records are never too large.
    fn are_few(&self, records: usize) -> bool {
        let record_bytes_max = self.shard.shared.config.max_request_bytes.saturating_add(RECORD_BYTES);
        records.saturating_mul(record_bytes_max) <= self.answer_bytes_max() / 2
    }

    fn few(&self) -> Expected {
        Expected { bytes_max: self.answer_bytes_max(), claim: None }
    }

    fn expect(&self, bytes: usize) -> Result<Expected, Status> {
        let bytes_max = self.answer_bytes_max();
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        let mut claim = self.memory.claim();
        if bytes >= CLAIMED_BYTES_MIN {
            claim.grow(bytes)?;
        }
        Ok(Expected { bytes_max, claim: Some(claim) })
    }

    /// About how many bytes each range gives; 0 for those that can't matter, and of a large one no more than shows it.
    async fn sizes(&self, ranges: &[RangeRequest]) -> Result<Vec<usize>, Status> {
        let mut sizes = vec![0; ranges.len()];
        let bytes_max = self.answer_bytes_max();
        let few_matter = !self.are_few(ranges.iter().filter_map(records_max).fold(0, usize::saturating_add));
        let store_bytes = usize::try_from(self.shard.admission().quota_bytes).unwrap_or(usize::MAX);
        if store_bytes.saturating_mul(ranges.len()) <= bytes_max {
            return Ok(sizes);
        }
        for (range, size) in ranges.iter().zip(&mut sizes) {
            if records_max(range).is_some() && !few_matter {
                continue;
            }
            *size = match self.told(range, bytes_max).await? {
                Told::Bytes(bytes) => bytes,
                Told::Unknown => self.walked(range, bytes_max).await?,
            };
        }
        Ok(sizes)
    }

    /// Of a whole range of the latest revision: what it has at least, if that is too much or all there can be is not.
    async fn told(&self, range: &RangeRequest, bytes_max: usize) -> Result<Told, Status> {
        if range.range_end.is_empty() || range.revision > 0 || keys::is_empty(&range.key, &range.range_end) {
            return Ok(Told::Unknown);
        }
        let bounds = keys::bounds(&range.key, &range.range_end);
        let sum = self.shard.read(|pin, _| {
            let live = pin.aggregate(LIVE, bounds).map_err(ReadFault::from)?;
            let values = pin.aggregate(VALUE, (Bound::Unbounded, Bound::Unbounded));
            Ok(Some((live.bytes, values.map_err(ReadFault::from)?.bytes)))
        });
        let (live, values) = sum.await?;
        let [least, most] = [live, live.saturating_add(values)].map(|sum| usize::try_from(sum).unwrap_or(usize::MAX));
        let filtered = range.min_mod_revision != 0
            || range.max_mod_revision != 0
            || range.min_create_revision != 0
            || range.max_create_revision != 0;
        let is_whole = records_max(range).is_none() && !range.keys_only && !filtered;
        Ok(if most <= bytes_max || (least > bytes_max && is_whole) { Told::Bytes(least) } else { Told::Unknown })
    }

    /// Walks a range until it has ended, or is too large.
    async fn walked(&self, range: &RangeRequest, bytes_max: usize) -> Result<usize, Status> {
        // By their keys, so that nothing has to be kept; of some by another order, the largest ones count: they may be those.
        let sorts = range.sort_target != SortTarget::Key as i32 && range.sort_order != SortOrder::None as i32;
        let limit = usize::try_from(range.limit).ok().filter(|limit| sorts && *limit > 0);
        let mut walk = RangeRequest { sort_target: SortTarget::Key as i32, ..range.clone() };
        if limit.is_some() {
            walk.limit = 0;
        }
        let (mut scan, mut bytes, mut counted) = (RangeScan::new(&walk), 0_usize, BinaryHeap::new());
        loop {
            let step = self.shard.read(|pin, window| scan.step(pin, window, &mut read_budget()).map(Some));
            let progress = match step.await {
                Ok(progress) => progress,
                // The request says so itself.
                Err(Error::Compacted | Error::FutureRevision) => return Ok(0),
                Err(error) => return Err(error.into()),
            };
            for kv in scan.drain() {
                let record = kv.key.len() + kv.value.len() + RECORD_BYTES;
                bytes = bytes.saturating_add(record);
                if let Some(limit) = limit {
                    counted.push(Reverse(record));
                    if counted.len() > limit {
                        bytes -= counted.pop().map_or(0, |Reverse(smallest)| smallest);
                    }
                }
            }
            if progress == Progress::Done || bytes > bytes_max {
                return Ok(bytes);
            }
            glommio::yield_if_needed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use ringstone_net::{Memory, ShardMemory};

    use super::*;

    fn range(key: &'static str) -> RequestOp {
        let range = RangeRequest { key: key.into(), range_end: "z".into(), ..RangeRequest::default() };
        RequestOp { request: Some(Request::RequestRange(range)) }
    }

    fn put(prev_kv: bool) -> RequestOp {
        let put = PutRequest { key: "p".into(), prev_kv, ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    #[test]
    fn the_larger_branch_of_each_transaction_counts() {
        let nested =
            TxnRequest { success: vec![range("a")], failure: vec![range("b"), put(true)], ..TxnRequest::default() };
        let nested = RequestOp { request: Some(Request::RequestTxn(nested)) };
        let txn = TxnRequest {
            success: vec![put(false), nested, range("c")],
            failure: vec![range("d")],
            ..TxnRequest::default()
        };
        let mut reads = Reads::default();
        reads.of_txn(&txn);
        let keys: Vec<&[u8]> = reads.ranges.iter().map(|range| &range.key[..]).collect();
        assert_eq!(keys, [b"a", b"b", b"p", b"c", b"d"]);
        for (sizes, bytes) in [(vec![10, 3, 4, 100, 1], 110), (vec![5, 3, 4, 100, 1], 107), (vec![0, 0, 0, 1, 7], 7)] {
            assert_eq!(bytes_of(&txn, &mut sizes.clone().into_iter()), bytes, "{sizes:?}");
        }
    }

    #[test]
    fn an_answer_that_grew_is_not_given_and_says_that_it_was_applied() {
        let memory = ShardMemory::new(Memory::new(1 << 20, 1));
        let expected = |reads: bool| Expected { bytes_max: 100, claim: reads.then(|| memory.claim()) };
        let header = Some(ResponseHeader { revision: 7, ..ResponseHeader::default() });
        let answer = |bytes: usize| PutRequest { key: vec![b'k'; bytes - 2].into(), ..PutRequest::default() };
        let refused = expected(true).check(&answer(101), header.as_ref()).expect_err("more than 100 bytes");
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.message.contains("was applied and is in the store at revision 7"), "{refused}");
        assert!(expected(true).check(&answer(100), header.as_ref()).is_ok());
        assert!(expected(false).check(&answer(101), header.as_ref()).is_ok(), "it reads nothing to speak of");
    }
}
