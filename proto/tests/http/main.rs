//! The HTTP rules from outside. Each case names the section that decides it.
#![allow(clippy::unwrap_used)] // A test that cannot unwrap has failed.

mod answers;
mod chunked;
mod heads;
mod hostile;
mod preconditions;
mod presentation;
mod ranges;
mod targets;
