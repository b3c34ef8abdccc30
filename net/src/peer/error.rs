use super::close::CloseCode;
use super::frame::WireError;
use super::hello::Refusal;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What goes wrong between members.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The address for peers can't be bound.
    #[error("can't listen for peers on UDP {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A system call on the socket failed.
    #[error("UDP socket: {0}")]
    Socket(io::Error),
    /// This kernel can't do what the transport rests on.
    #[error(
        "io_uring on this kernel is not fit for QUIC: peeking at a UDP socket {what}; use a newer kernel (6.1 or later)"
    )]
    PeekSelfTest {
        /// What it does.
        what: &'static str,
    },
    /// A certificate, key or authority can't be read.
    #[error("{flag} {file}: {error}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        error: rustls::pki_types::pem::Error,
    },
    /// A file without what it is for.
    #[error("{flag} {file} holds no certificate")]
    NoCertificate {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        file: PathBuf,
    },
    /// Flags that only work together.
    #[error("{given} is given without {missing}")]
    Flags {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// Two flags of which one can be given.
    #[error(
        "--peer-cert-allowed-cn and --peer-cert-allowed-hostname are given: a certificate is held against one of them"
    )]
    Names,
    /// Not the name of a host.
    #[error("--peer-cert-allowed-hostname: {0:?} is neither the name of a host nor an address")]
    Host(String),
    /// Certificates that TLS doesn't take.
    #[error("TLS for peers: {0}")]
    Tls(#[from] rustls::Error),
    /// No certificate could be made.
    #[error("can't make a certificate for peers: {0}")]
    Generate(#[from] rcgen::Error),
    /// Authorities that TLS doesn't take.
    #[error("--peer-trusted-ca-file: {0}")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
    /// A peer URL that is none.
    #[error("peer URL {0:?}: expected http://, https:// or quic://, a host and a port")]
    Url(String),
    /// The name in a peer URL has no address.
    #[error("no address for {host}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        error: io::Error,
    },
    /// No dial could be begun.
    #[error("dial {address}: {error}")]
    Dial {
        /// Whereto.
        address: SocketAddr,
        /// Why.
        error: quinn::ConnectError,
    },
    /// No handshake or hello in time.
    #[error("no answer to a QUIC handshake within {seconds} s from UDP {address}")]
    HandshakeTimeout {
        /// The other side.
        address: SocketAddr,
        /// The limit.
        seconds: u64,
    },
    /// One of the two sides doesn't take the other one's certificate.
    #[error("TLS with UDP {address}: {meaning} ({error})")]
    Certificate {
        /// The other side.
        address: SocketAddr,
        /// The alert in words.
        meaning: &'static str,
        /// Which side refused, and why.
        error: quinn::ConnectionError,
    },
    /// The connection broke.
    #[error("connection: {0}")]
    Connection(quinn::ConnectionError),
    /// We refused the other side.
    #[error("{0}")]
    Refused(Refusal),
    /// The other side refused or closed, and said why.
    #[error("closed by the other side: {text}")]
    RefusedByPeer {
        /// None: a code that this version doesn't know.
        code: Option<CloseCode>,
        /// Its text.
        text: String,
    },
    /// Its port refuses TCP and took it before.
    #[error("the member's process has ended: {0} refuses TCP and took it a moment ago")]
    Ended(SocketAddr),
    /// We closed it for this reason.
    #[error("closed: {0:?}")]
    Closed(CloseCode),
    /// Bytes that are none of the protocol's.
    #[error("protocol error: {0}")]
    Wire(#[from] WireError),
    /// Another connection of the pair stays.
    #[error("another connection of this member is in use")]
    Tie,
    /// Not in the list of members.
    #[error("member {0:x} is not a known peer")]
    UnknownMember(u64),
    /// No connection at the moment; it is being dialled.
    #[error("member {0:x} is not connected")]
    NotConnected(u64),
    /// The log queue is full; nothing was taken.
    #[error("the log queue of member {0:x} is full")]
    Busy(u64),
    /// Longer than a frame may be.
    #[error("a message of {bytes} bytes, a frame holds {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: u32,
    },
    /// The two sides differ in what their snapshots use.
    #[error(
        "member {0:x} and this one can't exchange snapshots: one of them uses a feature that the other doesn't know; upgrade it"
    )]
    SnapshotsDiffer(u64),
    /// The receiver doesn't want the snapshot.
    #[error("the receiver of the snapshot gave it up")]
    SnapshotRefused,
    /// The receiver said neither yes nor no.
    #[error("the receiver of the snapshot did not answer within {0} s")]
    SnapshotUnanswered(u64),
    /// The sender gave the snapshot up.
    #[error("the sender of the snapshot gave it up")]
    SnapshotAborted,
    /// An offset that the sender doesn't have.
    #[error("a snapshot asked for from byte {found}, it can be had from {lowest} on")]
    SnapshotOffset {
        /// What was asked for.
        found: u64,
        /// What there is.
        lowest: u64,
    },
    /// The snapshot's own source failed.
    #[error("reading the snapshot: {0}")]
    SnapshotSource(io::Error),
    /// This side is being shut down.
    #[error("the peer transport is shut down")]
    ShutDown,
}

impl PeerError {
    /// The connection has ended, or there is none: what it was about can be tried again by the next one.
    #[must_use]
    pub fn is_of_connection(&self) -> bool {
        matches!(
            self,
            PeerError::NotConnected(_)
                | PeerError::Connection(_)
                | PeerError::RefusedByPeer { .. }
                | PeerError::Closed(_)
                | PeerError::Tie
        )
    }

    /// What a connection's end means.
    pub(super) fn of_connection(error: quinn::ConnectionError, address: SocketAddr) -> PeerError {
        use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, TransportError};
        /// The alerts of TLS, as QUIC numbers them (RFC 9001, section 4.8).
        const ALERTS: std::ops::Range<u64> = 0x100..0x200;
        match error {
            ApplicationClosed(close) => PeerError::RefusedByPeer {
                code: CloseCode::of(close.error_code.into_inner()),
                text: String::from_utf8_lossy(&close.reason).chars().filter(|letter| !letter.is_control()).collect(),
            },
            ConnectionClosed(ref close) if ALERTS.contains(&u64::from(close.error_code)) => {
                let meaning = alert_by_peer(u64::from(close.error_code) - ALERTS.start);
                PeerError::Certificate { address, meaning, error }
            }
            TransportError(ref failed) if ALERTS.contains(&u64::from(failed.code)) => {
                let meaning = match u64::from(failed.code) - ALERTS.start {
                    ACCESS_DENIED => {
                        "no name in the other side's certificate is one of --peer-cert-allowed-cn or --peer-cert-allowed-hostname"
                    }
                    _ => "this member does not take what the other side shows",
                };
                PeerError::Certificate { address, meaning, error }
            }
            error => PeerError::Connection(error),
        }
    }

    /// True if nothing at all was heard from the other side.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, PeerError::HandshakeTimeout { .. } | PeerError::Connection(quinn::ConnectionError::TimedOut))
    }
}

/// The alert for a certificate whose names are not allowed.
const ACCESS_DENIED: u64 = 49;

/// What the other side has against us, by the number of its TLS alert (RFC 8446, section 6).
fn alert_by_peer(alert: u64) -> &'static str {
    match alert {
        42 | 43 | 46 => "the other side does not take this member's certificate",
        ACCESS_DENIED => {
            "no name in this member's certificate is one that the other side allows (--peer-cert-allowed-cn, --peer-cert-allowed-hostname)"
        }
        45 => "this member's certificate has expired or is not valid yet, by the other side's clock",
        48 => "this member's certificate is not of the other side's --peer-trusted-ca-file",
        116 => "the other side demands a certificate (--peer-client-cert-auth), this member has none",
        120 => "the other side speaks another protocol",
        _ => "the other side refused the handshake",
    }
}
