//! For whom has this member voted? Kept beside the log, so that a damaged log is not a forgotten vote.
//!
//! A member that forgets its vote can give it twice: two leaders in one term. The log holds term and vote; this file holds
//! them again, and a vote leaves only when both are synced. It is read where the log can't be; where both can be read, the
//! later one counts, for a crash may leave either behind.
//!
//! ```text
//! <data-dir>/member/ballot      two slots, 4096 bytes apart, written in turn
//!
//! offset size  field of a slot, little endian
//!      0    8  magic "RSTNBALL"
//!      8    8  count: the slot with the higher one is the later one; its lowest bit is the slot
//!     16    8  term
//!     24    8  1: it has voted, 0: it has not
//!     32    8  for whom
//!     40    4  CRC32 of the bytes before, seeded with the member's file id
//! ```
//!
//! A slot that is damaged may have been the later one. So only a file with two good slots speaks for a member whose log is
//! damaged: a torn write of a ballot and a damaged log at once are more than one fault.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ringstone_raft::{HardState, NodeId, Term};

use super::{Identity, IdentityError, io_error};

const MAGIC: &[u8; 8] = b"RSTNBALL";
/// Bytes of a slot: nothing that a disk writes at once reaches from one to the other.
pub const SLOT_BYTES: usize = 4096;
const CRC_AT: usize = 40;

/// A ballot on its way to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// How many there were.
    pub count: u64,
    /// What is kept.
    pub state: HardState,
}

impl Ballot {
    /// Where its slot begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        (self.count & 1) * SLOT_BYTES as u64
    }

    /// The bytes of its slot.
    #[must_use]
    pub fn encode(&self, identity: &Identity) -> Vec<u8> {
        let mut slot = vec![0; SLOT_BYTES];
        slot[..8].copy_from_slice(MAGIC);
        let vote = self.state.vote;
        let words = [self.count, self.state.term.0, u64::from(vote.is_some()), vote.map_or(0, |vote| vote.0)];
        for (place, word) in slot[8..CRC_AT].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let crc = checksum(identity, &slot[..CRC_AT]);
        slot[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// None: damaged, or of another member.
    fn decode(identity: &Identity, slot: &[u8]) -> Option<Ballot> {
        let word = |at: usize| Some(u64::from_le_bytes(slot.get(at..at + 8)?.try_into().ok()?));
        let vote = if word(24)? == 1 { Some(NodeId(word(32)?)) } else { None };
        let ballot = Ballot { count: word(8)?, state: HardState { term: Term(word(16)?), vote } };
        (slot == ballot.encode(identity)).then_some(ballot)
    }
}

fn checksum(identity: &Identity, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&identity.file_id);
    hasher.update(bytes);
    hasher.finalize()
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none: the member was made by a version that kept none, or it was lost.
    Nothing,
    /// Both slots are good: this is the last one for certain.
    Whole(Ballot),
    /// One is damaged: the good one may have been followed by it.
    Part(Ballot),
    /// Neither is good.
    Damaged,
}

impl Found {
    /// Term and vote as they were for certain.
    #[must_use]
    pub fn certain(self) -> Option<HardState> {
        match self {
            Found::Whole(ballot) => Some(ballot.state),
            _ => None,
        }
    }

    /// The vote that it has, certain or not.
    #[must_use]
    pub fn vote(self) -> Option<NodeId> {
        self.good().and_then(|ballot| ballot.state.vote)
    }

    fn good(self) -> Option<Ballot> {
        match self {
            Found::Whole(ballot) | Found::Part(ballot) => Some(ballot),
            Found::Nothing | Found::Damaged => None,
        }
    }
}

/// Where it is.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("ballot")
}

/// Reads the file.
///
/// # Errors
/// [`IdentityError::Io`].
pub fn read(data_dir: &Path, identity: &Identity) -> Result<Found, IdentityError> {
    let path = path(data_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io_error(&path)(error)),
    };
    let slot = |number: u64| {
        let at = number as usize * SLOT_BYTES;
        let ballot = Ballot::decode(identity, bytes.get(at..at + SLOT_BYTES)?)?;
        (ballot.count & 1 == number).then_some(ballot)
    };
    Ok(match (slot(0), slot(1)) {
        (Some(one), Some(other)) if one.count.abs_diff(other.count) == 1 => {
            Found::Whole(if one.count > other.count { one } else { other })
        }
        (Some(ballot), None) | (None, Some(ballot)) => Found::Part(ballot),
        // Two that do not follow each other: one of them was put back.
        _ => Found::Damaged,
    })
}

/// The later one of what the log and the file say. None: they can't be of one member, for it voted twice in a term.
#[must_use]
pub fn later(log: HardState, found: Found) -> Option<HardState> {
    let Some(Ballot { state, .. }) = found.good() else { return Some(log) };
    match (log.vote, state.vote) {
        _ if log.term > state.term => Some(log),
        _ if state.term > log.term => Some(state),
        (Some(one), Some(other)) if one != other => None,
        (Some(_), _) => Some(log),
        (None, _) => Some(state),
    }
}

/// Makes the file say `state`, where it does not. On disk when this returns: both slots, with it as the later one. Returns
/// that one's count.
///
/// # Errors
/// [`IdentityError::Io`].
pub fn settle(data_dir: &Path, identity: &Identity, state: HardState) -> Result<u64, IdentityError> {
    let found = read(data_dir, identity)?;
    if let Found::Whole(ballot) = found
        && ballot.state == state
    {
        return Ok(ballot.count);
    }
    let path = path(data_dir);
    if found != Found::Nothing && !matches!(found, Found::Whole(_)) {
        tracing::warn!(file = %path.display(), "the copy of term and vote is damaged: it is made again from the log");
    }
    let before = found.good().map_or(0, |ballot| ballot.count);
    let written = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        // The damaged slot first, if there is one: the good one stands until this one does.
        for count in [before + 1, before + 2] {
            let ballot = Ballot { count, state };
            file.write_all_at(&ballot.encode(identity), ballot.offset())?;
            file.sync_all()?;
        }
        fs::File::open(data_dir.join("member"))?.sync_all()
    })();
    written.map(|()| before + 2).map_err(io_error(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { cluster_id: 1, member_id: 2, file_id: [7; 16] };

    fn state(term: u64, vote: Option<u64>) -> HardState {
        HardState { term: Term(term), vote: vote.map(NodeId) }
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("member")).expect("a folder");
        folder
    }

    #[test]
    fn what_is_settled_is_read_and_the_next_ballot_goes_to_the_other_slot() {
        let folder = folder();
        assert_eq!(read(folder.path(), &IDENTITY).expect("no file"), Found::Nothing);
        let count = settle(folder.path(), &IDENTITY, state(3, Some(2))).expect("the disk works");
        assert_eq!(read(folder.path(), &IDENTITY).expect("it is there").certain(), Some(state(3, Some(2))));
        assert_eq!(settle(folder.path(), &IDENTITY, state(3, Some(2))).expect("as it is"), count);
        let next = Ballot { count: count + 1, state: state(4, None) };
        let file = OpenOptions::new().write(true).open(path(folder.path())).expect("it is there");
        file.write_all_at(&next.encode(&IDENTITY), next.offset()).expect("the disk works");
        assert_eq!(read(folder.path(), &IDENTITY).expect("it is there"), Found::Whole(next));
        // Another member's is none.
        let other = Identity { file_id: [8; 16], ..IDENTITY };
        assert_eq!(read(folder.path(), &other).expect("it is there"), Found::Damaged);
    }

    /// Each slot with each byte of its content damaged: the file never speaks for certain again, until it is settled.
    #[test]
    fn a_damaged_slot_is_not_certain() {
        let folder = folder();
        settle(folder.path(), &IDENTITY, state(9, Some(1))).expect("the disk works");
        let good = fs::read(path(folder.path())).expect("it is there");
        for slot in 0..2 {
            for byte in 0..CRC_AT + 5 {
                let mut bytes = good.clone();
                bytes[slot * SLOT_BYTES + byte] ^= 1 << (byte % 8);
                fs::write(path(folder.path()), bytes).expect("the disk works");
                let found = read(folder.path(), &IDENTITY).expect("it is there");
                assert!(matches!(found, Found::Part(_)) && found.certain().is_none(), "slot {slot} byte {byte}");
            }
        }
        // One slot put back from long ago.
        let old = Ballot { count: 1, state: state(1, None) };
        let file = OpenOptions::new().write(true).open(path(folder.path())).expect("it is there");
        let last = Ballot { count: 8, state: state(9, Some(1)) };
        file.write_all_at(&last.encode(&IDENTITY), last.offset()).expect("the disk works");
        file.write_all_at(&old.encode(&IDENTITY), old.offset()).expect("the disk works");
        assert_eq!(read(folder.path(), &IDENTITY).expect("it is there"), Found::Damaged);
        settle(folder.path(), &IDENTITY, state(9, Some(1))).expect("the disk works");
        assert_eq!(read(folder.path(), &IDENTITY).expect("it is there").certain(), Some(state(9, Some(1))));
    }

    #[test]
    fn the_later_one_counts_and_two_votes_in_a_term_are_refused() {
        let whole = |term, vote| Found::Whole(Ballot { count: 4, state: state(term, vote) });
        assert_eq!(later(state(3, None), Found::Nothing), Some(state(3, None)));
        assert_eq!(later(state(3, Some(1)), whole(2, Some(9))), Some(state(3, Some(1))));
        assert_eq!(later(state(3, Some(1)), whole(4, None)), Some(state(4, None)));
        assert_eq!(later(state(4, None), whole(4, Some(1))), Some(state(4, Some(1))));
        assert_eq!(later(state(4, Some(1)), whole(4, None)), Some(state(4, Some(1))));
        assert_eq!(later(state(4, Some(1)), whole(4, Some(1))), Some(state(4, Some(1))));
        assert_eq!(later(state(4, Some(1)), whole(4, Some(2))), None);
    }
}
