//! What members say to each other, as bytes: raft's messages, and requests of a member to the leader with their answers.
//!
//! A frame between members has a group's number. Its highest bits say what the bytes are: raft's messages are the group's
//! own, the others are requests of a member to the leader. Bytes of a member are not trusted: what does not decode is
//! refused here, and nothing of it is taken. No sockets and no executor: the simulator's members speak the same bytes.

mod image;
mod mend;
mod standing;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ringstone_raft::{Body, Message, wire};

use crate::config::REQUEST_OVERHEAD_BYTES;
use crate::error::Error;
use crate::group::{Ask, Call, Forward, GROUP, MemberChange, Sum, Verdict};
use crate::identity::promises::Standing;

pub use image::Word;
pub use mend::{MendRefusal, MendRequest};

/// Raft's messages.
const RAFT: u64 = 0;
/// A sealed proposal, for the leader.
const PROPOSAL: u64 = 1;
/// Keep-alives, for the leader.
const KEEP_ALIVE: u64 = 2;
/// What came of them.
const KEPT_ALIVE: u64 = 3;
/// A change of the members, for the leader.
const CHANGE: u64 = 4;
/// What came of it.
const CHANGED: u64 = 5;
/// What time is it on your lease clock?
const CLOCK: u64 = 6;
/// That time.
const CLOCK_IS: u64 = 7;
/// A proposal that was not taken: nothing will come of it.
const NOT_TAKEN: u64 = 8;
/// A member without a state asks for one.
const MEND: u64 = 9;
/// It is not sent, and why.
const MEND_REFUSED: u64 = 10;
/// What a member's state adds up to, for the leader.
const SUM: u64 = 11;
/// A member whose state differs.
const VERDICT: u64 = 12;
/// What a receiver of an image says.
const IMAGE_WORD: u64 = 13;
/// What the disk of a process held when it began.
const STANDING: u64 = 14;
/// It holds what the member has promised.
const STANDS: u64 = 15;
/// It does not.
const WENT_BACK: u64 = 16;
const CHANNEL_SHIFT: u32 = 56;

/// Bytes of a [`Caller`].
const CALLER_BYTES: usize = 12;
/// Bytes of a caller with a number.
const ITEM_BYTES: usize = CALLER_BYTES + 8;
/// Items of one frame: a frame of the control stream has 64 KiB.
pub const ITEMS_MAX: usize = 3000;

/// Bytes of a proposal beside its request.
const PROPOSAL_OVERHEAD_BYTES: usize = REQUEST_OVERHEAD_BYTES + 4096;
/// Bytes of appends, as raft's settings have it.
const APPEND_BYTES_MAX: usize = 1 << 20;

/// What a leader may answer, by its number less one. The numbers are on the wire: new ones go to the end.
const LEADER_ERRORS: [Error; 14] = [
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
    Error::NotCapable,
    Error::TimeoutLeaderFailure,
];

/// The way back of a request that another member asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The shard that waits, on the member that asked.
    pub shard: u32,
    /// Its request id there.
    pub request_id: u64,
}

/// Callers, each with a number.
pub type Items = Vec<(Caller, i64)>;

/// One thing that a member says to another one.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A message of raft.
    Raft(Message),
    /// A proposal for the leader.
    Proposal(Bytes),
    /// Keep-alives of these leases, for the leader; at most [`ITEMS_MAX`].
    KeepAlives(Items),
    /// What came of them: the TTL in seconds, below 0 where the leader can't tell.
    KeptAlive(Items),
    /// A change of the members, for the leader.
    Change(Caller, MemberChange),
    /// What the leader says to it.
    Changed(Caller, Result<(), Error>),
    /// Who asks for the leader's lease clock; their numbers mean nothing.
    Clocks(Items),
    /// That clock in milliseconds, below 0 where it does not lead.
    ClockIs(Items),
    /// A proposal that was not taken: nothing will come of it.
    NotTaken(Caller, Error),
    /// A member without a state asks for one.
    Mend(MendRequest),
    /// It is not sent.
    MendRefused(MendRefusal),
    /// What a member's state adds up to.
    Sum(Sum),
    /// What the leader says of a member's state.
    Verdict(Verdict),
    /// About an image.
    Image(Word),
    /// What its disk held when the process began: said first on each connection.
    Standing(Standing),
    /// It holds all that the member has promised to who says this.
    Stands,
    /// It does not: this is what the member has promised, and may not be forgotten.
    WentBack(Standing),
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
    /// A list of requests that is cut short.
    #[error("a list of requests that is cut short, or too long")]
    Items,
    /// Its bytes do not make one.
    #[error("{0} that does not decode")]
    Malformed(&'static str),
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

fn put_items(items: &Items, bytes: &mut BytesMut) {
    bytes.reserve(items.len() * ITEM_BYTES);
    for (caller, number) in items {
        put_caller(*caller, bytes);
        bytes.put_i64_le(*number);
    }
}

fn put_error(error: Option<&Error>, bytes: &mut BytesMut) {
    let number = |error: &Error| LEADER_ERRORS.iter().position(|known| known == error);
    bytes.put_u8(error.map_or(0, |error| number(error).map_or(u8::MAX, |at| at as u8 + 1)));
}

fn caller(bytes: &mut Bytes) -> Caller {
    Caller { shard: bytes.get_u32_le(), request_id: bytes.get_u64_le() }
}

fn items(mut bytes: Bytes) -> Result<Items, SaidError> {
    let count = bytes.len() / ITEM_BYTES;
    if count * ITEM_BYTES != bytes.len() || count > ITEMS_MAX {
        return Err(SaidError::Items);
    }
    Ok((0..count).map(|_| (caller(&mut bytes), bytes.get_i64_le())).collect())
}

fn outcome(code: u8) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        code => Err(LEADER_ERRORS.get(usize::from(code) - 1).cloned().unwrap_or(Error::Unhealthy)),
    }
}

impl From<Forward> for Said {
    fn from(Forward { whom: (shard, request_id), call, .. }: Forward) -> Said {
        let caller = Caller { shard, request_id };
        match call {
            Call::Proposal(payload) => Said::Proposal(payload),
            Call::Ask(Ask::KeepAlive(id)) => Said::KeepAlives(vec![(caller, id)]),
            Call::Ask(Ask::LeaseClock) => Said::Clocks(vec![(caller, 0)]),
            Call::Ask(Ask::Change(change)) => Said::Change(caller, change),
        }
    }
}

impl Said {
    /// The highest bits of its frame's group.
    fn channel(&self) -> u64 {
        match self {
            Said::Raft(_) => RAFT,
            Said::Proposal(_) => PROPOSAL,
            Said::KeepAlives(_) => KEEP_ALIVE,
            Said::KeptAlive(_) => KEPT_ALIVE,
            Said::Change(..) => CHANGE,
            Said::Changed(..) => CHANGED,
            Said::Clocks(_) => CLOCK,
            Said::ClockIs(_) => CLOCK_IS,
            Said::NotTaken(..) => NOT_TAKEN,
            Said::Mend(_) => MEND,
            Said::MendRefused(_) => MEND_REFUSED,
            Said::Sum(_) => SUM,
            Said::Verdict(_) => VERDICT,
            Said::Image(_) => IMAGE_WORD,
            Said::Standing(_) => STANDING,
            Said::Stands => STANDS,
            Said::WentBack(_) => WENT_BACK,
        }
    }

    /// The frame's group, and its bytes; `scratch` is empty before and after.
    pub fn encode(&self, scratch: &mut BytesMut) -> (u64, Bytes) {
        let group = self.channel() << CHANNEL_SHIFT | u64::from(GROUP);
        match self {
            Said::Raft(message) => wire::encode(u64::from(GROUP), message, scratch),
            Said::Proposal(payload) => return (group, payload.clone()),
            Said::KeepAlives(items) | Said::KeptAlive(items) | Said::Clocks(items) | Said::ClockIs(items) => {
                put_items(items, scratch);
            }
            Said::Change(caller, change) => {
                put_caller(*caller, scratch);
                scratch.put_slice(&change.encode());
            }
            Said::Changed(caller, outcome) => {
                put_caller(*caller, scratch);
                put_error(outcome.as_ref().err(), scratch);
            }
            Said::NotTaken(caller, error) => {
                put_caller(*caller, scratch);
                put_error(Some(error), scratch);
            }
            Said::Mend(request) => scratch.put_slice(&request.encode()),
            Said::MendRefused(refusal) => scratch.put_slice(&refusal.encode()),
            Said::Sum(sum) => scratch.put_slice(&sum.encode()),
            Said::Verdict(verdict) => scratch.put_slice(&verdict.encode()),
            Said::Image(word) => scratch.put_slice(&word.encode()),
            Said::Standing(standing) | Said::WentBack(standing) => scratch.put_slice(&standing::encode(standing)),
            Said::Stands => {}
        }
        (group, scratch.split().freeze())
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
        let malformed = SaidError::Malformed;
        match channel {
            RAFT => return Ok(Said::Raft(wire::decode(&bytes, limits)?.1)),
            PROPOSAL => return Ok(Said::Proposal(bytes)),
            KEEP_ALIVE => return items(bytes).map(Said::KeepAlives),
            KEPT_ALIVE => return items(bytes).map(Said::KeptAlive),
            CLOCK => return items(bytes).map(Said::Clocks),
            CLOCK_IS => return items(bytes).map(Said::ClockIs),
            MEND => return MendRequest::decode(&bytes).map(Said::Mend).ok_or(malformed("a request for the state")),
            MEND_REFUSED => return MendRefusal::decode(&bytes).map(Said::MendRefused).ok_or(malformed("a refusal")),
            SUM => return Sum::decode(&bytes).map(Said::Sum).ok_or(malformed("a sum of a state")),
            VERDICT => return Verdict::decode(&bytes).map(Said::Verdict).ok_or(malformed("a verdict on a state")),
            IMAGE_WORD => return Word::decode(bytes).map(Said::Image).ok_or(malformed("a word about an image")),
            STANDING => return standing::decode(&bytes).map(Said::Standing).ok_or(malformed("a standing")),
            STANDS if bytes.is_empty() => return Ok(Said::Stands),
            WENT_BACK => return standing::decode(&bytes).map(Said::WentBack).ok_or(malformed("what was promised")),
            _ => {}
        }
        if bytes.len() < CALLER_BYTES {
            return Err(SaidError::Caller);
        }
        let mut rest = bytes;
        let caller = caller(&mut rest);
        match (channel, rest.len()) {
            (CHANGED, 1) => Ok(Said::Changed(caller, outcome(rest.get_u8()))),
            (NOT_TAKEN, 1) => match outcome(rest.get_u8()) {
                Err(error) => Ok(Said::NotTaken(caller, error)),
                Ok(()) => Err(malformed("a refusal without a reason")),
            },
            (CHANGE, _) => {
                let change = MemberChange::decode(&rest).ok_or(malformed("a change of the members"))?;
                Ok(Said::Change(caller, change))
            }
            _ => Err(SaidError::Unknown),
        }
    }

    /// How it travels.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            // Without entries, too: what overtakes those before it says nothing, or is refused and has them sent once more.
            Said::Raft(Message { body: Body::Append { .. } | Body::Commit { .. }, .. }) | Said::Proposal(_) => {
                Lane::Log
            }
            Said::Raft(Message { body: Body::Heartbeat { .. }, .. }) => Lane::Heartbeat,
            _ => Lane::Control,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ringstone_raft::{NodeId, Term};

    use crate::group::LogNeed;

    const SUM_OF_IT: Sum = Sum { index: 1, term: 2, state: 3, events: 4 };
    const CALLER: Caller = Caller { shard: 3, request_id: 9 };

    #[test]
    fn all_that_is_said_comes_back() {
        let message = Message { term: Term(4), body: Body::TimeoutNow };
        let all = [
            Said::Raft(message),
            Said::Proposal(Bytes::from_static(b"sealed")),
            Said::KeepAlives(vec![(CALLER, 7), (CALLER, i64::MIN)]),
            Said::KeptAlive(vec![(CALLER, 0), (CALLER, -1)]),
            Said::Clocks(vec![(CALLER, 0)]),
            Said::ClockIs(Vec::new()),
            Said::NotTaken(CALLER, Error::NotCapable),
            Said::Mend(MendRequest { id: [7; 16], need: LogNeed::Confirmed }),
            Said::MendRefused(MendRefusal::Behind(9)),
            Said::Sum(SUM_OF_IT),
            Said::Verdict(Verdict { member: NodeId(7), told: SUM_OF_IT, others: SUM_OF_IT }),
            Said::Image(Word::Map([7; 16])),
            Said::Standing(Standing { mends: 1, term: 2, vote: Some(3), index: 4 }),
            Said::Standing(Standing::default()),
            Said::Stands,
            Said::WentBack(Standing { mends: 5, term: 6, vote: None, index: 7 }),
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
        assert_eq!(refused(CHANGE << CHANNEL_SHIFT, &[0; 11]), Err(SaidError::Caller));
        assert_eq!(refused(KEEP_ALIVE << CHANNEL_SHIFT, &[0; 21]), Err(SaidError::Items));
        assert_eq!(refused(CHANGED << CHANNEL_SHIFT, &[0; 14]), Err(SaidError::Unknown));
        for channel in [CHANGE, NOT_TAKEN, MEND, SUM, VERDICT, IMAGE_WORD, STANDING, WENT_BACK] {
            let bytes = if channel == NOT_TAKEN { &[0; 13][..] } else { &[0; 40][..] };
            assert!(matches!(refused(channel << CHANNEL_SHIFT, bytes), Err(SaidError::Malformed(_))), "{channel}");
        }
        assert_eq!(refused(77 << CHANNEL_SHIFT, &[0; 20]), Err(SaidError::Unknown));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(channel in 0u64..20, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Said::decode(channel << CHANNEL_SHIFT, Bytes::from(bytes), &limits(1 << 20));
        }
    }
}
