use crate::admission::Entry;
use crate::context::{CallContext, Peer};
use crate::framed::Framed;
use crate::server::{RequestStream, ResponseSink};
use crate::status::{Code, Status};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::HeaderName};
use ringstone_proto::Method;
use std::future::Future;
use std::time::Duration;

/// What a server does with the calls of its connections. Futures live on the connection's thread; one that waits is
/// dropped when its caller resets the call, its deadline passes or the connection ends.
pub trait Handler: 'static {
    /// What a unary call notes down on its way; it lives from the call's start to the end of its answer.
    type Notes: Default;

    /// Decides by identity and method alone whether a call goes on; nothing of the message is decoded yet. An error is
    /// the answer to the caller.
    fn admit(&self, method: Method, entry: Entry, call: &CallContext) -> Result<(), Status>;

    /// Answers a call of one request and one response. `message` is not decoded; see [`crate::decode_request`]. It may
    /// share a larger read buffer: copy what is kept for long.
    fn unary(
        &self,
        method: Method,
        call: &CallContext,
        message: Bytes,
        notes: &Self::Notes,
    ) -> impl Future<Output = Result<Framed, Status>>;

    /// A unary call has ended: answered, given up, or cancelled while [`Handler::unary`] was under way.
    fn unary_ended(&self, _method: Method, _call: &CallContext, _notes: &Self::Notes, _end: UnaryEnd) {}

    /// Serves a call with a stream of requests or of responses. It ends when the future does, with all responses that
    /// were sent before.
    fn stream(
        &self,
        method: Method,
        call: &CallContext,
        requests: RequestStream,
        responses: ResponseSink,
    ) -> impl Future<Output = Result<(), Status>>;

    /// Answers an HTTP/1.1 request.
    fn http(&self, request: HttpRequest) -> impl Future<Output = HttpResponse>;
}

/// How a unary call ended.
#[derive(Clone, Copy, Debug)]
pub struct UnaryEnd {
    /// What its caller gets.
    pub code: Code,
    /// Bytes of the answer's message.
    pub response_bytes: usize,
    /// From the answer to the moment at which the connection had taken all of it: more than nothing where an answer that
    /// is longer than [`crate::Limits::sink_bytes_max`] had to wait for its reader.
    pub client: Duration,
}

/// An HTTP/1.1 request with its whole body.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: http::Method,
    /// The target as sent: path and query, or a whole URI.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, without transfer coding.
    pub body: Bytes,
    /// The other end.
    pub peer: Peer,
}

impl HttpRequest {
    /// The path, undecoded, without scheme, host and query.
    pub fn path(&self) -> &str {
        self.split().0
    }

    /// What follows the first `?`.
    pub fn query(&self) -> Option<&str> {
        self.split().1
    }

    fn split(&self) -> (&str, Option<&str>) {
        let target = match self.target.split_once("://") {
            Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
                rest.find('/').map_or("/", |slash| &rest[slash..])
            }
            _ => &self.target,
        };
        match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        }
    }
}

/// An answer to an [`HttpRequest`]. Length and connection headers are the server's.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// Status, 200 to 599.
    pub status: u16,
    /// Headers, but for Content-Length, Connection, Date and Transfer-Encoding.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

impl HttpResponse {
    /// A text, with the headers that Go's `http.Error` and etcd's checks send.
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        HttpResponse {
            status,
            headers: vec![
                (http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
                (http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            ],
            body: body.into(),
        }
    }
}
