//! The disk: log, checkpoints, snapshots, and the frames that wait to be written.

use super::{Distribution, Look, Single, counter, distribution, gauge, load, write_tables};
use crate::metrics::Exposition;

const SINGLES: &[Single] = &[
    gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL.", |look| {
        look.sum(|shard| &shard.wal_bytes)
    }),
    gauge("ringstone_pager_dirty_bytes", "Frames in memory that no checkpoint has written yet.", |look| {
        load(&look.shared.dirty_bytes)
    }),
    gauge("ringstone_pager_frame_bytes", "All frames in memory.", |look| load(&look.shared.frame_bytes)),
    counter(
        "ringstone_pager_moved_bytes_total",
        "Bytes that were moved towards the beginning of the page file so that it can become shorter.",
        |look| load(&look.shared.shrink_moved_bytes),
    ),
    counter("ringstone_pager_cut_bytes_total", "Bytes that the page file was cut by.", |look| {
        load(&look.shared.cut_bytes)
    }),
    gauge(
        "ringstone_disk_free_bytes",
        "Free space of the file system less the reserve for log and checkpoint; puts are refused at 0.",
        |look| load(&look.shared.disk_free),
    ),
    counter(
        "ringstone_disk_stalls_total",
        "Times that a request of the log, or a read that writes wait for, had no answer for most of an election timeout.",
        |look| load(&look.shared.disk_stalls),
    ),
    gauge(
        "ringstone_disk_silent_seconds",
        "For how long the disk has not answered; 0 while it answers within most of an election timeout.",
        |look| load(&look.shared.disk_silent_ms) / 1e3,
    ),
    counter(
        "ringstone_leaderships_given_away_total",
        "Times that this member gave its leadership away because its disk did not answer.",
        |look| load(&look.shared.leaderships_given_away),
    ),
];

const DISTRIBUTIONS: &[Distribution] = &[
    distribution(
        "etcd_disk_wal_fsync_duration_seconds",
        "The latency distributions of fsync called by WAL.",
        |shard| &shard.wal_fsync,
    ),
    // The log's write and its sync are one operation of the disk.
    distribution(
        "etcd_disk_wal_write_duration_seconds",
        "The latency distributions of write called by WAL.",
        |shard| &shard.wal_fsync,
    ),
    distribution(
        "etcd_disk_backend_commit_duration_seconds",
        "The latency distributions of commit called by backend.",
        |shard| &shard.backend_commit,
    ),
    distribution(
        "etcd_disk_backend_snapshot_duration_seconds",
        "The latency distribution of backend snapshots.",
        |shard| &shard.snapshots,
    ),
];

pub(super) fn write(out: &mut Exposition, look: &Look<'_>) {
    write_tables(out, look, SINGLES, DISTRIBUTIONS);
}
