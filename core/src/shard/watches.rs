//! Drives the shard's watch hub: wakes the writers that have something to send, reads the log for watchers behind.

use std::rc::Rc;
use std::time::Duration;

use glommio::timer::sleep;

use super::notify::Notify;
use super::{Shard, boottime};
use crate::error::{Error, ReadFault};
use crate::watch::{LogHistory, StreamId};

/// Events that one look into the log visits before other tasks get their turn.
const CATCH_UP_EVENTS: usize = 512;
/// How often idle watches are looked at for progress.
const TICK: Duration = Duration::from_millis(100);

/// Who waits for a stream.
#[derive(Default)]
pub(super) struct StreamWaits {
    output: Rc<Notify>,
    requests: Rc<Notify>,
}

impl Shard {
    /// Ends a stream with its watches.
    pub fn close_watch_stream(&self, stream: StreamId) {
        self.hub.borrow_mut().close_stream(stream);
        self.stream_waits.borrow_mut().remove(&stream);
    }

    /// Returns when the hub may have answers for a stream's writer.
    pub async fn watch_output_ready(&self, stream: StreamId) {
        let notify = Rc::clone(&self.stream_waits.borrow_mut().entry(stream).or_default().output);
        notify.wait().await;
    }

    /// Returns when the hub takes more requests of a stream.
    pub async fn watch_requests_wanted(&self, stream: StreamId) {
        while !self.hub.borrow().wants_requests(stream) {
            let notify = Rc::clone(&self.stream_waits.borrow_mut().entry(stream).or_default().requests);
            notify.wait().await;
        }
    }

    /// To be called after anything was asked of the hub or given to it.
    pub fn hub_moved(&self) {
        let ready = self.hub.borrow_mut().take_ready();
        if !ready.is_empty() {
            let mut waits = self.stream_waits.borrow_mut();
            for stream in ready {
                waits.entry(stream).or_default().output.notify();
            }
        }
        if self.hub.borrow().needs_catch_up() {
            self.hub_hungry.notify();
        }
    }

    /// A stream's answers were taken: it may have room for requests again.
    pub fn watch_output_taken(&self, stream: StreamId) {
        if let Some(waits) = self.stream_waits.borrow().get(&stream) {
            waits.requests.notify();
        }
        self.hub_moved();
    }

    /// Starts the tasks of the shard's watches.
    pub(super) fn drive_watches(self: Rc<Self>) {
        let ticking = Rc::clone(&self);
        glommio::spawn_local(async move {
            loop {
                sleep(TICK).await;
                let now_ms = u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX);
                let mut hub = ticking.hub.borrow_mut();
                hub.set_identity(super::run::identity(&ticking.shared));
                hub.tick(now_ms);
                drop(hub);
                ticking.hub_moved();
            }
        })
        .detach();
        glommio::spawn_local(async move {
            loop {
                self.hub_hungry.wait().await;
                self.catch_up().await;
            }
        })
        .detach();
    }

    async fn catch_up(&self) {
        while self.hub.borrow().needs_catch_up() {
            let result = self
                .read(|pin, window| {
                    let history = LogHistory::new(pin, window);
                    let result = self.hub.borrow_mut().catch_up(&history, CATCH_UP_EVENTS);
                    result.map(Some).map_err(ReadFault::from)
                })
                .await;
            match result {
                Ok(()) => {}
                // Who waits for these events must not wait for ever; nobody else needs them.
                Err(Error::Damaged(damage)) => {
                    let reason = Error::Damaged(damage).to_string();
                    self.hub.borrow_mut().give_up_window(&reason);
                }
                Err(error) => {
                    tracing::error!(error = %error, "watchers can't read the log");
                    sleep(TICK).await;
                }
            }
            self.hub_moved();
            glommio::yield_if_needed().await;
        }
    }
}
