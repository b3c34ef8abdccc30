//! TLS between members: who is on the other side, as far as certificates tell.
//!
//! QUIC is always encrypted. Without certificates each member makes one for itself and takes anybody's: that keeps listeners
//! out and nobody else, which is why [`Trust`] is part of the result and must be told to the operator.

use super::error::PeerError;
use super::limits::PeerLimits;
use super::settings::transport;
use super::tls_files::TlsFiles;
use super::tls_names::{Allowed, Named};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CipherSuite, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;

/// The name of this protocol in the handshake: nothing else is spoken on the port.
const ALPN: &[u8] = b"ringstone-peer";

/// What the transport proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Both sides hold a certificate of the trusted authority.
    Mutual,
    /// The side that was dialled does; anybody may dial (`--peer-client-cert-auth` is off).
    Dialled,
    /// Nothing: certificates are generated. Encryption without authentication.
    Nobody,
}

impl Trust {
    /// What an operator must read at start; None where all is well.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Trust::Mutual => None,
            Trust::Dialled => Some(
                "peers are encrypted, but whoever dials this member proves nothing: anybody who reaches the peer port can \
                 act as a member; set --peer-client-cert-auth",
            ),
            Trust::Nobody => Some(
                "peers are encrypted with generated certificates, which is not authentication: anybody who reaches the peer \
                 port can act as a member; set --peer-cert-file, --peer-key-file, --peer-trusted-ca-file and \
                 --peer-client-cert-auth",
            ),
        }
    }
}

/// Both sides of TLS, ready for QUIC.
#[derive(Clone)]
pub struct PeerTls {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    trust: Trust,
    checks_addresses: bool,
}

impl PeerTls {
    /// From files, or generated where there are none.
    ///
    /// # Errors
    /// If a file can't be read or used, or flags are there without those that they need.
    pub fn load(files: &TlsFiles) -> Result<PeerTls, PeerError> {
        let (cert, key) = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => return flags("--peer-cert-file", "--peer-key-file"),
            (None, Some(_)) => return flags("--peer-key-file", "--peer-cert-file"),
            (None, None) if files.trusted_ca.is_some() => return flags("--peer-trusted-ca-file", "--peer-cert-file"),
            (None, None) if files.client_cert_auth => return flags("--peer-client-cert-auth", "--peer-cert-file"),
            (None, None) if !files.allowed_names.is_empty() => {
                return flags("--peer-cert-allowed-cn", "--peer-cert-file");
            }
            (None, None) if !files.allowed_hosts.is_empty() => {
                return flags("--peer-cert-allowed-hostname", "--peer-cert-file");
            }
            (None, None) if files.client_cert.is_some() => return flags("--peer-client-cert-file", "--peer-cert-file"),
            (None, None) => return PeerTls::generated(),
        };
        let (client_cert, client_key) = match (&files.client_cert, &files.client_key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => (cert, key),
            (Some(_), None) => return flags("--peer-client-cert-file", "--peer-client-key-file"),
            (None, Some(_)) => return flags("--peer-client-key-file", "--peer-client-cert-file"),
        };
        if !files.allowed_names.is_empty() && !files.allowed_hosts.is_empty() {
            return Err(PeerError::Names);
        }
        let Some(ca) = &files.trusted_ca else { return flags("--peer-cert-file", "--peer-trusted-ca-file") };
        let chain = certificates("--peer-cert-file", cert)?;
        let private_key = private_key("--peer-key-file", key)?;
        let client_chain = certificates("--peer-client-cert-file", client_cert)?;
        let client_key = self::private_key("--peer-client-key-file", client_key)?;
        let host = |host: &String| ServerName::try_from(host.clone()).map_err(|_| PeerError::Host(host.clone()));
        let hosts = files.allowed_hosts.iter().map(host).collect::<Result<_, _>>()?;
        let allowed = Allowed { names: files.allowed_names.clone(), hosts };
        let mut roots = RootCertStore::empty();
        for root in certificates("--peer-trusted-ca-file", ca)? {
            roots.add(root)?;
        }
        let roots = Arc::new(roots);
        let provider = provider();
        let server = server_builder(&provider)?;
        let server = if files.client_cert_auth {
            let inner: Arc<dyn ClientCertVerifier> =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
            server.with_client_cert_verifier(Arc::new(Named { allowed: allowed.clone(), inner }))
        } else {
            server.with_no_client_auth()
        };
        let server = server.with_single_cert(chain, private_key)?;
        let inner: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let client = client_builder(&provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Named { allowed, inner }))
            .with_client_auth_cert(client_chain, client_key)?;
        let trust = if files.client_cert_auth { Trust::Mutual } else { Trust::Dialled };
        PeerTls::finish(server, client, trust, !files.any_client_address)
    }

    fn generated() -> Result<PeerTls, PeerError> {
        let made = rcgen::generate_simple_self_signed(["ringstone-peer".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.key_pair.serialize_der()));
        let chain = vec![made.cert.der().clone()];
        let provider = provider();
        let server = server_builder(&provider)?.with_no_client_auth().with_single_cert(chain, key)?;
        let anybody = Arc::new(Anybody(Arc::clone(&provider)));
        let client =
            client_builder(&provider)?.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
        PeerTls::finish(server, client, Trust::Nobody, false)
    }

    fn finish(
        mut server: rustls::ServerConfig,
        mut client: rustls::ClientConfig,
        trust: Trust,
        checks_addresses: bool,
    ) -> Result<PeerTls, PeerError> {
        // Each connection is a whole handshake: no tickets, no 0-RTT data, which could be replayed.
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_early_data = false;
        server.alpn_protocols = vec![ALPN.to_vec()];
        client.alpn_protocols = vec![ALPN.to_vec()];
        let unfit = |_| rustls::Error::General("the crypto provider has no cipher for QUIC".into());
        let server = Arc::new(QuicServerConfig::try_from(server).map_err(unfit)?);
        let client = Arc::new(QuicClientConfig::try_from(client).map_err(unfit)?);
        Ok(PeerTls { server, client, trust, checks_addresses })
    }

    /// What it proves.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Whether the certificate of whoever dials must name where it dials from.
    pub(super) fn checks_addresses(&self) -> bool {
        self.checks_addresses
    }

    pub(super) fn server_config(&self, limits: &PeerLimits) -> quinn::ServerConfig {
        let mut config = quinn::ServerConfig::with_crypto(Arc::clone(&self.server) as _);
        config.transport_config(Arc::new(transport(limits)));
        config.migration(false);
        config.max_incoming(limits.handshakes_max);
        config.incoming_buffer_size(64 << 10).incoming_buffer_size_total(1 << 20);
        config
    }

    /// For a client of one's own, a tool or a test: it speaks QUIC as a dialling member does.
    #[must_use]
    pub fn client_config(&self, limits: &PeerLimits) -> quinn::ClientConfig {
        let mut config = quinn::ClientConfig::new(Arc::clone(&self.client) as _);
        config.transport_config(Arc::new(transport(limits)));
        config
    }
}

/// The usual suites, the one first that costs least: a cluster of one machine room moves gigabytes.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn flags<T>(given: &'static str, missing: &'static str) -> Result<T, PeerError> {
    Err(PeerError::Flags { given, missing })
}

fn private_key(flag: &'static str, file: &PathBuf) -> Result<PrivateKeyDer<'static>, PeerError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| PeerError::File { flag, file: file.clone(), error })
}

fn certificates(flag: &'static str, file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, PeerError> {
    let failed = |error| PeerError::File { flag, file: file.clone(), error };
    let read = CertificateDer::pem_file_iter(file).map_err(failed)?;
    let found: Vec<_> = read.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() { Err(PeerError::NoCertificate { flag, file: file.clone() }) } else { Ok(found) }
}

type Builder<Side> = rustls::ConfigBuilder<Side, rustls::WantsVerifier>;

fn server_builder(provider: &Arc<CryptoProvider>) -> Result<Builder<rustls::ServerConfig>, rustls::Error> {
    rustls::ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&rustls::version::TLS13])
}

fn client_builder(provider: &Arc<CryptoProvider>) -> Result<Builder<rustls::ClientConfig>, rustls::Error> {
    rustls::ClientConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&rustls::version::TLS13])
}

/// Takes any certificate, and checks that its owner speaks.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has no TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
