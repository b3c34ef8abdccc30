//! The words and flags of `ringstone ctl`.
#![allow(rustdoc::broken_intra_doc_links, reason = "the comments are help texts, such as KEY [VALUE]")]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// A command line client for etcd's API.
#[derive(Parser, Debug)]
#[command(name = "ringstone ctl", disable_version_flag = true, infer_subcommands = true)]
pub struct Ctl {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of all commands. Each is also an ETCDCTL_* variable; the flag wins.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// gRPC endpoints, comma separated
    #[arg(long, global = true, env = "ETCDCTL_ENDPOINTS", default_value = "127.0.0.1:2379", value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// The output format: fields, json, protobuf, simple or table
    #[arg(long, short = 'w', global = true, env = "ETCDCTL_WRITE_OUT", default_value = "simple")]
    pub write_out: String,
    /// Print byte strings as hex
    #[arg(long, global = true, env = "ETCDCTL_HEX")]
    pub hex: bool,
    /// Time to connect
    #[arg(long, global = true, env = "ETCDCTL_DIAL_TIMEOUT", default_value = "2s", value_parser = duration)]
    pub dial_timeout: Duration,
    /// Time for a short command
    #[arg(long, global = true, env = "ETCDCTL_COMMAND_TIMEOUT", default_value = "5s", value_parser = duration)]
    pub command_timeout: Duration,
    /// User name, with the password behind a colon (needs authentication, which is not built yet)
    #[arg(long, global = true, env = "ETCDCTL_USER")]
    pub user: Option<String>,
    /// CA certificate (TLS is not built yet)
    #[arg(long, global = true, env = "ETCDCTL_CACERT")]
    pub cacert: Option<PathBuf>,
    /// Client certificate (TLS is not built yet)
    #[arg(long, global = true, env = "ETCDCTL_CERT")]
    pub cert: Option<PathBuf>,
    /// Client key (TLS is not built yet)
    #[arg(long, global = true, env = "ETCDCTL_KEY")]
    pub key: Option<PathBuf>,
    /// Speak without TLS
    #[arg(long, global = true, env = "ETCDCTL_INSECURE_TRANSPORT", default_value_t = true, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub insecure_transport: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::flags::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration, as 5s or 100ms"))
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Puts the given key into the store
    Put(Put),
    /// Gets the key or a range of keys
    Get(Get),
    /// Removes the specified key or range of keys [key, range_end)
    Del(Del),
    /// Processes all the requests of standard input in one transaction
    Txn(Txn),
    /// Watches events stream on keys or prefixes
    Watch(Watch),
    /// Lease related commands
    Lease(Lease),
    /// Compacts the event history
    #[command(alias = "compact")]
    Compaction(Compaction),
    /// Endpoint related commands
    Endpoint(Endpoint),
    /// Membership related commands
    Member(Member),
    /// Transfers leadership to another etcd cluster member
    MoveLeader(MoveLeader),
    /// Defragments the storage of the members behind the endpoints
    Defrag(Defrag),
    /// Alarm related commands
    Alarm(Alarm),
    /// Takes snapshots
    Snapshot(Snapshot),
    /// Acquires a named lock, and holds it until a signal comes or the command has ended
    Lock(Lock),
    /// Observes and participates in leader election
    Elect(Elect),
    /// Makes a mirror at the destination cluster
    MakeMirror(MakeMirror),
    /// Checks properties of the cluster
    Check(Check),
    /// Prints the version
    Version,
    /// Generates a completion script for a shell: source <(ringstone ctl completion bash)
    Completion(Completion),
    /// Prints the flags that any command takes
    Options,
}

#[derive(Args, Debug)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The shells that etcdctl has.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
#[value(rename_all = "lower")]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    #[value(name = "powershell")]
    Pwsh,
}

#[derive(Args, Debug, Default)]
pub struct Put {
    /// KEY [VALUE]; the value is read from standard input where it is missing
    pub words: Vec<String>,
    /// Lease id (in hexadecimal) to attach to the key
    #[arg(long, default_value = "0")]
    pub lease: String,
    /// Return the previous key-value pair before modification
    #[arg(long)]
    pub prev_kv: bool,
    /// Updates the key using its current value
    #[arg(long)]
    pub ignore_value: bool,
    /// Updates the key using its current lease
    #[arg(long)]
    pub ignore_lease: bool,
}

#[derive(Args, Debug)]
pub struct Get {
    /// KEY [RANGE_END]
    pub words: Vec<String>,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l")]
    pub consistency: String,
    /// Order of results; ASCEND or DESCEND
    #[arg(long, default_value = "")]
    pub order: String,
    /// Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION
    #[arg(long, default_value = "")]
    pub sort_by: String,
    /// Maximum number of results
    #[arg(long, default_value_t = 0)]
    pub limit: i64,
    /// Get keys with matching prefix
    #[arg(long)]
    pub prefix: bool,
    /// Get keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    pub from_key: bool,
    /// Specify the kv revision
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub rev: i64,
    /// Get only the keys
    #[arg(long)]
    pub keys_only: bool,
    /// Get only the count
    #[arg(long)]
    pub count_only: bool,
    /// Only write values when using the "simple" output format
    #[arg(long)]
    pub print_value_only: bool,
    /// Minimum create revision
    #[arg(long, default_value_t = 0)]
    pub min_create_rev: i64,
    /// Maximum create revision
    #[arg(long, default_value_t = 0)]
    pub max_create_rev: i64,
    /// Minimum modification revision
    #[arg(long, default_value_t = 0)]
    pub min_mod_rev: i64,
    /// Maximum modification revision
    #[arg(long, default_value_t = 0)]
    pub max_mod_rev: i64,
    /// Use the RangeStream RPC
    #[arg(long)]
    pub stream: bool,
}

#[derive(Args, Debug)]
pub struct Del {
    /// KEY [RANGE_END]
    pub words: Vec<String>,
    /// Delete keys with matching prefix
    #[arg(long)]
    pub prefix: bool,
    /// Return deleted key-value pairs
    #[arg(long)]
    pub prev_kv: bool,
    /// Delete keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    pub from_key: bool,
    /// Delete a range of keys
    #[arg(long)]
    pub range: bool,
}

#[derive(Args, Debug)]
pub struct Txn {
    /// Prompt for what to type
    #[arg(long, short = 'i')]
    pub interactive: bool,
}

/// A line of `watch -i`.
#[derive(Parser, Debug)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub struct WatchLine {
    #[command(flatten)]
    pub watch: Watch,
}

#[derive(Args, Debug)]
pub struct Watch {
    /// KEY [RANGE_END]
    pub words: Vec<String>,
    /// A command to run for each event, with ETCD_WATCH_* in its environment
    #[arg(last = true)]
    pub exec: Vec<String>,
    /// Read lines `watch [FLAGS] KEY [RANGE_END] [-- COMMAND]` and `progress` from standard input
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Watch on a prefix if prefix is set
    #[arg(long)]
    pub prefix: bool,
    /// Revision to start watching
    #[arg(long, default_value_t = 0)]
    pub rev: i64,
    /// Get the previous key-value pair before the event happens
    #[arg(long)]
    pub prev_kv: bool,
    /// Get periodic watch progress notification from server
    #[arg(long)]
    pub progress_notify: bool,
}

#[derive(Args, Debug)]
pub struct Compaction {
    /// REVISION
    pub words: Vec<String>,
    /// Wait for compaction to physically remove all old revisions
    #[arg(long)]
    pub physical: bool,
}

#[derive(Args, Debug)]
pub struct Lease {
    #[command(subcommand)]
    pub command: LeaseCommand,
}

#[derive(Subcommand, Debug)]
pub enum LeaseCommand {
    /// Creates leases
    Grant { words: Vec<String> },
    /// Revokes leases
    Revoke { words: Vec<String> },
    /// Gets lease information
    Timetolive {
        words: Vec<String>,
        /// Get keys attached to this lease
        #[arg(long)]
        keys: bool,
    },
    /// Lists all active leases
    List,
    /// Keeps leases alive (renew)
    KeepAlive {
        words: Vec<String>,
        /// Resets the keep-alive time to its original value and exits
        #[arg(long)]
        once: bool,
    },
}

#[derive(Args, Debug)]
pub struct Endpoint {
    /// Use all endpoints from the cluster member list
    #[arg(long, global = true)]
    pub cluster: bool,
    #[command(subcommand)]
    pub command: EndpointCommand,
}

#[derive(Subcommand, Debug)]
pub enum EndpointCommand {
    /// Checks the healthiness of endpoints
    Health,
    /// Prints out the status of endpoints
    Status,
    /// Prints the KV history hash for each endpoint
    Hashkv {
        /// Maximum revision to hash (default: latest revision)
        #[arg(long, default_value_t = 0)]
        rev: i64,
    },
}

fn member_id(text: &str) -> Result<u64, std::num::ParseIntError> {
    u64::from_str_radix(text, 16)
}

#[derive(Args, Debug)]
pub struct MoveLeader {
    /// Id of the member that shall lead, in hexadecimal digits
    #[arg(value_parser = member_id)]
    pub to: u64,
}

#[derive(Args, Debug)]
pub struct Member {
    #[command(subcommand)]
    pub command: MemberCommand,
}

#[derive(Subcommand, Debug)]
pub enum MemberCommand {
    /// Adds a member into the cluster
    Add {
        /// Its name, for the variables that are printed
        name: String,
        /// Comma separated peer URLs for the new member
        #[arg(long, value_delimiter = ',', required = true)]
        peer_urls: Vec<String>,
        /// Indicates if the new member is raft learner
        #[arg(long)]
        learner: bool,
    },
    /// Removes a member from the cluster
    Remove {
        /// Its id, in hexadecimal digits
        #[arg(value_parser = member_id)]
        id: u64,
    },
    /// Updates a member in the cluster
    Update {
        /// Its id, in hexadecimal digits
        #[arg(value_parser = member_id)]
        id: u64,
        /// Comma separated peer URLs for the updated member
        #[arg(long, value_delimiter = ',', required = true)]
        peer_urls: Vec<String>,
    },
    /// Promotes a non-voting member in the cluster
    Promote {
        /// Its id, in hexadecimal digits
        #[arg(value_parser = member_id)]
        id: u64,
    },
    /// Lists all members in the cluster
    List {
        /// Linearizable(l) or Serializable(s)
        #[arg(long, default_value = "l")]
        consistency: String,
    },
}

#[derive(Args, Debug)]
pub struct Defrag {
    /// Use all endpoints from the cluster member list
    #[arg(long)]
    pub cluster: bool,
}

#[derive(Args, Debug)]
pub struct Alarm {
    #[command(subcommand)]
    pub command: AlarmCommand,
}

#[derive(Subcommand, Debug)]
pub enum AlarmCommand {
    /// Lists all alarms
    List,
    /// Disarms all alarms
    Disarm,
}

#[derive(Args, Debug)]
pub struct Lock {
    /// LOCKNAME [COMMAND [ARGUMENT...]]; behind -- the command's flags are its own
    pub words: Vec<String>,
    /// Seconds after which the lock is free, once this client is gone
    #[arg(long, default_value_t = 10)]
    pub ttl: i64,
}

#[derive(Args, Debug)]
pub struct Elect {
    /// ELECTION [PROPOSAL]
    pub words: Vec<String>,
    /// Show who leads
    #[arg(long, short = 'l')]
    pub listen: bool,
}

#[derive(Args, Debug)]
pub struct MakeMirror {
    /// DESTINATION
    pub words: Vec<String>,
    /// Key-value prefix to mirror
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Specify the kv revision to start to mirror
    #[arg(long, default_value_t = 0)]
    pub rev: i64,
    /// Maximum number of operations permitted in a transaction during syncing updates
    #[arg(long, default_value_t = 128)]
    pub max_txn_ops: usize,
    /// Destination prefix, to mirror a prefix to a different one
    #[arg(long, default_value = "")]
    pub dest_prefix: String,
    /// Mirror key-values to the root of the destination cluster
    #[arg(long)]
    pub no_dest_prefix: bool,
    /// Speak to the destination without TLS
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = clap::ArgAction::Set)]
    pub dest_insecure_transport: bool,
}

#[derive(Args, Debug)]
pub struct Check {
    #[command(subcommand)]
    pub command: CheckCommand,
}

#[derive(Subcommand, Debug)]
pub enum CheckCommand {
    /// Check the performance of the cluster
    Perf(CheckFlags),
    /// Check the memory usage of holding data for different workloads on a given server endpoint
    Datascale(CheckFlags),
}

#[derive(Args, Debug, Clone)]
pub struct CheckFlags {
    /// The workload: s(small), m(medium), l(large), xl(xLarge)
    #[arg(long, default_value = "s")]
    pub load: String,
    /// The prefix for writing the check's keys
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Compact storage with last revision after the check is finished
    #[arg(long)]
    pub auto_compact: bool,
    /// Defragment storage after the check is finished
    #[arg(long)]
    pub auto_defrag: bool,
    /// Time of the performance check, where etcdctl's 60 s are too long
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub duration: Duration,
}

impl CheckFlags {
    /// With a prefix, where none was given.
    pub fn or_prefix(mut self, prefix: &str) -> CheckFlags {
        if self.prefix.is_empty() {
            prefix.clone_into(&mut self.prefix);
        }
        self
    }
}

#[derive(Args, Debug)]
pub struct Snapshot {
    #[command(subcommand)]
    pub command: SnapshotCommand,
}

#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Stores a snapshot of the member to a given file
    Save {
        /// The file
        files: Vec<PathBuf>,
    },
}

/// Requests of a transaction, one a line.
#[derive(Parser, Debug)]
#[command(no_binary_name = true)]
pub struct TxnLine {
    #[command(subcommand)]
    pub command: TxnCommand,
}

#[derive(Subcommand, Debug)]
pub enum TxnCommand {
    Put(Put),
    Get(Get),
    Del(Del),
}
