//! Reel meta.
