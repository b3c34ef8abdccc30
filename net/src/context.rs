use crate::status::{Code, Status};
use http::{HeaderMap, HeaderValue};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Address(SocketAddr),
    /// A local socket, which has no name.
    Local,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::Local => f.write_str("@"),
        }
    }
}

/// The headers of a request.
pub type Metadata = HeaderMap<HeaderValue>;

/// Headers that a handler may want to know. Others are not kept while a call goes on: they are the client's to make large.
const KEPT: [&str; 4] = ["token", "authorization", "client-api-version", "hasleader"];

/// The part of a request's headers that its call keeps, in memory of its own, and the bytes of that.
pub(crate) fn kept_metadata(headers: &HeaderMap) -> (Metadata, usize) {
    let (mut kept, mut bytes) = (Metadata::new(), 0);
    for (name, value) in headers {
        if KEPT.contains(&name.as_str())
            && let Ok(copy) = HeaderValue::from_bytes(value.as_bytes())
        {
            bytes += name.as_str().len() + copy.len() + 64;
            kept.append(name, copy);
        }
    }
    (kept, bytes)
}

/// What is known of a call beside its messages.
#[derive(Debug)]
pub struct CallContext {
    pub(crate) peer: Peer,
    pub(crate) metadata: Metadata,
    pub(crate) deadline: Option<Duration>,
    pub(crate) started_at: Duration,
}

impl CallContext {
    /// A context made by hand, for calls that come by another way (JSON, tests).
    pub fn new(peer: Peer, metadata: Metadata, started_at: Duration, deadline: Option<Duration>) -> Self {
        CallContext { peer, metadata, deadline, started_at }
    }

    /// The other end of the connection.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Of the request's headers those that servers of etcd look at: `token`, `authorization`, `client-api-version`,
    /// `hasleader`.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The first value of a header, if it is visible ASCII.
    pub fn metadata_text(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }

    /// When the connection's turn began that met the call, on the clock of [`crate::Runtime::now`].
    pub fn started_at(&self) -> Duration {
        self.started_at
    }

    /// When the caller gives up, on the clock of [`crate::Runtime::now`]. The server drops the handler then.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }
}

/// A `grpc-timeout`: one to eight digits and a unit. The texts are grpc-go's.
pub(crate) fn parse_timeout(value: &[u8]) -> Result<Duration, Status> {
    let refuse = |why: &str| {
        let shown = String::from_utf8_lossy(value);
        Err(Status::new(Code::Internal, format!("malformed grpc-timeout: transport: {why}: {shown:?}")))
    };
    let Some((unit, digits)) = value.split_last() else { return refuse("timeout string is too short") };
    if digits.is_empty() {
        return refuse("timeout string is too short");
    }
    if digits.len() > 8 {
        return refuse("timeout string is too long");
    }
    let Some(unit) = unit_of(*unit) else { return refuse("timeout unit is not recognized") };
    if !digits.iter().all(u8::is_ascii_digit) {
        let shown = String::from_utf8_lossy(digits);
        let text = format!("malformed grpc-timeout: strconv.ParseUint: parsing {shown:?}: invalid syntax");
        return Err(Status::new(Code::Internal, text));
    }
    let number = digits.iter().fold(0u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    Ok(unit * number)
}

fn unit_of(letter: u8) -> Option<Duration> {
    Some(match letter {
        b'H' => Duration::from_secs(3600),
        b'M' => Duration::from_secs(60),
        b'S' => Duration::from_secs(1),
        b'm' => Duration::from_millis(1),
        b'u' => Duration::from_micros(1),
        b'n' => Duration::from_nanos(1),
        _ => return None,
    })
}

/// A duration as `grpc-timeout`, rounded up to what eight digits can say.
pub(crate) fn encode_timeout(timeout: Duration) -> HeaderValue {
    const DIGITS_8: u128 = 99_999_999;
    let nanos = timeout.as_nanos();
    let second = 1_000_000_000u128;
    let units = [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', second), ('M', 60 * second), ('H', 3600 * second)];
    let text = units
        .into_iter()
        .map(|(unit, size)| (unit, nanos.div_ceil(size)))
        .find(|(_, number)| *number <= DIGITS_8)
        .map_or_else(|| format!("{DIGITS_8}H"), |(unit, number)| format!("{number}{unit}"));
    HeaderValue::from_str(&text).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_exactly() {
        for (text, nanos) in [("1n", 1u128), ("99999999u", 99_999_999_000), ("5S", 5_000_000_000), ("0m", 0)] {
            assert_eq!(parse_timeout(text.as_bytes()).map(|timeout| timeout.as_nanos()), Ok(nanos), "{text}");
        }
        assert_eq!(parse_timeout(b"99999999H").map(|timeout| timeout.as_secs()), Ok(99_999_999 * 3600));
        assert_eq!(parse_timeout(b"2M").map(|timeout| timeout.as_secs()), Ok(120));
        for (text, why) in [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("1s", "transport: timeout unit is not recognized: \"1s\""),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("1.5S", "strconv.ParseUint: parsing \"1.5\": invalid syntax"),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
        ] {
            let status = parse_timeout(text.as_bytes()).expect_err(text);
            assert_eq!(status, Status::new(Code::Internal, format!("malformed grpc-timeout: {why}")));
        }
    }

    #[test]
    fn timeouts_are_never_written_too_short() {
        for nanos in [0u64, 1, 99_999_999, 100_000_000, 7_000_000_001, u64::MAX] {
            let timeout = Duration::from_nanos(nanos);
            assert!(parse_timeout(encode_timeout(timeout).as_bytes()).expect("ours") >= timeout);
        }
        assert_eq!(encode_timeout(Duration::MAX).as_bytes(), b"99999999H");
    }
}
