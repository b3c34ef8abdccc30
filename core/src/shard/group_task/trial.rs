//! Has this member kept what it has promised? Asked of each other member at each start, before raft hears or says anything.
//!
//! ```text
//!  start ──> on trial: raft is as good as switched off ──> all others say that it stands     ──> it takes part
//!                      |                                └─> those that are there have said so, time is up ──> it takes part
//!                      └─> one says that it went back: the process ends, and the folder is marked (identity/mend.rs)
//! ```
//!
//! Who can't be reached at a start does not hold a member up for longer than an election takes anyway; who says later that it
//! went back ends it as well. What that leaves open: docs/decisions/0012-mending.md.

use std::time::Duration;

use ringstone_raft::NodeId;

use super::Driver;
use crate::group::GroupError;
use crate::identity::mended::Mended;
use crate::identity::promises::Standing;
use crate::shard::boottime;
use crate::shard::remembered::went_back;

/// Members that have not said yet that this one stands.
pub(super) struct Trial {
    unheard: Vec<NodeId>,
    since: Duration,
}

impl Driver {
    /// What the disk held when this process began.
    pub(super) fn standing(&self) -> Result<Standing, GroupError> {
        let mends = Mended::read(&self.local.shared.config.data_dir)?.count;
        Ok(Standing { mends, ..self.group.standing() })
    }

    /// At a start, where there are others.
    pub(super) fn begin_trial(&mut self) {
        let Some(links) = &self.others.links else { return };
        let own = self.local.shared.identity.member_id;
        let unheard: Vec<NodeId> =
            links.members().iter().filter(|member| member.id != own).map(|member| NodeId(member.id)).collect();
        if !unheard.is_empty() {
            self.group.begin_trial();
            self.others.trial = Some(Trial { unheard, since: boottime() });
        }
    }

    /// A member says that this one stands.
    pub(super) fn hear_stands(&mut self, from: NodeId) {
        if let Some(trial) = &mut self.others.trial {
            trial.unheard.retain(|member| *member != from);
        }
        self.maybe_end_trial(boottime());
    }

    /// A member says that this one has promised more than it held when it began.
    pub(super) fn hear_went_back(&self, from: NodeId, promised: &Standing) -> Result<(), GroupError> {
        let Some(links) = &self.others.links else { return Ok(()) };
        Err(GroupError::Refused { text: went_back(from, promised, links.standing()) })
    }

    /// A tick's part as well: time may be up.
    pub(super) fn maybe_end_trial(&mut self, now: Duration) {
        let patience = self.local.shared.config.election_timeout;
        let is_over = |trial: &mut Trial| trial.unheard.is_empty() || now.saturating_sub(trial.since) >= patience;
        let Some(trial) = self.others.trial.take_if(is_over) else { return };
        if !trial.unheard.is_empty() {
            let silent: Vec<String> = trial.unheard.iter().map(|member| format!("{:x}", member.0)).collect();
            tracing::info!(
                members = silent.join(","),
                "not all members could be asked whether this one has kept what it has promised: it takes part without their word"
            );
        }
        self.group.end_trial();
    }
}
