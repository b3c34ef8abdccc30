//! The group among others: what it hears from them, what it does for them, who they are.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use ringstone_raft::{Body, Index, Message, NodeId, Role};

use super::Driver;
use super::commits::Commits;
use super::trial::Trial;
use crate::entry::caller_of;
use crate::error::Error;
use crate::group::{Ask, Call, Forward, GroupError, LogNeed, Sum, Verdict, founders};
use crate::identity::incarnation;
use crate::said::{Caller, Items, MendRefusal, MendRequest, Said};
use crate::shard::boottime;
use crate::shard::images::{self, Arrivals, ImageEvent, Place};
use crate::shard::link::{Asked, Told};
use crate::shard::peers::{FromPeer, Links};

/// How long a change of the leader is waited for.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is said anew who can't be reached.
const COMPLAINTS_INTERVAL: Duration = Duration::from_secs(1);

/// The shard of what other members ask for.
pub(super) const STRANGER: u32 = u32::MAX - 1;

/// What the group's task knows of other members.
#[derive(Default)]
pub(super) struct Others {
    /// The other members; none where this one is alone.
    pub(super) links: Option<Rc<Links>>,
    /// Who has been told of which commit.
    pub(super) commits: Commits,
    /// Members that are being sent the state.
    pub(super) sending: Vec<NodeId>,
    /// Their senders are told what the pinned states cost.
    pub(super) places: Vec<(NodeId, Rc<Place>)>,
    /// What images have come.
    pub(super) arrivals: Option<Rc<Arrivals>>,
    /// Raft's message about one that is not here yet.
    pub(super) image_message: Option<(NodeId, Message)>,
    /// What other members have asked for: whose it is, by the request id that the group has them under.
    pub(super) strangers: AHashMap<u64, (NodeId, Caller)>,
    pub(super) next_stranger: u64,
    /// Answers that go with the next delivery.
    pub(super) early: Vec<(u32, u64, Result<Told, Error>)>,
    /// It has been told to hand leadership over, because the member stops.
    pub(super) resigned: bool,
    /// When it learned that it is no member any more.
    pub(super) removed_at: Option<Duration>,
    /// Who waits for a member to lead, and since when.
    pub(super) transfers: Vec<(Asked, NodeId, Duration)>,
    /// The version of the members that the transport was told of last.
    pub(super) followed: Option<(u64, Index)>,
    /// Members that are connected.
    pub(super) connected: AHashSet<NodeId>,
    /// Whether this member may take part is not known yet.
    pub(super) trial: Option<Trial>,
    /// When the words of `endpoint status` were made last.
    pub(super) complained_at: Duration,
    /// Members that wait for this one to prove that it leads, before it sends them its state.
    mending: AHashMap<u64, (NodeId, MendRequest)>,
}

impl Driver {
    /// Where there are other members: the peer port is opened, and they are dialled. A member that gets others later does so
    /// then.
    pub(super) async fn open_links(&mut self) -> Result<(), GroupError> {
        let shared = &self.local.shared;
        let known = self.group.members().unwrap_or_default();
        let applied = self.group.state().applied_index;
        let (members, since) = if known.is_empty() {
            shared.joins.get().cloned().unwrap_or_else(|| (founders(&shared.config), applied))
        } else if self.group.has_others() {
            (known, applied)
        } else {
            // Alone, whatever the flags of its first start were: those that they name may live on as another cluster.
            return Ok(());
        };
        if members.len() > 1 && self.others.links.is_none() {
            let count = incarnation::count_start(&shared.config.data_dir)?;
            let (kinds, inbox) = (self.group.kinds_agreed(), Rc::clone(&self.inbox));
            let standing = self.standing()?;
            self.others.links = Some(Links::open(&self.local, count, (members, since), kinds, standing, inbox).await?);
        }
        Ok(())
    }

    /// Takes what other members said.
    pub(super) fn hear(&mut self, now: Duration) -> Result<(), GroupError> {
        for said in self.inbox.heard.take() {
            match said {
                FromPeer::Said(from, Said::Raft(message)) => self.hear_raft(now, from, message)?,
                FromPeer::Image(event) => self.note_image(now, event)?,
                FromPeer::Said(from, Said::Proposal(payload)) => self.hear_proposal(now, from, &payload),
                FromPeer::Said(_, Said::NotTaken(caller, error)) => {
                    self.group.forward_refused((caller.shard, caller.request_id), error);
                }
                FromPeer::Said(from, Said::KeepAlives(items)) => {
                    for (caller, id) in items {
                        self.others.next_stranger += 1;
                        self.others.strangers.insert(self.others.next_stranger, (from, caller));
                        self.group.keep_alive(now, STRANGER, self.others.next_stranger, id)?;
                    }
                }
                FromPeer::Said(_, Said::KeptAlive(items)) => {
                    for (caller, ttl_s) in items {
                        self.group.told_kept_alive((caller.shard, caller.request_id), ttl_s);
                    }
                }
                FromPeer::Said(from, Said::Clocks(items)) => {
                    let clock = self.lease_clock().map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
                    let told: Vec<_> = items.into_iter().map(|(caller, _)| (caller, clock)).collect();
                    if let Some(links) = &self.others.links {
                        links.say_items(from, &told, Said::ClockIs);
                    }
                }
                FromPeer::Said(_, Said::ClockIs(items)) => {
                    for (caller, ms) in items {
                        self.group.told_clock((caller.shard, caller.request_id), ms);
                    }
                }
                FromPeer::Said(from, Said::Change(caller, change)) => {
                    self.others.next_stranger += 1;
                    self.others.strangers.insert(self.others.next_stranger, (from, caller));
                    self.group.change_members(now, &change, STRANGER, self.others.next_stranger)?;
                }
                FromPeer::Said(_, Said::Changed(caller, outcome)) => {
                    self.group.told_changed((caller.shard, caller.request_id), outcome);
                }
                FromPeer::Connected(member) => {
                    self.others.connected.insert(member);
                    self.group.note_connected(member);
                }
                FromPeer::Lost(member) => {
                    self.others.connected.remove(&member);
                    self.note_connections(now);
                    self.group.report_lost(member);
                    // Whatever it had acknowledged in that life has come, or never will.
                    self.group.trust(member);
                }
                FromPeer::Said(from, Said::Mend(request)) => self.mend(now, from, request),
                FromPeer::Mended(member) => {
                    self.others.sending.retain(|sending| *sending != member);
                    self.group.trust(member);
                }
                FromPeer::Said(from, Said::Sum(sum)) => self.group.hear_sum(now, from, sum),
                FromPeer::Said(from, Said::Verdict(verdict)) => {
                    if self.group.leader_elsewhere() == Some(from) {
                        self.group.hear_verdict(verdict)?;
                    }
                }
                FromPeer::Said(from, Said::Stands) => self.hear_stands(from),
                FromPeer::Said(from, Said::WentBack(promised)) => self.hear_went_back(from, &promised)?,
                // The transport's task takes them itself; the last is an answer to a former process.
                FromPeer::Said(_, Said::Image(_) | Said::Standing(_) | Said::MendRefused(_)) => {}
                FromPeer::Removed(by) => return Err(GroupError::Removed { by }),
                FromPeer::Refused(text) => return Err(GroupError::Refused { text }),
            }
        }
        Ok(())
    }

    /// Notes whether the leader is connected, or a quorum where this member leads: what late writes are told (also a tick's part).
    pub(super) fn note_connections(&self, now: Duration) {
        let connected = &self.others.connected;
        let (own, raft) = (self.group.raft().id(), self.group.raft());
        let is_connected = match raft.role().leader {
            None => true,
            Some(leader) if leader == own => {
                let voters = raft.configuration().voters();
                let reached = voters.iter().filter(|id| **id == own || connected.contains(id)).count();
                reached > voters.len() / 2
            }
            Some(leader) => connected.contains(&leader),
        };
        if !is_connected {
            let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            self.local.shared.unconnected_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    fn hear_proposal(&mut self, now: Duration, from: NodeId, payload: &[u8]) {
        let Err(error) = self.group.propose_forwarded(now, payload) else {
            let last = self.group.raft().positions().proposed.0.0;
            return self.others.commits.note_asked(from, last);
        };
        tracing::debug!(error = %error, "a proposal of another member is not taken");
        if let (Some(links), Some((shard, request_id))) = (&self.others.links, caller_of(payload)) {
            links.say(from, &Said::NotTaken(Caller { shard, request_id }, error.told()));
        }
    }

    /// The lease clock, where this member leads.
    fn lease_clock(&self) -> Option<u64> {
        (self.group.raft().role().role == Role::Leader).then(|| self.group.lease_clock_ms())
    }

    /// What is for the leader: keep-alives, and questions for its clock, in as few pieces as they fit into. What does not go
    /// waits for the next leader, or is answered at once.
    pub(super) fn forward(&mut self, forwards: Vec<Forward>) {
        let Some(links) = self.others.links.clone() else {
            return forwards.into_iter().for_each(|forward| self.not_sent(forward.whom));
        };
        let (mut keep_alives, mut clocks) = (Vec::new(), Vec::new());
        for forward in forwards {
            let (leader, whom) = (forward.leader, forward.whom);
            let caller = Caller { shard: whom.0, request_id: whom.1 };
            match forward.call {
                Call::Ask(Ask::KeepAlive(id)) => keep_alives.push((leader, caller, id)),
                Call::Ask(Ask::LeaseClock) => clocks.push((leader, caller, 0)),
                _ if links.say(leader, &forward.into()) => {}
                _ => self.not_sent(whom),
            }
        }
        self.forward_items(&links, &keep_alives, Said::KeepAlives);
        self.forward_items(&links, &clocks, Said::Clocks);
    }

    fn forward_items(&mut self, links: &Links, items: &[(NodeId, Caller, i64)], of: fn(Items) -> Said) {
        for to_one in items.chunk_by(|one, next| one.0 == next.0) {
            let items: Items = to_one.iter().map(|(_, caller, number)| (*caller, *number)).collect();
            if !links.say_items(to_one[0].0, &items, of) {
                items.iter().for_each(|(caller, _)| self.not_sent((caller.shard, caller.request_id)));
            }
        }
    }

    fn not_sent(&mut self, whom: (u32, u64)) {
        self.group.forward_refused(whom, Error::NoLeader);
        // Its answer is in the next outputs.
        self.inbox.wake.notify();
    }

    /// Answers to keep-alives of other members, each one's in one piece.
    pub(super) fn answer_strangers(&mut self, kept: Vec<(u64, Option<i64>)>) {
        if kept.is_empty() {
            return;
        }
        let mut answers: AHashMap<NodeId, Vec<(Caller, i64)>> = AHashMap::new();
        for (stranger, ttl_s) in kept {
            if let Some((from, caller)) = self.others.strangers.remove(&stranger) {
                answers.entry(from).or_default().push((caller, ttl_s.unwrap_or(-1)));
            }
        }
        if let Some(links) = &self.others.links {
            for (to, items) in &answers {
                links.say_items(*to, items, Said::KeptAlive);
            }
        }
    }

    /// A message about an image waits until that image is here. From then on nothing takes its place, for the log will name it.
    fn hear_raft(&mut self, now: Duration, from: NodeId, message: Message) -> Result<(), GroupError> {
        let Body::Snapshot(image) = &message.body else { return self.group.step(now, from, message) };
        let place = (image.metadata.index.0, image.metadata.term.0);
        let Some(arrivals) = self.others.arrivals.clone().filter(|arrivals| arrivals.claim(place)) else {
            self.others.image_message = Some((from, message));
            return Ok(());
        };
        self.group.step(now, from, message)?;
        if !self.group.has_taken_image() {
            arrivals.give_up();
        }
        Ok(())
    }

    fn note_image(&mut self, now: Duration, event: ImageEvent) -> Result<(), GroupError> {
        match event {
            ImageEvent::Pinned(to, applied, place) => {
                let metadata = self.group.image_metadata(applied);
                if let Some(metadata) = metadata.clone() {
                    self.group.send_image(to, metadata);
                }
                place.tell(metadata, self.group.image_costs(to));
                self.others.places.push((to, place));
            }
            ImageEvent::Sent(to, delivered) => {
                if let Some(links) = &self.others.links {
                    links.image_sent(to, delivered);
                }
                self.others.sending.retain(|member| *member != to);
                self.others.places.retain(|(member, _)| *member != to);
                self.group.report_image(to, delivered);
            }
            ImageEvent::Here(arrivals) => {
                self.others.arrivals = Some(arrivals);
                if let Some((from, message)) = self.others.image_message.take() {
                    return self.hear_raft(now, from, message);
                }
            }
        }
        Ok(())
    }

    /// A tick's part: what pinned states cost, and how fast they may go.
    pub(super) fn note_images(&mut self, now: Duration) {
        for (to, place) in &self.others.places {
            place.note(self.group.image_costs(*to));
        }
        if let Some(links) = &self.others.links {
            links.pace_images(now, !self.others.sending.is_empty());
        }
    }

    /// Members that are too far behind get the state, one image each at a time.
    pub(super) fn send_images(&mut self, wanted: Vec<NodeId>) {
        let Some(links) = &self.others.links else { return };
        for to in wanted {
            if self.others.sending.contains(&to) {
                continue;
            }
            self.others.sending.push(to);
            let (shard, inbox) = (Rc::clone(&self.local), Rc::clone(&self.inbox));
            glommio::spawn_local(images::send(shard, Rc::clone(links), inbox, to)).detach();
        }
    }

    /// A member that has no state asks for this one's. What it has acknowledged counts no longer, and a leader proves itself
    /// after that, where its log is gone.
    fn mend(&mut self, now: Duration, from: NodeId, request: MendRequest) {
        let Some(links) = self.others.links.clone() else { return };
        if self.others.sending.contains(&from) || self.others.mending.values().any(|(member, _)| *member == from) {
            return;
        }
        let applied = self.group.state().applied_index;
        match request.need {
            LogNeed::From(index) if applied < index => {
                links.say(from, &Said::MendRefused(MendRefusal::Behind(applied)));
            }
            LogNeed::From(_) => self.send_state(from, request),
            LogNeed::Confirmed if self.group.forget(from) => {
                self.others.next_stranger += 1;
                let number = self.others.next_stranger;
                self.others.mending.insert(number, (from, request));
                self.group.prove_index(now, STRANGER, number);
            }
            LogNeed::Confirmed => {
                let leader = self.local.shared.leader.load(Ordering::Relaxed);
                links.say(from, &Said::MendRefused(MendRefusal::NotLeader(leader)));
            }
        }
    }

    fn send_state(&mut self, to: NodeId, request: MendRequest) {
        let Some(links) = self.others.links.clone() else { return };
        self.others.sending.push(to);
        let (shard, inbox) = (Rc::clone(&self.local), Rc::clone(&self.inbox));
        glommio::spawn_local(images::send_state(shard, links, inbox, to, request.id)).detach();
    }

    /// A quorum has confirmed that this member leads, after somebody asked for its state; or not.
    pub(super) fn proved(&mut self, number: u64, outcome: &Result<(), Error>) {
        let Some((to, request)) = self.others.mending.remove(&number) else { return };
        if outcome.is_ok() && self.local.shared.is_leader() {
            return self.send_state(to, request);
        }
        self.group.trust(to);
        if let Some(links) = &self.others.links {
            links.say(to, &Said::MendRefused(MendRefusal::Unconfirmed));
        }
    }

    /// This member can't go on with its state: whoever can takes over, where it led.
    pub(super) fn hand_over(&mut self) {
        let Some(links) = self.others.links.clone() else { return };
        for (to, message) in self.group.hand_over() {
            links.send(to, message);
        }
    }

    /// Tells the leader what the state adds up to, and all of them whose differs.
    pub(super) fn compare(&mut self, sums: Vec<Sum>, verdicts: Vec<Verdict>) -> Result<(), GroupError> {
        if sums.is_empty() && verdicts.is_empty() {
            return Ok(());
        }
        let Some(links) = self.others.links.clone() else { return Ok(()) };
        if let Some(leader) = self.group.leader_elsewhere() {
            for sum in sums {
                links.say(leader, &Said::Sum(sum));
            }
        }
        verdicts.iter().for_each(|verdict| links.say_to_all(&Said::Verdict(*verdict)));
        verdicts.into_iter().try_for_each(|verdict| self.group.hear_verdict(verdict))
    }

    /// Hands leadership over; answered once the other one leads.
    pub(super) fn transfer(&mut self, asked: Asked, to: NodeId) {
        let leader = self.local.shared.leader.load(Ordering::Relaxed);
        let outcome = match leader {
            0 => Err(Error::NoLeader),
            leader if leader == to.0 && self.local.shared.is_leader() => Ok(Told::Go),
            _ => match self.group.transfer_leadership(to) {
                Ok(()) => return self.others.transfers.push((asked, to, boottime())),
                Err(error) => Err(error),
            },
        };
        self.tell(asked.shard, asked.request_id, outcome);
    }

    /// Those whom it concerns learn that a member leads, or that it took too long.
    pub(super) fn note_transfers(&mut self) {
        if self.others.transfers.is_empty() {
            return;
        }
        let leader = NodeId(self.local.shared.leader.load(Ordering::Relaxed));
        let now = boottime();
        let is_over = |(_, to, since): &mut (Asked, NodeId, Duration)| {
            *to == leader || now.saturating_sub(*since) > TRANSFER_PATIENCE
        };
        for (asked, to, _) in self.others.transfers.extract_if(.., is_over).collect::<Vec<_>>() {
            let outcome = if to == leader { Ok(Told::Go) } else { Err(Error::TimeoutLeaderTransfer) };
            self.tell(asked.shard, asked.request_id, outcome);
        }
    }

    /// What this member finds about others goes where `endpoint status` sees it.
    pub(super) fn show_complaints(&mut self, now: Duration) {
        let Some(links) = &self.others.links else { return };
        if now.saturating_sub(self.others.complained_at) < COMPLAINTS_INTERVAL {
            return;
        }
        self.others.complained_at = now;
        links.set_kinds(self.group.kinds_agreed());
        if let Ok(mut complaints) = self.local.shared.peer_complaints.lock() {
            *complaints = links.complaints();
        }
    }

    /// Members that this one must reach: those of the state, as far as it knows where they are. One that joins was told of later
    /// ones than the log begins with: who is not there yet was not removed.
    pub(super) fn follow_members(&mut self) {
        let Some(links) = &self.others.links else { return };
        let version = self.group.members_version();
        if self.others.followed == Some(version) || self.group.state().applied_index < links.since() {
            return;
        }
        // A page that is absent comes with the next entry that needs it; until then it is looked for again.
        let Ok(members) = self.group.members() else { return };
        self.others.followed = Some(version);
        if !members.is_empty() && members.iter().all(|member| !member.peer_urls.is_empty()) {
            links.set_members(members, self.group.state().applied_index);
        }
    }
}
