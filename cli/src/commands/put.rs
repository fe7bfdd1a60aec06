//! `reel put`: uploads files one after another; prints id and URL of each.

use std::{
    fs::File,
    io::{self, IsTerminal},
    os::fd::AsFd,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use reel_client::{
    Client, FileId, Owner, PutOutcome, UploadDetails, UploadSource, Uploaded, new_file_id,
};
use serde_json::json;

use super::{arguments::Put, bar::Bar, client, shown};
use crate::exit::{Usage, line, say};

pub(crate) async fn run(arguments: Put) -> Result<ExitCode> {
    if arguments.files.len() > 1 && (arguments.id.is_some() || arguments.name.is_some()) {
        return Err(Usage::new("--id and --name are for a single file").into());
    }
    let client = client(&arguments.trackers)?;
    let mut failed = false;
    for path in &arguments.files {
        match put(&client, &arguments, path).await {
            Ok(uploaded) => print(&arguments, path, &uploaded)?,
            Err(error) => {
                failed = true;
                print_failure(&arguments, path, &error)?;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn put(client: &Client, arguments: &Put, path: &Path) -> Result<Uploaded> {
    let standard_input = path == Path::new("-");
    let source = if standard_input {
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        UploadSource::input(input).await.context("reading standard input")?
    } else {
        UploadSource::path(path).await.context("opening it")?
    };
    let own_name = path.file_name().filter(|_| !standard_input).and_then(|name| name.to_str());
    let details = UploadDetails {
        name: arguments.name.clone().or_else(|| storable(own_name)),
        content_type: arguments.content_type.clone(),
        expires_at: None,
    };
    let id = match arguments.id {
        Some(id) => id,
        None => new_file_id()?,
    };
    let owner = Owner { app: arguments.owner.app, user: arguments.owner.user };
    let quiet = arguments.json || !io::stderr().is_terminal();
    let bar = Bar::new(source.size(), own_name.unwrap_or("standard input"), quiet);
    let uploaded =
        client.upload(&owner.file(id), &source, &details, &mut |sent| bar.at(sent)).await;
    bar.end();
    Ok(uploaded?)
}

/// A name that no store would take is left out: it names nothing, the id does.
fn storable(name: Option<&str>) -> Option<String> {
    name.filter(|name| name.len() <= 255 && !name.contains(char::is_control)).map(str::to_owned)
}

/// As the other commands of many files tell it: a program that reads the objects misses none.
fn print_failure(arguments: &Put, path: &Path, error: &anyhow::Error) -> io::Result<()> {
    let error = line(error);
    if !arguments.json {
        let path = path.display().to_string();
        say(format_args!("{}: {}", shown::safe(&path), shown::safe(&error)));
        return Ok(());
    }
    let id = arguments.id.as_ref().map(FileId::as_str);
    let path = path.to_string_lossy();
    let object = json!({ "id": id, "outcome": "failed", "error": error, "path": path });
    shown::line(&object.to_string())
}

fn print(arguments: &Put, path: &Path, uploaded: &Uploaded) -> io::Result<()> {
    let id = uploaded.file.file.as_str();
    if !arguments.json {
        let url = uploaded.url.as_deref().unwrap_or("(no HTTP address)");
        return shown::line(&format!("{id} {url}"));
    }
    let outcome = match uploaded.outcome {
        PutOutcome::New => "new",
        PutOutcome::Same => "same",
    };
    let object = json!({
        "id": id,
        "app": uploaded.file.app.as_str(),
        "user": uploaded.file.user.as_str(),
        "url": uploaded.url,
        "outcome": outcome,
        "error": null,
        "path_id": uploaded.path_id,
        "size": uploaded.size,
        "checksum": shown::checksum(uploaded.checksum),
        "path": path.to_string_lossy(),
    });
    shown::line(&object.to_string())
}
