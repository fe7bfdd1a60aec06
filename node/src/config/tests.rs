//! Layers, provenance, and what an operator reads when something is wrong.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    ByteSize, ConfigError, HumanTime, Loaded, LogConfig, NodeConfig, Secret, Source, TokenConfig,
    load_from,
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    log: LogConfig,
    node: NodeConfig,
    engine: Engine,
    token: Vec<TokenConfig>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Engine {
    listen: std::net::SocketAddr,
    retention: HumanTime,
    cache: ByteSize,
    hostname: Option<String>,
    inner: Inner,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Inner {
    depth: u32,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:23000".parse().unwrap(),
            retention: HumanTime(Duration::from_secs(7 * 86_400)),
            cache: ByteSize(64 << 20),
            hostname: None,
            inner: Inner::default(),
        }
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(
    path: Option<&Path>,
    environment: &[(&str, &str)],
    flags: serde_json::Value,
) -> Result<Loaded<Sample>, ConfigError> {
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    load_from(Sample::default(), path, environment, &flags)
}

fn setting(loaded: &Loaded<Sample>, key: &str) -> (serde_json::Value, Source) {
    let setting = loaded.settings.iter().find(|setting| setting.key == key).unwrap();
    (setting.value.clone(), setting.source.clone())
}

#[test]
fn each_layer_goes_over_the_one_below_and_is_named() {
    let file = file(
        "[engine]\nlisten = \"127.0.0.1:1\"\nretention = \"1d\"\ncache = \"1MiB\"\n\
         [log]\nformat = \"json\"\n",
    );
    let environment = [("REEL_ENGINE__RETENTION", "2d"), ("REEL_ENGINE__CACHE", "2MiB")];
    let flags = json!({"engine": {"cache": "3MiB", "hostname": null}, "node": null});
    let loaded = load(Some(file.path()), &environment, flags).unwrap();
    let engine = &loaded.value.engine;
    assert_eq!(engine.listen.port(), 1);
    assert_eq!(engine.retention.0, Duration::from_secs(2 * 86_400));
    assert_eq!(engine.cache.0, 3 << 20);
    let from_file = Source::File(file.path().to_owned());
    assert_eq!(setting(&loaded, "engine.listen"), (json!("127.0.0.1:1"), from_file.clone()));
    assert_eq!(setting(&loaded, "log.format"), (json!("json"), from_file));
    let variable = Source::Environment("REEL_ENGINE__RETENTION".to_owned());
    assert_eq!(setting(&loaded, "engine.retention"), (json!("2d"), variable));
    assert_eq!(setting(&loaded, "engine.cache"), (json!("3MiB"), Source::Flag));
    assert_eq!(setting(&loaded, "log.level"), (json!("info"), Source::Default));
    assert_eq!(setting(&loaded, "node.allow"), (json!(null), Source::Default));
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let cases = [
        ("[engine]\nlisten_adress = \"x\"\n", "engine.listen_adress"),
        ("[engin]\nlisten = \"x\"\n", "engin"),
        ("bogus = 1\n", "bogus"),
        ("[engine.inner]\nwidth = 1\n", "engine.inner.width"),
        ("[[token]]\napp = \"a\"\nusr = \"b\"\n", "token.0.usr"),
    ];
    for (text, expected) in cases {
        let file = file(text);
        let error = load(Some(file.path()), &[], json!({})).unwrap_err();
        let ConfigError::UnknownKey { key, origin, known } = &error else {
            panic!("{error}");
        };
        assert_eq!(key, expected);
        assert_eq!(origin, &Source::File(file.path().to_owned()), "{expected}");
        assert!(!known.is_empty());
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(&file.path().display().to_string()), "{text}");
    }
}

#[test]
fn an_unknown_variable_is_named() {
    let error = load(None, &[("REEL_ENGINE__LISTN", "x")], json!({})).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("engine.listn") && text.contains("REEL_ENGINE__LISTN"), "{text}");
    let error = load(None, &[("REEL_BOGUS", "x")], json!({})).unwrap_err();
    assert!(error.to_string().contains("REEL_BOGUS"), "{error}");
}

#[test]
fn the_clients_variables_are_no_keys() {
    let environment = [
        ("REEL_TRACKERS", "127.0.0.1:1"),
        ("REEL_CLUSTER_SECRET", "0123456789abcdef"),
        ("REEL_TEST_SEED", "1"),
        ("PATH", "/bin"),
    ];
    load(None, &environment, json!({})).unwrap();
}

#[test]
fn a_bad_value_is_named_with_its_place_and_what_is_wrong() {
    let cases = [
        ("[engine]\nretention = 7\n", "engine.retention", "with its unit"),
        ("[engine]\nretention = \"7 weeks\"\n", "engine.retention", "`7 weeks` is not a time"),
        ("[engine]\ncache = \"-1\"\n", "engine.cache", "is not a size"),
        ("[engine]\nlisten = \"localhost\"\n", "engine.listen", "socket address"),
        ("[engine.inner]\ndepth = \"x\"\n", "engine.inner.depth", "found string"),
        ("[node]\nallow = [\"10.0.0.0/40\"]\n", "node.allow", ""),
        ("[log]\nformat = \"xml\"\n", "log.format", "xml"),
        ("engine = 3\n", "engine", ""),
    ];
    for (text, expected, reason) in cases {
        let file = file(text);
        let error = load(Some(file.path()), &[], json!({})).unwrap_err();
        let ConfigError::BadValue { key, origin, .. } = &error else { panic!("{error}") };
        assert!(key.starts_with(expected), "{key}: {error}");
        assert_eq!(origin, &Source::File(file.path().to_owned()), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let error = load(None, &[("REEL_ENGINE__CACHE", "lots")], json!({})).unwrap_err();
    assert!(error.to_string().contains("REEL_ENGINE__CACHE"), "{error}");
    let error = load(None, &[], json!({"engine": {"cache": "lots"}})).unwrap_err();
    assert!(error.to_string().contains("command line"), "{error}");
}

#[test]
fn a_syntax_error_gives_the_line_and_not_its_text() {
    let file = file("[log]\nlevel = \"info\"\n[[token]]\ntoken = \"abcdefghijklmnop\n");
    let error = load(Some(file.path()), &[], json!({})).unwrap_err();
    let ConfigError::Syntax { line, .. } = &error else { panic!("{error}") };
    assert_eq!(*line, 4);
    assert!(!error.to_string().contains("abcdefgh"), "{error}");
}

#[test]
fn a_missing_file_is_an_error() {
    let error = load(Some(Path::new("/nonexistent/reel.toml")), &[], json!({})).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert!(error.to_string().contains("/nonexistent/reel.toml"), "{error}");
}

#[test]
fn variables_take_arrays_numbers_and_plain_text() {
    let environment = [
        ("REEL_NODE__ALLOW", "[\"10.0.0.0/8\", \"fd00::/8\"]"),
        ("REEL_NODE__DATA_THREADS", "3"),
        ("REEL_NODE__INSECURE", "true"),
        ("REEL_ENGINE__LISTEN", "127.0.0.1:0"),
        ("REEL_ENGINE__HOSTNAME", "store-a"),
        ("REEL_ENGINE__INNER__DEPTH", "4"),
    ];
    let loaded = load(None, &environment, json!({})).unwrap();
    let Sample { node, engine, .. } = loaded.value;
    assert_eq!(node.allow.unwrap().len(), 2);
    assert_eq!(node.data_threads, Some(3));
    assert!(node.insecure);
    assert_eq!(engine.listen.port(), 0);
    assert_eq!(engine.hostname.as_deref(), Some("store-a"));
    assert_eq!(engine.inner.depth, 4);
}

#[test]
fn secrets_are_never_shown() {
    let file = file("[[token]]\ntoken = \"abcdefghijklmnop\"\napp = \"tnvideo\"\n");
    let loaded = load(Some(file.path()), &[], json!({})).unwrap();
    assert_eq!(loaded.value.token[0].secret().unwrap().expose(), b"abcdefghijklmnop");
    let (shown, _) = setting(&loaded, "token");
    assert_eq!(shown, json!([{"token": "<secret>", "app": "tnvideo"}]));
    assert!(!format!("{loaded:?}").contains("abcdefgh"));
    for wrong in ["12345678901234567", "1.25", "true", "[\"abcdefgh\"]", "{ a = \"abcdefgh\" }"] {
        let file = self::file(&format!("[[token]]\ntoken = {wrong}\napp = \"tnvideo\"\n"));
        let error = load(Some(file.path()), &[], json!({})).unwrap_err().to_string();
        assert!(!error.contains("123456") && !error.contains("abcdefgh"), "{error}");
    }
}

#[test]
fn a_token_in_the_wrong_place_is_not_shown() {
    for text in [
        "token = \"abcdefghijklmnop\"",
        "token = [\"abcdefghijklmnop\"]",
        "[token]\ntoken = \"abcdefghijklmnop\"",
        "[[token]]\ntoken = [\"abcdefghijklmnop\"]\napp = \"tnvideo\"",
    ] {
        let file = file(text);
        let error = load(Some(file.path()), &[], json!({})).unwrap_err().to_string();
        assert!(error.contains("`token") && error.contains("expected"), "{error}");
        assert!(!error.contains("abcdef"), "{error}");
    }
}

#[test]
fn a_word_that_is_none_of_those_known_is_told_with_them() {
    let file = file("[log]\nformat = \"xml\"\n");
    let error = load(Some(file.path()), &[], json!({})).unwrap_err().to_string();
    assert!(error.ends_with("`xml` is none of: text, json"), "{error}");
}

#[test]
fn secret_files_are_private_and_long_enough() {
    let secret_in = |text: &str, mode: u32| {
        let file = file(text);
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let node = NodeConfig {
            cluster_secret_file: Some(file.path().to_owned()),
            ..NodeConfig::default()
        };
        node.cluster_secret()
    };
    let secret = secret_in("0123456789abcdef\n", 0o600).unwrap().unwrap();
    assert_eq!(secret, Secret::from("0123456789abcdef"));
    let open = secret_in("0123456789abcdef\n", 0o644).unwrap_err().to_string();
    assert!(open.contains("chmod 600"), "{open}");
    let short = secret_in("0123456789abcde\n", 0o600).unwrap_err().to_string();
    assert!(short.contains("at least 16") && !short.contains("01234"), "{short}");
    assert!(secret_in(&"x".repeat(5000), 0o600).is_err());
    assert!(NodeConfig::default().cluster_secret().unwrap().is_none());
}

#[test]
fn a_token_has_one_source() {
    let none = TokenConfig {
        token: None,
        token_file: None,
        token_env: None,
        app: "tnvideo".to_owned(),
        user: None,
    };
    assert!(none.secret().is_err());
    let both = TokenConfig {
        token: Some(Secret::from("0123456789abcdef")),
        token_env: Some("X".to_owned()),
        ..none.clone()
    };
    assert!(both.secret().is_err());
    let unset = TokenConfig { token_env: Some("REEL_TEST_NOT_SET".to_owned()), ..none };
    assert!(unset.secret().unwrap_err().to_string().contains("REEL_TEST_NOT_SET"));
}

#[test]
fn times_and_sizes_read_and_print() {
    let times = [("500ms", 500), ("10s", 10_000), ("1h30m", 5_400_000), ("7d", 604_800_000)];
    for (text, millis) in times {
        let time: HumanTime = text.parse().unwrap();
        assert_eq!(time.0, Duration::from_millis(millis), "{text}");
        assert_eq!(time.to_string(), text);
    }
    assert_eq!("0s".parse::<HumanTime>().unwrap().0, Duration::ZERO);
    assert_eq!(" 1 d 2 h ".parse::<HumanTime>().unwrap().to_string(), "1d2h");
    for text in
        ["", "10", "s", "10 seconds", "-1s", "1.5s", "99999999999999999999s", "300000000000d"]
    {
        assert!(text.parse::<HumanTime>().is_err(), "{text}");
    }
    let sizes = [
        ("4096", 4096, "4KiB"),
        ("64MiB", 64 << 20, "64MiB"),
        ("1GB", 1_000_000_000, ""),
        ("0", 0, "0B"),
        ("1000B", 1000, "1000B"),
        ("2tib", 2 << 40, "2TiB"),
    ];
    for (text, bytes, shown) in sizes {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!(size.0, bytes, "{text}");
        assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        assert!(shown.is_empty() || size.to_string() == shown, "{size}");
    }
    for text in ["", "MiB", "1 parsec", "-1", "1.5MiB", "99999999999TiB"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}
