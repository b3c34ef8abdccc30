//! How a message looks between members. Numbers are little endian; docs/raft.md draws it.
//!
//! ```text
//!  0        1        2                4                8                16               24
//!  +--------+--------+----------------+----------------+----------------+----------------+------
//!  | format | kind   | flags          | body's bytes   | group          | term           | body
//!  +--------+--------+----------------+----------------+----------------+----------------+------
//! ```
//!
//! Peer bytes are never trusted: each length is checked against [`Limits`] and against what is there before anything is
//! allocated or sliced, every byte must be accounted for, and what no encoder writes (a flag or kind that is not known, a
//! reserved bit) is an error. What the numbers mean is checked where they are used, by [`Raft::step`](crate::Raft::step).
//! Damage is not looked for: the connection authenticates its bytes, and entries carry sums of their own.

use crate::{
    Body, Configuration, ENTRY_OVERHEAD_BYTES, Entry, EntryKind, Index, Message, Snapshot, SnapshotMetadata, Term,
};
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The only format so far. A receiver refuses others: members agree on it when they connect.
pub const FORMAT: u8 = 1;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 24;

/// Bytes of an entry beside its payload: kind, payload's length, term. Its index follows from its place.
const ENTRY_HEAD_BYTES: usize = 1 + 4 + 8;

// So that an append within a limit of weight is within the same limit on the wire.
const _: () = assert!(ENTRY_HEAD_BYTES <= ENTRY_OVERHEAD_BYTES);

/// Bytes of an append beside its entries: previous index and term, commit, how many entries.
const APPEND_HEAD_BYTES: usize = 8 + 8 + 8 + 4;

/// An encoded configuration at its largest, without a context: see [`Configuration::encode`].
const CONFIGURATION_BYTES_MAX: usize = 1 + 3 * 2 + crate::MEMBERS_MAX * 8;

const FLAG_YES: u16 = 1;

/// What a receiver takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A whole message, header included.
    pub message_bytes_max: usize,
    /// Entries of one append; bounds what decoding allocates.
    pub entries_max: usize,
    /// The handle of an image.
    pub handle_bytes_max: usize,
}

impl Limits {
    /// What a member may send whose settings and largest payload are these. Every member must use the same, or larger.
    pub fn new(append_bytes_max: usize, payload_bytes_max: usize, handle_bytes_max: usize) -> Limits {
        let entries = append_bytes_max.max(payload_bytes_max.saturating_add(ENTRY_HEAD_BYTES));
        let append = APPEND_HEAD_BYTES.saturating_add(entries);
        let image = (8 + 8 + 4 + CONFIGURATION_BYTES_MAX + 4).saturating_add(handle_bytes_max);
        Limits {
            message_bytes_max: HEADER_BYTES.saturating_add(append.max(image)),
            entries_max: (append_bytes_max / ENTRY_OVERHEAD_BYTES).max(1),
            handle_bytes_max,
        }
    }
}

/// Why bytes are not a message. Nothing was taken; the connection that they came by is not of a correct member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Another format than [`FORMAT`].
    #[error("messages of format {0} are not known here")]
    Format(u8),
    /// No such kind of message.
    #[error("there is no message of kind {0}")]
    Kind(u8),
    /// A flag that this kind does not have.
    #[error("flags {flags:#x} do not belong to a message of kind {kind}")]
    Flags {
        /// The message's.
        kind: u8,
        /// All of them.
        flags: u16,
    },
    /// Longer than [`Limits::message_bytes_max`].
    #[error("a message of {bytes} bytes, limit {limit}")]
    TooLong {
        /// As announced.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// The bytes end too early.
    #[error("the message ends before its {0}")]
    Short(&'static str),
    /// Bytes behind the end.
    #[error("{0} bytes behind the end of the message")]
    Trailing(usize),
    /// More of something than there may be.
    #[error("{count} {what}, limit {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// As announced.
        count: u32,
        /// The limit.
        limit: usize,
    },
    /// No such kind of entry.
    #[error("there is no entry of kind {0}")]
    EntryKind(u8),
    /// Entries beyond the last index.
    #[error("the index of an entry overflows")]
    IndexOverflow,
    /// A configuration that does not decode.
    #[error("the configuration of an image does not decode")]
    Configuration,
}

mod kind {
    pub(super) const PRE_VOTE_REQUEST: u8 = 1;
    pub(super) const PRE_VOTE_RESPONSE: u8 = 2;
    pub(super) const VOTE_REQUEST: u8 = 3;
    pub(super) const VOTE_RESPONSE: u8 = 4;
    pub(super) const APPEND: u8 = 5;
    pub(super) const APPEND_ACCEPTED: u8 = 6;
    pub(super) const APPEND_REJECTED: u8 = 7;
    pub(super) const HEARTBEAT: u8 = 8;
    pub(super) const HEARTBEAT_RESPONSE: u8 = 9;
    pub(super) const NEWER_TERM: u8 = 10;
    pub(super) const READ_REQUEST: u8 = 11;
    pub(super) const READ_RESPONSE: u8 = 12;
    pub(super) const TIMEOUT_NOW: u8 = 13;
    pub(super) const SNAPSHOT: u8 = 14;
    pub(super) const COMMIT: u8 = 15;
}

/// How many bytes [`encode`] will write.
pub fn encoded_bytes(message: &Message) -> usize {
    let body = match &message.body {
        Body::PreVoteRequest { .. } | Body::VoteRequest { .. } | Body::Heartbeat { .. } => 16,
        Body::PreVoteResponse { .. } | Body::VoteResponse { .. } | Body::NewerTerm | Body::TimeoutNow => 0,
        Body::Append { entries, .. } => {
            APPEND_HEAD_BYTES + entries.iter().map(|entry| ENTRY_HEAD_BYTES + entry.payload.len()).sum::<usize>()
        }
        Body::AppendAccepted { .. } => 8,
        Body::AppendRejected { .. } | Body::ReadResponse { .. } | Body::Commit { .. } => 24,
        Body::HeartbeatResponse { .. } => 12,
        Body::ReadRequest { .. } => 16,
        Body::Snapshot(snapshot) => {
            8 + 8 + 4 + snapshot.metadata.configuration.encoded_bytes() + 4 + snapshot.handle.len()
        }
    };
    HEADER_BYTES + body
}

/// Appends the message to `out`. Payloads are copied: small ones are the rule, and one buffer is one write.
///
/// # Panics
/// Where the body is 4 GiB or more, or entries of an append are not consecutive: [`Config`](crate::Config) bounds the
/// first, raft never makes the second.
pub fn encode(group: u64, message: &Message, out: &mut BytesMut) {
    let bytes = encoded_bytes(message);
    out.reserve(bytes);
    let start = out.len();
    let (kind, flag) = kind_and_flag(&message.body);
    out.put_u8(FORMAT);
    out.put_u8(kind);
    out.put_u16_le(if flag { FLAG_YES } else { 0 });
    out.put_u32_le(u32::try_from(bytes - HEADER_BYTES).expect("a message is below 4 GiB"));
    out.put_u64_le(group);
    out.put_u64_le(message.term.0);
    encode_body(&message.body, out);
    assert_eq!(out.len() - start, bytes, "the length was announced");
}

fn kind_and_flag(body: &Body) -> (u8, bool) {
    match body {
        Body::PreVoteRequest { .. } => (kind::PRE_VOTE_REQUEST, false),
        Body::PreVoteResponse { granted } => (kind::PRE_VOTE_RESPONSE, *granted),
        Body::VoteRequest { forced, .. } => (kind::VOTE_REQUEST, *forced),
        Body::VoteResponse { granted } => (kind::VOTE_RESPONSE, *granted),
        Body::Append { .. } => (kind::APPEND, false),
        Body::AppendAccepted { .. } => (kind::APPEND_ACCEPTED, false),
        Body::AppendRejected { .. } => (kind::APPEND_REJECTED, false),
        Body::Heartbeat { .. } => (kind::HEARTBEAT, false),
        Body::HeartbeatResponse { .. } => (kind::HEARTBEAT_RESPONSE, false),
        Body::NewerTerm => (kind::NEWER_TERM, false),
        Body::ReadRequest { .. } => (kind::READ_REQUEST, false),
        Body::ReadResponse { .. } => (kind::READ_RESPONSE, false),
        Body::TimeoutNow => (kind::TIMEOUT_NOW, false),
        Body::Snapshot(_) => (kind::SNAPSHOT, false),
        Body::Commit { .. } => (kind::COMMIT, false),
    }
}

fn encode_body(body: &Body, out: &mut BytesMut) {
    match body {
        Body::PreVoteRequest { last_index, last_term } | Body::VoteRequest { last_index, last_term, .. } => {
            out.put_u64_le(last_index.0);
            out.put_u64_le(last_term.0);
        }
        Body::PreVoteResponse { .. } | Body::VoteResponse { .. } | Body::NewerTerm | Body::TimeoutNow => {}
        Body::Append { previous_index, previous_term, committed, entries } => {
            out.put_u64_le(previous_index.0);
            out.put_u64_le(previous_term.0);
            out.put_u64_le(committed.0);
            out.put_u32_le(length(entries.len()));
            let mut index = *previous_index;
            for entry in entries {
                index = index.next();
                assert_eq!(entry.index, index, "entries are consecutive");
                out.put_u8(match entry.kind {
                    EntryKind::Normal => 0,
                    EntryKind::Configuration => 1,
                });
                out.put_u32_le(length(entry.payload.len()));
                out.put_u64_le(entry.term.0);
                out.put_slice(&entry.payload);
            }
        }
        Body::AppendAccepted { matched } => out.put_u64_le(matched.0),
        Body::AppendRejected { rejected, hint_index, hint_term } => {
            out.put_u64_le(rejected.0);
            out.put_u64_le(hint_index.0);
            out.put_u64_le(hint_term.0);
        }
        Body::Commit { index, entry_term, committed } => {
            out.put_u64_le(index.0);
            out.put_u64_le(entry_term.0);
            out.put_u64_le(committed.0);
        }
        Body::Heartbeat { committed, round } => {
            out.put_u64_le(committed.0);
            out.put_u64_le(*round);
        }
        Body::HeartbeatResponse { round, kinds_known } => {
            out.put_u64_le(*round);
            out.put_u32_le(*kinds_known);
        }
        Body::ReadRequest { incarnation, context } => {
            out.put_u64_le(*incarnation);
            out.put_u64_le(*context);
        }
        Body::ReadResponse { incarnation, context, index } => {
            out.put_u64_le(*incarnation);
            out.put_u64_le(*context);
            out.put_u64_le(index.0);
        }
        Body::Snapshot(snapshot) => {
            out.put_u64_le(snapshot.metadata.index.0);
            out.put_u64_le(snapshot.metadata.term.0);
            let configuration = snapshot.metadata.configuration.encode(&[]);
            out.put_u32_le(length(configuration.len()));
            out.put_slice(&configuration);
            out.put_u32_le(length(snapshot.handle.len()));
            out.put_slice(&snapshot.handle);
        }
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a message is below 4 GiB")
}

/// From a header, how long the whole message is: what a transport must read before it calls [`decode`].
///
/// # Errors
/// [`WireError::Format`], [`WireError::TooLong`].
pub fn message_bytes(header: &[u8; HEADER_BYTES], limits: &Limits) -> Result<usize, WireError> {
    if header[0] != FORMAT {
        return Err(WireError::Format(header[0]));
    }
    let body = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let bytes = HEADER_BYTES as u64 + u64::from(body);
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= limits.message_bytes_max => Ok(bytes),
        _ => Err(WireError::TooLong { bytes, limit: limits.message_bytes_max }),
    }
}

/// Reads one whole message: its group, and what it says. Payloads and handles are slices of `bytes`.
///
/// # Errors
/// [`WireError`]: nothing was taken.
pub fn decode(bytes: &Bytes, limits: &Limits) -> Result<(u64, Message), WireError> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(WireError::Short("header"))?;
    let announced = message_bytes(header, limits)?;
    if bytes.len() < announced {
        return Err(WireError::Short("body"));
    }
    if bytes.len() > announced {
        return Err(WireError::Trailing(bytes.len() - announced));
    }
    let mut input = Input { bytes, at: 1 };
    let kind = input.u8("kind")?;
    let flags = input.u16("flags")?;
    let _body_bytes = input.u32("length")?;
    let group = input.u64("group")?;
    let term = Term(input.u64("term")?);
    let flag = match (kind, flags) {
        (_, 0) => false,
        (kind::PRE_VOTE_RESPONSE | kind::VOTE_REQUEST | kind::VOTE_RESPONSE, FLAG_YES) => true,
        _ => return Err(WireError::Flags { kind, flags }),
    };
    let body = decode_body(&mut input, kind, flag, limits)?;
    match bytes.len() - input.at {
        0 => Ok((group, Message { term, body })),
        left => Err(WireError::Trailing(left)),
    }
}

fn decode_body(input: &mut Input<'_>, kind: u8, flag: bool, limits: &Limits) -> Result<Body, WireError> {
    Ok(match kind {
        kind::PRE_VOTE_REQUEST => {
            Body::PreVoteRequest { last_index: input.index("last index")?, last_term: input.term("last term")? }
        }
        kind::PRE_VOTE_RESPONSE => Body::PreVoteResponse { granted: flag },
        kind::VOTE_REQUEST => Body::VoteRequest {
            last_index: input.index("last index")?,
            last_term: input.term("last term")?,
            forced: flag,
        },
        kind::VOTE_RESPONSE => Body::VoteResponse { granted: flag },
        kind::APPEND => decode_append(input, limits)?,
        kind::APPEND_ACCEPTED => Body::AppendAccepted { matched: input.index("matched index")? },
        kind::APPEND_REJECTED => Body::AppendRejected {
            rejected: input.index("rejected index")?,
            hint_index: input.index("hint")?,
            hint_term: input.term("hint's term")?,
        },
        kind::HEARTBEAT => Body::Heartbeat { committed: input.index("commit")?, round: input.u64("round")? },
        kind::HEARTBEAT_RESPONSE => {
            Body::HeartbeatResponse { round: input.u64("round")?, kinds_known: input.u32("kinds")? }
        }
        kind::NEWER_TERM => Body::NewerTerm,
        kind::READ_REQUEST => {
            Body::ReadRequest { incarnation: input.u64("incarnation")?, context: input.u64("context")? }
        }
        kind::READ_RESPONSE => Body::ReadResponse {
            incarnation: input.u64("incarnation")?,
            context: input.u64("context")?,
            index: input.index("index")?,
        },
        kind::TIMEOUT_NOW => Body::TimeoutNow,
        kind::SNAPSHOT => decode_snapshot(input, limits)?,
        kind::COMMIT => Body::Commit {
            index: input.index("last index")?,
            entry_term: input.term("last term")?,
            committed: input.index("commit")?,
        },
        unknown => return Err(WireError::Kind(unknown)),
    })
}

fn decode_append(input: &mut Input<'_>, limits: &Limits) -> Result<Body, WireError> {
    let previous_index = input.index("previous index")?;
    let previous_term = input.term("previous term")?;
    let committed = input.index("commit")?;
    let count = input.u32("number of entries")?;
    let wanted = count as usize;
    if wanted > limits.entries_max {
        return Err(WireError::TooMany { what: "entries", count, limit: limits.entries_max });
    }
    // Before the list is allocated.
    if wanted.saturating_mul(ENTRY_HEAD_BYTES) > input.left() {
        return Err(WireError::Short("entries"));
    }
    let mut entries = Vec::with_capacity(wanted);
    let mut index = previous_index.0;
    for _ in 0..wanted {
        index = index.checked_add(1).ok_or(WireError::IndexOverflow)?;
        let kind = match input.u8("kind of an entry")? {
            0 => EntryKind::Normal,
            1 => EntryKind::Configuration,
            unknown => return Err(WireError::EntryKind(unknown)),
        };
        let length = input.u32("length of a payload")?;
        let term = input.term("term of an entry")?;
        let payload = input.slice(length, "payload")?;
        entries.push(Entry { term, index: Index(index), kind, payload });
    }
    Ok(Body::Append { previous_index, previous_term, committed, entries })
}

fn decode_snapshot(input: &mut Input<'_>, limits: &Limits) -> Result<Body, WireError> {
    let index = input.index("index of the image")?;
    let term = input.term("term of the image")?;
    let length = input.u32("length of the configuration")?;
    if length as usize > CONFIGURATION_BYTES_MAX {
        return Err(WireError::TooMany {
            what: "bytes of a configuration",
            count: length,
            limit: CONFIGURATION_BYTES_MAX,
        });
    }
    let encoded = input.slice(length, "configuration")?;
    // Nothing may stand behind it.
    let Some((configuration, context)) = Configuration::decode(&encoded) else { return Err(WireError::Configuration) };
    if !context.is_empty() {
        return Err(WireError::Configuration);
    }
    let length = input.u32("length of the handle")?;
    if length as usize > limits.handle_bytes_max {
        return Err(WireError::TooMany { what: "bytes of a handle", count: length, limit: limits.handle_bytes_max });
    }
    let handle = input.slice(length, "handle")?;
    Ok(Body::Snapshot(Snapshot { metadata: SnapshotMetadata { index, term, configuration }, handle }))
}

/// What was not read yet.
struct Input<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Input<'_> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const BYTES: usize>(&mut self, what: &'static str) -> Result<[u8; BYTES], WireError> {
        let chunk = self.bytes[self.at..].first_chunk::<BYTES>().ok_or(WireError::Short(what))?;
        self.at += BYTES;
        Ok(*chunk)
    }

    fn slice(&mut self, length: u32, what: &'static str) -> Result<Bytes, WireError> {
        let length = length as usize;
        if length > self.left() {
            return Err(WireError::Short(what));
        }
        let slice = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(slice)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.take::<1>(what).map(|[byte]| byte)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.take(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.take(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.take(what).map(u64::from_le_bytes)
    }

    fn index(&mut self, what: &'static str) -> Result<Index, WireError> {
        self.u64(what).map(Index)
    }

    fn term(&mut self, what: &'static str) -> Result<Term, WireError> {
        self.u64(what).map(Term)
    }
}
