//! One HTTP/2 connection is one task.
//!
//! ```text
//! turn: read frames and accept calls -> poll the calls that are ready -> again while one side woke the other
//!       -> write once
//! ```

use super::call;
use super::pace::Pace;
use super::shared::Shared;
use super::turn::Turn;
use super::wire::Wire;
use super::{ConnectionEnd, PREFACE, Server};
use crate::budget::Outgoing;
use crate::context::Peer;
use crate::handler::Handler;
use crate::limits::{IDLE_PING_MIN_TIME, Limits, PING_STRIKES_MAX};
use crate::memory::Budget;
use crate::runtime::{LocalBoxFuture, Runtime, within};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Times that HTTP/2 and the calls may wake each other before the task lets others run.
const ROUNDS_MAX: usize = 16;
/// Calls that a shard works on at once, by and large: several of the group's batches.
const WORKING_CALLS_MAX: usize = 4096;
/// A connection with so many of them is one that they are shared among.
const BUSY_CALLS: usize = 32;
/// How long our last frames are waited for when we end a connection.
const LINGER: Duration = Duration::from_secs(1);

pub(super) async fn serve<S, H, R>(
    stream: S,
    peer: Peer,
    server: &Server<H, R>,
    shutdown: Pin<&mut impl Future<Output = ()>>,
    budget: Rc<Budget>,
) -> ConnectionEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
    R: Runtime,
{
    let wire = Wire::new(stream, Bytes::from_static(PREFACE));
    let mut connection = match builder(&server.limits).handshake::<_, Outgoing>(wire.clone()).await {
        Ok(connection) => connection,
        Err(error) => return ConnectionEnd::Protocol(error.to_string()),
    };
    let pings = connection.ping_pong().expect("asked for once");
    let now = server.runtime.now();
    let clock = server.runtime.clone();
    let clock = Box::new(move || clock.now());
    let shared = Rc::new(Shared::new(server.limits.clone(), server.metrics.clone(), peer, clock, budget));
    let start = |request, respond| call::start(&shared, &server.handler, request, respond);
    let mut driver = Driver {
        connection,
        wire: wire.clone(),
        calls: FuturesUnordered::new(),
        turn: Turn::new(),
        timer: Timer::new(server.runtime.clone()),
        pings: ClientPings { last: None, strikes: 0, answered_at: None },
        keepalive: Keepalive { pings, last_read: now, read_bytes: 0, sent_at: None },
        last_stream: 0,
        ending: None,
        force_at: None,
        greeting_until: Some(now + server.limits.handshake_timeout),
        head_until: None,
        pace: server.pace.clone(),
        my_turn: Rc::new(Cell::new(true)),
        busy: Busy { count: server.busy.clone(), is_busy: false },
        runtime: server.runtime.clone(),
        shared: shared.clone(),
        start,
    };
    let mut shutdown = shutdown;
    // Its first turn is one of many when many come at once.
    server.pace.rest(&server.runtime).await;
    let end = poll_fn(|cx| driver.poll(cx, shutdown.as_mut())).await;
    // The handlers go before the client is told that it may come again.
    drop(driver);
    if !matches!(end, ConnectionEnd::Closed | ConnectionEnd::Io(_)) {
        within(&server.runtime, LINGER, wire.linger()).await;
    }
    end
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .initial_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buffer_size(limits.stream_send_bytes_max)
        .max_pending_accept_reset_streams(limits.pending_reset_streams_max)
        .max_local_error_reset_streams(Some(limits.local_error_resets_max));
    builder
}

struct Driver<S, R, F, M> {
    connection: Connection<Wire<S>, Outgoing>,
    wire: Wire<S>,
    calls: FuturesUnordered<F>,
    turn: Turn,
    timer: Timer<R>,
    pings: ClientPings,
    keepalive: Keepalive,
    last_stream: u32,
    /// Set when we end the connection and HTTP/2 has yet to say so.
    ending: Option<ConnectionEnd>,
    /// Set when a shutdown was asked for.
    force_at: Option<Duration>,
    /// When the client's first frame must have come; None once it has.
    greeting_until: Option<Duration>,
    /// When the rest of a head must have come; None outside of heads.
    head_until: Option<Duration>,
    pace: Rc<Pace>,
    my_turn: Rc<Cell<bool>>,
    busy: Busy,
    runtime: R,
    shared: Rc<Shared>,
    start: M,
}

impl<S, R, F, M> Driver<S, R, F, M>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Runtime,
    F: Future<Output = ()>,
    M: FnMut(Request<RecvStream>, SendResponse<Outgoing>) -> Option<F>,
{
    fn poll(&mut self, cx: &mut Context<'_>, shutdown: Pin<&mut impl Future<Output = ()>>) -> Poll<ConnectionEnd> {
        self.turn.begin(cx);
        let ended = self.poll_turn(cx, shutdown);
        match self.my_turn.get() {
            true => self.turn.end(),
            false => self.turn.rest(),
        }
        ended
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>, shutdown: Pin<&mut impl Future<Output = ()>>) -> Poll<ConnectionEnd> {
        let now = self.runtime.now();
        self.shared.now.set(now);
        self.wire.begin_turn();
        self.shared.wake_expired(now);
        if self.shared.budget.is_condemned() {
            return Poll::Ready(self.give_way());
        }
        self.shared.budget.register(cx.waker());
        if self.force_at.is_none() && shutdown.poll(cx).is_ready() {
            self.connection.graceful_shutdown();
            self.force_at = Some(now + self.shared.limits.shutdown_grace);
            self.turn.connection.set();
        }
        if self.force_at.is_some_and(|at| at <= now) {
            return Poll::Ready(ConnectionEnd::ShutdownForced);
        }
        if !self.my_turn.get() {
            self.arm_timer(now, cx);
            return Poll::Pending;
        }
        self.shared.begin_work(now);
        for _ in 0..ROUNDS_MAX {
            if self.turn.connection.take()
                && let Poll::Ready(end) = self.poll_connection(now)
            {
                return Poll::Ready(self.ending.take().unwrap_or(end));
            }
            if self.turn.calls.take() {
                self.poll_calls();
            }
            self.check_resets();
            let working_max = self.busy.working_max(self.shared.working.get());
            if self.wire.hold(self.shared.working.get() >= working_max) {
                self.turn.connection.set();
            }
            if self.wire.starved()
                || self.shared.is_late()
                || !(self.turn.connection.is_set() || self.turn.calls.is_set())
            {
                break;
            }
        }
        if let Poll::Ready(Err(error)) = self.wire.poll_write_out(&mut self.turn.connection.context()) {
            return Poll::Ready(error.into());
        }
        self.shared.settle(self.wire.held_bytes(), !self.wire.is_full() && !self.turn.connection.is_set());
        if self.wire.starved() || self.shared.is_late() {
            self.my_turn.set(false);
            self.pace.wait(&self.runtime, self.my_turn.clone(), cx.waker());
        }
        if self.wire.read_bytes() > 0 {
            self.greeting_until = None;
        }
        self.head_until = match self.wire.is_within_head() {
            true => self.head_until.or(Some(now + self.shared.limits.handshake_timeout)),
            false => None,
        };
        let late = [self.greeting_until, self.head_until].into_iter().flatten().any(|until| until <= now);
        if late {
            return Poll::Ready(ConnectionEnd::HandshakeTimeout);
        }
        if self.keepalive.is_over(now, &self.shared.limits, &mut self.turn.connection.context()) {
            return Poll::Ready(ConnectionEnd::KeepaliveTimeout);
        }
        self.arm_timer(now, cx);
        Poll::Pending
    }

    fn arm_timer(&mut self, now: Duration, cx: &mut Context<'_>) {
        let keepalive = Some(self.keepalive.next(&self.shared.limits));
        let next = [self.shared.next_deadline(), keepalive, self.force_at, self.greeting_until, self.head_until];
        self.timer.arm(now, next.into_iter().flatten().min(), cx);
    }

    /// Reads, accepts, and writes to the wire.
    fn poll_connection(&mut self, now: Duration) -> Poll<ConnectionEnd> {
        let mut cx = self.turn.connection.context();
        let accepted = loop {
            match self.connection.poll_accept(&mut cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.last_stream = self.last_stream.max(respond.stream_id().as_u32());
                    if let Some(call) = (self.start)(request, respond) {
                        self.calls.push(call);
                        self.turn.calls.set();
                    }
                }
                Poll::Ready(Some(Err(error))) => break Poll::Ready(end_of(error)),
                Poll::Ready(None) => break Poll::Ready(ConnectionEnd::Closed),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.keepalive.note_read(now, self.wire.read_bytes());
        let pings = self.wire.take_pings();
        if self.wire.take_answered() {
            self.pings.answered_at = Some(now);
        }
        if pings > 0 && self.pings.too_many(pings, now, self.calls.is_empty(), &self.shared.limits) {
            return Poll::Ready(self.calm_down());
        }
        accepted
    }

    /// gRPC's way to tell a client to ping less; clients look for the text.
    fn calm_down(&mut self) -> ConnectionEnd {
        self.wire.push_go_away(self.last_stream, Reason::ENHANCE_YOUR_CALM.into(), b"too_many_pings");
        ConnectionEnd::TooManyPings
    }

    /// For the server's memory: whatever is on its way is dropped.
    fn give_way(&mut self) -> ConnectionEnd {
        self.wire.push_go_away(self.last_stream, Reason::ENHANCE_YOUR_CALM.into(), b"too_much_memory");
        ConnectionEnd::OutOfMemory
    }

    fn poll_calls(&mut self) {
        let mut cx = self.turn.calls.context();
        while let Poll::Ready(Some(())) = Pin::new(&mut self.calls).poll_next(&mut cx) {
            if self.shared.note_work() {
                // The rest has its next turn.
                self.turn.calls.set();
                return;
            }
        }
    }

    fn check_resets(&mut self) {
        if self.ending.is_none() && self.shared.rapid_resets.get() > self.shared.limits.rapid_resets_max {
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.ending = Some(ConnectionEnd::RapidResets);
            self.turn.connection.set();
        }
    }
}

/// Whether this connection is one of those with many calls to work on, which share what the shard works on at once: a call
/// of a modest connection waits behind all of them.
struct Busy {
    count: Rc<Cell<usize>>,
    is_busy: bool,
}

impl Busy {
    /// Calls of this connection to work on, `working` now, beyond which no more are read. They wait with the client:
    /// their number keeps the group's batches full anyway.
    fn working_max(&mut self, working: usize) -> usize {
        let is_busy = working >= BUSY_CALLS;
        match (self.is_busy, is_busy) {
            (false, true) => self.count.set(self.count.get() + 1),
            (true, false) => self.count.set(self.count.get() - 1),
            _ => {}
        }
        self.is_busy = is_busy;
        (WORKING_CALLS_MAX / self.count.get().max(1)).max(BUSY_CALLS)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.working_max(0);
    }
}

fn end_of(error: h2::Error) -> ConnectionEnd {
    match error.is_io() {
        true => error.into_io().expect("asked before").into(),
        false => ConnectionEnd::Protocol(error.to_string()),
    }
}

/// For how long after a part of an answer pings are forgiven: while a client reads what is in its socket, it measures the
/// line with one ping after the other.
const ANSWER_FORGIVES: Duration = Duration::from_secs(1);

/// grpc-go's rule: a ping before its time is a strike, unless we sent something just before; without streams its time is
/// two hours.
struct ClientPings {
    answered_at: Option<Duration>,
    last: Option<Duration>,
    strikes: u32,
}

impl ClientPings {
    fn too_many(&mut self, pings: u32, now: Duration, idle: bool, limits: &Limits) -> bool {
        for _ in 0..pings {
            let last = self.last.replace(now);
            if self.answered_at.is_some_and(|at| now < at + ANSWER_FORGIVES) {
                self.strikes = 0;
                continue;
            }
            let min_time = if idle { IDLE_PING_MIN_TIME } else { limits.keepalive_min_time };
            if last.is_some_and(|last| now < last + min_time) {
                self.strikes += 1;
            }
        }
        self.strikes > PING_STRIKES_MAX
    }
}

/// Our own pings, when nothing has come for long.
struct Keepalive {
    pings: PingPong,
    last_read: Duration,
    read_bytes: u64,
    sent_at: Option<Duration>,
}

impl Keepalive {
    fn note_read(&mut self, now: Duration, read_bytes: u64) {
        if read_bytes != self.read_bytes {
            self.read_bytes = read_bytes;
            self.last_read = now;
        }
    }

    fn next(&self, limits: &Limits) -> Duration {
        match self.sent_at {
            Some(sent_at) => sent_at + limits.keepalive_timeout,
            None => self.last_read + limits.keepalive_interval,
        }
    }

    fn is_over(&mut self, now: Duration, limits: &Limits, cx: &mut Context<'_>) -> bool {
        if let Some(sent_at) = self.sent_at {
            let answered = self.pings.poll_pong(cx).is_ready();
            if answered {
                self.sent_at = None;
            } else if self.last_read <= sent_at {
                return now >= sent_at + limits.keepalive_timeout;
            } else if now >= self.next(limits) {
                // Bytes came, the answer didn't: the client is alive, its answer may be behind much data.
                self.sent_at = Some(now);
            }
        } else if now >= self.next(limits) && self.pings.send_ping(Ping::opaque()).is_ok() {
            self.sent_at = Some(now);
        }
        false
    }
}

/// One timer for all that a connection waits for.
struct Timer<R> {
    runtime: R,
    armed: Option<(Duration, LocalBoxFuture<'static, ()>)>,
}

impl<R: Runtime> Timer<R> {
    fn new(runtime: R) -> Self {
        Timer { runtime, armed: None }
    }

    /// Has the task woken at `next` or earlier.
    fn arm(&mut self, now: Duration, next: Option<Duration>, cx: &mut Context<'_>) {
        let Some(next) = next else { return };
        if let Some((at, sleep)) = &mut self.armed
            && *at <= next
            && sleep.as_mut().poll(cx).is_pending()
        {
            return;
        }
        let mut sleep = self.runtime.sleep(next.saturating_sub(now));
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.armed = Some((next, sleep));
    }
}
