//! `-w simple`: lines for people and shells.

use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    DeleteRangeResponse, LeaseTimeToLiveResponse, PutResponse, RangeResponse, TxnResponse, WatchResponse,
};
use ringstone_proto::mvccpb::KeyValue;

use super::table::Table;
use super::{Answer, Health, Page, Unsupported, alarm_name, event_name};

pub fn write(answer: &Answer, hex: bool, page: &mut Page) -> Result<(), Unsupported> {
    let mut simple = Simple { page, hex };
    match answer {
        Answer::Put(response) => simple.put(response),
        Answer::Get { response, value_only } => simple.range(response, *value_only),
        Answer::Delete(response) => simple.delete(response),
        Answer::Txn(response) => simple.txn(response),
        Answer::Watch(response) => simple.watch(response),
        Answer::Grant(response) => {
            page.line(format_args!("lease {:016x} granted with TTL({}s)", response.id, response.ttl));
        }
        Answer::Revoke { id, .. } => page.line(format_args!("lease {id:016x} revoked")),
        Answer::KeepAlive(response) => {
            page.line(format_args!("lease {:016x} keepalived with TTL({})", response.id, response.ttl));
        }
        Answer::TimeToLive { response, keys } => simple.time_to_live(response, *keys),
        Answer::Leases(response) => {
            page.line(format_args!("found {} leases", response.leases.len()));
            response.leases.iter().for_each(|lease| page.line(format_args!("{:016x}", lease.id)));
        }
        Answer::Alarms(response) => response.alarms.iter().for_each(|alarm| {
            page.line(format_args!("memberID:{} alarm:{}", alarm.member_id, alarm_name(alarm.alarm)));
        }),
        Answer::Health(endpoints) => endpoints.iter().for_each(|endpoint| simple.health(endpoint)),
        Answer::MembersChanged(changed) => page.line(&changed.line),
        Answer::Members(response) => simple.rows(&Table::members(response)),
        Answer::Status(endpoints) => simple.rows(&Table::status(endpoints)),
        Answer::HashKv(endpoints) => simple.rows(&Table::hash_kv(endpoints)),
    }
    Ok(())
}

struct Simple<'a> {
    page: &'a mut Page,
    hex: bool,
}

impl Simple<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        if self.hex {
            self.page.line(bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>());
        } else {
            self.page.raw(bytes);
        }
    }

    fn key_value(&mut self, kv: &KeyValue) {
        self.bytes(&kv.key);
        self.bytes(&kv.value);
    }

    fn put(&mut self, response: &PutResponse) {
        self.page.line("OK");
        response.prev_kv.iter().for_each(|kv| self.key_value(kv));
    }

    fn range(&mut self, response: &RangeResponse, value_only: bool) {
        for kv in &response.kvs {
            if value_only { self.bytes(&kv.value) } else { self.key_value(kv) }
        }
    }

    fn delete(&mut self, response: &DeleteRangeResponse) {
        self.page.line(response.deleted);
        response.prev_kvs.iter().for_each(|kv| self.key_value(kv));
    }

    fn txn(&mut self, response: &TxnResponse) {
        self.page.line(if response.succeeded { "SUCCESS" } else { "FAILURE" });
        for op in &response.responses {
            self.page.line("");
            match &op.response {
                Some(Response::ResponseRange(answer)) => self.range(answer, false),
                Some(Response::ResponsePut(answer)) => self.put(answer),
                Some(Response::ResponseDeleteRange(answer)) => self.delete(answer),
                Some(Response::ResponseTxn(answer)) => self.txn(answer),
                None => {}
            }
        }
    }

    fn watch(&mut self, response: &WatchResponse) {
        for event in &response.events {
            self.page.line(event_name(event));
            event.prev_kv.iter().chain(&event.kv).for_each(|kv| self.key_value(kv));
        }
    }

    fn time_to_live(&mut self, response: &LeaseTimeToLiveResponse, keys: bool) {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = response;
        if *granted_ttl == 0 && *ttl == -1 {
            return self.page.line(format_args!("lease {id:016x} already expired"));
        }
        let mut line = format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)").into_bytes();
        if keys {
            line.extend_from_slice(b", attached keys([");
            line.extend_from_slice(&response.keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        self.page.raw(&line);
    }

    fn health(&mut self, health: &Health) {
        let Health { endpoint, took, error, .. } = health;
        if error.is_empty() {
            self.page.line(format_args!("{endpoint} is healthy: successfully committed proposal: took = {took}"));
        } else {
            eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
        }
    }

    fn rows(&mut self, table: &Table) {
        table.rows.iter().for_each(|row| self.page.line(row.join(", ")));
    }
}
