//! lock, elect: etcd's recipes over keys, leases and watches, with the keys that clientv3 uses, so that both can wait for one
//! another.
//!
//! ```text
//!   lease -> put NAME/LEASE, if it is not there -> wait until no key below NAME/ is older -> held
//! ```

use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use ringstone_net::client::{CallOptions, Client, RequestSender, ResponseReceiver};
use ringstone_net::{Method, Status};
use ringstone_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;
use ringstone_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use ringstone_proto::mvccpb::event::EventType;

use super::args::{Elect, Lock};
use super::check::interrupt;
use super::connect::{Session, failed};
use super::output::Answer;
use super::{ERROR, Failure, Outcome, kv};

/// TTL of an election's lease, in seconds: clientv3's default.
const ELECTION_TTL_S: i64 = 60;

/// A watch, kept open with the value.
pub struct Following {
    _requests: RequestSender,
    responses: ResponseReceiver<WatchResponse>,
}

impl Following {
    /// Events of `[key, range_end)` from `start` on.
    pub async fn open(client: &Client, key: Bytes, range_end: Bytes, start: i64) -> Result<Following, Failure> {
        let opened = client.open::<WatchResponse>(Method::Watch, &CallOptions::default()).await;
        let (mut requests, responses) = opened.map_err(|status| failed(&status))?;
        let create = WatchCreateRequest { key, range_end, start_revision: start, ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(&request).await.map_err(|status| failed(&status))?;
        Ok(Following { _requests: requests, responses })
    }

    /// The next answer with events in it.
    pub async fn next(&mut self) -> Result<WatchResponse, Failure> {
        loop {
            let next = self.responses.next().await.map_err(|status| failed(&status))?;
            let response = next.ok_or_else(|| Failure::new(ERROR, "the server ended the watch"))?;
            if response.compact_revision != 0 {
                return Err(Failure::new(ERROR, "etcdserver: mvcc: required revision has been compacted"));
            }
            if response.canceled {
                return Err(Failure::new(ERROR, format!("the watch is cancelled: {}", response.cancel_reason)));
            }
            if !response.events.is_empty() {
                return Ok(response);
            }
        }
    }
}

/// A key of ours on a lease of ours, kept alive.
struct Candidate<'a> {
    session: &'a Session,
    client: Client,
    lease: i64,
    ttl_s: i64,
    prefix: String,
    key: String,
    /// Its create revision.
    revision: i64,
}

impl<'a> Candidate<'a> {
    async fn stand(session: &'a Session, name: &str, value: &str, ttl_s: i64) -> Result<Candidate<'a>, Failure> {
        let client = session.client().await?;
        let grant = LeaseGrantRequest { ttl: ttl_s, id: 0 };
        let granted: LeaseGrantResponse =
            client.unary(Method::LeaseGrant, &grant, &session.options()).await.map_err(|status| failed(&status))?;
        let prefix = format!("{name}/");
        let key = format!("{prefix}{:x}", granted.id);
        let (lease, ttl_s) = (granted.id, granted.ttl);
        let mut candidate = Candidate { session, client, lease, ttl_s, prefix, key, revision: 0 };
        let absent = candidate.created_at(0);
        let put = PutRequest {
            key: candidate.key.clone().into(),
            value: value.to_owned().into(),
            lease,
            ..PutRequest::default()
        };
        let get = RangeRequest { key: candidate.key.clone().into(), ..RangeRequest::default() };
        let answer = candidate.transact(absent, Request::RequestPut(put), Request::RequestRange(get)).await?;
        let first = answer.responses.first().and_then(|response| response.response.as_ref());
        candidate.revision = match (answer.succeeded, first) {
            (false, Some(Response::ResponseRange(found))) => found.kvs.first().map_or(0, |kv| kv.create_revision),
            _ => answer.header.map_or(0, |header| header.revision),
        };
        Ok(candidate)
    }

    fn created_at(&self, revision: i64) -> Compare {
        Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            key: self.key.clone().into(),
            target_union: Some(TargetUnion::CreateRevision(revision)),
            ..Compare::default()
        }
    }

    async fn transact(&self, compare: Compare, success: Request, failure: Request) -> Result<TxnResponse, Failure> {
        let one = |request| vec![RequestOp { request: Some(request) }];
        let txn = TxnRequest { compare: vec![compare], success: one(success), failure: one(failure) };
        self.client.unary(Method::KvTxn, &txn, &self.session.options()).await.map_err(|status| failed(&status))
    }

    async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Failure> {
        self.client.unary(Method::KvRange, &range, &self.session.options()).await.map_err(|status| failed(&status))
    }

    /// Returns once no older key is there: the newest of them is waited for, then the next.
    async fn wait_for_turn(&self) -> Outcome {
        loop {
            let older = RangeRequest {
                key: self.prefix.clone().into(),
                range_end: kv::prefix_end(self.prefix.as_bytes()),
                limit: 1,
                sort_order: SortOrder::Descend as i32,
                sort_target: SortTarget::Create as i32,
                max_create_revision: self.revision - 1,
                ..RangeRequest::default()
            };
            let found = self.range(older).await?;
            let Some(last) = found.kvs.first() else { return Ok(()) };
            let start = found.header.map_or(0, |header| header.revision) + 1;
            let mut following = Following::open(&self.client, last.key.clone(), Bytes::new(), start).await?;
            while !following.next().await?.events.iter().any(|event| event.r#type == EventType::Delete as i32) {}
        }
    }

    /// The own key, as `get` shows it.
    async fn own(&self) -> Result<RangeResponse, Failure> {
        self.range(RangeRequest { key: self.key.clone().into(), ..RangeRequest::default() }).await
    }

    /// Keeps the lease alive until it is gone, or can't be.
    async fn keep_alive(&self) -> Failure {
        let attempt = async {
            let opened =
                self.client.open::<LeaseKeepAliveResponse>(Method::LeaseKeepAlive, &CallOptions::default()).await;
            let (mut requests, mut responses) = opened?;
            loop {
                requests.send(&LeaseKeepAliveRequest { id: self.lease }).await?;
                let alive = responses.next().await?.is_some_and(|response| response.ttl > 0);
                if !alive {
                    return Ok::<(), Status>(());
                }
                let ttl_ms = self.ttl_s.unsigned_abs().saturating_mul(1_000);
                tokio::time::sleep(Duration::from_millis(ttl_ms / 3)).await;
            }
        };
        match attempt.await {
            Ok(()) => Failure::new(ERROR, "session expired"),
            Err(status) => Failure::new(ERROR, format!("session expired ({})", failed(&status).text)),
        }
    }

    /// Takes the key away, if it still is this candidate's, and the lease with it.
    async fn withdraw(&self) -> Outcome {
        let delete = DeleteRangeRequest { key: self.key.clone().into(), ..DeleteRangeRequest::default() };
        let deleted: Result<DeleteRangeResponse, Status> =
            self.client.unary(Method::KvDeleteRange, &delete, &self.session.options()).await;
        let revoke = LeaseRevokeRequest { id: self.lease };
        // The key is what others wait for; a lease that stays ends by itself.
        let _: Result<LeaseRevokeResponse, Status> =
            self.client.unary(Method::LeaseRevoke, &revoke, &self.session.options()).await;
        deleted.map(drop).map_err(|status| failed(&status))
    }

    /// Runs `wait` while the lease is kept alive; withdraws where it fails or a signal ends it.
    async fn until<T>(&self, wait: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let outcome = tokio::select! {
            outcome = wait => outcome,
            failure = self.keep_alive() => Err(failure),
            () = interrupt() => Err(Failure::new(ERROR, "context canceled")),
        };
        if outcome.is_err() {
            // What went wrong first is what is told.
            let _ = self.withdraw().await;
        }
        outcome
    }

    /// Holds what it has until a signal comes.
    async fn hold(&self, lost: &str) -> Outcome {
        tokio::select! {
            () = interrupt() => self.withdraw().await,
            failure = self.keep_alive() => Err(Failure::new(failure.status, format!("{lost}{}", failure.text))),
        }
    }
}

pub async fn lock(session: &Session, lock: Lock) -> Outcome {
    let [name, command @ ..] = lock.words.as_slice() else {
        let text = "lock takes a lock name argument and an optional command to execute";
        return Err(Failure::arguments(text));
    };
    let candidate = Candidate::stand(session, name, "", lock.ttl).await?;
    candidate.until(candidate.wait_for_turn()).await?;
    let own = candidate.until(candidate.own()).await?;
    if own.kvs.is_empty() {
        return Err(Failure::new(ERROR, "mutex: session is expired"));
    }
    let [program, arguments @ ..] = command else {
        session.output.show(&Answer::Get { response: &own, value_only: false })?;
        return candidate.hold("").await;
    };
    let revision = own.header.map_or(0, |header| header.revision);
    let run = tokio::process::Command::new(program)
        .args(arguments)
        .env("ETCD_LOCK_KEY", &candidate.key)
        .env("ETCD_LOCK_REV", revision.to_string())
        .status();
    // A signal of the terminal is the command's; the lock is held until it has ended, or as long as the lease lives.
    let status = tokio::select! {
        status = run => status.map_err(|error| Failure::new(ERROR, format!("exec: {program:?}: {error}"))),
        failure = candidate.keep_alive() => Err(failure),
    };
    let unlocked = candidate.withdraw().await;
    ended_as(status?).and(unlocked)
}

/// The command's own exit status becomes this program's.
fn ended_as(status: ExitStatus) -> Outcome {
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::new(u8::try_from(code).unwrap_or(ERROR), format!("exit status {code}"))),
        None => Err(Failure::new(ERROR, "the command was ended by a signal")),
    }
}

pub async fn elect(session: &Session, elect: Elect) -> Outcome {
    match (elect.words.as_slice(), elect.listen) {
        ([name], true) => observe(session, name).await,
        ([_], false) => Err(Failure::arguments("no proposal argument but -l not set")),
        ([name, proposal], false) => campaign(session, name, proposal).await,
        ([_, _], true) => Err(Failure::arguments("proposal given but -l is set")),
        _ => Err(Failure::arguments("elect takes one election name argument and an optional proposal argument")),
    }
}

async fn campaign(session: &Session, name: &str, proposal: &str) -> Outcome {
    let candidate = Candidate::stand(session, name, proposal, ELECTION_TTL_S).await?;
    candidate.until(candidate.wait_for_turn()).await?;
    let own = candidate.until(candidate.own()).await?;
    session.output.show(&Answer::Get { response: &own, value_only: false })?;
    candidate.hold("elect: ").await
}

/// Shows each leader, and each word of one, until a signal comes.
async fn observe(session: &Session, name: &str) -> Outcome {
    let client = session.client().await?;
    let prefix = format!("{name}/");
    let watch = async {
        loop {
            let eldest = RangeRequest {
                key: prefix.clone().into(),
                range_end: kv::prefix_end(prefix.as_bytes()),
                limit: 1,
                sort_order: SortOrder::Ascend as i32,
                sort_target: SortTarget::Create as i32,
                ..RangeRequest::default()
            };
            let found: RangeResponse =
                client.unary(Method::KvRange, &eldest, &session.options()).await.map_err(|status| failed(&status))?;
            let next = found.header.as_ref().map_or(0, |header| header.revision) + 1;
            match found.kvs.first() {
                Some(leader) => {
                    session.output.show(&Answer::Get { response: &found, value_only: false })?;
                    follow(session, &client, leader.key.clone(), next).await?;
                }
                None => {
                    let (key, end) = (prefix.clone().into(), kv::prefix_end(prefix.as_bytes()));
                    Following::open(&client, key, end, next).await?.next().await?;
                }
            }
        }
    };
    tokio::select! {
        outcome = watch => outcome,
        () = interrupt() => Ok(()),
    }
}

/// Shows what a leader says until it is gone.
async fn follow(session: &Session, client: &Client, key: Bytes, start: i64) -> Outcome {
    let mut following = Following::open(client, key, Bytes::new(), start).await?;
    loop {
        let response = following.next().await?;
        for event in response.events {
            if event.r#type == EventType::Delete as i32 {
                return Ok(());
            }
            let kvs = event.kv.into_iter().collect();
            let shown = RangeResponse { header: response.header, kvs, ..RangeResponse::default() };
            session.output.show(&Answer::Get { response: &shown, value_only: false })?;
        }
    }
}
