use std::time::Duration;

/// Every bound between members. `Default` holds the values of docs/peers.md.
#[derive(Clone, Debug)]
pub struct PeerLimits {
    /// Longest payload of a frame on the control stream. Heartbeats and votes are tens of bytes.
    pub control_frame_bytes_max: u32,
    /// Longest payload of a frame on the log stream: a request of 2 MiB four times.
    pub log_frame_bytes_max: u32,
    /// Frames that wait for a member's control stream. Beyond it the oldest superseded one is dropped.
    pub control_queue_frames_max: usize,
    /// Their bytes.
    pub control_queue_bytes_max: usize,
    /// Frames that wait for a member's log stream. Beyond it the caller is told.
    pub log_queue_frames_max: usize,
    /// Their bytes; at least one frame fits.
    pub log_queue_bytes_max: usize,
    /// Events of control streams that wait for the group, of all members.
    pub inbox_control_events_max: usize,
    /// Frames of log streams that wait for the group, of all members.
    pub inbox_log_frames_max: usize,
    /// Their bytes; at least one frame fits.
    pub inbox_log_bytes_max: usize,
    /// Bytes of a snapshot that are sent and not yet taken by its receiver. It keeps room in `send_window_bytes` for
    /// the other streams, and a ping short: 256 KiB cost a tenth of the throughput of 1 MiB on loopback, and a quarter of
    /// its ping under load (measured in the prototype).
    pub snapshot_credit_bytes: u64,
    /// Snapshots that one member may be sending to us at a time; more are refused.
    pub snapshot_streams_max: usize,
    /// Bytes a second of all snapshots that are sent, 0: as many as go.
    pub snapshot_bytes_per_second_max: u64,
    /// From the offer of a snapshot to its receiver's first grant.
    pub snapshot_accept_timeout: Duration,
    /// From the first packet to the checked hello, of both sides.
    pub handshake_timeout: Duration,
    /// Handshakes that others have begun with us, at a time; more are dropped unanswered and come again.
    pub handshakes_max: usize,
    /// From so many on, an address must prove itself by a token first.
    pub handshakes_before_retry: usize,
    /// Silence that ends a connection. Longer than the worst stall of an executor, which counts as silence too.
    pub idle_timeout: Duration,
    /// Silence after which a ping is sent.
    pub keep_alive_interval: Duration,
    /// Shortest wait between two dials of a member.
    pub backoff_min: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// Bytes that a stream's sender may be ahead of its reader.
    pub stream_window_bytes: u32,
    /// The same for all streams of a connection.
    pub connection_window_bytes: u32,
    /// Bytes sent and not acknowledged on a connection. More than a stream's window and a snapshot's credit together:
    /// the control stream always has room.
    pub send_window_bytes: u64,
    /// Longest datagram that path discovery tries. GSO sends ten in one call, which must stay below 64 KiB.
    pub datagram_bytes_max: u16,
    /// Wish for the socket's buffers; the kernel gives what `net.core.rmem_max` lets it.
    pub socket_buffer_bytes: usize,
    /// How long a bind is tried again: a port stays bound for 5 to 11 ms after a glommio process has ended.
    pub bind_timeout: Duration,
    /// Dials in a row that run out of time before TCP is tried beside them.
    pub timeouts_before_probe: u32,
    /// How long TCP is waited for then.
    pub probe_timeout: Duration,
    /// TCP connections to the peer port that are served at a time.
    pub tcp_connections_max: usize,
}

/// Ten segments of a GSO batch must fit into one IP packet's 64 KiB.
pub(crate) const DATAGRAM_BYTES_LIMIT: u16 = 6500;
const _: () = assert!(DATAGRAM_BYTES_LIMIT as usize * 10 < (64 << 10) - 48);

impl Default for PeerLimits {
    fn default() -> Self {
        PeerLimits {
            control_frame_bytes_max: 64 << 10,
            log_frame_bytes_max: 8 << 20,
            control_queue_frames_max: 1024,
            control_queue_bytes_max: 1 << 20,
            log_queue_frames_max: 1024,
            log_queue_bytes_max: 32 << 20,
            inbox_control_events_max: 4096,
            inbox_log_frames_max: 4096,
            inbox_log_bytes_max: 64 << 20,
            snapshot_credit_bytes: 384 << 10,
            snapshot_streams_max: 2,
            snapshot_bytes_per_second_max: 0,
            snapshot_accept_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 64,
            handshakes_before_retry: 16,
            idle_timeout: Duration::from_secs(15),
            keep_alive_interval: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(3),
            stream_window_bytes: 384 << 10,
            connection_window_bytes: 8 << 20,
            send_window_bytes: 8 << 20,
            datagram_bytes_max: 6500,
            socket_buffer_bytes: 4 << 20,
            bind_timeout: Duration::from_secs(1),
            timeouts_before_probe: 2,
            probe_timeout: Duration::from_secs(2),
            tcp_connections_max: 64,
        }
    }
}
