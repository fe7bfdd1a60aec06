//! Why a request to one of our own commands (200–219) was refused, as the number of its error reply.
//!
//! The deployed system always sends −1, and so do we for its commands. A client of ours needs more than a text for
//! people: whether to ask another node, to wait, or to give up.

use crate::frame::{self, HEADER_LEN};

/// A whole error reply with the number of `refusal`: for our own commands. To the deployed system's commands the
/// answer is [`frame::error_reply`], whose number is always −1.
pub fn error_reply(refusal: Refusal, reply_command: u8, host: &str, text: &str) -> Vec<u8> {
    let mut reply = frame::error_reply(reply_command, host, text);
    reply[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&refusal.number().to_be_bytes());
    reply
}

/// Why a node refused a request. `number` and `of` are each other's reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// −1: no more is known; what deployed nodes send, also for a command that they do not know.
    Other,
    /// −2: the request breaks the protocol or a limit.
    Malformed,
    /// −3: this node does not know the command.
    UnknownCommand,
    /// −4: no such file of this app and user.
    NoSuchFile,
    /// −5: the file id is taken: by other content, by another owner, or by a deleted file.
    Conflict,
    /// −6: the file is deleted, or is not, and the command needs the opposite.
    WrongState,
    /// −7: the range does not lie within the file.
    OutOfRange,
    /// −8: the content that came does not have the checksum that came.
    BadChecksum,
    /// −9: every store path is full. Another node of the group may not be.
    Full,
    /// −10: overloaded, draining, or without path ids for a moment: the same again, later or elsewhere.
    Busy,
    /// −11: every store path takes no writes until an operator says so. Another node of the group may.
    ReadOnly,
    /// −12: the disk, the metadata or the file itself failed. Another node of the group may have it whole.
    Failed,
    /// −13: the app is not one that the tracker knows.
    UnknownApp,
    /// −14: no node of the group is active.
    NoActiveNode,
    /// −15: a command between nodes that is not signed with this cluster's secret, or too late, or a second time.
    NotTrusted,
}

/// Every refusal, for tables and tests; a refusal's number is −1 − its place here.
pub const ALL: [Refusal; 15] = [
    Refusal::Other,
    Refusal::Malformed,
    Refusal::UnknownCommand,
    Refusal::NoSuchFile,
    Refusal::Conflict,
    Refusal::WrongState,
    Refusal::OutOfRange,
    Refusal::BadChecksum,
    Refusal::Full,
    Refusal::Busy,
    Refusal::ReadOnly,
    Refusal::Failed,
    Refusal::UnknownApp,
    Refusal::NoActiveNode,
    Refusal::NotTrusted,
];

impl Refusal {
    /// The number on the wire.
    pub const fn number(self) -> i16 {
        -1 - (self as i16)
    }

    /// The refusal of a number; [`Refusal::Other`] for one that is not known.
    pub fn of(number: i16) -> Self {
        let place = usize::try_from(-1 - i32::from(number)).unwrap_or(0);
        ALL.get(place).copied().unwrap_or(Self::Other)
    }

    /// When the same request may succeed.
    pub const fn retry(self) -> Retry {
        match self {
            Self::Busy | Self::NoActiveNode | Self::BadChecksum => Retry::Later,
            Self::Full | Self::ReadOnly | Self::Failed => Retry::Elsewhere,
            _ => Retry::Never,
        }
    }
}

/// When a request that failed may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Never as it is.
    Never,
    /// At another node, at once; this one needs a person or space first.
    Elsewhere,
    /// At any node, after a pause.
    Later,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_fixed_and_come_back() {
        for (place, refusal) in ALL.into_iter().enumerate() {
            assert_eq!(i32::from(refusal.number()), -1 - place as i32, "{refusal:?}");
            assert_eq!(Refusal::of(refusal.number()), refusal);
        }
    }

    #[test]
    fn the_number_of_an_error_reply_is_the_refusals() {
        let reply = error_reply(Refusal::NoSuchFile, 102, "vm", "no such file");
        let error = frame::decode_error(&reply[HEADER_LEN..]);
        assert_eq!(Refusal::of(error.number), Refusal::NoSuchFile);
        assert_eq!(error.text, "[vm] no such file");
    }

    #[test]
    fn any_other_number_is_an_unknown_reason() {
        for number in [0, 1, -16, i16::MIN, i16::MAX] {
            assert_eq!(Refusal::of(number), Refusal::Other, "{number}");
        }
    }
}
