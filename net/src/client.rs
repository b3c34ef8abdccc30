//! A small gRPC client over any stream: for the command line and the load generator.

use crate::context::{Metadata, encode_timeout};
use crate::framed::{Assembler, Encoding, Framed};
use crate::runtime::{LocalBoxFuture, Runtime, within};
use crate::status::{Code, Status, decode_message};
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use ringstone_proto::{Described, Method};
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How a client speaks.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `:authority` of each call, `host:port`.
    pub authority: String,
    /// True if the stream is encrypted (`:scheme`).
    pub https: bool,
    /// Longest response message in bytes.
    pub message_bytes_max: usize,
    /// Window of each stream and, eight times, of the connection.
    pub window_bytes: u32,
}

impl ClientOptions {
    /// Options with clientv3's limit on messages (2 GiB) and windows of 1 MiB.
    pub fn new(authority: impl Into<String>) -> Self {
        ClientOptions {
            authority: authority.into(),
            https: false,
            message_bytes_max: i32::MAX as usize,
            window_bytes: 1 << 20,
        }
    }
}

/// One connection; clones share it.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    uris: Rc<[Uri]>,
    message_bytes_max: usize,
    sleep: Rc<dyn Fn(Duration) -> LocalBoxFuture<'static, ()>>,
}

/// What goes with a call beside its message.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// Headers, `token` for one.
    pub metadata: Metadata,
    /// Time for the whole call; the server is told.
    pub timeout: Option<Duration>,
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Unavailable, format!("connection error: {error}"))
}

/// A stream's error as gRPC maps HTTP/2's.
fn status_of(error: h2::Error) -> Status {
    let code = match error.reason() {
        Some(h2::Reason::CANCEL) => Code::Canceled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
        _ if error.is_io() || error.is_go_away() => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, format!("stream error: {error}"))
}

impl Client {
    /// Starts HTTP/2 on a connected stream; a task of `runtime` serves the connection until it ends.
    /// Returns once the peer has answered a ping: h2's handshake only sends, whoever listens there.
    ///
    /// # Errors
    /// `Unavailable` if the handshake fails or the peer does not speak HTTP/2.
    pub async fn connect<S, R>(stream: S, options: &ClientOptions, runtime: &R) -> Result<Client, Status>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        R: Runtime,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(options.window_bytes)
            .initial_connection_window_size(options.window_bytes.saturating_mul(8).min(i32::MAX as u32));
        let (send, mut connection) = builder.handshake(stream).await.map_err(unavailable)?;
        answered(&mut connection).await?;
        runtime.spawn(Box::pin(async move {
            // Its calls get the error.
            let _ = connection.await;
        }));
        let scheme = if options.https { "https" } else { "http" };
        let uri = |method: Method| {
            let uri = Uri::builder().scheme(scheme).authority(options.authority.as_str());
            uri.path_and_query(method.path()).build()
        };
        let uris: Result<Rc<[Uri]>, _> = Method::ALL.into_iter().map(uri).collect();
        let runtime = runtime.clone();
        Ok(Client {
            send,
            uris: uris.map_err(unavailable)?,
            message_bytes_max: options.message_bytes_max,
            sleep: Rc::new(move |duration| runtime.sleep(duration)),
        })
    }

    /// One request, one response.
    ///
    /// # Errors
    /// The server's status; `Unavailable` if the connection fails, `DeadlineExceeded` after the timeout.
    pub async fn unary<Q, A>(&self, method: Method, request: &Q, options: &CallOptions) -> Result<A, Status>
    where
        Q: prost::Message,
        A: prost::Message + Default + Described,
    {
        let call = async {
            let (mut requests, mut responses) = self.open(method, options).await?;
            requests.send_last(Framed::encode(request)).await?;
            let message = responses.next().await?;
            let message = message.ok_or(Status { code: Code::Internal, message: "no response message".into() })?;
            match responses.next().await? {
                None => Ok(message),
                Some(_) => Err(Status { code: Code::Internal, message: "more than one response message".into() }),
            }
        };
        match options.timeout {
            None => call.await,
            Some(timeout) => match crate::server::unless(call, (self.sleep)(timeout).as_mut()).await {
                Some(result) => result,
                None => Err(Status::DEADLINE_EXCEEDED),
            },
        }
    }

    /// Opens a call of any kind. Dropping both halves resets it. The timeout is the server's to keep.
    ///
    /// # Errors
    /// `Unavailable` if the connection fails.
    pub async fn open<A>(
        &self,
        method: Method,
        options: &CallOptions,
    ) -> Result<(RequestSender, ResponseReceiver<A>), Status>
    where
        A: prost::Message + Default + Described,
    {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uris[method as usize].clone();
        *request.headers_mut() = options.metadata.clone();
        let headers = request.headers_mut();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(timeout) = options.timeout {
            headers.insert("grpc-timeout", encode_timeout(timeout));
        }
        let mut send = self.send.clone().ready().await.map_err(unavailable)?;
        let (response, stream) = send.send_request(request, false).map_err(status_of)?;
        let receiver = ResponseReceiver {
            state: Receiving::Head(response),
            assembler: Assembler::new(Encoding::Identity, self.message_bytes_max),
            message: PhantomData,
        };
        Ok((RequestSender { stream }, receiver))
    }
}

/// Drives a new connection until its peer has answered a ping.
async fn answered<S>(connection: &mut Connection<S, Bytes>) -> Result<(), Status>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pings = connection.ping_pong().expect("the first to ask for it");
    let mut pong = pin!(pings.ping(Ping::opaque()));
    poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(unavailable("closed by the peer"))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(unavailable(error))),
        Poll::Pending => pong.as_mut().poll(cx).map(|pong| pong.map(drop).map_err(unavailable)),
    })
    .await
}

/// The sending half of a call.
pub struct RequestSender {
    stream: SendStream<Bytes>,
}

impl RequestSender {
    /// Sends a message, as fast as the server reads.
    ///
    /// # Errors
    /// If the call has ended; the receiving half says why.
    pub async fn send(&mut self, message: &impl prost::Message) -> Result<(), Status> {
        self.send_framed(Framed::encode(message), false).await
    }

    /// Says that no message follows.
    pub fn finish(&mut self) {
        // If the call has ended, there is nobody to tell.
        let _ = self.stream.send_data(Bytes::new(), true);
    }

    async fn send_last(&mut self, message: Framed) -> Result<(), Status> {
        self.send_framed(message, true).await
    }

    async fn send_framed(&mut self, message: Framed, last: bool) -> Result<(), Status> {
        message.check()?;
        // A client's message has no tail: one piece.
        let mut bytes = message.into_pieces().next().expect("a prefix at least");
        loop {
            let wanted = bytes.len();
            self.stream.reserve_capacity(wanted);
            let mut capacity = self.stream.capacity();
            if capacity == 0 {
                capacity = match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                    Some(capacity) => capacity.map_err(status_of)?,
                    // The server answered before it read everything: the answer counts.
                    None => return Ok(()),
                };
            }
            let part = bytes.split_to(capacity.min(wanted));
            let sent = self.stream.send_data(part, last && bytes.is_empty());
            if sent.is_err() || bytes.is_empty() {
                return Ok(());
            }
        }
    }
}

/// The receiving half of a call.
pub struct ResponseReceiver<A> {
    state: Receiving,
    assembler: Assembler,
    message: PhantomData<A>,
}

enum Receiving {
    Head(ResponseFuture),
    Body(RecvStream),
    Ended,
}

impl<A: prost::Message + Default + Described> ResponseReceiver<A> {
    /// The next message; None if the call ended well.
    ///
    /// # Errors
    /// The server's status, or what kept us from it. After it there is nothing more.
    pub async fn next(&mut self) -> Result<Option<A>, Status> {
        let next = self.try_next().await;
        if !matches!(next, Ok(Some(_))) {
            self.state = Receiving::Ended;
        }
        next
    }

    async fn try_next(&mut self) -> Result<Option<A>, Status> {
        loop {
            match &mut self.state {
                Receiving::Ended => return Ok(None),
                Receiving::Head(response) => {
                    let response = response.await.map_err(status_of)?;
                    self.state = head(response)?.map_or(Receiving::Ended, Receiving::Body);
                }
                Receiving::Body(body) => {
                    if let Some(message) = self.assembler.next()? {
                        return Ok(Some(crate::decode_request(message)?));
                    }
                    match poll_fn(|cx| body.poll_data(cx)).await {
                        Some(data) => {
                            let data = data.map_err(status_of)?;
                            body.flow_control().release_capacity(data.len()).map_err(status_of)?;
                            self.assembler.push(data);
                        }
                        None => return trailers(body).await.map(|()| None),
                    }
                }
            }
        }
    }
}

/// The body behind a response's head, unless the head is the whole answer.
fn head(response: Response<RecvStream>) -> Result<Option<RecvStream>, Status> {
    let (parts, body) = response.into_parts();
    match status(&parts.headers) {
        Some(result) => result.map(|()| None),
        None if parts.status != http::StatusCode::OK => {
            Err(Status::new(Code::Unknown, format!("unexpected HTTP status {}", parts.status)))
        }
        None => Ok(Some(body)),
    }
}

async fn trailers(body: &mut RecvStream) -> Result<(), Status> {
    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await.map_err(status_of)?;
    let result = trailers.as_ref().and_then(status);
    result.unwrap_or(Err(Status { code: Code::Internal, message: "server closed the stream without trailers".into() }))
}

fn status(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().map_or(Code::Unknown, Code::from_number);
    let message = headers.get("grpc-message").map_or_else(String::new, |value| decode_message(value.as_bytes()));
    Some(if code == Code::Ok { Ok(()) } else { Err(Status::new(code, message)) })
}

/// `Client::connect` with a bound on the handshake.
///
/// # Errors
/// `Unavailable`.
pub async fn connect_within<S, R>(
    timeout: Duration,
    stream: S,
    options: &ClientOptions,
    runtime: &R,
) -> Result<Client, Status>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    R: Runtime,
{
    let connected = within(runtime, timeout, Client::connect(stream, options, runtime)).await;
    connected.unwrap_or_else(|| Err(unavailable("handshake timeout")))
}
