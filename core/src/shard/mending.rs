//! Fetches the state of another member, for one that has no group: its own state, or its log, is lost (mending.rs).
//!
//! ```text
//!  asks one member after the other ──> not it: behind, no leader, mending itself ──> the next one, after a while
//!                                  ──> a snapshot of the id that was asked for  ──> a page file beside the old one
//! ```
//!
//! Nothing of raft is heard or said here: to the others this member is switched off.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use glommio::timer::sleep;
use ringstone_net::peer::close::CloseCode;
use ringstone_net::peer::{PeerError, PeerEvent, Peers, SnapshotReceiver};

use super::remembered::Remembered;
use super::{images, peers, random_bytes};
use crate::command::Member;
use crate::entry::KIND_BASE;
use crate::group::{GroupError, LogNeed};
use crate::identity::incarnation;
use crate::identity::known::Known;
use crate::said::{self, MendRefusal, MendRequest, Said};
use crate::shared::Shared;

/// Between two requests at least.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
/// A member that has not answered is not waited for any longer: the next one is asked.
const ASK_PATIENCE: Duration = Duration::from_secs(3);
/// How often the log says what is waited for.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// Where the state that has come stands in the log. It is on disk, in a file that no start looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The last entry that it has applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What the two tasks share.
struct Fetching {
    peers: Peers,
    need: LogNeed,
    /// The members that are connected, and what each said last.
    connected: RefCell<BTreeMap<u64, Option<MendRefusal>>>,
    /// Of all requests of this process.
    id: [u8; 16],
    /// Somebody was asked, and has not answered: for how much longer it is waited for.
    waits: Cell<Duration>,
    is_taking: Cell<bool>,
    others: Vec<u64>,
}

/// Fetches the state. Called inside an executor; goes on until one has come.
///
/// # Errors
/// [`GroupError`]: this member has no place in the cluster, another process runs as it, or the port can't be used.
pub async fn fetch(shared: &Shared, members: Vec<Member>, need: LogNeed) -> Result<Fetched, GroupError> {
    images::clean(&shared.config.data_dir, false);
    let count = incarnation::count_start(&shared.config.data_dir)?;
    let known = Known::load(&shared.config.data_dir)?;
    let peers = peers::transport(shared, count, &members, &known, KIND_BASE, None).await?;
    let remembered = Remembered::new(shared.identity.member_id, known);
    let limits = said::limits(shared.config.max_request_bytes);
    let others = members.iter().map(|member| member.id).filter(|id| *id != shared.identity.member_id).collect();
    let fetching = Rc::new(Fetching {
        peers,
        need,
        connected: RefCell::default(),
        id: random_bytes(),
        waits: Cell::default(),
        is_taking: Cell::new(false),
        others,
    });
    glommio::spawn_local(ask(Rc::clone(&fetching))).detach();
    while let Some(event) = fetching.peers.next_event().await {
        match event {
            PeerEvent::Connected { member, incarnation, process, .. } => {
                remembered.heard(member, incarnation, process);
                remembered.settle().await;
                fetching.connected.borrow_mut().insert(member, None);
            }
            PeerEvent::Disconnected { member, .. } => {
                fetching.connected.borrow_mut().remove(&member);
                fetching.waits.set(Duration::ZERO);
            }
            PeerEvent::Control { member, group, bytes } => match Said::decode(group, bytes, &limits) {
                Ok(Said::MendRefused(refusal)) => {
                    if let Some(said) = fetching.connected.borrow_mut().get_mut(&member) {
                        *said = Some(refusal);
                    }
                    fetching.waits.set(Duration::ZERO);
                }
                Ok(Said::Mend(_)) => fetching.tell(member, &Said::MendRefused(MendRefusal::Mending)),
                // What it was promised it has not lost.
                Ok(Said::Standing(standing)) => fetching.tell(member, &remembered.judge(member, &standing)),
                // Raft's: this member is not here.
                _ => {}
            },
            PeerEvent::Snapshot { member, stream } => {
                if let Some(fetched) = take(shared, &fetching, member, stream).await {
                    fetching.peers.shutdown().await;
                    return Ok(fetched);
                }
            }
            PeerEvent::Refused { code: CloseCode::RemovedMember, text, .. } => {
                return Err(GroupError::Removed { by: text });
            }
            PeerEvent::Refused { code: CloseCode::Incarnation, text, .. } => return Err(GroupError::Refused { text }),
            _ => {}
        }
    }
    Err(PeerError::ShutDown.into())
}

/// Only what was asked for: an image that raft sends by itself is not of a leader that has proved itself.
async fn take(shared: &Shared, fetching: &Fetching, member: u64, stream: SnapshotReceiver) -> Option<Fetched> {
    if fetching.id != stream.offer().id {
        return None;
    }
    fetching.is_taking.set(true);
    let taken = images::take(shared, stream).await;
    fetching.is_taking.set(false);
    match taken {
        Ok((index, term)) if fits(fetching.need, index) => {
            tracing::info!(from = format!("{member:x}"), index, term, "the state of another member has come");
            Some(Fetched { index, term })
        }
        Ok((index, _)) => {
            tracing::warn!(from = format!("{member:x}"), index, "a state has come that the log can't go on behind");
            None
        }
        Err(error) => {
            tracing::warn!(from = format!("{member:x}"), error = %error, "the state of another member was not taken");
            None
        }
    }
}

fn fits(need: LogNeed, index: u64) -> bool {
    match need {
        LogNeed::From(from) => index >= from,
        LogNeed::Confirmed => true,
    }
}

/// Asks one after the other; says now and then how it stands.
async fn ask(fetching: Rc<Fetching>) {
    let (mut turn, mut silent) = (0usize, Duration::ZERO);
    loop {
        sleep(ASK_INTERVAL).await;
        if fetching.is_taking.get() {
            silent = Duration::ZERO;
            continue;
        }
        silent += ASK_INTERVAL;
        if silent >= SAY_INTERVAL {
            silent = Duration::ZERO;
            fetching.say();
        }
        let waits = fetching.waits.get();
        if !waits.is_zero() {
            fetching.waits.set(waits.saturating_sub(ASK_INTERVAL));
            continue;
        }
        let ids: Vec<u64> = fetching.connected.borrow().keys().copied().collect();
        let Some(id) = ids.get(turn % ids.len().max(1)) else { continue };
        turn += 1;
        let request = MendRequest { id: fetching.id, need: fetching.need };
        fetching.waits.set(ASK_PATIENCE);
        fetching.tell(*id, &Said::Mend(request));
    }
}

impl Fetching {
    /// Lost, it is asked for again, or said to the next one.
    fn tell(&self, member: u64, said: &Said) {
        let (group, bytes) = said.encode(&mut BytesMut::new());
        let _ = self.peers.send_control(member, group, bytes);
    }

    fn say(&self) {
        let connected = self.connected.borrow();
        let of = |id: &u64| match connected.get(id) {
            None => format!("member {id:x} is not reached"),
            Some(None) => format!("member {id:x} has not answered yet"),
            Some(Some(refusal)) => format!("member {id:x}: {refusal}"),
        };
        let said = self.others.iter().map(of).collect::<Vec<_>>().join("; ");
        let has_none = |id: &u64| matches!(connected.get(id), Some(Some(MendRefusal::Mending)));
        if !self.others.is_empty() && self.others.iter().all(has_none) {
            tracing::error!(
                said,
                "no member has its state any more: the cluster stands still, and nothing is made up. Restore it from a snapshot \
                 (snapshot restore), or bring back the disk of one that is named here"
            );
        } else {
            tracing::warn!(said, "waiting for the state of another member");
        }
    }
}
