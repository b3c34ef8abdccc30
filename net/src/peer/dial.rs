//! Connections that we begin: one dial of a member at a time, while it has no connection.

use super::accept::refuse;
use super::close::CloseCode;
use super::error::PeerError;
use super::frame::WireError;
use super::hello::{HELLO_BYTES, Hello};
use super::inbox::PeerEvent;
use super::link;
use super::member::{Member, add};
use super::pace::Backoff;
use super::peers::{Shared, farewell};
use super::probe;
use super::registry::{Choice, choose};
use super::socket::within;
use quinn::{Connection, RecvStream};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A connection that lived so long was a good one: the next waits are short again.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// Dials a member whenever it has no connection, until it is no longer one.
pub(super) async fn keep_dialling(shared: Rc<Shared>, member: Rc<Member>) {
    let mut backoff = Backoff::new(shared.limits.backoff_min, shared.limits.backoff_max);
    let (mut attempt, mut timeouts) = (0usize, 0);
    loop {
        let is_over = || member.gone.get() || shared.closed.get();
        let can_dial =
            || (!member.addresses.borrow().is_empty() || member.link.borrow().is_some() || is_over()).then_some(());
        member.changed.wait(can_dial).await;
        if is_over() {
            return;
        }
        let result = if member.link.borrow().is_some() { Ok(()) } else { dial(&shared, &member, attempt).await };
        attempt += 1;
        let mut wait_at_least = Duration::ZERO;
        match result {
            Ok(()) => {
                let since = Instant::now();
                member.changed.wait(|| (member.link.borrow().is_none() || is_over()).then_some(())).await;
                if since.elapsed() >= GOOD_AFTER {
                    backoff.reset();
                    member.complaints.borrow_mut().clear();
                }
                // One that ended in silence is a dial without an answer: what is wrong is looked for sooner.
                timeouts = u32::from(member.last_error.borrow().as_ref().is_some_and(|error| error.is_silence()));
            }
            Err(PeerError::Tie) => {}
            Err(error) => {
                timeouts = if error.is_silence() { timeouts + 1 } else { 0 };
                let error = Rc::new(error);
                note(&shared, &member, &error);
                if report_refusal(&shared, &member, &error).await {
                    wait_at_least = shared.limits.backoff_max / 2;
                }
            }
        }
        if timeouts >= shared.limits.timeouts_before_probe.max(1) {
            probe::run(&shared, &member, attempt).await;
        }
        let random = (shared.random.borrow_mut())();
        let wait = backoff.next(random).max(wait_at_least);
        // The other side may be faster.
        within(wait, member.changed.wait(|| (member.link.borrow().is_some() || is_over()).then_some(()))).await;
    }
}

fn note(shared: &Shared, member: &Member, error: &Rc<PeerError>) {
    member.last_error.replace(Some(Rc::clone(error)));
    let text = error.to_string();
    if member.complaints.borrow_mut().is_due(shared.epoch.elapsed(), &text) {
        tracing::warn!(member = %format_args!("{:x}", member.id), error = text, "peer can't be dialled");
    }
}

/// Whether dialling again does not mend this. The group is told where it is the other side that refuses: what we refuse is
/// no reason for us to stop.
pub(super) async fn report_refusal(shared: &Shared, member: &Member, error: &PeerError) -> bool {
    let (code, text) = match error {
        PeerError::RefusedByPeer { code: Some(code), text } => (*code, text.clone()),
        PeerError::Refused(refusal) => return refusal.code.needs_operator(),
        _ => return false,
    };
    if !code.needs_operator() {
        return false;
    }
    if member.refused.replace(Some(code)) != Some(code) {
        shared.inbox.push(PeerEvent::Refused { member: member.id, code, text }).await;
    }
    true
}

/// One dial: its end is a link, or an error.
async fn dial(shared: &Rc<Shared>, member: &Rc<Member>, attempt: usize) -> Result<(), PeerError> {
    let timeout = shared.limits.handshake_timeout;
    let (host, address) = target(shared, member, attempt).await?;
    add(&member.counters.dials, 1);
    let connecting = shared.endpoint.connect_with(shared.client_config.clone(), address, &host);
    let connecting = connecting.map_err(|error| PeerError::Dial { address, error })?;
    let timed_out = || PeerError::HandshakeTimeout { address, seconds: timeout.as_secs() };
    let connection = within(timeout, connecting).await.ok_or_else(timed_out)?;
    let connection = connection.map_err(|error| PeerError::of_connection(error, address))?;
    let Some(greeted) = within(timeout, greet(shared, member, &connection)).await else {
        link::close(&connection, CloseCode::HandshakeTimeout, "no answer to a hello in time");
        return Err(timed_out());
    };
    greeted.map_err(|error| match error {
        GreetError::Peer(error) => error,
        // Its close says why; it has come by now or comes soon.
        GreetError::Stream => {
            connection.close_reason().map_or(PeerError::Tie, |error| PeerError::of_connection(error, address))
        }
    })
}

/// The member's addresses in turn.
pub(super) async fn target(
    shared: &Shared,
    member: &Member,
    attempt: usize,
) -> Result<(String, SocketAddr), PeerError> {
    let address = {
        let addresses = member.addresses.borrow();
        addresses.get(attempt % addresses.len().max(1)).cloned()
    };
    let address = address.ok_or(PeerError::UnknownMember(member.id))?;
    let resolved = address.resolve(shared.local).await?;
    Ok((address.host, resolved))
}

enum GreetError {
    Peer(PeerError),
    Stream,
}

async fn greet(shared: &Rc<Shared>, member: &Rc<Member>, connection: &Connection) -> Result<(), GreetError> {
    let (mut control_out, mut control_in) = connection.open_bi().await.map_err(|_| GreetError::Stream)?;
    if member.link.borrow().is_some() || member.gone.get() {
        // The other side was faster; see the registry's rule.
        link::close(connection, CloseCode::Tie, "the other side's connection is in use already");
        return Err(GreetError::Peer(PeerError::Tie));
    }
    let ours = shared.says().hello(member.id, shared.next_sequence()).encode();
    control_out.write_all(&ours).await.map_err(|_| GreetError::Stream)?;
    let theirs = match read_hello(&mut control_in).await {
        Ok(theirs) => theirs,
        Err(HelloEnd::Stream) => {
            // Whatever ended the stream ends the connection: with the reason.
            connection.closed().await;
            return Err(GreetError::Stream);
        }
        Err(HelloEnd::Wire(error)) => {
            link::close(connection, error.close_code(), &error.to_string());
            return Err(GreetError::Peer(PeerError::Wire(error)));
        }
    };
    let checked = shared.identity.check(&theirs, Some(member.id)).and_then(|agreed| {
        let choice = choose(shared.identity.member_id, member.latest.get(), member.live(), &theirs, true)?;
        Ok((agreed, choice))
    });
    match checked {
        Err(refusal) => {
            refuse(shared, connection, refusal.clone());
            Err(GreetError::Peer(PeerError::Refused(refusal)))
        }
        Ok(_) if member.gone.get() => {
            let (code, text) = farewell(shared, member.id);
            link::close(connection, code, &text);
            Err(GreetError::Peer(PeerError::Closed(code)))
        }
        Ok((_, Choice::Keep)) => {
            link::linger(shared, member, connection.clone(), &theirs, (control_out, control_in));
            Err(GreetError::Peer(PeerError::Tie))
        }
        Ok((agreed, Choice::Take(why))) => {
            let terms = link::Terms { dialled: true, snapshots: agreed.snapshots, replaces: why, first: None };
            link::install(shared, member, connection.clone(), &theirs, terms, (control_out, control_in));
            Ok(())
        }
    }
}

/// Why there is no hello.
pub(super) enum HelloEnd {
    /// The bytes are none.
    Wire(WireError),
    /// The stream ended or broke.
    Stream,
}

/// Reads a hello; what a later version adds to it is skipped.
pub(super) async fn read_hello(stream: &mut RecvStream) -> Result<Hello, HelloEnd> {
    let mut head = [0; HELLO_BYTES];
    stream.read_exact(&mut head).await.map_err(|_| HelloEnd::Stream)?;
    let length = Hello::length(&head).map_err(HelloEnd::Wire)?;
    let mut rest = vec![0; length - HELLO_BYTES];
    stream.read_exact(&mut rest).await.map_err(|_| HelloEnd::Stream)?;
    Hello::decode(&head).map_err(HelloEnd::Wire)
}
