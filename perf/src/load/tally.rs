//! What one generator thread has counted: answers, bytes, latencies, and the machine's clocks at both ends.

use anyhow::Result;
use hdrhistogram::Histogram;

use super::{connection::Answer, dialect::Verdict, plan::Plan, request::Expect};
use crate::cpu::CoreTime;

/// Longest latency told apart, nanoseconds: one minute. A longer one counts as that.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Acknowledged uploads that are remembered, so that the harness can read them back.
const STORED_KEPT: usize = 64;

/// Texts of errors that are kept.
const ERRORS_KEPT: usize = 4;

/// The machine's clocks at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// Nanoseconds since the load began.
    pub(crate) at: u64,
    /// CPU seconds of each meter of the plan.
    pub(crate) meters: Vec<f64>,
    /// Of each core.
    pub(crate) cores: Vec<CoreTime>,
}

impl Reading {
    pub(crate) fn take(plan: &Plan, at: u64) -> Result<Self> {
        let meters = plan.meters.iter().map(crate::cpu::Meter::seconds).collect::<Result<_>>()?;
        Ok(Self { at, meters, cores: CoreTime::all()? })
    }
}

/// A thread's counts within the counted time.
pub(crate) struct Tally {
    pub(crate) latency: Histogram<u64>,
    pub(crate) done: u64,
    pub(crate) bytes: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) broken: u64,
    pub(crate) checked: u64,
    pub(crate) mismatched: u64,
    pub(crate) unserved: u64,
    pub(crate) stored: Vec<u64>,
    pub(crate) stored_count: u64,
    pub(crate) spun_ns: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) begin: Option<Reading>,
    pub(crate) end: Option<Reading>,
}

impl Tally {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?,
            done: 0,
            bytes: 0,
            refused: 0,
            failed: 0,
            broken: 0,
            checked: 0,
            mismatched: 0,
            unserved: 0,
            stored: Vec::new(),
            stored_count: 0,
            spun_ns: 0,
            errors: Vec::new(),
            begin: None,
            end: None,
        })
    }

    /// Counts an answer of the counted time.
    pub(crate) fn answered(&mut self, answer: &Answer, latency_ns: u64) {
        match answer.verdict {
            Verdict::Done => {
                self.done += 1;
                self.bytes += answer.bytes;
                self.latency.saturating_record(latency_ns.max(1));
            }
            Verdict::Refused => self.refused += 1,
            Verdict::Failed => self.failed += 1,
        }
    }

    /// Takes note of what must be right at any time, counted or not.
    pub(crate) fn judged(&mut self, answer: &Answer) {
        if let Some(matches) = answer.matches {
            self.checked += 1;
            self.mismatched += u64::from(!matches);
        }
        if let (Verdict::Done, Expect::Stored { number }) = (answer.verdict, answer.expect) {
            // Every one of the first, then ever fewer: the kept ones stay spread over the whole load.
            self.stored_count += 1;
            if self.stored.len() < STORED_KEPT {
                self.stored.push(number);
            } else if self.stored_count.is_power_of_two() || self.stored_count.is_multiple_of(4096)
            {
                let slot = (self.stored_count / 64) as usize % STORED_KEPT;
                self.stored[slot] = number;
            }
        }
    }

    /// A request that was due and never went out: it has waited at least so long.
    pub(crate) fn never_sent(&mut self, waited_ns: u64) {
        self.unserved += 1;
        self.latency.saturating_record(waited_ns.max(1));
    }

    /// Time in which the thread had nothing to do.
    pub(crate) fn waited(&mut self, ns: u64, counts: bool) {
        if counts {
            self.spun_ns += ns;
        }
    }

    /// What a server said instead of success.
    pub(crate) fn refusal(&mut self, bytes: &[u8]) {
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(bytes.escape_ascii().to_string());
        }
    }

    /// A connection that broke.
    pub(crate) fn error(&mut self, text: String) {
        self.broken += 1;
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(text);
        }
    }
}
