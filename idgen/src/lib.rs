//! Reel idgen.
