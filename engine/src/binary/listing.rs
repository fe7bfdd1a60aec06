//! LIST and USAGE: files of a user or of a whole app, from the metadata alone.

use std::rc::Rc;
use std::time::Instant;

use reel_meta::{Selection, StatusFilter, TimeCursor, TotalCursor, Totals};
use reel_node::frame_server::FrameConn;
use reel_proto::ext::{self, Cursor, FileStat, List, ListReply, Tally, Usage, UsageReply};
use reel_proto::refusal::Refusal;

use super::extended::{BODY_BYTES_MAX, TURN_MAX, status_of};
use super::{Stop, body};
use crate::store::{Listed, LookupError};
use crate::thread::Thread;

pub(super) async fn list(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let List { of, after, limit } = body(conn, BODY_BYTES_MAX, List::decode).await?;
    conn.flush().await?;
    let of = selection(of);
    let after = after.map(|Cursor { time, part, file }| TimeCursor { time, table: part, file });
    let page = thread.stores().list(of.clone(), after, usize::from(limit)).await;
    let page = page.map_err(|error| Stop::of_listing(&of, &error))?;
    let next = page.next.map(|TimeCursor { time, table, file }| cursor(time, table, file));
    let reply = ListReply {
        next: next.transpose()?,
        left_out: u16::try_from(page.left_out).unwrap_or(u16::MAX),
        files: page.files.into_iter().map(entry).collect(),
    };
    conn.reply_with(|out| reply.encode(out)).await?;
    Ok(())
}

pub(super) async fn usage(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let Usage { of, after } = body(conn, BODY_BYTES_MAX, Usage::decode).await?;
    conn.flush().await?;
    let until = Instant::now() + TURN_MAX;
    let of = selection(of);
    let mut after =
        after.map(|Cursor { time, part, file }| TotalCursor { range: part, time, file });
    let mut totals = Totals::default();
    loop {
        let some = thread.stores().total(of.clone(), after).await;
        let (some, next) = some.map_err(|error| Stop::of_listing(&of, &error))?;
        totals += some;
        after = next;
        if after.is_none() || Instant::now() >= until {
            break;
        }
    }
    let next = after.map(|TotalCursor { range, time, file }| cursor(time, range, file));
    let reply = UsageReply {
        next: next.transpose()?,
        normal: tally(totals.normal),
        deleted: tally(totals.deleted),
    };
    conn.reply_with(|out| reply.encode(out)).await?;
    Ok(())
}

fn selection(of: ext::Selection) -> Selection {
    Selection {
        app: of.app.as_str().to_owned(),
        user: of.user.map(|user| user.as_str().to_owned()),
        filter: match of.filter {
            ext::StatusFilter::Normal => StatusFilter::Normal,
            ext::StatusFilter::Deleted => StatusFilter::Deleted,
            ext::StatusFilter::All => StatusFilter::Any,
        },
        since: of.since.unwrap_or(0),
        until: of.until.unwrap_or(u64::MAX),
    }
}

/// A place in the metadata, for a client to come back with.
fn cursor(time: u64, part: u8, file: String) -> Result<Cursor, Stop> {
    if file.len() > ext::CURSOR_FILE_BYTES_MAX {
        let text = format!("a row with an id of {} bytes stands in the way", file.len());
        return Err(Stop::failed(Refusal::Failed, text));
    }
    Ok(Cursor { time, part, file })
}

fn entry(listed: Listed) -> ext::Listed {
    let status = status_of(listed.status());
    let Listed { key, store, path_id, row } = listed;
    let stat = FileStat {
        path_id: path_id.get(),
        size: row.size,
        checksum: row.checksum,
        created_at: row.created_at,
        status,
        deleted_at: row.deleted_at,
        expires_at: row.expires_at,
        name: row.name,
        content_type: row.content_type,
        store,
    };
    ext::Listed { user: key.user, file: key.file, stat }
}

fn tally(tally: reel_meta::Tally) -> Tally {
    Tally { files: tally.files, bytes: tally.bytes }
}

impl Stop {
    /// A listing that the metadata did not give.
    pub(super) fn of_listing(of: &Selection, error: &LookupError) -> Self {
        if error.retryable() {
            return Self::refused(Refusal::Busy, error.to_string());
        }
        tracing::error!(app = %of.app, user = ?of.user, %error, "a listing failed");
        Self::failed(Refusal::Failed, error.to_string())
    }
}
