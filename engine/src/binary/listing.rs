//! LIST and USAGE: files of a user or of a whole app, from the metadata alone.

use std::rc::Rc;
use std::time::{Duration, Instant};

use reel_meta::{ListCursor, Selection, StatusFilter, TotalCursor, Totals};
use reel_node::frame_server::FrameConn;
use reel_proto::ext::{self, Cursor, FileStat, List, ListReply, Tally, Usage, UsageReply};
use reel_proto::refusal::Refusal;

use super::extended::{BODY_BYTES_MAX, TURN_MAX, status_of};
use super::{Stop, body};
use crate::store::{Listed, LookupError};
use crate::thread::Thread;

/// How often it is looked whether another count is over.
const COUNT_LOOK: Duration = Duration::from_millis(5);

pub(super) async fn list(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let List { of, after, limit } = body(conn, BODY_BYTES_MAX, List::decode).await?;
    conn.flush().await?;
    let of = selection(of);
    let mut after = after.map(list_cursor).transpose()?;
    let mut limit = usize::from(limit);
    let (mut files, mut left_out) = (Vec::new(), 0);
    let until = Instant::now() + TURN_MAX;
    loop {
        let page = thread.stores().list(of.clone(), after, limit).await;
        let page = page.map_err(|error| Stop::of_listing(&of, &error))?;
        files.extend(page.files.into_iter().map(entry));
        left_out += page.left_out;
        after = page.next;
        // A page ends at a row that a cursor can name. One that it cannot is left out, so there is a place more.
        if after.as_ref().is_none_or(|after| is_named(&after.file)) {
            break;
        }
        if Instant::now() >= until {
            let text = "too many rows whose ids no version gives stand in the way";
            return Err(Stop::failed(Refusal::Failed, text));
        }
        limit = 1;
    }
    let next =
        after.map(|at| Cursor { time: at.time, part: at.table, order: at.order, file: at.file });
    let left_out = u16::try_from(left_out).unwrap_or(u16::MAX);
    let reply = ListReply { next, left_out, files };
    conn.reply_with(|out| reply.encode(out)).await?;
    Ok(())
}

pub(super) async fn usage(thread: &Rc<Thread>, conn: &mut FrameConn) -> Result<(), Stop> {
    let Usage { of, after } = body(conn, BODY_BYTES_MAX, Usage::decode).await?;
    conn.flush().await?;
    let of = selection(of);
    let mut after = after.map(total_cursor).transpose()?;
    let mut totals = Totals::default();
    let until = Instant::now() + TURN_MAX;
    let turn = loop {
        match thread.stores().counting_turn() {
            Some(turn) => break turn,
            None if Instant::now() >= until => {
                return Err(Stop::refused(Refusal::Busy, "busy: others count"));
            }
            None => monoio::time::sleep(COUNT_LOOK).await,
        }
    };
    let until = Instant::now() + TURN_MAX;
    loop {
        let some = thread.stores().total(of.clone(), after).await;
        let (some, next) = some.map_err(|error| Stop::of_listing(&of, &error))?;
        totals += some;
        after = next;
        let Some(after) = &after else { break };
        if is_named(&after.file) && Instant::now() >= until {
            break;
        }
    }
    drop(turn);
    let next =
        after.map(|at| Cursor { time: at.time, part: at.range, order: at.order, file: at.file });
    let reply = UsageReply { next, normal: tally(totals.normal), deleted: tally(totals.deleted) };
    conn.reply_with(|out| reply.encode(out)).await?;
    Ok(())
}

/// A cursor is this node's own, or of another one of ours, or made up.
fn list_cursor(Cursor { time, part, order, file }: Cursor) -> Result<ListCursor, Stop> {
    let table = Some(part).filter(|table| ListCursor::TABLES.contains(table));
    let table = table.ok_or_else(|| Stop::malformed("the cursor is of no list"))?;
    Ok(ListCursor { time, table, order, file })
}

fn total_cursor(Cursor { time, part, order, file }: Cursor) -> Result<TotalCursor, Stop> {
    let range = Some(part).filter(|range| TotalCursor::RANGES.contains(range));
    let range = range.ok_or_else(|| Stop::malformed("the cursor is of no count"))?;
    Ok(TotalCursor { range, time, order, file })
}

fn is_named(file: &str) -> bool {
    file.len() <= ext::CURSOR_FILE_BYTES_MAX
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
