//! A member that joins a cluster whose log may have what this program does not know (core/src/join.rs): it is refused before it
//! has a data folder. The cluster is a peer port that answers as one.
#![cfg(feature = "glommio")]

#[path = "group/support/settings.rs"]
mod settings;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};

use ringstone_core::config::{InitialMember, ServerConfig};
use ringstone_core::entry::KIND_MAX;
use ringstone_core::server::{self, Cause, ServerError};
use settings::settings;

const OWN: &str = "http://127.0.0.1:9";

/// A member that says who the members are, and up to which kind entries may be in the log.
fn cluster_with(kinds: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // All of it: what lies unread when a socket is closed resets the connection, and the answer is lost.
            let head = BufReader::new(&stream).lines();
            head.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            let body =
                format!("[{{\"id\":1,\"peerURLs\":[\"http://{address}\"]}},{{\"id\":2,\"peerURLs\":[\"{OWN}\"]}}]");
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: c1\r\nX-Ringstone-Entry-Kinds: {kinds}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

fn joining(folder: &std::path::Path, cluster: SocketAddr) -> ServerConfig {
    let member = |name: &str, url: String| InitialMember { name: name.to_owned(), peer_urls: vec![url] };
    ServerConfig {
        data_dir: folder.join("data"),
        joins: true,
        advertise_peer_urls: vec![OWN.to_owned()],
        initial_members: vec![member("old", format!("http://{cluster}")), member("new", OWN.to_owned())],
        ..settings("new".to_owned())
    }
}

#[test]
fn a_new_member_that_knows_less_than_what_was_used_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = joining(folder.path(), cluster_with(KIND_MAX + 1));
    let Err(error) = server::run(config.clone()) else { panic!("it can't run") };
    assert_eq!(error.cause(), Cause::Foreign);
    assert!(matches!(error, ServerError::Join(_)), "{error}");
    for words in [
        format!("cluster c1 has agreed on entries up to kind {}", KIND_MAX + 1),
        format!("knows kinds up to {KIND_MAX}"),
        "the version of ringstone that the others run".to_owned(),
    ] {
        assert!(error.to_string().contains(&words), "{words:?}: {error}");
    }
    assert!(!config.data_dir.exists(), "nothing was made");
}
