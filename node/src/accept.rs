//! The accept loop of one listener on one data thread: who may come in, and how many.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use monoio::net::{TcpListener, TcpStream};
use reel_proto::limits;
use socket2::Socket;

use crate::connection::{Accepted, Table};
use crate::drain::Drain;
use crate::http::socket;
use crate::listen::ListenSpec;
use crate::metrics::Cell as MetricCell;
use crate::nonblocking;
use crate::role::Service;
use crate::thread::{NodeMetrics, unless_drained};

/// Connections accepted before the thread's other tasks get a turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Pause after accept failed: the connection stays in the backlog, so its readiness would come
/// back at once and for ever.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Connections that are being told of a refusal, for each listener and thread; beyond it they
/// are closed without a word.
const REFUSALS_AT_ONCE: usize = 64;

/// How long a refused peer has to read its refusal.
const REFUSAL_LINGER: Duration = Duration::from_secs(limits::DISCARD_SECONDS_MAX);

/// A listener of one data thread.
pub(crate) struct Door {
    pub(crate) index: usize,
    pub(crate) address: SocketAddr,
    pub(crate) spec: ListenSpec,
    pub(crate) table: Rc<Table>,
    pub(crate) metrics: MetricCell<NodeMetrics>,
    pub(crate) max_connections: usize,
    pub(crate) drain: Drain,
}

/// Accepts until the drain, then takes what had already connected and closes the listener.
pub(crate) async fn run<S: Service>(door: Door, listener: TcpListener, thread: Rc<S::Thread>) {
    let refusals = Rc::new(Cell::new(0));
    let mut drained = pin!(door.drain.wait());
    let mut failing = false;
    loop {
        let mut outcome = Ok(());
        for _ in 0..ACCEPTS_PER_TURN {
            match nonblocking::accept(&listener) {
                Ok((socket, peer)) => admit::<S>(&door, socket, peer, &thread, &refusals),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        match outcome {
            Ok(()) => crate::thread::yield_turn().await,
            // Everything that had connected is in: closing the listener resets nobody.
            Err(_) if door.drain.requested() => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                failing = false;
                if let Some(Err(error)) =
                    unless_drained(&mut drained, listener.readable(false)).await
                {
                    pause(&door, &error, &mut failing).await;
                }
            }
            // That connection died in the backlog; the next one is none the worse.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => pause(&door, &error, &mut failing).await,
        }
    }
    nonblocking::stop_listening(&listener);
}

/// After a failure of accept itself, as a rule for want of descriptors or memory. Says so once,
/// until accepting has worked again.
async fn pause(door: &Door, error: &io::Error, failing: &mut bool) {
    door.metrics.add(NodeMetrics::ACCEPT_ERRORS, 1);
    if !std::mem::replace(failing, true) {
        tracing::error!(%error, listener = door.spec.name, "cannot accept connections");
    }
    monoio::time::sleep(FAILURE_PAUSE).await;
}

fn admit<S: Service>(
    door: &Door,
    socket: Socket,
    peer: Option<SocketAddr>,
    thread: &Rc<S::Thread>,
    refusals: &Rc<Cell<usize>>,
) {
    let Some(peer) = peer else {
        return;
    };
    if !door.spec.allow.allows(peer.ip()) {
        door.metrics.add(NodeMetrics::REFUSED.at([0]), 1);
        tracing::debug!(%peer, listener = door.spec.name, "peer is not in the allow list");
        return;
    }
    if door.table.open() >= door.max_connections {
        door.metrics.add(NodeMetrics::REFUSED.at([1]), 1);
        refuse(door, socket, refusals);
        return;
    }
    let Ok(stream) = TcpStream::from_std(socket.into()) else {
        return;
    };
    door.metrics.add(NodeMetrics::ACCEPTED, 1);
    let accepted = Accepted::new(&door.table, stream, peer, door.address, door.index);
    let thread = Rc::clone(thread);
    monoio::spawn(async move { S::connection(thread, accepted).await });
}

/// Says why in the listener's own protocol, waits a little for the peer to read it, closes.
fn refuse(door: &Door, socket: Socket, refusals: &Rc<Cell<usize>>) {
    if door.spec.refusal.is_empty() || refusals.get() >= REFUSALS_AT_ONCE {
        return;
    }
    let Ok(stream) = TcpStream::from_std(socket.into()) else {
        return;
    };
    refusals.set(refusals.get() + 1);
    let refusals = Rc::clone(refusals);
    let refusal = door.spec.refusal.clone();
    monoio::spawn(async move {
        // A fresh socket's buffer takes a refusal whole.
        let _ = nonblocking::send(&stream, &refusal, false);
        socket::linger(&stream, limits::DISCARD_BYTES_MAX, REFUSAL_LINGER).await;
        refusals.set(refusals.get() - 1);
    });
}
