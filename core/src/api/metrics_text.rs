//! /metrics: etcd's names, types, labels and buckets, for what exists here.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use ringstone_net::{Code, Method, MethodKind};

use super::Api;
use crate::config::{API_VERSION, CLUSTER_VERSION};
use crate::metrics::{Counter, Exposition, ShardMetrics};

fn load(figure: &AtomicU64) -> f64 {
    figure.load(Ordering::Relaxed) as f64
}

fn kind_label(kind: MethodKind) -> &'static str {
    match kind {
        MethodKind::Unary => "unary",
        MethodKind::ClientStream => "client_stream",
        MethodKind::ServerStream => "server_stream",
        MethodKind::BidiStream => "bidi_stream",
    }
}

/// Resident bytes of this process in all, anonymous, and of files: a large mapping must not look like a leak.
fn resident_bytes() -> (f64, f64, f64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)).and_then(|kib| kib.parse::<f64>().ok());
        kib.unwrap_or(0.0) * 1024.0
    };
    (field("VmRSS:"), field("RssAnon:"), field("RssFile:"))
}

fn cpu_seconds() -> f64 {
    // SAFETY: an all-zero rusage is a valid place for getrusage to write to.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a rusage that lives through the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0.0;
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

impl Api {
    fn sum(&self, of: impl Fn(&ShardMetrics) -> &Counter) -> f64 {
        self.shard.shared.metrics.iter().map(|metrics| of(metrics).get()).sum::<u64>() as f64
    }

    pub(super) fn metrics(&self) -> String {
        let mut out = Exposition::default();
        self.server_metrics(&mut out);
        self.store_metrics(&mut out);
        self.disk_metrics(&mut out);
        self.wire_metrics(&mut out);
        self.process_metrics(&mut out);
        out.finish()
    }

    fn server_metrics(&self, out: &mut Exposition) {
        let shared = &self.shard.shared;
        let has_leader = f64::from(u8::from(shared.leader.load(Ordering::Relaxed) != 0));
        out.single(
            "etcd_server_has_leader",
            "gauge",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            has_leader,
        );
        let is_leader = f64::from(u8::from(shared.is_leader()));
        out.single(
            "etcd_server_is_leader",
            "gauge",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            is_leader,
        );
        out.single(
            "etcd_server_is_learner",
            "gauge",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            0.0,
        );
        out.single(
            "etcd_server_leader_changes_seen_total",
            "counter",
            "The number of leader changes seen.",
            load(&shared.leader_changes),
        );
        out.single(
            "etcd_server_proposals_failed_total",
            "counter",
            "The total number of failed proposals seen.",
            load(&shared.proposals_failed),
        );
        out.single(
            "etcd_server_proposals_pending",
            "gauge",
            "The current number of pending proposals to commit.",
            load(&shared.proposals_pending),
        );
        out.single(
            "etcd_server_proposals_committed_total",
            "gauge",
            "The total number of consensus proposals committed.",
            load(&shared.committed),
        );
        out.single(
            "etcd_server_proposals_applied_total",
            "gauge",
            "The total number of consensus proposals applied.",
            load(&shared.applied),
        );
        let quota = shared.config.quota_bytes.unwrap_or(0) as f64;
        out.single("etcd_server_quota_backend_bytes", "gauge", "Current backend storage quota size in bytes.", quota);
        out.single(
            "etcd_server_slow_apply_total",
            "counter",
            "The total number of slow apply requests (likely overloaded from slow disk).",
            self.sum(|metrics| &metrics.slow_applies),
        );
        out.family(
            "etcd_server_id",
            "gauge",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
        );
        out.sample("etcd_server_id", &format!("server_id=\"{:x}\"", shared.identity.member_id), 1.0);
        out.family(
            "etcd_server_version",
            "gauge",
            "Which version is running. 1 for 'server_version' label with current version.",
        );
        out.sample("etcd_server_version", &format!("server_version=\"{API_VERSION}\""), 1.0);
        out.family(
            "etcd_cluster_version",
            "gauge",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
        );
        let short = CLUSTER_VERSION.trim_end_matches(".0");
        out.sample("etcd_cluster_version", &format!("cluster_version=\"{short}\""), 1.0);
    }

    fn store_metrics(&self, out: &mut Exposition) {
        let shared = &self.shard.shared;
        let state = self.shard.state();
        out.single(
            "etcd_mvcc_db_total_size_in_bytes",
            "gauge",
            "Total size of the underlying database physically allocated in bytes.",
            load(&shared.file_bytes),
        );
        out.single(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "gauge",
            "Total size of the underlying database logically in use in bytes.",
            load(&shared.file_bytes_in_use),
        );
        out.single(
            "ringstone_store_logical_bytes",
            "gauge",
            "Bytes that the quota is held against: live keys, the log since the last compaction, and what both retain.",
            state.quota_bytes() as f64,
        );
        out.single(
            "etcd_mvcc_range_total",
            "counter",
            "Total number of ranges seen by this member.",
            self.sum(|metrics| &metrics.ranges),
        );
        out.single(
            "etcd_mvcc_put_total",
            "counter",
            "Total number of puts seen by this member.",
            self.sum(|metrics| &metrics.puts),
        );
        out.single(
            "etcd_mvcc_delete_total",
            "counter",
            "Total number of deletes seen by this member.",
            self.sum(|metrics| &metrics.deletes),
        );
        out.single(
            "etcd_mvcc_txn_total",
            "counter",
            "Total number of txns seen by this member.",
            self.sum(|metrics| &metrics.txns),
        );
        out.single(
            "etcd_debugging_mvcc_current_revision",
            "gauge",
            "The current revision of store.",
            state.revision as f64,
        );
        out.single(
            "etcd_debugging_mvcc_compact_revision",
            "gauge",
            "The revision of the last compaction in store.",
            state.compact_revision as f64,
        );
        out.single(
            "etcd_debugging_mvcc_events_total",
            "counter",
            "Total number of events sent by this member.",
            self.sum(|metrics| &metrics.events),
        );
        out.single(
            "etcd_debugging_lease_granted_total",
            "counter",
            "The total number of granted leases.",
            self.sum(|metrics| &metrics.leases_granted),
        );
        out.single(
            "etcd_debugging_lease_revoked_total",
            "counter",
            "The total number of revoked leases.",
            self.sum(|metrics| &metrics.leases_revoked),
        );
        out.single(
            "etcd_debugging_lease_renewed_total",
            "counter",
            "The number of renewed leases seen by the leader.",
            self.sum(|metrics| &metrics.leases_renewed),
        );
        out.single(
            "etcd_debugging_server_lease_expired_total",
            "counter",
            "The total number of expired leases.",
            self.sum(|metrics| &metrics.leases_expired),
        );
        let streams = |of: fn(&crate::metrics::WatchFigures) -> &AtomicU64| {
            shared.metrics.iter().map(|metrics| of(&metrics.watches).load(Ordering::Relaxed)).sum::<u64>() as f64
        };
        out.single(
            "etcd_debugging_mvcc_watch_stream_total",
            "gauge",
            "Total number of watch streams.",
            streams(|watches| &watches.streams),
        );
        out.single(
            "etcd_debugging_mvcc_watcher_total",
            "gauge",
            "Total number of watchers.",
            streams(|watches| &watches.watchers),
        );
        out.single(
            "etcd_debugging_mvcc_slow_watcher_total",
            "gauge",
            "Total number of unsynced slow watchers.",
            streams(|watches| &watches.behind),
        );
        out.single(
            "etcd_debugging_mvcc_pending_events_total",
            "gauge",
            "Total number of pending events to be sent.",
            streams(|watches| &watches.pending),
        );
    }

    fn disk_metrics(&self, out: &mut Exposition) {
        let shared = &self.shard.shared;
        let name = "etcd_disk_wal_fsync_duration_seconds";
        out.family(name, "histogram", "The latency distributions of fsync called by WAL.");
        out.histogram(name, "", shared.metrics.iter().map(|metrics| &metrics.wal_fsync));
        let name = "etcd_disk_backend_commit_duration_seconds";
        out.family(name, "histogram", "The latency distributions of commit called by backend.");
        out.histogram(name, "", shared.metrics.iter().map(|metrics| &metrics.backend_commit));
        out.single(
            "etcd_disk_wal_write_bytes_total",
            "gauge",
            "Total number of bytes written in WAL.",
            self.sum(|metrics| &metrics.wal_bytes),
        );
        out.single(
            "ringstone_pager_dirty_bytes",
            "gauge",
            "Frames in memory that no checkpoint has written yet.",
            load(&shared.dirty_bytes),
        );
        out.single("ringstone_pager_frame_bytes", "gauge", "All frames in memory.", load(&shared.frame_bytes));
        out.single(
            "ringstone_disk_free_bytes",
            "gauge",
            "Free space of the file system less the reserve for log and checkpoint; puts are refused at 0.",
            load(&shared.disk_free),
        );
    }

    fn wire_metrics(&self, out: &mut Exposition) {
        let snapshots: Vec<_> = self.shard.shared.wire.iter().filter_map(|wire| wire.lock().ok()?.clone()).collect();
        let sent = snapshots.iter().map(|snapshot| snapshot.sent_bytes).sum::<u64>() as f64;
        let received = snapshots.iter().map(|snapshot| snapshot.received_bytes).sum::<u64>() as f64;
        out.single(
            "etcd_network_client_grpc_sent_bytes_total",
            "counter",
            "The total number of bytes sent to grpc clients.",
            sent,
        );
        out.single(
            "etcd_network_client_grpc_received_bytes_total",
            "counter",
            "The total number of bytes received from grpc clients.",
            received,
        );
        let labels = |method: Method| {
            format!(
                "grpc_type=\"{}\",grpc_service=\"{}\",grpc_method=\"{}\"",
                kind_label(method.kind()),
                method.service(),
                method.name()
            )
        };
        let started = "grpc_server_started_total";
        out.family(started, "counter", "Total number of RPCs started on the server.");
        for (index, &method) in Method::ALL.iter().enumerate() {
            let count = snapshots.iter().map(|snapshot| snapshot.started[index]).sum::<u64>();
            out.sample(started, &labels(method), count as f64);
        }
        let handled = "grpc_server_handled_total";
        out.family(
            handled,
            "counter",
            "Total number of RPCs completed on the server, regardless of success or failure.",
        );
        for (index, &method) in Method::ALL.iter().enumerate() {
            for (place, code) in Code::ALL.iter().enumerate() {
                let count = snapshots.iter().map(|snapshot| snapshot.handled[index][place]).sum::<u64>();
                out.sample(handled, &format!("{},grpc_code=\"{}\"", labels(method), code.label()), count as f64);
            }
        }
    }

    fn process_metrics(&self, out: &mut Exposition) {
        let (resident, anonymous, file) = resident_bytes();
        out.single("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", resident);
        out.single(
            "ringstone_resident_anonymous_bytes",
            "gauge",
            "Resident memory that is not a file's: what --memory-limit is about.",
            anonymous,
        );
        out.single(
            "ringstone_resident_file_bytes",
            "gauge",
            "Resident pages of mapped files: the kernel takes them back when it needs to.",
            file,
        );
        out.single(
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            cpu_seconds(),
        );
        let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count()) as f64;
        out.single("process_open_fds", "gauge", "Number of open file descriptors.", open);
        out.single("os_fd_used", "gauge", "The number of used file descriptors.", open);
    }
}
