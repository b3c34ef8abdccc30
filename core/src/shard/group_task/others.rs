//! The group among others: what it hears from them, what it does for them, who they are.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashMap;
use ringstone_raft::{Body, Message, NodeId};

use super::Driver;
use crate::error::Error;
use crate::group::{GroupError, founders};
use crate::identity::incarnation;
use crate::shard::images::{self, ImageEvent};
use crate::shard::link::{Asked, Told};
use crate::shard::peers::{Caller, FromPeer, Links};

/// The shard of what other members ask for.
pub(super) const STRANGER: u32 = u32::MAX - 1;

/// What the group's task knows of other members.
#[derive(Default)]
pub(super) struct Others {
    /// The other members; none where this one is alone.
    pub(super) links: Option<Rc<Links>>,
    /// Members that are being sent the state.
    pub(super) sending: Vec<NodeId>,
    /// Index and term of the image that is here.
    pub(super) image: Option<(u64, u64)>,
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
    /// Who waits for a member to lead.
    pub(super) transfers: Vec<(Asked, NodeId)>,
}

impl Driver {
    /// Where there are other members: the peer port is opened, and they are dialled. A member that gets others later does so
    /// then.
    pub(super) async fn open_links(&mut self) -> Result<(), GroupError> {
        let shared = &self.local.shared;
        let mut members = founders(&shared.config);
        if let Some(joined) = shared.joins.get() {
            members.clone_from(joined);
        }
        if let Ok(known) = self.group.members()
            && known.len() > 1
        {
            members = known;
        }
        if members.len() > 1 && self.others.links.is_none() {
            let count = incarnation::count_start(&shared.config.data_dir)?;
            self.others.links = Some(Links::open(&self.local, count, members, Rc::clone(&self.inbox)).await?);
        }
        Ok(())
    }

    /// Takes what other members said; true if there was anything.
    pub(super) fn hear(&mut self, now: Duration) -> Result<bool, GroupError> {
        let heard = self.inbox.heard.take();
        let any = !heard.is_empty();
        for said in heard {
            match said {
                FromPeer::Raft(from, message) => self.hear_raft(now, from, message)?,
                FromPeer::Image(event) => self.note_image(now, event)?,
                FromPeer::Proposal(payload) => {
                    if let Err(error) = self.group.propose_forwarded(now, &payload) {
                        // Its caller has a time limit, and the outcome is unknown to it anyway.
                        tracing::debug!(error = %error, "a proposal of another member is not taken");
                    }
                }
                FromPeer::KeepAlive(from, caller, id) => {
                    self.others.next_stranger += 1;
                    self.others.strangers.insert(self.others.next_stranger, (from, caller));
                    self.group.keep_alive(now, STRANGER, self.others.next_stranger, id)?;
                }
                FromPeer::KeptAlive(caller, ttl_s) => {
                    let told = ttl_s.map(Told::KeptAlive).ok_or(Error::NotPrimaryLessor);
                    self.tell(caller.shard, caller.request_id, told);
                }
                FromPeer::Change(from, caller, change) => {
                    self.others.next_stranger += 1;
                    self.others.strangers.insert(self.others.next_stranger, (from, caller));
                    self.group.change_members(now, &change, STRANGER, self.others.next_stranger)?;
                }
                FromPeer::Changed(caller, outcome) => {
                    self.tell(caller.shard, caller.request_id, outcome.map(|()| Told::Go));
                }
                FromPeer::Lost(member) => self.group.report_lost(member),
                FromPeer::Removed(by) => return Err(GroupError::Removed { by }),
                FromPeer::Refused(text) => return Err(GroupError::Refused { text }),
            }
        }
        Ok(any)
    }

    /// A message about an image waits until that image is here.
    fn hear_raft(&mut self, now: Duration, from: NodeId, message: Message) -> Result<(), GroupError> {
        if let Body::Snapshot(image) = &message.body
            && self.others.image != Some((image.metadata.index.0, image.metadata.term.0))
        {
            self.others.image_message = Some((from, message));
            return Ok(());
        }
        self.group.step(now, from, message)
    }

    fn note_image(&mut self, now: Duration, event: ImageEvent) -> Result<(), GroupError> {
        match event {
            ImageEvent::Pinned(to, applied, place) => {
                let metadata = self.group.image_metadata(applied);
                if let Some(metadata) = metadata.clone() {
                    self.group.send_image(to, metadata);
                }
                place.tell(metadata);
            }
            ImageEvent::Sent(to, delivered) => {
                if let Some(links) = &self.others.links {
                    links.image_sent(to, delivered);
                }
                self.others.sending.retain(|member| *member != to);
                self.group.report_image(to, delivered);
            }
            ImageEvent::Comes => self.others.image = None,
            ImageEvent::Here(index, term) => {
                self.others.image = Some((index, term));
                if let Some((from, message)) = self.others.image_message.take() {
                    return self.hear_raft(now, from, message);
                }
            }
        }
        Ok(())
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

    /// Hands leadership over; answered once the other one leads.
    pub(super) fn transfer(&mut self, asked: Asked, to: NodeId) {
        let leader = self.local.shared.leader.load(Ordering::Relaxed);
        let outcome = match leader {
            0 => Err(Error::NoLeader),
            leader if leader == to.0 && self.local.shared.is_leader() => Ok(Told::Go),
            _ => match self.group.transfer_leadership(to) {
                Ok(()) => return self.others.transfers.push((asked, to)),
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
        for (asked, _) in self.others.transfers.extract_if(.., |(_, to)| *to == leader).collect::<Vec<_>>() {
            self.tell(asked.shard, asked.request_id, Ok(Told::Go));
        }
    }

    /// Members that this one must reach: those of the state, as far as it knows where they are.
    pub(super) fn follow_members(&mut self) {
        let Some(links) = &self.others.links else { return };
        if let Ok(members) = self.group.members()
            && !members.is_empty()
            && members.iter().all(|member| !member.peer_urls.is_empty())
        {
            links.set_members(members);
        }
    }
}
