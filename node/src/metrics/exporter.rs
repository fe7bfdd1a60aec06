//! Publishing: sums of cells into the `metrics` crate, Prometheus text out of it.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Key, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::cell::{Inner, Registry};
use super::scale::Scale;
use super::table::{Def, Kind, Table, Unit};

/// Samples handed to the recorder before it is made to fold them into its buckets. It keeps each
/// sample (24 bytes) until then: 64 Ki of them are 1.5 MiB.
const UPKEEP_SAMPLES: usize = 64 * 1024;

/// The metrics of a process: every role's registry, one recorder. Clones are handles.
///
/// The recorder is not installed as the process-wide one: two nodes in one test process would
/// share it, and nothing here needs the global.
#[derive(Clone)]
pub struct Exporter {
    shared: Arc<Shared>,
}

struct Shared {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    published: Mutex<Vec<Published>>,
}

/// A registry, the handles of its series and what was handed over last.
struct Published {
    inner: Arc<Inner>,
    series: Vec<Series>,
    last: Vec<u64>,
}

enum Series {
    Counter(usize, metrics::Counter),
    /// A counter of microseconds. The recorder's counters are whole numbers, and whole seconds
    /// would be too coarse for a rate: it is exported as a gauge that only grows.
    Seconds(usize, Scale, metrics::Gauge),
    Gauge(usize, metrics::Gauge),
    Histogram(usize, Scale, metrics::Histogram),
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Exporter")
    }
}

impl Default for Exporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Exporter {
    /// An exporter without registries.
    pub fn new() -> Self {
        let recorder = with_buckets(PrometheusBuilder::new()).build_recorder();
        let handle = recorder.handle();
        let published = Mutex::new(Vec::new());
        Self { shared: Arc::new(Shared { recorder, handle, published }) }
    }

    /// A new registry whose series carry `role` and `labels` (what is known only at run time, as
    /// the store path of a disk). Describes the table and creates every series at zero.
    pub fn registry<T: Table>(&self, role: &str, labels: &[(&'static str, String)]) -> Registry<T> {
        let registry = Registry::<T>::new();
        self.export(&registry, role, labels);
        registry
    }

    /// As [`Self::registry`], for one that was made before it was known who exports it
    /// ([`Registry::detached`]). Once for each registry: its counts would be added twice.
    pub fn export<T: Table>(
        &self,
        registry: &Registry<T>,
        role: &str,
        labels: &[(&'static str, String)],
    ) {
        let mut series = Vec::new();
        let mut word = 0;
        for def in T::DEFS {
            self.describe(def);
            for index in 0..def.series() {
                series.push(self.register(def, index, word, role, labels));
                word += def.words_per_series();
            }
        }
        let published = Published { inner: registry.inner(), series, last: vec![0; word] };
        self.shared.published.lock().unwrap_or_else(PoisonError::into_inner).push(published);
    }

    fn describe(&self, def: &Def) {
        let unit = match def.unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Bytes => metrics::Unit::Bytes,
            Unit::Micros | Unit::Seconds => metrics::Unit::Seconds,
        };
        let recorder = &self.shared.recorder;
        match def.kind {
            Kind::Counter if def.unit != Unit::Micros => {
                recorder.describe_counter(def.name.into(), Some(unit), def.help.into());
            }
            Kind::Counter | Kind::Gauge => {
                recorder.describe_gauge(def.name.into(), Some(unit), def.help.into());
            }
            Kind::Histogram => {
                recorder.describe_histogram(def.name.into(), Some(unit), def.help.into());
            }
        }
    }

    fn register(
        &self,
        def: &Def,
        series: usize,
        word: usize,
        role: &str,
        labels: &[(&'static str, String)],
    ) -> Series {
        let mut pairs = vec![metrics::Label::new("role", role.to_owned())];
        pairs.extend(labels.iter().map(|(name, value)| metrics::Label::new(*name, value.clone())));
        pairs.extend(
            def.series_labels(series)
                .into_iter()
                .map(|(name, value)| metrics::Label::from_static_parts(name, value)),
        );
        let key = Key::from_parts(def.name, pairs);
        let metadata = Metadata::new(module_path!(), Level::INFO, None);
        let recorder = &self.shared.recorder;
        match def.kind {
            Kind::Counter if def.unit == Unit::Micros => {
                let scale = Scale::of(def.unit);
                Series::Seconds(word, scale, recorder.register_gauge(&key, &metadata))
            }
            Kind::Counter => Series::Counter(word, recorder.register_counter(&key, &metadata)),
            Kind::Gauge => Series::Gauge(word, recorder.register_gauge(&key, &metadata)),
            Kind::Histogram => {
                let scale = Scale::of(def.unit);
                Series::Histogram(word, scale, recorder.register_histogram(&key, &metadata))
            }
        }
    }

    /// Hands what the cells counted since the last call to the recorder. Called by the control
    /// thread every second or so, and before each page of `/metrics`.
    pub fn publish(&self) {
        let mut samples = 0;
        let mut published = self.shared.published.lock().unwrap_or_else(PoisonError::into_inner);
        for registry in published.iter_mut() {
            let sums = registry.inner.sums();
            for series in &registry.series {
                match series {
                    Series::Counter(word, counter) => counter.absolute(sums[*word]),
                    Series::Seconds(word, scale, gauge) => {
                        gauge.set(scale.export(sums[*word] as f64));
                    }
                    Series::Gauge(word, gauge) => gauge.set(sums[*word].cast_signed() as f64),
                    Series::Histogram(word, scale, histogram) => {
                        let last = &registry.last;
                        samples += self.publish_histogram(*word, scale, histogram, &sums, last);
                    }
                }
                if samples > UPKEEP_SAMPLES {
                    self.shared.handle.run_upkeep();
                    samples = 0;
                }
            }
            registry.last = sums;
        }
        self.shared.handle.run_upkeep();
    }

    /// Each bucket's new values go over as that many times their mean, which lies in the bucket,
    /// so both the counts and the sum come out exact.
    fn publish_histogram(
        &self,
        word: usize,
        scale: &Scale,
        histogram: &metrics::Histogram,
        sums: &[u64],
        last: &[u64],
    ) -> usize {
        let mut samples = 0;
        for bucket in 0..scale.buckets() {
            let at = word + 2 * bucket;
            let mut left = usize::try_from(sums[at].wrapping_sub(last[at])).unwrap_or(usize::MAX);
            if left == 0 {
                continue;
            }
            let sum = sums[at + 1].wrapping_sub(last[at + 1]);
            let mean = scale.export(sum as f64 / left as f64);
            samples += left.min(UPKEEP_SAMPLES);
            while left > 0 {
                let now = left.min(UPKEEP_SAMPLES);
                histogram.record_many(mean, now);
                left -= now;
                if left > 0 {
                    self.shared.handle.run_upkeep();
                }
            }
        }
        samples
    }

    /// Publishes and renders Prometheus text (version 0.0.4).
    pub fn render(&self) -> String {
        self.publish();
        self.shared.handle.render()
    }
}

/// The bucket bounds by suffix: the names and units agree, see `assert_def`. They are never
/// empty, the only error there is; the unreachable other arm keeps summaries.
fn with_buckets(builder: PrometheusBuilder) -> PrometheusBuilder {
    let by_suffix = [("_seconds", Unit::Micros), ("_bytes", Unit::Bytes)];
    let builder = by_suffix.into_iter().fold(builder, |builder, (suffix, unit)| {
        let bounds = Scale::of(unit).exported_bounds();
        match builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), &bounds) {
            Ok(builder) => builder,
            Err(_) => PrometheusBuilder::new(),
        }
    });
    match builder.set_buckets(&Scale::of(Unit::Count).exported_bounds()) {
        Ok(builder) => builder,
        Err(_) => PrometheusBuilder::new(),
    }
}
