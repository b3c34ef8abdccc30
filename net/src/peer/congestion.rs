//! How much may be on its way to another member: CUBIC's window (RFC 9438), and never less than [`WINDOW_MIN`].
//!
//! quinn-proto (0.11) sends no acknowledgement while its own congestion window is full and it has more to send, where RFC 9002,
//! section 7, says that acknowledgements are not held up by it. Two members that have more to say to each other than their windows
//! take then wait for each other's acknowledgements until a probe goes out. After a pause of one of them the windows are two
//! datagrams, and the time to a probe is some seconds: heartbeats and appends stood still for 15 s (simulator, seed 50829). With
//! room for what is said in such a moment they do not meet that.

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

/// Bytes: heartbeats, votes, acknowledgements of raft and some appends; on a link of 1 Gbit/s half a millisecond's.
const WINDOW_MIN: u64 = 64 << 10;

/// Makes the windows of connections.
#[derive(Debug, Default)]
pub(crate) struct Windows(Arc<CubicConfig>);

impl ControllerFactory for Windows {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Window(Cubic::new(Arc::clone(&self.0), now, current_mtu)))
    }
}

#[derive(Clone, Debug)]
struct Window(Cubic);

impl Controller for Window {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.0.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.0.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_packet_num_acked: Option<u64>) {
        self.0.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.0.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window().max(WINDOW_MIN)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.0.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window().max(WINDOW_MIN)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_was_lost_there_is_room_for_what_is_urgent() {
        let now = Instant::now();
        let mut window = Arc::new(Windows::default()).build(now, 1400);
        for _ in 0..10 {
            window.on_congestion_event(now, now, true, 1 << 20);
        }
        assert_eq!((window.window(), window.clone_box().window()), (WINDOW_MIN, WINDOW_MIN));
        assert_eq!(window.metrics().congestion_window, WINDOW_MIN);
    }
}
