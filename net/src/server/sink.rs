use super::shared::Shared;
use crate::budget::Outgoing;
use crate::framed::Framed;
use crate::memory::Held;
use crate::status::{Code, Status};
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use ringstone_proto::Method;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The response messages of a call. Clones are the same stream.
///
/// Holds at most [`crate::Limits::sink_bytes_max`] and one message; beside it HTTP/2 holds at most
/// [`crate::Limits::stream_send_bytes_max`] that the client has allowed and the socket has not taken. A message that was
/// taken here is sent unless the call is reset or the connection ends.
#[derive(Clone)]
pub struct ResponseSink {
    state: Rc<RefCell<SinkState>>,
}

/// Why a response was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The call has ended.
    #[error("the call has ended")]
    Closed,
    /// No room until the client reads; here is the message again.
    #[error("the client has not read enough")]
    Full(Framed),
    /// Longer than a message may be.
    #[error("{0}")]
    TooLarge(Status),
}

impl From<SinkError> for Status {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Closed => Status::CANCELED,
            SinkError::Full(_) => Status::new(Code::ResourceExhausted, "grpc: the client has not read enough"),
            SinkError::TooLarge(status) => status,
        }
    }
}

impl ResponseSink {
    pub(super) fn new(state: Rc<RefCell<SinkState>>) -> Self {
        ResponseSink { state }
    }

    /// Takes a message as soon as there is room.
    ///
    /// # Errors
    /// `Closed` and `TooLarge`.
    pub async fn send(&self, message: Framed) -> Result<(), SinkError> {
        self.ready().await?;
        self.state.borrow_mut().push(message)
    }

    /// Takes a message if there is room.
    ///
    /// # Errors
    /// All of [`SinkError`].
    pub fn try_send(&self, message: Framed) -> Result<(), SinkError> {
        let mut state = self.state.borrow_mut();
        match state.has_room() {
            true => state.push(message),
            false => Err(SinkError::Full(message)),
        }
    }

    /// Waits until a message would be taken.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn ready(&self) -> Result<(), SinkError> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// [`Self::ready`] for hand-written futures.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        let mut state = self.state.borrow_mut();
        if state.io.is_none() {
            return Poll::Ready(Err(SinkError::Closed));
        }
        if state.has_room() {
            return Poll::Ready(Ok(()));
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// True if [`Self::try_send`] would take a message now, or fail because the call has ended.
    pub fn has_room(&self) -> bool {
        self.state.borrow().has_room()
    }

    /// Bytes taken and not yet allowed by the client's window.
    pub fn queued_bytes(&self) -> usize {
        self.state.borrow().queued_bytes
    }

    /// For what the handler holds beside its messages as long as the call goes on.
    #[must_use]
    pub fn hold(&self) -> Held {
        Held::new(&self.state.borrow().shared.budget)
    }

    /// True if the call has ended: nothing more can be sent.
    pub fn is_closed(&self) -> bool {
        self.state.borrow().io.is_none()
    }
}

/// The sending half of a call, shared by its handler and the call itself.
pub(super) struct SinkState {
    method: Method,
    /// None once the call has ended.
    io: Option<SinkIo>,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    content_type: HeaderValue,
    shared: Rc<Shared>,
    /// Those that wait for room.
    waiting: Vec<Waker>,
    /// The call, which waits for the client's window.
    call: Option<Waker>,
}

struct SinkIo {
    respond: SendResponse<Outgoing>,
    stream: Option<SendStream<Outgoing>>,
}

impl SinkState {
    pub(super) fn new(
        method: Method,
        respond: SendResponse<Outgoing>,
        content_type: HeaderValue,
        shared: &Rc<Shared>,
    ) -> Self {
        SinkState {
            method,
            io: Some(SinkIo { respond, stream: None }),
            queue: VecDeque::new(),
            queued_bytes: 0,
            content_type,
            shared: shared.clone(),
            waiting: Vec::new(),
            call: None,
        }
    }

    fn has_room(&self) -> bool {
        self.io.is_none() || self.queued_bytes < self.shared.limits.sink_bytes_max
    }

    pub(super) fn push(&mut self, message: Framed) -> Result<(), SinkError> {
        if self.io.is_none() {
            return Err(SinkError::Closed);
        }
        message.check().map_err(SinkError::TooLarge)?;
        self.shared.metrics.message_sent(self.method, message.message_bytes());
        for piece in message.into_pieces() {
            self.queued_bytes += piece.len();
            self.queue.push_back(Outgoing::new(piece, &self.shared.budget));
        }
        self.pump();
        // The call learns here that it has to wait for the window, whoever sent this.
        if !self.queue.is_empty()
            && let Some(call) = &self.call
        {
            call.wake_by_ref();
        }
        Ok(())
    }

    /// Hands to HTTP/2 what the client's window allows.
    fn pump(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let queued_bytes = self.queued_bytes;
        let Some(stream) = self.stream() else { return self.close() };
        // Reserving is a request for all that is queued; what isn't given now comes by poll_capacity.
        stream.reserve_capacity(queued_bytes.min(u32::MAX as usize >> 1));
        while let Some(front) = self.queue.front_mut() {
            let stream = self.io.as_mut().and_then(|io| io.stream.as_mut()).expect("opened above");
            let capacity = stream.capacity();
            if capacity == 0 {
                break;
            }
            let part = match front.len() <= capacity {
                true => self.queue.pop_front().expect("there is a front"),
                false => front.split_to(capacity),
            };
            self.queued_bytes -= part.len();
            if stream.send_data(part, false).is_err() {
                return self.close();
            }
        }
        if self.queued_bytes < self.shared.limits.sink_bytes_max {
            self.waiting.drain(..).for_each(Waker::wake);
        }
    }

    /// The stream, opened with the response's headers when it is first needed. None if the call was reset.
    fn stream(&mut self) -> Option<&mut SendStream<Outgoing>> {
        let io = self.io.as_mut()?;
        if io.stream.is_none() {
            io.stream = Some(io.respond.send_response(response_head(&self.content_type), false).ok()?);
        }
        io.stream.as_mut()
    }

    /// Moves on what waits for the window; ready when the call was reset.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.call.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.call = Some(cx.waker().clone());
        }
        self.pump();
        while !self.queue.is_empty() {
            let Some(stream) = self.io.as_mut().and_then(|io| io.stream.as_mut()) else { break };
            match stream.poll_capacity(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(_))) => self.pump(),
                Poll::Ready(_) => self.close(),
            }
        }
        let Some(io) = &mut self.io else { return Poll::Ready(()) };
        let reset = match &mut io.stream {
            Some(stream) => stream.poll_reset(cx),
            None => io.respond.poll_reset(cx),
        };
        reset.map(|_| self.close())
    }

    /// Ready when HTTP/2 has all that was pushed (true), or the call was reset (false).
    pub(super) fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.poll_reset(cx).is_ready() {
            return Poll::Ready(false);
        }
        if self.queue.is_empty() { Poll::Ready(self.io.is_some()) } else { Poll::Pending }
    }

    /// Ends the call with a status, behind all that was taken.
    pub(super) fn finish(&mut self, status: Result<(), Status>) {
        let status = status.err();
        if self.queue.is_empty()
            && let Some(io) = &mut self.io
            && io.stream.is_none()
        {
            send_trailers_only(&mut io.respond, &self.content_type, status.as_ref());
            return self.close();
        }
        // What is queued is bounded and counted until it is written, so HTTP/2 may hold it.
        let queue = std::mem::take(&mut self.queue);
        if let Some(stream) = self.stream() {
            let sent = queue.into_iter().try_for_each(|bytes| stream.send_data(bytes, false));
            // An error is a reset: nobody is left to be told.
            let _ = sent.and_then(|()| stream.send_trailers(trailers(status.as_ref())));
        }
        self.close();
    }

    /// Lets the stream go; nothing more is sent.
    pub(super) fn close(&mut self) {
        self.io = None;
        self.queue.clear();
        self.queued_bytes = 0;
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

pub(super) fn response_head(content_type: &HeaderValue) -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type.clone());
    response
}

/// The trailers of a call; None is success.
pub(super) fn trailers(status: Option<&Status>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    add_status(&mut trailers, status);
    trailers
}

pub(super) fn add_status(headers: &mut HeaderMap, status: Option<&Status>) {
    match status {
        None => {
            headers.insert("grpc-status", Code::Ok.header());
        }
        Some(status) => {
            headers.insert("grpc-status", status.code.header());
            headers.insert("grpc-message", status.message_header());
        }
    }
}

/// A whole answer in one HEADERS frame.
pub(super) fn send_trailers_only(
    respond: &mut SendResponse<Outgoing>,
    content_type: &HeaderValue,
    status: Option<&Status>,
) {
    let mut response = response_head(content_type);
    add_status(response.headers_mut(), status);
    // An error is a reset: nobody is left to be told.
    let _ = respond.send_response(response, true);
}
