//! The client commands as a user types them, against a real store.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    os::unix::fs::FileTypeExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use reel_client::{AppId, FileId, Owner, Selection, UploadDetails, UploadSource, UserId};
use reel_tests::{
    http,
    process::{self, Store, Up},
    seed::Content,
};
use serde_json::{Value, json};

struct Fixture {
    store: Store,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Up::new(&folder.path().join("data")).start().unwrap();
        Self { store, folder }
    }

    /// Writes a file of known content and gives its path.
    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.store.client_command(arguments).unwrap().output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.store.reel(arguments).unwrap()).unwrap()
    }

    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.store.reel(arguments).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pipe_into(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_file_goes_in_and_comes_out() {
    let fixture = Fixture::new();
    let content = Content { seed: 1, size: 3_000_000 }.bytes();
    let path = fixture.file("film.mp4", &content);
    let printed = fixture.store.reel(&["put", &path]).unwrap();
    let (id, url) = printed.trim().split_once(' ').unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(url, format!("http://{}/files/{id}", fixture.store.addresses.gateway));
    let over_http =
        http::request(fixture.store.addresses.gateway, "GET", &format!("/files/{id}"), &[], None);
    assert_eq!(over_http.unwrap().body, content);

    let out = fixture.path("copy.mp4");
    let got = fixture.json(&["get", id, "-o", &out, "--json"]);
    assert_eq!(fs::read(&out).unwrap(), content);
    assert_eq!((got["checked"].as_bool(), got["resumed"].as_bool()), (Some(true), Some(false)));

    let stat = fixture.json(&["stat", id, "--json"]);
    assert_eq!(stat["name"], "film.mp4");
    assert_eq!(stat["size"], content.len());
    assert_eq!(stat["status"], "normal");
    assert_eq!(stat["url"], url);
    let checksum = reel_proto::checksum::Crc64::of(&content);
    assert_eq!(stat["checksum"], format!("{checksum:016x}"));
    assert!(fixture.store.reel(&["stat", id]).unwrap().contains("film.mp4"));
    fixture.store.drain().unwrap();
}

#[test]
fn ranges_standard_output_and_the_default_name() {
    let fixture = Fixture::new();
    let content = Content { seed: 2, size: 600_000 }.bytes();
    let path = fixture.file("a", &content);
    fixture.store.reel(&["put", &path, "--id", "ranged"]).unwrap();
    let range = ["get", "ranged", "-o", "-", "--offset", "1000", "--size", "2000"];
    assert_eq!(fixture.output(&range).stdout, content[1000..3000]);
    let tail = fixture.output(&["get", "ranged", "-o", "-", "--offset", "599999"]);
    assert_eq!(tail.stdout, content[599_999..]);
    let past = fixture.output(&["get", "ranged", "-o", "-", "--offset", "600001"]);
    assert_eq!(past.status.code(), Some(1));

    let mut command = fixture.store.client_command(&["get", "ranged"]).unwrap();
    assert!(command.current_dir(fixture.folder.path()).status().unwrap().success());
    assert_eq!(fs::read(fixture.path("ranged")).unwrap(), content);
    fixture.store.drain().unwrap();
}

#[test]
fn a_pipe_a_device_and_a_link_are_written_and_not_replaced() {
    let fixture = Fixture::new();
    let content = Content { seed: 12, size: 600_000 }.bytes();
    let path = fixture.file("a", &content);
    fixture.store.reel(&["put", &path, "--id", "special"]).unwrap();

    let pipe = fixture.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    let got = fixture.json(&["get", "special", "-o", &pipe, "--json"]);
    assert_eq!(reader.join().unwrap(), content);
    assert_eq!(got["checked"], true);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

    let link = fixture.path("link");
    let target = fixture.file("target", b"old");
    std::os::unix::fs::symlink("target", &link).unwrap();
    fixture.store.reel(&["get", "special", "-o", &link]).unwrap();
    assert_eq!(fs::read(&target).unwrap(), content);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

    // A null device of the test's own: where this fails, the machine's would be a file now.
    let null = fixture.path("null");
    let made = Command::new("mknod").args([&null, "c", "1", "3"]).output().unwrap();
    if made.status.success() && fs::File::open(&null).is_ok() {
        fixture.store.reel(&["get", "special", "-o", &null]).unwrap();
        assert!(fs::metadata(&null).unwrap().file_type().is_char_device());
    } else {
        eprintln!("skipped: a device is made by root only: {}", text(&made.stderr));
    }
    fixture.store.drain().unwrap();
}

#[test]
fn standard_input_of_unknown_size() {
    let fixture = Fixture::new();
    for size in [0, 1, 1_000_000] {
        let content = Content { seed: size, size }.bytes();
        let id = format!("piped-{size}");
        let mut command =
            fixture.store.client_command(&["put", "-", "--id", &id, "--json"]).unwrap();
        let output = pipe_into(&mut command, &content);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let put: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((put["size"].as_u64(), put["outcome"].as_str()), (Some(size), Some("new")));
        assert_eq!(fixture.output(&["get", &id, "-o", "-"]).stdout, content);
    }
    fixture.store.drain().unwrap();
}

#[test]
fn a_broken_download_goes_on_and_wrong_bytes_start_again() {
    let fixture = Fixture::new();
    let content = Content { seed: 3, size: 2_000_000 }.bytes();
    let path = fixture.file("film", &content);
    let put = fixture.json(&["put", &path, "--id", "broken", "--json"]);
    // What a download that was cut off leaves: see cli/src/commands/partial.rs.
    let path_id = put["path_id"].as_u64().unwrap();
    let size = content.len();
    let partial = fixture.path(&format!(".out.{path_id:x}-{size:x}-0-{size:x}.part"));
    let out = fixture.path("out");

    fs::write(&partial, &content[..1_234_567]).unwrap();
    let got = fixture.json(&["get", "broken", "-o", &out, "--json"]);
    assert_eq!(got["resumed"], true);
    assert_eq!(fs::read(&out).unwrap(), content);
    assert!(!Path::new(&partial).exists());

    // A crash of this machine can leave zeros where bytes were.
    fs::remove_file(&out).unwrap();
    let mut torn = content[..1_500_000].to_vec();
    torn[1_400_000..].fill(0);
    fs::write(&partial, &torn).unwrap();
    let got = fixture.json(&["get", "broken", "-o", &out, "--json"]);
    assert_eq!(got["resumed"], false, "{got}");
    assert_eq!(fs::read(&out).unwrap(), content);

    // All there, only the last rename was missing.
    fs::remove_file(&out).unwrap();
    fs::write(&partial, &content).unwrap();
    fixture.store.reel(&["get", "broken", "-o", &out]).unwrap();
    assert_eq!(fs::read(&out).unwrap(), content);
    fixture.store.drain().unwrap();
}

#[test]
fn deletion_is_soft_until_the_purge() {
    let fixture = Fixture::new();
    let path = fixture.file("a.txt", b"hello");
    for id in ["one", "two", "three"] {
        fixture.store.reel(&["put", &path, "--id", id]).unwrap();
    }
    assert_eq!(fixture.store.reel(&["rm", "one", "two"]).unwrap(), "one deleted\ntwo deleted\n");
    assert_eq!(fixture.output(&["get", "one", "-o", "-"]).status.code(), Some(1));
    let ids = |status: &str| -> Vec<String> {
        ids_of(&fixture.lines(&["ls", "--status", status, "--json"]))
    };
    assert_eq!(ids("normal"), ["three"]);
    assert_eq!(ids("deleted"), ["one", "two"]);
    assert_eq!(ids("all"), ["one", "three", "two"]);
    assert_eq!(fixture.json(&["stat", "one", "--json"])["status"], "deleted");

    fixture.store.reel(&["restore", "one"]).unwrap();
    assert_eq!(fixture.output(&["get", "one", "-o", "-"]).stdout, b"hello");
    fixture.store.reel(&["purge", "two"]).unwrap();
    assert_eq!(fixture.output(&["restore", "two"]).status.code(), Some(1));
    assert_eq!(ids("all"), ["one", "three"]);
    // Only deleted files can be purged.
    assert_eq!(fixture.output(&["purge", "three"]).status.code(), Some(1));
    fixture.store.reel(&["rm", "one"]).unwrap();
    assert_eq!(fixture.json(&["purge", "--all-deleted", "--json"])["purged"], 1);
    assert_eq!(ids("all"), ["three"]);
    let table = fixture.store.reel(&["ls"]).unwrap();
    assert!(table.contains("ID") && table.contains("three") && table.contains("a.txt"), "{table}");
    fixture.store.drain().unwrap();
}

/// What a careless system would take for SQL, a pattern, a path, a format, an end of text or of a line, or for another one of these.
const TEXTS: [&str; 24] = [
    "plain",
    "Plain",
    "plain ",
    " plain",
    "it's",
    "\"double\"",
    "`back`",
    "100%",
    "%s%n%d{}",
    "a_b",
    "axb",
    "back\\slash",
    "back\\",
    "';DROP TABLE t_file_01;--",
    "?1 :name $x @y",
    "..",
    "-rf",
    "a?b#c&d=e+f",
    "%2e%2e%2f%00",
    "\u{1F600}",
    "\u{1F601}",
    "e\u{301}",
    "\u{e9}",
    "\u{7528}\u{6237}\u{10FFFF}",
];

/// An id, a user and a name may be any text: each file is its own user's, under its own id, with its own name, all the way through.
#[test]
fn any_text_is_data_all_the_way_through() {
    let fixture = Fixture::new();
    let client = fixture.store.client().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // A user may even be nobody, or have lines.
    let users: Vec<&str> = TEXTS.into_iter().chain(["", "two\nlines", "tab\t"]).collect();
    let owner = |user: &str| Owner {
        app: AppId::parse("tnvideo").unwrap(),
        user: UserId::parse(user).unwrap(),
    };
    runtime.block_on(async {
        for (number, user) in users.iter().enumerate() {
            let text = TEXTS[number % TEXTS.len()];
            let file = owner(user).file(FileId::parse(text).unwrap());
            let details = UploadDetails { name: Some(text.to_owned()), ..UploadDetails::default() };
            let source = UploadSource::bytes(format!("{number}"));
            client.upload(&file, &source, &details, &mut |_| {}).await.unwrap();
        }
        for (number, user) in users.iter().enumerate() {
            let text = TEXTS[number % TEXTS.len()];
            let file = owner(user).file(FileId::parse(text).unwrap());
            let stat = client.stat(&file).await.unwrap();
            assert_eq!(
                (stat.name.as_deref(), stat.size),
                (Some(text), number.to_string().len() as u64)
            );
            let of = Selection::of_user(file.app, file.user);
            let listed = client.list(&of, None, 1000).await.unwrap().files;
            let ids: Vec<&str> = listed.iter().map(|file| file.file.as_str()).collect();
            assert_eq!(ids, [text], "of {user:?}");
            assert_eq!(client.usage(&of).await.unwrap().0.files, 1);
            client.delete(&file).await.unwrap();
            assert!(client.stat(&file).await.unwrap().deleted_at.is_some());
            client.restore(&file).await.unwrap();
        }
    });
    for (number, user) in users.iter().enumerate() {
        let file = owner(user).file(FileId::parse(TEXTS[number % TEXTS.len()]).unwrap());
        let url = runtime.block_on(client.locate(Owner::of(&file))).unwrap().url(&file).unwrap();
        let (host, target) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let got = http::request(host.parse().unwrap(), "GET", &format!("/{target}"), &[], None);
        assert_eq!(got.unwrap().body, number.to_string().as_bytes(), "{url}");
    }
    let listed = fixture.lines(&["ls", "--all-users", "--json"]);
    let mut found: Vec<(String, String)> = listed
        .iter()
        .map(|file| [&file["user"], &file["id"]].map(|text| text.as_str().unwrap().to_owned()))
        .map(|[user, id]| (user, id))
        .collect();
    let mut expected: Vec<(String, String)> = users
        .iter()
        .enumerate()
        .map(|(number, user)| ((*user).to_owned(), TEXTS[number % TEXTS.len()].to_owned()))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    // One line for each file, and one for what the columns are.
    let table = fixture.store.reel(&["ls", "--all-users"]).unwrap();
    assert_eq!(table.lines().count(), users.len() + 1, "{table}");
    fixture.store.drain().unwrap();
}

/// The ids of what was listed, in their own order: by time, files of one second come by their ids.
fn ids_of(listed: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> =
        listed.iter().map(|file| file["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn an_app_is_listed_and_counted_by_user_and_time() {
    let fixture = Fixture::new();
    let path = fixture.file("a.txt", b"hello");
    for (user, id) in [("tnv001", "one"), ("tnv001", "two"), ("alice", "three")] {
        fixture.store.reel(&["put", &path, "--id", id, "--user", user]).unwrap();
    }
    fixture.store.reel(&["rm", "two"]).unwrap();
    let ls = |more: &[&str]| ids_of(&fixture.lines(&[&["ls", "--json"], more].concat()));
    assert_eq!(ls(&[]), ["one"]);
    assert_eq!(ls(&["--all-users"]), ["one", "three"]);
    assert_eq!(ls(&["--all-users", "--status", "all"]), ["one", "three", "two"]);
    assert_eq!(ls(&["--all-users", "--status", "deleted"]), ["two"]);
    assert_eq!(ls(&["--since", "1h"]), ["one"]);
    assert_eq!(ls(&["--since", "2024-03-11", "--until", "1h"]), [""; 0]);
    let of_alice = fixture.lines(&["ls", "--json", "--user", "alice", "--since", "1h"]);
    assert_eq!((of_alice.len(), &of_alice[0]["user"]), (1, &json!("alice")));
    let at = of_alice[0]["created_at"].as_u64().unwrap();
    assert_eq!(ls(&["--user", "alice", "--since", &at.to_string()]), ["three"]);
    assert_eq!(ls(&["--user", "alice", "--since", &(at + 1).to_string()]), [""; 0]);
    assert_eq!(ls(&["--user", "alice", "--until", &at.to_string()]), [""; 0]);
    let table = fixture.store.reel(&["ls", "--all-users"]).unwrap();
    assert!(table.contains("USER") && table.contains("alice"), "{table}");

    let usage = |more: &[&str]| {
        let told = fixture.json(&[&["usage", "--json"], more].concat());
        ["normal", "deleted"].map(|status| {
            (told[status]["files"].as_u64().unwrap(), told[status]["bytes"].as_u64().unwrap())
        })
    };
    assert_eq!(usage(&[]), [(1, 5), (1, 5)]);
    assert_eq!(usage(&["--user", "alice"]), [(1, 5), (0, 0)]);
    assert_eq!(usage(&["--user", "nobody"]), [(0, 0), (0, 0)]);
    assert_eq!(usage(&["--all-users"]), [(2, 10), (1, 5)]);
    assert_eq!(usage(&["--all-users", "--since", "1h"]), [(2, 10), (1, 5)]);
    assert_eq!(usage(&["--all-users", "--until", "1h"]), [(0, 0), (0, 0)]);
    let table = fixture.store.reel(&["usage", "--all-users"]).unwrap();
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["STATUS", "FILES", "BYTES"], ["normal", "2", "10"], ["deleted", "1", "5"]]);
    assert_eq!(fixture.output(&["usage", "--app", "nosuchapp"]).status.code(), Some(1));
    fixture.store.drain().unwrap();
}

#[test]
fn users_see_only_their_own_files() {
    let fixture = Fixture::new();
    let path = fixture.file("a", b"mine");
    fixture.store.reel(&["put", &path, "--id", "mine", "--user", "用户"]).unwrap();
    for arguments in
        [&["get", "mine", "-o", "-"][..], &["stat", "mine"], &["rm", "mine"], &["restore", "mine"]]
    {
        assert_eq!(fixture.output(arguments).status.code(), Some(1), "{arguments:?}");
    }
    assert!(fixture.lines(&["ls", "--json"]).is_empty());
    let own = fixture.output(&["get", "mine", "-o", "-", "--user", "用户"]);
    assert_eq!(own.stdout, b"mine");
    let stat = fixture.json(&["stat", "mine", "--user", "用户", "--json"]);
    let url = stat["url"].as_str().unwrap();
    let target = url.split_once("/files/").unwrap().1;
    let gateway = fixture.store.addresses.gateway;
    let read = http::request(gateway, "GET", &format!("/files/{target}"), &[], None).unwrap();
    assert_eq!(read.body, b"mine", "{url}");
    fixture.store.drain().unwrap();
}

#[test]
fn the_same_again_and_a_conflict() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.file("one", b"one"), fixture.file("two", b"two"));
    assert_eq!(fixture.json(&["put", &one, "--id", "x", "--json"])["outcome"], "new");
    assert_eq!(fixture.json(&["put", &one, "--id", "x", "--json"])["outcome"], "same");
    let conflict = fixture.output(&["put", &two, "--id", "x"]);
    assert_eq!(conflict.status.code(), Some(1));
    assert_eq!(fixture.output(&["get", "x", "-o", "-"]).stdout, b"one");
    fixture.store.drain().unwrap();
}

#[test]
fn several_files_one_of_which_is_not_there() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.file("one", b"one"), fixture.file("two", b"two"));
    let output = fixture.output(&["put", &one, &fixture.path("absent"), &two, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let objects: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<&str> =
        objects.iter().filter_map(|object| object["outcome"].as_str()).collect();
    assert_eq!(outcomes, ["new", "failed", "new"]);
    assert!(objects[1]["path"].as_str().unwrap().ends_with("absent"), "{}", objects[1]);
    assert!(objects[1]["error"].as_str().unwrap().contains("No such file"), "{}", objects[1]);
    let output = fixture.output(&["put", &fixture.path("absent"), &one]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("absent"), "{}", text(&output.stderr));
    fixture.store.drain().unwrap();
}

#[test]
fn groups_in_three_forms() {
    let fixture = Fixture::new();
    let plain = fixture.store.reel(&["groups", "--plain"]).unwrap();
    assert!(plain.starts_with("COUNT OF GROUPS: 1\nGROUPNAME: group001\n"), "{plain}");
    assert!(plain.ends_with("STATUS: ACTIVE\n"), "{plain}");
    let json = fixture.json(&["groups", "--json"]);
    let engine = fixture.store.addresses.engine.to_string();
    assert_eq!(json["nodes"][0]["address"], engine);
    assert_eq!(json["nodes"][0]["status"], "ACTIVE");
    let table = fixture.store.reel(&["groups"]).unwrap();
    assert!(table.contains("ADDRESS") && table.contains(&engine), "{table}");
    fixture.store.drain().unwrap();
}

#[test]
fn wrong_usage_is_two_and_a_store_that_is_away_is_one() {
    let run = |arguments: &[&str]| {
        let mut command = process::command().unwrap();
        command.args(arguments).env("REEL_TRACKERS", "127.0.0.1:1");
        command.output().unwrap()
    };
    for wrong in [
        &["put"][..],
        &["get"],
        &["get", "a/b"],
        &["get", "x", "--size", "0"],
        &["put", "a", "b", "--id", "x"],
        &["purge"],
        &["purge", "x", "--all-deleted"],
        &["groups", "--json", "--plain"],
        &["ls", "--app", "not legal"],
        &["ls", "--all-users", "--user", "alice"],
        &["usage", "--since", "yesterday"],
        &["completions", "nosuchshell"],
        &["verify", "--data", "/nonexistent"],
    ] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
    let shells = run(&["completions", "bash"]);
    assert!(text(&shells.stdout).contains("rebuild-index"));
}

#[test]
fn a_store_that_is_away_is_said_in_time() {
    let mut command = process::command().unwrap();
    command.args(["stat", "x", "--tracker", "127.0.0.1:1,127.0.0.1:2"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("127.0.0.1:1") && told.contains("127.0.0.1:2"), "{told}");
}

#[test]
fn the_disks_of_a_node_are_listed_and_what_is_needless_is_refused() {
    let fixture = Fixture::new();
    let admin = fixture.store.addresses.engine_admin.to_string();
    let listed = fixture.store.reel(&["disk", "list", "--admin", &admin]).unwrap();
    assert!(listed.starts_with("0  ") && listed.contains("  ok  "), "{listed}");
    let store = fixture.json(&["disk", "list", "--json", "--admin", &admin]);
    assert_eq!((&store["health"], &store["fault"]), (&json!("ok"), &Value::Null));
    for (act, number, why) in [
        ("readmit", "0", "not read-only"),
        ("scrub", "0", "no brick"),
        ("readmit", "1", "store path 1"),
    ] {
        let output = fixture.output(&["disk", act, number, "--admin", &admin]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(why), "{act}: {said}");
    }
}

#[test]
fn a_file_system_is_probed_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let probe = |more: &[&str]| {
        let mut arguments = vec!["probe", folder.path().to_str().unwrap()];
        arguments.extend(more);
        process::command().unwrap().args(&arguments).output().unwrap()
    };
    let tried = probe(&[]);
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stdout));
    let both = probe(&["--json", "--other-mount", folder.path().to_str().unwrap()]);
    let lines = String::from_utf8(both.stdout).unwrap();
    let all: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(both.status.success() && all.iter().all(|one| one["ok"] == true), "{lines}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // A folder of another mount is no second way to this one.
    let other = tempfile::tempdir().unwrap();
    let apart = probe(&["--other-mount", other.path().to_str().unwrap()]);
    assert_eq!(apart.status.code(), Some(1));
    fs::create_dir(folder.path().join(".glusterfs")).unwrap();
    let brick = probe(&[]);
    assert!(String::from_utf8_lossy(&brick.stdout).contains("NO: it lies in the brick"));
    assert_eq!(brick.status.code(), Some(1));
}
