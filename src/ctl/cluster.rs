//! endpoint health, status, hashkv; defrag; member list, add, remove, update, promote; move-leader; alarm list, disarm.

use std::time::Instant;

use ringstone_net::{Code, Method};
use ringstone_proto::Described;
use ringstone_proto::etcdserverpb::alarm_request::AlarmAction;
use ringstone_proto::etcdserverpb::{
    self as pb, AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, HashKvRequest,
    HashKvResponse, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    MoveLeaderRequest, MoveLeaderResponse, RangeRequest, RangeResponse, ResponseHeader, StatusRequest, StatusResponse,
};
use ringstone_proto::prost::Message;

use super::args::{Alarm, AlarmCommand, Defrag, Endpoint, EndpointCommand, Member, MemberCommand};
use super::connect::{Session, text_of};
use super::output::{Answer, Format, Health, MembersChanged, alarm_name, human_duration, print_line};
use super::{BAD_ARGUMENTS, BAD_FEATURE, ERROR, Failure, Outcome};

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
    match member.command {
        MemberCommand::List { consistency } => member_list(session, &consistency).await,
        MemberCommand::Add { name, peer_urls, learner } => member_add(session, &name, peer_urls, learner).await,
        MemberCommand::Remove { id } => {
            let request = MemberRemoveRequest { id };
            let done: MemberRemoveResponse = session.call(Method::ClusterMemberRemove, &request).await?;
            let line = format!("Member {id:16x} removed from cluster {:16x}", cluster_of(done.header.as_ref()));
            show_change(session, line, done.encode_to_vec(), done.header, None, done.members)
        }
        MemberCommand::Update { id, peer_urls } => {
            let request = MemberUpdateRequest { id, peer_urls };
            let done: MemberUpdateResponse = session.call(Method::ClusterMemberUpdate, &request).await?;
            let line = format!("Member {id:16x} updated in cluster {:16x}", cluster_of(done.header.as_ref()));
            show_change(session, line, done.encode_to_vec(), done.header, None, done.members)
        }
        MemberCommand::Promote { id } => {
            let request = MemberPromoteRequest { id };
            let done: MemberPromoteResponse = session.call(Method::ClusterMemberPromote, &request).await?;
            let line = format!("Member {id:16x} promoted in cluster {:16x}", cluster_of(done.header.as_ref()));
            show_change(session, line, done.encode_to_vec(), done.header, None, done.members)
        }
    }
}

async fn member_list(session: &Session, consistency: &str) -> Outcome {
    let linearizable = match consistency {
        "l" => true,
        "s" => false,
        other => return Err(Failure::new(BAD_FEATURE, format!("unknown consistency flag {other:?}"))),
    };
    let response = members(session, linearizable).await?;
    session.output.show(&Answer::Members(&response))
}

fn cluster_of(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

fn show_change(
    session: &Session,
    line: String,
    bytes: Vec<u8>,
    header: Option<ResponseHeader>,
    member: Option<pb::Member>,
    members: Vec<pb::Member>,
) -> Outcome {
    session.output.show(&Answer::MembersChanged(&MembersChanged { line, header, member, members, bytes }))
}

/// Behind the answer, for people: the variables that the new member starts with.
async fn member_add(session: &Session, name: &str, peer_urls: Vec<String>, is_learner: bool) -> Outcome {
    let urls = peer_urls.join(",");
    let request = MemberAddRequest { peer_urls, is_learner };
    let done: MemberAddResponse = session.call(Method::ClusterMemberAdd, &request).await?;
    let id = done.member.as_ref().map_or(0, |member| member.id);
    let of = |member: &pb::Member| {
        let name = if member.id == id { name } else { &member.name }.to_owned();
        member.peer_urls.iter().map(move |url| format!("{name}={url}")).collect::<Vec<_>>()
    };
    let cluster = done.members.iter().flat_map(of).collect::<Vec<_>>().join(",");
    let learner = if is_learner { " as learner " } else { " " };
    let line = format!("Member {id:16x} added{learner}to cluster {:16x}", cluster_of(done.header.as_ref()));
    show_change(session, line, done.encode_to_vec(), done.header, done.member, done.members)?;
    if session.output.format == Format::Simple {
        print_line(&format!(
            "\nETCD_NAME={name:?}\nETCD_INITIAL_CLUSTER={cluster:?}\nETCD_INITIAL_ADVERTISE_PEER_URLS={urls:?}\nETCD_INITIAL_CLUSTER_STATE=\"existing\""
        ));
    }
    Ok(())
}

/// Asks the endpoints for the one that leads, and that one to hand over.
pub async fn move_leader(session: &Session, to: u64) -> Outcome {
    let endpoints = session.global.endpoints.clone();
    for endpoint in &endpoints {
        let status: StatusResponse = ask(session, endpoint, Method::MaintenanceStatus, &StatusRequest {})
            .await
            .map_err(|error| Failure::new(ERROR, error))?;
        let own = status.header.as_ref().map_or(0, |header| header.member_id);
        if own != status.leader {
            continue;
        }
        let request = MoveLeaderRequest { target_id: to };
        let done: Result<MoveLeaderResponse, String> =
            ask(session, endpoint, Method::MaintenanceMoveLeader, &request).await;
        done.map_err(|error| Failure::new(ERROR, error))?;
        if session.output.format != Format::Simple {
            let text = format!("{} not supported as output format", session.output.format.name());
            return Err(Failure::new(BAD_FEATURE, text));
        }
        print_line(&format!("Leadership transferred from {own:x} to {to:x}"));
        return Ok(());
    }
    Err(Failure::new(BAD_ARGUMENTS, format!("no leader endpoint given at [{}]", endpoints.join(" "))))
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
