//! The leader's side: one pinned state for a member, sent as often as connections break, as long as it may be kept.
//!
//! What a pin costs, and what ends it: pages that were freed since and can't be used again, the log behind it that stays in
//! memory, its age, and a receiver that is away. Each has a bound; the log line names the one that was met.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use ahash::AHashMap;
use bytes::{Bytes, BytesMut};
use glommio::timer::sleep;
use ringstone_net::LocalBoxFuture;
use ringstone_net::peer::{PeerError, SnapshotOffer, SnapshotSource};
use ringstone_pager::Pin;
use ringstone_raft::NodeId;

use super::super::group_task::Inbox;
use super::super::peers::{FromPeer, Links};
use super::super::{Shard, boottime, random_bytes, state_of};
use super::page_source::PageSource;
use super::{Content, ImageEvent, ImageFailure, Place};
use crate::error::{Error, ReadFault};
use crate::group::ImageCosts;
use crate::identity::Identity;
use crate::image::{ImageMap, ImageWriter, MapBuilder, Piece, Step, Wanted, run_bytes_for};
use crate::said::Word;
use crate::state::State;

/// A pin is not held longer than this: as for a client's snapshot.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// A receiver that is away for longer begins anew: long enough for a reboot.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to go on, and two looks at the bounds.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a receiver may take to compare its store with a map.
const COMPARE_MAX: Duration = Duration::from_secs(600);
/// How long a word may come behind the refusal that it explains.
const WORD_DELAY: Duration = Duration::from_secs(2);
/// Between two looks at the whole state.
const LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// Steps of a map's builder between two looks at what else there is to do.
const MAP_STEPS: u64 = 8;
/// Freed pages that may be held for an image, whatever the store holds; of a large store a quarter.
const HELD_BYTES_MIN: u64 = 256 << 20;
/// Between two places that a stream can go on from without beginning anew.
const MARK_BYTES: u64 = 64 << 20;
/// What a mark may hold: a writer in the middle of a large value is not one.
const MARK_HELD_MAX: usize = 128 << 10;

/// Waits between a refusal and the next offer to that member: the first, and the longest.
const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

thread_local! {
    /// Members that have refused an image, and have taken none since: when they may be offered one again, and how often they did.
    static REFUSED: RefCell<AHashMap<NodeId, (Duration, u32)>> = RefCell::default();
    /// When this process last looked at its whole state because a receiver had refused it.
    static LOOKED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Sends the published state to a member; later, if it has refused the one before.
pub async fn send(shard: Rc<Shard>, links: Rc<Links>, inbox: Rc<Inbox>, to: NodeId) {
    // Nothing is pinned meanwhile.
    let (wait_until, refusals) = REFUSED.with_borrow(|refused| refused.get(&to).copied().unwrap_or_default());
    sleep(wait_until.saturating_sub(boottime())).await;
    let began = boottime();
    let sent = Sender::send(&shard, &links, &inbox, to).await;
    let member = format!("{:x}", to.0);
    REFUSED.with_borrow_mut(|refused| match &sent {
        Err(ImageFailure::Peer(PeerError::SnapshotRefused)) => {
            refused.insert(to, (boottime() + pause_behind(refusals), refusals.saturating_add(1)));
        }
        Ok(_) => drop(refused.remove(&to)),
        Err(_) => {}
    });
    match &sent {
        Ok(bytes) => {
            let took_ms = (boottime() - began).as_millis() as u64;
            tracing::info!(to = member, bytes, took_ms, "a member was sent the whole state");
        }
        Err(error) => tracing::warn!(to = member, error = %error, "a member could not be sent the state"),
    }
    inbox.hear(FromPeer::Image(ImageEvent::Sent(to, sent.is_ok())));
}

/// How long a member is left alone that has refused so many images before.
fn pause_behind(refusals: u32) -> Duration {
    let (first, longest) = REFUSED_PAUSE;
    first.saturating_mul(1 << refusals.min(10)).min(longest)
}

/// Sends the published state to a member that has asked for it by this id, and has no part in raft meanwhile. It takes all of it:
/// it has none that it believes.
pub async fn send_state(shard: Rc<Shard>, links: Rc<Links>, inbox: Rc<Inbox>, to: NodeId, id: [u8; 16]) {
    let sending = async {
        let pin = shard.pin();
        let mut source = PageSource::new(&shard, &pin);
        let offer = SnapshotOffer { group: Content::Pages.group(), id, length: None, offset_min: 0 };
        let sent = links.peers().send_snapshot(to.0, &offer, &mut source).await;
        sent.map(|_| source.sent_bytes).map_err(ImageFailure::from)
    };
    let too_old = async {
        sleep(AGE_MAX).await;
        ImageFailure::TooOld(AGE_MAX.as_secs())
    };
    match beside(sending, too_old).await.and_then(|sent| sent) {
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

/// The end of `work`, or what ends first to bound it.
async fn beside<T>(
    work: impl Future<Output = T>,
    bounds: impl Future<Output = ImageFailure>,
) -> Result<T, ImageFailure> {
    let (mut work, mut bounds) = (pin!(work), pin!(bounds));
    poll_fn(|context| {
        if let Poll::Ready(value) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        bounds.as_mut().poll(context).map(Err)
    })
    .await
}

struct Sender<'a> {
    shard: &'a Shard,
    links: &'a Links,
    pin: &'a Pin<'a>,
    state: State,
    place: Rc<Place>,
    to: NodeId,
    began: Duration,
    held_limit: u64,
}

impl Sender<'_> {
    async fn send(shard: &Shard, links: &Links, inbox: &Inbox, to: NodeId) -> Result<u64, ImageFailure> {
        let pin = shard.pin();
        let (state, place) = (state_of(&pin), Rc::new(Place::default()));
        inbox.hear(FromPeer::Image(ImageEvent::Pinned(to, state.applied_index, Rc::clone(&place))));
        place.is_told.wait().await;
        place.metadata.take().ok_or(ImageFailure::TooLate)?;
        let in_use = shard.shared.file_bytes_in_use.load(Ordering::Relaxed);
        let held_before = place.costs.get().map_or(0, |costs| costs.held_bytes);
        let held_limit = held_before + HELD_BYTES_MIN.max(in_use / 4);
        let sender = Sender { shard, links, pin: &pin, state, place, to, began: boottime(), held_limit };
        let (id, identity) = (random_bytes(), &shard.shared.identity);
        links.forget_word(to);
        let mut whole = PageSource::new(shard, &pin);
        match sender.transfer(Content::Pages, id, None, &mut whole).await {
            Err(ImageFailure::Peer(PeerError::SnapshotRefused)) => {
                if !sender.is_asked_for_map(id).await {
                    sender.look_at_state().await?;
                    return Err(PeerError::SnapshotRefused.into());
                }
            }
            Err(error) => return Err(error),
            Ok(()) => return Ok(whole.sent_bytes),
        }
        drop(whole);
        sender.send_difference(identity).await
    }

    /// Sends what the receiver's own store does not have.
    async fn send_difference(&self, identity: &Identity) -> Result<u64, ImageFailure> {
        let Some(map) = self.beside_bounds(self.map()).await?? else {
            // Keys too long for a map: the receiver has asked once, and does not again.
            let mut whole = PageSource::new(self.shard, self.pin);
            self.transfer(Content::Pages, random_bytes(), None, &mut whole).await?;
            return Ok(whole.sent_bytes);
        };
        let (bytes, map) = map;
        let mut source = MapSource(bytes.into());
        let map_bytes = source.0.len() as u64;
        self.transfer(Content::Map, map.id, Some(map_bytes), &mut source).await?;
        let wanted = self.beside_bounds(self.wants(&map)).await??;
        tracing::info!(
            to = format!("{:x}", self.to.0),
            map_bytes,
            runs = map.runs.len(),
            differ = wanted.count(),
            "a member has a part of the state already: it is sent what differs"
        );
        let (map, wanted) = (Arc::new(map), Arc::new(wanted));
        let id = map.id;
        let mut source = Source::new(self.shard, self.pin, &self.state, || {
            ImageWriter::partial(identity, Arc::clone(&map), Arc::clone(&wanted))
        });
        self.transfer(Content::Partial, id, None, &mut source).await?;
        Ok(map_bytes + source.sent_bytes)
    }

    /// The map of the pinned state. None: it would be too long.
    async fn map(&self) -> Result<Option<(Vec<u8>, ImageMap)>, ImageFailure> {
        let run_bytes = run_bytes_for(self.shard.shared.file_bytes_in_use.load(Ordering::Relaxed));
        let mut builder = MapBuilder::new(random_bytes(), run_bytes);
        let mut steps = 0u64;
        loop {
            steps += 1;
            match builder.step(self.pin) {
                Ok(true) => break,
                Ok(false) if builder.is_too_long() => return Ok(None),
                // A step is a run, or a part of a long one.
                Ok(false) if steps.is_multiple_of(MAP_STEPS) => glommio::yield_if_needed().await,
                Ok(false) => {}
                Err(ReadFault::Absent(run)) => self.shard.bring_in(run).await?,
                Err(ReadFault::Refused(error)) => return Err(self.shard.refused(error).into()),
            }
        }
        if builder.is_too_long() {
            return Ok(None);
        }
        let map = builder.finish();
        Ok(map.encode().map(|bytes| (bytes, map)))
    }

    /// The receiver of the pages did not want them. It says so of a page, too, that is good and of an older state: that the disk
    /// has lost its successor only those see who read what refers to it, as this does. Such damage is repaired.
    async fn look_at_state(&self) -> Result<(), ImageFailure> {
        let now = boottime();
        if LOOKED.get().is_none_or(|looked| now - looked >= LOOK_INTERVAL) {
            LOOKED.set(Some(now));
            self.beside_bounds(self.map()).await??;
        }
        Ok(())
    }

    /// Its receiver refused an image: because it would rather have a map?
    async fn is_asked_for_map(&self, id: [u8; 16]) -> bool {
        let until = boottime() + WORD_DELAY;
        while boottime() < until {
            match self.links.take_word(self.to) {
                Some(word) => return word == Word::Map(id),
                None => sleep(PAUSE / 10).await,
            }
        }
        false
    }

    /// What the map's receiver answers.
    async fn wants(&self, map: &ImageMap) -> Result<Wanted, ImageFailure> {
        let until = boottime() + COMPARE_MAX;
        while boottime() < until {
            match self.links.take_word(self.to) {
                Some(Word::Wants(id, runs)) if id == map.id => {
                    return Wanted::of_bytes(&runs, map.runs.len()).ok_or(ImageFailure::NotAsked);
                }
                Some(_) => return Err(PeerError::SnapshotRefused.into()),
                None => sleep(PAUSE / 4).await,
            }
        }
        Err(ImageFailure::Away(COMPARE_MAX.as_secs()))
    }

    /// Offers it until it has come, or may not be kept any longer.
    async fn transfer(
        &self,
        content: Content,
        id: [u8; 16],
        length: Option<u64>,
        source: &mut dyn SnapshotSource,
    ) -> Result<(), ImageFailure> {
        let offer = SnapshotOffer { group: content.group(), id, length, offset_min: 0 };
        let mut lost_at = None;
        loop {
            let sent = self.beside_bounds(self.links.peers().send_snapshot(self.to.0, &offer, source)).await?;
            let error = match sent {
                Ok(_) => return Ok(()),
                Err(error) if error.is_of_connection() => error,
                Err(error) => return Err(error.into()),
            };
            if !matches!(error, PeerError::NotConnected(_)) {
                lost_at = None;
                tracing::info!(
                    to = format!("{:x}", self.to.0), error = %error,
                    "the connection broke under an image: it goes on where its receiver is, when that is back"
                );
            }
            let since = *lost_at.get_or_insert_with(boottime);
            if boottime() - since > AWAY_MAX {
                return Err(ImageFailure::Away(AWAY_MAX.as_secs()));
            }
            self.beside_bounds(sleep(PAUSE)).await?;
        }
    }

    /// Runs `work` for as long as the state may be kept pinned.
    async fn beside_bounds<T>(&self, work: impl Future<Output = T>) -> Result<T, ImageFailure> {
        beside(work, self.bounds()).await
    }

    /// Returns once the state may not be kept any longer.
    async fn bounds(&self) -> ImageFailure {
        loop {
            match self.check_bounds() {
                Ok(()) => sleep(PAUSE).await,
                Err(failure) => return failure,
            }
        }
    }

    fn check_bounds(&self) -> Result<(), ImageFailure> {
        let disk_free = self.shard.shared.disk_free.load(Ordering::Relaxed);
        check_bounds(self.place.costs.get(), self.held_limit, disk_free, boottime() - self.began)
    }
}

/// May a state be kept pinned that costs so much?
fn check_bounds(costs: Option<ImageCosts>, held_limit: u64, disk_free: u64, age: Duration) -> Result<(), ImageFailure> {
    let ImageCosts { log_bytes, log_bytes_max, held_bytes } = costs.ok_or(ImageFailure::TooLate)?;
    if held_bytes > held_limit {
        Err(ImageFailure::Held { bytes: held_bytes, limit: held_limit })
    } else if held_bytes > 0 && disk_free == 0 {
        // Writes are refused for want of what is held here.
        Err(ImageFailure::Full { bytes: held_bytes })
    } else if log_bytes > log_bytes_max {
        Err(ImageFailure::Log { bytes: log_bytes, limit: log_bytes_max })
    } else if age > AGE_MAX {
        Err(ImageFailure::TooOld(AGE_MAX.as_secs()))
    } else {
        Ok(())
    }
}

/// A partial image of a pinned state, from any offset on.
struct Source<'a, F> {
    shard: &'a Shard,
    pin: &'a Pin<'a>,
    state: &'a State,
    begin: F,
    image: ImageWriter,
    /// Bytes of the image in front of `rest`.
    at: u64,
    /// Of the piece that was made last.
    rest: Bytes,
    /// Places to go back to, in their order.
    marks: Vec<(u64, ImageWriter)>,
    sent_bytes: u64,
}

impl<'a, F: Fn() -> ImageWriter> Source<'a, F> {
    fn new(shard: &'a Shard, pin: &'a Pin<'a>, state: &'a State, begin: F) -> Source<'a, F> {
        let image = begin();
        Source { shard, pin, state, begin, image, at: 0, rest: Bytes::new(), marks: Vec::new(), sent_bytes: 0 }
    }

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

    /// The next bytes; none at the end.
    async fn fill(&mut self) -> Result<(), Error> {
        if !self.rest.is_empty() {
            return Ok(());
        }
        let marked = self.marks.last().map_or(0, |(at, _)| *at);
        if self.at >= marked + MARK_BYTES && self.image.held_bytes() <= MARK_HELD_MAX {
            self.marks.push((self.at, self.image.clone()));
        }
        self.rest = self.more().await?.map_or_else(Bytes::new, |piece| piece.bytes);
        Ok(())
    }

    /// Makes the image again from the mark before `offset` on, where that is not where it is.
    async fn seek(&mut self, offset: u64) -> Result<(), Error> {
        if offset < self.at {
            self.rest = Bytes::new();
            let mark = self.marks.iter().rev().find(|(at, _)| *at <= offset);
            (self.at, self.image) = mark.map_or_else(|| (0, (self.begin)()), |(at, image)| (*at, image.clone()));
        }
        while self.at < offset {
            self.fill().await?;
            let skipped =
                self.rest.split_to(self.rest.len().min(usize::try_from(offset - self.at).unwrap_or(usize::MAX)));
            if skipped.is_empty() {
                return Err(Error::SnapshotMoved);
            }
            self.at += skipped.len() as u64;
            glommio::yield_if_needed().await;
        }
        Ok(())
    }
}

impl<F: Fn() -> ImageWriter> SnapshotSource for Source<'_, F> {
    fn read(&mut self, offset: u64, bytes_max: usize) -> LocalBoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            // Not more often: while a task is ready, the executor looks at its ring once a millisecond only.
            glommio::yield_if_needed().await;
            let text = |error: Error| io::Error::other(error.text());
            self.seek(offset).await.map_err(text)?;
            let mut chunk = BytesMut::with_capacity(bytes_max);
            while chunk.len() < bytes_max {
                self.fill().await.map_err(text)?;
                let part = self.rest.split_to(self.rest.len().min(bytes_max - chunk.len()));
                if part.is_empty() {
                    break;
                }
                self.at += part.len() as u64;
                chunk.extend_from_slice(&part);
            }
            self.sent_bytes += chunk.len() as u64;
            Ok(chunk.freeze())
        })
    }
}

struct MapSource(Bytes);

impl SnapshotSource for MapSource {
    fn read(&mut self, offset: u64, bytes_max: usize) -> LocalBoxFuture<'_, io::Result<Bytes>> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let part = self.0.slice(from..self.0.len().min(from.saturating_add(bytes_max)));
        Box::pin(async move { Ok(part) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_is_asked_ever_less_often_and_once_a_minute_at_least() {
        let pauses: Vec<u64> = [0, 1, 2, 5, 6, 7, u32::MAX].map(|refusals| pause_behind(refusals).as_secs()).to_vec();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60]);
    }

    #[test]
    fn what_a_pinned_state_costs_is_bounded_and_the_bound_is_named() {
        let costs = ImageCosts { log_bytes: 10, log_bytes_max: 10, held_bytes: 20 };
        let check = |costs, disk_free, age| check_bounds(costs, 20, disk_free, age).map_err(|error| error.to_string());
        assert_eq!(check(Some(costs), 1, AGE_MAX), Ok(()));
        let refused = |costs, disk_free, age, text: &str| {
            let error = check(costs, disk_free, age).expect_err("over a bound");
            assert!(error.contains(text), "{error}");
        };
        refused(None, 1, AGE_MAX, "raft has let go");
        refused(Some(ImageCosts { held_bytes: 21, ..costs }), 1, AGE_MAX, "21 bytes of pages");
        refused(Some(ImageCosts { log_bytes: 11, ..costs }), 1, AGE_MAX, "11 bytes of log");
        refused(Some(costs), 0, AGE_MAX, "the disk is full");
        refused(Some(costs), 1, AGE_MAX + Duration::from_secs(1), "more than 3600 s");
        assert_eq!(check(Some(ImageCosts { held_bytes: 0, ..costs }), 0, AGE_MAX), Ok(()), "a disk that others fill");
    }
}
