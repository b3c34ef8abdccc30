//! The group's other members, over QUIC: raft's messages, proposals and keep-alives for the leader.
//!
//! ```text
//!  group  -> Outputs::send, forward -> Links::send*  -> net::peer -> network
//!  inbox  <- receive()              <- net::peer     <- network          (decoded here: peers are not trusted)
//! ```
//!
//! A frame's group number has the channel in its highest bits: raft's messages are the group's own, the others are requests
//! of a member to the leader. All may be lost: raft says it again, and who waits for an answer has a time limit.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ahash::AHashMap;
use bytes::{Bytes, BytesMut};
use glommio::timer::sleep;
use http::{HeaderName, HeaderValue};
use ringstone_net::HttpResponse;
use ringstone_net::peer::close::CloseCode;
use ringstone_net::peer::hello::{Features, Identity};
use ringstone_net::peer::pace::Governor;
use ringstone_net::peer::registry::Latest;
use ringstone_net::peer::tls::PeerTls;
use ringstone_net::peer::{
    LinkState, MemberSpec, Membership, PeerAddress, PeerConfig, PeerError, PeerEvent, PeerHttp, PeerLimits, PeerStatus,
    Peers,
};
use ringstone_raft::{Body, Message, NodeId, wire};

use super::group_task::Inbox;
use super::images::{self, Arrivals, ImageEvent};
use super::remembered::Remembered;
use super::{Shard, boottime, fds, random_bytes};
use crate::command::Member;
use crate::config::{API_VERSION, CLUSTER_VERSION};
use crate::group::{GroupError, features_of_kinds};
use crate::identity::known::Known;
use crate::identity::promises::Standing;
use crate::join::{CLUSTER_ID_HEADER, KINDS_HEADER, Listed};
use crate::said::{self, Caller, ITEMS_MAX, Items, Lane, Said, Word};
use crate::shared::Shared;

/// What waits for the group at most: beyond it the streams are not read.
const WAITING_MAX: usize = 4096;
/// How long a full inbox is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// What comes from other members, or is heard of them.
pub enum FromPeer {
    /// A member says something.
    Said(NodeId, Said),
    /// A member has connected.
    Connected(NodeId),
    /// The connection to a member was lost.
    Lost(NodeId),
    /// A member says that this one was removed.
    Removed(String),
    /// A member knows another process of this one.
    Refused(String),
    /// What happens to images.
    Image(ImageEvent),
    /// It was sent its state, or it was not.
    Mended(NodeId),
}

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
    /// As they were told last.
    members: Rc<RefCell<Vec<Member>>>,
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
    /// Opens the peer port and begins to dial `members`. What they say goes to `inbox`.
    ///
    /// # Errors
    /// [`GroupError::Peers`]: the port, the certificates, or a URL can't be used; [`GroupError::Identity`].
    pub async fn open(
        shard: &Rc<Shard>,
        incarnation: u64,
        members: Vec<Member>,
        kinds: u16,
        standing: Standing,
        inbox: Rc<Inbox>,
    ) -> Result<Rc<Links>, GroupError> {
        let shared = &shard.shared;
        let known = Known::load(&shared.config.data_dir)?;
        let peers = transport(shared, incarnation, &members, &known, kinds).await?;
        let remembered = Remembered::new(shared.identity.member_id, known);
        remembered.follow(&members, false);
        let listener = std::net::TcpListener::bind(peers.local_address()).map_err(PeerError::Socket)?;
        let members = Rc::new(RefCell::new(members));
        let (listed, cluster_id) = (Rc::clone(&members), shared.identity.cluster_id);
        let kinds = Rc::new(Cell::new(kinds));
        let agreed = Rc::clone(&kinds);
        peers.serve_http(fds::listener(listener.into()), boottime, move |page| {
            answer(cluster_id, agreed.get(), &listed.borrow(), page)
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
            members,
            removed: RefCell::default(),
            kinds,
            remembered,
            standing,
        });
        let limits = said::limits(shared.config.max_request_bytes);
        glommio::spawn_local(receive(Rc::clone(shard), Rc::clone(&links), limits, inbox)).detach();
        Ok(links)
    }

    /// The members, when they have changed.
    pub fn set_members(&self, members: Vec<Member>) {
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
        self.peers.set_snapshot_rate(self.governor.borrow_mut().turn(now, sends));
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

/// Opens the peer port and begins to dial.
///
/// # Errors
/// [`PeerError`].
pub(super) async fn transport(
    shared: &Shared,
    incarnation: u64,
    members: &[Member],
    known: &Known,
    kinds: u16,
) -> Result<Peers, PeerError> {
    let config = &shared.config;
    let tls = PeerTls::load(&config.peer_tls)?;
    if let Some(warning) = tls.trust().warning() {
        tracing::warn!("{warning}");
    }
    let listen = *config.listen_peer.first().expect("the flags name an address");
    let identity = Identity {
        cluster_id: shared.identity.cluster_id,
        member_id: shared.identity.member_id,
        incarnation,
        process: random(),
        features: features(kinds),
        known_features: features(config.entry_kinds),
    };
    let limits = limits(config.max_request_bytes);
    let membership = membership(members, known)?;
    Peers::new(PeerConfig { identity, listen, tls, limits, random: Box::new(random) }, &membership).await
}

/// What this member's hellos say of the entries in its log.
fn features(kinds: u16) -> Features {
    Features { refuse: features_of_kinds(kinds), ..Features::default() }
}

fn random() -> u64 {
    u64::from_le_bytes(random_bytes())
}

fn limits(max_request_bytes: usize) -> PeerLimits {
    let usual = PeerLimits::default();
    let log = u32::try_from(said::limits(max_request_bytes).message_bytes_max).unwrap_or(u32::MAX);
    PeerLimits { log_frame_bytes_max: usual.log_frame_bytes_max.max(log), ..usual }
}

fn membership(members: &[Member], known: &Known) -> Result<Membership, PeerError> {
    let latest = |id: u64| {
        let known = known.members().get(&id).filter(|known| known.incarnation > 0)?;
        Some(Latest { incarnation: known.incarnation, process: Some(known.process) })
    };
    let spec = |member: &Member| {
        let addresses = member.peer_urls.iter().map(|url| PeerAddress::parse(url)).collect::<Result<Vec<_>, _>>()?;
        Ok(MemberSpec { id: member.id, addresses, latest: latest(member.id) })
    };
    Ok(Membership { members: members.iter().map(spec).collect::<Result<_, PeerError>>()?, removed: Vec::new() })
}

fn answer(cluster_id: u64, kinds: u16, members: &[Member], page: PeerHttp) -> HttpResponse {
    let json = match page {
        PeerHttp::Version => serde_json::json!({
            "etcdserver": API_VERSION, "etcdcluster": CLUSTER_VERSION, "storage": CLUSTER_VERSION,
        }),
        PeerHttp::Members => serde_json::json!(members.iter().cloned().map(Listed::from).collect::<Vec<_>>()),
    };
    let mut response = HttpResponse::text(200, json.to_string());
    response.headers[0].1 = HeaderValue::from_static("application/json");
    let cluster_id = HeaderValue::from_str(&format!("{cluster_id:x}")).expect("hexadecimal digits");
    response.headers.push((HeaderName::from_static(CLUSTER_ID_HEADER), cluster_id));
    response.headers.push((HeaderName::from_static(KINDS_HEADER), HeaderValue::from(kinds)));
    response
}

/// Hands what members say to the group.
async fn receive(shard: Rc<Shard>, links: Rc<Links>, limits: wire::Limits, inbox: Rc<Inbox>) {
    let arrivals = Rc::new(Arrivals::default());
    while let Some(event) = links.peers.next_event().await {
        let said = match event {
            PeerEvent::Control { member, group, bytes } | PeerEvent::Log { member, group, bytes } => {
                match decode(member, group, bytes, &limits) {
                    // To whoever sends the image.
                    Some(Said::Image(word)) => {
                        links.words.borrow_mut().insert(NodeId(member), word);
                        None
                    }
                    Some(Said::Standing(standing)) => {
                        links.say(NodeId(member), &links.remembered.judge(member, &standing));
                        None
                    }
                    Some(Said::Raft(message)) => {
                        let counts = links.remembered.note(member, &message);
                        counts.then(|| FromPeer::Said(NodeId(member), Said::Raft(message)))
                    }
                    said => said.map(|said| FromPeer::Said(NodeId(member), said)),
                }
            }
            PeerEvent::Disconnected { member, .. } => {
                links.remembered.lost();
                Some(FromPeer::Lost(NodeId(member)))
            }
            PeerEvent::Refused { member, code, text } => {
                tracing::error!(member = format!("{member:x}"), "{text}");
                match code {
                    CloseCode::RemovedMember => Some(FromPeer::Removed(text)),
                    CloseCode::Incarnation => Some(FromPeer::Refused(text)),
                    _ => None,
                }
            }
            PeerEvent::Snapshot { member, stream } => {
                let (shard, links, inbox) = (Rc::clone(&shard), Rc::clone(&links), Rc::clone(&inbox));
                let arrivals = Rc::clone(&arrivals);
                glommio::spawn_local(images::receive(shard, links, inbox, member, stream, arrivals)).detach();
                None
            }
            PeerEvent::Connected { member, incarnation, process, .. } => {
                links.remembered.heard(member, incarnation, process);
                links.say(NodeId(member), &Said::Standing(links.standing));
                Some(FromPeer::Connected(NodeId(member)))
            }
            // The transport has said it in the log.
            PeerEvent::Finding { .. } => None,
        };
        // Before any frame of a process that has just connected is looked at, and before a vote counts.
        links.remembered.settle().await;
        links.remembered.write_now_and_then();
        let Some(said) = said else { continue };
        inbox.hear(said);
        while inbox.unheard() >= WAITING_MAX {
            sleep(FULL_PAUSE).await;
        }
    }
}

/// What is nothing that a member says is dropped, and said.
fn decode(member: u64, group: u64, bytes: Bytes, limits: &wire::Limits) -> Option<Said> {
    let said = Said::decode(group, bytes, limits);
    said.inspect_err(|error| tracing::warn!(member = format!("{member:x}"), "what a member sent is dropped: {error}"))
        .ok()
}
