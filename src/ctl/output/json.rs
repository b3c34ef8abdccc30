//! `-w json`: messages as Go's encoding/json writes etcd's structs: fields in the order of the .proto files, empty ones
//! left out, numbers as numbers, bytes in base64. Structs of clientv3 (leases, watch) have no empty fields.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseLeasesResponse, LeaseTimeToLiveResponse, Member,
    MemberListResponse, PutResponse, RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};
use ringstone_proto::mvccpb::{Event, KeyValue};

use super::{Answer, Health, MembersChanged, Page, Unsupported};

pub fn write(answer: &Answer, hex: bool, page: &mut Page) -> Result<(), Unsupported> {
    page.line(match answer {
        Answer::Put(response) => put(response),
        Answer::Get { response, .. } => range(response),
        Answer::Delete(response) => delete(response),
        Answer::Txn(response) => txn(response),
        Answer::Watch(response) => watch(response),
        Answer::Grant(response) => {
            lease(response.header.as_ref(), response.id, response.ttl).field("Error", text(&response.error)).end()
        }
        Answer::Revoke { response, .. } => Object::new().object("header", header(response.header.as_ref())).end(),
        Answer::KeepAlive(response) => lease(response.header.as_ref(), response.id, response.ttl).end(),
        Answer::TimeToLive { response, .. } => time_to_live(response),
        Answer::Leases(response) => leases(response),
        // The only answer that --hex changes.
        Answer::Members(response) => members(response, hex),
        Answer::MembersChanged(changed) => members_changed(changed, hex),
        Answer::Alarms(response) => alarms(response),
        Answer::Health(endpoints) => list_or_null(endpoints.iter().map(health)),
        Answer::Status(endpoints) => list_or_null(endpoints.iter().map(|(endpoint, response)| {
            Object::new().field("Endpoint", text(endpoint)).field("Status", status(response)).end()
        })),
        Answer::HashKv(endpoints) => list_or_null(endpoints.iter().map(|(endpoint, response)| {
            Object::new().field("Endpoint", text(endpoint)).field("HashKV", hash_kv(response)).end()
        })),
    });
    Ok(())
}

/// An object while it is written.
struct Object(String);

impl Object {
    fn new() -> Object {
        Object("{".to_owned())
    }

    /// A field whatever its value.
    fn field(mut self, name: &str, value: impl AsRef<str>) -> Object {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{}", value.as_ref()));
        self
    }

    /// A number that is left out where it is 0.
    fn number(self, name: &str, value: impl Into<i128>) -> Object {
        let value: i128 = value.into();
        if value == 0 { self } else { self.field(name, value.to_string()) }
    }

    fn flag(self, name: &str, value: bool) -> Object {
        if value { self.field(name, "true") } else { self }
    }

    fn bytes(self, name: &str, value: &[u8]) -> Object {
        if value.is_empty() { self } else { self.field(name, bytes(value)) }
    }

    fn text(self, name: &str, value: &str) -> Object {
        if value.is_empty() { self } else { self.field(name, text(value)) }
    }

    fn list(self, name: &str, values: Vec<String>) -> Object {
        if values.is_empty() { self } else { self.field(name, list(values)) }
    }

    fn object(self, name: &str, value: Option<String>) -> Object {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn bytes(value: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(value))
}

/// A string; Go also escapes what HTML minds.
fn text(value: &str) -> String {
    let plain = serde_json::Value::from(value).to_string();
    plain.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn list(values: Vec<String>) -> String {
    format!("[{}]", values.join(","))
}

/// A slice of Go's that nothing was appended to is null.
fn list_or_null(values: impl Iterator<Item = String>) -> String {
    let values: Vec<_> = values.collect();
    if values.is_empty() { "null".to_owned() } else { list(values) }
}

/// The fields of a header, in `object`.
fn header_fields(object: Object, header: Option<&ResponseHeader>) -> Object {
    let header = header.cloned().unwrap_or_default();
    object
        .number("cluster_id", header.cluster_id)
        .number("member_id", header.member_id)
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
}

fn header(header: Option<&ResponseHeader>) -> Option<String> {
    header.map(|header| header_fields(Object::new(), Some(header)).end())
}

fn key_value(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

fn key_values(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(key_value).collect()
}

fn range(response: &RangeResponse) -> String {
    Object::new()
        .object("header", header(response.header.as_ref()))
        .list("kvs", key_values(&response.kvs))
        .flag("more", response.more)
        .number("count", response.count)
        .end()
}

fn put(response: &PutResponse) -> String {
    Object::new()
        .object("header", header(response.header.as_ref()))
        .object("prev_kv", response.prev_kv.as_ref().map(key_value))
        .end()
}

fn delete(response: &DeleteRangeResponse) -> String {
    Object::new()
        .object("header", header(response.header.as_ref()))
        .number("deleted", response.deleted)
        .list("prev_kvs", key_values(&response.prev_kvs))
        .end()
}

fn txn(response: &TxnResponse) -> String {
    let responses = response.responses.iter().map(|op| {
        let inner = Object::new();
        let inner = match &op.response {
            Some(Response::ResponseRange(answer)) => inner.field("response_range", range(answer)),
            Some(Response::ResponsePut(answer)) => inner.field("response_put", put(answer)),
            Some(Response::ResponseDeleteRange(answer)) => inner.field("response_delete_range", delete(answer)),
            Some(Response::ResponseTxn(answer)) => inner.field("response_txn", txn(answer)),
            None => return Object::new().field("Response", "null").end(),
        };
        Object::new().field("Response", inner.end()).end()
    });
    Object::new()
        .object("header", header(response.header.as_ref()))
        .flag("succeeded", response.succeeded)
        .list("responses", responses.collect())
        .end()
}

fn status(response: &StatusResponse) -> String {
    let downgrade = response
        .downgrade_info
        .as_ref()
        .map(|info| Object::new().flag("enabled", info.enabled).text("targetVersion", &info.target_version).end());
    Object::new()
        .object("header", header(response.header.as_ref()))
        .text("version", &response.version)
        .number("dbSize", response.db_size)
        .number("leader", response.leader)
        .number("raftIndex", response.raft_index)
        .number("raftTerm", response.raft_term)
        .number("raftAppliedIndex", response.raft_applied_index)
        .list("errors", texts(&response.errors))
        .number("dbSizeInUse", response.db_size_in_use)
        .flag("isLearner", response.is_learner)
        .text("storageVersion", &response.storage_version)
        .number("dbSizeQuota", response.db_size_quota)
        .object("downgradeInfo", downgrade)
        .end()
}

fn event(event: &Event) -> String {
    Object::new()
        .number("type", event.r#type)
        .object("kv", event.kv.as_ref().map(key_value))
        .object("prev_kv", event.prev_kv.as_ref().map(key_value))
        .end()
}

fn watch(response: &WatchResponse) -> String {
    Object::new()
        .field("Header", header(response.header.as_ref()).unwrap_or_else(|| "{}".to_owned()))
        .field("Events", list_or_null(response.events.iter().map(event)))
        .field("CompactRevision", response.compact_revision.to_string())
        .field("Canceled", response.canceled.to_string())
        .field("Created", response.created.to_string())
        .field("CancelReason", text(&response.cancel_reason))
        .end()
}

fn lease(header: Option<&ResponseHeader>, id: i64, ttl: i64) -> Object {
    header_fields(Object::new(), header).field("ID", id.to_string()).field("TTL", ttl.to_string())
}

fn time_to_live(response: &LeaseTimeToLiveResponse) -> String {
    header_fields(Object::new(), response.header.as_ref())
        .field("id", response.id.to_string())
        .field("ttl", response.ttl.to_string())
        .field("granted-ttl", response.granted_ttl.to_string())
        .field("keys", list_or_null(response.keys.iter().map(|key| bytes(key))))
        .end()
}

fn leases(response: &LeaseLeasesResponse) -> String {
    let leases = response.leases.iter().map(|lease| Object::new().field("id", lease.id.to_string()).end());
    header_fields(Object::new(), response.header.as_ref()).field("leases", list(leases.collect())).end()
}

fn texts(values: &[String]) -> Vec<String> {
    values.iter().map(|value| text(value)).collect()
}

/// The header of an answer about members: its ids are in hexadecimal digits, too.
fn member_header(response: Option<&ResponseHeader>, hex: bool) -> Option<String> {
    match response {
        Some(header) if hex => Some(
            Object::new()
                .field("cluster_id", format!("\"{:x}\"", header.cluster_id))
                .field("member_id", format!("\"{:x}\"", header.member_id))
                .number("revision", header.revision)
                .number("raft_term", header.raft_term)
                .end(),
        ),
        other => header(other),
    }
}

fn member(member: &Member, hex: bool) -> String {
    let object = Object::new();
    let object = if hex { object.field("ID", format!("\"{:x}\"", member.id)) } else { object.number("ID", member.id) };
    object
        .text("name", &member.name)
        .list("peerURLs", texts(&member.peer_urls))
        .list("clientURLs", texts(&member.client_urls))
        .flag("isLearner", member.is_learner)
        .end()
}

fn members(response: &MemberListResponse, hex: bool) -> String {
    let members = response.members.iter().map(|one| member(one, hex)).collect();
    Object::new().object("header", member_header(response.header.as_ref(), hex)).list("members", members).end()
}

fn members_changed(changed: &MembersChanged, hex: bool) -> String {
    let members = changed.members.iter().map(|one| member(one, hex)).collect();
    Object::new()
        .object("header", member_header(changed.header.as_ref(), hex))
        .object("member", changed.member.as_ref().map(|one| member(one, hex)))
        .list("members", members)
        .end()
}

fn alarms(response: &AlarmResponse) -> String {
    let alarms = response
        .alarms
        .iter()
        .map(|alarm| Object::new().number("memberID", alarm.member_id).number("alarm", alarm.alarm).end());
    Object::new().object("header", header(response.header.as_ref())).list("alarms", alarms.collect()).end()
}

fn health(health: &Health) -> String {
    Object::new()
        .field("endpoint", text(&health.endpoint))
        .field("health", health.healthy.to_string())
        .field("took", text(&health.took))
        .text("error", &health.error)
        .end()
}

fn hash_kv(response: &HashKvResponse) -> String {
    Object::new()
        .object("header", header(response.header.as_ref()))
        .number("hash", response.hash)
        .number("compact_revision", response.compact_revision)
        .number("hash_revision", response.hash_revision)
        .end()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcdctl 3.7.3 printed it.
    #[test]
    fn a_range_is_as_go_writes_it() {
        let kv =
            KeyValue { key: "a".into(), value: "3".into(), create_revision: 2, mod_revision: 5, version: 4, lease: 0 };
        let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 5, raft_term: 2 };
        let response = RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 1 };
        let expected = r#"{"header":{"cluster_id":1,"member_id":2,"revision":5,"raft_term":2},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":5,"version":4,"value":"Mw=="}],"count":1}"#;
        assert_eq!(range(&response), expected);
        assert_eq!(text("a<b>&\"\n"), r#""a\u003cb\u003e\u0026\"\n""#);
    }
}
