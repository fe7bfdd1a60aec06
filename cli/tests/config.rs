//! `reel config` as an operator runs it: exit codes, texts, and that no secret is shown.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn reel(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reel"));
    command.args(arguments).env_clear();
    command.envs(environment.iter().copied());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn file(folder: &Path, content: &str) -> PathBuf {
    let path = folder.join("reel.toml");
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(folder.path(), "[log]\nlevel = \"warn\"\n");
    let done = reel(&["config", "check", good.to_str().unwrap()], &[]);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));

    let cases = [
        ("[log]\nlevle = \"warn\"\n", "log.levle"),
        ("[log]\nlevel = \"loud\"\n", "log.level"),
        ("[log\n", "line 1"),
        ("[node]\ndata_threads = 0\n", "node.data_threads"),
        ("[node]\ndrain_deadline = 30\n", "node.drain_deadline"),
        ("[node]\nallow = [\"everyone\"]\n", "node.allow"),
        ("[[token]]\napp = \"tnvideo\"\n", "token_file"),
        ("[engine]\nhttp_listen = \"0.0.0.0:80\"\n", "engine.http_listen"),
        ("[engine]\nread_piece = \"1KiB\"\n", "engine.read_piece"),
        ("[idgen]\nstep = 0\n", "idgen.step"),
        ("[tracker]\napps = []\n", "tracker.apps"),
        ("[gateway]\ntrackers = []\n", "gateway.trackers"),
        ("[gateway]\ntrackers = [\"tracker\"]\n", "gateway.trackers"),
        ("[engine]\ntrackers = [\"tracker\"]\n", "engine.trackers"),
        ("[engine]\nidgens = [\"10.0.0.1:0\"]\n", "engine.idgens"),
        ("[gateway]\nmode = \"cache\"\n", "gateway.mode"),
        ("[node]\ncapabilities_off = [\"op_rnme\"]\n", "op_rnme"),
        ("[[store_path]]\npath = \"/srv/a\"\nid_key = \"\"\n", "/srv/a"),
        ("[[store_path]]\npath = \"/srv/b\"\nworkers = 0\n", "/srv/b"),
        ("[[store_path]]\npth = \"/srv\"\n", "store_path.0.pth"),
    ];
    for (content, expected) in cases {
        let bad = file(folder.path(), content);
        let failed = reel(&["config", "check", bad.to_str().unwrap()], &[]);
        let error = text(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{content}: {error}");
        assert!(error.starts_with("reel: ") && error.contains(expected), "{content}: {error}");
    }
    let missing = reel(&["config", "check", "/nonexistent/reel.toml"], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nonexistent/reel.toml"));
}

#[test]
fn show_names_the_source_of_each_value_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "[log]\nlevel = \"warn\"\n[[token]]\ntoken = \"aaaabbbbccccdddd\"\napp = \"tnvideo\"\n",
    );
    let path = path.to_str().unwrap();
    let environment =
        [("REEL_NODE__INSECURE", "true"), ("REEL_CLUSTER_SECRET", "eeeeffff00001111")];
    let shown = reel(&["config", "show", "--config", path], &environment);
    let lines = text(&shown.stdout);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let line = |key: &str| {
        lines.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned()
    };
    assert!(line("log.level").contains("\"warn\"") && line("log.level").ends_with(path), "{lines}");
    assert!(line("node.insecure").ends_with("REEL_NODE__INSECURE"), "{lines}");
    assert!(line("log.format").ends_with("# default"), "{lines}");
    let json = reel(&["config", "show", "--json"], &[("REEL_CONFIG", path)]);
    let settings: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(settings.as_array().unwrap().iter().any(|setting| setting["key"] == "log.level"));
    for output in [&shown, &json] {
        for stream in [&output.stdout, &output.stderr] {
            assert!(!text(stream).contains("aaaabbbb") && !text(stream).contains("eeeeffff"));
        }
    }
}

#[test]
fn wrong_usage_is_exit_code_two() {
    let folder = tempfile::tempdir().unwrap();
    let bad = file(folder.path(), "[bogus]\nx = 1\n");
    let failed = reel(&["config", "show", "--config", bad.to_str().unwrap()], &[]);
    assert_eq!(failed.status.code(), Some(2), "{}", text(&failed.stderr));
    assert!(text(&failed.stderr).contains("bogus"));
    for arguments in [&[][..], &["bogus"], &["config"], &["config", "check"]] {
        assert_eq!(reel(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(reel(&["--help"], &[]).status.code(), Some(0));
    assert_eq!(reel(&["--version"], &[]).status.code(), Some(0));
}

#[test]
fn standard_output_that_takes_nothing_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(folder.path(), "");
    let good = good.to_str().unwrap();
    for arguments in [&["config", "show"][..], &["config", "check", good], &["completions", "bash"]]
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let failed = Command::new(env!("CARGO_BIN_EXE_reel"))
            .args(arguments)
            .env_clear()
            .stdout(full)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        let error = text(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.starts_with("reel: No space left"), "{arguments:?}: {error}");
    }
}

#[test]
fn what_no_store_takes_is_wrong_usage() {
    let long = "x".repeat(256);
    for arguments in [
        &["put", "--type", "nonsense", "f"][..],
        &["put", "--type", "video/mp4;,text/html", "f"],
        &["put", "--name", &long, "f"],
        &["put", "--name", "a\nb", "f"],
        &["stat", "f", "--tracker", "nonsense"],
    ] {
        assert_eq!(reel(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}
