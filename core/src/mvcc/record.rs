//! The bytes of records in `live`, `log` and `beside` (docs/format-store.md), their hashes, and what they add up to.
//!
//! A record carries the hash of its logical fields, so that sums over ranges only read it. Numbers that are small in
//! practice are LEB128 varints, differences against the record's own revision; hashes and lease ids are fixed.

use std::hash::Hasher;

use ringstone_pager::api::{Access, Aggregate, Damage, Fault, ReadTrees, TreeId, TreeSpec};
use siphasher::sip::SipHasher24;
use smallvec::SmallVec;

use crate::event::Revision;
use crate::trees::{BESIDE, LIVE, LOG, VALUE};

/// A longer value stands in `VALUE`, once. A quarter of a page: shorter ones are cheaper copied than shared.
pub const VALUE_INLINE_BYTES_MAX: usize = 1024;

/// What a record counts beyond its key and value: its header, its key in the tree, its share of free page space.
pub const RECORD_OVERHEAD_BYTES: u64 = 64;

/// The trees of the store, for the catalogue.
pub const SPECS: [TreeSpec; 4] = [
    TreeSpec { id: LIVE, name: "live", summarize: summarize_live },
    TreeSpec { id: LOG, name: "log", summarize: summarize_log },
    TreeSpec { id: BESIDE, name: "beside", summarize: summarize_beside },
    TreeSpec { id: VALUE, name: "value", summarize: summarize_value },
];

mod flag {
    /// The key is deleted: there is no create revision, version, lease or value.
    pub const TOMBSTONE: u8 = 1;
    /// Eight bytes of lease id follow.
    pub const LEASE: u8 = 1 << 1;
    /// The value stands in `VALUE`; its length follows instead.
    pub const EXTERNAL: u8 = 1 << 2;
    /// A skip pointer follows.
    pub const JUMP: u8 = 1 << 3;
    /// The key has an earlier event that the window could still need.
    pub const PREVIOUS: u8 = 1 << 4;
    /// That one is a put: its hash follows.
    pub const PREVIOUS_PUT: u8 = 1 << 5;
    /// And its value stands in `VALUE`.
    pub const PREVIOUS_EXTERNAL: u8 = 1 << 6;
    /// Flags of records in `live` and `beside`.
    pub const OF_LIVE: u8 = TOMBSTONE | LEASE | EXTERNAL | JUMP;
}

/// The logical fields of one version of a key, without the key. A tombstone has only its revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Where it was written.
    pub revision: Revision,
    /// True: the key was deleted here.
    pub tombstone: bool,
    /// Main revision of the put that created the key.
    pub create: i64,
    /// Puts since then, this one counted.
    pub version: i64,
    /// Lease id, 0: none.
    pub lease: i64,
    /// [`record_hash`] of all of it.
    pub hash: u64,
}

/// A value as a record holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// In the record.
    Inline(&'a [u8]),
    /// In `VALUE` under the record's revision, this many bytes.
    External(u64),
}

impl Stored<'_> {
    /// Whether it stands in `VALUE`.
    #[must_use]
    pub fn is_external(&self) -> bool {
        matches!(self, Stored::External(_))
    }

    fn inline_bytes(&self) -> u64 {
        match self {
            Stored::Inline(value) => value.len() as u64,
            Stored::External(_) => 0,
        }
    }
}

/// A pointer to an older event of the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The older event.
    pub to: Revision,
    /// How many versions are skipped, plus one.
    pub span: u64,
}

/// The event of the same key before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Where it was written.
    pub revision: Revision,
    /// The hash of its record, if it is a put.
    pub put_hash: Option<u64>,
    /// Its value stands in `VALUE`.
    pub external: bool,
}

/// A record of `live` or `beside`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRecord<'a> {
    /// Its fields.
    pub meta: Meta,
    /// The skip pointer of its event, so that the next write need not look it up.
    pub jump: Option<Jump>,
    /// Its value; empty in a tombstone.
    pub value: Stored<'a>,
}

/// A record of `log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Its fields; the revision is that of the tree's key.
    pub meta: Meta,
    /// The key that changed.
    pub key: &'a [u8],
    /// The event before it.
    pub previous: Option<Previous>,
    /// The skip pointer, never nearer than `previous`.
    pub jump: Option<Jump>,
    /// Its value; empty in a tombstone.
    pub value: Stored<'a>,
}

/// The hash of one version: SipHash-2-4 with the cluster's key over the fixed fields, the key and the value.
#[must_use]
pub fn record_hash(hash_key: &[u8; 16], meta: &Meta, key: &[u8], value: &[u8]) -> u64 {
    let mut fixed = [0; 56];
    fixed[0] = u8::from(meta.tombstone);
    let fields = [meta.revision.main, meta.revision.sub, meta.create, meta.version, meta.lease, key.len() as i64];
    for (slot, field) in fixed[8..].chunks_exact_mut(8).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    let mut hasher = SipHasher24::new_with_key(hash_key);
    hasher.write(&fixed);
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

/// A keyed digest of sums: what leaves the store instead of a raw sum, which could be forged.
#[must_use]
pub fn mixed(hash_key: &[u8; 16], sums: &[u64]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(hash_key);
    sums.iter().for_each(|sum| hasher.write(&sum.to_le_bytes()));
    hasher.finish()
}

/// The header of a record while it is put together: written to the tree in front of key and value, without a copy.
pub type Header = SmallVec<[u8; 96]>;

impl LiveRecord<'_> {
    /// The record's bytes in front of an inline value.
    #[must_use]
    pub fn header(&self) -> Header {
        let meta = &self.meta;
        let mut flags = if meta.tombstone { flag::TOMBSTONE } else { 0 };
        flags |= if meta.lease != 0 { flag::LEASE } else { 0 };
        flags |= if self.value.is_external() { flag::EXTERNAL } else { 0 };
        flags |= if self.jump.is_some() { flag::JUMP } else { 0 };
        let mut out = Header::new();
        out.push(flags);
        out.extend_from_slice(&meta.hash.to_le_bytes());
        push_varint(&mut out, meta.revision.main as u64);
        push_varint(&mut out, meta.revision.sub as u64);
        push_versions(&mut out, meta);
        if let Some(jump) = self.jump {
            push_jump(&mut out, meta.revision, jump);
        }
        if let Stored::External(length) = self.value {
            push_varint(&mut out, length);
        }
        out
    }

    /// What it adds to [`crate::state::State::logical_bytes`] in `live`.
    #[must_use]
    pub fn live_bytes(&self, key_length: usize) -> u64 {
        match self.meta.tombstone {
            true => 0,
            false => key_length as u64 + self.value.inline_bytes() + RECORD_OVERHEAD_BYTES,
        }
    }

    /// What it adds to [`crate::state::State::retained_bytes`] in `beside`.
    #[must_use]
    pub fn beside_bytes(&self) -> u64 {
        self.value.inline_bytes() + RECORD_OVERHEAD_BYTES
    }

    /// Reads a record of `live` or `beside`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<LiveRecord<'_>> {
        let mut input = Input { bytes };
        let flags = input.byte()?;
        if flags & !flag::OF_LIVE != 0 {
            return None;
        }
        let hash = input.u64()?;
        let revision = Revision { main: input.positive()?, sub: input.positive()? };
        let (create, version, lease) = input.versions(flags, revision.main)?;
        let jump = input.jump(flags, revision)?;
        let value = input.value(flags)?;
        let meta = Meta { revision, tombstone: flags & flag::TOMBSTONE != 0, create, version, lease, hash };
        Some(LiveRecord { meta, jump, value })
    }
}

impl<'a> LogRecord<'a> {
    /// The record's bytes in front of the key and an inline value.
    #[must_use]
    pub fn header(&self) -> Header {
        let meta = &self.meta;
        let mut flags = if meta.tombstone { flag::TOMBSTONE } else { 0 };
        flags |= if meta.lease != 0 { flag::LEASE } else { 0 };
        flags |= if self.value.is_external() { flag::EXTERNAL } else { 0 };
        // A jump to the previous event says nothing new.
        let jump = self.jump.filter(|jump| self.previous.is_none_or(|previous| previous.revision != jump.to));
        flags |= if jump.is_some() { flag::JUMP } else { 0 };
        if let Some(previous) = self.previous {
            flags |= flag::PREVIOUS;
            flags |= if previous.put_hash.is_some() { flag::PREVIOUS_PUT } else { 0 };
            flags |= if previous.external { flag::PREVIOUS_EXTERNAL } else { 0 };
        }
        let mut out = Header::new();
        out.push(flags);
        out.extend_from_slice(&meta.hash.to_le_bytes());
        push_versions(&mut out, meta);
        if let Some(previous) = self.previous {
            push_back(&mut out, meta.revision, previous.revision);
            if let Some(hash) = previous.put_hash {
                out.extend_from_slice(&hash.to_le_bytes());
            }
        }
        if let Some(jump) = jump {
            push_jump(&mut out, meta.revision, jump);
        }
        if let Stored::External(length) = self.value {
            push_varint(&mut out, length);
        }
        push_varint(&mut out, self.key.len() as u64);
        out
    }

    /// What it adds to [`crate::state::State::logical_bytes`].
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.key.len() as u64 + self.value.inline_bytes() + RECORD_OVERHEAD_BYTES
    }

    /// Reads a record of `log`.
    #[must_use]
    pub fn parse(revision: Revision, bytes: &'a [u8]) -> Option<LogRecord<'a>> {
        let mut input = Input { bytes };
        let flags = input.byte()?;
        if flags & 1 << 7 != 0 {
            return None;
        }
        let hash = input.u64()?;
        let (create, version, lease) = input.versions(flags, revision.main)?;
        let mut previous = None;
        if flags & flag::PREVIOUS != 0 {
            let to = input.back(revision)?;
            let put_hash = if flags & flag::PREVIOUS_PUT != 0 { Some(input.u64()?) } else { None };
            previous = Some(Previous { revision: to, put_hash, external: flags & flag::PREVIOUS_EXTERNAL != 0 });
        }
        let jump = input.jump(flags, revision)?.or(previous.map(|previous| Jump { to: previous.revision, span: 1 }));
        let external = if flags & flag::EXTERNAL != 0 { Some(Stored::External(input.varint()?)) } else { None };
        let key_length = usize::try_from(input.varint()?).ok()?;
        let (key, rest) = input.bytes.split_at_checked(key_length)?;
        let meta = Meta { revision, tombstone: flags & flag::TOMBSTONE != 0, create, version, lease, hash };
        Some(LogRecord { meta, key, previous, jump, value: external.unwrap_or(Stored::Inline(rest)) })
    }

    /// What this event changes in the sum of the hashes of all live records.
    #[must_use]
    pub fn live_hash_change(&self) -> u64 {
        let after = if self.meta.tombstone { 0 } else { self.meta.hash };
        after.wrapping_sub(self.previous.and_then(|previous| previous.put_hash).unwrap_or(0))
    }
}

fn push_varint(out: &mut Header, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn push_versions(out: &mut Header, meta: &Meta) {
    if !meta.tombstone {
        push_varint(out, (meta.revision.main - meta.create) as u64);
        push_varint(out, meta.version as u64);
    }
    if meta.lease != 0 {
        out.extend_from_slice(&meta.lease.to_le_bytes());
    }
}

fn push_back(out: &mut Header, from: Revision, to: Revision) {
    push_varint(out, (from.main - to.main) as u64);
    push_varint(out, to.sub as u64);
}

fn push_jump(out: &mut Header, from: Revision, jump: Jump) {
    push_back(out, from, jump.to);
    push_varint(out, jump.span);
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(u64::from_le_bytes(*head))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return None;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn positive(&mut self) -> Option<i64> {
        i64::try_from(self.varint()?).ok()
    }

    /// Create revision, version and lease.
    fn versions(&mut self, flags: u8, main: i64) -> Option<(i64, i64, i64)> {
        let (mut create, mut version) = (0, 0);
        if flags & flag::TOMBSTONE == 0 {
            create = main.checked_sub(self.positive()?)?;
            version = self.positive()?;
        }
        let lease = if flags & flag::LEASE != 0 { self.u64()? as i64 } else { 0 };
        Some((create, version, lease))
    }

    fn back(&mut self, from: Revision) -> Option<Revision> {
        let main = from.main.checked_sub(self.positive()?)?;
        let to = Revision { main, sub: self.positive()? };
        // Pointers lead back, or a damaged one could send a reader round in circles.
        (to < from).then_some(to)
    }

    fn jump(&mut self, flags: u8, from: Revision) -> Option<Option<Jump>> {
        if flags & flag::JUMP == 0 {
            return Some(None);
        }
        Some(Some(Jump { to: self.back(from)?, span: self.varint()? }))
    }

    /// The rest of a live record.
    fn value(&mut self, flags: u8) -> Option<Stored<'a>> {
        if flags & flag::EXTERNAL != 0 {
            let length = self.varint()?;
            return self.bytes.is_empty().then_some(Stored::External(length));
        }
        Some(Stored::Inline(self.bytes))
    }
}

/// A record that its page's checksum vouches for and that is none all the same: never served.
#[must_use]
pub fn damaged(tree: TreeId, what: &'static str) -> Fault {
    Fault::Damaged(Damage { page: 0, tree: tree.0, what })
}

/// [`LiveRecord::parse`] with its failure as a fault.
pub(crate) fn parse_live(tree: TreeId, bytes: &[u8]) -> Access<LiveRecord<'_>> {
    LiveRecord::parse(bytes).ok_or_else(|| damaged(tree, "a record can't be read"))
}

/// The event at `revision`, which must exist.
pub(crate) fn event_at<V: ReadTrees + ?Sized>(view: &V, revision: Revision) -> Access<LogRecord<'_>> {
    let bytes = view.get(LOG, &revision.to_key())?.ok_or_else(|| damaged(LOG, "an event of the window is missing"))?;
    LogRecord::parse(revision, bytes).ok_or_else(|| damaged(LOG, "a record can't be read"))
}

/// The bytes of a value written at `revision`.
pub(crate) fn value_of<'a, V: ReadTrees + ?Sized>(
    view: &'a V,
    revision: Revision,
    value: Stored<'a>,
) -> Access<&'a [u8]> {
    match value {
        Stored::Inline(bytes) => Ok(bytes),
        Stored::External(length) => {
            let bytes = view.get(VALUE, &revision.to_key())?;
            let bytes = bytes.ok_or_else(|| damaged(VALUE, "a value that a record needs is missing"))?;
            if bytes.len() as u64 == length { Ok(bytes) } else { Err(damaged(VALUE, "a value has another length")) }
        }
    }
}

/// The revision of a key of `log`, `beside` or `value`.
pub(crate) fn revision_of_key(tree: TreeId, key: &[u8]) -> Access<Revision> {
    Revision::from_key(key).ok_or_else(|| damaged(tree, "a key is no revision"))
}

// A record that can't be read counts as nothing: the pager sums what it is given, and the reader of it reports it.

fn summarize_live(key: &[u8], value: &[u8]) -> Aggregate {
    match LiveRecord::parse(value) {
        Some(record) if !record.meta.tombstone => {
            Aggregate { count: 1, bytes: record.live_bytes(key.len()), hash: record.meta.hash }
        }
        _ => Aggregate::default(),
    }
}

fn summarize_log(_key: &[u8], value: &[u8]) -> Aggregate {
    // The sums need no revision; the highest one lets all differences pass.
    let revision = Revision { main: i64::MAX, sub: i64::MAX };
    match LogRecord::parse(revision, value) {
        Some(record) => Aggregate { count: 1, bytes: record.log_bytes(), hash: record.meta.hash },
        None => Aggregate::default(),
    }
}

fn summarize_beside(_key: &[u8], value: &[u8]) -> Aggregate {
    LiveRecord::parse(value).map_or_else(Aggregate::default, |record| Aggregate {
        count: 1,
        bytes: record.beside_bytes(),
        hash: 0,
    })
}

fn summarize_value(_key: &[u8], value: &[u8]) -> Aggregate {
    Aggregate { count: 1, bytes: value_bytes(value.len() as u64), hash: 0 }
}

/// What a value in `VALUE` adds to [`crate::state::State::retained_bytes`].
#[must_use]
pub fn value_bytes(length: u64) -> u64 {
    length + RECORD_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta {
            revision: Revision { main: 300, sub: 2 },
            tombstone: false,
            create: 5,
            version: 7,
            lease: -3,
            hash: 0x1122_3344_5566_7788,
        }
    }

    fn live_bytes(record: &LiveRecord<'_>, value: &[u8]) -> Vec<u8> {
        [&record.header()[..], value].concat()
    }

    #[test]
    fn records_come_back_as_they_were() {
        let jump = Some(Jump { to: Revision { main: 12, sub: 1 }, span: 31 });
        let live = LiveRecord { meta: meta(), jump, value: Stored::Inline(b"value") };
        assert_eq!(LiveRecord::parse(&live_bytes(&live, b"value")), Some(live));
        let large = LiveRecord { value: Stored::External(1 << 20), ..live };
        assert_eq!(LiveRecord::parse(&live_bytes(&large, b"")), Some(large));
        let previous = Some(Previous { revision: Revision { main: 299, sub: 0 }, put_hash: Some(77), external: true });
        let log = LogRecord { meta: meta(), key: b"key", previous, jump, value: Stored::Inline(b"value") };
        let bytes = [&log.header()[..], b"key", b"value"].concat();
        assert_eq!(LogRecord::parse(meta().revision, &bytes), Some(log));
        let near = LogRecord { jump: Some(Jump { to: Revision { main: 299, sub: 0 }, span: 1 }), ..log };
        let bytes = [&near.header()[..], b"key", b"value"].concat();
        assert_eq!(LogRecord::parse(meta().revision, &bytes), Some(near));
        let tombstone = Meta { tombstone: true, create: 0, version: 0, lease: 0, ..meta() };
        let dead = LiveRecord { meta: tombstone, jump: None, value: Stored::Inline(b"") };
        assert_eq!(LiveRecord::parse(&live_bytes(&dead, b"")), Some(dead));
    }

    #[test]
    fn damaged_bytes_are_no_record_and_no_panic() {
        let jump = Some(Jump { to: Revision { main: 12, sub: 1 }, span: 31 });
        let record = LiveRecord { meta: meta(), jump, value: Stored::External(5) };
        let bytes = record.header();
        for cut in 0..bytes.len() {
            assert_eq!(LiveRecord::parse(&bytes[..cut]), None, "cut at {cut}");
            let _ = LogRecord::parse(meta().revision, &bytes[..cut]);
        }
        assert_eq!(LiveRecord::parse(&[0x80; 40]), None);
        assert_eq!(LogRecord::parse(meta().revision, &[0x7f; 40]), None);
        assert_eq!(LiveRecord::parse(&[0xff; 60]), None);
    }

    /// The diagrams of docs/format-store.md, byte for byte.
    #[test]
    fn the_bytes_are_those_of_the_format_document() {
        let jump = Some(Jump { to: Revision { main: 12, sub: 1 }, span: 31 });
        let live = LiveRecord { meta: meta(), jump, value: Stored::Inline(b"v") };
        let expected = [
            0x0a, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xac, 0x02, 0x02, 0xa7, 0x02, 0x07, 0xfd, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xa0, 0x02, 0x01, 0x1f, b'v',
        ];
        assert_eq!(live_bytes(&live, b"v"), expected);
        let previous = Some(Previous { revision: Revision { main: 299, sub: 0 }, put_hash: Some(2), external: false });
        let log =
            LogRecord { meta: Meta { lease: 0, ..meta() }, key: b"k", previous, jump, value: Stored::Inline(b"v") };
        let expected = [
            0x38, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xa7, 0x02, 0x07, 0x01, 0x00, 0x02, 0, 0, 0, 0, 0, 0,
            0, 0xa0, 0x02, 0x01, 0x1f, 0x01, b'k', b'v',
        ];
        assert_eq!([&log.header()[..], b"k", b"v"].concat(), expected);
    }

    /// A stored hash is a fixed algorithm: this value never changes.
    #[test]
    fn the_hash_has_a_test_vector() {
        let key: [u8; 16] = core::array::from_fn(|at| at as u8);
        let meta = Meta { hash: 0, ..meta() };
        // SipHash-2-4 itself, from its authors' paper: key 00..0f, message 00..0e.
        let mut hasher = SipHasher24::new_with_key(&key);
        hasher.write(&core::array::from_fn::<u8, 15, _>(|at| at as u8));
        assert_eq!(hasher.finish(), 0xa129_ca61_49be_45e5);
        let hash = record_hash(&key, &meta, b"key", b"value");
        let mut bytes = vec![0; 8];
        for field in [300i64, 2, 5, 7, -3, 3] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(b"keyvalue");
        let mut hasher = SipHasher24::new_with_key(&key);
        hasher.write(&bytes);
        assert_eq!(hash, hasher.finish());
        assert_ne!(hash, record_hash(&key, &meta, b"keyv", b"alue"));
    }
}
