//! The multi-version store: what etcd's KV requests do to the trees, and what they read from them.
//!
//! ```text
//! request --check--> --request--> command == log ==> apply, txn --> trees (live, log, beside, value) + State + events
//!                                                    removal: large deletes, a batch at a time
//!                                                    sweep: cleans up behind the compacted revision, in slices
//! request --check--> range, read_txn, history, hash <-- any published view of the trees
//! ```
//!
//! `live` has each key's newest record, `log` every event of the window [compacted, now], `beside` the records that events
//! of the window replaced and the log no longer holds, `value` the large values of all three.

pub mod apply;
pub mod check;
pub mod compare;
pub mod hash;
pub mod history;
mod intervals;
pub mod keys;
pub mod lookup;
pub mod range;
pub mod read_txn;
pub mod record;
pub mod removal;
pub mod request;
mod sort;
pub mod sweep;
pub mod txn;

pub use apply::{apply_compact, apply_delete_range, apply_lease_revoke, apply_put};
pub use compare::Comparing;
pub use range::{Budget, Progress, RangeScan};
pub use read_txn::ReadTxn;
pub use removal::Removal;
pub use sweep::compact_slice;
pub use txn::{apply_compared, apply_txn};

use ringstone_pager::api::WriteTrees;
use ringstone_proto::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, LeaseRevokeResponse, PutResponse, TxnResponse,
};

use crate::command::ArchivedCommand;
use crate::error::{ApplyFault, Error};
use crate::event::Event;
use crate::state::State;

/// What an applied command of the store answers. Headers carry the revision only.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To a Put.
    Put(PutResponse),
    /// To a DeleteRange.
    DeleteRange(DeleteRangeResponse),
    /// To a Txn.
    Txn(TxnResponse),
    /// To a Compact.
    Compact(CompactionResponse),
    /// To a LeaseRevoke.
    LeaseRevoke(LeaseRevokeResponse),
}

/// What came of a command. Equal on all members.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The answer; an error changed nothing.
    pub response: Result<Answer, Error>,
    /// The changes in order, all of one main revision. `prev_kv` is filled in wherever etcd would show one.
    pub events: Vec<Event>,
}

impl Applied {
    pub(crate) fn refused(error: Error) -> Applied {
        Applied { response: Err(error), events: Vec::new() }
    }
}

/// Applies a command of the store; none for the commands of others. LeaseRevoke is not among these: its condition is the
/// lease module's ([`apply_lease_revoke`]). In memory only: the caller publishes and persists.
///
/// # Errors
/// [`ApplyFault`].
pub fn apply<T: WriteTrees>(
    trees: &mut T,
    state: &mut State,
    command: &ArchivedCommand,
) -> Result<Option<Applied>, ApplyFault> {
    match command {
        ArchivedCommand::Put(put) => apply_put(trees, state, put),
        #[cfg(feature = "next-kind")]
        ArchivedCommand::NextPut(put) => apply_put(trees, state, put),
        ArchivedCommand::DeleteRange(delete) => apply_delete_range(trees, state, delete),
        ArchivedCommand::Txn(txn) => apply_txn(trees, state, txn),
        ArchivedCommand::Compact { revision } => apply_compact(trees, state, revision.to_native()),
        _ => return Ok(None),
    }
    .map(Some)
}
