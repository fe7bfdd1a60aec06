//! What two processes must agree on: frames, commands, names, the 512-way path, limits and HTTP rules.
//!
//! Sans-IO: no async, clock, socket, file or random number. Decoders take a slice and give the value (and, where the
//! input is a stream, the bytes used, or "need more"), or an error that says what was wrong. A length is checked
//! against its limit before anything is allocated. No input panics.
//!
//! docs/wire-protocol.md draws every layout byte by byte.

pub mod address;
pub mod body;
pub mod checksum;
pub mod command;
pub mod ext;
pub mod frame;
pub mod http;
pub mod idgen;
pub mod limits;
pub mod name;
pub mod path;
pub mod peer;
pub mod refusal;
pub mod sign;
pub mod storage;
pub mod table;
pub mod text;
pub mod tracker;
