//! The names that loads and servers agree on.

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

/// The file id of a load's upload.
pub(crate) fn numbered(prefix: &str, number: u64) -> String {
    format!("{prefix}-{number}")
}
