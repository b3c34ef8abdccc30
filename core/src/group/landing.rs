//! Members that an image is on its way to: the log behind it is kept until they have taken it up.
//!
//! ```text
//!  send_image ── on its way ── report_image(delivered) ── landing: it opens the new file, and asks for what follows ── landed
//! ```
//!
//! Let go of the log sooner, and the member that has just installed an image needs another one, for ever where writes are
//! fast. Keep it without a bound, and one slow member fills the memory of its leader: the log that others may need is in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use ringstone_raft::{MemberStatus, NodeId, Replication, Status};

use super::Group;

/// A member that has not come back with its image by then is gone.
const LANDING_MAX: Duration = Duration::from_secs(120);
/// Log that may be kept for members that are behind or take an image: a quarter of the memory limit, within these.
const LOG_BYTES_MIN: u64 = 64 << 20;
const LOG_BYTES_MAX: u64 = 1 << 30;

/// What a state costs that is pinned for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageCosts {
    /// Bytes of entries that are kept because they follow it.
    pub log_bytes: u64,
    /// How many may be.
    pub log_bytes_max: u64,
    /// Bytes of freed pages that can't be used again, for this reason or another.
    pub held_bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Landings {
    by_member: BTreeMap<NodeId, Landing>,
}

#[derive(Debug)]
struct Landing {
    /// What the image covers.
    index: u64,
    /// Of entries applied since.
    log_bytes: u64,
    /// When the image had arrived.
    arrived: Option<Duration>,
}

impl Landings {
    pub(super) fn begin(&mut self, to: NodeId, index: u64) {
        self.by_member.insert(to, Landing { index, log_bytes: 0, arrived: None });
    }

    /// It has arrived at this time, or it will not.
    pub(super) fn reported(&mut self, to: NodeId, arrived: Option<Duration>) {
        match (arrived, self.by_member.get_mut(&to)) {
            (Some(_), Some(landing)) => landing.arrived = arrived,
            _ => drop(self.by_member.remove(&to)),
        }
    }

    /// Nothing is on its way any more: this member does not lead.
    pub(super) fn clear(&mut self) {
        self.by_member.clear();
    }

    /// Entries of so many bytes were applied.
    pub(super) fn applied(&mut self, bytes: u64) {
        self.by_member.values_mut().for_each(|landing| landing.log_bytes += bytes);
    }

    /// The log behind this index is needed.
    pub(super) fn floor(&self) -> Option<u64> {
        self.by_member.values().map(|landing| landing.index).min()
    }

    pub(super) fn log_bytes(&self, of: NodeId) -> Option<u64> {
        self.by_member.get(&of).map(|landing| landing.log_bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_member.is_empty()
    }

    /// Forgets those that have landed (`matched`: up to where their log is known to be as the leader's, which ends at `last`),
    /// and those that may be waited for no longer; returns these.
    pub(super) fn settle(
        &mut self,
        now: Duration,
        log_bytes_max: u64,
        last: u64,
        matched: impl Fn(NodeId) -> Option<u64>,
    ) -> Vec<NodeId> {
        let mut late = Vec::new();
        self.by_member.retain(|member, landing| {
            let Some(arrived) = landing.arrived else { return true };
            if matched(*member).is_none_or(|matched| matched > landing.index || matched >= last) {
                return false;
            }
            let is_late = now.saturating_sub(arrived) > LANDING_MAX || landing.log_bytes > log_bytes_max;
            if is_late {
                late.push(*member);
            }
            !is_late
        });
        late
    }
}

/// Bytes of applied entries that may stay in memory for others.
pub(super) fn log_bytes_max(memory_limit_bytes: u64) -> u64 {
    (memory_limit_bytes / 4).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX)
}

impl Group {
    fn log_bytes_max(&self) -> u64 {
        log_bytes_max(self.shared.config.memory_limit_bytes)
    }

    /// What the state costs that is pinned for a member; None once raft needs it no more: the member has caught up or is gone,
    /// or this one does not lead.
    #[must_use]
    pub fn image_costs(&self, to: NodeId) -> Option<ImageCosts> {
        let log_bytes = self.images.log_bytes(to)?;
        let waits = |member: &MemberStatus| member.id == to && member.replication == Replication::Image;
        let costs = ImageCosts { log_bytes, log_bytes_max: self.log_bytes_max(), held_bytes: self.pager.held_bytes() };
        self.raft.status().members.iter().any(waits).then_some(costs)
    }

    /// A tick's part: images that have landed hold the log no more.
    pub(super) fn settle_landings(&mut self) {
        if self.images.is_empty() {
            return;
        }
        let log_bytes_max = self.log_bytes_max();
        let Status { members, positions, .. } = self.raft.status();
        let matched = |id: NodeId| members.iter().find(|member| member.id == id).map(|member| member.matched.0);
        for late in self.images.settle(self.now, log_bytes_max, positions.proposed.0.0, matched) {
            tracing::warn!(
                member = format!("{:x}", late.0),
                "a member that was sent the state does not go on from it: the log is kept for it no longer"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(100);

    fn second(seconds: u64) -> Duration {
        AT + Duration::from_secs(seconds)
    }

    #[test]
    fn the_log_is_kept_until_the_member_goes_on_from_its_image() {
        let (a, b) = (NodeId(1), NodeId(2));
        let mut landings = Landings::default();
        landings.begin(a, 50);
        landings.begin(b, 70);
        landings.applied(1000);
        assert_eq!((landings.floor(), landings.log_bytes(a)), (Some(50), Some(1000)));
        // On its way, however long: its sender has bounds of its own.
        assert_eq!(landings.settle(second(9999), 10, 90, |_| Some(0)), []);
        landings.reported(a, Some(AT));
        landings.reported(b, None);
        assert_eq!(landings.floor(), Some(50), "arrived, not landed; the other one has failed");
        assert_eq!(landings.settle(second(1), 1 << 20, 90, |_| Some(50)), []);
        assert_eq!(landings.floor(), Some(50), "known to have it: the entries behind it are still to come");
        assert_eq!(landings.settle(second(2), 1 << 20, 90, |_| Some(51)), []);
        assert_eq!(landings.floor(), None);
        // Where nothing is written, nothing follows.
        landings.begin(a, 90);
        landings.reported(a, Some(AT));
        assert_eq!(landings.settle(second(3), 1 << 20, 90, |_| Some(90)), []);
        assert_eq!(landings.floor(), None);
    }

    #[test]
    fn a_member_that_never_lands_holds_nothing_for_ever() {
        let member = NodeId(1);
        let begun = || {
            let mut landings = Landings::default();
            landings.begin(member, 50);
            landings.reported(member, Some(AT));
            landings
        };
        let mut landings = begun();
        assert_eq!(landings.settle(AT + LANDING_MAX, 100, 90, |_| Some(7)), []);
        assert_eq!(landings.settle(second(121), 100, 90, |_| Some(7)), [member]);
        assert!(landings.is_empty());
        let mut landings = begun();
        landings.applied(101);
        assert_eq!(landings.settle(second(1), 100, 90, |_| Some(7)), [member], "more log than may be kept");
        let mut landings = begun();
        assert_eq!(landings.settle(second(1), 100, 90, |_| None), [], "removed from the cluster");
        assert!(landings.is_empty());
    }
}
