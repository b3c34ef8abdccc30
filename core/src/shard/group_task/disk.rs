//! The log's requests and the ballot's: on their way, watched, and what their ends allow.

use std::fs::File;
use std::future::poll_fn;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use glommio::io::BufferedFile;
use ringstone_net::LocalBoxFuture;
use ringstone_net::nap::{Door, Nap};
use ringstone_wal::WalError;
use ringstone_wal::disk::{Disk as _, Io, Token};

use super::Driver;
use crate::group::GroupError;
use crate::identity::ballot::{self, Ballot};
use crate::shard::link::Stamps;
use crate::shard::{boottime, fds};
use crate::shared::Shared;

/// How long the group looks for the end of a sync before it parks: two of a fast disk's.
const LINGER: Duration = Duration::from_micros(200);
/// How long other tasks of the shard wait for it at most.
const LINGER_SLICE: Duration = Duration::from_micros(25);
/// It does so for a client that is alone, on a member that is alone: where there are several, it was seen to cost a third more of
/// the core's time a put and to bring nothing; and the answer of another member is not in this ring.
const LINGER_CONNECTIONS_MAX: usize = 1;

impl Driver {
    /// Looks at the log's ring for a moment instead of parking, and says whether to look again: what a client that is alone
    /// waits for is the way through a park and back, as long as the sync itself. The kernel's worker for the sync, which may
    /// be on this core, comes first.
    pub(super) fn lingers(&mut self) -> bool {
        let Some((_, began)) = self.log_write else { return false };
        let shared = &self.local.shared;
        if !shared.is_sole.load(Ordering::Relaxed) || shared.open_connections() > LINGER_CONNECTIONS_MAX {
            return false;
        }
        let now = boottime();
        while !self.ring.has_ended() && boottime() - now < LINGER_SLICE {
            std::thread::yield_now();
        }
        now - began < LINGER
    }

    pub(super) fn log_io(&mut self) -> Result<bool, GroupError> {
        let mut moved = false;
        loop {
            let mut submitted = false;
            while let Some((token, io)) = self.group.poll_log_io() {
                self.note_log_io(token, &io);
                self.ring.submit(token, io);
                submitted = true;
            }
            if submitted {
                self.ring.flush().map_err(WalError::from)?;
            }
            let mut completed = false;
            while let Some(completion) = self.ring.poll_completion() {
                self.note_log_completion(completion.token);
                self.group.log_completed(completion)?;
                completed = true;
            }
            if !completed {
                return Ok(moved);
            }
            moved = true;
            // A sole voter's synced entries are committed; the turn applies them.
            self.stamps.committed = boottime();
            self.group.turn()?;
        }
    }

    /// Term and vote, beside the log: on their way at the same time as the log's batch.
    pub(super) fn ballot_io(&mut self) -> Result<bool, GroupError> {
        let written = self.inbox.ballot_written.take();
        let moved = written.is_some();
        if let Some((count, result)) = written {
            let path = ballot::path(&self.local.shared.config.data_dir);
            result.map_err(|error| GroupError::Ballot { path, error })?;
            self.group.ballot_kept(count);
        }
        if let Some(ballot) = self.group.poll_ballot() {
            let (shared, inbox) = (self.local.shared.clone(), Rc::clone(&self.inbox));
            let awake = self.hold_naps();
            glommio::spawn_local(async move {
                let result = write_ballot(&shared, &ballot).await;
                drop(awake);
                inbox.ballot_written.replace(Some((ballot.count, result)));
                inbox.wake.notify();
            })
            .detach();
        }
        Ok(moved)
    }

    fn note_log_io(&mut self, token: Token, io: &Io) {
        if let Io::Write { buffer, sync: true, .. } = io {
            self.log_write = Some((token, boottime()));
            self.local.metrics().wal_bytes.add(buffer.len() as u64);
        }
    }

    fn note_log_completion(&mut self, token: Token) {
        if let Some((_, began)) = self.log_write.take_if(|write| write.0 == token) {
            let now = boottime();
            self.stamps = Stamps { proposed: began, synced: now, ..self.stamps };
            self.local.metrics().wal_fsync.record_ns(u64::try_from((now - began).as_nanos()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn watch_ring(&self) {
        let fd: OwnedFd = self.ring.event_fd().try_clone_to_owned().expect("a descriptor can be duplicated");
        let inbox = Rc::clone(&self.inbox);
        let mut ended = Ended::new(fd, self.local.nap.as_ref());
        glommio::spawn_local(async move {
            while poll_fn(|cx| ended.poll(cx)).await {
                inbox.wake.notify();
            }
        })
        .detach();
    }

    /// The last step of a clean stop: the closing block.
    pub(super) async fn close(mut self) -> Result<(), GroupError> {
        self.group.close_log();
        loop {
            while let Some((token, io)) = self.group.poll_log_io() {
                self.ring.submit(token, io);
            }
            self.ring.flush().map_err(WalError::from)?;
            while let Some(completion) = self.ring.poll_completion() {
                self.group.log_completed(completion)?;
            }
            if self.group.is_closed() {
                return Ok(());
            }
            glommio::executor().yield_now().await;
        }
    }
}

/// Requests of the log's ring that have ended, as its eventfd tells: to glommio's ring, or to a nap.
struct Ended {
    /// Dropped before the file, which it watches.
    door: Option<Door>,
    file: Rc<BufferedFile>,
    /// The same, for a look that does not wait.
    count: File,
    reading: Option<LocalBoxFuture<'static, bool>>,
}

impl Ended {
    fn new(fd: OwnedFd, nap: Option<&Rc<Nap>>) -> Ended {
        let count = File::from(fd.try_clone().expect("a descriptor can be duplicated"));
        let door = nap.and_then(|nap| nap.door(count.as_raw_fd()).ok());
        Ended { door, file: Rc::new(fds::buffered_file(fd)), count, reading: None }
    }

    /// Some have; false: nothing will tell any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.reading.is_none() {
            if let Some(door) = self.door.as_ref().filter(|door| door.is_open()) {
                ready!(door.poll_ready(cx));
                door.emptied();
                return Poll::Ready(true);
            }
            // What naps have told of is still counted, and would end the read at once.
            if self.door.is_some() && self.count.read(&mut [0; 8]).is_ok() {
                return Poll::Ready(true);
            }
            let file = Rc::clone(&self.file);
            self.reading = Some(Box::pin(async move { file.read_at(0, 8).await.is_ok() }));
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        let polled = reading.as_mut().poll(cx);
        match &polled {
            Poll::Ready(_) => self.reading = None,
            Poll::Pending => self.door.iter().for_each(|door| door.note(cx)),
        }
        polled
    }
}

/// On disk when this returns: the ballot.
async fn write_ballot(shared: &Shared, ballot: &Ballot) -> std::io::Result<()> {
    let path = ballot::path(&shared.config.data_dir);
    let file = glommio::io::OpenOptions::new().read(true).write(true).buffered_open(&path).await?;
    let bytes = ballot.encode(&shared.identity);
    let wanted = bytes.len();
    if file.write_at(bytes, ballot.offset()).await? != wanted {
        return Err(std::io::ErrorKind::WriteZero.into());
    }
    file.fdatasync().await?;
    Ok(file.close().await?)
}
