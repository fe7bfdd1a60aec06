//! What operators ask: the storage nodes as trackers see them (NODES, 208), and the drain of one (DRAIN, 223).

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use reel_proto::{
    command,
    ext::{self, NodeInfo, Nodes, NodesReply},
    name::HostName,
    peer::{DrainReply, OperatorDrain},
    sign::{self, Nonce},
};

use crate::{
    client::{Client, limited},
    error::{ClientError, Refusal},
};

/// Most bytes of a reply to DRAIN: a number, with room for what a later version appends.
const DRAIN_REPLY_MAX: usize = 64;

/// Pages of one listing: more nodes than any tracker knows. It ends a listing whose tracker goes round in circles.
const PAGES_MAX: usize = 1000;

impl Client {
    /// The trackers that this client asks, as they were given.
    #[must_use]
    pub fn trackers(&self) -> &[String] {
        &self.shared.config.trackers
    }

    /// The storage nodes as the first tracker that answers sees them; each is asked once.
    ///
    /// # Errors
    /// [`Refusal::Other`] or [`Refusal::UnknownCommand`]: of those that answer all are deployed ones, which only know
    /// [`Client::groups`].
    pub async fn nodes(&self) -> Result<Vec<NodeInfo>, ClientError> {
        let (mut failures, mut deployed) = (Vec::new(), None);
        for tracker in self.trackers() {
            match self.nodes_of(tracker).await {
                Ok(nodes) => return Ok(nodes),
                Err(
                    error @ ClientError::Refused {
                        reason: Refusal::Other | Refusal::UnknownCommand,
                        ..
                    },
                ) => deployed = Some(error),
                Err(error) => failures.push((tracker.clone(), error)),
            }
        }
        Err(deployed.unwrap_or(ClientError::Trackers(failures)))
    }

    /// As [`Client::nodes`], of this tracker.
    pub async fn nodes_of(&self, tracker: &str) -> Result<Vec<NodeInfo>, ClientError> {
        limited(Some(self.shared.config.request_deadline), async {
            let mut connection = self.tracker_connection(tracker).await?;
            let (mut all, mut after) = (Vec::new(), 0);
            for _ in 0..PAGES_MAX {
                let mut body = Vec::new();
                Nodes { after }.encode(&mut body);
                connection.request(command::NODES, &body).await?;
                let max = ext::REPLY_BYTES_MAX as usize;
                let body = connection.reply(command::REPLY_TRACKER, max).await?;
                let page = connection.decoded(NodesReply::decode(&body))?;
                all.extend(page.nodes);
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
            self.shared.pool.give_back(connection);
            Ok(all)
        })
        .await
    }

    /// Has the storage node of this name drained, or no longer: it remembers that, and tells its trackers at once. Gives how many requests
    /// it has under way. May be repeated. `secret` is the cluster's; without one the node must be on this machine.
    ///
    /// # Errors
    /// [`Refusal::NotTrusted`]: another secret, another node, or the clocks are more than a minute apart; [`Refusal::UnknownCommand`] or
    /// [`Refusal::Other`]: the node is one that cannot be drained; [`Refusal::Failed`]: no store path could note it.
    pub async fn drain_node(
        &self,
        node: SocketAddr,
        host: HostName,
        secret: Option<&[u8]>,
        on: bool,
    ) -> Result<u32, ClientError> {
        let mut payload = Vec::new();
        OperatorDrain { host, on }.encode(&mut payload);
        let mut nonce = Nonce::default();
        getrandom::fill(&mut nonce)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let body = sign::seal(secret, command::DRAIN, now, nonce, &payload);
        limited(Some(self.shared.config.request_deadline), async {
            let mut connection = self.shared.pool.connection(node).await?;
            connection.request(command::DRAIN, &body).await?;
            let reply = connection.reply(command::REPLY_STORAGE, DRAIN_REPLY_MAX).await?;
            let reply = connection.decoded(DrainReply::decode(&reply))?;
            self.shared.pool.give_back(connection);
            Ok(reply.under_way)
        })
        .await
    }
}
