//! The entry: a fixed envelope around an rkyv [`Command`], as it stands in the log and travels between members.
//!
//! ```text
//! offset size  field (little endian)
//!      0    2  format version (1)
//!      2    2  kind: which variant of Command the body holds
//!      4    4  group
//!      8    8  proposer: member id
//!     16    4  shard that waits for the answer
//!     20    4  length of the user name
//!     24    8  request id within the shard
//!     32    8  auth revision the user was resolved at
//!     40    8  lease clock, ms
//!     48    8  leader's wall time, ms since 1970: information only, apply must not read it
//!     56    4  CRC32 of all other bytes of the entry
//!     60    4  zero
//!     64    n  user name
//!   64+n       body
//! ```
//!
//! An entry with an unknown version or kind stops the member before it is applied; the checks here come first. A kind that not
//! all members know is not proposed (group/kinds.rs).

use rkyv::rancor;

use crate::command::{ArchivedCommand, Command};

/// Bytes of the envelope in front of user name and body.
pub const ENVELOPE_BYTES: usize = 64;
/// The one format version so far.
pub const FORMAT_VERSION: u16 = 1;

const REQUEST_ID_AT: usize = 24;
const LEASE_CLOCK_AT: usize = 40;
const WALL_TIME_AT: usize = 48;
const CRC_AT: usize = 56;

/// What the envelope says besides the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Raft group.
    pub group: u32,
    /// Member that proposed.
    pub proposer: u64,
    /// Shard that waits for the answer.
    pub shard: u32,
    /// Request id within that shard; see [`request_and_attempt`].
    pub request_id: u64,
    /// Authenticated user; empty without auth.
    pub user: String,
    /// Auth revision that the user was resolved at.
    pub auth_revision: u64,
    /// Lease clock in ms; set by the group when it proposes.
    pub lease_clock_ms: u64,
    /// Wall time of the proposer in ms; information only.
    pub wall_time_ms: u64,
}

/// Why bytes are not an entry that this version can apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Shorter than its envelope or than the lengths inside it.
    #[error("entry of {bytes} bytes is cut short")]
    Short {
        /// Bytes there are.
        bytes: usize,
    },
    /// A later version wrote it.
    #[error("entry has format version {found}, this program knows {FORMAT_VERSION}: upgrade it")]
    UnknownVersion {
        /// The version found.
        found: u16,
    },
    /// A later version wrote it.
    #[error("entry has the unknown kind {found}: upgrade this member")]
    UnknownKind {
        /// The kind found.
        found: u16,
    },
    /// The bytes are not those that were proposed.
    #[error("entry checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Computed over the bytes.
        found: u32,
        /// Stored in the envelope.
        expected: u32,
    },
    /// The body is not a valid command of its kind.
    #[error("entry body of kind {kind} is not a valid command")]
    Body {
        /// The kind that the envelope names.
        kind: u16,
    },
}

/// The kind number of a command: fixed for ever, pinned by golden bytes.
#[must_use]
pub fn kind_of(command: &Command) -> u16 {
    match command {
        Command::Bootstrap(_) => 1,
        Command::Put(_) => 2,
        Command::DeleteRange(_) => 3,
        Command::Txn(_) => 4,
        Command::Compact { .. } => 5,
        Command::LeaseGrant { .. } => 6,
        Command::LeaseRevoke { .. } => 7,
        Command::LeaseRenew { .. } => 8,
        Command::LeaseClock => 9,
        Command::Alarm { .. } => 10,
        Command::MemberAttributes { .. } => 11,
        Command::MemberAdd { .. } => 12,
        Command::MemberPromote { .. } => 13,
        Command::MemberRemove { .. } => 14,
        Command::MemberUpdate { .. } => 15,
        Command::KindsAgreed { .. } => 16,
        #[cfg(feature = "next-kind")]
        Command::NextPut(_) => KIND_NEXT,
    }
}

fn kind_of_archived(command: &ArchivedCommand) -> u16 {
    match command {
        ArchivedCommand::Bootstrap(_) => 1,
        ArchivedCommand::Put(_) => 2,
        ArchivedCommand::DeleteRange(_) => 3,
        ArchivedCommand::Txn(_) => 4,
        ArchivedCommand::Compact { .. } => 5,
        ArchivedCommand::LeaseGrant { .. } => 6,
        ArchivedCommand::LeaseRevoke { .. } => 7,
        ArchivedCommand::LeaseRenew { .. } => 8,
        ArchivedCommand::LeaseClock => 9,
        ArchivedCommand::Alarm { .. } => 10,
        ArchivedCommand::MemberAttributes { .. } => 11,
        ArchivedCommand::MemberAdd { .. } => 12,
        ArchivedCommand::MemberPromote { .. } => 13,
        ArchivedCommand::MemberRemove { .. } => 14,
        ArchivedCommand::MemberUpdate { .. } => 15,
        ArchivedCommand::KindsAgreed { .. } => 16,
        #[cfg(feature = "next-kind")]
        ArchivedCommand::NextPut(_) => KIND_NEXT,
    }
}

/// The newest kind that every member knows, whatever its version.
pub const KIND_BASE: u16 = 16;
/// The newest kind that this version knows.
pub const KIND_MAX: u16 = 16;
/// One more, for tests of members that know different kinds: see docs/simulation.md.
#[cfg(feature = "next-kind")]
pub const KIND_NEXT: u16 = KIND_MAX + 1;

/// The newest kind that can be decoded; a member may know less ([`ServerConfig::entry_kinds`](crate::config::ServerConfig)).
#[cfg(not(feature = "next-kind"))]
const KIND_DECODED_MAX: u16 = KIND_MAX;
#[cfg(feature = "next-kind")]
const KIND_DECODED_MAX: u16 = KIND_NEXT;

/// An entry under construction: everything but what only the group knows.
#[derive(Debug)]
pub struct Draft {
    bytes: Vec<u8>,
}

impl Draft {
    /// Encodes envelope and command into one buffer.
    ///
    /// # Panics
    /// A user name over 4 GiB.
    #[must_use]
    pub fn new(envelope: &Envelope, command: &Command) -> Draft {
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + envelope.user.len() + body_bytes_about(command));
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&kind_of(command).to_le_bytes());
        bytes.extend_from_slice(&envelope.group.to_le_bytes());
        bytes.extend_from_slice(&envelope.proposer.to_le_bytes());
        bytes.extend_from_slice(&envelope.shard.to_le_bytes());
        let user_bytes = u32::try_from(envelope.user.len()).expect("a user name fits a request");
        bytes.extend_from_slice(&user_bytes.to_le_bytes());
        bytes.extend_from_slice(&envelope.request_id.to_le_bytes());
        bytes.extend_from_slice(&envelope.auth_revision.to_le_bytes());
        bytes.extend_from_slice(&envelope.lease_clock_ms.to_le_bytes());
        bytes.extend_from_slice(&envelope.wall_time_ms.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(envelope.user.as_bytes());
        let bytes =
            rkyv::api::high::to_bytes_in::<_, rancor::Error>(command, bytes).expect("a vector takes any command");
        Draft { bytes }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> u16 {
        u16::from_le_bytes([self.bytes[2], self.bytes[3]])
    }

    /// Bytes of the finished entry.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: an entry has an envelope.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The draft of an entry that another member has sealed and sent here to be proposed: checked, as [`Entry::read`] does.
    ///
    /// # Errors
    /// [`EntryError`]; any bytes are safe to pass.
    pub fn of_sealed(bytes: &[u8]) -> Result<Draft, EntryError> {
        Entry::read(bytes)?;
        Ok(Draft { bytes: bytes.to_vec() })
    }

    /// The same as the next attempt ([`request_and_attempt`]). None: that was the last.
    #[must_use]
    pub(crate) fn next_attempt(mut self) -> Option<Draft> {
        let attempt = &mut self.bytes[REQUEST_ID_AT + 7];
        *attempt = attempt.checked_add(1)?;
        Some(self)
    }

    /// Which attempt it is.
    pub(crate) fn attempt(&self) -> u8 {
        self.bytes[REQUEST_ID_AT + 7]
    }

    /// Sets what only the group knows and seals the entry with its checksum.
    #[must_use]
    pub fn seal(mut self, lease_clock_ms: u64, wall_time_ms: u64) -> bytes::Bytes {
        self.bytes[LEASE_CLOCK_AT..LEASE_CLOCK_AT + 8].copy_from_slice(&lease_clock_ms.to_le_bytes());
        self.bytes[WALL_TIME_AT..WALL_TIME_AT + 8].copy_from_slice(&wall_time_ms.to_le_bytes());
        let crc = checksum(&self.bytes);
        self.bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes::Bytes::from(self.bytes)
    }
}

/// Of a request id in an envelope: the request's own id, and which attempt to propose it this is, from 0 on, in its highest byte.
/// Shards begin to number their requests below 2^56.
#[must_use]
pub fn request_and_attempt(request_id: u64) -> (u64, u8) {
    let [.., attempt] = request_id.to_le_bytes();
    (request_id & (u64::MAX >> 8), attempt)
}

/// The other way round.
pub(crate) fn request_of_attempt(request_id: u64, attempt: u8) -> u64 {
    request_id & (u64::MAX >> 8) | u64::from(attempt) << 56
}

/// Whose request a sealed entry is: shard and request id, as in its envelope. None: it is too short for an entry.
#[must_use]
pub fn caller_of(sealed: &[u8]) -> Option<(u32, u64)> {
    (sealed.len() >= ENVELOPE_BYTES).then(|| (u32_at(sealed, 16), u64_at(sealed, 24)))
}

/// So that the buffer of a put, the usual command, is allocated once.
fn body_bytes_about(command: &Command) -> usize {
    let fixed = 128;
    match command {
        Command::Put(put) => fixed + put.key.len() + put.value.len(),
        _ => fixed,
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&bytes[CRC_AT + 4..]);
    hasher.finalize()
}

/// A checked entry: its envelope, and its command in place.
pub struct Entry<'a> {
    /// The envelope.
    pub envelope: Envelope,
    /// Which variant of the command.
    pub kind: u16,
    /// The command, validated.
    pub command: &'a ArchivedCommand,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

impl<'a> Entry<'a> {
    /// Checks version, kind, checksum and body, in this order.
    ///
    /// # Errors
    /// [`EntryError`]; any bytes are safe to pass.
    pub fn read(bytes: &'a [u8]) -> Result<Entry<'a>, EntryError> {
        if bytes.len() < ENVELOPE_BYTES {
            return Err(EntryError::Short { bytes: bytes.len() });
        }
        let version = u16::from_le_bytes([bytes[0], bytes[1]]);
        if version != FORMAT_VERSION {
            return Err(EntryError::UnknownVersion { found: version });
        }
        let (found, expected) = (checksum(bytes), u32_at(bytes, CRC_AT));
        if found != expected {
            return Err(EntryError::Checksum { found, expected });
        }
        let kind = u16::from_le_bytes([bytes[2], bytes[3]]);
        if kind == 0 || kind > KIND_DECODED_MAX {
            return Err(EntryError::UnknownKind { found: kind });
        }
        let user_bytes = u32_at(bytes, 20) as usize;
        let rest = &bytes[ENVELOPE_BYTES..];
        if rest.len() < user_bytes {
            return Err(EntryError::Short { bytes: bytes.len() });
        }
        let (user, body) = rest.split_at(user_bytes);
        let command = rkyv::access::<ArchivedCommand, rancor::Error>(body).map_err(|_| EntryError::Body { kind })?;
        if kind_of_archived(command) != kind {
            return Err(EntryError::Body { kind });
        }
        let user = core::str::from_utf8(user).map_err(|_| EntryError::Body { kind })?.to_owned();
        let envelope = Envelope {
            group: u32_at(bytes, 4),
            proposer: u64_at(bytes, 8),
            shard: u32_at(bytes, 16),
            request_id: u64_at(bytes, 24),
            user,
            auth_revision: u64_at(bytes, 32),
            lease_clock_ms: u64_at(bytes, LEASE_CLOCK_AT),
            wall_time_ms: u64_at(bytes, WALL_TIME_AT),
        };
        Ok(Entry { envelope, kind, command })
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Put;

    const COMMAND_BYTES: usize = 33;

    fn sample() -> bytes::Bytes {
        let envelope =
            Envelope { group: 0, proposer: 7, shard: 1, request_id: 99, user: "ann".to_owned(), ..Envelope::default() };
        let put = Put { key: b"k".to_vec(), value: b"v".to_vec(), ..Put::default() };
        Draft::new(&envelope, &Command::Put(put)).seal(5, 6)
    }

    #[test]
    fn an_entry_reads_back() {
        let bytes = sample();
        let entry = Entry::read(&bytes).expect("valid");
        assert_eq!(entry.envelope.user, "ann");
        assert_eq!((entry.envelope.lease_clock_ms, entry.envelope.wall_time_ms), (5, 6));
        let ArchivedCommand::Put(put) = entry.command else { panic!("a put") };
        assert_eq!(put.key.as_slice(), b"k");
    }

    #[test]
    fn a_variant_is_never_longer_than_those_in_logs() {
        // Where the root of a body stands follows from its length: a longer one makes old entries unreadable.
        assert_eq!(core::mem::size_of::<ArchivedCommand>(), COMMAND_BYTES);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::read(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_found() {
        let good = sample();
        for end in 0..good.len() {
            assert!(Entry::read(&good[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn unknown_kinds_and_versions_are_named() {
        let mut bytes = sample().to_vec();
        bytes[2] = 200;
        let crc = checksum(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Entry::read(&bytes).err().expect("kind"), EntryError::UnknownKind { found: 200 });
        bytes[0] = 9;
        assert_eq!(Entry::read(&bytes).err().expect("version"), EntryError::UnknownVersion { found: 9 });
    }
}
