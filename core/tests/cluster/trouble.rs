//! What a fault does, and what its end undoes.

use super::faults::{Fault, Harm, Kind, Moment, Whom};
use super::network::Weather;
use super::random::Random;
use super::world::{Event, World};

/// A fault that waits for a member to say something.
#[derive(Clone, Copy)]
pub struct Armed {
    fault: usize,
    moment: Moment,
    /// How often yet.
    left: u64,
}

impl World {
    pub fn fault(&mut self, number: usize) {
        let Fault { lasts, kind, .. } = self.plan.faults[number];
        self.trace(|| format!("fault {number}: {kind:?} for {lasts} us"));
        self.tally.faults += 1;
        match kind {
            Kind::Kill(whom) => {
                let id = self.resolve(whom);
                self.crash(id, false);
                self.after(lasts, Event::Start(id));
            }
            Kind::PowerCut(whom) => {
                let id = self.resolve(whom);
                self.power_fails_soon(&[id], lasts);
            }
            Kind::PowerCutOfAll => {
                let ids: Vec<u64> = self.nodes.keys().copied().collect();
                self.power_fails_soon(&ids, lasts.min(500_000));
            }
            Kind::Pause(whom) => {
                let id = self.resolve(whom);
                if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) {
                    node.is_paused = true;
                    self.hit.insert(number, id);
                }
            }
            Kind::ClockGap(whom, milliseconds) => {
                let (id, now) = (self.resolve(whom), self.now);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.skip(milliseconds);
                    self.tally.clock_gaps += 1;
                    self.clients.gaps.push(now);
                }
            }
            Kind::SlowDisk(..)
            | Kind::DiskError(..)
            | Kind::ReadError(_)
            | Kind::FullDisk(_)
            | Kind::Damage(..)
            | Kind::Evict(_) => self.disk_fault(number, kind),
            Kind::KillAt(moment) => self.armed.push(Armed { fault: number, moment, left: 5 }),
            Kind::HandOverDeaf(nth) => {
                self.armed.push(Armed { fault: number, moment: Moment::HandsOver, left: 1 });
                self.hand_over(nth);
            }
            Kind::Weather { lost, doubled, damaged, delay_ms } => {
                self.network.weather = Weather { lost, doubled, damaged, delay_us: delay_ms * 1000 };
            }
            Kind::SlowLinks(seed, longest_ms) => self.slow_links(seed, longest_ms),
            Kind::Contest(seed, longest_ms) => {
                let id = self.resolve(Whom::Leader);
                self.crash(id, seed % 2 == 0);
                self.after(seed % 150_000, Event::Start(id));
                self.slow_links(seed, longest_ms);
                self.armed.push(Armed { fault: number, moment: Moment::Grants, left: 6 });
            }
            Kind::Transfer(nth) => self.hand_over(nth),
            Kind::Add | Kind::Promote | Kind::Remove(_) => self.change_members(kind),
            Kind::Replace(whom) => {
                let id = self.resolve(whom);
                self.disk_is_gone(id);
            }
            Kind::Isolate(_)
            | Kind::Mute(_)
            | Kind::Deaf(_)
            | Kind::Bridge(_)
            | Kind::Split(_)
            | Kind::OneWay(_)
            | Kind::Cuts(_)
            | Kind::Flood(_) => self.cut(number, kind),
        }
        self.after(lasts, Event::FaultEnd(number));
    }

    fn slow_links(&mut self, seed: u64, longest_ms: u64) {
        let mut random = Random::new(seed);
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for (from, to) in pairs(&ids) {
            // Most of them fast: what matters is that some are not.
            let delay = if random.chance(500) { 0 } else { random.below(longest_ms * 1000) };
            self.network.slow.insert((from, to), delay);
        }
    }

    fn disk_fault(&mut self, number: usize, kind: Kind) {
        let (Kind::SlowDisk(whom, _)
        | Kind::DiskError(whom, _)
        | Kind::ReadError(whom)
        | Kind::FullDisk(whom)
        | Kind::Damage(whom, ..)
        | Kind::Evict(whom)) = kind
        else {
            return;
        };
        let id = self.resolve(whom);
        if let Kind::Damage(_, harm, of_log) = kind {
            return self.damage_disk(id, harm, of_log);
        }
        let node = self.nodes.get_mut(&id).expect("a member");
        match kind {
            Kind::SlowDisk(_, times) => node.slowness = 10 * times,
            Kind::DiskError(_, of_log) if node.life.is_some() => {
                self.tally.disk_errors += 1;
                if of_log {
                    node.log.inject(0, ringstone_wal::disk::sim::Fault::Failed(libc::EIO));
                } else {
                    node.pages.inject(0, ringstone_pager::disk::Fault::Failed);
                }
            }
            Kind::ReadError(_) => {
                self.tally.disk_errors += 1;
                node.set_unreadable(true);
            }
            Kind::FullDisk(_) => {
                self.tally.disk_errors += 1;
                node.set_full(true);
            }
            Kind::Evict(_) => node.pages.evict_all(),
            _ => {}
        }
        self.hit.insert(number, id);
    }

    /// A disk has other bytes than were written. Of one member at a time, or the last good copy may be gone: that is no
    /// longer a matter of the others.
    fn damage_disk(&mut self, id: u64, harm: Harm, of_log: bool) {
        if !self.can_spare(id) {
            return;
        }
        let node = self.nodes.get_mut(&id).expect("a member");
        if node.damage(harm, of_log, &mut self.random) {
            self.trace(|| format!("the disk of {id} is damaged: {harm:?}, log: {of_log}"));
            self.tally.damages += 1;
            // Somebody has to look at it.
            if of_log && self.random.chance(700) {
                let soon = self.random.below(1_500_000);
                self.after(soon, Event::PowerFails(id, 50_000));
            }
        }
    }

    pub fn all_are_well(&self) -> bool {
        self.nodes.values().all(|node| !node.is_damaged && !node.is_gone)
    }

    /// All are well, and those that vote are a quorum without it: those of a configuration that is committed, for a leader that is
    /// cut off may have another one in its log, which nobody else ever sees.
    fn can_spare(&mut self, id: u64) -> bool {
        let Some(members) = self.members() else { return false };
        let voters: Vec<u64> = members.iter().filter(|member| !member.is_learner).map(|member| member.id).collect();
        let leader = self.leader().and_then(|id| self.nodes[&id].life.as_ref()).expect("it has told the members");
        let is_newest =
            leader.group.raft().configuration().voters().iter().map(|voter| voter.0).eq(voters.iter().copied());
        self.all_are_well() && is_newest && voters.len() >= 3 && voters.contains(&id)
    }

    /// Nothing of it is left. Whoever replaces it is another member.
    fn disk_is_gone(&mut self, id: u64) {
        if self.can_spare(id) {
            self.tally.replaced += 1;
            self.end_for_good(id);
        }
    }

    /// The member has met damage: it says so, and is stopped. (A member that repairs itself from the others would do so
    /// here.)
    pub fn refuse(&mut self, id: u64, what: &str) {
        self.trace(|| format!("{id} refuses to go on: {what}"));
        assert!(self.nodes[&id].is_damaged, "{id} refuses to go on, and nothing is damaged: {what}");
        self.tally.refusals += 1;
        self.end_for_good(id);
    }

    fn end_for_good(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.life = None;
        node.lives += 1;
        (node.is_gone, node.is_paused) = (true, false);
        self.forget_held(id);
        self.member_went_down(id);
        if !std::mem::replace(&mut self.operator_is_due, true) {
            let delay = self.random.between(200_000, 2_000_000);
            self.after(delay, Event::Operator);
        }
    }

    fn hand_over(&mut self, nth: u64) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let to = ids[nth as usize % ids.len()];
        if let Some(leader) = self.leader().filter(|id| self.nodes[id].is_up()) {
            let life = self.nodes.get_mut(&leader).and_then(|node| node.life.as_mut()).expect("it leads");
            let _refused_or_not = life.group.transfer_leadership(ringstone_raft::NodeId(to));
            self.pump(leader);
        }
    }

    fn cut(&mut self, number: usize, kind: Kind) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let others_of = |one: u64| ids.iter().copied().filter(move |id| *id != one);
        let rotated = |nth: u64| {
            let mut rotated = ids.clone();
            rotated.rotate_left(nth as usize % ids.len());
            rotated
        };
        let both = |ones: &[u64], others: &[u64]| -> Vec<(u64, u64)> {
            let links = ones.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
            links.flat_map(|(one, other)| [(one, other), (other, one)]).collect()
        };
        let links = match kind {
            Kind::Isolate(whom) => {
                let one = self.resolve(whom);
                both(&[one], &others_of(one).collect::<Vec<_>>())
            }
            Kind::Mute(whom) => {
                let one = self.resolve(whom);
                others_of(one).map(|other| (one, other)).collect()
            }
            Kind::Deaf(whom) => {
                let one = self.resolve(whom);
                others_of(one).map(|other| (other, one)).collect()
            }
            Kind::Bridge(nth) => {
                let ids = rotated(nth);
                let (ones, others) = ids[1..].split_at(ids.len() / 2);
                both(ones, others)
            }
            Kind::Split(nth) => {
                let ids = rotated(nth);
                let (ones, others) = ids.split_at(ids.len() / 2);
                both(ones, others)
            }
            Kind::OneWay(nth) => {
                let (one, other) = (nth as usize % ids.len(), nth as usize / 64 % ids.len());
                if one == other { vec![] } else { vec![(ids[one], ids[other])] }
            }
            Kind::Cuts(seed) => {
                let mut random = Random::new(seed);
                let share = random.between(100, 700);
                pairs(&ids).into_iter().filter(|_| random.chance(share)).collect()
            }
            Kind::Flood(puts) => {
                let Some(leader) = self.leader().filter(|id| self.nodes[id].is_up()) else { return };
                self.network.cuts.insert(number, both(&[leader], &others_of(leader).collect::<Vec<_>>()));
                self.tally.partitions += 1;
                return self.flood(leader, puts);
            }
            _ => return,
        };
        self.tally.partitions += 1;
        self.network.cuts.insert(number, links);
    }

    /// A member has said what an armed fault waits for.
    pub fn strike(&mut self, id: u64, moments: &[Moment]) {
        for at in 0..self.armed.len() {
            let Armed { fault, moment, left } = self.armed[at];
            if left == 0 || !moments.contains(&moment) || !self.random.chance(700) {
                continue;
            }
            self.armed[at].left -= 1;
            self.tally.moments += 1;
            self.trace(|| format!("{id} has done it: {moment:?}"));
            if moment == Moment::HandsOver {
                let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
                self.network.cuts.insert(fault, others.into_iter().map(|other| (other, id)).collect());
                self.tally.partitions += 1;
                continue;
            }
            let power = self.random.chance(500);
            self.crash(id, power);
            // Most of them at once: what was on its way still finds them.
            let longest = if self.random.chance(700) { 3000 } else { 80_000 };
            let down = self.random.between(300, longest);
            self.after(down, Event::Start(id));
            return;
        }
    }

    /// Half the time the disks are slow before it: much is on its way to them then, and what was said about it too early
    /// is lost.
    fn power_fails_soon(&mut self, ids: &[u64], down: u64) {
        let slow = if self.random.chance(500) { self.random.between(20_000, 400_000) } else { 0 };
        let times = self.random.between(20, 400);
        for id in ids {
            if let Some(node) = self.nodes.get_mut(id).filter(|_| slow > 0) {
                node.slowness = 10 * times;
            }
            let down = down + self.random.below(200_000);
            self.after(slow, Event::PowerFails(*id, down));
        }
    }

    pub fn power_fails(&mut self, id: u64, down: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.slowness = 10;
        }
        self.crash(id, true);
        self.after(down, Event::Start(id));
    }

    pub fn fault_ends(&mut self, number: usize) {
        self.network.cuts.remove(&number);
        self.armed.retain(|armed| armed.fault != number);
        let hit = self.hit.remove(&number);
        let node = hit.and_then(|id| self.nodes.get_mut(&id));
        match self.plan.faults[number].kind {
            Kind::Pause(_) => hit.into_iter().for_each(|id| self.resume(id)),
            Kind::SlowDisk(..) => node.into_iter().for_each(|node| node.slowness = 10),
            Kind::ReadError(_) => node.into_iter().for_each(|node| node.set_unreadable(false)),
            Kind::FullDisk(_) => node.into_iter().for_each(|node| node.set_full(false)),
            Kind::Weather { .. } => self.network.weather = super::network::FAIR,
            Kind::SlowLinks(..) | Kind::Contest(..) => self.network.slow.clear(),
            _ => {}
        }
    }

    /// One more fault: whoever leads is gone until another one does.
    pub fn depose(&mut self) {
        if let Some(leader) = self.leader() {
            self.tally.faults += 1;
            self.crash(leader, true);
            self.after(2_500_000, Event::Start(leader));
        }
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.trace(|| "all is well from now on".to_owned());
        self.is_healed = true;
        self.network.heal();
        self.armed.clear();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.resume(id);
            let node = self.nodes.get_mut(&id).expect("a member");
            node.slowness = 10;
            node.set_full(false);
            node.set_unreadable(false);
            self.after(1, Event::Start(id));
        }
    }
}

fn pairs(ids: &[u64]) -> Vec<(u64, u64)> {
    let all = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
    all.filter(|(from, to)| from != to).collect()
}
