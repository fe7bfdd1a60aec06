//! The end-to-end test kit: what the tests in `tests/tests/` start, send, break and judge with.

pub mod browser;
pub mod crash;
pub mod database;
pub mod disk;
pub mod galera;
pub mod gluster;
pub mod group;
pub mod history;
pub mod http;
pub mod http_cases;
pub mod keepalived;
pub mod log;
pub mod mariadb;
pub mod mounts;
pub mod network;
pub mod process;
pub mod proxy;
pub mod pulse;
pub mod role;
pub mod seccomp;
pub mod seed;
pub mod stored;
pub mod uploaders;
