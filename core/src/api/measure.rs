//! What is counted of a unary call that has ended, and the line that a slow one logs: it names the stage that held it up.
//! Sizes, not contents: keys and values may be secret.

use ringstone_net::{Code, Method, UnaryEnd};

use super::Api;
use crate::metrics::Operation;
use crate::shard::stages::{Stage, Stages, Trace};

/// The kind of request that etcd's latencies count a call as.
fn operation(method: Method, trace: &Trace) -> Option<Operation> {
    Some(match method {
        Method::KvRange => Operation::Range,
        Method::KvPut => Operation::Put,
        Method::KvDeleteRange => Operation::DeleteRange,
        Method::KvTxn if trace.proposes() => Operation::Txn,
        Method::KvTxn => Operation::ReadonlyTxn,
        Method::KvCompact => Operation::Compaction,
        Method::LeaseGrant => Operation::LeaseGrant,
        Method::LeaseRevoke => Operation::LeaseRevoke,
        Method::MaintenanceAlarm => Operation::Alarm,
        _ => return None,
    })
}

impl Api {
    /// A unary call has ended.
    pub(super) fn measure(&self, method: Method, trace: &Trace, end: UnaryEnd) {
        let stages = trace.stages(end.client);
        self.count_latencies(method, trace, &stages, end.code);
        self.log_if_slow(method, trace, &stages, end);
    }

    fn count_latencies(&self, method: Method, trace: &Trace, stages: &Stages, code: Code) {
        let metrics = self.shard.metrics();
        let succeeded = usize::from(code == Code::Ok);
        if let Some(operation) = operation(method, trace) {
            let times = &metrics.operations[operation as usize];
            // As etcd counts it: without the client's part.
            times.request[succeeded].record(stages.total().saturating_sub(stages.of(Stage::Client)));
            if trace.is_answered() {
                times.apply[succeeded].record(stages.of(Stage::Apply));
            }
        }
        match method {
            Method::KvRange => metrics.range[succeeded].record(stages.of(Stage::Read)),
            Method::MaintenanceHash => metrics.hash.record(stages.of(Stage::Read)),
            Method::MaintenanceHashKV => metrics.hash_kv.record(stages.of(Stage::Read)),
            _ => {}
        }
    }

    /// etcd has two bounds: for the whole of a unary call, and for applying or reading alone.
    fn log_if_slow(&self, method: Method, trace: &Trace, stages: &Stages, end: UnaryEnd) {
        let (config, metrics) = (&self.shard.shared.config, self.shard.metrics());
        let expected = if stages.of(Stage::Apply).max(stages.of(Stage::Read)) >= config.slow_apply {
            metrics.slow_applies.add(1);
            config.slow_apply
        } else if stages.total() >= config.slow_request {
            config.slow_request
        } else {
            return;
        };
        let (sizes, slowest) = (trace.sizes(), stages.slowest());
        metrics.slow_stages[slowest as usize].add(1);
        tracing::warn!(
            took = format!("{:?}", stages.total()),
            expected_duration = format!("{expected:?}"),
            method = method.path(),
            stage = slowest.name(),
            stages = stages.listed(),
            key_bytes = sizes.key_bytes as u64,
            range_end_bytes = sizes.range_end_bytes as u64,
            request_bytes = sizes.request_bytes as u64,
            response_bytes = end.response_bytes as u64,
            code = end.code.label(),
            "apply request took too long"
        );
    }
}
