//! Logs: tracing lines to standard error, for people or as JSON, one stream for the process.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{LogConfig, LogFormat};

/// A log that cannot be started; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is no filter.
    #[error("log.level: `{level}` is no level and no filter: {reason}")]
    Filter {
        /// What was set.
        level: String,
        /// What the parser says.
        reason: String,
    },
}

/// Starts the process's log. `REEL_LOG` goes before `log.level`. A second call in the same process
/// (tests with several nodes) changes nothing: the first log stays.
///
/// # Errors
/// The level is no filter.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let level = std::env::var("REEL_LOG").unwrap_or_else(|_| config.level.clone());
    let filter = parse_filter(&level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written (a full disk, a reader that is gone) is lost; saying so on the same standard
        // error would panic and end the node.
        .log_internal_errors(false)
        .with_span_events(FmtSpan::NONE);
    // An error here means that a log is already there, which is what is wanted.
    let _started = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_ansi(false).try_init(),
    };
    Ok(())
}

/// Checks a level or filter without starting anything.
///
/// # Errors
/// It is no filter.
pub fn check_level(level: &str) -> Result<(), LogError> {
    parse_filter(level).map(drop)
}

fn parse_filter(level: &str) -> Result<EnvFilter, LogError> {
    // tracing takes any bare word as a target to log; an operator who writes "verbose" means a
    // level, and would get silence.
    let wrong =
        |reason: &str| LogError::Filter { level: level.to_owned(), reason: reason.to_owned() };
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for part in level.split(',').map(str::trim) {
        let bare = !part.contains(['=', '[', ':']);
        if bare && !levels.iter().any(|known| part.eq_ignore_ascii_case(known)) {
            return Err(wrong("a level is one of error, warn, info, debug, trace"));
        }
    }
    EnvFilter::try_new(level).map_err(|error| wrong(&error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::check_level;

    #[test]
    fn levels_and_filters() {
        for level in ["info", "WARN", "info,reel_engine=debug", "off", "reel_node::admin=trace"] {
            check_level(level).unwrap();
        }
        for level in ["", "verbose", "info,", "info,reel_engine=loud", "info debug"] {
            let error = check_level(level).unwrap_err().to_string();
            assert!(error.contains("log.level"), "{error}");
        }
    }
}
