//! What members say, on its way to the group. Peers are not trusted: what does not decode is dropped here.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use glommio::timer::sleep;
use ringstone_net::peer::PeerEvent;
use ringstone_net::peer::close::CloseCode;
use ringstone_raft::{NodeId, wire};

use super::Links;
use crate::identity::known::{self, Known};
use crate::said::Said;
use crate::shard::Shard;
use crate::shard::group_task::Inbox;
use crate::shard::images::{self, Arrivals, ImageEvent};

/// What waits for the group at most: beyond it the streams are not read.
const WAITING_MAX: usize = 4096;
/// How long a full inbox is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// What comes from other members, or is heard of them.
pub enum FromPeer {
    /// A member says something.
    Said(NodeId, Said),
    /// The connection to a member was lost.
    Lost(NodeId),
    /// A member says that this one was removed.
    Removed(String),
    /// A member knows another process of this one.
    Refused(String),
    /// What happens to images.
    Image(ImageEvent),
    /// It was sent its state, or it was not.
    Mended(NodeId),
}

/// Hands what members say to the group.
pub(super) async fn receive(shard: Rc<Shard>, links: Rc<Links>, limits: wire::Limits, inbox: Rc<Inbox>) {
    let arrivals = Rc::new(Arrivals::of(&shard.shared.config.data_dir));
    images::forget_left(&arrivals);
    while let Some(event) = links.peers.next_event().await {
        let said = match event {
            PeerEvent::Control { member, group, bytes } | PeerEvent::Log { member, group, bytes } => {
                match decode(member, group, bytes, &limits) {
                    // To whoever sends the image.
                    Some(Said::Image(word)) => {
                        links.words.borrow_mut().insert(NodeId(member), word);
                        None
                    }
                    said => said.map(|said| FromPeer::Said(NodeId(member), said)),
                }
            }
            PeerEvent::Disconnected { member, .. } => Some(FromPeer::Lost(NodeId(member))),
            PeerEvent::Refused { member, code, text } => {
                tracing::error!(member = format!("{member:x}"), "{text}");
                match code {
                    CloseCode::RemovedMember => Some(FromPeer::Removed(text)),
                    CloseCode::Incarnation => Some(FromPeer::Refused(text)),
                    _ => None,
                }
            }
            PeerEvent::Snapshot { member, stream } => {
                let (shard, links, inbox) = (Rc::clone(&shard), Rc::clone(&links), Rc::clone(&inbox));
                let arrivals = Rc::clone(&arrivals);
                glommio::spawn_local(images::receive(shard, links, inbox, member, stream, arrivals)).detach();
                None
            }
            PeerEvent::Connected { member, incarnation, process, .. } => {
                if links.known.borrow_mut().heard(member, incarnation, process) {
                    links.is_known_news.set(true);
                }
                None
            }
            // The transport has said it in the log.
            PeerEvent::Finding { .. } => None,
        };
        if links.is_known_news.take() {
            // Before any frame of a process that has just connected is looked at.
            remember(&links.known).await;
        }
        let Some(said) = said else { continue };
        inbox.hear(said);
        while inbox.unheard() >= WAITING_MAX {
            sleep(FULL_PAUSE).await;
        }
    }
}

/// What is nothing that a member says is dropped, and said.
fn decode(member: u64, group: u64, bytes: Bytes, limits: &wire::Limits) -> Option<Said> {
    let said = Said::decode(group, bytes, limits);
    said.inspect_err(|error| tracing::warn!(member = format!("{member:x}"), "what a member sent is dropped: {error}"))
        .ok()
}

/// On disk when this returns, or the log says why not: then a process of another member that went back in time is refused
/// by those only that have heard the later one in this life.
pub(in crate::shard) async fn remember(known: &RefCell<Known>) {
    let file = known.borrow().encode();
    if let Err(error) = glommio::executor().spawn_blocking(move || known::save(&file)).await {
        tracing::error!(error = %error, "the processes of other members can't be remembered");
    }
}
