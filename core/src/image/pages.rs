//! A whole state as pages: what members send to each other. The bytes are the pager's (its `transfer`); what stands in them, in
//! its attributes and entries, is checked here as that of any image is.

use core::hash::Hasher as _;

use ringstone_pager::FileOptions;
use ringstone_pager::transfer::{PageSink, Progress, Taker, TransferError};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::check;
use crate::state::{State, StateError};

/// Bytes of what a page image begins with.
pub const HEAD_BYTES: usize = 8192;

/// Why bytes are no state of this cluster as pages.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// The pages.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// What stands in them.
    #[error("a state that came as pages: {0}")]
    State(#[from] StateError),
    /// Whose state it is.
    #[error("a state came as pages that is of cluster {found:x}, not of {own:x}")]
    Foreign {
        /// The sender's cluster.
        found: u64,
        /// This member's.
        own: u64,
    },
}

/// Takes one state: `push` all of it, then `finish`.
pub struct PagesReader {
    taker: Taker,
    state: Option<State>,
    cluster_id: u64,
}

/// The digest of nodes' names: what nobody who does not know the key can make two of.
fn digest(key: [u8; 16]) -> ringstone_pager::transfer::Digest {
    let keyed = SipHasher24::new_with_key(&key);
    Box::new(move |name| {
        let mut hasher = keyed;
        hasher.write(name);
        hasher.finish128().as_u128()
    })
}

impl PagesReader {
    /// Makes a page file of these options, for a member of this cluster. `key` is random, and known to nobody else.
    #[must_use]
    pub fn new(options: &FileOptions<'_>, cluster_id: u64, key: [u8; 16]) -> PagesReader {
        PagesReader { taker: Taker::new(options, digest(key)), state: None, cluster_id }
    }

    /// Goes on where one with the same key was, with the head that it had and the map that stands in its file.
    ///
    /// # Errors
    /// [`PagesError`].
    pub fn resume(
        options: &FileOptions<'_>,
        cluster_id: u64,
        key: [u8; 16],
        head: &[u8],
        progress: Progress,
        map: &[u8],
    ) -> Result<PagesReader, PagesError> {
        let taker = Taker::resume(options, digest(key), head, progress, map)?;
        let mut reader = PagesReader { taker, state: None, cluster_id };
        reader.look_at_head()?;
        Ok(reader)
    }

    /// What it began with, once that has come.
    #[must_use]
    pub fn head(&self) -> Option<&[u8]> {
        self.taker.head()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.taker.progress()
    }

    /// The state, once its head has come.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`PagesError`]: what was written must be thrown away.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn PageSink) -> Result<(), PagesError> {
        while self.state.is_none() && !bytes.is_empty() {
            // No entry is looked at before the state is known. It is little: a byte at a time would do.
            let (head, rest) = bytes.split_at(bytes.len().min(512));
            self.taker.push(head, sink, &mut |_, _, _| Err("an entry comes before the state"))?;
            self.look_at_head()?;
            bytes = rest;
        }
        let Some(state) = &self.state else { return Ok(()) };
        let mut check = |tree, key: &[u8], value: &[u8]| check::record(tree, key, value, state);
        Ok(self.taker.push(bytes, sink, &mut check)?)
    }

    fn look_at_head(&mut self) -> Result<(), PagesError> {
        let (Some(owner), Some(attributes)) = (self.taker.sender(), self.taker.attributes()) else { return Ok(()) };
        let found = u64::from_be_bytes(core::array::from_fn(|byte| owner[byte]));
        if found != self.cluster_id {
            return Err(PagesError::Foreign { found, own: self.cluster_id });
        }
        self.state = Some(State::from_attributes(attributes)?);
        Ok(())
    }

    /// Ends the file: on disk when this returns. The state that it holds.
    ///
    /// # Errors
    /// [`PagesError`].
    pub fn finish(self, sink: &mut dyn PageSink) -> Result<State, PagesError> {
        self.taker.finish(sink)?;
        Ok(self.state.unwrap_or_default())
    }
}
