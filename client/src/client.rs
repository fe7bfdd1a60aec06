//! The client: shared state, and the walk from node to node until one answers.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    attempts::Attempts,
    config::ClientConfig,
    connection::Connection,
    error::{ClientError, Retry},
    location::{Location, Locations, Node, Purpose, Scope},
    pool::Pool,
};

/// A client of one Reel (or deployed) system. Cheap to clone; clones share connections. Every operation may be
/// dropped at any point: its connection is closed, and the server cleans up after it.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) pool: Pool,
    pub(crate) locations: Locations,
}

impl Client {
    /// A client that asks these trackers. Connects to nobody yet.
    ///
    /// # Errors
    /// [`ClientError::NoTrackers`], [`ClientError::BadTracker`].
    pub fn new(config: ClientConfig) -> Result<Self, ClientError> {
        if config.trackers.is_empty() {
            return Err(ClientError::NoTrackers);
        }
        for tracker in &config.trackers {
            reel_proto::address::check(tracker)
                .map_err(|error| ClientError::BadTracker { tracker: tracker.clone(), error })?;
        }
        let pool = Pool::new(&config);
        let locations = Locations::new(config.location_ttl);
        Ok(Self { shared: Arc::new(Shared { config, pool, locations }) })
    }

    /// Where the files of an owner, or of a whole app, are: from the trackers or from an answer that is still fresh.
    pub async fn locate(&self, of: impl Into<Scope>) -> Result<Arc<Location>, ClientError> {
        let scope = of.into();
        if let Some(location) = self.shared.locations.get(scope) {
            return Ok(location);
        }
        let location = Arc::new(self.ask_location(scope).await?);
        self.shared.locations.keep(scope, &location);
        Ok(location)
    }

    pub(crate) fn walk(
        &self,
        of: impl Into<Scope>,
        purpose: Purpose,
        deadline: Option<Duration>,
    ) -> Walk {
        Walk {
            client: self.clone(),
            scope: of.into(),
            purpose,
            attempts: Attempts::new(self.shared.config.retry, Instant::now().into_std(), deadline),
            location: None,
            tried: 0,
            is_later: false,
        }
    }
}

/// The attempts of one operation, node by node, in the order of [`Location::node`]; after the last of them comes a pause,
/// and then the tracker is asked again, since what failed may have left.
#[derive(Debug)]
pub(crate) struct Walk {
    client: Client,
    scope: Scope,
    purpose: Purpose,
    attempts: Attempts,
    location: Option<Arc<Location>>,
    tried: usize,
    /// One of those that were tried may well do it later.
    is_later: bool,
}

impl Walk {
    /// The next node, and a connection to it.
    pub(crate) async fn node(&mut self) -> Result<(Node, Connection), ClientError> {
        loop {
            let outcome = self.next_node().await;
            match outcome {
                Ok(found) => return Ok(found),
                Err(error) => self.failed(error).await?,
            }
        }
    }

    async fn next_node(&mut self) -> Result<(Node, Connection), ClientError> {
        let location = match &self.location {
            Some(location) => Arc::clone(location),
            None => self.client.locate(self.scope).await?,
        };
        let node = location.node(self.tried, self.purpose);
        self.location = Some(location);
        let node = node.ok_or_else(|| ClientError::NoNodes { group: self.group() })?;
        let connection = self.client.shared.pool.connection(node.binary).await?;
        Ok((node, connection))
    }

    /// An attempt failed: returns when the next one may begin, or gives the error back when there is none.
    pub(crate) async fn failed(&mut self, error: ClientError) -> Result<(), ClientError> {
        let retry = error.retry();
        if retry == Retry::Never {
            return Err(error);
        }
        self.is_later |= retry != Retry::Elsewhere;
        let nodes = self.location.as_ref().map_or(0, |location| location.nodes.len());
        self.tried += 1;
        if self.tried < nodes {
            tracing::debug!(%error, "trying the next node");
            return Ok(());
        }
        if !self.is_later {
            return Err(error);
        }
        (self.tried, self.is_later) = (0, false);
        self.location = None;
        self.client.shared.locations.drop_answer(self.scope);
        let now = Instant::now().into_std();
        let Some(pause) = self.attempts.failed(now, getrandom::u64()?) else {
            return Err(ClientError::GaveUp(Box::new(error)));
        };
        tracing::debug!(%error, ?pause, "trying again");
        sleep(pause).await;
        Ok(())
    }

    /// Something got further than in every attempt before.
    pub(crate) fn progressed(&mut self) {
        self.attempts.progressed();
    }

    /// The answer that the last node came from.
    pub(crate) fn location(&self) -> Option<&Arc<Location>> {
        self.location.as_ref()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn group(&self) -> String {
        self.location.as_ref().map(|location| location.group.to_string()).unwrap_or_default()
    }
}

/// Runs an operation to its deadline, where it has one.
pub(crate) async fn limited<T>(
    deadline: Option<Duration>,
    operation: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match deadline {
        None => operation.await,
        Some(deadline) => {
            timeout(deadline, operation).await.unwrap_or(Err(ClientError::Deadline(deadline)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use reel_proto::{
        ext::Selection,
        name::{AppId, FileId, UserId},
    };

    use super::*;
    use crate::{Owner, Span, UploadDetails, UploadSource};

    // Applications spawn operations onto runtimes of many threads.
    #[test]
    fn every_operation_can_move_between_threads() {
        fn movable<T: Send>(_: T) {}
        let client = Client::new(ClientConfig::new(["127.0.0.1:1"])).unwrap();
        let owner = Owner { app: AppId::parse("a").unwrap(), user: UserId::parse("u").unwrap() };
        let file = owner.file(FileId::parse("f").unwrap());
        let (source, details) = (UploadSource::bytes("x"), UploadDetails::default());
        movable(client.upload(&file, &source, &details, &mut |_| {}));
        movable(client.download(&file, Span::whole()));
        movable(client.stat(&file));
        let of = Selection::of_user(owner.app, owner.user);
        movable(client.list(&of, None, 1));
        movable(client.usage(&of));
        movable(client.delete(&file));
        movable(client.groups());
    }

    #[test]
    fn a_client_needs_a_tracker() {
        let none: [&str; 0] = [];
        assert!(matches!(Client::new(ClientConfig::new(none)), Err(ClientError::NoTrackers)));
        let error = Client::new(ClientConfig::new(["127.0.0.1:1", "nonsense"])).unwrap_err();
        assert!(matches!(&error, ClientError::BadTracker { tracker, .. } if tracker == "nonsense"));
        assert_eq!(error.fault(), crate::error::Fault::Caller);
    }
}
