//! Messages as Go's encoding/json writes etcd's structs: fields in the order of the .proto files, empty ones left out,
//! numbers as numbers, bytes in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, StatusResponse, TxnResponse,
};
use ringstone_proto::mvccpb::KeyValue;

/// An object while it is written.
pub struct Object(String);

impl Object {
    pub fn new() -> Object {
        Object("{".to_owned())
    }

    /// A field whatever its value.
    pub fn field(mut self, name: &str, value: impl AsRef<str>) -> Object {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{}", value.as_ref()));
        self
    }

    /// A number that is left out where it is 0.
    pub fn number(self, name: &str, value: impl Into<i128>) -> Object {
        let value: i128 = value.into();
        if value == 0 { self } else { self.field(name, value.to_string()) }
    }

    pub fn flag(self, name: &str, value: bool) -> Object {
        if value { self.field(name, "true") } else { self }
    }

    pub fn bytes(self, name: &str, value: &[u8]) -> Object {
        if value.is_empty() { self } else { self.field(name, bytes(value)) }
    }

    pub fn text(self, name: &str, value: &str) -> Object {
        if value.is_empty() { self } else { self.field(name, text(value)) }
    }

    pub fn list(self, name: &str, values: Vec<String>) -> Object {
        if values.is_empty() { self } else { self.field(name, list(values)) }
    }

    pub fn object(self, name: &str, value: Option<String>) -> Object {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

pub fn bytes(value: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(value))
}

/// A string; Go also escapes what HTML minds.
pub fn text(value: &str) -> String {
    let plain = serde_json::Value::from(value).to_string();
    plain.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

pub fn list(values: Vec<String>) -> String {
    format!("[{}]", values.join(","))
}

/// The fields of a header, in `object`.
pub fn header_fields(object: Object, header: Option<&ResponseHeader>) -> Object {
    let header = header.cloned().unwrap_or_default();
    object
        .number("cluster_id", header.cluster_id)
        .number("member_id", header.member_id)
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
}

pub fn header(header: Option<&ResponseHeader>) -> Option<String> {
    header.map(|header| header_fields(Object::new(), Some(header)).end())
}

pub fn key_value(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

pub fn key_values(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(key_value).collect()
}

pub fn range(response: &RangeResponse) -> String {
    Object::new()
        .object("header", header(response.header.as_ref()))
        .list("kvs", key_values(&response.kvs))
        .flag("more", response.more)
        .number("count", response.count)
        .end()
}

pub fn put(response: &PutResponse) -> String {
    Object::new()
        .object("header", header(response.header.as_ref()))
        .object("prev_kv", response.prev_kv.as_ref().map(key_value))
        .end()
}

pub fn delete(response: &DeleteRangeResponse) -> String {
    Object::new()
        .object("header", header(response.header.as_ref()))
        .number("deleted", response.deleted)
        .list("prev_kvs", key_values(&response.prev_kvs))
        .end()
}

pub fn txn(response: &TxnResponse) -> String {
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

pub fn status(response: &StatusResponse) -> String {
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
        .list("errors", response.errors.iter().map(|error| text(error)).collect())
        .number("dbSizeInUse", response.db_size_in_use)
        .flag("isLearner", response.is_learner)
        .text("storageVersion", &response.storage_version)
        .number("dbSizeQuota", response.db_size_quota)
        .object("downgradeInfo", downgrade)
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
