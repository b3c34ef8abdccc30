//! A snapshot from one member to another.
//!
//! ```text
//! sender                                   receiver
//!   head (id, length, lowest offset) --->    PeerEvent::Snapshot
//!                                   <---     accept(offset): first grant, where to begin and how far to go
//!   chunks ... as far as granted     --->    next(): checked, in order
//!                                   <---     grants, as chunks are taken
//!   empty chunk                      --->    next() = None, or next_unconfirmed() = None, and later confirm()
//!                                   <---     last grant: all is taken and checked
//! ```
//!
//! A receiver that has a part of the same id already begins behind it: after a lost connection the sender offers again and
//! nothing goes twice. Grants, not QUIC's windows, bound what is under way: the rest of the connection's send window belongs
//! to heartbeats and entries.

use super::chunk::{CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES, ChunkHeader, HEAD_BYTES, Head, LENGTH_UNKNOWN};
use super::error::PeerError;
use super::frame::{Grant, STREAM_SNAPSHOT, WireError};
use super::link::Link;
use super::member::{Member, add};
use super::peers::Shared;
use super::signal::Signal;
use super::socket::within;
use crate::runtime::LocalBoxFuture;
use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// What is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// Whose state it is.
    pub group: u64,
    /// Names the content: the same id must be the same bytes, or a resumed snapshot is made of two.
    pub id: [u8; 16],
    /// All bytes of it, if known.
    pub length: Option<u64>,
    /// The lowest offset from which on it can be read: 0 if all of it.
    pub offset_min: u64,
}

/// Where a snapshot's bytes come from.
pub trait SnapshotSource {
    /// At least one and at most `bytes_max` bytes at `offset`, none at the end. The first call names where the receiver
    /// wants to begin; each later one goes on behind the bytes before.
    fn read(&mut self, offset: u64, bytes_max: usize) -> LocalBoxFuture<'_, io::Result<Bytes>>;
}

/// How far the sender of a snapshot may go.
#[derive(Default)]
pub(super) struct Credit {
    consumed: Cell<Option<u64>>,
    limit: Cell<u64>,
    pub(super) changed: Signal,
}

impl Credit {
    pub(super) fn grant(&self, grant: &Grant) {
        self.consumed.set(Some(grant.consumed));
        self.limit.set(self.limit.get().max(grant.limit));
        self.changed.notify();
    }
}

/// Takes a snapshot out of its link's list when it ends, however it does.
struct Sending {
    link: Rc<Link>,
    serial: u64,
    credit: Rc<Credit>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.link.sending.borrow_mut().remove(&self.serial);
    }
}

/// Sends a snapshot; returns the offset that the receiver asked for once it has taken and checked everything.
pub(super) async fn send(
    shared: &Rc<Shared>,
    member: &Rc<Member>,
    offer: &SnapshotOffer,
    source: &mut dyn SnapshotSource,
) -> Result<u64, PeerError> {
    let link = member.linked().ok_or(PeerError::NotConnected(member.id))?;
    if !link.snapshots {
        return Err(PeerError::SnapshotsDiffer(member.id));
    }
    let patience = shared.limits.snapshot_accept_timeout;
    let unanswered = || PeerError::SnapshotUnanswered(patience.as_secs());
    let lost = |error| PeerError::of_connection(error, link.connection.remote_address());
    let mut stream = within(patience, link.connection.open_uni()).await.ok_or_else(unanswered)?.map_err(lost)?;
    // Below the other streams, which are 1 and 2.
    let _ = stream.set_priority(0);
    let serial = link.serial.get();
    link.serial.set(serial + 1);
    let sending = Sending { link: Rc::clone(&link), serial, credit: Rc::default() };
    link.sending.borrow_mut().insert(serial, Rc::downgrade(&sending.credit));
    let credit = &sending.credit;

    let SnapshotOffer { group, id, length, offset_min } = *offer;
    let head = Head { serial, group, id, length: length.unwrap_or(LENGTH_UNKNOWN), offset_min };
    write(&link, &mut stream, [Bytes::from_static(&[STREAM_SNAPSHOT]), Bytes::copy_from_slice(&head.encode())]).await?;
    let first = granted(&link, &stream, credit, || credit.consumed.get());
    let begin = within(patience, first).await.ok_or_else(unanswered)??;
    if begin < offset_min || begin > head.length {
        return Err(PeerError::SnapshotOffset { found: begin, lowest: offset_min });
    }
    let mut offset = begin;
    loop {
        let bytes = source.read(offset, CHUNK_BYTES_MAX).await.map_err(PeerError::SnapshotSource)?;
        let end = offset + bytes.len() as u64;
        granted(&link, &stream, credit, || (credit.limit.get() >= end).then_some(())).await?;
        let wait = shared.throttle.borrow_mut().take(shared.epoch.elapsed(), bytes.len() as u64);
        if !wait.is_zero() {
            glommio::timer::sleep(wait).await;
        }
        let header = ChunkHeader::of(&id, offset, &bytes).encode();
        let ends = bytes.is_empty();
        add(&member.counters.snapshot_sent_bytes, bytes.len());
        write(&link, &mut stream, [Bytes::copy_from_slice(&header), bytes]).await?;
        if ends {
            break;
        }
        offset = end;
    }
    let _ = stream.finish();
    granted(&link, &stream, credit, || (credit.limit.get() == u64::MAX).then_some(())).await?;
    Ok(begin)
}

async fn write<const N: usize>(link: &Link, stream: &mut SendStream, mut pieces: [Bytes; N]) -> Result<(), PeerError> {
    // QUIC takes no empty piece.
    let count = pieces.iter().take_while(|piece| !piece.is_empty()).count();
    stream.write_all_chunks(&mut pieces[..count]).await.map_err(|error| match error {
        WriteError::ConnectionLost(error) => PeerError::of_connection(error, link.connection.remote_address()),
        _ => PeerError::SnapshotRefused,
    })
}

/// Waits for a grant, unless the receiver gives up or the connection ends.
async fn granted<T>(
    link: &Link,
    stream: &SendStream,
    credit: &Credit,
    look: impl FnMut() -> Option<T>,
) -> Result<T, PeerError> {
    let mut found = pin!(credit.changed.wait(look));
    // After the end everything may be acknowledged before it is granted: that is no news.
    let mut stopped = pin!(async {
        match stream.stopped().await {
            Ok(Some(_)) => PeerError::SnapshotRefused,
            Ok(None) => lost(link).await,
            Err(_) => lost(link).await,
        }
    });
    std::future::poll_fn(|cx| {
        if let Poll::Ready(found) = found.as_mut().poll(cx) {
            return Poll::Ready(Ok(found));
        }
        stopped.as_mut().poll(cx).map(Err)
    })
    .await
}

async fn lost(link: &Link) -> PeerError {
    PeerError::of_connection(link.connection.closed().await, link.connection.remote_address())
}

/// Counts a snapshot that comes by a link, until it has ended.
pub(super) struct Receiving {
    link: Rc<Link>,
    ended: bool,
}

impl Receiving {
    pub(super) fn begin(link: Rc<Link>) -> Self {
        link.receiving.set(link.receiving.get() + 1);
        Receiving { link, ended: false }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.link.receiving.set(self.link.receiving.get() - 1);
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.end();
    }
}

/// A snapshot that comes: accept it at an offset, then take its chunks. Dropping it tells the sender that it isn't wanted.
pub struct SnapshotReceiver {
    shared: Rc<Shared>,
    member: Rc<Member>,
    receiving: Receiving,
    head: Head,
    stream: RecvStream,
    /// Up to where it was taken and checked.
    offset: u64,
    accepted: bool,
    granted: u64,
    ended: bool,
    confirmed: bool,
}

impl SnapshotReceiver {
    pub(super) fn new(
        shared: Rc<Shared>,
        member: Rc<Member>,
        receiving: Receiving,
        head: Head,
        stream: RecvStream,
    ) -> Self {
        SnapshotReceiver {
            shared,
            member,
            receiving,
            head,
            stream,
            offset: 0,
            accepted: false,
            granted: 0,
            ended: false,
            confirmed: false,
        }
    }

    /// What is offered.
    #[must_use]
    pub fn offer(&self) -> SnapshotOffer {
        let Head { group, id, length, offset_min, .. } = self.head;
        SnapshotOffer { group, id, length: (length != LENGTH_UNKNOWN).then_some(length), offset_min }
    }

    /// Up to where its bytes were returned.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Asks for the bytes from `offset` on: 0, or what is here already of the same id.
    ///
    /// # Errors
    /// If the sender doesn't have that offset.
    pub fn accept(&mut self, offset: u64) -> Result<(), PeerError> {
        if offset < self.head.offset_min || offset > self.head.length {
            return Err(PeerError::SnapshotOffset { found: offset, lowest: self.head.offset_min });
        }
        self.offset = offset;
        self.accepted = true;
        self.grant(offset.saturating_add(self.shared.limits.snapshot_credit_bytes).min(u64::MAX - 1));
        Ok(())
    }

    /// The next bytes, checked; None once all of them were returned and the length is right. To ask for the next ones says
    /// that the ones before are taken.
    ///
    /// # Errors
    /// If the connection or the sender ends, or bytes are damaged. What was returned before stays good, and
    /// [`SnapshotReceiver::offset`] says where to go on.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        let taken = self.next_unconfirmed().await;
        if matches!(taken, Ok(None)) {
            self.confirm();
        }
        taken
    }

    /// [`SnapshotReceiver::next`], but the sender does not learn that all has come before [`SnapshotReceiver::confirm`]: for who
    /// has to make something of it first.
    ///
    /// # Errors
    /// As for `next`.
    pub async fn next_unconfirmed(&mut self) -> Result<Option<Bytes>, PeerError> {
        if self.ended {
            return Ok(None);
        }
        let taken = self.take().await;
        if !matches!(taken, Ok(Some(_))) {
            // Another one may come, however long this value is kept.
            self.receiving.end();
        }
        taken
    }

    /// All bytes were returned, and what they are for is done: the sender is told.
    ///
    /// # Panics
    /// Before the end.
    pub fn confirm(&mut self) {
        assert!(self.ended, "only what has come can be confirmed");
        if !std::mem::replace(&mut self.confirmed, true) {
            self.grant(u64::MAX);
        }
    }

    async fn take(&mut self) -> Result<Option<Bytes>, PeerError> {
        if !self.accepted {
            self.accept(self.head.offset_min)?;
        }
        let credit = self.shared.limits.snapshot_credit_bytes;
        if self.granted.saturating_sub(self.offset) <= credit - credit / 4 {
            self.grant(self.offset.saturating_add(credit).min(u64::MAX - 1));
        }
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        self.read_exact(&mut bytes).await?;
        let header = ChunkHeader::decode(&bytes, self.offset).map_err(|error| self.broken(error))?;
        let payload = self.read_payload(header.length as usize).await?;
        header.check(&self.head.id, &payload).map_err(|error| self.broken(error))?;
        if payload.is_empty() {
            if ![LENGTH_UNKNOWN, self.offset].contains(&self.head.length) {
                return Err(self.broken(WireError::SnapshotLength { found: self.offset, expected: self.head.length }));
            }
            self.ended = true;
            return Ok(None);
        }
        self.offset += payload.len() as u64;
        add(&self.member.counters.snapshot_received_bytes, payload.len());
        Ok(Some(payload.into()))
    }

    fn grant(&mut self, limit: u64) {
        let link = &self.receiving.link;
        self.granted = limit;
        let grant = Grant { serial: self.head.serial, consumed: self.offset, limit };
        link.grants.borrow_mut().insert(grant.serial, grant);
        link.changed.notify();
    }

    fn broken(&self, error: WireError) -> PeerError {
        self.receiving.link.fail_wire(&self.shared, self.member.id, error);
        PeerError::Wire(error)
    }

    /// As `read_exact`, without memory that is cleared first.
    async fn read_payload(&mut self, length: usize) -> Result<Vec<u8>, PeerError> {
        let mut payload = Vec::with_capacity(length);
        while payload.len() < length {
            match self.stream.read_chunk(length - payload.len(), true).await {
                Ok(Some(chunk)) => payload.extend_from_slice(&chunk.bytes),
                Err(quinn::ReadError::ConnectionLost(error)) => {
                    return Err(PeerError::of_connection(error, self.receiving.link.connection.remote_address()));
                }
                Ok(None) | Err(_) => return Err(PeerError::SnapshotAborted),
            }
        }
        Ok(payload)
    }

    async fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), PeerError> {
        match self.stream.read_exact(bytes).await {
            Ok(()) => Ok(()),
            Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => {
                Err(PeerError::of_connection(error, self.receiving.link.connection.remote_address()))
            }
            Err(_) => Err(PeerError::SnapshotAborted),
        }
    }
}

impl fmt::Debug for SnapshotReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, offset) = (self.member.id, self.offset);
        f.debug_struct("SnapshotReceiver")
            .field("from", &from)
            .field("head", &self.head)
            .field("offset", &offset)
            .finish()
    }
}

// A head is read whole before anything is granted: it must fit into what a stream may send unasked.
const _: () = assert!(HEAD_BYTES < 1200);
