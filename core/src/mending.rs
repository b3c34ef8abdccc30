//! A member whose state or log is damaged fetches from the others what it has lost, by itself.
//!
//! ```text
//!  a page fails its check, or the state differs from the others'  (running)      ──┐ leadership handed over, mark written,
//!  page file or log can't be opened                               (at a start)   ──┤ the process starts again
//!                                                                                  v
//!  start with the mark: no group, no client port, nothing voted or acknowledged: switched off, as the others see it
//!    1 what does the log still say?        whole ──> which states it goes on behind     damaged ──> term and vote from the ballot
//!    2 a state is fetched                  of any member that has applied enough        of a leader that a quorum has confirmed
//!    3 the log is made to fit              goes on behind it, or is void                is begun anew with term and vote
//!    4 the new page file takes its name, the mark goes, the process starts again as any member does
//! ```
//!
//! A crash anywhere finds the mark, and begins at 1. Before entries of the log are given up the mark says so, so that a second
//! attempt asks for a state that makes up for them. Why no promise is broken: docs/decisions/0012-mending.md. A member that is
//! damaged again and again is not mended for ever (identity/mended.rs).

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use ringstone_pager::OpenError as PagesError;
use ringstone_pager::meta::OpenFailure;
use ringstone_raft::HardState;
use ringstone_wal::WalError;
use ringstone_wal::disk::Disk as LogDisk;

use crate::command::Member;
use crate::group::{self, GroupError, LogFacts, LogNeed, OpenError};
use crate::identity::known::Known;
use crate::identity::mend::{Lost, Mend};
use crate::identity::mended::{MENDS_MAX, Mended, WINDOW};
use crate::identity::{IdentityError, ballot};
use crate::shard::mending::{Fetched, fetch};
use crate::shard::pulse::Pulse;
use crate::shard::{boottime, images_installed};
use crate::shared::Shared;
use crate::state::StateError;

/// How often it is looked whether the member was told to stop.
const LOOK: Duration = Duration::from_millis(100);
/// How long the thread may take to begin before another one is started in its place.
const START_AGAIN: Duration = Duration::from_secs(2);
/// An executor's task is asked to yield after this: QUIC needs it (docs/peers.md).
const PREEMPT_TIMER: Duration = Duration::from_millis(1);

/// Why a member could not be made whole.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// Votes are forgotten.
    #[error(
        "{log}; and {path}, the copy of its term and vote, is damaged or missing, too: this member does not know any more for whom it has voted, and must not vote again. Remove it from the cluster (member remove), empty its folder and add it anew (member add)"
    )]
    Votes {
        /// What is wrong with the log.
        log: String,
        /// The copy.
        path: std::path::PathBuf,
    },
    /// What is damaged is damaged again.
    #[error(
        "this member has fetched what it had lost from the others {MENDS_MAX} times within {} hours, and has lost it again ({why}). Those times: {often}. It is not mended once more before the first of them is so long ago: its disk (or memory) damages what it holds. Replace it, then remove the member (member remove), empty its folder and add it anew (member add)",
        WINDOW.as_secs() / 3600
    )]
    TooOften {
        /// What is lost now.
        why: String,
        /// What was lost before, and how often.
        often: String,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What others say.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The new page file can't be given its name.
    #[error("page file: {0}")]
    Install(#[source] io::Error),
    /// The executor.
    #[error("fetching the state: the executor can't start: {0}")]
    Executor(String),
}

/// What a failed start has lost, where other members may have it.
#[must_use]
pub fn lost_at_open(error: &OpenError) -> Option<Lost> {
    match error {
        OpenError::Log(WalError::Damaged(_)) | OpenError::Record { .. } => Some(Lost::Log),
        OpenError::Pages(
            PagesError::WentBack { .. }
            | PagesError::AbsurdLevel(..)
            | PagesError::Refused(
                OpenFailure::TooShort { .. }
                | OpenFailure::NotOurs
                | OpenFailure::HeaderDamaged
                | OpenFailure::BothDamaged { .. }
                | OpenFailure::SameGeneration { .. },
            ),
        )
        | OpenError::Damaged(_)
        | OpenError::Mismatch { .. }
        | OpenError::State(StateError::Damaged(_)) => Some(Lost::State),
        _ => None,
    }
}

/// The other members, from wherever anything is known of them. None: there is nobody to ask.
fn others(shared: &Shared) -> Result<Vec<Member>, IdentityError> {
    let known = Known::load(&shared.config.data_dir)?;
    let own = shared.identity.member_id;
    let mut members: Vec<Member> = known
        .members()
        .iter()
        .filter(|(_, known)| !known.peer_urls.is_empty())
        .map(|(id, known)| Member {
            id: *id,
            name: String::new(),
            peer_urls: known.peer_urls.clone(),
            client_urls: vec![],
            is_learner: false,
        })
        .collect();
    if members.is_empty() {
        members = shared.joins.get().map_or_else(|| group::founders(&shared.config), |(members, _)| members.clone());
    }
    members.retain(|member| member.id != own);
    Ok(members)
}

/// Marks the member, where others may have what it has lost. False: nobody has.
///
/// # Errors
/// [`IdentityError`].
pub fn mark(shared: &Shared, lost: Lost, why: &dyn std::fmt::Display) -> Result<bool, IdentityError> {
    if others(shared)?.is_empty() {
        return Ok(false);
    }
    // What is worse stays.
    let lost = Mend::read(&shared.config.data_dir)?.map_or(lost, |before| before.lost.max(lost));
    Mend { lost, why: why.to_string() }.write(&shared.config.data_dir)?;
    Ok(true)
}

/// Another member has refused this process, whose folder is none that may run as this member: no start of it does any more.
/// On disk when this returns, or the log says why not: then only the other members refuse it.
pub fn mark_refused(shared: &Shared, why: &str) {
    let mark = Mend { lost: Lost::Votes, why: why.to_owned() };
    if let Err(error) = mark.write(&shared.config.data_dir) {
        tracing::error!(error = %error, "the folder can't be marked as one that must not run again");
    }
}

/// Makes a marked member whole. True: it is, and starts again. False: it was told to stop.
///
/// # Errors
/// [`MendError`]: the mark stands, and the next start tries again.
pub fn run(
    shared: &Arc<Shared>,
    log_disk: &mut dyn LogDisk,
    mend: Mend,
    is_stopped: impl Fn(Duration) -> bool,
) -> Result<bool, MendError> {
    let data_dir = &shared.config.data_dir;
    if let Some(often) = Mended::read(data_dir)?.too_often() {
        return Err(MendError::TooOften { why: mend.why, often });
    }
    let (mend, log) = look_at_log(shared, log_disk, mend)?;
    tracing::error!(
        why = mend.why,
        lost = ?mend.lost,
        need = ?log.need(),
        "this member has lost what the others have: it serves nobody and has no vote until it has fetched their state, which \
         it does by itself. Have its disk checked"
    );
    let Some(fetched) = fetch_apart(shared, log.need(), is_stopped)? else { return Ok(false) };
    let options = group::server_log_options(shared);
    match log {
        Log::Whole(facts) if facts.has(fetched.index, fetched.term) => group::mark_state(log_disk, options)?,
        Log::Whole(facts) => {
            // What the log has is given up: from now on only a proven leader's state makes up for it.
            Mend { lost: Lost::Log, why: mend.why.clone() }.write(data_dir)?;
            group::void_log(log_disk, options, &facts, fetched.term)?;
        }
        Log::Lost(hard_state) => group::make_log(log_disk, options, hard_state, fetched.term)?,
    }
    images_installed(data_dir).map_err(MendError::Install)?;
    // While the mark stands: whoever remembers a longer log goes by this.
    Mended::count(data_dir, &mend)?;
    Mend::remove(data_dir)?;
    tracing::info!(index = fetched.index, term = fetched.term, "the member is whole again");
    Ok(true)
}

/// The log of a member without a state.
enum Log {
    /// Nothing that was acknowledged is missing.
    Whole(LogFacts),
    /// Only term and vote are left.
    Lost(HardState),
}

impl Log {
    fn need(&self) -> LogNeed {
        match self {
            Log::Whole(facts) => facts.need(),
            Log::Lost(_) => LogNeed::Confirmed,
        }
    }
}

/// What the log still says; the mark says so, too, before anybody relies on it.
fn look_at_log(shared: &Shared, log_disk: &mut dyn LogDisk, mend: Mend) -> Result<(Mend, Log), MendError> {
    let data_dir: &Path = &shared.config.data_dir;
    let kept = ballot::read(data_dir, &shared.identity)?;
    let votes = |log: String| MendError::Votes { log, path: ballot::path(data_dir) };
    let hard_state = match group::inspect_log(log_disk, &group::server_log_options(shared)) {
        Ok(facts) => {
            let Some(hard_state) = ballot::later(facts.hard_state, kept) else {
                return Err(votes("the log says that this member voted for another one in the same term".to_owned()));
            };
            if mend.lost == Lost::State && facts.need() != LogNeed::Confirmed {
                return Ok((mend, Log::Whole(facts)));
            }
            // What is left of a log that was being begun anew says less than the copy, and never more.
            match kept.certain() {
                Some(_) => hard_state,
                None if mend.lost == Lost::State => hard_state,
                None => return Err(votes(mend.why)),
            }
        }
        Err(error @ (WalError::Damaged(_) | WalError::NoLog)) => match kept.certain() {
            Some(hard_state) => hard_state,
            None => return Err(votes(error.to_string())),
        },
        Err(error) => return Err(error.into()),
    };
    let mend = Mend { lost: Lost::Log, ..mend };
    mend.write(data_dir)?;
    Ok((mend, Log::Lost(hard_state)))
}

/// On a thread of its own, so that the member can be told to stop. None: it was.
fn fetch_apart(
    shared: &Arc<Shared>,
    need: LogNeed,
    is_stopped: impl Fn(Duration) -> bool,
) -> Result<Option<Fetched>, MendError> {
    let members = others(shared)?;
    let place: Arc<Mutex<Option<Result<Fetched, GroupError>>>> = Arc::default();
    let (has_begun, pulse) = (Arc::new(AtomicBool::new(false)), Arc::new(Pulse::default()));
    let start = || {
        let (place, shared, members) = (Arc::clone(&place), Arc::clone(shared), members.clone());
        let (has_begun, pulse) = (Arc::clone(&has_begun), Arc::clone(&pulse));
        let thread = LocalExecutorBuilder::new(Placement::Unbound)
            .name("mending")
            .io_memory(64 << 10)
            .ring_depth(256)
            .preempt_timer(PREEMPT_TIMER);
        let thread = thread.spawn(move || async move {
            if !has_begun.swap(true, Ordering::SeqCst) {
                pulse.begin();
                let fetched = fetch(&shared, members, need).await;
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
            }
        });
        thread.map_err(|error| MendError::Executor(error.to_string()))
    };
    // Not waited for: the process ends, or starts again, soon after this.
    let mut threads = vec![start()?];
    let mut since = boottime();
    loop {
        if let Some(fetched) = place.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(Some(fetched?));
        }
        if is_stopped(LOOK) {
            return Ok(None);
        }
        // Executors may sleep: shard/pulse.rs, shard/start.rs.
        pulse.feel();
        if !has_begun.load(Ordering::SeqCst) && boottime().saturating_sub(since) > START_AGAIN {
            threads.push(start()?);
            since = boottime();
        }
    }
}
