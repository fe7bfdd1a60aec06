//! A data thread: pinned, one runtime, its own listeners, its own connections.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use monoio::net::UnixStream;

use crate::accept::{self, Door};
use crate::connection::{Load, TICK, Table};
use crate::metrics::{Cell as MetricCell, Registry};
use crate::pooled::Pooled;
use crate::ring::{self, Driver};
use crate::role::{Service, ThreadContext};
use crate::{drain::Drain, listen::ListenSpec, system};

crate::metric_table! {
    /// What the runtime counts for every role.
    pub(crate) struct NodeMetrics;
    /// Connections taken in.
    counter ACCEPTED = "reel_connections_accepted_total", Count,
        "Connections accepted and given to the role.";
    /// Connections turned away.
    counter REFUSED = "reel_connections_refused_total", Count,
        "Connections turned away at accept.", [reason: "not_allowed", "limit"];
    /// Connections that ran into a deadline.
    counter EXPIRED = "reel_connections_expired_total", Count,
        "Connections shut down because the peer let a deadline pass.";
    /// Connections cut by a drain's deadline.
    counter CUT = "reel_connections_cut_total", Count,
        "Connections with a request in flight when the drain's deadline came.";
    /// accept(2) failed.
    counter ACCEPT_ERRORS = "reel_accept_errors_total", Count,
        "Failures of accept itself, such as no free descriptor.";
    /// Connections open now.
    gauge OPEN = "reel_connections", Count, "Connections open now.";
}

/// How long connections may take to notice that they were cut.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// What a data thread needs to begin.
pub(crate) struct ThreadStart {
    pub(crate) context: ThreadContextParts,
    pub(crate) listeners: Vec<(ListenSpec, SocketAddr, TcpListener)>,
    pub(crate) max_connections: usize,
    pub(crate) drain_deadline: Duration,
    pub(crate) load: Arc<Load>,
    pub(crate) registry: Registry<NodeMetrics>,
}

/// A [`ThreadContext`] without what only the thread itself finds out.
pub(crate) struct ThreadContextParts {
    pub(crate) role: crate::role::Role,
    pub(crate) index: usize,
    pub(crate) threads: usize,
    pub(crate) core: Option<usize>,
    pub(crate) drain: Drain,
    pub(crate) capabilities: Arc<crate::capability::Capabilities>,
}

/// What a data thread became, told once it accepts.
pub(crate) struct Started {
    pub(crate) driver: Driver,
    pub(crate) core: Option<usize>,
}

/// Runs a data thread to its end: the body of the thread. Reports to `started` once it accepts
/// connections or cannot.
pub(crate) fn run<S: Service>(
    service: &Arc<S>,
    start: ThreadStart,
    started: impl FnOnce(io::Result<Started>),
) {
    let core = start.context.core.filter(|core| match system::pin_to_core(*core) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, core, "cannot pin a data thread: it runs unpinned");
            false
        }
    });
    let (mut runtime, driver) = match ring::build(&start.context.capabilities) {
        Ok(built) => built,
        Err(error) => {
            started(Err(error));
            return;
        }
    };
    runtime.block_on(serve(service, start, driver, core, started));
}

async fn serve<S: Service>(
    service: &Arc<S>,
    start: ThreadStart,
    driver: Driver,
    core: Option<usize>,
    started: impl FnOnce(io::Result<Started>),
) {
    let ThreadStart { context, listeners, max_connections, drain_deadline, load, registry } = start;
    let _turn = Turn::install(driver);
    let table = Table::new(load);
    let metrics = registry.cell();
    let drain = context.drain.clone();
    monoio::spawn(keep_time(Rc::clone(&table), metrics.clone()));
    let thread = Rc::new(service.thread(context.complete(driver, core)));
    let mut doors = Vec::with_capacity(listeners.len());
    for (index, (spec, address, listener)) in listeners.into_iter().enumerate() {
        let door = Door {
            index,
            address,
            spec,
            table: Rc::clone(&table),
            metrics: metrics.clone(),
            max_connections,
            drain: drain.clone(),
        };
        match monoio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                doors.push(monoio::spawn(accept::run::<S>(door, listener, Rc::clone(&thread))));
            }
            Err(error) => {
                started(Err(error));
                return;
            }
        }
    }
    started(Ok(Started { driver, core }));
    drain.wait().await;
    for door in doors {
        door.await;
    }
    finish(&table, drain_deadline, &metrics).await;
    metrics.set(NodeMetrics::OPEN, 0);
}

/// Lets requests in flight end, cuts them at the deadline.
async fn finish(table: &Table, deadline: Duration, metrics: &MetricCell<NodeMetrics>) {
    table.drain();
    if monoio::time::timeout(deadline, table.emptied()).await.is_ok() {
        return;
    }
    let cut = table.open();
    metrics.add(NodeMetrics::CUT, cut as u64);
    tracing::warn!(connections = cut, "drain deadline: connections with requests in flight cut");
    table.cut();
    let _ = monoio::time::timeout(CUT_GRACE, table.emptied()).await;
}

/// The thread's clock for connection deadlines.
async fn keep_time(table: Rc<Table>, metrics: MetricCell<NodeMetrics>) {
    let mut expired_before = 0;
    loop {
        monoio::time::sleep(TICK).await;
        table.tick();
        let expired = table.expired();
        metrics.add(NodeMetrics::EXPIRED, expired - expired_before);
        expired_before = expired;
        metrics.set(NodeMetrics::OPEN, i64::try_from(table.open()).unwrap_or(i64::MAX));
    }
}

impl ThreadContextParts {
    fn complete(self, driver: Driver, core: Option<usize>) -> ThreadContext {
        ThreadContext {
            role: self.role,
            index: self.index,
            threads: self.threads,
            core,
            driver,
            drain: self.drain,
            capabilities: self.capabilities,
        }
    }
}

/// Waits for `drain` or `other`, whichever comes first; `None` is the drain.
pub(crate) async fn unless_drained<T>(
    drain: impl Future<Output = ()> + Unpin,
    other: impl Future<Output = T>,
) -> Option<T> {
    match select(drain, pin!(other)).await {
        Either::Left(_) => None,
        Either::Right((value, _)) => Some(value),
    }
}

thread_local! {
    static TURN: RefCell<Option<Rc<Turn>>> = const { RefCell::new(None) };
}

/// How a task lets others run.
///
/// Waking oneself and returning `Pending` is not enough: while any task is runnable monoio
/// submits without waiting, which under DEFER_TASKRUN takes no completions in, and its timers
/// only run when it waits. A poll of a socket that is always readable makes it wait, for nothing.
struct Turn {
    /// One end of a pair in whose other end a byte lies for ever; `None` on epoll, where monoio
    /// remembers readiness and would not wait for it.
    readable: Option<(UnixStream, std::os::unix::net::UnixStream)>,
    epoll_turns: Cell<u32>,
}

/// Clears the thread's [`Turn`] while the runtime still runs: its socket closes through it.
struct TurnGuard;

impl Drop for TurnGuard {
    fn drop(&mut self) {
        TURN.with(|turn| turn.borrow_mut().take());
    }
}

impl Turn {
    fn install(driver: Driver) -> TurnGuard {
        let readable = match driver {
            Driver::IoUring { .. } => Self::readable_pair().ok(),
            Driver::Epoll => None,
        };
        let turn = Self { readable, epoll_turns: Cell::new(0) };
        TURN.with(|place| *place.borrow_mut() = Some(Rc::new(turn)));
        TurnGuard
    }

    fn readable_pair() -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        io::Write::write_all(&mut &far, &[0])?;
        Ok((UnixStream::from_std(near)?, far))
    }
}

/// On epoll every so many turns wait for a timer, so that timers run at all.
const EPOLL_TURNS_PER_SLEEP: u32 = 16;

/// Lets the thread's other tasks, completions and timers have their turn. For a task with long
/// work that never has to wait, such as sending a file that is in memory to a fast peer. Call it
/// on a data thread, every few hundred microseconds of work.
pub async fn yield_turn() {
    let turn = TURN.with(|turn| turn.borrow().clone());
    let Some(turn) = turn else {
        return yield_task().await;
    };
    if let Some((readable, _far)) = &turn.readable {
        let _ = readable.readable(true).await;
        return;
    }
    let turns = turn.epoll_turns.get().wrapping_add(1);
    turn.epoll_turns.set(turns);
    if turns.is_multiple_of(EPOLL_TURNS_PER_SLEEP) {
        // A timer has hundreds of bytes, which everything that yields would have too.
        Pooled::new(monoio::time::sleep(Duration::from_millis(1))).await;
    } else {
        yield_task().await;
    }
}

async fn yield_task() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
