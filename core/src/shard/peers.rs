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
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
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
use super::images::{self, Arrivals, ImageEvent, Word};
use super::mend_words::{MendRefusal, MendRequest};
use super::{Shard, boottime, fds, random_bytes};
use crate::command::Member;
use crate::config::{API_VERSION, CLUSTER_VERSION, REQUEST_OVERHEAD_BYTES};
use crate::error::Error;
use crate::group::{Forward, GROUP, GroupError, MemberChange, Sum, Verdict, features_of_kinds};
use crate::identity::known::{self, Known};
use crate::join::{CLUSTER_ID_HEADER, KINDS_HEADER, Listed};
use crate::shared::Shared;

/// Raft's messages.
const RAFT: u64 = 0;
/// A sealed proposal, for the leader.
const PROPOSAL: u64 = 1;
/// Keep-alives, for the leader.
const KEEP_ALIVE: u64 = 2;
/// What came of them.
const KEPT_ALIVE: u64 = 3;
/// A change of the members, for the leader.
const CHANGE: u64 = 4;
/// What came of it.
const CHANGED: u64 = 5;
/// What time is it on your lease clock?
const CLOCK: u64 = 6;
/// That time.
const CLOCK_IS: u64 = 7;
/// A proposal that was not taken: nothing will come of it.
const NOT_TAKEN: u64 = 8;
/// A member without a state asks for one.
pub(super) const MEND: u64 = 9;
/// It is not sent, and why.
pub(super) const MEND_REFUSED: u64 = 10;
/// What a member's state adds up to, for the leader.
const SUM: u64 = 11;
/// A member whose state differs.
const VERDICT: u64 = 12;
/// What a receiver of an image says.
const IMAGE_WORD: u64 = 13;
const CHANNEL_SHIFT: u32 = 56;

/// Bytes of a [`Caller`].
const CALLER_BYTES: usize = 12;
/// Bytes of a caller with a number.
const ITEM_BYTES: usize = CALLER_BYTES + 8;
/// Of one frame: a frame of the control stream has 64 KiB.
const ITEMS_MAX: usize = 3000;

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

/// Callers, each with a number.
pub type Items = Vec<(Caller, i64)>;

/// What other members said.
pub enum FromPeer {
    /// A message of raft.
    Raft(NodeId, Message),
    /// A proposal for the leader.
    Proposal(NodeId, Bytes),
    /// Keep-alives for the leader.
    KeepAlives(NodeId, Items),
    /// What the leader says to ours: the TTL in seconds, below 0 where it can't tell.
    KeptAlive(Items),
    /// Who asks for the leader's lease clock.
    Clocks(NodeId, Items),
    /// What the leader says to ours: milliseconds, below 0 where it does not lead.
    ClockIs(Items),
    /// A proposal of ours that was not taken.
    NotTaken(Caller, Error),
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
    /// A member without a state asks for one.
    Mend(NodeId, MendRequest),
    /// It was sent its state, or it was not.
    Mended(NodeId),
    /// What another member's state adds up to.
    Sum(NodeId, Sum),
    /// What the leader says of a member's state.
    Verdict(NodeId, Verdict),
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
    known: RefCell<Known>,
    /// It is not on disk yet. Only the task that receives writes it.
    is_known_news: Cell<bool>,
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
        inbox: Rc<Inbox>,
    ) -> Result<Rc<Links>, GroupError> {
        let shared = &shard.shared;
        let mut known = Known::load(&shared.config.data_dir)?;
        let peers = transport(shared, incarnation, &members, &known, kinds).await?;
        let is_news = known.follow(shared.identity.member_id, &members, false);
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
            known: RefCell::new(known),
            is_known_news: Cell::new(is_news),
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
        if self.known.borrow_mut().follow(self.own_id, &members, true) {
            self.is_known_news.set(true);
        }
        match membership(&members, &self.known.borrow()) {
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

    /// Says something about an image to its sender.
    pub fn send_word(&self, to: NodeId, word: &Word) {
        note(to, self.peers.send_control(to.0, channel(IMAGE_WORD), word.encode()));
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

    /// Sends a proposal to the leader. False: it did not go, and nothing will come of it.
    pub fn forward(&self, forward: Forward) -> bool {
        note(forward.leader, self.peers.send_log(forward.leader.0, channel(PROPOSAL), forward.payload))
    }

    /// Tells a member that its proposal was not taken.
    pub fn not_taken(&self, to: NodeId, caller: Caller, error: &Error) {
        self.send_error(to, NOT_TAKEN, caller, Some(error));
    }

    /// Asks the leader to keep leases alive. False: not all of it went.
    pub fn keep_alive(&self, leader: NodeId, items: &[(Caller, i64)]) -> bool {
        self.send_items(leader, KEEP_ALIVE, items)
    }

    /// Answers keep-alives of another member; below 0: this one can't tell.
    pub fn kept_alive(&self, to: NodeId, items: &[(Caller, i64)]) {
        self.send_items(to, KEPT_ALIVE, items);
    }

    /// Asks for the leader's lease clock. False: not all of it went.
    pub fn ask_clock(&self, leader: NodeId, items: &[(Caller, i64)]) -> bool {
        self.send_items(leader, CLOCK, items)
    }

    /// Tells this leader's lease clock; below 0: it does not lead.
    pub fn tell_clock(&self, to: NodeId, items: &[(Caller, i64)]) {
        self.send_items(to, CLOCK_IS, items);
    }

    /// Asks the leader to change the members. False: it did not go.
    pub fn change(&self, leader: NodeId, caller: Caller, change: &MemberChange) -> bool {
        let change = change.encode();
        let mut bytes = caller_bytes(caller, change.len());
        bytes.put_slice(&change);
        note(leader, self.peers.send_control(leader.0, channel(CHANGE), bytes.freeze()))
    }

    /// Answers a change of another member.
    pub fn changed(&self, to: NodeId, caller: Caller, outcome: &Result<(), Error>) {
        self.send_error(to, CHANGED, caller, outcome.as_ref().err());
    }

    /// Tells the leader what this member's state adds up to.
    pub fn sum(&self, leader: NodeId, sum: &Sum) {
        let bytes = Bytes::copy_from_slice(&sum.encode());
        note(leader, self.peers.send_control(leader.0, channel(SUM), bytes));
    }

    /// Tells all members which one differs.
    pub fn verdict(&self, verdict: &Verdict) {
        for member in self.members.borrow().iter().filter(|member| member.id != self.own_id) {
            let bytes = Bytes::copy_from_slice(&verdict.encode());
            note(NodeId(member.id), self.peers.send_control(member.id, channel(VERDICT), bytes));
        }
    }

    /// Tells a member why it is not sent the state that it asked for.
    pub fn refuse_mend(&self, to: NodeId, refusal: MendRefusal) {
        note(to, self.peers.send_control(to.0, channel(MEND_REFUSED), refusal.encode()));
    }

    fn send_error(&self, to: NodeId, kind: u64, caller: Caller, error: Option<&Error>) {
        let code = error.map_or(0, |error| {
            LEADER_ERRORS.iter().position(|known| known == error).map_or(u8::MAX, |at| at as u8 + 1)
        });
        let mut bytes = caller_bytes(caller, 1);
        bytes.put_u8(code);
        note(to, self.peers.send_control(to.0, channel(kind), bytes.freeze()));
    }

    fn send_items(&self, to: NodeId, kind: u64, items: &[(Caller, i64)]) -> bool {
        items.chunks(ITEMS_MAX).all(|items| {
            let mut bytes = BytesMut::with_capacity(items.len() * ITEM_BYTES);
            for (caller, number) in items {
                put_caller(&mut bytes, *caller);
                bytes.put_i64_le(*number);
            }
            note(to, self.peers.send_control(to.0, channel(kind), bytes.freeze()))
        })
    }
}

/// What a leader may answer, by its number less one. The numbers are on the wire: new ones go to the end.
const LEADER_ERRORS: [Error; 13] = [
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
    Error::NotCapable,
];

pub(super) fn channel(kind: u64) -> u64 {
    kind << CHANNEL_SHIFT | u64::from(GROUP)
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

/// On disk when this returns, or the log says why not: then a process of another member that went back in time is refused
/// by those only that have heard the later one in this life.
pub(super) async fn remember(known: &RefCell<Known>) {
    let file = known.borrow().encode();
    if let Err(error) = glommio::executor().spawn_blocking(move || known::save(&file)).await {
        tracing::error!(error = %error, "the processes of other members can't be remembered");
    }
}

fn caller_bytes(caller: Caller, more: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(CALLER_BYTES + more);
    put_caller(&mut bytes, caller);
    bytes
}

fn put_caller(bytes: &mut BytesMut, caller: Caller) {
    bytes.put_u32_le(caller.shard);
    bytes.put_u64_le(caller.request_id);
}

fn caller(bytes: &mut Bytes) -> Caller {
    Caller { shard: bytes.get_u32_le(), request_id: bytes.get_u64_le() }
}

/// True if it is on its way.
fn note(to: NodeId, sent: Result<(), PeerError>) -> bool {
    let is_sent = sent.is_ok();
    if let Err(error) = sent {
        tracing::debug!(to = format!("{:x}", to.0), error = %error, "a message to a member was not sent");
    }
    is_sent
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
    let log = u32::try_from(wire_limits(max_request_bytes).message_bytes_max).unwrap_or(u32::MAX);
    PeerLimits { log_frame_bytes_max: usual.log_frame_bytes_max.max(log), ..usual }
}

fn wire_limits(max_request_bytes: usize) -> wire::Limits {
    wire::Limits::new(APPEND_BYTES_MAX, max_request_bytes + PROPOSAL_OVERHEAD_BYTES, 4096)
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
            PeerEvent::Control { member, group, bytes } if group == channel(IMAGE_WORD) => {
                match Word::decode(bytes) {
                    Some(word) => drop(links.words.borrow_mut().insert(NodeId(member), word)),
                    None => tracing::warn!(
                        member = format!("{member:x}"),
                        "what a member sent is dropped: a word about an image that does not decode"
                    ),
                }
                None
            }
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
                let (shard, links, inbox) = (Rc::clone(&shard), Rc::clone(&links), Rc::clone(&inbox));
                let arrivals = Rc::clone(&arrivals);
                glommio::spawn_local(images::receive(shard, links, inbox, member, stream, arrivals)).detach();
                None
            }
            PeerEvent::Connected { member, incarnation, process, .. } => {
                if links.known.borrow_mut().heard(member, incarnation, process) {
                    links.is_known_news.set(true);
                }
                None
            }
            // The transport has said it in the log.
            PeerEvent::Finding { .. } => None,
        };
        if links.is_known_news.take() {
            // Before any frame of a process that has just connected is looked at.
            remember(&links.known).await;
        }
        let Some(said) = said else { continue };
        inbox.hear(said);
        while inbox.unheard() >= WAITING_MAX {
            sleep(FULL_PAUSE).await;
        }
    }
}

/// As many as a frame holds; none where one is cut short.
fn items(mut bytes: Bytes) -> Option<Items> {
    let mut items = Vec::with_capacity(bytes.len() / ITEM_BYTES);
    while bytes.len() >= ITEM_BYTES {
        items.push((caller(&mut bytes), bytes.get_i64_le()));
    }
    bytes.is_empty().then_some(items)
}

fn outcome(code: u8) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        code => Err(LEADER_ERRORS.get(usize::from(code) - 1).cloned().unwrap_or(Error::Unhealthy)),
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
        PROPOSAL => return Some(FromPeer::Proposal(from, bytes)),
        KEEP_ALIVE | KEPT_ALIVE | CLOCK | CLOCK_IS => {
            let Some(items) = items(bytes) else { return refuse(&"a list of requests that is cut short") };
            return Some(match channel {
                KEEP_ALIVE => FromPeer::KeepAlives(from, items),
                KEPT_ALIVE => FromPeer::KeptAlive(items),
                CLOCK => FromPeer::Clocks(from, items),
                _ => FromPeer::ClockIs(items),
            });
        }
        MEND => match MendRequest::decode(&bytes) {
            Some(request) => return Some(FromPeer::Mend(from, request)),
            None => return refuse(&"a request for the state that does not decode"),
        },
        SUM => match Sum::decode(&bytes) {
            Some(sum) => return Some(FromPeer::Sum(from, sum)),
            None => return refuse(&"a sum of its state that does not decode"),
        },
        VERDICT => match Verdict::decode(&bytes) {
            Some(verdict) => return Some(FromPeer::Verdict(from, verdict)),
            None => return refuse(&"what it says of a member's state does not decode"),
        },
        // To a request of a former process.
        MEND_REFUSED => return None,
        _ => {}
    }
    if bytes.len() < CALLER_BYTES {
        return refuse(&"it ends before it says whose request it is");
    }
    let mut rest = bytes;
    let caller = caller(&mut rest);
    match (channel, rest.len()) {
        (CHANGED, 1) => Some(FromPeer::Changed(caller, outcome(rest.get_u8()))),
        (NOT_TAKEN, 1) => match outcome(rest.get_u8()) {
            Err(error) => Some(FromPeer::NotTaken(caller, error)),
            Ok(()) => refuse(&"a refusal without a reason"),
        },
        (CHANGE, _) => match MemberChange::decode(&rest) {
            Some(change) => Some(FromPeer::Change(from, caller, change)),
            None => refuse(&"a change of the members that does not decode"),
        },
        _ => refuse(&"a request of another form or kind than this version knows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_says_reads_back() {
        let limits = wire_limits(1 << 20);
        let said = |kind, bytes: &[u8]| decode(7, channel(kind), Bytes::copy_from_slice(bytes), &limits);
        let asked = Caller { shard: 3, request_id: 1 << 40 };
        let mut list = BytesMut::new();
        for number in [-1, 60] {
            put_caller(&mut list, asked);
            list.put_i64_le(number);
        }
        let wanted = vec![(asked, -1), (asked, 60)];
        assert!(matches!(said(KEPT_ALIVE, &list), Some(FromPeer::KeptAlive(items)) if items == wanted));
        assert!(matches!(said(CLOCK, &list), Some(FromPeer::Clocks(NodeId(7), items)) if items == wanted));
        assert!(said(KEEP_ALIVE, &list[..ITEM_BYTES + 1]).is_none(), "cut short");
        for (code, error) in (1..).zip(LEADER_ERRORS) {
            let mut bytes = caller_bytes(asked, 1);
            bytes.put_u8(code);
            assert!(
                matches!(said(NOT_TAKEN, &bytes), Some(FromPeer::NotTaken(caller, told)) if (caller, &told) == (asked, &error))
            );
            assert!(
                matches!(said(CHANGED, &bytes), Some(FromPeer::Changed(caller, Err(told))) if (caller, &told) == (asked, &error))
            );
        }
        assert!(said(NOT_TAKEN, &caller_bytes(asked, 0)).is_none() && said(99, &list).is_none());
    }
}
