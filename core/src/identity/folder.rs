//! What the making of a member asks of the file system, behind a seam: tests stop at each of its steps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::{IdentityError, lock_folder};

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// What a change of a folder is for: each stands for one place in the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        impl Step {
            /// All of them.
            pub const ALL: &'static [Step] = &[$(Step::$name,)*];
        }

        impl std::fmt::Display for Step {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(match self {
                    $(Step::$name => $text,)*
                })
            }
        }
    };
}

steps! {
    /// `--data-dir`, and what is missing above it.
    MakeDataDir: "making the data folder",
    /// Its name durable.
    SyncDataDirParent: "syncing the folder above the data folder",
    /// What an earlier start has left.
    RemoveStaging: "removing a member that was not finished",
    /// `member.tmp`.
    MakeStaging: "making the new member's folder",
    /// The log's folder.
    MakeWalDir: "making the log's folder",
    /// Its name durable, where it is not in the member's folder.
    SyncWalDirParent: "syncing the folder above the log's folder",
    /// Whoever sees the mark knows that the segments are nobody's.
    MarkLog: "marking the log unfinished",
    /// The mark durable, before the first segment.
    SyncMark: "syncing the log's folder, with its mark",
    /// The identity file, with its content.
    WriteIdentity: "writing the identity file",
    /// All names in the member's folder durable.
    SyncStaging: "syncing the new member's folder",
    /// From here on there is a member.
    NameMember: "giving the new member its name",
    /// That name durable.
    SyncDataDir: "syncing the data folder",
    /// The log belongs to the member now.
    RemoveMark: "removing the mark of an unfinished log",
    /// That durable.
    SyncNoMark: "syncing the log's folder, without its mark",
    /// A segment of a member that was not finished.
    RemoveSegment: "removing a segment of an unfinished log",
    /// That durable, before the mark goes.
    SyncNoSegments: "syncing the log's folder, without segments",
}

/// A change. Those of names are durable after a `SyncDir` of the folder that holds the name.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A folder of mode 0700; its parent exists, it does not.
    MakeDir(&'a Path),
    /// A file that does not exist, with this content, which is durable afterwards; its name is not.
    WriteNew(&'a Path, &'a [u8]),
    /// A new name in the same folder.
    Rename(&'a Path, &'a Path),
    /// A file.
    RemoveFile(&'a Path),
    /// A folder and all in it.
    RemoveAll(&'a Path),
    /// Makes the names in a folder durable.
    SyncDir(&'a Path),
}

impl Change<'_> {
    /// What is changed; of a rename the new name.
    pub fn path(&self) -> &Path {
        match self {
            Change::MakeDir(path)
            | Change::WriteNew(path, _)
            | Change::Rename(_, path)
            | Change::RemoveFile(path)
            | Change::RemoveAll(path)
            | Change::SyncDir(path) => path,
        }
    }
}

/// A file system, as far as a member's folder needs it.
pub trait Folder {
    /// Does it.
    fn change(&self, step: Step, change: Change<'_>) -> io::Result<()>;

    /// Whether there is something of this name.
    fn exists(&self, path: &Path) -> bool;

    /// A whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Names in a folder.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Locks a member's folder; the file holds the lock.
    fn lock(&self, data_dir: &Path, member: &Path) -> Result<File, IdentityError>;
}

/// The real one.
pub struct StdFolder;

impl Folder for StdFolder {
    fn change(&self, _step: Step, change: Change<'_>) -> io::Result<()> {
        match change {
            Change::MakeDir(path) => fs::DirBuilder::new().mode(0o700).create(path),
            Change::WriteNew(path, bytes) => {
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                file.write_all(bytes)?;
                file.sync_all()
            }
            Change::Rename(from, to) => fs::rename(from, to),
            Change::RemoveFile(path) => fs::remove_file(path),
            Change::RemoveAll(path) => fs::remove_dir_all(path),
            Change::SyncDir(path) => File::open(path)?.sync_all(),
        }
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn lock(&self, data_dir: &Path, member: &Path) -> Result<File, IdentityError> {
        lock_folder(data_dir, member)
    }
}
