//! The follower's side: one image at a time, by as many streams as it takes.
//!
//! What has come is in the builder's hands; a stream that breaks leaves it there, and the next offer of the same image goes on
//! behind it. Any other offer, of another state or of another leader, takes its place. So does time: a leader that has not come
//! back by then has let go of its state.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use glommio::timer::sleep;
use ringstone_net::peer::SnapshotReceiver;
use ringstone_raft::NodeId;

use super::super::group_task::Inbox;
use super::super::peers::{FromPeer, Links};
use super::super::{Shard, boottime};
use super::arrivals::{Arrivals, ComparedMap, Going, REST_MAX};
use super::build::{self, Builder, Compared, OwnStore, PageBuilder, Speaking};
use super::{Content, ImageEvent, ImageFailure, fetched_pages};
use crate::image::MAP_BYTES_MAX;
use crate::said::{Said, Word};
use crate::shared::Shared;

/// A map is asked for where this many bytes of a store might be saved: less is sent sooner than compared.
const OWN_BYTES_MIN: u64 = 8 << 20;
/// How long nothing is asked for once what was asked for did not come.
const NO_MAP: Duration = Duration::from_secs(300);
/// Between two looks at the builder's thread.
const LOOK: Duration = Duration::from_millis(1);
/// Longest wait between two looks at one that is to end.
const LOOK_MAX: Duration = Duration::from_millis(20);

/// What an earlier process has left waits for its sender as long as what a broken connection has.
pub fn forget_left(arrivals: &Rc<Arrivals>) {
    let arrivals = Rc::clone(arrivals);
    glommio::spawn_local(async move {
        sleep(REST_MAX).await;
        arrivals.forget_left();
    })
    .detach();
}

/// Takes what a member offers.
pub async fn receive(
    shard: Rc<Shard>,
    links: Rc<Links>,
    inbox: Rc<Inbox>,
    from: u64,
    stream: SnapshotReceiver,
    arrivals: Rc<Arrivals>,
) {
    let member = format!("{from:x}");
    let turn = arrivals.next_turn();
    let receiver = Receiver { shard: &shard, links: &links, from, arrivals: &arrivals, turn };
    match receiver.receive(stream).await {
        Ok(Some((index, term))) => {
            tracing::info!(from = member, index, term, "the whole state of a member has come");
            inbox.hear(FromPeer::Image(ImageEvent::Here(Rc::clone(&arrivals))));
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(from = member, error = %error, "an image of the state was not taken"),
    }
    sleep(REST_MAX).await;
    receiver.arrivals.forget_old(boottime(), turn);
}

/// Takes a whole image and makes a page file of it, beside the one in use, for a member that has no group: index and term of
/// what it has applied.
///
/// # Errors
/// [`ImageFailure`]: nothing was changed.
pub(in crate::shard) async fn take(shared: &Shared, mut stream: SnapshotReceiver) -> Result<(u64, u64), ImageFailure> {
    let builder = build::whole(fetched_pages(&shared.config.data_dir), shared.identity, None)?;
    stream.accept(0)?;
    while let Some(bytes) = stream.next_unconfirmed().await? {
        while !builder.push(&bytes) {
            sleep(LOOK).await;
        }
        if let Some(Err(failure)) = builder.made() {
            return Err(failure);
        }
    }
    builder.end();
    let place = loop {
        match builder.made() {
            Some(made) => break made?,
            None => sleep(LOOK_MAX).await,
        }
    };
    stream.confirm();
    Ok(place)
}

struct Receiver<'a> {
    shard: &'a Shard,
    links: &'a Links,
    from: u64,
    arrivals: &'a Arrivals,
    /// Of its stream.
    turn: u64,
}

impl Receiver<'_> {
    /// Index and term of an image that is here now.
    async fn receive(&self, stream: SnapshotReceiver) -> Result<Option<(u64, u64)>, ImageFailure> {
        let offer = stream.offer();
        match Content::of_group(offer.group) {
            Some(Content::Map) => self.take_map(stream).await.map(|()| None),
            Some(content) => {
                let known = self.arrivals.going(offer.id).is_some();
                if !known && content == Content::Pages && self.wants_map() {
                    self.links.say(NodeId(self.from), &Said::Image(Word::Map(offer.id)));
                    return Ok(None);
                }
                if !known {
                    self.begin(content, offer.id).await?;
                }
                self.take(stream, offer.id).await
            }
            None => Err(ImageFailure::Kind(offer.group)),
        }
    }

    /// A store of some size, of which a part may still be as the leader's.
    fn wants_map(&self) -> bool {
        let shared = &self.shard.shared;
        shared.applied.load(Ordering::Relaxed) > 0
            && shared.file_bytes_in_use.load(Ordering::Relaxed) >= OWN_BYTES_MIN
            && boottime() >= self.arrivals.no_map_until.get()
    }

    /// A map of the leader's state: it learns which runs are not here.
    async fn take_map(&self, mut stream: SnapshotReceiver) -> Result<(), ImageFailure> {
        self.arrivals.no_map_until.set(boottime() + NO_MAP);
        let id = stream.offer().id;
        let length = stream.offer().length.unwrap_or(u64::MAX);
        if length > MAP_BYTES_MAX as u64 {
            return Err(ImageFailure::LongMap(length));
        }
        // Grows with what has come, not with what was announced.
        let mut bytes = Vec::new();
        stream.accept(0)?;
        while let Some(more) = stream.next().await? {
            bytes.extend_from_slice(&more);
            if bytes.len() > MAP_BYTES_MAX {
                return Err(ImageFailure::LongMap(bytes.len() as u64));
            }
        }
        drop(stream);
        let config = &self.shard.shared.config;
        let own_path = config.data_dir.join("member").join("pages-0");
        let own = OwnStore { reader: self.shard.reader.another(), path: own_path };
        let pages = self.arrivals.pages(id);
        let Speaking { builder, said } = build::partial(pages, self.shard.shared.identity, bytes, own)?;
        let compared: Compared = self.said(&builder, &said).await?;
        if compared.id != id {
            return Err(ImageFailure::NotAsked);
        }
        tracing::info!(
            from = format!("{:x}", self.from),
            runs = compared.runs,
            differ = compared.wanted.count(),
            "the state of a member was compared with this one's: what differs is asked for"
        );
        let runs = compared.wanted.as_bytes().to_vec().into();
        self.arrivals.compared.replace(Some(ComparedMap { id: compared.id, builder }));
        self.links.say(NodeId(self.from), &Said::Image(Word::Wants(compared.id, runs)));
        Ok(())
    }

    /// What the thread says first.
    async fn said<T>(&self, builder: &PageBuilder, said: &mpsc::Receiver<T>) -> Result<T, ImageFailure> {
        loop {
            match (said.try_recv(), builder.made()) {
                (Ok(first), _) => return Ok(first),
                (Err(_), Some(made)) => return Err(made.err().unwrap_or(ImageFailure::Replaced)),
                (Err(_), None) => sleep(LOOK_MAX).await,
            }
            self.check_turn()?;
        }
    }

    /// A new page file; what has come of another one is thrown away.
    async fn begin(&self, content: Content, id: [u8; 16]) -> Result<(), ImageFailure> {
        let is_left = self.arrivals.make_way(self.from, id)?;
        let (pages, identity) = (self.arrivals.pages(id), self.shard.shared.identity);
        let compared = self.arrivals.compared.take().filter(|compared| compared.id == id);
        let (builder, offset) = match content {
            Content::Partial => (compared.ok_or(ImageFailure::NotAsked)?.builder, 0),
            _ if is_left => match self.resume(id).await {
                Err(ImageFailure::Replaced) => return Err(ImageFailure::Replaced),
                Err(error) => {
                    tracing::info!(error = %error, "an image that an earlier process has begun to take begins anew");
                    self.arrivals.remove(id);
                    (build::whole(pages, identity, Some(id))?, 0)
                }
                Ok(resumed) => resumed,
            },
            _ => (build::whole(pages, identity, Some(id))?, 0),
        };
        self.arrivals.begin(boottime(), self.from, id, offset, builder);
        Ok(())
    }

    /// What an earlier process has made of this image, and up to where.
    async fn resume(&self, id: [u8; 16]) -> Result<(PageBuilder, u64), ImageFailure> {
        let Speaking { builder, said } = build::resumed(self.arrivals.pages(id), self.shard.shared.identity, id)?;
        let offset = self.said(&builder, &said).await;
        // What has taken its place may be the same image, from its beginning on.
        if matches!(offset, Err(ImageFailure::Replaced)) && self.arrivals.going(id).is_none() {
            self.arrivals.remove(id);
        }
        Ok((builder, offset?))
    }

    /// Takes the image on from where it is. A stream that breaks leaves it for the next.
    async fn take(&self, mut stream: SnapshotReceiver, id: [u8; 16]) -> Result<Option<(u64, u64)>, ImageFailure> {
        let Some(Going { builder, offset, made }) = self.arrivals.going(id) else { return Err(ImageFailure::Replaced) };
        if offset > 0 {
            tracing::info!(from = format!("{:x}", self.from), offset, "an image that was interrupted goes on");
        }
        stream.accept(offset)?;
        let made = match made {
            Some(place) => stream.next().await.map(|_| place).map_err(ImageFailure::from),
            None => self.take_to_end(&mut stream, &builder).await,
        };
        // Or a later stream has taken over.
        self.check_turn()?;
        match made {
            Ok(place) => {
                self.arrivals.no_map_until.set(Duration::ZERO);
                Ok(Some(place))
            }
            Err(ImageFailure::Peer(error)) if error.is_of_connection() => {
                let offset = self.arrivals.touch(boottime(), 0, None);
                tracing::info!(
                    from = format!("{:x}", self.from), offset, error = %error,
                    "an image was interrupted: what has come of it waits for the rest"
                );
                Ok(None)
            }
            Err(failure) => {
                self.arrivals.forget();
                Err(failure)
            }
        }
    }

    async fn take_to_end(
        &self,
        stream: &mut SnapshotReceiver,
        builder: &PageBuilder,
    ) -> Result<(u64, u64), ImageFailure> {
        while let Some(bytes) = stream.next_unconfirmed().await? {
            while !builder.push(&bytes) {
                sleep(LOOK).await;
                self.check_turn()?;
            }
            self.check_turn()?;
            self.arrivals.touch(boottime(), bytes.len(), None);
            if let Some(Err(failure)) = builder.made() {
                return Err(failure);
            }
        }
        builder.end();
        let place = self.ended(builder).await?;
        self.arrivals.touch(boottime(), 0, Some(place));
        // Its sender learns that it is here, and says what raft has to say of it.
        stream.confirm();
        Ok(place)
    }

    /// What the thread has made.
    async fn ended<T: Send + 'static>(&self, builder: &Builder<T>) -> Result<T, ImageFailure> {
        let mut wait = LOOK;
        loop {
            if let Some(made) = builder.made() {
                return made;
            }
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_MAX);
            self.check_turn()?;
        }
    }

    fn check_turn(&self) -> Result<(), ImageFailure> {
        self.arrivals.check_turn(self.turn)
    }
}
