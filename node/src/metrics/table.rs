//! A role's table of metrics: what each is called, what it means, where its cells lie.

use std::marker::PhantomData;

use super::scale::Scale;

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the sum over all threads is exported.
    Counter,
    /// A level that goes up and down; the sum over all threads is exported.
    Gauge,
    /// A distribution in the fixed buckets of its unit's [`Scale`].
    Histogram,
}

/// Unit of the values given to the cells. Exported in base units: microseconds become seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Counted in microseconds, exported in seconds; the name ends in `_seconds`.
    Micros,
    /// Counted and exported in seconds.
    Seconds,
}

/// One label and every value it can take, in the order that `at` indexes them.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Label name, as in `result`.
    pub name: &'static str,
    /// All values; never empty.
    pub values: &'static [&'static str],
}

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Def {
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Exported name, `reel_…`.
    pub name: &'static str,
    /// Unit of the values counted.
    pub unit: Unit,
    /// One sentence for the reader of `/metrics`.
    pub help: &'static str,
    /// Labels; the series of the row are their product, the last label varying fastest.
    pub labels: &'static [Label],
}

impl Def {
    /// How many series the row has.
    pub const fn series(&self) -> usize {
        let mut product = 1;
        let mut index = 0;
        while index < self.labels.len() {
            product *= self.labels[index].values.len();
            index += 1;
        }
        product
    }

    /// Words that one series takes in a cell: one, or two per bucket (count and sum).
    pub const fn words_per_series(&self) -> usize {
        match self.kind {
            Kind::Counter | Kind::Gauge => 1,
            Kind::Histogram => 2 * Scale::of(self.unit).buckets(),
        }
    }

    /// Words that the row takes in a cell.
    pub const fn words(&self) -> usize {
        self.series() * self.words_per_series()
    }

    /// The label pairs of one series.
    pub fn series_labels(&self, series: usize) -> Vec<(&'static str, &'static str)> {
        let mut rest = series;
        let mut pairs = Vec::with_capacity(self.labels.len());
        for label in self.labels.iter().rev() {
            pairs.push((label.name, label.values[rest % label.values.len()]));
            rest /= label.values.len();
        }
        pairs.reverse();
        pairs
    }
}

/// A role's table; made by [`metric_table!`](crate::metric_table).
pub trait Table: Send + Sync + 'static {
    /// The rows, in the order of declaration.
    const DEFS: &'static [Def];
}

/// First word of a row: the sum of the rows before it. For the macro.
pub const fn offset_of(defs: &[Def], row: usize) -> u32 {
    let mut words = 0;
    let mut index = 0;
    while index < row {
        words += defs[index].words();
        index += 1;
    }
    assert!(words < u32::MAX as usize, "the table is too large");
    words as u32
}

/// Refuses at compile time a row whose name and unit disagree. For the macro.
pub const fn assert_def(def: &Def) {
    match (def.kind, def.unit) {
        (_, Unit::Micros | Unit::Seconds) => assert!(contains(def.name, "_seconds")),
        (_, Unit::Bytes) => assert!(contains(def.name, "_bytes")),
        (_, Unit::Count) => {
            assert!(!contains(def.name, "_bytes") && !contains(def.name, "_seconds"));
        }
    }
    if matches!(def.kind, Kind::Counter) {
        assert!(ends_with(def.name, "_total"), "a counter's name ends in _total");
    }
    if matches!(def.kind, Kind::Histogram) {
        assert!(!matches!(def.unit, Unit::Seconds), "histograms of time are counted in Micros");
        assert!(
            ends_with(def.name, "_seconds")
                || ends_with(def.name, "_bytes")
                || matches!(def.unit, Unit::Count),
            "the suffix chooses the buckets",
        );
    }
}

const fn matches_at(text: &[u8], part: &[u8], at: usize) -> bool {
    let mut index = 0;
    while index < part.len() {
        if text[at + index] != part[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn contains(text: &str, part: &str) -> bool {
    let mut at = 0;
    while at + part.len() <= text.len() {
        if matches_at(text.as_bytes(), part.as_bytes(), at) {
            return true;
        }
        at += 1;
    }
    false
}

const fn ends_with(text: &str, part: &str) -> bool {
    text.len() >= part.len()
        && matches_at(text.as_bytes(), part.as_bytes(), text.len() - part.len())
}

macro_rules! metric_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<T> {
            row: u16,
            word: u32,
            table: PhantomData<fn() -> T>,
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<T> {}

        impl<T> std::fmt::Debug for $name<T> {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(out, "{}(row {}, word {})", stringify!($name), self.row, self.word)
            }
        }

        impl<T: Table> $name<T> {
            /// For the macro: the first series of row `row`.
            pub const fn row(row: usize) -> Self {
                let word = offset_of(T::DEFS, row);
                Self { row: row as u16, word, table: PhantomData }
            }

            /// The series with these label values, as indexes into the values of each label, in
            /// the order of declaration. Panics when a value or the number of labels is wrong.
            #[must_use]
            pub const fn at<const N: usize>(self, values: [usize; N]) -> Self {
                let def = &T::DEFS[self.row as usize];
                assert!(N == def.labels.len(), "one value for each label");
                let mut series = 0;
                let mut index = 0;
                while index < N {
                    assert!(values[index] < def.labels[index].values.len());
                    series = series * def.labels[index].values.len() + values[index];
                    index += 1;
                }
                let word = self.word + (series * def.words_per_series()) as u32;
                Self { row: self.row, word, table: PhantomData }
            }

            /// Name of the metric.
            pub const fn name(self) -> &'static str {
                T::DEFS[self.row as usize].name
            }

            pub(super) const fn word(self) -> usize {
                self.word as usize
            }
        }
    };
}

metric_id! {
    /// A counter of table `T`.
    Counter
}
metric_id! {
    /// A gauge of table `T`.
    Gauge
}
metric_id! {
    /// A histogram of table `T`.
    Histogram
}

impl<T: Table> Histogram<T> {
    pub(super) const fn scale(self) -> Scale {
        Scale::of(T::DEFS[self.row as usize].unit)
    }
}

/// Declares a role's metrics.
///
/// ```
/// reel_node::metric_table! {
///     /// What the example counts.
///     pub struct Example;
///     /// Requests answered.
///     counter REQUESTS = "reel_example_requests_total", Count, "Requests answered.",
///         [kind: "get", "put"], [result: "ok", "error"];
///     /// Open connections.
///     gauge OPEN = "reel_example_connections", Count, "Open connections.";
///     /// Time from the head to the last byte.
///     histogram LATENCY = "reel_example_request_seconds", Micros, "Time of a request.";
/// }
/// let exporter = reel_node::metrics::Exporter::new();
/// let registry = exporter.registry::<Example>("example", &[]);
/// let cell = registry.cell();
/// cell.add(Example::REQUESTS.at([0, 1]), 1);
/// cell.observe(Example::LATENCY, 250);
/// assert!(exporter.render().contains("reel_example_requests_total"));
/// ```
#[macro_export]
macro_rules! metric_table {
    (
        $(#[$doc:meta])* $vis:vis struct $table:ident;
        $(
            $(#[$row_doc:meta])*
            $kind:ident $row:ident = $name:literal, $unit:ident, $help:literal
            $(, [$label:ident : $($value:literal),+ $(,)?])* $(,)? ;
        )+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $table;

        impl $crate::metrics::Table for $table {
            const DEFS: &'static [$crate::metrics::Def] = &[
                $($crate::metrics::Def {
                    kind: $crate::metric_table!(@kind $kind),
                    name: $name,
                    unit: $crate::metrics::Unit::$unit,
                    help: $help,
                    labels: &[$($crate::metrics::Label {
                        name: stringify!($label),
                        values: &[$($value),+],
                    }),*],
                },)+
            ];
        }

        const _: () = {
            let defs = <$table as $crate::metrics::Table>::DEFS;
            let mut index = 0;
            while index < defs.len() {
                $crate::metrics::assert_def(&defs[index]);
                index += 1;
            }
        };

        const _: () = {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            enum Row { $($row),+ }

            #[allow(dead_code)]
            impl $table {
                $(
                    $(#[$row_doc])*
                    $vis const $row: $crate::metric_table!(@id $kind $table) =
                        <$crate::metric_table!(@id $kind $table)>::row(Row::$row as usize);
                )+
            }
        };
    };
    (@kind counter) => { $crate::metrics::Kind::Counter };
    (@kind gauge) => { $crate::metrics::Kind::Gauge };
    (@kind histogram) => { $crate::metrics::Kind::Histogram };
    (@id counter $table:ident) => { $crate::metrics::Counter<$table> };
    (@id gauge $table:ident) => { $crate::metrics::Gauge<$table> };
    (@id histogram $table:ident) => { $crate::metrics::Histogram<$table> };
}
