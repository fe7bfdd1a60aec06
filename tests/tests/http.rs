//! The table of HTTP cases on storage node and gateway, with io_uring, without it, and with each single capability of the
//! kernel switched off.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use reel_tests::{
    http_cases,
    process::{Store, Up},
};

fn judge(address: SocketAddr, name: &str) {
    let facts = http_cases::prepare(address, name).unwrap();
    let cases = http_cases::cases();
    let verdicts = http_cases::run(address, &facts, &cases);
    let faults: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| {
            let fault = verdict.fault.as_ref()?;
            Some(format!("{} ({}): {fault}", verdict.name, verdict.rfc))
        })
        .collect();
    assert!(
        faults.is_empty(),
        "{name}: {} of {} cases:\n{}",
        faults.len(),
        cases.len(),
        faults.join("\n")
    );
}

fn judge_both(store: &Store, name: &str) {
    judge(store.addresses.media, &format!("{name}-engine"));
    judge(store.addresses.gateway, &format!("{name}-gateway"));
}

#[test]
fn the_storage_node_passes_every_case() {
    let folder = tempfile::tempdir().unwrap();
    let store = Up::new(folder.path()).start().unwrap();
    judge(store.addresses.media, "engine");
    store.drain().unwrap();
}

#[test]
fn the_gateway_passes_every_case() {
    let folder = tempfile::tempdir().unwrap();
    let store = Up::new(folder.path()).start().unwrap();
    judge(store.addresses.gateway, "gateway");
    store.drain().unwrap();
}

#[test]
fn everything_passes_where_io_uring_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::new(folder.path()).without_io_uring();
    let store = up.start().unwrap();
    judge_both(&store, "epoll");
    let status = store.status(store.addresses.engine_admin).unwrap();
    assert!(status.to_string().contains("epoll"), "/status does not say so: {status:#}");
    store.drain().unwrap();
}

#[test]
fn everything_passes_with_each_capability_off() {
    for capability in CAPABILITIES {
        let folder = tempfile::tempdir().unwrap();
        let up = Up::new(folder.path()).set("node.capabilities_off", &format!("[{capability:?}]"));
        let store = up.expect_log("io_uring").start().unwrap();
        let status = store.status(store.addresses.engine_admin).unwrap();
        assert!(status.to_string().contains(capability), "{capability}: {status:#}");
        judge_both(&store, &format!("off-{}", capability.replace('_', "-")));
        store.drain().unwrap();
    }
}

/// Every name that `node.capabilities_off` takes. A name that is missing here is found by the test below.
const CAPABILITIES: &[&str] = &[
    "io_uring",
    "coop_taskrun",
    "single_issuer",
    "defer_taskrun",
    "op_mkdir",
    "op_rename",
    "op_unlink",
    "iowq_workers",
    "cachestat",
    "nowait_read",
    "cached_open",
    "direct_io",
];

#[test]
fn no_capability_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::new(folder.path()).set("node.capabilities_off", "[\"nonsense\"]");
    let output = up.start_failing().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let known = told.split("known are").nth(1).unwrap_or_else(|| panic!("{told}"));
    let mut known: Vec<&str> = known
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|n| !n.is_empty())
        .collect();
    let mut tested = CAPABILITIES.to_vec();
    known.retain(|name| !tested.contains(name));
    assert!(known.is_empty(), "not tested: {known:?}");
    tested.retain(|name| !told.contains(name));
    assert!(tested.is_empty(), "tested, and not known: {tested:?}");
}
