use super::shared::Shared;
use crate::framed::{Assembler, Encoding};
use crate::memory::{Charge, Kind};
use crate::status::{Code, Status};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use ringstone_proto::Method;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// The request messages of a call. Messages that nobody asks for stay with the client, beyond one window.
pub struct RequestStream {
    incoming: Rc<RefCell<Incoming>>,
}

impl RequestStream {
    pub(super) fn new(incoming: Rc<RefCell<Incoming>>) -> Self {
        RequestStream { incoming }
    }

    /// The next message, not decoded; None when the client has said that it was the last. After an error there is no
    /// more. A handler that waits here when the call is reset is dropped.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        poll_fn(|cx| self.incoming.borrow_mut().poll_next(cx)).await
    }

    /// The one message of a call with one request.
    ///
    /// # Errors
    /// `Unknown` "EOF" if there is none, as etcd answers, and what [`Self::next`] returns.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        poll_fn(|cx| self.incoming.borrow_mut().poll_only(cx)).await
    }
}

/// The receiving half of a call. All that it holds is charged, also what its handler has not asked for.
pub(super) struct Incoming {
    method: Method,
    body: RecvStream,
    assembler: Assembler,
    /// Taken from HTTP/2 before it was asked for. The client's window stays as narrow as it is meanwhile.
    backlog: BytesMut,
    body_ended: bool,
    charge: Charge,
    ended: bool,
    shared: Rc<Shared>,
}

impl Incoming {
    pub(super) fn new(method: Method, body: RecvStream, encoding: Encoding, shared: &Rc<Shared>) -> Self {
        Incoming {
            method,
            body,
            assembler: Assembler::new(encoding, shared.limits.message_bytes_max),
            backlog: BytesMut::new(),
            body_ended: false,
            charge: Charge::new(&shared.budget, Kind::Incoming, 0),
            ended: false,
            shared: shared.clone(),
        }
    }

    pub(super) fn poll_only(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let none = || Err(Status { code: Code::Unknown, message: "EOF".into() });
        self.poll_next(cx).map(|next| next.unwrap_or_else(none))
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let next = ready!(self.poll_message(cx));
        if !matches!(next, Ok(Some(_))) {
            self.ended = true;
        }
        Poll::Ready(next.transpose())
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if self.ended && self.held_bytes() == 0 {
                return Poll::Ready(Ok(None));
            }
            let message = self.assembler.next();
            self.charge.set(self.held_bytes());
            if let Some(message) = message? {
                self.shared.metrics.message_received(self.method, message.len());
                return Poll::Ready(Ok(Some(message)));
            }
            let data = match self.backlog.is_empty() {
                false => Some(Ok(self.backlog.split().freeze())),
                true if self.body_ended => None,
                true => ready!(self.body.poll_data(cx)),
            };
            match data {
                Some(Ok(data)) => self.take(data)?,
                Some(Err(_)) => return Poll::Ready(Err(Status::CANCELED)),
                None if self.assembler.held_bytes() == 0 => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Status { code: Code::Internal, message: "unexpected EOF".into() })),
            }
        }
    }

    /// Takes from HTTP/2 what has come and nobody asks for: there it would not be charged, and small pieces would hold
    /// the large buffers that they came in.
    pub(super) fn pull(&mut self, cx: &mut Context<'_>) {
        while !self.body_ended
            && let Poll::Ready(data) = self.body.poll_data(cx)
        {
            match data {
                Some(Ok(data)) => self.backlog.extend_from_slice(&data),
                // A reset is seen by the call itself.
                Some(Err(_)) | None => self.body_ended = true,
            }
        }
        self.charge.set(self.held_bytes());
    }

    fn held_bytes(&self) -> usize {
        self.assembler.held_bytes() + self.backlog.len()
    }

    fn take(&mut self, data: Bytes) -> Result<(), Status> {
        if self.body.flow_control().release_capacity(data.len()).is_err() {
            return Err(Status::CANCELED);
        }
        self.assembler.push(data);
        self.charge.set(self.held_bytes());
        let limits = &self.shared.limits;
        if self.shared.budget.incoming_bytes() > limits.connection_incoming_bytes_max {
            let text = format!(
                "grpc: incomplete requests of this connection hold more than {} bytes",
                limits.connection_incoming_bytes_max
            );
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }
}
