//! How long an answer is waited for: as long as a statement may take, and the server is there.
//!
//! A server that was cut off refuses nothing, it only says nothing; so does one that waits until its cluster agrees on who is
//! gone, for some six seconds in Galera, and answers then. What tells them apart is that the second one takes connections.

use std::time::Duration;

use mysql_async::Error;
use tokio::time::{sleep, timeout};

use super::MysqlOptions;
use super::failure::Failure;
use super::session::connect;

/// After so long without an answer, and then again and again, it is looked whether the server is there.
const LOOK_AFTER: Duration = Duration::from_secs(2);

/// Waits for the answer of a server.
///
/// # Errors
/// That of the answer, or [`Failure::Timeout`].
pub(super) async fn answer<T>(
    options: &MysqlOptions,
    server: &(String, u16),
    waiting: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let answered = timeout(options.statement_timeout, waiting);
    tokio::select! {
        biased;
        answered = answered => answered.unwrap_or(Err(Failure::Timeout)),
        () = goes_away(options, server) => Err(Failure::Timeout),
    }
}

/// Returns when a server takes no connections.
async fn goes_away(options: &MysqlOptions, server: &(String, u16)) {
    loop {
        sleep(LOOK_AFTER).await;
        match timeout(options.connect_timeout, connect(options, server)).await {
            // It is there, also where it will not have us.
            Ok(Ok(_) | Err(Failure::Mysql(Error::Server(_)))) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
