//! Has the process of a member ended?
//!
//! QUIC learns it late: a killed process says nothing, and silence is what a pause or a lost packet sounds like, too. TCP
//! learns it at once: the kernel closes what a process had open at the moment in which it ends. So while a member is connected by
//! QUIC, one idle TCP connection to the same address is held. When that ends, and the port *refuses* the next one though it
//! took one before, nobody listens there any more: the QUIC connection is closed here, and the group need not wait for an
//! election timeout.
//!
//! A wrong yes costs a connection that is made anew, and perhaps an election. Never told by this: a machine without power, a
//! cut network, a process that stands still. Where TCP does not get through, nothing is held and nothing concluded.

use super::close::CloseCode;
use super::error::PeerError;
use super::link::Link;
use super::member::Member;
use super::pace::Backoff;
use super::peers::Shared;
use super::socket::within;
use futures_util::future::{Either, select};
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Between two attempts where TCP does not get through, or does not last.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A server that takes connections and does not keep them for so long is not asked again at once a second time.
const LASTED: Duration = Duration::from_secs(1);

/// Holds the line to a member whenever it is connected, until it is no member any more.
pub(super) async fn hold(shared: Rc<Shared>, member: Rc<Member>) {
    loop {
        let is_over = || member.gone.get() || shared.closed.get();
        let next = || if is_over() { Some(None) } else { member.linked().map(Some) };
        let Some(link) = member.changed.wait(next).await else { return };
        let address = link.connection.remote_address();
        // A port on which QUIC has answered, so the member's own: it dials from the port that it listens on.
        let ended = pin!(link.changed.wait(|| (link.ended.get() || is_over()).then_some(())));
        match select(pin!(watch(&shared, address)), ended).await {
            Either::Left(((), _)) => {
                let text = format!("member {:x} takes this process for ended", shared.identity.member_id);
                link.fail(CloseCode::Ended, &text, PeerError::Ended(address));
            }
            Either::Right(_) => {}
        }
        let is_live = |live: &Rc<Link>| Rc::ptr_eq(live, &link);
        let is_past = || !member.link.borrow().as_ref().is_some_and(is_live) || is_over();
        member.changed.wait(|| is_past().then_some(())).await;
    }
}

/// Returns once the address refuses what it has taken before.
async fn watch(shared: &Shared, address: SocketAddr) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let (mut has_held, mut was_short) = (false, false);
    loop {
        let since = Instant::now();
        let connected = within(shared.limits.probe_timeout, TcpStream::connect(address)).await;
        match connected.map(|connected| connected.map_err(io::Error::from)) {
            Some(Ok(stream)) => {
                has_held = true;
                until_closed(stream, address).await;
            }
            Some(Err(error)) if has_held && error.kind() == io::ErrorKind::ConnectionRefused => return,
            Some(Err(_)) | None => has_held = false,
        }
        let is_short = since.elapsed() < LASTED;
        if !is_short {
            backoff.reset();
        }
        // Once: it may have ended just after the line began.
        let asks_at_once = has_held && !(is_short && was_short);
        was_short = is_short;
        if asks_at_once {
            continue;
        }
        let random = (shared.random.borrow_mut())();
        glommio::timer::sleep(backoff.next(random)).await;
    }
}

/// Keeps the other side's server from closing it for some time by a request, and waits for its end, whatever it is.
async fn until_closed(mut stream: TcpStream, address: SocketAddr) {
    let request = format!("GET /version HTTP/1.1\r\nHost: {address}\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return;
    }
    let mut answer = [0; 512];
    while !matches!(stream.read(&mut answer).await, Ok(0) | Err(_)) {}
}
