//! Figures of systems that are not at hand, as they were measured once, and how fast that machine was.
//!
//! FastDFS 6.16 and the C++ system that Reel succeeds were measured on one machine with one server core. A run compares
//! with their figures times the speed of this machine in this minute: that of the journal loop for what writes, that of
//! nginx on hot ranges of 4 KiB for what does not, and for all CPU times. Both calibrations were measured on the old
//! machine as well.

use crate::round::Round;

/// A figure of then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reference {
    /// Requests a second.
    per_second: f64,
    /// CPU time of the server for one, microseconds. Not known for all.
    cpu_us: Option<f64>,
}

/// Files a second of the journal loop then: groups of 8, and of 64.
const JOURNAL_LOOP: [(usize, f64); 2] = [(8, 50_400.0), (64, 67_600.0)];
/// Microseconds of one file in the journal loop alone then.
const JOURNAL_LOOP_ALONE_US: f64 = 64.0;
/// CPU time of nginx for a hot range of 4 KiB then, microseconds.
const NGINX_HOT_4K_CPU_US: f64 = 5.8;

/// FastDFS, upload of 16 KiB: with one connection, and with eight. It syncs nothing. More connections were not measured
/// and are taken to give what eight gave.
pub(crate) fn fastdfs_upload_16k(connections: usize) -> Reference {
    let per_second = if connections == 1 { 15_800.0 } else { 17_500.0 };
    // 59 to 66 µs.
    Reference { per_second, cpu_us: Some(62.5) }
}

/// FastDFS, upload of 1 MiB. It syncs nothing.
pub(crate) const FASTDFS_UPLOAD_1M: Reference =
    Reference { per_second: 366.0, cpu_us: Some(5000.0) };

/// FastDFS, download of 16 KiB: 53,000 to 58,000.
pub(crate) const FASTDFS_DOWNLOAD_16K: Reference = Reference { per_second: 55_500.0, cpu_us: None };

/// The C++ system, SADDRS with eight connections.
pub(crate) const CPP_SADDRS: Reference = Reference { per_second: 18_000.0, cpu_us: None };

/// The C++ system, ID_GET with eight connections.
pub(crate) const CPP_ID_GET: Reference = Reference { per_second: 93_000.0, cpu_us: None };

impl Reference {
    /// As a round beside ours, on a machine of `speed` times the old one's for this work, whose processor is of
    /// `cpu_speed` times the old one's.
    pub(crate) fn scaled(self, side: &str, speed: f64, cpu_speed: f64) -> Round {
        let cpu = self.cpu_us.map_or(String::new(), |_| format!(", CPU time ÷ {cpu_speed:.2}"));
        Round {
            side: side.to_owned(),
            per_second: self.per_second * speed,
            cpu_us: self.cpu_us.map(|cpu| cpu / cpu_speed),
            notes: vec![format!("not run here: its figure of then × {speed:.2}{cpu}")],
            ..Round::default()
        }
    }
}

/// The speed of this machine by a round of the journal loop with groups of `group`.
pub(crate) fn speed_by_journal_loop(round: &Round, group: usize) -> f64 {
    let known = JOURNAL_LOOP.iter().find(|(size, _)| *size == group);
    round.per_second / known.map_or(1e6 / JOURNAL_LOOP_ALONE_US, |(_, rate)| *rate)
}

/// The speed of this machine by nginx's CPU time for a hot range of 4 KiB.
pub(crate) fn speed_by_nginx(cpu_us: f64) -> f64 {
    NGINX_HOT_4K_CPU_US / cpu_us
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_half_the_speed_halves_the_figure_and_doubles_the_cpu_time() {
        let round = Round { per_second: 33_800.0, ..Round::default() };
        let speed = speed_by_journal_loop(&round, 64);
        assert!((speed - 0.5).abs() < 1e-9);
        let scaled = fastdfs_upload_16k(64).scaled("fastdfs", speed, 0.5);
        assert!((scaled.per_second - 8750.0).abs() < 1e-6);
        assert_eq!(scaled.cpu_us, Some(125.0));
        assert!((speed_by_nginx(11.6) - 0.5).abs() < 1e-9);
    }
}
