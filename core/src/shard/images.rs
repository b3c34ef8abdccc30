//! Images between members: a follower that needs entries which are gone gets the leader's whole state (group/install.rs).
//!
//! ```text
//!  leader    images_wanted -> pin, Pinned -> metadata -> the pinned state's pages ──────────> Sent -> raft's message
//!  follower                    a thread that may block  <── chunks, checked ──
//!                              member/image-ID, checked and synced -> the last byte is answered, Here
//!                              raft's message claims it and is stepped -> install()
//! ```
//!
//! The page file is made while the image comes: nothing is written twice, and what a lost connection leaves is a builder that
//! waits for the next bytes of the same image (receive.rs); what an ended process leaves is a page file with a mark, which the
//! next one goes on with (restore/pages.rs). The leader keeps the state pinned for both, within bounds (send.rs).
//!
//! A follower that has a store already asks for a map instead of taking the image (../image/map.rs):
//! ```text
//!  leader    offers an image ──>                     <── Word::Map
//!            the map of the same state ──>           compares it with its own store     <── Word::Wants
//!            the runs that it wants ──>              makes the page file of both
//! ```

mod arrivals;
mod build;
mod new_file;
mod page_source;
mod receive;
mod send;

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;

use ringstone_net::peer::PeerError;
use ringstone_pager::transfer::TransferError;
use ringstone_raft::{NodeId, SnapshotMetadata};

use super::notify::Broadcast;
use crate::error::Error;
use crate::group::{GROUP, ImageCosts, RestoreError};
use crate::image::{ImageError, PagesError};

pub use arrivals::Arrivals;
pub(super) use receive::take;
pub use receive::{forget_left, receive};
pub use send::{send, send_state};

/// What happens to images.
pub enum ImageEvent {
    /// A state is pinned for a member: what does raft say of its place?
    Pinned(NodeId, u64, Rc<Place>),
    /// A member has taken its image, or it has not.
    Sent(NodeId, bool),
    /// One is here, whole and synced: to be claimed.
    Here(Rc<Arrivals>),
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

/// What is offered: it stands in the highest bits of the group's number. (0 was a whole state as records: decision 15.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A map of a state.
    Map = 1,
    /// What a map's receiver wants of it, as records.
    Partial = 2,
    /// A whole state, as pages.
    Pages = 3,
}

const CONTENT_SHIFT: u32 = 56;
/// Bytes that are no work to remove.
const REMOVED_AT_ONCE_MAX: u64 = 1 << 20;

impl Content {
    fn group(self) -> u64 {
        (self as u64) << CONTENT_SHIFT | u64::from(GROUP)
    }

    fn of_group(group: u64) -> Option<Content> {
        [Content::Map, Content::Partial, Content::Pages].into_iter().find(|content| content.group() == group)
    }
}

/// Why an image did not reach a member, or was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageFailure {
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
    #[error(
        "the leader's state needs {needed} bytes beside the page file in use, and in {path} there is room for {room} besides \
         what the log needs: make room on that file system, or give the member another data folder. The leader tries again by \
         itself, once a minute at least"
    )]
    NoRoom { path: PathBuf, needed: u64, room: u64 },
    #[error("the thread that makes the page file: {0}")]
    Thread(io::Error),
    #[error("another image has taken its place")]
    Replaced,
    #[error("the image before it is about to take the place of the page file")]
    Taken,
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

/// Of what is made at this path.
fn of_restore(path: &Path, error: RestoreError) -> ImageFailure {
    match error {
        RestoreError::Pages(PagesError::Transfer(TransferError::NoRoom { needed, room })) => {
            ImageFailure::NoRoom { path: path.parent().unwrap_or(path).to_owned(), needed, room }
        }
        other => other.into(),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageFailure + '_ {
    move |error| ImageFailure::File { path: path.to_owned(), error }
}

/// The page file of a member that fetches its state, while it is made.
fn fetched_pages(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("pages-0.new")
}

/// Removes what a former life has left half done. `goes_on`: but what it may still be sent the rest of.
pub fn clean(data_dir: &Path, goes_on: bool) {
    let folder = data_dir.join("member");
    arrivals::clean(&folder, goes_on.then_some(arrivals::REST_MAX));
    // Earlier versions wrote the image to a file first.
    for file in [folder.join("image"), fetched_pages(data_dir)] {
        if let Err(error) = remove(&file) {
            tracing::warn!(file = %file.display(), error = %error, "a file that is of no use any more can't be removed");
        }
    }
}

/// Removes a file. A thread gives its room back: where the file system tells its disk what is free, gigabytes take seconds, and
/// who calls this is an executor.
fn remove(file: &Path) -> io::Result<()> {
    let held = File::open(file);
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Ok(held) = held
        && held.metadata().is_ok_and(|metadata| metadata.len() > REMOVED_AT_ONCE_MAX)
    {
        // Where there can be no thread, it is dropped here.
        let _ = thread::Builder::new().name("remove".to_owned()).spawn(move || drop(held));
    }
    Ok(())
}

/// This page file takes the place of the one in use. On disk when this returns: its name.
///
/// # Errors
/// The system's; either file has the name.
pub fn install(data_dir: &Path, pages: &Path) -> io::Result<()> {
    let folder = data_dir.join("member");
    remove(&arrivals::marks(pages))?;
    fs::rename(pages, folder.join("pages-0"))?;
    File::open(folder)?.sync_all()
}

/// As `install`, for the state that a member without one has fetched.
///
/// # Errors
/// As there.
pub fn install_fetched(data_dir: &Path) -> io::Result<()> {
    install(data_dir, &fetched_pages(data_dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn who_has_no_room_is_told_how_much_where_and_what_to_do() {
        let no_room = TransferError::NoRoom { needed: 7_000_000_000, room: 1_500_000 };
        let text = of_restore(Path::new("/data/m1/image"), RestoreError::Pages(no_room.into())).to_string();
        for part in ["7000000000 bytes", "in /data/m1 there is room for 1500000 besides", "make room", "tries again"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_is_removed_gives_its_room_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (small, large) = (folder.path().join("small"), folder.path().join("large"));
        fs::write(&small, b"marks").expect("room");
        let file = File::create(&large).expect("room");
        file.set_len(2 * REMOVED_AT_ONCE_MAX).expect("a hole");
        for path in [&small, &large, &large] {
            remove(path).expect("removed, or not there");
            assert!(!path.exists());
        }
        assert_eq!(file.metadata().expect("it is open").nlink(), 0, "the last to close it frees it");
    }

    #[test]
    fn a_group_says_what_is_offered() {
        assert_eq!(Content::of_group(Content::Partial.group()), Some(Content::Partial));
        assert_eq!(Content::of_group(4 << CONTENT_SHIFT), None);
        assert_eq!(Content::of_group(u64::from(GROUP)), None);
    }
}
