//! Who this member is: ids, the identity file, and the lock on its data folder.
//!
//! ```text
//! <data-dir>/member/identity      this file, written once
//! <data-dir>/member/lock          locked while a process uses the folder
//! <data-dir>/member/pages-0       the page file of group 0
//! <data-dir>/member/wal/          the log of group 0 (or --wal-dir)
//! <data-dir>/member.tmp/          a member being made: removed at the next start
//! ```
//!
//! Identity file, little endian:
//!
//! ```text
//! offset size  field
//!      0    8  magic "RSTNIDEN"
//!      8    4  format version (1)
//!     12    4  CRC32 of all other bytes
//!     16    8  features: unknown ones are ignored
//!     24    8  features: unknown ones allow reading only
//!     32    8  features: unknown ones refuse
//!     40    8  cluster id
//!     48    8  member id
//!     56   16  file id: seeds the checksums of this member's log and page file
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ringstone_wal::disk::FileName;
use sha1::{Digest as _, Sha1};

const MAGIC: &[u8; 8] = b"RSTNIDEN";
const FORMAT_VERSION: u32 = 1;
const IDENTITY_BYTES: usize = 72;
/// How long the lock of a process that was killed is waited for. Measured over 12 kills under load: free 10 to 64 ms after
/// the process was reaped.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// A member id from its peer URLs and the cluster's token (etcd: first 8 bytes, big endian, of SHA-1 over the sorted
/// URLs joined, then the token).
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    first_u64(&hash.finalize())
}

/// A cluster id from its first members' ids (etcd: SHA-1 over the ids, ascending, 8 bytes big endian each).
#[must_use]
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    first_u64(&hash.finalize())
}

fn first_u64(digest: &[u8]) -> u64 {
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 20 bytes"))
}

/// What the identity file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Cluster id.
    pub cluster_id: u64,
    /// Member id.
    pub member_id: u64,
    /// Random; names this incarnation of the member's files.
    pub file_id: [u8; 16],
}

/// Why a data folder can't be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error(
        "the data folder {path} is in use by another process (lock on {path}/member/lock): stop that process, or use another --data-dir"
    )]
    InUse {
        /// The data folder.
        path: PathBuf,
    },
    /// Not an identity file, or damaged.
    #[error(
        "{path}: {what}: restore the folder from a backup, or take the member out of the cluster and start it with an empty --data-dir"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A later version made it.
    #[error(
        "{path} has format version {found}, this program knows {FORMAT_VERSION}: start the version of ringstone that wrote it, or upgrade"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
    },
    /// The folder belongs to another member or cluster.
    #[error("{path} belongs to {what} {found:x}, the flags say {expected:x}: use the --data-dir of this member")]
    Foreign {
        /// The data folder.
        path: PathBuf,
        /// "member" or "cluster".
        what: &'static str,
        /// Id in the folder.
        found: u64,
        /// Id from the flags.
        expected: u64,
    },
    /// A part of a known member is missing.
    #[error(
        "{path} is missing, though the member's identity file is there: is a disk not mounted? A known member never starts empty"
    )]
    Missing {
        /// What is missing.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        error: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> IdentityError + '_ {
    move |error| IdentityError::Io { path: path.to_owned(), error }
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.cluster_id.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.member_id.to_le_bytes());
        bytes[56..72].copy_from_slice(&self.file_id);
        let crc = identity_checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
        let damaged = |what| IdentityError::Damaged { path: path.to_owned(), what };
        if bytes.len() != IDENTITY_BYTES {
            return Err(damaged("an identity file has 72 bytes, this one has not"));
        }
        if &bytes[..8] != MAGIC {
            return Err(damaged("this is not a ringstone identity file"));
        }
        let version = u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes"));
        if version != FORMAT_VERSION {
            return Err(IdentityError::Version { path: path.to_owned(), found: version });
        }
        if bytes[12..16] != identity_checksum(bytes).to_le_bytes() {
            return Err(damaged("the identity file's checksum is wrong"));
        }
        if bytes[24..40] != [0; 16] {
            return Err(damaged("the identity file names features that this version does not know: upgrade"));
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Ok(Identity { cluster_id: word(40), member_id: word(48), file_id: bytes[56..72].try_into().expect("16 bytes") })
    }
}

fn identity_checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

/// A member's folder, locked while this value lives.
#[derive(Debug)]
pub struct MemberFolder {
    /// Who it belongs to.
    pub identity: Identity,
    /// True when this start made it.
    pub is_new: bool,
    /// The page file of group 0.
    pub page_file: PathBuf,
    /// The log of group 0.
    pub wal_dir: PathBuf,
    lock: File,
}

impl MemberFolder {
    /// The open file that holds the lock. Rings that write to this folder keep it too: the lock is then free only when
    /// the last of their writes has ended, see docs/decisions/0007-writes-of-a-killed-process.md.
    #[must_use]
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Where a member's parts are.
#[derive(Clone, Debug)]
pub struct FolderPaths {
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--wal-dir`, if given.
    pub wal_dir: Option<PathBuf>,
}

impl FolderPaths {
    fn member(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    fn staging(&self) -> PathBuf {
        self.data_dir.join("member.tmp")
    }

    /// True when a member was made here.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.member().exists()
    }

    /// Opens a member that exists: locks the folder, reads its identity, sees that its parts are there.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing was changed.
    pub fn open(&self) -> Result<MemberFolder, IdentityError> {
        let member = self.member();
        let lock = lock_folder(&self.data_dir, &member)?;
        let path = member.join("identity");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Damaged { path, what: "the folder has no identity file" });
            }
            Err(error) => return Err(IdentityError::Io { path, error }),
        };
        let identity = Identity::decode(&path, &bytes)?;
        let wal_dir = self.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        let page_file = member.join("pages-0");
        for part in [&page_file, &wal_dir] {
            if !part.exists() {
                return Err(IdentityError::Missing { path: part.clone() });
            }
        }
        if self.wal_dir.is_some() {
            finish_log(&wal_dir)?;
        }
        Ok(MemberFolder { identity, is_new: false, page_file, wal_dir, lock })
    }

    /// Makes a new member: `build(page file, wal folder)` writes its parts into a staging folder, which is renamed in
    /// one step. On disk when this returns: all of it, synced; after a crash on the way: nothing that a start would
    /// take for a member.
    ///
    /// # Errors
    /// [`IdentityError`], or what `build` says.
    pub fn create<E: From<IdentityError>>(
        &self,
        identity: Identity,
        build: impl FnOnce(&Path, &Path) -> Result<(), E>,
    ) -> Result<MemberFolder, E> {
        make_dir(&self.data_dir)?;
        let made = self.make(identity, build);
        if made.is_err() {
            // Best effort: the next start removes it too. What was half made must not fill a disk.
            let _ = fs::remove_dir_all(self.staging());
            let _ = self.wal_dir.as_deref().map(clear_unfinished_log);
        }
        made
    }

    fn make<E: From<IdentityError>>(
        &self,
        identity: Identity,
        build: impl FnOnce(&Path, &Path) -> Result<(), E>,
    ) -> Result<MemberFolder, E> {
        let (member, staging) = (self.member(), self.staging());
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(io_error(&staging))?;
        }
        make_dir(&staging)?;
        let lock = lock_folder(&self.data_dir, &staging)?;
        let wal_dir = self.wal_dir.clone().unwrap_or_else(|| staging.join("wal"));
        make_dir(&wal_dir)?;
        if self.wal_dir.is_some() {
            clear_unfinished_log(&wal_dir)?;
            begin_log(&wal_dir)?;
        }
        let page_file = staging.join("pages-0");
        build(&page_file, &wal_dir)?;
        let path = staging.join("identity");
        write_synced(&path, &identity.encode()).map_err(io_error(&path))?;
        sync_dir(&staging)?;
        fs::rename(&staging, &member).map_err(io_error(&member))?;
        sync_dir(&self.data_dir)?;
        if self.wal_dir.is_some() {
            finish_log(&wal_dir)?;
        }
        let wal_dir = self.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        Ok(MemberFolder { identity, is_new: true, page_file: member.join("pages-0"), wal_dir, lock })
    }
}

/// In a log's folder of its own: a member is being made, and what stands here is nobody's yet. Such a folder is not part of
/// what is renamed in one step, so that a start that is cut short leaves segments of an identity that nobody has.
const UNFINISHED: &str = "unfinished";

/// On disk when this returns: the mark, before the first segment. Segments without it are somebody's, and no mark is made.
fn begin_log(wal_dir: &Path) -> Result<(), IdentityError> {
    if segments(wal_dir)?.is_empty() {
        let path = wal_dir.join(UNFINISHED);
        write_synced(&path, b"").map_err(io_error(&path))?;
        sync_dir(wal_dir)?;
    }
    Ok(())
}

fn finish_log(wal_dir: &Path) -> Result<(), IdentityError> {
    let path = wal_dir.join(UNFINISHED);
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(wal_dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(IdentityError::Io { path, error }),
    }
}

/// Removes the segments of a member that was not made to its end, the mark last.
fn clear_unfinished_log(wal_dir: &Path) -> Result<(), IdentityError> {
    if !wal_dir.join(UNFINISHED).exists() {
        return Ok(());
    }
    for path in segments(wal_dir)? {
        fs::remove_file(&path).map_err(io_error(&path))?;
    }
    finish_log(wal_dir)
}

fn segments(wal_dir: &Path) -> Result<Vec<PathBuf>, IdentityError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(wal_dir).map_err(io_error(wal_dir))? {
        let entry = entry.map_err(io_error(wal_dir))?;
        if entry.file_name().to_str().and_then(FileName::parse).is_some() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(path: &Path) -> Result<(), IdentityError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error(path))
}

/// Makes a folder of mode 0700 with its parents; one that exists is left as it is.
fn make_dir(path: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))
}

fn lock_folder(data_dir: &Path, member: &Path) -> Result<File, IdentityError> {
    let path = member.join("lock");
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io_error(&path))?;
    let began = Instant::now();
    loop {
        // SAFETY: flock takes a descriptor that `file` owns, and touches no memory.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(file);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(IdentityError::Io { path, error });
        }
        // The ring of a process that was killed holds the lock until its last write has ended.
        if began.elapsed() >= LOCK_PATIENCE {
            return Err(IdentityError::InUse { path: data_dir.to_owned() });
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        Identity { cluster_id: 1, member_id: 2, file_id: [3; 16] }
    }

    fn build(page_file: &Path, wal_dir: &Path) -> Result<(), IdentityError> {
        fs::write(page_file, b"pages").map_err(io_error(page_file))?;
        assert!(wal_dir.is_dir());
        Ok(())
    }

    /// etcd 3.7 prints 8e9e05c52164694d / cdf818194e3a8c32 for the default single member.
    #[test]
    fn ids_are_those_of_etcd() {
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(id, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id(&[id]), 0xcdf8_1819_4e3a_8c32);
    }

    #[test]
    fn a_member_is_made_once_and_opens_again() {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = FolderPaths { data_dir: dir.path().join("data"), wal_dir: None };
        assert!(!paths.exists());
        let made = paths.create(sample(), build).expect("made");
        assert!(matches!(paths.open(), Err(IdentityError::InUse { .. })));
        drop(made);
        assert_eq!(paths.open().expect("opens").identity, sample());
    }

    #[test]
    fn a_failed_making_leaves_no_member() {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = FolderPaths { data_dir: dir.path().to_owned(), wal_dir: None };
        let failed = paths.create(sample(), |page_file, _| Err(IdentityError::Missing { path: page_file.to_owned() }));
        assert!(failed.is_err() && !paths.exists());
        paths.create(sample(), build).expect("made after the failure");
    }

    /// A start with --wal-dir that was cut short left segments with an identity that no later start had: all were refused.
    #[test]
    fn a_log_elsewhere_that_was_not_finished_is_made_anew() {
        let dir = tempfile::tempdir().expect("temp dir");
        let wal_dir = dir.path().join("wal");
        let paths = FolderPaths { data_dir: dir.path().join("data"), wal_dir: Some(wal_dir.clone()) };
        let segment = wal_dir.join("0000000000000001.wal");
        let cut_short = |_: &Path, _: &Path| -> Result<(), IdentityError> {
            fs::write(&segment, b"half").map_err(io_error(&segment))?;
            panic!("the power fails")
        };
        let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| paths.create(sample(), cut_short)));
        assert!(cut.is_err() && segment.exists());
        let made = paths.create(sample(), |page_file, wal_dir| {
            assert!(!segment.exists(), "nobody's segment is gone");
            fs::write(&segment, b"whole").map_err(io_error(&segment))?;
            build(page_file, wal_dir)
        });
        drop(made.expect("made"));
        assert!(paths.open().is_ok() && segment.exists() && !wal_dir.join(UNFINISHED).exists());
        // A log that is somebody's stays, whatever becomes of the attempt.
        let other = FolderPaths { data_dir: dir.path().join("other"), wal_dir: Some(wal_dir) };
        let failed = other.create(sample(), |page_file, _| Err(IdentityError::Missing { path: page_file.to_owned() }));
        assert!(failed.is_err() && segment.exists());
    }

    #[test]
    fn a_known_member_never_starts_without_its_parts() {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = FolderPaths { data_dir: dir.path().to_owned(), wal_dir: None };
        let made = paths.create(sample(), build).expect("made");
        fs::remove_file(&made.page_file).expect("removed");
        drop(made);
        assert!(matches!(paths.open(), Err(IdentityError::Missing { .. })));
    }

    #[test]
    fn every_flipped_bit_of_the_identity_is_found() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(Path::new("identity"), &bad).is_err(), "bit {bit}");
        }
    }
}
