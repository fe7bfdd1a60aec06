//! End-to-end test kit.

pub mod http_cases;
