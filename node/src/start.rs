//! Starts a role: binds, then data threads, then the control thread; and ends it in that order.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::json;

use crate::connection::Load;
use crate::control::{self, ControlStart};
use crate::drain::Drain;
use crate::listen::{self, Bound, ListenAddress, ListenError};
use crate::metrics::Registry;
use crate::ring::Driver;
use crate::role::{Process, Role, RoleSpec, Service, ServiceError};
use crate::system;
use crate::thread::{self, NodeMetrics, Started, ThreadContextParts, ThreadStart};

/// A role could not be started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound; names it.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread could not be started, or could not build its runtime.
    #[error("{role}: thread {thread}: {source}")]
    Thread {
        /// The role.
        role: Role,
        /// Name of the thread.
        thread: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A role ended otherwise than by its drain.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its background work failed.
    #[error("{role}: {error}")]
    Control {
        /// The role.
        role: Role,
        /// What the role said.
        error: ServiceError,
    },
    /// A thread panicked.
    #[error("{role}: thread {thread} panicked")]
    Panicked {
        /// The role.
        role: Role,
        /// Name of the thread.
        thread: String,
    },
}

/// A running role. Dropping it drains without waiting.
#[derive(Debug)]
pub struct Running {
    role: Role,
    addresses: Arc<[ListenAddress]>,
    admin: Option<ListenAddress>,
    drain: Drain,
    finished: Drain,
    data: Vec<(String, JoinHandle<()>)>,
    control: Option<JoinHandle<Result<(), ServiceError>>>,
    threads: Arc<[ThreadState]>,
    readiness: Readiness,
}

/// Asks a running role whether it can do its work; for whoever started it.
#[derive(Clone)]
pub struct Readiness(Arc<dyn Fn() -> Result<(), String> + Send + Sync>);

impl Readiness {
    /// Whether the role is ready.
    ///
    /// # Errors
    /// What is missing, as `/readyz` says it.
    pub fn check(&self) -> Result<(), String> {
        (self.0)()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Readiness").field(&self.check()).finish()
    }
}

/// One data thread, as `/status` shows it.
#[derive(Debug, Default)]
pub(crate) struct ThreadState {
    load: Arc<Load>,
    started: Mutex<Option<(Driver, Option<usize>)>>,
}

/// Binds every address, then starts the data threads and, once all of them accept, the control
/// thread.
///
/// # Errors
/// An address is in use or not ours, or a thread could not start; what had started has ended.
pub fn start<S: Service>(
    spec: RoleSpec,
    service: Arc<S>,
    process: &Process,
) -> Result<Running, StartError> {
    let count = spec.data_threads.max(1);
    let mut bound = Vec::with_capacity(spec.listeners.len());
    for listener in &spec.listeners {
        bound.push(listen::bind(listener.name, listener.addr, count)?);
    }
    let admin = match &spec.admin {
        Some(admin) => Some(listen::bind(admin.name, admin.addr, 1)?),
        None => None,
    };
    let registry = process.registry::<NodeMetrics>(spec.role);
    let asked = Arc::clone(&service);
    let mut running = Running {
        role: spec.role,
        addresses: bound.iter().map(|bound| bound.address.clone()).collect(),
        admin: admin.as_ref().map(|admin| admin.address.clone()),
        drain: Drain::new(),
        finished: Drain::new(),
        data: Vec::with_capacity(count),
        control: None,
        threads: (0..count).map(|_| ThreadState::default()).collect(),
        readiness: Readiness(Arc::new(move || asked.ready())),
    };
    running.start_data(&spec, &service, process, bound, &registry)?;
    running.start_control(&spec, service, process, admin)?;
    Ok(running)
}

impl Running {
    /// The role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The addresses it listens on, in the order of its spec, ports known.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// Where the admin HTTP server listens.
    pub fn admin_address(&self) -> Option<&ListenAddress> {
        self.admin.as_ref()
    }

    /// Begins the drain: no new connections, requests in flight end or are cut at the deadline.
    pub fn drain(&self) {
        self.drain.trigger();
    }

    /// The role's drain, to give or to wait for elsewhere. It is also given when a thread of the
    /// role fails.
    pub fn drain_signal(&self) -> Drain {
        self.drain.clone()
    }

    /// Asks the role whether it is ready, also after `join` has taken the handle.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Waits until the role has ended, which it does after a drain.
    ///
    /// # Errors
    /// Its background work failed or a thread panicked (the first of them).
    pub fn join(mut self) -> Result<(), RunError> {
        let data = self.join_data();
        let control = self.join_control();
        data.and(control)
    }

    fn join_data(&mut self) -> Result<(), RunError> {
        let mut outcome = Ok(());
        for (thread, handle) in self.data.drain(..) {
            if handle.join().is_err() {
                outcome = outcome.and(Err(RunError::Panicked { role: self.role, thread }));
            }
        }
        self.finished.trigger();
        outcome
    }

    fn join_control(&mut self) -> Result<(), RunError> {
        let Some(control) = self.control.take() else {
            return Ok(());
        };
        let role = self.role;
        match control.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RunError::Control { role, error }),
            Err(_) => Err(RunError::Panicked { role, thread: thread_name(role, "control") }),
        }
    }

    fn start_data<S: Service>(
        &mut self,
        spec: &RoleSpec,
        service: &Arc<S>,
        process: &Process,
        mut bound: Vec<Bound>,
        registry: &Registry<NodeMetrics>,
    ) -> Result<(), StartError> {
        let cores = system::cores();
        let count = self.threads.len();
        let (report, reports) = flume::bounded(count);
        for index in 0..count {
            let listeners = spec.listeners.iter().zip(&mut bound);
            let start = ThreadStart {
                context: ThreadContextParts {
                    role: spec.role,
                    index,
                    threads: count,
                    core: spec.pin_from_core.map(|first| cores[(first + index) % cores.len()]),
                    drain: self.drain.clone(),
                    capabilities: Arc::clone(process.capabilities()),
                },
                listeners: listeners
                    .filter_map(|(spec, bound)| {
                        Some((spec.clone(), bound.address.addr, bound.sockets.pop()?))
                    })
                    .collect(),
                max_connections: spec.max_connections_per_thread,
                drain_deadline: spec.drain_deadline,
                load: Arc::clone(&self.threads[index].load),
                registry: registry.clone(),
            };
            let name = thread_name(spec.role, &index.to_string());
            self.spawn_data(name, start, service, index, report.clone())?;
        }
        drop(report);
        self.await_data(&reports)
    }

    fn spawn_data<S: Service>(
        &mut self,
        name: String,
        start: ThreadStart,
        service: &Arc<S>,
        index: usize,
        report: flume::Sender<(usize, io::Result<Started>)>,
    ) -> Result<(), StartError> {
        let service = Arc::clone(service);
        let on_end = self.drain.clone();
        let body = move || {
            let _drains = DrainOnPanic(on_end);
            thread::run(&service, start, |started| {
                let _ = report.send((index, started));
            });
        };
        let spawned = std::thread::Builder::new().name(name.clone()).spawn(body);
        match spawned {
            Ok(handle) => {
                self.data.push((name, handle));
                Ok(())
            }
            Err(source) => Err(self.abandon(name, source)),
        }
    }

    /// Waits until every data thread accepts.
    fn await_data(
        &mut self,
        reports: &flume::Receiver<(usize, io::Result<Started>)>,
    ) -> Result<(), StartError> {
        for _ in 0..self.threads.len() {
            match reports.recv() {
                Ok((index, Ok(Started { driver, core }))) => {
                    let role = self.role;
                    tracing::debug!(%role, index, ?driver, ?core, "data thread accepts");
                    self.threads[index].set(driver, core);
                }
                Ok((index, Err(source))) => {
                    let name = thread_name(self.role, &index.to_string());
                    return Err(self.abandon(name, source));
                }
                Err(flume::RecvError::Disconnected) => {
                    let source = io::Error::other("ended before it accepted");
                    return Err(self.abandon("of a data core".to_owned(), source));
                }
            }
        }
        Ok(())
    }

    /// Ends what had started, for a start that fails.
    fn abandon(&mut self, thread: String, source: io::Error) -> StartError {
        self.drain.trigger();
        let _ = self.join_data();
        StartError::Thread { role: self.role, thread, source }
    }

    fn start_control<S: Service>(
        &mut self,
        spec: &RoleSpec,
        service: Arc<S>,
        process: &Process,
        admin: Option<Bound>,
    ) -> Result<(), StartError> {
        let start = ControlStart {
            role: spec.role,
            drain: self.drain.clone(),
            finished: self.finished.clone(),
            capabilities: Arc::clone(process.capabilities()),
            addresses: Arc::clone(&self.addresses),
            admin: spec.admin.as_ref().zip(admin).and_then(|(spec, bound)| {
                Some((spec.allow.clone(), bound.sockets.into_iter().next()?))
            }),
            exporter: process.exporter().clone(),
            threads: Arc::clone(&self.threads),
        };
        let name = thread_name(spec.role, "control");
        let (report, started) = flume::bounded(1);
        let spawned = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let _drains = DrainOnPanic(start.drain.clone());
            control::run(service, start, &report)
        });
        match spawned {
            Ok(handle) => self.control = Some(handle),
            Err(source) => return Err(self.abandon(name, source)),
        }
        match started.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(self.abandon(name, source)),
            Err(flume::RecvError::Disconnected) => {
                Err(self.abandon(name, io::Error::other("ended before it ran")))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `join` both are given already.
        self.drain.trigger();
        if !self.data.is_empty() {
            // Nobody will wait for the data threads and tell the control thread: it ends its
            // grace after theirs.
            self.finished.trigger();
        }
    }
}

/// Drains the role when a thread of it panics: the others must not serve on beside a broken
/// invariant. (A release build aborts before this.)
struct DrainOnPanic(Drain);

impl Drop for DrainOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.trigger();
        }
    }
}

impl ThreadState {
    fn set(&self, driver: Driver, core: Option<usize>) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some((driver, core));
    }

    /// This thread's line of `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let started = *self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let (driver, core) = started.unzip();
        json!({
            "driver": driver,
            "core": core.flatten(),
            "connections": self.load.open(),
            "idle_connections": self.load.idle(),
        })
    }
}

fn thread_name(role: Role, which: &str) -> String {
    format!("reel-{role}-{which}")
}
