//! Raft consensus, sans I/O: no clock, no socket, no file, no thread.
//!
//! ```text
//!  tick(random)  step(from, message)  propose(..)  propose_configuration(..)  read_index(context)  transfer_leadership(to)
//!        \               |               |                 |                      |              /
//!         +--------------+---------------+------- Raft ----+----------------------+-------------+
//!                                                  | take_actions()
//!              +-----------------+-----------------+---------------+--------------+
//!          send_now       persist{token, ..}    committed        reads    role, snapshots
//!                                 | (the caller's log syncs)
//!                          persisted(token)
//!                                 |
//!                  AfterSync{send}: vote requests, grants, acknowledgements
//! ```
//!
//! A group of one voter, with a log that syncs at once:
//! ```
//! # use ringstone_raft::*;
//! # fn write_and_sync(_batch: &Persist) {}
//! # fn apply(_entry: &Entry) {}
//! let me = NodeId(1);
//! let founders = Configuration::new([me], []).expect("a voter");
//! let snapshot = SnapshotMetadata { configuration: founders, ..Default::default() };
//! let mut raft = Raft::new(Config::new(me, 1), Stable { snapshot, ..Default::default() })?;
//! raft.campaign(); // leads after two syncs: its vote, and the first entry
//! let mut first = None;
//! loop {
//!     let actions = raft.take_actions();
//!     for entry in &actions.committed {
//!         apply(entry); // an answer to `entry.index`'s proposer, where `entry.term` is the term of its proposal
//!         raft.applied(entry.index);
//!     }
//!     match actions.persist {
//!         Some(batch) => {
//!             write_and_sync(&batch);
//!             let after = raft.persisted(batch.token); // `after.send` goes to the peers, of which there are none
//!             assert!(after.send.is_empty());
//!         }
//!         None if first.is_none() => first = Some(raft.propose([bytes::Bytes::from_static(b"a batch of one")])?),
//!         None => break,
//!     }
//! }
//! assert_eq!((first, raft.positions().applied.0), (Some(Index(2)), Index(2)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants, absences included:
//! - Nothing here knows the time, a source of chance, or an address. A seed replays a whole cluster.
//! - A message that promises durability leaves this crate only through [`AfterSync`].
//! - A leader counts itself for an entry, or for its own election, only once the sync of it was acknowledged.
//! - The configuration in force is the latest one in the log, committed or not: it never waits for apply.
//! - Entries are handed out for apply once, in order, committed and locally persisted.
//! - Bytes of a payload are never looked at, but for configurations, which this crate encodes itself.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod actions;
mod config;
mod configuration;
mod error;
mod log;
mod message;
mod progress;
mod raft;
mod reads;
mod status;
mod sync;
mod types;
pub mod wire;

pub use actions::{Actions, AfterSync, Persist, ReadState, Role, RoleChange};
pub use config::{Config, Stable};
pub use configuration::{Change, Configuration, MEMBERS_MAX};
pub use error::{ProposeError, RaftError};
pub use message::{Body, Message};
pub use raft::Raft;
pub use status::{MemberStatus, Replication, Status};
pub use sync::SyncToken;
pub use types::{
    Applied, Committed, ENTRY_OVERHEAD_BYTES, Entry, EntryKind, HardState, Index, NodeId, POSITION_MAX, Persisted,
    Positions, Proposed, Snapshot, SnapshotMetadata, Term,
};
