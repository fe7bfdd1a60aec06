//! `reel ls`, `usage`: which files a user or an app has, and how much they are.

use std::process::ExitCode;

use anyhow::Result;
use reel_client::{FileRef, Selection, StatusFilter, Tally};
use serde_json::json;

use super::{
    arguments::{Ls, Selected, Shown, Usage},
    client,
    files::{object, status},
    shown,
};
use crate::exit::say;

/// Files asked for at once.
const PAGE: u16 = 1000;

pub(crate) async fn ls(arguments: Ls) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    let filter = match arguments.status {
        Shown::Normal => StatusFilter::Normal,
        Shown::Deleted => StatusFilter::Deleted,
        Shown::All => StatusFilter::All,
    };
    let of = Selection { filter, ..selection(&arguments.of) };
    let (mut after, mut left_out) = (None, 0);
    let mut is_first = true;
    loop {
        let page = client.list(&of, after.as_ref(), PAGE).await?;
        // Each page is a table of its own, printed when it is there: a user may have millions of files.
        let mut table = match of.user {
            Some(_) => shown::table(&["ID", "SIZE", "STATUS", "CREATED", "NAME"], &[1]),
            None => shown::table(&["ID", "USER", "SIZE", "STATUS", "CREATED", "NAME"], &[2]),
        };
        for listed in &page.files {
            let stat = &listed.stat;
            if arguments.json {
                let file = FileRef { app: of.app, user: listed.user, file: listed.file };
                shown::line(&object(&file, stat).to_string())?;
                continue;
            }
            let user = of.user.is_none().then(|| shown::safe(listed.user.as_str()));
            let rest = [
                stat.size.to_string(),
                status(stat.status).to_owned(),
                shown::time(stat.created_at),
                shown::safe(stat.name.as_deref().unwrap_or_default()),
            ];
            let id = shown::safe(listed.file.as_str());
            table.add_row(std::iter::once(id).chain(user).chain(rest));
        }
        if !arguments.json && !page.files.is_empty() {
            shown::print_table(&table, is_first)?;
            is_first = false;
        }
        left_out += u64::from(page.left_out);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if left_out > 0 {
        say(format_args!(
            "{left_out} rows are left out: their names or places are none that Reel writes"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn usage(arguments: Usage) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    let of = selection(&arguments.of);
    let (normal, deleted) = client.usage(&of).await?;
    if arguments.json {
        let tally = |tally: Tally| json!({ "files": tally.files, "bytes": tally.bytes });
        let object = json!({
            "app": of.app.as_str(),
            "user": of.user.as_ref().map(|user| user.as_str()),
            "since": of.since,
            "until": of.until,
            "normal": tally(normal),
            "deleted": tally(deleted),
        });
        shown::line(&object.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = shown::table(&["STATUS", "FILES", "BYTES"], &[1, 2]);
    for (status, tally) in [("normal", normal), ("deleted", deleted)] {
        table.add_row([status.to_owned(), tally.files.to_string(), tally.bytes.to_string()]);
    }
    shown::print_table(&table, true)?;
    Ok(ExitCode::SUCCESS)
}

fn selection(of: &Selected) -> Selection {
    let Selected { owner, all_users, since, until } = of;
    let user = (!all_users).then_some(owner.user);
    Selection { user, since: *since, until: *until, ..Selection::of_app(owner.app) }
}
