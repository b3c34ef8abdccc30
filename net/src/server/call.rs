//! One call: its head, its right to be here, its message, its handler, its answer.

use super::head::{Refusal, read_head};
use super::requests::{Incoming, RequestStream};
use super::shared::{DeadlineWait, Shared};
use super::sink::{ResponseSink, SinkState, response_head, send_trailers_only, trailers};
use crate::admission::admission;
use crate::budget::Outgoing;
use crate::context::{CallContext, kept_metadata};
use crate::framed::Framed;
use crate::handler::{Handler, UnaryEnd};
use crate::memory::{CALL_BYTES, Charge, Kind};
use crate::status::{Code, Status};
use futures_util::future::Either;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Request};
use ringstone_proto::{Method, MethodKind};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A reset earlier than this is one of an attack, not of a caller that gave up.
const RAPID_RESET_AGE: Duration = Duration::from_secs(1);

/// Starts a call; None if its head was enough to answer it. The future is moved into the set of calls: it is kept small by
/// having the handler's own future in it once, and arguments as captures, which an `async fn` would hold twice.
pub(super) fn start<H: Handler>(
    shared: &Rc<Shared>,
    handler: &Rc<H>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Outgoing>,
) -> Option<impl Future<Output = ()> + use<H>> {
    let (parts, body) = request.into_parts();
    let head = match read_head(&parts) {
        Ok(head) => head,
        Err(refusal) => {
            refuse(&mut respond, refusal);
            shared.call_ended();
            return None;
        }
    };
    let started_at = shared.now.get();
    let deadline = head.timeout.map(|timeout| started_at.saturating_add(timeout));
    let (metadata, metadata_bytes) = kept_metadata(&parts.headers);
    let context = CallContext { peer: shared.peer, metadata, deadline, started_at };
    let call = Call::new(shared, head.method, started_at, deadline, metadata_bytes);
    if let Err(status) = admit(shared, &**handler, head.method, &context) {
        call.end(status.code);
        send_trailers_only(&mut respond, &head.content_type, Some(&status));
        return None;
    }
    let incoming = Incoming::new(head.method, body, head.encoding, shared);
    Some(match head.method.kind() {
        MethodKind::Unary => Either::Left(unary(handler.clone(), call, context, incoming, respond, head.content_type)),
        MethodKind::ClientStream | MethodKind::ServerStream | MethodKind::BidiStream => {
            let sink = SinkState::new(head.method, respond, head.content_type, shared);
            Either::Right(stream(handler.clone(), call, context, incoming, sink))
        }
    })
}

fn refuse(respond: &mut SendResponse<Outgoing>, refusal: Refusal) {
    let mut response = response_head(&refusal.content_type);
    *response.status_mut() = refusal.http_status;
    super::sink::add_status(response.headers_mut(), Some(&refusal.status));
    // An error is a reset: nobody is left to be told.
    let _ = respond.send_response(response, true);
}

fn admit(shared: &Shared, handler: &impl Handler, method: Method, context: &CallContext) -> Result<(), Status> {
    handler.admit(method, admission(method), context)?;
    let bytes_max = shared.limits.connection_outgoing_bytes_max;
    if shared.budget.outgoing_bytes() > bytes_max {
        let text = format!("grpc: more than {bytes_max} bytes of responses on this connection have not been read");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    admit_memory(shared)
}

fn admit_memory(shared: &Shared) -> Result<(), Status> {
    if !shared.budget.admits_call() {
        let text = "grpc: this connection holds more than its share of the server's memory";
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(())
}

#[allow(clippy::manual_async_fn, reason = "an async fn would hold its arguments twice")]
fn unary<H: Handler>(
    handler: Rc<H>,
    mut call: Call,
    context: CallContext,
    mut incoming: Incoming,
    mut respond: SendResponse<Outgoing>,
    content_type: HeaderValue,
) -> impl Future<Output = ()> + use<H> {
    async move {
        let method = call.method;
        let shared = call.shared.clone();
        let notes = H::Notes::default();
        let outcome = {
            let mut work = pin!(async {
                // A message cut short is Unknown here and Internal on a stream: grpc-go has it so.
                let only = poll_fn(|cx| incoming.poll_only(cx)).await;
                let message = only.map_err(|status| match &*status.message {
                    "unexpected EOF" => Status { code: Code::Unknown, ..status },
                    _ => status,
                })?;
                // What the client sends beyond its message is thrown away as it comes.
                drop(incoming);
                // Other calls of this turn may have taken much since this one was let in.
                shared.budget.memory().relieve();
                admit_memory(&shared)?;
                let _working = Working::new(&shared, message.len());
                handler.unary(method, &context, message, &notes).await
            });
            poll_fn(|cx| {
                if let Poll::Ready(result) = work.as_mut().poll(cx) {
                    return Poll::Ready(Outcome::Done(result));
                }
                if call.poll_deadline(cx).is_ready() {
                    return Poll::Ready(Outcome::Done(Err(Status::DEADLINE_EXCEEDED)));
                }
                respond.poll_reset(cx).map(|_| Outcome::Reset)
            })
            .await
        };
        let end = match outcome {
            Outcome::Reset => {
                call.reset();
                UnaryEnd { code: Code::Canceled, response_bytes: 0, client: Duration::ZERO }
            }
            Outcome::Done(result) => match result.and_then(|framed| framed.check().map(|()| framed)) {
                Ok(framed) if framed.message_bytes() > call.shared.limits.sink_bytes_max => {
                    answer_long(&call, respond, content_type, framed).await
                }
                result => answer(&call, &mut respond, &content_type, result),
            },
        };
        handler.unary_ended(method, &context, &notes, end);
    }
}

/// A unary call whose handler works on its message.
struct Working {
    shared: Rc<Shared>,
    /// The message, and what its handler makes of it.
    _message: Charge,
}

impl Working {
    fn new(shared: &Rc<Shared>, message_bytes: usize) -> Working {
        shared.working.set(shared.working.get() + 1);
        Working { shared: shared.clone(), _message: Charge::new(&shared.budget, Kind::Other, 2 * message_bytes) }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.shared.working.set(self.shared.working.get() - 1);
    }
}

enum Outcome<T> {
    Done(Result<T, Status>),
    /// By the client.
    Reset,
}

/// Hands a whole answer to HTTP/2 at once.
fn answer(
    call: &Call,
    respond: &mut SendResponse<Outgoing>,
    content_type: &HeaderValue,
    result: Result<Framed, Status>,
) -> UnaryEnd {
    match result {
        Ok(framed) => {
            call.end(Code::Ok);
            let response_bytes = framed.message_bytes();
            // An error is a reset: nobody is left to be told.
            let _ = hand_over(call, respond, content_type, framed);
            UnaryEnd { code: Code::Ok, response_bytes, client: Duration::ZERO }
        }
        Err(status) => {
            call.end(status.code);
            // As grpc-go's interceptors count it.
            call.shared.metrics.message_sent(call.method, 0);
            send_trailers_only(respond, content_type, Some(&status));
            UnaryEnd { code: status.code, response_bytes: 0, client: Duration::ZERO }
        }
    }
}

fn hand_over(
    call: &Call,
    respond: &mut SendResponse<Outgoing>,
    content_type: &HeaderValue,
    framed: Framed,
) -> Result<(), h2::Error> {
    let shared = &call.shared;
    shared.metrics.message_sent(call.method, framed.message_bytes());
    let mut stream = respond.send_response(response_head(content_type), false)?;
    for piece in framed.into_pieces() {
        stream.send_data(Outgoing::new(piece, &shared.budget), false)?;
    }
    stream.send_trailers(trailers(None))
}

/// Hands a long answer to HTTP/2 as its reader makes room for it.
async fn answer_long(
    call: &Call,
    respond: SendResponse<Outgoing>,
    content_type: HeaderValue,
    framed: Framed,
) -> UnaryEnd {
    call.end(Code::Ok);
    let (since, response_bytes) = (call.shared.now.get(), framed.message_bytes());
    let mut sink = SinkState::new(call.method, respond, content_type, &call.shared);
    // A call that was reset meanwhile takes nothing, and poll_taken says so.
    let _ = sink.push(framed);
    let taken = poll_fn(|cx| sink.poll_taken(cx)).await;
    if taken {
        sink.finish(Ok(()));
    }
    let client = call.shared.now.get().saturating_sub(since);
    UnaryEnd { code: if taken { Code::Ok } else { Code::Canceled }, response_bytes, client }
}

/// The sink may outlive the call in other hands; it ends with the call, however the call ends.
struct CallSink(Rc<RefCell<SinkState>>);

impl Drop for CallSink {
    fn drop(&mut self) {
        self.0.borrow_mut().close();
    }
}

fn stream<H: Handler>(
    handler: Rc<H>,
    mut call: Call,
    context: CallContext,
    incoming: Incoming,
    sink: SinkState,
) -> impl Future<Output = ()> + use<H> {
    let sink = CallSink(Rc::new(RefCell::new(sink)));
    async move {
        let outcome = {
            let responses = ResponseSink::new(sink.0.clone());
            let incoming = Rc::new(RefCell::new(incoming));
            let requests = RequestStream::new(incoming.clone());
            let mut work = pin!(handler.stream(call.method, &context, requests, responses));
            poll_fn(|cx| {
                // A stream's handler may work for long at each poll, and does not end.
                if call.shared.is_late() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let polled = work.as_mut().poll(cx);
                call.shared.note_work();
                if let Poll::Ready(result) = polled {
                    return Poll::Ready(Outcome::Done(result));
                }
                incoming.borrow_mut().pull(cx);
                if call.poll_deadline(cx).is_ready() {
                    return Poll::Ready(Outcome::Done(Err(Status::DEADLINE_EXCEEDED)));
                }
                sink.0.borrow_mut().poll_reset(cx).map(|()| Outcome::Reset)
            })
            .await
        };
        match outcome {
            Outcome::Reset => call.reset(),
            Outcome::Done(result) => {
                call.end(result.as_ref().map_or_else(|status| status.code, |()| Code::Ok));
                sink.0.borrow_mut().finish(result);
            }
        }
    }
}

/// A call between its start and its end, counted at both. One that is dropped was cancelled.
struct Call {
    method: Method,
    started_at: Duration,
    deadline: Option<Duration>,
    wait: DeadlineWait,
    shared: Rc<Shared>,
    ended: Cell<Code>,
    _charge: Charge,
    /// Where the times of calls are counted: its start, and what its handler took.
    timed: Option<(Instant, Cell<Option<Duration>>)>,
}

impl Call {
    fn new(
        shared: &Rc<Shared>,
        method: Method,
        started_at: Duration,
        deadline: Option<Duration>,
        metadata_bytes: usize,
    ) -> Self {
        shared.metrics.call_started(method);
        Call {
            method,
            started_at,
            deadline,
            wait: DeadlineWait::new(shared.clone()),
            shared: shared.clone(),
            ended: Cell::new(Code::Canceled),
            _charge: Charge::new(&shared.budget, Kind::Other, CALL_BYTES + metadata_bytes),
            timed: shared.metrics.counts_times().then(|| (Instant::now(), Cell::new(None))),
        }
    }

    fn poll_deadline(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        if deadline <= self.shared.now.get() {
            return Poll::Ready(());
        }
        self.wait.register(deadline, cx.waker());
        Poll::Pending
    }

    fn end(&self, code: Code) {
        self.ended.set(code);
        if let Some((began, took)) = &self.timed {
            took.set(Some(began.elapsed()));
        }
        let resets = &self.shared.rapid_resets;
        resets.set(resets.get().saturating_sub(1));
    }

    fn reset(&self) {
        let age = self.shared.now.get().saturating_sub(self.started_at);
        if age < RAPID_RESET_AGE {
            let resets = &self.shared.rapid_resets;
            resets.set(resets.get().saturating_add(1));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.shared.call_ended();
        self.shared.metrics.call_handled(self.method, self.ended.get());
        if let Some((began, took)) = &self.timed {
            self.shared.metrics.call_took(self.method, took.get().unwrap_or_else(|| began.elapsed()));
        }
    }
}
