//! What raft wants on disk: into the log's batches, and its acknowledgement once a batch is synced.
//!
//! ```text
//!  raft -> unlogged -> (room in the batch that fills) -> waiting -> (batch synced, ballot kept) -> raft.persisted -> messages that promise it
//! ```

use std::time::Duration;

use ringstone_raft::{EntryKind, Persist, SyncToken};
use ringstone_wal::{BatchNumber, Kind, Record, WalError};

use super::{GROUP, Group, GroupError, records};

/// What a batch of the log holds, which is not synced yet.
pub(super) struct Waiting {
    batch: BatchNumber,
    token: SyncToken,
    /// The ballot that has to be kept as well; 0: none.
    ballot: u64,
    /// It is followed by the switch to an image.
    installs: bool,
}

impl Group {
    /// Appends what raft wants on disk, as far as the batch that fills has room.
    pub(super) fn fill_log(&mut self) -> Result<(), GroupError> {
        self.log_checkpoint()?;
        self.log_is_full = false;
        while let Some(persist) = self.unlogged.pop_front() {
            let Some(batch) = self.log_persist(&persist)? else {
                self.unlogged.push_front(persist);
                self.log_is_full = true;
                return Ok(());
            };
            let installs = persist.snapshot.is_some();
            self.logged_entries = 0;
            let ballot = persist.hard_state.map_or(0, |state| self.ballots.add(state));
            self.waiting.push_back(Waiting { batch, token: persist.token, ballot, installs });
            if installs {
                // The image replaces whatever comes behind it in this life.
                self.unlogged.clear();
            }
        }
        Ok(())
    }

    /// The batch that holds the last of it. None: the batch is full, the rest waits for the next.
    fn log_persist(&mut self, persist: &Persist) -> Result<Option<BatchNumber>, GroupError> {
        let mut last = self.log.filling();
        if self.logged_entries == 0 {
            if let Some(hard_state) = &persist.hard_state {
                let payload = records::hard_state(hard_state);
                let index = self.state.applied_index;
                let Some(batch) = self.append(Kind::HardState, hard_state.term.0, index, &payload)? else {
                    return Ok(None);
                };
                last = batch;
            }
            if let Some(image) = &persist.snapshot {
                return Ok(self.log_install(&image.metadata)?.then(|| self.log.filling()));
            }
            if let Some(from) = persist.truncate_from {
                let Some(batch) = self.append(Kind::Truncate, 0, from.0, &[])? else { return Ok(None) };
                last = batch;
            }
        }
        for entry in &persist.entries[self.logged_entries..] {
            let kind = match entry.kind {
                EntryKind::Normal => Kind::Entry,
                EntryKind::Configuration => Kind::Config,
            };
            let Some(batch) = self.append(kind, entry.term.0, entry.index.0, &entry.payload)? else { return Ok(None) };
            last = batch;
            self.look_at_logged(&entry.payload);
            self.logged_entries += 1;
        }
        Ok(Some(last))
    }

    /// None: the batch is full, the rest waits for the next.
    pub(super) fn append(
        &mut self,
        kind: Kind,
        term: u64,
        index: u64,
        payload: &[u8],
    ) -> Result<Option<BatchNumber>, GroupError> {
        match self.log.append(Record { group: GROUP, kind, term, index, payload }) {
            Ok(batch) => Ok(Some(batch)),
            Err(WalError::Full) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The log's next operation for its disk.
    pub fn poll_log_io(&mut self) -> Option<(ringstone_wal::disk::Token, ringstone_wal::disk::Io)> {
        self.log.poll_io()
    }

    /// An operation of the log has finished: what it proves is acknowledged to raft.
    ///
    /// # Errors
    /// [`GroupError::Log`]: the first failure of a write or sync, final.
    pub fn log_completed(&mut self, completion: ringstone_wal::disk::Completion) -> Result<(), GroupError> {
        self.log.completed(completion);
        self.disk_watch.log_moved();
        if let Some(error) = self.log.failure() {
            return Err(error.clone().into());
        }
        self.release_synced();
        Ok(())
    }

    /// Acknowledges to raft what is on disk, in its order.
    pub(super) fn release_synced(&mut self) {
        let (log, ballots) = (&self.log, &self.ballots);
        let synced = log.synced();
        let is_on_disk = |waiting: &Waiting| waiting.batch <= synced && ballots.is_kept(waiting.ballot);
        let count = self.waiting.iter().take_while(|waiting| is_on_disk(waiting)).count();
        for _ in 0..count {
            let Some(waiting) = self.waiting.pop_front() else { return };
            if waiting.installs {
                // Nothing more is promised by this life.
                self.waiting.clear();
                self.outputs.install = self.installing.clone();
                return;
            }
            let after_sync = self.raft.persisted(waiting.token);
            self.outputs.send.extend(after_sync.send);
        }
    }

    /// True while the log waits for its disk.
    pub fn awaits_log(&self) -> bool {
        self.log.awaits_completion()
    }

    /// After some quiet the log is closed for now; returns when to ask again, in nanoseconds of the same clock.
    pub fn quiet(&mut self, now: Duration) -> Option<Duration> {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.log.quiet(now_ns).map(Duration::from_nanos)
    }

    /// Writes the closing block: the last word of a clean stop.
    pub fn close_log(&mut self) {
        self.log.close();
    }

    /// True once the closing block is on disk.
    pub fn is_closed(&self) -> bool {
        self.log.is_closed() && self.log.is_idle()
    }
}
