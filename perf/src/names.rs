//! The names that loads and servers agree on.

use std::fmt;

use anyhow::Result;
use reel_proto::{
    name::{AppId, FileId, UserId},
    storage::FileRef,
};

/// The app of every test file: the store's default.
const APP: &str = "tnvideo";
/// The user of every test file: the store's default.
const USER: &str = "tnv001";

/// App and user of every test file.
pub(crate) fn owner() -> Result<(AppId, UserId)> {
    Ok((AppId::parse(APP)?, UserId::parse(USER)?))
}

/// A test file by its id.
pub(crate) fn file(id: &str) -> Result<FileRef> {
    let (app, user) = owner()?;
    Ok(FileRef { app, user, file: FileId::parse(id)? })
}

/// The file id of a load's upload: behind the prefix a number that is as good as drawn, since file ids come in no order
/// and a database that meets them in order has less to do.
pub(crate) struct Numbered<'a>(pub(crate) &'a str, pub(crate) u64);

impl fmt::Display for Numbered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Steps that can be undone: different numbers stay different.
        let mut mixed = self.1.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed ^= mixed >> 32;
        write!(f, "{}-{mixed:016x}", self.0)
    }
}

/// As [`Numbered`], as text.
pub(crate) fn numbered(prefix: &str, number: u64) -> String {
    Numbered(prefix, number).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbered_ids_are_all_different_and_in_no_order() {
        let ids: Vec<_> = (0..10_000).map(|number| numbered("f", number)).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        let up = ids.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((4_500..5_500).contains(&up), "{up}");
    }
}
