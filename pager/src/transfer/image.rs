//! The bytes of a pinned state, from any place on.

use std::collections::BTreeMap;

use super::collect::encode;
use super::page_set::PageSet;
use crate::api::{Damage, PageRun, ReadTrees as _, TreeId};
use crate::freelist::{Space, map};
use crate::layout::{FileId, MAP_SLOTS_BYTES, PAGE_BYTES, REGION_PAGES, get, get_u32, get_u64, reserved_pages};
use crate::meta::{Features, FileHeader, Meta, MetaRoot};
use crate::node::{Child, at, crc_of};
use crate::reader::Pin;
use crate::root::TreeRoot;

/// Pages in front of the first region.
pub(super) const HEAD_PAGES: u64 = 2;

/// A node that has no page in the file.
pub(super) enum Placed {
    /// Made a page when it is asked for.
    Leaf(Child),
    /// Its page, with the pages of its children.
    Branch(Vec<u8>),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes, of whole pages.
    Bytes(Vec<u8>),
    /// These pages of the file, as they are there: to be checked by a [`NodeCheck`].
    Pages(PageRun),
    /// The end.
    End,
}

/// A pinned state as one stream of pages.
pub struct PageImage<'p> {
    pin: &'p Pin<'p>,
    file: FileId,
    head: Vec<u8>,
    generation: u64,
    file_pages: u64,
    live: PageSet,
    /// The first page of each node.
    starts: PageSet,
    frames: BTreeMap<u64, Placed>,
    /// For each region the page of the stream that its map is; then the stream's length.
    regions: Vec<u64>,
}

impl<'p> PageImage<'p> {
    pub(super) fn new(
        pin: &'p Pin<'p>,
        file: FileId,
        owner: [u8; 16],
        (live, starts): (PageSet, PageSet),
        frames: BTreeMap<u64, Placed>,
        roots: &[(TreeId, TreeRoot)],
    ) -> PageImage<'p> {
        let file_pages = live.end().max(reserved_pages(0));
        let (generation, attributes) = (pin.generation(), pin.attributes().to_vec());
        let roots = roots.iter().map(|(tree, root)| MetaRoot {
            tree: *tree,
            level: root.level,
            run: PageRun {
                first: root.child.reference.as_page().expect("all nodes have pages"),
                pages: root.child.pages,
            },
            generation: root.child.generation,
            sum: root.child.sum,
        });
        let space = Space { file_pages, map_slots: Box::new([0; MAP_SLOTS_BYTES]), map_digest: 0 };
        let meta = Meta { generation, roots: roots.collect(), attributes, space };
        let mut head = FileHeader { file, owner, features: Features::default() }.encode();
        head.extend_from_slice(&meta.encode(file));
        let mut regions = vec![HEAD_PAGES];
        for region in 0..file_pages.div_ceil(REGION_PAGES) {
            regions.push(regions[region as usize] + 1 + live.count(region));
        }
        PageImage { pin, file, head, generation, file_pages, live, starts, frames, regions }
    }

    /// Bytes of the stream.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.regions.last().expect("there is one") * PAGE_BYTES as u64
    }

    /// What stands at this offset, a multiple of the page's length; at most so many pages of it.
    ///
    /// # Panics
    /// The offset is within a page, or no page is asked for.
    #[must_use]
    pub fn piece(&self, offset: u64, pages_max: u32) -> Piece {
        assert!(offset.is_multiple_of(PAGE_BYTES as u64) && pages_max > 0, "pieces are of whole pages");
        if offset >= self.length() {
            return Piece::End;
        }
        let at = offset / PAGE_BYTES as u64;
        if at < HEAD_PAGES {
            return Piece::Bytes(self.head[at as usize * PAGE_BYTES..].to_vec());
        }
        let region = self.regions.partition_point(|first| *first <= at) as u64 - 1;
        let Some(before) = at.checked_sub(self.regions[region as usize] + 1) else {
            let bits = map::Bits::of_used(region, self.file_pages, self.live.words_of(region));
            return Piece::Bytes(map::encode(self.file, region, self.generation, &bits).0);
        };
        let page = self.live.nth(region, before).expect("the region has as many pages as were counted");
        if let Some((first, frame)) = self.frames.range(..=page).next_back() {
            let skipped = (page - first) as usize * PAGE_BYTES;
            let bytes = match frame {
                Placed::Leaf(child) if page < first + u64::from(child.pages) => encode(self.pin, child, *first, &[]),
                Placed::Branch(bytes) if skipped < bytes.len() => bytes.clone(),
                _ => Vec::new(),
            };
            if !bytes.is_empty() {
                let end = bytes.len().min(skipped + pages_max as usize * PAGE_BYTES);
                return Piece::Bytes(bytes[skipped..end].to_vec());
            }
        }
        let next = [self.frames.range(page..).next().map(|(first, _)| *first), Some((region + 1) * REGION_PAGES)];
        let end = next.into_iter().flatten().min().expect("the region ends").min(page + u64::from(pages_max));
        Piece::Pages(PageRun { first: page, pages: self.live.run_at(page, (end - page) as u32) })
    }
}

/// Is what was read from the file what was once written there? For a sender that reads many pages at once, and must not be the
/// last to know that its disk rots. Of a node that it is not given the beginning of it says nothing: its receiver does.
#[derive(Default)]
pub struct NodeCheck {
    /// The next page of the node under way, how many are left, and the checksum.
    under_way: Option<(u64, u32, crc32fast::Hasher)>,
    first: u64,
    expected: u32,
    tree: u8,
}

impl NodeCheck {
    /// Looks at pages out of a [`Piece::Pages`] of this image, as they were read.
    ///
    /// # Errors
    /// The page is not what was once written there.
    pub fn look(&mut self, image: &PageImage<'_>, first: u64, bytes: &[u8]) -> Result<(), Damage> {
        for (number, page) in (first..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            if image.starts.contains(number) {
                self.begin(image.file.crc_seed(), number, page)?;
            } else if let Some((next, left, mut hasher)) = self.under_way.take().filter(|(next, ..)| *next == number) {
                hasher.update(page);
                self.under_way = Some((next + 1, left - 1, hasher));
            }
            if let Some((_, 0, hasher)) = &self.under_way
                && hasher.clone().finalize() != self.expected
            {
                self.under_way = None;
                return Err(self.damage("its CRC does not fit its content"));
            }
        }
        Ok(())
    }

    fn begin(&mut self, seed: u32, number: u64, page: &[u8]) -> Result<(), Damage> {
        (self.first, self.tree, self.expected) = (number, page[at::TREE], get_u32(page, at::CRC));
        self.under_way = None;
        if get_u64(page, at::PAGE) != number || get::<4>(page, at::MAGIC) != crate::node::NODE_MAGIC {
            return Err(self.damage("it is another page, written to the wrong place"));
        }
        match get_u32(page, at::PAGES) {
            0 => Err(self.damage("its run has no pages")),
            1 if crc_of(seed, page) == self.expected => Ok(()),
            1 => Err(self.damage("its CRC does not fit its content")),
            pages => {
                let mut hasher = crc32fast::Hasher::new_with_initial(seed);
                hasher.update(&page[..at::CRC]);
                hasher.update(&page[at::CRC + 4..]);
                self.under_way = Some((number + 1, pages - 1, hasher));
                Ok(())
            }
        }
    }

    fn damage(&self, what: &'static str) -> Damage {
        Damage { page: self.first, tree: self.tree, what }
    }
}

const _: () = assert!(HEAD_PAGES as usize + 1 == crate::meta::HEAD_PAGES, "a header and one meta");
