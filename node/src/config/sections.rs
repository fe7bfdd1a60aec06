//! The sections that every role shares: `[log]`, `[node]`, `[[token]]`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use reel_proto::name::{AppId, UserId};
use serde::{Deserialize, Serialize};

use super::{ConfigError, HumanTime, Secret};

/// Shortest secret that is taken, bytes: below, a guess is cheaper than a break-in.
const SECRET_BYTES_MIN: usize = 16;
/// Longest, bytes: a file beyond is not a secret but a mistake.
const SECRET_BYTES_MAX: usize = 4096;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or tracing's filter syntax, as in
    /// `info,reel_engine=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// `[node]`: what every role of this machine shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Data threads of a role; unset: one per core for an engine or a gateway started on its own,
    /// one for the other roles.
    pub data_threads: Option<usize>,
    /// Networks that may connect, besides loopback. Unset: loopback only, and no listener on
    /// another address.
    pub allow: Option<Vec<IpNet>>,
    /// Lifts the address lists, the rule for HTTP writes and the signatures. For tests only.
    pub insecure: bool,
    /// Open connections per data thread; one more is closed at accept.
    pub max_connections_per_thread: usize,
    /// How long a drain waits for what is in flight.
    pub drain_deadline: HumanTime,
    /// Kernel features not to use even where they are there (names as in `/status`).
    pub capabilities_off: Vec<String>,
    /// File (mode 0600) with the secret that signs commands between nodes. The environment
    /// variable `REEL_CLUSTER_SECRET` goes before it.
    pub cluster_secret_file: Option<PathBuf>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data_threads: None,
            allow: None,
            insecure: false,
            max_connections_per_thread: 20_000,
            drain_deadline: HumanTime(std::time::Duration::from_secs(30)),
            capabilities_off: Vec::new(),
            cluster_secret_file: None,
        }
    }
}

impl NodeConfig {
    /// The cluster secret: from `REEL_CLUSTER_SECRET`, else from the file, else none.
    ///
    /// # Errors
    /// A file that cannot be read or that others may read, or a secret of fewer than 16 bytes.
    pub fn cluster_secret(&self) -> Result<Option<Secret>, ConfigError> {
        if let Some(secret) = read_variable("REEL_CLUSTER_SECRET")? {
            return Ok(Some(secret));
        }
        self.cluster_secret_file.as_deref().map(read_secret_file).transpose()
    }
}

/// `[[token]]`: who may write over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The token itself. Better: `token_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// File (mode 0600) that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Environment variable that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// The app that it may write to.
    pub app: String,
    /// The user that it may write to; unset: every user of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl TokenConfig {
    /// The token, from whichever of the three places is set.
    ///
    /// # Errors
    /// None or several of them set, or the one that is set is unusable.
    pub fn secret(&self) -> Result<Secret, ConfigError> {
        let wrong = |reason: &str| self.wrong(reason.to_owned());
        let secret = match (&self.token, &self.token_file, &self.token_env) {
            (Some(secret), None, None) => check_secret("token", secret.clone()),
            (None, Some(path), None) => read_secret_file(path),
            (None, None, Some(name)) => {
                read_variable(name)?.ok_or_else(|| wrong(&format!("{name} is not set")))
            }
            (None, None, None) => Err(wrong("needs token_file, token_env or token")),
            _ => Err(wrong("takes only one of token_file, token_env and token")),
        }?;
        // RFC 6750 section 2.1 wants a token68; what else is visible comes through as well.
        if !secret.expose().iter().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(
                "a space or unprintable byte cannot stand in an Authorization field",
            ));
        }
        Ok(secret)
    }

    /// Refuses an app or user that no request can name: the token would open nothing.
    pub(crate) fn check_owner(&self) -> Result<(), ConfigError> {
        AppId::parse(&self.app).map_err(|error| self.wrong(error.to_string()))?;
        match self.user.as_deref().map(UserId::parse) {
            Some(Err(error)) => Err(self.wrong(error.to_string())),
            _ => Ok(()),
        }
    }

    fn wrong(&self, reason: String) -> ConfigError {
        ConfigError::BadSecret { name: format!("a [[token]] of app {:?}", self.app), reason }
    }
}

fn check_secret(name: &str, secret: Secret) -> Result<Secret, ConfigError> {
    let wrong = |reason: String| Err(ConfigError::BadSecret { name: name.to_owned(), reason });
    match secret.expose().len() {
        length if length < SECRET_BYTES_MIN => {
            wrong(format!("a secret has at least {SECRET_BYTES_MIN} bytes, this one {length}"))
        }
        length if length > SECRET_BYTES_MAX => {
            wrong(format!("a secret has at most {SECRET_BYTES_MAX} bytes, this one {length}"))
        }
        _ => Ok(secret),
    }
}

fn read_variable(name: &str) -> Result<Option<Secret>, ConfigError> {
    let Some(value) = std::env::var_os(name) else { return Ok(None) };
    let bytes = value.as_encoded_bytes().trim_ascii().to_vec();
    check_secret(name, Secret::from(bytes)).map(Some)
}

/// Reads a secret from a file that only its owner may read.
///
/// # Errors
/// The file cannot be read, others may read it, or what it holds is too short or too long.
pub fn read_secret_file(path: &Path) -> Result<Secret, ConfigError> {
    let bytes = read_private_file(path)?;
    let secret = Secret::from(bytes.expose().trim_ascii().to_vec());
    check_secret(&path.display().to_string(), secret)
}

/// Reads a small file that only its owner may read, as it is.
///
/// # Errors
/// The file cannot be read, others may read it, or it is too long.
pub fn read_private_file(path: &Path) -> Result<Secret, ConfigError> {
    let name = path.display().to_string();
    let wrong = |reason: String| ConfigError::BadSecret { name: name.clone(), reason };
    let metadata = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(wrong("other users may read it: chmod 600".to_owned()));
    }
    if metadata.len() > SECRET_BYTES_MAX as u64 + 2 {
        return Err(wrong(format!("a secret has at most {SECRET_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map(Secret::from).map_err(|error| wrong(error.to_string()))
}
