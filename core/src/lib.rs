//! The state machine and the server.
//!
//! What applies, reads, watches and leases builds without glommio; `shard`, `api` and `server` are the rim (feature
//! `glommio`).

#[cfg(feature = "glommio")]
pub mod api;
pub mod command;
pub mod compactor;
pub mod config;
pub mod entry;
pub mod error;
pub mod event;
mod eviction;
pub mod group;
pub mod identity;
pub mod image;
#[cfg(feature = "glommio")]
mod join;
pub mod lease;
#[cfg(feature = "glommio")]
pub mod mending;
pub mod metrics;
pub mod mvcc;
pub mod said;
#[cfg(feature = "glommio")]
pub mod server;
#[cfg(feature = "glommio")]
pub mod shard;
pub mod shared;
#[cfg(feature = "glommio")]
mod space;
pub mod state;
pub mod trees;
pub mod watch;
