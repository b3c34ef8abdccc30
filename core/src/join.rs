//! `--initial-cluster-state=existing`: who are the others, and who am I among them? Asked over TCP, at the peer ports that
//! `--initial-cluster` names, before there is a data folder: `/members`, as etcd's members answer it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use ringstone_net::peer::PeerAddress;
use serde::{Deserialize, Serialize};

use crate::command::Member;
use crate::config::ServerConfig;

/// The header by which etcd's members tell which cluster they are of.
pub const CLUSTER_ID_HEADER: &str = "x-etcd-cluster-id";
/// The header by which Ringstone's members tell which of two lists of members is the newer one: the index at which it came about.
pub const APPLIED_HEADER: &str = "x-ringstone-members-index";
/// The header by which Ringstone's members tell up to which kind entries may be in their log.
pub const KINDS_HEADER: &str = "x-ringstone-entry-kinds";
/// How long one member may take to connect, and to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);
/// How long those that do not answer are asked again where others do: who led when this member was added may be among them.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(1);
/// Longest answer that is read: thousands of members.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Why a cluster can't be joined. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answers.
    #[error(
        "none of the members that --initial-cluster names says on TCP who the members are ({asked}; the warnings above have the reasons). Is the cluster running, and is its peer port open for TCP and UDP?"
    )]
    Nobody {
        /// Who was asked.
        asked: String,
    },
    /// The cluster does not know this member.
    #[error(
        "the cluster {cluster:x} has no member with the peer URLs {urls}: add it first (member add NAME --peer-urls={urls}), then start it"
    )]
    NotAdded {
        /// The cluster's id.
        cluster: u64,
        /// This member's.
        urls: String,
    },
    /// The cluster uses entries that this program does not know.
    #[error(
        "the cluster {cluster:x} has agreed on entries up to kind {agreed}, this program knows kinds up to {known}: start this member with the version of ringstone that the others run, or a later one"
    )]
    Kinds {
        /// The cluster's id.
        cluster: u64,
        /// The newest kind in its log.
        agreed: u16,
        /// The newest that can be applied.
        known: u16,
    },
}

impl JoinError {
    /// Nobody was there to be asked.
    #[must_use]
    pub fn nobody(config: &ServerConfig) -> JoinError {
        JoinError::Nobody { asked: others(config).join(",") }
    }
}

/// A cluster, as one of its members described it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its id.
    pub id: u64,
    /// Its members.
    pub members: Vec<Member>,
    /// The newest kind of entries that may be in its log; 0 where it does not say.
    pub kinds: u16,
    /// The index at which the members became these; 0 where it does not say.
    pub since: u64,
}

impl Cluster {
    /// Whether this process can apply what the cluster has in its log.
    ///
    /// # Errors
    /// [`JoinError::Kinds`].
    pub fn check_kinds(&self, config: &ServerConfig) -> Result<(), JoinError> {
        self.check(config.entry_kinds)
    }

    fn check(&self, known: u16) -> Result<(), JoinError> {
        if self.kinds <= known {
            return Ok(());
        }
        Err(JoinError::Kinds { cluster: self.id, agreed: self.kinds, known })
    }

    /// The id of the member with this process's peer URLs.
    ///
    /// # Errors
    /// [`JoinError::NotAdded`].
    pub fn own_id(&self, config: &ServerConfig) -> Result<u64, JoinError> {
        let sorted = |urls: &[String]| {
            let mut urls = urls.to_vec();
            urls.sort_unstable();
            urls
        };
        let own = sorted(&config.advertise_peer_urls);
        let found = self.members.iter().find(|member| sorted(&member.peer_urls) == own);
        found.map(|member| member.id).ok_or(JoinError::NotAdded { cluster: self.id, urls: own.join(",") })
    }
}

/// A member as `/members` has it, in etcd's words.
#[derive(Deserialize, Serialize)]
pub struct Listed {
    id: u64,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
}

impl From<Member> for Listed {
    fn from(member: Member) -> Listed {
        let Member { id, name, peer_urls, client_urls, is_learner } = member;
        Listed { id, peer_urls, name, client_urls, is_learner }
    }
}

impl From<Listed> for Member {
    fn from(listed: Listed) -> Member {
        let Listed { id, peer_urls, name, client_urls, is_learner } = listed;
        Member { id, name, peer_urls, client_urls, is_learner }
    }
}

fn others(config: &ServerConfig) -> Vec<String> {
    let others = config.initial_members.iter().filter(|member| member.name != config.name);
    others.flat_map(|member| member.peer_urls.clone()).collect()
}

/// Asks all of them, again and again for as long as `patience`, until one knows this member: a lone member opens its peer port a
/// moment after this one was added. The newest answer counts, for others learn of a change a moment after whoever led: a member
/// that takes the place of another one, at the same peer URLs, would take its id too. None: nobody answers, which is no harm for a
/// member that knows the others already.
#[must_use]
pub fn ask(config: &ServerConfig, patience: Duration) -> Option<Cluster> {
    let began = Instant::now();
    let urls = others(config);
    loop {
        let (mut failures, mut newest) = (Vec::new(), None);
        for (url, answer) in ask_all(&urls) {
            match answer {
                Ok(cluster) => newest = newer(newest, cluster),
                Err(error) => failures.push((url, error)),
            }
        }
        let is_known = newest.as_ref().is_some_and(|cluster| cluster.own_id(config).is_ok());
        let enough = if is_known && failures.is_empty() {
            Duration::ZERO
        } else if is_known {
            patience.min(PATIENCE_FOR_ALL)
        } else {
            patience
        };
        if began.elapsed() >= enough {
            for (url, error) in failures {
                tracing::warn!(url, error = %error, "a member does not say who the members are");
            }
            return newest;
        }
        std::thread::sleep(PAUSE);
    }
}

/// At once: one that does not answer costs its time-out once.
fn ask_all(urls: &[String]) -> Vec<(&String, io::Result<Cluster>)> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = urls.iter().map(|url| (url, scope.spawn(move || ask_one(url)))).collect();
        asked.into_iter().map(|(url, thread)| (url, thread.join().expect("it does not panic"))).collect()
    })
}

/// Of two that know of this member differently, the one who has heard of more.
fn newer(one: Option<Cluster>, other: Cluster) -> Option<Cluster> {
    match one {
        Some(one) if one.since >= other.since => Some(one),
        _ => Some(other),
    }
}

fn ask_one(url: &str) -> io::Result<Cluster> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let address = PeerAddress::parse(url).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut found = (address.host.as_str(), address.port).to_socket_addrs()?;
    let socket: SocketAddr = found.next().ok_or_else(|| invalid("its name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&socket, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece: a socket takes each fragment of a format as a write, and a packet, of its own.
    let request = format!("GET /members HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    read_answer(&answer).ok_or_else(|| invalid("its answer is not a list of members"))
}

/// Head and body of an answer of known length, or one that ends with its connection.
fn read_answer(answer: &[u8]) -> Option<Cluster> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.lines();
    if lines.next()?.split(' ').nth(1)? != "200" {
        return None;
    }
    let value = |wanted: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let id = u64::from_str_radix(value(CLUSTER_ID_HEADER)?, 16).ok()?;
    let listed: Vec<Listed> = serde_json::from_slice(&answer[end + 4..]).ok()?;
    let kinds = value(KINDS_HEADER).and_then(|kinds| kinds.parse().ok()).unwrap_or(0);
    let since = value(APPLIED_HEADER).and_then(|since| since.parse().ok()).unwrap_or(0);
    Some(Cluster { id, members: listed.into_iter().map(Member::from).collect(), kinds, since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_etcd() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Etcd-Cluster-Id: cdf818194e3a8c32\r\nContent-Length: 116\r\n\r\n\
            [{\"id\":10276657743932975437,\"peerURLs\":[\"http://localhost:2380\"],\"name\":\"default\",\"clientURLs\":[\"http://localhost:2379\"]}]\n";
        let cluster = read_answer(answer).expect("good");
        assert_eq!((cluster.id, cluster.members.len(), cluster.kinds), (0xcdf8_1819_4e3a_8c32, 1, 0));
        assert_eq!((cluster.members[0].name.as_str(), cluster.members[0].id), ("default", 10_276_657_743_932_975_437));
    }

    #[test]
    fn what_is_no_answer() {
        for answer in
            [&b""[..], b"HTTP/1.1 404 Not Found\r\nX-Etcd-Cluster-Id: 1\r\n\r\n[]", b"HTTP/1.1 200 OK\r\n\r\n[]"]
        {
            assert!(read_answer(answer).is_none());
        }
    }

    #[test]
    fn whoever_learnt_last_counts() {
        let answer = |since: &str, id: u64| {
            let text = format!("HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: c1\r\n{since}\r\n[{{\"id\":{id}}}]");
            read_answer(text.as_bytes()).expect("good")
        };
        let (old, new) =
            (answer("X-Ringstone-Members-Index: 9\r\n", 1), answer("X-Ringstone-Members-Index: 10\r\n", 2));
        for order in [[&old, &new], [&new, &old]] {
            let newest = order.into_iter().cloned().fold(None, newer).expect("there are two");
            assert_eq!((newest.since, newest.members[0].id), (10, 2));
        }
        assert_eq!(newer(None, answer("", 3)).map(|cluster| cluster.since), Some(0));
    }

    #[test]
    fn whoever_knows_all_that_was_agreed_on_may_join() {
        let answer = |kinds: &str| {
            let text = format!("HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: c1\r\n{kinds}Content-Length: 2\r\n\r\n[]");
            read_answer(text.as_bytes()).expect("good")
        };
        let agreed = answer("X-Ringstone-Entry-Kinds: 17\r\n");
        assert_eq!(agreed.kinds, 17);
        assert!(agreed.check(17).is_ok() && agreed.check(18).is_ok());
        let error = agreed.check(16).expect_err("it knows less");
        assert!(matches!(error, JoinError::Kinds { cluster: 0xc1, agreed: 17, known: 16 }), "{error}");
        assert!(answer("").check(0).is_ok(), "etcd's members do not say");
    }
}
