//! Our own commands for clients: STAT, RESTORE, PURGE, GET. (PUT is with the uploads, LIST and USAGE have a file of their own.)

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use reel_meta::{Selection, StatusFilter};
use reel_node::frame_server::FrameConn;
use reel_proto::{
    command,
    ext::{self, FileStat, FileStatus, Get, GetHead, Purge, PurgeReply, REQUEST_BYTES_MAX},
    name::{AppId, UserId},
    refusal::Refusal,
    storage,
};

use super::{Stop, body, content, find, listing};
use crate::{
    store::{ChangeError, Located, Lookup, Status},
    thread::Thread,
};

/// Most bytes of a request of these.
pub(super) const BODY_BYTES_MAX: usize = REQUEST_BYTES_MAX as usize;

/// Deleted files looked at together by a purge of a whole user.
const PURGE_PAGE: usize = 100;

/// After which a request that goes through many files replies with what it has done; the client asks again.
pub(super) const TURN_MAX: Duration = Duration::from_secs(2);

pub(super) async fn request(
    thread: &Rc<Thread>,
    conn: &mut FrameConn,
    command: u8,
) -> Result<(), Stop> {
    match command {
        command::STAT => stat(thread, conn).await,
        command::LIST => listing::list(thread, conn).await,
        command::USAGE => listing::usage(thread, conn).await,
        command::RESTORE => restore(thread, conn).await,
        command::PURGE => purge(thread, conn).await,
        command::GET => get(thread, conn).await,
        _ => Err(Stop::out_of_order(Refusal::UnknownCommand, format!("unknown command {command}"))),
    }
}

async fn stat(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let file = body(conn, BODY_BYTES_MAX, ext::decode_file).await?;
    conn.flush().await?;
    // Not from the cache: that knows only readable files.
    let located = thread.stores().stat(Lookup::Owned(file)).await;
    let located = located.map_err(|error| Stop::of_lookup(&file, &error))?;
    let stat = stat_of(located.ok_or_else(Stop::no_such_file)?);
    conn.reply_with(|out| stat.encode(out)).await?;
    Ok(())
}

fn stat_of(file: Located) -> FileStat {
    let relative = file.relative.as_str().len();
    // The row's path is the store's key, a slash, and the relative path.
    let key = file.file_path.len().saturating_sub(relative + 1);
    FileStat {
        path_id: file.path_id.get(),
        size: file.size,
        checksum: file.checksum,
        created_at: file.created_at,
        status: status_of(file.status),
        deleted_at: file.deleted_at,
        expires_at: file.expires_at,
        name: file.name,
        content_type: file.content_type,
        store: file.file_path.get(..key).unwrap_or_default().to_owned(),
    }
}

pub(super) fn status_of(status: Status) -> FileStatus {
    match status {
        Status::Normal => FileStatus::Normal,
        Status::Deleted => FileStatus::Deleted,
    }
}

async fn restore(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let file = body(conn, BODY_BYTES_MAX, ext::decode_file).await?;
    conn.flush().await?;
    let restored = thread.in_time(thread.stores().restore(file), ChangeError::Late).await;
    restored.map_err(|error| Stop::of_change(&file, &error))?;
    conn.reply(&[]).await?;
    Ok(())
}

async fn purge(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let purge = body(conn, BODY_BYTES_MAX, Purge::decode).await?;
    conn.flush().await?;
    let reply = match purge {
        Purge::File(file) => {
            let purged = thread.in_time(thread.stores().purge(file), ChangeError::Late).await;
            purged.map_err(|error| Stop::of_change(&file, &error))?;
            PurgeReply { purged: 1, more: false }
        }
        Purge::AllDeleted { app, user } => purge_user(thread, app, user).await?,
    };
    conn.reply_with(|out| reply.encode(out)).await?;
    Ok(())
}

async fn purge_user(thread: &Rc<Thread>, app: AppId, user: UserId) -> Result<PurgeReply, Stop> {
    let until = Instant::now() + TURN_MAX;
    let of = Selection::of_user(app.as_str(), user.as_str()).in_state(StatusFilter::Deleted);
    let (mut purged, mut after) = (0, None);
    let mut failed = None;
    loop {
        let page = thread.stores().list(of.clone(), after, PURGE_PAGE).await;
        let page = page.map_err(|error| Stop::of_listing(&of, &error))?;
        for file in &page.files {
            match thread.in_time(thread.stores().purge(file.key), ChangeError::Late).await {
                Ok(_) => purged += 1,
                // Restored or purged by somebody else in between.
                Err(ChangeError::Unknown | ChangeError::NotDeleted) => {}
                // A file on a disk that is out of order keeps none of the others.
                Err(error) => failed = failed.or(Some((file.key, error))),
            }
        }
        after = page.next;
        if after.is_none() || Instant::now() >= until {
            if let Some((file, error)) = failed.filter(|_| purged == 0) {
                return Err(Stop::of_change(&file, &error));
            }
            return Ok(PurgeReply { purged, more: after.is_some() });
        }
    }
}

async fn get(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let request = body(conn, BODY_BYTES_MAX, Get::decode).await?;
    let record = find(thread, conn, &request.file).await?;
    let length = range(request.offset, request.size, record.size())?;
    let head = GetHead {
        file_size: record.size(),
        checksum: record.checksum(),
        path_id: record.path_id().get(),
        length,
    };
    let mut bytes = Vec::with_capacity(ext::GET_HEAD_LEN);
    head.encode(&mut bytes);
    content::send(thread, conn, &record, request.offset, length, &bytes).await
}

/// Bytes to send; see [`storage::resolve`].
pub(super) fn range(offset: u64, size: u64, file_size: u64) -> Result<u64, Stop> {
    storage::resolve(offset, size, file_size)
        .map_err(|error| Stop::refused(Refusal::OutOfRange, error.to_string()))
}
