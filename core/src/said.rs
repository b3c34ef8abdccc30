//! What members say to each other, as bytes: raft's messages, and requests of a member to the leader with their answers.
//!
//! A frame between members has a group's number. Its highest bits say what the bytes are: raft's messages are the group's
//! own, the others are requests of a member to the leader. Bytes of a member are not trusted: what does not decode is
//! refused here, and nothing of it is taken. No sockets and no executor: the simulator's members speak the same bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ringstone_raft::{Body, Message, wire};

use crate::config::REQUEST_OVERHEAD_BYTES;
use crate::error::Error;
use crate::group::{GROUP, MemberChange};

/// Raft's messages.
const RAFT: u64 = 0;
/// A sealed proposal, for the leader.
const PROPOSAL: u64 = 1;
/// A keep-alive, for the leader.
const KEEP_ALIVE: u64 = 2;
/// What came of it.
const KEPT_ALIVE: u64 = 3;
/// A change of the members, for the leader.
const CHANGE: u64 = 4;
/// What came of it.
const CHANGED: u64 = 5;
const CHANNEL_SHIFT: u32 = 56;

/// Bytes of a [`Caller`].
const CALLER_BYTES: usize = 12;

/// Bytes of a proposal beside its request.
const PROPOSAL_OVERHEAD_BYTES: usize = REQUEST_OVERHEAD_BYTES + 4096;
/// Bytes of appends, as raft's settings have it.
const APPEND_BYTES_MAX: usize = 1 << 20;

/// What a leader may answer to a change, by its number less one. The numbers are on the wire: new ones go to the end.
const CHANGE_ERRORS: [Error; 12] = [
    Error::MemberExists,
    Error::PeerUrlsExist,
    Error::MemberNotEnoughStarted,
    Error::MemberBadUrls,
    Error::MemberNotFound,
    Error::MemberNotLearner,
    Error::LearnerNotReady,
    Error::TooManyLearners,
    Error::Unhealthy,
    Error::NotLeader,
    Error::LeaderChanged,
    Error::TooManyRequests,
];

/// The way back of a request that another member asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The shard that waits, on the member that asked.
    pub shard: u32,
    /// Its request id there.
    pub request_id: u64,
}

/// One thing that a member says to another one.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A message of raft.
    Raft(Message),
    /// A proposal for the leader.
    Proposal(Bytes),
    /// A keep-alive of this lease, for the leader.
    KeepAlive(Caller, i64),
    /// The TTL in seconds, or nothing where the leader can't tell.
    KeptAlive(Caller, Option<i64>),
    /// A change of the members, for the leader.
    Change(Caller, MemberChange),
    /// What the leader says to it.
    Changed(Caller, Result<(), Error>),
}

/// Which queue of the transport it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Never waits behind entries.
    Control,
    /// The same, and a later one takes its place.
    Heartbeat,
    /// In order, with back-pressure.
    Log,
}

/// Why bytes are nothing that a member says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaidError {
    /// Another group's.
    #[error("it is of a group that is not here")]
    Group,
    /// No message of raft.
    #[error(transparent)]
    Raft(#[from] wire::WireError),
    /// Too short.
    #[error("it ends before it says whose request it is")]
    Caller,
    /// No change.
    #[error("a change of the members that does not decode")]
    Change,
    /// A later version's, or none's.
    #[error("a request of another form or kind than this version knows")]
    Unknown,
}

/// The longest that a member takes of another one, for requests of at most so many bytes.
#[must_use]
pub fn limits(max_request_bytes: usize) -> wire::Limits {
    wire::Limits::new(APPEND_BYTES_MAX, max_request_bytes + PROPOSAL_OVERHEAD_BYTES, 4096)
}

fn put_caller(caller: Caller, bytes: &mut BytesMut) {
    bytes.put_u32_le(caller.shard);
    bytes.put_u64_le(caller.request_id);
}

impl Said {
    /// The frame's group, and its bytes; `scratch` is empty before and after.
    pub fn encode(&self, scratch: &mut BytesMut) -> (u64, Bytes) {
        let kind = match self {
            Said::Raft(message) => {
                wire::encode(u64::from(GROUP), message, scratch);
                RAFT
            }
            Said::Proposal(payload) => return (PROPOSAL << CHANNEL_SHIFT | u64::from(GROUP), payload.clone()),
            Said::KeepAlive(caller, id) => {
                put_caller(*caller, scratch);
                scratch.put_i64_le(*id);
                KEEP_ALIVE
            }
            Said::KeptAlive(caller, ttl_s) => {
                put_caller(*caller, scratch);
                scratch.put_i64_le(ttl_s.unwrap_or(-1));
                KEPT_ALIVE
            }
            Said::Change(caller, change) => {
                put_caller(*caller, scratch);
                scratch.put_slice(&change.encode());
                CHANGE
            }
            Said::Changed(caller, outcome) => {
                let number = |error: &Error| CHANGE_ERRORS.iter().position(|known| known == error);
                let code = match outcome {
                    Ok(()) => 0,
                    Err(error) => number(error).map_or(u8::MAX, |at| at as u8 + 1),
                };
                put_caller(*caller, scratch);
                scratch.put_u8(code);
                CHANGED
            }
        };
        (kind << CHANNEL_SHIFT | u64::from(GROUP), scratch.split().freeze())
    }

    /// Takes the bytes of a frame of this group.
    ///
    /// # Errors
    /// [`SaidError`]: they are to be dropped.
    pub fn decode(group: u64, bytes: Bytes, limits: &wire::Limits) -> Result<Said, SaidError> {
        if group & !(0xff << CHANNEL_SHIFT) != u64::from(GROUP) {
            return Err(SaidError::Group);
        }
        let channel = group >> CHANNEL_SHIFT;
        match channel {
            RAFT => return Ok(Said::Raft(wire::decode(&bytes, limits)?.1)),
            PROPOSAL => return Ok(Said::Proposal(bytes)),
            _ => {}
        }
        if bytes.len() < CALLER_BYTES {
            return Err(SaidError::Caller);
        }
        let mut rest = bytes;
        let caller = Caller { shard: rest.get_u32_le(), request_id: rest.get_u64_le() };
        match (channel, rest.len()) {
            (KEEP_ALIVE, 8) => Ok(Said::KeepAlive(caller, rest.get_i64_le())),
            (KEPT_ALIVE, 8) => Ok(Said::KeptAlive(caller, Some(rest.get_i64_le()).filter(|ttl_s| *ttl_s >= 0))),
            (CHANGED, 1) => {
                let outcome = match rest.get_u8() {
                    0 => Ok(()),
                    code => Err(CHANGE_ERRORS.get(usize::from(code) - 1).cloned().unwrap_or(Error::Unhealthy)),
                };
                Ok(Said::Changed(caller, outcome))
            }
            (CHANGE, _) => {
                let change = MemberChange::decode(&rest).ok_or(SaidError::Change)?;
                Ok(Said::Change(caller, change))
            }
            _ => Err(SaidError::Unknown),
        }
    }

    /// How it travels.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Said::Raft(Message { body: Body::Append { entries, .. }, .. }) if !entries.is_empty() => Lane::Log,
            Said::Raft(Message { body: Body::Heartbeat { .. }, .. }) => Lane::Heartbeat,
            Said::Proposal(_) => Lane::Log,
            _ => Lane::Control,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ringstone_raft::Term;

    const CALLER: Caller = Caller { shard: 3, request_id: 9 };

    #[test]
    fn all_that_is_said_comes_back() {
        let message = Message { term: Term(4), body: Body::TimeoutNow };
        let all = [
            Said::Raft(message),
            Said::Proposal(Bytes::from_static(b"sealed")),
            Said::KeepAlive(CALLER, 7),
            Said::KeptAlive(CALLER, Some(0)),
            Said::KeptAlive(CALLER, None),
            Said::Change(CALLER, MemberChange::Promote(5)),
            Said::Changed(CALLER, Ok(())),
            Said::Changed(CALLER, Err(Error::LearnerNotReady)),
        ];
        let mut scratch = BytesMut::new();
        for said in all {
            let (group, bytes) = said.encode(&mut scratch);
            assert!(scratch.is_empty());
            assert_eq!(Said::decode(group, bytes, &limits(1 << 20)), Ok(said));
        }
        let (group, bytes) = Said::Changed(CALLER, Err(Error::NoSpace)).encode(&mut scratch);
        let unnamed = Said::Changed(CALLER, Err(Error::Unhealthy));
        assert_eq!(Said::decode(group, bytes, &limits(1 << 20)), Ok(unnamed), "an error that has no number");
    }

    #[test]
    fn what_nobody_says_is_refused() {
        let refused = |group, bytes: &'static [u8]| Said::decode(group, Bytes::from_static(bytes), &limits(1 << 20));
        assert_eq!(refused(1, b""), Err(SaidError::Group));
        assert!(matches!(refused(0, b"no message"), Err(SaidError::Raft(_))));
        assert_eq!(refused(KEEP_ALIVE << CHANNEL_SHIFT, &[0; 11]), Err(SaidError::Caller));
        assert_eq!(refused(KEEP_ALIVE << CHANNEL_SHIFT, &[0; 21]), Err(SaidError::Unknown));
        assert_eq!(refused(CHANGE << CHANNEL_SHIFT, &[0; 40]), Err(SaidError::Change));
        assert_eq!(refused(77 << CHANNEL_SHIFT, &[0; 20]), Err(SaidError::Unknown));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(channel in 0u64..8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Said::decode(channel << CHANNEL_SHIFT, Bytes::from(bytes), &limits(1 << 20));
        }
    }
}
