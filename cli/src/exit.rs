//! Exit codes, and the error that means "used wrongly".

/// Done.
pub(crate) const DONE: u8 = 0;
/// Failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage: arguments or a configuration that cannot be used.
pub(crate) const USAGE: u8 = 2;

/// An error of usage found after the arguments were parsed: the exit code is 2. Put it at the root
/// of an `anyhow` chain (`Err(Usage::new("…").into())`).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(String);

impl Usage {
    /// What is wrong with the usage, for the person who typed it.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Restores the default action of SIGPIPE, which Rust's runtime ignores.
pub(crate) fn default_sigpipe() {
    // SAFETY: sets a signal's disposition to the default, before any thread exists; no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
