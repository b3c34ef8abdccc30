//! What ends a group.

use std::io;

use ringstone_pager::CheckpointError;
use ringstone_raft::RaftError;
use ringstone_wal::WalError;

use crate::state::StateError;

/// What ends a group, and with it the process.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The log failed. Nothing is acknowledged any more.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The page file can't be opened for the group's I/O.
    #[error("page file: {0}")]
    PageFile(#[source] io::Error),
    /// A checkpoint can't begin, or a write or sync of the page file failed.
    #[error("page file: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The state that a checkpoint has made durable can't be read back.
    #[error("page file: the checkpoint's own attributes: {0}")]
    Attributes(#[from] StateError),
    /// A page is damaged where the member can't go on without it.
    #[error("page file: {0}. Restore the member from a snapshot, or replace it")]
    Damaged(ringstone_pager::api::Damage),
    /// The state of this member is not that of most members.
    #[error("the state of this member differs from that of most members at log entry {index} of term {term}")]
    Diverged {
        /// Where it was compared.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// Term and vote can't be kept.
    #[error("{path}: {error}")]
    Ballot {
        /// The file.
        path: std::path::PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A command could not be finished.
    #[error("log entry {index} of term {term}: {what}")]
    Entry {
        /// Where.
        index: u64,
        /// Its term.
        term: u64,
        /// Why.
        what: String,
    },
    /// Members can't be reached or heard.
    #[cfg(feature = "glommio")]
    #[error("peers: {0}")]
    Peers(#[from] ringstone_net::peer::PeerError),
    /// The state of another member has taken the place of this one's: the process begins anew with it.
    #[error("the state was replaced by that of the leader")]
    Installed,
    /// The folder's count of starts.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    /// This member has no place in the cluster any more.
    #[error("this member was removed from its cluster ({by}): stop it for good and delete its data folder")]
    Removed {
        /// Who says so.
        by: String,
    },
    /// Another process runs, or ran later, as this member: the text has the remedy.
    #[error("another member refuses this process: {text}")]
    Refused {
        /// The other member's words.
        text: String,
    },
    /// A message that contradicts what is agreed on.
    #[error("raft: {0}. Stop the cluster's member that is named, and have the disks of both checked")]
    Raft(#[from] RaftError),
}

impl GroupError {
    /// The state can't be gone on with, and the log can: other members have the same one.
    #[must_use]
    pub fn is_of_state(&self) -> bool {
        matches!(self, GroupError::Damaged(_) | GroupError::Attributes(_) | GroupError::Diverged { .. })
    }
}
