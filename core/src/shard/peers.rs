//! The group's other members, over QUIC: raft's messages, proposals and keep-alives for the leader.
//!
//! ```text
//!  group  -> Outputs::send, forward -> Links::send*  -> net::peer -> network
//!  inbox  <- receive()              <- net::peer     <- network          (decoded here: peers are not trusted)
//! ```
//!
//! A frame's group number has the channel in its highest bits: raft's messages are the group's own, the others are requests
//! of a member to the leader. All may be lost: raft says it again, and who waits for an answer has a time limit.

mod receive;
mod transport;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ahash::AHashMap;
use bytes::BytesMut;
use ringstone_net::peer::pace::Governor;
use ringstone_net::peer::{LinkState, Membership, PeerError, PeerStatus, Peers};
use ringstone_raft::{Body, Message, NodeId};

use super::group_task::Inbox;
use super::remembered::Remembered;
use super::{Shard, boottime, fds};
use crate::command::Member;
use crate::group::GroupError;
use crate::identity::known::Known;
use crate::identity::promises::Standing;
use crate::said::{self, Caller, ITEMS_MAX, Items, Lane, Said, Word};
use receive::receive;
use transport::{answer, features, membership};

pub use receive::FromPeer;
pub(super) use transport::transport;

/// The ways to the other members.
pub struct Links {
    peers: Peers,
    own_id: u64,
    scratch: RefCell<BytesMut>,
    /// Raft's messages about images: each goes once its image has gone.
    held: RefCell<AHashMap<NodeId, Message>>,
    /// What receivers of images have said last.
    words: RefCell<AHashMap<NodeId, Word>>,
    /// How fast images may go.
    governor: RefCell<Governor>,
    /// As it has said last.
    image_rate: Cell<u64>,
    /// As they were told last.
    members: Rc<RefCell<Vec<Member>>>,
    /// The index at which they became these.
    since: Rc<Cell<u64>>,
    /// Members that there were since this process started: they are told so.
    removed: RefCell<Vec<u64>>,
    /// The newest kind of entries agreed on.
    kinds: Rc<Cell<u16>>,
    /// What is remembered of the others.
    remembered: Rc<Remembered>,
    /// What this process has begun with: said first to whoever connects.
    standing: Standing,
}

impl Links {
    /// Opens the peer port and begins to dial the members, which became these at the index beside them. What they say goes to
    /// `inbox`.
    ///
    /// # Errors
    /// [`GroupError::Peers`]: the port, the certificates, or a URL can't be used; [`GroupError::Identity`].
    pub async fn open(
        shard: &Rc<Shard>,
        incarnation: u64,
        (members, since): (Vec<Member>, u64),
        kinds: u16,
        standing: Standing,
        inbox: Rc<Inbox>,
    ) -> Result<Rc<Links>, GroupError> {
        let shared = &shard.shared;
        let known = Known::load(&shared.config.data_dir)?;
        let peers = transport(shared, incarnation, &members, &known, kinds, shard.nap.clone()).await?;
        let remembered = Remembered::new(shared.identity.member_id, known);
        remembered.follow(&members, false);
        let listener = std::net::TcpListener::bind(peers.local_address()).map_err(PeerError::Socket)?;
        let members = Rc::new(RefCell::new(members));
        let (listed, cluster_id) = (Rc::clone(&members), shared.identity.cluster_id);
        let kinds = Rc::new(Cell::new(kinds));
        let since = Rc::new(Cell::new(since));
        let (agreed, changed) = (Rc::clone(&kinds), Rc::clone(&since));
        peers.serve_http(fds::listener(listener.into()), boottime, move |page| {
            answer(cluster_id, agreed.get(), &listed.borrow(), changed.get(), page)
        });
        tracing::info!(
            address = %peers.local_address(),
            "serving peers on UDP (QUIC): open this port for UDP, too; on TCP it has /version and /members"
        );
        let links = Rc::new(Links {
            peers,
            own_id: shared.identity.member_id,
            scratch: RefCell::default(),
            held: RefCell::default(),
            words: RefCell::default(),
            governor: RefCell::default(),
            image_rate: Cell::default(),
            members,
            removed: RefCell::default(),
            since,
            kinds,
            remembered,
            standing,
        });
        let limits = said::limits(shared.config.max_request_bytes);
        glommio::spawn_local(receive(Rc::clone(shard), Rc::clone(&links), limits, inbox)).detach();
        Ok(links)
    }

    /// The members, when they have changed, as they are once all up to `applied` is.
    pub fn set_members(&self, members: Vec<Member>, applied: u64) {
        if *self.members.borrow() == members {
            return;
        }
        let stays = |known: &&Member| members.iter().any(|member| member.id == known.id);
        self.removed
            .borrow_mut()
            .extend(self.members.borrow().iter().filter(|known| !stays(known)).map(|known| known.id));
        self.remembered.follow(&members, true);
        match membership(&members, &self.remembered.known()) {
            Ok(membership) => {
                self.peers.set_members(&Membership { removed: self.removed.borrow().clone(), ..membership })
            }
            Err(error) => tracing::error!(error = %error, "a member's peer URL can't be used: it is not reached"),
        }
        self.members.replace(members);
        self.since.set(applied);
    }

    /// The index at which the members became what they are known to be.
    pub(super) fn since(&self) -> u64 {
        self.since.get()
    }

    /// The newest kind of entries agreed on: from now on members that don't know it are refused.
    pub fn set_kinds(&self, kinds: u16) {
        if self.kinds.replace(kinds) != kinds {
            self.peers.set_features(features(kinds));
        }
    }

    /// Of each member that is not connected why, in words.
    pub fn complaints(&self) -> Vec<String> {
        let missing = self.peers.status().into_iter().filter(|status| status.state == LinkState::Connecting);
        let why = |status: PeerStatus| {
            let finding = status.finding.map(|finding| finding.to_string());
            let text = finding.or_else(|| status.last_error.map(|error| error.to_string()))?;
            Some(format!("ringstone: member {:x} is not connected: {text}", status.member))
        };
        missing.filter_map(why).collect()
    }

    /// As they were told last.
    pub(super) fn members(&self) -> std::cell::Ref<'_, Vec<Member>> {
        self.members.borrow()
    }

    /// What is remembered of the others.
    pub(super) fn remembered(&self) -> &Rc<Remembered> {
        &self.remembered
    }

    /// What this process has begun with.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The transport itself.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Sends a message of raft. One that can't be sent is lost: raft says it again. One about an image waits for it.
    pub fn send(&self, to: NodeId, message: Message) {
        if matches!(message.body, Body::Snapshot(_)) {
            self.held.borrow_mut().insert(to, message);
        } else {
            self.say(to, &Said::Raft(message));
        }
    }

    /// A member has its image: raft's message about it goes, too. It has not: it does not.
    pub fn image_sent(&self, to: NodeId, delivered: bool) {
        let held = self.held.borrow_mut().remove(&to);
        if let Some(message) = held.filter(|_| delivered) {
            self.say(to, &Said::Raft(message));
        }
    }

    /// What the receiver of an image has said last, told once.
    pub fn take_word(&self, of: NodeId) -> Option<Word> {
        self.words.borrow_mut().remove(&of)
    }

    /// What it has said is not about what it will be sent.
    pub fn forget_word(&self, of: NodeId) {
        self.words.borrow_mut().remove(&of);
    }

    /// A batch of writes has waited so long from the log to its answers.
    pub fn note_write(&self, wait: Duration) {
        self.governor.borrow_mut().note(wait);
    }

    /// A tick's part: how fast images go, by what writes have to wait for beside them.
    pub fn pace_images(&self, now: Duration, sends: bool) {
        let rate = self.governor.borrow_mut().turn(now, sends);
        if rate != self.image_rate.replace(rate) && sends {
            tracing::debug!(bytes_per_second_max = rate, "how fast images go beside writes has changed (0: no bound)");
        }
        self.peers.set_snapshot_rate(rate);
    }

    /// Says something to a member. False: it did not go, and nothing will come of it.
    pub fn say(&self, to: NodeId, said: &Said) -> bool {
        let (group, bytes) = said.encode(&mut self.scratch.borrow_mut());
        let sent = match said.lane() {
            Lane::Log => self.peers.send_log(to.0, group, bytes),
            Lane::Heartbeat => self.peers.send_heartbeat(to.0, group, bytes),
            Lane::Control => self.peers.send_control(to.0, group, bytes),
        };
        if let Err(error) = &sent {
            tracing::debug!(to = format!("{:x}", to.0), error = %error, "a message to a member was not sent");
        }
        sent.is_ok()
    }

    /// As [`Links::say`], in as many frames as it takes. False: not all of it went.
    pub fn say_items(&self, to: NodeId, items: &[(Caller, i64)], of: fn(Items) -> Said) -> bool {
        items.chunks(ITEMS_MAX).all(|items| self.say(to, &of(items.to_vec())))
    }

    /// Says something to all members.
    pub fn say_to_all(&self, said: &Said) {
        for member in self.members.borrow().iter().filter(|member| member.id != self.own_id) {
            self.say(NodeId(member.id), said);
        }
    }
}
