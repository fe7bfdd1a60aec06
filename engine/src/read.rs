//! The read path of a data thread: ranges of files to sockets, by what the page cache has.
//!
//! Pages that are in the page cache go out by sendfile(2), which copies nothing; pages that are not are read into
//! buffers in pieces of up to 256 KiB without holding the thread, past the page cache where the file system does that,
//! the next ones while one is being sent. Which of the two is asked anew for every window, so a response changes over
//! as soon as the cache does.
//!
//! A read past the page cache leaves nothing there. So what is asked for again, or read on range after range, is read
//! through it, and then hot ([`places`]). docs/decisions/0005 has the reasons and the figures.
//!
//! [`Reader::prime`] does all that can fail for the disk's sake **before** the response's head goes out: it looks at
//! the file's size and reads the first piece. Afterwards a failure can only end the connection.

use std::{os::fd::AsFd, pin::pin, time::Duration};

use reel_node::{
    http::socket::{SendError, TURN_BYTES},
    metrics::Cell,
    pooled::Pooled,
    yield_turn,
};
use reel_proto::http::content;

use crate::{
    admission::{Budget, Permit, Share},
    metrics::{Path, Serve},
};

mod buffer;
mod cold;
mod copies;
mod direct;
mod open_file;
mod places;
mod residency;
mod window;

pub(crate) use cold::{PieceReader, PieceSettings};
pub(crate) use direct::{Seconds, open_if_cold};
pub(crate) use open_file::{OpenFile, PlaceOf};
pub(crate) use residency::Method;

use cold::Piece;
use copies::{Copies, Copy};
use direct::Plan;
use places::Places;
use window::Window;

/// How much is asked of the page cache at once, and then sent without asking again. Larger costs nothing in calls
/// but lets more pages be dropped by the kernel while a slow peer reads; each such page blocks the thread once.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;

/// A reader that goes on finds twice its last range read ahead, but at least and at most so much.
const AHEAD_BYTES_MIN: u64 = 1024 * 1024;
const AHEAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where content goes.
pub(crate) trait Sink {
    /// Sends bytes from memory. `more`: more follows at once.
    async fn send_bytes(&mut self, bytes: &[u8], more: bool) -> Result<(), SendError>;
    /// Takes a few bytes along with what is sent next.
    fn gather(&mut self, bytes: &[u8]);
    /// Sends what has gathered, unless more of it is to come.
    async fn send_gathered(&mut self) -> Result<(), SendError>;
    /// Sends bytes of a file whose pages are in the page cache.
    async fn send_file(
        &mut self,
        file: &OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<(), SendError>;
}

/// Why content could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The file on the disk is shorter than its row says.
    #[error("the file was cut short: {missing} bytes are missing")]
    CutShort {
        /// Bytes of the range that are not there.
        missing: u64,
    },
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(std::io::Error),
    /// Too much work waits for the disk, or all buffers are in use.
    #[error("too much waits for the disk")]
    Busy,
    /// The store path took longer than a request may wait: another node may have it.
    #[error("the store path does not answer")]
    Late,
    /// The peer is gone or does not read.
    #[error(transparent)]
    Peer(SendError),
}

impl ReadError {
    fn of_send(error: SendError) -> Self {
        match error {
            SendError::ShortFile { missing } => Self::CutShort { missing },
            SendError::File(error) => Self::Disk(error),
            error => Self::Peer(error),
        }
    }
}

/// How a range begins: known before the response's head goes out.
pub(crate) enum Primed<'a> {
    /// All of it is at hand.
    Copied(Copy<'a>),
    /// So many bytes from its start are in the page cache.
    Hot(u64),
    /// Its first bytes were read from the disk.
    Cold(Piece, Option<Box<Window<'a>>>),
}

/// The read path of one data thread.
pub(crate) struct Reader {
    method: Method,
    copies: Copies,
    pieces: PieceReader,
    budget: Budget,
    /// What of it each of several store paths has; none: there is only one.
    shares: Vec<Share>,
    /// Most pieces of one response that are read or wait beside the one that is being sent.
    ahead_max: usize,
    /// How long a response waits for a piece.
    wait_max: Duration,
    places: Places,
    cell: Cell<Serve>,
}

impl Reader {
    /// A reader that asks the page cache by `method`, and has reads that do not wait where `nowait_read`; `budget`
    /// bounds its buffers, for so many store paths, and `wait_max` how long it waits for a disk.
    pub(crate) fn new(
        (method, nowait_read): (Method, bool),
        pieces: PieceReader,
        (budget, stores): (Budget, usize),
        (ahead_max, wait_max): (usize, Duration),
        cell: Cell<Serve>,
    ) -> Self {
        let copies = Copies::new(method, nowait_read);
        let shares = if stores > 1 { vec![Share::default(); stores] } else { Vec::new() };
        let places = Places::new();
        Self { method, copies, pieces, budget, shares, ahead_max, wait_max, places, cell }
    }

    /// The part that reads pieces.
    pub(crate) fn pieces(&self) -> &PieceReader {
        &self.pieces
    }

    /// Makes sure that the range is there and its begin at hand. No byte has gone out when this fails.
    ///
    /// # Errors
    /// [`ReadError::CutShort`], [`ReadError::Disk`], [`ReadError::Busy`], [`ReadError::Late`].
    pub(crate) async fn prime<'a>(
        &'a self,
        file: &'a OpenFile,
        file_size: u64,
        offset: u64,
        length: u64,
    ) -> Result<Primed<'a>, ReadError> {
        if let Some(copy) = self.copies.take(file, offset, length) {
            self.goes_through(file, file_size, offset, length, true);
            return Ok(Primed::Copied(copy));
        }
        let on_disk = residency::size(file.as_fd()).map_err(|error| self.disk(error))?;
        if on_disk < file_size {
            self.cell.add(Serve::CUT_SHORT, 1);
            return Err(ReadError::CutShort { missing: file_size - on_disk });
        }
        let hot = self.hot_bytes(file, offset, length);
        let through = self.goes_through(file, file_size, offset, length, hot.is_some());
        if let Some(bytes) = hot {
            return Ok(Primed::Hot(bytes));
        }
        let first = async {
            if !through {
                self.pieces.prepare(file).await;
            }
            let plan = self.pieces.plan(file, offset, length, through);
            let bytes = plan.block_bytes() as u64;
            let permit = match self.shares.get(file.store()) {
                Some(share) => self.budget.try_take_share(bytes, share),
                None => self.budget.try_take(bytes),
            };
            let permit = permit.ok_or_else(|| {
                self.cell.add(Serve::OVERLOADED, 1);
                ReadError::Busy
            })?;
            self.begin(file, offset, length, (plan, permit), through).await
        };
        // Elsewhere: what is hot does not carry it along.
        self.in_time(Pooled::new(first)).await
    }

    /// Counts what goes on among what its store path has.
    fn counted(&self, file: &OpenFile, permit: Permit) -> Permit {
        match self.shares.get(file.store()) {
            Some(share) => permit.of(share),
            None => permit,
        }
    }

    /// Waits for a disk as long as a response may. What was asked of it goes on, and keeps its buffer until it is done.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ReadError>>,
    ) -> Result<T, ReadError> {
        monoio::time::timeout(self.wait_max, work).await.unwrap_or(Err(ReadError::Late))
    }

    /// Whether a range is to be read through the page cache: one that is asked for again, or that goes on where a
    /// range before it ended, and that for the second time. Whoever does finds what comes next read ahead, as long as it
    /// does. Once may be chance: of 1 MiB ranges of 16 MiB files in any order half go on where an earlier one ended, and
    /// reading those through the page cache, and ahead, cost half as much CPU again.
    fn goes_through(
        &self,
        file: &OpenFile,
        file_size: u64,
        offset: u64,
        length: u64,
        hot: bool,
    ) -> bool {
        if hot && !file.may_be_read_on() || !self.pieces.may_be_direct(file.store()) {
            return true;
        }
        let (number, end) = (file.number(), offset + length);
        if let Some(ahead_to) = self.places.ended_here(number, offset) {
            let ahead = (2 * length).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
            let (from, to) = (ahead_to.max(end), (end + ahead).min(file_size));
            if ahead_to == 0 && !hot {
                self.places.ends(number, end, end);
                return self.is_asked_again(file, offset);
            }
            let again = ahead_to > 0;
            let due = again && (to >= from + ahead / 2 || to == file_size && from < to);
            file.is_read_on();
            if due || !hot {
                file.is_being_filled();
            }
            if due {
                self.pieces.read_ahead(file, from, to - from);
            }
            self.places.ends(number, end, if due { to } else { ahead_to.max(end) });
            return true;
        }
        if hot {
            return true;
        }
        self.places.ends(number, end, 0);
        self.is_asked_again(file, offset)
    }

    /// Whether a cold range that begins here is to be made hot.
    fn is_asked_again(&self, file: &OpenFile, offset: u64) -> bool {
        let again = self.places.began_here(file.number(), offset);
        if again {
            file.is_being_filled();
        }
        again
    }

    /// The begin of a further range of a response under way; waits for a buffer if it must.
    ///
    /// # Errors
    /// [`ReadError::CutShort`], [`ReadError::Disk`], [`ReadError::Busy`], [`ReadError::Late`].
    pub(crate) async fn resume<'a>(
        &'a self,
        file: &'a OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<Primed<'a>, ReadError> {
        if let Some(copy) = self.copies.take(file, offset, length) {
            return Ok(Primed::Copied(copy));
        }
        if let Some(bytes) = self.hot_bytes(file, offset, length) {
            return Ok(Primed::Hot(bytes));
        }
        // A file whose begin is hot and whose rest is not begins here, as it were.
        let through = self.is_asked_again(file, offset);
        let first = async {
            if !through {
                self.pieces.prepare(file).await;
            }
            let plan = self.pieces.plan(file, offset, length, through);
            let permit = self.budget.take(plan.block_bytes() as u64).await;
            let permit = self.counted(file, permit);
            self.begin(file, offset, length, (plan, permit), through).await
        };
        self.in_time(Pooled::new(first)).await
    }

    /// Reads the first piece of a range, and what else of it there is memory for.
    async fn begin<'a>(
        &'a self,
        file: &'a OpenFile,
        offset: u64,
        length: u64,
        (plan, permit): (Plan, Permit),
        through: bool,
    ) -> Result<Primed<'a>, ReadError> {
        if plan.length as u64 == length {
            return Ok(Primed::Cold(self.read(file, plan, permit).await?, None));
        }
        let mut window = Box::new(Window::new(self, file, through, offset, offset + length));
        window.start(plan, permit);
        window.fill();
        match window.next().await {
            Some(piece) => Ok(Primed::Cold(piece?, Some(window))),
            None => Err(ReadError::Busy),
        }
    }

    /// The media type by the file's first bytes; read once for as long as the file is open. What cannot be read has
    /// none: the read of the content itself then says what is wrong.
    ///
    /// # Errors
    /// [`ReadError::Late`].
    pub(crate) async fn sniff(
        &self,
        file: &OpenFile,
        size: u64,
    ) -> Result<&'static str, ReadError> {
        if let Some(known) = file.media_type() {
            return Ok(known);
        }
        let length = size.min(content::SNIFF_BYTES as u64);
        if let Some(begin) = self.copies.take(file, 0, length) {
            return Ok(keep_type(file, begin.bytes()));
        }
        let read = async {
            self.pieces.prepare(file).await;
            let plan = self.pieces.plan(file, 0, length, false);
            // Nothing is held here, so waiting for a page's worth holds up nobody.
            let permit = self.budget.take(plan.block_bytes() as u64).await;
            Ok(self.pieces.read(file, plan, self.counted(file, permit)).await)
        };
        Ok(match self.in_time(Pooled::new(read)).await? {
            Ok(begin) => keep_type(file, begin.bytes()),
            // Not kept: the next look may see them.
            Err(_) => content::UNKNOWN,
        })
    }

    /// Sends the range. `primed` is what [`Reader::prime`] gave for the same range. After an error part of it may
    /// have gone out: the connection must end.
    ///
    /// # Errors
    /// Any [`ReadError`].
    pub(crate) async fn send<'a>(
        &'a self,
        sink: &mut impl Sink,
        file: &'a OpenFile,
        offset: u64,
        length: u64,
        primed: Primed<'a>,
    ) -> Result<(), ReadError> {
        let (mut at, end) = (offset, offset + length);
        let (mut piece, mut window) = (None, None);
        match primed {
            Primed::Copied(copy) => at += self.send_copy(sink, copy).await?,
            Primed::Hot(bytes) => at += self.send_hot(sink, file, at, bytes).await?,
            Primed::Cold(first, rest) => (piece, window) = (Some(first), rest),
        }
        let mut turn = 0;
        while at < end {
            let Some(next) = piece.take() else {
                // Nothing was read ahead, so nothing is held while this waits.
                match self.resume(file, at, end - at).await? {
                    Primed::Copied(copy) => at += self.send_copy(sink, copy).await?,
                    Primed::Hot(bytes) => at += self.send_hot(sink, file, at, bytes).await?,
                    Primed::Cold(first, rest) => (piece, window) = (Some(first), rest),
                }
                continue;
            };
            let bytes = next.bytes().len();
            at += bytes as u64;
            match &mut window {
                None => {
                    let sent = sink.send_bytes(next.bytes(), at < end).await;
                    drop(next);
                    sent.map_err(|error| self.sent(error))?;
                }
                Some(window) => {
                    window.fill();
                    let sent = {
                        let send = pin!(sink.send_bytes(next.bytes(), at < end));
                        window.beside(send).await
                    };
                    drop(next);
                    sent.map_err(|error| self.sent(error))?;
                    piece = self.in_time(async { window.next().await.transpose() }).await?;
                }
            }
            self.cell.add(Serve::BYTES_OUT.at([Path::Cold as usize]), bytes as u64);
            turn += bytes;
            if turn >= TURN_BYTES && at < end {
                // Pieces that are there at once would never let another connection run.
                turn = 0;
                yield_turn().await;
            }
        }
        Ok(())
    }

    /// Sends what was copied; answers how many bytes that were.
    async fn send_copy(&self, sink: &mut impl Sink, copy: Copy<'_>) -> Result<u64, ReadError> {
        let bytes = copy.bytes().len() as u64;
        sink.gather(copy.bytes());
        // Others use the buffer while this waits.
        drop(copy);
        sink.send_gathered().await.map_err(|error| self.sent(error))?;
        self.cell.add(Serve::BYTES_OUT.at([Path::Hot as usize]), bytes);
        Ok(bytes)
    }

    /// Sends `bytes` that are in the page cache; answers how many that were.
    async fn send_hot(
        &self,
        sink: &mut impl Sink,
        file: &OpenFile,
        at: u64,
        bytes: u64,
    ) -> Result<u64, ReadError> {
        sink.send_file(file, at, bytes).await.map_err(|error| self.sent(error))?;
        self.cell.add(Serve::BYTES_OUT.at([Path::Hot as usize]), bytes);
        Ok(bytes)
    }

    /// How many bytes from `offset` are in the page cache: a whole window, a smaller one, or none.
    fn hot_bytes(&self, file: &OpenFile, offset: u64, length: u64) -> Option<u64> {
        let window = length.min(WINDOW_BYTES);
        if self.is_hot(file, offset, window) {
            return Some(window);
        }
        // The window may be hot up to where a reader before this one stopped.
        let piece = length.min(self.pieces.piece_bytes());
        (piece < window && self.is_hot(file, offset, piece)).then_some(piece)
    }

    fn is_hot(&self, file: &OpenFile, offset: u64, length: u64) -> bool {
        let fd = file.as_fd();
        residency::is_resident(self.method, fd, offset, length)
            // cachestat counts pages that the disk is still filling.
            && (!file.may_have_empty_pages() || residency::is_filled(self.method, fd, offset, length))
    }

    async fn read(&self, file: &OpenFile, plan: Plan, permit: Permit) -> Result<Piece, ReadError> {
        let read = self.pieces.read(file, plan, permit).await;
        let piece = read.map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => ReadError::Busy,
            _ => self.disk(error),
        })?;
        let missing = (plan.length - piece.bytes().len()) as u64;
        if missing > 0 {
            self.cell.add(Serve::CUT_SHORT, 1);
            return Err(ReadError::CutShort { missing });
        }
        Ok(piece)
    }

    fn disk(&self, error: std::io::Error) -> ReadError {
        self.cell.add(Serve::READ_ERRORS, 1);
        ReadError::Disk(error)
    }

    fn sent(&self, error: SendError) -> ReadError {
        let error = ReadError::of_send(error);
        match error {
            ReadError::CutShort { .. } => self.cell.add(Serve::CUT_SHORT, 1),
            ReadError::Disk(_) => self.cell.add(Serve::READ_ERRORS, 1),
            ReadError::Busy | ReadError::Late | ReadError::Peer(_) => {}
        }
        error
    }
}

fn keep_type(file: &OpenFile, begin: &[u8]) -> &'static str {
    let media_type = content::of_bytes(begin).unwrap_or(content::UNKNOWN);
    file.keep_media_type(media_type);
    media_type
}
