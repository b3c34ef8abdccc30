//! snapshot save: the server's stream into a file, which appears under its name only when it is whole and synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ringstone_net::Method;
use ringstone_net::client::CallOptions;
use ringstone_proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use sha2::{Digest as _, Sha256};

use super::connect::{Session, failed};
use super::output::print_line;
use super::{ERROR, Failure, INTERRUPTED, IO, Outcome, go_cause};

/// Length of the SHA-256 behind the bytes that it is of.
const SUM_BYTES: usize = 32;

/// The file while it is not whole: removed unless it was renamed.
struct Part {
    path: PathBuf,
    file: File,
}

impl Drop for Part {
    fn drop(&mut self) {
        // Where it was renamed there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}

fn io_failure(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure::new(IO, format!("{}: {error}", path.display()))
}

fn not_opened(path: &Path, error: &io::Error) -> Failure {
    let (path, cause) = (path.display(), go_cause(error));
    Failure::new(INTERRUPTED, format!("could not open {path} (open {path}: {cause})"))
}

pub async fn save(session: &Session, files: &[PathBuf]) -> Outcome {
    let [path] = files else { return Err(Failure::arguments("snapshot save expects one argument <filename>")) };
    // etcdctl's status for whatever kept it from saving.
    save_as(session, path).await.map_err(|failure| Failure::new(INTERRUPTED, failure.text))
}

async fn save_as(session: &Session, path: &Path) -> Outcome {
    let [endpoint] = session.global.endpoints.as_slice() else {
        let many = session.global.endpoints.join(" ");
        let text = format!("snapshot must be requested to one selected node, not multiple [{many}]");
        return Err(Failure::arguments(text));
    };
    let client = session.client_of(endpoint).await?;
    let opened = client.open::<SnapshotResponse>(Method::MaintenanceSnapshot, &CallOptions::default()).await;
    let (mut requests, mut responses) = opened.map_err(|status| failed(&status))?;
    requests.send(&SnapshotRequest {}).await.map_err(|status| failed(&status))?;
    requests.finish();
    let part_path = PathBuf::from(format!("{}.part", path.display()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part_path);
    let mut part = Part { file: file.map_err(|error| not_opened(&part_path, &error))?, path: part_path };
    let mut sum = Sha256::new();
    // The last bytes may be the sum, which is not of itself.
    let mut tail: Vec<u8> = Vec::new();
    let mut bytes = 0_u64;
    let mut version = String::new();
    while let Some(response) = responses.next().await.map_err(|status| failed(&status))? {
        part.file.write_all(&response.blob).map_err(io_failure(&part.path))?;
        bytes += response.blob.len() as u64;
        tail.extend_from_slice(&response.blob);
        let behind = tail.len().saturating_sub(SUM_BYTES);
        sum.update(&tail[..behind]);
        tail.drain(..behind);
        version = response.version;
    }
    if bytes % 512 != SUM_BYTES as u64 {
        let text = format!("sha256 checksum not found [bytes: {bytes}]: the snapshot was cut short, take it again");
        return Err(Failure::new(ERROR, text));
    }
    if sum.finalize()[..] != tail[..] {
        return Err(Failure::new(ERROR, "the snapshot's sha256 is wrong: it was damaged on its way, take it again"));
    }
    part.file.sync_all().map_err(io_failure(&part.path))?;
    fs::rename(&part.path, path).map_err(io_failure(path))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_failure(folder))?;
    print_line(&format!("Snapshot saved at {}", path.display()));
    if !version.is_empty() {
        print_line(&format!("Server version {version}"));
    }
    Ok(())
}
