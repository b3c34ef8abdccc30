//! `-w fields`: a line for each field, `"Name" : value`.

use std::fmt::Display;

use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseTimeToLiveResponse, MemberListResponse, PutResponse,
    RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};
use ringstone_proto::mvccpb::KeyValue;

use super::{Answer, Health, Page, Unsupported, alarm_name, event_name, quote};

pub fn write(answer: &Answer, hex: bool, page: &mut Page) -> Result<(), Unsupported> {
    let mut fields = Fields { page, hex };
    match answer {
        Answer::Put(response) => fields.put(response),
        Answer::Get { response, .. } => fields.range(response),
        Answer::Delete(response) => fields.delete(response),
        Answer::Txn(response) => fields.txn(response),
        Answer::Watch(response) => fields.watch(response),
        Answer::Grant(response) => fields.lease(response.header.as_ref(), response.id, response.ttl),
        Answer::Revoke { response, .. } => fields.header(response.header.as_ref()),
        Answer::KeepAlive(response) => fields.lease(response.header.as_ref(), response.id, response.ttl),
        Answer::TimeToLive { response, .. } => fields.time_to_live(response),
        Answer::Leases(response) => {
            fields.header(response.header.as_ref());
            response.leases.iter().for_each(|lease| fields.lease_id("ID", lease.id));
        }
        Answer::MembersChanged(_) => return Err(Unsupported),
        Answer::Members(response) => fields.members(response),
        Answer::Alarms(response) => fields.alarms(response),
        Answer::Health(endpoints) => endpoints.iter().for_each(|health| fields.health(health)),
        Answer::Status(endpoints) => endpoints.iter().for_each(|(endpoint, status)| fields.status(endpoint, status)),
        Answer::HashKv(endpoints) => endpoints.iter().for_each(|(endpoint, hash)| fields.hash_kv(endpoint, hash)),
    }
    Ok(())
}

struct Fields<'a> {
    page: &'a mut Page,
    hex: bool,
}

impl Fields<'_> {
    fn field(&mut self, name: &str, value: impl Display) {
        self.page.line(format_args!("\"{name}\" : {value}"));
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.field(name, quote(value));
    }

    /// An id of a member or cluster.
    fn id(&mut self, name: &str, id: u64) {
        if self.hex { self.field(name, format_args!("{id:x}")) } else { self.field(name, id) }
    }

    fn lease_id(&mut self, name: &str, id: i64) {
        if self.hex { self.field(name, format_args!("{id:016x}")) } else { self.field(name, id) }
    }

    fn header(&mut self, header: Option<&ResponseHeader>) {
        let header = header.cloned().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    fn key_value(&mut self, prefix: &str, kv: &KeyValue) {
        self.text(&format!("{prefix}Key"), &kv.key);
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.text(&format!("{prefix}Value"), &kv.value);
        self.lease_id(&format!("{prefix}Lease"), kv.lease);
    }

    fn put(&mut self, response: &PutResponse) {
        self.header(response.header.as_ref());
        response.prev_kv.iter().for_each(|kv| self.key_value("Prev", kv));
    }

    fn range(&mut self, response: &RangeResponse) {
        self.header(response.header.as_ref());
        response.kvs.iter().for_each(|kv| self.key_value("", kv));
        self.field("More", response.more);
        self.field("Count", response.count);
    }

    fn delete(&mut self, response: &DeleteRangeResponse) {
        self.header(response.header.as_ref());
        self.field("Deleted", response.deleted);
        response.prev_kvs.iter().for_each(|kv| self.key_value("Prev", kv));
    }

    fn txn(&mut self, response: &TxnResponse) {
        self.header(response.header.as_ref());
        self.field("Succeeded", response.succeeded);
        for op in &response.responses {
            match &op.response {
                Some(Response::ResponseRange(answer)) => self.range(answer),
                Some(Response::ResponsePut(answer)) => self.put(answer),
                Some(Response::ResponseDeleteRange(answer)) => self.delete(answer),
                Some(Response::ResponseTxn(answer)) => self.txn(answer),
                None => {}
            }
        }
    }

    fn watch(&mut self, response: &WatchResponse) {
        self.header(response.header.as_ref());
        for event in &response.events {
            self.field("Type", event_name(event));
            event.prev_kv.iter().for_each(|kv| self.key_value("Prev", kv));
            self.key_value("", &event.kv.clone().unwrap_or_default());
        }
    }

    fn lease(&mut self, header: Option<&ResponseHeader>, id: i64, ttl: i64) {
        self.header(header);
        self.lease_id("ID", id);
        self.field("TTL", ttl);
    }

    fn time_to_live(&mut self, response: &LeaseTimeToLiveResponse) {
        self.lease(response.header.as_ref(), response.id, response.ttl);
        self.field("GrantedTTL", response.granted_ttl);
        response.keys.iter().for_each(|key| self.text("Key", key));
    }

    fn members(&mut self, response: &MemberListResponse) {
        self.header(response.header.as_ref());
        for member in &response.members {
            self.id("ID", member.id);
            self.text("Name", member.name.as_bytes());
            member.peer_urls.iter().for_each(|url| self.text("PeerURL", url.as_bytes()));
            member.client_urls.iter().for_each(|url| self.text("ClientURL", url.as_bytes()));
            self.field("IsLearner", member.is_learner);
            self.page.line("");
        }
    }

    fn alarms(&mut self, response: &AlarmResponse) {
        self.header(response.header.as_ref());
        for alarm in &response.alarms {
            self.id("MemberID", alarm.member_id);
            self.field("AlarmType", alarm_name(alarm.alarm));
            self.page.line("");
        }
    }

    fn health(&mut self, health: &Health) {
        self.text("Endpoint", health.endpoint.as_bytes());
        self.field("Health", health.healthy);
        self.field("Took", &health.took);
        self.field("Error", &health.error);
        self.page.line("");
    }

    fn status(&mut self, endpoint: &str, status: &StatusResponse) {
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        self.header(status.header.as_ref());
        self.text("Version", status.version.as_bytes());
        self.text("StorageVersion", status.storage_version.as_bytes());
        self.field("DBSize", status.db_size);
        self.field("DBSizeInUse", status.db_size_in_use);
        self.field("DBSizeQuota", status.db_size_quota);
        self.field("Leader", status.leader);
        self.field("IsLearner", status.is_learner);
        self.field("RaftIndex", status.raft_index);
        self.field("RaftAppliedIndex", status.raft_applied_index);
        self.field("Errors", format_args!("[{}]", status.errors.join(" ")));
        self.text("Endpoint", endpoint.as_bytes());
        self.text("DowngradeTargetVersion", downgrade.target_version.as_bytes());
        self.field("DowngradeEnabled", downgrade.enabled);
        self.page.line("");
    }

    fn hash_kv(&mut self, endpoint: &str, response: &HashKvResponse) {
        self.header(response.header.as_ref());
        self.text("Endpoint", endpoint.as_bytes());
        self.field("Hash", response.hash);
        self.field("HashRevision", response.hash_revision);
        self.page.line("");
    }
}
