//! Reel client.
mod attempts;
mod config;
mod source;
