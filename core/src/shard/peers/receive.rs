//! What members say, on its way to the group. Peers are not trusted: what does not decode is dropped here.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use glommio::timer::sleep;
use ringstone_net::peer::PeerEvent;
use ringstone_net::peer::close::CloseCode;
use ringstone_raft::{NodeId, wire};

use super::Links;
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
    /// A member has connected.
    Connected(NodeId),
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
                    Some(Said::Standing(standing)) => {
                        links.say(NodeId(member), &links.remembered.judge(member, &standing));
                        None
                    }
                    Some(Said::Raft(message)) => {
                        let counts = links.remembered.note(member, &message);
                        counts.then(|| FromPeer::Said(NodeId(member), Said::Raft(message)))
                    }
                    said => said.map(|said| FromPeer::Said(NodeId(member), said)),
                }
            }
            PeerEvent::Disconnected { member, .. } => {
                links.remembered.lost();
                Some(FromPeer::Lost(NodeId(member)))
            }
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
                links.remembered.heard(member, incarnation, process);
                links.say(NodeId(member), &Said::Standing(links.standing));
                Some(FromPeer::Connected(NodeId(member)))
            }
            // The transport has said it in the log.
            PeerEvent::Finding { .. } => None,
        };
        // Before any frame of a process that has just connected is looked at, and before a vote counts.
        links.remembered.settle().await;
        links.remembered.write_now_and_then();
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
