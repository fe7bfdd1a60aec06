//! Whether other nodes have a store path too, and what follows from that.
//!
//! A store path of one node is a folder of a local file system. One of several nodes is a mount of a replicated one, and
//! there three things are otherwise:
//! - **Durable is what was synced by itself.** A sync of the file system or of a folder ends at the mount; that of a file
//!   reaches the servers behind it, and commits the file's name with it. So whoever writes a file syncs it, and a name is
//!   made durable by its file ([`super::mark::settle_name`]).
//! - **Nobody is alone in the folder**: each node has files of its own below `.reel/marks/`, the lock of the store is
//!   shared, and who changes the state of a file holds a lock on it meanwhile.
//! - **The journal has no part in it**: it stands in for one disk of one node.

use reel_proto::{checksum::Crc64, name::HostName};

use super::{identity, mark};

/// Who has a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// This node alone.
    Alone,
    /// Nodes that mount it; ours is called so in file names.
    With(String),
}

impl Sharing {
    /// Of a node that others share the store with.
    pub(crate) fn with(node: &HostName) -> Self {
        Self::With(file_name(node.as_str()))
    }

    /// Whether others have it, too.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::With(_))
    }

    /// The name of our mark file.
    pub(crate) fn mark(&self) -> String {
        match self {
            Self::Alone => mark::LOCAL.to_owned(),
            Self::With(node) => format!("{node}.mark"),
        }
    }

    /// Where a file lies that is ours alone, relative to the store's root.
    pub(crate) fn own_file(&self, name: &str) -> String {
        match self {
            Self::Alone => format!("{}/{name}", identity::FOLDER),
            Self::With(node) => format!("{}/{node}.{name}", mark::FOLDER),
        }
    }
}

/// A node's name as that of a file. One that cannot be any is replaced by its checksum.
fn file_name(node: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let reserved = format!("{node}.mark") == mark::LOCAL || node.starts_with(['.', '=']);
    if node.bytes().all(is_plain) && !reserved {
        return node.to_owned();
    }
    let mut crc = Crc64::new();
    crc.update(node.as_bytes());
    format!("={:016x}", crc.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_name_that_is_a_file() {
        assert_eq!(file_name("media-1.example"), "media-1.example");
        let odd = ["local", ".", "..", "a/b", "ä", "=0", "a:b"];
        let names: std::collections::BTreeSet<String> =
            odd.iter().map(|name| file_name(name)).collect();
        assert_eq!(names.len(), odd.len(), "{names:?}");
        assert!(names.iter().all(|name| name.len() == 17 && name.starts_with('=')));
    }
}
