//! A connection whose hello was good, from then to its end.
//!
//! ```text
//! live: its writers take from the member's queues; readers of all its streams
//!   -> replaced by another connection: writers finish their streams, readers go on for LINGER, then it is closed
//!   -> ended by the network, the other side or a protocol error: the member has no link, its queues are emptied
//! ```
//!
//! Queues belong to the member, not to the link: what was not yet written goes by the connection that took over.

use super::close::CloseCode;
use super::error::PeerError;
use super::frame::{Grant, WireError};
use super::hello::{HELLO_BYTES, Hello};
use super::inbox::PeerEvent;
use super::member::{Member, add};
use super::peers::Shared;
use super::registry::{Latest, Live};
use super::signal::Signal;
use super::{snapshot, streams};
use crate::runtime::LocalBoxFuture;
use quinn::{Connection, RecvStream, SendStream};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How long a replaced connection is still read: the other side has switched within a round trip.
const LINGER: Duration = Duration::from_millis(500);

pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) live: Live,
    /// Both sides understand each other's snapshots.
    pub(super) snapshots: bool,
    /// Writers stop.
    pub(super) ended: Cell<bool>,
    /// Why we ended it, if we did.
    failed: RefCell<Option<PeerError>>,
    /// Grants for snapshots that come by this link, by serial, not yet sent.
    pub(super) grants: RefCell<BTreeMap<u64, Grant>>,
    /// Snapshots that go by this link, by serial.
    pub(super) sending: RefCell<BTreeMap<u64, Weak<snapshot::Credit>>>,
    pub(super) serial: Cell<u64>,
    pub(super) receiving: Cell<usize>,
    pub(super) has_log: Cell<bool>,
    /// Something of the link has changed.
    pub(super) changed: Signal,
}

impl Link {
    fn new(connection: Connection, live: Live, snapshots: bool) -> Rc<Link> {
        Rc::new(Link {
            connection,
            live,
            snapshots,
            ended: Cell::new(false),
            failed: RefCell::default(),
            grants: RefCell::default(),
            sending: RefCell::default(),
            serial: Cell::new(0),
            receiving: Cell::new(0),
            has_log: Cell::new(false),
            changed: Signal::default(),
        })
    }

    /// Closes the connection because of something that this side does not take.
    pub(super) fn fail(&self, code: CloseCode, text: &str, error: PeerError) {
        self.failed.borrow_mut().get_or_insert(error);
        close(&self.connection, code, text);
    }

    /// Closes it because its bytes are none of the protocol's.
    pub(super) fn fail_wire(&self, shared: &Shared, member: u64, error: WireError) {
        let text = format!(
            "member {:x} closes the connection of member {member:x}: {error}; both must run releases of one protocol version",
            shared.identity.member_id
        );
        self.fail(error.close_code(), &text, PeerError::Wire(error));
    }
}

pub(super) fn close(connection: &Connection, code: CloseCode, text: &str) {
    connection.close((code as u32).into(), text.as_bytes());
}

/// Closes it once the other side has heard what is on the way.
pub(super) fn close_later(connection: Connection, code: CloseCode, text: String) {
    glommio::spawn_local(async move {
        glommio::timer::sleep(LINGER).await;
        close(&connection, code, &text);
    })
    .detach();
}

/// What two hellos have led to.
pub(super) struct Terms {
    /// By us.
    pub(super) dialled: bool,
    /// Both sides understand each other's snapshots.
    pub(super) snapshots: bool,
    /// What the connection before it is told, if there is one.
    pub(super) replaces: CloseCode,
    /// Bytes that go before the first frame: our hello, if the other side dialled.
    pub(super) first: Option<[u8; HELLO_BYTES]>,
}

/// Makes a connection the live one of its member and starts its tasks. The control stream carries both ways.
pub(super) fn install(
    shared: &Rc<Shared>,
    member: &Rc<Member>,
    connection: Connection,
    hello: &Hello,
    terms: Terms,
    (control_out, control_in): (SendStream, RecvStream),
) {
    let Terms { dialled, snapshots, replaces, first } = terms;
    let live = Live { dialled, process: hello.process, sequence: hello.sequence };
    let link = Link::new(connection, live, snapshots);
    member.latest.set(Some(Latest { incarnation: hello.incarnation, process: Some(hello.process) }));
    add(&member.counters.connections, 1);
    member.counters.last_heard.set(Some(std::time::Instant::now()));
    member.finding.set(None);
    member.refused.set(None);
    let before = member.link.replace(Some(Rc::clone(&link)));
    let replaced = before.as_ref().map(|before| before.live.process != live.process);
    if let Some(before) = before {
        retire(shared, member, before, replaces);
    }
    tracing::info!(
        member = %format_args!("{:x}", member.id),
        address = %link.connection.remote_address(),
        dialled,
        incarnation = hello.incarnation,
        "peer connected"
    );
    let id = member.id;
    let Hello { incarnation, process, .. } = *hello;
    let connected = PeerEvent::Connected { member: id, incarnation, process, snapshots };
    let lost = || PeerEvent::Disconnected { member: id, reason: Rc::new(PeerError::Closed(CloseCode::Superseded)) };
    let events = match replaced {
        None => vec![connected],
        Some(true) => vec![lost(), connected],
        Some(false) => vec![],
    };
    glommio::spawn_local(run(Rc::clone(shared), Rc::clone(member), link, (first, control_out, control_in), events))
        .detach();
    member.changed.notify();
}

async fn run(
    shared: Rc<Shared>,
    member: Rc<Member>,
    link: Rc<Link>,
    (first, control_out, control_in): (Option<[u8; HELLO_BYTES]>, SendStream, RecvStream),
    events: Vec<PeerEvent>,
) {
    // The answer to a hello doesn't wait for the group.
    let writer = streams::write_control(member.clone(), link.clone(), first, control_out);
    glommio::spawn_local(writer).detach();
    for event in events {
        // Before any frame of this connection.
        shared.inbox.push(event).await;
    }
    let spawn = |task| glommio::spawn_local(task).detach();
    let (read, streams) =
        ((shared.clone(), member.clone(), link.clone()), (shared.clone(), member.clone(), link.clone()));
    spawn(Box::pin(streams::write_log(member.clone(), link.clone())) as LocalBoxFuture<'_, ()>);
    spawn(Box::pin(streams::read_control(read.0, read.1, read.2, control_in)));
    spawn(Box::pin(streams::accept_streams(streams.0, streams.1, streams.2)));
    let error = link.connection.closed().await;
    ended(&shared, &member, &link, error).await;
}

/// A connection that we dialled and that lost against another one before it was installed: the other side may have written
/// to it already. It is read until it is closed, and never written.
pub(super) fn linger(
    shared: &Rc<Shared>,
    member: &Rc<Member>,
    connection: Connection,
    hello: &Hello,
    (mut control_out, control_in): (SendStream, RecvStream),
) {
    let live = Live { dialled: true, process: hello.process, sequence: hello.sequence };
    let link = Link::new(connection, live, false);
    link.ended.set(true);
    let _ = control_out.finish();
    let text = format!("member {:x} and member {:x} keep their other connection", shared.identity.member_id, member.id);
    close_later(link.connection.clone(), CloseCode::Tie, text);
    let readers = ((shared.clone(), member.clone(), link.clone()), (shared.clone(), member.clone(), link));
    glommio::spawn_local(streams::read_control(readers.0.0, readers.0.1, readers.0.2, control_in)).detach();
    glommio::spawn_local(streams::accept_streams(readers.1.0, readers.1.1, readers.1.2)).detach();
}

/// The connection has closed.
async fn ended(shared: &Rc<Shared>, member: &Rc<Member>, link: &Rc<Link>, error: quinn::ConnectionError) {
    link.ended.set(true);
    link.changed.notify();
    let sending = link.sending.take();
    sending.values().filter_map(Weak::upgrade).for_each(|credit| credit.changed.notify());
    let was_live = member.link.borrow().as_ref().is_some_and(|live| Rc::ptr_eq(live, link));
    if !was_live {
        return;
    }
    let ours = link.failed.take();
    let reason = Rc::new(ours.unwrap_or_else(|| PeerError::of_connection(error, link.connection.remote_address())));
    member.link.replace(None);
    member.control.borrow_mut().clear();
    member.log.borrow_mut().clear();
    member.last_error.replace(Some(Rc::clone(&reason)));
    member.changed.notify();
    tracing::warn!(member = %format_args!("{:x}", member.id), %reason, "peer disconnected");
    super::dial::report_refusal(shared, member, &reason).await;
    shared.inbox.push(PeerEvent::Disconnected { member: member.id, reason }).await;
}

/// Another connection has taken over.
fn retire(shared: &Rc<Shared>, member: &Member, link: Rc<Link>, why: CloseCode) {
    link.ended.set(true);
    link.changed.notify();
    let (ours, theirs) = (shared.identity.member_id, member.id);
    let text = match why {
        CloseCode::Superseded => format!(
            "member {ours:x} has a connection of a later process of member {theirs:x}; if this process still runs, two \
             processes run as member {theirs:x}: stop one of the two"
        ),
        _ => format!("member {ours:x} and member {theirs:x} keep their other connection"),
    };
    if why == CloseCode::Tie {
        close_later(link.connection.clone(), why, text);
    } else {
        close(&link.connection, why, &text);
    }
}
