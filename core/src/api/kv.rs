//! The KV service.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringstone_net::{Claim, Framed, ResponseSink, ShardMemory, Status, decode_request};
use ringstone_proto::DecodeError;
use ringstone_proto::etcdserverpb::range_request::SortTarget;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RangeStreamResponse, ResponseOp,
    TxnRequest, TxnResponse,
};

use super::pieces::{self, Pieces};
use super::{Answered, Api, encode};
use crate::command::Command;
use crate::error::Error;
use crate::group::Reply;
use crate::mvcc::{self, Budget, Progress, RangeScan, ReadTxn, check, request};
use crate::shard::read_budget;
use crate::shard::stages::Trace;

/// How often a physical compaction looks whether the sweep has passed.
const PHYSICAL_POLL: Duration = Duration::from_millis(5);
/// Longest answer in bytes: gRPC's bound is 2^31 - 1, header and count included.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize - 1024;
/// How often a large range of the latest revision begins anew because a compaction overtook it.
const RESTARTS_MAX: u32 = 8;
/// First chunk of a RangeStream, in keys.
const STREAM_CHUNK_FIRST: usize = 10;
/// Messages within a transaction that are decoded, whatever `--max-txn-ops` says: some 13 MiB.
const TXN_MESSAGES_MAX: usize = 65_536;
/// What a record takes beside its key and value.
pub(super) const RECORD_BYTES: usize = 128;

impl Api {
    /// etcd refuses proposals larger than --max-request-bytes; the request's own encoding is most of one.
    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        if bytes > self.shard.shared.config.max_request_bytes { Err(Error::RequestTooLarge) } else { Ok(()) }
    }

    pub(super) async fn range(&self, request: RangeRequest, trace: &Trace) -> Answered {
        trace.about(&request.key, &request.range_end);
        check::check_range(&request)?;
        if !request.serializable {
            if self.is_learner() {
                return Err(Error::NotSupportedForLearner.into());
            }
            self.shard.linearizable().await?;
        }
        let (mut response, pieces) = self.read_range(&request).await?;
        self.shard.metrics().ranges.add(1);
        self.fill(&mut response.header);
        if pieces.is_empty() {
            let mut claim = self.memory.claim();
            claim_answer(&mut claim, &response)?;
            return encode(trace, &response);
        }
        trace.worked();
        Ok(pieces.finish(response))
    }

    /// One answer is at most a quarter of the memory, and less than gRPC's own bound.
    pub(super) fn answer_bytes_max(&self) -> usize {
        let quarter = self.shard.shared.config.memory_limit_bytes / 4;
        usize::try_from(quarter).unwrap_or(usize::MAX).min(ANSWER_BYTES_MAX)
    }

    /// What is read, and in front of it what was encoded meanwhile: each step's, once they are in their order.
    async fn read_range(&self, request: &RangeRequest) -> Result<(RangeResponse, Pieces), Status> {
        let (mut scan, mut pieces, mut restarts) = (RangeScan::new(request), Pieces::new(self.memory.claim()), 0);
        let mut unsorted = Growing::new(&self.memory);
        let in_key_order = scan.in_key_order();
        loop {
            let step = self.shard.read(|pin, window| {
                let mut budget = if in_key_order { read_budget() } else { growing_budget() };
                let progress = scan.step(pin, window, &mut budget)?;
                Ok(Some((progress, budget)))
            });
            match step.await {
                Ok((Progress::Done, _)) => return Ok((scan.finish(), pieces)),
                Ok((Progress::More, left)) => {
                    if scan.is_in_order() {
                        // Those that were sorted are from now on counted as they are encoded.
                        unsorted = Growing::new(&self.memory);
                        let kvs = scan.drain();
                        if !kvs.is_empty() {
                            pieces.push(kvs, self.answer_bytes_max())?;
                        }
                    } else {
                        unsorted.grow(left, self.answer_bytes_max())?;
                    }
                    glommio::yield_if_needed().await;
                }
                // A compaction has overtaken a range of the latest revision, and nobody has seen any of it.
                Err(Error::Compacted) if request.revision <= 0 && !pieces.is_empty() && restarts < RESTARTS_MAX => {
                    (scan, pieces, restarts) =
                        (RangeScan::new(request), Pieces::new(self.memory.claim()), restarts + 1);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn put(&self, message: Bytes, trace: &Trace) -> Answered {
        let bytes = message.len();
        let put: PutRequest = decode_request(message)?;
        trace.about(&put.key, &[]);
        let (cost, shared, admission) = (request::put_cost(&put), &self.shard.shared, self.shard.admission());
        shared.check_space(admission, cost)?;
        check::check_put(&put)?;
        self.check_size(bytes)?;
        shared.check_alarms(admission, cost)?;
        match self.shard.propose(&Command::Put(put.into()), trace).await? {
            Reply::Store(mvcc::Answer::Put(mut response)) => {
                self.shard.metrics().puts.add(1);
                self.fill(&mut response.header);
                encode(trace, &response)
            }
            other => unreachable!("a put is answered by a put, not {other:?}"),
        }
    }

    pub(super) async fn delete_range(&self, message: Bytes, trace: &Trace) -> Answered {
        let bytes = message.len();
        let delete: DeleteRangeRequest = decode_request(message)?;
        trace.about(&delete.key, &delete.range_end);
        check::check_delete(&delete)?;
        self.check_size(bytes)?;
        self.shard.shared.check_alarms(self.shard.admission(), 0)?;
        let expected = self.expect_delete(&delete).await?;
        match self.shard.propose(&Command::DeleteRange(delete.into()), trace).await? {
            Reply::Store(mvcc::Answer::DeleteRange(mut response)) => {
                self.shard.metrics().deletes.add(1);
                self.fill(&mut response.header);
                expected.check(&response, response.header.as_ref())?;
                encode(trace, &response)
            }
            other => unreachable!("a delete is answered by a delete, not {other:?}"),
        }
    }

    /// Operations that are far too many are not even made: an empty one is two bytes in its request.
    fn decode_txn(&self, message: Bytes) -> Result<TxnRequest, Status> {
        let messages_max = self.shard.shared.config.max_txn_ops.saturating_mul(8).max(TXN_MESSAGES_MAX);
        ringstone_proto::decode_within(message, messages_max).map_err(|error| match error {
            DecodeError::TooMany(_) => Error::TooManyOps.into(),
            error => error.into(),
        })
    }

    pub(super) async fn txn(&self, message: Bytes, trace: &Trace) -> Answered {
        let bytes = message.len();
        let txn = self.decode_txn(message)?;
        let (cost, shared, admission) = (request::txn_cost(&txn), &self.shard.shared, self.shard.admission());
        shared.check_space(admission, cost)?;
        check::check_txn(&txn, shared.config.max_txn_ops)?;
        let mut response = if request::is_read_only(&txn) {
            if !request::is_serializable(&txn) {
                self.shard.linearizable().await?;
            }
            self.read_txn(txn).await?
        } else {
            self.check_size(bytes)?;
            shared.check_alarms(admission, cost)?;
            self.write_txn(txn, trace).await?
        };
        self.fill(&mut response.header);
        encode(trace, &response)
    }

    async fn read_txn(&self, txn: TxnRequest) -> Result<TxnResponse, Status> {
        let mut read = ReadTxn::new(txn);
        let mut held = Growing::new(&self.memory);
        loop {
            let step = self.shard.read(|pin, window| {
                let mut budget = growing_budget();
                let progress = read.step(pin, window, &mut budget)?;
                Ok(Some((progress, budget)))
            });
            let (progress, left) = step.await?;
            held.grow(left, self.answer_bytes_max())?;
            if progress == Progress::Done {
                break;
            }
            glommio::yield_if_needed().await;
        }
        let response = read.finish();
        self.count_operations(&response);
        Ok(response)
    }

    async fn write_txn(&self, txn: TxnRequest, trace: &Trace) -> Result<TxnResponse, Status> {
        let expected = self.expect_txn(&txn).await?;
        match self.shard.propose(&Command::try_from(txn)?, trace).await? {
            Reply::Store(mvcc::Answer::Txn(response)) => {
                self.count_operations(&response);
                expected.check(&response, response.header.as_ref())?;
                Ok(response)
            }
            other => unreachable!("a txn is answered by a txn, not {other:?}"),
        }
    }

    /// etcd counts the operations of a transaction, and the transaction where it had more than one.
    fn count_operations(&self, response: &TxnResponse) {
        let metrics = self.shard.metrics();
        let mut operations = 0;
        let mut waiting: Vec<&ResponseOp> = response.responses.iter().collect();
        while let Some(op) = waiting.pop() {
            operations += 1;
            match &op.response {
                Some(Response::ResponseRange(_)) => metrics.ranges.add(1),
                Some(Response::ResponsePut(_)) => metrics.puts.add(1),
                Some(Response::ResponseDeleteRange(_)) => metrics.deletes.add(1),
                Some(Response::ResponseTxn(nested)) => waiting.extend(&nested.responses),
                None => {}
            }
        }
        metrics.txns.add(u64::from(operations > 1));
    }

    pub(super) async fn compact(&self, compaction: CompactionRequest, trace: &Trace) -> Answered {
        self.shard.shared.check_alarms(self.shard.admission(), 0)?;
        let command = Command::Compact { revision: compaction.revision };
        let mut response = match self.shard.propose(&command, trace).await? {
            Reply::Store(mvcc::Answer::Compact(response)) => response,
            other => unreachable!("a compaction is answered by a compaction, not {other:?}"),
        };
        while compaction.physical && self.shard.window().swept_revision < compaction.revision {
            glommio::timer::sleep(PHYSICAL_POLL).await;
        }
        self.fill(&mut response.header);
        encode(trace, &response)
    }

    /// Chunks in key order at one revision; the last one has header, count and more.
    pub(super) async fn range_stream(&self, request: RangeRequest, responses: ResponseSink) -> Result<(), Status> {
        check::check_range_stream(&request)?;
        if !request.serializable {
            self.shard.linearizable().await?;
        }
        // etcd sorts each chunk by another target and then goes on behind the last key: keys repeat or vanish. Not here.
        let request = RangeRequest { sort_target: SortTarget::Key as i32, ..request };
        let target_bytes = self.shard.shared.config.max_request_bytes;
        let mut scan = RangeScan::new(&request);
        let mut chunk_keys = STREAM_CHUNK_FIRST;
        loop {
            let mut budget = Budget { records: chunk_keys, bytes: target_bytes };
            let progress = self.shard.read(|pin, window| scan.step(pin, window, &mut budget).map(Some)).await?;
            if progress == Progress::Done {
                break;
            }
            let kvs = scan.drain();
            if kvs.is_empty() {
                glommio::yield_if_needed().await;
                continue;
            }
            let bytes: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len() + 32).sum();
            if bytes < target_bytes / 2 {
                chunk_keys = chunk_keys.saturating_mul(2);
            } else if bytes > target_bytes * 2 {
                chunk_keys = (chunk_keys / 2).max(1);
            }
            let part = RangeResponse { kvs, ..RangeResponse::default() };
            send(&responses, &RangeStreamResponse { range_response: Some(part) }).await?;
        }
        let mut last = scan.finish();
        self.fill(&mut last.header);
        send(&responses, &RangeStreamResponse { range_response: Some(last) }).await
    }
}

/// An answer that is large is begun only while there is memory for it.
fn claim_answer(claim: &mut Claim, response: &RangeResponse) -> Result<(), Status> {
    const SMALL_RECORDS: usize = 8;
    let large = response.kvs.len() > SMALL_RECORDS || response.kvs.iter().any(|kv| kv.value.len() > 8 << 10);
    if large {
        claim.grow(response.kvs.iter().map(|kv| kv.key.len() + kv.value.len() + RECORD_BYTES).sum())?;
    }
    Ok(())
}

/// For steps whose records are counted by what they leave of it: its bytes are more than those of a few large values, the
/// last of which may go beyond and is not seen.
fn growing_budget() -> Budget {
    Budget { records: 128, bytes: 4 << 20 }
}

/// What an answer holds that grows from step to step and is encoded at its end.
pub(super) struct Growing {
    claim: Claim,
    bytes: usize,
}

impl Growing {
    pub(super) fn new(memory: &Rc<ShardMemory>) -> Growing {
        Growing { claim: memory.claim(), bytes: 0 }
    }

    /// A step has left so much of its [`growing_budget`].
    fn grow(&mut self, left: Budget, bytes_max: usize) -> Result<(), Status> {
        let whole = growing_budget();
        self.take((whole.bytes - left.bytes) + (whole.records - left.records) * RECORD_BYTES, bytes_max)
    }

    /// So many bytes more, of an answer that may have `bytes_max`.
    pub(super) fn take(&mut self, taken: usize, bytes_max: usize) -> Result<(), Status> {
        self.bytes += taken;
        if self.bytes > bytes_max {
            return Err(pieces::too_large(bytes_max));
        }
        self.claim.grow(taken)
    }
}

/// Sends one message; a client that went away ends the call.
pub(super) async fn send(
    responses: &ResponseSink,
    message: &impl ringstone_proto::prost::Message,
) -> Result<(), Status> {
    let framed = Framed::encode(message);
    let mut waiting = responses.hold();
    waiting.set(framed.message_bytes());
    responses.send(framed).await.map_err(|_| Status::CANCELED)
}
