//! What clients and operators do.

use super::Cluster;
use bytes::Bytes;
use ringstone_raft::{Configuration, NodeId};

impl Cluster {
    pub fn propose_everywhere(&mut self) {
        for id in self.leaders() {
            let batch: Vec<Bytes> = (0..1 + self.random.below(4)).map(|_| self.payload()).collect();
            let _refused_or_not = self.raft(id).expect("leads").propose(batch);
            self.act(id);
        }
    }

    fn payload(&mut self) -> Bytes {
        self.next_payload += 1;
        Bytes::from(format!("payload {}", self.next_payload))
    }

    pub fn read_somewhere(&mut self) {
        let (id, context) = (self.any_node(), self.next_context);
        self.next_context += 1;
        let asked_at = self.history_end();
        if self.raft(id).is_some_and(|raft| raft.read_index(context).is_ok()) {
            self.reads.insert((id, context), asked_at);
            self.act(id);
        }
    }

    /// Whoever believes to lead is asked, and must not be behind anything that anybody has applied.
    pub fn read_by_lease(&mut self) {
        let end = self.history_end();
        for id in self.leaders() {
            let elapsed_ticks = self.elapsed_ticks(id);
            let answer = self.raft(id).expect("leads").lease_read(elapsed_ticks).expect("it leads");
            if let Some(index) = answer {
                assert!(index >= end, "stale read by the lease of {id}: {index} before {end}");
                self.totals.lease_reads += 1;
            }
        }
    }

    /// What could break a lease: the leader is cut off, the others are restarted or asked to campaign by it just before.
    pub fn tempt_leases(&mut self) {
        let Some(leader) = self.leaders().first().copied() else { return };
        let others: Vec<NodeId> = self.ids().filter(|id| *id != leader).collect();
        if self.random.chance(300) {
            let to = others[self.random.below(others.len() as u64) as usize];
            let _refused_or_not = self.raft(leader).expect("leads").transfer_leadership(to);
            self.act(leader);
        }
        for other in others {
            self.cut.extend([(leader, other), (other, leader)]);
            if self.random.chance(500) {
                self.crash(other, 1);
            }
        }
    }

    pub fn campaign_somewhere(&mut self) {
        let id = self.any_node();
        if let Some(raft) = self.raft(id) {
            raft.campaign();
            self.act(id);
        }
    }

    /// A member is told, truly or not, that its leader has ended; as often as not it campaigns then.
    pub fn forget_somewhere(&mut self) {
        let (id, is_campaigning) = (self.any_node(), self.random.chance(500));
        let Some(raft) = self.raft(id) else { return };
        let Some(leader) = raft.role().leader else { return };
        raft.forget_leader(leader);
        if is_campaigning {
            raft.campaign();
        }
        self.act(id);
    }

    pub fn checkpoint_somewhere(&mut self) {
        let id = self.any_node();
        let node = self.node(id);
        let state = node.state;
        let is_installing = node.writing.iter().any(|batch| batch.snapshot.is_some());
        let base = node.disk.base.index;
        let Some(raft) = self.raft(id) else { return };
        let Some(metadata) = raft.metadata_at(state.applied) else { return };
        if metadata.index > base && !is_installing {
            raft.applied(metadata.index);
            raft.compact(metadata.index);
            self.node(id).disk.checkpoint(metadata, state);
        }
    }

    pub fn transfer_somewhere(&mut self) {
        let (to, is_resigning, is_campaigning) = (self.any_node(), self.random.chance(200), self.random.chance(200));
        for id in self.leaders() {
            let raft = self.raft(id).expect("leads");
            if is_resigning {
                raft.resign();
            } else if raft.transfer_leadership(to).is_ok() {
                self.totals.transfers += 1;
            }
            self.act(id);
        }
        if is_campaigning && let Some(raft) = self.raft(to) {
            raft.campaign();
            self.act(to);
        }
    }

    /// Proposes any of the members as voters, and perhaps learners.
    pub fn reconfigure(&mut self) {
        let mut members: Vec<NodeId> = self.ids().collect();
        for position in (1..members.len()).rev() {
            members.swap(position, self.random.below(position as u64 + 1) as usize);
        }
        let voters = 1 + self.random.below(members.len() as u64) as usize;
        let learners = members[voters..].iter().take(self.random.below(3) as usize).copied().collect::<Vec<_>>();
        let target = Configuration::new(members[..voters].iter().copied(), learners).expect("valid");
        for id in self.leaders() {
            let _refused_or_not = self.raft(id).expect("leads").propose_configuration(&target, b"");
            self.act(id);
        }
    }
}
