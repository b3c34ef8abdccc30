//! glommio's sockets as tokio's traits, and its executor as a [`Runtime`].
//!
//! A glommio socket tries the system call first and polls only when it would block. It wants an initialized buffer, tokio
//! offers an uninitialized one: bytes are read into a buffer of the thread and copied, which costs what has arrived
//! instead of zeroing what might, and no memory per connection.

use crate::context::Peer;
use crate::nap::{Door, Nap};
use crate::runtime::{LocalBoxFuture, Runtime};
use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const READ_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES_MAX].into());
}

/// A glommio socket, `TcpStream` or `UnixStream`, that can be served.
#[derive(Debug)]
pub struct GlommioStream<S> {
    /// Dropped before the socket, which it watches.
    door: Option<Door>,
    socket: S,
}

impl GlommioStream<glommio::net::TcpStream> {
    /// A TCP socket with its delays off, and the address of its other end. With `nap` it is watched in naps, too.
    ///
    /// # Errors
    /// If the socket is dead already.
    pub fn tcp(stream: glommio::net::TcpStream, nap: Option<&Rc<Nap>>) -> io::Result<(Self, Peer)> {
        let failed = |error: glommio::GlommioError<()>| io::Error::from(error);
        stream.set_nodelay(true).map_err(failed)?;
        let peer = Peer::Address(stream.peer_addr().map_err(failed)?);
        // One that can't be watched is served by the ring alone.
        let door = nap.and_then(|nap| nap.door(stream.as_raw_fd()).ok());
        Ok((GlommioStream { door, socket: stream }, peer))
    }
}

impl GlommioStream<glommio::net::UnixStream> {
    /// A local socket.
    pub fn unix(stream: glommio::net::UnixStream) -> (Self, Peer) {
        (GlommioStream { door: None, socket: stream }, Peer::Local)
    }
}

impl<S: futures_util::io::AsyncRead + Unpin> GlommioStream<S> {
    fn poll_receive(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(door) = &self.door else { return Pin::new(&mut self.socket).poll_read(cx, bytes) };
        if door.is_open() {
            return door.poll_receive(cx, bytes);
        }
        let polled = Pin::new(&mut self.socket).poll_read(cx, bytes);
        if polled.is_pending() {
            door.note(cx)
        } else {
            door.came()
        }
        polled
    }
}

impl<S: futures_util::io::AsyncRead + Unpin> AsyncRead for GlommioStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        READ_BUFFER.with_borrow_mut(|scratch| {
            let wanted = buffer.remaining().min(scratch.len());
            let count = ready!(self.poll_receive(cx, &mut scratch[..wanted]))?;
            buffer.put_slice(&scratch[..count]);
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: futures_util::io::AsyncWrite + Unpin> AsyncWrite for GlommioStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_close(cx) {
            // The other end has taken the connection down already: there is nothing left to close.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

/// The glommio executor of this thread.
#[derive(Clone, Copy, Debug)]
pub struct GlommioRuntime {
    clock: fn() -> Duration,
}

impl GlommioRuntime {
    /// With the clock that the server's own stamps are of: then they can be compared with a call's.
    pub fn new(clock: fn() -> Duration) -> Self {
        GlommioRuntime { clock }
    }
}

impl Runtime for GlommioRuntime {
    fn spawn(&self, future: LocalBoxFuture<'static, ()>) {
        glommio::spawn_local(future).detach();
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(glommio::timer::sleep(duration))
    }

    fn now(&self) -> Duration {
        (self.clock)()
    }
}
