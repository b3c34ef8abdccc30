//! quinn's runtime on a glommio executor: when is the socket readable, and when is time up?
//!
//! glommio has no readiness, only operations. A one-byte `peek_from` through its ring completes when a datagram waits and
//! takes none, so it is the readiness; datagrams themselves are sent and received by quinn-udp's own system calls, with GSO
//! and GRO. A kernel on which peeking does not wait would make the executor spin, one on which it never completes would
//! make it deaf: [`self_test`] tells both at start.
//!
//! quinn's traits ask for `Send + Sync`, glommio's types are of one thread. [`SendWrapper`] asserts the thread at each use
//! and at the drop: handles of quinn must never leave this crate's `!Send` types.
//!
//! A busy executor polls its ring only when its preempt timer asks it to: set that to 1 ms or less, or a ping waits as
//! long (measured: 100 ms timer, 6 to 12 ms; 1 ms timer, 1 ms).

use super::error::PeerError;
use super::limits::PeerLimits;
use crate::nap::{Door, Nap};
use glommio::net::UdpSocket;
use glommio::timer::Timer;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncTimer, AsyncUdpSocket, UdpPoller};
use send_wrapper::SendWrapper;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How long a sender waits that found the socket's buffer full. glommio can't wait for room; the buffer is megabytes.
const WRITABLE_AFTER: Duration = Duration::from_micros(200);
/// Datagrams of less than this together are few: beside bulk more have come meanwhile, and a peek is the longer way to them.
const FEW_BYTES: usize = 16 << 10;
/// How long the self-test waits for what must come, and for what must not.
const SELF_TEST_WAIT: Duration = Duration::from_secs(2);
const SELF_TEST_SILENCE: Duration = Duration::from_millis(5);

/// The glommio executor of this thread, for quinn.
#[derive(Clone, Copy, Debug)]
pub struct QuicRuntime;

impl quinn::Runtime for QuicRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(QuicTimer(SendWrapper::new(Timer::new(at.saturating_duration_since(Instant::now())))))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        glommio::spawn_local(future).detach();
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(QuicSocket::new(socket, None)?))
    }
}

struct QuicTimer(SendWrapper<Timer>);

impl fmt::Debug for QuicTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicTimer")
    }
}

impl AsyncTimer for QuicTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.reset(at.saturating_duration_since(Instant::now()));
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<()> {
        Pin::new(&mut *self.0).poll(cx).map(|_| ())
    }
}

type Readable = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// The parts that are of this thread.
struct Waiting {
    /// In naps this tells what a peek tells else. Dropped before the socket, which it watches.
    door: Option<Door>,
    socket: Rc<UdpSocket>,
    /// A peek under way.
    readable: RefCell<Option<Readable>>,
}

pub(super) struct QuicSocket {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    /// The last datagram found no room. quinn asks for room before *each* one: only then is there anything to wait for.
    is_full: AtomicBool,
    /// The last look found none, or few: another one before a peek says so would be a system call that finds none.
    is_drained: AtomicBool,
    waiting: SendWrapper<Waiting>,
}

impl QuicSocket {
    /// With `nap` it is watched in naps, too.
    pub(super) fn new(socket: std::net::UdpSocket, nap: Option<&Rc<Nap>>) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let twin = Rc::new(UdpSocket::from(socket2_of_glommio::Socket::from(socket.try_clone()?)));
        // One that can't be watched has peeks alone.
        let door = nap.and_then(|nap| nap.door(twin.as_raw_fd()).ok());
        let waiting = SendWrapper::new(Waiting { door, socket: twin, readable: RefCell::new(None) });
        Ok(QuicSocket { socket, state, is_full: AtomicBool::new(false), is_drained: AtomicBool::new(false), waiting })
    }

    fn poll_readable(&self, cx: &mut Context) -> Poll<io::Result<()>> {
        let door = self.waiting.door.as_ref();
        if let Some(door) = door.filter(|door| door.is_open()) {
            ready!(door.poll_ready(cx));
            door.emptied();
            return Poll::Ready(Ok(()));
        }
        let mut readable = self.waiting.readable.borrow_mut();
        let peek = readable.get_or_insert_with(|| Box::pin(peek(Rc::clone(&self.waiting.socket))));
        let Poll::Ready(result) = peek.as_mut().poll(cx) else {
            if let Some(door) = door {
                door.note(cx);
            }
            return Poll::Pending;
        };
        *readable = None;
        if let Some(door) = door {
            door.came();
        }
        Poll::Ready(result)
    }

    /// Bulk goes on and on: others are heard between its pieces.
    fn note_bulk(&self, bytes: usize) {
        if bytes >= FEW_BYTES
            && let Some(door) = &self.waiting.door
        {
            door.look();
        }
    }
}

async fn peek(socket: Rc<UdpSocket>) -> io::Result<()> {
    match socket.peek_from(&mut [0]).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuicSocket").field(&self.socket).finish()
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritablePoller { socket: self, timer: SendWrapper::new(None) })
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.note_bulk(transmit.contents.len());
        let sent = self.state.send((&self.socket).into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.is_full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.is_drained.load(Ordering::Relaxed) {
                // An error that a peek meets (an ICMP answer) is the datagrams', not the socket's: receive, which has quinn's
                // own judgement.
                let _ = ready!(self.poll_readable(cx));
            }
            let received = self.state.recv((&self.socket).into(), buffers, meta);
            let blocked = received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            let count = *received.as_ref().unwrap_or(&0);
            let bytes = meta[..count].iter().map(|meta| meta.len).sum::<usize>();
            let few = received.is_ok() && count < buffers.len() && bytes < FEW_BYTES;
            self.is_drained.store(blocked || few, Ordering::Relaxed);
            self.note_bulk(bytes);
            if !blocked {
                return Poll::Ready(received);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

struct WritablePoller {
    socket: Arc<QuicSocket>,
    timer: SendWrapper<Option<Timer>>,
}

impl fmt::Debug for WritablePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WritablePoller")
    }
}

impl UdpPoller for WritablePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        if !self.socket.is_full.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let timer = self.timer.get_or_insert_with(|| Timer::new(WRITABLE_AFTER));
        ready!(Pin::new(timer).poll(cx));
        *self.timer = None;
        self.socket.is_full.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

/// A socket bound to `address`, with its buffers as large as the kernel lets them be. The port of a glommio process that has
/// just ended is still bound for some milliseconds: a bind is tried again for [`PeerLimits::bind_timeout`].
///
/// # Errors
/// If the address stays in use, or can't be bound at all.
pub async fn bind(address: SocketAddr, limits: &PeerLimits) -> Result<std::net::UdpSocket, PeerError> {
    let deadline = Instant::now() + limits.bind_timeout;
    let socket = loop {
        match std::net::UdpSocket::bind(address) {
            Ok(socket) => break socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                glommio::timer::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(PeerError::Bind { address, error }),
        }
    };
    let state = UdpSocketState::new((&socket).into()).map_err(PeerError::Socket)?;
    // A wish: what is too much is cut by the kernel.
    let _ = state.set_recv_buffer_size((&socket).into(), limits.socket_buffer_bytes);
    let _ = state.set_send_buffer_size((&socket).into(), limits.socket_buffer_bytes);
    Ok(socket)
}

/// Checks on a socket of its own that peeking through the ring waits for a datagram, sees it, and leaves it there.
///
/// # Errors
/// If it doesn't: QUIC can't run on this kernel's io_uring then.
pub async fn self_test() -> Result<(), PeerError> {
    let open = || -> io::Result<_> {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let sender = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let to = receiver.local_addr()?;
        Ok((QuicSocket::new(receiver, None)?, sender, to))
    };
    let (receiver, sender, to) = open().map_err(PeerError::Socket)?;
    let readable = || std::future::poll_fn(|cx| receiver.poll_readable(cx));
    let failed = |what| Err(PeerError::PeekSelfTest { what });
    if within(SELF_TEST_SILENCE, readable()).await.is_some() {
        return failed("completes while no datagram waits");
    }
    sender.send_to(b"?", to).map_err(PeerError::Socket)?;
    match within(SELF_TEST_WAIT, readable()).await {
        None => return failed("does not complete when a datagram waits"),
        Some(Err(error)) => return Err(PeerError::Socket(error)),
        Some(Ok(())) => {}
    }
    let mut byte = [0; 2];
    match receiver.socket.recv(&mut byte) {
        Ok(1) => Ok(()),
        _ => failed("takes the datagram"),
    }
}

/// `future`, or None if `duration` passes first.
pub(super) async fn within<T>(duration: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut timer = Timer::new(duration);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        Pin::new(&mut timer).poll(cx).map(|_| None)
    })
    .await
}
