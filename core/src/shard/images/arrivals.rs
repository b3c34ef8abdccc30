//! What has come of an image, and what may still become of it. One at a time.
//!
//! ```text
//!  left by an earlier process ──> arriving ──> made ──> claimed: raft has taken its message, the log will name it
//! ```
//! Any other offer takes the place of what is not claimed; of what is, none does, for the switch is to that very file. Had
//! another one been begun in its place, half of that would have become the page file (seed 5254). What nobody goes on with
//! gives its space back.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::build::PageBuilder;
use super::{ImageFailure, remove};

/// How long what has come waits for the rest: longer than its sender does (send.rs).
pub(super) const REST_MAX: Duration = Duration::from_secs(90);
/// Begins the names of page files that are being made; the image's id follows.
const NAME: &str = "image-";
/// Ends the name of a page file's marks.
const MARKS: &str = "marks";

/// What comes to this member.
pub struct Arrivals {
    /// Where page files are made.
    folder: PathBuf,
    arriving: RefCell<Option<Arriving>>,
    /// Of an image whose receiver was an earlier process.
    left: Cell<Option<[u8; 16]>>,
    /// Of a map that has come: what may be offered next, and its builder.
    pub(super) compared: RefCell<Option<ComparedMap>>,
    /// Counts the streams: an older one has nothing to say any more.
    turn: Cell<u64>,
    /// Where a difference has failed: whole images for a while.
    pub(super) no_map_until: Cell<Duration>,
}

pub(super) struct ComparedMap {
    pub(super) id: [u8; 16],
    pub(super) builder: PageBuilder,
}

struct Arriving {
    from: u64,
    id: [u8; 16],
    /// Bytes that the builder has.
    offset: u64,
    builder: Rc<PageBuilder>,
    touched: Duration,
    /// It is here: index and term. Its sender may not know it yet.
    made: Option<(u64, u64)>,
    is_claimed: bool,
}

/// Where the next bytes of an image go.
pub(super) struct Going {
    pub(super) builder: Rc<PageBuilder>,
    pub(super) offset: u64,
    pub(super) made: Option<(u64, u64)>,
}

impl Arrivals {
    /// Of a member with this data folder: with what an earlier process has left, if that is not too old.
    #[must_use]
    pub fn of(data_dir: &Path) -> Arrivals {
        let folder = data_dir.join("member");
        let left = Cell::new(clean(&folder, Some(REST_MAX)));
        Arrivals {
            folder,
            arriving: RefCell::default(),
            left,
            compared: RefCell::default(),
            turn: Cell::default(),
            no_map_until: Cell::default(),
        }
    }

    /// The page file of an image, while it is made.
    pub(super) fn pages(&self, id: [u8; 16]) -> PathBuf {
        self.folder.join(format!("{NAME}{:032x}", u128::from_be_bytes(id)))
    }

    /// The image of this index and term is here, and nothing takes its place from now on. False: it is not.
    pub fn claim(&self, place: (u64, u64)) -> bool {
        let mut arriving = self.arriving.borrow_mut();
        let claimed = arriving.as_mut().filter(|arriving| arriving.made == Some(place));
        claimed.map(|arriving| arriving.is_claimed = true).is_some()
    }

    /// The page file that was claimed.
    #[must_use]
    pub fn claimed(&self) -> Option<PathBuf> {
        let arriving = self.arriving.borrow();
        arriving.as_ref().filter(|arriving| arriving.is_claimed).map(|arriving| self.pages(arriving.id))
    }

    fn is_claimed(&self) -> bool {
        self.arriving.borrow().as_ref().is_some_and(|arriving| arriving.is_claimed)
    }

    /// What was claimed is not needed.
    pub fn give_up(&self) {
        if let Some(Arriving { id, .. }) = self.arriving.take() {
            self.remove(id);
        }
    }

    /// What has come is of no use, unless it was claimed.
    pub(super) fn forget(&self) {
        if !self.is_claimed() {
            self.give_up();
        }
    }

    /// Removes what has come of this one.
    pub(super) fn remove(&self, id: [u8; 16]) {
        remove_made(&self.pages(id));
    }

    /// A stream begins; the number that says so.
    pub(super) fn next_turn(&self) -> u64 {
        self.turn.set(self.turn.get() + 1);
        self.turn.get()
    }

    /// Fails where a later stream has begun.
    pub(super) fn check_turn(&self, turn: u64) -> Result<(), ImageFailure> {
        if self.turn.get() == turn { Ok(()) } else { Err(ImageFailure::Replaced) }
    }

    /// Where this image goes on.
    pub(super) fn going(&self, id: [u8; 16]) -> Option<Going> {
        let arriving = self.arriving.borrow();
        let Arriving { builder, offset, made, .. } = arriving.as_ref().filter(|arriving| arriving.id == id)?;
        Some(Going { builder: Rc::clone(builder), offset: *offset, made: *made })
    }

    /// Another image comes: what has come of the one before goes. True: an earlier process has left some of this one.
    pub(super) fn make_way(&self, from: u64, id: [u8; 16]) -> Result<bool, ImageFailure> {
        if self.is_claimed() {
            return Err(ImageFailure::Taken);
        }
        if let Some(other) = self.arriving.take() {
            if other.made.is_none() {
                tracing::warn!(
                    from = format!("{from:x}"),
                    before = format!("{:x}", other.from),
                    bytes = other.offset,
                    "an image of another state is offered: what has come of the one before is of no use, it begins anew"
                );
            }
            self.remove(other.id);
        }
        let left = self.left.take();
        if let Some(other) = left.filter(|left| *left != id) {
            self.remove(other);
        }
        Ok(left == Some(id))
    }

    /// An image goes to this builder, from this offset on.
    pub(super) fn begin(&self, now: Duration, from: u64, id: [u8; 16], offset: u64, builder: PageBuilder) {
        let builder = Rc::new(builder);
        let arriving = Arriving { from, id, offset, builder, touched: now, made: None, is_claimed: false };
        self.arriving.replace(Some(arriving));
    }

    /// Bytes have come, or, with a place, the last of them and their page file is made. Up to where it has come.
    pub(super) fn touch(&self, now: Duration, bytes: usize, made: Option<(u64, u64)>) -> u64 {
        let mut arriving = self.arriving.borrow_mut();
        let Some(arriving) = arriving.as_mut() else { return 0 };
        arriving.touched = now;
        arriving.offset += bytes as u64;
        arriving.made = made.or(arriving.made);
        arriving.offset
    }

    /// The sender of what an earlier process has left has not come back with it.
    pub(super) fn forget_left(&self) {
        self.left.take().into_iter().for_each(|id| self.remove(id));
    }

    /// Some while after the stream of this turn: what nobody goes on with gives its space back.
    pub(super) fn forget_old(&self, now: Duration, turn: u64) {
        if self.turn.get() == turn {
            // The pin of what was compared, too.
            self.compared.take();
        }
        let is_old = |arriving: &Arriving| !arriving.is_claimed && now.saturating_sub(arriving.touched) >= REST_MAX;
        if self.arriving.borrow().as_ref().is_some_and(is_old) {
            tracing::warn!("an image came and nobody goes on with it: what has come of it is thrown away");
            self.forget();
        }
    }
}

/// The marks of a page file (restore/pages.rs).
pub(super) fn marks(pages: &Path) -> PathBuf {
    pages.with_extension(MARKS)
}

/// Removes a page file and its marks.
pub(super) fn remove_made(pages: &Path) {
    for file in [&marks(pages), pages] {
        if let Err(error) = remove(file) {
            tracing::warn!(file = %file.display(), error = %error, "what has come of an image can't be removed");
        }
    }
}

/// Removes what former processes have left half done, but the one that may be gone on with: that was written to last, and not
/// longer ago than this.
pub(super) fn clean(folder: &Path, age_max: Option<Duration>) -> Option<[u8; 16]> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let made = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let id = name.strip_prefix(NAME)?.trim_end_matches(MARKS).trim_end_matches('.');
        let id = u128::from_str_radix(id, 16).ok()?.to_be_bytes();
        Some((entry.metadata().and_then(|metadata| metadata.modified()).ok()?, name.ends_with(MARKS), id))
    });
    let mut made: Vec<(SystemTime, bool, [u8; 16])> = made.collect();
    made.sort_unstable();
    // Without marks it is of no use.
    let is_young = |written: SystemTime| age_max.is_some_and(|max| written.elapsed().unwrap_or_default() < max);
    let left = made.iter().rev().find(|(written, is_marks, _)| *is_marks && is_young(*written)).map(|(.., id)| *id);
    for (.., id) in made.iter().filter(|(.., id)| Some(*id) != left) {
        remove_made(&folder.join(format!("{NAME}{:032x}", u128::from_be_bytes(*id))));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::super::build::{self, PageBuilder};
    use super::*;

    const AT: Duration = Duration::from_secs(1000);

    fn builder() -> PageBuilder {
        build::idle().expect("a thread")
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort_unstable();
        names
    }

    fn make(arrivals: &Arrivals, id: [u8; 16]) {
        fs::write(arrivals.pages(id), b"pages").expect("room");
        fs::write(marks(&arrivals.pages(id)), b"marks").expect("room");
    }

    /// Raft had taken the message of the first image, and the log named it, when the second one was begun by the same name:
    /// half of that became the page file.
    #[test]
    fn nothing_takes_the_place_of_an_image_that_the_log_will_name() {
        let data_dir = tempfile::tempdir().expect("a folder");
        let folder = data_dir.path().join("member");
        fs::create_dir(&folder).expect("a folder");
        let arrivals = Arrivals::of(data_dir.path());
        let (one, two) = ([1; 16], [2; 16]);
        assert!(matches!(arrivals.make_way(7, one), Ok(false)));
        arrivals.begin(AT, 7, one, 0, builder());
        make(&arrivals, one);
        assert!(!arrivals.claim((461, 9)), "it is on its way");
        arrivals.touch(AT, 100, Some((461, 9)));
        assert!(!arrivals.claim((462, 9)) && arrivals.claimed().is_none());
        assert!(arrivals.claim((461, 9)) && arrivals.claim((461, 9)));
        assert!(matches!(arrivals.make_way(8, two), Err(ImageFailure::Taken)));
        arrivals.forget_old(AT + REST_MAX, arrivals.next_turn());
        assert_eq!(arrivals.claimed(), Some(arrivals.pages(one)));
        assert_eq!(files(&folder).len(), 2, "it is there until the switch");
        // Raft did not need it.
        arrivals.give_up();
        assert!(files(&folder).is_empty() && matches!(arrivals.make_way(8, two), Ok(false)));
        arrivals.begin(AT, 8, two, 0, builder());
        make(&arrivals, two);
        arrivals.touch(AT, 100, Some((470, 9)));
        // Its message never came.
        arrivals.forget_old(AT + REST_MAX, 0);
        assert!(files(&folder).is_empty() && !arrivals.claim((470, 9)));
    }

    #[test]
    fn what_an_earlier_process_has_left_is_gone_on_with_or_removed() {
        let data_dir = tempfile::tempdir().expect("a folder");
        let folder = data_dir.path().join("member");
        fs::create_dir(&folder).expect("a folder");
        let (one, two, three) = ([1; 16], [2; 16], [3; 16]);
        let left = || {
            let arrivals = Arrivals::of(data_dir.path());
            // Of the second no checkpoint was made.
            make(&arrivals, one);
            fs::write(arrivals.pages(two), b"pages").expect("room");
            Arrivals::of(data_dir.path())
        };
        let arrivals = left();
        assert_eq!(files(&folder).len(), 2, "of the first one");
        assert!(matches!(arrivals.make_way(7, one), Ok(true)));
        assert!(matches!(arrivals.make_way(7, one), Ok(false)), "told once");
        assert!(matches!(left().make_way(7, three), Ok(false)));
        assert!(files(&folder).is_empty());
        let arrivals = left();
        arrivals.forget_left();
        assert!(files(&folder).is_empty(), "nobody has come back with it");
        left();
        assert_eq!(clean(&folder, None), None);
        assert!(files(&folder).is_empty(), "a member that fetches its state has no use for it");
    }
}
