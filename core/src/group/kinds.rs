//! Which kinds of entries may be proposed? A member that does not know one stops at it, so one that is new must wait until all
//! members know it; and from then on whoever knows less must stay out.
//!
//! ```text
//!  member    Config::kinds_known ~~heartbeat response~~> leader
//!  leader    all have said so since it leads, and it is more than is agreed ──> Command::KindsAgreed ──> log
//!  apply     State::kinds: durable, in every image; what is proposed is held against it
//!  hello     features of class "refuse", a bit for each kind agreed on beyond KIND_BASE: who does not know it refuses
//!  join      GET /members says what is agreed on, before there is a data folder
//! ```
//!
//! A member that is away keeps new kinds out, for it has not said since the leader leads. Once agreed they stay agreed, whoever
//! is away and whoever leads; a build that knows less does not open the data folder any more.

use std::time::Duration;

use ringstone_raft::Role;

use super::Group;
use super::leases::SAY_INTERVAL;
use crate::command::Command;
use crate::entry::KIND_BASE;
use crate::error::Error;

/// What a leader has said of kinds, and when.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    proposed: Option<(u64, Duration)>,
    /// The term in which a kind was last refused, in the log's words.
    refused: Option<u64>,
}

/// The bits of a hello's features that stand for these kinds.
#[must_use]
pub fn features_of_kinds(kinds: u16) -> u64 {
    let beyond = u32::from(kinds.saturating_sub(KIND_BASE));
    1u64.checked_shl(beyond).map_or(u64::MAX, |bit| bit - 1)
}

impl Group {
    /// The newest kind of entries that all members were known to know.
    #[must_use]
    pub fn kinds_agreed(&self) -> u16 {
        self.state.kinds()
    }

    /// A leader's tick: says what all know, until it is applied.
    pub(super) fn agree_on_kinds(&mut self) {
        if self.raft.role().role != Role::Leader || !self.is_ready() || self.stopping {
            return;
        }
        let known = self.raft.kinds_known_by_all().and_then(|known| u16::try_from(known).ok());
        let Some(known) = known.filter(|known| *known > self.state.kinds()) else { return };
        let term = self.raft.role().term.0;
        let is_recent = |(said, at): (u64, Duration)| said == term && self.now.saturating_sub(at) < SAY_INTERVAL;
        if !self.kinds.proposed.is_some_and(is_recent) {
            self.kinds.proposed = Some((term, self.now));
            self.propose_command(&Command::KindsAgreed { kinds: known });
        }
    }

    /// May this kind be proposed? Not before all members know it.
    pub(super) fn check_kind(&mut self, kind: u16) -> Result<(), Error> {
        if kind <= self.state.kinds() {
            return Ok(());
        }
        let term = self.raft.role().term.0;
        if self.kinds.refused != Some(term) {
            self.kinds.refused = Some(term);
            let status = self.raft.status();
            let lacks = |known: Option<u32>| known.is_none_or(|known| known < u32::from(kind));
            let behind = status.members.iter().filter(|member| lacks(member.kinds_known));
            let behind: Vec<String> = behind.map(|member| format!("{:x}", member.id.0)).collect();
            tracing::warn!(
                kind,
                agreed = self.state.kinds(),
                members = behind.join(","),
                "a request needs a newer kind of entry than these members are known to apply: it is refused until they run \
                 this version, too, or are removed"
            );
        }
        Err(Error::NotCapable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_for_each_kind_beyond_the_first_ones() {
        let bits = [0, KIND_BASE, KIND_BASE + 1, KIND_BASE + 3, KIND_BASE + 63, KIND_BASE + 64, u16::MAX];
        assert_eq!(bits.map(features_of_kinds), [0, 0, 1, 7, u64::MAX >> 1, u64::MAX, u64::MAX]);
    }
}
