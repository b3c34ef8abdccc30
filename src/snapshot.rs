//! `ringstone snapshot`: etcdutl's words and flags, offline. `save` asks a server, as `ctl snapshot save` does.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringstone_core::command::Member;
use ringstone_core::group::{Restore, RestoreError, RestoreOptions};
use ringstone_core::identity::{self, FolderPaths, Identity, IdentityError};
use ringstone_core::image::{ImageError, ImageReader, ImageSummary};
use ringstone_net::peer::PeerAddress;
use ringstone_wal::disk::ring::RingDisk;
use sha2::{Digest as _, Sha256};

use crate::ctl;
use crate::initial_cluster::initial_members;

/// Length of the SHA-256 behind the image.
const SUM_BYTES: u64 = 32;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

#[derive(Parser, Debug)]
#[command(name = "ringstone snapshot", disable_version_flag = true)]
struct Snapshot {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Prints hash, revision, total keys and total size of a snapshot file, and checks all of it
    Status {
        /// The snapshot
        file: PathBuf,
        /// The output format: fields, json, simple or table
        #[arg(long, short = 'w', default_value = "simple")]
        write_out: String,
    },
    /// Makes the data folder of a member of a new cluster from a snapshot file; once for each member, from the same file
    Restore(RestoreFlags),
}

#[derive(clap::Args, Debug)]
struct RestoreFlags {
    /// The snapshot
    file: PathBuf,
    /// The folder to make; NAME.etcd where it is missing
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The folder of the log; in the data folder where it is missing
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// Name of the member
    #[arg(long, default_value = "default")]
    name: String,
    /// The members of the new cluster, NAME=URL,NAME=URL,...: the same for each of them, made from the same file
    #[arg(long, default_value = "default=http://localhost:2380")]
    initial_cluster: String,
    /// Token of the new cluster
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// Peer URLs of this member
    #[arg(long, default_value = "http://localhost:2380", value_delimiter = ',')]
    initial_advertise_peer_urls: Vec<String>,
    /// Take a file without a SHA-256 at its end (its own checksums are always checked)
    #[arg(long)]
    skip_hash_check: bool,
    /// How much to increase the latest revision after restore
    #[arg(long, default_value_t = 0)]
    bump_revision: u64,
    /// Compact at the latest revision after restore (required with --bump-revision)
    #[arg(long)]
    mark_compacted: bool,
}

/// Why a snapshot file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file can't be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: std::io::Error,
    },
    /// Its sum does not fit.
    #[error("{0}: its sha256 is wrong: the file is damaged, take another snapshot")]
    Sum(PathBuf),
    /// etcd's own format.
    #[error(
        "{0} is a snapshot of etcd (a bbolt file), which this version can't read: copy the keys with a client instead"
    )]
    Etcd(PathBuf),
    /// It is no whole image.
    #[error("{path}: {error}")]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: ImageError,
    },
}

/// Runs `ringstone snapshot ARGUMENTS`.
pub fn main(arguments: &[String]) -> ExitCode {
    if arguments.first().is_some_and(|word| word == "save") {
        return ctl::snapshot_save(&arguments[1..]);
    }
    let words = std::iter::once("ringstone snapshot".to_owned()).chain(arguments.iter().cloned());
    let snapshot = match Snapshot::try_parse_from(words) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(128) } else { ExitCode::SUCCESS };
        }
    };
    let done = match &snapshot.command {
        Command::Status { file, write_out } => status(file, write_out),
        Command::Restore(flags) => restore(flags),
    };
    match done {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("Error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn status(path: &Path, write_out: &str) -> Result<String, String> {
    let summary = read(path, &mut |reader| reader.drain(&mut |_, _, _| Ok(()))).map_err(|error| error.to_string())?;
    let header = &summary.header;
    let (hash, revision, keys, bytes) = (summary.hash, header.revision, header.keys, header.total_bytes);
    let size = ctl::human_bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    let row = vec![format!("{hash:08x}"), revision.to_string(), keys.to_string(), size];
    match write_out {
        "simple" => Ok(row.join(", ")),
        "json" => Ok(format!("{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{bytes}}}")),
        "fields" => Ok(format!("\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {bytes}")),
        "table" => {
            let header = &["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"];
            Ok(ctl::Table { header, rows: vec![row] }.lines().join("\n"))
        }
        "protobuf" => Err("protobuf not supported as output format".to_owned()),
        _ => Err("unsupported output format".to_owned()),
    }
}

/// What may stop a restore.
#[derive(Debug, thiserror::Error)]
enum RestoreFailure {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Ring(#[from] ringstone_wal::RingError),
}

fn has_entries(folder: &Path) -> bool {
    std::fs::read_dir(folder)
        .map_or_else(|error| error.kind() != std::io::ErrorKind::NotFound, |mut entries| entries.next().is_some())
}

/// The new cluster's members, ascending by id, and the id of this one. From the flags alone, so that each member that is made
/// from one file begins in the same state.
fn new_members(flags: &RestoreFlags) -> Result<(Vec<Member>, u64), String> {
    let founders = initial_members(&flags.name, &flags.initial_advertise_peer_urls, &flags.initial_cluster)?;
    let mut own = 0;
    let mut members = Vec::new();
    for founder in founders {
        let mut peer_urls = founder.peer_urls;
        peer_urls.sort_unstable();
        if let Some(url) = peer_urls.iter().find(|url| PeerAddress::parse(url).is_err()) {
            return Err(format!("--initial-cluster: {url:?} is no peer URL: http://HOST:PORT is expected"));
        }
        let id = identity::member_id(&peer_urls, &flags.initial_cluster_token);
        if founder.name == flags.name {
            own = id;
        }
        members.push(Member { id, name: founder.name, peer_urls, client_urls: Vec::new(), is_learner: false });
    }
    members.sort_unstable_by_key(|member| member.id);
    Ok((members, own))
}

fn restore(flags: &RestoreFlags) -> Result<String, String> {
    if (flags.bump_revision > 0) != flags.mark_compacted {
        return Err("--mark-compacted required if --bump-revision > 0, and only then".to_owned());
    }
    let (members, own) = new_members(flags)?;
    let data_dir = flags.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", flags.name)));
    if has_entries(&data_dir) {
        return Err(format!("data-dir {data_dir:?} not empty or could not be read"));
    }
    if let Some(wal_dir) = flags.wal_dir.as_ref().filter(|folder| has_entries(folder)) {
        return Err(format!("wal-dir {wal_dir:?} not empty or could not be read"));
    }
    let length = std::fs::metadata(&flags.file).map_err(|error| format!("{}: {error}", flags.file.display()))?.len();
    if length % 512 != SUM_BYTES && !flags.skip_hash_check {
        return Err("snapshot missing hash but --skip-hash-check=false".to_owned());
    }
    // The whole file is checked before anything is made.
    read(&flags.file, &mut |reader| reader.drain(&mut |_, _, _| Ok(()))).map_err(|error| error.to_string())?;
    let made_dir = !data_dir.exists();
    let made_wal_dir = flags.wal_dir.as_ref().is_some_and(|folder| !folder.exists());
    restore_into(flags, &data_dir, members, own).map_err(|error| {
        let _ = std::fs::remove_dir_all(data_dir.join("member.tmp"));
        if made_dir {
            let _ = std::fs::remove_dir(&data_dir);
        }
        if let Some(wal_dir) = &flags.wal_dir {
            for entry in std::fs::read_dir(wal_dir).into_iter().flatten().flatten() {
                let _ = std::fs::remove_file(entry.path());
            }
            if made_wal_dir {
                let _ = std::fs::remove_dir(wal_dir);
            }
        }
        format!("{error} (nothing was made)")
    })
}

fn restore_into(
    flags: &RestoreFlags,
    data_dir: &Path,
    members: Vec<Member>,
    member_id: u64,
) -> Result<String, RestoreFailure> {
    let mut file_id = [0; 16];
    getrandom::fill(&mut file_id).expect("the kernel has randomness once the system is up");
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    let identity = Identity { cluster_id: identity::cluster_id(&ids), member_id, file_id };
    let paths = FolderPaths { data_dir: data_dir.to_owned(), wal_dir: flags.wal_dir.clone() };
    let options = RestoreOptions { members, bump_revision: flags.bump_revision, mark_compacted: flags.mark_compacted };
    let mut revision = 0;
    paths.create(identity, |page_file, wal_dir| -> Result<(), RestoreFailure> {
        let mut restore = Restore::create(page_file, &identity)?;
        let mut stopped = None;
        let summary = read(&flags.file, &mut |reader| match restore.drain(reader) {
            Ok(()) => Ok(()),
            Err(RestoreError::Image(error)) => Err(error),
            Err(error) => {
                stopped = Some(error);
                Err(ImageError::NotAnImage)
            }
        });
        if let Some(error) = stopped {
            return Err(error.into());
        }
        let summary = summary?;
        revision = summary.header.revision;
        let mut ring = RingDisk::open(wal_dir, None)?;
        Ok(restore.finish(&summary, &options, &mut ring)?)
    })?;
    Ok(format!(
        "restored {} at revision {revision} into {}: cluster {:x} of {}, member {:x}",
        flags.file.display(),
        data_dir.display(),
        identity.cluster_id,
        ids.len(),
        identity.member_id
    ))
}

/// Reads a snapshot file in pieces, each drained by `drain`, and checks its sum where it has one.
///
/// # Errors
/// [`SnapshotError`]: what was drained before must be thrown away.
pub fn read(
    path: &Path,
    drain: &mut dyn FnMut(&mut ImageReader) -> Result<(), ImageError>,
) -> Result<ImageSummary, SnapshotError> {
    let io = |error| SnapshotError::Io { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let with_sum = length % 512 == SUM_BYTES;
    let mut left = if with_sum { length - SUM_BYTES } else { length };
    let (mut sum, mut reader) = (Sha256::new(), ImageReader::new());
    let mut buffer = vec![0; READ_BYTES];
    let mut first = true;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        let got = file.read(&mut buffer[..wanted]).map_err(io)?;
        if got == 0 {
            break;
        }
        let bytes = &buffer[..got];
        // bbolt's meta page: its magic stands behind the page header.
        if first && bytes.get(16..20) == Some(&0xED0C_DAED_u32.to_le_bytes()[..]) {
            return Err(SnapshotError::Etcd(path.to_owned()));
        }
        first = false;
        sum.update(bytes);
        let taken = reader.push(bytes).and_then(|()| drain(&mut reader));
        taken.map_err(|error| SnapshotError::Image { path: path.to_owned(), error })?;
        left -= got as u64;
    }
    let summary = reader.finish().map_err(|error| SnapshotError::Image { path: path.to_owned(), error })?;
    if with_sum {
        let mut expected = [0; SUM_BYTES as usize];
        file.read_exact(&mut expected).map_err(io)?;
        if sum.finalize()[..] != expected {
            return Err(SnapshotError::Sum(path.to_owned()));
        }
    }
    Ok(summary)
}
