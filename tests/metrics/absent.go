package metrics

// absent are etcd's families that Ringstone does not have, by name or by prefix (with a star), each with its reason.
var absent = map[string]string{
	"go_*":                                                             "there is no Go runtime",
	"etcd_server_go_version":                                           "there is no Go runtime",
	"promhttp_metric_handler_*":                                        "of Prometheus' client for Go, about itself",
	"etcd_server_feature_enabled":                                      "etcd's own feature gates",
	"etcd_grpc_proxy_*":                                                "no proxy is in this program",
	"etcd_debugging_store_*":                                           "the v2 store",
	"etcd_debugging_snap_save_*":                                       "snapshots of the v2 store",
	"etcd_snap_*":                                                      "snapshots of the v2 store, and those that peers send",
	"etcd_network_known_peers":                                         "no peers yet",
	"etcd_server_heartbeat_send_failures_total":                        "no peers yet",
	"etcd_server_learner_promote_successes":                            "no learners yet",
	"etcd_server_snapshot_apply_in_progress_total":                     "no snapshots from peers yet",
	"etcd_server_read_indexes_failed_total":                            "a single member's reads need no read index",
	"etcd_server_slow_read_indexes_total":                              "a single member's reads need no read index",
	"etcd_debugging_auth_revision":                                     "auth is not built yet",
	"etcd_disk_backend_defrag_duration_seconds":                        "free pages are reused in place: Defragment does nothing",
	"etcd_disk_defrag_inflight":                                        "free pages are reused in place: Defragment does nothing",
	"etcd_debugging_disk_backend_commit_*":                             "phases of a commit of bbolt",
	"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": "there is no index in memory",
	"etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds":    "cleaning up goes in slices of 256 records among the writes: nothing pauses",
	"etcd_debugging_server_watch_send_loop_*":                          "an event is encoded once for all watchers, by the shard's hub: there is no loop a stream",
}

// equal are the families whose values must be the same on both after the same calls.
var equal = []string{
	"etcd_server_has_leader", "etcd_server_is_leader", "etcd_server_is_learner", "etcd_server_leader_changes_seen_total",
	"etcd_server_proposals_failed_total", "etcd_server_proposals_pending", "etcd_server_quota_backend_bytes",
	"etcd_server_health_success", "etcd_server_health_failures", "etcd_server_healthcheck", "etcd_server_healthchecks_total",
	"etcd_server_client_requests_total", "etcd_server_version", "etcd_cluster_version",
	"etcd_mvcc_put_total", "etcd_mvcc_delete_total", "etcd_mvcc_txn_total",
	"etcd_debugging_mvcc_keys_total", "etcd_debugging_mvcc_total_put_size_in_bytes",
	"etcd_debugging_mvcc_current_revision", "etcd_debugging_mvcc_compact_revision",
	"etcd_debugging_mvcc_watch_stream_total", "etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_slow_watcher_total",
	"etcd_debugging_mvcc_pending_events_total",
	"etcd_debugging_lease_granted_total", "etcd_debugging_lease_revoked_total", "etcd_debugging_lease_renewed_total",
	"etcd_debugging_server_lease_expired_total", "etcd_debugging_server_alarms",
	"grpc_server_started_total", "grpc_server_handled_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total",
	"os_fd_limit", "process_max_fds",
}

// different are the values that may differ, with what they have in common as text, each with its reason.
var different = map[string]string{
	"grpc_server_msg_sent_total Snapshot":           "a snapshot is cut into other pieces",
	"grpc_server_msg_received_total LeaseKeepAlive": "etcd counts a client's half-close as a message",
}

// counted are the histograms of which the same number of values must have been taken.
var counted = []string{
	"etcd_debugging_lease_ttl_total", "etcd_mvcc_hash_duration_seconds", "etcd_mvcc_hash_rev_duration_seconds",
	"etcd_disk_backend_snapshot_duration_seconds", "grpc_server_handling_seconds",
}
