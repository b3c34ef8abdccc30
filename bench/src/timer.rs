//! A timer of microseconds: tokio's wheel turns once a millisecond, which is longer than most answers take.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timerfd.
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// # Errors
    /// The system's: too many descriptors.
    pub fn new() -> io::Result<Timer> {
        // SAFETY: timerfd_create takes two numbers and touches no memory.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just above and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an OwnedFd stays open, and the same descriptor, for as long as the AsyncFd owns it.
        Ok(Timer(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?))
    }

    /// # Errors
    /// The system's; none is known for a good descriptor.
    pub async fn sleep(&self, time: Duration) -> io::Result<()> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
                // Zero would disarm it.
                tv_nsec: libc::c_long::from(time.subsec_nanos()).max(1),
            },
        };
        // SAFETY: the spec lives through the call; the old value is not asked for.
        let set = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0u8; 8];
            let read = ready.try_io(|fd| {
                // SAFETY: the buffer has the 8 bytes that are asked for and lives through the call.
                let read = unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
                if read < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
            match read {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}
