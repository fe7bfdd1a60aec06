//! Limits of the texts that reach a database, the same on every store.
//!
//! The wire checks them first (`reel_proto::name`, which is stricter about which characters an id
//! may hold); here they are what keeps a row within its column on any database, so that a file
//! accepted with one store is never cut or refused when its metadata moves to another.

use std::fmt;

use reel_proto::limits;

use crate::row::{FileRow, NewFile};

/// Longest `file_path`, bytes: the column is varchar(512). A longer one is refused.
pub const PATH_BYTES_MAX: usize = 512;

/// Longest folder of a store, bytes: the column is varchar(512), of which any database makes a key
/// together with the node's name. A longer one is refused.
pub const STORE_PATH_BYTES_MAX: usize = 512;

/// Longest uuid of a store, bytes: the column is varchar(36).
pub const STORE_UUID_BYTES_MAX: usize = 36;

/// Which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextField {
    /// App id.
    App,
    /// Group name.
    Group,
    /// User id.
    User,
    /// File id.
    File,
    /// Key of a sequence.
    Key,
    /// `file_path` of a row.
    Path,
    /// Original name.
    Name,
    /// Content type.
    ContentType,
    /// Name of a node.
    Node,
    /// Folder of a store on a node.
    StorePath,
    /// Uuid of a store.
    StoreUuid,
}

impl fmt::Display for TextField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::App => "app id",
            Self::Group => "group name",
            Self::User => "user id",
            Self::File => "file id",
            Self::Key => "id key",
            Self::Path => "file path",
            Self::Name => "name",
            Self::ContentType => "content type",
            Self::Node => "node name",
            Self::StorePath => "store path",
            Self::StoreUuid => "store uuid",
        })
    }
}

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextFault {
    /// Empty where it may not be.
    Empty,
    /// Longer than its limit.
    TooLong,
    /// Holds a NUL, which ends a text on the wire.
    Nul,
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::TooLong => "is too long",
            Self::Nul => "holds a NUL",
        })
    }
}

/// A text outside of its limits. Does not hold the text: it goes into logs and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the {field} {fault}")]
pub struct TextError {
    /// Which text.
    pub field: TextField,
    /// What is wrong with it.
    pub fault: TextFault,
}

/// Checks one text.
pub(crate) fn check(field: TextField, text: &str) -> Result<(), TextError> {
    let (bytes_min, bytes_max) = match field {
        TextField::App => (1, limits::APP_BYTES_MAX),
        TextField::Group => (1, limits::GROUP_BYTES_MAX),
        TextField::User => (0, limits::USER_BYTES_MAX),
        TextField::File => (1, limits::FILE_BYTES_MAX),
        TextField::Key => (1, limits::ID_KEY_BYTES_MAX),
        TextField::Path => (1, PATH_BYTES_MAX),
        TextField::Name => (0, limits::ORIGINAL_NAME_BYTES_MAX),
        TextField::ContentType => (0, limits::CONTENT_TYPE_BYTES_MAX),
        TextField::Node => (1, limits::HOST_BYTES_MAX),
        TextField::StorePath => (1, STORE_PATH_BYTES_MAX),
        TextField::StoreUuid => (1, STORE_UUID_BYTES_MAX),
    };
    let chars_max = if field == TextField::User { limits::USER_CHARS_MAX } else { usize::MAX };
    let fault = if text.len() < bytes_min {
        TextFault::Empty
    } else if text.len() > bytes_max || text.chars().count() > chars_max {
        TextFault::TooLong
    } else if text.as_bytes().contains(&0) {
        TextFault::Nul
    } else {
        return Ok(());
    };
    Err(TextError { field, fault })
}

/// Checks a text that may be absent.
pub(crate) fn check_optional(field: TextField, text: Option<&str>) -> Result<(), TextError> {
    text.map_or(Ok(()), |text| check(field, text))
}

/// Checks every text of a row that is about to be inserted.
pub(crate) fn check_new(row: &NewFile) -> Result<(), TextError> {
    check(TextField::File, &row.file)?;
    check(TextField::App, &row.app)?;
    check(TextField::User, &row.user)?;
    check(TextField::Path, &row.file_path)?;
    check_optional(TextField::Name, row.name.as_deref())?;
    check_optional(TextField::ContentType, row.content_type.as_deref())
}

/// Checks every text of a row that is about to be written over what is there.
pub(crate) fn check_row(row: &FileRow) -> Result<(), TextError> {
    check(TextField::File, &row.file)?;
    check(TextField::App, &row.app)?;
    check(TextField::User, &row.user)?;
    check(TextField::Path, &row.file_path)?;
    check_optional(TextField::Name, row.name.as_deref())?;
    check_optional(TextField::ContentType, row.content_type.as_deref())
}
