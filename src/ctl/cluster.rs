//! endpoint health, status, hashkv; member list; alarm list, disarm.

use std::time::Instant;

use ringstone_net::{Code, Method};
use ringstone_proto::etcdserverpb::alarm_request::AlarmAction;
use ringstone_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, HashKvRequest, HashKvResponse, MemberListRequest,
    MemberListResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse,
};

use super::args::{Alarm, AlarmCommand, Endpoint, EndpointCommand, Member, MemberCommand};
use super::connect::{Session, text_of};
use super::json::{Object, header, list, text};
use super::{BAD_FEATURE, ERROR, Failure, Outcome, json, kv};

pub async fn endpoint(session: &Session, endpoint: Endpoint) -> Outcome {
    let mut endpoints = session.global.endpoints.clone();
    if endpoint.cluster {
        let members = members(session, true).await?;
        endpoints = members.members.into_iter().flat_map(|member| member.client_urls).collect();
    }
    match endpoint.command {
        EndpointCommand::Health => health(session, &endpoints).await,
        EndpointCommand::Status => status(session, &endpoints).await,
        EndpointCommand::Hashkv { rev } => hash_kv(session, &endpoints, rev).await,
    }
}

async fn members(session: &Session, linearizable: bool) -> Result<MemberListResponse, Failure> {
    session.call(Method::ClusterMemberList, &MemberListRequest { linearizable }).await
}

async fn health(session: &Session, endpoints: &[String]) -> Outcome {
    let mut all_healthy = true;
    let mut found = Vec::new();
    for endpoint in endpoints {
        let began = Instant::now();
        let error = check_health(session, endpoint).await.err();
        let took = took(began.elapsed());
        all_healthy &= error.is_none();
        if session.is_json() {
            let object = Object::new().field("endpoint", text(endpoint)).field("health", error.is_none().to_string());
            found.push(object.field("took", text(&took)).text("error", error.as_deref().unwrap_or("")).end());
        } else {
            match error {
                None => {
                    kv::print_line(&format!("{endpoint} is healthy: successfully committed proposal: took = {took}"));
                }
                Some(error) => eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}"),
            }
        }
    }
    if session.is_json() {
        kv::print_line(&list(found));
    }
    if all_healthy { Ok(()) } else { Err(Failure::new(ERROR, "unhealthy cluster")) }
}

/// A linearizable read that may be forbidden, and no alarm.
async fn check_health(session: &Session, endpoint: &str) -> Result<(), String> {
    let client = session.client_of(endpoint).await.map_err(|failure| failure.text)?;
    let range = RangeRequest { key: "health".into(), ..RangeRequest::default() };
    let read: Result<RangeResponse, _> = client.unary(Method::KvRange, &range, &session.options()).await;
    match read {
        Err(status) if status.code != Code::PermissionDenied => return Err(text_of(&status)),
        _ => {}
    }
    let request = alarm_request(AlarmAction::Get, AlarmMember::default());
    let alarms: Result<AlarmResponse, _> = client.unary(Method::MaintenanceAlarm, &request, &session.options()).await;
    match alarms {
        Ok(response) if response.alarms.is_empty() => Ok(()),
        Ok(response) => {
            let names: Vec<_> = response.alarms.iter().map(|alarm| alarm_name(alarm.alarm)).collect();
            Err(format!("Active Alarm(s): {}", names.join(", ")))
        }
        Err(status) if status.code == Code::PermissionDenied => Ok(()),
        Err(_) => Err("Unable to fetch the alarm list".to_owned()),
    }
}

/// A duration in Go's words.
fn took(duration: std::time::Duration) -> String {
    let digits = |value: f64| format!("{value:.6}").trim_end_matches('0').trim_end_matches('.').to_owned();
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{}s", digits(seconds)),
        seconds if seconds >= 1e-3 => format!("{}ms", digits(seconds * 1e3)),
        seconds => format!("{}µs", digits(seconds * 1e6)),
    }
}

/// A size in the words of Go's humanize library: powers of 1000, two digits.
pub fn human_bytes(bytes: i64) -> String {
    let mut value = bytes.max(0) as f64;
    if value < 10.0 {
        return format!("{value} B");
    }
    for unit in ["B", "kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 999.5 || unit == "EB" {
            let tenths = (value * 10.0).round() / 10.0;
            return if value < 9.95 && unit != "B" {
                format!("{tenths:.1} {unit}")
            } else {
                format!("{value:.0} {unit}")
            };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit takes all")
}

async fn status(session: &Session, endpoints: &[String]) -> Outcome {
    let (mut found, mut failed) = (Vec::new(), false);
    for endpoint in endpoints {
        let answer: Result<StatusResponse, String> = match session.client_of(endpoint).await {
            Ok(client) => client
                .unary(Method::MaintenanceStatus, &StatusRequest {}, &session.options())
                .await
                .map_err(|status| text_of(&status)),
            Err(failure) => Err(failure.text),
        };
        match answer {
            Ok(response) if session.is_json() => {
                let object = Object::new().field("Endpoint", text(endpoint));
                found.push(object.field("Status", json::status(&response)).end());
            }
            Ok(response) => kv::print_line(&status_line(endpoint, &response)),
            Err(error) => {
                failed = true;
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
            }
        }
    }
    if session.is_json() {
        kv::print_line(&if found.is_empty() { "null".to_owned() } else { list(found) });
    }
    if failed { Err(Failure::new(ERROR, "")) } else { Ok(()) }
}

fn status_line(endpoint: &str, response: &StatusResponse) -> String {
    let member_id = response.header.as_ref().map_or(0, |header| header.member_id);
    let unused = response.db_size.saturating_sub(response.db_size_in_use).max(0) as f64;
    let percent = if response.db_size > 0 { unused / response.db_size as f64 * 100.0 } else { 0.0 };
    let downgrade = response.downgrade_info.clone().unwrap_or_default();
    let fields = [
        endpoint.to_owned(),
        format!("{member_id:x}"),
        response.version.clone(),
        response.storage_version.clone(),
        human_bytes(response.db_size),
        human_bytes(response.db_size_in_use),
        format!("{}%", percent.trunc()),
        human_bytes(response.db_size_quota),
        (response.leader == member_id).to_string(),
        response.is_learner.to_string(),
        response.raft_term.to_string(),
        response.raft_index.to_string(),
        response.raft_applied_index.to_string(),
        response.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ];
    fields.join(", ")
}

async fn hash_kv(session: &Session, endpoints: &[String], revision: i64) -> Outcome {
    let (mut found, mut failure) = (Vec::new(), None);
    for endpoint in endpoints {
        let answer: Result<HashKvResponse, String> = match session.client_of(endpoint).await {
            Ok(client) => client
                .unary(Method::MaintenanceHashKV, &HashKvRequest { revision }, &session.options())
                .await
                .map_err(|status| text_of(&status)),
            Err(failure) => Err(failure.text),
        };
        match answer {
            Ok(response) if session.is_json() => {
                let hash = Object::new()
                    .object("header", header(response.header.as_ref()))
                    .number("hash", response.hash)
                    .number("compact_revision", response.compact_revision)
                    .number("hash_revision", response.hash_revision);
                let object = Object::new().field("Endpoint", text(endpoint));
                found.push(object.field("HashKV", hash.end()).end());
            }
            Ok(response) => kv::print_line(&format!("{endpoint}, {}, {}", response.hash, response.hash_revision)),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                failure = Some(Failure::new(ERROR, error));
            }
        }
    }
    if session.is_json() {
        kv::print_line(&if found.is_empty() { "null".to_owned() } else { list(found) });
    }
    failure.map_or(Ok(()), Err)
}

pub async fn member(session: &Session, member: Member) -> Outcome {
    let MemberCommand::List { consistency } = member.command;
    let linearizable = match consistency.as_str() {
        "l" => true,
        "s" => false,
        other => return Err(Failure::new(BAD_FEATURE, format!("unknown consistency flag {other:?}"))),
    };
    let response = members(session, linearizable).await?;
    if session.is_json() {
        let strings = |values: &[String]| values.iter().map(|value| text(value)).collect::<Vec<_>>();
        let members = response.members.iter().map(|member| {
            Object::new()
                .number("ID", member.id)
                .text("name", &member.name)
                .list("peerURLs", strings(&member.peer_urls))
                .list("clientURLs", strings(&member.client_urls))
                .flag("isLearner", member.is_learner)
                .end()
        });
        let object = Object::new().object("header", header(response.header.as_ref()));
        kv::print_line(&object.list("members", members.collect()).end());
        return Ok(());
    }
    for member in &response.members {
        let state = if member.name.is_empty() { "unstarted" } else { "started" };
        kv::print_line(&format!(
            "{:x}, {state}, {}, {}, {}, {}",
            member.id,
            member.name,
            member.peer_urls.join(","),
            member.client_urls.join(","),
            member.is_learner
        ));
    }
    Ok(())
}

fn alarm_request(action: AlarmAction, alarm: AlarmMember) -> AlarmRequest {
    AlarmRequest { action: action as i32, member_id: alarm.member_id, alarm: alarm.alarm }
}

fn alarm_name(alarm: i32) -> String {
    AlarmType::try_from(alarm).map_or_else(|_| alarm.to_string(), |alarm| alarm.as_str_name().to_owned())
}

pub async fn alarm(session: &Session, alarm: Alarm) -> Outcome {
    let request = alarm_request(AlarmAction::Get, AlarmMember::default());
    let mut response: AlarmResponse = session.call(Method::MaintenanceAlarm, &request).await?;
    if matches!(alarm.command, AlarmCommand::Disarm) {
        let mut touched = AlarmResponse::default();
        for alarm in response.alarms {
            let request = alarm_request(AlarmAction::Deactivate, alarm);
            let answer: AlarmResponse = session.call(Method::MaintenanceAlarm, &request).await?;
            touched.alarms.extend(answer.alarms);
        }
        response = touched;
    }
    if session.is_json() {
        let alarms = response
            .alarms
            .iter()
            .map(|alarm| Object::new().number("memberID", alarm.member_id).number("alarm", alarm.alarm).end());
        let object = Object::new().object("header", header(response.header.as_ref()));
        kv::print_line(&object.list("alarms", alarms.collect()).end());
    } else {
        for alarm in &response.alarms {
            kv::print_line(&format!("memberID:{} alarm:{} ", alarm.member_id, alarm_name(alarm.alarm)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcdctl printed them.
    #[test]
    fn sizes_are_those_of_etcdctl() {
        for (bytes, expected) in [(0, "0 B"), (9, "9 B"), (24_576, "25 kB"), (2_147_483_648, "2.1 GB"), (999, "999 B")]
        {
            assert_eq!(human_bytes(bytes), expected);
        }
    }
}
