//! Reel client.
