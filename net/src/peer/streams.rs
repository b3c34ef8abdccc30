//! The tasks of a link: one writer a stream, one reader a stream. Each ends when its stream does; whoever finds that the
//! other side breaks the protocol closes the connection.

use super::chunk;
use super::frame::{self, Decoder, Frame, FrameKind, Grant, StreamKind, WireError};
use super::hello::HELLO_BYTES;
use super::inbox::PeerEvent;
use super::link::Link;
use super::member::{Member, add};
use super::peers::Shared;
use super::signal::Signal;
use super::snapshot::{self, SnapshotReceiver};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use std::rc::Rc;
use std::time::Instant;

const CONTROL_PRIORITY: i32 = 2;
const LOG_PRIORITY: i32 = 1;
/// What one write hands to QUIC, with one frame more: it has left the queue and its bounds.
const BYTES_A_WRITE: usize = 128 << 10;
/// A payload up to this is copied behind its header: QUIC takes, keeps and acknowledges pieces, and few are cheaper.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Pieces that are read at once: as many datagrams.
const READ_PIECES: usize = 16;

/// Grants first, then the member's queue, in batches: whatever has gathered while the last write waited.
/// `first` goes before all of them.
pub(super) async fn write_control(
    member: Rc<Member>,
    link: Rc<Link>,
    first: Option<[u8; HELLO_BYTES]>,
    mut stream: SendStream,
) {
    let _ = stream.set_priority(CONTROL_PRIORITY);
    if let Some(first) = first
        && stream.write_all(&first).await.is_err()
    {
        return;
    }
    loop {
        let some = || {
            let waits = !member.control.borrow().is_empty() || !link.grants.borrow().is_empty();
            (waits || link.ended.get()).then_some(())
        };
        wait_either(&member.control_waits, &link, some).await;
        if link.ended.get() {
            let _ = stream.finish();
            return;
        }
        let mut batch = Batch::default();
        for grant in link.grants.take().into_values() {
            batch.push(&Frame { kind: FrameKind::Grant, group: 0, payload: grant.encode() });
        }
        while batch.bytes < BYTES_A_WRITE
            && let Some(frame) = member.control.borrow_mut().pop()
        {
            batch.push(&frame);
        }
        if write(&member, &mut stream, batch).await.is_err() {
            return;
        }
    }
}

pub(super) async fn write_log(member: Rc<Member>, link: Rc<Link>) {
    let Ok(mut stream) = link.connection.open_uni().await else { return };
    let _ = stream.set_priority(LOG_PRIORITY);
    if stream.write_all(&[frame::STREAM_LOG]).await.is_err() {
        return;
    }
    loop {
        let some = || (!member.log.borrow().is_empty() || link.ended.get()).then_some(());
        wait_either(&member.log_waits, &link, some).await;
        if link.ended.get() {
            let _ = stream.finish();
            return;
        }
        let mut batch = Batch::default();
        while batch.bytes < BYTES_A_WRITE
            && let Some(frame) = member.log.borrow_mut().pop()
        {
            batch.push(&frame);
        }
        if write(&member, &mut stream, batch).await.is_err() {
            return;
        }
    }
}

/// Waits for a queue or a change of the link.
async fn wait_either(queue: &Signal, link: &Link, mut look: impl FnMut() -> Option<()>) {
    let mut of_queue = std::pin::pin!(queue.wait(|| None::<()>));
    let mut of_link = std::pin::pin!(link.changed.wait(|| None::<()>));
    std::future::poll_fn(|cx| {
        use std::future::Future;
        if look().is_some() {
            return std::task::Poll::Ready(());
        }
        // Neither completes: they note who is to be woken.
        let _ = of_queue.as_mut().poll(cx);
        let _ = of_link.as_mut().poll(cx);
        std::task::Poll::Pending
    })
    .await;
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    /// Behind them: headers and short payloads.
    gathered: BytesMut,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, frame: &Frame) {
        let header = frame::encode_header(frame.kind, frame.group, frame.payload.len() as u32);
        self.bytes += header.len() + frame.payload.len();
        self.gathered.extend_from_slice(&header);
        if frame.payload.len() <= COPIED_BYTES_MAX {
            self.gathered.extend_from_slice(&frame.payload);
        } else {
            self.pieces.push(self.gathered.split().freeze());
            self.pieces.push(frame.payload.clone());
        }
    }

    fn into_pieces(mut self) -> Vec<Bytes> {
        if !self.gathered.is_empty() {
            self.pieces.push(self.gathered.freeze());
        }
        self.pieces
    }
}

async fn write(member: &Member, stream: &mut SendStream, batch: Batch) -> Result<(), quinn::WriteError> {
    let bytes = batch.bytes;
    stream.write_all_chunks(&mut batch.into_pieces()).await?;
    add(&member.counters.sent_bytes, bytes);
    Ok(())
}

/// Frames of the control stream to the group, grants to their snapshots.
pub(super) async fn read_control(shared: Rc<Shared>, member: Rc<Member>, link: Rc<Link>, stream: RecvStream) {
    let handle = async |frame: Frame| {
        if frame.kind == FrameKind::Grant {
            let grant = Grant::decode(&frame.payload)?;
            let credit = link.sending.borrow().get(&grant.serial).and_then(std::rc::Weak::upgrade);
            if let Some(credit) = credit {
                credit.grant(&grant);
            }
            return Ok(());
        }
        shared.inbox.push(PeerEvent::Control { member: member.id, group: frame.group, bytes: frame.payload }).await;
        Ok(())
    };
    read_frames(&shared, &member, &link, stream, StreamKind::Control, handle).await;
}

async fn read_log(shared: Rc<Shared>, member: Rc<Member>, link: Rc<Link>, stream: RecvStream) {
    let handle = async |frame: Frame| {
        shared.inbox.push(PeerEvent::Log { member: member.id, group: frame.group, bytes: frame.payload }).await;
        Ok(())
    };
    read_frames(&shared, &member, &link, stream, StreamKind::Log, handle).await;
}

async fn read_frames(
    shared: &Rc<Shared>,
    member: &Rc<Member>,
    link: &Rc<Link>,
    mut stream: RecvStream,
    kind: StreamKind,
    handle: impl AsyncFn(Frame) -> Result<(), WireError>,
) {
    let mut decoder = Decoder::new(kind, &shared.limits);
    let mut pieces: [Bytes; READ_PIECES] = Default::default();
    loop {
        let count = match stream.read_chunks(&mut pieces).await {
            Ok(Some(count)) => count,
            Ok(None) => {
                // The other side has moved to another connection, or is about to close this one.
                return decoder.finish().unwrap_or_else(|error| link.fail_wire(shared, member.id, error));
            }
            Err(_) => return,
        };
        member.counters.last_heard.set(Some(Instant::now()));
        for piece in &mut pieces[..count] {
            let mut bytes = std::mem::take(piece);
            add(&member.counters.received_bytes, bytes.len());
            loop {
                match decoder.take(&mut bytes) {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        if let Err(error) = handle(frame).await {
                            return link.fail_wire(shared, member.id, error);
                        }
                    }
                    Err(error) => return link.fail_wire(shared, member.id, error),
                }
            }
        }
    }
}

/// One-way streams of the other side: its log, and snapshots. A second two-way stream is none of the protocol's.
pub(super) async fn accept_streams(shared: Rc<Shared>, member: Rc<Member>, link: Rc<Link>) {
    let (of_second, of_link) = (Rc::clone(&shared), Rc::clone(&link));
    let id = member.id;
    glommio::spawn_local(async move {
        if of_link.connection.accept_bi().await.is_ok() {
            of_link.fail_wire(&of_second, id, WireError::TooManyStreams("control"));
        }
    })
    .detach();
    while let Ok(stream) = link.connection.accept_uni().await {
        let (shared, member, link) = (Rc::clone(&shared), Rc::clone(&member), Rc::clone(&link));
        glommio::spawn_local(begin_stream(shared, member, link, stream)).detach();
    }
}

async fn begin_stream(shared: Rc<Shared>, member: Rc<Member>, link: Rc<Link>, mut stream: RecvStream) {
    let mut kind = [0];
    if stream.read_exact(&mut kind).await.is_err() {
        return;
    }
    match kind[0] {
        frame::STREAM_LOG if link.has_log.replace(true) => {
            link.fail_wire(&shared, member.id, WireError::TooManyStreams("log"));
        }
        frame::STREAM_LOG => read_log(shared, member, link, stream).await,
        // Refused by dropping it: QUIC bounds the streams that are open, this those that the group still holds.
        frame::STREAM_SNAPSHOT if link.receiving.get() >= shared.limits.snapshot_streams_max => {}
        frame::STREAM_SNAPSHOT => {
            let receiving = snapshot::Receiving::begin(Rc::clone(&link));
            let mut head = [0; chunk::HEAD_BYTES];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            match chunk::Head::decode(&head) {
                Ok(head) => {
                    let stream = SnapshotReceiver::new(shared.clone(), member.clone(), receiving, head, stream);
                    shared.inbox.push(PeerEvent::Snapshot { member: member.id, stream }).await;
                }
                Err(error) => link.fail_wire(&shared, member.id, error),
            }
        }
        kind => link.fail_wire(&shared, member.id, WireError::StreamKind(kind)),
    }
}
