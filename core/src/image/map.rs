//! Which records has a member already?
//!
//! ```text
//!  sender    MapBuilder: its records, cut into runs ──> ImageMap: for each run its last key and a digest ──> receiver
//!  receiver  ImageMap::compare: the same runs of its own store ──> Wanted: those that differ ──> sender
//!  sender    ImageWriter::partial                                  ImageReader::partial: the others are its own
//! ```
//!
//! A wrong "equal" would put records of two states into one store. So a run's digest is of every byte of its records, in all
//! trees alike: the trees' own sums know logical fields alone, nothing of tombstones and skip pointers, and those of leases
//! have no hash. It is SipHash-2-4-128 with a key that is drawn for the map: whoever chose the records did not know it. And the
//! receiver compares again, while it builds, what it takes from its own store and what it is sent. Runs that can't be read for
//! damage differ.
//!
//! One round settles it: the bound is on the number of runs, whatever the store holds, so that the map fits into memory and the
//! answer into a frame.

use core::ops::{Bound, ControlFlow};
use std::hash::Hasher as _;

use ringstone_pager::api::{Access, Direction, Fault, KeyRange, ReadTrees, TreeId, Visitor};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::{ATTRIBUTES, ImageError, SECTION_HEADER_BYTES, SECTIONS, SectionTotals, u32_at, word_at};
use crate::error::{Error, ReadFault};

/// First bytes of a map.
const MAP_MAGIC: &[u8; 8] = b"RSTNIMAP";
/// The format that this version writes and reads.
const MAP_VERSION: u32 = 1;
const MAP_HEADER_BYTES: usize = 48;
const TOTALS_BYTES: usize = SECTIONS.len() * SECTION_HEADER_BYTES;
const RUN_HEADER_BYTES: usize = 24;
/// Most runs of a map: one bit each fits into a frame of the control stream.
pub const RUNS_MAX: usize = 1 << 18;
/// Longest map that is made or taken.
pub const MAP_BYTES_MAX: usize = 64 << 20;
/// A run has about as many bytes as a leaf, or more.
const RUN_BYTES_MIN: u64 = 4 << 10;
/// Records that one step of the builder looks at.
const STEP_RECORDS_MAX: usize = 512;

/// Bytes of the runs of a store whose trees take so many: three quarters of the runs that there may be, for records that do
/// not fill theirs.
#[must_use]
pub fn run_bytes_for(store_bytes: u64) -> u64 {
    (store_bytes / (RUNS_MAX as u64 * 3 / 4)).max(RUN_BYTES_MIN)
}

/// Records that follow each other in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Their tree.
    pub tree: TreeId,
    /// The last of their keys; the first is the next one behind the run before.
    pub last: Box<[u8]>,
    /// Of all that is in them.
    pub digest: [u8; 16],
}

/// All runs of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMap {
    /// Names it, and is the key of its digests: drawn at random when the state stood already.
    pub id: [u8; 16],
    /// In the order of sections and keys.
    pub runs: Vec<Run>,
    /// What each section holds.
    pub totals: [SectionTotals; SECTIONS.len()],
}

/// The digest of a run under way.
pub(super) struct RunDigest(SipHasher24);

impl RunDigest {
    pub(super) fn new(key: &[u8; 16]) -> RunDigest {
        RunDigest(SipHasher24::new_with_key(key))
    }

    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.0.write(&(key.len() as u64).to_le_bytes());
        self.0.write(&(value.len() as u64).to_le_bytes());
        self.0.write(key);
        self.0.write(value);
    }

    pub(super) fn finish(&self) -> [u8; 16] {
        self.0.finish128().as_bytes()
    }
}

/// The records that a member has.
pub trait OwnRecords {
    /// As [`ReadTrees::visit`], forward, all entries; brings in what is absent.
    ///
    /// # Errors
    /// [`Fault::Damaged`]: the visitor has seen the entries before it.
    fn visit(&mut self, tree: TreeId, range: KeyRange<'_>, visitor: &mut Visitor<'_>) -> Access<()>;
}

impl ImageMap {
    /// Where the run with this number is in `tree`.
    pub(super) fn run_of(&self, run: usize, tree: TreeId) -> Option<&Run> {
        self.runs.get(run).filter(|run| run.tree == tree)
    }

    /// Which runs `own` has not, or has otherwise, or can't read.
    pub fn compare(&self, own: &mut dyn OwnRecords) -> Wanted {
        let mut wanted = Wanted::none(self.runs.len());
        let mut before: Option<&Run> = None;
        for (number, run) in self.runs.iter().enumerate() {
            let after = before.filter(|before| before.tree == run.tree).map(|before| &*before.last);
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut digest = RunDigest::new(&self.id);
            let visited = own.visit(run.tree, (from, Bound::Included(&*run.last)), &mut |key, value| {
                digest.add(key, value);
                ControlFlow::Continue(())
            });
            if visited.is_err() || digest.finish() != run.digest {
                wanted.add(number);
            }
            before = Some(run);
        }
        wanted
    }

    /// Its bytes (docs/format-image.md); None where they are more than [`MAP_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let runs: usize = self.runs.iter().map(|run| RUN_HEADER_BYTES + run.last.len()).sum();
        let length = MAP_HEADER_BYTES + TOTALS_BYTES + runs;
        if length > MAP_BYTES_MAX {
            return None;
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(MAP_MAGIC);
        bytes.extend_from_slice(&MAP_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&(self.runs.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for (tree, totals) in SECTIONS.into_iter().zip(&self.totals) {
            bytes.extend_from_slice(&totals.encode(tree));
        }
        for run in &self.runs {
            bytes.extend_from_slice(&[run.tree.0, 0, 0, 0]);
            bytes.extend_from_slice(&(run.last.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&run.digest);
            bytes.extend_from_slice(&run.last);
        }
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        Some(bytes)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ImageError`]: it is none, damaged, of a later version, or its runs are out of order or too many.
    pub fn decode(bytes: &[u8]) -> Result<ImageMap, ImageError> {
        let damaged = |what| ImageError::Damaged { offset: 0, what };
        if bytes.len() < MAP_HEADER_BYTES + TOTALS_BYTES || bytes[..8] != MAP_MAGIC[..] {
            return Err(ImageError::NotAnImage);
        }
        if u32_at(bytes, 8) != MAP_VERSION {
            return Err(ImageError::Version(u32_at(bytes, 8)));
        }
        if u32_at(bytes, 12) != crc32fast::hash(&bytes[16..]) {
            return Err(damaged("the map's checksum is wrong"));
        }
        let count = word_at(bytes, 32);
        if count > RUNS_MAX as u64 || word_at(bytes, 40) != 0 {
            return Err(damaged("the map has more runs than any can have"));
        }
        let mut totals = [SectionTotals::default(); SECTIONS.len()];
        let (sections, mut rest) = bytes[MAP_HEADER_BYTES..].split_at(TOTALS_BYTES);
        for (section, tree) in SECTIONS.into_iter().enumerate() {
            let header = sections[section * SECTION_HEADER_BYTES..].first_chunk().expect("the slice has all of them");
            totals[section] = match SectionTotals::decode(header) {
                Some((found, totals)) if found == tree => totals,
                _ => return Err(damaged("a section of the map is not the one that belongs here")),
            };
        }
        let mut map = ImageMap { id: bytes[16..32].try_into().expect("sixteen bytes"), runs: Vec::new(), totals };
        for _ in 0..count {
            let (run, behind) = read_run(rest).ok_or_else(|| damaged("a run of the map can't be read"))?;
            if map.runs.last().is_some_and(|before| (before.tree.0, &before.last) >= (run.tree.0, &run.last)) {
                return Err(damaged("the map's runs are out of order"));
            }
            map.runs.push(run);
            rest = behind;
        }
        if rest.is_empty() { Ok(map) } else { Err(damaged("bytes follow the map's last run")) }
    }
}

// The order of trees by number is that of the sections, or `decode` could not compare them.
const _: () = {
    let mut section = 1;
    while section < SECTIONS.len() {
        assert!(SECTIONS[section - 1].0 < SECTIONS[section].0);
        section += 1;
    }
};

fn read_run(bytes: &[u8]) -> Option<(Run, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<RUN_HEADER_BYTES>()?;
    let tree = TreeId(header[0]);
    let (last, rest) = rest.split_at_checked(u32_at(header, 4) as usize)?;
    if header[1..4] != [0; 3] || tree == ATTRIBUTES || !SECTIONS.contains(&tree) {
        return None;
    }
    Some((Run { tree, last: last.into(), digest: header[8..].try_into().expect("sixteen bytes") }, rest))
}

/// Runs that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    bits: Vec<u8>,
}

impl Wanted {
    /// None of so many.
    #[must_use]
    pub fn none(runs: usize) -> Wanted {
        Wanted { bits: vec![0; runs.div_ceil(8)] }
    }

    /// Asks for a run.
    pub fn add(&mut self, run: usize) {
        self.bits[run / 8] |= 1 << (run % 8);
    }

    /// Whether a run is asked for.
    #[must_use]
    pub fn has(&self, run: usize) -> bool {
        self.bits.get(run / 8).is_some_and(|bits| bits >> (run % 8) & 1 == 1)
    }

    /// How many are asked for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bits.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// A bit for each run.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// Those that `bytes` ask for of a map with so many runs. None: they are not of that map.
    #[must_use]
    pub fn of_bytes(bytes: &[u8], runs: usize) -> Option<Wanted> {
        let wanted = Wanted { bits: bytes.to_vec() };
        let is_behind = |run: usize| run >= runs && wanted.has(run);
        let fits = bytes.len() == runs.div_ceil(8) && !(runs..bytes.len() * 8).any(is_behind);
        fits.then_some(wanted)
    }
}

/// Makes the map of a state. `step` until it is done.
pub struct MapBuilder {
    map: ImageMap,
    run_bytes: u64,
    attributes: Option<Vec<u8>>,
    section: usize,
    after: Option<Vec<u8>>,
    digest: RunDigest,
    bytes: u64,
    map_bytes: usize,
}

impl MapBuilder {
    /// Runs of about `run_bytes`; `id` is random.
    #[must_use]
    pub fn new(id: [u8; 16], run_bytes: u64) -> MapBuilder {
        MapBuilder {
            map: ImageMap { id, runs: Vec::new(), totals: Default::default() },
            run_bytes,
            attributes: None,
            section: 0,
            after: None,
            digest: RunDigest::new(&id),
            bytes: 0,
            map_bytes: MAP_HEADER_BYTES + TOTALS_BYTES,
        }
    }

    /// Reads on in `view`, the same pinned root in every call. True: [`MapBuilder::finish`] has the map.
    ///
    /// # Errors
    /// As [`super::ImageWriter::step`].
    pub fn step<V: ReadTrees + ?Sized>(&mut self, view: &V) -> Result<bool, ReadFault> {
        match &self.attributes {
            None => self.attributes = Some(view.attributes().to_vec()),
            Some(first) if first != view.attributes() => return Err(ReadFault::Refused(Error::SnapshotMoved)),
            Some(_) => {}
        }
        let Some(&tree) = SECTIONS.get(self.section) else { return Ok(true) };
        if tree == ATTRIBUTES {
            self.map.totals[0].add(&[], view.attributes());
            self.section += 1;
            return Ok(false);
        }
        if self.step_tree(view, tree)? {
            self.end_run(tree);
            self.map.totals[self.section].aggregate = view.aggregate(tree, (Bound::Unbounded, Bound::Unbounded))?;
            self.section += 1;
            self.after = None;
        }
        Ok(self.section == SECTIONS.len())
    }

    fn step_tree<V: ReadTrees + ?Sized>(&mut self, view: &V, tree: TreeId) -> Result<bool, ReadFault> {
        let (mut left, mut ended, mut seen) = (STEP_RECORDS_MAX, true, false);
        let from = self.after.take();
        let after = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = Vec::new();
        let visited = view.visit(tree, (after, Bound::Unbounded), Direction::Forward, false, &mut |key, value| {
            seen = true;
            last.clear();
            last.extend_from_slice(key);
            self.map.totals[self.section].add(key, value);
            self.digest.add(key, value);
            self.bytes += (key.len() + value.len()) as u64;
            left -= 1;
            let is_full = self.bytes >= self.run_bytes;
            ended = left > 0 && !is_full;
            if ended { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.after = if seen { Some(last) } else { from };
        visited?;
        if !ended && self.bytes >= self.run_bytes {
            self.end_run(tree);
        }
        Ok(ended)
    }

    fn end_run(&mut self, tree: TreeId) {
        if self.bytes == 0 {
            return;
        }
        let last: Box<[u8]> = self.after.clone().expect("a run has a last key").into();
        self.map_bytes += RUN_HEADER_BYTES + last.len();
        self.map.runs.push(Run { tree, last, digest: self.digest.finish() });
        (self.digest, self.bytes) = (RunDigest::new(&self.map.id), 0);
    }

    /// True: there are more runs, or longer keys, than a map may have. It is of no use.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.map.runs.len() > RUNS_MAX || self.map_bytes > MAP_BYTES_MAX
    }

    /// The map, once a step was the last one.
    #[must_use]
    pub fn finish(self) -> ImageMap {
        assert_eq!(self.section, SECTIONS.len(), "all sections were read");
        self.map
    }
}

/// A view whose pages are all in memory, or in a model: for tests and tools.
impl<V: ReadTrees> OwnRecords for &V {
    fn visit(&mut self, tree: TreeId, range: KeyRange<'_>, visitor: &mut Visitor<'_>) -> Access<()> {
        match ReadTrees::visit(*self, tree, range, Direction::Forward, false, visitor) {
            Err(Fault::Absent(run)) => panic!("pages {run:?} are absent in a view that holds all"),
            other => other,
        }
    }
}
