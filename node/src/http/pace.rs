//! How slow a peer may be: a window of waiting in which it must move some bytes.
//!
//! A deadline for the whole body would cut off honest slow clients, a deadline for each byte
//! would let a trickle of one byte a second hold a connection for ever. Only time spent waiting
//! for the peer counts: a slow disk of ours is not its fault.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

/// The least progress a peer must make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time of waiting after which the progress is looked at.
    pub window: Duration,
    /// Bytes that must have moved in the window; at least one counts in any case.
    pub bytes_min: u64,
}

impl Pace {
    /// Any progress at all within `window`.
    pub const fn any_within(window: Duration) -> Self {
        Self { window, bytes_min: 1 }
    }
}

/// Progress of one peer in one direction, against a [`Pace`].
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    pace: Pace,
    waited: Duration,
    moved: u64,
}

impl Meter {
    /// A meter at the start of its first window.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, waited: Duration::ZERO, moved: 0 }
    }

    /// Counts progress.
    pub const fn moved(&mut self, bytes: u64) {
        self.moved = self.moved.saturating_add(bytes);
    }

    /// Waiting time until the next look at the progress.
    pub const fn left(&self) -> Duration {
        self.pace.window.saturating_sub(self.waited)
    }

    /// Counts time spent waiting.
    ///
    /// # Errors
    /// `TimedOut`: the window is over and too little has moved in it.
    pub fn waited(&mut self, time: Duration) -> io::Result<()> {
        self.waited = self.waited.saturating_add(time);
        if self.waited < self.pace.window {
            return Ok(());
        }
        if self.moved < self.pace.bytes_min.max(1) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.waited = Duration::ZERO;
        self.moved = 0;
        Ok(())
    }

    /// Waits for `ready` (a poll of the peer's socket) as long as the pace allows. Cancel safe if
    /// `ready` is.
    ///
    /// # Errors
    /// `TimedOut` when the peer was too slow; else what `ready` fails with.
    pub async fn wait(&mut self, ready: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let mut ready = std::pin::pin!(ready);
        loop {
            let since = Instant::now();
            let answer = monoio::time::timeout(self.left(), ready.as_mut()).await;
            self.waited(since.elapsed())?;
            if let Ok(answer) = answer {
                return answer;
            }
        }
    }
}
