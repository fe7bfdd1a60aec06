//! One round: one load on one server, and what can be said of it.

use serde::{Deserialize, Serialize};

use crate::load::outcome::Outcome;

/// Share of the server's core that is idle in a closed loop when something else than the server is the limit.
const IDLE_MAX: f64 = 0.15;

/// Share of its time that a generator has left when it is not that limit.
const SPARE_MIN: f64 = 0.10;

/// CPU time of others, in cores, beyond which a round is called disturbed. Kernel threads that move data to and from the
/// disk count as others too.
const OTHERS_MAX: f64 = 0.3;

/// The note of such a round.
const DISTURBED: &str = "disturbed: others used the machine";

/// The figures of one round. A figure that the round does not have is absent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Round {
    /// Who was measured.
    pub(crate) side: String,
    /// Requests (or files) a second.
    pub(crate) per_second: f64,
    /// Bytes a second.
    pub(crate) bytes_per_second: f64,
    /// CPU time of the whole server for a request, microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// CPU seconds of the whole server for 10⁹ bytes.
    pub(crate) cpu_s_per_gb: Option<f64>,
    /// Share of the server's core that had nothing to do.
    pub(crate) server_core_idle: Option<f64>,
    /// CPU time of everything but server and generator, as a share of the round on one core.
    pub(crate) others: Option<f64>,
    /// Share of the generator's time in which it had nothing to do.
    pub(crate) generator_spare: f64,
    /// In a closed loop: the generator was the limit, not the server.
    pub(crate) client_bound: bool,
    /// Share of the files' pages in the page cache at the begin.
    pub(crate) cached_before: Option<f64>,
    /// And at the end.
    pub(crate) cached_after: Option<f64>,
    /// Memory of the server, bytes.
    pub(crate) memory_bytes: Option<f64>,
    /// Descriptors that the server has open.
    pub(crate) descriptors: Option<f64>,
    /// What the generator counted.
    pub(crate) outcome: Option<Outcome>,
    /// Anything that a reader must know.
    pub(crate) notes: Vec<String>,
}

impl Round {
    /// Of a load whose meters were the server's and the generator's.
    pub(crate) fn of(side: &str, outcome: Outcome, server_core: Option<usize>, open: bool) -> Self {
        let seconds = outcome.seconds.max(1e-9);
        let server_cpu = outcome.cpu_seconds.first().copied();
        let per = |count: u64| server_cpu.filter(|_| count > 0).map(|cpu| cpu / count as f64);
        let core = server_core.and_then(|core| outcome.cores.get(core));
        let idle = core.map(|core| core.idle / (core.idle + core.busy + core.stolen).max(1e-9));
        let spare = outcome.spun_seconds / seconds;
        let busy: f64 = outcome.cores.iter().map(|core| core.busy).sum();
        let ours: f64 = outcome.cpu_seconds.iter().sum();
        let stolen: f64 = outcome.cores.iter().map(|core| core.stolen).sum();
        let mut notes = Vec::new();
        let mut note = |count: u64, what: &str| {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        };
        note(outcome.mismatched, "ANSWERS WITH WRONG BYTES");
        note(outcome.failed, "requests failed");
        note(outcome.broken, "connections broke");
        note(outcome.refused, "requests refused (503)");
        note(outcome.unserved, "requests were due and never went out");
        notes.extend(outcome.errors.first().map(|error| format!("first error: {error}")));
        let others = ((busy - ours) / seconds).max(0.0);
        if others > OTHERS_MAX {
            notes.push(DISTURBED.to_owned());
        }
        if stolen / seconds > 0.02 {
            notes.push(format!("the hypervisor took {stolen:.2} s"));
        }
        Self {
            side: side.to_owned(),
            per_second: outcome.done as f64 / seconds,
            bytes_per_second: outcome.bytes as f64 / seconds,
            cpu_us: per(outcome.done).map(|seconds| seconds * 1e6),
            cpu_s_per_gb: per(outcome.bytes).map(|seconds| seconds * 1e9),
            server_core_idle: idle,
            others: Some(others),
            client_bound: !open && spare < SPARE_MIN && idle.is_some_and(|idle| idle > IDLE_MAX),
            generator_spare: spare,
            cached_before: None,
            cached_after: None,
            memory_bytes: None,
            descriptors: None,
            notes,
            outcome: Some(outcome),
        }
    }

    /// Microseconds of a percentile of the latency.
    pub(crate) fn latency_us(&self, percent: f64) -> Option<f64> {
        self.outcome.as_ref().map(|outcome| outcome.percentile_us(percent))
    }
}

/// Median and range of a figure over rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cpu::CoreTime;

    #[test]
    fn median_and_spread() {
        assert_eq!(Spread::of([]), None);
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(odd, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, f64::NAN, 2.0, 3.0]).unwrap().median, 2.5);
    }

    #[test]
    fn a_round_says_what_limited_it() {
        let core = |busy, idle| CoreTime { busy, idle, stolen: 0.0 };
        let outcome = Outcome {
            seconds: 2.0,
            done: 1000,
            bytes: 4_096_000,
            cpu_seconds: vec![1.0, 0.5],
            cores: vec![core(1.2, 0.8), core(0.6, 1.4)],
            ..Outcome::default()
        };
        let round = Round::of("reel", outcome.clone(), Some(0), false);
        let spare = Outcome { spun_seconds: 0.5, ..outcome.clone() };
        assert!(!Round::of("reel", spare, Some(0), false).client_bound, "it waited for the disk");
        assert!(round.client_bound, "the server's core was idle for 40 % of it");
        assert!((round.cpu_us.unwrap() - 1000.0).abs() < 1e-6);
        assert!((round.others.unwrap() - 0.15).abs() < 1e-6);
        assert!(!Round::of("reel", outcome, Some(0), true).client_bound, "an open loop never is");
    }
}
