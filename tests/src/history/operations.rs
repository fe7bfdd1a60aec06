//! What clients did, one operation after the other, with the times of each: for faults under load, where what may be answered
//! depends on what was under way.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reel_client::FileId;

use crate::seed::Content;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A file of this content.
    Upload(Content),
    /// To delete it.
    Delete,
    /// Some or all of its bytes, under way.
    Read,
    /// All of its bytes from this node, when all was over.
    Last(usize),
    /// What a listing said of it, when all was over.
    List,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged, or all that was asked for came and was right.
    Done {
        /// The number of its place, where it was told.
        path_id: Option<u64>,
    },
    /// There is no such file.
    Absent,
    /// An error, a broken connection: nothing that was told says how it went.
    Failed(String),
    /// Other bytes than those that were uploaded, or more of them.
    Wrong(String),
}

/// An operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// When it was asked for, from the begin of the test.
    pub begin: Duration,
    /// When its outcome was there.
    pub end: Duration,
    /// Who asked.
    pub client: String,
    /// What for.
    pub act: Act,
    /// Of which file.
    pub file: FileId,
    /// How it went.
    pub outcome: Outcome,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begin, end, client, act, file, outcome } = self;
        let (begin, end) = (begin.as_secs_f64(), end.as_secs_f64());
        write!(f, "{begin:.3}-{end:.3} {client} {act} {file} {outcome}")
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upload(Content { seed, size }) => write!(f, "upload({seed:016x},{size})"),
            Self::Delete => write!(f, "delete"),
            Self::Read => write!(f, "read"),
            Self::Last(node) => write!(f, "last-read({node})"),
            Self::List => write!(f, "list"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { path_id: Some(path_id) } => write!(f, "done({path_id})"),
            Self::Done { path_id: None } => write!(f, "done"),
            Self::Absent => write!(f, "absent"),
            Self::Failed(why) => write!(f, "failed: {}", why.replace('\n', " ")),
            Self::Wrong(what) => write!(f, "WRONG: {}", what.replace('\n', " ")),
        }
    }
}

/// All operations of a test, noted by several threads.
#[derive(Debug)]
pub struct Operations {
    begin: Instant,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    operations: Vec<Operation>,
    /// What was done to the store meanwhile.
    strikes: Vec<(Duration, String)>,
}

impl Default for Operations {
    fn default() -> Self {
        Self { begin: Instant::now(), noted: Mutex::default() }
    }
}

impl Operations {
    /// The time from the begin of the test.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Notes what came of an operation that began then and has just ended.
    pub fn note(&self, client: &str, begin: Duration, act: Act, file: FileId, outcome: Outcome) {
        let (end, client) = (self.now(), client.to_owned());
        self.lock().operations.push(Operation { begin, end, client, act, file, outcome });
    }

    /// Notes what is done to the store.
    pub fn strike(&self, what: &str) {
        let now = self.now();
        self.lock().strikes.push((now, what.to_owned()));
    }

    /// A copy of all operations.
    #[must_use]
    pub fn all(&self) -> Vec<Operation> {
        self.lock().operations.clone()
    }

    /// Writes them by their begin, one line each: times, client, operation, file, outcome.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let noted = self.lock();
        let operations = noted.operations.iter();
        let mut lines: Vec<(Duration, String)> =
            operations.map(|operation| (operation.begin, operation.to_string())).collect();
        let strikes = noted.strikes.iter();
        lines
            .extend(strikes.map(|(at, what)| {
                (*at, format!("{0:.3}-{0:.3} nemesis {what}", at.as_secs_f64()))
            }));
        lines.sort();
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for (_, line) in lines {
            writeln!(file, "{line}")?;
        }
        file.flush()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
