//! What the tests need beside Rust, as Debian packages by name. Idempotent: what is there is not touched.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// Package, the program that proves it is there, and the tests that use it.
const PACKAGES: &[(&str, &str, &str)] = &[
    ("gcc", "gcc", "builds the bundled SQLite"),
    ("ffmpeg", "ffmpeg", "makes the film of the player tests and probes it over HTTP"),
    ("chromium", "chromium", "plays the film and seeks"),
    ("curl", "curl", "range requests as a user types them"),
    ("wget", "wget", "downloads as a user types them"),
    ("e2fsprogs", "mkfs.ext4", "loop images for power loss and full disks"),
    ("xfsprogs", "mkfs.xfs", "loop images for power loss and full disks"),
    ("mount", "losetup", "loop images for power loss and full disks"),
];

fn missing() -> Vec<&'static (&'static str, &'static str, &'static str)> {
    PACKAGES.iter().filter(|(_, program, _)| !on_path(program)).collect()
}

// Administration tools live in sbin, which an unprivileged PATH leaves out.
fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|folder| std::path::Path::new(folder).join(program).exists())
}

/// Fails when something is missing, saying what it is for.
pub(crate) fn check() -> Result<()> {
    let missing = missing();
    for (package, program, purpose) in &missing {
        println!("missing: {package} ({program}): {purpose}");
    }
    if !missing.is_empty() {
        bail!("{} packages missing; `cargo xtask setup` as root installs them", missing.len());
    }
    println!("set-up: nothing missing");
    Ok(())
}

/// Installs what is missing. Without root it says which command would, and the tests that need it skip themselves.
pub(crate) fn install() -> Result<()> {
    let packages: Vec<&str> = missing().iter().map(|(package, ..)| *package).collect();
    if packages.is_empty() {
        println!("set-up: nothing missing");
        return Ok(());
    }
    // SAFETY: geteuid reads one field of the process and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || !on_path("apt-get") {
        println!(
            "set-up: not installed, so the tests that need them say that they skip: {}\n\
             set-up: as root on Debian: apt-get install {}",
            packages.join(" "),
            packages.join(" ")
        );
        return Ok(());
    }
    apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&packages);
    apt(&arguments)?;
    check()
}

fn apt(arguments: &[&str]) -> Result<()> {
    run::step(
        "set-up",
        Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"),
    )
}
