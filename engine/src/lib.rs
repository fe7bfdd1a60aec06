//! Reel engine.
