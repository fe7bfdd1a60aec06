//! The system calls that the standard library lacks: the only `unsafe` of this crate.

pub(crate) mod cache;
pub(crate) mod epoll;
pub(crate) mod process;
pub(crate) mod socket;

use std::io;

/// The result of a call that answers −1 and sets errno on failure.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
