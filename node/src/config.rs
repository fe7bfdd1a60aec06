//! Configuration in layers: defaults < `reel.toml` < `REEL_…` environment < flags.
//!
//! One file serves every role: each role reads its own section and the shared ones. An unknown key
//! is an error that names the key and where it stands, because a key that is silently ignored is
//! an operator's setting that is silently not in force. Each value in force knows its source, for
//! `reel config show`.
//!
//! Environment: `REEL_` + the key in capitals with `__` for the dot: `REEL_ENGINE__RETENTION=7d` is
//! `engine.retention`. A value is read as TOML where it is TOML (numbers, booleans, arrays), else
//! as text.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

mod layers;
mod sections;
mod values;

#[cfg(test)]
mod tests;

pub use sections::{
    LogConfig, LogFormat, NodeConfig, TokenConfig, read_private_file, read_secret_file,
};
pub use values::{ByteSize, HumanTime, Secret, ValueError};

/// Beginnings of the variables with which the test suites steer themselves; what they start
/// inherits them.
const TEST_PREFIXES: [&str; 2] = ["REEL_TEST_", "REEL_TORTURE_"];

/// `REEL_` variables that are not keys of `reel.toml`: the client's settings and secrets.
const RESERVED_VARIABLES: [&str; 11] = [
    "REEL_CONFIG",
    "REEL_DATA",
    "REEL_TRACKER",
    "REEL_TRACKERS",
    "REEL_GATEWAY",
    "REEL_APP",
    "REEL_USER",
    "REEL_TOKEN",
    "REEL_LOG",
    "REEL_LOG_FORMAT",
    "REEL_CLUSTER_SECRET",
];

/// Where a value in force was set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Built in.
    Default,
    /// In this configuration file.
    File(PathBuf),
    /// In this environment variable.
    Environment(String),
    /// On the command line.
    Flag,
}

impl std::fmt::Display for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File(path) => write!(out, "{}", path.display()),
            Self::Environment(name) => write!(out, "{name}"),
            Self::Flag => out.write_str("command line"),
        }
    }
}

/// One setting in force.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Dotted key, as in `engine.retention`.
    pub key: String,
    /// The value; secrets are redacted.
    pub value: serde_json::Value,
    /// Where it was set.
    pub source: Source,
}

/// A configuration and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The merged configuration.
    pub value: T,
    /// Every setting in force, by key.
    pub settings: Vec<Setting>,
}

/// A configuration that cannot be used. The operator's to mend; nothing has been started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}, line {line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser says, without the text of the line (it may hold a secret).
        reason: String,
    },
    /// A key that no section has.
    #[error("unknown key `{key}` ({origin}); known here: {known}")]
    UnknownKey {
        /// Dotted key.
        key: String,
        /// Where it is set.
        origin: Source,
        /// The keys that exist at that place.
        known: String,
    },
    /// A value of the wrong type or out of its range.
    #[error("bad value for `{key}` ({origin}): {reason}")]
    BadValue {
        /// Dotted key.
        key: String,
        /// Where it is set.
        origin: Source,
        /// What is wrong.
        reason: String,
    },
    /// A secret that cannot be used. The text never contains it.
    #[error("{name}: {reason}")]
    BadSecret {
        /// The file or environment variable.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// Loads a configuration from the file (if any), the process's environment and the flags (a JSON
/// object of sections; `null` members are flags that were not given).
///
/// # Errors
/// See [`ConfigError`]; the first problem found.
pub fn load<T>(file: Option<&Path>, flags: &serde_json::Value) -> Result<Loaded<T>, ConfigError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with("REEL_").then(|| (name, value.to_string_lossy().into_owned()))
    });
    load_from(T::default(), file, variables, flags)
}

/// [`load`] with the defaults and the environment as arguments.
///
/// # Errors
/// See [`ConfigError`]; the first problem found.
pub fn load_from<T>(
    defaults: T,
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &serde_json::Value,
) -> Result<Loaded<T>, ConfigError>
where
    T: Serialize + DeserializeOwned,
{
    layers::Layers::new(defaults, file, environment, flags)?.extract()
}
