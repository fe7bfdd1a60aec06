//! Small requests about stored files: size, STAT, LIST, USAGE, DELETE, RESTORE, PURGE.
//!
//! What is safe to repeat: reading is. DELETE, RESTORE and PURGE change a state, so repeating one that was done
//! already is refused; after an attempt whose outcome is unknown, such a refusal is looked into with STAT and counted
//! as done where the state is the wanted one.

use bytes::Bytes;
use reel_proto::{
    body::BodyError,
    command,
    ext::{
        self, Cursor, FileStat, FileStatus, List, ListReply, Purge, PurgeReply, Selection, Tally,
        Usage, UsageReply, encode_file,
    },
    storage::{FileRef, decode_size},
};

use crate::{
    client::{Client, limited},
    connection::Connection,
    download::Content,
    error::{ClientError, Refusal},
    location::{Owner, Purpose, Scope},
};

/// A request that changes the state of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Delete,
    Restore,
    Purge,
}

impl Client {
    /// Everything that the store knows of a file.
    ///
    /// # Errors
    /// [`Refusal::NoSuchFile`], also for a file of another user; [`Refusal::Other`] from a deployed node, which has
    /// no such command.
    pub async fn stat(&self, file: &FileRef) -> Result<FileStat, ClientError> {
        let mut body = Vec::new();
        encode_file(file, &mut body);
        let reply = self.ask(Owner::of(file), command::STAT, &body, FileStat::decode);
        limited(Some(self.shared.config.request_deadline), reply).await
    }

    /// What identifies a file's content: from STAT, or its size alone from a deployed node.
    ///
    /// # Errors
    /// [`Refusal::NoSuchFile`] or, from a deployed node, [`Refusal::Other`]: there is no such file.
    pub async fn content(&self, file: &FileRef) -> Result<Content, ClientError> {
        match self.stat(file).await {
            Ok(FileStat { size, checksum, path_id, status: FileStatus::Normal, .. }) => {
                Ok(Content { size, checksum, path_id: Some(path_id) })
            }
            // A deleted file is there for STAT and not for readers: FILESIZE gives the reader's answer.
            Ok(_) => self.content_by_size(file).await,
            Err(error) if error.refusal() == Some(Refusal::Other) => {
                self.content_by_size(file).await
            }
            Err(error) => Err(error),
        }
    }

    async fn content_by_size(&self, file: &FileRef) -> Result<Content, ClientError> {
        let mut body = Vec::new();
        file.encode(&mut body);
        let reply = self.ask(Owner::of(file), command::FILE_SIZE, &body, decode_size);
        let size = limited(Some(self.shared.config.request_deadline), reply).await?;
        Ok(Content { size, checksum: None, path_id: None })
    }

    /// A page of files, the oldest first: at most `limit` (1 to 1,000), and from where `next` of the page before says.
    pub async fn list(
        &self,
        of: &Selection,
        after: Option<&Cursor>,
        limit: u16,
    ) -> Result<ListReply, ClientError> {
        let mut body = Vec::new();
        List { of: *of, after: after.cloned(), limit }.encode(&mut body);
        let decode = |body: &[u8]| {
            let reply = ListReply::decode(body)?;
            goes_on(after, reply.next.as_ref(), in_list)?;
            Ok(reply)
        };
        let reply = self.ask(scope(of), command::LIST, &body, decode);
        limited(Some(self.shared.config.request_deadline), reply).await
    }

    /// How many files there are and how many bytes they have: those that can be read, and those that are deleted and not
    /// purged yet. A million files take a second or two.
    pub async fn usage(&self, of: &Selection) -> Result<(Tally, Tally), ClientError> {
        let (mut normal, mut deleted) = (Tally::default(), Tally::default());
        let mut usage = Usage { of: *of, after: None };
        loop {
            let mut body = Vec::new();
            usage.encode(&mut body);
            let decode = |body: &[u8]| {
                let reply = UsageReply::decode(body)?;
                goes_on(usage.after.as_ref(), reply.next.as_ref(), in_usage)?;
                Ok(reply)
            };
            let reply = self.ask(scope(of), command::USAGE, &body, decode);
            let reply = limited(Some(self.shared.config.request_deadline), reply).await?;
            normal += reply.normal;
            deleted += reply.deleted;
            match reply.next {
                Some(next) => usage.after = Some(next),
                None => return Ok((normal, deleted)),
            }
        }
    }

    /// Deletes a file softly: nobody reads it from now on, and [`Client::restore`] brings it back until the purge.
    pub async fn delete(&self, file: &FileRef) -> Result<(), ClientError> {
        let mut body = Vec::new();
        file.encode(&mut body);
        self.change(Change::Delete, file, command::DELETE, &body).await
    }

    /// Brings a deleted file back.
    pub async fn restore(&self, file: &FileRef) -> Result<(), ClientError> {
        let mut body = Vec::new();
        encode_file(file, &mut body);
        self.change(Change::Restore, file, command::RESTORE, &body).await
    }

    /// Removes a deleted file for good.
    pub async fn purge(&self, file: &FileRef) -> Result<(), ClientError> {
        let mut body = Vec::new();
        Purge::File(*file).encode(&mut body);
        self.change(Change::Purge, file, command::PURGE, &body).await
    }

    /// Removes every deleted file of an owner for good; gives their number.
    pub async fn purge_all_deleted(&self, owner: Owner) -> Result<u64, ClientError> {
        let mut body = Vec::new();
        Purge::AllDeleted { app: owner.app, user: owner.user }.encode(&mut body);
        let mut purged = 0;
        loop {
            // Repeating it is safe: what is gone is not there to be purged again (only missing in the count).
            let reply = self.ask(owner, command::PURGE, &body, PurgeReply::decode);
            let reply = limited(Some(self.shared.config.request_deadline), reply).await?;
            purged += reply.purged;
            // A node that removes nothing and says that more is left would hold us for ever.
            if !reply.more || reply.purged == 0 {
                return Ok(purged);
            }
        }
    }

    /// Sends a small request that is safe to repeat, to one node after another until one answers.
    async fn ask<T>(
        &self,
        of: impl Into<Scope>,
        command: u8,
        body: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, BodyError>,
    ) -> Result<T, ClientError> {
        let mut walk = self.walk(of, Purpose::Read, Some(self.shared.config.request_deadline));
        loop {
            let (_, mut connection) = walk.node().await?;
            let answer = exchange(&mut connection, command, body).await;
            match answer.and_then(|reply| connection.decoded(decode(&reply))) {
                Ok(value) => {
                    self.shared.pool.give_back(connection);
                    return Ok(value);
                }
                Err(error) => walk.failed(error).await?,
            }
        }
    }

    async fn change(
        &self,
        change: Change,
        file: &FileRef,
        command: u8,
        body: &[u8],
    ) -> Result<(), ClientError> {
        let changing = async {
            let deadline = Some(self.shared.config.request_deadline);
            let mut walk = self.walk(Owner::of(file), Purpose::Write, deadline);
            let mut uncertain = false;
            loop {
                let (_, mut connection) = walk.node().await?;
                match exchange(&mut connection, command, body).await {
                    Ok(_) => {
                        self.shared.pool.give_back(connection);
                        return Ok(());
                    }
                    Err(error @ ClientError::Refused { .. }) if uncertain => {
                        return if self.is_done(change, file).await? { Ok(()) } else { Err(error) };
                    }
                    Err(error) => {
                        uncertain |= error.outcome_is_unknown();
                        walk.failed(error).await?;
                    }
                }
            }
        };
        limited(Some(self.shared.config.request_deadline), changing).await
    }

    /// Whether a file is in the state that a change leads to.
    async fn is_done(&self, change: Change, file: &FileRef) -> Result<bool, ClientError> {
        let mut body = Vec::new();
        encode_file(file, &mut body);
        let stat = self.ask(Owner::of(file), command::STAT, &body, FileStat::decode).await;
        match stat {
            Ok(stat) => Ok(match change {
                Change::Delete => stat.status == FileStatus::Deleted,
                Change::Restore => stat.status == FileStatus::Normal,
                Change::Purge => false,
            }),
            // A deployed node knows no STAT; all it can say is that the file is not there to be read.
            Err(error) if error.refusal() == Some(Refusal::Other) => Ok(change == Change::Delete),
            Err(error) if error.refusal() == Some(Refusal::NoSuchFile) => {
                Ok(change == Change::Purge)
            }
            Err(error) => Err(error),
        }
    }

    /// FILESIZE on this connection.
    pub(crate) async fn file_size(
        &self,
        file: &FileRef,
        connection: &mut Connection,
    ) -> Result<u64, ClientError> {
        let mut body = Vec::new();
        file.encode(&mut body);
        let reply = exchange(connection, command::FILE_SIZE, &body).await?;
        connection.decoded(decode_size(&reply))
    }

    /// Whether the node behind a connection is a deployed one: asks for a STAT, which only ours answer, be it with a
    /// reason for a refusal. Gives the connection back, or a new one, since a node may close after an error.
    pub(crate) async fn is_deployed(
        &self,
        file: &FileRef,
        mut connection: Connection,
    ) -> Result<(bool, Connection), ClientError> {
        let mut body = Vec::new();
        encode_file(file, &mut body);
        let deployed = match exchange(&mut connection, command::STAT, &body).await {
            Ok(_) => return Ok((false, connection)),
            Err(ClientError::Refused { reason, .. }) => {
                matches!(reason, Refusal::Other | Refusal::UnknownCommand)
            }
            Err(error) => return Err(error),
        };
        let address = connection.address();
        Ok((deployed, self.shared.pool.connection(address).await?))
    }
}

fn scope(of: &Selection) -> Scope {
    Scope { app: of.app, user: of.user }
}

/// In which order a list goes on.
fn in_list(at: &Cursor) -> (u64, u8, u64, &str) {
    (at.time, at.part, at.order, &at.file)
}

/// In which order a count goes on.
fn in_usage(at: &Cursor) -> (u8, u64, u64, &str) {
    (at.part, at.time, at.order, &at.file)
}

/// A node whose cursors do not go on in their order would hold us for ever.
fn goes_on<'a, O: Ord>(
    after: Option<&'a Cursor>,
    next: Option<&'a Cursor>,
    order: impl Fn(&'a Cursor) -> O,
) -> Result<(), BodyError> {
    match (after, next) {
        (Some(after), Some(next)) if order(next) <= order(after) => {
            Err(BodyError::Value { field: "cursor" })
        }
        _ => Ok(()),
    }
}

async fn exchange(
    connection: &mut Connection,
    command: u8,
    body: &[u8],
) -> Result<Bytes, ClientError> {
    connection.request(command, body).await?;
    connection.reply(command::REPLY_STORAGE, ext::REPLY_BYTES_MAX as usize).await
}
