use super::address::PeerAddress;
use super::close::CloseCode;
use super::error::PeerError;
use super::limits::PeerLimits;
use super::link::Link;
use super::pace::Complaints;
use super::probe::Finding;
use super::queue::{ControlQueue, LogQueue};
use super::registry::{Latest, Live};
use super::signal::Signal;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Another member, with or without a connection.
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) addresses: RefCell<Vec<PeerAddress>>,
    pub(super) control: RefCell<ControlQueue>,
    pub(super) log: RefCell<LogQueue>,
    /// Something waits in a queue. Not `changed`: with each message whoever waits there would be woken for nothing.
    pub(super) control_waits: Signal,
    pub(super) log_waits: Signal,
    /// Something of this member has changed: its link, its addresses, or that it is gone.
    pub(super) changed: Signal,
    pub(super) link: RefCell<Option<Rc<Link>>>,
    pub(super) latest: Cell<Option<Latest>>,
    /// No longer in the list.
    pub(super) gone: Cell<bool>,
    pub(super) counters: Counters,
    pub(super) last_error: RefCell<Option<Rc<PeerError>>>,
    pub(super) finding: Cell<Option<Finding>>,
    /// What the log was told of it.
    pub(super) complaints: RefCell<Complaints>,
    /// The refusal that was reported last.
    pub(super) refused: Cell<Option<CloseCode>>,
}

/// Over all connections of a member.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections: Cell<u64>,
    pub(super) dials: Cell<u64>,
    pub(super) sent_bytes: Cell<u64>,
    pub(super) received_bytes: Cell<u64>,
    pub(super) sent_failures: Cell<u64>,
    pub(super) snapshot_sent_bytes: Cell<u64>,
    pub(super) snapshot_received_bytes: Cell<u64>,
    pub(super) last_heard: Cell<Option<Instant>>,
}

pub(super) fn add(counter: &Cell<u64>, count: usize) {
    counter.set(counter.get().wrapping_add(count as u64));
}

/// How a member's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is none; it is dialled.
    Connecting,
    /// It is there.
    Connected {
        /// By us, else by the other side.
        dialled: bool,
    },
}

/// A member, for metrics and `endpoint status`.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Its id.
    pub member: u64,
    /// Connected or not.
    pub state: LinkState,
    /// Incarnation of its latest process, 0 if it was never heard.
    pub incarnation: u64,
    /// Smoothed round trip of the connection, as QUIC measures it.
    pub rtt: Option<Duration>,
    /// Since the last frame came.
    pub last_heard: Option<Duration>,
    /// Why the last dial or connection ended.
    pub last_error: Option<Rc<PeerError>>,
    /// Why it can't be reached, if that was found out.
    pub finding: Option<Finding>,
    /// Connections that were set up.
    pub connections: u64,
    /// Dials.
    pub dials: u64,
    /// Bytes of control and log frames, with their headers: `etcd_network_peer_sent_bytes_total`.
    pub sent_bytes: u64,
    /// `etcd_network_peer_received_bytes_total`.
    pub received_bytes: u64,
    /// Messages that could not be taken: not connected, or busy.
    pub sent_failures: u64,
    /// Control frames that were dropped from a full queue or with their connection.
    pub control_dropped: u64,
    /// Control frames that wait, and their bytes.
    pub control_waiting: (usize, usize),
    /// Log frames that wait, and their bytes.
    pub log_waiting: (usize, usize),
    /// Bytes of snapshots that went.
    pub snapshot_sent_bytes: u64,
    /// Bytes of snapshots that came.
    pub snapshot_received_bytes: u64,
    /// QUIC packets that were lost on this connection, and sent.
    pub packets_lost: (u64, u64),
    /// Longest datagram that the path is known to take.
    pub path_bytes_max: Option<u16>,
}

impl Member {
    pub(super) fn new(id: u64, limits: &PeerLimits, latest: Option<Latest>) -> Rc<Member> {
        Rc::new(Member {
            id,
            addresses: RefCell::default(),
            control: RefCell::new(ControlQueue::new(limits.control_queue_frames_max, limits.control_queue_bytes_max)),
            log: RefCell::new(LogQueue::new(limits.log_queue_frames_max, limits.log_queue_bytes_max)),
            control_waits: Signal::default(),
            log_waits: Signal::default(),
            changed: Signal::default(),
            link: RefCell::default(),
            latest: Cell::new(latest),
            gone: Cell::new(false),
            counters: Counters::default(),
            last_error: RefCell::default(),
            finding: Cell::default(),
            complaints: RefCell::default(),
            refused: Cell::default(),
        })
    }

    pub(super) fn live(&self) -> Option<Live> {
        self.link.borrow().as_ref().map(|link| link.live)
    }

    pub(super) fn linked(&self) -> Option<Rc<Link>> {
        self.link.borrow().clone()
    }

    pub(super) fn status(&self) -> PeerStatus {
        let link = self.linked();
        let quic = link.as_ref().map(|link| link.connection.stats());
        let count = &self.counters;
        PeerStatus {
            member: self.id,
            state: link
                .as_ref()
                .map_or(LinkState::Connecting, |link| LinkState::Connected { dialled: link.live.dialled }),
            incarnation: self.latest.get().map_or(0, |latest| latest.incarnation),
            rtt: link.as_ref().map(|link| link.connection.rtt()),
            last_heard: count.last_heard.get().map(|at| at.elapsed()),
            last_error: self.last_error.borrow().clone(),
            finding: self.finding.get(),
            connections: count.connections.get(),
            dials: count.dials.get(),
            sent_bytes: count.sent_bytes.get(),
            received_bytes: count.received_bytes.get(),
            sent_failures: count.sent_failures.get(),
            control_dropped: self.control.borrow().dropped(),
            control_waiting: self.control.borrow().waiting(),
            log_waiting: self.log.borrow().waiting(),
            snapshot_sent_bytes: count.snapshot_sent_bytes.get(),
            snapshot_received_bytes: count.snapshot_received_bytes.get(),
            packets_lost: quic.map_or((0, 0), |stats| (stats.path.lost_packets, stats.path.sent_packets)),
            path_bytes_max: quic.map(|stats| stats.path.current_mtu),
        }
    }
}
