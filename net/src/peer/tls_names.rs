//! Whose certificates are taken, of all that the authority has signed? etcd's `--peer-cert-allowed-cn`,
//! `--peer-cert-allowed-hostname`, and the addresses of whoever dials.
//!
//! A certificate comes here after its chain was verified; its bytes may still be anything that the authority signs.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use webpki::EndEntityCert;

/// The object identifier of a common name, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Names of which the other side's certificate must have one; empty lists ask for nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed {
    pub(super) names: Vec<String>,
    pub(super) hosts: Vec<ServerName<'static>>,
}

impl Allowed {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let certificate = EndEntityCert::try_from(certificate).map_err(bad)?;
        let name = common_name(certificate.subject());
        let has_name = || self.names.iter().any(|allowed| name == Some(allowed.as_bytes()));
        let has_host = || self.hosts.iter().any(|host| certificate.verify_is_valid_for_subject_name(host).is_ok());
        if (self.names.is_empty() || has_name()) && (self.hosts.is_empty() || has_host()) {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }
}

/// Tag and content of the first value of a DER encoding, and what is behind it.
fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
        _ => return None,
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

/// The last common name of a subject (RFC 5280, 4.1.2.4): sets of pairs of an identifier and a text.
fn common_name(subject: &[u8]) -> Option<&[u8]> {
    let (mut sets, mut found) = (subject, None);
    while let Some((0x31, mut pairs, rest)) = value(sets) {
        while let Some((0x30, pair, more)) = value(pairs) {
            if let Some((0x06, COMMON_NAME, text)) = value(pair) {
                found = value(text).map(|(_, text, _)| text);
            }
            pairs = more;
        }
        sets = rest;
    }
    found
}

/// Does the certificate of whoever dials from `address` name it, or a host that has it? One without any names says nothing of
/// it. Names are looked up: this blocks.
pub(super) fn names_address(certificate: &CertificateDer<'_>, address: IpAddr) -> bool {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
    let address = address.to_canonical();
    let presented = match certificate.verify_is_valid_for_subject_name(&ServerName::from(address)) {
        Ok(()) => return true,
        Err(webpki::Error::CertNotValidForName(context)) => context.presented,
        Err(_) => return false,
    };
    let has = |host: &str| {
        let found = (host, 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        found.iter().any(|found| found.ip().to_canonical() == address)
    };
    presented.is_empty() || certificate.valid_dns_names().any(has)
}

/// A verifier of chains, and then of names.
#[derive(Debug)]
pub(super) struct Named<Inner: ?Sized> {
    pub(super) allowed: Allowed,
    pub(super) inner: Arc<Inner>,
}

impl ServerCertVerifier for Named<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)?;
        self.allowed.check(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Named<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.allowed.check(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(name: &str, hosts: &[&str]) -> CertificateDer<'static> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("parameters");
        params.distinguished_name.push(DnType::OrganizationName, "an organization");
        params.distinguished_name.push(DnType::CommonName, name);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().clone()
    }

    #[test]
    fn the_common_name_of_a_subject() {
        let long = "n".repeat(300);
        for name in ["", "member", &long] {
            let certificate = certificate(name, &[]);
            let read = EndEntityCert::try_from(&certificate).expect("a certificate");
            assert_eq!(common_name(read.subject()), Some(name.as_bytes()));
            for end in 0..read.subject().len() {
                let _ = common_name(&read.subject()[..end]);
            }
        }
        assert_eq!(common_name(b"\x31\x84\xff\xff\xff\xff"), None);
    }

    #[test]
    fn one_of_the_names_is_enough() {
        let member = certificate("member", &["a.example", "127.0.0.1"]);
        let check = |names: &[&str], hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| ServerName::try_from((*host).to_owned()).expect("a host")).collect();
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Allowed { names, hosts }.check(&member).is_ok()
        };
        assert!(check(&[], &[]) && check(&["other", "member"], &[]) && check(&[], &["b.example", "a.example"]));
        assert!(check(&[], &["127.0.0.1"]) && check(&["member"], &["a.example"]));
        assert!(!check(&["Member"], &[]) && !check(&[], &["b.example"]) && !check(&["member"], &["b.example"]));
    }

    #[test]
    fn the_address_of_whoever_dials_is_in_its_certificate() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let names = |hosts: &[&str], address| names_address(&certificate("member", hosts), address);
        assert!(names(&["127.0.0.1"], local) && names(&["localhost"], local) && names(&[], local));
        assert!(names(&["127.0.0.1"], "::ffff:127.0.0.1".parse().expect("an address")));
        assert!(!names(&["127.0.0.2"], local) && !names(&["127.0.0.1"], IpAddr::from([127, 0, 0, 2])));
        assert!(!names(&["*.example"], local));
    }
}
