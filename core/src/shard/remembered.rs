//! What this member remembers of the others (identity/known.rs), and what of it is on disk when.
//!
//! ```text
//! a process has connected          on disk before any frame of it is looked at
//! a vote, or a promise in a term    on disk before it counts: once a term and member
//! entries acknowledged in a term    each ten seconds, when their member is lost, and at a clean stop
//! ```
//!
//! So a restart here forgets ten seconds of acknowledged indexes at most, and no vote (docs/decisions/0012-mending.md).

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::time::Duration;

use glommio::sync::Semaphore;
use ringstone_raft::{Body, Message, NodeId};

use super::boottime;
use crate::command::Member;
use crate::identity::known::{self, Known};
use crate::identity::promises::{Promise, Promised, Standing};
use crate::said::Said;

/// How often indexes that have grown are written.
const INDEXES_INTERVAL: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Remembered {
    own_id: u64,
    known: RefCell<Known>,
    /// One writer at a time.
    writing: Semaphore,
    /// Something has to be on disk before anything else happens.
    is_news: Cell<bool>,
    /// An index has grown since the last write.
    has_grown: Cell<bool>,
    written_at: Cell<Duration>,
}

impl Remembered {
    pub(super) fn new(own_id: u64, known: Known) -> Rc<Remembered> {
        Rc::new(Remembered {
            own_id,
            known: RefCell::new(known),
            writing: Semaphore::new(1),
            is_news: Cell::new(false),
            has_grown: Cell::new(false),
            written_at: Cell::new(boottime()),
        })
    }

    pub(super) fn known(&self) -> Ref<'_, Known> {
        self.known.borrow()
    }

    /// Who the members are now; `are_all`: nobody else is.
    pub(super) fn follow(&self, members: &[Member], are_all: bool) {
        let is_news = self.known.borrow_mut().follow(self.own_id, members, are_all);
        self.is_news.set(self.is_news.get() || is_news);
    }

    /// A process of a member has connected.
    pub(super) fn heard(&self, member: u64, incarnation: u64, process: u64) {
        let is_news = self.known.borrow_mut().heard(member, incarnation, process);
        self.is_news.set(self.is_news.get() || is_news);
    }

    /// Takes in what a message of raft promises. False: its process has forgotten promises, and it counts for nothing.
    pub(super) fn note(&self, member: u64, message: &Message) -> bool {
        let mut known = self.known.borrow_mut();
        if let Some(promise) = promise_of(message, member, self.own_id) {
            let is_news = known.promised(member, promise);
            self.is_news.set(self.is_news.get() || is_news);
            self.has_grown.set(true);
        }
        !known.went_back(member)
    }

    /// The connection to a member was lost: what it has acknowledged is kept.
    pub(super) fn lost(&self) {
        self.is_news.set(self.is_news.get() || self.has_grown.get());
    }

    /// What a process is told that has said what its disk held.
    pub(super) fn judge(&self, member: u64, standing: &Standing) -> Said {
        let Some(promised) = self.known.borrow_mut().judge(member, standing) else { return Said::Stands };
        let Promised { mends, term, vote, index, .. } = promised;
        let promised = Standing { mends, term, vote, index };
        tracing::error!(
            member = format!("{member:x}"),
            promised = %promised,
            holds = %standing,
            "a member runs on an older copy of its data folder: it has promised what that does not hold, and is refused. Remove \
             it (member remove), empty its folder and add it anew (member add)"
        );
        Said::WentBack(promised)
    }

    /// On disk when this returns: what has to be there before anything else happens; or the log says why not.
    pub(super) async fn settle(&self) {
        if self.is_news.take() {
            self.write().await;
        }
    }

    /// Has indexes written now and then, beside whatever else happens.
    pub(super) fn write_now_and_then(self: &Rc<Self>) {
        if self.has_grown.get() && boottime().saturating_sub(self.written_at.get()) >= INDEXES_INTERVAL {
            self.written_at.set(boottime());
            let remembered = Rc::clone(self);
            glommio::spawn_local(async move { remembered.write().await }).detach();
        }
    }

    /// On disk when this returns: all of it; or the log says why not. Then a process of another member that went back in
    /// time is refused by those only that have heard the later one in this life.
    pub(super) async fn write(&self) {
        let _permit = self.writing.acquire_permit(1).await;
        self.has_grown.set(false);
        self.written_at.set(boottime());
        let file = self.known.borrow().encode();
        if let Err(error) = glommio::executor().spawn_blocking(move || known::save(&file)).await {
            tracing::error!(error = %error, "the processes of other members can't be remembered");
        }
    }
}

/// Only what its sender has on disk: raft sends it once that is synced.
fn promise_of(message: &Message, from: u64, own: u64) -> Option<Promise> {
    let (vote, index) = match message.body {
        Body::VoteRequest { .. } => (Some(from), 0),
        Body::VoteResponse { granted: true } => (Some(own), 0),
        Body::AppendAccepted { matched } => (None, matched.0),
        _ => return None,
    };
    Some(Promise { term: message.term.0, vote, index })
}

/// What a process is told whose folder lacks what it has promised.
pub(super) fn went_back(by: NodeId, promised: &Standing, holds: &Standing) -> String {
    format!(
        "member {:x} was promised {promised} by this member, whose data folder began with {holds}: it was put back from a copy \
         that was made while the member ran, and what it has voted and acknowledged since is forgotten. It must not run as this \
         member again: remove it from the cluster (member remove), empty its folder and add it anew (member add)",
        by.0
    )
}
