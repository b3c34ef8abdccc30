//! Records: what the owner logs, and how they stand in a unit's payload.

use crate::format::{CARRIED_BYTES_MAX, PAYLOAD_BYTES_MAX, RecordLayout, get_u32, get_u64, put_u32, put_u64};
use core::mem::offset_of;

/// What a record is. The payloads are the owner's and opaque here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An entry of the replicated log.
    Entry,
    /// Term, vote and the like. The last one of each group outlives the release of its segment.
    HardState,
    /// Drops every entry of the group with an index of at least the record's. No payload is needed.
    Truncate,
    /// A checkpoint of the page file. The last one of each group outlives the release of its segment.
    Checkpoint,
    /// An entry of the replicated log with a membership configuration. The last one of each group outlives the release of its
    /// segment, unless a truncation has dropped it.
    Config,
    /// Written by the log itself at a segment's start: index and term of the group's last entry before it.
    Position,
}

impl Kind {
    /// The byte on disk.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Kind::Entry => 1,
            Kind::HardState => 2,
            Kind::Truncate => 3,
            Kind::Checkpoint => 4,
            Kind::Config => 5,
            Kind::Position => 6,
        }
    }

    /// The kind of a byte on disk.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Kind> {
        match code {
            1 => Some(Kind::Entry),
            2 => Some(Kind::HardState),
            3 => Some(Kind::Truncate),
            4 => Some(Kind::Checkpoint),
            5 => Some(Kind::Config),
            6 => Some(Kind::Position),
            _ => None,
        }
    }

    /// Whether the last record of this kind is copied to the start of each new segment.
    #[must_use]
    pub fn is_carried(self) -> bool {
        matches!(self, Kind::HardState | Kind::Checkpoint | Kind::Config)
    }

    /// Most bytes of a payload of this kind.
    #[must_use]
    pub fn payload_bytes_max(self) -> usize {
        if self.is_carried() { CARRIED_BYTES_MAX } else { PAYLOAD_BYTES_MAX }
    }
}

/// One record. The payload is borrowed: from the owner when appended, from the reader's buffer when replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The group that it belongs to.
    pub group: u32,
    /// What it is.
    pub kind: Kind,
    /// Term; meaning is the owner's.
    pub term: u64,
    /// Index; for [`Kind::Truncate`] the first index that is dropped.
    pub index: u64,
    /// Content, at most [`Kind::payload_bytes_max`] bytes.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes on disk, without the block headers in between.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        RecordLayout::BYTES + self.payload.len()
    }

    /// The head of this record after the record whose CRC is `chain`, and the CRC that the next one starts from.
    #[must_use]
    pub fn encode_head(&self, chain: u32) -> ([u8; RecordLayout::BYTES], u32) {
        let mut head = [0; RecordLayout::BYTES];
        put_u32(&mut head, offset_of!(RecordLayout, payload_bytes), self.payload.len() as u32);
        put_u32(&mut head, offset_of!(RecordLayout, group), self.group);
        head[offset_of!(RecordLayout, kind)] = self.kind.code();
        put_u64(&mut head, offset_of!(RecordLayout, term), self.term);
        put_u64(&mut head, offset_of!(RecordLayout, index), self.index);
        let crc = record_crc(chain, &head, self.payload);
        put_u32(&mut head, offset_of!(RecordLayout, crc), crc);
        (head, crc)
    }
}

fn record_crc(chain: u32, head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(chain);
    hasher.update(&head[size_of::<u32>()..]);
    hasher.update(payload);
    hasher.finalize()
}

/// Why the bytes of a unit are not the records that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// The unit ends within a record.
    Cut,
    /// The CRC does not continue that of the record before.
    Chain,
    /// A kind that this version does not know.
    Kind(u8),
    /// A payload longer than its kind allows.
    Length,
}

/// Reads the records of one unit in order, checking the chain.
pub struct Records<'a> {
    rest: &'a [u8],
    chain: u32,
}

impl<'a> Records<'a> {
    /// The records in `payload`, after a record whose CRC is `chain`.
    #[must_use]
    pub fn new(payload: &'a [u8], chain: u32) -> Records<'a> {
        Records { rest: payload, chain }
    }

    /// CRC of the last record that was read.
    #[must_use]
    pub fn chain(&self) -> u32 {
        self.chain
    }

    /// The next record, or `None` at the end.
    ///
    /// # Errors
    /// [`RecordFault`]; the records before it were good.
    pub fn read(&mut self) -> Result<Option<Record<'a>>, RecordFault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (head, rest) = self.rest.split_at_checked(RecordLayout::BYTES).ok_or(RecordFault::Cut)?;
        let payload_bytes = get_u32(head, offset_of!(RecordLayout, payload_bytes)) as usize;
        let (payload, rest) = rest.split_at_checked(payload_bytes).ok_or(RecordFault::Cut)?;
        let crc = record_crc(self.chain, head, payload);
        if crc != get_u32(head, offset_of!(RecordLayout, crc)) {
            return Err(RecordFault::Chain);
        }
        let code = head[offset_of!(RecordLayout, kind)];
        let kind = Kind::from_code(code).ok_or(RecordFault::Kind(code))?;
        if payload.len() > kind.payload_bytes_max() {
            return Err(RecordFault::Length);
        }
        (self.rest, self.chain) = (rest, crc);
        Ok(Some(Record {
            group: get_u32(head, offset_of!(RecordLayout, group)),
            kind,
            term: get_u64(head, offset_of!(RecordLayout, term)),
            index: get_u64(head, offset_of!(RecordLayout, index)),
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reading_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), chain: u32) {
            let mut records = Records::new(&bytes, chain);
            while let Ok(Some(_)) = records.read() {}
        }

        #[test]
        fn records_round_trip_and_the_chain_is_of_all_before(
            rows in proptest::collection::vec((any::<u32>(), 1u8..=6, any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..50)), 1..8),
            start: u32,
        ) {
            let mut bytes = Vec::new();
            let mut chain = start;
            for (group, code, term, index, payload) in &rows {
                let kind = Kind::from_code(*code).expect("a known code");
                let record = Record { group: *group, kind, term: *term, index: *index, payload };
                let (head, next) = record.encode_head(chain);
                bytes.extend_from_slice(&head);
                bytes.extend_from_slice(payload);
                chain = next;
            }
            let mut reader = Records::new(&bytes, start);
            for (group, code, term, index, payload) in &rows {
                let record = reader.read().expect("good").expect("there");
                prop_assert_eq!((record.group, record.kind.code(), record.term, record.index, record.payload), (*group, *code, *term, *index, payload.as_slice()));
            }
            prop_assert_eq!(reader.read(), Ok(None));
            prop_assert_eq!(reader.chain(), chain);
            let mut wrong = Records::new(&bytes, start ^ 1);
            prop_assert_eq!(wrong.read(), Err(RecordFault::Chain));
        }
    }
}
