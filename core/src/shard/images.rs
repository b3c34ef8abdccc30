//! Images between members: a follower that needs entries which are gone gets the leader's whole state (group/install.rs).
//!
//! ```text
//!  leader    images_wanted -> pin, Pinned -> metadata -> stream the pinned state ─────────> Sent -> raft's message
//!  follower                    a thread that may block  <── chunks, checked ──
//!                              member/pages-0.new, checked and synced -> the last byte is answered, Here
//!                              raft's message is stepped -> install()
//! ```
//!
//! The page file is made while the image comes: nothing is written twice, and what a lost connection leaves is a builder that
//! waits for the next bytes of the same image (receive.rs). The leader keeps the state pinned for it, within bounds (send.rs).
//!
//! A follower that has a store already asks for a map instead of taking the image (../image/map.rs):
//! ```text
//!  leader    offers an image ──>                     <── Word::Map
//!            the map of the same state ──>           compares it with its own store     <── Word::Wants
//!            the runs that it wants ──>              makes the page file of both
//! ```
//! The new file is of no use to another start, and the next one removes it.

mod build;
mod receive;
mod send;

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ringstone_net::peer::PeerError;
use ringstone_raft::{NodeId, SnapshotMetadata};

use super::notify::Broadcast;
use crate::error::Error;
use crate::group::{GROUP, ImageCosts, RestoreError};
use crate::image::ImageError;

pub use receive::{Arrivals, receive};
pub use send::send;

/// What happens to images.
pub enum ImageEvent {
    /// A state is pinned for a member: what does raft say of its place?
    Pinned(NodeId, u64, Rc<Place>),
    /// A member has taken its image, or it has not.
    Sent(NodeId, bool),
    /// One is coming: what is here is replaced.
    Comes,
    /// An image of this index and term is here, whole and synced.
    Here(u64, u64),
}

/// What the group says of a state that is pinned for a member.
#[derive(Default)]
pub struct Place {
    metadata: Cell<Option<SnapshotMetadata>>,
    is_told: Broadcast,
    /// What it costs by now; none once raft has let go of it.
    costs: Cell<Option<ImageCosts>>,
}

impl Place {
    /// Tells its place in the log; nothing, where raft has let go of it.
    pub fn tell(&self, metadata: Option<SnapshotMetadata>, costs: Option<ImageCosts>) {
        self.metadata.set(metadata);
        self.costs.set(costs);
        self.is_told.complete();
    }

    /// Tells what it costs by now.
    pub fn note(&self, costs: Option<ImageCosts>) {
        self.costs.set(costs);
    }
}

/// What is offered: it stands in the highest bits of the group's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// An image of the whole state.
    Whole = 0,
    /// A map of it.
    Map = 1,
    /// What a map's receiver wants of it.
    Partial = 2,
}

const CONTENT_SHIFT: u32 = 56;

impl Content {
    fn group(self) -> u64 {
        (self as u64) << CONTENT_SHIFT | u64::from(GROUP)
    }

    fn of_group(group: u64) -> Option<Content> {
        [Content::Whole, Content::Map, Content::Partial].into_iter().find(|content| content.group() == group)
    }
}

/// What a receiver says beside the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A map instead of the image of this id.
    Map([u8; 16]),
    /// These runs of the map of this id.
    Wants([u8; 16], Bytes),
}

impl Word {
    /// Its bytes: a kind, the id, and the runs.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, id, rest) = match self {
            Word::Map(id) => (1, id, &[][..]),
            Word::Wants(id, runs) => (2, id, &runs[..]),
        };
        let mut bytes = BytesMut::with_capacity(17 + rest.len());
        bytes.put_u8(kind);
        bytes.put_slice(id);
        bytes.put_slice(rest);
        bytes.freeze()
    }

    /// Reads it; None: it is of another form or kind than this version knows.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Word> {
        let kind = bytes.try_get_u8().ok()?;
        let mut id = [0; 16];
        bytes.try_copy_to_slice(&mut id).ok()?;
        match kind {
            1 if bytes.is_empty() => Some(Word::Map(id)),
            2 => Some(Word::Wants(id, bytes)),
            _ => None,
        }
    }
}

/// Why an image did not reach a member, or was not taken.
#[derive(Debug, thiserror::Error)]
enum ImageFailure {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{0}")]
    Read(#[from] Error),
    #[error("raft has let go of the state meanwhile: the other member does not need it, or this one does not lead")]
    TooLate,
    #[error("the other member was away for more than {0} s: it begins anew when it comes back")]
    Away(u64),
    #[error("it took more than {0} s: pages that were freed since can be used again now")]
    TooOld(u64),
    #[error("{bytes} bytes of pages that were freed are held for it, more than the {limit} that may be")]
    Held { bytes: u64, limit: u64 },
    #[error("the disk is full, and {bytes} bytes of pages that were freed are held for it")]
    Full { bytes: u64 },
    #[error("{bytes} bytes of log are kept for what follows it, more than the {limit} that may be")]
    Log { bytes: u64, limit: u64 },
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("the thread that makes the page file: {0}")]
    Thread(io::Error),
    #[error("another image has taken its place")]
    Replaced,
    #[error("a map of {0} bytes is longer than any")]
    LongMap(u64),
    #[error("an image of what was asked for by a map, which was not: it comes too late, or from another member")]
    NotAsked,
    #[error("it is of a kind that this version does not know: {0:#x}")]
    Kind(u64),
}

impl From<ImageError> for ImageFailure {
    fn from(error: ImageError) -> ImageFailure {
        RestoreError::from(error).into()
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageFailure + '_ {
    move |error| ImageFailure::File { path: path.to_owned(), error }
}

/// The page file while it is made.
fn new_pages(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("pages-0.new")
}

/// Removes what a former life has left half done.
pub fn clean(data_dir: &Path) {
    // Earlier versions wrote the image to a file first.
    for file in [data_dir.join("member").join("image"), new_pages(data_dir)] {
        if let Err(error) = remove(&file) {
            tracing::warn!(file = %file.display(), error = %error, "a file that is of no use any more can't be removed");
        }
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The new page file takes the place of the old one. On disk when this returns: its name.
///
/// # Errors
/// The system's; either file has the name.
pub fn install(data_dir: &Path) -> io::Result<()> {
    let folder = data_dir.join("member");
    fs::rename(new_pages(data_dir), folder.join("pages-0"))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_others_are_refused() {
        for word in
            [Word::Map([7; 16]), Word::Wants([8; 16], Bytes::new()), Word::Wants([8; 16], Bytes::from_static(b"ab"))]
        {
            assert_eq!(Word::decode(word.encode()), Some(word));
        }
        let map = Word::Map([7; 16]).encode();
        assert_eq!(Word::decode(map.slice(..16)), None);
        assert_eq!(Word::decode([&map[..], b"x"].concat().into()), None);
        assert_eq!(Word::decode([&[3][..], &map[1..]].concat().into()), None);
        assert_eq!(Content::of_group(Content::Partial.group()), Some(Content::Partial));
        assert_eq!(Content::of_group(3 << CONTENT_SHIFT), None);
        assert_eq!(Content::of_group(1), None);
    }
}
