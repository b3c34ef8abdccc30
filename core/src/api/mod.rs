//! etcd's services on a shard: decode, check, then propose or read. One file per service.

mod clients;
mod cluster;
mod expected;
mod http;
mod kv;
mod lease;
mod maintenance;
mod measure;
mod metrics;
mod pieces;
mod watch;

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::{Either, select};
use ringstone_net::{
    CallContext, Code, Entry, Framed, Handler, HttpRequest, HttpResponse, LearnerRule, Method, MethodKind,
    RequestStream, ResponseSink, ShardMemory, Status, UnaryEnd, decode_request,
};
use ringstone_proto::etcdserverpb::ResponseHeader;
use ringstone_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
use ringstone_proto::prost::Message;

pub use clients::ClientRequests;

use clients::Clients;

use crate::error::Error;
use crate::shard::Shard;
use crate::shard::stages::Trace;

/// The handler of one shard's connections.
pub struct Api {
    shard: Rc<Shard>,
    memory: Rc<ShardMemory>,
    clients: Clients,
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(Code::from_number(u32::from(error.code() as u8)), error.text())
    }
}

fn not_built(what: &str) -> Status {
    Status::new(Code::Unimplemented, format!("ringstone: {what} is not built yet"))
}

type Answered = Result<Framed, Status>;

/// The last step of a call's work.
fn encode(trace: &Trace, response: &impl Message) -> Answered {
    trace.worked();
    Ok(Framed::encode(response))
}

impl Api {
    /// For the connections of `shard`, which hold no more than `memory` lets them.
    #[must_use]
    pub fn new(shard: Rc<Shard>, memory: Rc<ShardMemory>) -> Api {
        Api { shard, memory, clients: Clients::default() }
    }

    /// Calls so far by the version of their clients.
    #[must_use]
    pub fn client_requests(&self) -> Vec<ClientRequests> {
        self.clients.snapshot()
    }

    fn is_learner(&self) -> bool {
        self.shard.shared.is_learner.load(Ordering::Relaxed)
    }

    /// A header with the ids and the term; the revision is the caller's.
    fn header(&self, revision: i64) -> ResponseHeader {
        let shared = &self.shard.shared;
        ResponseHeader {
            cluster_id: shared.identity.cluster_id,
            member_id: shared.identity.member_id,
            revision,
            raft_term: shared.term.load(Ordering::Relaxed),
        }
    }

    /// Fills ids and term into a header that has the revision only.
    fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(revision));
    }

    async fn dispatch(&self, method: Method, message: Bytes, trace: &Trace) -> Answered {
        match method {
            Method::KvRange => self.range(decode_request(message)?, trace).await,
            Method::KvPut => self.put(message, trace).await,
            Method::KvDeleteRange => self.delete_range(message, trace).await,
            Method::KvTxn => self.txn(message, trace).await,
            Method::KvCompact => self.compact(decode_request(message)?, trace).await,
            Method::LeaseGrant => self.lease_grant(decode_request(message)?, trace).await,
            Method::LeaseRevoke => self.lease_revoke(decode_request(message)?, trace).await,
            Method::LeaseTimeToLive => self.lease_time_to_live(decode_request(message)?, trace).await,
            Method::LeaseLeases => self.lease_leases(decode_request(message)?, trace).await,
            Method::ClusterMemberList => self.member_list(decode_request(message)?, trace).await,
            Method::MaintenanceAlarm => self.alarm(decode_request(message)?, trace).await,
            Method::MaintenanceStatus => self.status(decode_request(message)?, trace).await,
            Method::MaintenanceDefragment => self.defragment(decode_request(message)?, trace).await,
            Method::MaintenanceHash => self.hash(decode_request(message)?, trace).await,
            Method::MaintenanceHashKV => self.hash_kv(decode_request(message)?, trace).await,
            Method::HealthCheck => Ok(Framed::encode(&HealthCheckResponse { status: ServingStatus::Serving as i32 })),
            Method::ClusterMemberAdd => self.member_add(decode_request(message)?, trace).await,
            Method::ClusterMemberRemove => self.member_remove(decode_request(message)?, trace).await,
            Method::ClusterMemberUpdate => self.member_update(decode_request(message)?, trace).await,
            Method::ClusterMemberPromote => self.member_promote(decode_request(message)?, trace).await,
            Method::MaintenanceMoveLeader => self.move_leader(decode_request(message)?, trace).await,
            Method::MaintenanceDowngrade => self.downgrade(decode_request(message)?, trace).await,
            other => Err(not_built(other.service())),
        }
    }

    /// A stream whose client asks for a leader ends when there is none for too long, so that it goes to another member.
    async fn while_led(
        &self,
        call: &CallContext,
        stream: impl Future<Output = Result<(), Status>>,
    ) -> Result<(), Status> {
        if call.metadata_text("hasleader") != Some("true") {
            return stream.await;
        }
        match select(pin!(stream), pin!(self.shard.leader_is_lost())).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(Error::NoLeader.into()),
        }
    }

    /// For streams that only their client ends: at a stop they end at once, and the client goes to another member.
    async fn until_stop(&self, stream: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
        match select(pin!(stream), pin!(self.shard.told_to_stop())).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Err(Error::Stopped.into()),
        }
    }
}

impl Handler for Api {
    type Notes = Trace;

    fn admit(&self, method: Method, entry: Entry, call: &CallContext) -> Result<(), Status> {
        // Auth is not built yet.
        if entry.on_learner == LearnerRule::Refuses && self.is_learner() {
            return Err(Error::NotSupportedForLearner.into());
        }
        let version = call.metadata().get("client-api-version");
        if let Some(version) = version
            && version.to_str().is_err()
            && std::str::from_utf8(version.as_bytes()).is_err()
        {
            return Err(Error::InvalidClientApiVersion.into());
        }
        if call.metadata_text("hasleader") == Some("true") && self.shard.shared.leader.load(Ordering::Relaxed) == 0 {
            return Err(Error::NoLeader.into());
        }
        self.clients.count(version, method.kind() == MethodKind::Unary);
        Ok(())
    }

    async fn unary(&self, method: Method, call: &CallContext, message: Bytes, trace: &Trace) -> Answered {
        trace.begin(call.started_at(), message.len());
        let outcome = self.dispatch(method, message, trace).await;
        trace.encoded();
        outcome
    }

    fn unary_ended(&self, method: Method, _call: &CallContext, trace: &Trace, end: UnaryEnd) {
        self.measure(method, trace, end);
    }

    async fn stream(
        &self,
        method: Method,
        call: &CallContext,
        mut requests: RequestStream,
        responses: ResponseSink,
    ) -> Result<(), Status> {
        match method {
            Method::Watch => self.while_led(call, self.until_stop(self.watch(requests, responses))).await,
            Method::LeaseKeepAlive => {
                self.while_led(call, self.until_stop(self.lease_keep_alive(requests, responses))).await
            }
            Method::KvRangeStream => self.range_stream(decode_request(requests.only().await?)?, responses).await,
            Method::MaintenanceSnapshot => self.snapshot(decode_request(requests.only().await?)?, responses).await,
            other => Err(not_built(other.service())),
        }
    }

    async fn http(&self, request: HttpRequest) -> HttpResponse {
        self.answer_http(&request).await
    }
}
