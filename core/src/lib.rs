//! The state machine and the server.

pub mod command;
pub mod config;
pub mod entry;
pub mod error;
pub mod event;
pub mod identity;
pub mod image;
pub mod lease;
pub mod metrics;
pub mod mvcc;
pub mod shared;
pub mod state;
pub mod trees;
pub mod watch;
