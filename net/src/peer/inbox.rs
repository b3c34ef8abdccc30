use super::close::CloseCode;
use super::error::PeerError;
use super::limits::PeerLimits;
use super::probe::Finding;
use super::signal::Signal;
use super::snapshot::SnapshotReceiver;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// What comes from other members.
#[derive(Debug)]
pub enum PeerEvent {
    /// A member is there, by a connection whose hello was good.
    Connected {
        /// Who.
        member: u64,
        /// Its incarnation: remember it and its process durably, before any of its frames is taken, and hand them to the next
        /// [`super::Peers`].
        incarnation: u64,
        /// Its process.
        process: u64,
        /// It and we understand each other's snapshots.
        snapshots: bool,
    },
    /// It is gone; frames on the way are lost.
    Disconnected {
        /// Who.
        member: u64,
        /// Why.
        reason: Rc<PeerError>,
    },
    /// A frame of the control stream.
    Control {
        /// From whom.
        member: u64,
        /// Of which group.
        group: u64,
        /// As it was sent; may be anything that a member sends.
        bytes: Bytes,
    },
    /// A frame of the log stream, in its order.
    Log {
        /// From whom.
        member: u64,
        /// Of which group.
        group: u64,
        /// As it was sent; may be anything that a member sends.
        bytes: Bytes,
    },
    /// A member offers a snapshot. Dropping the stream refuses it.
    Snapshot {
        /// From whom.
        member: u64,
        /// Takes it.
        stream: SnapshotReceiver,
    },
    /// A member refuses us in a way that dialling again doesn't mend; said once until it changes. After
    /// [`CloseCode::RemovedMember`] and [`CloseCode::Incarnation`] this process should stop.
    Refused {
        /// By whom.
        member: u64,
        /// Why, for the machine.
        code: CloseCode,
        /// Why, for people: names both sides and the remedy.
        text: String,
    },
    /// Why a member can't be reached, as far as could be found out; said once until it changes.
    Finding {
        /// Whom.
        member: u64,
        /// What.
        finding: Finding,
    },
}

/// Events that wait for the group. What is small and urgent doesn't wait behind entries; a full lane makes its streams wait,
/// and QUIC makes their senders wait.
pub(super) struct Inbox {
    control: RefCell<VecDeque<PeerEvent>>,
    log: RefCell<VecDeque<PeerEvent>>,
    log_bytes: Cell<usize>,
    control_max: usize,
    log_max: usize,
    log_bytes_max: usize,
    arrived: Signal,
    room: Signal,
    closed: Cell<bool>,
}

impl Inbox {
    pub(super) fn new(limits: &PeerLimits) -> Self {
        Inbox {
            control: RefCell::default(),
            log: RefCell::default(),
            log_bytes: Cell::new(0),
            control_max: limits.inbox_control_events_max.max(1),
            log_max: limits.inbox_log_frames_max.max(1),
            log_bytes_max: limits.inbox_log_bytes_max,
            arrived: Signal::default(),
            room: Signal::default(),
            closed: Cell::new(false),
        }
    }

    /// Adds an event, once there is room for it. After [`Inbox::close`] it is dropped.
    pub(super) async fn push(&self, event: PeerEvent) {
        if let PeerEvent::Log { bytes, .. } = &event {
            let length = bytes.len();
            let fits = || {
                let (count, held) = (self.log.borrow().len(), self.log_bytes.get());
                let room = count == 0 || (count < self.log_max && held + length <= self.log_bytes_max);
                (room || self.closed.get()).then_some(())
            };
            self.room.wait(fits).await;
            self.log_bytes.set(self.log_bytes.get() + length);
            self.log.borrow_mut().push_back(event);
        } else {
            let fits = || (self.control.borrow().len() < self.control_max || self.closed.get()).then_some(());
            self.room.wait(fits).await;
            self.control.borrow_mut().push_back(event);
        }
        if self.closed.get() {
            self.clear();
        }
        self.arrived.notify();
    }

    /// The next event; None after [`Inbox::close`].
    pub(super) async fn next(&self) -> Option<PeerEvent> {
        self.arrived.wait(|| if self.closed.get() { Some(None) } else { self.try_next().map(Some) }).await
    }

    pub(super) fn try_next(&self) -> Option<PeerEvent> {
        let event = self.control.borrow_mut().pop_front().or_else(|| self.log.borrow_mut().pop_front())?;
        if let PeerEvent::Log { bytes, .. } = &event {
            self.log_bytes.set(self.log_bytes.get() - bytes.len());
        }
        self.room.notify();
        Some(event)
    }

    pub(super) fn close(&self) {
        self.closed.set(true);
        self.clear();
        self.arrived.notify();
        self.room.notify();
    }

    fn clear(&self) {
        // Dropped outside of the borrow: a snapshot's stream does things when it is.
        let dropped = (self.control.take(), self.log.take());
        self.log_bytes.set(0);
        drop(dropped);
    }
}
