//! epoll(7), edge-triggered: one call for many connections, and no call to change what is waited for.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use super::checked;

/// Events taken by one call. More stay in the kernel until the next one.
const EVENTS_MAX: usize = 256;

/// An epoll instance.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes a flag only.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the call above just gave us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Waits for `source` in both directions, edge-triggered; `token` comes back with its events. Closing the
    /// descriptor removes it.
    pub(crate) fn add(&self, source: &impl AsRawFd, token: usize) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: token as u64 };
        let (epoll, source) = (self.fd.as_raw_fd(), source.as_raw_fd());
        // SAFETY: both descriptors are open here, and the event lives across the call, which only reads it.
        checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, source, &raw mut event) })?;
        Ok(())
    }

    /// Puts the tokens of what is ready into `ready`. Waits at most `timeout`, in whole milliseconds: below one it
    /// only looks.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let (fd, room) = (self.fd.as_raw_fd(), self.events.spare_capacity_mut());
        let max = i32::try_from(room.len()).unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most `max` events into the spare capacity, which has room for so many.
        let count = unsafe { libc::epoll_wait(fd, room.as_mut_ptr().cast(), max, timeout) };
        let count = match checked(count) {
            Ok(count) => count.unsigned_abs() as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        // SAFETY: the kernel has filled so many events from the start, and said so.
        unsafe { self.events.set_len(count) };
        ready.extend(self.events.drain(..).map(|event| event.u64 as usize));
        Ok(())
    }
}
