//! QUIC's settings of a connection between members. Free of sockets and clocks: simulated members have the same.

use super::congestion::Windows;
use super::limits::{DATAGRAM_BYTES_LIMIT, PeerLimits};
use quinn_proto::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig};
use std::sync::Arc;

/// Packets that may come before one is acknowledged by a datagram of its own; usually an answer that is on its way carries the
/// acknowledgement: an append, its commit, and what comes in between. More would stop a sender whose congestion window is small.
const UNACKNOWLEDGED_MAX: u32 = 3;

/// Both sides' settings, with these bounds.
#[must_use]
pub fn transport(limits: &PeerLimits) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(limits.datagram_bytes_max.min(DATAGRAM_BYTES_LIMIT));
    let idle = IdleTimeout::try_from(limits.idle_timeout).expect("less than 2^62 ms");
    let mut acknowledging = AckFrequencyConfig::default();
    acknowledging.ack_eliciting_threshold(UNACKNOWLEDGED_MAX.into());
    let mut config = TransportConfig::default();
    config
        .ack_frequency_config(Some(acknowledging))
        .congestion_controller_factory(Arc::new(Windows::default()))
        // The control stream, and one more so that a second one is an error of the protocol and not silence.
        .max_concurrent_bidi_streams(2u32.into())
        // The log stream and the snapshots.
        .max_concurrent_uni_streams((1 + limits.snapshot_streams_max as u32).into())
        .stream_receive_window(limits.stream_window_bytes.into())
        .receive_window(limits.connection_window_bytes.into())
        .send_window(limits.send_window_bytes)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(limits.keep_alive_interval))
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None);
    config
}
