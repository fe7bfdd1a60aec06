//! What an error of the server or of the driver means for whoever asked.

use std::io;
use std::sync::Arc;

use mysql_async::{Error, ServerError};

use crate::error::MetaError;
use crate::text::TextError;

/// Error numbers of the server.
mod code {
    pub(super) const OUT_OF_SPACE: [u16; 3] = [1021, 1114, 3];
    /// Duplicate entry for a unique key.
    pub(super) const DUPLICATE: u16 = 1062;
    pub(super) const DEADLOCK: u16 = 1213;
    /// The record changed since the last read.
    pub(super) const RECORD_CHANGED: u16 = 1020;
    pub(super) const LOCK_WAIT: u16 = 1205;
    /// A statement ran for too long: MariaDB, MySQL.
    pub(super) const TOO_LONG: [u16; 2] = [1969, 3024];
    /// Not part of a quorum, shutting down, aborting, read only (three kinds), too many connections (two kinds), host
    /// blocked, host refused, user refused, unknown database.
    pub(super) const ELSEWHERE: [u16; 13] =
        [1047, 1053, 1077, 1290, 1792, 1836, 1040, 1203, 1129, 1130, 1044, 1045, 1049];
    /// With these answers a COMMIT was not begun, or was undone: the transaction lost, no quorum, read only (three kinds).
    pub(super) const NOT_COMMITTED: [u16; 6] = [DEADLOCK, RECORD_CHANGED, 1047, 1290, 1792, 1836];
    /// The statement was interrupted, the connection was ended.
    pub(super) const KILLED: [u16; 2] = [1317, 1927];
    pub(super) const NO_SUCH_TABLE: u16 = 1146;
}

/// Why a statement, or a body of several, did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The caller's own reason.
    Meta(MetaError),
    /// The server's, or the driver's.
    Mysql(Error),
    /// No answer in time.
    Timeout,
    /// No server of the list could be had.
    Unreachable(Arc<str>),
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The transaction lost against another one. It has ended; the same again may win.
    Conflict,
    /// Somebody holds what it needs.
    Busy,
    /// There is no space.
    Full,
    /// This server does not take it now, another one may.
    Elsewhere,
    /// The connection is gone, or of no use any more.
    Lost,
    /// Nothing helps.
    Refused,
}

impl Failure {
    pub(super) fn meaning(&self) -> Meaning {
        match self {
            Self::Meta(_) => Meaning::Refused,
            Self::Timeout | Self::Unreachable(_) => Meaning::Lost,
            Self::Mysql(Error::Server(error)) => of_server(error),
            Self::Mysql(_) => Meaning::Lost,
        }
    }

    /// The insert met a row that has its key.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Mysql(Error::Server(error)) if error.code == code::DUPLICATE)
    }

    /// A table that the statement names is not there.
    pub(super) fn is_missing_table(&self) -> bool {
        matches!(self, Self::Mysql(Error::Server(error)) if error.code == code::NO_SUCH_TABLE)
    }

    /// Whether the server took longer than it may: another one may be quicker.
    pub(super) fn is_too_slow(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Mysql(Error::Server(error)) => code::TOO_LONG.contains(&error.code),
            _ => false,
        }
    }

    /// Whether the connection must not be used again.
    pub(super) fn ends_connection(&self) -> bool {
        self.is_too_slow() || matches!(self.meaning(), Meaning::Elsewhere | Meaning::Lost)
    }

    /// Whether the same again, at once, may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable(_) => false,
            _ => {
                matches!(self.meaning(), Meaning::Conflict | Meaning::Elsewhere | Meaning::Lost)
            }
        }
    }

    /// Whether a COMMIT that was answered so has certainly not been carried out.
    pub(super) fn refuses_commit(&self) -> bool {
        matches!(self, Self::Mysql(Error::Server(error)) if code::NOT_COMMITTED.contains(&error.code))
    }

    /// As the caller of `operation` is told, who knows that nothing was changed.
    pub(super) fn error(self, operation: &'static str) -> MetaError {
        let meaning = self.meaning();
        match self {
            Self::Meta(error) => error,
            failure => match meaning {
                Meaning::Conflict | Meaning::Busy => MetaError::Busy { operation },
                Meaning::Full => MetaError::Full { operation },
                Meaning::Elsewhere | Meaning::Lost => {
                    MetaError::Unavailable { operation, cause: failure.cause() }
                }
                Meaning::Refused => MetaError::Database { operation, cause: failure.cause() },
            },
        }
    }

    /// With all that is behind it, in one line.
    pub(super) fn whole(self) -> String {
        let cause = self.cause();
        let mut text = cause.to_string();
        let mut behind = cause.source();
        while let Some(error) = behind {
            let more = error.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            behind = error.source();
        }
        text
    }

    /// As the cause of another error.
    pub(super) fn cause(self) -> crate::Cause {
        match self {
            Self::Meta(error) => Box::new(error),
            Self::Mysql(error) => Box::new(error),
            Self::Timeout => Box::new(io::Error::from(io::ErrorKind::TimedOut)),
            Self::Unreachable(cause) => cause.to_string().into(),
        }
    }
}

fn of_server(error: &ServerError) -> Meaning {
    let code = error.code;
    if code == code::DEADLOCK || code == code::RECORD_CHANGED {
        Meaning::Conflict
    } else if code == code::LOCK_WAIT || code::TOO_LONG.contains(&code) {
        Meaning::Busy
    } else if code::OUT_OF_SPACE.contains(&code) || is_no_space(&error.message) {
        Meaning::Full
    } else if code::ELSEWHERE.contains(&code) {
        Meaning::Elsewhere
    } else if code::KILLED.contains(&code) {
        Meaning::Lost
    } else {
        Meaning::Refused
    }
}

/// Several errors name the system's own only in their text. The words around the number differ, the number does not.
fn is_no_space(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["errno: 28", "errcode: 28", "got error 28", "no space left on device"]
        .iter()
        .any(|words| message.contains(words))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Mysql(error)
    }
}

impl From<MetaError> for Failure {
    fn from(error: MetaError) -> Self {
        Self::Meta(error)
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Self::Meta(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16, message: &str) -> Failure {
        Failure::Mysql(Error::Server(ServerError {
            code,
            message: message.to_owned(),
            state: "HY000".to_owned(),
        }))
    }

    #[test]
    fn errors_mean_what_can_be_done() {
        for (failure, meaning) in [
            (server(1213, "Deadlock found"), Meaning::Conflict),
            (server(1205, "Lock wait timeout exceeded"), Meaning::Busy),
            (server(1114, "The table 't_file_01' is full"), Meaning::Full),
            (server(1030, "Got error 28 \"No space left on device\" from InnoDB"), Meaning::Full),
            (server(1026, "Error writing file (Errcode: 28)"), Meaning::Full),
            (server(1047, "WSREP has not yet prepared node"), Meaning::Elsewhere),
            (server(1290, "running with the --read-only option"), Meaning::Elsewhere),
            (server(1927, "Connection was killed"), Meaning::Lost),
            (server(1064, "You have an error in your SQL syntax"), Meaning::Refused),
            (Failure::Timeout, Meaning::Lost),
        ] {
            assert_eq!(failure.meaning(), meaning, "{failure:?}");
        }
        assert!(server(1062, "Duplicate entry").is_duplicate());
        // What a row's lock waits for is no quicker elsewhere.
        assert!(server(1969, "Query execution was interrupted").is_too_slow());
        assert!(!server(1205, "Lock wait timeout exceeded").is_too_slow());
    }

    #[test]
    fn only_a_server_that_says_so_has_not_committed() {
        assert!(server(1213, "").refuses_commit());
        assert!(server(1047, "").refuses_commit());
        assert!(!server(1317, "").refuses_commit());
        assert!(!server(1053, "Server shutdown in progress").refuses_commit());
        assert!(!server(1180, "Got error 5 during COMMIT").refuses_commit());
        assert!(!Failure::Timeout.refuses_commit());
    }
}
