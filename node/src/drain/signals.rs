//! SIGTERM and SIGINT as a drain.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use super::Drain;

/// Exit code after a second signal: the shell's 128 + SIGTERM.
const IMPATIENT_EXIT_CODE: i32 = 143;

/// A drain that SIGTERM or SIGINT gives. A second signal ends the process at once, for who cannot
/// wait for the deadline. Call it once in a process, before its nodes start.
///
/// # Errors
/// The handlers could not be installed or the thread not started.
pub fn on_signals() -> io::Result<Drain> {
    let drain = Drain::new();
    let given = drain.clone();
    // tokio's handlers need a runtime that lives as long as they do. A thread of its own keeps
    // them working while every role is still starting or already gone.
    let (ready, installed) = flume::bounded::<io::Result<()>>(1);
    std::thread::Builder::new().name("reel-signals".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        runtime.block_on(watch(given, ready));
    })?;
    installed.recv().unwrap_or_else(|_| Err(io::Error::other("the signal thread ended")))?;
    Ok(drain)
}

async fn watch(drain: Drain, ready: flume::Sender<io::Result<()>>) {
    let handlers = signal(SignalKind::terminate())
        .and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match handlers {
        Ok(handlers) => handlers,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if drain.requested() {
            tracing::warn!("second signal: leaving without finishing what is in flight");
            std::process::exit(IMPATIENT_EXIT_CODE);
        }
        tracing::info!("signal: draining; a second one ends at once");
        drain.trigger();
    }
}
