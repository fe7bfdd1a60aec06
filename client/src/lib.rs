//! The client library of Reel, on tokio: finds the nodes of a user through trackers, uploads, downloads, and asks about
//! files. It speaks the binary protocol, with our own commands where the node knows them and the deployed system's
//! where it does not.
//!
//! Retries are inside: an operation is repeated, on the next node or after a growing pause, as far as that is safe
//! and within its deadlines ([`ClientConfig`]). Content is streamed in pieces; no file is ever held in memory.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use reel_client::{Client, ClientConfig, Owner, Span, UploadDetails, UploadSource, new_file_id};
//!
//! let client = Client::new(ClientConfig::new(["127.0.0.1:21000"]))?;
//! let owner = Owner { app: "tnvideo".parse()?, user: "tnv001".parse()? };
//! let file = owner.file(new_file_id()?);
//! let source = UploadSource::path("film.mp4").await?;
//! client.upload(&file, &source, &UploadDetails::default(), &mut |_| {}).await?;
//! let mut download = client.download(&file, Span::whole()).await?;
//! while let Some(piece) = download.next().await? {
//!     println!("{} bytes", piece.len());
//! }
//! # Ok(())
//! # }
//! ```

mod attempts;
mod client;
mod config;
mod connection;
mod download;
mod error;
mod files;
mod id;
mod location;
mod nodes;
mod pool;
mod source;
mod tracker;
mod upload;

pub use client::Client;
pub use config::{ClientConfig, RetryPolicy};
pub use download::{Content, DOWNLOAD_PIECE_BYTES, Download, Span};
pub use error::{ClientError, Fault, Refusal, Retry};
pub use id::new_file_id;
pub use location::{Location, Node, Owner, Scope};
pub use reel_proto::{
    ext::{
        Cursor, FileStat, FileStatus, ListReply, Listed, NodeInfo, PutOutcome, Selection,
        StatusFilter, Tally, node_flag,
    },
    name::{AppId, FileId, GroupName, UserId},
    peer::StoreState,
    storage::FileRef,
    tracker::groups::{GroupEntry, NodeEntry, NodeStatus},
};
pub use source::UploadSource;
pub use upload::{Progress, UploadDetails, Uploaded};
