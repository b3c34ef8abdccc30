//! Which process of each other member was heard last, and where was it? Durable before anything that it says is taken.
//!
//! A data folder that was put back from a copy, or emptied, begins with an older count of starts, or with the same one
//! again in another process: its votes and its log are not those that it has promised. Whoever has heard the later process
//! refuses it, after a restart of its own as well. The URLs are for a member whose own list of members is damaged. What each
//! has promised to this one tells a copy that was put back without a start in between (promises.rs).
//!
//! `<data-dir>/member/known`: a line of JSON and its CRC32, replaced as a whole. One that is damaged begins anew: that takes
//! a warning from others, and nothing of this member.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::IdentityError;
use super::promises::{Promise, Promised, Standing};
use super::replace::{checked_lines, read_checked, replace};
use crate::command::Member;

/// Another member, as it was heard last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct KnownMember {
    /// How often its folder had been opened; 0: never heard.
    pub incarnation: u64,
    /// Which process that was.
    pub process: u64,
    /// Where it was.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// What it has promised to this member.
    #[serde(default)]
    pub promised: Promised,
    /// How often it has mended itself, as its process says.
    #[serde(skip)]
    mends: u64,
    /// Its process has forgotten promises.
    #[serde(skip)]
    went_back: bool,
}

/// All of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    folder: PathBuf,
    members: BTreeMap<u64, KnownMember>,
}

impl Known {
    /// Reads the file.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn load(data_dir: &Path) -> Result<Known, IdentityError> {
        let folder = data_dir.join("member");
        let path = folder.join("known");
        let members = match fs::read(&path) {
            Ok(bytes) => match read_checked(&bytes).and_then(|json| serde_json::from_str(json).ok()) {
                Some(members) => members,
                None => {
                    tracing::warn!(
                        file = %path.display(),
                        "what was known of other members' processes is damaged: it is learned anew from those that connect"
                    );
                    BTreeMap::new()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(super::io_error(&path)(error)),
        };
        Ok(Known { folder, members })
    }

    /// The members, by their ids.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<u64, KnownMember> {
        &self.members
    }

    /// A process of a member has connected; true if that is news.
    pub fn heard(&mut self, member: u64, incarnation: u64, process: u64) -> bool {
        let known = self.members.entry(member).or_default();
        let is_news = (known.incarnation, known.process) != (incarnation, process) && known.incarnation <= incarnation;
        if is_news {
            (known.incarnation, known.process) = (incarnation, process);
            known.went_back = false;
        }
        is_news
    }

    /// The process that has connected says what its disk held when it began. Some: what the member has promised before that,
    /// and that disk does not hold.
    pub fn judge(&mut self, member: u64, standing: &Standing) -> Option<Promised> {
        let known = self.members.get_mut(&member)?;
        // Where it began says nothing of what it has promised since.
        known.went_back = known.promised.process != known.process && !standing.keeps(&known.promised);
        if known.went_back {
            return Some(known.promised);
        }
        known.mends = standing.mends;
        None
    }

    /// The process of a member that has connected lacks what the member has promised: nothing that it says counts.
    #[must_use]
    pub fn went_back(&self, member: u64) -> bool {
        self.members.get(&member).is_some_and(|known| known.went_back)
    }

    /// The process that has connected has promised something. True: it is to be durable here before it counts.
    pub fn promised(&mut self, member: u64, promise: Promise) -> bool {
        let Some(known) = self.members.get_mut(&member).filter(|known| !known.went_back) else { return false };
        let mends = known.mends.max(known.promised.mends);
        known.promised.note(promise, known.process, mends)
    }

    /// Who the members are now; true if that is news. Where these are all of them, others are forgotten: their ids never
    /// come back.
    pub fn follow(&mut self, own_id: u64, members: &[Member], are_all: bool) -> bool {
        let before = self.members.len();
        self.members.retain(|id, _| !are_all || members.iter().any(|member| member.id == *id));
        let mut is_news = self.members.len() != before;
        for member in members.iter().filter(|member| member.id != own_id) {
            let known = self.members.entry(member.id).or_default();
            if known.peer_urls != member.peer_urls {
                known.peer_urls.clone_from(&member.peer_urls);
                is_news = true;
            }
        }
        is_news
    }

    /// What [`save`] takes.
    ///
    /// # Panics
    /// Never: numbers and texts can be written as JSON.
    #[must_use]
    pub fn encode(&self) -> (PathBuf, Vec<u8>) {
        let json = serde_json::to_string(&self.members).expect("numbers and texts");
        (self.folder.clone(), checked_lines(&json))
    }
}

/// On disk when this returns: what [`Known::encode`] gave. Blocks.
///
/// # Errors
/// [`IdentityError::Io`].
pub fn save((folder, bytes): &(PathBuf, Vec<u8>)) -> Result<(), IdentityError> {
    replace(folder, "known", bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        Member { id, name: String::new(), peer_urls: vec![url.to_owned()], client_urls: vec![], is_learner: false }
    }

    #[test]
    fn the_latest_process_of_each_member_outlives_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("member")).expect("a folder");
        let mut known = Known::load(folder.path()).expect("none yet");
        assert!(known.follow(1, &[member(1, "a"), member(2, "b"), member(3, "c")], true));
        assert!(!known.follow(1, &[member(1, "a"), member(2, "b"), member(3, "c")], true));
        assert!(known.heard(2, 5, 50) && !known.heard(2, 5, 50));
        assert!(!known.heard(2, 4, 40), "an older one is no news");
        assert!(known.heard(2, 6, 60));
        save(&known.encode()).expect("the disk works");
        assert_eq!(Known::load(folder.path()).expect("it is there"), known);
        let two =
            KnownMember { incarnation: 6, process: 60, peer_urls: vec!["b".to_owned()], ..KnownMember::default() };
        assert_eq!(known.members().get(&2), Some(&two));
        assert!(!known.follow(1, &[member(1, "a"), member(3, "c")], false), "there may be others");
        assert!(known.follow(1, &[member(1, "a"), member(3, "c")], true));
        assert_eq!(known.members().keys().copied().collect::<Vec<_>>(), [3]);
        fs::write(folder.path().join("member/known"), "{}\n00000000\n").expect("damaged");
        assert!(Known::load(folder.path()).expect("it begins anew").members().is_empty());
    }

    /// A copy has the same count of starts as the folder that it takes the place of: what was promised tells them apart.
    #[test]
    fn a_process_that_has_forgotten_its_promises_is_found_after_a_restart_too() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("member")).expect("a folder");
        let mut known = Known::load(folder.path()).expect("none yet");
        let (at_start, promise) =
            (Standing { term: 3, index: 10, ..Standing::default() }, |term, index| Promise { term, vote: None, index });
        known.heard(2, 5, 50);
        assert_eq!(known.judge(2, &at_start), None);
        assert!(known.promised(2, promise(3, 12)) && !known.promised(2, promise(3, 14)));
        assert_eq!(known.judge(2, &at_start), None, "a later connection of the same process");
        save(&known.encode()).expect("the disk works");
        let mut known = Known::load(folder.path()).expect("it is there");
        assert_eq!(known.judge(2, &at_start), None, "the same, after a restart here");
        known.heard(2, 6, 60);
        let promised = Promised { process: 50, term: 3, index: 14, ..Promised::default() };
        assert_eq!(known.judge(2, &at_start), Some(promised));
        assert!(known.went_back(2) && !known.promised(2, promise(9, 20)), "nothing of it counts");
        assert_eq!(known.judge(2, &at_start), Some(promised));
        assert_eq!(known.judge(2, &Standing { index: 14, ..at_start }), None);
        // Files of versions that had no promises.
        let json = "{\"2\":{\"incarnation\":6,\"process\":60,\"peerURLs\":[\"b\"]}}";
        fs::write(folder.path().join("member/known"), checked_lines(json)).expect("the disk works");
        let mut known = Known::load(folder.path()).expect("it is there");
        known.heard(2, 7, 70);
        assert_eq!(known.judge(2, &Standing::default()), None);
    }
}
