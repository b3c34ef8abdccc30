//! lease grant, revoke, timetolive, list, keep-alive.

use std::time::Duration;

use ringstone_net::Method;
use ringstone_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

use super::args::{Lease, LeaseCommand};
use super::connect::{Session, failed};
use super::json::{Object, header, header_fields, list};
use super::{BAD_CONNECTION, Failure, Outcome, json, kv};

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
    if session.is_json() {
        let object = header_fields(Object::new(), response.header.as_ref());
        let object = object.field("ID", response.id.to_string()).field("TTL", response.ttl.to_string());
        kv::print_line(&object.field("Error", json::text(&response.error)).end());
    } else {
        kv::print_line(&format!("lease {:016x} granted with TTL({}s)", response.id, response.ttl));
    }
    Ok(())
}

async fn revoke(session: &Session, words: &[String]) -> Outcome {
    let id = lease_id(only(words, "lease revoke command needs 1 argument")?)?;
    let revoked = session.call(Method::LeaseRevoke, &LeaseRevokeRequest { id }).await;
    let response: LeaseRevokeResponse = revoked.map_err(|failure| within("revoke", failure))?;
    if session.is_json() {
        kv::print_line(&Object::new().object("header", header(response.header.as_ref())).end());
    } else {
        kv::print_line(&format!("lease {id:016x} revoked"));
    }
    Ok(())
}

async fn time_to_live(session: &Session, words: &[String], keys: bool) -> Outcome {
    let id = lease_id(only(words, "lease timetolive command needs lease ID as argument")?)?;
    let request = LeaseTimeToLiveRequest { id, keys };
    let response: LeaseTimeToLiveResponse = session.call(Method::LeaseTimeToLive, &request).await?;
    if session.is_json() {
        let keys = match response.keys.is_empty() {
            true => "null".to_owned(),
            false => list(response.keys.iter().map(|key| json::bytes(key)).collect()),
        };
        let object = header_fields(Object::new(), response.header.as_ref());
        let object = object.field("id", response.id.to_string()).field("ttl", response.ttl.to_string());
        let object = object.field("granted-ttl", response.granted_ttl.to_string());
        kv::print_line(&object.field("keys", keys).end());
    } else if response.granted_ttl == 0 && response.ttl == -1 {
        kv::print_line(&format!("lease {id:016x} already expired"));
    } else {
        let mut line =
            format!("lease {id:016x} granted with TTL({}s), remaining({}s)", response.granted_ttl, response.ttl);
        if keys {
            let names: Vec<_> = response.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
            line.push_str(&format!(", attached keys([{}])", names.join(" ")));
        }
        kv::print_line(&line);
    }
    Ok(())
}

async fn leases(session: &Session) -> Outcome {
    let response: LeaseLeasesResponse = session.call(Method::LeaseLeases, &LeaseLeasesRequest {}).await?;
    if session.is_json() {
        let leases = response.leases.iter().map(|lease| Object::new().field("id", lease.id.to_string()).end());
        let object = header_fields(Object::new(), response.header.as_ref());
        kv::print_line(&object.field("leases", list(leases.collect())).end());
    } else {
        kv::print_line(&format!("found {} leases", response.leases.len()));
        response.leases.iter().for_each(|lease| kv::print_line(&format!("{:016x}", lease.id)));
    }
    Ok(())
}

async fn keep_alive(session: &Session, words: &[String], once: bool) -> Outcome {
    let id = lease_id(only(words, "lease keep-alive command needs lease ID as argument")?)?;
    let client = session.client().await?;
    let options = Default::default();
    let opened = client.open::<LeaseKeepAliveResponse>(Method::LeaseKeepAlive, &options).await;
    let (mut requests, mut responses) = opened.map_err(|status| failed(&status))?;
    loop {
        requests.send(&LeaseKeepAliveRequest { id }).await.map_err(|status| failed(&status))?;
        let answer = tokio::time::timeout(session.global.command_timeout, responses.next()).await;
        let answer = answer.map_err(|_| Failure::new(BAD_CONNECTION, "no answer to the keep-alive"))?;
        let Some(response) = answer.map_err(|status| failed(&status))? else {
            return Err(Failure::new(BAD_CONNECTION, "the server ended the stream"));
        };
        if response.ttl <= 0 {
            if once {
                return Err(Failure::new(BAD_CONNECTION, "etcdserver: requested lease not found"));
            }
            kv::print_line(&format!("lease {id:016x} expired or revoked."));
            return Ok(());
        }
        if session.is_json() {
            let object = header_fields(Object::new(), response.header.as_ref());
            kv::print_line(&object.field("ID", response.id.to_string()).field("TTL", response.ttl.to_string()).end());
        } else {
            kv::print_line(&format!("lease {:016x} keepalived with TTL({})", response.id, response.ttl));
        }
        if once {
            return Ok(());
        }
        // As clientv3: a third of what is left.
        tokio::time::sleep(Duration::from_millis(response.ttl.unsigned_abs().saturating_mul(1000) / 3)).await;
    }
}
