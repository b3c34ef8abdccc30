//! What other tasks of the executor hand to the group's.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use ahash::AHashSet;
use ringstone_pager::api::{Damage, PageRun};
use ringstone_pager::disk as pages;

use crate::shard::link::ToGroup;
use crate::shard::notify::Notify;
use crate::shard::peers::FromPeer;

/// See the module.
#[derive(Default)]
pub struct Inbox {
    waiting: RefCell<ToGroup>,
    pub(in crate::shard) wake: Notify,
    pub(super) page_completions: RefCell<VecDeque<pages::Completion>>,
    pub(super) brought_in: RefCell<VecDeque<(PageRun, Result<(), Damage>)>>,
    /// First pages of the runs that are being read.
    pub(super) bringing_in: RefCell<AHashSet<u64>>,
    pub(super) tick_due: Cell<bool>,
    /// The ballot that was written last, or why it could not be.
    pub(super) ballot_written: RefCell<Option<(u64, std::io::Result<()>)>>,
    /// What other members said.
    pub(super) heard: RefCell<VecDeque<FromPeer>>,
}

impl Inbox {
    /// Takes what another member said.
    pub(in crate::shard) fn hear(&self, said: FromPeer) {
        self.heard.borrow_mut().push_back(said);
        self.wake.notify();
    }

    /// How much of it waits.
    pub(in crate::shard) fn unheard(&self) -> usize {
        self.heard.borrow().len()
    }

    /// Requests from a shard.
    pub fn push(&self, batch: ToGroup) {
        self.waiting.borrow_mut().append(batch);
        self.wake.notify();
    }

    /// What waits, that of the group's own shard included; where memory is short, proposals wait on.
    pub(super) fn take(&self, own: ToGroup, pressed: bool) -> ToGroup {
        self.waiting.borrow_mut().append(own);
        if !pressed {
            return self.waiting.take();
        }
        let mut waiting = self.waiting.borrow_mut();
        let proposals = std::mem::take(&mut waiting.proposals);
        let rest = std::mem::replace(&mut *waiting, ToGroup { proposals, ..ToGroup::default() });
        ToGroup { proposals: Vec::new(), ..rest }
    }
}
