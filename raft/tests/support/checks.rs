//! What must hold, at every step or at the end.

use super::{Agreed, Cluster, Faults, at};
use ringstone_raft::{Body, Configuration, Entry, EntryKind, Index, Message, NodeId, Persist, Raft, ReadState, Term};

impl Cluster {
    /// State machine safety: the same entries in the same order on all, each on the own disk of whoever applies it, and on
    /// a quorum of disks when it is applied first.
    pub(super) fn apply(&mut self, id: NodeId, entry: &Entry) {
        let node = &mut self.nodes[at(id)];
        node.state.apply(entry);
        assert!(node.disk.holds(entry.index, entry.term), "applied before it was on the own disk");
        let hash = node.state.hash;
        let raft = node.raft.as_mut().expect("up");
        if entry.index.0.is_multiple_of(3) || raft.positions().committed.0 == entry.index {
            raft.applied(entry.index);
        }
        let term = raft.role().term;
        if let Some(agreed) = self.history.get(&entry.index) {
            assert_eq!(&agreed.entry, entry, "{id} was given another entry");
            assert_eq!(agreed.hash, hash, "states differ");
            return;
        }
        self.check_quorum_of_disks(id, entry);
        if entry.kind == EntryKind::Configuration {
            let (configuration, _) = Configuration::decode(&entry.payload).expect("ours");
            self.totals.joint += u64::from(configuration.is_joint());
        }
        self.history.insert(entry.index, Agreed { entry: entry.clone(), hash, term });
    }

    pub(super) fn note_configurations(&mut self, persist: Option<&Persist>) {
        let entries = persist.into_iter().flat_map(|persist| &persist.entries);
        for entry in entries.filter(|entry| entry.kind == EntryKind::Configuration) {
            let (configuration, _) = Configuration::decode(&entry.payload).expect("ours");
            self.configurations.push((entry.index, configuration));
        }
    }

    /// By the configuration at the entry, or by one behind it, even one that a crash has cut off since: an entry may be
    /// counted by a later configuration than its own. The one that makes two voters of one is counted by that one.
    fn check_quorum_of_disks(&self, id: NodeId, entry: &Entry) {
        let holds = |id: &NodeId| self.nodes[at(*id)].disk.holds(entry.index, entry.term);
        let is_majority = |voters: &[NodeId]| voters.iter().filter(|id| holds(id)).count() > voters.len() / 2;
        let agrees = |configuration: &Configuration| {
            is_majority(configuration.voters()) && (!configuration.is_joint() || is_majority(configuration.outgoing()))
        };
        let raft = self.nodes[at(id)].raft.as_ref().expect("up");
        let own = raft.metadata_at(entry.index).expect("in the log").configuration;
        let later = self.configurations.iter().filter(|(index, _)| *index >= entry.index);
        let before = raft.metadata_at(Index(entry.index.0 - 1)).map(|metadata| metadata.configuration);
        let is_first_of_two = before.is_some_and(|alone| {
            own.voters().len() == 2 && alone.voters().len() == 1 && own.is_voter(alone.voters()[0]) && agrees(&alone)
        });
        let is_agreed =
            is_first_of_two || agrees(&own) || later.into_iter().any(|(_, configuration)| agrees(configuration));
        assert!(is_agreed, "committed at {} without a quorum of disks", entry.index);
    }

    pub(super) fn check_image(&mut self, id: NodeId) {
        self.totals.images += 1;
        let state = self.nodes[at(id)].state;
        assert_eq!(self.history[&state.applied].hash, state.hash, "the image is of the one history");
    }

    /// Linearizable: a read sees all that was committed when it was asked.
    pub(super) fn check_read(&mut self, id: NodeId, read: ReadState) {
        let asked_at = self.reads.remove(&(id, read.context)).expect("asked, and answered once");
        assert!(read.index >= asked_at, "stale read at {id}: {} before {asked_at}", read.index);
        self.totals.reads += 1;
    }

    /// Election safety: one leader a term. Leader completeness: it has everything that was committed in an earlier term.
    /// (Votes may be late: the leader of a term that is over already lacks what was committed since.)
    pub(super) fn check_new_leader(&mut self, id: NodeId) {
        let raft = self.nodes[at(id)].raft.as_ref().expect("up");
        let role = raft.role();
        let other = self.leaders.insert(role.term, id);
        assert!(other.is_none_or(|other| other == id), "{id} and {other:?} lead in term {}", role.term);
        let compacted = raft.status().compacted;
        let older = self.history.range(compacted.next()..).filter(|(_, agreed)| agreed.term < role.term);
        for (index, agreed) in older {
            let term = raft.metadata_at(*index).map(|metadata| metadata.term);
            assert_eq!(term, Some(agreed.entry.term), "leader {id} of term {} lacks the entry at {index}", role.term);
        }
        self.totals.leaders += 1;
        self.totals.terms = self.totals.terms.max(role.term.0);
    }

    pub(super) fn note_promises(&mut self, id: NodeId, sent: &[(NodeId, Message)]) {
        for (to, message) in sent {
            let kind = std::mem::discriminant(&message.body);
            let promised = &mut self.node(id).promised;
            promised.retain(|(_, earlier)| std::mem::discriminant(&earlier.body) != kind);
            promised.push((*to, message.clone()));
        }
    }

    /// Whatever has left after a sync holds in a member that starts from the disk as it is now: the same vote, and every
    /// entry that was acknowledged in the term that it is still in.
    pub(super) fn check_restart(&mut self, id: NodeId) {
        let node = &self.nodes[at(id)];
        for (to, message) in &node.promised {
            assert!(node.disk.hard_state.term >= message.term, "{id} forgets term {}", message.term);
            let mut again = self.restarted(id);
            let own_term = again.role().term == message.term;
            match message.body {
                Body::VoteResponse { granted: true } | Body::VoteRequest { .. } => {
                    let is_own = matches!(message.body, Body::VoteRequest { .. });
                    let voted_for = if is_own { id } else { *to };
                    let other = NodeId(if voted_for == NodeId(99) { 98 } else { 99 });
                    let (last_index, last_term) = (Index(1 << 40), Term(message.term.0));
                    let body = Body::VoteRequest { last_index, last_term, forced: true };
                    again.step(other, Message { term: message.term, body }).expect("a correct message");
                    let mut sent = Vec::new();
                    if let Some(persist) = again.take_actions().persist {
                        sent = again.persisted(persist.token).send;
                    }
                    assert!(sent.is_empty(), "{id} voted for {voted_for} in term {}, and again", message.term);
                }
                Body::AppendAccepted { matched } if own_term => {
                    let is_there = again.positions().proposed.0 >= matched;
                    assert!(is_there, "{id} acknowledged {matched} in term {} and lost it", message.term);
                }
                _ => {}
            }
        }
    }

    /// Log matching: where two logs have the same term at an index, they are the same up to it.
    pub fn check_logs_match(&self) {
        let rafts: Vec<&Raft> = self.nodes.iter().filter_map(|node| node.raft.as_ref()).collect();
        for (position, one) in rafts.iter().enumerate() {
            for other in &rafts[position + 1..] {
                let first = one.status().compacted.max(other.status().compacted);
                let last = one.positions().proposed.0.min(other.positions().proposed.0);
                let term = |raft: &Raft, index| raft.metadata_at(Index(index)).map(|metadata| metadata.term);
                let agree = |index: &u64| term(one, *index) == term(other, *index);
                let Some(top) = (first.0..=last.0).rev().find(agree) else { continue };
                assert!((first.0..=top).all(|index| agree(&index)), "logs agree at {top} and differ below");
            }
        }
    }

    pub fn history_end(&self) -> Index {
        self.history.keys().next_back().copied().unwrap_or_default()
    }

    pub fn term_max(&self) -> Term {
        self.leaders.keys().next_back().copied().unwrap_or_default()
    }

    fn outline(&self) -> String {
        let status = |id| match &self.nodes[at(id)].raft {
            Some(raft) => format!("{id}: {:?}\n", raft.status()),
            None => format!("{id}: down\n"),
        };
        self.ids().map(status).collect()
    }

    /// One leader, no joint configuration, every member of the configuration has applied everything.
    fn is_settled(&self, behind: Index) -> bool {
        let [leader] = self.leaders()[..] else { return false };
        let raft = self.nodes[at(leader)].raft.as_ref().expect("leads");
        let end = self.history_end();
        let has_all = |id: &NodeId| self.nodes[at(*id)].state.applied == end;
        end > behind && !raft.configuration().is_joint() && raft.configuration().members().iter().all(has_all)
    }

    /// Liveness: ends all faults, and gives the cluster time. Then a new write must reach every member.
    pub fn check_recovers(&mut self) {
        self.faults = Faults { delay_max: 2, ..Faults::default() };
        self.heal();
        let end = self.history_end();
        for step in 0..3000 {
            self.step();
            if step % 50 == 49 {
                if self.is_settled(end) {
                    break;
                }
                self.propose_everywhere();
            }
        }
        assert!(self.is_settled(end), "not live after all faults ended: {}", self.outline());
        self.check_logs_match();
        self.totals.committed = self.history_end().0;
    }
}
