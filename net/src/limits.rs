use std::time::Duration;

/// Every bound of a connection. `Default` holds etcd's values where etcd has one.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest request message in bytes. etcd: `--max-request-bytes` (1.5 MiB) + 512 KiB.
    pub message_bytes_max: usize,
    /// Streams that a client may have open on one connection. etcd: 2^32-1; ours is a bound.
    pub streams_max: u32,
    /// Bytes of all headers of a request, names, values and 32 a field. grpc-go: 16 MiB; ours is a bound.
    pub header_list_bytes_max: u32,
    /// Window of one stream: bytes that a client may send ahead of its handler. grpc-go: 64 KiB.
    pub stream_window_bytes: u32,
    /// Window of all streams together.
    pub connection_window_bytes: u32,
    /// Answers of one stream that are handed to HTTP/2 and not yet written. h2's default is 400 KiB.
    pub stream_send_bytes_max: usize,
    /// Answers that a [`crate::ResponseSink`] holds before `send` waits; one message more may be held.
    pub sink_bytes_max: usize,
    /// Answers that one connection holds because its client doesn't read; above it, new calls are refused.
    pub connection_outgoing_bytes_max: usize,
    /// Bytes of incomplete requests on one connection; above it, calls that add to them are refused.
    pub connection_incoming_bytes_max: usize,
    /// Calls that a client may reset within a second of their start, more than it lets complete. Beyond it the
    /// connection ends with ENHANCE_YOUR_CALM.
    pub rapid_resets_max: u32,
    /// Streams that may be opened and reset before the server has looked at them. h2's default is 20.
    pub pending_reset_streams_max: usize,
    /// Streams that the server resets for their own faults before it ends the connection. h2's default is 1024.
    pub local_error_resets_max: usize,
    /// From accepting the socket to the whole preface of HTTP/2, or to the head of the first HTTP/1.1 request.
    /// grpc-go: 120 s.
    pub handshake_timeout: Duration,
    /// Shortest time between pings of a client. etcd: `--grpc-keepalive-min-time`, 5 s.
    pub keepalive_min_time: Duration,
    /// Silence after which the server pings. etcd: `--grpc-keepalive-interval`, 2 h.
    pub keepalive_interval: Duration,
    /// Silence after such a ping that ends the connection. etcd: `--grpc-keepalive-timeout`, 20 s.
    pub keepalive_timeout: Duration,
    /// How long calls may go on after a shutdown was asked for. etcd: the request timeout, 7 s.
    pub shutdown_grace: Duration,
    /// Bytes of the head of an HTTP/1.1 request. Go: 1 MiB; ours is a bound.
    pub http1_head_bytes_max: usize,
    /// Bytes of the body of an HTTP/1.1 request.
    pub http1_body_bytes_max: usize,
    /// Silence within or between HTTP/1.1 requests. etcd: 5 min for the head.
    pub http1_timeout: Duration,
}

/// Go's time between pings while a client has no streams (`defaultPingTimeout`).
pub(crate) const IDLE_PING_MIN_TIME: Duration = Duration::from_secs(2 * 60 * 60);
/// Pings before their time that Go forgives (`maxPingStrikes`).
pub(crate) const PING_STRIKES_MAX: u32 = 2;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 1_572_864 + 524_288,
            streams_max: 16_384,
            header_list_bytes_max: 64 << 10,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 4 << 20,
            stream_send_bytes_max: 256 << 10,
            sink_bytes_max: 64 << 10,
            connection_outgoing_bytes_max: 256 << 20,
            connection_incoming_bytes_max: 64 << 20,
            rapid_resets_max: 1000,
            pending_reset_streams_max: 100,
            local_error_resets_max: 1024,
            handshake_timeout: Duration::from_secs(20),
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(7),
            http1_head_bytes_max: 64 << 10,
            http1_body_bytes_max: 1_572_864 + 524_288,
            http1_timeout: Duration::from_secs(5 * 60),
        }
    }
}
