//! `ringstone serve`: flags to settings, settings to a running member, errors to exit statuses.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use ringstone_core::compactor::Retention;
use ringstone_core::config::{API_VERSION, DEFAULT_QUOTA_BYTES, MEMORY_LIMIT_LEAST, RINGSTONE_VERSION, ServerConfig};
use ringstone_core::entry::KIND_MAX;
use ringstone_core::server::{self, ServerError};
use ringstone_net::peer::TlsFiles;

use crate::exit::ExitStatus;
use crate::flags::{self, FlagError, Settings};
use crate::initial_cluster::initial_members;
use crate::logging::{Format, Logger, Output};

/// `ringstone --version`.
pub fn print_version() {
    println!("ringstone Version: {RINGSTONE_VERSION}");
    println!("etcd API Version: {API_VERSION}");
}

/// Runs a member until it is told to stop.
pub fn main(arguments: &[String]) -> ExitCode {
    let settings = match Settings::read(arguments, std::env::vars()) {
        Ok(settings) => settings,
        Err(FlagError::Usage(text)) => {
            eprintln!("ringstone serve: {text}\nSee 'ringstone serve --help'.");
            return ExitStatus::Usage.into();
        }
        Err(FlagError::Refused(text)) => {
            eprintln!("ringstone serve: {text}");
            return ExitStatus::Configuration.into();
        }
    };
    if settings.help {
        print!("{}", flags::usage());
        return ExitCode::SUCCESS;
    }
    if settings.version {
        print_version();
        return ExitCode::SUCCESS;
    }
    let config = match start_logging(&settings).and_then(|()| server_config(&settings)) {
        Ok(config) => config,
        Err(text) => {
            eprintln!("ringstone serve: {text}");
            return ExitStatus::Configuration.into();
        }
    };
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let folders = folders(&config);
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.cause() == server::Cause::Again => {
            tracing::info!("{error}: the member starts again");
            // Readers, watches and executors of the old state end with this image of the process.
            let error = Command::new("/proc/self/exe").args(arguments_again()).env_remove(FORCE_VARIABLE).exec();
            tracing::error!(error = %error, "the member can't start itself again: start it");
            eprintln!("ringstone: the member can't start itself again: {error}. Start it");
            ExitStatus::Limits.into()
        }
        Err(error) => {
            tracing::error!(error = %error, folder = %folders, "the member stops");
            eprintln!("ringstone: {error} (the member in {folders})");
            status_of(&error).into()
        }
    }
}

/// Where the member is: errors name its files, and a machine may have several members and disks.
fn folders(config: &ServerConfig) -> String {
    let data = config.data_dir.display();
    config.wal_dir.as_ref().map_or_else(|| data.to_string(), |wal| format!("{data}, its log in {}", wal.display()))
}

/// `--force-new-cluster` as a variable.
const FORCE_VARIABLE: &str = "ETCD_FORCE_NEW_CLUSTER";

/// The arguments of this process but for the order to begin a cluster of its own, which was carried out.
fn arguments_again() -> impl Iterator<Item = std::ffi::OsString> {
    std::env::args_os().skip(1).filter(|argument| {
        let word = argument.to_string_lossy();
        word.trim_start_matches('-').split('=').next() != Some("force-new-cluster") || !word.starts_with('-')
    })
}

fn status_of(error: &ServerError) -> ExitStatus {
    use server::Cause;
    match error.cause() {
        Cause::InUse => ExitStatus::InUse,
        Cause::FormatVersion => ExitStatus::FormatVersion,
        Cause::Foreign => ExitStatus::Foreign,
        Cause::Damaged => ExitStatus::Damaged,
        Cause::Address => ExitStatus::Address,
        Cause::DiskFull => ExitStatus::DiskFull,
        Cause::DiskFailed => ExitStatus::DiskFailed,
        Cause::IoUring => ExitStatus::IoUring,
        Cause::Limits => ExitStatus::Limits,
        Cause::Entry => ExitStatus::Entry,
        Cause::Access => ExitStatus::Access,
        Cause::Again => ExitStatus::Limits,
    }
}

fn start_logging(settings: &Settings) -> Result<(), String> {
    let level = match settings.text("log-level") {
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" => tracing::Level::WARN,
        "error" | "panic" | "fatal" => tracing::Level::ERROR,
        other => return Err(format!("--log-level={other}: debug, info, warn, error, panic or fatal is expected")),
    };
    let format = match settings.text("log-format") {
        "json" => Format::Json,
        "console" => Format::Console,
        other => return Err(format!("--log-format={other}: json or console is expected")),
    };
    if settings.text("logger") != "zap" {
        return Err(format!("--logger={}: zap is the only one", settings.text("logger")));
    }
    let mut outputs = Vec::new();
    for output in settings.text("log-outputs").split(',') {
        outputs.push(match output {
            "default" | "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            "systemd/journal" => {
                return Err("--log-outputs=systemd/journal is not built yet: stderr reaches the journal too".to_owned());
            }
            path => Output::File(
                fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .map_err(|error| format!("--log-outputs={path}: {error}"))?,
            ),
        });
    }
    tracing::subscriber::set_global_default(Logger::new(level, format, outputs))
        .map_err(|error| format!("logging can't start: {error}"))
}

fn listen_addresses(flag: &str, urls: &str) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for url in urls.split(',').filter(|url| !url.is_empty()) {
        // Between members every scheme means QUIC.
        let schemes: &[&str] = if flag == "listen-peer-urls" { &["http", "https", "quic"] } else { &["http"] };
        let parts = url.split_once("://").filter(|(scheme, _)| schemes.contains(scheme));
        let Some((_, rest)) = parts else {
            let why = match url.split_once("://") {
                Some(("https" | "unixs", _)) => "TLS is not built yet",
                Some(("unix", _)) => "unix sockets are not built yet",
                _ => "the form is http://HOST:PORT",
            };
            return Err(format!("--{flag}: {url:?} can't be listened on: {why}"));
        };
        let host_port = rest.trim_end_matches('/');
        let host = host_port.rsplit_once(':').map_or("", |(host, _)| host);
        let is_address = host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
        if !is_address {
            return Err(format!("--{flag}: {url:?} needs an IP address or localhost, and a port"));
        }
        let found = host_port.to_socket_addrs().map_err(|error| format!("--{flag}: {url:?}: {error}"))?;
        // localhost may have an IPv6 and an IPv4 address; etcd listens on the IPv4 one.
        let mut found: Vec<SocketAddr> = found.collect();
        found.sort_by_key(|address| !address.is_ipv4());
        addresses.extend(found.first());
    }
    if addresses.is_empty() {
        return Err(format!("--{flag} names no address"));
    }
    Ok(addresses)
}

fn urls(text: &str) -> Vec<String> {
    text.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

fn file(settings: &Settings, name: &str) -> Option<PathBuf> {
    Some(settings.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn positive<T: TryFrom<i64>>(settings: &Settings, name: &str) -> Result<T, String> {
    let value = settings.number(name);
    T::try_from(value)
        .ok()
        .filter(|_| value > 0)
        .ok_or_else(|| format!("--{name}={value} is out of range: a number above 0 is expected"))
}

/// A key or a value has at most 16 MiB in the store: a request that may be larger could not be applied.
const MAX_REQUEST_BYTES_MOST: usize = 15 << 20;

fn max_request_bytes(settings: &Settings) -> Result<usize, String> {
    let bytes = positive(settings, "max-request-bytes")?;
    if bytes <= MAX_REQUEST_BYTES_MOST {
        return Ok(bytes);
    }
    Err(format!("--max-request-bytes={bytes} is out of range: at most {MAX_REQUEST_BYTES_MOST} (15 MiB) are taken"))
}

fn server_config(settings: &Settings) -> Result<ServerConfig, String> {
    let name = settings.text("name").to_owned();
    let data_dir = match settings.text("data-dir") {
        "" => PathBuf::from(format!("{name}.etcd")),
        dir => PathBuf::from(dir),
    };
    if settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls") {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned());
    }
    let advertised = urls(settings.text("initial-advertise-peer-urls"));
    let initial_members = initial_members(&name, &advertised, settings.text("initial-cluster"))?;
    let own = initial_members.iter().find(|member| member.name == name).expect("checked to be among them");
    let advertise_peer_urls = own.peer_urls.clone();
    let joins = match settings.text("initial-cluster-state") {
        "new" => false,
        "existing" if initial_members.len() > 1 => true,
        "existing" => {
            return Err("--initial-cluster-state=existing: --initial-cluster names no other member".to_owned());
        }
        state => return Err(format!("--initial-cluster-state={state}: new or existing is expected")),
    };
    let heartbeat_ms: u64 = positive(settings, "heartbeat-interval")?;
    let election_ms: u64 = positive(settings, "election-timeout")?;
    if election_ms < 5 * heartbeat_ms {
        return Err(format!(
            "--election-timeout={election_ms} must be at least 5 times --heartbeat-interval={heartbeat_ms}"
        ));
    }
    if election_ms > 50_000 {
        return Err(format!("--election-timeout={election_ms} is too long: at most 50000"));
    }
    let progress = settings.duration("watch-progress-notify-interval");
    if !progress.is_zero() && progress.as_millis() < 100 {
        return Err("--watch-progress-notify-interval must be at least 100ms".to_owned());
    }
    let quota = settings.number("quota-backend-bytes");
    let metrics = settings.text("metrics");
    if !matches!(metrics, "basic" | "extensive") {
        return Err(format!("--metrics={metrics}: basic or extensive is expected"));
    }
    let shards = settings.number("shards");
    let available = server::available_cores();
    let shards = match usize::try_from(shards) {
        Ok(0) => available,
        Ok(count) if count <= 1024 => count,
        _ => return Err(format!("--shards={shards} is out of range: 0 to 1024")),
    };
    let memory_limit = match u64::try_from(settings.number("memory-limit")) {
        Ok(0) => server::default_memory_limit(),
        Ok(bytes) if bytes >= MEMORY_LIMIT_LEAST => bytes,
        _ => {
            let given = settings.number("memory-limit");
            return Err(format!("--memory-limit={given} is too little: at least {MEMORY_LIMIT_LEAST}"));
        }
    };
    Ok(ServerConfig {
        name,
        data_dir,
        wal_dir: Some(settings.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
        listen_client: listen_addresses("listen-client-urls", settings.text("listen-client-urls"))?,
        advertise_client_urls: urls(settings.text("advertise-client-urls")),
        advertise_peer_urls,
        listen_peer: listen_addresses("listen-peer-urls", settings.text("listen-peer-urls"))?,
        initial_members,
        joins,
        force_new_cluster: settings.is_on("force-new-cluster"),
        strict_reconfig_check: settings.is_on("strict-reconfig-check"),
        max_learners: positive(settings, "max-learners")?,
        entry_kinds: KIND_MAX,
        peer_tls: TlsFiles {
            cert: file(settings, "peer-cert-file"),
            key: file(settings, "peer-key-file"),
            client_cert: file(settings, "peer-client-cert-file"),
            client_key: file(settings, "peer-client-key-file"),
            trusted_ca: file(settings, "peer-trusted-ca-file"),
            client_cert_auth: settings.is_on("peer-client-cert-auth"),
            allowed_names: urls(settings.text("peer-cert-allowed-cn")),
            allowed_hosts: urls(settings.text("peer-cert-allowed-hostname")),
            any_client_address: settings.is_on("peer-skip-client-san-verification"),
        },
        cluster_token: settings.text("initial-cluster-token").to_owned(),
        shards,
        quota_bytes: match u64::try_from(quota) {
            Ok(0) => Some(DEFAULT_QUOTA_BYTES),
            Ok(bytes) => Some(bytes),
            Err(_) => None,
        },
        max_request_bytes: max_request_bytes(settings)?,
        max_txn_ops: positive(settings, "max-txn-ops")?,
        max_concurrent_streams: u32::try_from(positive::<i64>(settings, "max-concurrent-streams")?).unwrap_or(u32::MAX),
        watch_progress_interval: if progress.is_zero() { std::time::Duration::from_secs(600) } else { progress },
        keepalive_interval: settings.duration("grpc-keepalive-interval"),
        keepalive_timeout: settings.duration("grpc-keepalive-timeout"),
        auto_compaction: Retention::parse(
            settings.text("auto-compaction-mode"),
            settings.text("auto-compaction-retention"),
            flags::parse_duration,
        )
        .map_err(|error| error.to_string())?,
        heartbeat_interval: std::time::Duration::from_millis(heartbeat_ms),
        election_timeout: std::time::Duration::from_millis(election_ms),
        slow_request: settings.duration("warning-unary-request-duration"),
        slow_apply: settings.duration("warning-apply-duration"),
        memory_limit_bytes: memory_limit,
        extensive_metrics: metrics == "extensive",
    })
}
