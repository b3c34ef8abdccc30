//! What a member that has lost its state says to the others, and they to it (docs/peers.md).
//!
//! ```text
//! request   id 16 | lowest applied index u64 | 1: of a leader that has proved itself since, u8
//! refusal   why u8 | number u64
//! ```
//!
//! The id is that of the snapshot which answers: any other one is not what was asked for.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::group::LogNeed;

/// A request for the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MendRequest {
    /// Random, one for each process that asks.
    pub id: [u8; 16],
    /// What the state has to be.
    pub need: LogNeed,
}

impl MendRequest {
    const BYTES: usize = 25;

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(MendRequest::BYTES);
        bytes.put_slice(&self.id);
        let (from, is_confirmed) = match self.need {
            LogNeed::From(from) => (from, 0),
            LogNeed::Confirmed => (0, 1),
        };
        bytes.put_u64_le(from);
        bytes.put_u8(is_confirmed);
        bytes.freeze()
    }

    /// None: it is no request.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<MendRequest> {
        let bytes: &[u8; MendRequest::BYTES] = bytes.try_into().ok()?;
        let (id, rest) = bytes.split_first_chunk::<16>()?;
        let from = u64::from_le_bytes(*rest.first_chunk()?);
        let need = match bytes[MendRequest::BYTES - 1] {
            0 => LogNeed::From(from),
            1 => LogNeed::Confirmed,
            _ => return None,
        };
        Some(MendRequest { id: *id, need })
    }
}

/// Why a state is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MendRefusal {
    /// Only a leader can.
    #[error("it does not lead (member {0:x} does, as far as it knows)")]
    NotLeader(u64),
    /// Its state is older than the log that is to go on behind it.
    #[error("it has applied only entry {0}")]
    Behind(u64),
    /// It lost its office before a quorum had confirmed it.
    #[error("no quorum confirmed that it leads")]
    Unconfirmed,
    /// It has lost its own state, or its log.
    #[error("it has lost its own state and waits for another member's")]
    Mending,
}

impl MendRefusal {
    const BYTES: usize = 9;

    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let (why, number) = match self {
            MendRefusal::NotLeader(leader) => (1, leader),
            MendRefusal::Behind(applied) => (2, applied),
            MendRefusal::Unconfirmed => (3, 0),
            MendRefusal::Mending => (4, 0),
        };
        let mut bytes = BytesMut::with_capacity(MendRefusal::BYTES);
        bytes.put_u8(why);
        bytes.put_u64_le(number);
        bytes.freeze()
    }

    /// None: it is no refusal that this version knows.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<MendRefusal> {
        let (why, number) = bytes.split_first()?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        match why {
            1 => Some(MendRefusal::NotLeader(number)),
            2 => Some(MendRefusal::Behind(number)),
            3 => Some(MendRefusal::Unconfirmed),
            4 => Some(MendRefusal::Mending),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_said() {
        for need in [LogNeed::From(77), LogNeed::Confirmed] {
            let request = MendRequest { id: [9; 16], need };
            assert_eq!(MendRequest::decode(&request.encode()), Some(request));
        }
        let refusals =
            [MendRefusal::NotLeader(5), MendRefusal::Behind(7), MendRefusal::Unconfirmed, MendRefusal::Mending];
        for refusal in refusals {
            assert_eq!(MendRefusal::decode(&refusal.encode()), Some(refusal));
        }
        assert_eq!((MendRequest::decode(&[0; 24]), MendRequest::decode(&[2; 25])), (None, None));
        assert_eq!((MendRefusal::decode(&[4]), MendRefusal::decode(&[9; 9])), (None, None));
    }
}
