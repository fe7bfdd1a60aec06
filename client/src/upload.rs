//! Uploads: PUT (205), which carries name, type and checksum; UPLOAD (70) to a deployed node, which knows no PUT.
//!
//! What is safe to repeat: a PUT always is, because the same file id with the same content is answered as a success.
//! An UPLOAD is not: a deployed node refuses an id that it has. So after an UPLOAD whose outcome is unknown the node
//! is asked for the file's size: a file of ours is either there whole, or not at all.

use reel_proto::{
    body::fits_short,
    checksum::Crc64,
    command,
    ext::{PutHead, PutOutcome, PutReply},
    storage::{FileRef, UploadHead},
};

use crate::{
    client::{Client, limited},
    connection::{Connection, Sent},
    error::{ClientError, Refusal},
    location::{Node, Owner, Purpose},
    source::UploadSource,
};

/// Most bytes of a PUT's reply: fixed fields, with room for what a later version appends.
const REPLY_MAX: usize = 256;

/// What the store keeps with a file beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadDetails {
    /// The file's own name, at most 255 bytes without control characters.
    pub name: Option<String>,
    /// Its content type, at most 255 bytes.
    pub content_type: Option<String>,
    /// When the store may remove it, in seconds since 1970.
    pub expires_at: Option<u64>,
}

impl UploadDetails {
    fn check(&self) -> Result<(), ClientError> {
        for (what, text) in [("name", &self.name), ("content type", &self.content_type)] {
            if text.as_deref().is_some_and(|text| !fits_short(text)) {
                return Err(ClientError::BadDetail { what });
            }
        }
        Ok(())
    }
}

/// An upload that the store has acknowledged: it survives power loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The file.
    pub file: FileRef,
    /// New, or the same content was there already. A deployed node only knows new.
    pub outcome: PutOutcome,
    /// The number that names its place. None: a deployed node, which does not tell.
    pub path_id: Option<u64>,
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME of the content that was sent.
    pub checksum: u64,
    /// Where players find it, if the system speaks HTTP.
    pub url: Option<String>,
}

/// Told after each piece how many bytes of the running attempt were sent; goes back when an upload starts again.
pub type Progress<'a> = &'a mut (dyn FnMut(u64) + Send);

impl Client {
    /// Stores the content of `source` as `file`; returns when the store has acknowledged it.
    ///
    /// Memory: two pieces of 256 KiB, whatever the size.
    ///
    /// # Errors
    /// After any error the file may be stored or not; the same call again finds out. [`Refusal::Conflict`]: the id is
    /// taken by other content.
    pub async fn upload(
        &self,
        file: &FileRef,
        source: &UploadSource,
        details: &UploadDetails,
        progress: Progress<'_>,
    ) -> Result<Uploaded, ClientError> {
        details.check()?;
        let deadline = self.shared.config.transfer_deadline;
        let job = Job { client: self, file, source, details, progress, sent: 0, uncertain: false };
        limited(deadline, Box::pin(job.run())).await
    }
}

/// One upload with all its attempts.
struct Job<'a> {
    client: &'a Client,
    file: &'a FileRef,
    source: &'a UploadSource,
    details: &'a UploadDetails,
    progress: Progress<'a>,
    /// Bytes of content that the running attempt has sent.
    sent: u64,
    /// An UPLOAD was sent whole, and its reply did not come.
    uncertain: bool,
}

impl Job<'_> {
    async fn run(mut self) -> Result<Uploaded, ClientError> {
        let deadline = self.client.shared.config.transfer_deadline;
        let mut walk = self.client.walk(Owner::of(self.file), Purpose::Write, deadline);
        let mut farthest = 0;
        loop {
            let (node, connection) = walk.node().await?;
            self.sent = 0;
            match self.attempt(node, connection).await {
                Ok((reply, connection)) => {
                    self.client.shared.pool.give_back(connection);
                    let url = walk.location().and_then(|location| location.url(self.file));
                    return Ok(Uploaded { url, ..reply });
                }
                Err(error) => {
                    if self.sent > farthest {
                        farthest = self.sent;
                        walk.progressed();
                    }
                    walk.failed(error).await?;
                }
            }
        }
    }

    async fn attempt(
        &mut self,
        node: Node,
        connection: Connection,
    ) -> Result<(Uploaded, Connection), ClientError> {
        // A tracker knows the media port of every node of ours; one without may be a deployed one.
        if node.media.is_some() {
            return self.put(connection).await;
        }
        let (deployed, connection) = self.client.is_deployed(self.file, connection).await?;
        if deployed { self.upload(connection).await } else { self.put(connection).await }
    }

    async fn put(
        &mut self,
        mut connection: Connection,
    ) -> Result<(Uploaded, Connection), ClientError> {
        let head = PutHead {
            file: *self.file,
            size: self.source.size(),
            name: self.details.name.as_deref(),
            content_type: self.details.content_type.as_deref(),
            expires_at: self.details.expires_at,
        };
        let mut beginning = Vec::new();
        head.encode(&mut beginning);
        let length = head.body_length().ok_or(ClientError::TooLarge { size: head.size })?;
        connection.send_head(command::PUT, &beginning, length).await?;
        let checksum = self.send_content(&mut connection).await?;
        connection.send(&checksum.to_be_bytes()).await?;
        let body = connection.reply(command::REPLY_STORAGE, REPLY_MAX).await?;
        let reply = connection.decoded(PutReply::decode(&body))?;
        if (reply.size, reply.checksum) != (self.source.size(), checksum) {
            return Err(ClientError::Checksum { expected: checksum, found: reply.checksum });
        }
        Ok((self.uploaded(reply.outcome, Some(reply.path_id), checksum), connection))
    }

    async fn upload(
        &mut self,
        mut connection: Connection,
    ) -> Result<(Uploaded, Connection), ClientError> {
        if self.uncertain {
            match self.client.file_size(self.file, &mut connection).await {
                Ok(size) if size == self.source.size() => {
                    let checksum = self.source.checksum().await.map_err(ClientError::Source)?;
                    return Ok((self.uploaded(PutOutcome::New, None, checksum), connection));
                }
                Ok(_) => {
                    return Err(ClientError::Refused {
                        address: connection.address(),
                        reason: Refusal::Conflict,
                        text: "the file id is taken by other content".to_owned(),
                    });
                }
                // It is not there: the upload did not reach its end. The node may close after an error.
                Err(ClientError::Refused { .. }) => {
                    let address = connection.address();
                    connection = self.client.shared.pool.connection(address).await?;
                }
                Err(error) => return Err(error),
            }
        }
        let head = UploadHead { file: *self.file, size: self.source.size() };
        let mut beginning = Vec::new();
        head.encode(&mut beginning);
        let length = head.body_length().ok_or(ClientError::TooLarge { size: head.size })?;
        connection.send_head(command::UPLOAD, &beginning, length).await?;
        let checksum = self.send_content(&mut connection).await?;
        match connection.reply(command::REPLY_STORAGE, REPLY_MAX).await {
            Ok(_) => Ok((self.uploaded(PutOutcome::New, None, checksum), connection)),
            Err(error) => {
                self.uncertain |= error.outcome_is_unknown();
                Err(error)
            }
        }
    }

    /// Sends the content and gives its checksum. Stops as soon as the node speaks: before the content is whole it
    /// can only have an error to tell.
    async fn send_content(&mut self, connection: &mut Connection) -> Result<u64, ClientError> {
        let mut crc = Crc64::new();
        let mut piece = self.source.piece(0).await.map_err(ClientError::Source)?;
        while !piece.is_empty() {
            crc.update(&piece);
            let end = self.sent + piece.len() as u64;
            // The next piece is read while this one is sent.
            let (sent, next) = tokio::join!(connection.send_piece(&piece), self.source.piece(end));
            match sent {
                Ok(Sent::All) => {}
                Ok(Sent::PeerSpoke) => {
                    connection.reply_head(command::REPLY_STORAGE).await?;
                    return Err(connection.protocol("a success before the content".to_owned()));
                }
                Err(error) => return Err(connection.reason_of(error).await),
            }
            self.sent = end;
            (self.progress)(end);
            piece = next.map_err(ClientError::Source)?;
        }
        Ok(crc.finish())
    }

    fn uploaded(&self, outcome: PutOutcome, path_id: Option<u64>, checksum: u64) -> Uploaded {
        let (file, size) = (*self.file, self.source.size());
        Uploaded { file, outcome, path_id, size, checksum, url: None }
    }
}
