//! The life of a server process: roles are added, become ready, run until a signal, and drain in
//! the order in which they need each other.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use reel_node::{Drain, Readiness, Role, RunError, Running, notify};
use tokio::sync::mpsc;

use crate::exit;
use crate::signals::Signals;

/// How often the roles are asked whether they are ready while the process starts.
const READY_POLL: Duration = Duration::from_millis(2);
/// How often an operator is told what the start waits for.
const READY_REPORT: Duration = Duration::from_secs(5);
/// More roles than one process has.
const ROLES_MAX: usize = 8;

/// A process with its roles. Dropping it drains them without waiting.
pub(crate) struct Server {
    runtime: tokio::runtime::Runtime,
    signals: Signals,
    roles: Vec<Handle>,
    report: mpsc::Sender<Ended>,
    ended: mpsc::Receiver<Ended>,
}

struct Handle {
    role: Role,
    /// Stages drain one after the other, the lowest first.
    stage: u8,
    drain: Drain,
    readiness: Readiness,
    running: bool,
}

struct Ended {
    role: Role,
    result: Result<(), RunError>,
}

/// What a start came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Every role is ready.
    Ready,
    /// A signal came before that.
    Interrupted,
}

impl Server {
    /// Takes over the signals, so that one that comes during the start already drains. Call it
    /// before the first role is started.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the main thread's runtime")?;
        let signals = {
            let _inside = runtime.enter();
            Signals::new().context("cannot take over SIGINT and SIGTERM")?
        };
        let (report, ended) = mpsc::channel(ROLES_MAX);
        Ok(Self { runtime, signals, roles: Vec::new(), report, ended })
    }

    /// Adds a started role.
    pub(crate) fn add(&mut self, stage: u8, running: Running) -> anyhow::Result<()> {
        let role = running.role();
        self.roles.push(Handle {
            role,
            stage,
            drain: running.drain_signal(),
            readiness: running.readiness(),
            running: true,
        });
        let report = self.report.clone();
        std::thread::Builder::new()
            .name(format!("reel-{role}-join"))
            .spawn(move || {
                let result = running.join();
                // Nobody listens only when the process is ending.
                let _ = report.blocking_send(Ended { role, result });
            })
            .with_context(|| format!("cannot start a thread for {role}"))?;
        Ok(())
    }

    /// Waits until every role is ready. `limit`: an error when they are not by then; without it
    /// waits on, saying now and then for what.
    pub(crate) fn wait_ready(&mut self, limit: Option<Duration>) -> anyhow::Result<Start> {
        let begin = Instant::now();
        let mut report_at = begin + READY_REPORT;
        let Self { runtime, signals, roles, ended, .. } = self;
        runtime.block_on(async {
            loop {
                let missing = roles.iter().find_map(|handle| {
                    handle.readiness.check().err().map(|reason| (handle.role, reason))
                });
                let Some((role, reason)) = missing else { return Ok(Start::Ready) };
                if limit.is_some_and(|limit| begin.elapsed() > limit) {
                    bail!("{role} is not ready: {reason}");
                }
                if Instant::now() > report_at {
                    tracing::warn!(%role, %reason, "not ready yet");
                    report_at += READY_REPORT;
                }
                tokio::select! {
                    _ = signals.next() => return Ok(Start::Interrupted),
                    Some(end) = ended.recv() => return Err(end.into_error()),
                    () = tokio::time::sleep(READY_POLL) => {}
                }
            }
        })
    }

    /// Runs until a signal or the end of a role, then drains.
    pub(crate) fn run(mut self) -> anyhow::Result<ExitCode> {
        let Self { runtime, signals, roles, ended, .. } = &mut self;
        let failure = runtime.block_on(async {
            tokio::select! {
                signal = signals.next() => {
                    tracing::info!(signal, "draining");
                    None
                }
                Some(end) = ended.recv() => {
                    mark_ended(roles, end.role);
                    Some(end.into_error())
                }
            }
        });
        let drained = self.drain();
        match failure {
            Some(failure) => Err(failure),
            None => drained.map(|()| ExitCode::from(exit::DONE)),
        }
    }

    /// Drains stage after stage and waits for it. A signal meanwhile ends the wait.
    pub(crate) fn drain(&mut self) -> anyhow::Result<()> {
        notify::stopping();
        let Self { runtime, signals, roles, ended, .. } = self;
        let mut stages: Vec<u8> = roles.iter().map(|handle| handle.stage).collect();
        stages.sort_unstable();
        stages.dedup();
        let mut outcome = Ok(());
        for stage in stages {
            let of_stage = |handle: &&Handle| handle.stage == stage && handle.running;
            roles.iter().filter(of_stage).for_each(|handle| handle.drain.trigger());
            while roles.iter().any(|handle| of_stage(&handle)) {
                let end = runtime.block_on(async {
                    tokio::select! {
                        end = ended.recv() => end.ok_or_else(|| anyhow!("a role was lost")),
                        signal = signals.next() => {
                            Err(anyhow!("{signal} during the drain: what was in flight is cut"))
                        }
                    }
                })?;
                mark_ended(roles, end.role);
                if let Err(error) = end.result {
                    outcome = outcome.and(Err(error.into()));
                }
            }
        }
        outcome
    }
}

fn mark_ended(roles: &mut [Handle], role: Role) {
    for handle in roles.iter_mut().filter(|handle| handle.role == role) {
        handle.running = false;
    }
}

impl Ended {
    /// The end of a role that nobody asked to end.
    fn into_error(self) -> anyhow::Error {
        match self.result {
            Ok(()) => anyhow!("{} ended by itself", self.role),
            Err(error) => error.into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::rc::Rc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use reel_node::{
        Accepted, ControlContext, Process, Role, RoleSpec, Running, Service, ServiceError,
        ThreadContext,
    };

    use super::{Server, Start};

    /// A role that listens nowhere and notes when its drain begins and when it has ended.
    #[derive(Default)]
    struct Fake {
        name: &'static str,
        ready: AtomicBool,
        fails: bool,
        events: Arc<Mutex<Vec<String>>>,
    }

    impl Fake {
        fn note(&self, what: &str) {
            self.events.lock().unwrap().push(format!("{} {what}", self.name));
        }
    }

    impl Service for Fake {
        type Thread = ();

        fn thread(self: &Arc<Self>, _: ThreadContext) {}

        async fn connection(_: Rc<()>, _: Accepted) {}

        async fn control(self: Arc<Self>, cx: ControlContext) -> Result<(), ServiceError> {
            if self.fails {
                return Err("no database".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.ready.store(true, Ordering::Relaxed);
            cx.drain.wait().await;
            self.note("drains");
            cx.finished.wait().await;
            self.note("ended");
            Ok(())
        }

        fn status(&self) -> serde_json::Value {
            serde_json::Value::Null
        }

        fn ready(&self) -> Result<(), String> {
            self.ready.load(Ordering::Relaxed).then_some(()).ok_or("warming up".to_owned())
        }
    }

    fn start(role: Role, fake: Fake, process: &Process) -> Running {
        let spec = RoleSpec {
            role,
            data_threads: 1,
            listeners: Vec::new(),
            admin: None,
            max_connections_per_thread: 1,
            drain_deadline: Duration::from_secs(1),
            pin_from_core: None,
        };
        reel_node::start(spec, Arc::new(fake), process).unwrap()
    }

    #[test]
    fn stages_drain_one_after_the_other() {
        let process = Process::new(&[]).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let fake = |name| Fake { name, events: Arc::clone(&events), ..Fake::default() };
        let mut server = Server::new().unwrap();
        server.add(1, start(Role::Tracker, fake("tracker"), &process)).unwrap();
        server.add(0, start(Role::Engine, fake("engine"), &process)).unwrap();
        assert_eq!(server.wait_ready(None).unwrap(), Start::Ready);
        server.drain().unwrap();
        let events = events.lock().unwrap();
        assert_eq!(*events, ["engine drains", "engine ended", "tracker drains", "tracker ended"]);
    }

    #[test]
    fn a_role_that_is_never_ready_is_named() {
        let process = Process::new(&[]).unwrap();
        let mut server = Server::new().unwrap();
        server.add(0, start(Role::Engine, Fake::default(), &process)).unwrap();
        let error = server.wait_ready(Some(Duration::ZERO)).unwrap_err().to_string();
        assert!(error.contains("engine") && error.contains("warming up"), "{error}");
        server.drain().unwrap();
    }

    #[test]
    fn a_role_that_fails_ends_the_process_with_its_error() {
        let process = Process::new(&[]).unwrap();
        let mut server = Server::new().unwrap();
        let fake = Fake { fails: true, ..Fake::default() };
        server.add(0, start(Role::IdGen, fake, &process)).unwrap();
        server.add(1, start(Role::Engine, Fake::default(), &process)).unwrap();
        let error = server.run().unwrap_err().to_string();
        assert!(error.contains("idgen") && error.contains("no database"), "{error}");
    }
}
