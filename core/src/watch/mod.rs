//! Watches of one shard.
//!
//! ```text
//!   WatchRequest ──> hub::{create, cancel, progress} ─┐
//!   group's batches ──> deliver ──> index ────────────┼─> a stream's queue (bounded) ──> poll_output ──> frames
//!   log, when the writer asks for more ──> catch_up ──┘
//! ```
//!
//! A watcher is *live* (takes events as they are delivered), *behind* (a revision; it reads the log from there once its
//! stream's writer asks for more) or *dead* (its revision was compacted; its id stays taken until the client cancels it).
//! A queue that is full makes a watcher behind, nothing else: that is the whole of back-pressure. Nothing here waits,
//! reads a clock or does I/O.
//!
//! - [`hub`]: the state machine and its verbs
//! - [`history`]: what it needs of the store
//! - `deliver`, `catch_up`, `progress`: the three sources of answers
//! - `index`: which watchers does a key concern?
//! - `encode`: responses as gRPC frames, events encoded once
//! - `stream`, `watcher`: the parts

mod catch_up;
mod deliver;
mod encode;
pub mod history;
pub mod hub;
mod index;
mod log_history;
mod progress;
mod recent;
mod stream;
mod watcher;

pub use encode::{MemberIdentity, Output};
pub use history::History;
pub use hub::{Hub, HubLimits, HubStats, StreamId};
pub use log_history::LogHistory;

#[cfg(test)]
mod tests;
