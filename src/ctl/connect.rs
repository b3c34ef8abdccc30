//! From endpoints to calls, and from what goes wrong to a text that says what to look at.

use ringstone_net::client::{CallOptions, Client, ClientOptions, connect_within};
use ringstone_net::{Code, Method, Status, TokioRuntime};
use ringstone_proto::Described;
use ringstone_proto::prost::Message;
use tokio::net::TcpStream;

use super::args::Global;
use super::output::{Format, Output};
use super::{BAD_FEATURE, ERROR, Failure};

/// The global flags, checked.
pub struct Session {
    pub global: Global,
    pub output: Output,
    runtime: TokioRuntime,
}

impl Session {
    pub fn new(global: Global) -> Result<Session, Failure> {
        let output = Output { format: Format::parse(&global.write_out)?, hex: global.hex };
        let tls = global.cacert.is_some() || global.cert.is_some() || global.key.is_some();
        if tls || !global.insecure_transport || global.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"))
        {
            return Err(Failure::new(BAD_FEATURE, "TLS is not built yet: use http:// endpoints"));
        }
        if global.user.is_some() {
            return Err(Failure::new(BAD_FEATURE, "authentication is not built yet: --user can't be used"));
        }
        Ok(Session { global, output, runtime: TokioRuntime::default() })
    }

    /// The first endpoint that answers a connection.
    pub async fn client(&self) -> Result<Client, Failure> {
        let mut last = Failure::arguments("--endpoints names no endpoint");
        for endpoint in &self.global.endpoints {
            match self.client_of(endpoint).await {
                Ok(client) => return Ok(client),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    pub async fn client_of(&self, endpoint: &str) -> Result<Client, Failure> {
        let address = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
        let refused = |why: String| Failure::new(ERROR, format!("can't connect to {address}: {why}"));
        if !address.contains(':') {
            return Err(Failure::arguments(format!("endpoint {endpoint:?} is not of the form HOST:PORT")));
        }
        let timeout = self.global.dial_timeout;
        let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(refused(error.to_string())),
            Err(_) => return Err(refused(format!("no answer within {timeout:?} (--dial-timeout)"))),
        };
        let _ = stream.set_nodelay(true);
        let options = ClientOptions::new(address);
        connect_within(timeout, stream, &options, &self.runtime).await.map_err(|status| {
            let cause = status.message.strip_prefix("connection error: ").unwrap_or(&status.message);
            refused(format!("it does not speak HTTP/2 without TLS ({cause}): is it a server of the etcd API?"))
        })
    }

    pub fn options(&self) -> CallOptions {
        CallOptions { timeout: Some(self.global.command_timeout), ..CallOptions::default() }
    }

    /// One call to the first endpoint that answers.
    pub async fn call<Q, A>(&self, method: Method, request: &Q) -> Result<A, Failure>
    where
        Q: Message,
        A: Message + Default + Described,
    {
        let client = self.client().await?;
        client.unary(method, request, &self.options()).await.map_err(|status| failed(&status))
    }
}

/// What etcdctl says of a status: etcd's own texts as they are.
pub fn text_of(status: &Status) -> String {
    let message = &status.message;
    if message.starts_with("etcdserver: ") || status.code == Code::DeadlineExceeded {
        return message.to_string();
    }
    match status.code {
        Code::Unavailable | Code::Internal | Code::Unknown
            if message.contains("connection error") || message.contains("stream error") =>
        {
            format!("{message} (is it a server of the etcd API?)")
        }
        _ => status.to_string(),
    }
}

pub fn failed(status: &Status) -> Failure {
    Failure::new(ERROR, text_of(status))
}
