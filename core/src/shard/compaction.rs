//! Compactions that nobody asked for: the group's shard proposes them as a client's call would. When and to where is
//! [`crate::compactor`]'s.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use glommio::timer::sleep;

use super::{Shard, boottime};
use crate::command::Command;
use crate::compactor::{Compactor, GoDuration, Retention};
use crate::error::Error;
use crate::shard::stages::Trace;

/// Runs until the executor ends. A member that does not lead only notes revisions.
pub(super) async fn run(shard: Rc<Shard>, retention: Retention) {
    let mut compactor = Compactor::new(retention, boottime());
    let shared = &shard.shared;
    loop {
        compactor.note(shared.revision.load(Ordering::Relaxed));
        sleep(compactor.pause()).await;
        if !shared.is_leader() {
            continue;
        }
        let now = boottime();
        let Some(revision) = compactor.wake(now, shared.revision.load(Ordering::Relaxed)) else { continue };
        starting(retention, revision);
        let trace = Trace::default();
        trace.begin(now, 0);
        match shard.propose(&Command::Compact { revision }, &trace).await {
            Ok(_) | Err(Error::Compacted) => {
                let ended = boottime();
                completed(retention, revision, ended.saturating_sub(now));
                compactor.compacted(ended, revision);
            }
            Err(error) => failed(retention, revision, compactor.pause(), &error),
        }
    }
}

// The lines and fields of etcd's log, which people have alerts on.

fn starting(retention: Retention, revision: i64) {
    match retention {
        Retention::Periodic(period) => {
            tracing::info!(revision, "compact-period" = %GoDuration(period), "starting auto periodic compaction");
        }
        Retention::Revision(kept) => {
            tracing::info!(revision, "revision-compaction-retention" = kept, "starting auto revision compaction");
        }
    }
}

fn completed(retention: Retention, revision: i64, took: Duration) {
    let took = GoDuration(took);
    match retention {
        Retention::Periodic(period) => {
            tracing::info!(revision, "compact-period" = %GoDuration(period), %took, "completed auto periodic compaction");
        }
        Retention::Revision(kept) => {
            tracing::info!(revision, "revision-compaction-retention" = kept, %took, "completed auto revision compaction");
        }
    }
}

fn failed(retention: Retention, revision: i64, pause: Duration, error: &Error) {
    let pause = GoDuration(pause);
    match retention {
        Retention::Periodic(period) => tracing::warn!(
            revision,
            "compact-period" = %GoDuration(period),
            "retry-interval" = %pause,
            %error,
            "failed auto periodic compaction"
        ),
        Retention::Revision(kept) => tracing::warn!(
            revision,
            "revision-compaction-retention" = kept,
            "retry-interval" = %pause,
            %error,
            "failed auto revision compaction"
        ),
    }
}
