//! What the serving side says to the stores and hears from them: requests, answers, errors, settings.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reel_meta::mysql::MysqlOptions;
use reel_proto::{
    name::{FileId, GroupName, HostName},
    path::{PathId, RelativePath},
};

use super::{
    adoption::Adoption,
    brick::{BrickConfig, BrickStatus},
    placement::{Health, Reserve},
};
use crate::{journal::JournalConfig, metadata::RowError};

/// When an upload is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// When content, record, name and row survive a power loss.
    #[default]
    Sync,
    /// When the row is committed; the content follows within the kernel's write-back time (about 30 s). A power
    /// loss in between loses acknowledged uploads: the choice of whoever says so.
    Async,
}

/// One store path.
#[derive(Debug, Clone)]
pub struct StorePathConfig {
    /// The folder, on a file system with user attributes.
    pub path: PathBuf,
    /// Whether other nodes mount it, too; `None`: if it lies on a file system that other machines may have.
    pub shared: Option<bool>,
    /// Where the node has a brick of the volume that `path` is a mount of.
    pub brick: Option<BrickConfig>,
    /// Its key at the ID node, at most 64 bytes; `None`: the path's text, or a generated key if that is too long.
    /// Fixed in the store's identity when it is made; another one later refuses to start.
    pub id_key: Option<String>,
    /// Other prefixes under which rows name files of this store: `../data` for a database taken over.
    pub aliases: Vec<String>,
    /// What stays free.
    pub reserve: Reserve,
    /// Threads for what blocks on this disk.
    pub workers: usize,
    /// Jobs that may wait for those threads; past it uploads are refused as overloaded.
    pub queue_limit: usize,
    /// Uuid of the store that the node had here and that another one, or a new one, may take the place of.
    pub replaced: Option<String>,
}

impl StorePathConfig {
    /// A store path with the defaults: 8 workers, 1,024 waiting jobs.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            shared: None,
            brick: None,
            id_key: None,
            aliases: Vec::new(),
            reserve: Reserve::default(),
            workers: 8,
            queue_limit: 1024,
            replaced: None,
        }
    }
}

/// All store paths of a node.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The node's name: with a store path it tells which store to expect there.
    pub node: HostName,
    /// At least one.
    pub paths: Vec<StorePathConfig>,
    /// The node's group; a store made for another group refuses to open.
    pub group: GroupName,
    /// When uploads are acknowledged.
    pub durability: Durability,
    /// How long a deleted file can be restored; it is purged at the first pass after that.
    pub retention: Duration,
    /// Path ids of one request to the ID node; the next is asked for when half of it is left.
    pub id_block: u64,
    /// Most files of one commit.
    pub commit_files_max: usize,
    /// A call to a disk that takes longer takes that disk out of placement until it comes back.
    pub hang_limit: Duration,
    /// The commit journal; `None`: every group is synced where it lies.
    pub journal: Option<JournalConfig>,
    /// How long a start waits for files of a volume that its servers do not give yet.
    pub sweep_patience: Duration,
    /// Repair leaves files alone that are younger: the longest time from a file's creation to its row, plus clock skew.
    pub repair_age_min: Duration,
    /// Time between repair passes; zero switches them off.
    pub repair_interval: Duration,
    /// Bytes a second that are read of files of a deployed system, to take them over; 0: as fast as it goes.
    pub adoption_rate: u64,
    /// The database that says which group a user's files are in; `None`: there is only this one.
    pub groups: Option<MysqlOptions>,
}

impl StoreConfig {
    /// The defaults, for a node of `group` with `paths`.
    pub fn new(node: HostName, group: GroupName, paths: Vec<StorePathConfig>) -> Self {
        Self {
            node,
            paths,
            group,
            durability: Durability::Sync,
            retention: Duration::from_secs(7 * 24 * 3600),
            id_block: 1024,
            commit_files_max: 256,
            hang_limit: Duration::from_secs(10),
            journal: None,
            sweep_patience: Duration::from_secs(20),
            repair_age_min: Duration::from_secs(24 * 3600),
            repair_interval: Duration::from_secs(24 * 3600),
            adoption_rate: 64 << 20,
            groups: None,
        }
    }
}

/// The time, as a test may want to set it.
pub trait Clock: Send + Sync + 'static {
    /// Seconds since 1970.
    fn now(&self) -> u64;
}

/// The system's time.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs())
    }
}

/// A file of a user, named in full.
pub use reel_proto::storage::FileRef as FileKey;

/// What to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
// Made once for each lookup and moved once: a box would cost more than the bytes.
#[allow(clippy::large_enum_variant)]
pub enum Lookup {
    /// By file id alone, in whichever table has it; the older where two have it.
    Any(FileId),
    /// Only if it belongs to this app and user; for others it does not exist.
    Owned(FileKey),
}

impl Lookup {
    /// The file id, for [`super::Stores::epoch`].
    pub fn file(&self) -> &FileId {
        match self {
            Self::Any(file) => file,
            Self::Owned(key) => &key.file,
        }
    }
}

/// A block of path ids to fetch from the ID node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRequest {
    /// Which store path; give it back with the block.
    pub store: usize,
    /// The key at the ID node.
    pub key: String,
    /// How many ids.
    pub count: u64,
    /// The store's durable mark: the ID node moves its sequence up to it if it is behind.
    pub at_least: u64,
}

/// An upload about to begin.
#[derive(Debug, Clone)]
pub struct UploadRequest {
    /// Whose it is and what it is called.
    pub key: FileKey,
    /// Bytes to come, where the client said so; then exactly as many must come.
    pub size: Option<u64>,
    /// The file's name at the client, at most 255 bytes.
    pub name: Option<String>,
    /// Its media type, at most 255 bytes.
    pub content_type: Option<String>,
    /// When it may go, seconds since 1970.
    pub expires_at: Option<u64>,
}

/// How an acknowledged upload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new file.
    New,
    /// The same file was there already, checked to its last byte (or written again, if it was not whole).
    Same,
}

/// An acknowledged upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// New or the same.
    pub outcome: Outcome,
    /// The file's path id.
    pub path_id: PathId,
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME of the content.
    pub checksum: u64,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// Who has to change something for an error to go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client: the same request will fail again.
    Client,
    /// This node, for a while: the same request may well succeed later or elsewhere.
    Busy,
    /// This node or its disk or database: a person should look.
    Node,
}

/// Why an upload is not acknowledged. Unless it says otherwise, nothing is left of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UploadError {
    /// The file id is taken: by other content, by another user, or by a deleted file that is not purged yet.
    #[error("the file id is taken ({0})")]
    Conflict(Conflict),
    /// Fewer or more bytes than announced.
    #[error("{got} bytes came where {announced} were announced")]
    Size {
        /// What the request said.
        announced: u64,
        /// What came until this was clear.
        got: u64,
    },
    /// A name or content type past 255 bytes.
    #[error("{field} is longer than 255 bytes")]
    TooLong {
        /// Which of them.
        field: &'static str,
    },
    /// No store path has room.
    #[error("no space")]
    Full,
    /// Every store path that could take it is read-only.
    #[error("every store path is read-only")]
    ReadOnly,
    /// No path ids in hand, or too much work before a disk: try again.
    #[error("{0}")]
    Busy(&'static str),
    /// The store path took longer than a request may wait. The file may be stored yet: the same upload again tells.
    #[error("the store path does not answer")]
    Late,
    /// The node is shutting down.
    #[error("the node is draining")]
    Draining,
    /// A disk failed under it.
    #[error("store path {store}: {error}")]
    Disk {
        /// Index of the store path.
        store: usize,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The metadata could not take the row. Where `unknown`, the row may be there: the same upload again tells.
    #[error("metadata: {text}")]
    Metadata {
        /// What it said.
        text: Arc<str>,
        /// Whether the row may have been committed; the file is kept until that is known.
        unknown: bool,
        /// Whether it may take the row later.
        retryable: bool,
    },
}

/// What the file id that was asked for stands for already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// A file with other content.
    OtherContent,
    /// A file of another user or application.
    OtherOwner,
    /// A deleted file; restore is the way back, purge the way on.
    Deleted,
    /// A file past its expiry, which no reader gets: it has to be deleted and purged before the id is free.
    Expired,
    /// The same content, to be kept for less long than what was uploaded now.
    ExpiresEarlier,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OtherContent => "other content",
            Self::OtherOwner => "another owner",
            Self::Deleted => "a deleted file that is not purged yet",
            Self::Expired => "a file past its expiry that is not purged yet",
            Self::ExpiresEarlier => "the same content, which expires earlier",
        })
    }
}

impl UploadError {
    /// The status of the HTTP answer.
    pub fn http_status(&self) -> u16 {
        match self {
            Self::Conflict(_) => 409,
            Self::Size { .. } | Self::TooLong { .. } => 400,
            Self::Full => 507,
            Self::ReadOnly | Self::Busy(_) | Self::Late | Self::Draining => 503,
            Self::Metadata { .. } => 503,
            Self::Disk { .. } => 500,
        }
    }

    /// Whose fault it is, which also says whether to try again.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Conflict(_) | Self::Size { .. } | Self::TooLong { .. } => Fault::Client,
            Self::Full | Self::Busy(_) | Self::Late | Self::Draining => Fault::Busy,
            Self::Metadata { unknown: false, retryable: true, .. } => Fault::Busy,
            Self::ReadOnly | Self::Disk { .. } | Self::Metadata { .. } => Fault::Node,
        }
    }
}

/// Where a file stands in the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Readable.
    Normal,
    /// Softly deleted.
    Deleted,
}

/// A file as its row tells it, and where it lies. Immutable but for its status.
#[derive(Debug, Clone)]
pub struct Located {
    /// Whose it is and what it is called.
    pub key: FileKey,
    /// Which store path.
    pub store: usize,
    /// The number of its place; with the size it makes the ETag.
    pub path_id: PathId,
    /// Its place below the store path.
    pub relative: RelativePath,
    /// The text of its row's `file_path`: with the key it names this very row, not a later file of the same id.
    pub file_path: String,
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME of the content; files taken over may have none yet.
    pub checksum: Option<u64>,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Normal or deleted.
    pub status: Status,
    /// When it was deleted.
    pub deleted_at: Option<u64>,
    /// When its owner wants it gone.
    pub expires_at: Option<u64>,
    /// Its name at the uploader.
    pub name: Option<String>,
    /// Its media type.
    pub content_type: Option<String>,
}

/// Where a file lies, and how long it must be: what a reader that remembers a file needs to open it again.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Which store path.
    pub store: usize,
    /// The number of its place.
    pub path_id: PathId,
    /// Its place below the store path.
    pub relative: RelativePath,
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME of the content; files taken over may have none yet.
    pub checksum: Option<u64>,
}

impl Located {
    /// Where it lies.
    pub fn place(&self) -> Place {
        Place {
            store: self.store,
            path_id: self.path_id,
            relative: self.relative,
            size: self.size,
            checksum: self.checksum,
        }
    }
}

/// Why a lookup or a list has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LookupError {
    /// The metadata did not answer.
    #[error("metadata: {0}")]
    Metadata(Arc<str>),
    /// The metadata does not take the question now: its queue is full, or no server answers. Try again, or another node.
    #[error("metadata: {0}")]
    Busy(Arc<str>),
    /// Its disk failed before the file was there. It is written again from the journal: try again.
    #[error("its disk failed, and it is being brought back from the journal")]
    Doubtful,
    /// The row names a file in no store path of this node.
    #[error("no store path for {0:?}")]
    Unplaced(String),
}

impl LookupError {
    /// Neither the metadata nor the store path says whether a file that was known is deleted.
    pub(crate) fn unsure() -> Self {
        Self::Busy("whether the file is deleted can be asked nowhere".into())
    }

    /// Whether a retry helps: nothing is wrong with the metadata.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Doubtful)
    }
}

/// Why a file that has a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenFileError {
    /// It is not on the disk.
    #[error("the file is missing on the disk")]
    Missing,
    /// It is shorter or longer than its row says: no byte of it is served.
    #[error("{on_disk} bytes on the disk, {expected} in the row")]
    Size {
        /// Size on disk.
        on_disk: u64,
        /// Size by the row.
        expected: u64,
    },
    /// The store path's queue is full: try again.
    #[error("too much work waits for this disk")]
    Busy,
    /// The store path took longer than a request may wait: another node may have it.
    #[error("the store path does not answer")]
    Late,
    /// The copy on this node's brick is bad, or under heal: another node has it.
    #[error("this node's copy is being mended")]
    Mending,
    /// The servers behind a mount do not answer now: another node may have it.
    #[error("the servers behind the store path are away")]
    Away,
    /// The disk said no.
    #[error("{0}")]
    Disk(std::io::Error),
}

impl OpenFileError {
    /// Whether the same may well succeed later, or at another node.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Busy | Self::Late | Self::Mending | Self::Away)
    }
}

/// How a delete, restore or purge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is done, durably, and every cache of this node knows.
    Done,
    /// It was so already.
    Already,
}

/// Why a delete, restore or purge did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    /// No such file of this app and user.
    #[error("no such file")]
    Unknown,
    /// It is being purged: too late to restore or delete.
    #[error("the file is being purged")]
    Purging,
    /// Only deleted files can be purged.
    #[error("the file is not deleted")]
    NotDeleted,
    /// The store path is read-only.
    #[error("the store path is read-only")]
    ReadOnly,
    /// Too much is waiting: try again.
    #[error("too much work is waiting")]
    Busy,
    /// The store path took longer than a request may wait. It may be done yet: the same again tells.
    #[error("the store path does not answer")]
    Late,
    /// The disk said no. Its record may or may not say so already; the row does not.
    #[error("{0}")]
    Disk(Arc<std::io::Error>),
    /// The store is being taken over from a deployed system, whose nodes may still be there: nothing goes for good.
    #[error("the store is being taken over: `reel adopt --finish` comes first")]
    Adopting,
    /// The metadata did not answer, or not clearly; the record on disk says the new state and repair follows it.
    #[error("metadata: {text}")]
    Metadata {
        /// What it said.
        text: Arc<str>,
        /// It takes no change now, and may later.
        retryable: bool,
    },
}

impl From<RowError> for ChangeError {
    fn from(error: RowError) -> Self {
        Self::Metadata { text: error.text, retryable: error.retryable && !error.unknown }
    }
}

/// One store path, for `/status` and metrics.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PathStatus {
    /// Index in the configuration.
    pub store: usize,
    /// The folder.
    pub path: PathBuf,
    /// The key at the ID node.
    pub id_key: String,
    /// Uuid of the store.
    pub uuid: String,
    /// Whether it takes uploads.
    pub health: Health,
    /// Why it is read-only.
    pub fault: Option<String>,
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes free on it, when last looked at.
    pub free_bytes: u64,
    /// Bytes kept free.
    pub reserve_bytes: u64,
    /// Bytes promised to uploads under way.
    pub promised_bytes: u64,
    /// The durable mark of path ids.
    pub mark: u64,
    /// Path ids in hand.
    pub ids_left: u64,
    /// Its inodes are too small to hold the records of its files.
    pub small_inodes: bool,
    /// How far it has been taken over, where its files were there before it was a store.
    pub adoption: Option<Adoption>,
    /// The folder past the mount that files are read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brick: Option<BrickStatus>,
    /// Files of this process that are not settled yet: zero when nothing is under way.
    pub open_files: u64,
    /// Counters since the start.
    pub counts: PathCounts,
}

/// What happened on a store path since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PathCounts {
    /// Files acknowledged.
    pub uploads: u64,
    /// Bytes of them.
    pub upload_bytes: u64,
    /// Files of uploads that failed, removed.
    pub discarded: u64,
    /// Files that could not be removed at once and are left to the next sweep.
    pub left_behind: u64,
    /// Commits (groups made durable).
    pub commits: u64,
    /// Files in them.
    pub commit_files: u64,
    /// Commits that failed.
    pub commit_failures: u64,
    /// Microseconds spent in commits.
    pub commit_us: u64,
    /// Files that the journal made durable, in no commit of this path.
    pub journaled: u64,
    /// Deletes and restores.
    pub changes: u64,
    /// Files purged.
    pub purged: u64,
}
