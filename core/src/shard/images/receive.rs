//! The follower's side: one image at a time, by as many streams as it takes.
//!
//! What has come is in the builder's hands; a stream that breaks leaves it there, and the next offer of the same image goes on
//! behind it. Any other offer, of another state or of another leader, takes its place. So does time: a leader that has not come
//! back by then has let go of its state.

use std::cell::{Cell, RefCell};
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
use super::build::{self, Builder, Compared, Difference, OwnStore, PageBuilder};
use super::{Content, ImageEvent, ImageFailure, at, new_pages, remove};
use crate::image::MAP_BYTES_MAX;
use crate::said::{Said, Word};
use crate::shared::Shared;

/// How long what has come waits for the rest: longer than its sender does (send.rs).
const REST_MAX: Duration = Duration::from_secs(90);
/// A map is asked for where this many bytes of a store might be saved: less is sent sooner than compared.
const OWN_BYTES_MIN: u64 = 8 << 20;
/// How long nothing is asked for once what was asked for did not come.
const NO_MAP: Duration = Duration::from_secs(300);
/// Between two looks at the builder's thread.
const LOOK: Duration = Duration::from_millis(1);
/// Longest wait between two looks at one that is to end.
const LOOK_MAX: Duration = Duration::from_millis(20);

/// What comes to this member.
#[derive(Default)]
pub struct Arrivals {
    arriving: RefCell<Option<Arriving>>,
    /// Of a map that has come: what may be offered next, and its builder.
    compared: RefCell<Option<ComparedMap>>,
    /// Counts the streams: an older one has nothing to say any more.
    turn: Cell<u64>,
    /// Where a difference has failed: whole images for a while.
    no_map_until: Cell<Duration>,
}

struct ComparedMap {
    id: [u8; 16],
    builder: PageBuilder,
}

struct Arriving {
    from: u64,
    id: [u8; 16],
    /// Bytes that the builder has.
    offset: u64,
    builder: Rc<PageBuilder>,
    touched: Duration,
    /// It is here: index and term. Its sender may not know it yet.
    made: Option<(u64, u64)>,
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
    arrivals.turn.set(arrivals.turn.get() + 1);
    let turn = arrivals.turn.get();
    let receiver = Receiver { shard: &shard, links: &links, inbox: &inbox, from, arrivals: &arrivals, turn };
    match receiver.receive(stream).await {
        Ok(Some((index, term))) => {
            tracing::info!(from = member, index, "the whole state of a member has come");
            inbox.hear(FromPeer::Image(ImageEvent::Here(index, term)));
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(from = member, error = %error, "an image of the state was not taken"),
    }
    sleep(REST_MAX).await;
    receiver.forget_old();
}

/// Takes a whole image and makes a page file of it, beside the one in use, for a member that has no group: index and term of
/// what it has applied.
///
/// # Errors
/// [`ImageFailure`]: nothing was changed.
pub(in crate::shard) async fn take(shared: &Shared, mut stream: SnapshotReceiver) -> Result<(u64, u64), ImageFailure> {
    let builder = build::whole(new_pages(&shared.config.data_dir), shared.identity)?;
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
    inbox: &'a Inbox,
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
                let known = self.arrivals.arriving.borrow().as_ref().is_some_and(|known| known.id == offer.id);
                if !known && content == Content::Whole && self.wants_map() {
                    self.links.say(NodeId(self.from), &Said::Image(Word::Map(offer.id)));
                    return Ok(None);
                }
                if !known {
                    self.begin(content, offer.id)?;
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
        let pages = new_pages(&config.data_dir);
        let Difference { builder, said } = build::partial(pages, self.shard.shared.identity, bytes, own)?;
        let compared = self.compared(&builder, &said).await?;
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

    /// What the thread says that compares.
    async fn compared(&self, builder: &PageBuilder, said: &mpsc::Receiver<Compared>) -> Result<Compared, ImageFailure> {
        loop {
            match (said.try_recv(), builder.made()) {
                (Ok(compared), _) => return Ok(compared),
                (Err(_), Some(made)) => return Err(made.err().unwrap_or(ImageFailure::Replaced)),
                (Err(_), None) => sleep(LOOK_MAX).await,
            }
            self.check_turn()?;
        }
    }

    /// A new page file; what has come of another one is thrown away.
    fn begin(&self, content: Content, id: [u8; 16]) -> Result<(), ImageFailure> {
        let pages = new_pages(&self.shard.shared.config.data_dir);
        if let Some(other) = self.arrivals.arriving.take().filter(|other| other.made.is_none()) {
            tracing::warn!(
                from = format!("{:x}", self.from),
                before = format!("{:x}", other.from),
                bytes = other.offset,
                "an image of another state is offered: what has come of the one before is of no use, it begins anew"
            );
        }
        let identity = self.shard.shared.identity;
        let compared = self.arrivals.compared.take().filter(|compared| compared.id == id);
        let builder = match content {
            Content::Partial => compared.ok_or(ImageFailure::NotAsked)?.builder,
            _ => build::whole(pages, identity)?,
        };
        self.inbox.hear(FromPeer::Image(ImageEvent::Comes));
        let (from, builder) = (self.from, Rc::new(builder));
        let arriving = Arriving { from, id, offset: 0, builder, touched: boottime(), made: None };
        self.arrivals.arriving.replace(Some(arriving));
        Ok(())
    }

    /// Takes the image on from where it is. A stream that breaks leaves it for the next.
    async fn take(&self, mut stream: SnapshotReceiver, id: [u8; 16]) -> Result<Option<(u64, u64)>, ImageFailure> {
        let (builder, offset, made) = match &*self.arrivals.arriving.borrow() {
            Some(arriving) if arriving.id == id => (Rc::clone(&arriving.builder), arriving.offset, arriving.made),
            _ => return Err(ImageFailure::Replaced),
        };
        if offset > 0 {
            tracing::info!(from = format!("{:x}", self.from), offset, "an image that was interrupted goes on");
        }
        stream.accept(offset)?;
        let made = match made {
            Some(place) => stream.next().await.map(|_| place).map_err(ImageFailure::from),
            None => self.take_to_end(&mut stream, &builder).await,
        };
        if self.arrivals.turn.get() != self.turn {
            // A later stream has taken over.
            return Err(ImageFailure::Replaced);
        }
        match made {
            Ok(place) => {
                self.arrivals.no_map_until.set(Duration::ZERO);
                Ok(Some(place))
            }
            Err(ImageFailure::Peer(error)) if error.is_of_connection() => {
                let offset = self.touch(|arriving| arriving.offset);
                tracing::info!(
                    from = format!("{:x}", self.from), offset, error = %error,
                    "an image was interrupted: what has come of it waits for the rest"
                );
                Ok(None)
            }
            Err(failure) => {
                self.forget();
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
            self.touch(|arriving| arriving.offset += bytes.len() as u64);
            if let Some(Err(failure)) = builder.made() {
                return Err(failure);
            }
        }
        builder.end();
        let place = self.ended(builder).await?;
        self.touch(|arriving| arriving.made = Some(place));
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
        if self.arrivals.turn.get() == self.turn { Ok(()) } else { Err(ImageFailure::Replaced) }
    }

    fn touch<T: Default>(&self, change: impl FnOnce(&mut Arriving) -> T) -> T {
        let mut arriving = self.arrivals.arriving.borrow_mut();
        let Some(arriving) = arriving.as_mut() else { return T::default() };
        arriving.touched = boottime();
        change(arriving)
    }

    fn forget(&self) {
        self.arrivals.arriving.take();
        let pages = new_pages(&self.shard.shared.config.data_dir);
        if let Err(error) = remove(&pages).map_err(at(&pages)) {
            tracing::warn!(error = %error, "what has come of an image can't be removed");
        }
    }

    /// What nobody goes on with gives its space back.
    fn forget_old(&self) {
        // The pin of what was compared, too.
        if self.arrivals.turn.get() == self.turn {
            self.arrivals.compared.take();
        }
        let is_old = |arriving: &Arriving| arriving.made.is_none() && boottime() - arriving.touched >= REST_MAX;
        if self.arrivals.arriving.borrow().as_ref().is_some_and(is_old) {
            tracing::warn!("an image was interrupted and nobody goes on with it: what has come of it is thrown away");
            self.forget();
        }
    }
}
