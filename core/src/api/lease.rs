//! The Lease service.

use std::collections::HashSet;
use std::pin::pin;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use ringstone_net::{RequestStream, ResponseSink, Status, decode_request};
use ringstone_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

use super::kv::{Growing, send};
use super::{Answered, Api, encode};
use crate::command::Command;
use crate::error::{Error, ReadFault};
use crate::group::Reply;
use crate::lease::state::{self as leases, LeaseTime, TTL_S_MAX};
use crate::mvcc;
use crate::shard::random_bytes;
use crate::shard::stages::Trace;

/// etcd charges a grant with this many bytes.
const GRANT_COST_BYTES: u64 = 64;
/// Renewals of one stream under way: beyond them the stream is not read.
const RENEWALS_UNDER_WAY_MAX: usize = 4096;
/// Keys or leases that one look copies.
const LIST_SLICE: usize = 1000;
/// What a key of such a list takes beside its bytes: its handle and the allocation's share.
const KEY_BYTES: usize = 80;
/// What a lease of such a list takes: its place in the list, in the set of those that are listed, and in the encoded answer.
const LISTED_BYTES: usize = 64;

impl Api {
    pub(super) async fn lease_grant(&self, request: LeaseGrantRequest, trace: &Trace) -> Answered {
        let shared = &self.shard.shared;
        let admission = self.shard.admission();
        shared.check_space(admission, GRANT_COST_BYTES)?;
        shared.check_alarms(admission, GRANT_COST_BYTES)?;
        if request.ttl > TTL_S_MAX {
            return Err(Error::LeaseTtlTooLarge.into());
        }
        let ttl_s = request.ttl.max(shared.config.lease_ttl_min_s());
        loop {
            let id = if request.id == 0 { random_id() } else { request.id };
            match self.shard.propose(&Command::LeaseGrant { id, ttl_s }, trace).await {
                Ok(Reply::LeaseGrant(mut response)) => {
                    self.shard.metrics().leases_granted.add(1);
                    self.shard.metrics().lease_ttls.record_units(response.ttl.unsigned_abs());
                    self.fill(&mut response.header);
                    return encode(trace, &response);
                }
                Ok(other) => unreachable!("a grant is answered by a grant, not {other:?}"),
                // A random id that is taken: one in 2^63.
                Err(Error::LeaseExists) if request.id == 0 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn lease_revoke(&self, request: LeaseRevokeRequest, trace: &Trace) -> Answered {
        self.shard.shared.check_alarms(self.shard.admission(), 0)?;
        let command = Command::LeaseRevoke { id: request.id, expired_renewal: None };
        let mut response = match self.shard.propose(&command, trace).await? {
            Reply::Store(mvcc::Answer::LeaseRevoke(response)) => response,
            other => unreachable!("a revoke is answered by a revoke, not {other:?}"),
        };
        self.shard.metrics().leases_revoked.add(1);
        self.fill(&mut response.header);
        encode(trace, &response)
    }

    pub(super) async fn lease_time_to_live(&self, request: LeaseTimeToLiveRequest, trace: &Trace) -> Answered {
        // What is left of it is the leader's to say; the lease and its keys are here, once all is that was answered before.
        self.shard.linearizable_by_leader(trace.began()).await?;
        let clock = LeaseTime(self.shard.lease_clock_ms(trace.began()).await?);
        let (record, revision) = self
            .shard
            .read(|pin, window| Ok(Some((leases::get(pin, request.id).map_err(ReadFault::from)?, window.revision))))
            .await?;
        let mut response = LeaseTimeToLiveResponse {
            header: Some(self.header(revision)),
            id: request.id,
            ttl: -1,
            granted_ttl: 0,
            keys: Vec::new(),
        };
        let Some(record) = record else { return encode(trace, &response) };
        response.ttl = record.remaining_s(clock);
        response.granted_ttl = record.ttl_s;
        let (mut more, mut held) = (request.keys, Growing::new(&self.memory));
        while more {
            let after = response.keys.last().cloned();
            let keys = self
                .shard
                .read(|pin, _| {
                    leases::keys_after(pin, request.id, after.as_deref(), LIST_SLICE).map(Some).map_err(ReadFault::from)
                })
                .await?;
            more = keys.len() == LIST_SLICE;
            held.take(keys.iter().map(|key| key.len() + KEY_BYTES).sum(), self.answer_bytes_max())?;
            response.keys.extend(keys);
            glommio::yield_if_needed().await;
        }
        encode(trace, &response)
    }

    pub(super) async fn lease_leases(&self, _request: LeaseLeasesRequest, trace: &Trace) -> Answered {
        let (mut listed, mut seen) = (Vec::new(), HashSet::new());
        let (mut after, mut held) = (None, Growing::new(&self.memory));
        loop {
            let part = self
                .shard
                .read(|pin, _| leases::list(pin, after, LIST_SLICE).map(Some).map_err(ReadFault::from))
                .await?;
            held.take(part.len() * LISTED_BYTES, self.answer_bytes_max())?;
            // One that is renewed meanwhile comes again, at its new deadline.
            listed.extend(part.iter().filter(|entry| seen.insert(entry.id)).map(|entry| LeaseStatus { id: entry.id }));
            after = part.last().copied();
            if part.len() < LIST_SLICE {
                break;
            }
            glommio::yield_if_needed().await;
        }
        let header = Some(self.header(self.shard.window().revision));
        encode(trace, &LeaseLeasesResponse { header, leases: listed })
    }

    /// One answer per request, in order. The client's half-close ends it.
    /// The renewals of a stream are under way together: each waits for its batch in the log, and a client keeps all its
    /// leases alive on one stream. Answers leave in the order of the requests.
    pub(super) async fn lease_keep_alive(
        &self,
        mut requests: RequestStream,
        responses: ResponseSink,
    ) -> Result<(), Status> {
        let mut under_way = FuturesOrdered::new();
        loop {
            let takes_more = under_way.len() < RENEWALS_UNDER_WAY_MAX;
            let event = if under_way.is_empty() {
                Either::Left(requests.next().await)
            } else if takes_more {
                match select(pin!(requests.next()), under_way.next()).await {
                    Either::Left((request, _)) => Either::Left(request),
                    Either::Right((answer, _)) => Either::Right(answer),
                }
            } else {
                Either::Right(under_way.next().await)
            };
            match event {
                Either::Left(Some(message)) => under_way.push_back(self.renew(decode_request(message?)?)),
                Either::Left(None) => break,
                Either::Right(answer) => send_renewal(&responses, answer).await?,
            }
        }
        // The client has said all; it still gets its answers.
        while let Some(answer) = under_way.next().await {
            send_renewal(&responses, Some(answer)).await?;
        }
        Ok(())
    }

    async fn renew(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Error> {
        // The header is from before the renewal: a client never sees a revision at which its lease was gone.
        let header = Some(self.header(self.shard.window().revision));
        let ttl = self.shard.keep_alive(request.id).await?;
        self.shard.metrics().leases_renewed.add(u64::from(ttl > 0));
        Ok(LeaseKeepAliveResponse { header, id: request.id, ttl })
    }
}

async fn send_renewal(
    responses: &ResponseSink,
    answer: Option<Result<LeaseKeepAliveResponse, Error>>,
) -> Result<(), Status> {
    match answer {
        Some(answer) => send(responses, &answer?).await,
        None => Ok(()),
    }
}

/// A positive id that is not 0.
fn random_id() -> i64 {
    loop {
        let id = i64::from_le_bytes(random_bytes()) & i64::MAX;
        if id != 0 {
            return id;
        }
    }
}
