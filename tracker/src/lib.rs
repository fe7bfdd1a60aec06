//! Reel tracker.
