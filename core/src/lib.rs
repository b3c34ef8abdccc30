//! The state machine and the server.

pub mod command;
pub mod config;
pub mod entry;
pub mod event;
pub mod identity;
pub mod lease;
pub mod metrics;
pub mod shared;
pub mod trees;
pub mod watch;
