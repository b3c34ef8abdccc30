//! Why can't a member be reached? Operators of etcd open TCP ports; QUIC needs UDP. When dials keep running out of time,
//! the same address is asked over TCP.

use super::dial::target;
use super::inbox::PeerEvent;
use super::member::Member;
use super::peers::Shared;
use super::socket::within;
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// What asking over TCP has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// `/version` answers over TCP, QUIC doesn't: a firewall, or a load balancer that knows TCP only.
    UdpBlocked(SocketAddr),
    /// Something else answers over TCP.
    NotAPeer(SocketAddr),
    /// The host is there, the port isn't: the member doesn't run, or listens elsewhere.
    NothingListens(SocketAddr),
    /// Nothing answers over TCP either.
    Unreachable(SocketAddr),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::UdpBlocked(address) => write!(
                f,
                "{address} answers over TCP but not over UDP: peers speak QUIC, so open UDP port {} in both directions \
                 (firewall, security group, load balancer)",
                address.port()
            ),
            Finding::NotAPeer(address) => {
                write!(f, "{address} answers over TCP, but not as a peer port: check the peer URL")
            }
            Finding::NothingListens(address) => write!(
                f,
                "{address} refuses TCP and does not answer over UDP: the member is not running, or the peer URL names \
                 another port than its --listen-peer-urls"
            ),
            Finding::Unreachable(address) => write!(
                f,
                "{address} answers neither over UDP nor over TCP: the host is down, cut off, or a firewall drops both"
            ),
        }
    }
}

/// Asks, and reports what is new.
pub(super) async fn run(shared: &Shared, member: &Member, attempt: usize) {
    // The address that was dialled last.
    let Ok((host, address)) = target(shared, member, attempt.wrapping_sub(1)).await else { return };
    let finding = match within(shared.limits.probe_timeout, ask(&host, address)).await {
        Some(Ok(true)) => Finding::UdpBlocked(address),
        Some(Ok(false)) => Finding::NotAPeer(address),
        Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Finding::NothingListens(address),
        Some(Err(_)) | None => Finding::Unreachable(address),
    };
    if member.link.borrow().is_some() {
        return;
    }
    let is_known = member.finding.replace(Some(finding)) == Some(finding);
    if member.complaints.borrow_mut().is_due(shared.epoch.elapsed(), &finding.to_string()) {
        tracing::warn!(member = %format_args!("{:x}", member.id), %finding, "peer can't be reached");
    }
    if is_known {
        return;
    }
    shared.inbox.push(PeerEvent::Finding { member: member.id, finding }).await;
}

/// True if a peer port answers `/version`.
async fn ask(host: &str, address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await.map_err(io::Error::from)?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 2048];
    let mut filled = 0;
    while filled < answer.len() {
        match stream.read(&mut answer[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    let text = String::from_utf8_lossy(&answer[..filled]);
    Ok(text.starts_with("HTTP/1.1 200") && text.contains("etcdserver"))
}
