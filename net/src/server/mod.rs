//! A connection from its first byte to its last.

mod call;
mod head;
mod http1;
mod http1_body;
mod http2;
mod pace;
mod requests;
mod shared;
mod sink;
mod turn;
mod wire;

pub use requests::RequestStream;
pub use sink::{ResponseSink, SinkError};

use crate::context::Peer;
use crate::handler::Handler;
use crate::limits::Limits;
use crate::memory::{Charge, Kind, SOCKET_BYTES, ShardMemory};
use crate::metrics::WireMetrics;
use crate::runtime::{Runtime, within};
use bytes::Bytes;
use pace::Pace;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// What all connections of a shard share.
pub struct Server<H, R> {
    /// Answers the calls.
    pub handler: Rc<H>,
    /// The shard's executor.
    pub runtime: R,
    /// Bounds of each connection.
    pub limits: Rc<Limits>,
    /// Counters of the shard.
    pub metrics: Rc<WireMetrics>,
    /// What its connections hold.
    pub memory: Rc<ShardMemory>,
    pace: Rc<Pace>,
    /// Connections whose handlers have many calls to work on.
    busy: Rc<Cell<usize>>,
}

impl<H, R: Clone> Clone for Server<H, R> {
    fn clone(&self) -> Self {
        Server {
            handler: self.handler.clone(),
            runtime: self.runtime.clone(),
            limits: self.limits.clone(),
            metrics: self.metrics.clone(),
            memory: self.memory.clone(),
            pace: self.pace.clone(),
            busy: self.busy.clone(),
        }
    }
}

impl<H: Handler, R: Runtime> Server<H, R> {
    /// A server with counters at zero.
    pub fn new(handler: Rc<H>, runtime: R, limits: Limits) -> Self {
        Server {
            handler,
            runtime,
            limits: Rc::new(limits),
            metrics: Rc::default(),
            memory: ShardMemory::unbounded(),
            pace: Rc::default(),
            busy: Rc::default(),
        }
    }

    /// The same, and its connections hold no more than that lets them.
    #[must_use]
    pub fn within_memory(mut self, memory: Rc<ShardMemory>) -> Self {
        self.memory = memory;
        self
    }

    /// The same, and how long calls take is counted: etcd's `--metrics=extensive`.
    #[must_use]
    pub fn counting_times(mut self) -> Self {
        self.metrics = Rc::new(WireMetrics::counting_times());
        self
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionEnd {
    /// The client closed it, or a shutdown was asked for and all calls were answered.
    #[error("closed")]
    Closed,
    /// No whole preface or request head came in time.
    #[error("no request within the handshake timeout")]
    HandshakeTimeout,
    /// The client broke HTTP/2 or HTTP/1.1.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The socket failed.
    #[error("input/output: {0}")]
    Io(io::Error),
    /// The client didn't answer a ping.
    #[error("no answer to a keepalive ping")]
    KeepaliveTimeout,
    /// The client pinged more often than it may.
    #[error("too many pings")]
    TooManyPings,
    /// The client reset more calls at their start than it may.
    #[error("too many calls reset at their start")]
    RapidResets,
    /// There was no room for it, or it held more than others when there was too little for all.
    #[error("out of memory for connections")]
    OutOfMemory,
    /// Calls were still open when the time of grace after a shutdown was over.
    #[error("shut down with open calls")]
    ShutdownForced,
}

impl From<io::Error> for ConnectionEnd {
    /// A client may close at any time, also while we write.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => ConnectionEnd::Closed,
            _ => ConnectionEnd::Io(error),
        }
    }
}

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection until it ends. HTTP/2 is for gRPC only, anything else is HTTP/1.1. When `shutdown` completes,
/// new calls are refused, open ones go on for [`Limits::shutdown_grace`]. Dropping the future ends the connection and
/// drops its handlers.
pub async fn serve_connection<S, H, R>(
    stream: S,
    peer: Peer,
    server: &Server<H, R>,
    shutdown: impl Future<Output = ()>,
) -> ConnectionEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
    R: Runtime,
{
    struct Opened<'a>(&'a WireMetrics);
    impl Drop for Opened<'_> {
        fn drop(&mut self) {
            self.0.connection_closed();
        }
    }
    server.metrics.connection_opened();
    let _opened = Opened(&server.metrics);

    if !server.memory.admits_connection() {
        return ConnectionEnd::OutOfMemory;
    }
    let budget = server.memory.connect();
    let _socket = Charge::new(&budget, Kind::Other, SOCKET_BYTES);
    let mut stream = stream;
    let mut shutdown = std::pin::pin!(shutdown);
    let sniffed = within(&server.runtime, server.limits.handshake_timeout, sniff(&mut stream));
    let sniffed = unless(sniffed, shutdown.as_mut()).await;
    match sniffed {
        None => ConnectionEnd::Closed,
        Some(None) => ConnectionEnd::HandshakeTimeout,
        Some(Some(Err(error))) => error.into(),
        Some(Some(Ok(Sniffed::Nothing))) => ConnectionEnd::Closed,
        Some(Some(Ok(Sniffed::Http2))) => Box::pin(http2::serve(stream, peer, server, shutdown, budget)).await,
        Some(Some(Ok(Sniffed::Other(start)))) => {
            Box::pin(http1::serve(stream, start, peer, server, shutdown, budget)).await
        }
    }
}

/// `future`, or None if `stop` completes first.
pub(crate) async fn unless<T>(
    future: impl Future<Output = T>,
    mut stop: Pin<&mut (impl Future<Output = ()> + ?Sized)>,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        stop.as_mut().poll(cx).map(|()| None)
    })
    .await
}

enum Sniffed {
    Nothing,
    Http2,
    Other(Bytes),
}

/// Reads no further than the preface, and not even that if it can't be one.
async fn sniff(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Sniffed> {
    let mut start = [0u8; PREFACE.len()];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut start[filled..]).await?;
        if count == 0 && filled == 0 {
            return Ok(Sniffed::Nothing);
        }
        filled += count;
        if count == 0 || start[..filled] != PREFACE[..filled] {
            return Ok(Sniffed::Other(Bytes::copy_from_slice(&start[..filled])));
        }
        if filled == PREFACE.len() {
            return Ok(Sniffed::Http2);
        }
    }
}
