use super::shared::Shared;
use crate::budget::IncomingShare;
use crate::framed::{Assembler, Encoding};
use crate::status::{Code, Status};
use bytes::Bytes;
use h2::RecvStream;
use ringstone_proto::Method;
use std::future::poll_fn;
use std::rc::Rc;

/// The request messages of a call. Messages that nobody asks for stay with the client, beyond one window.
pub struct RequestStream {
    method: Method,
    body: RecvStream,
    assembler: Assembler,
    share: IncomingShare,
    ended: bool,
    shared: Rc<Shared>,
}

impl RequestStream {
    pub(super) fn new(method: Method, body: RecvStream, encoding: Encoding, shared: &Rc<Shared>) -> Self {
        RequestStream {
            method,
            body,
            assembler: Assembler::new(encoding, shared.limits.message_bytes_max),
            share: IncomingShare::new(&shared.budget),
            ended: false,
            shared: shared.clone(),
        }
    }

    /// The next message, not decoded; None when the client has said that it was the last. After an error there is no
    /// more. A handler that waits here when the call is reset is dropped.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let next = self.try_next().await;
        if !matches!(next, Ok(Some(_))) {
            self.ended = true;
        }
        next.transpose()
    }

    /// The one message of a call with one request.
    ///
    /// # Errors
    /// `Unknown` "EOF" if there is none, as etcd answers, and what [`Self::next`] returns.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        self.next().await.unwrap_or(Err(Status { code: Code::Unknown, message: "EOF".into() }))
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if self.ended && self.assembler.held_bytes() == 0 {
                return Ok(None);
            }
            if let Some(message) = self.assembler.next()? {
                self.share.set(self.assembler.held_bytes());
                self.shared.metrics.message_received(self.method, message.len());
                return Ok(Some(message));
            }
            match poll_fn(|cx| self.body.poll_data(cx)).await {
                Some(Ok(data)) => self.take(data)?,
                Some(Err(_)) => return Err(Status::CANCELED),
                None if self.assembler.held_bytes() == 0 => return Ok(None),
                None => return Err(Status { code: Code::Internal, message: "unexpected EOF".into() }),
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Result<(), Status> {
        if self.body.flow_control().release_capacity(data.len()).is_err() {
            return Err(Status::CANCELED);
        }
        self.assembler.push(data);
        self.share.set(self.assembler.held_bytes());
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
