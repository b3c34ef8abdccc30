//! What a process says of its disk before anything of raft, and what it is told (docs/peers.md).
//!
//! ```text
//! standing   mends u64 | term u64 | 1: it has voted u8 | for whom u64 | last index u64
//! went back  as a standing: what it has promised
//! ```

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::identity::promises::Standing;

const BYTES: usize = 33;

/// Its bytes.
#[must_use]
pub fn encode(standing: &Standing) -> Bytes {
    let mut bytes = BytesMut::with_capacity(BYTES);
    bytes.put_u64_le(standing.mends);
    bytes.put_u64_le(standing.term);
    bytes.put_u8(u8::from(standing.vote.is_some()));
    bytes.put_u64_le(standing.vote.unwrap_or(0));
    bytes.put_u64_le(standing.index);
    bytes.freeze()
}

/// None: it is of another length, or its vote is neither there nor absent.
#[must_use]
pub fn decode(mut bytes: &[u8]) -> Option<Standing> {
    if bytes.len() != BYTES {
        return None;
    }
    let (mends, term) = (bytes.get_u64_le(), bytes.get_u64_le());
    let (has_voted, whom) = (bytes.get_u8(), bytes.get_u64_le());
    let vote = match has_voted {
        0 => None,
        1 => Some(whom),
        _ => return None,
    };
    Some(Standing { mends, term, vote, index: bytes.get_u64_le() })
}
