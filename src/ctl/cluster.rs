//! endpoint health, status, hashkv; defrag; member list; alarm list, disarm.

use std::time::Instant;

use ringstone_net::{Code, Method};
use ringstone_proto::Described;
use ringstone_proto::etcdserverpb::alarm_request::AlarmAction;
use ringstone_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, HashKvRequest, HashKvResponse,
    MemberListRequest, MemberListResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse,
};
use ringstone_proto::prost::Message;

use super::args::{Alarm, AlarmCommand, Defrag, Endpoint, EndpointCommand, Member, MemberCommand};
use super::connect::{Session, text_of};
use super::output::{Answer, Health, alarm_name, human_duration, print_line};
use super::{BAD_FEATURE, ERROR, Failure, Outcome};

pub async fn endpoint(session: &Session, endpoint: Endpoint) -> Outcome {
    let endpoints = endpoints(session, endpoint.cluster).await?;
    match endpoint.command {
        EndpointCommand::Health => health(session, endpoints).await,
        EndpointCommand::Status => status(session, endpoints).await,
        EndpointCommand::Hashkv { rev } => hash_kv(session, endpoints, rev).await,
    }
}

/// Those of the flag, or those of all members.
async fn endpoints(session: &Session, of_cluster: bool) -> Result<Vec<String>, Failure> {
    if !of_cluster {
        return Ok(session.global.endpoints.clone());
    }
    let members = members(session, true).await.map_err(|failure| {
        let text = format!("failed to fetch endpoints from etcd cluster member list: {}", failure.text);
        Failure::new(failure.status, text)
    })?;
    Ok(members.members.into_iter().flat_map(|member| member.client_urls).collect())
}

async fn members(session: &Session, linearizable: bool) -> Result<MemberListResponse, Failure> {
    session.call(Method::ClusterMemberList, &MemberListRequest { linearizable }).await
}

/// A call to this endpoint, with a text for what goes wrong.
async fn ask<Q, A>(session: &Session, endpoint: &str, method: Method, request: &Q) -> Result<A, String>
where
    Q: Message,
    A: Message + Default + Described,
{
    let client = session.client_of(endpoint).await.map_err(|failure| failure.text)?;
    client.unary(method, request, &session.options()).await.map_err(|status| text_of(&status))
}

async fn health(session: &Session, endpoints: Vec<String>) -> Outcome {
    let mut found = Vec::new();
    for endpoint in endpoints {
        let began = Instant::now();
        let error = check_health(session, &endpoint).await.err();
        let took = human_duration(began.elapsed());
        found.push(Health { endpoint, healthy: error.is_none(), took, error: error.unwrap_or_default() });
    }
    session.output.show(&Answer::Health(&found))?;
    match found.iter().all(|health| health.healthy) {
        true => Ok(()),
        false => Err(Failure::new(ERROR, "unhealthy cluster")),
    }
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
            let names = response.alarms.iter().map(|alarm| format!("{} ", alarm_name(alarm.alarm)));
            Err(format!("Active Alarm(s): {}", names.collect::<String>()))
        }
        Err(status) if status.code == Code::PermissionDenied => Ok(()),
        Err(_) => Err("Unable to fetch the alarm list".to_owned()),
    }
}

async fn status(session: &Session, endpoints: Vec<String>) -> Outcome {
    let (mut found, mut failed) = (Vec::new(), false);
    for endpoint in endpoints {
        match ask::<_, StatusResponse>(session, &endpoint, Method::MaintenanceStatus, &StatusRequest {}).await {
            Ok(response) => found.push((endpoint, response)),
            Err(error) => {
                failed = true;
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
            }
        }
    }
    session.output.show(&Answer::Status(&found))?;
    if failed { Err(Failure::new(ERROR, "")) } else { Ok(()) }
}

async fn hash_kv(session: &Session, endpoints: Vec<String>, revision: i64) -> Outcome {
    let (mut found, mut failure) = (Vec::new(), None);
    for endpoint in endpoints {
        let request = HashKvRequest { revision };
        match ask::<_, HashKvResponse>(session, &endpoint, Method::MaintenanceHashKV, &request).await {
            Ok(response) => found.push((endpoint, response)),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                failure = Some(Failure::new(ERROR, error));
            }
        }
    }
    session.output.show(&Answer::HashKv(&found))?;
    failure.map_or(Ok(()), Err)
}

pub async fn defrag(session: &Session, defrag: Defrag) -> Outcome {
    let mut failed = false;
    for endpoint in endpoints(session, defrag.cluster).await? {
        let began = Instant::now();
        let request = DefragmentRequest {};
        let done = ask::<_, DefragmentResponse>(session, &endpoint, Method::MaintenanceDefragment, &request).await;
        let took = human_duration(began.elapsed());
        match done {
            Ok(_) => print_line(&format!("Finished defragmenting etcd member[{endpoint}]. took {took}")),
            Err(error) => {
                failed = true;
                eprintln!("Failed to defragment etcd member[{endpoint}]. took {took}. ({error})");
            }
        }
    }
    if failed { Err(Failure::new(ERROR, "")) } else { Ok(()) }
}

pub async fn member(session: &Session, member: Member) -> Outcome {
    let MemberCommand::List { consistency } = member.command;
    let linearizable = match consistency.as_str() {
        "l" => true,
        "s" => false,
        other => return Err(Failure::new(BAD_FEATURE, format!("unknown consistency flag {other:?}"))),
    };
    let response = members(session, linearizable).await?;
    session.output.show(&Answer::Members(&response))
}

fn alarm_request(action: AlarmAction, alarm: AlarmMember) -> AlarmRequest {
    AlarmRequest { action: action as i32, member_id: alarm.member_id, alarm: alarm.alarm }
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
    session.output.show(&Answer::Alarms(&response))
}
