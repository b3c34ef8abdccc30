//! A pinned state as one stream of pages: to a dump of records what a base backup is.
//!
//! ```text
//!  sender    pin -> Collector: its branches only -> PageImage: header | meta | map of region 0 | its pages | map of region 1 ...
//!  receiver  Taker: each node checked as if it were read, its checksum made the new file's -> the same place there
//!            all that parents named has come, and nothing else -> header, sync, meta, sync
//! ```
//! It is a page file without its free pages: docs/format-image.md. Frames of the state get pages that are free in it, so that no
//! checkpoint is needed. Both sides are sans I/O; bytes that come are trusted no more than those of a disk.
//!
//! **Has all come, and does it belong together?** A receiver that asked each branch about its children at the end would read
//! the whole file again. Instead each reference, and each node that comes, is reduced to a digest (page, pages, generation, tree, level and
//! sums) under a key that the sender does not know, and both kinds are added up. The two sums are equal only if each node has one
//! parent, and each reference its node. Levels descend, so no node is its own ancestor: what came are the trees below the roots.

mod collect;
mod disk_sink;
mod image;
mod page_set;
mod take;
#[cfg(test)]
mod tests;
mod window;

pub use collect::Collector;
pub use disk_sink::DiskSink;
pub use image::{NodeCheck, PageImage, Piece};
pub use take::{PageSink, Progress, RecordCheck, Taker, TransferError};

use crate::api::{Aggregate, PageRun};

/// Bytes that a node, or a reference to one, is reduced from.
pub const NAME_BYTES: usize = 48;

/// Reduces the name of a node to a digest: keyed, and so wide that nobody finds two sets of names with one sum.
pub type Digest = Box<dyn Fn(&[u8; NAME_BYTES]) -> u128 + Send>;

/// What a parent says of a node, and the node of itself.
struct Name {
    run: PageRun,
    generation: u64,
    tree: u8,
    level: u8,
    sum: Aggregate,
}

impl Name {
    fn encode(&self) -> [u8; NAME_BYTES] {
        let mut bytes = [0; NAME_BYTES];
        let words = [self.run.first, self.generation, 0, self.sum.count, self.sum.bytes, self.sum.hash];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes[16..20].copy_from_slice(&self.run.pages.to_le_bytes());
        (bytes[20], bytes[21]) = (self.tree, self.level);
        bytes
    }
}
