//! The control thread of a role: tokio-uring where rings are granted, else plain tokio. Beats,
//! refills, databases, admin HTTP and repair live here, away from the data threads.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::LocalSet;

use crate::access::AllowList;
use crate::admin::{self, Admin};
use crate::capability::Capabilities;
use crate::drain::Drain;
use crate::listen::ListenAddress;
use crate::metrics::Exporter;
use crate::role::{Act, ControlContext, Role, Service, ServiceError};
use crate::start::ThreadState;

/// Entries of the control thread's ring: repair and scrub keep tens of operations in flight.
const CONTROL_RING_ENTRIES: u32 = 256;

/// How long background work may take to close after the last request.
const CLOSE_GRACE: Duration = Duration::from_secs(10);

/// How often what the threads counted goes to the recorder. It takes histograms value by value: a
/// scrape after a month without one would hold the control thread for minutes.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// The runtime of a control thread.
pub(crate) enum ControlRuntime {
    /// With a ring; plain flags, as tokio-uring hangs with DEFER_TASKRUN.
    Rings(tokio_uring::Runtime),
    /// Without.
    Plain(tokio::runtime::Runtime, LocalSet),
}

impl ControlRuntime {
    /// Builds it on the calling thread. `tokio_uring::start` would panic where the kernel refuses
    /// a ring; `Runtime::new` gives the error, and plain tokio takes over.
    ///
    /// # Errors
    /// Not even plain tokio could be built.
    pub(crate) fn build(io_uring: bool) -> io::Result<Self> {
        if io_uring {
            let mut builder = tokio_uring::builder();
            builder.entries(CONTROL_RING_ENTRIES);
            match tokio_uring::Runtime::new(&builder) {
                Ok(runtime) => return Ok(Self::Rings(runtime)),
                Err(error) => {
                    tracing::warn!(%error, "control thread: a ring was refused, plain tokio used");
                }
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self::Plain(runtime, LocalSet::new()))
    }

    /// Whether tokio-uring's operations work.
    pub(crate) fn has_rings(&self) -> bool {
        matches!(self, Self::Rings(_))
    }

    /// Runs a future to its end; `spawn_local` works in it.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::Rings(runtime) => runtime.block_on(future),
            Self::Plain(runtime, local) => runtime.block_on(local.run_until(future)),
        }
    }
}

/// What a control thread needs to begin.
pub(crate) struct ControlStart {
    pub(crate) role: Role,
    pub(crate) drain: Drain,
    pub(crate) finished: Drain,
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) addresses: Arc<[ListenAddress]>,
    pub(crate) admin: Option<(AllowList, TcpListener)>,
    pub(crate) exporter: Exporter,
    pub(crate) threads: Arc<[ThreadState]>,
}

/// Runs a control thread to its end: the body of the thread. Reports to `started` once its
/// runtime stands.
pub(crate) fn run<S: Service>(
    service: Arc<S>,
    start: ControlStart,
    started: &flume::Sender<io::Result<()>>,
) -> Result<(), ServiceError> {
    let runtime = match ControlRuntime::build(start.capabilities.io_uring) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    let _ = started.send(Ok(()));
    let drain = start.drain.clone();
    let rings = runtime.has_rings();
    let result = runtime.block_on(drive(service, start, rings));
    // Whether it failed or had nothing more to do: a role is drained as a whole or not at all.
    if let Err(error) = &result {
        tracing::error!(%error, "background work failed: the role drains");
        drain.trigger();
    }
    result
}

/// Runs a role's background work, and its admin server for as long, until the last data thread
/// has ended and the work with it, or a while later.
async fn drive<S: Service>(
    service: Arc<S>,
    start: ControlStart,
    rings: bool,
) -> Result<(), ServiceError> {
    let (role, finished) = (start.role, start.finished.clone());
    let context = ControlContext {
        role,
        drain: start.drain.clone(),
        finished: finished.clone(),
        capabilities: Arc::clone(&start.capabilities),
        rings,
        addresses: Arc::clone(&start.addresses),
    };
    let exporter = start.exporter.clone();
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(PUBLISH_INTERVAL).await;
            exporter.publish();
        }
    });
    if let Some((allow, listener)) = start.admin {
        let admin_address = listener.local_addr().ok();
        let pages = Pages {
            service: Arc::clone(&service),
            role,
            drain: start.drain,
            capabilities: start.capabilities,
            addresses: start.addresses,
            admin_address,
            threads: start.threads,
        };
        let admin = Admin::new(start.exporter, Arc::new(pages), allow);
        let finished = finished.clone();
        // Up to the end: that a node still drains is just what its operator asks it then.
        tokio::task::spawn_local(async move {
            if let Err(error) = admin.serve(listener, finished.wait()).await {
                tracing::error!(%error, %role, "the admin server cannot run");
            }
        });
    }
    let work = async {
        Arc::clone(&service).control(context).await?;
        finished.wait().await;
        Ok(())
    };
    let outlasted = async {
        finished.wait().await;
        tokio::time::sleep(CLOSE_GRACE).await;
    };
    tokio::select! {
        result = work => result,
        () = outlasted => {
            tracing::warn!(%role, "background work did not end with the drain: dropped");
            Ok(())
        }
    }
}

/// The admin pages of a role: its own status beside that of its threads.
struct Pages<S> {
    service: Arc<S>,
    role: Role,
    drain: Drain,
    capabilities: Arc<Capabilities>,
    addresses: Arc<[ListenAddress]>,
    admin_address: Option<SocketAddr>,
    threads: Arc<[ThreadState]>,
}

impl<S: Service> admin::Pages for Pages<S> {
    fn status(&self) -> serde_json::Value {
        json!({
            "role": self.role,
            "draining": self.drain.requested(),
            "listeners": *self.addresses,
            "admin": self.admin_address,
            "capabilities": *self.capabilities,
            "data_threads": self.threads.iter().map(ThreadState::status).collect::<Vec<_>>(),
            "service": self.service.status(),
        })
    }

    fn ready(&self) -> Result<(), String> {
        if self.drain.requested() {
            return Err("draining".to_owned());
        }
        match (self.service.withdrawn(), self.service.ready()) {
            (None, ready) => ready,
            (Some(reason), Ok(())) => Err(reason),
            (Some(reason), Err(missing)) => Err(format!("{reason}; {missing}")),
        }
    }

    fn act(&self, path: &str) -> Option<Act> {
        self.service.act(path)
    }
}
