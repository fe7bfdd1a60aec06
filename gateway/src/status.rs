//! Answers of the gateway's own: what went wrong between it and the storage nodes.

use reel_node::http::{ServerConn, UpstreamError, media, socket::SendError};
use reel_proto::http::response::write_field;

/// Why no node's answer can be given. Nothing of an answer has gone out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No tracker answers.
    #[error("no tracker answers: try again")]
    NoTracker,
    /// The group has no active node.
    #[error("no storage node of the group is active: try again")]
    NoNode,
    /// The trackers know no such app.
    #[error("no tracker knows this app")]
    Unknown,
    /// As many upstream connections as allowed are in use.
    #[error("the gateway is at its limit: try again")]
    Busy,
    /// Those nodes that answer refuse for now: they are full, drain, or have too much to do.
    #[error("every storage node that answers is busy: try again")]
    NodesBusy,
    /// No node could be reached, or those that were gave no usable answer.
    #[error("no storage node gave an answer")]
    BadGateway,
    /// No node answered in time.
    #[error("the storage node did not answer in time")]
    Timeout,
}

impl Failure {
    /// RFC 9110 sections 15.6.3 to 15.6.5.
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::NoTracker | Self::NoNode | Self::Busy | Self::NodesBusy => 503,
            Self::Unknown => 404,
            Self::BadGateway => 502,
            Self::Timeout => 504,
        }
    }

    /// The failure after a further try: a node that is busy outweighs one that is not there,
    /// because the same request may succeed in a moment.
    pub(crate) const fn after(self, error: &UpstreamError) -> Self {
        match self {
            Self::NodesBusy => self,
            _ => Self::of(error),
        }
    }

    /// The failure of a try.
    pub(crate) const fn of(error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Busy => Self::Busy,
            UpstreamError::Timeout => Self::Timeout,
            _ => Self::BadGateway,
        }
    }

    /// Answers the client with it.
    pub(crate) async fn answer(&self, conn: &mut ServerConn) -> Result<u16, SendError> {
        let status = self.status();
        let fields = |out: &mut Vec<u8>| {
            if status == 503 {
                write_field(out, "Retry-After", "1");
            }
        };
        media::answer_error(conn, status, &self.to_string(), fields).await?;
        Ok(status)
    }
}
