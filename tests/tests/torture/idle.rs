//! Many connections that want nothing, and some that want it slowly: the store serves the others, in bounded memory.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use reel_tests::{
    http,
    process::{Store, Up},
    seed::{Content, count_from},
};
use serde_json::Value;

/// Connections that send one byte of a request a second.
const TRICKLING: usize = 50;
/// What each idle connection may cost the process, bytes: 10,000 of them 100 MiB.
const BYTES_PER_CONNECTION_MAX: u64 = 10_486;
/// What everything else may grow by while they come: caches, histograms, the page tables of all that.
const OTHER_BYTES_MAX: u64 = 32 << 20;

#[test]
fn idle_and_trickling_connections_leave_the_others_alone() {
    let idle = count_from("REEL_TORTURE_IDLE", 2000) as usize;
    raise_open_files();
    let folder = tempfile::tempdir().unwrap();
    let store = Up::new(folder.path()).start().unwrap();
    for (address, admin) in [
        (store.addresses.media, store.addresses.engine_admin),
        (store.addresses.gateway, store.addresses.gateway_admin),
    ] {
        crowd(&store, address, admin, idle);
    }
    store.drain().unwrap();
}

fn crowd(store: &Store, address: SocketAddr, admin: SocketAddr, idle: usize) {
    let content = Content { seed: 7, size: 300_000 }.bytes();
    let id = format!("crowd-{}", address.port());
    let target = format!("/files/{id}");
    let stored = http::request(address, "PUT", &target, &[], Some(&content)).unwrap();
    assert_eq!(stored.status, 201, "{}", stored.text());
    let before = store.resident_bytes().unwrap();

    let crowd: Vec<TcpStream> = (0..idle)
        .map(|index| {
            TcpStream::connect(address).unwrap_or_else(|e| panic!("connection {index}: {e}"))
        })
        .collect();
    let mut trickling: Vec<TcpStream> =
        (0..TRICKLING).map(|_| TcpStream::connect(address).unwrap()).collect();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n");
    for byte in request.bytes().take(3) {
        for stream in &mut trickling {
            stream.write_all(&[byte]).unwrap();
        }
        std::thread::sleep(Duration::from_secs(1));
        let ranged =
            http::request(address, "GET", &target, &["Range: bytes=1000-1999"], None).unwrap();
        assert_eq!(ranged.status, 206);
        assert_eq!(ranged.body, content[1000..2000]);
    }

    let status = store.status(admin).unwrap();
    let open = open_connections(&status);
    assert!(open >= (idle + TRICKLING) as u64, "/status shows {open} of {idle}: {status:#}");
    let grown = store.resident_bytes().unwrap().saturating_sub(before);
    let bound = OTHER_BYTES_MAX + BYTES_PER_CONNECTION_MAX * (idle + TRICKLING) as u64;
    println!("{address}: {idle} idle and {TRICKLING} trickling connections took {grown} bytes");
    assert!(grown <= bound, "{grown} bytes for {idle} connections, {bound} at most");
    drop((crowd, trickling));
}

/// The sum of every number in `/status` that counts open connections.
fn open_connections(status: &Value) -> u64 {
    match status {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match value.as_u64() {
                Some(count) if name == "connections" => count,
                _ => open_connections(value),
            })
            .sum(),
        Value::Array(items) => items.iter().map(open_connections).sum(),
        _ => 0,
    }
}

fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer outlives the call, which writes one rlimit.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer outlives the call, which reads one rlimit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}
