//! Frames on the control and log streams: a header of fixed length and a bounded payload.
//!
//! A length is believed only up to what its stream allows, and memory for a payload grows with the bytes that came.

use super::limits::PeerLimits;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before each payload.
pub const HEADER_BYTES: usize = 16;
/// First byte of a one-way stream of log frames.
pub const STREAM_LOG: u8 = 1;
/// First byte of a one-way stream of one snapshot; see [`super::chunk`].
pub const STREAM_SNAPSHOT: u8 = 2;
/// Payload of a [`FrameKind::Grant`].
pub const GRANT_BYTES: usize = 24;

const CAPACITY_FIRST: usize = 64 << 10;

/// What is wrong with bytes of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Something else speaks there.
    #[error("the other side does not begin with a hello of Ringstone's peer protocol")]
    NotAHello,
    /// A hello shorter than the shortest, or longer than any.
    #[error("a hello of {0} bytes")]
    HelloLength(usize),
    /// A damaged hello.
    #[error("the checksum of a hello is wrong")]
    HelloChecksum,
    /// Lowest above highest.
    #[error("a hello whose lowest version is above its highest")]
    HelloVersions,
    /// Not a kind of this stream.
    #[error("a frame of kind {kind} on the {stream} stream")]
    FrameKind {
        /// The kind.
        kind: u8,
        /// The stream's name.
        stream: &'static str,
    },
    /// Bytes that must be zero.
    #[error("a frame whose reserved bytes are not zero")]
    Reserved,
    /// Longer than the limit.
    #[error("a frame of {length} bytes on the {stream} stream, the limit is {limit}")]
    TooLarge {
        /// As announced.
        length: u32,
        /// What is allowed.
        limit: u32,
        /// The stream's name.
        stream: &'static str,
    },
    /// A grant of another length.
    #[error("a grant of {0} bytes")]
    GrantLength(usize),
    /// A stream of no known kind.
    #[error("a stream of kind {0}")]
    StreamKind(u8),
    /// A second control or log stream.
    #[error("more {0} streams than allowed")]
    TooManyStreams(&'static str),
    /// A stream that ended within a frame.
    #[error("the {0} stream ended within a frame")]
    CutShort(&'static str),
    /// A damaged head of a snapshot.
    #[error("the checksum of a snapshot's head is wrong")]
    SnapshotHead,
    /// A damaged chunk.
    #[error("the checksum of a snapshot's chunk at {0} is wrong")]
    ChunkChecksum(u64),
    /// A chunk longer than allowed.
    #[error("a snapshot's chunk of {0} bytes")]
    ChunkLength(u32),
    /// A chunk that does not follow the one before it.
    #[error("a snapshot's chunk at {found} where {expected} was due")]
    ChunkOffset {
        /// Where it says to be.
        found: u64,
        /// Where it should be.
        expected: u64,
    },
    /// It ends elsewhere than its head said.
    #[error("a snapshot of {found} bytes, announced were {expected}")]
    SnapshotLength {
        /// What came.
        found: u64,
        /// What was announced.
        expected: u64,
    },
}

impl WireError {
    /// The code that its connection is closed with.
    #[must_use]
    pub fn close_code(&self) -> super::close::CloseCode {
        use super::close::CloseCode;
        match self {
            WireError::NotAHello | WireError::HelloLength(_) | WireError::HelloChecksum | WireError::HelloVersions => {
                CloseCode::BadHello
            }
            WireError::TooLarge { .. } | WireError::ChunkLength(_) => CloseCode::TooLarge,
            _ => CloseCode::Protocol,
        }
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A message of raft that nothing replaces: a vote, an answer.
    Control = 1,
    /// One that a later one of its group replaces: a heartbeat.
    Heartbeat = 2,
    /// A message of raft with entries.
    Log = 3,
    /// How far a snapshot may go on; its group is 0.
    Grant = 4,
}

/// Which stream a frame is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Heartbeats, votes, grants.
    Control,
    /// Entries.
    Log,
}

impl StreamKind {
    /// For messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StreamKind::Control => "control",
            StreamKind::Log => "log",
        }
    }

    fn kind(self, number: u8) -> Option<FrameKind> {
        match (self, number) {
            (StreamKind::Control, 1) => Some(FrameKind::Control),
            (StreamKind::Control, 2) => Some(FrameKind::Heartbeat),
            (StreamKind::Log, 3) => Some(FrameKind::Log),
            (StreamKind::Control, 4) => Some(FrameKind::Grant),
            _ => None,
        }
    }

    /// Longest payload.
    #[must_use]
    pub fn bytes_max(self, limits: &PeerLimits) -> u32 {
        match self {
            StreamKind::Control => limits.control_frame_bytes_max,
            StreamKind::Log => limits.log_frame_bytes_max,
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// Whose it is.
    pub group: u64,
    /// The message, opaque.
    pub payload: Bytes,
}

/// The bytes before a payload of `length`.
#[must_use]
pub fn encode_header(kind: FrameKind, group: u64, length: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let mut rest = &mut bytes[..];
    rest.put_u32_le(length);
    rest.put_u8(kind as u8);
    rest.put_bytes(0, 3);
    rest.put_u64_le(group);
    bytes
}

fn decode_header(mut bytes: &[u8], stream: StreamKind, bytes_max: u32) -> Result<(FrameKind, u64, usize), WireError> {
    let length = bytes.get_u32_le();
    let number = bytes.get_u8();
    let reserved = bytes.get_uint_le(3);
    let group = bytes.get_u64_le();
    let kind = stream.kind(number).ok_or(WireError::FrameKind { kind: number, stream: stream.name() })?;
    if reserved != 0 {
        return Err(WireError::Reserved);
    }
    if length > bytes_max {
        return Err(WireError::TooLarge { length, limit: bytes_max, stream: stream.name() });
    }
    if kind == FrameKind::Grant && length as usize != GRANT_BYTES {
        return Err(WireError::GrantLength(length as usize));
    }
    Ok((kind, group, length as usize))
}

/// Frames out of the bytes of one stream, however they are cut.
#[derive(Debug)]
pub struct Decoder {
    stream: StreamKind,
    bytes_max: u32,
    head: [u8; HEADER_BYTES],
    head_filled: usize,
    /// Kind, group, length of the frame whose header is whole.
    open: Option<(FrameKind, u64, usize)>,
    payload: BytesMut,
}

impl Decoder {
    /// For one stream.
    #[must_use]
    pub fn new(stream: StreamKind, limits: &PeerLimits) -> Self {
        Decoder {
            stream,
            bytes_max: stream.bytes_max(limits),
            head: [0; HEADER_BYTES],
            head_filled: 0,
            open: None,
            payload: BytesMut::new(),
        }
    }

    /// Takes of `input` what the next frame needs, and returns it once it is whole; None if `input` is used up first.
    /// Payloads are copies: one doesn't keep the network's buffer.
    ///
    /// # Errors
    /// If the bytes are no frame; the stream is of no more use then.
    pub fn take(&mut self, input: &mut impl Buf) -> Result<Option<Frame>, WireError> {
        if self.open.is_none() {
            let count = input.remaining().min(HEADER_BYTES - self.head_filled);
            input.copy_to_slice(&mut self.head[self.head_filled..self.head_filled + count]);
            self.head_filled += count;
            if self.head_filled < HEADER_BYTES {
                return Ok(None);
            }
            let (kind, group, length) = decode_header(&self.head, self.stream, self.bytes_max)?;
            self.open = Some((kind, group, length));
            self.payload = BytesMut::with_capacity(length.min(CAPACITY_FIRST));
        }
        let (kind, group, length) = self.open.expect("set above");
        while self.payload.len() < length && input.has_remaining() {
            let piece = input.chunk();
            let count = piece.len().min(length - self.payload.len());
            self.payload.extend_from_slice(&piece[..count]);
            input.advance(count);
        }
        if self.payload.len() < length {
            return Ok(None);
        }
        self.open = None;
        self.head_filled = 0;
        Ok(Some(Frame { kind, group, payload: std::mem::take(&mut self.payload).freeze() }))
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// If that was within a frame.
    pub fn finish(&self) -> Result<(), WireError> {
        match self.head_filled {
            0 => Ok(()),
            _ => Err(WireError::CutShort(self.stream.name())),
        }
    }
}

/// How far a snapshot's sender may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which of the connection's snapshots.
    pub serial: u64,
    /// Bytes that the receiver has taken; in the first grant where to begin.
    pub consumed: u64,
    /// Bytes that may be sent; `u64::MAX` once everything is taken and checked.
    pub limit: u64,
}

impl Grant {
    /// As the payload of a frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(GRANT_BYTES);
        bytes.put_u64_le(self.serial);
        bytes.put_u64_le(self.consumed);
        bytes.put_u64_le(self.limit);
        bytes.freeze()
    }

    /// From the payload of a frame.
    ///
    /// # Errors
    /// If it has another length.
    pub fn decode(mut payload: &[u8]) -> Result<Grant, WireError> {
        if payload.len() != GRANT_BYTES {
            return Err(WireError::GrantLength(payload.len()));
        }
        Ok(Grant { serial: payload.get_u64_le(), consumed: payload.get_u64_le(), limit: payload.get_u64_le() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream_of(frames: &[(bool, u64, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (heartbeat, group, payload) in frames {
            let kind = if *heartbeat { FrameKind::Heartbeat } else { FrameKind::Control };
            bytes.extend(encode_header(kind, *group, payload.len() as u32));
            bytes.extend(payload);
        }
        bytes
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(
            frames in proptest::collection::vec((any::<bool>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..70)), 0..8),
            cut in 1usize..40,
        ) {
            let mut decoder = Decoder::new(StreamKind::Control, &PeerLimits::default());
            let mut found = Vec::new();
            for mut piece in stream_of(&frames).chunks(cut) {
                while let Some(frame) = decoder.take(&mut piece).expect("frames") {
                    found.push((frame.kind == FrameKind::Heartbeat, frame.group, frame.payload.to_vec()));
                }
                prop_assert!(piece.is_empty());
            }
            prop_assert_eq!(decoder.finish(), Ok(()));
            prop_assert_eq!(found, frames);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let limits = PeerLimits { control_frame_bytes_max: 100, log_frame_bytes_max: 1000, ..PeerLimits::default() };
        let first =
            |stream, bytes: &[u8]| Decoder::new(stream, &limits).take(&mut &bytes[..]).map(|frame| frame.is_some());
        let control = StreamKind::Control;
        assert_eq!(first(control, &encode_header(FrameKind::Control, 1, 0)), Ok(true));
        assert_eq!(first(control, &encode_header(FrameKind::Control, 1, 100)), Ok(false));
        let large = WireError::TooLarge { length: 101, limit: 100, stream: "control" };
        assert_eq!(first(control, &encode_header(FrameKind::Control, 1, 101)), Err(large));
        let kind = WireError::FrameKind { kind: 3, stream: "control" };
        assert_eq!(first(control, &encode_header(FrameKind::Log, 1, 1)), Err(kind));
        let kind = WireError::FrameKind { kind: 1, stream: "log" };
        assert_eq!(first(StreamKind::Log, &encode_header(FrameKind::Control, 1, 1)), Err(kind));
        assert_eq!(first(control, &encode_header(FrameKind::Grant, 1, 23)), Err(WireError::GrantLength(23)));
        let mut bytes = encode_header(FrameKind::Control, 1, 1);
        bytes[6] = 1;
        assert_eq!(first(control, &bytes), Err(WireError::Reserved));
    }

    #[test]
    fn an_end_within_a_frame_is_seen() {
        let bytes = stream_of(&[(true, 1, vec![1, 2, 3])]);
        for length in 1..bytes.len() {
            let mut decoder = Decoder::new(StreamKind::Control, &PeerLimits::default());
            assert_eq!(decoder.take(&mut &bytes[..length]), Ok(None));
            assert_eq!(decoder.finish(), Err(WireError::CutShort("control")));
        }
    }
}
