//! Whoever runs the cluster: members that join, vote and go; a member that is gone for good is replaced.

use ringstone_core::command::Member;
use ringstone_core::error::Error;
use ringstone_core::group::{Ask, MemberChange, read_members};

use super::faults::Kind;
use super::node;
use super::world::{Event, World};

/// Ids of requests that no client waits for. Those that remove a member are odd.
pub const ADMIN: u64 = 1 << 40;
/// How often the operator looks.
const LOOKS_EACH_US: u64 = 400_000;
/// Fewer members that vote are too few.
const VOTERS_LEAST: usize = 3;

fn learner(id: u64) -> Member {
    Member { name: String::new(), client_urls: vec![], is_learner: true, ..node::member(id) }
}

impl World {
    /// As the leader has them.
    pub fn members(&mut self) -> Option<Vec<Member>> {
        let leader = self.leader().filter(|id| self.nodes[id].is_up())?;
        let read = self.nodes[&leader].life.as_ref().expect("it is up").read(|pin, _| read_members(pin));
        read.inspect_err(|damage| self.refuse(leader, &damage.to_string())).ok()
    }

    /// A change that nobody needs.
    pub fn change_members(&mut self, kind: Kind) {
        let Some(members) = self.members() else { return };
        let learner_there = members.iter().find(|member| member.is_learner);
        match kind {
            Kind::Add if members.len() < 5 && learner_there.is_none() => {
                let id = self.new_member();
                self.ask_to_change(MemberChange::Add(learner(id)));
            }
            Kind::Promote => {
                let promote = learner_there.map(|member| MemberChange::Promote(member.id));
                promote.into_iter().for_each(|change| self.ask_to_change(change));
            }
            // One whose disk is damaged may be lost yet: nobody takes another one away who knows it.
            Kind::Remove(nth) if members.len() > VOTERS_LEAST && self.all_are_well() => {
                self.ask_to_change(MemberChange::Remove(members[nth as usize % members.len()].id));
            }
            _ => {}
        }
    }

    /// Of any member: the leader does it.
    fn ask_to_change(&mut self, change: MemberChange) {
        let mut up = self.configured();
        up.retain(|id| self.nodes.get(id).is_some_and(|node| node.is_up()));
        if up.is_empty() {
            return;
        }
        let asked = up[self.random.below(up.len() as u64) as usize];
        self.clients.next_call += 1;
        let call = ADMIN + 2 * self.clients.next_call + u64::from(matches!(change, MemberChange::Remove(_)));
        self.trace(|| format!("{asked} is asked for {change:?}"));
        let now = self.time();
        let node = self.nodes.get_mut(&asked).expect("it is up");
        let now = node.boottime(now);
        let life = node.life.as_mut().expect("it is up");
        if let Err(error) = life.group.ask(now, 0, call, Ask::Change(change)) {
            return self.failed(asked, &error);
        }
        self.pump(asked);
    }

    /// What came of a change.
    pub fn changed(&mut self, call: u64, outcome: &Result<(), Error>) {
        self.trace(|| format!("membership: {outcome:?}"));
        if outcome.is_ok() && call % 2 == 1 {
            self.tally.removed += 1;
        }
    }

    /// A member that is gone is removed; another one joins, and votes once it has caught up.
    pub fn operate(&mut self) {
        if let Some(change) = self.next_change() {
            self.ask_to_change(change);
        }
        if self.operator_is_due {
            self.after(LOOKS_EACH_US, Event::Operator);
        }
    }

    fn next_change(&mut self) -> Option<MemberChange> {
        let members = self.members()?;
        let gone: Vec<u64> = self.nodes.iter().filter(|(_, node)| node.is_gone).map(|(id, _)| *id).collect();
        for id in gone {
            if members.iter().any(|member| member.id == id) {
                return Some(MemberChange::Remove(id));
            }
            self.nodes.remove(&id);
        }
        if let Some(joined) = members.iter().find(|member| member.is_learner) {
            return Some(MemberChange::Promote(joined.id));
        }
        if members.len() < VOTERS_LEAST {
            let id = self.new_member();
            return Some(MemberChange::Add(learner(id)));
        }
        self.operator_is_due = false;
        None
    }
}
