//! Whose turn is it when many have more to do than one turn takes?
//!
//! A connection that used up its turn, in frames, bytes or time, rests here until it is its turn again. One of them goes on each time that all other tasks of the
//! shard have run once: what a thousand greedy connections take from a modest one is one turn, not a thousand.

use crate::runtime::Runtime;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub(super) struct Pace {
    waiting: RefCell<VecDeque<(Rc<Cell<bool>>, Waker)>>,
    is_driven: Cell<bool>,
}

impl Pace {
    /// Sets `turn` and wakes `waker` when it is its turn.
    pub(super) fn wait(self: &Rc<Self>, runtime: &impl Runtime, turn: Rc<Cell<bool>>, waker: &Waker) {
        self.waiting.borrow_mut().push_back((turn, waker.clone()));
        if !self.is_driven.replace(true) {
            let pace = self.clone();
            runtime.spawn(Box::pin(poll_fn(move |cx| pace.next(cx))));
        }
    }

    /// Returns when all others had their turn.
    pub(super) async fn rest(self: &Rc<Self>, runtime: &impl Runtime) {
        let turn = Rc::new(Cell::new(false));
        let mut waits = false;
        poll_fn(|cx| {
            if turn.get() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut waits, true) {
                self.wait(runtime, turn.clone(), cx.waker());
            }
            Poll::Pending
        })
        .await;
    }

    fn next(&self, cx: &Context<'_>) -> Poll<()> {
        let next = self.waiting.borrow_mut().pop_front();
        match next {
            Some((turn, waker)) => {
                turn.set(true);
                waker.wake();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.is_driven.set(false);
                Poll::Ready(())
            }
        }
    }
}
