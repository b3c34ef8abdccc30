use std::path::PathBuf;

/// etcd's flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--peer-cert-file`: this member's certificate with its chain, PEM; shown when dialling too, unless there is another one
    /// for that.
    pub cert: Option<PathBuf>,
    /// `--peer-key-file`: its key, PEM.
    pub key: Option<PathBuf>,
    /// `--peer-client-cert-file`: what is shown when dialling, PEM.
    pub client_cert: Option<PathBuf>,
    /// `--peer-client-key-file`: its key, PEM.
    pub client_key: Option<PathBuf>,
    /// `--peer-trusted-ca-file`: who signs the members' certificates, PEM.
    pub trusted_ca: Option<PathBuf>,
    /// `--peer-client-cert-auth`: whoever dials must show a certificate of those, too.
    pub client_cert_auth: bool,
    /// `--peer-cert-allowed-cn`: the other side's certificate must have one of these common names; empty: any.
    pub allowed_names: Vec<String>,
    /// `--peer-cert-allowed-hostname`: it must be valid for one of these hosts; empty: any.
    pub allowed_hosts: Vec<String>,
    /// `--peer-skip-client-san-verification`: the certificate of whoever dials may name addresses that it doesn't dial from.
    pub any_client_address: bool,
}
