//! Certificates: who gets in, who doesn't, and what both are told.

use crate::common::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use ringstone_net::peer::TlsFiles;
use ringstone_net::peer::tls::{PeerTls, Trust};
use ringstone_net::peer::*;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

struct Authority {
    folder: TempDir,
    cert: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).expect("a certificate");
        let folder = TempDir::new().expect("a folder");
        write_pem(&folder.path().join("ca.pem"), "CERTIFICATE", cert.der());
        Authority { folder, cert, key }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The files of a member's certificate, for these names, valid until that year.
    fn member(&self, name: &str, hosts: &[&str], until: i32) -> TlsFiles {
        let key = KeyPair::generate().expect("a key");
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("parameters");
        params.not_after = date_time_ymd(until, 1, 1);
        let cert = params.signed_by(&key, &self.cert, &self.key).expect("a certificate");
        let [cert_file, key_file] = ["crt", "key"].map(|ending| self.folder.path().join(format!("{name}.{ending}")));
        write_pem(&cert_file, "CERTIFICATE", cert.der());
        write_pem(&key_file, "PRIVATE KEY", &key.serialize_der());
        TlsFiles {
            cert: Some(cert_file),
            key: Some(key_file),
            trusted_ca: Some(self.ca()),
            client_cert_auth: true,
            ..TlsFiles::default()
        }
    }
}

fn write_pem(path: &Path, label: &str, der: &[u8]) {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
    std::fs::write(path, text).expect("written");
}

const HOST: &[&str] = &["127.0.0.1"];

async fn both(first: PeerTls, second: PeerTls) -> (Peers, Peers) {
    let quick = || PeerLimits { idle_timeout: Duration::from_secs(3), ..limits() };
    let a = start(config(identity(1), first, quick())).await;
    let b = start(config(identity(2), second, quick())).await;
    introduce(&[&a, &b]);
    (a, b)
}

/// The dialled side's certificate must be valid for the host of its peer URL.
#[test]
fn a_certificate_for_another_host_is_refused() {
    run(|| async {
        let ours = Authority::new("ours");
        let load = |name, hosts| PeerTls::load(&ours.member(name, hosts, 4000)).expect("good files");
        let a = start(config(identity(1), load("good", HOST), limits())).await;
        let b = start(config(identity(2), load("elsewhere", &["elsewhere.example"]), limits())).await;
        one_way(&a, &b, b.local_address());
        let error = until("an error", || status_of(&a, 2).last_error).await;
        assert!(matches!(*error, PeerError::Certificate { .. }), "{error}");
        assert!(
            error.to_string().contains("not valid for name") || error.to_string().contains("NotValidForName"),
            "{error}"
        );
    });
}

/// Neither side gets a connection; what the first one notes of the second.
async fn refused(first: &TlsFiles, second: &TlsFiles) -> String {
    let load = |files| PeerTls::load(files).expect("good files");
    let (a, b) = both(load(first), load(second)).await;
    let noted = until("an error", || {
        status_of(&a, 2).last_error.filter(|error| matches!(**error, PeerError::Certificate { .. }))
    });
    let error = noted.await;
    glommio::timer::sleep(Duration::from_millis(300)).await;
    for (peers, other) in [(&a, 2), (&b, 1)] {
        assert_eq!(status_of(peers, other).connections, 0, "they are connected");
        assert!(peers.try_next_event().is_none());
    }
    error.to_string()
}

#[test]
fn members_of_one_authority_are_connected() {
    run(|| async {
        let authority = Authority::new("ours");
        let load = |name| PeerTls::load(&authority.member(name, HOST, 4000)).expect("good files");
        let (first, second) = (load("a"), load("b"));
        assert_eq!((first.trust(), first.trust().warning()), (Trust::Mutual, None));
        let (a, b) = both(first, second).await;
        connected(&a, 2).await;
        connected(&b, 1).await;
    });
}

#[test]
fn without_client_cert_auth_the_dialled_side_alone_proves_itself() {
    run(|| async {
        let authority = Authority::new("ours");
        let files = TlsFiles { client_cert_auth: false, ..authority.member("a", HOST, 4000) };
        let first = PeerTls::load(&files).expect("good files");
        assert!(first.trust().warning().is_some_and(|text| text.contains("--peer-client-cert-auth")));
        let (a, b) = both(first.clone(), first).await;
        connected(&a, 2).await;
        connected(&b, 1).await;
    });
}

#[test]
fn certificates_of_others_are_refused() {
    run(|| async {
        let (ours, others) = (Authority::new("ours"), Authority::new("another"));
        let good = ours.member("good", HOST, 4000);
        let text = refused(&good, &others.member("b", HOST, 4000)).await;
        assert!(text.contains("certificate"), "{text}");
        let text = refused(&good, &ours.member("expired", HOST, 2001)).await;
        assert!(text.contains("xpired"), "{text}");
        // Who has none, and takes anybody's, is not taken itself.
        let text = refused(&good, &TlsFiles::default()).await;
        assert!(text.contains("ertificate"), "{text}");
        let text = refused(&TlsFiles::default(), &good).await;
        assert!(text.contains("ertificate"), "{text}");
    });
}

#[test]
fn flags_and_files_that_do_not_fit_are_named() {
    let authority = Authority::new("ours");
    let good = authority.member("a", HOST, 4000);
    let generated = PeerTls::load(&TlsFiles::default()).expect("generated");
    assert!(
        generated.trust() == Trust::Nobody
            && Trust::Nobody.warning().is_some_and(|text| text.contains("not authentication"))
    );
    let error = |files: TlsFiles| PeerTls::load(&files).err().expect("an error").to_string();
    for (files, expected) in [
        (TlsFiles { key: None, ..good.clone() }, "--peer-cert-file is given without --peer-key-file"),
        (TlsFiles { cert: None, ..good.clone() }, "--peer-key-file is given without --peer-cert-file"),
        (TlsFiles { trusted_ca: None, ..good.clone() }, "--peer-cert-file is given without --peer-trusted-ca-file"),
        (
            TlsFiles { client_cert_auth: true, ..TlsFiles::default() },
            "--peer-client-cert-auth is given without --peer-cert-file",
        ),
        (
            TlsFiles { trusted_ca: good.trusted_ca.clone(), ..TlsFiles::default() },
            "--peer-trusted-ca-file is given without --peer-cert-file",
        ),
    ] {
        assert_eq!(error(files), expected);
    }
    let missing = PathBuf::from("/nonexistent/file");
    for (files, flag) in [
        (TlsFiles { cert: Some(missing.clone()), ..good.clone() }, "--peer-cert-file"),
        (TlsFiles { key: Some(missing.clone()), ..good.clone() }, "--peer-key-file"),
        (TlsFiles { trusted_ca: Some(missing), ..good.clone() }, "--peer-trusted-ca-file"),
    ] {
        let text = error(files);
        assert!(text.starts_with(flag) && text.contains("/nonexistent/file"), "{text}");
    }
    let swapped = error(TlsFiles { cert: good.key.clone(), ..good.clone() });
    assert!(swapped.starts_with("--peer-cert-file") && swapped.contains("no certificate"), "{swapped}");
    let other = authority.member("b", HOST, 4000);
    let mixed = error(TlsFiles { key: other.key, ..good });
    assert!(mixed.starts_with("TLS for peers"), "{mixed}");
}
