//! All that a client can read of a store, as text: a line a fact.

use std::fmt::Write as _;

use ringstone_net::Method;
use ringstone_net::client::{CallOptions, Client};
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;
use ringstone_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, HashKvRequest, HashKvResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, MemberListRequest, MemberListResponse, RangeRequest,
    RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use ringstone_proto::mvccpb::{Event, KeyValue};
use sha2::{Digest as _, Sha256};

/// What is listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A member on its own folder: its ids and hashes are those that it had.
    Folder,
    /// A member made from a snapshot: a new one, of a new cluster.
    Restored,
}

/// Longer values are listed by length and digest.
const VALUE_BYTES_MAX: usize = 64;

fn value(bytes: &[u8]) -> String {
    if bytes.len() <= VALUE_BYTES_MAX {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let digest = Sha256::digest(bytes);
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes, SHA-256 {hex}", bytes.len())
}

fn pair(kv: &KeyValue) -> String {
    let KeyValue { create_revision, mod_revision, version, lease, .. } = kv;
    format!(
        "\"{}\" create {create_revision} mod {mod_revision} version {version} lease {lease} = {}",
        kv.key.escape_ascii(),
        value(&kv.value)
    )
}

fn options() -> CallOptions {
    CallOptions::default()
}

fn all_at(revision: i64) -> RangeRequest {
    let all = b"\0".to_vec();
    RangeRequest { key: all.clone().into(), range_end: all.into(), revision, ..RangeRequest::default() }
}

async fn range(client: &Client, revision: i64) -> RangeResponse {
    client.unary(Method::KvRange, &all_at(revision), &options()).await.unwrap()
}

/// Every event from the compacted revision to the last one.
async fn events(client: &Client, from: i64, revision: i64) -> Vec<Event> {
    let (mut send, mut receive) = client.open::<WatchResponse>(Method::Watch, &options()).await.unwrap();
    let all = b"\0".to_vec();
    let create = WatchCreateRequest {
        key: all.clone().into(),
        range_end: all.into(),
        start_revision: from,
        prev_kv: true,
        ..WatchCreateRequest::default()
    };
    send.send(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await.unwrap();
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Event| event.kv.as_ref().unwrap().mod_revision < revision) {
        let response = receive.next().await.unwrap().expect("a watch goes on");
        assert!(!response.canceled, "{}", response.cancel_reason);
        events.extend(response.events);
    }
    events
}

/// The first revision that can be read: a binary search over what a read says.
async fn compacted(client: &Client, revision: i64) -> i64 {
    let (mut low, mut high) = (0, revision);
    while high - low > 1 {
        let middle = i64::midpoint(low, high);
        match client.unary::<_, RangeResponse>(Method::KvRange, &all_at(middle), &options()).await {
            Ok(_) => high = middle,
            Err(status) => {
                assert!(status.message.contains("has been compacted"), "{status}");
                low = middle;
            }
        }
    }
    high
}

async fn leases(client: &Client, text: &mut String) {
    let leases: LeaseLeasesResponse =
        client.unary(Method::LeaseLeases, &LeaseLeasesRequest {}, &options()).await.unwrap();
    let mut ids: Vec<i64> = leases.leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    for id in ids {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let lease: LeaseTimeToLiveResponse = client.unary(Method::LeaseTimeToLive, &request, &options()).await.unwrap();
        // What remains is time's; that it is near the whole shows that the deadline was read as it was written.
        assert!((lease.granted_ttl - 3_600..=lease.granted_ttl).contains(&lease.ttl), "lease {id}: {}", lease.ttl);
        let keys: Vec<String> = lease.keys.iter().map(|key| key.escape_ascii().to_string()).collect();
        writeln!(text, "lease {id} granted {} keys {}", lease.granted_ttl, keys.join(" ")).unwrap();
    }
}

async fn hash(client: &Client, revision: i64) -> u32 {
    let request = HashKvRequest { revision };
    client.unary::<_, HashKvResponse>(Method::MaintenanceHashKV, &request, &options()).await.unwrap().hash
}

/// The whole store.
pub async fn listing(client: &Client, side: Side) -> String {
    let mut text = String::new();
    let now = range(client, 0).await;
    let revision = now.header.as_ref().unwrap().revision;
    let first = compacted(client, revision).await;
    writeln!(text, "revision {revision}\ncompacted {first}").unwrap();
    let members: MemberListResponse =
        client.unary(Method::ClusterMemberList, &MemberListRequest { linearizable: true }, &options()).await.unwrap();
    for member in members.members {
        writeln!(text, "member {:?} peers {}", member.name, member.peer_urls.join(" ")).unwrap();
        if side == Side::Folder {
            writeln!(text, "member id {:x} of cluster {:x}", member.id, now.header.as_ref().unwrap().cluster_id)
                .unwrap();
        }
    }
    let alarms: AlarmResponse =
        client.unary(Method::MaintenanceAlarm, &AlarmRequest::default(), &options()).await.unwrap();
    for alarm in alarms.alarms {
        writeln!(text, "alarm {} of member {}", alarm.alarm, alarm.member_id).unwrap();
    }
    leases(client, &mut text).await;
    for kv in &now.kvs {
        writeln!(text, "now {}", pair(kv)).unwrap();
    }
    for old in first..revision {
        let pairs: Vec<String> = range(client, old).await.kvs.iter().map(pair).collect();
        let whole = value(pairs.join("\n").as_bytes());
        write!(text, "at {old} {} keys: {whole}", pairs.len()).unwrap();
        // The compacted revision itself gets another hash when its sweep has ended.
        if side == Side::Folder && old > first {
            write!(text, "; hash {:08x}", hash(client, old).await).unwrap();
        }
        text.push('\n');
    }
    for event in events(client, first, revision).await {
        let kv = event.kv.as_ref().unwrap();
        let name = if event.r#type == 0 { "put" } else { "delete" };
        write!(text, "event {name} {}", pair(kv)).unwrap();
        // What an event at the compacted revision replaced goes with the sweep.
        if kv.mod_revision > first {
            write!(text, " before {}", event.prev_kv.as_ref().map_or("nothing".to_owned(), pair)).unwrap();
        }
        text.push('\n');
    }
    text
}
