//! Which API versions clients say they speak: etcd_server_client_requests_total.

use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;

/// Versions that are told apart. The name is the client's to choose: beyond these, all count as one.
const VERSIONS_MAX: usize = 32;
/// What etcd calls a client that says nothing.
const UNKNOWN: &str = "unknown";

/// Calls of the clients of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequests {
    version: Bytes,
    /// Calls of one request and one response.
    pub unary: u64,
    /// Streams.
    pub streams: u64,
}

impl ClientRequests {
    fn new(version: &[u8]) -> ClientRequests {
        ClientRequests { version: Bytes::copy_from_slice(version), unary: 0, streams: 0 }
    }

    /// The version, as a label's value.
    #[must_use]
    pub fn version(&self) -> String {
        String::from_utf8_lossy(&self.version).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
    }
}

/// The counters of one shard.
#[derive(Default)]
pub(super) struct Clients(RefCell<Vec<ClientRequests>>);

impl Clients {
    /// A call has been let in.
    pub fn count(&self, version: Option<&HeaderValue>, is_unary: bool) {
        let version = version.map_or(UNKNOWN.as_bytes(), HeaderValue::as_bytes);
        let versions = &mut *self.0.borrow_mut();
        let place = versions.iter().position(|known| known.version == version).unwrap_or_else(|| {
            if versions.len() < VERSIONS_MAX {
                versions.push(ClientRequests::new(version));
            }
            versions.len() - 1
        });
        let counted = &mut versions[place];
        if is_unary { counted.unary += 1 } else { counted.streams += 1 }
    }

    /// A copy.
    pub fn snapshot(&self) -> Vec<ClientRequests> {
        self.0.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_up_to_a_bound() {
        let clients = Clients::default();
        clients.count(None, true);
        clients.count(Some(&HeaderValue::from_static("3.7")), true);
        clients.count(Some(&HeaderValue::from_static("3.7")), false);
        let counted: Vec<_> =
            clients.snapshot().iter().map(|client| (client.version(), client.unary, client.streams)).collect();
        assert_eq!(counted, [("unknown".to_owned(), 1, 0), ("3.7".to_owned(), 1, 1)]);
        for number in 0..1000 {
            clients.count(Some(&HeaderValue::from(number)), true);
        }
        let counted = clients.snapshot();
        assert_eq!(counted.len(), VERSIONS_MAX);
        assert_eq!(counted.iter().map(|client| client.unary + client.streams).sum::<u64>(), 1003);
    }
}
