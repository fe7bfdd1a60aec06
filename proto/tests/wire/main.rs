//! The wire protocol from outside: captures of the deployed system, round trips, truncation, bit flips, limits.
#![allow(clippy::unwrap_used)] // A test that cannot unwrap has failed.

mod bodies;
mod captures;
mod envelope;
mod errors;
mod groups;
mod layouts;
mod limits;
mod samples;
