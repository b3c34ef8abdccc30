//! `--force-new-cluster`: the quorum is lost for good, and this member goes on alone with all that it has.
//!
//! ```text
//!  log: ... entries as they were | hard state: next term, own vote | configuration: this member alone | (raft's own)
//! ```
//!
//! Raft goes by the latest configuration in the log: with this one it is a sole voter, leads, and commits everything before it.
//! What the others had not confirmed stays too: its callers were told nothing yet, and what was confirmed is among it, as far as
//! it ever came here. Its apply takes the other members out of the tree.
//!
//! What can go wrong is not here but outside: where the others live on, there are two clusters of one id. This one never dials
//! them, and tells nobody that it was removed: a quorum of them goes on undisturbed.

use bytes::Bytes;
use ringstone_raft::{Configuration, Entry, EntryKind, HardState, Index, NodeId, Term};
use ringstone_wal::{Kind, Log, Record, WalError};

use super::{GROUP, records};

/// What the log says; what is added to it is added here, too.
pub(super) struct Logged<'a> {
    pub hard_state: &'a mut HardState,
    pub entries: &'a mut Vec<Entry>,
    /// Index and term of the state that the entries follow.
    pub applied: (u64, u64),
}

/// The configuration in force: the latest in the log, or that of the state.
fn in_force(entries: &[Entry], of_state: &Configuration) -> Configuration {
    let mut configurations = entries.iter().rev().filter(|entry| entry.kind == EntryKind::Configuration);
    let latest = configurations.find_map(|entry| Configuration::decode(&entry.payload));
    latest.map_or_else(|| of_state.clone(), |(configuration, _)| configuration)
}

/// Puts the configuration of one into the log. On disk with raft's first entry behind it; a crash before that leaves the old
/// members.
///
/// # Errors
/// [`WalError`].
pub(super) fn begin_alone(
    log: &mut Log,
    me: NodeId,
    logged: &mut Logged<'_>,
    of_state: &Configuration,
) -> Result<(), WalError> {
    let before = in_force(logged.entries, of_state);
    let alone = Configuration::new([me], []).expect("one voter is a configuration");
    if before == alone {
        tracing::warn!(
            "--force-new-cluster: this member is a cluster of one already; remove the flag, or the next start drops members \
             that are added meanwhile"
        );
        return Ok(());
    }
    let others: Vec<String> =
        before.members().into_iter().filter(|id| *id != me).map(|id| format!("{:x}", id.0)).collect();
    tracing::warn!(
        member = format!("{:x}", me.0),
        dropped = others.join(","),
        "--force-new-cluster: this member becomes a cluster of one with all that it has, and the others are dropped from it. \
         Whatever they alone had confirmed is lost; they must never be started again with their data folders. Remove the flag \
         before the next start"
    );
    let (index, term) = logged.entries.last().map_or(logged.applied, |last| (last.index.0, last.term.0));
    let term = Term(logged.hard_state.term.0.max(term) + 1);
    *logged.hard_state = HardState { term, vote: Some(me) };
    let payload = alone.encode(&[]);
    let vote = records::hard_state(logged.hard_state);
    let state = Record { group: GROUP, kind: Kind::HardState, term: term.0, index: logged.applied.0, payload: &vote };
    log.append(state)?;
    log.append(Record { group: GROUP, kind: Kind::Config, term: term.0, index: index + 1, payload: &payload })?;
    let payload = Bytes::copy_from_slice(&payload);
    logged.entries.push(Entry { term, index: Index(index + 1), kind: EntryKind::Configuration, payload });
    Ok(())
}
