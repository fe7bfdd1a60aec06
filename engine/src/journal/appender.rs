//! Writes groups to a segment, durably, while the writer goes on with something else.
//!
//! The segment is open with O_DSYNC, and with O_DIRECT where its file system takes it: one write is content and sync in
//! one, with nothing of it in the page cache. Where there is a ring the write is given to it and waited for later; else it is
//! an ordinary write, which waits at once.

use std::io;

use io_uring::{IoUring, opcode, types};
use reel_node::{capability::RingFlags, ring};

use super::{aligned::Aligned, segment::Segment};

/// One write at a time, and room for nothing else.
const ENTRIES: u32 = 2;

/// The way to the disk; one write at a time.
#[derive(Default)]
pub(super) struct Appender {
    ring: Option<IoUring>,
    flight: Option<Flight>,
}

/// A write on its way, with the bytes that it is about.
enum Flight {
    /// The kernel has it; it reads the bytes until it says that it is done.
    Sent(Aligned),
    /// It has ended.
    Ended(Aligned, io::Result<()>),
}

impl Appender {
    /// Makes its ring, to be used by this thread alone from now on. Without one it works too.
    pub(super) fn use_ring(&mut self, flags: RingFlags) {
        self.ring = ring::own(flags, ENTRIES)
            .inspect_err(|error| tracing::warn!(%error, "the journal is written without io_uring"))
            .ok();
    }

    /// Begins to write `bytes`, whole blocks, at a multiple of a block.
    pub(super) fn start(&mut self, segment: &Segment, at: u64, bytes: Aligned) {
        debug_assert!(self.flight.is_none());
        self.flight = Some(match self.send(segment, at, &bytes) {
            Ok(()) => Flight::Sent(bytes),
            Err(error) => {
                // None, or one that takes nothing more: what was not sent is not pending in it once it is gone.
                if self.ring.take().is_some() {
                    tracing::warn!(%error, "the journal is written without io_uring from here on");
                }
                let written = segment.write(at, &bytes);
                Flight::Ended(bytes, written)
            }
        });
    }

    fn send(&mut self, segment: &Segment, at: u64, bytes: &Aligned) -> io::Result<()> {
        let ring = self.ring.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let write = opcode::Write::new(types::Fd(segment.synced_fd()?), bytes.as_ptr(), length)
            .offset(at)
            .build();
        // SAFETY: the bytes and the segment's file stay as they are until the write has ended: the bytes lie in `flight`,
        // which `finish` and `drop` give up only after its completion, and the kernel holds the file.
        unsafe { ring.submission().push(&write) }.map_err(io::Error::other)?;
        match ring.submit() {
            Ok(1) => Ok(()),
            Ok(_) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        }
    }

    /// Waits until what was begun is durable, and gives the bytes back.
    ///
    /// # Errors
    /// What of it is on the disk is not known then.
    pub(super) fn finish(&mut self) -> (Aligned, io::Result<()>) {
        match self.flight.take() {
            None => (Aligned::default(), Ok(())),
            Some(Flight::Ended(bytes, written)) => (bytes, written),
            Some(Flight::Sent(bytes)) => match self.wait() {
                Ok(written) => {
                    let whole = check(written, bytes.len());
                    (bytes, whole)
                }
                Err(error) => {
                    // The kernel may still read them.
                    std::mem::forget(bytes);
                    self.ring = None;
                    (Aligned::default(), Err(error))
                }
            },
        }
    }

    /// The result of the one write that is under way.
    fn wait(&mut self) -> io::Result<i32> {
        let ring = self.ring.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        loop {
            if let Some(done) = ring.completion().next() {
                return Ok(done.result());
            }
            match ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn check(written: i32, wanted: usize) -> io::Result<()> {
    match usize::try_from(written) {
        Ok(written) if written == wanted => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::from_raw_os_error(-written)),
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        drop(self.finish());
    }
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Appender").field("ring", &self.ring.is_some()).finish()
    }
}
