//! `ringstone serve`'s flags: etcd's names, forms and environment, in one table that says what each does here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// What a flag does in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It works.
    Works,
    /// It would change security or data and has no effect yet: any other value than the default refuses to start.
    Refused(&'static str),
    /// Tuning without a meaning here: one warning.
    NoMeaning,
    /// Accepted and ignored by etcd too.
    Ignored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bool,
    Duration,
}

struct Flag {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
    help: &'static str,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, effect: Effect, help: &'static str) -> Flag {
    Flag { name, kind, default, effect, help }
}

use Effect::{Ignored, NoMeaning, Refused, Works};
use Kind::{Bool, Duration as Time, Number, Text};

const TLS: Effect = Refused("TLS is not built yet");
const PEERS: Effect = Refused("clusters of several members are not built yet");

/// All of etcd's flags, and ours.
const FLAGS: &[Flag] = &[
    flag("name", Text, "default", Works, "name of this member"),
    flag("data-dir", Text, "", Works, "data folder (default ${name}.etcd)"),
    flag("wal-dir", Text, "", Works, "folder of the write-ahead log, if not in the data folder"),
    flag("listen-client-urls", Text, "http://localhost:2379", Works, "where clients are served"),
    flag("advertise-client-urls", Text, "http://localhost:2379", Works, "client URLs told to the cluster"),
    flag(
        "listen-peer-urls",
        Text,
        "http://localhost:2380",
        Works,
        "where members are served: QUIC on UDP (not opened by a single member)",
    ),
    flag(
        "initial-advertise-peer-urls",
        Text,
        "http://localhost:2380",
        Works,
        "peer URLs of this member; its id follows from them",
    ),
    flag("initial-cluster", Text, "", Works, "members of a new cluster: NAME=URL,..."),
    flag("initial-cluster-state", Text, "new", Works, "new, or existing for a member that was added to a cluster"),
    flag("initial-cluster-token", Text, "etcd-cluster", Works, "token that ids follow from"),
    flag(
        "quota-backend-bytes",
        Number,
        "0",
        Works,
        "logical bytes from which on puts are refused (0: 2 GiB, negative: no limit)",
    ),
    flag("max-request-bytes", Number, "1572864", Works, "largest request in bytes"),
    flag("max-txn-ops", Number, "128", Works, "most operations in a transaction"),
    flag("max-concurrent-streams", Number, "4294967295", Works, "most streams a connection"),
    flag("watch-progress-notify-interval", Time, "0s", Works, "interval of watch progress notices (0: 10m)"),
    flag("heartbeat-interval", Number, "100", Works, "raft heartbeat in ms"),
    flag(
        "election-timeout",
        Number,
        "1000",
        Works,
        "raft election timeout in ms; the shortest lease is 1.5 times this",
    ),
    flag("log-level", Text, "info", Works, "debug, info, warn, error, panic or fatal"),
    flag("log-format", Text, "json", Works, "json or console"),
    flag("log-outputs", Text, "default", Works, "default (stderr), stdout, stderr or file paths"),
    flag("logger", Text, "zap", Works, "accepted for etcd's sake: zap"),
    flag("warning-unary-request-duration", Time, "300ms", Works, "a slower request is logged with its slowest stage"),
    flag(
        "warning-apply-duration",
        Time,
        "100ms",
        Works,
        "a request that is applied, or reads, for longer is logged too",
    ),
    flag("shards", Number, "0", Works, "executors, one a core (0: what the affinity mask and the cgroup allow)"),
    flag(
        "memory-limit",
        Number,
        "0",
        Works,
        "anonymous memory in bytes to stay within (0: a quarter of the machine's or the cgroup's; at least 192 MiB)",
    ),
    flag("snapshot-count", Number, "10000", NoMeaning, "checkpoints follow the bytes of the log"),
    flag("snapshot-catchup-entries", Number, "5000", NoMeaning, ""),
    flag("initial-election-tick-advance", Bool, "true", NoMeaning, ""),
    flag("listen-client-http-urls", Text, "", Refused("a listener for HTTP alone is not built yet"), ""),
    flag(
        "listen-metrics-urls",
        Text,
        "",
        Refused("a listener for metrics alone is not built yet: /metrics is on the client URLs"),
        "",
    ),
    flag("max-wals", Number, "5", NoMeaning, ""),
    flag("backend-bbolt-freelist-type", Text, "", NoMeaning, ""),
    flag("backend-batch-interval", Time, "0", NoMeaning, ""),
    flag("backend-batch-limit", Number, "0", NoMeaning, ""),
    flag("grpc-keepalive-min-time", Time, "5s", NoMeaning, ""),
    flag("grpc-keepalive-interval", Time, "2h0m0s", Works, "idle time after which a client is pinged"),
    flag("grpc-keepalive-timeout", Time, "20s", Works, "time for a client to answer a ping"),
    flag("socket-reuse-port", Bool, "false", Refused("two processes would silently share the port"), ""),
    flag("socket-reuse-address", Bool, "false", NoMeaning, ""),
    flag("raft-read-timeout", Time, "5s", NoMeaning, ""),
    flag("raft-write-timeout", Time, "5s", NoMeaning, ""),
    flag("memory-mlock", Bool, "false", NoMeaning, ""),
    flag("max-learners", Number, "1", Works, "most learners at a time; a leader refuses more"),
    flag("discovery-token", Text, "", PEERS, ""),
    flag("discovery-endpoints", Text, "", PEERS, ""),
    flag("discovery-dial-timeout", Time, "2s", NoMeaning, ""),
    flag("discovery-request-timeout", Time, "5s", NoMeaning, ""),
    flag("discovery-keepalive-time", Time, "2s", NoMeaning, ""),
    flag("discovery-keepalive-timeout", Time, "6s", NoMeaning, ""),
    flag("discovery-insecure-transport", Bool, "true", NoMeaning, ""),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", NoMeaning, ""),
    flag("discovery-cert", Text, "", PEERS, ""),
    flag("discovery-key", Text, "", PEERS, ""),
    flag("discovery-cacert", Text, "", PEERS, ""),
    flag("discovery-user", Text, "", PEERS, ""),
    flag("discovery-password", Text, "", PEERS, ""),
    flag("discovery-srv", Text, "", PEERS, ""),
    flag("discovery-srv-name", Text, "", PEERS, ""),
    flag("discovery-fallback", Text, "exit", NoMeaning, ""),
    flag(
        "strict-reconfig-check",
        Bool,
        "true",
        Works,
        "a leader refuses changes of the members that may cost the quorum",
    ),
    flag("pre-vote", Bool, "true", Refused("pre-vote is always on"), ""),
    flag(
        "auto-compaction-retention",
        Text,
        "0",
        Works,
        "history to keep: hours or a duration, or revisions (0: nothing is compacted by itself)",
    ),
    flag(
        "auto-compaction-mode",
        Text,
        "periodic",
        Works,
        "periodic or revision: what --auto-compaction-retention counts",
    ),
    flag("cert-file", Text, "", TLS, ""),
    flag("key-file", Text, "", TLS, ""),
    flag("client-cert-file", Text, "", TLS, ""),
    flag("client-key-file", Text, "", TLS, ""),
    flag("trusted-ca-file", Text, "", TLS, ""),
    flag("client-crl-file", Text, "", TLS, ""),
    flag("client-cert-allowed-hostname", Text, "", TLS, ""),
    flag("client-cert-auth", Bool, "false", TLS, ""),
    flag("auto-tls", Bool, "false", TLS, ""),
    flag("peer-cert-file", Text, "", Works, "certificate of this member for the others, PEM"),
    flag("peer-key-file", Text, "", Works, "its key, PEM"),
    flag("peer-client-cert-file", Text, "", Works, "what is shown when dialling, if not --peer-cert-file, PEM"),
    flag("peer-client-key-file", Text, "", Works, "its key, PEM"),
    flag("peer-trusted-ca-file", Text, "", Works, "who signs the certificates of members, PEM"),
    flag("peer-crl-file", Text, "", TLS, ""),
    flag("peer-cert-allowed-cn", Text, "", Works, "common names that a member's certificate may have, comma-separated"),
    flag("peer-cert-allowed-hostname", Text, "", Works, "hosts of which one must be in a member's certificate"),
    flag("peer-client-cert-auth", Bool, "false", Works, "members that connect must show a certificate of those"),
    flag("peer-auto-tls", Bool, "false", Works, "generated certificates: what happens without files anyway"),
    flag(
        "peer-skip-client-san-verification",
        Bool,
        "false",
        Works,
        "do not ask that the addresses in the certificate of a member that dials are where it dials from",
    ),
    flag("self-signed-cert-validity", Number, "1", NoMeaning, ""),
    flag("cipher-suites", Text, "", TLS, ""),
    flag("tls-min-version", Text, "TLS1.2", TLS, ""),
    flag("tls-max-version", Text, "", TLS, ""),
    flag("cors", Text, "*", Refused("cross-origin rules are not built yet"), ""),
    flag("host-whitelist", Text, "*", Refused("host rules are not built yet"), ""),
    flag("auth-token", Text, "simple", Refused("auth is not built yet"), ""),
    flag("auth-token-ttl", Number, "300", NoMeaning, ""),
    flag("bcrypt-cost", Number, "10", NoMeaning, ""),
    flag("enable-log-rotation", Bool, "false", NoMeaning, ""),
    flag("log-rotation-config-json", Text, "", NoMeaning, ""),
    flag("enable-pprof", Bool, "false", NoMeaning, ""),
    flag("metrics", Text, "basic", Works, "basic or extensive"),
    flag("enable-distributed-tracing", Bool, "false", NoMeaning, ""),
    flag("distributed-tracing-address", Text, "localhost:4317", NoMeaning, ""),
    flag("distributed-tracing-service-name", Text, "etcd", NoMeaning, ""),
    flag("distributed-tracing-instance-id", Text, "", NoMeaning, ""),
    flag("distributed-tracing-sampling-rate", Number, "0", NoMeaning, ""),
    flag("enable-grpc-gateway", Bool, "true", NoMeaning, ""),
    flag("corrupt-check-time", Time, "0s", NoMeaning, ""),
    flag("compact-hash-check-time", Time, "1m0s", NoMeaning, ""),
    flag("compaction-batch-limit", Number, "0", NoMeaning, ""),
    flag("compaction-sleep-interval", Time, "0s", NoMeaning, ""),
    flag("downgrade-check-time", Time, "5s", NoMeaning, ""),
    flag("bootstrap-defrag-threshold-megabytes", Number, "0", NoMeaning, ""),
    flag("feature-gates", Text, "", NoMeaning, ""),
    flag(
        "force-new-cluster",
        Bool,
        "false",
        Works,
        "once, after the quorum was lost for good: this member becomes a cluster of one with all that it has",
    ),
    flag("unsafe-no-fsync", Bool, "false", Refused("an acknowledged write is always on disk here"), ""),
    flag("config-file", Text, "", Refused("configuration files are not built yet: use flags or ETCD_* variables"), ""),
    flag("cluster-active-size", Text, "", Ignored, ""),
    flag("cluster-remove-delay", Text, "", Ignored, ""),
    flag("cluster-sync-interval", Text, "", Ignored, ""),
    flag("config", Text, "", Ignored, ""),
    flag("force", Bool, "false", Ignored, ""),
    flag("max-result-buffer", Text, "", Ignored, ""),
    flag("max-retry-attempts", Text, "", Ignored, ""),
    flag("peer-heartbeat-interval", Text, "", Ignored, ""),
    flag("peer-election-timeout", Text, "", Ignored, ""),
    flag("retry-interval", Text, "", Ignored, ""),
    flag("snapshot", Bool, "false", Ignored, ""),
    flag("v", Bool, "false", Ignored, ""),
    flag("vv", Bool, "false", Ignored, ""),
];

/// Why the command line is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum FlagError {
    /// Its form is wrong: exit status 2.
    Usage(String),
    /// It asks for what can't be had: exit status 1.
    Refused(String),
}

/// What the command line and the environment say.
#[derive(Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
    /// Warnings to log once logging is up.
    pub warnings: Vec<String>,
    /// `--help` was given.
    pub help: bool,
    /// `--version` was given.
    pub version: bool,
}

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// A Go duration: `10m`, `1h30m`, `100ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit_end] {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += value * seconds;
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|_| !text.is_empty())
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn check_value(flag: &Flag, value: &str, source: &str) -> Result<(), FlagError> {
    let good = match flag.kind {
        Text => true,
        Number => value.parse::<i64>().is_ok(),
        Bool => parse_bool(value).is_some(),
        Time => parse_duration(value).is_some(),
    };
    if good {
        return Ok(());
    }
    let wanted = match flag.kind {
        Text => "text",
        Number => "a whole number",
        Bool => "true or false",
        Time => "a duration such as 500ms, 10s or 5m",
    };
    Err(FlagError::Usage(format!("invalid value {value:?} for {source}: {wanted} is expected")))
}

fn same_value(flag: &Flag, value: &str) -> bool {
    match flag.kind {
        Bool => parse_bool(value) == parse_bool(flag.default),
        Time => parse_duration(value) == parse_duration(flag.default),
        Text | Number => value == flag.default,
    }
}

impl Settings {
    /// Reads arguments (Go's forms: `-x`, `--x`, `=v` or a word of its own; booleans need `=`) and `ETCD_*` variables.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn read(
        arguments: &[String],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Settings, FlagError> {
        let mut settings = Settings::default();
        settings.read_arguments(arguments)?;
        settings.read_environment(environment)?;
        settings.check_effects()?;
        Ok(settings)
    }

    fn read_arguments(&mut self, arguments: &[String]) -> Result<(), FlagError> {
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                return Err(FlagError::Usage(format!("{argument:?} is not a valid flag")));
            };
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            match name {
                "help" | "h" => {
                    self.help = true;
                    continue;
                }
                "version" => {
                    self.version = true;
                    continue;
                }
                _ => {}
            }
            let Some(flag) = find(name) else {
                return Err(FlagError::Usage(format!("flag provided but not defined: -{name}")));
            };
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Bool) => "true".to_owned(),
                (None, _) => arguments
                    .next()
                    .cloned()
                    .ok_or_else(|| FlagError::Usage(format!("flag needs an argument: -{name}")))?,
            };
            check_value(flag, &value, &format!("--{name}"))?;
            self.values.insert(flag.name, value);
        }
        Ok(())
    }

    fn read_environment(&mut self, environment: impl Iterator<Item = (String, String)>) -> Result<(), FlagError> {
        for (variable, value) in environment {
            let Some(rest) = variable.strip_prefix("ETCD_") else { continue };
            if value.is_empty() || matches!(rest, "UNSUPPORTED_ARCH" | "VERIFY" | "VERSION") {
                continue;
            }
            let name = rest.to_ascii_lowercase().replace('_', "-");
            let Some(flag) = find(&name) else {
                self.warnings.push(format!("unrecognized environment variable {variable}={value}"));
                continue;
            };
            if self.values.contains_key(flag.name) {
                return Err(FlagError::Refused(format!(
                    "conflicting environment variable {variable} is shadowed by corresponding command-line flag --{name}: either unset the environment variable or drop the flag"
                )));
            }
            check_value(flag, &value, &variable)?;
            self.values.insert(flag.name, value);
        }
        Ok(())
    }

    fn check_effects(&mut self) -> Result<(), FlagError> {
        for (name, value) in &self.values {
            let flag = find(name).expect("only known flags are kept");
            match flag.effect {
                Refused(why) if !same_value(flag, value) => {
                    return Err(FlagError::Refused(format!(
                        "--{name}={value} would have no effect: {why}. Remove the flag to start without it"
                    )));
                }
                NoMeaning => self.warnings.push(format!("--{name} has no meaning in ringstone and is ignored")),
                Works | Refused(_) | Ignored => {}
            }
        }
        Ok(())
    }

    /// True when flag or variable was given.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A flag's text, or its default.
    pub fn text(&self, name: &str) -> &str {
        let flag = find(name).expect("the table has the flag");
        self.values.get(name).map_or(flag.default, String::as_str)
    }

    /// A number.
    pub fn number(&self, name: &str) -> i64 {
        self.text(name).parse().expect("checked when it was read")
    }

    /// A switch.
    pub fn is_on(&self, name: &str) -> bool {
        parse_bool(self.text(name)).expect("checked when it was read")
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Duration {
        parse_duration(self.text(name)).expect("checked when it was read")
    }
}

/// The text of `serve --help`.
pub fn usage() -> String {
    let mut text = String::from("Usage: ringstone serve [flags]\n\nEach flag is also an ETCD_* variable.\n\n");
    for flag in FLAGS.iter().filter(|flag| flag.effect == Works) {
        let default = if flag.default.is_empty() { "" } else { flag.default };
        let _ = writeln!(text, "  --{:<34} {} [{default}]", flag.name, flag.help);
    }
    text.push_str("\nNot built yet, refused when set:\n");
    for flag in FLAGS {
        if let Refused(why) = flag.effect {
            let _ = writeln!(text, "  --{:<34} {why}", flag.name);
        }
    }
    text.push_str("\netcd's other flags are taken with a warning: they have no meaning here.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, FlagError> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let environment: Vec<(String, String)> =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Settings::read(&arguments, environment.into_iter())
    }

    #[test]
    fn go_forms_are_taken() {
        let settings = read(&["-name", "a", "--max-txn-ops=5", "--enable-pprof"], &[]).expect("valid");
        assert_eq!((settings.text("name"), settings.number("max-txn-ops")), ("a", 5));
        assert_eq!(settings.warnings.len(), 1);
        assert!(
            matches!(read(&["--enable-pprof", "false"], &[]), Err(FlagError::Usage(text)) if text.contains("\"false\""))
        );
    }

    #[test]
    fn unknown_flags_and_bad_values_are_usage_errors() {
        for arguments in [
            &["--nope"][..],
            &["--experimental-x=1"],
            &["--name"],
            &["--max-txn-ops=x"],
            &["stray"],
            &["--watch-progress-notify-interval=5"],
        ] {
            assert!(matches!(read(arguments, &[]), Err(FlagError::Usage(_))), "{arguments:?}");
        }
    }

    #[test]
    fn the_environment_counts_and_may_not_conflict() {
        assert_eq!(read(&[], &[("ETCD_NAME", "b"), ("ETCD_DATA_DIR", "")]).expect("valid").text("name"), "b");
        assert!(matches!(read(&["--name=a"], &[("ETCD_NAME", "b")]), Err(FlagError::Refused(_))));
        assert_eq!(read(&[], &[("ETCD_WHAT", "1")]).expect("valid").warnings.len(), 1);
    }

    #[test]
    fn what_would_change_security_or_data_is_refused() {
        for argument in ["--cert-file=a", "--client-cert-auth", "--unsafe-no-fsync", "--auth-token=jwt"] {
            assert!(matches!(read(&[argument], &[]), Err(FlagError::Refused(_))), "{argument}");
        }
        read(&["--client-cert-auth=false", "--auto-compaction-retention=12h", "--cors=*"], &[])
            .expect("defaults are fine");
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1_500)));
        for bad in ["", "5", "s", "-5s", "5x"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
