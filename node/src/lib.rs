//! Reel node.
