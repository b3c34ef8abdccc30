//! How often has this member fetched from the others what it had lost?
//!
//! A disk that damages what is written to it would have its member mended for ever, each time with the load of a whole state
//! on another one, and with one member less that counts. After [`MENDS_MAX`] times within [`WINDOW`] somebody has to look.
//!
//! `<data-dir>/member/mended`: a line of JSON and its CRC32, replaced as a whole before the mark goes (mend.rs). The count
//! only grows: others go by it where they remember a longer log (promises.rs). A file that is damaged counts from the clock,
//! which is far beyond any count.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::mend::Mend;
use super::replace::{checked_lines, read_checked, replace};
use super::{IdentityError, io_error};

/// More often within [`WINDOW`] a member is not mended. Bad luck and an operator's trial are one or two times.
pub const MENDS_MAX: usize = 5;
/// A day: the least pace at which a state is copied from member to member because of one disk.
pub const WINDOW: Duration = Duration::from_secs(24 * 3600);
/// Longest text of a loss that is kept, in bytes.
const WHY_BYTES_MAX: usize = 300;

/// One time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Time {
    /// Seconds since 1970.
    pub at_s: u64,
    /// What was damaged.
    pub why: String,
}

/// All of them, as far as they matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Mended {
    /// How often ever.
    pub count: u64,
    /// The last ones, at most [`MENDS_MAX`], the oldest first.
    pub last: Vec<Time>,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("mended")
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Mended {
    /// Reads the file.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn read(data_dir: &Path) -> Result<Mended, IdentityError> {
        let path = path(data_dir);
        match fs::read(&path) {
            Ok(bytes) => Ok(read_checked(&bytes).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_else(|| {
                tracing::warn!(file = %path.display(), "the record of this member's mendings is damaged: it begins anew");
                Mended { count: now_s(), last: Vec::new() }
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Mended::default()),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// Counts the time that ends now. On disk when this returns.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn count(data_dir: &Path, mend: &Mend) -> Result<(), IdentityError> {
        let mut mended = Mended::read(data_dir)?;
        mended.add(now_s(), &mend.why);
        mended.write(data_dir)
    }

    fn add(&mut self, at_s: u64, why: &str) {
        self.count += 1;
        let end = why.floor_char_boundary(WHY_BYTES_MAX);
        self.last.push(Time { at_s, why: why[..end].to_owned() });
        let surplus = self.last.len().saturating_sub(MENDS_MAX);
        self.last.drain(..surplus);
    }

    /// On disk when this returns: the record.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    ///
    /// # Panics
    /// Never: numbers and texts can be written as JSON.
    pub fn write(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let json = serde_json::to_string(self).expect("numbers and texts");
        replace(&data_dir.join("member"), "mended", &checked_lines(&json))
    }

    /// In words what was damaged, where it was too often lately to go on.
    #[must_use]
    pub fn too_often(&self) -> Option<String> {
        self.too_often_at(now_s())
    }

    fn too_often_at(&self, now_s: u64) -> Option<String> {
        // A clock that was set back does not make an old time a late one.
        let is_late = |time: &&Time| now_s.abs_diff(time.at_s) < WINDOW.as_secs();
        let late: Vec<&Time> = self.last.iter().filter(is_late).collect();
        if late.len() < MENDS_MAX {
            return None;
        }
        let mut said: Vec<(&str, usize)> = Vec::new();
        for time in &late {
            match said.iter_mut().find(|(why, _)| *why == time.why) {
                Some((_, times)) => *times += 1,
                None => said.push((&time.why, 1)),
            }
        }
        Some(said.iter().map(|(why, times)| format!("{times} x {why}")).collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn so_many_times_a_day_are_too_many_and_are_told_one_by_one() {
        let mut mended = Mended::default();
        for time in 0..MENDS_MAX as u64 {
            assert_eq!(mended.too_often_at(100 * HOUR + time), None);
            mended.add(100 * HOUR + time, if time == 3 { "the log" } else { "page 7" });
        }
        assert_eq!(mended.too_often_at(101 * HOUR).as_deref(), Some("4 x page 7; 1 x the log"));
        assert_eq!(mended.too_often_at(100 * HOUR + 2 + WINDOW.as_secs()), None, "the first of them is a day ago");
        assert_eq!(mended.too_often_at(70 * HOUR), None, "a clock that was set back");
        // Once a day it may be.
        let mut mended = Mended::default();
        (0..20).for_each(|day| mended.add(day * 25 * HOUR, "page 7"));
        assert_eq!((mended.too_often_at(20 * 25 * HOUR), mended.count, mended.last.len()), (None, 20, MENDS_MAX));
    }

    #[test]
    fn the_record_outlives_a_start_and_damage_counts_beyond_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("member")).expect("a folder");
        let mend = Mend { lost: super::super::mend::Lost::State, why: "ä".repeat(WHY_BYTES_MAX) };
        (0..7).for_each(|_| Mended::count(folder.path(), &mend).expect("the disk works"));
        let mended = Mended::read(folder.path()).expect("it is there");
        assert_eq!((mended.count, mended.last.len(), mended.last[0].why.len()), (7, MENDS_MAX, WHY_BYTES_MAX));
        assert!(mended.too_often().is_some());
        fs::write(path(folder.path()), b"{\"count\":8}\n00000000\n").expect("damaged");
        let damaged = Mended::read(folder.path()).expect("it begins anew");
        assert!(damaged.count > 1_000_000_000 && damaged.too_often().is_none());
    }
}
