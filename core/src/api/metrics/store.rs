//! The store: keys, revisions, compactions, leases, watches.

use super::{Distribution, Look, Single, counter, distribution, gauge, load, write_tables};
use crate::metrics::Exposition;

const SINGLES: &[Single] = &[
    gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Total size of the underlying database physically allocated in bytes.",
        |look| load(&look.shared.file_bytes),
    ),
    gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Total size of the underlying database logically in use in bytes.",
        |look| load(&look.shared.file_bytes_in_use),
    ),
    gauge("etcd_mvcc_db_open_read_transactions", "The number of currently open read transactions", |look| {
        look.gauges(|shard| &shard.snapshots_open)
    }),
    gauge(
        "ringstone_store_logical_bytes",
        "Bytes that the quota is held against: live keys, the log since the last compaction, and what both retain.",
        |look| look.state.quota_bytes() as f64,
    ),
    counter("etcd_mvcc_range_total", "Total number of ranges seen by this member.", |look| {
        look.sum(|shard| &shard.ranges)
    }),
    counter("etcd_mvcc_put_total", "Total number of puts seen by this member.", |look| look.sum(|shard| &shard.puts)),
    counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member.", |look| {
        look.sum(|shard| &shard.deletes)
    }),
    counter("etcd_mvcc_txn_total", "Total number of txns seen by this member.", |look| look.sum(|shard| &shard.txns)),
    gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "The total size of put kv pairs seen by this member.",
        |look| look.sum(|shard| &shard.put_bytes),
    ),
    gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", |look| look.keys as f64),
    gauge("etcd_debugging_mvcc_current_revision", "The current revision of store.", |look| look.state.revision as f64),
    gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.", |look| {
        look.state.compact_revision as f64
    }),
    gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "The unix time of the last db compaction. Resets to 0 on start.",
        |look| look.gauges(|shard| &shard.compaction_last_s),
    ),
    counter("etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted.", |look| {
        look.sum(|shard| &shard.compacted_events)
    }),
    counter("etcd_debugging_mvcc_events_total", "Total number of events sent by this member.", |look| {
        look.sum(|shard| &shard.events)
    }),
    gauge("ringstone_leases", "Leases that there are.", |look| look.leases as f64),
    counter("etcd_debugging_lease_granted_total", "The total number of granted leases.", |look| {
        look.sum(|shard| &shard.leases_granted)
    }),
    counter("etcd_debugging_lease_revoked_total", "The total number of revoked leases.", |look| {
        look.sum(|shard| &shard.leases_revoked)
    }),
    counter("etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader.", |look| {
        look.sum(|shard| &shard.leases_renewed)
    }),
    counter("etcd_debugging_server_lease_expired_total", "The total number of expired leases.", |look| {
        look.sum(|shard| &shard.leases_expired)
    }),
    gauge("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", |look| {
        look.gauges(|shard| &shard.watches.streams)
    }),
    gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", |look| {
        look.gauges(|shard| &shard.watches.watchers)
    }),
    gauge("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", |look| {
        look.gauges(|shard| &shard.watches.behind)
    }),
    gauge("etcd_debugging_mvcc_pending_events_total", "Total number of pending events to be sent.", |look| {
        look.gauges(|shard| &shard.watches.pending)
    }),
    gauge(
        "ringstone_watch_queued_bytes",
        "Memory of answers of watches that their clients have not taken yet.",
        |look| look.gauges(|shard| &shard.watches.pending_bytes),
    ),
];

const DISTRIBUTIONS: &[Distribution] = &[
    distribution("etcd_mvcc_hash_duration_seconds", "The latency distribution of storage hash operation.", |shard| {
        &shard.hash
    }),
    distribution(
        "etcd_mvcc_hash_rev_duration_seconds",
        "The latency distribution of storage hash by revision operation.",
        |shard| &shard.hash_kv,
    ),
    distribution("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", |shard| &shard.lease_ttls),
    distribution(
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Bucketed histogram of db compaction total duration.",
        |shard| &shard.compaction,
    ),
];

pub(super) fn write(out: &mut Exposition, look: &Look<'_>) {
    write_tables(out, look, SINGLES, DISTRIBUTIONS);
}
