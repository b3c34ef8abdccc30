//! Whose file is this, and which of its two metas counts?
//!
//! A wrong answer serves another file's pages, or a state that was replaced. This file knows no WAL: that the meta is at
//! least as new as the last checkpoint that the owner knows of is for the owner to check, in [`Opened::meta`].
//!
//! ```text
//! header (page 0, written once)
//!  0        8        12       16          32          48           52          56             64         72
//!  | magic  | crc32  | format | file id   | owner id  | page bytes | 0         | compatible   | read-only | incompatible | 0 ...
//! meta (pages 1 and 2, the older one is replaced by each checkpoint)
//!  0        8        12  13 14       16         24           32           40       56
//!  | magic  | crc32  |t |0 | a       | generation | file pages | map digest | file id | 0 ...
//!  64:   t times 48: | tree 1, level 1, 0 2, pages 4 | first page 8 | generation 8 | count 8 | bytes 8 | hash 8 |
//!  3088: attributes, a bytes                  3600: a bit a region: the slot of the free map that counts
//! ```
//!
//! What opening finds, in the order of the checks. H: header; A, B: metas.
//! ```text
//!  H length  magic  crc   version features    A     B        outcome
//!  < 3 pages -      -     -                   -     -        TooShort: stop
//!  ok        zeros  -     -                   no valid one   NeverFinished: its making was cut short; nothing was in it
//!  ok        wrong  -     -                   -     -        NotOurs: stop
//!  ok        ours   bad   -                   -     -        HeaderDamaged: stop
//!  ok        ours   good  not known           -     -        UnknownVersion: stop before any write
//!  ok        ours   good  known   refused     -     -        UnknownFeatures: stop before any write
//!  ok        ours   good  known   ok          -     -        ForeignFile where another file id was expected: stop
//!  ok        ours   good  known   ok          good  good     BothValid: the newer counts (equally new: SameGeneration: stop)
//!  ok        ours   good  known   ok          one good       OneDamaged: the good one counts
//!  ok        ours   good  known   ok          bad   bad      BothDamaged: stop
//!  ok        ours   good  known   ok          the one that counts needs more pages than the file has: Truncated: stop
//! ```
//! (Zeros with a valid meta are a HeaderDamaged.) A truncated file never falls back to the older meta.

use crate::api::{ATTRIBUTES_BYTES_MAX, Aggregate, PageRun, TreeId};
use crate::freelist::Space;
use crate::layout::{
    FILE_PAGES_MAX, FileId, MAP_SLOTS_BYTES, PAGE_BYTES, crc_without_field, get, get_u32, get_u64, is_allocatable, set,
};

/// The version of the format that this code writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Most trees in a catalogue.
pub const TREES_MAX: usize = 63;

const HEADER_MAGIC: [u8; 8] = *b"RngPages";
const META_MAGIC: [u8; 8] = *b"RngMeta\n";

pub(crate) mod header_at {
    pub const MAGIC: usize = 0;
    pub const CRC: usize = MAGIC + 8;
    pub const FORMAT: usize = CRC + 4;
    pub const FILE_ID: usize = FORMAT + 4;
    pub const OWNER_ID: usize = FILE_ID + 16;
    pub const PAGE_BYTES: usize = OWNER_ID + 16;
    pub const RESERVED: usize = PAGE_BYTES + 4;
    pub const COMPATIBLE: usize = RESERVED + 4;
    pub const READ_ONLY: usize = COMPATIBLE + 8;
    pub const INCOMPATIBLE: usize = READ_ONLY + 8;
}

pub(crate) mod meta_at {
    use super::{ATTRIBUTES_BYTES_MAX, TREES_MAX};

    pub const MAGIC: usize = 0;
    pub const CRC: usize = MAGIC + 8;
    pub const TREES: usize = CRC + 4;
    pub const RESERVED: usize = TREES + 1;
    pub const ATTRIBUTES_BYTES: usize = RESERVED + 1;
    pub const GENERATION: usize = ATTRIBUTES_BYTES + 2;
    pub const FILE_PAGES: usize = GENERATION + 8;
    pub const MAP_DIGEST: usize = FILE_PAGES + 8;
    pub const FILE_ID: usize = MAP_DIGEST + 8;
    pub const ROOTS: usize = 64;
    pub const ATTRIBUTES: usize = ROOTS + TREES_MAX * super::root_at::BYTES;
    pub const MAP_SLOTS: usize = ATTRIBUTES + ATTRIBUTES_BYTES_MAX;
}

pub(crate) mod root_at {
    pub const TREE: usize = 0;
    pub const LEVEL: usize = TREE + 1;
    pub const RESERVED: usize = LEVEL + 1;
    pub const PAGES: usize = RESERVED + 2;
    pub const FIRST: usize = PAGES + 4;
    pub const GENERATION: usize = FIRST + 8;
    pub const COUNT: usize = GENERATION + 8;
    pub const SUM_BYTES: usize = COUNT + 8;
    pub const HASH: usize = SUM_BYTES + 8;
    pub const BYTES: usize = HASH + 8;
}

const _: () = assert!(meta_at::FILE_ID + 16 <= meta_at::ROOTS);
const _: () = assert!(meta_at::MAP_SLOTS + MAP_SLOTS_BYTES == PAGE_BYTES);

/// Words of bits for later additions to the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Who does not know one of these may ignore it.
    pub compatible: u64,
    /// Who does not know one of these may read, but not write.
    pub read_only: u64,
    /// Who does not know one of these must not touch the file.
    pub incompatible: u64,
}

/// The features that this code knows, by class.
pub const KNOWN_FEATURES: Features = Features { compatible: 0, read_only: 0, incompatible: 0 };

/// The first page of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The file's own identity.
    pub file: FileId,
    /// The identity of what the file is part of, for messages; the pager does not look at it.
    pub owner: [u8; 16],
    /// What it uses.
    pub features: Features,
}

impl FileHeader {
    /// Its page.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        set(&mut page, header_at::MAGIC, &HEADER_MAGIC);
        set(&mut page, header_at::FORMAT, &FORMAT_VERSION.to_le_bytes());
        set(&mut page, header_at::FILE_ID, &self.file.0);
        set(&mut page, header_at::OWNER_ID, &self.owner);
        set(&mut page, header_at::PAGE_BYTES, &(PAGE_BYTES as u32).to_le_bytes());
        set(&mut page, header_at::COMPATIBLE, &self.features.compatible.to_le_bytes());
        set(&mut page, header_at::READ_ONLY, &self.features.read_only.to_le_bytes());
        set(&mut page, header_at::INCOMPATIBLE, &self.features.incompatible.to_le_bytes());
        let crc = crc_without_field(self.file, &page, header_at::CRC);
        set(&mut page, header_at::CRC, &crc.to_le_bytes());
        page
    }

    /// The header and whether the file may only be read.
    pub(crate) fn decode(page: &[u8]) -> Result<(FileHeader, bool), OpenFailure> {
        if get(page, header_at::MAGIC) != HEADER_MAGIC {
            return Err(OpenFailure::NotOurs);
        }
        let file = FileId(get(page, header_at::FILE_ID));
        if get_u32(page, header_at::CRC) != crc_without_field(file, page, header_at::CRC) {
            return Err(OpenFailure::HeaderDamaged);
        }
        let (found, page_bytes) = (get_u32(page, header_at::FORMAT), get_u32(page, header_at::PAGE_BYTES));
        if found != FORMAT_VERSION {
            return Err(OpenFailure::UnknownVersion { found });
        }
        let features = Features {
            compatible: get_u64(page, header_at::COMPATIBLE),
            read_only: get_u64(page, header_at::READ_ONLY),
            incompatible: get_u64(page, header_at::INCOMPATIBLE),
        };
        let unknown = features.incompatible & !KNOWN_FEATURES.incompatible;
        if unknown != 0 {
            return Err(OpenFailure::UnknownFeatures { unknown });
        }
        if page_bytes as usize != PAGE_BYTES {
            return Err(OpenFailure::OtherPageSize { found: page_bytes });
        }
        let is_read_only = features.read_only & !KNOWN_FEATURES.read_only != 0;
        Ok((FileHeader { file, owner: get(page, header_at::OWNER_ID), features }, is_read_only))
    }
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaRoot {
    /// 1 to 63.
    pub tree: TreeId,
    /// Level of the root node: 0 is a leaf.
    pub level: u8,
    /// The root node. A tree that is empty has no entry.
    pub run: PageRun,
    /// The generation that the node must have.
    pub generation: u64,
    /// The sum of the whole tree.
    pub sum: Aggregate,
}

/// A checkpoint: the roots and the owner's attributes at one generation, and the file's space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Of the state that was made durable; below `u64::MAX`.
    pub generation: u64,
    /// Ascending by tree; at most [`TREES_MAX`].
    pub roots: Vec<MetaRoot>,
    /// At most [`ATTRIBUTES_BYTES_MAX`].
    pub attributes: Vec<u8>,
    /// From [`crate::freelist::Freelist::space`].
    pub space: Space,
}

/// What is wrong with a meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaDamage {
    /// Never written, or zeroed.
    #[error("all zeros")]
    Blank,
    /// Something else stands there.
    #[error("not a meta page")]
    NotAMeta,
    /// A whole meta, but of another file.
    #[error("the meta of another file")]
    Foreign,
    /// Torn or rotten.
    #[error("does not match its checksum")]
    Checksum,
    /// The checksum is right and the content impossible: written so.
    #[error("impossible content: {0}")]
    Content(&'static str),
}

impl Meta {
    /// Its page.
    ///
    /// # Panics
    /// A bound of a field is exceeded.
    #[must_use]
    pub fn encode(&self, file: FileId) -> Vec<u8> {
        assert_eq!(self.validate(), Ok(()), "only a possible meta is written");
        let mut page = vec![0; PAGE_BYTES];
        set(&mut page, meta_at::MAGIC, &META_MAGIC);
        page[meta_at::TREES] = self.roots.len() as u8;
        set(&mut page, meta_at::ATTRIBUTES_BYTES, &(self.attributes.len() as u16).to_le_bytes());
        set(&mut page, meta_at::GENERATION, &self.generation.to_le_bytes());
        set(&mut page, meta_at::FILE_PAGES, &self.space.file_pages.to_le_bytes());
        set(&mut page, meta_at::MAP_DIGEST, &self.space.map_digest.to_le_bytes());
        set(&mut page, meta_at::FILE_ID, &file.0);
        for (index, root) in self.roots.iter().enumerate() {
            root.encode(&mut page[meta_at::ROOTS + index * root_at::BYTES..][..root_at::BYTES]);
        }
        set(&mut page, meta_at::ATTRIBUTES, &self.attributes);
        set(&mut page, meta_at::MAP_SLOTS, &*self.space.map_slots);
        let crc = crc_without_field(file, &page, meta_at::CRC);
        set(&mut page, meta_at::CRC, &crc.to_le_bytes());
        page
    }

    /// Reads the meta page of this file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(file: FileId, page: &[u8]) -> Result<Meta, MetaDamage> {
        if page.len() != PAGE_BYTES || get(page, meta_at::MAGIC) != META_MAGIC {
            return Err(if page.iter().all(|byte| *byte == 0) { MetaDamage::Blank } else { MetaDamage::NotAMeta });
        }
        let written_for = FileId(get(page, meta_at::FILE_ID));
        if get_u32(page, meta_at::CRC) != crc_without_field(written_for, page, meta_at::CRC) {
            return Err(MetaDamage::Checksum);
        }
        if written_for != file {
            return Err(MetaDamage::Foreign);
        }
        let trees = usize::from(page[meta_at::TREES]);
        let attributes_bytes = usize::from(u16::from_le_bytes(get(page, meta_at::ATTRIBUTES_BYTES)));
        if trees > TREES_MAX || attributes_bytes > ATTRIBUTES_BYTES_MAX {
            return Err(MetaDamage::Content("more trees or attributes than there is room for"));
        }
        let roots = page[meta_at::ROOTS..].chunks_exact(root_at::BYTES).take(trees).map(MetaRoot::decode).collect();
        let meta = Meta {
            generation: get_u64(page, meta_at::GENERATION),
            roots,
            attributes: page[meta_at::ATTRIBUTES..][..attributes_bytes].to_vec(),
            space: Space {
                file_pages: get_u64(page, meta_at::FILE_PAGES),
                map_slots: Box::new(get(page, meta_at::MAP_SLOTS)),
                map_digest: get_u64(page, meta_at::MAP_DIGEST),
            },
        };
        meta.validate().map_err(MetaDamage::Content)?;
        Ok(meta)
    }

    fn validate(&self) -> Result<(), &'static str> {
        let file_pages = self.space.file_pages;
        if self.generation == u64::MAX {
            return Err("the last generation");
        }
        if !(1..=FILE_PAGES_MAX).contains(&file_pages) {
            return Err("a file of a length that it can't have");
        }
        if self.roots.len() > TREES_MAX || self.attributes.len() > ATTRIBUTES_BYTES_MAX {
            return Err("more trees or attributes than there is room for");
        }
        if !self.roots.iter().all(|root| (1..=TREES_MAX).contains(&usize::from(root.tree.0))) {
            return Err("a tree number that none has");
        }
        if !self.roots.is_sorted_by(|one, next| one.tree < next.tree) {
            return Err("trees out of order or twice");
        }
        if !self.roots.iter().all(|root| is_allocatable(root.run, file_pages)) {
            return Err("a root outside of the pages for use");
        }
        if !self.roots.iter().all(|root| root.generation <= self.generation) {
            return Err("a root from a later generation");
        }
        Ok(())
    }
}

impl MetaRoot {
    fn encode(&self, entry: &mut [u8]) {
        entry[root_at::TREE] = self.tree.0;
        entry[root_at::LEVEL] = self.level;
        set(entry, root_at::PAGES, &self.run.pages.to_le_bytes());
        set(entry, root_at::FIRST, &self.run.first.to_le_bytes());
        set(entry, root_at::GENERATION, &self.generation.to_le_bytes());
        set(entry, root_at::COUNT, &self.sum.count.to_le_bytes());
        set(entry, root_at::SUM_BYTES, &self.sum.bytes.to_le_bytes());
        set(entry, root_at::HASH, &self.sum.hash.to_le_bytes());
    }

    fn decode(entry: &[u8]) -> MetaRoot {
        MetaRoot {
            tree: TreeId(entry[root_at::TREE]),
            level: entry[root_at::LEVEL],
            run: PageRun { first: get_u64(entry, root_at::FIRST), pages: get_u32(entry, root_at::PAGES) },
            generation: get_u64(entry, root_at::GENERATION),
            sum: Aggregate {
                count: get_u64(entry, root_at::COUNT),
                bytes: get_u64(entry, root_at::SUM_BYTES),
                hash: get_u64(entry, root_at::HASH),
            },
        }
    }
}

/// Which metas were valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaOutcome {
    /// The newer one counts.
    BothValid,
    /// This slot's is damaged, the other one counts: after a crash in a checkpoint that is the expected trace of it.
    OneDamaged {
        /// 0 or 1.
        slot: u8,
        /// In which way.
        damage: MetaDamage,
    },
}

/// What the first three pages of a file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The file.
    pub header: FileHeader,
    /// The meta that counts.
    pub meta: Meta,
    /// Its slot. The next checkpoint's meta goes to the other one.
    pub slot: u8,
    /// The other one, where it is valid.
    pub older: Option<Meta>,
    /// How it was chosen.
    pub outcome: MetaOutcome,
    /// The file uses a feature that allows reading only.
    pub is_read_only: bool,
}

/// Why a file is not opened. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    /// Not even a header and two metas.
    #[error(
        "the page file has only {bytes} bytes: it was truncated, or is none. Put the right file back, restore the member from a snapshot, or replace it"
    )]
    TooShort {
        /// Length of the file.
        bytes: u64,
    },
    /// The header is all zeros and no meta is valid.
    #[error("the page file was never finished: its making was cut short, nothing was stored in it; remove it")]
    NeverFinished,
    /// Another magic.
    #[error(
        "page 0 (file offset 0): this is not a Ringstone page file. Put the right file back, restore the member from a snapshot, or replace it"
    )]
    NotOurs,
    /// A checksum or zeros.
    #[error(
        "page 0 (file offset 0), the header of the page file, is damaged. Restore the member from a snapshot, or replace it"
    )]
    HeaderDamaged,
    /// Written by a later (or never released) version.
    #[error(
        "the page file has format version {found}, this program knows {FORMAT_VERSION}: use the program that wrote it"
    )]
    UnknownVersion {
        /// In the header.
        found: u32,
    },
    /// A feature that this code must know to touch the file.
    #[error("the page file uses features (bits {unknown:#x}) that this program does not know: use a newer one")]
    UnknownFeatures {
        /// Bits of the word.
        unknown: u64,
    },
    /// Pages of another size.
    #[error("the page file has pages of {found} bytes, this program reads {PAGE_BYTES}")]
    OtherPageSize {
        /// In the header.
        found: u32,
    },
    /// Another file than the one that belongs here.
    #[error("this page file is {found}, but {expected} belongs here: files were exchanged. Put the right file back")]
    ForeignFile {
        /// In the header.
        found: FileId,
        /// The caller's.
        expected: FileId,
    },
    /// No state to start from.
    #[error(
        "both metas of the page file are damaged: page 1 (file offset 4096): {first}; page 2 (file offset 8192): {second}. Restore the member from a snapshot, or replace it"
    )]
    BothDamaged {
        /// Of page 1.
        first: MetaDamage,
        /// Of page 2.
        second: MetaDamage,
    },
    /// Metas are written one generation after the other: somebody has copied one.
    #[error(
        "both metas of the page file have generation {generation}: one of the pages 1 and 2 (file offsets 4096 and 8192) was copied to the other's place. Restore the member from a snapshot, or replace it"
    )]
    SameGeneration {
        /// Of both.
        generation: u64,
    },
    /// The file is shorter than the state that it holds.
    #[error(
        "the page file was truncated: it has {have} bytes, the state of generation {generation} needs {needed}. Put the right file back, restore the member from a snapshot, or replace it"
    )]
    Truncated {
        /// Length of the file.
        have: u64,
        /// What the meta says.
        needed: u64,
        /// Of the meta.
        generation: u64,
    },
}

/// Pages that [`open`] is given: the header and both metas, from offset 0.
pub const HEAD_PAGES: usize = 3;

/// Decides by the table above. `head` is the first [`HEAD_PAGES`] pages, or what there is of them; `file_bytes` the
/// length of the file; `expected` its identity where the caller knows it.
///
/// # Errors
/// The named outcomes at which nothing may be served.
pub fn open(head: &[u8], file_bytes: u64, expected: Option<FileId>) -> Result<Opened, OpenFailure> {
    if head.len() < HEAD_PAGES * PAGE_BYTES || file_bytes < (HEAD_PAGES * PAGE_BYTES) as u64 {
        return Err(OpenFailure::TooShort { bytes: file_bytes });
    }
    let (first, rest) = head.split_at(PAGE_BYTES);
    let pages = [&rest[..PAGE_BYTES], &rest[PAGE_BYTES..2 * PAGE_BYTES]];
    if first.iter().all(|byte| *byte == 0) {
        let has_meta = pages.iter().any(|page| Meta::decode(FileId(get(page, meta_at::FILE_ID)), page).is_ok());
        return Err(if has_meta { OpenFailure::HeaderDamaged } else { OpenFailure::NeverFinished });
    }
    let (header, is_read_only) = FileHeader::decode(first)?;
    if let Some(expected) = expected.filter(|expected| *expected != header.file) {
        return Err(OpenFailure::ForeignFile { found: header.file, expected });
    }
    let (meta, older, slot, outcome) = choose(pages.map(|page| Meta::decode(header.file, page)))?;
    let needed = meta.space.file_pages * PAGE_BYTES as u64;
    if file_bytes < needed {
        return Err(OpenFailure::Truncated { have: file_bytes, needed, generation: meta.generation });
    }
    Ok(Opened { header, meta, slot, older, outcome, is_read_only })
}

type Choice = (Meta, Option<Meta>, u8, MetaOutcome);

fn choose(metas: [Result<Meta, MetaDamage>; 2]) -> Result<Choice, OpenFailure> {
    match metas {
        [Ok(first), Ok(second)] if first.generation == second.generation => {
            Err(OpenFailure::SameGeneration { generation: first.generation })
        }
        [Ok(first), Ok(second)] if first.generation > second.generation => {
            Ok((first, Some(second), 0, MetaOutcome::BothValid))
        }
        [Ok(first), Ok(second)] => Ok((second, Some(first), 1, MetaOutcome::BothValid)),
        [Ok(first), Err(damage)] => Ok((first, None, 0, MetaOutcome::OneDamaged { slot: 1, damage })),
        [Err(damage), Ok(second)] => Ok((second, None, 1, MetaOutcome::OneDamaged { slot: 0, damage })),
        [Err(first), Err(second)] => Err(OpenFailure::BothDamaged { first, second }),
    }
}

#[cfg(test)]
#[path = "meta_tests.rs"]
mod tests;
