//! The binary protocol of a storage node: one connection, request after request.
//!
//! Every request is checked by its header before any of its body is read, and answered by exactly one frame. Bytes in
//! order and a refusal keep the connection; bytes out of order end it. After a success header has gone out an error can
//! no longer be told: the connection ends before a wrong byte.

use std::{fmt::Display, rc::Rc};

use reel_node::{
    Accepted,
    frame_server::{BodyError, Ended, FrameConn},
    pooled::Pooled,
};
use reel_proto::{
    command,
    frame::Header,
    refusal::Refusal,
    storage::{self, Download, FILE_REF_LEN, FileRef},
};

use crate::{
    cache::Record,
    metrics::{Kind, Outcome, Tally},
    store::{ChangeError, Lookup},
    thread::Thread,
};

mod content;
mod drain;
mod extended;
mod listing;
mod stop;
mod upload;

use stop::Stop;

/// The first number of our own commands: below, every error reply carries the deployed system's only number.
const OWN_COMMANDS: u8 = 200;

/// Serves a connection to its end.
pub(crate) async fn serve(thread: Rc<Thread>, accepted: Accepted) {
    let mut conn = FrameConn::new(accepted, thread.frames.clone());
    while let Some(header) = conn.read_header().await {
        let mut tally = Tally::start(&thread.cell, kind_of(header.command));
        // In a place of its own, as in `media`: most connections only wait for a request.
        let Err(stop) = Pooled::new(request(&thread, &mut conn, &header)).await else {
            tally.ends(Outcome::Ok);
            continue;
        };
        let Stop::Refused { refusal, text, outcome, close } = stop else { return };
        tally.ends(outcome);
        let own = header.command >= OWN_COMMANDS;
        let refusal = if own { refusal } else { Refusal::Other };
        if close {
            Box::pin(conn.refuse_with(refusal, &text)).await;
            return;
        }
        if conn.reply_refusal(refusal, &text).await.is_err() {
            return;
        }
    }
    conn.close().await;
}

fn kind_of(command: u8) -> Kind {
    match command {
        command::UPLOAD | command::PUT => Kind::Upload,
        command::FILE_SIZE => Kind::FileSize,
        command::DOWNLOAD | command::GET => Kind::Download,
        command::DELETE => Kind::Delete,
        command::STAT => Kind::Stat,
        command::LIST | command::USAGE => Kind::List,
        command::RESTORE => Kind::Restore,
        command::PURGE => Kind::Purge,
        command::DRAIN => Kind::Drain,
        _ => Kind::Other,
    }
}

async fn request(thread: &Rc<Thread>, conn: &mut FrameConn, header: &Header) -> Result<(), Stop> {
    // The table of lengths also knows the commands of trackers and ID nodes; here they are unknown.
    if kind_of(header.command) == Kind::Other {
        let text = format!("unknown command {}", header.command);
        return Err(Stop::out_of_order(Refusal::UnknownCommand, text));
    }
    if let Err(error) = command::check_request(header) {
        return Err(Stop::malformed(error));
    }
    match header.command {
        // What is large is in a place of its own, so that what serves a read is small.
        command::UPLOAD => Pooled::new(upload::upload(thread, conn, header)).await,
        command::PUT => Pooled::new(upload::put(thread, conn, header)).await,
        command::FILE_SIZE => file_size(thread, conn).await,
        command::DOWNLOAD => download(thread, conn).await,
        command::DELETE => Pooled::new(delete(thread, conn)).await,
        command::DRAIN => Pooled::new(drain::drain(thread, conn)).await,
        _ => Pooled::new(extended::request(thread, conn, header.command)).await,
    }
}

/// Reads a body that is held whole; its length has been checked against the command.
async fn body<T, E: Display>(
    conn: &mut FrameConn,
    limit: usize,
    decode: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<T, Stop> {
    match conn.read_body(limit).await {
        Ok(bytes) => decode(bytes).map_err(Stop::malformed),
        Err(error @ BodyError::TooLong { .. }) => Err(Stop::malformed(error)),
        Err(BodyError::Incomplete { .. }) => Err(Stop::Ended),
    }
}

/// The record of a user's file. Replies that wait leave before the metadata is asked.
async fn find(
    thread: &Rc<Thread>,
    conn: &mut FrameConn,
    file: &FileRef,
) -> Result<Rc<Record>, Stop> {
    let lookup = Lookup::Owned(*file);
    if let Some(record) = thread.cached(&lookup) {
        return Ok(record);
    }
    conn.flush().await?;
    match thread.look_up(&lookup).await {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err(Stop::no_such_file()),
        Err(error) => Err(Stop::of_lookup(file, &error)),
    }
}

async fn file_size(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let file = body(conn, FILE_REF_LEN, FileRef::decode).await?;
    let record = find(thread, conn, &file).await?;
    conn.reply(&storage::encode_size(record.size())).await?;
    Ok(())
}

async fn download(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let request = body(conn, storage::DOWNLOAD_LEN, Download::decode).await?;
    let record = find(thread, conn, &request.file).await?;
    let length = extended::range(request.offset, request.size, record.size())?;
    content::send(thread, conn, &record, request.offset, length, &[]).await
}

async fn delete(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let file = body(conn, FILE_REF_LEN, FileRef::decode).await?;
    conn.flush().await?;
    // What was deleted already is a success: a client that lost the reply asks again.
    let deleted = thread.in_time(thread.stores().delete(file), ChangeError::Late).await;
    deleted.map_err(|error| Stop::of_change(&file, &error))?;
    conn.reply(&[]).await?;
    Ok(())
}

impl From<Ended> for Stop {
    fn from(Ended: Ended) -> Self {
        Self::Ended
    }
}
