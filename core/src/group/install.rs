//! A member that needs entries which nobody has any more gets the leader's whole state.
//!
//! ```text
//!  leader    raft wants an image ──> Outputs::images_wanted ──> driver pins, writes it, send_image(to, metadata) ~~> transfer
//!  follower  image ──> a page file of its own, checked, synced, beside the old one     (restore.rs, Restore::finish_member)
//!            step(Snapshot) ──> log: truncate behind `applied`, checkpoint 0; synced ──> Outputs::install
//!            driver: the new file takes the place of the old one, its name is made durable, the group is opened anew
//! ```
//!
//! A crash finds either file whole. With the old one, the log has all that this one had applied, and no more: what it
//! loses was acknowledged, but everything up to the image is committed by a quorum that holds all of it and of which this
//! member was not one. With the new one, the log's tail is void, so that nothing of it is replayed behind the image; and the
//! record of a checkpoint of generation 0 says that the generations of the old file mean nothing for the new one.
//!
//! The group is opened anew rather than changed under its readers: shards, pins and watches of the old state end with it.

use ringstone_raft::{Index, NodeId, Snapshot, SnapshotMetadata};
use ringstone_wal::Kind;

use super::{Group, GroupError, records};

impl Group {
    /// True from the moment that an image replaces this state: nothing is applied, sent or answered any more.
    pub(super) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// What the image of a state must say about its place in the log: of the published state whose applied index this is.
    /// None where raft has let go of it meanwhile: pin again.
    pub fn image_metadata(&self, applied: u64) -> Option<SnapshotMetadata> {
        self.raft.metadata_at(Index(applied))
    }

    /// The image for a member out of `Outputs::images_wanted` is made; raft's message for it is among the next ones to
    /// send, and may be stepped there once all of the image has arrived. Entries behind it are kept until
    /// the member has them (landing.rs), or [`Group::report_image`] says that it did not get it.
    pub fn send_image(&mut self, to: NodeId, metadata: SnapshotMetadata) {
        self.images.begin(to, metadata.index.0);
        self.raft.send_snapshot(to, Snapshot { metadata, handle: bytes::Bytes::new() });
    }

    /// The image and its message have arrived, or they have not: then another one will be asked for.
    pub fn report_image(&mut self, to: NodeId, delivered: bool) {
        self.images.reported(to, delivered.then_some(self.now));
        if delivered {
            self.raft.report_snapshot_delivered(to);
        } else {
            self.raft.report_snapshot_failed(to);
        }
    }

    /// What the log says before the switch. False: the batch is full, the rest waits for the next.
    pub(super) fn log_install(&mut self, metadata: &SnapshotMetadata) -> Result<bool, GroupError> {
        self.installing = Some(metadata.clone());
        self.committed.clear();
        let applied = self.state.applied_index;
        if self.append(Kind::Truncate, 0, applied + 1, &[])?.is_none() {
            return Ok(false);
        }
        let nothing = records::checkpoint(0);
        Ok(self.append(Kind::Checkpoint, self.state.applied_term, applied, &nothing)?.is_some())
    }
}
