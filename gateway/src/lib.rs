//! Reel gateway.
