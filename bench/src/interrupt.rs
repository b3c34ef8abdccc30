//! Ctrl-C and SIGTERM: whoever waits for something waits for this too.

use std::cell::Cell;
use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Set once, by a signal; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Rc<State>);

#[derive(Default)]
struct State {
    set: Cell<bool>,
    changed: Notify,
}

impl Interrupt {
    /// Listens for signals from now on, on the current `LocalSet`.
    pub fn install() -> Interrupt {
        let interrupt = Interrupt::default();
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            // Without signals the run still ends at its time.
            let Ok(mut signals) = signal(kind) else { continue };
            let state = Rc::clone(&interrupt.0);
            tokio::task::spawn_local(async move {
                signals.recv().await;
                state.set.set(true);
                state.changed.notify_waiters();
            });
        }
        interrupt
    }

    pub fn is_set(&self) -> bool {
        self.0.set.get()
    }

    pub async fn wait(&self) {
        while !self.is_set() {
            self.0.changed.notified().await;
        }
    }
}
