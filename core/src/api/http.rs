//! HTTP/1.1 on the client port: probes, versions, metrics. Bodies and texts are etcd's.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method};
use ringstone_net::{HttpRequest, HttpResponse};
use ringstone_proto::etcdserverpb::{AlarmType, RangeRequest};

use super::Api;
use crate::config::{API_VERSION, CLUSTER_VERSION};
use crate::error::Error;
use crate::mvcc::RangeScan;
use crate::shared::HealthCheck;

const LIVEZ: &[HealthCheck] = &[HealthCheck::LiveSerializableRead];
const READYZ: &[HealthCheck] = &[
    HealthCheck::DataCorruption,
    HealthCheck::SerializableRead,
    HealthCheck::LinearizableRead,
    HealthCheck::NonLearner,
];

/// The values of a query parameter.
fn values<'a>(request: &'a HttpRequest, name: &'a str) -> impl Iterator<Item = &'a str> {
    request.query().unwrap_or("").split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

fn has(request: &HttpRequest, name: &str) -> bool {
    values(request, name).next().is_some()
}

/// A body of another type than plain text.
fn typed(content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let headers = vec![(CONTENT_TYPE, HeaderValue::from_static(content_type))];
    HttpResponse { status: 200, headers, body: body.into() }
}

impl Api {
    pub(super) async fn answer_http(&self, request: &HttpRequest) -> HttpResponse {
        let path = request.path();
        let known = path.starts_with("/livez") || path.starts_with("/readyz");
        if !known && !matches!(path, "/health" | "/version" | "/metrics") {
            return HttpResponse::text(404, "404 page not found\n");
        }
        if request.method != Method::GET {
            let mut refused = HttpResponse::text(405, "Method Not Allowed\n");
            refused.headers.push((ALLOW, HeaderValue::from_static("GET")));
            return refused;
        }
        match path {
            "/version" => self.version(),
            "/metrics" => match self.metrics().await {
                Ok(text) => typed("text/plain; version=0.0.4; charset=utf-8", text),
                Err(error) => HttpResponse::text(500, format!("{error}\n")),
            },
            "/health" => self.health(request).await,
            "/livez" => self.probe(request, LIVEZ).await,
            "/readyz" => self.probe(request, READYZ).await,
            _ => {
                let (all, name) = match path.strip_prefix("/livez/") {
                    Some(name) => (LIVEZ, name),
                    None => (READYZ, path.strip_prefix("/readyz/").unwrap_or("")),
                };
                match all.iter().find(|check| check.name() == name) {
                    Some(check) => self.probe(request, std::slice::from_ref(check)).await,
                    None => HttpResponse::text(404, "404 page not found\n"),
                }
            }
        }
    }

    fn version(&self) -> HttpResponse {
        let body = format!(
            "{{\"etcdserver\":\"{API_VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\",\"storage\":\"{CLUSTER_VERSION}\"}}"
        );
        typed("application/json", body)
    }

    async fn health(&self, request: &HttpRequest) -> HttpResponse {
        let reason = self.health_reason(request).await;
        self.shard.shared.health.answered(reason.is_none());
        match reason {
            None => typed("text/plain; charset=utf-8", "{\"health\":\"true\",\"reason\":\"\"}"),
            Some(reason) => {
                let reason = serde_json::Value::from(reason);
                HttpResponse::text(503, format!("{{\"health\":\"false\",\"reason\":{reason}}}\n"))
            }
        }
    }

    async fn health_reason(&self, request: &HttpRequest) -> Option<String> {
        let alarms = match self.alarms(AlarmType::None).await {
            Ok(alarms) => alarms,
            Err(error) => return Some(format!("RANGE ERROR:{error}")),
        };
        for alarm in alarms {
            let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
            if !values(request, "exclude").any(|excluded| excluded == name) {
                return Some(format!("ALARM {name}"));
            }
        }
        let serializable = values(request, "serializable").next() == Some("true");
        let shared = &self.shard.shared;
        if !serializable && shared.leader.load(Ordering::Relaxed) == 0 {
            return Some("RAFT NO LEADER".to_owned());
        }
        self.try_read(!serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
    }

    /// The read that proves that reads work.
    async fn try_read(&self, linearizable: bool) -> Result<(), Error> {
        if linearizable {
            self.shard.linearizable().await?;
        }
        let request =
            RangeRequest { key: b"health".to_vec().into(), limit: 1, keys_only: true, ..RangeRequest::default() };
        let mut scan = RangeScan::new(&request);
        self.shard.scan(|pin, window, budget| scan.step(pin, window, budget)).await
    }

    async fn probe(&self, request: &HttpRequest, checks: &[HealthCheck]) -> HttpResponse {
        let mut report = String::new();
        let mut healthy = true;
        for check in checks {
            if values(request, "exclude").any(|excluded| excluded == check.name()) {
                continue;
            }
            let outcome = self.check(*check).await;
            self.shard.shared.health.checked(*check, outcome.is_ok());
            let _ = match outcome {
                Ok(()) => writeln!(report, "[+]{} ok", check.name()),
                Err(why) => {
                    healthy = false;
                    writeln!(report, "[-]{} failed: {why}", check.name())
                }
            };
        }
        if !healthy {
            return HttpResponse::text(503, report);
        }
        let body = if has(request, "verbose") { report + "ok\n" } else { "ok\n".to_owned() };
        HttpResponse::text(200, body)
    }

    async fn check(&self, check: HealthCheck) -> Result<(), String> {
        let shared = &self.shard.shared;
        match check {
            HealthCheck::DataCorruption => {
                let alarms = self.alarms(AlarmType::Corrupt).await.map_err(|error| error.to_string())?;
                if alarms.is_empty() { Ok(()) } else { Err("alarm activated: CORRUPT".to_owned()) }
            }
            HealthCheck::LiveSerializableRead | HealthCheck::SerializableRead => {
                self.try_read(false).await.map_err(|error| error.to_string())
            }
            HealthCheck::LinearizableRead => {
                if shared.stopping.load(Ordering::Relaxed) {
                    return Err(Error::Stopped.to_string());
                }
                if shared.leader.load(Ordering::Relaxed) == 0 || !shared.ready.load(Ordering::Relaxed) {
                    return Err(Error::NoLeader.to_string());
                }
                self.try_read(true).await.map_err(|error| error.to_string())
            }
            HealthCheck::NonLearner if self.is_learner() => Err(Error::NotSupportedForLearner.to_string()),
            HealthCheck::NonLearner => Ok(()),
        }
    }
}
