//! Settings of a member whose group runs on simulated disks: nothing of them is opened.

use std::time::Duration;

use ringstone_core::config::ServerConfig;
use ringstone_net::peer::TlsFiles;

pub const TICK: Duration = Duration::from_millis(100);

pub fn settings(name: String) -> ServerConfig {
    ServerConfig {
        name,
        data_dir: "unused".into(),
        wal_dir: None,
        listen_client: vec![],
        advertise_client_urls: vec![],
        advertise_peer_urls: vec![],
        listen_peer: vec![],
        initial_members: vec![],
        joins: false,
        force_new_cluster: false,
        strict_reconfig_check: true,
        max_learners: 1,
        entry_kinds: ringstone_core::entry::KIND_MAX,
        peer_tls: TlsFiles::default(),
        cluster_token: String::new(),
        shards: 1,
        quota_bytes: None,
        max_request_bytes: 1 << 20,
        max_txn_ops: 128,
        max_concurrent_streams: 100,
        watch_progress_interval: Duration::from_secs(600),
        auto_compaction: None,
        keepalive_interval: Duration::from_secs(600),
        keepalive_timeout: Duration::from_secs(20),
        heartbeat_interval: TICK,
        election_timeout: Duration::from_secs(1),
        slow_request: Duration::from_secs(1),
        slow_apply: Duration::from_secs(1),
        memory_limit_bytes: 1 << 30,
        extensive_metrics: false,
    }
}
