//! What of this member has to be fetched from the others before it may do anything else?
//!
//! `<data-dir>/member/mend` stands there from the moment that a loss is known until what was lost is whole again, on disk.
//! As long as it does, a start of the member opens no group: nobody is served, and nothing is voted or acknowledged
//! (mending.rs). So every crash on the way begins mending again, from whatever the last one has left.
//!
//! A member whose votes are forgotten can't be made whole by anybody: its mark stays, and each start refuses with its words.
//! Without it, a supervisor's restarts would in the end count beyond what the others have heard.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::replace::{checked_lines, read_checked, replace};
use super::{IdentityError, io_error};

/// What is lost, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lost {
    /// The state: the log is whole, and nothing that was promised is forgotten.
    State,
    /// Entries of the log that this member may have acknowledged: only the state of a leader that has proved itself since
    /// makes up for them.
    Log,
    /// What it has voted: the folder is an older copy of the member's, or was emptied, and must not run as this member again.
    Votes,
}

/// The mark.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Mend {
    /// What is lost.
    pub lost: Lost,
    /// Why, for people.
    pub why: String,
}

impl Mend {
    /// Reads the mark. One that is damaged says that everything is lost: the most that a mark can say.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn read(data_dir: &Path) -> Result<Option<Mend>, IdentityError> {
        let path = data_dir.join("member").join("mend");
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(
                read_checked(&bytes)
                    .and_then(|json| serde_json::from_str(json).ok())
                    .unwrap_or_else(|| Mend { lost: Lost::Log, why: format!("{} can't be read", path.display()) }),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// On disk when this returns: the mark.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    ///
    /// # Panics
    /// Never: texts can be written as JSON.
    pub fn write(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let json = serde_json::to_string(self).expect("texts");
        replace(&data_dir.join("member"), "mend", &checked_lines(&json))
    }

    /// The member is whole. On disk when this returns: that there is no mark.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; it may or may not be there.
    pub fn remove(data_dir: &Path) -> Result<(), IdentityError> {
        let folder = data_dir.join("member");
        let path = folder.join("mend");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&path)(error)),
            _ => {}
        }
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io_error(&folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_until_it_is_removed_and_a_damaged_one_says_the_most() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("member")).expect("a folder");
        assert_eq!(Mend::read(folder.path()).expect("none"), None);
        let mend = Mend { lost: Lost::State, why: "page 7".to_owned() };
        mend.write(folder.path()).expect("the disk works");
        assert_eq!(Mend::read(folder.path()).expect("it is there"), Some(mend));
        let path = folder.path().join("member/mend");
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[3] ^= 1;
        fs::write(&path, bytes).expect("the disk works");
        assert_eq!(Mend::read(folder.path()).expect("it is there").map(|mend| mend.lost), Some(Lost::Log));
        Mend::remove(folder.path()).expect("the disk works");
        Mend::remove(folder.path()).expect("twice is once");
        assert_eq!(Mend::read(folder.path()).expect("none"), None);
    }
}
