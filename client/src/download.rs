//! Downloads: GET (206), which tells size, checksum and path id; FILESIZE (71) and DOWNLOAD (72) from a deployed node.
//!
//! A download is pulled piece by piece. When a connection breaks, it goes on at the byte where it stopped, from the
//! next node or from the same one, provided the file there is still the same (path id, size, checksum).

use std::{num::NonZeroU64, time::Duration};

use bytes::Bytes;
use reel_proto::{
    checksum::Crc64,
    command,
    ext::{GET_HEAD_LEN, Get, GetHead},
    storage::{self, FileRef},
};
use tokio::time::{Instant, timeout};

use crate::{
    client::{Client, Walk, limited},
    connection::Connection,
    error::ClientError,
    location::{Node, Owner, Purpose},
};

/// Most bytes of one piece of a download.
pub const DOWNLOAD_PIECE_BYTES: usize = 256 * 1024;

/// What of a file is to be downloaded.
#[derive(Debug, Clone)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Bytes; none: to the end.
    pub size: Option<NonZeroU64>,
    /// The checksum so far of everything before `offset`, by a caller who has those bytes from an earlier download.
    /// With it, a download that goes to the file's end is checked against the checksum of the whole file.
    pub before: Option<Crc64>,
}

impl Span {
    /// The whole file.
    #[must_use]
    pub fn whole() -> Self {
        Self { offset: 0, size: None, before: None }
    }
}

/// What identifies the content of a file, as far as the node tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Bytes of the whole file.
    pub size: u64,
    /// CRC-64/NVME of the whole file. None: an old row, or a deployed node.
    pub checksum: Option<u64>,
    /// The number that names its place; a file id that is purged and used again gets another. None: a deployed node.
    pub path_id: Option<u64>,
}

impl Content {
    /// Whether both can be of one and the same file: nothing that both tell differs. A node may know less than another,
    /// or than it will: a file of a deployed system gets its checksum when it is adopted.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let differ = |one: Option<u64>, other: Option<u64>| {
            one.zip(other).is_some_and(|(one, other)| one != other)
        };
        self.size == other.size
            && !differ(self.checksum, other.checksum)
            && !differ(self.path_id, other.path_id)
    }
}

/// A download under way. [`Download::next`] may be dropped at any await and called again.
#[derive(Debug)]
pub struct Download {
    file: FileRef,
    walk: Walk,
    content: Content,
    /// The next byte to hand out, and the first that is not wanted.
    position: u64,
    end: u64,
    reply: Option<Reply>,
    /// Checksum of everything before `position`; none where the bytes before the range are not known.
    crc: Option<Crc64>,
    deadline: Option<(Instant, Duration)>,
}

#[derive(Debug)]
struct Reply {
    connection: Connection,
    left: u64,
}

impl Client {
    /// Begins a download: asks for the range and reads what the node tells of the file.
    ///
    /// # Errors
    /// [`Refusal::NoSuchFile`](crate::Refusal::NoSuchFile), [`Refusal::OutOfRange`](crate::Refusal::OutOfRange), or
    /// what kept every node from answering.
    pub async fn download(&self, file: &FileRef, span: Span) -> Result<Download, ClientError> {
        let deadline = self.shared.config.transfer_deadline;
        let mut walk = self.walk(Owner::of(file), Purpose::Read, deadline);
        let started = Instant::now();
        let ends = deadline.and_then(|whole| Some((started.checked_add(whole)?, whole)));
        let opening = async {
            loop {
                let (node, connection) = walk.node().await?;
                match self.open(file, node, connection, span.offset, span.size).await {
                    Ok((content, reply)) => return Ok((walk, content, reply)),
                    Err(error) => walk.failed(error).await?,
                }
            }
        };
        let (walk, content, reply) = limited(deadline, Box::pin(opening)).await?;
        let crc = if span.offset == 0 { Some(Crc64::new()) } else { span.before };
        let end = span.offset + reply.left;
        Ok(Download {
            file: *file,
            walk,
            content,
            position: span.offset,
            end,
            reply: Some(reply),
            crc,
            deadline: ends,
        })
    }

    /// Asks one node for a range.
    async fn open(
        &self,
        file: &FileRef,
        node: Node,
        connection: Connection,
        offset: u64,
        size: Option<NonZeroU64>,
    ) -> Result<(Content, Reply), ClientError> {
        let (deployed, connection) = match node.media {
            Some(_) => (false, connection),
            None => self.is_deployed(file, connection).await?,
        };
        let size = size.map_or(0, NonZeroU64::get);
        if deployed {
            self.open_deployed(file, connection, offset, size).await
        } else {
            open_ours(file, connection, offset, size).await
        }
    }

    async fn open_deployed(
        &self,
        file: &FileRef,
        mut connection: Connection,
        offset: u64,
        size: u64,
    ) -> Result<(Content, Reply), ClientError> {
        let file_size = self.file_size(file, &mut connection).await?;
        let request = storage::Download { file: *file, offset, size };
        let mut body = Vec::new();
        request.encode(&mut body);
        connection.request(command::DOWNLOAD, &body).await?;
        let left = connection.reply_head(command::REPLY_STORAGE).await?;
        if storage::resolve(offset, size, file_size) != Ok(left) {
            return Err(connection.protocol(format!("{left} bytes of a range of other length")));
        }
        let content = Content { size: file_size, checksum: None, path_id: None };
        Ok((content, Reply { connection, left }))
    }
}

async fn open_ours(
    file: &FileRef,
    mut connection: Connection,
    offset: u64,
    size: u64,
) -> Result<(Content, Reply), ClientError> {
    let mut body = Vec::new();
    Get { file: *file, offset, size }.encode(&mut body);
    connection.request(command::GET, &body).await?;
    let length = connection.reply_head(command::REPLY_STORAGE).await?;
    if length < GET_HEAD_LEN as u64 {
        return Err(connection.protocol(format!("a reply of {length} bytes to GET")));
    }
    let head = connection.read_exact(GET_HEAD_LEN).await?;
    let head = connection.decoded(GetHead::decode(&head, length))?;
    if storage::resolve(offset, size, head.file_size) != Ok(head.length) {
        let length = head.length;
        return Err(connection.protocol(format!("{length} bytes of a range of other length")));
    }
    let content =
        Content { size: head.file_size, checksum: head.checksum, path_id: Some(head.path_id) };
    Ok((content, Reply { connection, left: head.length }))
}

impl Download {
    /// What is downloaded.
    #[must_use]
    pub fn content(&self) -> Content {
        self.content
    }

    /// Offset in the file of the next byte.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Offset in the file after the last byte wanted.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The next bytes, at most [`DOWNLOAD_PIECE_BYTES`]; none at the end. A broken connection is replaced without
    /// the caller noticing. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Checksum`] instead of the end, where the whole file was read and its bytes are not the stored
    /// ones: what was handed out must not be used. [`ClientError::Replaced`]: the id names another file by now.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let left = self.deadline.map(|(end, whole)| (end.duration_since(Instant::now()), whole));
        let Some((left, whole)) = left else { return self.advance().await };
        timeout(left, self.advance()).await.unwrap_or(Err(ClientError::Deadline(whole)))
    }

    async fn advance(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if self.position == self.end {
                self.give_back();
                return self.check().map(|()| None);
            }
            if self.reply.is_none() {
                self.resume().await?;
            }
            let Some(reply) = &mut self.reply else { continue };
            let max = reply.left.min(DOWNLOAD_PIECE_BYTES as u64) as usize;
            match reply.connection.read_piece(max).await {
                Ok(piece) => {
                    reply.left -= piece.len() as u64;
                    self.position += piece.len() as u64;
                    if let Some(crc) = &mut self.crc {
                        crc.update(&piece);
                    }
                    self.walk.progressed();
                    return Ok(Some(piece));
                }
                Err(error) => {
                    self.reply = None;
                    self.walk.failed(error).await?;
                }
            }
        }
    }

    async fn resume(&mut self) -> Result<(), ClientError> {
        let size = NonZeroU64::new(self.end - self.position);
        loop {
            let (node, connection) = self.walk.node().await?;
            let client = self.walk.client().clone();
            match client.open(&self.file, node, connection, self.position, size).await {
                Ok((content, reply)) => {
                    if !content.agrees(&self.content) {
                        return Err(ClientError::Replaced);
                    }
                    self.reply = Some(reply);
                    return Ok(());
                }
                Err(error) => self.walk.failed(error).await?,
            }
        }
    }

    fn give_back(&mut self) {
        if let Some(reply) = self.reply.take()
            && reply.left == 0
        {
            self.walk.client().shared.pool.give_back(reply.connection);
        }
    }

    fn check(&self) -> Result<(), ClientError> {
        let (Some(crc), Some(expected)) = (&self.crc, self.content.checksum) else { return Ok(()) };
        let found = crc.finish();
        if self.end == self.content.size && found != expected {
            return Err(ClientError::Checksum { expected, found });
        }
        Ok(())
    }
}
