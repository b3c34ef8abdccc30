//! gRPC messages on the wire: a flag, four bytes of length, the message.

use crate::status::{Code, Status};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use ringstone_proto::Described;
use std::io::Read;

/// Flag and length before each message.
pub(crate) const PREFIX_BYTES: usize = 5;
/// grpc-go's limit on what it sends (`math.MaxInt32`).
const SEND_BYTES_MAX: usize = i32::MAX as usize;
/// A shared tail shorter than this is copied: a second DATA frame costs more.
const TAIL_COPY_BYTES_MAX: usize = 4096;

/// An encoded response message with its prefix, ready for the wire; or several, for a stream.
#[derive(Clone, Debug)]
pub struct Framed {
    first: Bytes,
    rest: Vec<Bytes>,
    message_bytes: usize,
}

impl Framed {
    /// Encodes a message once, into one buffer. A message of 2 GiB or more is not encoded; sending it fails.
    pub fn encode(message: &impl prost::Message) -> Framed {
        Self::with_tail(message, Bytes::new())
    }

    /// A message made of `fields` and of `tail`, encoded fields that many messages share: protobuf joins them as fields
    /// of one message. A long tail is not copied.
    pub fn with_tail(fields: &impl prost::Message, tail: Bytes) -> Framed {
        let fields_bytes = fields.encoded_len();
        let message_bytes = fields_bytes.saturating_add(tail.len());
        if message_bytes > SEND_BYTES_MAX {
            return Framed { first: Bytes::new(), rest: Vec::new(), message_bytes };
        }
        let copied = tail.len() <= TAIL_COPY_BYTES_MAX;
        let capacity = PREFIX_BYTES + fields_bytes + if copied { tail.len() } else { 0 };
        let mut head = Vec::with_capacity(capacity);
        head.put_u8(0);
        head.put_u32(message_bytes as u32);
        fields.encode(&mut head).expect("a Vec takes all");
        if copied {
            head.extend_from_slice(&tail);
        }
        let rest = if copied { Vec::new() } else { vec![tail] };
        Framed { first: head.into(), rest, message_bytes }
    }

    /// `frames` messages that have their prefixes already, as pieces in order. A message may go over several pieces, a
    /// piece may hold several messages; the last piece ends with one. More than one message is for streams only.
    pub fn from_pieces(pieces: impl IntoIterator<Item = Bytes>, frames: usize) -> Framed {
        let mut pieces = pieces.into_iter();
        let first = pieces.next().unwrap_or_default();
        let rest: Vec<Bytes> = pieces.collect();
        let bytes = first.len() + rest.iter().map(Bytes::len).sum::<usize>();
        Framed { first, rest, message_bytes: bytes.saturating_sub(frames * PREFIX_BYTES) }
    }

    /// What goes to the wire, in order; none is empty.
    pub fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.first).chain(self.rest).filter(|piece| !piece.is_empty())
    }

    /// Bytes of the message, without its prefix.
    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    pub(crate) fn check(&self) -> Result<(), Status> {
        if self.message_bytes <= SEND_BYTES_MAX {
            return Ok(());
        }
        let text =
            format!("grpc: trying to send message larger than max ({} vs. {SEND_BYTES_MAX})", self.message_bytes);
        Err(Status::new(Code::ResourceExhausted, text))
    }
}

/// Decodes a request, with a gRPC error of grpc-go's text if it can't be.
///
/// # Errors
/// `Internal`.
pub fn decode_request<M: prost::Message + Default + Described>(message: Bytes) -> Result<M, Status> {
    Ok(ringstone_proto::decode(message)?)
}

/// How the messages of a call are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

/// Puts DATA frames together to messages. Holds at most one message and what came with its last frame.
pub(crate) struct Assembler {
    encoding: Encoding,
    message_bytes_max: usize,
    /// The first frame is used as it came; more than one is gathered in `gathered`.
    first: Bytes,
    gathered: BytesMut,
}

impl Assembler {
    pub(crate) fn new(encoding: Encoding, message_bytes_max: usize) -> Self {
        Assembler { encoding, message_bytes_max, first: Bytes::new(), gathered: BytesMut::new() }
    }

    /// Bytes held.
    pub(crate) fn held_bytes(&self) -> usize {
        self.first.len() + self.gathered.len()
    }

    /// Takes the payload of a DATA frame.
    pub(crate) fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        if self.gathered.is_empty() && self.first.is_empty() {
            self.first = data;
            return;
        }
        self.keep(0);
        self.gathered.extend_from_slice(&data);
    }

    fn held(&self) -> &[u8] {
        if self.gathered.is_empty() { &self.first } else { &self.gathered }
    }

    /// The next whole message; None if more is needed. An error is seen as soon as the prefix is.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let held = self.held();
        let Some(prefix) = held.first_chunk::<PREFIX_BYTES>() else {
            self.keep(0);
            return Ok(None);
        };
        let [flag, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        // grpc-go's order: the length first, the flag when the message is there.
        if length > self.message_bytes_max {
            return Err(too_large(length, self.message_bytes_max));
        }
        if held.len() - PREFIX_BYTES < length {
            self.keep(length);
            return Ok(None);
        }
        let message = self.take(length);
        match (flag, self.encoding) {
            (0, _) => Ok(Some(message)),
            (1, Encoding::Gzip) => gunzip(&message, self.message_bytes_max).map(Some),
            (1, Encoding::Identity) => {
                Err(Status::new(Code::Internal, "grpc: compressed flag set with identity or empty encoding"))
            }
            _ => Err(Status::new(Code::Internal, format!("grpc: received unexpected payload format {flag}"))),
        }
    }

    /// Copies a part of a message that has to wait for the rest: it may be one byte of a large buffer, and the rest has
    /// to be put behind it anyway. What is reserved for `message_bytes` follows what has come.
    fn keep(&mut self, message_bytes: usize) {
        if !self.first.is_empty() {
            let whole = PREFIX_BYTES + message_bytes;
            self.gathered.reserve(self.first.len().max(whole.min(4 * self.first.len())));
            self.gathered.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        if self.gathered.is_empty() {
            self.first.advance(PREFIX_BYTES);
            return self.first.split_to(length);
        }
        self.gathered.advance(PREFIX_BYTES);
        self.gathered.split_to(length).freeze()
    }
}

fn too_large(bytes: usize, bytes_max: usize) -> Status {
    let text = format!("grpc: received message larger than max ({bytes} vs. {bytes_max})");
    Status::new(Code::ResourceExhausted, text)
}

/// Unpacks gzip, one or several members, to at most `bytes_max`: a bomb costs what a message may.
fn gunzip(packed: &[u8], bytes_max: usize) -> Result<Bytes, Status> {
    let mut unpacked = Vec::new();
    let limit = bytes_max as u64 + 1;
    let read = flate2::read::MultiGzDecoder::new(packed).take(limit).read_to_end(&mut unpacked);
    if let Err(error) = read {
        let text = format!("grpc: failed to decompress the received message: {error}");
        return Err(Status::new(Code::Internal, text));
    }
    if unpacked.len() > bytes_max {
        let text = format!("grpc: received message after decompression larger than max {bytes_max}");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(unpacked.into())
}
