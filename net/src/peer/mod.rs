//! Members among themselves: one QUIC connection a pair, and what goes over it. `docs/peers.md` draws the bytes.
//!
//! ```text
//! group's shard -> Peers::send_control/log -> queues of the member (bounded) -> streams of its live link -> network
//!                                                                                                   |
//! group's shard <- Peers::next_event <- inbox (two lanes, bounded) <- decoder (limits) <- streams <-+
//!
//! member: no link -> dialling (or being dialled) -> TLS -> hello each way -> link -> closed -> backoff -> dialling
//! ```
//!
//! What this layer knows of raft: nothing but bytes and their group, and that a heartbeat replaces an older one.
//!
//! Free of sockets and clocks: [`hello`] (who speaks), [`frame`] and [`chunk`] (bytes on streams), [`registry`] (which
//! connection of a member counts), [`queue`], [`pace`] (backoff, throttle), [`close`] (close codes), and with the feature
//! `quic` `congestion` and `settings`. With the feature `glommio`: the rest.

pub mod chunk;
pub mod close;
#[cfg(feature = "quic")]
mod congestion;
pub mod frame;
pub mod hello;
mod limits;
pub mod pace;
pub mod queue;
pub mod registry;
#[cfg(feature = "quic")]
pub mod settings;
mod tls_files;

#[cfg(feature = "glommio")]
mod accept;
#[cfg(feature = "glommio")]
mod address;
#[cfg(feature = "glommio")]
mod dial;
#[cfg(feature = "glommio")]
mod error;
#[cfg(feature = "glommio")]
mod inbox;
#[cfg(feature = "glommio")]
mod lifeline;
#[cfg(feature = "glommio")]
mod link;
#[cfg(feature = "glommio")]
mod member;
#[cfg(feature = "glommio")]
mod peers;
#[cfg(feature = "glommio")]
mod probe;
#[cfg(feature = "glommio")]
mod signal;
#[cfg(feature = "glommio")]
mod snapshot;
#[cfg(feature = "glommio")]
pub mod socket;
#[cfg(feature = "glommio")]
mod streams;
#[cfg(feature = "glommio")]
mod tcp;
#[cfg(feature = "glommio")]
pub mod tls;
#[cfg(feature = "glommio")]
mod tls_names;

pub use limits::PeerLimits;
pub use tls_files::TlsFiles;

#[cfg(feature = "glommio")]
pub use {
    address::PeerAddress,
    error::PeerError,
    inbox::PeerEvent,
    member::{LinkState, PeerStatus},
    peers::{MemberSpec, Membership, PeerConfig, Peers},
    probe::Finding,
    snapshot::{SnapshotOffer, SnapshotReceiver, SnapshotSource},
    tcp::PeerHttp,
};
