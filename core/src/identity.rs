//! Who this member is: ids, the identity file, and the lock on its data folder.
//!
//! ```text
//! <data-dir>/member/identity      this file, written once
//! <data-dir>/member/incarnation  how often it was started, where it has others (incarnation.rs)
//! <data-dir>/member/ballot       its term and vote, beside the log's copy (ballot.rs)
//! <data-dir>/member/known        the other members' last processes, and what they have promised (known.rs, promises.rs)
//! <data-dir>/member/mend         while it fetches from the others what it has lost, or may not run any more (mend.rs)
//! <data-dir>/member/mended       when it did so, and how often (mended.rs)
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

pub mod ballot;
mod folder;
pub mod incarnation;
pub mod known;
pub mod mend;
pub mod mended;
pub mod promises;
mod replace;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use folder::Step;
use folder::{Change, Folder, StdFolder};
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

/// The id of a member that is added at a time, in seconds since 1970 (etcd: as [`member_id`], and the time in decimal
/// behind it): one that comes back has another one.
#[must_use]
pub fn added_member_id(peer_urls: &[String], token: &str, added_s: u64) -> u64 {
    member_id(peer_urls, &format!("{token}{added_s}"))
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
    /// A later version made it, with features that this one must know.
    #[error(
        "{path} names features (bits {unknown:#x}) that this program does not know: start the version of ringstone that wrote it, or upgrade"
    )]
    Features {
        /// The file.
        path: PathBuf,
        /// Bits of the two words.
        unknown: u64,
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
    /// The operating system refused a change.
    #[error("{path}: {step}: {error}")]
    Change {
        /// The file or folder.
        path: PathBuf,
        /// What the change was for.
        step: Step,
        /// Its reason.
        error: io::Error,
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
    /// What page files say that they are of: cluster id and member id, big endian.
    #[must_use]
    pub fn owner_id(&self) -> [u8; 16] {
        let mut owner = [0; 16];
        owner[..8].copy_from_slice(&self.cluster_id.to_be_bytes());
        owner[8..].copy_from_slice(&self.member_id.to_be_bytes());
        owner
    }

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
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let unknown = word(24) | word(32);
        if unknown != 0 {
            return Err(IdentityError::Features { path: path.to_owned(), unknown });
        }
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
        StdFolder.exists(&self.member())
    }

    /// Opens a member that exists: locks the folder, reads its identity, sees that its parts are there.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing was changed.
    pub fn open(&self) -> Result<MemberFolder, IdentityError> {
        self.open_on(&StdFolder)
    }

    fn open_on(&self, folder: &dyn Folder) -> Result<MemberFolder, IdentityError> {
        let member = self.member();
        let lock = folder.lock(&self.data_dir, &member)?;
        let path = member.join("identity");
        let bytes = match folder.read(&path) {
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
            if !folder.exists(part) {
                return Err(IdentityError::Missing { path: part.clone() });
            }
        }
        if self.wal_dir.is_some() {
            finish_log(folder, &wal_dir)?;
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
        self.create_on(&StdFolder, identity, build)
    }

    fn create_on<E: From<IdentityError>>(
        &self,
        folder: &dyn Folder,
        identity: Identity,
        build: impl FnOnce(&Path, &Path) -> Result<(), E>,
    ) -> Result<MemberFolder, E> {
        make_dir(folder, &self.data_dir, [Step::MakeDataDir, Step::SyncDataDirParent])?;
        let made = self.make(folder, identity, build);
        // Once it has its name it is a member, whatever failed behind that: its log is no longer nobody's.
        if made.is_err() && !folder.exists(&self.member()) {
            // Best effort: the next start removes it too. What was half made must not fill a disk.
            let staging = self.staging();
            let _ = folder.change(Step::RemoveStaging, Change::RemoveAll(&staging));
            let _ = self.wal_dir.as_deref().map(|wal_dir| clear_unfinished_log(folder, wal_dir));
        }
        made
    }

    fn make<E: From<IdentityError>>(
        &self,
        folder: &dyn Folder,
        identity: Identity,
        build: impl FnOnce(&Path, &Path) -> Result<(), E>,
    ) -> Result<MemberFolder, E> {
        let (member, staging) = (self.member(), self.staging());
        if folder.exists(&staging) {
            change(folder, Step::RemoveStaging, Change::RemoveAll(&staging))?;
        }
        change(folder, Step::MakeStaging, Change::MakeDir(&staging))?;
        let lock = folder.lock(&self.data_dir, &staging)?;
        let wal_dir = self.wal_dir.clone().unwrap_or_else(|| staging.join("wal"));
        if self.wal_dir.is_some() {
            make_dir(folder, &wal_dir, [Step::MakeWalDir, Step::SyncWalDirParent])?;
            clear_unfinished_log(folder, &wal_dir)?;
            begin_log(folder, &wal_dir)?;
        } else {
            change(folder, Step::MakeWalDir, Change::MakeDir(&wal_dir))?;
        }
        let page_file = staging.join("pages-0");
        build(&page_file, &wal_dir)?;
        let path = staging.join("identity");
        change(folder, Step::WriteIdentity, Change::WriteNew(&path, &identity.encode()))?;
        change(folder, Step::SyncStaging, Change::SyncDir(&staging))?;
        change(folder, Step::NameMember, Change::Rename(&staging, &member))?;
        change(folder, Step::SyncDataDir, Change::SyncDir(&self.data_dir))?;
        if self.wal_dir.is_some() {
            finish_log(folder, &wal_dir)?;
        }
        let wal_dir = self.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        Ok(MemberFolder { identity, is_new: true, page_file: member.join("pages-0"), wal_dir, lock })
    }
}

/// In a log's folder of its own: a member is being made, and what stands here is nobody's yet. Such a folder is not part of
/// what is renamed in one step, so that a start that is cut short leaves segments of an identity that nobody has.
const UNFINISHED: &str = "unfinished";

/// On disk when this returns: the mark, before the first segment. Segments without it are somebody's, and no mark is made.
fn begin_log(folder: &dyn Folder, wal_dir: &Path) -> Result<(), IdentityError> {
    if segments(folder, wal_dir)?.is_empty() {
        let path = wal_dir.join(UNFINISHED);
        change(folder, Step::MarkLog, Change::WriteNew(&path, b""))?;
        change(folder, Step::SyncMark, Change::SyncDir(wal_dir))?;
    }
    Ok(())
}

fn finish_log(folder: &dyn Folder, wal_dir: &Path) -> Result<(), IdentityError> {
    let path = wal_dir.join(UNFINISHED);
    if !folder.exists(&path) {
        return Ok(());
    }
    change(folder, Step::RemoveMark, Change::RemoveFile(&path))?;
    change(folder, Step::SyncNoMark, Change::SyncDir(wal_dir))
}

/// Removes the segments of a member that was not made to its end, the mark last.
fn clear_unfinished_log(folder: &dyn Folder, wal_dir: &Path) -> Result<(), IdentityError> {
    if !folder.exists(&wal_dir.join(UNFINISHED)) {
        return Ok(());
    }
    let unfinished = segments(folder, wal_dir)?;
    for path in &unfinished {
        change(folder, Step::RemoveSegment, Change::RemoveFile(path))?;
    }
    if !unfinished.is_empty() {
        // Else the mark might go first, and leave a segment that looks like somebody's.
        change(folder, Step::SyncNoSegments, Change::SyncDir(wal_dir))?;
    }
    finish_log(folder, wal_dir)
}

fn segments(folder: &dyn Folder, wal_dir: &Path) -> Result<Vec<PathBuf>, IdentityError> {
    let names = folder.list(wal_dir).map_err(io_error(wal_dir))?;
    let segments = names.into_iter().filter(|name| FileName::parse(name).is_some());
    Ok(segments.map(|name| wal_dir.join(name)).collect())
}

fn change(folder: &dyn Folder, step: Step, change: Change<'_>) -> Result<(), IdentityError> {
    let path = change.path().to_owned();
    folder.change(step, change).map_err(|error| IdentityError::Change { path, step, error })
}

/// Makes a folder of mode 0700 with its parents, and their names durable; one that exists is left as it is.
fn make_dir(folder: &dyn Folder, path: &Path, [make, sync]: [Step; 2]) -> Result<(), IdentityError> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !folder.exists(path)).collect();
    for path in missing.into_iter().rev() {
        change(folder, make, Change::MakeDir(path))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        change(folder, sync, Change::SyncDir(parent))?;
    }
    Ok(())
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
mod tests;
