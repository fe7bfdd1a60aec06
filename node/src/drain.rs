//! The signal to stop: nothing new is accepted, what is in flight ends, then the node goes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

mod signals;

pub use signals::on_signals;

/// A request to drain that any thread can make and any task on any runtime can wait for. Clones
/// are the same signal; it never goes back.
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
    // Nothing is ever sent: the channel closes, which wakes every waiter, late ones included.
    closed: flume::Receiver<std::convert::Infallible>,
}

struct Shared {
    requested: AtomicBool,
    open: Mutex<Option<flume::Sender<std::convert::Infallible>>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Drain").field("requested", &self.requested()).finish()
    }
}

impl Drain {
    /// A signal that has not been given.
    pub fn new() -> Self {
        let (sender, closed) = flume::bounded(0);
        let open = Mutex::new(Some(sender));
        Self { shared: Arc::new(Shared { requested: AtomicBool::new(false), open }), closed }
    }

    /// Gives the signal. Giving it again changes nothing.
    pub fn trigger(&self) {
        self.shared.requested.store(true, Ordering::Release);
        let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(open);
    }

    /// Whether it was given. One load: fit for a request path.
    pub fn requested(&self) -> bool {
        self.shared.requested.load(Ordering::Acquire)
    }

    /// Returns once it is given; works on monoio and on tokio. Takes a lock to wait and to be
    /// dropped: for the few tasks that live as long as their thread, not for each request.
    /// Cancel safe.
    pub async fn wait(&self) {
        let _ = self.closed.recv_async().await;
    }

    /// Blocks the calling thread until it is given.
    pub fn wait_blocking(&self) {
        let _ = self.closed.recv();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Drain;

    #[test]
    fn wakes_waiters_of_both_runtimes_and_late_ones() {
        let drain = Drain::new();
        let (started, wait_started) = flume::bounded(2);
        let on_monoio = std::thread::spawn({
            let (drain, started) = (drain.clone(), started.clone());
            move || {
                monoio::start::<monoio::LegacyDriver, _>(async move {
                    started.send(()).unwrap();
                    drain.wait().await;
                });
            }
        });
        let on_tokio = std::thread::spawn({
            let drain = drain.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async move {
                    started.send(()).unwrap();
                    drain.wait().await;
                });
            }
        });
        wait_started.recv().unwrap();
        wait_started.recv().unwrap();
        assert!(!drain.requested());
        drain.trigger();
        drain.trigger();
        assert!(drain.requested());
        on_monoio.join().unwrap();
        on_tokio.join().unwrap();
        drain.clone().wait_blocking();
    }
}
