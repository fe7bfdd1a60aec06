//! The operator's guide names every setting and every metric there is.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::collections::BTreeSet;
use std::process::Command;

use kit::{Up, http};

fn guide() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operators-guide.md"))
        .unwrap()
}

/// The text from a heading to the next one of its level or above.
fn section<'a>(guide: &'a str, heading: &str) -> &'a str {
    let start = guide.find(heading).unwrap_or_else(|| panic!("no heading {heading}"));
    let body = &guide[start + heading.len()..];
    let end = ["\n## ", "\n### "].iter().filter_map(|next| body.find(next)).min();
    &body[..end.unwrap_or(body.len())]
}

#[test]
fn every_setting_is_in_the_guide() {
    let shown = Command::new(env!("CARGO_BIN_EXE_reel"))
        .args(["config", "show", "--json"])
        .env_clear()
        .output()
        .unwrap();
    let settings: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let guide = guide();
    let mut missing = Vec::new();
    for setting in settings.as_array().unwrap() {
        let key = setting["key"].as_str().unwrap();
        // Arrays of tables have headings of their own: [[token]], [[store_path]].
        let Some((heading, name)) = key.rsplit_once('.') else {
            assert!(guide.contains(&format!("### `[[{key}]]`")), "no section [[{key}]]");
            continue;
        };
        let section = section(&guide, &format!("### `[{heading}]`"));
        if !section.contains(&format!("| `{name}` |")) {
            missing.push(key.to_owned());
        }
    }
    assert!(missing.is_empty(), "not in docs/operators-guide.md: {missing:?}");
}

#[test]
fn every_setting_of_a_store_path_is_in_the_guide() {
    // Every field by name, each with a value that is shown: a new one does not compile without a line here.
    let all = reel_engine::StorePath {
        path: "/srv".into(),
        shared: Some(true),
        brick: Some("/bricks/media/store".into()),
        brick_state: Some("/bricks/reel".into()),
        id_key: Some("key".to_owned()),
        aliases: vec!["../data".to_owned()],
        reserve: Some(reel_node::config::ByteSize(1)),
        workers: 1,
        replaced: Some("0f8c4d0e-3a57-4d4e-9a0b-5c2f1f0e8a11".to_owned()),
    };
    let shown = serde_json::to_value(all).unwrap();
    let guide = guide();
    let section = section(&guide, "### `[[store_path]]`");
    for key in shown.as_object().unwrap().keys() {
        assert!(section.contains(&format!("| `{key}` |")), "not in the guide: store_path.{key}");
    }
}

#[test]
fn every_metric_is_in_the_guide() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    // One process, one recorder: any role shows the metrics of all.
    let page = http(up.address("engine", "admin"), "GET /metrics HTTP/1.1", b"").text();
    up.stop();
    let names: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.len() > 10, "{page}");
    let described: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(names, described, "a metric without help");
    let guide = guide();
    let missing: Vec<_> =
        names.iter().filter(|name| !guide.contains(&format!("| `{name}` |"))).collect();
    assert!(missing.is_empty(), "not in docs/operators-guide.md: {missing:?}");
}

#[test]
fn the_configurations_of_a_whole_group_are_taken() {
    use std::os::unix::fs::PermissionsExt as _;

    let guide = guide();
    let section = section(&guide, "## A group of three hosts, whole");
    let files = tempfile::tempdir().unwrap();
    for secret in ["cluster.secret", "mysql.password", "upload.token"] {
        let file = files.path().join(secret);
        std::fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let texts: Vec<&str> = section.split("```toml\n").skip(1).collect();
    assert_eq!(texts.len(), 3, "hosts with files, with a tracker, with a gateway");
    for text in texts {
        let text = text.split("```").next().unwrap();
        let text = text.replace("/etc/reel", files.path().to_str().unwrap());
        let file = files.path().join("reel.toml");
        std::fs::write(&file, &text).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_reel"))
            .args(["config", "check"])
            .arg(&file)
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{text}\n{said}");
    }
}
