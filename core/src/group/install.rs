//! A member that needs entries which nobody has any more gets the leader's whole state.
//!
//! ```text
//!  leader    raft wants an image ──> Outputs::images_wanted ──> driver pins, writes it, send_image(to, metadata) ~~> transfer
//!  follower  image ──> a page file of its own, checked, synced, beside the old one     (restore.rs, restore/pages.rs)
//!            step(Snapshot) ──> log: about to switch to a state of this index; synced ──> Outputs::install
//!            driver: the new file takes the place of the old one, its name is made durable, the group is opened anew
//!  next start           page file below that index: it is the old one, nothing has happened, the log counts as it is
//!                       else: the log is void up to here, and generations begin anew; said in the log's next batch (open.rs)
//! ```
//!
//! A crash finds either file whole, and the log belongs to both: which of them it is, the file says. With the old one this
//! member still has all that it ever acknowledged; its leader counts on that. With the new one, entries behind the old state
//! must not be replayed behind the new one: up to the image's index they are in it, or were never committed; behind it
//! they are of a leader that did not have the entry at that index (decision 11).
//!
//! The group is opened anew rather than changed under its readers: shards, pins and watches of the old state end with it.

use ringstone_raft::{Index, NodeId, Snapshot, SnapshotMetadata};
use ringstone_wal::Kind;

use super::records::Switch;
use super::{Group, GroupError, records};

impl Group {
    /// True from the moment that an image replaces this state: nothing is applied, sent or answered any more.
    pub(super) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// True once raft has taken the image whose message was stepped last: what is beside the page file is that of
    /// [`Outputs::install`](super::Outputs::install), and stays there until then. False: it was not needed.
    pub fn has_taken_image(&self) -> bool {
        self.raft.is_installing()
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
        let about = records::switch(&Switch { index: metadata.index.0, generation: self.pace.generation });
        let (index, term) = (self.state.applied_index, self.state.applied_term);
        Ok(self.append(Kind::Checkpoint, term, index, &about)?.is_some())
    }
}
