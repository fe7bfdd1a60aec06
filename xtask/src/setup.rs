//! What the tests need beside Rust, as Debian packages by name. Idempotent: what is there is not touched.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// Package, the program (or the file, by its whole path) that proves it is there, and the tests that use it.
const PACKAGES: &[Package] = &[
    ("gcc", "gcc", "builds the bundled SQLite"),
    ("ffmpeg", "ffmpeg", "makes the film of the player tests and probes it over HTTP"),
    ("chromium", "chromium", "plays the film and seeks"),
    ("curl", "curl", "range requests as a user types them, and the health of pairs"),
    ("wget", "wget", "downloads as a user types them"),
    ("e2fsprogs", "mkfs.ext4", "loop images for power loss and full disks"),
    ("xfsprogs", "mkfs.xfs", "loop images for power loss and full disks"),
    ("mount", "losetup", "loop images for power loss and full disks"),
    ("mariadb-server", "mariadbd", "private databases for the metadata of clusters"),
    ("galera-4", "/usr/lib/galera/libgalera_smm.so", "three databases that agree on every commit"),
    ("rsync", "rsync", "the tables of a database that joins the others"),
    ("iproute2", "ip", "hosts of their own, and the network between them"),
    ("nftables", "nft", "packets that get lost between hosts"),
    ("glusterfs-server", "glusterd", "a volume that several hosts mount"),
    ("keepalived", "keepalived", "floating addresses of pairs of hosts"),
];

/// What `cargo xtask bench` drives besides: not needed by any test.
const BENCH_PACKAGES: &[Package] = &[
    (
        "nginx-light",
        "nginx",
        "the peer for reads; the harness starts its own, with its own configuration",
    ),
    ("fio", "fio", "the peer for large writes"),
    ("mariadb-server", "mariadbd", "the database of a store whose metadata is shared"),
    ("e2fsprogs", "mkfs.ext4", "the image that is measured on"),
    ("mount", "losetup", "the image that is measured on"),
    ("iproute2", "ip", "the loopback that is measured over"),
    ("glusterfs-server", "glusterd", "the volume whose bricks are read"),
];

type Package = (&'static str, &'static str, &'static str);

fn missing(packages: &'static [Package]) -> Vec<&'static Package> {
    packages.iter().filter(|(_, program, _)| !on_path(program)).collect()
}

// Administration tools live in sbin, which an unprivileged PATH leaves out. A whole path is itself in any folder.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|folder| std::path::Path::new(folder).join(program).exists())
}

/// Fails when something is missing, saying what it is for.
pub(crate) fn check() -> Result<()> {
    check_for(PACKAGES)
}

fn check_for(packages: &'static [Package]) -> Result<()> {
    let missing = missing(packages);
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
    install_for(PACKAGES, "so the tests that need them say that they skip")
}

/// Installs what the benchmarks need and is missing.
pub(crate) fn install_for_bench() -> Result<()> {
    install_for(BENCH_PACKAGES, "so a scenario that needs them fails")
}

fn install_for(wanted: &'static [Package], otherwise: &str) -> Result<()> {
    let packages: Vec<&str> = missing(wanted).iter().map(|(package, ..)| *package).collect();
    if packages.is_empty() {
        println!("set-up: nothing missing");
        return Ok(());
    }
    // SAFETY: geteuid reads one field of the process and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || !on_path("apt-get") {
        println!(
            "set-up: not installed, {otherwise}: {}\n\
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
    check_for(wanted)
}

fn apt(arguments: &[&str]) -> Result<()> {
    run::step(
        "set-up",
        Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"),
    )
}
