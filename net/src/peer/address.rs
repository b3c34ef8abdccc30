use super::error::PeerError;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Where a member's peer port is: host and port of a peer URL. Its scheme is not kept: all of them mean QUIC.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// TCP and UDP.
    pub port: u16,
}

impl PeerAddress {
    /// From `http://host:port`, `https://` or `quic://`.
    ///
    /// # Errors
    /// If it isn't that.
    pub fn parse(url: &str) -> Result<PeerAddress, PeerError> {
        let wrong = || PeerError::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        if !["http", "https", "quic"].contains(&scheme) {
            return Err(wrong());
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(host) if host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => host,
            None if !host.is_empty() && !host.contains(|letter: char| ":/?#@[]".contains(letter)) => host,
            _ => return Err(wrong()),
        };
        Ok(PeerAddress { host: host.to_owned(), port })
    }

    /// The first address of the name that a socket of `local`'s family can reach. A name is asked for on a thread of its own:
    /// the system's resolver blocks.
    pub(super) async fn resolve(&self, local: SocketAddr) -> Result<SocketAddr, PeerError> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, self.port));
        }
        let (host, port) = (self.host.clone(), self.port);
        let looked_up = glommio::executor()
            .spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>))
            .await;
        let failed = |error| PeerError::Resolve { host: self.host.clone(), error };
        let found = looked_up.map_err(failed)?;
        let reachable = found.into_iter().find(|address| address.is_ipv4() || local.is_ipv6());
        reachable.ok_or_else(|| failed(std::io::ErrorKind::AddrNotAvailable.into()))
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls() {
        for (url, shown) in [
            ("http://10.0.0.1:2380", "10.0.0.1:2380"),
            ("https://host.example:1/", "host.example:1"),
            ("quic://[::1]:2380", "[::1]:2380"),
        ] {
            assert_eq!(PeerAddress::parse(url).expect("a URL").to_string(), shown);
        }
        for url in [
            "",
            "10.0.0.1:2380",
            "ftp://a:1",
            "http://a",
            "http://:1",
            "http://a:x",
            "http://a:70000",
            "http://a:1/b",
            "http://::1:5",
            "http://[a]:1",
            "http://u@a:1",
        ] {
            assert!(matches!(PeerAddress::parse(url), Err(PeerError::Url(named)) if named == url), "{url}");
        }
    }
}
