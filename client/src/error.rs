//! What can go wrong for a client, with fields instead of text, and three answers to each: whose fault it was, whether
//! to try again, and how far it reaches.

use std::{io, net::SocketAddr, time::Duration};

pub use reel_proto::refusal::{Refusal, Retry};
use reel_proto::{address::AddressError, name::NameError};

/// Whose doing an error was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller's: the same request can never succeed.
    Caller,
    /// This machine's: its disk, its memory, its random numbers.
    Local,
    /// The network's, or a node's that was down, busy or restarting.
    Peer,
}

/// An error of a client operation. After any error of an upload the file may be stored or not: asking again with the
/// same file id and content finds out, and is answered as a success if it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A name that no server would take.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No tracker is configured.
    #[error("no tracker is configured")]
    NoTrackers,
    /// A tracker is configured by a text that names no address.
    #[error("tracker {tracker:?}: {error}")]
    BadTracker {
        /// As configured.
        tracker: String,
        /// How to write it.
        error: AddressError,
    },
    /// Every tracker failed; the reasons in the order in which they were asked.
    #[error("{}", all_of(.0))]
    Trackers(Vec<(String, ClientError)>),
    /// The user's group has no node that is up.
    #[error("no storage node of group {group} is active")]
    NoNodes {
        /// The group.
        group: String,
    },
    /// A tracker named a node by something that is no address.
    #[error("a tracker names the node {text:?}, which is no address")]
    BadAddress {
        /// What it said.
        text: String,
    },
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// To whom.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A connection that ended or broke before the answer was whole.
    #[error("the connection to {address} broke: {source}")]
    Broken {
        /// With whom.
        address: SocketAddr,
        /// How.
        source: io::Error,
    },
    /// No byte moved for too long.
    #[error("{address} did not move a byte for {waited:?}")]
    Stalled {
        /// Who.
        address: SocketAddr,
        /// How long.
        waited: Duration,
    },
    /// The node answered with an error.
    #[error("{address} refuses: {text}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// Why, as far as the node told it in a number.
        reason: Refusal,
        /// The node's words, for people.
        text: String,
    },
    /// Bytes that are no answer of this protocol.
    #[error("{address} does not speak the protocol: {what}")]
    Protocol {
        /// Who.
        address: SocketAddr,
        /// What was wrong with them.
        what: String,
    },
    /// What is to be uploaded cannot be read.
    #[error("cannot read the content: {0}")]
    Source(#[source] io::Error),
    /// The bytes are not those that the store promised. What was written of them must not be used.
    #[error("the checksum of the content is {found:016x}, not {expected:016x}")]
    Checksum {
        /// As the store or the upload says.
        expected: u64,
        /// Of the bytes that were there.
        found: u64,
    },
    /// While a download was resumed the file id came to name another file.
    #[error("the file was replaced while it was downloaded")]
    Replaced,
    /// More bytes than a frame can announce.
    #[error("{size} bytes are more than an upload can have")]
    TooLarge {
        /// Bytes of the content.
        size: u64,
    },
    /// A name or content type that does not fit its field.
    #[error("the {what} has more than 255 bytes or a control character")]
    BadDetail {
        /// Which.
        what: &'static str,
    },
    /// A GROUPS text that is none.
    #[error("the tracker's GROUPS text: {what}")]
    GroupsText {
        /// What is wrong with it.
        what: String,
    },
    /// The operation took longer than it may, with this as the last failure.
    #[error("gave up: {0}")]
    GaveUp(#[source] Box<ClientError>),
    /// The operation took longer than it may.
    #[error("not done within {0:?}")]
    Deadline(Duration),
    /// The kernel gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl ClientError {
    /// Whose doing it was.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Name(_)
            | Self::NoTrackers
            | Self::BadTracker { .. }
            | Self::TooLarge { .. }
            | Self::BadDetail { .. } => Fault::Caller,
            Self::Source(_) | Self::Random(_) => Fault::Local,
            Self::Refused {
                reason:
                    Refusal::Malformed
                    | Refusal::NoSuchFile
                    | Refusal::Conflict
                    | Refusal::WrongState
                    | Refusal::OutOfRange
                    | Refusal::UnknownApp,
                ..
            } => Fault::Caller,
            Self::GaveUp(last) => last.fault(),
            _ => Fault::Peer,
        }
    }

    /// When the same operation may succeed. The client has tried by then, within its deadlines.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::NoNodes { .. }
            | Self::GaveUp(_)
            | Self::Deadline(_) => Retry::Later,
            Self::Trackers(failures) => {
                let all_final = failures.iter().all(|(_, error)| error.retry() == Retry::Never);
                if all_final { Retry::Never } else { Retry::Later }
            }
            // Bytes of another protocol or of a broken disk: another node may be sound.
            Self::Protocol { .. } | Self::Checksum { .. } => Retry::Elsewhere,
            Self::Refused { reason, .. } => reason.retry(),
            _ => Retry::Never,
        }
    }

    /// Whether the node may have done what was asked although this is all that is known of it.
    pub(crate) fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Broken { .. } | Self::Stalled { .. } | Self::Protocol { .. })
    }

    /// The node's reason, where it told one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            Self::GaveUp(last) => last.refusal(),
            _ => None,
        }
    }
}

/// What became of asking every tracker. One that refuses has answered.
fn all_of(failures: &[(String, ClientError)]) -> String {
    let answered = failures.iter().any(|(_, error)| matches!(error, ClientError::Refused { .. }));
    let mut text = if answered { "no tracker helps: " } else { "no tracker answers: " }.to_owned();
    for (index, (tracker, error)) in failures.iter().enumerate() {
        if index > 0 {
            text.push_str("; ");
        }
        // Most errors name the address already; a tracker given by its name may have several.
        let error = error.to_string();
        if !error.contains(tracker) {
            text.push_str(&format!("{tracker}: "));
        }
        text.push_str(&error);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_may_answer_later_unless_all_of_them_said_no() {
        let refused = || ClientError::Refused {
            address: ([127, 0, 0, 1], 1).into(),
            reason: Refusal::UnknownApp,
            text: String::new(),
        };
        let down = || ClientError::Connect {
            address: "x:1".into(),
            source: io::ErrorKind::TimedOut.into(),
        };
        let all = ClientError::Trackers(vec![("a".into(), refused()), ("b".into(), refused())]);
        assert_eq!(all.retry(), Retry::Never);
        let some = ClientError::Trackers(vec![("a".into(), refused()), ("b".into(), down())]);
        assert_eq!(some.retry(), Retry::Later);
        assert!(some.to_string().contains("a: 127.0.0.1:1 refuses"), "{some}");
    }

    #[test]
    fn a_tracker_that_refuses_has_answered_and_is_named_once() {
        let address = ([127, 0, 0, 1], 21000).into();
        let refused =
            ClientError::Refused { address, reason: Refusal::UnknownApp, text: "no app".into() };
        let one = ClientError::Trackers(vec![("127.0.0.1:21000".into(), refused)]);
        assert_eq!(one.to_string(), "no tracker helps: 127.0.0.1:21000 refuses: no app");
        let down = ClientError::Connect {
            address: "t:1".into(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        let down = ClientError::Trackers(vec![("t:1".into(), down)]).to_string();
        assert!(down.starts_with("no tracker answers: cannot connect to t:1"), "{down}");
    }
}
