//! Open connections that wait for the next request, by address. Bounded in number for each address and in age, so
//! that a client which has met many nodes does not hold them all.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{config::ClientConfig, connection::Connection, error::ClientError};

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// The idle connections of one client.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
    per_address_max: usize,
    idle_max: Duration,
    connect_timeout: Duration,
    stall_timeout: Duration,
}

impl Pool {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self {
            idle: Mutex::default(),
            per_address_max: config.idle_connections_max,
            idle_max: config.idle_max,
            connect_timeout: config.connect_timeout,
            stall_timeout: config.stall_timeout,
        }
    }

    /// An idle connection that the server has not closed, the one used last, else a new one.
    pub(crate) async fn connection(&self, address: SocketAddr) -> Result<Connection, ClientError> {
        if let Some(connection) = self.take_idle(address) {
            return Ok(connection);
        }
        Connection::open(address, self.connect_timeout, self.stall_timeout).await
    }

    /// Keeps a connection on which the last reply was read to its end.
    pub(crate) fn give_back(&self, connection: Connection) {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.retain(|_, list| {
            list.retain(|idle| now.duration_since(idle.since) < self.idle_max);
            !list.is_empty()
        });
        let list = idle.entry(connection.address()).or_default();
        if list.len() < self.per_address_max {
            list.push(Idle { connection, since: now });
        }
    }

    fn take_idle(&self, address: SocketAddr) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.lock();
        let list = idle.get_mut(&address)?;
        while let Some(Idle { connection, since }) = list.pop() {
            if now.duration_since(since) < self.idle_max && !connection.is_stale() {
                return Some(connection);
            }
        }
        None
    }

    // A panic elsewhere leaves the map whole: every change of it is one call.
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn pool(change: impl FnOnce(&mut ClientConfig)) -> Pool {
        let mut config = ClientConfig::new(["127.0.0.1:1"]);
        change(&mut config);
        Pool::new(&config)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_unless_the_server_closed_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = pool(|_| {});
        let connection = pool.connection(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        pool.give_back(connection);
        let again = pool.connection(address).await.unwrap();
        pool.give_back(again);
        drop(accepted);
        // The reactor learns of the close on its next turn.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(pool.take_idle(address).is_none(), "a closed connection must not be used again");
    }

    #[tokio::test]
    async fn number_and_age_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounded = pool(|config| config.idle_connections_max = 2);
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(bounded.connection(address).await.unwrap());
        }
        for connection in connections {
            bounded.give_back(connection);
        }
        assert_eq!(bounded.lock()[&address].len(), 2);
        let aged = pool(|config| config.idle_max = Duration::ZERO);
        aged.give_back(aged.connection(address).await.unwrap());
        assert!(aged.take_idle(address).is_none());
    }
}
