//! From the bytes of a [`PageImage`](super::PageImage), which are anybody's, to a page file.
//!
//! Methods: `push` takes bytes as they come, and hands on what it has checked; `finish` says whether it was a whole image,
//! and makes the file one. A node is held until it is whole, nothing else is; what came is reserved for,
//! not what was announced.
//!
//! The checksum of a node is not made twice: those of the same bytes under two identities differ by a number that the length
//! alone decides.

use std::io;

use super::image::HEAD_PAGES;
use super::window::{WINDOW_BYTES, Window};
use super::{Digest, Name};
use crate::api::{Aggregate, Damage, PageRun, Summarize, TreeId};
use crate::freelist::{Space, digest_of, map};
use crate::layout::{
    FileId, HEADER_PAGE, MAP_SLOTS_BYTES, META_PAGES, PAGE_BYTES, REGION_PAGES, get, get_u32, get_u64, map_page,
    reserved_pages,
};
use crate::meta::{Features, FileHeader, Meta, MetaDamage, MetaRoot, OpenFailure};
use crate::node::{LEVELS_MAX, NODE_PAGES_MAX, NodeMemory, NodeView, at, verify};
use crate::open::FileOptions;
use crate::root::TREES_MAX;

/// A state of a later generation leaves no room to go on from.
const GENERATION_MAX: u64 = u64::MAX / 2;

/// Called with tree, key and value of each entry of a leaf; says what is wrong with it.
pub type RecordCheck<'a> = dyn FnMut(TreeId, &[u8], &[u8]) -> Result<(), &'static str> + 'a;

/// Where a new page file is made. Nothing of it counts before [`Taker::finish`] has returned.
pub trait PageSink {
    /// Writes whole pages, at a multiple of their length, from memory that is aligned to them.
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, offset: u64, pages: &[u8]) -> io::Result<()>;

    /// Makes the file this long, with room for all of it where the system can; blocks are not read before they are written.
    ///
    /// # Errors
    /// The system's.
    fn set_length(&mut self, bytes: u64) -> io::Result<()>;

    /// How long the file may become: the bytes that it has, and those that are free for it.
    ///
    /// # Errors
    /// The system's.
    fn room(&self) -> io::Result<u64>;

    /// Makes durable what was written before.
    ///
    /// # Errors
    /// The system's.
    fn sync(&mut self) -> io::Result<()>;
}

/// Why a state that came as pages was not taken. What was written must be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// What its first page says.
    #[error("a state that came as pages begins with a header that can't be used: {0}")]
    Header(#[from] OpenFailure),
    /// Its second.
    #[error("a state that came as pages has a meta page that can't be used: {0}")]
    Meta(#[from] MetaDamage),
    /// A node, or a free map, by its number in the sender's file.
    #[error("a state that came as pages: {0}")]
    Damaged(#[from] Damage),
    /// Each page is good, together they are no state.
    #[error("a state that came as pages is not one: {0}")]
    Contradiction(&'static str),
    /// The new file.
    #[error("writing the new page file: {0}")]
    Write(#[from] io::Error),
    /// It would not be whole: nothing was written.
    #[error("the new page file needs {needed} bytes, and there is room for {room}")]
    NoRoom {
        /// The length of the file.
        needed: u64,
        /// What [`PageSink::room`] said.
        room: u64,
    },
}

/// How far a [`Taker`] is, for one that goes on from there: what was handed on before is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the stream.
    pub offset: u64,
    region: u64,
    /// The next page of the region, 0: its map.
    page: u64,
    expected: u128,
    came: u128,
    map_digest: u64,
}

impl Progress {
    /// Bytes of [`Progress::encode`].
    pub const BYTES: usize = 64;

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Progress::BYTES] {
        let mut bytes = [0; Progress::BYTES];
        let (expected, came) = (self.expected.to_le_bytes(), self.came.to_le_bytes());
        for (slot, word) in bytes.chunks_exact_mut(8).zip([self.offset, self.region, self.page, self.map_digest]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes[32..48].copy_from_slice(&expected);
        bytes[48..].copy_from_slice(&came);
        bytes
    }

    /// From bytes that [`Progress::encode`] made.
    #[must_use]
    pub fn decode(bytes: &[u8; Progress::BYTES]) -> Progress {
        Progress {
            offset: get_u64(bytes, 0),
            region: get_u64(bytes, 8),
            page: get_u64(bytes, 16),
            map_digest: get_u64(bytes, 24),
            expected: u128::from_le_bytes(get(bytes, 32)),
            came: u128::from_le_bytes(get(bytes, 48)),
        }
    }
}

/// What comes next, or is in the window and not whole yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    /// The free map of a region.
    Map,
    /// Nodes of pages without a gap, up to this one of the region.
    Nodes(u64),
    End,
}

/// What its sender says of the state.
struct Head {
    bytes: Vec<u8>,
    seed: u32,
    from: FileId,
    owner: [u8; 16],
    meta: Meta,
    /// Checksums of nodes of one page differ by this.
    change: u32,
}

/// Takes one state. `push` all of it, then `finish`.
pub struct Taker {
    file: FileId,
    owner: [u8; 16],
    trees: [Option<Summarize>; TREES_MAX],
    digest: Digest,
    head: Option<Head>,
    place: Place,
    /// Of the region that comes.
    free: map::Bits,
    window: Window,
    /// Bytes of the window that are checked, and the file's own.
    checked: usize,
    /// Bytes of the node at the front of the window, where that is not whole.
    needed: usize,
    /// Of all that is not in the window.
    done: Progress,
}

impl Taker {
    /// Makes the file of these options. `digest` must be keyed by something that no sender knows.
    #[must_use]
    pub fn new(options: &FileOptions<'_>, digest: Digest) -> Taker {
        let mut trees = [None; TREES_MAX];
        for spec in options.trees {
            trees[usize::from(spec.id.0)] = Some(spec.summarize);
        }
        Taker {
            file: FileId(options.file_id),
            owner: options.owner_id,
            trees,
            digest,
            head: None,
            place: Place::Head,
            free: map::Bits::none(),
            window: Window::new(),
            checked: 0,
            needed: 0,
            done: Progress { offset: 0, region: 0, page: 0, expected: 0, came: 0, map_digest: 0 },
        }
    }

    /// Goes on from where one with the same digest was: `head` is what it had, `map` what stands in the file at
    /// [`Taker::map_of`] (nothing where that is none).
    ///
    /// # Errors
    /// [`TransferError`]: these are not of one image.
    pub fn resume(
        options: &FileOptions<'_>,
        digest: Digest,
        head: &[u8],
        progress: Progress,
        map: &[u8],
    ) -> Result<Taker, TransferError> {
        let mut taker = Taker::new(options, digest);
        taker.take_head(head)?;
        taker.done = progress;
        if Taker::map_of(&progress).is_none() {
            taker.seek_region();
            return Ok(taker);
        }
        let file_pages = taker.file_pages();
        let map = map::decode(taker.file, progress.region, file_pages, map);
        taker.free = map.map_err(TransferError::Contradiction)?.bits;
        taker.seek_nodes();
        Ok(taker)
    }

    /// Where in its file the free map of the region stands that it is in; None: between two regions.
    #[must_use]
    pub fn map_of(progress: &Progress) -> Option<u64> {
        (progress.page > 0).then(|| map_page(progress.region, 0) * PAGE_BYTES as u64)
    }

    /// Header and meta page of the sender, once they have come.
    #[must_use]
    pub fn head(&self) -> Option<&[u8]> {
        self.head.as_ref().map(|head| &head.bytes[..])
    }

    /// The owner's attributes of the state, once they have come.
    #[must_use]
    pub fn attributes(&self) -> Option<&[u8]> {
        self.head.as_ref().map(|head| &head.meta.attributes[..])
    }

    /// The owner of the file that it comes from, once that has come.
    #[must_use]
    pub fn sender(&self) -> Option<[u8; 16]> {
        self.head.as_ref().map(|head| head.owner)
    }

    /// How far it is: less than a window and a node behind what was pushed.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.done
    }

    /// Takes the next bytes. `check` sees each entry.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        sink: &mut dyn PageSink,
        check: &mut RecordCheck<'_>,
    ) -> Result<(), TransferError> {
        while !bytes.is_empty() {
            let wanted = self.wanted()? - self.window.bytes().len();
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.window.push(part);
            bytes = rest;
            if part.len() == wanted {
                self.step(sink, check)?;
            }
        }
        Ok(())
    }

    /// Bytes that the window is to have before anything is done with it.
    fn wanted(&mut self) -> Result<usize, TransferError> {
        match self.place {
            Place::Head => Ok(HEAD_PAGES as usize * PAGE_BYTES),
            Place::Map => Ok(PAGE_BYTES),
            Place::Nodes(end) => {
                let rest = usize::try_from(end - self.done.page).expect("a region's pages") * PAGE_BYTES;
                Ok(rest.min(self.window_bytes()))
            }
            Place::End => Err(TransferError::Contradiction("bytes come behind its end")),
        }
    }

    /// How many bytes the window is to gather: more only where a node is longer, and then twice what has come of it.
    fn window_bytes(&self) -> usize {
        let filled = self.window.bytes().len();
        if filled < WINDOW_BYTES { WINDOW_BYTES } else { self.needed.min(2 * filled) }
    }

    fn step(&mut self, sink: &mut dyn PageSink, check: &mut RecordCheck<'_>) -> Result<(), TransferError> {
        match self.place {
            Place::Head => {
                let head = self.window.bytes().to_vec();
                self.take_head(&head)?;
                self.window.drop_front(head.len());
                self.done.offset += head.len() as u64;
                self.seek_region();
                let (needed, room) = (self.file_pages() * PAGE_BYTES as u64, sink.room()?);
                if needed > room { Err(TransferError::NoRoom { needed, room }) } else { Ok(()) }
            }
            Place::Map => self.take_map(sink),
            Place::Nodes(end) => {
                self.check_nodes(end, check)?;
                self.flush(sink)?;
                let room = self.window_bytes();
                self.window.make_room(room);
                Ok(())
            }
            Place::End => unreachable!("nothing is wanted behind the end"),
        }
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let (first, second) = bytes.split_at(PAGE_BYTES.min(bytes.len()));
        let (header, is_read_only) = FileHeader::decode(first)?;
        let meta = Meta::decode(header.file, second)?;
        let unknown = |root: &MetaRoot| {
            self.trees.get(usize::from(root.tree.0)).is_none_or(Option::is_none)
                || usize::from(root.level) >= LEVELS_MAX
        };
        if is_read_only {
            return Err(TransferError::Contradiction("it has a feature that this program may only read"));
        }
        if meta.generation > GENERATION_MAX {
            return Err(TransferError::Contradiction("its generation is absurd"));
        }
        if meta.roots.iter().any(unknown) {
            return Err(TransferError::Contradiction("it has a tree that this program does not know"));
        }
        let seed = header.file.crc_seed();
        let change = crc_change(seed, self.file.crc_seed(), 1);
        for root in &meta.roots {
            let MetaRoot { run, generation, sum, level, tree } = *root;
            let name = Name { run, generation, tree: tree.0, level, sum };
            self.done.expected = self.done.expected.wrapping_add((self.digest)(&name.encode()));
        }
        self.head = Some(Head { bytes: bytes.to_vec(), seed, from: header.file, owner: header.owner, meta, change });
        Ok(())
    }

    fn file_pages(&self) -> u64 {
        self.head.as_ref().expect("the head comes first").meta.space.file_pages
    }

    /// The map of the next region comes, or nothing more.
    fn seek_region(&mut self) {
        let is_over = self.done.region * REGION_PAGES >= self.file_pages();
        self.place = if is_over { Place::End } else { Place::Map };
    }

    /// The next pages of the region come, or the next region.
    fn seek_nodes(&mut self) {
        let end = (self.file_pages() - self.done.region * REGION_PAGES).min(REGION_PAGES);
        let next = |from: u64, free: bool| {
            let from = from as u32;
            let next = if free { self.free.next_free(from) } else { self.free.next_used(from) };
            next.map_or(end, |page| u64::from(page).min(end))
        };
        let first = next(self.done.page, false);
        if first < end {
            self.place = Place::Nodes(next(first, true));
            self.done.page = first;
        } else {
            (self.done.region, self.done.page) = (self.done.region + 1, 0);
            self.seek_region();
        }
    }

    /// The map of a region becomes the file's own at once: what comes behind it is what it does not have as free.
    fn take_map(&mut self, sink: &mut dyn PageSink) -> Result<(), TransferError> {
        let Head { from, meta, .. } = self.head.as_ref().expect("the head comes first");
        let region = self.done.region;
        let damaged = |what| Damage { page: map_page(region, 0), tree: 0, what };
        let copy = map::decode(*from, region, meta.space.file_pages, self.window.bytes()).map_err(damaged)?;
        if copy.generation != meta.generation {
            return Err(damaged("it is of another generation than the state").into());
        }
        let (page, crc) = map::encode(self.file, region, copy.generation, &copy.bits);
        let digest = digest_of(region, copy.generation, crc);
        self.window.replace(&page);
        sink.write(map_page(region, 0) * PAGE_BYTES as u64, self.window.bytes())?;
        self.window.drop_front(PAGE_BYTES);
        self.free = copy.bits;
        self.done.map_digest = self.done.map_digest.wrapping_add(digest);
        self.done.offset += PAGE_BYTES as u64;
        self.done.page = reserved_pages(region);
        self.seek_nodes();
        Ok(())
    }

    /// Checks all nodes in the window that are whole; behind them, if anything, the beginning of one that is not.
    fn check_nodes(&mut self, end: u64, check: &mut RecordCheck<'_>) -> Result<(), TransferError> {
        let first = self.done.region * REGION_PAGES + self.done.page;
        let last = self.done.region * REGION_PAGES + end;
        loop {
            let rest = &self.window.bytes()[self.checked..];
            if rest.is_empty() {
                return Ok(());
            }
            let page = first + (self.checked / PAGE_BYTES) as u64;
            let run = PageRun { first: page, pages: get_u32(rest, at::PAGES) };
            if !(1..=NODE_PAGES_MAX).contains(&run.pages) || page + u64::from(run.pages) > last {
                let what = "it is longer than any node, or than the pages that are in use";
                return Err(Damage { page, tree: rest[at::TREE], what }.into());
            }
            let bytes = run.pages as usize * PAGE_BYTES;
            if rest.len() < bytes {
                self.needed = bytes;
                return Ok(());
            }
            let crc = self.check_node(run, check)?;
            let field = self.checked + at::CRC;
            self.window.bytes_mut()[field..field + 4].copy_from_slice(&crc.to_le_bytes());
            self.checked += bytes;
        }
    }

    /// The node's checksum in the new file.
    fn check_node(&mut self, run: PageRun, check: &mut RecordCheck<'_>) -> Result<u32, TransferError> {
        let head = self.head.as_ref().expect("the head comes first");
        let bytes = &self.window.bytes()[self.checked..][..run.pages as usize * PAGE_BYTES];
        verify(NodeMemory::of(bytes), run, head.seed, head.meta.space.file_pages)?;
        let view = NodeView::new(NodeMemory::of(bytes));
        let (tree, level, generation) = (view.tree(), view.level(), view.generation());
        let damage = |what| Damage { page: run.first, tree, what };
        if generation > head.meta.generation {
            return Err(damage("it is newer than its state").into());
        }
        let summarize = self.trees.get(usize::from(tree)).copied().flatten();
        let summarize = summarize.ok_or_else(|| damage("it is of a tree that is unknown"))?;
        let (mut sum, mut expected) = (Aggregate::default(), 0_u128);
        for index in 0..view.len() {
            if view.is_leaf() {
                let (key, value) = (view.key(index), view.value(index));
                check(TreeId(tree), key, value).map_err(damage)?;
                sum = sum.plus(summarize(key, value));
                continue;
            }
            let child = view.child(index);
            let first = child.reference.as_page().expect("verified: children of pages are pages");
            let below = Name {
                run: PageRun { first, pages: child.pages },
                generation: child.generation,
                tree,
                level: level - 1,
                sum: child.sum,
            };
            expected = expected.wrapping_add((self.digest)(&below.encode()));
            sum = sum.plus(child.sum);
        }
        let name = Name { run, generation, tree, level, sum };
        self.done.expected = self.done.expected.wrapping_add(expected);
        self.done.came = self.done.came.wrapping_add((self.digest)(&name.encode()));
        let change = if run.pages == 1 { head.change } else { crc_change(head.seed, self.file.crc_seed(), run.pages) };
        Ok(get_u32(bytes, at::CRC) ^ change)
    }

    /// Hands on what is checked.
    fn flush(&mut self, sink: &mut dyn PageSink) -> Result<(), TransferError> {
        let Place::Nodes(end) = self.place else { return Ok(()) };
        if self.checked > 0 {
            let page = self.done.region * REGION_PAGES + self.done.page;
            sink.write(page * PAGE_BYTES as u64, &self.window.bytes()[..self.checked])?;
            self.window.drop_front(self.checked);
            self.done.offset += self.checked as u64;
            self.done.page += (self.checked / PAGE_BYTES) as u64;
            self.checked = 0;
            if self.done.page == end {
                self.seek_nodes();
            }
        }
        Ok(())
    }

    /// Ends the file. On disk when this returns: all of it; its name is the caller's.
    ///
    /// # Errors
    /// [`TransferError`]: it is not a whole state, or can't be written.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<(), TransferError> {
        if self.place != Place::End {
            return Err(TransferError::Contradiction("it ends before its end"));
        }
        if self.done.expected != self.done.came {
            let what = "its nodes are not those that their parents refer to, or do not add up to what these say";
            return Err(TransferError::Contradiction(what));
        }
        let Head { mut meta, .. } = self.head.take().expect("the head comes first");
        let file_pages = meta.space.file_pages;
        let (map_slots, map_digest) = (Box::new([0; MAP_SLOTS_BYTES]), self.done.map_digest);
        meta.space = Space { file_pages, map_slots, map_digest };
        sink.set_length(file_pages * PAGE_BYTES as u64)?;
        let header = FileHeader { file: self.file, owner: self.owner, features: Features::default() };
        self.window.replace(&header.encode());
        sink.write(HEADER_PAGE * PAGE_BYTES as u64, self.window.bytes())?;
        sink.sync()?;
        // In both places, as states that follow each other: where one of them is damaged the other one counts.
        for page in META_PAGES {
            self.window.replace(&meta.encode(self.file));
            sink.write(page * PAGE_BYTES as u64, self.window.bytes())?;
            meta.generation += 1;
        }
        sink.sync()?;
        Ok(())
    }
}

/// By what the checksum of a node of so many pages changes with the identity of its file.
fn crc_change(from: u32, to: u32, pages: u32) -> u32 {
    let zeros = [0; PAGE_BYTES];
    let (mut one, mut other) = (crc32fast::Hasher::new_with_initial(from), crc32fast::Hasher::new_with_initial(to));
    for hasher in [&mut one, &mut other] {
        hasher.update(&zeros[..PAGE_BYTES - 4]);
        (1..pages).for_each(|_| hasher.update(&zeros));
    }
    one.finalize() ^ other.finalize()
}
