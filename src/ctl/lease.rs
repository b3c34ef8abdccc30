//! lease grant, revoke, timetolive, list, keep-alive.

use std::time::Duration;

use ringstone_net::Method;
use ringstone_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

use super::args::{Lease, LeaseCommand};
use super::connect::{Session, failed};
use super::output::{Answer, Format, print_line};
use super::{BAD_CONNECTION, Failure, Outcome, kv};

pub async fn lease(session: &Session, lease: Lease) -> Outcome {
    match lease.command {
        LeaseCommand::Grant { words } => grant(session, &words).await,
        LeaseCommand::Revoke { words } => revoke(session, &words).await,
        LeaseCommand::Timetolive { words, keys } => time_to_live(session, &words, keys).await,
        LeaseCommand::List => leases(session).await,
        LeaseCommand::KeepAlive { words, once } => keep_alive(session, &words, once).await,
    }
}

fn only<'a>(words: &'a [String], otherwise: &str) -> Result<&'a str, Failure> {
    match words {
        [word] => Ok(word),
        _ => Err(Failure::arguments(otherwise)),
    }
}

fn lease_id(word: &str) -> Result<i64, Failure> {
    kv::lease_id(word).map_err(|why| Failure::arguments(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

fn within(what: &str, failure: Failure) -> Failure {
    Failure::new(failure.status, format!("failed to {what} lease ({})", failure.text))
}

async fn grant(session: &Session, words: &[String]) -> Outcome {
    let word = only(words, "lease grant command needs TTL argument")?;
    let ttl = word
        .parse::<i64>()
        .map_err(|_| Failure::arguments(format!("bad TTL (strconv.ParseInt: parsing {word:?}: invalid syntax)")))?;
    let granted = session.call(Method::LeaseGrant, &LeaseGrantRequest { ttl, id: 0 }).await;
    let response: LeaseGrantResponse = granted.map_err(|failure| within("grant", failure))?;
    session.output.show(&Answer::Grant(&response))
}

async fn revoke(session: &Session, words: &[String]) -> Outcome {
    let id = lease_id(only(words, "lease revoke command needs 1 argument")?)?;
    let revoked = session.call(Method::LeaseRevoke, &LeaseRevokeRequest { id }).await;
    let response: LeaseRevokeResponse = revoked.map_err(|failure| within("revoke", failure))?;
    session.output.show(&Answer::Revoke { id, response: &response })
}

/// etcdctl's status for any failure of the commands that look at leases.
fn not_seen(failure: Failure) -> Failure {
    Failure::new(BAD_CONNECTION, failure.text)
}

async fn time_to_live(session: &Session, words: &[String], keys: bool) -> Outcome {
    let id = lease_id(only(words, "lease timetolive command needs lease ID as argument")?)?;
    let request = LeaseTimeToLiveRequest { id, keys };
    let response: LeaseTimeToLiveResponse = session.call(Method::LeaseTimeToLive, &request).await.map_err(not_seen)?;
    session.output.show(&Answer::TimeToLive { response: &response, keys })
}

async fn leases(session: &Session) -> Outcome {
    let called = session.call(Method::LeaseLeases, &LeaseLeasesRequest {}).await;
    let response: LeaseLeasesResponse = called.map_err(not_seen)?;
    session.output.show(&Answer::Leases(&response))
}

async fn keep_alive(session: &Session, words: &[String], once: bool) -> Outcome {
    let id = lease_id(only(words, "lease keep-alive command needs lease ID as argument")?)?;
    let client = session.client().await.map_err(not_seen)?;
    let options = Default::default();
    let opened = client.open::<LeaseKeepAliveResponse>(Method::LeaseKeepAlive, &options).await;
    let (mut requests, mut responses) = opened.map_err(|status| failed(&status))?;
    loop {
        requests.send(&LeaseKeepAliveRequest { id }).await.map_err(|status| failed(&status))?;
        let answer = tokio::time::timeout(session.global.command_timeout, responses.next()).await;
        let answer = answer.map_err(|_| Failure::new(BAD_CONNECTION, "no answer to the keep-alive"))?;
        let Some(response) = answer.map_err(|status| not_seen(failed(&status)))? else {
            return Err(Failure::new(BAD_CONNECTION, "the server ended the stream"));
        };
        if response.ttl <= 0 && once {
            return Err(Failure::new(BAD_CONNECTION, "etcdserver: requested lease not found"));
        }
        if response.ttl <= 0 {
            if session.output.format == Format::Simple {
                print_line(&format!("lease {id:016x} expired or revoked."));
            }
            return Ok(());
        }
        session.output.show(&Answer::KeepAlive(&response))?;
        if once {
            return Ok(());
        }
        // As clientv3: a third of what is left.
        tokio::time::sleep(Duration::from_millis(response.ttl.unsigned_abs().saturating_mul(1000) / 3)).await;
    }
}
