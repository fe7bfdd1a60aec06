//! What goes wrong around a store: folders, ports, configuration, disks, clients that vanish. A clear error each, and
//! nothing lost.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reel_tests::{
    disk::{FileSystem, LoopDisk},
    http,
    process::{Store, Up},
    seed::Content,
    stored::files_below,
};

fn told(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn put(store: &Store, id: &str, content: &[u8]) -> u16 {
    let target = format!("/files/{id}");
    http::request(store.addresses.media, "PUT", &target, &[], Some(content)).unwrap().status
}

fn get(store: &Store, id: &str) -> http::Response {
    let target = format!("/files/{id}");
    http::request(store.addresses.media, "GET", &target, &[], None).unwrap()
}

/// Every file of the store paths of a data folder.
fn stored_files(data: &Path) -> Vec<PathBuf> {
    files_below(&data.join("store")).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--tracker-listen", "--engine-listen", "--engine-http-listen", "--gateway-listen"]
    {
        let folder = tempfile::tempdir().unwrap();
        let output = Up::new(folder.path()).arg(flag).arg(&address).start_failing().unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}: {}", told(&output));
        assert!(told(&output).contains(&address), "{flag}: {}", told(&output));
    }
}

#[test]
fn a_broken_configuration_names_key_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    for (text, named) in [
        ("[engine]\nretension = \"7d\"\n", "retension"),
        ("[engine]\nretention = \"soon\"\n", "retention"),
        ("[engine\n", "broken.toml"),
    ] {
        fs::write(&file, text).unwrap();
        let up = Up::new(&folder.path().join("data")).arg("--config").arg(&file);
        let output = up.start_failing().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}: {}", told(&output));
        assert!(told(&output).contains(named), "{text}: {}", told(&output));
        assert!(told(&output).contains("broken.toml"), "{text}: {}", told(&output));
    }
}

#[test]
fn a_data_folder_has_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Up::new(folder.path()).start().unwrap();
    let output = Up::new(folder.path()).start_failing().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains(&store.pid().to_string()), "{}", told(&output));
    assert_eq!(put(&store, "still-there", b"x"), 201);
    store.drain().unwrap();
}

#[test]
fn a_data_folder_without_permission_is_named() {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: geteuid reads one field of the process and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).unwrap();
    let mut up = Up::new(&data);
    if root {
        // Root may write anywhere; nobody may not.
        up = up.before_start(|command| {
            command.uid(65534).gid(65534);
        });
    }
    let output = match up.start_failing() {
        Ok(output) => output,
        Err(error) if root && format!("{error:#}").contains("ermission denied") => {
            return println!("skipped: another user cannot start the binary where it lies");
        }
        Err(error) => panic!("{error:#}"),
    };
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let text = told(&output);
    assert!(text.contains("ermission denied") && text.contains("data"), "{text}");
}

#[test]
fn a_client_that_stops_in_the_middle_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Up::new(folder.path()).start().unwrap();
    assert_eq!(put(&store, "whole", b"whole"), 201);
    let before = stored_files(folder.path()).len();
    // Past what the store keeps in memory before it makes a file.
    let half = Content { seed: 5, size: 8_000_000 }.bytes();
    let over_http = {
        let mut stream = TcpStream::connect(store.addresses.media).unwrap();
        let host = store.addresses.media;
        let head =
            format!("PUT /files/half HTTP/1.1\r\nHost: {host}\r\nContent-Length: 16000000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&half).unwrap();
        stream
    };
    let binary = {
        let mut stream = TcpStream::connect(store.addresses.engine).unwrap();
        let file =
            reel_tests::uploaders::owner().file(reel_client::FileId::parse("half2").unwrap());
        let head = reel_proto::storage::UploadHead { file, size: 16_000_000 };
        let length = head.body_length().unwrap();
        let header = reel_proto::frame::Header::request(reel_proto::command::UPLOAD, length);
        let mut bytes = header.encode().to_vec();
        head.encode(&mut bytes);
        bytes.extend_from_slice(&half);
        stream.write_all(&bytes).unwrap();
        stream
    };
    until("two uploads under way", || stored_files(folder.path()).len() == before + 2);
    assert_eq!(get(&store, "half").status, 404, "nothing unfinished is served");
    over_http.shutdown(Shutdown::Both).unwrap();
    drop((over_http, binary));
    until("what they sent is removed", || stored_files(folder.path()).len() == before);
    for id in ["half", "half2"] {
        assert_eq!(get(&store, id).status, 404);
        assert_eq!(put(&store, id, b"again"), 201, "the id is free");
    }
    store.drain().unwrap();
}

#[test]
fn a_full_disk_refuses_uploads_and_serves_reads() {
    let disk = match LoopDisk::new(FileSystem::Ext4, 1 << 30) {
        Ok(disk) => disk,
        Err(error) => return println!("skipped: {error:#}"),
    };
    let data = disk.path().join("data");
    fs::create_dir(&data).unwrap();
    let store_path = data.join("store");
    let config = format!("[[store_path]]\npath = {store_path:?}\nreserve = \"64MiB\"\n");
    fs::write(data.join("reel.toml"), config).unwrap();
    let store = Up::new(&data).expect_log("full").start().unwrap();
    let content = Content { seed: 6, size: 1_000_000 }.bytes();
    assert_eq!(put(&store, "before", &content), 201);
    let ballast = disk.fill(4 << 20).unwrap();
    // Free space is looked at now and then, so some uploads may still find room; each has its own id.
    let mut tried = 0;
    until("an upload is refused", || {
        tried += 1;
        match put(&store, &format!("during-{tried}"), &content) {
            507 => true,
            status => {
                assert_eq!(status, 201);
                false
            }
        }
    });
    assert_eq!(get(&store, "before").body, content);
    assert_eq!(get(&store, &format!("during-{tried}")).status, 404);
    for accepted in 1..tried {
        assert_eq!(get(&store, &format!("during-{accepted}")).body, content, "acknowledged");
    }
    fs::remove_file(ballast).unwrap();
    until("uploads are taken again", || put(&store, "after", &content) == 201);
    assert_eq!(get(&store, "after").body, content);
    store.drain().unwrap();
}

#[test]
fn a_file_cut_short_on_disk_is_never_served_as_whole() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::new(folder.path());
    let store = up.start().unwrap();
    let content = Content { seed: 8, size: 300_000 }.bytes();
    assert_eq!(put(&store, "cut", &content), 201);
    store.drain().unwrap();
    let [file] = &stored_files(folder.path())[..] else { panic!("one file") };
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(200_000).unwrap();
    let store = up.expect_log("").start().unwrap();
    let read = get(&store, "cut");
    assert_eq!(read.status, 500, "{}", read.text());
    store.drain().unwrap();
}
