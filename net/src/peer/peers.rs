use super::address::PeerAddress;
use super::close::CloseCode;
use super::error::PeerError;
use super::frame::{Frame, FrameKind, StreamKind};
use super::hello::{Features, Identity, Refusal};
use super::inbox::{Inbox, PeerEvent};
use super::limits::PeerLimits;
use super::member::{Member, PeerStatus, add};
use super::pace::{Complaints, Throttle};
use super::registry::Latest;
use super::signal::Signal;
use super::snapshot::{self, SnapshotOffer, SnapshotSource};
use super::socket::{self, QuicRuntime, QuicSocket, within};
use super::tls::PeerTls;
use super::{accept, dial, lifeline};
use crate::nap::Nap;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a shutdown waits for its closes to be heard.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);

/// What a member's transport is made of.
pub struct PeerConfig {
    /// Who this process is.
    pub identity: Identity,
    /// UDP address; its port is also the source of all dials.
    pub listen: SocketAddr,
    /// Certificates.
    pub tls: PeerTls,
    /// Bounds.
    pub limits: PeerLimits,
    /// Random numbers, for the jitter of waits.
    pub random: Box<dyn FnMut() -> u64>,
    /// The executor's naps, in which the port is watched; None: it has none.
    pub nap: Option<Rc<Nap>>,
}

/// Who belongs to the cluster.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    /// The other members, or all of them: this one's own entry is skipped.
    pub members: Vec<MemberSpec>,
    /// Ids that have been removed: they are told so.
    pub removed: Vec<u64>,
}

/// Another member, as the cluster's configuration knows it.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// Its id.
    pub id: u64,
    /// Where it is, from its peer URLs; tried in turn. None: it is waited for.
    pub addresses: Vec<PeerAddress>,
    /// Its latest process that was heard, before this one started.
    pub latest: Option<Latest>,
}

/// What all tasks of the transport share.
pub(super) struct Shared {
    /// Its features are those of the start.
    pub(super) identity: Identity,
    /// What this process uses by now.
    features: Cell<Features>,
    pub(super) checks_addresses: bool,
    /// What the log was told of others that dial.
    pub(super) complaints: RefCell<Complaints>,
    pub(super) limits: PeerLimits,
    pub(super) client_config: quinn::ClientConfig,
    pub(super) endpoint: quinn::Endpoint,
    pub(super) local: SocketAddr,
    pub(super) members: RefCell<BTreeMap<u64, Rc<Member>>>,
    pub(super) removed: RefCell<BTreeSet<u64>>,
    pub(super) inbox: Inbox,
    pub(super) random: RefCell<Box<dyn FnMut() -> u64>>,
    /// Of the last hello.
    pub(super) sequence: Cell<u64>,
    /// Handshakes under way that others have begun.
    pub(super) handshakes: Cell<usize>,
    pub(super) refusals: Cell<u64>,
    pub(super) last_refusal: RefCell<Option<Refusal>>,
    pub(super) throttle: RefCell<Throttle>,
    pub(super) epoch: Instant,
    pub(super) closed: Cell<bool>,
    pub(super) closing: Signal,
}

impl Shared {
    /// Who this process is, with the features that it uses now.
    pub(super) fn says(&self) -> Identity {
        Identity { features: self.features.get(), ..self.identity }
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence.set(self.sequence.get() + 1);
        self.sequence.get()
    }
}

/// The transport between members, of one executor. It works by tasks of that executor; dropping it without
/// [`Peers::shutdown`] lets the other members find out by themselves.
pub struct Peers {
    shared: Rc<Shared>,
}

impl Peers {
    /// Binds the port, and dials the members.
    ///
    /// # Errors
    /// If the kernel or the port isn't fit for it.
    pub async fn new(config: PeerConfig, membership: &Membership) -> Result<Peers, PeerError> {
        let PeerConfig { identity, listen, tls, limits, random, nap } = config;
        socket::self_test().await?;
        let udp = socket::bind(listen, &limits).await?;
        let mut endpoint_config = quinn::EndpointConfig::default();
        // It sizes the receive buffer, too: times 64 segments times 32 datagrams.
        let payload_max = limits.datagram_bytes_max.clamp(1472, super::limits::DATAGRAM_BYTES_LIMIT);
        endpoint_config.max_udp_payload_size(payload_max).expect("between 1200 and 65527");
        let server_config = Some(tls.server_config(&limits));
        let socket = Arc::new(QuicSocket::new(udp, nap.as_ref()).map_err(PeerError::Socket)?);
        let runtime = Arc::new(QuicRuntime);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint_config, server_config, socket, runtime);
        let endpoint = endpoint.map_err(PeerError::Socket)?;
        let shared = Rc::new(Shared {
            identity,
            features: Cell::new(identity.features),
            checks_addresses: tls.checks_addresses(),
            complaints: RefCell::default(),
            client_config: tls.client_config(&limits),
            local: endpoint.local_addr().map_err(PeerError::Socket)?,
            endpoint,
            members: RefCell::default(),
            removed: RefCell::default(),
            inbox: Inbox::new(&limits),
            random: RefCell::new(random),
            sequence: Cell::new(0),
            handshakes: Cell::new(0),
            refusals: Cell::new(0),
            last_refusal: RefCell::default(),
            throttle: RefCell::new(Throttle::new(limits.snapshot_bytes_per_second_max)),
            epoch: Instant::now(),
            closed: Cell::new(false),
            closing: Signal::default(),
            limits,
        });
        let peers = Peers { shared };
        peers.set_members(membership);
        glommio::spawn_local(accept::run(Rc::clone(&peers.shared))).detach();
        Ok(peers)
    }

    /// The UDP address in use.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.shared.local
    }

    /// What this process uses from now on, in the hellos to come. Connections that there are stay.
    pub fn set_features(&self, features: Features) {
        self.shared.features.set(features);
    }

    /// Replaces the list of members: new ones are dialled, those that are no longer in it are closed.
    pub fn set_members(&self, membership: &Membership) {
        let shared = &self.shared;
        if shared.closed.get() {
            return;
        }
        *shared.removed.borrow_mut() = membership.removed.iter().copied().collect();
        let others = || membership.members.iter().filter(|spec| spec.id != shared.identity.member_id);
        let kept: BTreeSet<u64> = others().map(|spec| spec.id).collect();
        let mut members = shared.members.borrow_mut();
        let before = std::mem::take(&mut *members);
        for (id, member) in before {
            if kept.contains(&id) {
                members.insert(id, member);
            } else {
                drop_member(shared, &member);
            }
        }
        for spec in others() {
            let is_new = !members.contains_key(&spec.id);
            let new = || Member::new(spec.id, &shared.limits, spec.latest);
            let member = members.entry(spec.id).or_insert_with(new);
            member.addresses.borrow_mut().clone_from(&spec.addresses);
            member.changed.notify();
            if is_new {
                glommio::spawn_local(dial::keep_dialling(Rc::clone(shared), Rc::clone(member))).detach();
                glommio::spawn_local(lifeline::hold(Rc::clone(shared), Rc::clone(member))).detach();
            }
        }
    }

    /// Sends a message that nothing replaces: a vote, an answer. Never waits; when the queue is full, heartbeats go first.
    ///
    /// # Errors
    /// If there is no such member or connection, or the message is too long.
    pub fn send_control(&self, member: u64, group: u64, bytes: Bytes) -> Result<(), PeerError> {
        self.push_control(member, Frame { kind: FrameKind::Control, group, payload: bytes })
    }

    /// Sends a message that a later one of the same group replaces.
    ///
    /// # Errors
    /// As [`Peers::send_control`].
    pub fn send_heartbeat(&self, member: u64, group: u64, bytes: Bytes) -> Result<(), PeerError> {
        self.push_control(member, Frame { kind: FrameKind::Heartbeat, group, payload: bytes })
    }

    fn push_control(&self, id: u64, frame: Frame) -> Result<(), PeerError> {
        let member = self.checked(id, &frame, StreamKind::Control)?;
        member.control.borrow_mut().push(frame);
        member.control_waits.notify();
        Ok(())
    }

    /// Sends a message with entries, behind those before it.
    ///
    /// # Errors
    /// [`PeerError::Busy`] if too much waits already; else as [`Peers::send_control`].
    pub fn send_log(&self, member: u64, group: u64, bytes: Bytes) -> Result<(), PeerError> {
        let frame = Frame { kind: FrameKind::Log, group, payload: bytes };
        let of = self.checked(member, &frame, StreamKind::Log)?;
        let pushed = of.log.borrow_mut().push(frame);
        if pushed.is_err() {
            add(&of.counters.sent_failures, 1);
            return Err(PeerError::Busy(member));
        }
        of.log_waits.notify();
        Ok(())
    }

    fn checked(&self, id: u64, frame: &Frame, stream: StreamKind) -> Result<Rc<Member>, PeerError> {
        let member = self.member(id)?;
        let limit = stream.bytes_max(&self.shared.limits);
        let error = if frame.payload.len() > limit as usize {
            PeerError::TooLarge { bytes: frame.payload.len(), limit }
        } else if member.link.borrow().is_none() {
            PeerError::NotConnected(id)
        } else {
            return Ok(member);
        };
        add(&member.counters.sent_failures, 1);
        Err(error)
    }

    fn member(&self, id: u64) -> Result<Rc<Member>, PeerError> {
        if self.shared.closed.get() {
            return Err(PeerError::ShutDown);
        }
        self.shared.members.borrow().get(&id).cloned().ok_or(PeerError::UnknownMember(id))
    }

    /// Sends a snapshot, and returns the offset from which on it was wanted, once its receiver has taken and checked all of
    /// it. After an error the same offer can be made again; the receiver says from where. Dropping the future gives it up.
    ///
    /// # Errors
    /// If the connection, the receiver or the source ends it.
    pub async fn send_snapshot(
        &self,
        member: u64,
        offer: &SnapshotOffer,
        source: &mut dyn SnapshotSource,
    ) -> Result<u64, PeerError> {
        let member = self.member(member)?;
        snapshot::send(&self.shared, &member, offer, source).await
    }

    /// Bytes a second of all snapshots that are sent, from now on; 0: as many as go.
    pub fn set_snapshot_rate(&self, bytes_per_second_max: u64) {
        self.shared.throttle.borrow_mut().set(bytes_per_second_max);
    }

    /// The next event; None once it is shut down. Events of the control stream come before those of the log streams.
    pub async fn next_event(&self) -> Option<PeerEvent> {
        self.shared.inbox.next().await
    }

    /// The next event, if one is there.
    pub fn try_next_event(&self) -> Option<PeerEvent> {
        self.shared.inbox.try_next()
    }

    /// Each member, in the order of their ids.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.members.borrow().values().map(|member| member.status()).collect()
    }

    /// Connections of others that were refused, and why the last one was.
    #[must_use]
    pub fn refusals(&self) -> (u64, Option<Refusal>) {
        (self.shared.refusals.get(), self.shared.last_refusal.borrow().clone())
    }

    /// Closes all connections, tells the other sides, and ends all tasks. The port is free some milliseconds after this
    /// value and what came from it (streams of snapshots) are dropped.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        shared.closed.set(true);
        shared.closing.notify();
        let text = format!("member {:x} is being shut down", shared.identity.member_id);
        shared.endpoint.close((CloseCode::Shutdown as u32).into(), text.as_bytes());
        let members = shared.members.take();
        for member in members.values() {
            member.gone.set(true);
            member.changed.notify();
        }
        shared.inbox.close();
        within(SHUTDOWN_WAIT, shared.endpoint.wait_idle()).await;
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }
}

fn drop_member(shared: &Shared, member: &Member) {
    member.gone.set(true);
    member.changed.notify();
    if let Some(link) = member.linked() {
        let (code, text) = farewell(shared, member.id);
        link.fail(code, &text, PeerError::Closed(code));
    }
}

/// What a member is told that is no longer in the list.
pub(super) fn farewell(shared: &Shared, id: u64) -> (CloseCode, String) {
    let (code, what) = if shared.removed.borrow().contains(&id) {
        (CloseCode::RemovedMember, "it has been removed from the cluster: stop it and delete its data folder")
    } else {
        (CloseCode::MemberDropped, "it is no longer in the list of members")
    };
    (code, format!("member {:x} closes the connection of member {id:x}: {what}", shared.identity.member_id))
}
