//! How does an entry get to the others (thesis 3.5), and when is it agreed (3.6.2)?
//!
//! Appends leave while this member's own disk still writes the same entries (10.2.1), and ahead of acknowledgements (10.2.2).

use super::Raft;
use crate::progress::{Phase, Progress};
use crate::{Body, Entry, Index, Message, NodeId, RaftError, Role, Snapshot, Term};
use alloc::vec::Vec;

impl Raft {
    /// Sends what windows allow, once for all inputs since the last call.
    pub(super) fn replicate(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let (last, committed, base) = (self.log.last_index(), self.log.committed(), self.log.base_index());
        for (id, progress) in &mut self.progress {
            while progress.wants_append(last, committed) {
                let previous_index = progress.next.previous();
                if previous_index < base {
                    // An image is work: not for a member that nobody hears.
                    if progress.is_active {
                        progress.become_snapshot();
                        self.snapshots_wanted.push(*id);
                    } else {
                        progress.become_paused_probe();
                    }
                    break;
                }
                let previous_term = self.log.term_at(previous_index).expect("not below the base");
                let term = self.hard_state.term;
                if progress.wants_news_only(last) {
                    progress.told(committed);
                    let body = Body::Commit { index: previous_index, entry_term: previous_term, committed };
                    self.send_now.push((*id, Message { term, body }));
                    continue;
                }
                let entries = match progress.may_send_entries() {
                    true => self.log.entries_after(previous_index, self.config.append_bytes_max),
                    false => Vec::new(),
                };
                let bytes = entries.iter().map(Entry::weight_bytes).sum();
                progress.sent(entries.last().map(|entry| entry.index), bytes, committed);
                let body = Body::Append { previous_index, previous_term, committed, entries };
                self.send_now.push((*id, Message { term, body }));
            }
        }
        self.progress.retain(|_, progress| !progress.has_left(committed));
    }

    pub(super) fn broadcast_heartbeat(&mut self) {
        let round = self.reads.round();
        if self.config.lease_reads {
            self.lease.sent(round, self.config.election_ticks);
        }
        let committed = self.log.committed();
        let term = self.hard_state.term;
        for (id, progress) in &self.progress {
            let body = Body::Heartbeat { committed: committed.min(progress.matched), round };
            self.send_now.push((*id, Message { term, body }));
        }
    }

    /// Commits what a quorum has synced, this member by its own sync; a quorum of others needs no sync here. Only an entry of the own term is counted: one of an
    /// earlier term may still be overwritten although a majority holds it (thesis 3.6.2, figure 3.7).
    pub(super) fn maybe_commit(&mut self) {
        let before = self.log.committed();
        let mut quorum = Index(self.log.configuration().quorum_value(|id| self.matched(id).0));
        if self.is_first_of_two() {
            quorum = quorum.max(self.log.persisted().min(self.log.configuration_index()));
        }
        if quorum > before && self.log.term_at(quorum) == Some(self.hard_state.term) {
            self.log.commit_to(quorum);
            self.uncommitted_bytes -= self.log.weight_bytes(before, quorum);
            self.maybe_leave_joint();
        }
    }

    /// The change in the log makes this sole voter one of two. Up to that entry its own disk is enough, as before: a quorum of
    /// two is both, so that nothing is ever agreed without this member, which has the entry. The second one need not have begun
    /// when it is added, and may be told by the committed state where to find the first.
    fn is_first_of_two(&self) -> bool {
        let (own, two) = (self.config.id, self.log.configuration());
        let was_alone = |before: &crate::Configuration| before.voters() == [own] && !before.is_joint();
        two.voters().len() == 2
            && two.is_voter(own)
            && !two.is_joint()
            && self.log.configuration_before().is_some_and(was_alone)
    }

    fn matched(&self, id: NodeId) -> Index {
        if id == self.config.id {
            return self.log.persisted();
        }
        self.progress.get(&id).map_or(Index(0), |progress| progress.matched)
    }

    pub(super) fn handle_append(
        &mut self,
        from: NodeId,
        previous_index: Index,
        previous_term: Term,
        committed: Index,
        entries: Vec<Entry>,
    ) -> Result<(), RaftError> {
        let own_committed = self.log.committed();
        // What is committed here agrees with any leader.
        if previous_index > own_committed && self.log.term_at(previous_index) != Some(previous_term) {
            let hint_index = self.log.agreement_hint(previous_index, previous_term);
            let hint_term = self.log.term_at(hint_index).expect("a hint is inside the log");
            self.send(from, Body::AppendRejected { rejected: previous_index, hint_index, hint_term });
            return Ok(());
        }
        let last_new = Index(previous_index.0 + entries.len() as u64);
        self.append_new(from, entries)?;
        self.log.commit_to(committed.min(last_new));
        self.hold(from, Body::AppendAccepted { matched: last_new.max(own_committed) });
        Ok(())
    }

    /// What this log shares with the leader's up to `index` is committed as far as the leader says.
    pub(super) fn handle_commit(&mut self, index: Index, entry_term: Term, committed: Index) {
        if self.log.term_at(index) == Some(entry_term) {
            self.log.commit_to(committed.min(index));
        }
    }

    /// Appends those that are not here yet; a conflict cuts the log first.
    fn append_new(&mut self, from: NodeId, entries: Vec<Entry>) -> Result<(), RaftError> {
        for entry in entries {
            if entry.index <= self.log.base_index() || self.log.term_at(entry.index) == Some(entry.term) {
                continue;
            }
            if entry.index <= self.log.committed() {
                return Err(RaftError::CommittedConflict { from, index: entry.index });
            }
            // Where the append begins inside what is committed, its first term was not compared.
            if self.log.term_at(entry.index.previous()).is_some_and(|term| term > entry.term) {
                return Err(RaftError::Malformed { from, what: "terms of entries are below those of the log" });
            }
            if entry.index <= self.log.last_index() {
                self.log.cut(entry.index);
                self.sync.cut(entry.index.previous());
            }
            self.log.append(entry);
        }
        Ok(())
    }

    pub(super) fn handle_heartbeat(&mut self, from: NodeId, committed: Index, round: u64) -> Result<(), RaftError> {
        let last = self.log.last_index();
        if committed > last {
            return Err(RaftError::LostEntries { expected: committed, last });
        }
        self.log.commit_to(committed);
        self.send(from, Body::HeartbeatResponse { round, kinds_known: self.config.kinds_known });
        Ok(())
    }

    pub(super) fn handle_append_accepted(&mut self, from: NodeId, matched: Index) -> Result<(), RaftError> {
        let (last, base) = (self.log.last_index(), self.log.base_index());
        let Some(progress) = self.progress.get_mut(&from) else { return Ok(()) };
        if matched > last {
            return Err(RaftError::Malformed { from, what: "acknowledges entries that were never sent" });
        }
        if progress.is_forgotten {
            return Ok(());
        }
        progress.lives();
        if progress.accepted(matched, base.next()) {
            self.maybe_commit();
            self.maybe_finish_transfer(from);
        }
        Ok(())
    }

    pub(super) fn handle_append_rejected(&mut self, from: NodeId, rejected: Index, hint: Index, hint_term: Term) {
        let agreed = self.log.agreement_hint(hint, hint_term).min(hint);
        let Some(progress) = self.progress.get_mut(&from) else { return };
        progress.lives();
        progress.rejected(rejected, agreed);
    }

    pub(super) fn handle_heartbeat_response(&mut self, from: NodeId, round: u64, kinds_known: u32) {
        let last = self.log.last_index();
        let Some(progress) = self.progress.get_mut(&from) else { return };
        progress.heard(last);
        progress.kinds_known = Some(kinds_known);
        // Never ahead of what was sent: a round that has not begun proves nothing.
        progress.round = progress.round.max(round.min(self.reads.round()));
        self.maybe_confirm_reads();
        self.maybe_finish_transfer(from);
    }

    /// Sends an image to a member out of [`Actions::snapshots_wanted`](crate::Actions::snapshots_wanted). The caller brings
    /// the image itself there, and the message is stepped only when all of it has arrived; then, or when it failed, the caller
    /// says so with one of the two reports below. Does nothing where the member no longer waits.
    pub fn send_snapshot(&mut self, to: NodeId, snapshot: Snapshot) {
        let is_usable = (self.log.base_index()..=self.log.committed()).contains(&snapshot.metadata.index);
        match self.waiting_for_image(to) {
            Some(progress) if is_usable => {
                progress.image = snapshot.metadata.index;
                self.send(to, Body::Snapshot(snapshot));
            }
            Some(progress) => progress.become_paused_probe(),
            None => {}
        }
    }

    fn waiting_for_image(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.progress.get_mut(&id).filter(|progress| progress.phase == Phase::Snapshot)
    }

    /// The image and its message have arrived: appends go on behind it, even where the acknowledgement was lost.
    pub fn report_snapshot_delivered(&mut self, to: NodeId) {
        if let Some(progress) = self.waiting_for_image(to) {
            progress.become_probe(progress.image.next());
        }
    }

    /// The image could not be made or brought there: another one will be asked for when the member is heard from.
    pub fn report_snapshot_failed(&mut self, to: NodeId) {
        if let Some(progress) = self.waiting_for_image(to) {
            progress.become_paused_probe();
        }
    }

    /// A member may have lost entries that it had acknowledged: none of its acknowledgements counts for a commit, those that
    /// are on their way included, until [`Raft::trust`]. A leader that confirms itself after this, by a read of its index,
    /// and gives the member a state of that index or later, gives it all that the lost entries have helped to commit: later
    /// commits are made without them. False where this member does not lead, or knows no such member.
    pub fn forget(&mut self, member: NodeId) -> bool {
        let Some(progress) = self.progress.get_mut(&member) else { return false };
        progress.forget();
        true
    }

    /// What [`Raft::forget`] was said of is over: the member's log can be counted on again, from what it acknowledges now.
    pub fn trust(&mut self, member: NodeId) {
        if let Some(progress) = self.progress.get_mut(&member) {
            progress.is_forgotten = false;
        }
    }

    /// The connection to a member was lost, and with it appends on their way: they are sent again without waiting for a
    /// rejection. Until it is heard from again nobody counts on it.
    pub fn report_unreachable(&mut self, to: NodeId) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        progress.silent_ticks = u32::MAX;
        if progress.phase == Phase::Replicate {
            progress.become_probe(progress.matched.next());
        }
    }

    /// Image and configuration are one: both take effect here in memory, and both are in the one batch for the disk.
    pub(super) fn handle_snapshot(&mut self, from: NodeId, snapshot: Snapshot) {
        let metadata = &snapshot.metadata;
        if metadata.index <= self.log.committed() {
            self.hold(from, Body::AppendAccepted { matched: self.log.committed() });
            return;
        }
        let matched = metadata.index;
        if self.log.term_at(metadata.index) == Some(metadata.term) {
            // The log has it all already: only the commit is news.
            self.log.commit_to(metadata.index);
        } else {
            self.sync.cut(self.log.committed());
            self.log.restore(metadata);
            self.install = Some(snapshot);
        }
        self.hold(from, Body::AppendAccepted { matched });
    }

    pub(super) fn add_progress(&mut self, id: NodeId) {
        let next = self.log.last_index().next();
        self.progress.entry(id).or_insert_with(|| {
            let mut progress = Progress::new(next, &self.config);
            // Or the next check of the quorum could end a leader that only just met it.
            progress.lives();
            progress
        });
    }
}
