//! Blocking loops around a log: for opening, tools and tests. A server polls instead.

use crate::disk::Disk;
use crate::error::WalError;
use crate::log::Log;

/// Drives the log by blocking until `done` says so or nothing is left to do. A helper for tools and tests: a server
/// polls instead.
///
/// # Errors
/// The log's first failure, or the disk's.
pub fn run_until(disk: &mut dyn Disk, log: &mut Log, done: impl Fn(&Log) -> bool) -> Result<(), WalError> {
    while !done(log) {
        let mut moved = false;
        while let Some((token, io)) = log.poll_io() {
            disk.submit(token, io);
            moved = true;
        }
        disk.flush()?;
        while let Some(completion) = disk.poll_completion() {
            log.completed(completion);
            moved = true;
        }
        if let Some(failure) = log.failure() {
            return Err(failure.clone());
        }
        if !moved {
            if !log.awaits_completion() {
                let stuck = log.space_error().filter(|_| !log.is_idle());
                assert!(stuck.is_some() || log.is_idle(), "only missing space stops the log");
                return stuck.map_or(Ok(()), |error| Err(error.clone().into()));
            }
            disk.wait()?;
        }
    }
    Ok(())
}

/// Drives the log by blocking until all that was appended is on disk and the next segment is ready.
///
/// # Errors
/// The log's first failure, or the disk's.
pub fn run_until_idle(disk: &mut dyn Disk, log: &mut Log) -> Result<(), WalError> {
    run_until(disk, log, |_| false)
}
