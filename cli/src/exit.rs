//! Exit codes, and the error that means "used wrongly".

use std::io::Write as _;

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

/// An error and its causes on one line. Our error types put their cause into their own text, others
/// only name it: a cause is added where the line does not say it yet.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

/// Says something on standard error. Where that cannot be written (a full disk, a reader that is gone) nobody is there
/// to be told, and the exit code still says how it went: `eprintln!` would panic.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "reel: {text}");
}

/// Restores the default action of SIGPIPE, which Rust's runtime ignores.
pub(crate) fn default_sigpipe() {
    // SAFETY: sets a signal's disposition to the default, before any thread exists; no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_said_once() {
        let quiet = anyhow!("no space").context("cannot write x");
        assert_eq!(super::line(&quiet), "cannot write x: no space");
        let loud = anyhow!("no space").context("cannot write x: no space");
        assert_eq!(super::line(&loud), "cannot write x: no space");
    }
}
