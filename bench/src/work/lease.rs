//! Leases kept alive.

use std::rc::Rc;
use std::time::Duration;

use ringstone_net::client::{CallOptions, Client, RequestSender, ResponseReceiver};
use ringstone_net::{Code, Method, Status};
use ringstone_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse,
};

use super::{Done, Lane};
use crate::BenchError;
use crate::recorder::Call;

/// Longer than a run: should the clean-up fail, the leases end by themselves.
const TTL_S: i64 = 900;
/// For one call of the clean-up.
const REVOKE_PATIENCE: Duration = Duration::from_secs(5);

/// The leases of a run.
pub(crate) struct Leases {
    pub ids: Rc<[i64]>,
}

impl Leases {
    /// Grants `count` leases over the connections.
    ///
    /// # Errors
    /// A grant that failed; those before it are revoked again.
    pub async fn grant(clients: &[Client], count: usize) -> Result<Leases, BenchError> {
        let mut tasks = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let (client, own) = (client.clone(), (count + clients.len() - 1 - number) / clients.len());
            tasks.push(tokio::task::spawn_local(async move {
                let mut ids = Vec::new();
                for _ in 0..own {
                    match grant(&client).await {
                        Ok(id) => ids.push(id),
                        Err(status) => return (ids, Some(status)),
                    }
                }
                (ids, None)
            }));
        }
        let (mut ids, mut failure) = (Vec::new(), None);
        for task in tasks {
            if let Ok((own, failed)) = task.await {
                ids.extend(own);
                failure = failure.or(failed);
            }
        }
        let leases = Leases { ids: ids.into() };
        match failure {
            None => Ok(leases),
            Some(status) => {
                leases.revoke(clients).await;
                Err(BenchError::Call { call: "granting leases", status })
            }
        }
    }

    /// Revokes all of them; one that can't be revoked ends by its time.
    pub async fn revoke(&self, clients: &[Client]) {
        let mut tasks = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let (client, ids, lanes) = (client.clone(), Rc::clone(&self.ids), clients.len());
            tasks.push(tokio::task::spawn_local(async move {
                for &id in ids.iter().skip(number).step_by(lanes) {
                    if revoke(&client, id).await.is_err_and(|status| status.code != Code::NotFound) {
                        return;
                    }
                }
            }));
        }
        for task in tasks {
            let _ = task.await;
        }
    }
}

pub(super) async fn grant(client: &Client) -> Result<i64, Status> {
    let request = LeaseGrantRequest { ttl: TTL_S, ..LeaseGrantRequest::default() };
    let granted: LeaseGrantResponse = client.unary(Method::LeaseGrant, &request, &CallOptions::default()).await?;
    Ok(granted.id)
}

pub(super) async fn revoke(client: &Client, id: i64) -> Result<(), Status> {
    let bounded = CallOptions { timeout: Some(REVOKE_PATIENCE), ..CallOptions::default() };
    let request = LeaseRevokeRequest { id };
    client.unary::<_, LeaseRevokeResponse>(Method::LeaseRevoke, &request, &bounded).await.map(drop)
}

/// A lane's stream of renewals; opened at the first, and again after an error.
#[derive(Default)]
pub(super) struct Renewals(Option<(RequestSender, ResponseReceiver<LeaseKeepAliveResponse>)>);

impl Renewals {
    /// Renews a lease and waits for the answer.
    ///
    /// # Errors
    /// The call's status; the lease is gone.
    pub async fn renew(&mut self, client: &Client, id: i64) -> Result<(), Status> {
        if self.0.is_none() {
            self.0 = Some(client.open(Method::LeaseKeepAlive, &CallOptions::default()).await?);
        }
        let (requests, responses) = self.0.as_mut().expect("opened just above");
        let answer = match requests.send(&LeaseKeepAliveRequest { id }).await {
            Ok(()) => responses.next().await,
            Err(status) => Err(status),
        };
        match answer {
            Ok(Some(answer)) if answer.id == id && answer.ttl > 0 => Ok(()),
            Ok(Some(_)) => Err(Status::new(Code::NotFound, "a lease is gone before its time")),
            Ok(None) => {
                self.0 = None;
                Err(Status::new(Code::Unavailable, "the stream of renewals has ended"))
            }
            Err(status) => {
                self.0 = None;
                Err(status)
            }
        }
    }
}

pub(super) async fn renew(lane: &mut Lane, renewals: &mut Renewals) -> Result<Done, Status> {
    let id = lane.leases[usize::try_from(lane.random.below(lane.leases.len() as u64)).expect("below a length")];
    renewals.renew(&lane.client, id).await?;
    Ok(Done::now(Call::KeepAlive))
}
