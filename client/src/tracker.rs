//! Talking to trackers: LOCATE (200), or SADDRS (12) where a tracker is a deployed one; GROUPS (13).

use std::{io, net::SocketAddr};

use reel_proto::{
    command,
    ext::{self, Locate, Located, node_flag},
    limits,
    tracker::{
        Saddrs, SaddrsReply,
        groups::{self, GroupEntry},
    },
};
use tokio::{
    net::lookup_host,
    time::{Instant, sleep, timeout},
};

use crate::{
    attempts::Attempts,
    client::{Client, limited},
    connection::Connection,
    error::{ClientError, Refusal, Retry},
    location::{Location, Node, Owner, Scope},
};

impl Client {
    /// Every group and node as the first tracker that answers sees them: its GROUPS text without the NUL.
    pub async fn groups_text(&self) -> Result<String, ClientError> {
        let body = self.groups_body().await?;
        let text = body.strip_suffix(b"\0").unwrap_or(&body);
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// The same, taken apart. Times are the tracker's local ones, as if they were UTC: the text names no zone.
    pub async fn groups(&self) -> Result<Vec<GroupEntry>, ClientError> {
        let body = self.groups_body().await?;
        groups::parse(&body, 0).map_err(|error| ClientError::GroupsText { what: error.to_string() })
    }

    async fn groups_body(&self) -> Result<Vec<u8>, ClientError> {
        let config = &self.shared.config;
        let deadline = Some(config.request_deadline);
        let mut attempts = Attempts::new(config.retry, Instant::now().into_std(), deadline);
        let asking = async {
            loop {
                let mut failures = Vec::new();
                for tracker in &config.trackers {
                    match self.groups_of(tracker).await {
                        Ok(text) => return Ok(text),
                        Err(error) => failures.push((tracker.clone(), error)),
                    }
                }
                let error = ClientError::Trackers(failures);
                if error.retry() != Retry::Later {
                    return Err(error);
                }
                let now = Instant::now().into_std();
                let Some(pause) = attempts.failed(now, getrandom::u64()?) else {
                    return Err(error);
                };
                sleep(pause).await;
            }
        };
        limited(deadline, asking).await
    }

    async fn groups_of(&self, tracker: &str) -> Result<Vec<u8>, ClientError> {
        let mut connection = self.tracker_connection(tracker).await?;
        connection.request(command::GROUPS, &[]).await?;
        let max = limits::GROUPS_BYTES_MAX as usize;
        let body = connection.reply(command::REPLY_TRACKER, max).await?;
        self.shared.pool.give_back(connection);
        Ok(body.to_vec())
    }

    /// Asks the trackers one after another where the files of an owner or an app are; once, without a pause.
    pub(crate) async fn ask_location(&self, scope: Scope) -> Result<Location, ClientError> {
        let mut failures = Vec::new();
        for tracker in &self.shared.config.trackers {
            let answer = match (self.location_of(tracker, scope).await, scope.owner()) {
                // A deployed tracker knows no LOCATE and has one number for all refusals. One of ours that refuses
                // says why, and whether to come again.
                (
                    Err(ClientError::Refused {
                        reason: Refusal::Other | Refusal::UnknownCommand,
                        ..
                    }),
                    Some(owner),
                ) => self.addresses_of(tracker, owner).await,
                (answer, _) => answer,
            };
            match answer {
                Ok(location) if location.nodes.is_empty() => {
                    let group = location.group.to_string();
                    failures.push((tracker.clone(), ClientError::NoNodes { group }));
                }
                Ok(location) => return Ok(location),
                Err(error) => failures.push((tracker.clone(), error)),
            }
        }
        Err(ClientError::Trackers(failures))
    }

    async fn location_of(&self, tracker: &str, scope: Scope) -> Result<Location, ClientError> {
        let request = Locate { app: Some(scope.app), user: scope.user, file: None };
        let mut body = Vec::new();
        request.encode(&mut body);
        let mut connection = self.tracker_connection(tracker).await?;
        connection.request(command::LOCATE, &body).await?;
        let max = ext::REPLY_BYTES_MAX as usize;
        let body = connection.reply(command::REPLY_TRACKER, max).await?;
        let located = connection.decoded(Located::decode(&body))?;
        self.shared.pool.give_back(connection);
        let node = |node: &ext::NodeAddr| Node {
            binary: node.binary,
            media: node.media,
            read_only: node.flags & node_flag::READ_ONLY != 0,
            busy: node.flags & node_flag::BUSY != 0,
        };
        let nodes = located.nodes.iter().map(node).collect();
        Ok(Location { group: located.group, nodes, gateways: located.gateways })
    }

    async fn addresses_of(&self, tracker: &str, owner: Owner) -> Result<Location, ClientError> {
        let mut body = Vec::new();
        Saddrs { app: owner.app, user: owner.user }.encode(&mut body);
        let mut connection = self.tracker_connection(tracker).await?;
        connection.request(command::SADDRS, &body).await?;
        let max = limits::SADDRS_REPLY_BYTES_MAX as usize;
        let body = connection.reply(command::REPLY_TRACKER, max).await?;
        let reply = connection.decoded(SaddrsReply::decode(&body))?;
        self.shared.pool.give_back(connection);
        let node = |binary: &SocketAddr| Node {
            binary: *binary,
            media: None,
            read_only: false,
            busy: false,
        };
        let nodes = reply.nodes.iter().map(node).collect();
        Ok(Location { group: reply.group, nodes, gateways: Vec::new() })
    }

    /// A tracker may be named; every address of the name is tried.
    pub(crate) async fn tracker_connection(
        &self,
        tracker: &str,
    ) -> Result<Connection, ClientError> {
        let failed =
            |source: io::Error| ClientError::Connect { address: tracker.to_owned(), source };
        let found = timeout(self.shared.config.connect_timeout, lookup_host(tracker))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        let mut last = failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for address in found {
            match self.shared.pool.connection(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
