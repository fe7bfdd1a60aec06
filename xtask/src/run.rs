//! Running other programs: every command is printed before it runs, so that a log can be replayed by hand.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// The folder of the workspace, from where Cargo compiled this crate.
pub(crate) fn workspace_root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| own.clone(), PathBuf::from)
}

/// A `cargo` command of the toolchain that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    // What Cargo tells us of our own package: build scripts that ask for it would run again, and what depends on them be
    // compiled again, each time that somebody builds without us in between.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a step to its end and fails, naming it, when it does.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<()> {
    let shown = shown(command);
    println!("== {name}: {shown}");
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{name} failed ({status}): {shown}");
    }
    println!("== {name}: done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Whether a program runs and ends well with these arguments, silently.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            text.push_str(&format!("{}={} ", key.to_string_lossy(), value.to_string_lossy()));
        }
    }
    let program = PathBuf::from(command.get_program());
    text.push_str(&program.file_name().unwrap_or_default().to_string_lossy());
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
