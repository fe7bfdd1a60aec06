//! What a process has printed: collected while it runs, searched and judged afterwards.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use serde_json::Value;

/// The lines of a process. Clones share them, and keep them when the process is gone.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Reads to the end; `announce` hears of every line.
    pub(crate) fn collect(&self, from: impl Read, announce: Option<&mpsc::Sender<String>>) {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if let Some(announce) = announce {
                // Nobody listens after the first line.
                let _ = announce.send(line.clone());
            }
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The lines with exactly this message, with their fields, oldest first.
    #[must_use]
    pub fn with_message(&self, message: &str) -> Vec<Value> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .filter(|line| line.contains(message))
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["message"] == message)
            .collect()
    }

    /// Which of these messages it has logged last: how far it is in a work of several steps that says so.
    #[must_use]
    pub fn last_of(&self, messages: &[&str]) -> Option<usize> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().find_map(|line| {
            // Most lines are others: they need not be parsed.
            messages.iter().find(|message| line.contains(**message))?;
            let line: Value = serde_json::from_str(line).ok()?;
            messages.iter().position(|message| line["message"] == **message)
        })
    }

    /// WARN and ERROR lines that nobody expects, panics, and whatever else is no log line of ours.
    pub(crate) fn unlisted(&self, expected: &[String]) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .filter(|line| {
                let level = serde_json::from_str::<Value>(line)
                    .map(|line| line["level"].as_str().unwrap_or_default().to_owned());
                let bad = level.map_or(true, |level| level == "WARN" || level == "ERROR");
                bad && !expected.iter().any(|text| line.contains(text.as_str()))
            })
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A judge that finds nothing must be noticed.
    #[test]
    fn a_log_is_judged_and_searched() {
        let log = Log::default();
        let lines = concat!(
            "{\"level\":\"INFO\",\"message\":\"ready\",\"after\":3}\n",
            "{\"level\":\"WARN\",\"message\":\"slow disk, not ready\"}\n",
            "{\"level\":\"ERROR\",\"message\":\"bad disk\"}\n",
            "thread 'x' panicked at y\n",
        );
        log.collect(lines.as_bytes(), None);
        assert_eq!(log.unlisted(&[]).len(), 3);
        assert_eq!(log.unlisted(&["slow disk".into(), "panicked".into()]).len(), 1);
        let found = log.with_message("ready");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["after"], 3);
        assert_eq!(log.last_of(&["bad disk", "ready"]), Some(0));
        assert_eq!(log.last_of(&["disk", "ready"]), Some(1));
        assert_eq!(log.last_of(&["disk"]), None);
    }
}
