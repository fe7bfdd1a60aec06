//! `reel stat`, `rm`, `restore`, `purge`: what is stored of a file, and its way out and back.

use std::process::ExitCode;

use anyhow::Result;
use reel_client::{Client, ClientError, FileId, FileRef, FileStat, FileStatus, Owner};
use serde_json::{Value, json};

use super::{
    arguments::{self, Purge, Stat, Stored},
    client, shown,
};
use crate::exit::say;

pub(crate) async fn stat(arguments: Stat) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    let file = owner(&arguments.owner).file(arguments.id);
    let stat = client.stat(&file).await?;
    let url = client.locate(Owner::of(&file)).await?.url(&file);
    if arguments.json {
        let mut object = object(&file, &stat);
        object["url"] = json!(url);
        shown::line(&object.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let optional_time = |time: Option<u64>| time.map(shown::time);
    let rows = [
        ("id", Some(shown::safe(file.file.as_str()))),
        ("name", stat.name.as_deref().map(shown::safe)),
        ("size", Some(stat.size.to_string())),
        ("checksum", stat.checksum.map(shown::checksum)),
        ("type", stat.content_type.as_deref().map(shown::safe)),
        ("status", Some(status(stat.status).to_owned())),
        ("created", Some(shown::time(stat.created_at))),
        ("deleted", optional_time(stat.deleted_at)),
        ("expires", optional_time(stat.expires_at)),
        ("path id", Some(stat.path_id.to_string())),
        ("store", Some(shown::safe(&stat.store))),
        ("url", url),
    ];
    for (label, value) in rows {
        if let Some(value) = value {
            shown::line(&format!("{label:<9} {value}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn rm(arguments: Stored) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    let mut outcomes = Outcomes::new(&arguments.owner, arguments.json, "deleted");
    for id in &arguments.ids {
        let done = client.delete(&outcomes.owner.file(*id)).await;
        outcomes.add(*id, done)?;
    }
    Ok(outcomes.exit_code())
}

pub(crate) async fn restore(arguments: Stored) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    let mut outcomes = Outcomes::new(&arguments.owner, arguments.json, "restored");
    for id in &arguments.ids {
        let done = client.restore(&outcomes.owner.file(*id)).await;
        outcomes.add(*id, done)?;
    }
    Ok(outcomes.exit_code())
}

pub(crate) async fn purge(arguments: Purge) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    if arguments.all_deleted {
        return purge_all(&client, &arguments).await;
    }
    let mut outcomes = Outcomes::new(&arguments.owner, arguments.json, "purged");
    for id in &arguments.ids {
        let done = client.purge(&outcomes.owner.file(*id)).await;
        outcomes.add(*id, done)?;
    }
    Ok(outcomes.exit_code())
}

async fn purge_all(client: &Client, arguments: &Purge) -> Result<ExitCode> {
    let purged = client.purge_all_deleted(owner(&arguments.owner)).await?;
    let text = match arguments.json {
        true => json!({ "purged": purged }).to_string(),
        false => format!("{purged} purged"),
    };
    shown::line(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What became of each of several files. One that failed does not keep the others.
struct Outcomes {
    owner: Owner,
    json: bool,
    done: &'static str,
    failed: bool,
}

impl Outcomes {
    fn new(arguments: &arguments::Owner, json: bool, done: &'static str) -> Self {
        Self { owner: owner(arguments), json, done, failed: false }
    }

    fn add(&mut self, id: FileId, outcome: Result<(), ClientError>) -> std::io::Result<()> {
        self.failed |= outcome.is_err();
        let error = outcome.err().map(|error| error.to_string());
        if self.json {
            let done = if error.is_none() { self.done } else { "failed" };
            let object = json!({ "id": id.as_str(), "outcome": done, "error": error });
            return shown::line(&object.to_string());
        }
        let id = shown::safe(id.as_str());
        match error {
            None => shown::line(&format!("{id} {}", self.done)),
            Some(error) => {
                say(format_args!("{id}: {}", shown::safe(&error)));
                Ok(())
            }
        }
    }

    fn exit_code(&self) -> ExitCode {
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn owner(arguments: &arguments::Owner) -> Owner {
    Owner { app: arguments.app, user: arguments.user }
}

pub(super) fn status(status: FileStatus) -> &'static str {
    match status {
        FileStatus::Normal => "normal",
        FileStatus::Deleted => "deleted",
    }
}

pub(super) fn object(file: &FileRef, stat: &FileStat) -> Value {
    json!({
        "id": file.file.as_str(),
        "app": file.app.as_str(),
        "user": file.user.as_str(),
        "name": stat.name,
        "size": stat.size,
        "checksum": stat.checksum.map(shown::checksum),
        "content_type": stat.content_type,
        "status": status(stat.status),
        "created_at": stat.created_at,
        "deleted_at": stat.deleted_at,
        "expires_at": stat.expires_at,
        "path_id": stat.path_id,
        "store": stat.store,
    })
}
