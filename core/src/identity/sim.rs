//! A file system in memory that forgets names that no sync of their folder has covered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::folder::{Change, Folder, Step};
use crate::identity::IdentityError;

/// A file or folder, by its number.
type Node = usize;

#[derive(Clone, Debug)]
enum Content {
    File { bytes: Vec<u8>, is_durable: bool },
    Folder { names: BTreeMap<String, Node>, durable: BTreeMap<String, Node>, unsynced: Vec<Names> },
}

/// One change of the names of a folder: all of it or nothing.
type Names = Vec<(String, Option<Node>)>;

#[derive(Clone)]
struct State {
    nodes: Vec<Content>,
    /// Changes that are still done.
    left: u64,
    done: u64,
    fails: Option<u64>,
    stopped_at: BTreeSet<Step>,
    /// What the change under way when the power failed was for.
    last: Option<Step>,
}

pub struct SimFolder(RefCell<State>);

/// What a power cut leaves of the changes of names that no sync has covered.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    All,
    Nothing,
    /// So many of each folder's.
    First(usize),
    /// Some of each folder's, each file's content whole or cut short.
    Random(u64),
}

fn folder() -> Content {
    Content::Folder { names: BTreeMap::new(), durable: BTreeMap::new(), unsynced: Vec::new() }
}

fn gone() -> io::Error {
    io::Error::other("the power is off")
}

impl SimFolder {
    pub fn new(changes: u64) -> SimFolder {
        let nodes = vec![folder()];
        let stopped_at = BTreeSet::new();
        SimFolder(RefCell::new(State { nodes, left: changes, done: 0, fails: None, stopped_at, last: None }))
    }

    /// The n-th change from now on is refused.
    pub fn fail(&self, number: u64) {
        let state = &mut *self.0.borrow_mut();
        state.fails = Some(state.done + number);
    }

    pub fn is_off(&self) -> bool {
        self.0.borrow().left == 0
    }

    pub fn stopped_at(&self) -> Option<Step> {
        self.0.borrow().last
    }

    /// After a power cut, with so many changes until the next one.
    pub fn after(&self, keep: Keep, changes: u64) -> SimFolder {
        let mut state = self.0.borrow().clone();
        let mut seed = if let Keep::Random(seed) = keep { seed } else { 0 };
        let mut chance = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        for node in &mut state.nodes {
            match node {
                Content::File { bytes, is_durable } => {
                    if !*is_durable {
                        match keep {
                            Keep::All => {}
                            Keep::Random(_) => bytes.truncate(chance() as usize % (bytes.len() + 1)),
                            Keep::Nothing | Keep::First(_) => bytes.clear(),
                        }
                    }
                    *is_durable = true;
                }
                Content::Folder { names, durable, unsynced } => {
                    for (number, change) in std::mem::take(unsynced).into_iter().enumerate() {
                        let is_kept = match keep {
                            Keep::All => true,
                            Keep::Nothing => false,
                            Keep::First(count) => number < count,
                            Keep::Random(_) => chance() % 2 == 0,
                        };
                        if is_kept {
                            apply(durable, &change);
                        }
                    }
                    names.clone_from(durable);
                }
            }
        }
        (state.left, state.fails, state.last) = (changes, None, None);
        SimFolder(RefCell::new(state))
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Names) {
    for (name, node) in change {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

impl State {
    fn find(&self, path: &Path) -> Option<Node> {
        let mut at = 0;
        for part in path.iter().filter(|part| *part != "/") {
            let Content::Folder { names, .. } = &self.nodes[at] else { return None };
            at = *names.get(part.to_str()?)?;
        }
        Some(at)
    }

    fn split(&self, path: &Path) -> io::Result<(Node, String)> {
        let parent = self.find(path.parent().expect("a path below the root")).ok_or(io::ErrorKind::NotFound)?;
        Ok((parent, path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned()))
    }

    fn rename(&mut self, folder: Node, change: Names) {
        let Content::Folder { names, unsynced, .. } = &mut self.nodes[folder] else { panic!("a folder") };
        apply(names, &change);
        unsynced.push(change);
    }

    fn make(&mut self, path: &Path, content: Content) -> io::Result<Node> {
        if self.find(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (parent, name) = self.split(path)?;
        self.nodes.push(content);
        let node = self.nodes.len() - 1;
        self.rename(parent, vec![(name, Some(node))]);
        Ok(node)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path).ok_or(io::ErrorKind::NotFound)?;
        let (parent, name) = self.split(path)?;
        self.rename(parent, vec![(name, None)]);
        Ok(())
    }

    /// A part of a change that may be the last one done.
    fn step(&mut self, step: Step) -> io::Result<()> {
        if self.left == 0 {
            self.last.get_or_insert(step);
            return Err(gone());
        }
        self.left -= 1;
        self.done += 1;
        if self.fails == Some(self.done - 1) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl Folder for SimFolder {
    fn change(&self, step: Step, change: Change<'_>) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        state.step(step)?;
        state.stopped_at.insert(step);
        match change {
            Change::MakeDir(path) => state.make(path, folder()).map(|_| ()),
            Change::WriteNew(path, bytes) => {
                let node = state.make(path, Content::File { bytes: bytes.to_vec(), is_durable: false })?;
                state.step(step)?;
                if let Content::File { is_durable, .. } = &mut state.nodes[node] {
                    *is_durable = true;
                }
                Ok(())
            }
            Change::Rename(from, to) => {
                let node = state.find(from).ok_or(io::ErrorKind::NotFound)?;
                let ((parent, from), (_, to)) = (state.split(from)?, state.split(to)?);
                state.rename(parent, vec![(from, None), (to, Some(node))]);
                Ok(())
            }
            Change::RemoveFile(path) => state.remove(path),
            Change::RemoveAll(path) => {
                // Name by name: the power may fail in between.
                let node = state.find(path).ok_or(io::ErrorKind::NotFound)?;
                while let Content::Folder { names, .. } = &state.nodes[node] {
                    let Some(name) = names.keys().next().cloned() else { break };
                    state.rename(node, vec![(name, None)]);
                    state.step(step)?;
                }
                state.remove(path)
            }
            Change::SyncDir(path) => {
                let node = state.find(path).ok_or(io::ErrorKind::NotFound)?;
                let Content::Folder { names, durable, unsynced } = &mut state.nodes[node] else {
                    return Err(io::ErrorKind::NotADirectory.into());
                };
                durable.clone_from(names);
                unsynced.clear();
                Ok(())
            }
        }
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.borrow().find(path).is_some()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.borrow();
        match state.find(path).map(|node| &state.nodes[node]) {
            Some(Content::File { bytes, .. }) => Ok(bytes.clone()),
            Some(Content::Folder { .. }) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.0.borrow();
        match state.find(path).map(|node| &state.nodes[node]) {
            Some(Content::Folder { names, .. }) => Ok(names.keys().cloned().collect()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn lock(&self, _data_dir: &Path, member: &Path) -> Result<File, IdentityError> {
        let null = Path::new("/dev/null");
        let error = |error| IdentityError::Io { path: PathBuf::from(member), error };
        if !self.exists(member) {
            return Err(error(io::ErrorKind::NotFound.into()));
        }
        File::open(null).map_err(error)
    }
}
