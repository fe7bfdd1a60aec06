//! Each role as a process of its own from one configuration file, as on four machines.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kit::{PATIENCE, connect, content, frame, http};

const SECRET: &str = "a secret of the tests";

/// A role's process; killed when the test lets it go.
struct RoleProcess {
    child: Child,
    addresses: HashMap<String, SocketAddr>,
}

impl RoleProcess {
    fn start(role: &str, config: &Path, flags: &[String]) -> Self {
        Self::start_with(SECRET, role, config, flags)
    }

    fn start_with(secret: &str, role: &str, config: &Path, flags: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reel"));
        command.arg(role).arg("--config").arg(config).args(["--admin-listen", "0"]).args(flags);
        command.env_clear().env("REEL_CLUSTER_SECRET", secret);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut addresses = HashMap::new();
        // The admin address comes last.
        while !addresses.contains_key("admin") {
            let mut line = String::new();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "{role} ended");
            let (name, address) = line.trim().split_once(' ').unwrap();
            let name = name.split_once('.').unwrap().1.trim_end_matches("_listen");
            addresses.insert(name.to_owned(), address.parse().unwrap());
        }
        Self { child, addresses }
    }

    fn at(&self, listener: &str) -> SocketAddr {
        self.addresses[listener]
    }

    fn wait_ready(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let ready = http(self.at("admin"), "GET /readyz HTTP/1.1", b"");
            if ready.status == 200 {
                return;
            }
            assert!(Instant::now() < end, "{}", ready.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: sends a signal to a child that has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn flag(name: &str, value: impl ToString) -> [String; 2] {
    [format!("--{name}"), value.to_string()]
}

#[test]
fn four_processes_make_a_store_and_a_restarted_tracker_is_whole_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("reel.toml");
    let meta = folder.path().join("meta");
    let store = folder.path().join("store");
    let text = format!(
        "[meta]\ndir = {meta:?}\n[[store_path]]\npath = {store:?}\n\
         [tracker]\nbeat_interval = \"200ms\"\ncheck_interval = \"2s\"\n\
         [engine]\nbeat_interval = \"200ms\"\n[gateway]\nbeat_interval = \"200ms\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let any = flag("listen", 0);

    let idgen = RoleProcess::start("idgen", &config, &any);
    let tracker = RoleProcess::start("tracker", &config, &any);
    let trackers = flag("trackers", tracker.at("listen"));
    let engine_flags =
        [&any[..], &flag("http-listen", 0), &trackers, &flag("idgens", idgen.at("listen"))]
            .concat();
    let engine = RoleProcess::start("engine", &config, &engine_flags);
    let gateway = RoleProcess::start("gateway", &config, &[&any[..], &trackers].concat());
    for role in [&idgen, &tracker, &engine, &gateway] {
        role.wait_ready();
    }

    let bytes = content(500_000);
    let put = http(gateway.at("listen"), "PUT /files/one HTTP/1.1", &bytes);
    assert_eq!(put.status, 201, "{}\n{}", put.head, put.text());
    assert!(http(engine.at("http"), "GET /files/one HTTP/1.1", b"").body == bytes);

    // A second process of a role on the same metadata is refused.
    let second = Command::new(env!("CARGO_BIN_EXE_reel"))
        .args(["idgen", "--admin-listen", "0", "--listen", "0", "--config"])
        .arg(&config)
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1), "{}", String::from_utf8_lossy(&second.stderr));

    // The tracker forgets everything with its process, and knows it again after a beat.
    let address = tracker.at("listen");
    drop(tracker);
    let tracker = RoleProcess::start("tracker", &config, &flag("listen", address));
    let end = Instant::now() + PATIENCE;
    loop {
        let (_, _, groups) = frame(&mut connect(address), 13, b"");
        if String::from_utf8(groups).unwrap().contains("STATUS: ACTIVE") {
            break;
        }
        assert!(Instant::now() < end, "the node has not joined again");
        std::thread::sleep(Duration::from_millis(20));
    }
    engine.wait_ready();
    gateway.wait_ready();
    let get = http(gateway.at("listen"), "GET /files/one HTTP/1.1", b"");
    assert_eq!(get.status, 200, "{}", get.head);

    for role in [gateway, engine, tracker, idgen] {
        role.stop();
    }
}

#[test]
fn a_node_with_another_secret_does_not_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("reel.toml");
    let (meta, store) = (folder.path().join("meta"), folder.path().join("store"));
    let text = format!("[meta]\ndir = {meta:?}\n[[store_path]]\npath = {store:?}\n");
    std::fs::write(&config, text).unwrap();
    let any = flag("listen", 0);
    let idgen = RoleProcess::start("idgen", &config, &any);
    let tracker = RoleProcess::start("tracker", &config, &any);
    let flags = [
        &any[..],
        &flag("http-listen", 0),
        &flag("trackers", tracker.at("listen")),
        &flag("idgens", idgen.at("listen")),
    ]
    .concat();
    let engine = RoleProcess::start_with("another one of them", "engine", &config, &flags);
    let refusals = "reel_engine_tracker_messages_total{role=\"engine\",message=\"join_ext\",\
                    result=\"refused\"} ";
    let end = Instant::now() + PATIENCE;
    loop {
        let metrics = http(engine.at("admin"), "GET /metrics HTTP/1.1", b"").text();
        if metrics.lines().any(|line| line.starts_with(refusals) && !line.ends_with(" 0")) {
            break;
        }
        assert!(Instant::now() < end, "{metrics}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(http(engine.at("admin"), "GET /readyz HTTP/1.1", b"").status, 503);
    let (_, _, groups) = frame(&mut connect(tracker.at("listen")), 13, b"");
    let groups = String::from_utf8(groups).unwrap();
    assert!(groups.contains("COUNT OF STORAGES: 0\n"), "{groups}");
}
