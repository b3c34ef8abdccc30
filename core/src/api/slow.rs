//! A slow request logs one line that names the stage that held it up. Sizes, not contents: keys and values may be secret.

use ringstone_net::{Method, UnaryEnd};

use super::Api;
use crate::shard::stages::{Stage, Stages, Trace};

impl Api {
    /// etcd has two bounds: for the whole of a unary call, and for applying or reading alone.
    pub(super) fn log_if_slow(&self, method: Method, trace: &Trace, stages: &Stages, end: UnaryEnd) {
        let config = &self.shard.shared.config;
        let worked = stages.of(Stage::Apply).max(stages.of(Stage::Read));
        let expected = if worked >= config.slow_apply {
            self.shard.metrics().slow_applies.add(1);
            config.slow_apply
        } else if stages.total() >= config.slow_request {
            config.slow_request
        } else {
            return;
        };
        let sizes = trace.sizes();
        tracing::warn!(
            took = format!("{:?}", stages.total()),
            expected_duration = format!("{expected:?}"),
            method = method.path(),
            stage = stages.slowest().name(),
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
