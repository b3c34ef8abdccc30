//! The Maintenance service.

use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringstone_net::{Code, ResponseSink, Status};
use ringstone_pager::api::{Direction, ReadTrees as _};
use ringstone_proto::etcdserverpb::alarm_request::AlarmAction;
use ringstone_proto::etcdserverpb::downgrade_request::DowngradeAction;
use ringstone_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use sha2::{Digest as _, Sha256};

use super::kv::send;
use super::{Answered, Api, encode};
use crate::command::Command;
use crate::config::{API_VERSION, CLUSTER_VERSION};
use crate::error::{Error, ReadFault};
use crate::group::Reply;
use crate::image::{ImageWriter, Step};
use crate::mvcc::hash;
use crate::shard::stages::Trace;
use crate::shard::{boottime, read_budget, state_of};
use crate::state::Admission;
use crate::trees::ALARM;

/// What a snapshot under way holds: a piece, the place in the trees.
const SNAPSHOT_BYTES: usize = 512 << 10;
/// A pin is not held longer than this.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(3600);

impl Api {
    /// All alarms: those that were raised, and this member's own NOSPACE while its quota or disk is used up.
    pub(super) async fn alarms(&self, of: AlarmType) -> Result<Vec<AlarmMember>, Error> {
        let shared = &self.shard.shared;
        let (mut alarms, full) = self
            .shard
            .read(|pin, _| {
                let mut alarms = Vec::new();
                pin.visit(ALARM, (Bound::Unbounded, Bound::Unbounded), Direction::Forward, false, &mut |key, _| {
                    if let (Some(id), Some(alarm)) = (key.first_chunk::<8>(), key.last_chunk::<4>()) {
                        let (member_id, alarm) = (u64::from_be_bytes(*id), i32::from_be_bytes(*alarm));
                        alarms.push(AlarmMember { member_id, alarm });
                    }
                    ControlFlow::Continue(())
                })
                .map_err(ReadFault::from)?;
                Ok(Some((alarms, shared.is_full(Admission::of_attributes(pin.attributes())))))
            })
            .await?;
        let own = AlarmMember { member_id: shared.identity.member_id, alarm: AlarmType::Nospace as i32 };
        if full && !alarms.contains(&own) {
            alarms.push(own);
        }
        alarms.retain(|alarm| of == AlarmType::None || alarm.alarm == of as i32);
        Ok(alarms)
    }

    pub(super) async fn alarm(&self, request: AlarmRequest, trace: &Trace) -> Answered {
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                self.shard.linearizable().await?;
                self.alarms(AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None)).await?
            }
            Ok(action) => {
                let command = Command::Alarm {
                    activate: action == AlarmAction::Activate,
                    member_id: request.member_id,
                    alarm: request.alarm,
                };
                match self.shard.propose(&command, trace).await? {
                    Reply::Alarm(alarms) => alarms,
                    other => unreachable!("an alarm is answered by alarms, not {other:?}"),
                }
            }
            // This ends etcd; here it is an error to its caller.
            Err(_) => return Err(Error::UnknownMethod.into()),
        };
        let header = Some(self.header(self.shard.window().revision));
        encode(trace, &AlarmResponse { header, alarms })
    }

    pub(super) async fn move_leader(&self, request: MoveLeaderRequest, trace: &Trace) -> Answered {
        if !self.shard.shared.is_leader() {
            return Err(Error::NotLeader.into());
        }
        self.shard.move_leader(request.target_id).await?;
        encode(trace, &MoveLeaderResponse { header: Some(self.header(0)) })
    }

    pub(super) async fn status(&self, _request: StatusRequest, trace: &Trace) -> Answered {
        let shared = &self.shard.shared;
        let leader = shared.leader.load(Ordering::Relaxed);
        let mut errors = Vec::new();
        if leader == 0 {
            errors.push(Error::NoLeader.text());
        }
        for alarm in self.alarms(AlarmType::None).await? {
            let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
            errors.push(format!("memberID:{} alarm:{name} ", alarm.member_id));
        }
        if let Ok(complaints) = shared.peer_complaints.lock() {
            errors.extend(complaints.iter().cloned());
        }
        let silent_ms = shared.disk_silent_ms.load(Ordering::Relaxed);
        if silent_ms > 0 {
            errors.push(format!("the disk has not answered for {silent_ms} ms"));
        }
        let quota = shared.config.quota_bytes.and_then(|quota| i64::try_from(quota).ok()).unwrap_or(0);
        let bytes = |figure: &AtomicU64| i64::try_from(figure.load(Ordering::Relaxed)).unwrap_or(0);
        let response = StatusResponse {
            header: Some(self.header(self.shard.window().revision)),
            version: API_VERSION.to_owned(),
            db_size: bytes(&shared.file_bytes),
            leader,
            raft_index: shared.committed.load(Ordering::Relaxed),
            raft_term: shared.term.load(Ordering::Relaxed),
            raft_applied_index: shared.applied.load(Ordering::Relaxed),
            errors,
            db_size_in_use: bytes(&shared.file_bytes_in_use),
            is_learner: self.is_learner(),
            storage_version: CLUSTER_VERSION.to_owned(),
            db_size_quota: quota,
            downgrade_info: Some(DowngradeInfo { enabled: false, target_version: String::new() }),
        };
        encode(trace, &response)
    }

    /// There is no older form of what is stored, so that a downgrade can be asked about and not begun.
    pub(super) async fn downgrade(&self, request: DowngradeRequest, trace: &Trace) -> Answered {
        let action = DowngradeAction::try_from(request.action).map_err(|_| Error::UnknownMethod)?;
        if action != DowngradeAction::Cancel {
            self.shard.linearizable().await?;
            let (major, minor) = version_of(&request.version).ok_or(Error::DowngradeVersionFormat)?;
            let ours = version_of(CLUSTER_VERSION).expect("a constant");
            if (major, minor + 1) != ours {
                return Err(Error::DowngradeVersionInvalid.into());
            }
        }
        if action == DowngradeAction::Enable {
            let text = "ringstone: a cluster can't be downgraded: its files have no older form";
            return Err(Status::new(Code::Unimplemented, text));
        }
        let version = CLUSTER_VERSION.rsplit_once('.').map_or("", |(version, _)| version).to_owned();
        encode(trace, &DowngradeResponse { header: Some(self.header(self.shard.window().revision)), version })
    }

    /// Free pages are reused in place and nothing ever stops for it: there is nothing to do.
    pub(super) async fn defragment(&self, _request: DefragmentRequest, trace: &Trace) -> Answered {
        encode(trace, &DefragmentResponse { header: None })
    }

    pub(super) async fn hash(&self, _request: HashRequest, trace: &Trace) -> Answered {
        let (hash, revision) = self
            .shard
            .read(|pin, window| {
                Ok(Some((hash::hash_all(pin, &state_of(pin)).map_err(ReadFault::from)?, window.revision)))
            })
            .await?;
        encode(trace, &HashResponse { header: Some(self.header(revision)), hash })
    }

    pub(super) async fn hash_kv(&self, request: HashKvRequest, trace: &Trace) -> Answered {
        let mut scan = hash::HashScan::new(request.revision);
        let (hash, revision) = self
            .shard
            .read(|pin, window| {
                let hash = scan.step(pin, &state_of(pin), &mut read_budget())?;
                Ok(hash.map(|hash| (hash, window.revision)))
            })
            .await?;
        encode(
            trace,
            &HashKvResponse {
                header: Some(self.header(revision)),
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.hash_revision,
            },
        )
    }

    /// The image of the store as it is now, then its SHA-256 as a message of its own. One root stays pinned for the whole
    /// answer; a client that takes too long is told so, that old pages can be reused again.
    pub(super) async fn snapshot(&self, _request: SnapshotRequest, responses: ResponseSink) -> Result<(), Status> {
        let began = boottime();
        let _open = OpenSnapshot::begin(&self.shard.metrics().snapshots_open);
        tracing::info!("sending database snapshot to client");
        let pin = self.shard.pin();
        let state = state_of(&pin);
        let mut held = responses.hold();
        held.set(SNAPSHOT_BYTES);
        let mut image = ImageWriter::new(&self.shard.shared.identity);
        let mut digest = Sha256::new();
        loop {
            if boottime().saturating_sub(began) > SNAPSHOT_AGE_MAX {
                return Err(Status::new(
                    Code::Unavailable,
                    "ringstone: the snapshot took longer than an hour: take it again",
                ));
            }
            match image.step(&pin, &state) {
                Ok(Step::Counting) => glommio::yield_if_needed().await,
                Ok(Step::Piece(piece)) => {
                    digest.update(&piece.bytes);
                    send(&responses, &snapshot_message(piece.bytes, piece.remaining_bytes)).await?;
                }
                Ok(Step::Done) => break,
                Err(ReadFault::Absent(run)) => self.shard.bring_in(run).await?,
                Err(ReadFault::Refused(error)) => return Err(self.shard.refused(error).into()),
            }
        }
        send(&responses, &snapshot_message(Bytes::copy_from_slice(&digest.finalize()), 0)).await?;
        self.shard.metrics().snapshots.record(boottime().saturating_sub(began));
        tracing::info!("successfully sent database snapshot to client");
        Ok(())
    }
}

/// Counts a snapshot under way, whichever way it ends.
struct OpenSnapshot<'a>(&'a AtomicU64);

impl OpenSnapshot<'_> {
    fn begin(open: &AtomicU64) -> OpenSnapshot<'_> {
        open.fetch_add(1, Ordering::Relaxed);
        OpenSnapshot(open)
    }
}

impl Drop for OpenSnapshot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Major and minor of `X.Y` or `X.Y.Z`.
fn version_of(text: &str) -> Option<(u64, u64)> {
    let parts = text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
    match parts[..] {
        [major, minor] | [major, minor, _] => Some((major, minor)),
        _ => None,
    }
}

fn snapshot_message(blob: Bytes, remaining_bytes: u64) -> SnapshotResponse {
    SnapshotResponse { header: None, remaining_bytes, blob, version: CLUSTER_VERSION.to_owned() }
}
