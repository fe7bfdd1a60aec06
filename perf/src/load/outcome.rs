//! What a load generator reports: the counts of its threads together, and the latencies as percentiles.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::tally::Tally;
use crate::cpu::CoreTime;

/// Percentiles that are reported.
const PERCENTILES: &[f64] =
    &[1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0];

/// The percentiles of a histogram of nanoseconds, in microseconds.
pub(crate) fn percentiles(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let percentile =
        |&percent: &f64| (percent, latency.value_at_percentile(percent) as f64 / 1000.0);
    PERCENTILES.iter().map(percentile).collect()
}

/// The result of a load.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Length of the counted time.
    pub(crate) seconds: f64,
    /// Requests that succeeded in it.
    pub(crate) done: u64,
    /// Bytes of their answers' bodies, and of the content that they carried.
    pub(crate) bytes: u64,
    /// Requests that the server was too busy for, and said so.
    pub(crate) refused: u64,
    /// Requests that it answered otherwise.
    pub(crate) failed: u64,
    /// Connections that broke.
    pub(crate) broken: u64,
    /// Texts of some of those.
    pub(crate) errors: Vec<String>,
    /// Answers compared byte by byte, warm-up included.
    pub(crate) checked: u64,
    /// Of them, those with other bytes than expected.
    pub(crate) mismatched: u64,
    /// Open loop: requests that were due and never went out, since every connection was busy.
    pub(crate) unserved: u64,
    /// CPU seconds by meter of the plan.
    pub(crate) cpu_seconds: Vec<f64>,
    /// What each core did.
    pub(crate) cores: Vec<CoreTime>,
    /// Latency: percentile and microseconds.
    pub(crate) latency_us: Vec<(f64, f64)>,
    /// Seconds that the first thread looked for answers and found none: what it could have done besides.
    pub(crate) spun_seconds: f64,
    /// Numbers of some acknowledged uploads.
    pub(crate) stored: Vec<u64>,
}

impl Outcome {
    /// The sum of the threads' tallies; the first one has read the clocks.
    pub(crate) fn of(tallies: Vec<Tally>) -> Result<Self> {
        let mut tallies = tallies.into_iter();
        let mut sum = tallies.next().context("a load without threads")?;
        for tally in tallies {
            sum.latency.add(&tally.latency)?;
            sum.done += tally.done;
            sum.bytes += tally.bytes;
            sum.refused += tally.refused;
            sum.failed += tally.failed;
            sum.broken += tally.broken;
            sum.errors.extend(tally.errors);
            sum.checked += tally.checked;
            sum.mismatched += tally.mismatched;
            sum.unserved += tally.unserved;
            sum.stored.extend(tally.stored);
        }
        let begin = sum.begin.context("the load ended before it was warm")?;
        let end = sum.end.context("the load has no end")?;
        let cores = end.cores.iter().zip(&begin.cores);
        let meters = end.meters.iter().zip(&begin.meters);
        Ok(Self {
            seconds: end.at.saturating_sub(begin.at) as f64 / 1e9,
            done: sum.done,
            bytes: sum.bytes,
            refused: sum.refused,
            failed: sum.failed,
            broken: sum.broken,
            errors: sum.errors,
            checked: sum.checked,
            mismatched: sum.mismatched,
            unserved: sum.unserved,
            cpu_seconds: meters.map(|(end, begin)| end - begin).collect(),
            cores: cores.map(|(end, begin)| end.since(begin)).collect(),
            latency_us: percentiles(&sum.latency),
            spun_seconds: sum.spun_ns as f64 / 1e9,
            stored: sum.stored,
        })
    }

    /// Microseconds of a percentile.
    pub(crate) fn percentile_us(&self, percent: f64) -> f64 {
        let found = self.latency_us.iter().find(|(at, _)| (at - percent).abs() < 1e-9);
        found.map_or(f64::NAN, |(_, us)| *us)
    }
}
