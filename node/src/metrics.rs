//! Metrics: counted in plain arrays by the threads that do the work, published by the control
//! thread. A counter on the request path costs one load and one store of its own cache line.
//!
//! Each role declares one table with [`metric_table!`](crate::metric_table): name, unit, help and
//! the closed set of label values, so that every series exists from the start (a rate of a series
//! that appears with its first error misses that error). A [`Registry`] belongs to one role; each
//! thread takes a [`Cell`] from it, which cannot leave the thread: one writer, no atomic
//! read-modify-write. [`Exporter`] sums the cells, hands the sums to the `metrics` crate under a
//! `role` label and renders Prometheus text. It has no listener of its own: see `admin`.

mod cell;
mod exporter;
mod scale;
mod table;

pub use cell::{Cell, Registry, SharedCell};
pub use exporter::Exporter;
pub use scale::Scale;
pub use table::{Counter, Def, Gauge, Histogram, Kind, Label, Table, Unit, assert_def, offset_of};

#[cfg(test)]
mod tests;
