//! Images between members: a follower that needs entries which are gone gets the leader's whole state (group/install.rs).
//!
//! ```text
//!  leader    images_wanted -> pin, Pinned -> metadata -> stream the pinned state ─────────> Sent -> raft's message
//!  follower                    member/image  <── chunks, checked ──  then, on a thread that may block:
//!                              member/pages-0.new, checked and synced -> the last byte is answered, Here
//!                              raft's message is stepped -> install()
//! ```
//!
//! The image is a file first: making the page file of it takes the disk's time, which the connection must not wait for.
//! Both files are of no use to another start, and the next one removes them.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use glommio::io::BufferedFile;
use ringstone_net::LocalBoxFuture;
use ringstone_net::peer::{PeerError, SnapshotOffer, SnapshotReceiver, SnapshotSource};
use ringstone_pager::Pin;
use ringstone_raft::{NodeId, SnapshotMetadata};

use super::group_task::Inbox;
use super::notify::Broadcast;
use super::peers::{FromPeer, Links};
use super::{Shard, random_bytes, state_of};
use crate::error::{Error, ReadFault};
use crate::group::{GROUP, Restore, RestoreError};
use crate::identity::Identity;
use crate::image::{ImageReader, ImageWriter, Piece, Step};
use crate::shared::Shared;
use crate::state::State;

/// Bytes of the image's file that are read at once.
const READ_BYTES: usize = 256 << 10;

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

/// Raft's word for a pinned state; nothing, where raft has let go of it.
#[derive(Default)]
pub struct Place {
    metadata: Cell<Option<SnapshotMetadata>>,
    is_told: Broadcast,
}

impl Place {
    /// Tells it.
    pub fn tell(&self, metadata: Option<SnapshotMetadata>) {
        self.metadata.set(metadata);
        self.is_told.complete();
    }
}

/// Why an image did not reach a member, or was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageFailure {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{0}")]
    Read(#[from] Error),
    #[error("raft has let go of the state meanwhile")]
    TooLate,
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageFailure + '_ {
    move |error| ImageFailure::File { path: path.to_owned(), error }
}

/// Sends the published state to a member.
pub async fn send(shard: Rc<Shard>, links: Rc<Links>, inbox: Rc<Inbox>, to: NodeId) {
    let sent = send_pinned(&shard, &links, &inbox, to).await;
    match &sent {
        Ok(bytes) => tracing::info!(to = format!("{:x}", to.0), bytes, "a member was sent the whole state"),
        Err(error) => {
            tracing::warn!(to = format!("{:x}", to.0), error = %error, "a member could not be sent the state")
        }
    }
    inbox.hear(FromPeer::Image(ImageEvent::Sent(to, sent.is_ok())));
}

async fn send_pinned(shard: &Shard, links: &Links, inbox: &Inbox, to: NodeId) -> Result<u64, ImageFailure> {
    let pin = shard.pin();
    let state = state_of(&pin);
    let place = Rc::new(Place::default());
    inbox.hear(FromPeer::Image(ImageEvent::Pinned(to, state.applied_index, Rc::clone(&place))));
    place.is_told.wait().await;
    place.metadata.take().ok_or(ImageFailure::TooLate)?;
    stream(shard, links, to, (&pin, &state), random_bytes()).await
}

/// Sends the published state to a member that has asked for it by this id, and has no part in raft meanwhile.
pub async fn send_state(shard: Rc<Shard>, links: Rc<Links>, inbox: Rc<Inbox>, to: NodeId, id: [u8; 16]) {
    let sent = async {
        let pin = shard.pin();
        let state = state_of(&pin);
        stream(&shard, &links, to, (&pin, &state), id).await
    };
    match sent.await {
        Ok(bytes) => tracing::info!(
            to = format!("{:x}", to.0),
            bytes,
            "a member that had lost its state, or its log, was sent the state of this one"
        ),
        Err(error) => {
            tracing::warn!(to = format!("{:x}", to.0), error = %error, "a member could not be sent the state")
        }
    }
    inbox.hear(FromPeer::Mended(to));
}

async fn stream(
    shard: &Shard,
    links: &Links,
    to: NodeId,
    (pin, state): (&Pin<'_>, &State),
    id: [u8; 16],
) -> Result<u64, ImageFailure> {
    let image = ImageWriter::new(&shard.shared.identity);
    let mut source = Source { shard, pin, state, image, rest: Bytes::new(), bytes: 0 };
    // The first piece knows the length of all: its receiver answers the last byte once it has made something of them.
    let first = source.more().await?;
    let length = first.as_ref().map_or(0, |piece| piece.bytes.len() as u64 + piece.remaining_bytes);
    source.rest = first.map(|piece| piece.bytes).unwrap_or_default();
    let offer = SnapshotOffer { group: u64::from(GROUP), id, length: Some(length), offset_min: 0 };
    links.peers().send_snapshot(to.0, &offer, &mut source).await?;
    Ok(source.bytes)
}

/// The image of a pinned state, a piece at a time.
struct Source<'a> {
    shard: &'a Shard,
    pin: &'a Pin<'a>,
    state: &'a State,
    image: ImageWriter,
    rest: Bytes,
    bytes: u64,
}

impl Source<'_> {
    async fn more(&mut self) -> Result<Option<Piece>, Error> {
        loop {
            match self.image.step(self.pin, self.state) {
                Ok(Step::Counting) => glommio::yield_if_needed().await,
                Ok(Step::Piece(piece)) => return Ok(Some(piece)),
                Ok(Step::Done) => return Ok(None),
                Err(ReadFault::Absent(run)) => self.shard.bring_in(run).await?,
                Err(ReadFault::Refused(error)) => return Err(self.shard.refused(error)),
            }
        }
    }
}

impl SnapshotSource for Source<'_> {
    fn read(&mut self, _offset: u64, bytes_max: usize) -> LocalBoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            while self.rest.is_empty() {
                match self.more().await.map_err(|error| io::Error::other(error.text()))? {
                    Some(piece) => self.rest = piece.bytes,
                    None => break,
                }
            }
            let part = self.rest.split_to(self.rest.len().min(bytes_max));
            self.bytes += part.len() as u64;
            Ok(part)
        })
    }
}

fn files(data_dir: &Path) -> (PathBuf, PathBuf) {
    let folder = data_dir.join("member");
    (folder.join("image"), folder.join("pages-0.new"))
}

/// Removes what a former life has left half done.
pub fn clean(data_dir: &Path) {
    let (image, pages) = files(data_dir);
    for file in [image, pages] {
        if let Err(error) = fs::remove_file(&file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), error = %error, "a file that is of no use any more can't be removed");
        }
    }
}

/// Takes an image that a member offers, one at a time: another one is refused meanwhile, and offered again.
pub async fn receive(shard: Rc<Shard>, inbox: Rc<Inbox>, from: u64, stream: SnapshotReceiver, is_busy: Rc<Cell<bool>>) {
    if is_busy.replace(true) {
        return;
    }
    inbox.hear(FromPeer::Image(ImageEvent::Comes));
    match take(&shard.shared, stream).await {
        Ok((index, term)) => {
            tracing::info!(from = format!("{from:x}"), index, "the whole state of a member has come");
            inbox.hear(FromPeer::Image(ImageEvent::Here(index, term)));
        }
        Err(error) => tracing::warn!(from = format!("{from:x}"), error = %error, "an image of the state was not taken"),
    }
    is_busy.set(false);
}

/// Takes an image and makes a page file of it, beside the one in use: index and term of what it has applied.
///
/// # Errors
/// [`ImageFailure`]: nothing was changed.
pub(super) async fn take(shared: &Shared, mut stream: SnapshotReceiver) -> Result<(u64, u64), ImageFailure> {
    let (path, pages) = files(&shared.config.data_dir);
    let glommio_error = |error: glommio::GlommioError<()>| at(&path)(error.into());
    let file = BufferedFile::create(&path).await.map_err(glommio_error)?;
    stream.accept(0)?;
    let mut offset = 0;
    let whole = stream.offer().length;
    while whole != Some(stream.offset()) {
        let Some(bytes) = stream.next().await? else { break };
        let length = bytes.len();
        let written = file.write_at(bytes.to_vec(), offset).await.map_err(glommio_error)?;
        if written != length {
            return Err(at(&path)(io::ErrorKind::WriteZero.into()));
        }
        offset += length as u64;
    }
    file.close().await.map_err(glommio_error)?;
    let identity = shared.identity;
    let place = glommio::executor().spawn_blocking(move || build(&path, &pages, &identity)).await?;
    // Its sender learns that it is here, and says what raft has to say of it.
    while stream.next().await?.is_some() {}
    Ok(place)
}

/// Makes the page file. On disk when this returns: the file, synced, by a name that no start looks at.
fn build(image: &Path, pages: &Path, identity: &Identity) -> Result<(u64, u64), ImageFailure> {
    match fs::remove_file(pages) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(pages)(error)),
        _ => {}
    }
    let mut file = File::open(image).map_err(at(image))?;
    let mut restore = Restore::create(pages, identity)?.of_member();
    let mut reader = ImageReader::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(at(image))?;
        if read == 0 {
            break;
        }
        reader.push(&buffer[..read]).map_err(RestoreError::from)?;
        restore.drain(&mut reader)?;
    }
    let summary = reader.finish().map_err(RestoreError::from)?;
    let place = (summary.state.applied_index, summary.state.applied_term);
    restore.finish_member(&summary)?;
    fs::remove_file(image).map_err(at(image))?;
    Ok(place)
}

/// The new page file takes the place of the old one. On disk when this returns: its name.
///
/// # Errors
/// The system's; either file has the name.
pub fn install(data_dir: &Path) -> io::Result<()> {
    let (_, pages) = files(data_dir);
    let folder = data_dir.join("member");
    fs::rename(pages, folder.join("pages-0"))?;
    File::open(folder)?.sync_all()
}
