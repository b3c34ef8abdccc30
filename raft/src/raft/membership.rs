//! How do the members change (thesis 4.1 one voter, 4.3 any number)?
//!
//! The latest configuration in the log is in force from the moment it is appended, on every member, and goes away with its
//! entry if that is cut. So nothing has to be remembered between log and apply, and no member can campaign or count by an
//! old one that it has already left. One change at a time: the next waits until the last is committed, and until the
//! leader has committed in its own term (without that two single changes of two leaders may not overlap).

use super::Raft;
use crate::{Configuration, Entry, EntryKind, Index, ProposeError};
use bytes::Bytes;

impl Raft {
    /// Proposes to move to `target`: directly, or through a joint configuration that the leader (this one or the next)
    /// leaves by itself. `context` comes back with the entry. The change is done when an entry with a configuration that is
    /// not joint is committed. A leader that is no voter of it then hands leadership over and steps down.
    pub fn propose_configuration(&mut self, target: &Configuration, context: &[u8]) -> Result<Index, ProposeError> {
        self.check_may_propose()?;
        if !target.is_valid() || target.is_joint() {
            return Err(ProposeError::InvalidConfiguration);
        }
        let is_settled = self.is_configuration_committed() && !self.log.configuration().is_joint();
        if !self.has_committed_in_term() || !is_settled {
            return Err(ProposeError::ConfigurationPending);
        }
        let next = self.log.configuration().toward(target);
        Ok(self.append_configuration(next.encode(context)))
    }

    fn append_configuration(&mut self, payload: Bytes) -> Index {
        let index = self.log.last_index().next();
        let entry = Entry { term: self.hard_state.term, index, kind: EntryKind::Configuration, payload };
        self.uncommitted_bytes += entry.weight_bytes();
        self.log.append(entry);
        self.follow_configuration();
        index
    }

    /// On a leader: there is a progress for every other member, and for those that leave until they know it.
    fn follow_configuration(&mut self) {
        let members = self.log.configuration().members();
        let since = self.log.configuration_index();
        for (id, progress) in &mut self.progress {
            let is_member = members.binary_search(id).is_ok();
            progress.leaves_at = if is_member { None } else { progress.leaves_at.or(Some(since)) };
        }
        let own = self.config.id;
        members.into_iter().filter(|id| *id != own).for_each(|id| self.add_progress(id));
        if self.transferee.is_some_and(|to| !self.log.configuration().is_voter(to)) {
            self.transferee = None;
        }
    }

    /// A joint configuration that is committed is left, whichever leader made it. A leader commits only together with an
    /// entry of its own term, so a new one comes through here too.
    pub(super) fn maybe_leave_joint(&mut self) {
        let configuration = self.log.configuration();
        if configuration.is_joint() && self.is_configuration_committed() {
            let payload = configuration.without_outgoing().encode(&[]);
            self.append_configuration(payload);
        }
    }

    fn is_configuration_committed(&self) -> bool {
        self.log.configuration_index() <= self.log.committed()
    }

    /// A leader that is no voter of the committed configuration steps down (thesis 4.2.2), after the commit was sent to the others.
    pub(super) fn maybe_leave_office(&mut self) {
        if !self.is_voter() && self.is_configuration_committed() {
            self.resign();
        }
    }
}
