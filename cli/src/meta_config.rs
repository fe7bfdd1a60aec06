//! `[meta]`: where the metadata lies, embedded or in a database that nodes share.

use std::path::PathBuf;
use std::time::Duration;

use reel_meta::mysql::{MysqlOptions, Tls};
use reel_meta::{Location, Role};
use reel_node::config::{HumanTime, Secret, read_private_file};
use serde::{Deserialize, Serialize};

use crate::exit::Usage;

/// Port of a server that is named without one.
const DEFAULT_PORT: u16 = 3306;

/// `[meta]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MetaConfig {
    /// Folder of `tracker.db`, `idgen.db` and `storage.db`. Made when it is not there.
    pub(crate) dir: PathBuf,
    /// A shared database instead.
    pub(crate) mysql: MysqlConfig,
}

impl Default for MetaConfig {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/lib/reel/meta"), mysql: MysqlConfig::default() }
    }
}

/// `[meta.mysql]`. Used where it names a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MysqlConfig {
    /// Host, or host and port, of each server, in the order in which they are tried.
    servers: Vec<String>,
    user: String,
    password: Option<Secret>,
    /// File whose first line is the password.
    password_file: Option<PathBuf>,
    tls: bool,
    /// PEM file with the certificates that vouch for the servers; none: the well-known public ones.
    tls_ca: Option<PathBuf>,
    /// The name in the servers' certificates, where it is not the host's.
    tls_name: Option<String>,
    tracker_database: String,
    ids_database: String,
    storage_database: String,
    connect_timeout: HumanTime,
    statement_timeout: HumanTime,
    /// Use a server also where a power loss can take what it has committed.
    accept_volatile: bool,
}

impl Default for MysqlConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            user: "reel".to_owned(),
            password: None,
            password_file: None,
            tls: false,
            tls_ca: None,
            tls_name: None,
            tracker_database: Role::Tracker.database().to_owned(),
            ids_database: Role::Ids.database().to_owned(),
            storage_database: Role::Storage.database().to_owned(),
            connect_timeout: HumanTime(Duration::from_secs(2)),
            statement_timeout: HumanTime(Duration::from_secs(10)),
            accept_volatile: false,
        }
    }
}

impl MetaConfig {
    /// Where a role's metadata lies.
    pub(crate) fn location(&self, role: Role) -> Result<Location, Usage> {
        if self.mysql.servers.is_empty() {
            return Ok(Location::embedded(&self.dir, role));
        }
        self.mysql.options(role).map(Location::Shared)
    }
}

impl MysqlConfig {
    fn options(&self, role: Role) -> Result<MysqlOptions, Usage> {
        let servers = self.servers.iter().map(|text| server(text)).collect::<Result<_, _>>()?;
        let database = match role {
            Role::Tracker => &self.tracker_database,
            Role::Ids => &self.ids_database,
            Role::Storage => &self.storage_database,
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if database.is_empty() || database.len() > 64 || !database.chars().all(is_name) {
            return Err(Usage::new(format!(
                "meta.mysql: {database:?} is no name of a database: 1 to 64 of A-Z a-z 0-9 _"
            )));
        }
        for (key, time) in [
            ("connect_timeout", self.connect_timeout),
            ("statement_timeout", self.statement_timeout),
        ] {
            if time.0 < Duration::from_millis(100) {
                return Err(Usage::new(format!("meta.mysql.{key}: at least 100ms")));
            }
        }
        let tls = match (self.tls, &self.tls_ca, &self.tls_name) {
            (false, None, None) => Tls::Off,
            (true, ..) => {
                Tls::Required { authorities: self.tls_ca.clone(), name: self.tls_name.clone() }
            }
            _ => return Err(Usage::new("meta.mysql: tls_ca and tls_name need tls = true")),
        };
        Ok(MysqlOptions {
            servers,
            database: database.clone(),
            user: self.user.clone(),
            password: self.password()?,
            tls,
            connect_timeout: self.connect_timeout.0,
            statement_timeout: self.statement_timeout.0,
            accept_volatile: self.accept_volatile,
        })
    }

    fn password(&self) -> Result<Option<String>, Usage> {
        let text = match (&self.password, &self.password_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(Usage::new("meta.mysql: password or password_file, not both"));
            }
            (Some(password), None) => password.clone(),
            (None, Some(file)) => read_private_file(file)
                .map_err(|error| Usage::new(format!("meta.mysql.password_file: {error}")))?,
        };
        let text = std::str::from_utf8(text.expose())
            .map_err(|_| Usage::new("meta.mysql: the password is not UTF-8"))?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }
}

/// `host`, `host:port` or `[address]:port`.
fn server(text: &str) -> Result<(String, u16), Usage> {
    let wrong = || {
        Usage::new(format!("meta.mysql.servers: {text:?}: write HOST, HOST:PORT or [ADDRESS]:PORT"))
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (
                host,
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(wrong)?)
                },
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| wrong()))?;
    if host.is_empty() || port == 0 {
        return Err(wrong());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn servers_in_short_and_in_full() {
        for (text, host, port) in [
            ("db1", "db1", 3306),
            ("db1:3307", "db1", 3307),
            ("10.0.0.1:3306", "10.0.0.1", 3306),
            ("[::1]", "::1", 3306),
            ("[::1]:3308", "::1", 3308),
        ] {
            assert_eq!(server(text).unwrap(), (host.to_owned(), port), "{text}");
        }
        for wrong in
            ["", ":3306", "db1:", "db1:port", "db1:0", "db1:65536", "::1", "[::1", "[::1]3306"]
        {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_database_is_shared_where_a_server_is_named() {
        let mut config = MetaConfig::default();
        assert!(!config.location(Role::Ids).unwrap().is_shared());
        config.mysql.servers = vec!["db1".to_owned()];
        config.mysql.password = Some(Secret::from("hush"));
        let location = config.location(Role::Storage).unwrap();
        assert_eq!(location.to_string(), "tnv_storagedb at db1:3306");
        assert!(!format!("{location:?}").contains("hush"));
        for change in [
            |mysql: &mut MysqlConfig| mysql.storage_database = "x`; DROP".to_owned(),
            |mysql: &mut MysqlConfig| mysql.tls_name = Some("db".to_owned()),
            |mysql: &mut MysqlConfig| mysql.password_file = Some("/nowhere".into()),
            |mysql: &mut MysqlConfig| mysql.statement_timeout = HumanTime(Duration::ZERO),
        ] {
            let mut wrong = config.clone();
            change(&mut wrong.mysql);
            assert!(wrong.location(Role::Storage).is_err());
        }
    }

    #[test]
    fn a_password_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush hush \nand more\n").unwrap();
        let config =
            MysqlConfig { password_file: Some(file.path().to_owned()), ..MysqlConfig::default() };
        for (mode, read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(config.password().is_ok(), read, "{mode:o}");
        }
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(config.password().unwrap().as_deref(), Some("hush hush "));
    }
}
