//! The system calls of a nap.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// Events that are taken at once; more come with the next call.
const EVENTS_MAX: usize = 64;

/// A set of descriptors, each told of once when something has come.
pub(super) struct Epoll(OwnedFd);

/// What came.
pub(super) struct Events {
    list: [libc::epoll_event; EVENTS_MAX],
    count: usize,
}

impl Default for Events {
    fn default() -> Self {
        Events { list: [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX], count: 0 }
    }
}

impl Events {
    /// The numbers that descriptors were added with, and whether the other side has ended.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, bool)> {
        let ended = (libc::EPOLLRDHUP | libc::EPOLLHUP) as u32;
        self.list[..self.count].iter().map(move |event| (event.u64, event.events & ended != 0))
    }
}

fn checked(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Epoll {
    pub(super) fn new() -> io::Result<Epoll> {
        // SAFETY: no memory is involved; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        checked(fd)?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(super) fn add(&self, fd: RawFd, number: u64) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: number };
        // SAFETY: the pointer is to an event that lives through the call; a descriptor that is none is an error.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    pub(super) fn remove(&self, fd: RawFd) {
        // SAFETY: no memory is involved; what is not in the set is an error, and of no matter.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits for the first event, at most for so many milliseconds. How many there are; none: time is up.
    pub(super) fn wait(&self, events: &mut Events, most: Duration) -> io::Result<usize> {
        events.count = 0;
        let (most, room) = (i32::try_from(most.as_millis()).unwrap_or(i32::MAX), EVENTS_MAX as libc::c_int);
        // SAFETY: the list has room for so many events, and lives through the call.
        let result = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.list.as_mut_ptr(), room, most) };
        events.count = checked(result)?;
        Ok(events.count)
    }
}

/// Takes what a socket has, without waiting. 0: its other side has ended.
pub(super) fn receive(fd: RawFd, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is as long as is said, and lives through the call; a descriptor that is no socket is an error.
    let result = unsafe { libc::recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
