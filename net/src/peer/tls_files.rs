use std::path::PathBuf;

/// etcd's flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--peer-cert-file`: this member's certificate with its chain, PEM; shown when dialling too.
    pub cert: Option<PathBuf>,
    /// `--peer-key-file`: its key, PEM.
    pub key: Option<PathBuf>,
    /// `--peer-trusted-ca-file`: who signs the members' certificates, PEM.
    pub trusted_ca: Option<PathBuf>,
    /// `--peer-client-cert-auth`: whoever dials must show a certificate of those, too.
    pub client_cert_auth: bool,
}
