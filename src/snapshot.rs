//! `ringstone snapshot`: etcdutl's words and flags, offline. `save` asks a server, as `ctl snapshot save` does.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringstone_core::image::{ImageError, ImageReader, ImageSummary};
use sha2::{Digest as _, Sha256};

use crate::ctl;

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
        /// The output format: simple or json
        #[arg(long, short = 'w', default_value = "simple")]
        write_out: String,
    },
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
    let Command::Status { file, write_out } = snapshot.command;
    match status(&file, &write_out) {
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
    match write_out {
        "simple" => {
            let size = ctl::human_bytes(i64::try_from(header.total_bytes).unwrap_or(i64::MAX));
            Ok(format!("{:08x}, {}, {}, {size}", summary.hash, header.revision, header.keys))
        }
        "json" => Ok(format!(
            "{{\"hash\":{},\"revision\":{},\"totalKey\":{},\"totalSize\":{}}}",
            summary.hash, header.revision, header.keys, header.total_bytes
        )),
        other => Err(format!("--write-out={other}: simple or json is expected")),
    }
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
