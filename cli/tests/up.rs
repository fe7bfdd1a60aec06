//! `reel up` as a newcomer and an operator meet it: real processes, real sockets, every port 0.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::time::{Duration, Instant};

use kit::{Up, command, connect, content, file_reference, frame, http};

fn failed(mut command: std::process::Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_file_over_http_and_back_with_ranges() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let bytes = content(3_000_001);
    for role in ["engine", "gateway"] {
        let address = up.address(role, "media");
        let id = format!("film-{role}.mp4");
        let typed = format!("PUT /files/{id} HTTP/1.1\r\nContent-Type: video/mp4");
        let put = http(address, &typed, &bytes);
        assert_eq!(put.status, 201, "{role}: {}\n{}", put.head, put.text());
        let again = http(address, &format!("PUT /files/{id} HTTP/1.1"), &bytes);
        assert_eq!(again.status, 200, "{role}: {}", again.head);
        let other = http(address, &format!("PUT /files/{id} HTTP/1.1"), b"other");
        assert_eq!(other.status, 409, "{role}: {}", other.head);
        for reader in ["engine", "gateway"] {
            let address = up.address(reader, "media");
            let whole = http(address, &format!("GET /files/{id} HTTP/1.1"), b"");
            assert_eq!(whole.status, 200, "{role} {reader}: {}", whole.head);
            assert!(whole.body == bytes, "{role} {reader}: other bytes");
            assert_eq!(whole.header("accept-ranges"), Some("bytes"), "{}", whole.head);
            assert_eq!(whole.header("content-type"), Some("video/mp4"), "{}", whole.head);
            let part = format!("GET /files/{id} HTTP/1.1\r\nRange: bytes=1000000-1999999");
            let part = http(address, &part, b"");
            assert_eq!(part.status, 206, "{}", part.head);
            assert_eq!(part.header("content-range"), Some("bytes 1000000-1999999/3000001"));
            assert!(part.body == bytes[1_000_000..2_000_000]);
            let last = format!("GET /files/{id} HTTP/1.1\r\nRange: bytes=-1");
            assert_eq!(http(address, &last, b"").body, bytes[3_000_000..]);
            let past = format!("GET /files/{id} HTTP/1.1\r\nRange: bytes=3000001-");
            let past = http(address, &past, b"");
            assert_eq!((past.status, past.header("content-range")), (416, Some("bytes */3000001")));
        }
        let deleted = http(address, &format!("DELETE /files/{id} HTTP/1.1"), b"");
        assert!(matches!(deleted.status, 200 | 204), "{}", deleted.head);
        let gone = http(up.address("engine", "media"), &format!("GET /files/{id} HTTP/1.1"), b"");
        assert_eq!(gone.status, 404, "{}", gone.head);
    }
    up.stop();
}

#[test]
fn the_deployed_protocol_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let mut tracker = connect(up.address("tracker", "binary"));
    let (reply, status, groups) = frame(&mut tracker, 13, b"");
    assert_eq!((reply, status), (100, 0));
    let groups = String::from_utf8(groups).unwrap();
    assert!(groups.starts_with("COUNT OF GROUPS: 1\nGROUPNAME: group001\n"), "{groups}");
    assert!(groups.contains("STATUS: ACTIVE\0"), "{groups}");

    let engine = up.address("engine", "binary");
    let fields = file_reference("tnvideo", "tnv001", "");
    let (reply, status, addresses) = frame(&mut tracker, 12, &fields);
    assert_eq!((reply, status), (100, 0), "{}", String::from_utf8_lossy(&addresses));
    assert_eq!(addresses[..9], *b"group001\0");
    assert_eq!(addresses[17..], *format!("{engine};\0").as_bytes());

    let bytes = content(100_000);
    let mut storage = connect(engine);
    let file = file_reference("tnvideo", "tnv001", "5F1D7D900A1B2C0123456789ABCDEF0");
    let mut upload = file.clone();
    upload.extend((bytes.len() as u64).to_be_bytes());
    upload.extend(&bytes);
    assert_eq!(frame(&mut storage, 70, &upload), (102, 0, vec![]));
    assert_eq!(frame(&mut storage, 71, &file), (102, 0, 100_000_u64.to_be_bytes().to_vec()));
    let mut download = file.clone();
    download.extend(99_990_u64.to_be_bytes());
    download.extend(0_u64.to_be_bytes());
    assert_eq!(frame(&mut storage, 72, &download), (102, 0, bytes[99_990..].to_vec()));
    assert_eq!(frame(&mut storage, 73, &file), (102, 0, vec![]));
    let (reply, status, _) = frame(&mut storage, 71, &file);
    assert_eq!((reply, status), (102, 0xFD));

    let mut idgen = connect(up.address("idgen", "binary"));
    assert_eq!(frame(&mut idgen, 40, b"../data\0"), (101, 0, 0_u64.to_be_bytes().to_vec()));
    assert_eq!(frame(&mut idgen, 40, b"../data\0"), (101, 0, 1_u64.to_be_bytes().to_vec()));
    up.stop();
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(70_000);
    for round in 0..3 {
        let up = Up::start(folder.path());
        let media = up.address("engine", "media");
        for earlier in 0..round {
            let kept = http(media, &format!("GET /files/kept-{earlier} HTTP/1.1"), b"");
            assert_eq!(kept.status, 200, "round {round}: {}", kept.head);
            assert!(kept.body == bytes);
        }
        let put = http(media, &format!("PUT /files/kept-{round} HTTP/1.1"), &bytes);
        assert_eq!(put.status, 201, "{}", put.head);
        if round == 1 {
            up.signal(libc::SIGKILL);
            let (status, _) = up.wait();
            assert_eq!(status.code(), None);
        } else {
            up.stop();
        }
    }
}

#[test]
fn admin_pages_of_every_role() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let media = up.address("gateway", "media");
    assert_eq!(http(media, "PUT /files/a HTTP/1.1", b"abc").status, 201);
    for role in ["tracker", "idgen", "engine", "gateway"] {
        let admin = up.address(role, "admin");
        assert_eq!(http(admin, "GET /healthz HTTP/1.1", b"").status, 200, "{role}");
        let ready = http(admin, "GET /readyz HTTP/1.1", b"");
        assert_eq!(ready.status, 200, "{role}: {}", ready.text());
        let status = http(admin, "GET /status HTTP/1.1", b"");
        let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
        assert!(status.is_object(), "{role}");
        let metrics = http(admin, "GET /metrics HTTP/1.1", b"").text();
        assert!(metrics.contains(&format!("role=\"{role}\"")), "{role}: {metrics}");
        assert!(metrics.contains("# HELP "), "{role}");
        let secret = std::fs::read_to_string(folder.path().join("cluster.secret")).unwrap();
        assert!(!format!("{status}{metrics}").contains(secret.trim()), "{role}");
    }
    let errors = up.stop();
    assert!(!errors.contains("ERROR"), "{errors}");
}

#[test]
fn a_log_that_cannot_be_written_ends_no_server_and_no_command() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.env("REEL_LOG", "debug").stderr(full());
    let up = Up::spawn(command);
    let media = up.address("engine", "media");
    assert_eq!(http(media, "PUT /files/a HTTP/1.1", b"abc").status, 201);
    assert_eq!(http(media, "GET /files/a HTTP/1.1", b"").body, b"abc");
    let mut rm = std::process::Command::new(env!("CARGO_BIN_EXE_reel"));
    rm.args(["rm", "nothing", "--tracker", &up.address("tracker", "binary").to_string()]);
    assert_eq!(rm.stderr(full()).status().unwrap().code(), Some(1));
    up.signal(libc::SIGTERM);
    assert!(up.wait().0.success());
}

/// All addresses of a machine are no loopback listener, also where a peer comes by the loopback one: it may be a
/// forwarder that lends its address to the world.
#[test]
fn without_tokens_a_listener_on_all_addresses_takes_no_write() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.args(["--engine-http-listen", "0.0.0.0:0", "--gateway-listen", "0.0.0.0:0"]);
    command.env("REEL_NODE__ALLOW", "[\"10.0.0.0/8\"]");
    let up = Up::spawn(command);
    for role in ["engine", "gateway"] {
        let mut address = up.address(role, "media");
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        let refused = http(address, "PUT /files/a HTTP/1.1", b"abc");
        assert_eq!(refused.status, 403, "{role}: {}", refused.head);
        assert_eq!(http(address, "GET /files/a HTTP/1.1", b"").status, 404, "{role}");
    }
    up.stop();
}

#[test]
fn both_signals_drain_and_leave_a_clean_folder() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let folder = tempfile::tempdir().unwrap();
        let up = Up::start(folder.path());
        let written = folder.path().join("addresses.json");
        let written: serde_json::Value =
            serde_json::from_slice(&std::fs::read(written).unwrap()).unwrap();
        assert_eq!(written, up.addresses);
        let mut idle = connect(up.address("engine", "media"));
        up.signal(signal);
        let (status, errors) = up.wait();
        assert_eq!(status.code(), Some(0), "{errors}");
        // An idle connection does not hold up the drain: it is closed.
        assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
        assert!(!folder.path().join("addresses.json").exists());
    }
}

#[test]
fn a_response_in_flight_ends_whole_during_the_drain() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    // More than the sockets' buffers take, so that the response is in flight until it is read.
    let bytes = content(24_000_000);
    let media = up.address("engine", "media");
    assert_eq!(http(media, "PUT /files/long HTTP/1.1", &bytes).status, 201);
    let mut readers: Vec<_> = ["engine", "gateway"]
        .into_iter()
        .map(|role| {
            let mut reader = connect(up.address(role, "media"));
            reader.write_all(b"GET /files/long HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut first = [0; 12];
            reader.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            reader
        })
        .collect();
    up.signal(libc::SIGTERM);
    let admin = up.address("engine", "admin");
    let end = Instant::now() + kit::PATIENCE;
    loop {
        let ready = http(admin, "GET /readyz HTTP/1.1", b"");
        if ready.status == 503 {
            assert_eq!(ready.text(), "draining\n");
            break;
        }
        assert!(Instant::now() < end);
    }
    for reader in &mut readers {
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        let body = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(rest[body..] == bytes, "{} of {} bytes", rest.len() - body, bytes.len());
    }
    assert!(TcpStream::connect(media).is_err(), "it accepts during the drain");
    let (status, errors) = up.wait();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(!errors.contains("ERROR"), "{errors}");
}

#[test]
fn a_drain_cuts_what_does_not_end_and_a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(24_000_000);
    for (deadline, second, code) in [("300ms", false, 0), ("5m", true, 1)] {
        let mut command = command(folder.path());
        command.env("REEL_NODE__DRAIN_DEADLINE", deadline);
        let up = Up::spawn(command);
        let media = up.address("engine", "media");
        let put = http(media, "PUT /files/long HTTP/1.1", &bytes);
        assert!(matches!(put.status, 200 | 201), "{}", put.head);
        let mut reader = connect(media);
        reader.write_all(b"GET /files/long HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 12];
        reader.read_exact(&mut first).unwrap();
        up.signal(libc::SIGTERM);
        if second {
            // Two signals that arrive together may be one.
            std::thread::sleep(Duration::from_millis(200));
            up.signal(libc::SIGTERM);
        }
        let (status, errors) = up.wait();
        assert_eq!(status.code(), Some(code), "{deadline}: {errors}");
    }
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify.socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(kit::PATIENCE)).unwrap();
    let next = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    let mut command = command(&folder.path().join("data"));
    command.env("NOTIFY_SOCKET", &path);
    let up = Up::spawn(command);
    assert_eq!(next(), "READY=1");
    up.stop();
    assert_eq!(next(), "STOPPING=1");
}

#[test]
fn json_logs_are_one_object_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.args(["--log-format", "json", "--log-level", "debug"]);
    let errors = Up::spawn(command).stop();
    assert!(errors.lines().count() > 3, "{errors}");
    for line in errors.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["timestamp", "level", "target", "message"] {
            assert!(object[key].is_string(), "{key}: {line}");
        }
    }
}

#[test]
fn the_secret_is_private_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.secret");
    Up::start(folder.path()).stop();
    let first = std::fs::read(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    Up::start(folder.path()).stop();
    assert_eq!(std::fs::read(&path).unwrap(), first);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, error) = failed(command(folder.path()));
    assert_ne!(code, Some(0));
    assert!(error.contains("cluster.secret") && error.contains("chmod 600"), "{error}");
}

#[test]
fn a_second_process_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let (code, error) = failed(command(folder.path()));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&up.pid().to_string()), "{error}");
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
    // The first one does not notice.
    assert_eq!(http(up.address("engine", "admin"), "GET /readyz HTTP/1.1", b"").status, 200);
    up.stop();
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let flags = [
        "tracker",
        "tracker-admin",
        "idgen",
        "idgen-admin",
        "engine",
        "engine-http",
        "engine-admin",
        "gateway",
        "gateway-admin",
    ];
    for flag in flags {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path());
        command.arg(format!("--{flag}-listen")).arg(&address);
        let (code, error) = failed(command);
        assert_eq!(code, Some(1), "{flag}: {error}");
        assert!(error.contains(&address) && error.contains("in use"), "{flag}: {error}");
    }
}

#[test]
fn a_broken_configuration_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("reel.toml"), "[engine]\nretenton = \"1d\"\n").unwrap();
    let (code, error) = failed(command(folder.path()));
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("engine.retenton") && error.contains("reel.toml"), "{error}");
}

#[test]
fn an_open_listener_without_a_list_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.args(["--engine-listen", "0.0.0.0:0"]);
    let (code, error) = failed(command);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("node.allow") && error.contains("engine.listen"), "{error}");
}

#[test]
fn a_folder_without_permission_is_named() {
    // Root may write anywhere but here.
    let (code, error) = failed(command(std::path::Path::new("/proc/reel-data")));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("/proc/reel-data"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "").unwrap();
    let (code, error) = failed(command(&path));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&path.display().to_string()), "{error}");
}
