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
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use glommio::timer::sleep;
use http::{HeaderName, HeaderValue};
use ringstone_net::HttpResponse;
use ringstone_net::peer::close::CloseCode;
use ringstone_net::peer::hello::{Features, Identity};
use ringstone_net::peer::tls::PeerTls;
use ringstone_net::peer::{
    MemberSpec, Membership, PeerAddress, PeerConfig, PeerError, PeerEvent, PeerHttp, PeerLimits, Peers,
};
use ringstone_raft::{Body, Message, NodeId, wire};

use super::group_task::Inbox;
use super::images::{self, ImageEvent};
use super::{Shard, boottime, fds, random_bytes};
use crate::command::Member;
use crate::config::{API_VERSION, CLUSTER_VERSION, REQUEST_OVERHEAD_BYTES};
use crate::error::Error;
use crate::group::{Forward, GROUP, MemberChange};
use crate::join::{CLUSTER_ID_HEADER, Listed};
use crate::shared::Shared;

/// Raft's messages.
const RAFT: u64 = 0;
/// A sealed proposal, for the leader.
const PROPOSAL: u64 = 1;
/// A keep-alive, for the leader.
const KEEP_ALIVE: u64 = 2;
/// What came of it.
const KEPT_ALIVE: u64 = 3;
/// A change of the members, for the leader.
const CHANGE: u64 = 4;
/// What came of it.
const CHANGED: u64 = 5;
const CHANNEL_SHIFT: u32 = 56;

/// Bytes of a [`Caller`].
const CALLER_BYTES: usize = 12;

/// What waits for the group at most: beyond it the streams are not read.
const WAITING_MAX: usize = 4096;
/// How long a full inbox is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Bytes of a proposal beside its request.
const PROPOSAL_OVERHEAD_BYTES: usize = REQUEST_OVERHEAD_BYTES + 4096;
/// Bytes of appends, as raft's settings have it.
const APPEND_BYTES_MAX: usize = 1 << 20;

/// The way back of a request that another member asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The shard that waits, on the member that asked.
    pub shard: u32,
    /// Its request id there.
    pub request_id: u64,
}

/// What other members said.
pub enum FromPeer {
    /// A message of raft.
    Raft(NodeId, Message),
    /// A proposal for the leader.
    Proposal(Bytes),
    /// A keep-alive for the leader.
    KeepAlive(NodeId, Caller, i64),
    /// What the leader says to one of ours: the TTL in seconds, or nothing where it can't tell.
    KeptAlive(Caller, Option<i64>),
    /// A change of the members, for the leader.
    Change(NodeId, Caller, MemberChange),
    /// What the leader says to one of ours.
    Changed(Caller, Result<(), Error>),
    /// The connection to a member was lost.
    Lost(NodeId),
    /// A member says that this one was removed.
    Removed(String),
    /// A member knows another process of this one.
    Refused(String),
    /// What happens to images.
    Image(ImageEvent),
}

/// The ways to the other members.
pub struct Links {
    peers: Peers,
    scratch: RefCell<BytesMut>,
    /// Raft's messages about images: each goes once its image has gone.
    held: RefCell<AHashMap<NodeId, Message>>,
    /// As they were told last.
    members: Rc<RefCell<Vec<Member>>>,
    /// Members that there were since this process started: they are told so.
    removed: RefCell<Vec<u64>>,
    shared: Arc<Shared>,
}

impl Links {
    /// Opens the peer port and begins to dial `members`. What they say goes to `inbox`.
    ///
    /// # Errors
    /// [`PeerError`]: the port, the certificates, or a URL can't be used.
    pub async fn open(
        shard: &Rc<Shard>,
        incarnation: u64,
        members: Vec<Member>,
        inbox: Rc<Inbox>,
    ) -> Result<Rc<Links>, PeerError> {
        let shared = &shard.shared;
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
            features: Features::default(),
            known_features: Features::default(),
        };
        let limits = limits(config.max_request_bytes);
        let membership = membership(&members)?;
        let config = PeerConfig { identity, listen, tls, limits, random: Box::new(random) };
        let peers = Peers::new(config, &membership).await?;
        let listener = std::net::TcpListener::bind(peers.local_address()).map_err(PeerError::Socket)?;
        let members = Rc::new(RefCell::new(members));
        let (listed, cluster_id) = (Rc::clone(&members), shared.identity.cluster_id);
        peers.serve_http(fds::listener(listener.into()), boottime, move |page| {
            answer(cluster_id, &listed.borrow(), page)
        });
        tracing::info!(
            address = %peers.local_address(),
            "serving peers on UDP (QUIC): open this port for UDP, too; on TCP it has /version and /members"
        );
        let links = Rc::new(Links {
            peers,
            scratch: RefCell::default(),
            held: RefCell::default(),
            members,
            removed: RefCell::default(),
            shared: Arc::clone(shared),
        });
        let wire_limits = wire_limits(shared.config.max_request_bytes);
        glommio::spawn_local(receive(Rc::clone(shard), Rc::clone(&links), wire_limits, inbox)).detach();
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
        if let Ok(mut unreachable) = self.shared.unreachable.lock() {
            unreachable.retain(|id, _| members.iter().any(|member| member.id == *id));
        }
        match membership(&members) {
            Ok(membership) => {
                self.peers.set_members(&Membership { removed: self.removed.borrow().clone(), ..membership })
            }
            Err(error) => tracing::error!(error = %error, "a member's peer URL can't be used: it is not reached"),
        }
        self.members.replace(members);
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
            self.send_now(to, &message);
        }
    }

    /// A member has its image: raft's message about it goes, too. It has not: it does not.
    pub fn image_sent(&self, to: NodeId, delivered: bool) {
        let held = self.held.borrow_mut().remove(&to);
        if let Some(message) = held.filter(|_| delivered) {
            self.send_now(to, &message);
        }
    }

    fn send_now(&self, to: NodeId, message: &Message) {
        let mut scratch = self.scratch.borrow_mut();
        wire::encode(u64::from(GROUP), message, &mut scratch);
        let bytes = scratch.split().freeze();
        let channel = channel(RAFT);
        let sent = match &message.body {
            Body::Append { entries, .. } if !entries.is_empty() => self.peers.send_log(to.0, channel, bytes),
            Body::Heartbeat { .. } => self.peers.send_heartbeat(to.0, channel, bytes),
            _ => self.peers.send_control(to.0, channel, bytes),
        };
        note(to, sent);
    }

    /// Sends a proposal to the leader.
    pub fn forward(&self, forward: Forward) {
        note(forward.leader, self.peers.send_log(forward.leader.0, channel(PROPOSAL), forward.payload));
    }

    /// Asks the leader to keep a lease alive.
    pub fn keep_alive(&self, leader: NodeId, caller: Caller, id: i64) {
        self.send_caller(leader, KEEP_ALIVE, caller, id);
    }

    /// Answers a keep-alive of another member; None: this one can't tell.
    pub fn kept_alive(&self, to: NodeId, caller: Caller, ttl_s: Option<i64>) {
        self.send_caller(to, KEPT_ALIVE, caller, ttl_s.unwrap_or(-1));
    }

    /// Asks the leader to change the members.
    pub fn change(&self, leader: NodeId, caller: Caller, change: &MemberChange) {
        let change = change.encode();
        let mut bytes = caller_bytes(caller, change.len());
        bytes.put_slice(&change);
        note(leader, self.peers.send_control(leader.0, channel(CHANGE), bytes.freeze()));
    }

    /// Answers a change of another member.
    pub fn changed(&self, to: NodeId, caller: Caller, outcome: &Result<(), Error>) {
        let code = match outcome {
            Ok(()) => 0,
            Err(error) => CHANGE_ERRORS.iter().position(|known| known == error).map_or(u8::MAX, |at| at as u8 + 1),
        };
        let mut bytes = caller_bytes(caller, 1);
        bytes.put_u8(code);
        note(to, self.peers.send_control(to.0, channel(CHANGED), bytes.freeze()));
    }

    fn send_caller(&self, to: NodeId, kind: u64, caller: Caller, number: i64) {
        let mut bytes = caller_bytes(caller, 8);
        bytes.put_i64_le(number);
        note(to, self.peers.send_control(to.0, channel(kind), bytes.freeze()));
    }
}

/// What a leader may answer to a change, by its number less one. The numbers are on the wire: new ones go to the end.
const CHANGE_ERRORS: [Error; 12] = [
    Error::MemberExists,
    Error::PeerUrlsExist,
    Error::MemberNotEnoughStarted,
    Error::MemberBadUrls,
    Error::MemberNotFound,
    Error::MemberNotLearner,
    Error::LearnerNotReady,
    Error::TooManyLearners,
    Error::Unhealthy,
    Error::NotLeader,
    Error::LeaderChanged,
    Error::TooManyRequests,
];

fn channel(kind: u64) -> u64 {
    kind << CHANNEL_SHIFT | u64::from(GROUP)
}

fn caller_bytes(caller: Caller, more: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(CALLER_BYTES + more);
    bytes.put_u32_le(caller.shard);
    bytes.put_u64_le(caller.request_id);
    bytes
}

fn note(to: NodeId, sent: Result<(), PeerError>) {
    if let Err(error) = sent {
        tracing::debug!(to = format!("{:x}", to.0), error = %error, "a message to a member was not sent");
    }
}

fn random() -> u64 {
    u64::from_le_bytes(random_bytes())
}

fn limits(max_request_bytes: usize) -> PeerLimits {
    let usual = PeerLimits::default();
    let log = u32::try_from(wire_limits(max_request_bytes).message_bytes_max).unwrap_or(u32::MAX);
    PeerLimits { log_frame_bytes_max: usual.log_frame_bytes_max.max(log), ..usual }
}

fn wire_limits(max_request_bytes: usize) -> wire::Limits {
    wire::Limits::new(APPEND_BYTES_MAX, max_request_bytes + PROPOSAL_OVERHEAD_BYTES, 4096)
}

fn membership(members: &[Member]) -> Result<Membership, PeerError> {
    let spec = |member: &Member| {
        let addresses = member.peer_urls.iter().map(|url| PeerAddress::parse(url)).collect::<Result<Vec<_>, _>>()?;
        Ok(MemberSpec { id: member.id, addresses, incarnation: None })
    };
    Ok(Membership { members: members.iter().map(spec).collect::<Result<_, PeerError>>()?, removed: Vec::new() })
}

fn answer(cluster_id: u64, members: &[Member], page: PeerHttp) -> HttpResponse {
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
    response
}

/// Hands what members say to the group.
async fn receive(shard: Rc<Shard>, links: Rc<Links>, limits: wire::Limits, inbox: Rc<Inbox>) {
    let takes_image = Rc::new(Cell::new(false));
    while let Some(event) = links.peers.next_event().await {
        let said = match event {
            PeerEvent::Control { member, group, bytes } | PeerEvent::Log { member, group, bytes } => {
                decode(member, group, bytes, &limits)
            }
            PeerEvent::Disconnected { member, .. } => Some(FromPeer::Lost(NodeId(member))),
            PeerEvent::Refused { member, code, text } => {
                tracing::error!(member = format!("{member:x}"), "{text}");
                match code {
                    CloseCode::RemovedMember => Some(FromPeer::Removed(text)),
                    CloseCode::Incarnation => Some(FromPeer::Refused(text)),
                    _ => None,
                }
            }
            PeerEvent::Snapshot { member, stream } => {
                let (shard, inbox, is_busy) = (Rc::clone(&shard), Rc::clone(&inbox), Rc::clone(&takes_image));
                glommio::spawn_local(images::receive(shard, inbox, member, stream, is_busy)).detach();
                None
            }
            // The transport has said it in the log.
            PeerEvent::Connected { member, .. } => {
                found(&shard, member, None);
                None
            }
            PeerEvent::Finding { member, finding } => {
                found(&shard, member, Some(finding.to_string()));
                None
            }
        };
        let Some(said) = said else { continue };
        inbox.hear(said);
        while inbox.unheard() >= WAITING_MAX {
            sleep(FULL_PAUSE).await;
        }
    }
}

/// What stands in the way to a member, for `endpoint status`.
fn found(shard: &Shard, member: u64, what: Option<String>) {
    let Ok(mut unreachable) = shard.shared.unreachable.lock() else { return };
    match what {
        Some(what) => drop(unreachable.insert(member, what)),
        None => drop(unreachable.remove(&member)),
    }
}

/// Bytes of a member are not trusted: what is no message of this group is dropped, and said.
fn decode(member: u64, group: u64, bytes: Bytes, limits: &wire::Limits) -> Option<FromPeer> {
    let from = NodeId(member);
    let refuse = |what: &dyn std::fmt::Display| {
        tracing::warn!(member = format!("{member:x}"), "what a member sent is dropped: {what}");
        None
    };
    if group & !(0xff << CHANNEL_SHIFT) != u64::from(GROUP) {
        return refuse(&"it is of a group that is not here");
    }
    let channel = group >> CHANNEL_SHIFT;
    match channel {
        RAFT => match wire::decode(&bytes, limits) {
            Ok((_, message)) => return Some(FromPeer::Raft(from, message)),
            Err(error) => return refuse(&error),
        },
        PROPOSAL => return Some(FromPeer::Proposal(bytes)),
        _ => {}
    }
    if bytes.len() < CALLER_BYTES {
        return refuse(&"it ends before it says whose request it is");
    }
    let mut rest = bytes;
    let caller = Caller { shard: rest.get_u32_le(), request_id: rest.get_u64_le() };
    match (channel, rest.len()) {
        (KEEP_ALIVE, 8) => Some(FromPeer::KeepAlive(from, caller, rest.get_i64_le())),
        (KEPT_ALIVE, 8) => Some(FromPeer::KeptAlive(caller, Some(rest.get_i64_le()).filter(|ttl_s| *ttl_s >= 0))),
        (CHANGED, 1) => {
            let outcome = match rest.get_u8() {
                0 => Ok(()),
                code => Err(CHANGE_ERRORS.get(usize::from(code) - 1).cloned().unwrap_or(Error::Unhealthy)),
            };
            Some(FromPeer::Changed(caller, outcome))
        }
        (CHANGE, _) => match MemberChange::decode(&rest) {
            Some(change) => Some(FromPeer::Change(from, caller, change)),
            None => refuse(&"a change of the members that does not decode"),
        },
        _ => refuse(&"a request of another form or kind than this version knows"),
    }
}
