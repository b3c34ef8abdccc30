//! What a member tells of itself.

use crate::progress::{Phase, Progress};
use crate::{Configuration, Index, NodeId, Positions, Raft, Role, RoleChange};
use alloc::vec::Vec;

/// What a member knows of the group, for people and metrics.
#[derive(Clone, Debug)]
pub struct Status {
    /// Role, term and leader.
    pub role: RoleChange,
    /// The log's positions.
    pub positions: Positions,
    /// The last compacted entry.
    pub compacted: Index,
    /// The configuration in force.
    pub configuration: Configuration,
    /// On a leader: whom leadership is being handed to.
    pub transferee: Option<NodeId>,
    /// On a leader: every other member, and one that was removed until it was told so.
    pub members: Vec<MemberStatus>,
}

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who.
    pub id: NodeId,
    /// How it is sent entries.
    pub replication: Replication,
    /// The last entry that it is known to have synced.
    pub matched: Index,
    /// The next entry that it will be sent.
    pub next: Index,
    /// Appends on their way.
    pub appends_in_flight: usize,
    /// The entries in them, payload and overhead.
    pub bytes_in_flight: usize,
    /// Whether it was heard from since the last check of the quorum, or lately met.
    pub is_active: bool,
    /// Ticks since it was heard from in this leadership; `u32::MAX`: it never was.
    pub silent_ticks: u32,
    /// The newest kind of entries that it can apply; `None` until it has said.
    pub kinds_known: Option<u32>,
}

/// How a member is sent entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// One append at a time: where the logs agree is not known.
    Probe,
    /// Ahead of acknowledgements.
    Pipeline,
    /// Not: it waits for an image.
    Image,
}

impl Raft {
    /// For people and metrics; allocates.
    pub fn status(&self) -> Status {
        let members = self.progress.iter().map(|(id, progress)| MemberStatus {
            id: *id,
            replication: match progress.phase {
                Phase::Probe => Replication::Probe,
                Phase::Replicate => Replication::Pipeline,
                Phase::Snapshot => Replication::Image,
            },
            matched: progress.matched,
            next: progress.next,
            appends_in_flight: progress.in_flight.count(),
            bytes_in_flight: progress.in_flight.bytes(),
            is_active: progress.is_active,
            silent_ticks: progress.silent_ticks,
            kinds_known: progress.kinds_known,
        });
        Status {
            role: self.role(),
            positions: self.positions(),
            compacted: self.log.base_index(),
            configuration: self.configuration().clone(),
            transferee: self.transferee,
            members: members.collect(),
        }
    }

    /// On a leader: the newest kind of the caller's entries that every member of the configuration can apply, this one
    /// included; a newer one must not be proposed. `None` elsewhere, and until all have said what they know since this
    /// leadership began.
    pub fn kinds_known_by_all(&self) -> Option<u32> {
        if self.role().role != Role::Leader {
            return None;
        }
        let others = self.progress.values().filter(|progress| progress.leaves_at.is_none());
        others
            .map(|progress| progress.kinds_known)
            .try_fold(self.config.kinds_known, |least, known| Some(least.min(known?)))
    }

    /// On a leader: whether a member has, but for one append's worth, everything that there is, and answers. A learner of
    /// which this is true can become a voter without making commits wait for it (thesis 4.2.1).
    pub fn is_caught_up(&self, id: NodeId) -> bool {
        let is_close = |matched| self.log.weighs_at_most(matched, self.config.append_bytes_max);
        self.progress.get(&id).is_some_and(|progress| {
            progress.phase == Phase::Replicate && progress.is_active && is_close(progress.matched)
        })
    }

    /// On a leader: the entry behind which the other members that answer still need the log. Whoever compacts past it makes
    /// them take an image. For one that an image is on its way to that is the image's index; one that waits for an image to
    /// be made needs nothing. `None` where there is no such member.
    pub fn wanted_by_others(&self) -> Option<Index> {
        let silent_max = 2 * self.config.election_ticks;
        let answering = self.progress.values().filter(|progress| progress.silent_ticks <= silent_max);
        answering.filter_map(Progress::wants_log_from).min()
    }
}
