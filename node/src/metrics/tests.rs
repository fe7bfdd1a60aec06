//! Counting on several threads, and what `/metrics` shows of it.
#![allow(clippy::unwrap_used)]

use super::{Exporter, Registry, Scale, Unit};

crate::metric_table! {
    /// A table with every kind.
    struct Sample;
    counter REQUESTS = "reel_sample_requests_total", Count, "Requests.",
        [kind: "get", "put"], [result: "ok", "refused", "error"];
    gauge OPEN = "reel_sample_connections", Count, "Open connections.";
    counter BYTES = "reel_sample_sent_bytes_total", Bytes, "Bytes sent.";
    counter TIME = "reel_sample_busy_seconds_total", Micros, "Time at work.";
    histogram LATENCY = "reel_sample_request_seconds", Micros, "Time of a request.",
        [kind: "get", "put"];
    histogram COMMIT = "reel_sample_commit_files", Count, "Files in a commit.";
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn every_series_exists_at_zero_with_help() {
    let exporter = Exporter::new();
    let _registry = exporter.registry::<Sample>("sample", &[("store", "/srv/a".to_owned())]);
    let text = exporter.render();
    for kind in ["get", "put"] {
        for result in ["ok", "refused", "error"] {
            let series = format!(
                "reel_sample_requests_total{{role=\"sample\",store=\"/srv/a\",kind=\"{kind}\",\
                 result=\"{result}\"}}"
            );
            assert_eq!(value(&text, &series), Some(0.0), "{series} in\n{text}");
        }
    }
    assert!(text.contains("# HELP reel_sample_connections Open connections."), "{text}");
    assert!(text.contains("# TYPE reel_sample_requests_total counter"), "{text}");
}

#[test]
fn cells_of_threads_are_summed() {
    let exporter = Exporter::new();
    let registry = exporter.registry::<Sample>("sample", &[]);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let registry = registry.clone();
            std::thread::spawn(move || {
                let cell = registry.cell();
                for _ in 0..1000 {
                    cell.add(Sample::REQUESTS.at([1, 2]), 1);
                }
                cell.raise(Sample::OPEN, 5);
                cell.lower(Sample::OPEN, thread);
                registry.shared().add(Sample::BYTES, 10);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(registry.count(Sample::REQUESTS.at([1, 2])), 4000);
    assert_eq!(registry.count(Sample::REQUESTS.at([1, 1])), 0);
    assert_eq!(registry.level(Sample::OPEN), 20 - 6);
    assert_eq!(registry.count(Sample::BYTES), 40);
    let text = exporter.render();
    let series = "reel_sample_requests_total{role=\"sample\",kind=\"put\",result=\"error\"}";
    assert_eq!(value(&text, series), Some(4000.0), "{text}");
    assert_eq!(value(&text, "reel_sample_connections{role=\"sample\"}"), Some(14.0));
}

#[test]
fn a_counter_of_microseconds_is_exported_in_seconds() {
    let exporter = Exporter::new();
    let registry = exporter.registry::<Sample>("sample", &[]);
    registry.cell().add(Sample::TIME, 1_250_000);
    let text = exporter.render();
    assert_eq!(value(&text, "reel_sample_busy_seconds_total{role=\"sample\"}"), Some(1.25));
}

#[test]
fn a_gauge_raised_here_and_lowered_there_is_right() {
    let registry = Exporter::new().registry::<Sample>("sample", &[]);
    let (one, other) = (registry.cell(), registry.cell());
    one.raise(Sample::OPEN, 3);
    other.lower(Sample::OPEN, 2);
    assert_eq!(registry.level(Sample::OPEN), 1);
    other.lower(Sample::OPEN, 2);
    assert_eq!(registry.level(Sample::OPEN), -1);
}

#[test]
fn histograms_keep_counts_and_sums_over_publishes() {
    let exporter = Exporter::new();
    let registry = exporter.registry::<Sample>("sample", &[]);
    let cell = registry.cell();
    let put = Sample::LATENCY.at([1]);
    for micros in [0, 8, 9, 12, 13, 1_000_000, 500_000_000] {
        cell.observe(put, micros);
    }
    exporter.publish();
    cell.observe(put, 9);
    let text = exporter.render();
    let bucket = |le: &str| {
        let series = "reel_sample_request_seconds_bucket{role=\"sample\",kind=\"put\",le=";
        value(&text, &format!("{series}\"{le}\"}}"))
    };
    assert_eq!(bucket("0.000008"), Some(2.0), "{text}");
    assert_eq!(bucket("0.000012"), Some(5.0), "{text}");
    assert_eq!(bucket("0.000016"), Some(6.0), "{text}");
    assert_eq!(bucket("+Inf"), Some(8.0), "{text}");
    let sum = value(&text, "reel_sample_request_seconds_sum{role=\"sample\",kind=\"put\"}");
    assert!((sum.unwrap() - 501.000_051).abs() < 1e-9, "{sum:?}");
    assert_eq!(registry.observations(put), 8);
    assert_eq!(registry.observations(Sample::LATENCY.at([0])), 0);
}

#[test]
fn what_was_counted_before_there_was_an_exporter_is_exported() {
    let registry = Registry::<Sample>::detached();
    let cell = registry.cell();
    cell.observe(Sample::COMMIT, 3);
    let exporter = Exporter::new();
    exporter.export(&registry, "sample", &[("path", "/srv".to_owned())]);
    cell.observe(Sample::COMMIT, 4);
    let text = exporter.render();
    let series = "reel_sample_commit_files_sum{role=\"sample\",path=\"/srv\"}";
    assert_eq!(value(&text, series), Some(7.0), "{text}");
}

#[test]
fn a_publish_of_more_samples_than_the_recorder_may_hold() {
    let exporter = Exporter::new();
    let registry = exporter.registry::<Sample>("sample", &[]);
    let cell = registry.cell();
    for _ in 0..200_000 {
        cell.observe(Sample::COMMIT, 3);
    }
    let text = exporter.render();
    let series = "reel_sample_commit_files_count{role=\"sample\"}";
    assert_eq!(value(&text, series), Some(200_000.0));
}

#[test]
fn buckets_are_ascending_and_hold_their_bounds() {
    for unit in [Unit::Micros, Unit::Bytes, Unit::Count] {
        let scale = Scale::of(unit);
        let bounds = scale.exported_bounds();
        assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{bounds:?}");
        assert_eq!(scale.bucket(0), 0);
        assert_eq!(scale.bucket(u64::MAX), scale.buckets() - 1);
        for (index, bound) in bounds.iter().enumerate() {
            let counted = (bound / scale.export(1.0)).round() as u64;
            assert_eq!(scale.bucket(counted), index);
            assert_eq!(scale.bucket(counted + 1), index + 1);
        }
    }
}
