//! The member: its role, its place in the log, its health.

use std::sync::atomic::Ordering;

use ringstone_proto::etcdserverpb::AlarmType;

use super::{Look, Single, counter, gauge, load, write_tables};
use crate::config::{API_VERSION, CLUSTER_VERSION};
use crate::metrics::Exposition;
use crate::shared::HealthCheck;

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

const SINGLES: &[Single] = &[
    gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", |look| {
        flag(look.shared.leader.load(Ordering::Relaxed) != 0)
    }),
    gauge("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", |look| {
        flag(look.shared.is_leader())
    }),
    gauge("etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.", |_| 0.0),
    counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen.", |look| {
        load(&look.shared.leader_changes)
    }),
    counter("etcd_server_proposals_failed_total", "The total number of failed proposals seen.", |look| {
        load(&look.shared.proposals_failed)
    }),
    gauge("etcd_server_proposals_pending", "The current number of pending proposals to commit.", |look| {
        load(&look.shared.proposals_pending)
    }),
    gauge("etcd_server_proposals_committed_total", "The total number of consensus proposals committed.", |look| {
        load(&look.shared.committed)
    }),
    gauge("etcd_server_proposals_applied_total", "The total number of consensus proposals applied.", |look| {
        load(&look.shared.applied)
    }),
    gauge("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", |look| {
        look.shared.config.quota_bytes.unwrap_or(0) as f64
    }),
    counter(
        "ringstone_state_sums_total",
        "Times that the state was summed up, to be compared with that of the other members.",
        |look| load(&look.shared.sums),
    ),
    counter(
        "ringstone_state_diverged_total",
        "Times that a member was named whose state differs from that of most members.",
        |look| load(&look.shared.diverged),
    ),
    counter("etcd_server_health_success", "The total number of successful health checks", |look| {
        load(&look.shared.health.answers[1])
    }),
    counter("etcd_server_health_failures", "The total number of failed health checks", |look| {
        load(&look.shared.health.answers[0])
    }),
];

pub(super) fn write(out: &mut Exposition, look: &Look<'_>) {
    write_tables(out, look, SINGLES, &[]);
    let short = CLUSTER_VERSION.trim_end_matches(".0");
    for (name, help, labels) in [
        (
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            format!("server_id=\"{:x}\"", look.shared.identity.member_id),
        ),
        (
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.",
            format!("server_version=\"{API_VERSION}\""),
        ),
        (
            "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
            format!("cluster_version=\"{short}\""),
        ),
    ] {
        out.family(name, "gauge", help);
        out.sample(name, &labels, 1.0);
    }
    out.single(
        "ringstone_shard_wakes_total",
        "counter",
        "Shards that did not beat and were woken: too little CPU for the process, or a request that takes too long.",
        look.shared.shard_wakes.load(Ordering::Relaxed) as f64,
    );
    major_faults(out, look);
    alarms(out, look);
    health_checks(out, look);
}

fn major_faults(out: &mut Exposition, look: &Look<'_>) {
    let name = "ringstone_shard_major_faults_total";
    out.family(
        name,
        "counter",
        "Times that a shard's thread waited for the disk because of a page that had left memory.",
    );
    for (shard, metrics) in look.shared.metrics.iter().enumerate() {
        let labels = format!("shard=\"{shard}\"");
        out.sample(name, &labels, metrics.major_faults.load(Ordering::Relaxed) as f64);
    }
}

/// As etcd, whose family is not there while there never was an alarm.
fn alarms(out: &mut Exposition, look: &Look<'_>) {
    if look.alarms.is_empty() {
        return;
    }
    let name = "etcd_debugging_server_alarms";
    let help = "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm";
    out.family(name, "gauge", help);
    for alarm in &look.alarms {
        let kind = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        out.sample(name, &format!("server_id=\"{:x}\",alarm_type=\"{kind}\"", alarm.member_id), 1.0);
    }
}

/// A check is there once it was made, as in etcd.
fn health_checks(out: &mut Exposition, look: &Look<'_>) {
    let made: Vec<(HealthCheck, u64, u64)> = HealthCheck::ALL
        .into_iter()
        .map(|check| {
            let [failed, passed] = &look.shared.health.checks[check as usize];
            (check, failed.load(Ordering::Relaxed), passed.load(Ordering::Relaxed))
        })
        .filter(|(_, failed, passed)| failed + passed > 0)
        .collect();
    if made.is_empty() {
        return;
    }
    let name = "etcd_server_healthcheck";
    out.family(name, "gauge", "The result of each kind of healthcheck.");
    for (check, ..) in &made {
        let passed = look.shared.health.passed[*check as usize].load(Ordering::Relaxed);
        out.sample(name, &check.labels(), flag(passed));
    }
    let name = "etcd_server_healthchecks_total";
    out.family(name, "counter", "The total number of each kind of healthcheck.");
    for (check, failed, passed) in made {
        for (status, count) in [("success", passed), ("error", failed)] {
            if count > 0 {
                out.sample(name, &format!("{},status=\"{status}\"", check.labels()), count as f64);
            }
        }
    }
}
