//! HTTP/1.1: one request after the other, each with its whole body, bounded in bytes and time.

use super::http1_body::{BodyReader, framing};
use super::pace::Pace;
use super::{ConnectionEnd, Server, unless};
use crate::context::Peer;
use crate::handler::{Handler, HttpRequest, HttpResponse};
use crate::limits::Limits;
use crate::memory::{Budget, Charge, Kind};
use crate::runtime::{Runtime, within};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEADERS_MAX: usize = 100;
/// Bytes read before others have their turn.
const TURN_BYTES_MAX: usize = 64 << 10;
/// How long unread bytes are waited for when we end a connection.
const LINGER: Duration = Duration::from_secs(1);

/// A request that is answered without asking the handler, and ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) why: &'static str,
}

impl Refused {
    pub(super) const fn bad(why: &'static str) -> Self {
        Refused { status: 400, why }
    }
}

/// Why no more requests are read.
enum Stop {
    /// The client closed, or fell silent.
    Quiet(ConnectionEnd),
    Refused(Refused),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Stop::Refused(refused)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Quiet(error.into())
    }
}

pub(super) async fn serve<S, H, R>(
    stream: S,
    start: Bytes,
    peer: Peer,
    server: &Server<H, R>,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    budget: Rc<Budget>,
) -> ConnectionEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler,
    R: Runtime,
{
    let mut connection = Connection {
        stream,
        input: BytesMut::from(&start[..]),
        limits: &server.limits,
        runtime: &server.runtime,
        charge: Charge::new(&budget, Kind::Incoming, 0),
        budget,
        pace: server.pace.clone(),
        turn_bytes: 0,
    };
    let mut timeout = server.limits.handshake_timeout;
    loop {
        let head = match unless(connection.read_head(timeout), shutdown.as_mut()).await {
            None => return ConnectionEnd::Closed,
            Some(Ok(head)) => head,
            Some(Err(stop)) => return connection.stop(stop).await,
        };
        timeout = server.limits.http1_timeout;
        let body = match connection.read_body(&head).await {
            Ok(body) => body,
            Err(stop) => return connection.stop(stop).await,
        };
        let Head { method, target, headers, keep_alive, .. } = head;
        let without_body = method == Method::HEAD;
        let response = server.handler.http(HttpRequest { method, target, headers, body, peer }).await;
        let encoded = encode(&response, keep_alive, without_body);
        if let Err(error) = connection.write(&encoded).await {
            return error.into();
        }
        if !keep_alive {
            connection.linger().await;
            return ConnectionEnd::Closed;
        }
    }
}

struct Head {
    method: Method,
    target: String,
    version: Version,
    headers: HeaderMap,
    keep_alive: bool,
}

struct Connection<'a, S, R> {
    stream: S,
    input: BytesMut,
    limits: &'a Limits,
    runtime: &'a R,
    charge: Charge,
    budget: Rc<Budget>,
    pace: Rc<Pace>,
    /// Bytes read since the others had their turn.
    turn_bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin, R: Runtime> Connection<'_, S, R> {
    async fn read_head(&mut self, timeout: Duration) -> Result<Head, Stop> {
        let runtime = self.runtime;
        within(runtime, timeout, self.read_head_untimed())
            .await
            .unwrap_or(Err(Stop::Quiet(ConnectionEnd::HandshakeTimeout)))
    }

    async fn read_head_untimed(&mut self) -> Result<Head, Stop> {
        loop {
            // As Go: empty lines before a request are skipped.
            while self.input.starts_with(b"\r\n") {
                self.input.advance(2);
            }
            if let Some((head, length)) = parse_head(&self.input, self.limits.http1_head_bytes_max)? {
                self.input.advance(length);
                return Ok(head);
            }
            if self.read_more(0).await? == 0 {
                return Err(match self.input.is_empty() {
                    true => Stop::Quiet(ConnectionEnd::Closed),
                    false => Stop::Refused(Refused::bad("request cut short")),
                });
            }
        }
    }

    async fn read_body(&mut self, head: &Head) -> Result<Bytes, Stop> {
        let body_bytes_max = self.limits.http1_body_bytes_max;
        let framing = framing(&head.headers, head.version, body_bytes_max)?;
        let mut reader = BodyReader::new(framing, body_bytes_max);
        let mut may_ask = asks_to_continue(&head.headers)?;
        loop {
            if let Some(body) = reader.advance(&mut self.input)? {
                return Ok(body);
            }
            if std::mem::take(&mut may_ask) {
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            let (runtime, timeout) = (self.runtime, self.limits.http1_timeout);
            match within(runtime, timeout, self.read_more(reader.held_bytes())).await {
                None => return Err(Stop::Quiet(ConnectionEnd::HandshakeTimeout)),
                Some(Ok(0)) => return Err(Stop::Refused(Refused::bad("body cut short"))),
                Some(count) => drop(count?),
            }
        }
    }

    /// Reads what there is behind `input`, beside `held_bytes` of a body.
    async fn read_more(&mut self, held_bytes: usize) -> Result<usize, Stop> {
        const NO_ROOM: Refused = Refused { status: 503, why: "the server has no memory for this request" };
        self.charge.set(held_bytes + self.input.capacity());
        self.budget.memory().relieve();
        if self.turn_bytes >= TURN_BYTES_MAX {
            self.turn_bytes = 0;
            self.pace.rest(self.runtime).await;
        }
        let read = unless_condemned(&self.budget, self.stream.read_buf(&mut self.input)).await;
        let count = read.map_or(Err(Stop::Refused(NO_ROOM)), |count| Ok(count?))?;
        self.turn_bytes += count;
        Ok(count)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.charge.set(self.input.capacity() + bytes.len());
        self.budget.memory().relieve();
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        // One that is condemned has its refusal written all the same, if its client takes it at once.
        let timeout = if self.budget.is_condemned() { LINGER } else { self.limits.http1_timeout };
        let write = async {
            match self.budget.is_condemned() {
                true => Some(write.await),
                false => unless_condemned(&self.budget, write).await,
            }
        };
        let written = within(self.runtime, timeout, write).await.flatten();
        self.charge.set(self.input.capacity());
        written.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    async fn stop(mut self, stop: Stop) -> ConnectionEnd {
        let refused = match stop {
            Stop::Quiet(end) => return end,
            Stop::Refused(refused) => refused,
        };
        let response = HttpResponse::text(refused.status, format!("{}\n", refused.why));
        if let Err(error) = self.write(&encode(&response, false, false)).await {
            return error.into();
        }
        self.linger().await;
        ConnectionEnd::Protocol(refused.why.into())
    }

    /// Reads and forgets what is on its way: closing a socket with unread bytes would take the answer with it.
    async fn linger(&mut self) {
        let drain = async {
            let mut scratch = [0u8; 4096];
            if self.stream.shutdown().await.is_ok() {
                while matches!(self.stream.read(&mut scratch).await, Ok(1..)) {}
            }
        };
        within(self.runtime, LINGER, drain).await;
    }
}

/// `future`, or None if the connection has to go for what it holds.
async fn unless_condemned<T>(budget: &Budget, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if budget.is_condemned() {
            return Poll::Ready(None);
        }
        budget.register(cx.waker());
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// The head at the front of `input` and its length; None if it is not whole.
fn parse_head(input: &[u8], bytes_max: usize) -> Result<Option<(Head, usize)>, Refused> {
    const TOO_LARGE: Refused = Refused { status: 431, why: "request header fields too large" };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) if length <= bytes_max => length,
        Ok(httparse::Status::Partial) if input.len() <= bytes_max => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(httparse::Error::Version) => return Err(Refused { status: 505, why: "unsupported version" }),
        Err(_) => return Err(Refused::bad("malformed request")),
    };
    if has_bare_newline(&input[..length]) {
        return Err(Refused::bad("CR or LF alone"));
    }
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let method = request.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let method = method.ok_or(Refused::bad("malformed method"))?;
    let target = request.path.unwrap_or_default().to_owned();
    let headers = header_map(request.headers)?;
    // One Host, in 1.1 exactly: two would be read differently by different readers.
    match headers.get_all(header::HOST).iter().count() {
        1 => {}
        0 if version == Version::HTTP_10 => {}
        _ => return Err(Refused::bad("missing or repeated Host")),
    }
    let keep_alive = keep_alive(&headers, version);
    Ok(Some((Head { method, target, version, headers, keep_alive }, length)))
}

/// httparse takes a line feed alone as the end of a line.
fn has_bare_newline(head: &[u8]) -> bool {
    head.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

fn header_map(parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Refused> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Refused::bad("malformed header name"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Refused::bad("malformed header value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn keep_alive(headers: &HeaderMap, version: Version) -> bool {
    let says = |word: &str| {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    match version {
        Version::HTTP_11 => !says("close"),
        _ => says("keep-alive"),
    }
}

fn asks_to_continue(headers: &HeaderMap) -> Result<bool, Refused> {
    match headers.get(header::EXPECT) {
        None => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Refused { status: 417, why: "unknown expectation" }),
    }
}

fn encode(response: &HttpResponse, keep_alive: bool, without_body: bool) -> Vec<u8> {
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut out = Vec::with_capacity(256 + response.body.len());
    out.extend_from_slice(format!("HTTP/1.1 {} ", status.as_str()).as_bytes());
    out.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in &response.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("content-length: {}\r\n", response.body.len()).as_bytes());
    if !keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !without_body {
        out.extend_from_slice(&response.body);
    }
    out
}
