//! A connection as a data thread holds it: its socket, and its place in the thread's table, which
//! enforces deadlines and the drain.
//!
//! Deadlines are coarse on purpose. Setting one is two stores into the table's entry; one monoio
//! timer a thread advances the clock in ticks, finds what is late and shuts the socket down in
//! the direction that was waited for. The waiting task wakes as if the peer had gone. A timer for
//! each read would cost a clock reading and two changes of the timer wheel a request.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use monoio::net::TcpStream;

use crate::nonblocking;

/// Resolution of connection deadlines: one fires up to this much late, never early.
pub const TICK: Duration = Duration::from_millis(100);

/// A deadline that never comes.
const NEVER: u64 = u64::MAX;

/// An accepted connection, handed to [`Service::connection`](crate::Service::connection). Its
/// socket is non-blocking, close-on-exec and has NODELAY set. Dropping it closes the socket.
#[derive(Debug)]
pub struct Accepted {
    // Before the stream: the table must forget the descriptor before it is closed.
    slot: Slot,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    listener: usize,
}

impl Accepted {
    pub(crate) fn new(
        table: &Rc<Table>,
        stream: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        listener: usize,
    ) -> Self {
        Self { slot: table.enter(stream.as_raw_fd()), stream, peer, local, listener }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The socket, for operations that monoio wants it mutable for.
    pub fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Deadlines and drain of this connection.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address that its listener is bound to: all addresses (`0.0.0.0`) stay what they are, since a peer behind a
    /// forwarder on this machine arrives at a loopback one.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Index of the listener in [`RoleSpec::listeners`](crate::RoleSpec::listeners).
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// Receives into `into`, waiting for input up to the deadline that is set. 0 is the end of
    /// the stream, or the deadline: [`Slot::expired`] tells. Cancel safe.
    ///
    /// # Errors
    /// The socket's error.
    pub async fn recv(&self, into: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match nonblocking::recv(&self.stream, into) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.stream.readable(false).await?;
        }
    }

    /// Sends all of `bytes`, waiting for room up to `limit` each time no byte fits: a peer that
    /// takes nothing for that long is cut. `more` announces that more follows at once.
    ///
    /// # Errors
    /// The socket's error; `TimedOut` when the peer took too long. Part may have been sent.
    pub async fn send_all(
        &self,
        mut bytes: &[u8],
        more: bool,
        limit: Duration,
    ) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match nonblocking::send(&self.stream, bytes, more) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.slot.await_output(limit);
                    self.stream.writable(false).await?;
                    self.slot.work();
                }
                Err(error) if self.slot.expired() => {
                    return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// The next request: a drain may end it.
    Request,
    /// More of a request.
    Input,
    /// Room in the socket's buffer.
    Output,
    /// Nothing on the socket: the node is at work.
    Nothing,
}

#[derive(Debug)]
struct Entry {
    descriptor: RawFd,
    waiting: Cell<Waiting>,
    deadline: Cell<u64>,
    expired: Cell<bool>,
}

impl Entry {
    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: an entry is in the table for as long as its slot lives, and `Accepted` drops
        // the slot before the stream that owns the descriptor.
        unsafe { BorrowedFd::borrow_raw(self.descriptor) }
    }

    fn shut(&self, how: Shutdown) {
        nonblocking::shutdown(self.socket(), how);
    }
}

/// A connection's place in its thread's table. Say what is waited for before waiting.
#[derive(Debug)]
pub struct Slot {
    table: Rc<Table>,
    entry: Rc<Entry>,
    index: usize,
}

impl Slot {
    /// Waiting for the next request, at most `limit`. A drain ends this wait at once: the next
    /// receive gives what had already come, then the end of the stream.
    pub fn await_request(&self, limit: Duration) {
        self.wait_for(Waiting::Request, limit);
        if self.table.draining.get() {
            self.entry.shut(Shutdown::Read);
        }
    }

    /// Waiting for more of a request that has begun, at most `limit`. Call it again only for
    /// progress worth the name: a peer that sends a byte a second must run into a deadline.
    pub fn await_input(&self, limit: Duration) {
        self.wait_for(Waiting::Input, limit);
    }

    /// Waiting for the peer to take output, at most `limit`.
    pub fn await_output(&self, limit: Duration) {
        self.wait_for(Waiting::Output, limit);
    }

    /// At work: no deadline of the socket's runs.
    pub fn work(&self) {
        self.entry.waiting.set(Waiting::Nothing);
        self.entry.deadline.set(NEVER);
    }

    /// Whether a deadline passed. The direction waited for has been shut down; after input, an
    /// error reply can still be sent.
    pub fn expired(&self) -> bool {
        self.entry.expired.get()
    }

    /// The thread's coarse clock: multiples of [`TICK`] since its start.
    pub fn now(&self) -> Duration {
        TICK.saturating_mul(u32::try_from(self.table.now.get()).unwrap_or(u32::MAX))
    }

    /// Whether the thread is draining: finish this request, announce the close, close.
    pub fn draining(&self) -> bool {
        self.table.draining.get()
    }

    fn wait_for(&self, waiting: Waiting, limit: Duration) {
        self.entry.waiting.set(waiting);
        self.entry.deadline.set(self.table.deadline_after(limit));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.leave(self.index);
    }
}

/// The connections of one data thread.
#[derive(Debug)]
pub(crate) struct Table {
    started: Instant,
    now: Cell<u64>,
    draining: Cell<bool>,
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<usize>>,
    open: Cell<usize>,
    expired: Cell<u64>,
    empty_waker: RefCell<Option<Waker>>,
    published: Arc<Load>,
}

/// How many connections a thread holds, for other threads to read.
#[derive(Debug, Default)]
pub(crate) struct Load {
    open: AtomicUsize,
    idle: AtomicUsize,
}

impl Load {
    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that waited for a request at the last tick.
    pub(crate) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }
}

impl Table {
    /// An empty table; `published` is kept up to date.
    pub(crate) fn new(published: Arc<Load>) -> Rc<Self> {
        Rc::new(Self {
            started: Instant::now(),
            now: Cell::new(0),
            draining: Cell::new(false),
            entries: RefCell::default(),
            free: RefCell::default(),
            open: Cell::new(0),
            expired: Cell::new(0),
            empty_waker: RefCell::new(None),
            published,
        })
    }

    fn enter(self: &Rc<Self>, descriptor: RawFd) -> Slot {
        let entry = Rc::new(Entry {
            descriptor,
            waiting: Cell::new(Waiting::Nothing),
            deadline: Cell::new(NEVER),
            expired: Cell::new(false),
        });
        let mut entries = self.entries.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            entries.push(None);
            entries.len() - 1
        });
        entries[index] = Some(Rc::clone(&entry));
        self.set_open(self.open.get() + 1);
        Slot { table: Rc::clone(self), entry, index }
    }

    fn leave(&self, index: usize) {
        self.entries.borrow_mut()[index] = None;
        self.free.borrow_mut().push(index);
        self.set_open(self.open.get() - 1);
        if self.open.get() == 0
            && let Some(waker) = self.empty_waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    fn set_open(&self, open: usize) {
        self.open.set(open);
        self.published.open.store(open, Ordering::Relaxed);
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Deadlines that have passed since the start.
    pub(crate) fn expired(&self) -> u64 {
        self.expired.get()
    }

    /// The tick after which `limit` has surely passed.
    fn deadline_after(&self, limit: Duration) -> u64 {
        let ticks = limit.as_nanos().div_ceil(TICK.as_nanos());
        // The present tick may be as good as over.
        let ticks = u64::try_from(ticks).unwrap_or(NEVER).saturating_add(1);
        self.now.get().saturating_add(ticks)
    }

    /// Sets the clock and shuts down what is late. Called once a tick.
    pub(crate) fn tick(&self) {
        let now = self.started.elapsed().as_nanos() / TICK.as_nanos();
        self.advance_to(u64::try_from(now).unwrap_or(NEVER - 1));
    }

    fn advance_to(&self, now: u64) {
        self.now.set(now);
        let mut idle = 0;
        for entry in self.entries.borrow().iter().flatten() {
            idle += usize::from(entry.waiting.get() == Waiting::Request);
            if entry.deadline.get() > now {
                continue;
            }
            entry.deadline.set(NEVER);
            entry.expired.set(true);
            self.expired.set(self.expired.get() + 1);
            let how = match entry.waiting.get() {
                Waiting::Request | Waiting::Input => Shutdown::Read,
                Waiting::Output | Waiting::Nothing => Shutdown::Both,
            };
            entry.shut(how);
        }
        self.published.idle.store(idle, Ordering::Relaxed);
    }

    /// Begins the drain: ends the waits for a next request, lets requests in progress finish. One
    /// that has arrived is in progress, though its task has not run: shut for reading it would
    /// lose what is still to come of its body.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for entry in self.entries.borrow().iter().flatten() {
            let waits = entry.waiting.get() == Waiting::Request;
            if waits && !nonblocking::has_input(entry.socket()) {
                entry.shut(Shutdown::Read);
            }
        }
    }

    /// Ends every connection where it stands; their tasks wake and see errors.
    pub(crate) fn cut(&self) {
        for entry in self.entries.borrow().iter().flatten() {
            entry.shut(Shutdown::Both);
        }
    }

    /// Returns once no connection is open. For one waiter.
    pub(crate) async fn emptied(&self) {
        poll_fn(|cx| {
            if self.open.get() == 0 {
                return Poll::Ready(());
            }
            *self.empty_waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Load, TICK, Table};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn is_shut(socket: &TcpStream) -> bool {
        socket.set_nonblocking(true).unwrap();
        matches!((&*socket).read(&mut [0]), Ok(0))
    }

    #[test]
    fn a_deadline_fires_late_never_early_and_once() {
        let table = Table::new(Arc::new(Load::default()));
        let (near, _far) = pair();
        let slot = table.enter(near.as_raw_fd());
        table.advance_to(10);
        slot.await_input(TICK * 3);
        table.advance_to(13);
        assert!(!slot.expired() && !is_shut(&near));
        table.advance_to(14);
        assert!(slot.expired() && is_shut(&near));
        table.advance_to(99);
        assert_eq!(table.expired(), 1);
    }

    #[test]
    fn work_stops_the_clock() {
        let table = Table::new(Arc::new(Load::default()));
        let (near, _far) = pair();
        let slot = table.enter(near.as_raw_fd());
        slot.await_input(Duration::ZERO);
        slot.work();
        table.advance_to(1 << 40);
        assert!(!slot.expired());
    }

    #[test]
    fn a_drain_ends_idle_waits_now_and_later_but_no_request() {
        let load = Arc::new(Load::default());
        let table = Table::new(Arc::clone(&load));
        let ((idle, _a), (busy, _b)) = (pair(), pair());
        let (arrived, peer) = pair();
        let idle_slot = table.enter(idle.as_raw_fd());
        let arrived_slot = table.enter(arrived.as_raw_fd());
        let busy_slot = table.enter(busy.as_raw_fd());
        idle_slot.await_request(Duration::from_secs(9));
        arrived_slot.await_request(Duration::from_secs(9));
        busy_slot.await_input(Duration::from_secs(9));
        table.advance_to(1);
        assert_eq!(load.idle(), 2);
        arrived.set_nonblocking(true).unwrap();
        (&peer).write_all(b"request").unwrap();
        while arrived.peek(&mut [0]).is_err() {}
        table.drain();
        assert_eq!((&arrived).read(&mut [0; 99]).unwrap(), 7);
        assert!(!is_shut(&arrived) && arrived_slot.draining());
        assert!(is_shut(&idle) && !idle_slot.expired());
        assert!(!is_shut(&busy) && busy_slot.draining());
        busy_slot.await_request(Duration::from_secs(9));
        assert!(is_shut(&busy));
    }

    #[test]
    fn places_are_used_again_and_counted() {
        let open = Arc::new(Load::default());
        let table = Table::new(Arc::clone(&open));
        let (near, _far) = pair();
        for _ in 0..100 {
            let slots = [table.enter(near.as_raw_fd()), table.enter(near.as_raw_fd())];
            assert_eq!((open.open(), table.open()), (2, 2));
            drop(slots);
        }
        assert_eq!(open.open(), 0);
        assert_eq!(table.entries.borrow().len(), 2);
    }
}
