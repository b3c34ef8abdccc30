//! Responses as gRPC frames: a five-byte prefix and a WatchResponse whose `events` (field 11, the last one) are appended
//! as bytes that were encoded once for all watchers.

use core::cell::OnceCell;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint, message};
use ringstone_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use smallvec::SmallVec;

use crate::event::{Event, EventKind};

/// Events from this size on are handed over as pieces of their own; smaller ones are copied together.
const PIECE_BYTES_MIN: usize = 8 * 1024;

/// No frame can say that it is longer than 4 GiB. Only a revision that deletes tens of millions of keys comes near; it is
/// then split though nobody asked for fragments.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// Key byte of field 11, wire type 2.
const EVENTS_KEY: u8 = 11 << 3 | 2;

/// What stands in every response's header besides the revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Cluster id.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
    /// This member's raft term when the header is filled.
    pub raft_term: u64,
}

/// One event as an entry of field 11, encoded when first asked for.
#[derive(Default)]
pub(super) struct EncodedEvent {
    plain: OnceCell<Bytes>,
    with_prev: OnceCell<Bytes>,
}

impl EncodedEvent {
    pub fn get(&self, event: &Event, prev_kv: bool) -> &Bytes {
        if prev_kv && event.prev_kv.is_some() {
            self.with_prev.get_or_init(|| encode_entry(event, true))
        } else {
            self.plain.get_or_init(|| encode_entry(event, false))
        }
    }
}

fn encode_entry(event: &Event, prev_kv: bool) -> Bytes {
    let prev_kv = event.prev_kv.as_ref().filter(|_| prev_kv);
    let kind_len = if event.kind == EventKind::Delete { 2 } else { 0 };
    let body_len =
        kind_len + message::encoded_len(2, &event.kv) + prev_kv.map_or(0, |prev_kv| message::encoded_len(3, prev_kv));
    let mut entry = Vec::with_capacity(1 + encoded_len_varint(body_len as u64) + body_len);
    entry.push(EVENTS_KEY);
    encode_varint(body_len as u64, &mut entry);
    if event.kind == EventKind::Delete {
        entry.extend_from_slice(&[1 << 3, 1]);
    }
    message::encode(2, &event.kv, &mut entry);
    if let Some(prev_kv) = prev_kv {
        message::encode(3, prev_kv, &mut entry);
    }
    Bytes::from(entry)
}

/// Whole gRPC frames, to be written one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The bytes in order; a frame may go over several pieces, a piece may hold many frames.
    pub pieces: SmallVec<[Bytes; 2]>,
    /// How many frames (WatchResponses) this is.
    pub frames: usize,
}

impl Output {
    /// Bytes of all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// True for no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }
}

/// Collects frames.
#[derive(Default)]
pub(super) struct FrameWriter {
    output: Output,
    open: BytesMut,
    written: usize,
}

impl FrameWriter {
    pub fn written(&self) -> usize {
        self.written
    }

    pub fn finish(mut self) -> Output {
        self.close_piece();
        self.output
    }

    fn close_piece(&mut self) {
        if !self.open.is_empty() {
            self.output.pieces.push(self.open.split().freeze());
        }
    }

    /// One frame: `head` (which has no events) and these events. The member's identity fills the header.
    pub fn frame(&mut self, head: &WatchResponse, events: &[Bytes]) {
        let head_len = head.encoded_len();
        let body_len = head_len + events.iter().map(Bytes::len).sum::<usize>();
        let small_len = events.iter().map(Bytes::len).filter(|&len| len < PIECE_BYTES_MIN).sum::<usize>();
        self.open.reserve(5 + head_len + small_len);
        self.open.put_u8(0);
        self.open.put_u32(u32::try_from(body_len).expect("a frame is cut at 1 GiB, an event is smaller"));
        head.encode(&mut self.open).expect("a BytesMut grows");
        for event in events {
            if event.len() < PIECE_BYTES_MIN {
                self.open.extend_from_slice(event);
            } else {
                self.close_piece();
                self.output.pieces.push(event.clone());
            }
        }
        self.written += 5 + body_len;
        self.output.frames += 1;
    }

    /// One response with these events: one frame, or frames of less than `fragment_bytes` (a message of exactly that size
    /// is one too large, as in etcd) with `fragment` set on all but the last. One event is never split.
    pub fn response(&mut self, head: &mut WatchResponse, events: &[Bytes], fragment_bytes: Option<usize>) {
        let whole = head.encoded_len() + events.iter().map(Bytes::len).sum::<usize>();
        if whole < fragment_bytes.unwrap_or(FRAME_BYTES_MAX) || events.len() < 2 {
            return self.frame(head, events);
        }
        self.fragments(head, events, fragment_bytes.unwrap_or(FRAME_BYTES_MAX), fragment_bytes.is_some());
    }

    fn fragments(&mut self, head: &mut WatchResponse, mut events: &[Bytes], bytes_max: usize, mark: bool) {
        head.fragment = mark;
        let head_len = head.encoded_len();
        while !events.is_empty() {
            let mut size = head_len + events[0].len();
            let mut count = 1;
            while count < events.len() && size + events[count].len() < bytes_max {
                size += events[count].len();
                count += 1;
            }
            let (part, rest) = events.split_at(count);
            head.fragment = mark && !rest.is_empty();
            self.frame(head, part);
            events = rest;
        }
    }
}

/// A response's header. A revision of 0 is left out by protobuf.
pub(super) fn header(identity: MemberIdentity, revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        revision,
        raft_term: identity.raft_term,
    }
}
