//! Reel proto.
